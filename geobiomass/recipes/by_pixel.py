"""Which settings of a recipe a learner by pixel has, and their checks."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from geobiomass.training import TrainingConfig

if TYPE_CHECKING:
    from geobiomass.recipes.recipe import Recipe

BY_PIXEL = ("learner", "trees", "neighbourhoods", "monthly", "most_labels")
"""Settings of a learner by pixel alone."""
OF_BOTH = (
    *("name", "ceiling", "tail", "validation_fraction", "fold", "block", "groups"),
    *("cache", "damaged", "interval", "calibration_fraction", "domain_cells"),
    "remember_labels",
    *(
        "label_errors",
        "label_shift",
        "training",
        "seed",
        "folder",
        "resume",
        "progress",
        "keep",
        "monitor",
    ),
)
"""Settings that have an effect on both; of no effect by pixel are `keep`, `monitor`."""


def check_by_pixel(recipe: Recipe) -> None:
    """Check the settings of a learner by pixel."""
    learner = recipe.learner
    if learner is None:
        return
    if isinstance(learner, str):
        names = ("blend", "own", "stack")  # the last two of saved models
        if learner.partition(":")[0] not in names:
            raise ValueError(
                "learner must be 'blend' or an estimator of scikit-learn, such as "
                f"RandomForestRegressor(500), got {learner!r}."
            )
    for name, least in (("trees", 10), ("most_labels", 10)):
        value = getattr(recipe, name)
        if value is None and name == "trees":
            continue
        if not isinstance(value, int) or value < least:
            raise ValueError(f"{name} must be {least} or more, got {value}.")
    sides = recipe.neighbourhoods
    if any(not isinstance(n, int) or n < 3 or n % 2 == 0 or n > 63 for n in sides):
        raise ValueError(
            "neighbourhoods must be odd numbers of pixels from 3 to 63, got "
            f"{list(sides)}."
        )


def check_kind(recipe: Recipe, changes: Mapping[str, Any]) -> None:
    """Check that changes belong to what the recipe trains: a network, or by pixel.

    Raises
    ------
    ValueError
        Names the setting, and the recipes that have it.
    """
    known = {f.name for f in dataclasses.fields(recipe)}
    known |= {f.name for f in dataclasses.fields(TrainingConfig)}
    for name in known & set(changes):
        if recipe.by_pixel and name not in (*BY_PIXEL, *OF_BOTH):
            raise ValueError(
                f"{name} is a setting of networks, got {name}={changes[name]!r} with "
                f"the recipe {recipe.name!r}, which learns by pixel and has no epochs, "
                "crops or encoder; leave it out, or give the recipe 'default'."
            )
        if not recipe.by_pixel and name in BY_PIXEL:
            raise ValueError(
                f"{name} is a setting of the recipe 'pixels', got "
                f"{name}={changes[name]!r} with the recipe {recipe.name!r}, which "
                f"trains a network; give gb.fit(cube, 'pixels', {name}=...)."
            )
