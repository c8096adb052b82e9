"""The conditions for resuming a training: the same data and the same settings."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, cast

import numpy as np

from geobiomass.cube.static_layers import STATIC
from geobiomass.data.folds import Fold
from geobiomass.data.labelled_cube import LabelledCube
from geobiomass.data.reader import Reader
from geobiomass.network import AttentionUNet
from geobiomass.recipes.by_pixel import BY_PIXEL
from geobiomass.recipes.recipe import Recipe
from geobiomass.recipes.split import HeldOut
from geobiomass.training import TrainingConfig
from geobiomass.training.checkpoint_record import LAST, is_begun, read_training_record
from geobiomass.training.files import sha256_of

# Settings that may differ when a training is resumed: they change memory, what happens
# at the end or to unreadable data, or are compared elsewhere.
_FREE = (
    *("name", "cache", "read_ahead", "damaged", "domain_cells"),
    "remember_labels",
    *("validation_fraction", "stages", "training", "levels", "tail_correction"),
    *BY_PIXEL,
)
_MAPS = "maps"  # what is done for maps after training: floor, norms on tiles
_DIGITS = 12  # of a fingerprint, enough to show and to tell two apart


def learnt_from(
    data: LabelledCube,
    network: AttentionUNet,
    recipe: Recipe,
    held: HeldOut = None,
) -> dict[str, Any]:
    """Return everything that affects the weights except the trainer's settings.

    Parameters
    ----------
    data : LabelledCube
        To train on. Up to 64 chips' labels are read.
    network : AttentionUNet
        To train.
    recipe : Recipe
        As the user asks for it.
    held : optional
        What validates, as :func:`.datasets.make_loaders` takes it.

    Returns
    -------
    dict
        Plain values by name, in the words that the user gave; for data its size and
        a short fingerprint of names and labels. Images have an entry only where
        something cheap distinguishes them, one for those on disk and another for
        those in memory, so that the same data may come in another form.
    """
    values = {
        field.name: getattr(recipe, field.name)
        for field in dataclasses.fields(recipe)
        if field.name not in _FREE
    }
    # Of a network that the user brings the recipe knows nothing.
    made = {name: network.settings[name] for name in values if name in network.settings}
    if not data.reader.has_errors:
        del values["label_errors"]  # of no effect
    if not recipe.label_shift:
        del values["label_shift"]  # earlier releases did not have it
    if layers := data.reader.static_layers:
        made["static layers"] = ", ".join(layers)
    else:
        del values["static_levels"]  # of no effect, and new
    if recipe.interval is None:
        del values["calibration_fraction"]  # of no effect
    return {
        **values,
        **made,
        **identify(data),
        "held out": _held_out(recipe, held),
        _MAPS: "norms on tiles, floor",
    }


def continues_earlier(config: TrainingConfig, given: dict[str, Any]) -> bool:
    """Return whether a folder's training was begun before maps had floor and norms.

    Such a training ends with the bits that the release would have that began it, and
    `given` is changed so that its record stays one of that release.

    Parameters
    ----------
    config : TrainingConfig
        With the folder.
    given : dict
        As :func:`learnt_from` returns it.
    """
    if not begun_earlier(config):
        return False
    del given[_MAPS]
    return True


def begun_earlier(config: TrainingConfig) -> bool:
    """Return whether the folder has a training of a release before floor and norms."""
    return is_begun(config) and _MAPS not in _given_before(config)


def levels_begun(config: TrainingConfig, most: int) -> int | None:
    """Return the number of levels of the training in the folder; None for all.

    A training goes on with the network that it was begun with, also where another
    release would leave out other levels.

    Parameters
    ----------
    config : TrainingConfig
        With a folder in which a training is begun.
    most : int
        Levels of the encoder.
    """
    kept = len(_given_before(config).get("decoder_channels", ())) or most
    return kept if kept < most else None


def _given_before(config: TrainingConfig) -> dict[str, Any]:
    """Return what the training in the folder was begun with."""
    folder = Path(cast(str, config.folder))
    file = next(iter([*folder.glob(LAST), *sorted(folder.glob(f"*/{LAST}"))]))
    record, _ = read_training_record(file)
    return record.run.get("given") or {}


def identify(data: LabelledCube) -> dict[str, str]:
    """Return what distinguishes a cube from another one, cheaply.

    Parameters
    ----------
    data : LabelledCube
        Up to 64 chips' labels are read.

    Returns
    -------
    dict of str to str
        "data": size, and a short fingerprint of names and labels. "images on disk" or
        "images in memory": a short fingerprint, where something cheap distinguishes
        images. The same cube in another form lacks an entry, and differs in none. The
        same of the static layers that are read, if any.
    """
    found = {"data": _describe(data)} | _pixels(data, "image", data.reader, "images")
    if data.reader.static_layers:
        layers = data.reader.layers_alone()
        found |= _pixels(data, STATIC, layers, "static layers")
    return found


def _pixels(data: LabelledCube, name: str, reader: Reader, kind: str) -> dict[str, str]:
    if reader.statistics is not None:
        return {f"{kind} on disk": _short(reader.statistics.to_csv())}
    if isinstance(data.cube[name].data, np.ndarray):
        return {f"{kind} in memory": reader.identity()[:_DIGITS]}
    return {}


def _short(text: str) -> str:
    return sha256_of(text)[:_DIGITS]


def _held_out(recipe: Recipe, held: HeldOut) -> str:
    if isinstance(held, LabelledCube):
        return _describe(held)
    if isinstance(held, Fold):
        folds = held.folds
        ground = f"fold {held.number} of {folds.count} {folds.what}"
        part = f"{recipe.validation_fraction:g} of what is left to choose an epoch by"
        spared = recipe.interval is not None or recipe.tail_correction
        calibrates = f", {part}" if spared else ""
        return f"{ground} ({folds.identity[:_DIGITS]}){calibrates}"
    if held is None or isinstance(held, int | float):
        asked = recipe.validation_fraction if held is None else held
        return f"{asked:g} of the data"
    names = sorted(map(str, held))
    return f"{len(names)} chips ({_short(chr(10).join(names))})"


def _describe(data: LabelledCube) -> str:
    sizes = data.cube["image"].sizes
    size = " x ".join(f"{sizes[dim]}" for dim in ("y", "x"))
    chips = f"{sizes['chip']} chips of " if "chip" in sizes else "a scene of "
    return f"{chips}{size} pixels ({data.labels_fingerprint[:_DIGITS]})"
