"""Coverage after calibration on blocks whose pixels share a part of their error.

Scores are absolute errors of standard deviation 1. So exactly a share of 2 Phi(t) - 1
of new blocks is below a threshold t, and only calibration is simulated.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from covered_runs import Go
from error_fields import Floats
from geobiomass.statistics.conformal_quantile import threshold
from tables import Row

RUNS = 4000
INTERVAL = 0.9
PIXELS = 40  # in a block
SHARED = (0.0, 0.5, 0.8, 0.95)
_AT_ONCE = 250  # draws in a task

Scores = Sequence[Floats]
Find = Callable[[Scores, float], float]


def pooled(scores: Scores, interval: float) -> float:
    """Return the threshold of split conformal prediction for independent pixels."""
    values = np.sort(np.concatenate(scores))
    rank = math.ceil((len(values) + 1) * interval)
    return float(values[min(rank, len(values)) - 1])


def weighted(scores: Scores, interval: float) -> float:
    """Return the quantile with the weight 1 / (K + 1) at infinity for a new block.

    Lee, Barber and Willett, Distribution-free inference with hierarchical data, 2023.
    """
    values = np.concatenate(scores)
    weights = np.repeat(
        [1 / (len(scores) + 1) / len(each) for each in scores],
        [len(each) for each in scores],
    )
    order = np.argsort(values)
    reached = np.cumsum(weights[order]) >= interval - 1e-9
    return float(values[order[np.argmax(reached)]]) if reached.any() else math.inf


WAYS: dict[str, tuple[Find, tuple[int, ...]]] = {
    "pixel by pixel": (pooled, (3, 6, 9, 12, 18, 30)),
    "by block, as the library does": (threshold, (9, 12, 18, 30, 45)),
    "by block, a weight at infinity": (weighted, (9, 12, 18, 30, 45)),
}


def coverage(
    find: Find, count: int, correlation: float, draws: int, seed: int = 0
) -> float:
    """Return the share of pixels of new blocks below the threshold, mean of draws.

    Parameters
    ----------
    find : callable
        Returns the threshold of the scores of blocks, for a share of the pixels.
    count : int
        Number of blocks to calibrate on.
    correlation : float
        Share of the variance that pixels of a block have in common.
    draws, seed : int
        Number of calibrations, and the random seed.
    """
    random = np.random.default_rng(seed)
    held = []
    for _ in range(draws):
        shared = np.sqrt(correlation) * random.normal(size=(count, 1))
        own = np.sqrt(1 - correlation) * random.normal(size=(count, PIXELS))
        found = find(list(np.abs(shared + own)), INTERVAL)
        held.append(math.erf(found / math.sqrt(2)))
    return float(np.mean(held))


def _cell(cell: tuple[Find, int, float, int, int]) -> float:
    return coverage(*cell)


def tables(go: Go, runs: int, seed: int) -> dict[str, list[Row]]:
    """Return tables of the coverage of 90 % intervals on pixels of new blocks."""
    tasks = max(1, runs // _AT_ONCE)
    seeds = [1000 * seed + number for number in range(tasks)]
    draws = runs // tasks
    found = {}
    for way, (find, counts) in WAYS.items():
        rows: list[Row] = []
        cells = [(correlation, count) for correlation in SHARED for count in counts]
        work = [
            (find, n, correlation, draws, each)
            for correlation, n in cells
            for each in seeds
        ]
        held = np.reshape(go(_cell, work, way), (len(SHARED), len(counts), tasks))
        for correlation, line in zip(SHARED, held.mean(-1), strict=True):
            shares = (f"{100 * share:.1f}" for share in line)
            heads = (f"{count} blocks" for count in counts)
            rows.append({"shared": correlation} | dict(zip(heads, shares, strict=True)))
        found[f"Calibrated {way}, {tasks * draws} times"] = rows
    return found
