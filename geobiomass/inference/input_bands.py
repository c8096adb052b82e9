"""A band of an input beside the training data: percentiles, unit, missing values."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from geobiomass.data.band_profile import PERCENTILES, BandProfile, Numbers
from geobiomass.data.input_sample import InputSample
from geobiomass.inference.input_causes import Cause

FEWEST = 50
"""Values of a band in one month; with fewer a month is not judged."""
LIKE = 0.75
"""Of the training data's spread: as like as another region's data is."""

_RADAR = re.compile(r"(?<![a-z0-9])(vv|vh|hh|hv)(?![a-z0-9])", re.IGNORECASE)
_OPTICAL = re.compile(
    r"(?<![a-z0-9])(b\d|blue|green|red|nir|swir|coastal)", re.IGNORECASE
)


@dataclass(frozen=True)
class Band:
    """Percentiles of one band, of the training data and of the input."""

    name: str
    training: Numbers
    low: float
    high: float
    values: npt.NDArray[np.float32]  # without values that mark missing pixels
    found: Numbers
    like: Numbers  # percentiles of the training data in the same months, or NaN
    nodata: tuple[float, float] | None = None  # value and share

    @property
    def empty(self) -> bool:
        """Whether the input has no value of this band."""
        return self.values.size == 0

    @property
    def nearest(self) -> Numbers:
        """Percentiles of the training data, in the same months if it has them."""
        return self.like if np.isfinite(self.like).all() else self.training

    @property
    def unit(self) -> str:
        """The unit of the training data; the band's own name where it is not known."""
        return _unit(self.name, self.training)

    def distance(
        self,
        changed: Numbers | None = None,
        by: Callable[[Numbers], Any] = np.mean,
    ) -> float:
        """Return how far percentiles are from the training data, in its spread."""
        found = self.found if changed is None else changed
        each = [
            float(by(np.abs(found - one)[1:-1]))
            for one in (self.training, self.like)
            if np.isfinite(one).all()
        ]
        return min(each, default=math.inf) / spread_of(self.training)

    def _cannot_be(self, factor: float) -> bool:
        """Return whether values are beyond all that nature has in the training unit.

        Water, snow and clouds are an order darker or brighter than ground.
        """
        size, known = np.abs(self.found), np.abs(self.training)
        if factor > 1:
            return bool(max(size[0], size[-2]) < min(known[1], known[-2]))
        highest = {"reflectance": 2e4, "fraction": 2.0, "dB": 100.0}.get(self.unit, 0)
        return bool(size[3] > max(highest, known[0], known[-1]))

    def accepts(self, cause: Cause) -> bool:
        """Return whether a factor or a unit explains the values of this band."""
        changed = cause.change(self.found)
        if cause.kind == "factor":
            typical, known = typical_of(self.found), typical_of(self.training)
            if not (typical > 0 and known > 0):
                return False
            # The values are an order off, and the factor takes it away.
            off = abs(math.log10(typical / known))
            left = abs(math.log10(typical * cause.factor / known))
            if off < 0.75 or left > 0.5 or not self._cannot_be(cause.factor):
                return False
        return self.distance(changed) <= LIKE


def _unit(name: str, training: Numbers) -> str:
    """Return the unit of training data, as far as name and values tell it."""
    if _RADAR.search(name):
        return "dB" if training[3] < 0 else "power"
    if _OPTICAL.search(name) and training[1] > -2000:
        return "reflectance" if training[5] > 20 else "fraction"
    return name  # of its own: nothing else is like it


def measure(
    profile: BandProfile, sample: InputSample, name: str, step: int | None
) -> Band:
    """Return a band in all months of a sample, or in one step."""
    values = sample.of(name, step)
    if step is not None and values.size < FEWEST:
        values = values[:0]
    months = sample.calendar if step is None else (sample.calendar[step],)
    row, training = profile.bands[name], profile.percentiles(name)
    return Band(
        name,
        training,
        row["minimum"],
        row["maximum"],
        values,
        percentiles_of(values),
        profile.percentiles(name, months),
    )


def without_nodata(bands: Sequence[Band]) -> list[Band]:
    """Leave out values that mark missing pixels, and note them."""
    marks = {band.name: _nodata(band) for band in bands}
    # In water and shadow some bands are zero; zero as nodata is in all of them.
    light = [b for b in bands if b.unit in ("reflectance", "fraction") and not b.empty]
    zeros = [b for b in light if (marks[b.name] or (1.0,))[0] == 0]
    if len(zeros) < 0.8 * len(light):
        marks |= {band.name: None for band in zeros}
    return [_less(band, marks[band.name]) for band in bands]


def _less(band: Band, mark: tuple[float, float] | None) -> Band:
    if mark is None:
        return band
    values = band.values[band.values != np.float32(mark[0])]
    return replace(band, values=values, found=percentiles_of(values), nodata=mark)


def percentiles_of(values: npt.NDArray[np.float32]) -> Numbers:
    """Return the percentiles of a profile; NaN without a value."""
    if values.size == 0:
        return np.full(len(PERCENTILES), np.nan)
    return np.percentile(values.astype(np.float64), PERCENTILES)


def share_outside(training: Numbers, values: npt.NDArray[np.float32]) -> float:
    """Return the share of values outside the training percentiles 1 and 99."""
    if values.size == 0 or not np.isfinite(training).all():
        return math.nan
    # Percentiles of floats are known to 0.8 %.
    room = 0.01 * np.abs(training[[0, -1]]) + 1e-9
    low, high = training[0] - room[0], training[-1] + room[1]
    return float(((values < low) | (values > high)).mean())


def spread_of(training: Numbers) -> float:
    """Return the distance between the percentiles 5 and 95, but not nearly none."""
    return float(max(training[5] - training[1], 0.01 * np.abs(training).max(), 1e-9))


def typical_of(percentiles: Numbers) -> float:
    """Return the magnitude of the values; of many zeros, that of the others."""
    size = np.abs(percentiles)
    return float(size[3] or size[4] or size[5] or size[6])


# --- values that mark missing pixels ---


def _nodata(band: Band) -> tuple[float, float] | None:
    """Return a constant far from all else, such as -9999 or 0, with its share."""
    values, training, low, high = band.values, band.training, band.low, band.high
    zero = band.unit != band.name
    if values.size == 0 or not np.isfinite(training).all():
        return None
    for value in (values.min(), values.max(), np.float32(0)):
        share = float((values == value).mean())
        inside = training[0] <= value <= training[-1]
        if value == 0:
            if not zero or inside:  # of elevation or a share, zero is a value
                continue
            # Training data with zeros below its first percentile may have some here.
            least = 0.02 if low > 0 or high < 0 else 0.05
            if share >= least and (share < 1 or values.size >= FEWEST):
                return 0.0, share
        elif share >= 0.005 and not low <= value <= high:
            others = values[values != value]
            if others.size == 0:
                return float(value), share
            gap = float(np.abs(others - value).min())
            ends = np.percentile(others.astype(np.float64), (1, 99))
            if gap > max(0.5 * float(ends[1] - ends[0]), 1e-9):
                return float(value), share
    return None
