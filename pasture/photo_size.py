"""Pixels that photos are resized to, where they have another shape than a recipe."""

from __future__ import annotations

import math
import warnings

import pandas as pd

from .inspection import common_ratio
from .photo_files import Inspected, PhotoError, measure_photo
from .recipes import PastureRecipe

__all__ = ["fit_size"]

_EXACT = 0.05  # relative difference of the ratio of sides that is stretched
_STEP = 32  # pixels: two patches of 16, as two halves of a photo need them


def fit_size(
    recipe: PastureRecipe, photos: pd.DataFrame, stacklevel: int = 2
) -> PastureRecipe:
    """Return a recipe whose height and width have the shape of photos.

    The number of pixels stays about the same, so that memory and time do. Photos that
    are twice as wide as high, within 5 %, leave the recipes of the package as they are.

    Warns
    -----
    UserWarning
        The size is changed; it names both sizes, and how to choose another.
    """
    try:
        sizes = [measure_photo(path) for path in photos["path"]]
    except (PhotoError, OSError):
        return recipe  # the check of all files names every one of them
    if not sizes:
        return recipe
    ratio = common_ratio(Inspected(*size, ()) for size in sizes)
    usual = max(recipe.height, recipe.width) / min(recipe.height, recipe.width)
    if abs(ratio / usual - 1) <= _EXACT:
        return recipe
    height = math.sqrt(recipe.height * recipe.width / ratio)
    short = max(_STEP, _STEP * round(height / _STEP))
    long = max(_STEP, _STEP * round(height * ratio / _STEP))
    width, high = max(set(sizes), key=sizes.count)
    warnings.warn(
        f"{len(sizes)} photos such as {width} x {high} have sides of {ratio:.2f} to 1, "
        f"the recipe {recipe.name!r} those of {usual:.2f} to 1: photos are resized to "
        f"height={short}, width={long} instead of height={recipe.height}, "
        f"width={recipe.width}; give these two settings to choose others",
        stacklevel=stacklevel + 1,
    )
    return recipe.with_changes(height=short, width=long)
