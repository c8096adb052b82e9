"""What must be the same where something goes on: data, and what else decides."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr

from geobiomass.cube.convert import need_target
from geobiomass.data.fingerprint import labels_fingerprint
from geobiomass.data.folds import Fold
from geobiomass.data.reader import Reader
from geobiomass.network import AttentionUNet
from geobiomass.recipes.datasets import Validation
from geobiomass.recipes.recipe import Recipe

# What a training may go on with otherwise: it changes memory, what happens at the end
# or about what cannot be read, or is compared elsewhere.
_FREE = (
    *("name", "cache", "read_ahead", "damaged", "domain_cells"),
    *("validation_fraction", "stages", "training"),
)
_MARK = 12  # letters


def learnt_from(
    cube: xr.Dataset,
    network: AttentionUNet,
    bands: Sequence[str],
    recipe: Recipe,
    validation: Validation = None,
) -> dict[str, Any]:
    """Say what decides about the weights besides the settings of the trainer.

    Parameters
    ----------
    cube : xarray.Dataset
        To train on, with ``agb``. Up to 64 chips' labels are read.
    network : AttentionUNet
        To train.
    bands : sequence of str
        Its bands, in its order.
    recipe : Recipe
        As it was asked for.
    validation : optional
        As :func:`geobiomass.fit` takes it.

    Returns
    -------
    dict
        Plain values by name, in the words of whoever asked for them; for data its
        size and some letters that stand for names and labels. Images have an entry
        only where something cheap tells them apart, of its own for those on disk and
        those in memory, so that the same data may come in another form.
    """
    values = {
        field.name: getattr(recipe, field.name)
        for field in dataclasses.fields(recipe)
        if field.name not in _FREE
    }
    # Of a network that was brought the recipe knows nothing.
    made = {name: network.settings[name] for name in values if name in network.settings}
    if recipe.interval is None:
        del values["calibration_fraction"]  # of no effect
    return {
        **values,
        **made,
        **identify(cube, bands),
        "held out": _held_out(bands, recipe, validation),
    }


def identify(cube: xr.Dataset, bands: Sequence[str]) -> dict[str, str]:
    """Give what tells a cube from another one, cheaply, in words and letters.

    Parameters
    ----------
    cube : xarray.Dataset
        With ``agb``. Up to 64 chips' labels are read.
    bands : sequence of str
        Those that are used, in their order.

    Returns
    -------
    dict of str to str
        "data": size, and letters that stand for names and labels. "images on disk" or
        "images in memory": letters, where something cheap tells images apart; so the
        same cube in another form lacks an entry, and differs in none.
    """
    return {"data": _describe(cube, bands), **_images(cube, bands)}


def _images(cube: xr.Dataset, bands: Sequence[str]) -> dict[str, str]:
    reader = Reader(cube, bands)
    if reader.statistics is not None:
        table = reader.statistics.to_csv()
        return {"images on disk": _mark(table)}
    if isinstance(cube["image"].data, np.ndarray):
        return {"images in memory": reader.identity()[:_MARK]}
    return {}


def _mark(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:_MARK]


def _held_out(bands: Sequence[str], recipe: Recipe, validation: Validation) -> str:
    if isinstance(validation, xr.Dataset | xr.DataArray):
        return _describe(need_target(validation), bands)
    if isinstance(validation, Fold):
        folds = validation.folds
        ground = f"fold {validation.number} of {folds.count} {folds.what}"
        part = f"{recipe.validation_fraction:g} of what is left to choose an epoch by"
        calibrates = f", {part}" if recipe.interval is not None else ""
        return f"{ground} ({folds.identity[:_MARK]}){calibrates}"
    if validation is None or isinstance(validation, int | float):
        asked = recipe.validation_fraction if validation is None else validation
        return f"{asked:g} of the data"
    names = sorted(map(str, validation))
    return f"{len(names)} chips ({_mark(chr(10).join(names))})"


def _describe(cube: xr.Dataset, bands: Sequence[str]) -> str:
    sizes = cube["image"].sizes
    size = " x ".join(f"{sizes[dim]}" for dim in ("y", "x"))
    chips = f"{sizes['chip']} chips of " if "chip" in sizes else "a scene of "
    return f"{chips}{size} pixels ({labels_fingerprint(cube, bands)[:_MARK]})"
