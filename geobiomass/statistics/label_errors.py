"""Weights of labels by their standard errors, and what they are worth together."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.floating[Any]]

_LEAST = 0.1
"""Share of the mean square residual that tau^2 has at least."""


def unexplained_variance(residuals: Numbers, errors: Numbers) -> float:
    """Return tau^2, from residuals of left-out labels and their standard errors.

    It solves sum r^2 / (tau^2 + se^2) = n (Paule and Mandel, Consensus values and
    weighting factors, 1982), and is a tenth of the mean square residual at least.

    Parameters
    ----------
    residuals, errors : numpy.ndarray
        (label,) in one unit, all finite.
    """
    squares, own = residuals**2, errors**2
    low = _LEAST * float(squares.mean())
    high = max(low, float(squares.max()))
    if low == 0:  # all labels are equal
        return float(own.mean())
    for _ in range(60):
        middle = (low + high) / 2
        if (squares / (middle + own)).sum() > len(squares):
            low = middle
        else:
            high = middle
    return low


def relative_weights(
    residuals: Numbers, errors: Numbers
) -> tuple[npt.NDArray[np.float64], float]:
    """Return the weights of labels, 1 / (tau^2 + se^2) over that of the median error.

    With equal errors all are 1 to the bit.

    Parameters
    ----------
    residuals, errors : numpy.ndarray
        (label,) in one unit, all finite; one label at least.

    Returns
    -------
    weights : numpy.ndarray
        (label,) float64, above 0.
    unexplained : float
        tau^2.
    """
    unexplained = unexplained_variance(residuals, errors)
    variances = np.asarray(unexplained + errors.astype(np.float64) ** 2)
    if not variances.min() > 0:  # all is known, and all is right
        return np.ones(len(variances)), unexplained
    return np.asarray(np.median(variances) / variances), unexplained


def effective_number(weights: Numbers) -> float:
    """Return how many things of equal weight these are worth.

    (sum w)^2 / sum w^2 (Kish, Survey sampling, 1965, section 11.7).
    """
    return float(weights.sum() ** 2 / (weights**2).sum()) if len(weights) else 0.0


def without_missing(errors: Numbers) -> tuple[Numbers, int]:
    """Return errors of which missing ones are the median of the others; their number.

    All stay missing where none is known.
    """
    missing = np.isnan(errors)
    if not missing.any() or missing.all():
        return errors, int(missing.sum())
    middle = np.median(errors[~missing])
    return np.where(missing, middle, errors), int(missing.sum())
