"""How the values of a map spread over a region, in bounded memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.float64]

# Bins are 1 Mg/ha wide near 0 and 2 % of the value at large values.
_SCALE = 50.0
_BINS = 300  # above 0, and as many below: up to 10,000 Mg/ha


@dataclass
class MapSpread:
    """Hectares, sums and sums of squares of a map's values, by bins of its values.

    Parameters
    ----------
    area, first, second : numpy.ndarray
        (bin,) hectares, and sums of values and of squares times hectares.
    highest : float
        The highest value.
    """

    area: Numbers = field(default_factory=lambda: np.zeros(2 * _BINS))
    first: Numbers = field(default_factory=lambda: np.zeros(2 * _BINS))
    second: Numbers = field(default_factory=lambda: np.zeros(2 * _BINS))
    highest: float = -np.inf

    def add(self, values: Numbers, areas: Numbers) -> None:
        """Add pixels: values, and their hectares, both (pixel,)."""
        if not values.size:
            return
        at = _bin_of(values)
        for total, weight in (
            (self.area, areas),
            (self.first, areas * values),
            (self.second, areas * values**2),
        ):
            total += np.bincount(at, weight, minlength=2 * _BINS)
        self.highest = max(self.highest, float(values.max()))

    def squares(self, above: float | None = None) -> float:
        """Return hectares times the squared distance from the mean.

        Parameters
        ----------
        above : float, optional
            Only of values in bins above that of this value.
        """
        start = 0 if above is None else int(_bin_of(np.array([above]))[0]) + 1
        mean = float(self.first.sum() / self.area.sum())
        parts = (each[start:].sum() for each in (self.second, self.first, self.area))
        second, first, area = parts
        return float(max(second - 2 * mean * first + mean**2 * area, 0.0))


def _bin_of(values: Numbers) -> npt.NDArray[np.int64]:
    bins = np.floor(_SCALE * np.arcsinh(values / _SCALE))
    return (np.clip(bins, -_BINS, _BINS - 1) + _BINS).astype(np.int64)


def unseen_share(
    spreads: Mapping[str, MapSpread], values: Numbers, strata: npt.NDArray[Any] | None
) -> float:
    """Return the share of the map's variance above its highest value at the plots.

    Parameters
    ----------
    spreads : mapping
        Spread of the map by stratum, over the area of the estimate.
    values : numpy.ndarray
        (plot,) the map at the plots: the highest pixel of each.
    strata : numpy.ndarray, optional
        (plot,) their strata, as named in `spreads`; None: one stratum.
    """
    total = beyond = 0.0
    for name, spread in spreads.items():
        here = values if strata is None else values[strata == name]
        total += spread.squares()
        beyond += spread.squares(float(here.max()) if here.size else -np.inf)
    return beyond / total if total > 0 else 0.0
