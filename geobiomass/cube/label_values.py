"""Labels whose values cannot be right: told with counts, and kept."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

_ENOUGH = 20  # labels, below which nothing is said


class LabelTally:
    """Counts labels, zeros and negative values, block by block."""

    def __init__(self) -> None:
        self.labels = self.zeros = self.negative = 0
        self.low, self.high = np.inf, -np.inf

    def add(self, values: npt.NDArray[Any]) -> None:
        """Count the finite values of a block."""
        values = values[np.isfinite(values)]
        if not values.size:
            return
        self.labels += int(values.size)
        self.zeros += int(np.count_nonzero(values == 0))
        self.negative += int(np.count_nonzero(values < 0))
        self.low = min(self.low, float(values.min()))
        self.high = max(self.high, float(values.max()))

    def in_words(self) -> str:
        """Return what cannot be right, empty if nothing is."""
        if self.labels < _ENOUGH:
            return ""
        if self.zeros == self.labels:
            return f"all {self.labels:,} labels are 0"
        if self.zeros + self.negative == self.labels:
            return f"no label of {self.labels:,} is above 0, the lowest is {self.low:g}"
        if self.negative and -self.low > max(self.high, 0.0):
            return (
                f"{self.negative:,} of {self.labels:,} labels are below 0, down to "
                f"{self.low:g}, and none is above {self.high:g}"
            )
        return ""


def zero_all_around(edges: list[npt.NDArray[Any]]) -> bool:
    """Return whether the four edges of a raster are 0, as where 0 means no data."""
    return all(edge.size > 2 and not np.any(edge) for edge in edges)


def warn_of_odd_labels(cube: xr.Dataset) -> None:
    """Warn if labels in memory cannot be right; those that are lazy are not read."""
    labels = cube["agb"]
    if not labels.variable._in_memory:
        return
    tally = LabelTally()
    tally.add(labels.values)
    if words := tally.in_words():
        tell_odd(words, stacklevel=4)


def tell_odd(words: str, stacklevel: int) -> None:
    """Warn of labels that cannot be right."""
    warnings.warn(
        f"Labels look wrong: {words}. They are kept; check their nodata value, scale "
        "and units, and leave wrong ones out with cube.agb.where(cube.agb > 0).",
        stacklevel=stacklevel + 1,
    )
