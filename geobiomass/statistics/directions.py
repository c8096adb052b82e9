"""Whether errors are correlated over as long a distance in each direction."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd

from geobiomass.statistics.residual_pairs import ResidualPairs

_PAIRS = 40_000
_NEAREST = 0.2  # of the range: nearer pairs are alike in any direction
_SECTORS = 4  # down, across and the two diagonals
_FEWEST = 200  # pairs of a direction


def unlike_directions(
    residuals: pd.DataFrame,
    errors: npt.NDArray[np.float64],
    length: float,
    seed: int = 0,
) -> float | None:
    """Return the largest semivariance of a direction over the smallest.

    It is of pairs at 0.2 to 1 times the effective range, where a variogram rises. A
    variogram for all directions is between those of errors that are longer in one
    (geometric anisotropy: Journel and Huijbregts 1978, III.B), and the sum over a
    region has the longer ones.

    Parameters
    ----------
    residuals : pandas.DataFrame
        With ``y`` and ``x`` in metres, ``unit`` and the ``attrs`` of a variogram's.
    errors : numpy.ndarray
        (row,) standardised errors.
    length : float
        Effective range, metres.
    seed : int
        Of the pairs.

    Returns
    -------
    float or None
        1 or more; None where a direction has fewer than 200 pairs.
    """
    located = ResidualPairs.of(residuals)
    low = max(_NEAREST * length, min(located.pixel))
    if not low < length:
        return None
    edges = np.array([low, length])
    first, second = located.pairs(edges, _PAIRS, np.random.default_rng(seed))
    down = located.y[first] - located.y[second]
    across = located.x[first] - located.x[second]
    distance = np.hypot(down, across)
    near = (distance >= low) & (distance <= length)
    angle = np.arctan2(down, across)[near] + np.pi / (2 * _SECTORS)
    sector = np.floor(angle / (np.pi / _SECTORS)).astype(np.int64) % _SECTORS
    squares = (errors[first] - errors[second])[near] ** 2
    counts = np.bincount(sector, minlength=_SECTORS)
    if counts.min() < _FEWEST:
        return None
    # Sectors differ a little in how long their pairs are; the lags are log-uniform in
    # each, so that the means compare.
    means = np.bincount(sector, squares, _SECTORS) / counts
    return float(means.max() / means.min()) if means.min() > 0 else None
