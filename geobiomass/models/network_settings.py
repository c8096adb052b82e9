"""Settings that a map by pixel needs, whatever the user's tiles are."""

from __future__ import annotations

import dataclasses

from torch import nn

from geobiomass.inference.map_settings import MapSettings
from geobiomass.learner.adapted_network import AdaptedNetwork
from geobiomass.learner.pixel_network import PixelNetwork
from geobiomass.learner.stack_network import StackNetwork


def settings_for(network: nn.Module, settings: MapSettings) -> MapSettings:
    """Return settings with which each pixel's tile has all of its neighbourhood.

    No value by pixel then depends on the tiles, and flips and turns change nothing. The
    map of a network within a stack depends on them as without a learner. Settings for a
    network without a learner by pixel are as they were.
    """
    if isinstance(network, AdaptedNetwork):
        return settings_for(network.inner, settings)
    if not isinstance(network, PixelNetwork):
        return settings
    stack, needed = isinstance(network, StackNetwork), 2 * network.radius
    overlap = max(settings.overlap, needed) if stack else needed
    return dataclasses.replace(
        settings,
        tile=max(settings.tile, 2 * overlap + 32),
        overlap=overlap,
        blend="crop",
        flips=settings.flips and stack,
        turns=settings.turns and stack,
        precision="float32",
    )
