"""The quantile of conformal scores over exchangeable groups of pixels.

A group is a chip, a set of chips or a block of a scene. Its pixels share errors, so
that it counts once, however many pixels it has.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.floating[Any]]

# The median of the number of so many independent events is within a half of its mean.
_MANY = 1000


def needed_units(interval: float) -> int:
    """Return the least number of exchangeable groups that can calibrate an interval.

    With K groups a finite margin guarantees a coverage of at most K / (K + 1): each of
    the K + 1 groups, the new one included, is equally likely to have the largest score.
    """
    return math.ceil(interval / (1 - interval) - 1e-9)


def threshold(scores: Sequence[Numbers], interval: float) -> float:
    """Return the conformal quantile of scores, below which a new pixel is likely.

    The probability is p, `interval`. Of each of K exchangeable groups take one pixel at
    random. These K pixels and a pixel of a new group are exchangeable, so that the new
    score is below the (K + 1) p th lowest of the K with probability p (Dunn, Wasserman
    and Ramdas, Distribution-free prediction sets for two-layer hierarchical models,
    2022). The result depends on which pixels are drawn: this function returns the
    median over all draws, computed exactly. Between two ranks it interpolates.

    Parameters
    ----------
    scores : sequence of numpy.ndarray
        For each group the scores of its pixels, (pixel,); at least one.
    interval : float
        The coverage, between 0 and 1.

    Returns
    -------
    float
        Infinite if there are fewer groups than :func:`needed_units` returns.
    """
    if len(scores) < needed_units(interval):
        return math.inf
    rank = min((len(scores) + 1) * interval, float(len(scores)))
    low = math.floor(rank + 1e-9)
    ordered = [np.sort(s) for s in scores]
    values = np.unique(np.concatenate(ordered))
    first, second = (_median_of_rank(ordered, values, r) for r in (low, low + 1))
    part = max(0.0, rank - low)
    return first if part == 0 else (1 - part) * first + part * second


def _median_of_rank(ordered: Sequence[Numbers], values: Numbers, rank: int) -> float:
    """Return the median, over draws of one pixel per group, of the `rank`-th score."""
    if not 1 <= rank <= len(ordered):
        return float(values[0 if rank < 1 else -1])
    low, high = 0, len(values) - 1
    while low < high:
        middle = (low + high) // 2
        below = [np.searchsorted(s, values[middle], "right") / len(s) for s in ordered]
        if _chance_of(np.array(below), rank) >= 0.5 - 1e-9:
            high = middle
        else:
            low = middle + 1
    return float(values[low])


def _chance_of(chances: Numbers, count: int) -> float:
    """Return the probability that at least `count` of independent events happen.

    This is the tail of the Poisson binomial distribution.
    """
    if len(chances) > _MANY:
        return float(chances.sum() >= count - 0.5)
    exactly = np.zeros(len(chances) + 1)
    exactly[0] = 1.0
    for chance in chances:
        exactly[1:] = exactly[1:] * (1 - chance) + exactly[:-1] * chance
        exactly[0] *= 1 - chance
    return float(exactly[count:].sum())
