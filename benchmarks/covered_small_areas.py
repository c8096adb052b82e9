"""Coverage and error of the composite of small areas, for regions with known means.

Regions have maps of 60 to 160 Mg/ha on average and 30 within; a region differs from the
regression on the map, and plots from their region by 30 Mg/ha. Errors are over all
regions, also those without a plot, unless a column says otherwise.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from covered_runs import Go
from geobiomass.statistics.confidence import t_quantile
from geobiomass.statistics.sample import SampleError
from geobiomass.statistics.small_areas import SmallAreaMeans, small_area_means
from tables import Row

Floats = npt.NDArray[np.float64]

RUNS = 1000
PLOTS_SD = 30.0


@dataclass(frozen=True)
class World:
    """Regions to draw: how many, the range of plots in each, and how they differ."""

    name: str
    regions: int
    fewest: int
    most: int
    between: float
    kind: str = "normal"


WORLDS = [
    *(
        World(f"{count} regions, {sd:g} Mg/ha between", count, 0, 6, sd)
        for count in (12, 20, 40)
        for sd in (5.0, 15.0, 30.0)
    ),
    World("20, one or two plots each", 20, 1, 2, 15.0),
    World("20, skewed plots", 20, 0, 6, 15.0, "skewed plots"),
    World("20, skewed regions", 20, 0, 6, 15.0, "skewed regions"),
    World("20, plots spread with the map", 20, 0, 6, 15.0, "spread"),
]


@dataclass(frozen=True)
class Drawn:
    """A sample: plots with their regions, maps, and the true means of regions."""

    observed: Floats
    mapped: Floats
    region: npt.NDArray[np.int64]
    map_means: Floats
    truth: Floats

    def estimate(self) -> SmallAreaMeans:
        """Return the composite of each region."""
        return small_area_means(self.observed, self.mapped, self.region, self.map_means)


def draw(world: World, random: np.random.Generator) -> Drawn:
    """Return a sample of a world."""
    count = random.integers(world.fewest, world.most + 1, world.regions)
    region = np.repeat(np.arange(world.regions), count)
    map_means = random.uniform(60, 160, world.regions)
    mapped = map_means[region] + random.normal(0, 30, region.size)
    of_regions = _skewed if world.kind == "skewed regions" else _plain
    of_plots = _skewed if world.kind == "skewed plots" else _plain
    own = world.between * of_regions(random, world.regions)
    rest = PLOTS_SD * of_plots(random, region.size)
    if world.kind == "spread":
        rest *= np.clip(mapped, 10, None) / 110
    observed = 20 + 0.8 * mapped + own[region] + rest
    return Drawn(observed, mapped, region, map_means, 20 + 0.8 * map_means + own)


def _plain(random: np.random.Generator, size: int) -> Floats:
    return random.normal(size=size)


def _skewed(random: np.random.Generator, size: int) -> Floats:
    """Return lognormal numbers (0.8) with a mean of 0 and a variance of 1."""
    square = 0.8**2
    drawn = random.lognormal(0, 0.8, size) - np.exp(square / 2)
    return np.asarray(drawn / np.sqrt(np.expm1(square) * np.exp(square)), np.float64)


def measure(world: World, runs: int, seed: int) -> dict[str, float]:
    """Return coverage in percent, and root mean squared errors, over many samples."""
    random = np.random.default_rng(seed)
    parts: dict[str, list[float]] = {}
    for _ in range(runs):
        sample = draw(world, random)
        try:
            found = sample.estimate()
        except SampleError:
            continue  # fewer than ten regions or ten repeated plots in this draw
        for name, value in _errors(sample, found).items():
            parts.setdefault(name, []).append(value)
    means = {
        name: float(np.nanmean(values)) if np.isfinite(values).any() else np.nan
        for name, values in parts.items()
    }
    roots = ("composite", "own plots", "regression", "said")
    return {
        name: value**0.5 if name in roots else 100 * value
        for name, value in means.items()
    }


def _errors(sample: Drawn, found: SmallAreaMeans) -> dict[str, float]:
    quantiles = np.array([t_quantile(0.95, each) for each in found.freedom])
    error = found.mean - sample.truth
    inside = abs(error) <= quantiles * np.sqrt(found.mse)
    bare, some = found.plots == 0, found.plots > 0
    return {
        "covered": float(inside.mean()),
        "covered, no plots": float(inside[bare].mean()) if bare.any() else np.nan,
        "at zero": float(found.at_zero),
        "composite": float((error[some] ** 2).mean()),
        "said": float(found.mse[some].mean()),
        "own plots": float(((found.own - sample.truth)[some] ** 2).mean()),
        "regression": float(((found.synthetic - sample.truth)[some] ** 2).mean()),
    }


def _row(seed: int, runs: int, world: World) -> Row:
    found = measure(world, runs, seed)
    bare = found["covered, no plots"]
    return {
        "regions": world.name,
        "covered, %": round(found["covered"], 1),
        "no plots, %": None if np.isnan(bare) else round(bare, 1),
        "variance at 0, %": round(found["at zero"]),
        "composite": round(found["composite"], 1),
        "said": round(found["said"], 1),
        "own plots": round(found["own plots"], 1),
        "regression": round(found["regression"], 1),
    }


def tables(go: Go, runs: int, seed: int) -> dict[str, list[Row]]:
    """Return the coverage and errors of each world."""
    work: Callable[[Any], Any] = partial(_row, seed, runs)
    title = "Coverage of nominal 95 %, and root mean squared errors, Mg/ha"
    return {title: go(work, WORLDS, "small areas")}
