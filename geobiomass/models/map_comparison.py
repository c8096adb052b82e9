"""Comparison of maps with held-out labels, through the tiles that maps are made of."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch

from geobiomass.cube import DamagedError
from geobiomass.data.loader import ChipLoader, decode_batch
from geobiomass.inference.mapper import Mapper
from geobiomass.models.map_error import MapError, outside_range
from geobiomass.models.training_record import evaluating
from geobiomass.network.static_planes import months_of
from geobiomass.tiles import Sample, Window

if TYPE_CHECKING:
    from geobiomass.network import AttentionUNet

_BLOCKS = 6
"""Blocks of a map that are made at most; each takes up to nine tiles."""
_CHIPS = 16
"""The same for chips, which take a tile each where they are no larger than one."""


def measure_map_error(
    mapper: Mapper,
    network: AttentionUNet,
    validation: ChipLoader,
    labels: tuple[float, float],
    floor: float | None,
    device: str = "cpu",
) -> MapError | None:
    """Map some held-out blocks, and compare them with their labels.

    Parameters
    ----------
    mapper : Mapper
        Of the model without post-processing, over the validation's reader, with a
        block of a tile's size.
    network : AttentionUNet
        The network of the mapper.
    validation : ChipLoader
        The held-out crops. Their labels are compared in up to 6 blocks of the map, or
        16 chips, evenly over all that hold one.
    labels : tuple of float
        The range of the labels.
    floor : float, optional
        The model's floor.
    device : str
        For the crops.

    Returns
    -------
    MapError or None
        None where no held-out label has an observation.
    """
    floor_of = -math.inf if floor is None else floor
    places = _places(mapper, validation.samples)
    most = _CHIPS if mapper.reader.chips else _BLOCKS
    step = max(1.0, len(places) / most)
    squares, count, maps, compared = 0.0, 0, [], list[Sample]()
    for number in range(min(most, len(places))):
        crops = places[int(number * step)]
        whole = _hull(crops)
        try:
            values = mapper.compute(whole, crops[0].chip)[0].astype(np.float64)
        except DamagedError:
            if validation.damaged == "raise":
                raise
            continue  # the training has left it out, and warned
        maps.append(values[np.isfinite(values)])
        compared += crops
        for crop in crops:
            truth = mapper.reader.labels(crop).astype(np.float64)
            found = np.maximum(values[crop.window.within(whole)], floor_of)
            squares, count = _add(squares, count, found - truth)
    if not count:
        return None
    every = np.concatenate(maps)
    first = compared[0].window
    part = dataclasses.replace(validation, samples=compared)
    return MapError(
        tile=mapper.settings.tile,
        overlap=mapper.settings.overlap,
        blocks=len(maps),
        of=len(places),
        pixels=count,
        rmse=math.sqrt(squares / count),
        crop_rmse=_crop_rmse(network, part, floor_of, device),
        crop=min(first.height, first.width),
        lowest=float(every.min()),
        highest=float(every.max()),
        labels=labels,
        outside=float(outside_range(every, labels).mean()),
        below=None if floor is None else float((every < floor).mean()),
    )


def _places(mapper: Mapper, crops: Sequence[Sample]) -> list[list[Sample]]:
    """Return the crops by chip, or by the block of the map that their centre is in."""
    side = mapper.settings.block
    places: dict[tuple[int, int, int], list[Sample]] = {}
    for crop in crops:
        window = crop.window
        row = (window.top + window.bottom) // 2 // side
        column = (window.left + window.right) // 2 // side
        places.setdefault((crop.chip or 0, row, column), []).append(crop)
    return [places[key] for key in sorted(places)]


def _hull(crops: Sequence[Sample]) -> Window:
    windows = [crop.window for crop in crops]
    return Window(
        min(window.top for window in windows),
        min(window.left for window in windows),
        max(window.bottom for window in windows),
        max(window.right for window in windows),
    )


def _add(
    squares: float, count: int, wrong: npt.NDArray[np.float64]
) -> tuple[float, int]:
    wrong = wrong[np.isfinite(wrong)]
    return squares + float((wrong**2).sum()), count + wrong.size


def _crop_rmse(
    network: AttentionUNet, crops: ChipLoader, floor: float, device: str
) -> float:
    """Return the error of the network's maps of single crops, as validation has it."""
    squares, count = 0.0, 0
    with evaluating(network, device), torch.inference_mode():
        for codes, arrangement, target in crops.epoch(0):
            (image,), truth = decode_batch((codes.to(device), arrangement), target)
            maps = network(image, calendar=arrangement.decoder.calendar)[:, :1]
            months = months_of(image, len(crops.reader.static_layers))
            seen = network.without_unknown(months).isfinite().flatten(1, 2).any(1)
            # Where nothing is observed a map has no value.
            maps = maps.masked_fill(~seen[:, None], math.nan)
            found = maps.cpu().double().clamp(min=floor)
            squares, count = _add(squares, count, (found - truth.double()).numpy())
    return math.sqrt(squares / count) if count else math.nan
