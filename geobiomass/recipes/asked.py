"""What ``gb.fit`` is asked for: a recipe by name, by its settings, or the best one.

Nothing here imports PyTorch: a wrong setting is an error at once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from geobiomass.recipes.by_pixel import BY_PIXEL, OF_BOTH
from geobiomass.recipes.recipe import Recipe, find_recipe
from geobiomass.training import TrainingConfig

AUTO = "auto"
"""Name of the choice by measurement, as without a recipe."""
FEW_LABELS = "sparse"
"""The recipe of the network that is compared."""

# Settings that both kinds of learner take, but that only mean something to a network.
_MEANT_FOR_NETWORKS = ("keep", "monitor", "training", "fold")


def asked_recipe(
    recipe: str | Recipe | None,
    minutes: float | None,
    changes: Mapping[str, Any],
) -> Recipe | None:
    """Return the recipe that is asked for; None if it is to be chosen.

    Parameters
    ----------
    recipe : str, Recipe or None
        As :func:`geobiomass.fit` takes it.
    minutes : float or None
        Time that a choice may take.
    changes : mapping
        Settings by name. Without a recipe those that only networks have mean the
        network, and those of a learner by pixel mean this one.

    Raises
    ------
    ValueError
        If a recipe, a setting or `minutes` is unknown or out of range, or `minutes` is
        given where nothing is chosen.
    """
    if minutes is not None and (
        isinstance(minutes, bool)
        or not isinstance(minutes, int | float)
        or not 0 < minutes < float("inf")
    ):
        raise ValueError(
            f"minutes must be a number above 0, such as 30, got {minutes!r}."
        )
    if recipe is not None and not isinstance(recipe, str | Recipe):
        raise ValueError(
            f"recipe must be a name or a Recipe, got a {type(recipe).__name__}; what "
            "validates is given by name, gb.fit(cube, validation=...)."
        )
    if recipe is not None and recipe != AUTO:
        chosen, why = find_recipe(recipe, **changes), "the recipe is named"
    else:
        own = {f.name for f in dataclasses.fields(Recipe)}
        known = own | {f.name for f in dataclasses.fields(TrainingConfig)}
        by_pixel = [name for name in changes if name in BY_PIXEL]
        of_network = [
            name
            for name in changes
            if name in known
            and name not in BY_PIXEL
            and (name not in OF_BOTH or name in _MEANT_FOR_NETWORKS)
        ]
        if by_pixel:
            chosen = find_recipe("pixels", **changes)
            why = f"{by_pixel[0]}= is of the recipe 'pixels'"
        elif of_network:
            chosen = find_recipe("default", **changes)
            why = f"{of_network[0]}= is of networks"
        else:
            # A wrong value is an error of all that could be chosen.
            for name in ("default", FEW_LABELS, "pixels"):
                find_recipe(name, **changes)
            if changes.get("label_shift"):
                raise ValueError(
                    "label_shift is of a recipe that is named, got label_shift="
                    f"{changes['label_shift']} where learners are compared; give "
                    "gb.fit(cube, 'pixels', label_shift=...), or leave it out."
                )
            return None
    if isinstance(chosen.learner, str) and chosen.learner.startswith("stack"):
        raise ValueError(
            f"recipe must not be that of a stack, got learner={chosen.learner!r}: only "
            "gb.fit(cube) makes one, of networks that did not see the labels. Give "
            "gb.fit(cube, minutes=...), or the recipe 'pixels'."
        )
    if minutes is not None:
        raise ValueError(
            "minutes is the time for a choice between recipes, and nothing is chosen "
            f"where {why}, got minutes={minutes:g}; leave out one of the two."
        )
    return chosen
