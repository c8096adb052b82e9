"""Whether errors spread as much in one unit as in another."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd

from geobiomass.statistics.variogram import Variogram

_PAIRS = 20_000  # of pixels, for the mean over pairs within units


def unevenness(
    variogram: Variogram,
    residuals: pd.DataFrame,
    standardised: npt.NDArray[np.float64],
    unit: npt.NDArray[np.intp],
    seed: int = 0,
) -> float:
    """Return the variance of units' mean squared errors, divided by the expected one.

    Of normal errors with the correlation r, the mean of squares over a unit has the
    expected variance 2 m^2 times the mean of r^2 over all pairs of its pixels, with m
    its expectation (Isserlis 1918). Above 1 the spread differs between units.

    Parameters
    ----------
    variogram : Variogram
        Of the standardised errors.
    residuals : pandas.DataFrame
        With ``y`` and ``x`` in metres.
    standardised : numpy.ndarray
        (row,) errors with mean 0 and variance 1.
    unit : numpy.ndarray
        (row,) number of each one's unit.
    seed : int
        Of the pairs.
    """
    random = np.random.default_rng(seed)
    counts = np.bincount(unit)
    means = np.bincount(unit, standardised**2) / counts
    found = float(np.var(means, ddof=1)) / float(means.mean()) ** 2
    y, x = (residuals[name].to_numpy(float) for name in ("y", "x"))
    order = np.argsort(unit, kind="stable")
    starts = np.cumsum(counts) - counts
    which = random.integers(0, counts.size, _PAIRS)
    one, other = (
        order[starts[which] + (random.random(_PAIRS) * counts[which]).astype(np.intp)]
        for _ in range(2)
    )
    distance = np.hypot(y[one] - y[other], x[one] - x[other])
    expected = 2 * float((variogram.correlation(distance) ** 2).mean())
    return found / expected
