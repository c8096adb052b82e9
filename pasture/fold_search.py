"""The search for balanced folds on several threads, with a progress bar."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from itertools import pairwise
from typing import Any, TypeVar

import numpy as np
from tqdm.auto import tqdm

from .fold_kernels import (
    Floats,
    Groups,
    Numbers,
    exchange,
    search_seeds,
    split_by_seed,
)

__all__ = ["find_folds", "tabulate"]

_Found = TypeVar("_Found", bound=tuple[Any, ...])

_FIRST_SEEDS = 1000  # exchanges start from the best folds of these seeds
# Exchanges in one run, over which its threshold falls to 0: the larger of the two.
_STEPS = 100_000
_STEPS_PER_GROUP = 1000
_WORK = 20_000_000  # groups x folds^2 in a chunk of seeds: about a third of a second


def tabulate(groups: Numbers, strata: Numbers, deviations: Floats) -> Groups:
    """Sum photos by group, for the compiled searches.

    Parameters
    ----------
    groups, strata
        (photo,) number of its group and of its stratum; no number is left out.
    deviations
        (photo, part) of grams from their means, scaled as the cost squares and adds
        them.
    """
    counts = np.zeros((groups.max() + 1, strata.max() + 1))
    np.add.at(counts, (groups, strata), 1)
    totals = counts.sum(axis=0)
    # numpy computes the deviations, as in scikit-learn, so that equal ones are equal
    # to the bit here if they are in scikit-learn.
    _, rank = np.unique(-np.std(counts, axis=1), return_inverse=True)
    grams = np.zeros((len(counts), deviations.shape[1]))
    np.add.at(grams, groups, deviations)
    sums = [counts.sum(axis=1), grams, counts]
    shares = [[1 / len(groups)], np.zeros(grams.shape[1]), totals / len(groups)]
    return Groups(
        counts,
        totals,
        rank.astype(np.int64),
        np.column_stack(sums),
        np.concatenate(shares),
    )


def find_folds(
    table: Groups, n_splits: int, seeds: int, search: str, jobs: int, progress: bool
) -> tuple[float, Numbers, int | None]:
    """Return the least cost, the fold of each group, and the seed, if any."""
    if search == "exchange":
        cost, folds = _exchange(table, n_splits, seeds, jobs, progress)
        return cost, folds, None
    mixed = search == "seeds-1.7"
    cost, seed = _best_seed(table, n_splits, seeds, mixed, jobs, progress)
    return cost, split_by_seed(table, n_splits, seed, mixed), seed


def _best_seed(
    table: Groups, n_splits: int, seeds: int, mixed: bool, jobs: int, progress: bool
) -> tuple[float, int]:
    chunks = _chunks(seeds, _WORK // (len(table.rank) * n_splits**2))
    tasks = (
        (size, partial(search_seeds, table, n_splits, mixed, first, first + size))
        for first, size in chunks
    )
    with _bar(seeds, "seed", progress) as bar:
        return _run(tasks, jobs, bar)


def _exchange(
    table: Groups, n_splits: int, steps: int, jobs: int, progress: bool
) -> tuple[float, Numbers]:
    first = min(steps, _FIRST_SEEDS)
    _, seed = _best_seed(table, n_splits, first, False, jobs, progress=False)
    given = split_by_seed(table, n_splits, seed, False)
    chunks = _chunks(steps, max(_STEPS, _STEPS_PER_GROUP * len(table.rank)))
    tasks = (
        (size, partial(exchange, table, n_splits, given, first, size))
        for first, size in chunks
    )
    with _bar(steps, "exchange", progress) as bar:
        cost, folds = _run(tasks, jobs, bar)
    # Exchanges leave no order of folds: they are numbered by their first groups.
    numbers = {fold: number for number, fold in enumerate(dict.fromkeys(folds))}
    return cost, np.array([numbers[fold] for fold in folds])


def _chunks(count: int, size: int) -> list[tuple[int, int]]:
    """Split `count` candidates into chunks (first, size) of about `size` each."""
    edges = np.linspace(0, count, max(1, count // max(size, 100)) + 1).astype(int)
    return [(int(a), int(b - a)) for a, b in pairwise(edges)]


def _bar(total: int, unit: str, progress: bool) -> tqdm[Any]:
    return tqdm(
        total=total,
        unit=unit,
        unit_scale=True,
        desc="Balancing folds",
        disable=not progress,
    )


def _run(
    tasks: Iterable[tuple[int, Callable[[], _Found]]],
    jobs: int,
    bar: tqdm[Any],
) -> _Found:
    """Run tasks on threads, and return the first result of least cost.

    If it is interrupted, running tasks end and no more are started.
    """
    waiting: deque[tuple[int, Future[_Found]]] = deque()
    pool = ThreadPoolExecutor(jobs, thread_name_prefix="folds")

    def take() -> _Found:
        size, future = waiting.popleft()
        found = future.result()
        bar.update(size)
        return found

    def results() -> Iterator[_Found]:
        for size, call in tasks:
            waiting.append((size, pool.submit(call)))
            if len(waiting) > 2 * jobs:
                yield take()
        while waiting:
            yield take()

    try:
        return min(results(), key=lambda found: found[0])
    finally:
        pool.shutdown(cancel_futures=True)
