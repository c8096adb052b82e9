"""Coverage of intervals from few plots: skewness, zeros, rare old forest, real labels.

Fields of known biomass with a map each, drawn at random with replacement. All samples
of a cell are computed at once, with the formulas of `geobiomass.statistics`; a test
compares them with the package sample by sample.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy import stats
from scipy.special import stdtrit

from covered_runs import Go
from error_fields import Floats, field
from geobiomass.statistics.interval_of_mean import FEWEST, MOST_UNSEEN
from geobiomass.statistics.sample import METHODS
from geobiomass.statistics.variogram import Variogram
from landscape_truth import real_labels
from tables import Row

SIZES = (8, 10, 15, 30, 60)
CONFIDENCE = 0.95
RARE = "loss on 3 % of the area"
RARE_SIZES = (40, 100, 200)
SIDE = 512  # pixels of a field
RANGE = 25.0  # of its biomass, pixels
LABELS = "biomassters_labels"  # a folder of GEOBIOMASS_DATA with chips, Mg/ha
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Field:
    """A field of known biomass and its map, pixel by pixel, Mg/ha."""

    truth: Floats
    mapped: Floats

    @property
    def mean(self) -> float:
        """True mean."""
        return float(self.truth.mean())


def _waves(random: np.random.Generator, reach: float = RANGE) -> Floats:
    shape = Variogram(0.0, 1.0, reach, "exponential")
    drawn = field((SIDE, SIDE), shape, (1.0, 1.0), random)
    return np.asarray((drawn - drawn.mean()) / drawn.std(), np.float64).ravel()


def _normal(random: np.random.Generator) -> tuple[Floats, Floats]:
    truth = np.maximum(120 + 35 * _waves(random), 0)
    return truth, 40 + 0.7 * truth + random.normal(0, 25, truth.size)


def _lognormal(spread: float) -> Callable[[np.random.Generator], tuple[Floats, Floats]]:
    def made(random: np.random.Generator) -> tuple[Floats, Floats]:
        truth = np.minimum(40 * np.exp(spread * _waves(random)), 600)
        return truth, 15 + 6 * truth**0.6 + random.normal(0, 15, truth.size)

    return made


def _zeros(share: float) -> Callable[[np.random.Generator], tuple[Floats, Floats]]:
    def made(random: np.random.Generator) -> tuple[Floats, Floats]:
        waves = _waves(random)
        away = waves - np.quantile(waves, share)
        tall = np.maximum(80 + 120 * away + random.normal(0, 15, away.size), 1)
        truth = np.where(away > 0, tall, 0)
        bare = np.abs(random.normal(0, 12, away.size))
        seen = 0.7 * truth + 25 + random.normal(0, 25, away.size)
        return truth, np.where(away > 0, seen, bare)

    return made


def _old_forest(
    share: float, shown: float
) -> Callable[[np.random.Generator], tuple[Floats, Floats]]:
    def made(random: np.random.Generator) -> tuple[Floats, Floats]:
        waves = _waves(random, 12)
        old = waves > np.quantile(waves, 1 - share)
        truth = np.where(old, 450, 60) + random.normal(0, 10, old.size)
        return truth, np.where(old, shown, 60) + random.normal(0, 15, old.size)

    return made


def _gamma(random: np.random.Generator) -> tuple[Floats, Floats]:
    truth = stats.gamma.ppf(stats.norm.cdf(_waves(random)), 0.7) * 100
    return truth, 20 + 0.8 * truth * np.exp(random.normal(0, 0.3, truth.size))


def _mosaic(random: np.random.Generator) -> tuple[Floats, Floats]:
    waves = _waves(random)
    forest = 180 + 40 * waves + random.normal(0, 20, waves.size)
    grass = 10 + random.normal(0, 5, waves.size)
    truth = np.maximum(np.where(waves > 0, forest, grass), 0)
    return truth, np.minimum(truth, 150) + random.normal(0, 15, truth.size)


def _uneven(random: np.random.Generator) -> tuple[Floats, Floats]:
    truth = np.maximum(120 + 60 * _waves(random), 0)
    return truth, truth * np.exp(random.normal(0, 0.5, truth.size))


def _chips(random: np.random.Generator) -> tuple[Floats, Floats]:
    labels = real_labels(Path(os.environ["GEOBIOMASS_DATA"]))
    truth = np.concatenate([chip[::2, ::2].ravel() for chip in labels]).astype(
        np.float64
    )
    truth = truth[np.isfinite(truth)]
    saturated = 10 + 180 * (1 - np.exp(-truth / 140))
    return truth, saturated + random.normal(0, 20, truth.size)


FIELDS = {
    "normal": _normal,
    "lognormal 0.8": _lognormal(0.8),
    "lognormal 1.2": _lognormal(1.2),
    "80 % zeros": _zeros(0.8),
    "95 % zeros": _zeros(0.95),
    "old forest, 3 %": _old_forest(0.03, 150),
    "map errors grow": _uneven,
    "label chips": _chips,
}


def _loss(random: np.random.Generator) -> tuple[Floats, Floats]:
    before = np.clip(120 + 40 * _waves(random, 15), 5, None)
    gone = np.arange(before.size) % SIDE < 0.03 * SIDE
    after = np.where(gone, 0.1 * before, before + 3)
    seen = [np.maximum(v + random.normal(0, 20, v.size), 0) for v in (before, after)]
    return np.maximum(before - after, 0), np.maximum(seen[0] - seen[1], 0)


# Fields that were made after the rules were chosen.
AFTER = {
    "old 1 %, map 150": _old_forest(0.01, 150),
    "old 1 %, map 300": _old_forest(0.01, 300),
    "old 3 %, map 110": _old_forest(0.03, 110),
    "old 8 %, map 150": _old_forest(0.08, 150),
    "gamma 0.7": _gamma,
    "forest and grass": _mosaic,
}
MADE = {**FIELDS, RARE: _loss, **AFTER}


def known() -> list[str]:
    """Return the names of fields that can be made here."""
    root = os.environ.get("GEOBIOMASS_DATA")
    there = root is not None and (Path(root) / LABELS).is_dir()
    return [name for name in FIELDS if name != "label chips" or there]


@cache
def made(name: str) -> Field:
    """Return a field, the same in every process."""
    truth, mapped = MADE[name](np.random.default_rng(list(MADE).index(name)))
    return Field(truth, np.maximum(mapped, 0))


@dataclass(frozen=True)
class Fit:
    """Estimates of many samples, of one estimator: means, and parts of their errors.

    Parameters
    ----------
    mean, se, wide : numpy.ndarray
        (sample,) estimate, standard error, and the one of intervals.
    parts : numpy.ndarray
        (sample, plot) parts of the estimate's error, n times too large.
    freedom : int
        Degrees of freedom.
    """

    mean: Floats
    se: Floats
    wide: Floats
    parts: Floats
    freedom: int

    @property
    def skewness(self) -> Floats:
        """Skewness of the estimates."""
        n = self.parts.shape[1]
        cubes = (_centred(self.parts) ** 3).sum(axis=1) / n**3
        return np.asarray(cubes / np.where(self.se > 0, self.se, 1) ** 3, np.float64)


def _centred(values: Floats) -> Floats:
    return np.asarray(values - values.mean(axis=1, keepdims=True), np.float64)


def _error(parts: Floats) -> Floats:
    n = parts.shape[1]
    return np.asarray(parts.std(axis=1, ddof=1) / np.sqrt(n), np.float64)


def fits(y: Floats, x: Floats, mean: float) -> dict[str, Fit]:
    """Return the estimates of each estimator from (sample, plot) values."""
    n = y.shape[1]
    found = {}
    for method, values, level in (
        ("plots", y, 0.0),
        ("difference", y - x, mean),
    ):
        se = _error(values)
        parts = _centred(values)
        found[method] = Fit(level + values.mean(axis=1), se, se, parts, n - 1)
    dx, dy = _centred(x), _centred(y)
    spread = (dx**2).sum(axis=1)
    slope = (dx * dy).sum(axis=1) / spread
    away = mean - x.mean(axis=1)
    g = 1 + n * away[:, None] * dx / spread[:, None]
    parts = g * (dy - slope[:, None] * dx)
    bent = parts / np.sqrt(np.clip(1 - dx**2 / spread[:, None], 1e-3, None))
    se = _error(parts) * np.sqrt((n - 1) / (n - 2))
    wide = np.maximum(se, _error(bent))
    found["regression"] = Fit(y.mean(axis=1) + slope * away, se, wide, parts, n - 2)
    return found


def unseen(mapped: Floats, highest: Floats) -> Floats:
    """Return the share of the map's variance above the highest value at the plots."""
    ordered = np.sort(mapped)
    squares = np.cumsum((ordered - ordered.mean()) ** 2)
    below = np.r_[0.0, squares / squares[-1]]
    at = np.searchsorted(ordered, highest, side="right")
    return np.asarray(1 - below[at], np.float64)


def automatic(
    fit: Fit, y: Floats, missing: Floats, highest: float
) -> tuple[Floats, Floats]:
    """Return the ends of the intervals of `interval="auto"`; NaN where refused."""
    n = y.shape[1]
    q = stdtrit(fit.freedom, (1 + CONFIDENCE) / 2)
    a = fit.skewness
    skewed = np.abs(a) * (fit.freedom + 1) > np.sqrt(6)
    safe = np.where(skewed, a, 1.0)

    def of_hall(end: float) -> Floats:
        bent = 3 / safe * (np.cbrt(1 + safe * (end - safe / 6)) - 1)
        return np.asarray(np.where(skewed, bent, end), np.float64)

    lower = np.maximum(fit.mean - fit.wide * of_hall(q), 0)
    upper = fit.mean - fit.wide * of_hall(-q)
    refused = (missing > MOST_UNSEEN) | (upper <= 0) | ~(fit.se > 0) | (n < FEWEST)
    lower, upper = (np.where(refused, np.nan, end) for end in (lower, upper))
    zero = (y == 0).all(axis=1) & (n >= FEWEST)
    bound = (1 - (1 - CONFIDENCE) ** (1 / n)) * highest
    most = np.maximum(bound, fit.mean + q * fit.se)
    return np.where(zero, 0.0, lower), np.where(zero, most, upper)


def chosen(y: Floats) -> Flags:
    """Return where the rule takes the difference, as `choose_method` has it."""
    above = (y > 0).sum(axis=1)
    return np.asarray((above < 10) & (2 * above < y.shape[1]))


def cell(name: str, n: int, runs: int, seed: int) -> Row:
    """Draw samples of a field; return the coverage of Student's t and of "auto"."""
    here = made(name)
    random = np.random.default_rng([seed, n, list(MADE).index(name)])
    at = random.integers(0, here.truth.size, (runs, n))
    y, x = here.truth[at], here.mapped[at]
    missing = unseen(here.mapped, x.max(axis=1))
    found = fits(y, x, float(here.mapped.mean()))
    ends = {
        method: automatic(fit, y, missing, float(here.mapped.max()))
        for method, fit in found.items()
    }
    pick = chosen(y)
    ends["auto"] = (
        np.where(pick, ends["difference"][0], ends["regression"][0]),
        np.where(pick, ends["difference"][1], ends["regression"][1]),
    )
    row: Row = {"biomass": name, "plots": n}
    for method, head in zip(METHODS, ("plots", "diff.", "regr."), strict=True):
        fit = found[method]
        half = stdtrit(fit.freedom, (1 + CONFIDENCE) / 2) * fit.se
        held = (fit.mean - half <= here.mean) & (here.mean <= fit.mean + half)
        row[f"t, {head}"] = f"{100 * held.mean():.1f}"
    for rule, head in zip(
        (*METHODS, "auto"), ("plots", "diff.", "regr.", "auto"), strict=True
    ):
        lower, upper = ends[rule]
        given = np.isfinite(lower)
        held = ((lower <= here.mean) & (here.mean <= upper))[given]
        row[f"auto, {head}"] = f"{100 * held.mean():.1f}" if held.size else None
    row["refused, %"] = f"{100 * (1 - given.mean()):.0f}"
    return row


def _task(work: tuple[str, int, int, int]) -> Row:
    return cell(*work)


def few_plots(go: Go, runs: int, seed: int) -> dict[str, list[Row]]:
    """Return the table of all cells, with the mean and the least of each column."""
    work = [(name, n, runs, seed) for name in known() for n in SIZES]
    rows = go(_task, work, "cells")
    for what, of in (("mean", np.mean), ("least", np.min)):
        summary: Row = {"biomass": f"{what} of all", "plots": None}
        for head in list(rows[0])[2:]:
            values = [float(row[head]) for row in rows[: len(work)] if row[head]]
            summary[head] = f"{of(values):.1f}"
        rows.append(summary)
    rare = go(_task, [(RARE, n, runs, seed) for n in RARE_SIZES], "rare loss")
    work = [(name, n, runs, seed) for name in AFTER for n in SIZES]
    after = go(_task, work, "fields made after the rules")
    samples = f"intervals of 95 %, {runs} samples a cell"
    return {
        f"Few plots, {samples}": rows,
        f"Rare loss, {samples}": rare,
        f"Fields made after the rules were chosen, {samples}": after,
    }
