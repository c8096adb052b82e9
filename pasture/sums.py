"""Exact sums: green dry matter and total agree with their parts, with least change."""

from __future__ import annotations

from itertools import chain, combinations

import numpy as np
import numpy.typing as npt

__all__ = ["PARTS", "WEIGHTS", "reconcile", "with_sums"]

Grams = npt.NDArray[np.float64]

# Weights of the five targets in the score of the CSIRO Image2Biomass competition.
WEIGHTS = (0.1, 0.1, 0.1, 0.2, 0.5)
# Green, dead and clover come first; the other two targets are their sums.
PARTS = 3

# (target, part): green, dead, clover, green + clover, all three.
_SUMS = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 0, 1], [1, 1, 1]], np.float64)


def with_sums(parts: Grams) -> Grams:
    """Add green dry matter (green + clover) and total (green dry matter + dead).

    Parameters
    ----------
    parts
        (..., 3) green, dead, clover, or (..., 5), of which the last two are replaced.

    Returns
    -------
    numpy.ndarray
        (..., 5); the sums are exact to the last bit.
    """
    green, dead, clover = (parts[..., part] for part in range(PARTS))
    matter = green + clover
    return np.stack([green, dead, clover, matter, matter + dead], axis=-1)


def reconcile(grams: Grams) -> Grams:
    """Return the nearest five values that are 0 or more and add up.

    Nearest in the weighted sum of squares of the competition's score. This is the
    weighted least squares of hierarchical forecasting (S. L. Wickramasuriya, G.
    Athanasopoulos, R. J. Hyndman, Optimal forecast reconciliation, 2019). It is a
    projection onto a convex set. The ground truth adds up too, so it is in that set,
    and a projection never moves away from it: the score never falls.

    Parameters
    ----------
    grams
        (photo, 5) green, dead, clover, green dry matter, total.

    Returns
    -------
    numpy.ndarray
        (photo, 5); the last two are exactly the sums of their parts.
    """
    weights = np.array(WEIGHTS)
    best, least = np.zeros((len(grams), PARTS)), np.full(len(grams), np.inf)
    # With three parts every choice of the parts that are not zero can be tried.
    for chosen in chain.from_iterable(combinations(range(PARTS), n) for n in range(4)):
        parts = np.zeros_like(best)
        columns = _SUMS[:, chosen] * np.sqrt(weights)[:, None]
        scaled = grams * np.sqrt(weights)
        parts[:, chosen] = scaled @ np.linalg.pinv(columns).T
        error = ((grams - parts @ _SUMS.T) ** 2) @ weights
        better = (parts >= 0).all(axis=1) & (error < least)
        best[better], least[better] = parts[better], error[better]
    return with_sums(best)
