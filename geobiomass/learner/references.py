"""What a learner must be better than: the mean of the labels, a ridge regression."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from geobiomass.learner.kernel_ridge import Folds, Numbers, Table

_PENALTIES = np.logspace(-1, 5, 13)
_MOST = 5_000  # rows that a ridge regression is fitted on: it has a few hundred terms


def mean_out_of_fold(table: Table, target: Numbers, folds: Folds) -> Numbers:
    """Predict each row by the mean of the rows of other folds."""
    return _by_fold(folds, lambda rows, held: np.full(held.sum(), target[rows].mean()))


def ridge_out_of_fold(table: Table, target: Numbers, folds: Folds) -> Numbers:
    """Predict each row by ridge regression on the rows of other folds.

    Missing features are the median; the penalty is chosen by leaving single rows out
    (Golub et al. 1979).

    Parameters
    ----------
    table : numpy.ndarray
        (row, feature), NaN where missing.
    target : numpy.ndarray
        (row,).
    folds : numpy.ndarray
        (row,) the fold of each row.
    """
    from threadpoolctl import threadpool_limits

    known = np.isfinite(table).any(axis=0)
    values = table[:, known].astype(np.float64)
    middle = np.nanmedian(values, axis=0) if values.size else np.zeros(0)
    values = np.where(np.isfinite(values), values, middle)
    with threadpool_limits(1):  # sums of several threads differ in their last bits
        return _by_fold(folds, lambda rows, held: _ridge(values, target, rows, held))


def _by_fold(
    folds: Folds,
    predict: Callable[
        [npt.NDArray[np.bool_], npt.NDArray[np.bool_]], npt.NDArray[np.float64]
    ],
) -> Numbers:
    found = np.zeros(len(folds))
    for fold in np.unique(folds):
        held = folds == fold
        found[held] = predict(~held, held)
    return found


def _ridge(
    values: Numbers,
    target: Numbers,
    rows: npt.NDArray[np.bool_],
    held: npt.NDArray[np.bool_],
) -> Numbers:
    """Fit by the singular values, with all penalties at once."""
    chosen = np.flatnonzero(rows)
    chosen = chosen[:: -(-len(chosen) // _MOST)]
    seen, observed = values[chosen], target[chosen]
    shift, scale = seen.mean(axis=0), seen.std(axis=0)
    scale[scale == 0] = 1.0
    start = observed.mean()
    left, sizes, right = np.linalg.svd((seen - shift) / scale, full_matrices=False)
    along = left.T @ (observed - start)
    shares = sizes**2 / (sizes**2 + _PENALTIES[:, None])
    fitted = (shares * along) @ left.T
    # One more degree of freedom for the mean.
    leverage = shares @ (left**2).T + 1 / len(chosen)
    apart = (observed - start - fitted) / np.maximum(1 - leverage, 1e-6)
    best = int(np.argmin((apart**2).mean(axis=1)))
    terms = right.T @ (shares[best] * along / np.where(sizes > 0, sizes, 1.0))
    found: Numbers = (values[held] - shift) / scale @ terms + start
    return found
