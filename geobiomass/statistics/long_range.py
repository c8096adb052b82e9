"""The part of a variogram that is still rising at the longest lag."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from geobiomass.statistics.variogram import Floats, Variogram

_STEPS = 40  # ranges of the short part that are tried
_SHORTEST = 1 / 3  # of the longest lag: the longest effective range of the short part


@dataclass(frozen=True)
class LongPart:
    """Variance of errors that is shared over more than the longest lag.

    Parameters
    ----------
    sill : float
        Its variance, in the unit of the variogram; 0 where there is none.
    range : float
        Metres: its covariance at the distance h is the sill times exp(-h / range).
    """

    sill: float
    range: float

    def covariance(self, distance: npt.ArrayLike) -> Floats:
        """Return the covariance at distances in metres."""
        return self.sill * np.exp(-np.asarray(distance, float) / self.range)


def split_long_part(variogram: Variogram) -> tuple[Variogram, LongPart]:
    """Return a variogram as a short part, and what rises beyond the longest lag.

    Nested structures (Journel and Huijbregts 1978, III.A) of two scales: one that
    reaches its sill within a third of the longest lag, and an exponential one whose
    range is the longest lag, so that its effective range is three times as long. They
    are fitted to the same semivariances with the weights pairs / semivariance^2, all
    parts 0 or more. The long part is what a scene of twice the lag can say about
    errors that are shared over the whole scene.

    Parameters
    ----------
    variogram : Variogram
        With its table of lags.
    """
    from scipy.optimize import nnls

    table = variogram.table
    if len(table) < 4:
        return variogram, LongPart(0.0, math.inf)
    lag, semivariance, pairs = (
        table[name].to_numpy(float) for name in ("lag", "semivariance", "pairs")
    )
    reach = float(lag.max())
    curve = np.maximum(variogram.semivariance(lag), semivariance.max() * 1e-6)
    weights = np.sqrt(pairs / pairs.mean()) / curve
    # Range parameters of the same model, by the effective range.
    unit = variogram.effective_range / variogram.range if variogram.sill > 0 else 3.0
    ranges = np.geomspace(lag.min() / 2, reach * _SHORTEST, _STEPS) / unit
    rising = 1 - np.exp(-lag / reach)
    best: tuple[float, Floats, float] | None = None
    for length in ranges:
        short = 1 - replace(variogram, range=float(length)).shared(lag)
        columns = np.stack([np.ones_like(lag), short, rising], axis=1)
        parts, loss = nnls(columns * weights[:, None], semivariance * weights)
        if best is None or loss < best[0]:
            best = float(loss), parts, float(length)
    assert best is not None
    _, (nugget, sill, long), length = best
    if not nugget + sill > 0:
        return variogram, LongPart(0.0, math.inf)
    short_part = replace(
        variogram, nugget=float(nugget), sill=float(sill), range=length
    )
    return short_part, LongPart(float(long), reach)
