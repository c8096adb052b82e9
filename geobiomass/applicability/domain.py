"""The domain of a network: a summary of its training data, saved with the model."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from geobiomass.training.json_files import parse_json

Array = npt.NDArray[np.float32]

VIEWS = ("features", "bands")
# Fields of a view.
ARRAYS = ("mean", "projection", "reference")
NUMBERS = ("mean_distance", "threshold")


@dataclass(frozen=True, eq=False)
class View:
    """A feature space of cells: the training data in it, and the largest distance.

    Parameters
    ----------
    mean : numpy.ndarray
        (channel) float32, mean of the training data.
    projection : numpy.ndarray
        (channel, component) float32: from differences to the mean to components that
        have variance one in the training data.
    reference : numpy.ndarray
        (cell, component) float32, the training data.
    mean_distance : float
        Mean distance between two cells of the training data.
    threshold : float
        Largest distance to the nearest training data that counts as inside, divided
        by the mean distance: the upper whisker of the distances between training data
        of different samples.
    """

    mean: Array
    projection: Array
    reference: Array
    mean_distance: float
    threshold: float


@dataclass(frozen=True, eq=False)
class Domain:
    """A summary of the training data, as the network sees them.

    Parameters
    ----------
    views : tuple of View
        Feature spaces: the network's features, and the bands.
    cell : int
        Side of a cell, pixels.
    samples : int
        Number of chips, groups of chips or blocks in the training data.
    quantiles : numpy.ndarray
        (101) float32: percentiles of the index of the training data, each cell
        compared with the cells of other samples.
    """

    views: tuple[View, ...]
    cell: int
    samples: int
    quantiles: Array

    @property
    def threshold(self) -> float:
        """The largest index inside the area; the index is scaled so that it is 1."""
        return 1.0

    @property
    def cells(self) -> int:
        """Number of cells that represent the training data."""
        return len(self.views[0].reference)

    def __repr__(self) -> str:
        """Return a summary in one line."""
        return f"Domain of {self.cells} cells from {self.samples} places"

    def to_dict(self) -> dict[str, Any]:
        """Return the main facts as a dictionary for JSON."""
        chosen = {f"{q} %": round(float(self.quantiles[q]), 4) for q in (5, 50, 95)}
        return {
            "method": "Meyer & Pebesma 2021, doi:10.1111/2041-210X.13650",
            "cells": self.cells,
            "cell_pixels": self.cell,
            "places": self.samples,
            "thresholds": {
                name: round(view.threshold, 4)
                for name, view in zip(VIEWS, self.views, strict=True)
            },
            "training_index": chosen,
            "fingerprint": self.fingerprint(),
        }

    def fingerprint(self) -> str:
        """Return a hash of all numbers."""
        sums = hashlib.sha256(f"{self.cell}".encode())
        for name, values in self._tensors().items():
            sums.update(name.encode() + values.tobytes())
        return sums.hexdigest()

    def _tensors(self) -> dict[str, Array]:
        found = {"quantiles": self.quantiles}
        for name, view in zip(VIEWS, self.views, strict=True):
            for field in fields(View):
                values = np.array(getattr(view, field.name), np.float32, order="C")
                found[f"{name}.{field.name}"] = values
        return found

    def save(self, path: str | Path) -> None:
        """Write it as a safetensors file, which can run no code."""
        facts = json.dumps({"cell": self.cell, "places": self.samples})
        save_file(self._tensors(), path, {"domain": facts})

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a file of :meth:`save`.

        Raises
        ------
        ValueError
            If the file is damaged, or of another kind.
        """
        try:
            with safe_open(path, "numpy") as file:
                facts = parse_json(file.metadata()["domain"], "its record", dict)
                found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            views = tuple(
                View(
                    *(found[f"{name}.{part}"] for part in ARRAYS),
                    *(float(found[f"{name}.{part}"]) for part in NUMBERS),
                )
                for name in VIEWS
            )
            cell, samples = int(facts["cell"]), int(facts["places"])
            return cls(views, cell, samples, found["quantiles"])
        except (SafetensorError, KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{path} is not a whole domain: {error!r}; copy it again, or train the "
                "model again."
            ) from error


@dataclass(frozen=True)
class Domains:
    """The domains of an ensemble's members; its index is the mean of theirs.

    Parameters
    ----------
    members : tuple of Domain or Domains
        One for each member, in their order.
    """

    members: tuple[Domain | Domains, ...]

    @property
    def threshold(self) -> float:
        """The largest index inside the area."""
        return 1.0

    def to_dict(self) -> dict[str, Any]:
        """Return the main facts of all members as a dictionary for JSON."""
        return {"members": [member.to_dict() for member in self.members]}

    def fingerprint(self) -> str:
        """Return a hash of all numbers of all members."""
        words = " ".join(member.fingerprint() for member in self.members)
        return hashlib.sha256(words.encode()).hexdigest()
