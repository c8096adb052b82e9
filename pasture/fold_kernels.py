"""Compiled searches for balanced folds: scikit-learn's seeds, and exchanges of groups.

Groups, strata and folds are numbers here. This module imports numba, which is slow to
import, so it is imported only where a search starts.
"""

from __future__ import annotations

from collections.abc import Callable
from math import sqrt
from typing import Any, NamedTuple, TypeVar, cast

import numpy as np
import numpy.typing as npt
from numba import njit

__all__ = ["Groups", "cost_of", "exchange", "search_seeds", "split_by_seed"]

Floats = npt.NDArray[np.float64]
Numbers = npt.NDArray[np.int64]
Words = npt.NDArray[np.uint64]
_Function = TypeVar("_Function", bound=Callable[..., Any])

# The Mersenne Twister's n, the words of its state, and m, the distance between the
# words that it mixes.
_STATE_WORDS, _MIXING_DISTANCE = 624, 397
# Squared cost of a fold without photos: larger than for any fold with photos.
_EMPTY = 1e6
# Share of the squared cost by which an exchange may raise it at the start of a run.
_FIRST_THRESHOLD = 0.3


class Groups(NamedTuple):
    """Sums by group of photos, for the searches.

    Parameters
    ----------
    counts
        (group, stratum) number of photos.
    totals
        (stratum,) number of photos.
    rank
        (group,) rank in scikit-learn's order. Groups of equal rank keep the order of
        the shuffle.
    sums
        (group, part): the number of photos, the sum of deviations of grams from their
        mean for each target, then `counts`.
    shares
        (part,) 1 / photos, 0 for each target, then the share of each stratum in all
        photos.
    """

    counts: Floats
    totals: Floats
    rank: Numbers
    sums: Floats
    shares: Floats


def _compiled(function: _Function) -> _Function:
    """Compile a function at its first call, and cache it on disk if possible."""
    try:
        compiled = njit(nogil=True, cache=True)(function)
    except RuntimeError:  # numba finds no folder that it may write to
        compiled = njit(nogil=True)(function)
    return cast("_Function", compiled)


@_compiled
def _seeded(before: np.uint64, index: int) -> np.uint64:
    mixed = before ^ (before >> np.uint64(30))
    word = np.uint64(1812433253) * mixed + np.uint64(index)
    return word & np.uint64(0xFFFFFFFF)


@_compiled
def _word(state: Words, index: int) -> np.uint64:
    """Return word `index` of the Mersenne Twister, after all words before it.

    Matsumoto and Nishimura (1998), doi:10.1145/272991.272995, with the seeding of
    2002. A word of the state is seeded when it is first needed, because few are needed.
    """
    here, far = index % _STATE_WORDS, (index + _MIXING_DISTANCE) % _STATE_WORDS
    if index < _STATE_WORDS - _MIXING_DISTANCE:
        state[far] = _seeded(state[far - 1], far)
    mixed = state[here] & np.uint64(0x80000000)
    mixed |= state[(index + 1) % _STATE_WORDS] & np.uint64(0x7FFFFFFF)
    word: np.uint64 = state[far] ^ (mixed >> np.uint64(1))
    if mixed & np.uint64(1):
        word ^= np.uint64(0x9908B0DF)
    state[here] = word
    word ^= word >> np.uint64(11)
    word ^= (word << np.uint64(7)) & np.uint64(0x9D2C5680)
    word ^= (word << np.uint64(15)) & np.uint64(0xEFC60000)
    return word ^ (word >> np.uint64(18))


@_compiled
def _shuffle(seed: int, state: Words, shuffled: Numbers) -> None:
    """Shuffle 0, 1, ... as ``numpy.random.RandomState(seed).shuffle`` does."""
    state[0] = np.uint64(seed)
    for index in range(1, _MIXING_DISTANCE):
        state[index] = _seeded(state[index - 1], index)
    drawn, mask = 0, 1
    for index in range(len(shuffled)):
        shuffled[index] = index
        mask |= mask << int(index > mask)
    for last in range(len(shuffled) - 1, 0, -1):
        while mask >> 1 >= last:
            mask >>= 1
        other = np.int64(last + 1)
        while other > last:  # numpy draws again if a number is out of range
            other = np.int64(_word(state, drawn)) & mask
            drawn += 1
        shuffled[last], shuffled[other] = shuffled[other], shuffled[last]


@_compiled
def _sort(rank: Numbers, shuffled: Numbers, starts: Numbers, order: Numbers) -> None:
    """Sort groups by rank; groups of equal rank keep the order of the shuffle."""
    starts[:] = 0
    for group in range(len(rank)):
        starts[rank[group] + 1] += 1
    for number in range(1, len(starts)):
        starts[number] += starts[number - 1]
    for group in shuffled:
        order[starts[rank[group]]] = group
        starts[rank[group]] += 1


@_compiled
def _add_in_order(values: Floats, start: int, total: float) -> float:
    for index in range(start, len(values)):
        total += values[index]
    return total


@_compiled
def _pairwise(values: Floats) -> float:
    count = len(values)
    if count > 128:
        half = count // 16 * 8
        return _pairwise(values[:half]) + _pairwise(values[half:])
    r = values[:8].copy()
    whole = count - count % 8
    for index in range(8, whole):
        r[index % 8] += values[index]
    total = ((r[0] + r[1]) + (r[2] + r[3])) + ((r[4] + r[5]) + (r[6] + r[7]))
    return _add_in_order(values, whole, total)


@_compiled
def _sum(values: Floats) -> float:
    """Sum contiguous values in numpy's order, so that the rounding is numpy's.

    numpy sums pairwise from 8 values on.
    """
    return _add_in_order(values, 0, 0.0) if len(values) < 8 else _pairwise(values)


@_compiled
def _deviation(shares: Floats, fold: int, share: float) -> float:
    """Return ``numpy.std`` of one of several columns, with `share` for `fold`."""
    total, count = 0.0, len(shares)
    for other in range(count):
        total += share if other == fold else shares[other]
    mean, total = total / count, 0.0
    for other in range(count):
        deviation = (share if other == fold else shares[other]) - mean
        total += deviation * deviation
    return sqrt(total / count)


@_compiled
def _deviation_of_only_column(shares: Floats, fold: int, share: float) -> float:
    """Return the same for a single column, which numpy sums in another order."""
    values = shares.copy()
    values[fold] = share
    mean = _sum(values) / len(values)
    for other in range(len(values)):
        values[other] = (values[other] - mean) * (values[other] - mean)
    return sqrt(_sum(values) / len(values))


@_compiled
def _assign(groups: Groups, order: Numbers, n_splits: int, folds: Numbers) -> None:
    """Assign each group in turn to the fold where strata become most even.

    This is the rule of scikit-learn's StratifiedGroupKFold. It minimises the mean over
    strata of the standard deviation over folds of the stratum's share. If two folds are
    ``numpy.isclose``, it takes the one with fewer photos. The deviation of a stratum
    without photos in the group is not computed again.
    """
    strata = len(groups.totals)
    held, shares = np.zeros((strata, n_splits)), np.zeros((strata, n_splits))
    sizes, now = np.zeros(n_splits), np.zeros(strata)
    tried = np.empty((n_splits, strata))
    for group in order:
        for stratum in range(strata):
            count, column = groups.counts[group, stratum], shares[stratum]
            for fold in range(n_splits):
                share = (held[stratum, fold] + count) / groups.totals[stratum]
                if count == 0:
                    tried[fold, stratum] = now[stratum]
                elif strata > 1:
                    tried[fold, stratum] = _deviation(column, fold, share)
                else:
                    tried[fold, stratum] = _deviation_of_only_column(
                        column, fold, share
                    )
        best, least, fewest = 0, np.inf, np.inf
        for fold in range(n_splits):
            mean = _sum(tried[fold]) / strata
            close = abs(mean - least) <= 1e-8 + 1e-5 * least
            if mean < least or (close and sizes[fold] < fewest):
                best, least, fewest = fold, mean, sizes[fold]
        folds[group] = best
        for stratum in range(strata):
            now[stratum] = tried[best, stratum]
            sizes[best] += groups.counts[group, stratum]
            held[stratum, best] += groups.counts[group, stratum]
            shares[stratum, best] = held[stratum, best] / groups.totals[stratum]


@_compiled
def _fold_cost(groups: Groups, held: Floats, n_splits: int) -> float:
    """Return a fold's part of the squared cost; `balanced_folds` has the formula."""
    if held[0] < 1:
        return _EMPTY
    size, scale = n_splits * held[0] * groups.shares[0] - 1, 1 / held[0]
    cost: float = size * size
    for part in range(1, len(held)):
        deviation = held[part] * scale - groups.shares[part]
        cost += deviation * deviation
    return cost


@_compiled
def _sum_by_fold(groups: Groups, folds: Numbers, held: Floats) -> None:
    """Sum the groups' sums by fold into `held`, (fold, part)."""
    held[:] = 0.0
    for group in range(len(folds)):
        for part in range(held.shape[1]):
            held[folds[group], part] += groups.sums[group, part]


@_compiled
def cost_of(groups: Groups, folds: Numbers, n_splits: int) -> float:
    """Return the cost of an assignment; `balanced_folds` has the formula."""
    held, total = np.empty((n_splits, groups.sums.shape[1])), 0.0
    _sum_by_fold(groups, folds, held)
    for fold in range(n_splits):
        total += _fold_cost(groups, held[fold], n_splits)
    return sqrt(total / n_splits)


@_compiled
def split_by_seed(groups: Groups, n_splits: int, seed: int, mixed: bool) -> Numbers:
    """Return the fold of each group as scikit-learn's StratifiedGroupKFold does.

    With ``shuffle=True, random_state=seed``. `mixed` repeats releases before 1.8: a
    group had the fold of the group that the shuffle put at its index.
    """
    count = len(groups.rank)
    shuffled, order = np.empty(count, np.int64), np.empty(count, np.int64)
    folds, starts = np.empty(count, np.int64), np.empty(count + 1, np.int64)
    _shuffle(seed, np.empty(_STATE_WORDS, np.uint64), shuffled)
    _sort(groups.rank, shuffled, starts, order)
    _assign(groups, order, n_splits, folds)
    return folds[shuffled] if mixed else folds


@_compiled
def search_seeds(
    groups: Groups, n_splits: int, mixed: bool, first: int, after: int
) -> tuple[float, int]:
    """Return the least cost of seeds from `first` to below `after`, and its seed.

    If costs are equal, the lowest seed.
    """
    least, best = np.inf, first
    for seed in range(first, after):
        folds = split_by_seed(groups, n_splits, seed, mixed)
        cost = cost_of(groups, folds, n_splits)
        if cost < least:
            least, best = cost, seed
    return least, best


@_compiled
def _draw(state: Words, below: int) -> int:
    """Draw a number from 0 to below `below`, from 32 bits of splitmix64.

    Steele, Lea and Flood (2014), doi:10.1145/2660193.2660195. numba's version of
    numpy's generator is not used, so that folds stay the same if it changes.
    """
    state[0] += np.uint64(0x9E3779B97F4A7C15)
    word = state[0]
    word = (word ^ (word >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    word = (word ^ (word >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    word = (word ^ (word >> np.uint64(31))) >> np.uint64(32)
    return int(np.int64((word * np.uint64(below)) >> np.uint64(32)))


@_compiled
def _change(groups: Groups, held: Floats, one: int, other: int, new: Floats) -> None:
    """Write a fold's sums with group `one` added and `other` removed; -1 is none."""
    for part in range(len(held)):
        new[part] = held[part]
        if one >= 0:
            new[part] += groups.sums[one, part]
        if other >= 0:
            new[part] -= groups.sums[other, part]


@_compiled
def exchange(
    groups: Groups, n_splits: int, given: Numbers, seed: int, steps: int
) -> tuple[float, Numbers]:
    """Move a group or exchange two, `steps` times; return the least cost and folds.

    The search starts from the folds `given`, and returns them if it finds none better.
    It is threshold accepting (Dueck and Scheuer 1990,
    doi:10.1016/0021-9991(90)90201-B): a change is kept unless it raises the squared
    cost by more than a share of it, and that share falls to 0. Unlike simulated
    annealing it needs no exponential function, which differs between machines.
    """
    folds, state = given.copy(), np.full(1, seed, np.uint64)
    held = np.empty((n_splits, groups.sums.shape[1]))
    _sum_by_fold(groups, folds, held)
    costs, best = np.empty(n_splits), folds.copy()
    for fold in range(n_splits):
        costs[fold] = _fold_cost(groups, held[fold], n_splits)
    now = least = _add_in_order(costs, 0, 0.0)
    new_here, new_there = np.empty(held.shape[1]), np.empty(held.shape[1])
    for step in range(steps):
        one, other, there = _draw(state, len(folds)), -1, _draw(state, n_splits)
        if _draw(state, 2):
            other = _draw(state, len(folds))
            there = folds[other]
        here, left = folds[one], 1 - step / steps
        if here == there:
            continue
        _change(groups, held[here], other, one, new_here)
        _change(groups, held[there], one, other, new_there)
        cost_here = _fold_cost(groups, new_here, n_splits)
        cost_there = _fold_cost(groups, new_there, n_splits)
        increase = cost_here - costs[here] + cost_there - costs[there]
        if increase > _FIRST_THRESHOLD * now * left * left:
            continue
        for part in range(len(new_here)):
            held[here, part], held[there, part] = new_here[part], new_there[part]
        costs[here], costs[there] = cost_here, cost_there
        folds[one] = there
        if other >= 0:
            folds[other] = here
        now += increase
        if now < least - 1e-12:  # more than accumulated rounding
            least = now
            for group in range(len(folds)):
                best[group] = folds[group]
    return cost_of(groups, best, n_splits), best
