"""The record of a learner by pixel: data, errors out of fold, environment."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from geobiomass.cube.quantity import Quantity
from geobiomass.data.labelled_cube import LabelledCube
from geobiomass.data.reader import Reader, Sample
from geobiomass.evaluation.metrics import Bins, Tally
from geobiomass.models.training_record import environment_of, georeference_of
from geobiomass.recipes.label_table import LabelTable
from geobiomass.training.files import sha256_of

Numbers = npt.NDArray[np.float64]


def errors_by_bin(
    table: LabelTable, predicted: Numbers, target: Quantity
) -> pd.DataFrame:
    """Return the errors of predictions by bin; a chip or block counts as a chip."""
    tally = Tally(Bins(target=target))
    for number in np.unique(table.where):
        own = table.where == number
        tally.add(predicted[own], table.target[own])
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


def _names(samples: Sequence[Sample], reader: Reader) -> list[str]:
    return [reader.name_of(sample) for sample in samples]


def environment() -> dict[str, Any]:
    """Return Python, machine and packages that a learner by pixel depends on."""
    from importlib.metadata import version

    found = environment_of("cpu")
    packages = dict(found["packages"]) | {"scikit-learn": version("scikit-learn")}
    return found | {"packages": packages}


__all__ = ["describe_data", "environment", "errors_by_bin"]
