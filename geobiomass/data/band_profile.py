"""The percentiles of each band that a model was trained on, kept with the model."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pandas as pd

PERCENTILES = (1, 5, 25, 50, 75, 95, 99)
COLUMNS = tuple(f"p{percentile}" for percentile in PERCENTILES)
_KEPT = ("missing", "minimum", *COLUMNS, "maximum")
_DIGITS = 6  # significant ones: percentiles of floats are known to 0.8 % only

Numbers = npt.NDArray[np.float64]


@dataclass(frozen=True)
class BandProfile:
    """Percentiles by band of the data that a model was trained on.

    Parameters
    ----------
    bands : mapping
        For each band ``missing`` (share of all values), ``minimum``, ``p1`` to ``p99``
        and ``maximum``; NaN for a band without any value.
    months : mapping
        For each calendar month of the training data and each band ``p1`` to ``p99``,
        from a sample of it.
    """

    bands: Mapping[str, Mapping[str, float]]
    months: Mapping[int, Mapping[str, Mapping[str, float]]] = field(
        default_factory=dict
    )

    @classmethod
    def of(
        cls,
        statistics: pd.DataFrame,
        by_month: Mapping[int, Mapping[str, Numbers]],
    ) -> Self:
        """Return the profile of training data.

        Parameters
        ----------
        statistics : pandas.DataFrame
            As :func:`geobiomass.cube.statistics.band_statistics` returns it.
        by_month : mapping
            By calendar month and band, the percentiles of a sample.
        """
        return cls(
            {
                str(band): {name: float(row[name]) for name in _KEPT}
                for band, row in statistics.iterrows()
            },
            {
                month: {
                    band: dict(zip(COLUMNS, map(float, values), strict=True))
                    for band, values in found.items()
                }
                for month, found in by_month.items()
            },
        )

    def percentiles(self, band: str, months: Sequence[int] = ()) -> Numbers:
        """Return the percentiles of a band; NaN where it had no value.

        Parameters
        ----------
        band : str
            One of the model's.
        months : sequence of int, optional
            Average the percentiles of these calendar months; NaN if the training data
            lacks one of them.
        """
        if not months:
            return np.array([self.bands[band][name] for name in COLUMNS])
        nothing = dict.fromkeys(COLUMNS, math.nan)
        found = [self.months.get(m, {}).get(band, nothing) for m in set(months)]
        each = np.array([[one[name] for name in COLUMNS] for one in found], np.float64)
        return np.asarray(each.mean(axis=0))

    def to_dict(self) -> dict[str, Any]:
        """Return the profile as JSON values, with six significant digits."""
        return {
            "bands": {band: _plain(row) for band, row in self.bands.items()},
            "months": {
                str(month): {band: _plain(row) for band, row in found.items()}
                for month, found in self.months.items()
            },
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Return the profile of :meth:`to_dict`."""
        return cls(
            {band: _numbers(row) for band, row in values["bands"].items()},
            {
                int(month): {band: _numbers(row) for band, row in found.items()}
                for month, found in values.get("months", {}).items()
            },
        )


def _plain(row: Mapping[str, float]) -> dict[str, float | None]:
    return {
        name: float(f"{value:.{_DIGITS}g}") if math.isfinite(value) else None
        for name, value in row.items()
    }


def _numbers(row: Mapping[str, float | None]) -> dict[str, float]:
    return {k: math.nan if value is None else float(value) for k, value in row.items()}
