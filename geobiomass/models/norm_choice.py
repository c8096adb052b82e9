"""The statistics of batch norm that a model of small crops maps with."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from geobiomass.data.loader import ChipLoader
from geobiomass.inference.map_settings import MapSettings
from geobiomass.models.map_error import MapError
from geobiomass.network import AttentionUNet
from geobiomass.recipes.tile_statistics import (
    has_small_features,
    measure_norms_on_tiles,
)

_CLEARLY = 0.9
"""The running ones are kept below this share of the error: they fit fewer tiles."""


def choose_norms(
    network: AttentionUNet,
    training: ChipLoader,
    compare: Callable[[], MapError | None],
    device: str,
    fixed: nn.Module | None = None,
) -> MapError | None:
    """Set statistics measured on tiles, unless the running ones are clearly better.

    Large crops keep the running ones. What is better is chosen as the best epoch is, on
    what validates: in a short training the running ones are at times the better.

    Parameters
    ----------
    network : AttentionUNet
        Trained; its statistics are changed in place.
    training : ChipLoader
        The training samples, which tiles are put together of.
    compare : callable
        Returns the error of maps of the network as it is.
    device : str
        The device for the measurement.
    fixed : torch.nn.Module, optional
        A frozen part of the network, whose statistics stay.

    Returns
    -------
    MapError or None
        The error of maps with the statistics that are chosen; None where nothing was
        compared.
    """
    first = training.plan(0)[0][0].window
    if not has_small_features(network, min(first.height, first.width)):
        return None
    before = compare()
    running = {name: value.clone() for name, value in network.state_dict().items()}
    measure_norms_on_tiles(network, training, MapSettings.tile, device, fixed)
    after = compare()
    if before is None or after is None or before.outside > after.outside:
        return after
    if before.rmse >= _CLEARLY * after.rmse:
        return after
    network.load_state_dict(running)
    return before
