"""The levels of an encoder that training crops are large enough for."""

from __future__ import annotations

from collections.abc import Sequence

from geobiomass.network.encoder_decoder import encoder_strides
from geobiomass.recipes.recipe import Recipe
from geobiomass.recipes.tile_statistics import SMALLEST_FEATURES
from geobiomass.tiles import Sample

SIDE = 8
"""Side of a crop's deepest features, in pixels, where levels are left out.

Kernels of deeper levels see the padding around a crop more than its pixels, and learn
nothing of what they see in the middle of a tile. docs/training.md has the figures.
"""
_FEWEST = 2  # levels: fewer are no pyramid


def crop_side(recipe: Recipe, units: Sequence[Sample]) -> int:
    """Return the side of the crops that a training sees, pixels.

    Parameters
    ----------
    recipe : Recipe
        Its crop is the most; None takes whole chips.
    units : sequence of Sample
        The chips, or the blocks that a scene is split into. Blocks of a small scene are
        smaller than the recipe's, and no crop is larger than the smallest of them.
    """
    windows = [unit.window for unit in units]
    side = min(min(window.height, window.width) for window in windows)
    return side if recipe.crop is None else min(side, recipe.crop)


def levels_for(recipe: Recipe, crop: int) -> int | None:
    """Return the number of encoder levels to use, the finest first; None for all.

    Parameters
    ----------
    recipe : Recipe
        With ``levels="crop"``; with "all" no level is left out.
    crop : int
        Side of the crops that the training sees, as :func:`crop_side` returns it.
    """
    if recipe.levels == "all":
        return None
    strides = encoder_strides(recipe.encoder)
    if crop >= SMALLEST_FEATURES * strides[-1]:
        return None
    if len(recipe.decoder_channels) != len(strides):
        return None  # an error of the network, which says what it needs
    kept = sum(crop >= SIDE * stride for stride in strides)
    return max(min(_FEWEST, len(strides)), kept)
