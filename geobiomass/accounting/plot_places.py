"""Whether plots are as far apart as random points of their region."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from geobiomass.accounting.region_sums import WHOLE, RegionSum

Numbers = npt.NDArray[np.float64]

_DRAWS, _FEWEST_DRAWS = 199, 99
_MOST = 200_000  # points of all draws


def nearness(
    one: RegionSum,
    points: Numbers,
    strata: Sequence[str],
    pixel: tuple[float, float],
) -> tuple[float, float]:
    """Return the mean distance to the nearest plot, compared with random points.

    The index is that of Clark and Evans (1954, Ecology 35, 445). Near the edges of a
    region, of holes and of strata the nearest plot is farther than in the plane, which
    their formula leaves out (Donnelly 1978). So the expectation is by simulation:
    points are drawn uniformly from the mapped pixels of the same region and stratum,
    with the same edges. Plots at one place count once.

    Parameters
    ----------
    one : RegionSum
        The region with its sample of pixels.
    points : numpy.ndarray
        (plot, 2) column and row, pixels.
    strata : sequence of str
        (plot,) strata, empty without.
    pixel : tuple of float
        Height and width, metres.

    Returns
    -------
    ratio : float
        1 of random points, about 2 of a square grid, near 0 of clusters; NaN if no
        stratum has two places.
    level : float
        Share of random samples that are as close.
    """
    names = np.array(list(strata) or [WHOLE] * len(points), object)
    row, column, area, _, kinds = one.drawn
    step = _step_of(row, column)
    metres = np.array([pixel[1], pixel[0]])
    random = np.random.default_rng(0)
    found: list[Numbers] = []
    drawn: list[Numbers] = []
    draws = int(np.clip(_MOST // max(len(points), 1), _FEWEST_DRAWS, _DRAWS))
    for name in dict.fromkeys(names):
        places = np.unique(np.round(points[names == name], 6), axis=0)
        here = np.flatnonzero(kinds == name) if strata else np.arange(row.size)
        if len(places) < 2 or not here.size:
            continue
        chance = area[here] / area[here].sum()
        size = (draws, len(places))
        at = here[random.choice(here.size, size, p=chance)]
        centres = np.stack([column[at], row[at]], axis=-1) + 0.5
        centres = centres + random.uniform(-step / 2, step / 2, centres.shape)
        simulated = np.array([_to_nearest(each * metres) for each in centres])
        expected = simulated.mean()
        found.append(_to_nearest(places * metres)[None] / expected)
        drawn.append(simulated / expected)
    if not found:
        return math.nan, math.nan
    ratio = float(np.concatenate(found, axis=1).mean())
    ratios = np.concatenate(drawn, axis=1).mean(axis=1)
    return ratio, float((1 + (ratios <= ratio).sum()) / (1 + draws))


def _to_nearest(points: Numbers) -> Numbers:
    """Return the distance of each point to its nearest neighbour."""
    from scipy.spatial import KDTree

    return np.asarray(KDTree(points).query(points, k=2)[0][:, 1], np.float64)


def _step_of(row: npt.NDArray[np.int64], column: npt.NDArray[np.int64]) -> int:
    """Return the distance of sampled pixels, in pixels."""
    gaps = [np.diff(np.unique(each)) for each in (row, column)]
    return int(min((gap.min() for gap in gaps if gap.size), default=1))
