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

from geobiomass.statistics.label_errors import effective_number

Numbers = npt.NDArray[np.floating[Any]]

# The median of the number of so many independent events is within a half of its mean.
_MANY = 1000
# Masses of groups are rounded to this part of their sum, at least and at most.
_GRID = (512, 4096)
_LEVELS = 8  # between two ranks, of which the mean is taken


def needed_units(interval: float) -> int:
    """Return the least number of exchangeable groups that can calibrate an interval.

    With K groups a finite margin guarantees a coverage of at most K / (K + 1): each of
    the K + 1 groups, the new one included, is equally likely to have the largest score.
    """
    return math.ceil(interval / (1 - interval) - 1e-9)


def worth(weights: Sequence[Numbers]) -> float:
    """Return how many groups of equal weight these are worth.

    A group has the mean weight of its pixels, so that it counts once, however many
    pixels it has.

    Parameters
    ----------
    weights : sequence of numpy.ndarray
        For each group the weights of its pixels, (pixel,); one pixel at least.
    """
    # So many digits that equal masses are worth their number.
    return round(effective_number(_masses(weights)), 9)


def threshold(
    scores: Sequence[Numbers],
    interval: float,
    weights: Sequence[Numbers] | None = None,
) -> float:
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
    weights : sequence of numpy.ndarray, optional
        For each group the weights of its pixels, above 0; by default all are equal. A
        pixel of a group is then drawn in proportion to its weight, and a group has its
        mean weight: see the notes.

    Returns
    -------
    float
        Infinite if there are fewer groups than :func:`needed_units` returns, or
        weighted groups are worth less (:func:`worth`).

    Notes
    -----
    With weights the share of groups whose drawn score is below the threshold is a
    weighted one, and a new group stands for the expected mass of a group drawn in
    proportion to the masses: with v the masses, K' = (sum v)^2 / sum v^2 takes the
    place of K (weighted conformal prediction: Tibshirani, Barber, Candès and Ramdas,
    Conformal prediction under covariate shift, 2019). So the coverage is that of
    pixels drawn with these weights.
    """
    if weights is not None and not _all_alike(weights):
        return _weighted_threshold(scores, interval, weights)
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


def _masses(weights: Sequence[Numbers]) -> Numbers:
    return np.array([own.mean() for own in weights])


def _all_alike(weights: Sequence[Numbers]) -> bool:
    first = weights[0][0]
    return all((own == first).all() for own in weights)


def _weighted_threshold(
    scores: Sequence[Numbers], interval: float, weights: Sequence[Numbers]
) -> float:
    masses = _masses(weights)
    count = worth(weights)
    if count < needed_units(interval):
        return math.inf
    ordered = []
    for own, weight in zip(scores, weights, strict=True):
        order = np.argsort(own, kind="stable")
        shares = np.concatenate([[0.0], np.cumsum(weight[order]) / weight.sum()])
        shares[-1] = 1.0
        ordered.append((own[order], shares))
    values = np.unique(np.concatenate(scores))
    top = (count + 1) * interval
    # With equal masses the mean over these is the value between two ranks.
    levels = (top - (np.arange(_LEVELS) + 0.5) / _LEVELS) / count
    found = [_median_of_level(ordered, values, masses, level) for level in levels]
    return float(np.mean(found))


def _median_of_level(
    ordered: Sequence[tuple[Numbers, Numbers]],
    values: Numbers,
    masses: Numbers,
    level: float,
) -> float:
    """Return the median, over draws, of the lowest score that a share of mass reaches.

    Parameters
    ----------
    ordered : sequence of (numpy.ndarray, numpy.ndarray)
        For each group its scores in order, (pixel,), and the weight up to each as a
        share of the group's, (pixel + 1,), from 0.
    values : numpy.ndarray
        All scores in order.
    masses : numpy.ndarray
        (group,)
    level : float
        The share of the mass of all groups, from 0 to 1.
    """
    low, high = 0, len(values) - 1
    while low < high:
        middle = (low + high) // 2
        below = [
            shares[np.searchsorted(own, values[middle], "right")]
            for own, shares in ordered
        ]
        if _chance_of_mass(np.array(below), masses, level) >= 0.5 - 1e-9:
            high = middle
        else:
            low = middle + 1
    return float(values[low])


def _chance_of_mass(chances: Numbers, masses: Numbers, level: float) -> float:
    """Return the probability that events happen whose masses reach a share of all.

    Parameters
    ----------
    chances, masses : numpy.ndarray
        (event,) of independent events.
    level : float
        The share, from 0 to 1.
    """
    if len(chances) > _MANY:
        half = 0.5 / effective_number(masses)
        return float((chances * masses).sum() / masses.sum() >= level - half)
    parts = int(np.clip(8 * len(masses), *_GRID))
    steps = np.rint(masses / masses.sum() * parts).astype(int)
    exactly = np.zeros(int(steps.sum()) + 1)
    exactly[0] = 1.0
    for chance, step in zip(chances, steps, strict=True):
        moved = exactly[: len(exactly) - step] * chance
        exactly *= 1 - chance
        exactly[step:] += moved
    return float(exactly[math.ceil(level * (len(exactly) - 1) - 1e-9) :].sum())
