"""The network of saved settings, of any kind: a U-Net, by pixel, both, or adapted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from geobiomass.learner.adapted_network import ADAPTED, AdaptedNetwork
from geobiomass.learner.pixel_network import PixelNetwork
from geobiomass.learner.stack_network import StackNetwork
from geobiomass.network.saved_settings import network_of_settings


def any_network_of_settings(settings: Mapping[str, Any]) -> nn.Module:
    """Build the network of saved settings, without what it learnt.

    Parameters
    ----------
    settings : mapping
        As ``network.settings`` has them, read from JSON.

    Raises
    ------
    ValueError
        If a setting has another type, or a size that no network has.
    """
    if isinstance(settings, Mapping) and ADAPTED in settings:
        return adapted_network_of_settings(settings)
    if isinstance(settings, Mapping) and "inner" in settings:
        return StackNetwork.of_settings(settings)
    if isinstance(settings, Mapping) and "learner" in settings:
        return PixelNetwork.of_settings(settings)
    return network_of_settings(settings)


def adapted_network_of_settings(settings: Mapping[str, Any]) -> AdaptedNetwork:
    """Build an adapted network of saved settings, without what it learnt.

    Raises
    ------
    ValueError
        If a setting has another type, or a size that no network has.
    """
    first = {name: value for name, value in settings.items() if name != ADAPTED}
    return AdaptedNetwork.around(any_network_of_settings(first), settings)
