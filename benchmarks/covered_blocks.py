"""Blocks whose pixels share a part of their error, to see what calibration holds.

Scores are the sizes of errors of standard deviation one. Of new blocks a share of
2 Phi(t) - 1 is then below a threshold t, exactly: only calibration is simulated.
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
PIXELS = 40  # of a block
SHARED = (0.0, 0.5, 0.8, 0.95)
_AT_ONCE = 250  # draws of a piece of work

Scores = Sequence[Floats]
Find = Callable[[Scores, float], float]


def pooled(scores: Scores, interval: float) -> float:
    """Give split conformal prediction's threshold, as if pixels were independent."""
    values = np.sort(np.concatenate(scores))
    rank = math.ceil((len(values) + 1) * interval)
    return float(values[min(rank, len(values)) - 1])


def weighted(scores: Scores, interval: float) -> float:
    """Give the quantile with the weight 1 / (K + 1) at infinity for a new block.

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


def coverage(find: Find, count: int, alike: float, draws: int, seed: int = 0) -> float:
    """Give the share of pixels of new blocks below the threshold, mean of many draws.

    Parameters
    ----------
    find : callable
        Gives a threshold of the scores of blocks, for a part of the pixels.
    count : int
        Blocks to calibrate on.
    alike : float
        Share of the variance that pixels of a block have in common.
    draws, seed : int
        How often to calibrate, and where the dice begin.
    """
    random = np.random.default_rng(seed)
    held = []
    for _ in range(draws):
        shared = np.sqrt(alike) * random.normal(size=(count, 1))
        own = np.sqrt(1 - alike) * random.normal(size=(count, PIXELS))
        found = find(list(np.abs(shared + own)), INTERVAL)
        held.append(math.erf(found / math.sqrt(2)))
    return float(np.mean(held))


def _cell(cell: tuple[Find, int, float, int, int]) -> float:
    return coverage(*cell)


def tables(go: Go, runs: int, seed: int) -> dict[str, list[Row]]:
    """Give what part of the pixels of new blocks an interval of 90 % holds."""
    pieces = max(1, runs // _AT_ONCE)
    seeds = [1000 * seed + number for number in range(pieces)]
    draws = runs // pieces
    found = {}
    for way, (find, counts) in WAYS.items():
        rows: list[Row] = []
        cells = [(alike, count) for alike in SHARED for count in counts]
        work = [(find, n, alike, draws, each) for alike, n in cells for each in seeds]
        held = np.reshape(go(_cell, work, way), (len(SHARED), len(counts), pieces))
        for alike, line in zip(SHARED, held.mean(-1), strict=True):
            shares = (f"{100 * share:.1f}" for share in line)
            heads = (f"{count} blocks" for count in counts)
            rows.append({"shared": alike} | dict(zip(heads, shares, strict=True)))
        found[f"Calibrated {way}, {pieces * draws} times"] = rows
    return found
