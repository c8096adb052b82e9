"""The record of a learner by pixel: data, errors out of fold, environment."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from geobiomass.cube import DamagedError
from geobiomass.cube.quantity import Quantity
from geobiomass.data.band_profile import BandProfile
from geobiomass.data.input_sample import sample_input
from geobiomass.data.labelled_cube import LabelledCube, LabelledSamples
from geobiomass.data.reader import Reader, Sample
from geobiomass.evaluation.label_errors import tally_for
from geobiomass.evaluation.metrics import Bins
from geobiomass.models.input_check import LAYERS
from geobiomass.models.training_record import environment_of, georeference_of
from geobiomass.recipes.label_table import LabelTable
from geobiomass.recipes.recipe import Recipe
from geobiomass.tiles import random_crop
from geobiomass.training.files import sha256_of

_WINDOWS, _SIDE = 64, 128  # that the percentiles of the bands are of
_BY_MONTH = 8_192  # pixels that the percentiles by month are of, at most
_TOGETHER = 10_000_000  # values that are counted together

Numbers = npt.NDArray[np.float64]


def errors_by_bin(
    table: LabelTable, predicted: Numbers, target: Quantity, weigh: bool = False
) -> pd.DataFrame:
    """Return the errors of predictions by bin; a chip or block counts as a chip.

    Parameters
    ----------
    table : LabelTable
        The labels.
    predicted : numpy.ndarray
        (row,) by what was fitted without them.
    target : Quantity
        What is predicted.
    weigh : bool
        Whether labels weigh by their standard errors, if they have any.
    """
    tally = tally_for(Bins(target=target), table.errors is not None, weigh)
    for number in np.unique(table.where):
        own = table.where == number
        errors = None if table.errors is None else table.errors[own]
        tally.add(predicted[own], table.target[own], errors=errors)
    return tally.table()


def describe_data(
    data: LabelledCube,
    training: tuple[LabelTable, Reader],
    validation: tuple[LabelTable, Reader] | None,
) -> dict[str, Any]:
    """Return what a model was trained on, as :func:`.describe_training` has it."""
    cube = data.cube
    facts: dict[str, Any] = {
        "fingerprint": data.fingerprint,
        "kind": "chips" if "chip" in cube.dims else "scene",
        "size": {str(dim): int(size) for dim, size in cube.sizes.items()},
        "months": [int(month) for month in cube["month"].values],
        "training": _part(*training),
        "validation": None if validation is None else _part(*validation),
    }
    for name in ("title", "source", "licence"):
        if name in cube.attrs:
            facts[name] = str(cube.attrs[name])
    return facts | georeference_of(cube)


def _part(table: LabelTable, reader: Reader) -> dict[str, Any]:
    used = [table.samples[number] for number in np.unique(table.where)]
    return {
        "places": len(used),
        "pixels": sum(s.window.height * s.window.width for s in used),
        "labels": len(table),
        "names": sha256_of("\n".join(_names(used, reader))),
    }


def profiles_of(part: LabelledSamples, recipe: Recipe) -> dict[str, Any]:
    """Return the percentiles of bands and static layers, as a model keeps them."""
    found = profile_of(part, recipe).to_dict()
    if part.reader.static_layers:
        alone = dataclasses.replace(part, reader=part.reader.layers_alone())
        found[LAYERS] = profile_of(alone, recipe).to_dict()
    return found


def profile_of(part: LabelledSamples, recipe: Recipe) -> BandProfile:
    """Return the percentiles of the bands around the labels, of up to 64 windows.

    Parameters
    ----------
    part : LabelledSamples
        The training samples.
    recipe : Recipe
        Its seed, and what is done with damaged samples.
    """
    draw = np.random.default_rng(recipe.training.seed)
    count = min(_WINDOWS, len(part.samples))
    chosen = sorted(draw.choice(len(part.samples), count, replace=False))
    tally, windows = _Tally(part.reader), list[Sample]()
    for sample in (part.samples[number] for number in chosen):
        window = sample.window
        height, width = min(_SIDE, window.height), min(_SIDE, window.width)
        marks = part.marks.get(sample)
        cut = (
            random_crop(window, height, width, draw)
            if marks is None
            else marks.random_crop(height, width, draw)
        )
        try:
            tally.add(Sample(cut, sample.chip))
        except DamagedError:
            if recipe.damaged == "raise":
                raise
            continue
        windows.append(Sample(cut, sample.chip))
    if not windows:
        return BandProfile.of(tally.table(), {})
    sample = sample_input(part.reader, windows)
    if sample.values.shape[-1] > _BY_MONTH:  # neighbours say about the same
        few = sample.values[..., :: -(-sample.values.shape[-1] // _BY_MONTH)]
        sample = dataclasses.replace(sample, values=few)
    return BandProfile.of(tally.table(), sample.by_month())


class _Tally:
    """Statistics of windows, counted some at a time: each count takes as long.

    Parameters
    ----------
    reader : Reader
        Over the cube.
    """

    def __init__(self, reader: Reader) -> None:
        self.reader, self._counted = reader, reader.tally()
        self._waiting: list[npt.NDArray[Any]] = []

    def add(self, window: Sample) -> None:
        """Read a window, to be counted."""
        codes = self.reader.codes(window)
        self._waiting.append(codes.swapaxes(0, 1).reshape(codes.shape[1], -1))
        if sum(codes.size for codes in self._waiting) > _TOGETHER:
            self._count()

    def table(self) -> pd.DataFrame:
        """Return the statistics of all windows."""
        self._count()
        return self._counted.table()

    def _count(self) -> None:
        if self._waiting:
            self._counted.add(np.concatenate(self._waiting, axis=1)[..., None])
            self._waiting = []


def _names(samples: Sequence[Sample], reader: Reader) -> list[str]:
    return [reader.name_of(sample) for sample in samples]


def environment() -> dict[str, Any]:
    """Return Python, machine and packages that a learner by pixel depends on."""
    from importlib.metadata import version

    found = environment_of("cpu")
    packages = dict(found["packages"]) | {"scikit-learn": version("scikit-learn")}
    return found | {"packages": packages}


__all__ = ["describe_data", "environment", "errors_by_bin", "profiles_of"]
