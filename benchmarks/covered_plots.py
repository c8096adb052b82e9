"""Coverage of intervals from samples of plots, on a landscape with known biomass.

The map is wrong by a factor and an offset, or is not linear in the truth. Plots are
drawn from the pixels with replacement, by the designs on the page about totals.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial

import numpy as np

import geobiomass as gb
from covered_few_plots import few_plots
from covered_runs import Go
from error_fields import Floats
from geobiomass.statistics.estimated_mean import Estimate
from geobiomass.statistics.estimators import SEPARATE, estimate
from geobiomass.statistics.sample import METHODS
from tables import Row

RUNS = 4000
CONFIDENCE = 0.95
HEADS = ("plots alone", "difference", "regression")  # METHODS, with the page's names


@dataclass(frozen=True)
class Ground:
    """A landscape and its map, pixel by pixel.

    Parameters
    ----------
    truth, mapped : numpy.ndarray
        (pixel,) Mg/ha.
    """

    truth: Floats
    mapped: Floats


@cache
def ground(curved: bool = False) -> Ground:
    """Return the landscape of the page, with its linear map or with a curved one."""
    truth = gb.landscape((512, 512), months=1, seed=3, version=1)["agb"].to_numpy()
    truth = truth.ravel().astype(float)
    line = 15 + 6 * truth**0.7 if curved else 40 + 1.5 * truth
    return Ground(truth, line + np.random.default_rng(0).normal(0, 25, truth.size))


Draw = Callable[[np.random.Generator], list[Estimate]]


def at_random(n: int, *, curved: bool = False) -> Draw:
    """Draw pixels with equal probability."""
    here = ground(curved)

    def draw(random: np.random.Generator) -> list[Estimate]:
        at = random.integers(0, here.truth.size, n)
        return [
            estimate(here.truth[at], here.mapped[at], here.mapped.mean(), method=method)
            for method in METHODS
        ]

    return draw


def in_strata(n: int) -> Draw:
    """Draw half of the plots above the median of the map, and half below."""
    here = ground()
    above = here.mapped > np.median(here.mapped)
    members = [np.flatnonzero(above == stratum) for stratum in (False, True)]
    half = n // 2
    names = np.repeat([0, 1], half).tolist()

    def draw(random: np.random.Generator) -> list[Estimate]:
        at = np.concatenate([random.choice(each, half) for each in members])
        return [
            estimate(
                here.truth[at],
                here.mapped[at],
                here.mapped.mean(),
                method=method,
                strata=names,
                shares={0: float(members[0].size), 1: float(members[1].size)},
                map_means={k: float(here.mapped[members[k]].mean()) for k in (0, 1)},
                separate=half >= SEPARATE,
            )
            for method in METHODS
        ]

    return draw


def by_the_map(n: int, least: float, most: float) -> Draw:
    """Draw pixels in proportion to the map, clipped between two values."""
    here = ground()
    chance = np.clip(here.mapped, least, most)
    edges = np.cumsum(chance)

    def draw(random: np.random.Generator) -> list[Estimate]:
        at = np.searchsorted(edges, random.random(n) * edges[-1])
        return [
            estimate(
                here.truth[at],
                here.mapped[at],
                here.mapped.mean(),
                method=method,
                probability=chance[at],
            )
            for method in METHODS
        ]

    return draw


SAMPLES: dict[str, Callable[[], Draw]] = {
    "random, 10 plots": partial(at_random, 10),
    "random, 10, map not linear in the truth": partial(at_random, 10, curved=True),
    "random, 30": partial(at_random, 30),
    "random, 100": partial(at_random, 100),
    "two strata, 30": partial(in_strata, 30),
    "two strata, 100": partial(in_strata, 100),
    "probabilities 1 : 4, 30": partial(by_the_map, 30, 100, 400),
    "probabilities 1 : 4, 100": partial(by_the_map, 100, 100, 400),
    "probabilities 1 : 27, 30": partial(by_the_map, 30, 20, 540),
    "probabilities 1 : 27, 100": partial(by_the_map, 100, 20, 540),
}


def sample(name: str, runs: int, seed: int) -> Row:
    """Draw samples of one design; return the coverage of their intervals."""
    draw = SAMPLES[name]()
    random = np.random.default_rng(seed)
    found = [draw(random) for _ in range(runs)]
    true = ground().truth.mean()
    row: Row = {"sample": name}
    for head, estimates in zip(HEADS, zip(*found, strict=True), strict=True):
        ends = (each.interval(CONFIDENCE) for each in estimates)
        held = np.mean([low <= true <= high for low, high in ends])
        spread = np.std([each.mean for each in estimates])
        row[head] = f"{100 * held:.1f} ({spread:.1f})"
    return row


def tables(go: Go, runs: int, seed: int) -> dict[str, list[Row]]:
    """Return the coverage and, in brackets, the spread of the estimates, Mg/ha."""
    rows = go(partial(sample, runs=runs, seed=seed), list(SAMPLES), "kinds of samples")
    means = ", ".join(
        f"{name} {values.mean():.0f}"
        for name, values in (
            ("truth", ground().truth),
            ("map", ground().mapped),
            ("curved map", ground(True).mapped),
        )
    )
    title = f"Student's intervals of 95 %, {runs} samples each ({means} Mg/ha)"
    return {title: rows, **few_plots(go, runs, seed)}
