"""Checks of a recipe's settings; nothing here imports PyTorch."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from geobiomass.recipes.recipe import Recipe

SHIFTS = (0, 1, 2)
_CHOICES: dict[str, tuple[str | bool, ...]] = {
    "scaling": ("robust", "biomassters"),
    "levels": ("crop", "all"),
    "crop_sampling": ("even", "biomass"),
    "loss": ("chip_rmse", "chip_huber", "huber", "mse", "beta_nll"),
    "tail": ("drop", "clip"),
    "damaged": ("raise", "skip"),
    "remember_labels": (True, False),
    "missing": ("validity", "renormalise", "zero"),
    "static_levels": ("finest", "coarsest", "both"),
}
_COUNTS = {"crop": "pixel", "crops": "crop", "block": "pixel", "month_group": "month"}
_SHARES = ("rotation", "month_dropout", "pattern_dropout", "pass_dropout")


def check_settings(recipe: Recipe) -> None:
    """Check that each setting of a recipe is in its range.

    Raises
    ------
    ValueError
        If one is not; it names the setting, its range and the value.
    """
    for name, allowed in _CHOICES.items():
        if (value := getattr(recipe, name)) not in allowed:
            raise ValueError(f"{name} must be one of {allowed}, got {value!r}.")
    for name, unit in _COUNTS.items():
        value = getattr(recipe, name)
        if value is not None and value < 1:
            raise ValueError(f"{name} must be at least 1 {unit}, got {value}.")
    for name in ("cache", "read_ahead"):
        if (value := getattr(recipe, name)) < 0:
            raise ValueError(f"{name} must be a number of bytes, got {value}.")
    shift = recipe.label_shift
    if isinstance(shift, bool) or not isinstance(shift, int) or shift not in SHIFTS:
        raise ValueError(
            f"label_shift must be 0, 1 or 2 pixels, got {shift!r}; for labels that "
            "are further off, use larger pixels or better places."
        )
    if recipe.domain_cells < 0:
        raise ValueError(f"domain_cells must be 0 or more, got {recipe.domain_cells}.")
    if not 0 <= recipe.validation_fraction < 1:
        raise ValueError(
            "validation_fraction must be from 0 to below 1, got "
            f"{recipe.validation_fraction}."
        )
    if recipe.interval is not None and not 0 < recipe.interval < 1:
        raise ValueError(
            "interval must be between 0 and 1, such as 0.9, or None, got "
            f"{recipe.interval}."
        )
    if not 0 < recipe.calibration_fraction < 1:
        raise ValueError(
            "calibration_fraction must be between 0 and 1, got "
            f"{recipe.calibration_fraction}."
        )
    for name in _SHARES:
        if not 0 <= (value := getattr(recipe, name)) <= 1:
            raise ValueError(f"{name} must be from 0 to 1, got {value}.")
    if not recipe.huber_delta > 0:
        raise ValueError(f"huber_delta must be above 0, got {recipe.huber_delta}.")


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
