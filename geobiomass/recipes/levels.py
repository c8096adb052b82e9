"""The levels of an encoder that training crops are large enough for."""

from __future__ import annotations

from geobiomass.network.encoder_decoder import encoder_strides
from geobiomass.recipes.recipe import Recipe
from geobiomass.recipes.tile_statistics import SMALLEST_FEATURES

SIDE = 8
"""Side of a crop's deepest features, in pixels, where levels are left out.

Kernels of deeper levels see the padding around a crop more than its pixels, and learn
nothing of what they see in the middle of a tile. docs/training.md has the figures.
"""
_FEWEST = 2  # levels: fewer are no pyramid


def levels_for(recipe: Recipe, height: int, width: int) -> int | None:
    """Return the number of encoder levels to use, the finest first; None for all.

    Parameters
    ----------
    recipe : Recipe
        With ``levels="crop"``; with "all" no level is left out.
    height, width : int
        Of a chip, or of the scene, pixels.
    """
    if recipe.levels == "all":
        return None
    given = (recipe.crop, recipe.block, height, width)
    crop = min(side for side in given if side is not None)
    strides = encoder_strides(recipe.encoder)
    if crop >= SMALLEST_FEATURES * strides[-1]:
        return None
    if len(recipe.decoder_channels) != len(strides):
        return None  # an error of the network, which says what it needs
    kept = sum(crop >= SIDE * stride for stride in strides)
    return max(min(_FEWEST, len(strides)), kept)
