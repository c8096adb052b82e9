"""Checks of a recipe's settings for tall forest; nothing here imports PyTorch."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from geobiomass.recipes.recipe import Recipe


def check_tall_forest(recipe: Recipe) -> None:
    """Check the settings of a recipe for tall forest.

    Raises
    ------
    ValueError
        If one is out of its range, or there is no held-out part to correct with.
    """
    if not 0 <= recipe.balance <= 2:
        raise ValueError(
            "balance must be from 0, all labels equally, to 2, such as 0.5, got "
            f"{recipe.balance}."
        )
    if recipe.tail_correction and recipe.ends_with_everything:
        raise ValueError(
            "tail_correction=True learns from data that is held out, and the last "
            f"stage of the recipe {recipe.name!r} trains on all; leave it out, or give "
            "stages=()."
        )
