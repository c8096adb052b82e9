"""Whether the mean errors of units are correlated over more than a variogram shows."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd

Floats = npt.NDArray[np.float64]

_PERMUTATIONS = 999
_FEWEST = 8  # units: of fewer no order of means is improbable


def far_correlation(
    residuals: pd.DataFrame,
    errors: Floats,
    unit: npt.NDArray[np.intp],
    beyond: float,
    seed: int = 0,
) -> float | None:
    """Return how probable the likeness of distant units is, if they are independent.

    A variogram is mostly of single pixels, whose own errors hide a small part that a
    whole scene shares; the mean over a unit has little else. Units farther apart than
    the range of the errors are compared, with weights that decrease with their
    distance: Moran's I (1950) of their mean errors, and the share of random orders of
    the means that have as large a one (a permutation test).

    Parameters
    ----------
    residuals : pandas.DataFrame
        With ``y`` and ``x`` in metres.
    errors : numpy.ndarray
        (row,) standardised errors.
    unit : numpy.ndarray
        (row,) number of each one's unit, from 0 without gaps.
    beyond : float
        Metres: pairs of units whose centres are nearer are left out.
    seed : int
        Of the permutations.

    Returns
    -------
    float or None
        From 0.001 to 1; None of fewer than 8 units, or where no pair is far enough.
    """
    table = pd.DataFrame({"y": residuals["y"].to_numpy(float)})
    table["x"], table["error"] = residuals["x"].to_numpy(float), errors
    means = table.groupby(unit).mean()
    if len(means) < _FEWEST:
        return None
    down, across = (np.subtract.outer(*[means[name].to_numpy()] * 2) for name in "yx")
    distance = np.hypot(down, across)
    far = (distance > beyond) & (distance > 0)
    if not far.any():
        return None
    weights = np.zeros_like(distance)
    weights[far] = 1 / distance[far] ** 2
    value = means["error"].to_numpy()
    value = value - value.mean()
    random = np.random.default_rng(seed)
    orders = random.permuted(np.tile(value, (_PERMUTATIONS, 1)), axis=1)
    drawn = np.einsum("pi,ij,pj->p", orders, weights, orders, optimize=True)
    above = int((drawn >= value @ weights @ value).sum())
    return (above + 1) / (_PERMUTATIONS + 1)
