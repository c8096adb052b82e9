"""Labels whose values cannot be right: told with counts, and kept."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from geobiomass.cube.quantity import quantity_of

_CODED = 10  # labels with one negative value, from which it is no measurement
_ENOUGH = 20  # labels, below which nothing is said


class LabelTally:
    """Counts labels, zeros and negative values, block by block."""

    def __init__(self) -> None:
        self.labels = self.zeros = self.negative = 0
        self.low, self.high = np.inf, -np.inf
        self.highest_below = -np.inf

    def add(self, values: npt.NDArray[Any]) -> None:
        """Count the finite values of a block."""
        values = values[np.isfinite(values)]
        if not values.size:
            return
        self.labels += int(values.size)
        self.zeros += int(np.count_nonzero(values == 0))
        below = values[values < 0]
        self.negative += int(below.size)
        if below.size:
            self.highest_below = max(self.highest_below, float(below.max()))
        self.low = min(self.low, float(values.min()))
        self.high = max(self.high, float(values.max()))

    def in_words(self, biomass: bool = False) -> str:
        """Return what cannot be right, also of biomass; empty if nothing is."""
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
        if biomass and self.negative >= _CODED and self.low == self.highest_below:
            return (
                f"{self.negative:,} of {self.labels:,} labels are {self.low:g}, and no "
                "others are below 0, as where this value means no data"
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
    if words := tally.in_words(biomass=quantity_of(labels).is_biomass):
        tell_odd(words, stacklevel=4)


def tell_odd(words: str, stacklevel: int) -> None:
    """Warn of labels that cannot be right."""
    warnings.warn(
        f"Labels look wrong: {words}. They are kept; check their nodata value, scale "
        "and units, and leave wrong ones out with cube.agb.where(cube.agb > 0).",
        stacklevel=stacklevel + 1,
    )
