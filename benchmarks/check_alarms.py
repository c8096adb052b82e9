"""How often the checks of totals speak where nothing is wrong.

``python -m benchmarks.check_alarms [DRAWS]`` prints, for simple random samples of plots
and for residuals of a clean error model, the share of draws in which each check is
doubtful or broken.
"""

from __future__ import annotations

import math
import sys
from collections import Counter
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.error_fields import blocks, field, residuals
from geobiomass.accounting.check import OK, Check
from geobiomass.accounting.error_checks import error_checks
from geobiomass.accounting.error_model import fit_error_model
from geobiomass.accounting.region_sums import WHOLE, RegionSum
from geobiomass.accounting.sample_checks import Sample, sample_checks
from geobiomass.cube.region import Region
from geobiomass.statistics.estimators import estimate
from geobiomass.statistics.variogram import Variogram

SIDE, STEP = 200, 4  # pixels of the region, and between those that are kept
PIXEL = (10.0, 10.0)
SHARED = Variogram(0.3, 0.7, 150.0, "exponential")


def region_of(shown: np.ndarray) -> RegionSum:
    """Return the sums of a square region, with the sample of its pixels."""
    ring = [[0, 0], [SIDE, 0], [SIDE, SIDE], [0, SIDE], [0, 0]]
    square = {"type": "Polygon", "coordinates": [ring]}
    region = Region((square,), (1.0, 0.0, 0.0, 0.0, 1.0, 0.0))
    one = RegionSum("region", region, np.zeros(0, bool))
    one.areas[WHOLE], one.sums[WHOLE] = shown.size / 100, float(shown.sum()) / 100
    row, column = (part.ravel() for part in np.mgrid[2:SIDE:STEP, 2:SIDE:STEP])
    kinds = np.full(row.size, WHOLE, object)
    one.sample.append((row, column, np.full(row.size, 0.01), shown[row, column], kinds))
    return one


def forest(kind: str, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return the biomass of a region, and a map of it."""
    z = field((SIDE, SIDE), SHARED, PIXEL, random)
    truth = 120 + 40 * z if kind == "normal" else 60 * np.exp(0.8 * z)
    noise = random.normal(0, 25, truth.shape)
    return np.maximum(truth, 0), np.maximum(20 + 0.8 * truth + noise, 0)


def plots_checks(kind: str, n: int, seed: int) -> list[Check]:
    """Return the checks of a simple random sample, for regression."""
    random = np.random.default_rng(seed)
    truth, shown = forest(kind, random)
    points = random.uniform(0, SIDE, (n, 2))
    at = points[:, 1].astype(int), points[:, 0].astype(int)
    y, x, one = truth[at], shown[at], region_of(shown)
    found = estimate(y, x, one.mean, method="regression")
    lower, upper = found.interval(0.95)
    sample = Sample(
        *(one, y, x, points, [], {}, False, None),
        *(np.full(n, np.nan), np.full(n, np.nan), PIXEL, None, 0, 0, 0),
    )
    row = {"mean": found.mean, "mean_lower": lower, "mean_upper": upper}
    return sample_checks(sample, "regression", row)


def errors_checks(units: int, seed: int) -> list[Check]:
    """Return the checks of a region, from residuals of blocks of 400 m."""
    random = np.random.default_rng(seed)
    shape = (240, 240)
    z = field(shape, SHARED, PIXEL, random)
    level = 120 + 40 * field(shape, SHARED, PIXEL, random)
    table = residuals(
        (10 + 0.15 * level) * z,
        PIXEL,
        predicted=level,
        unit=blocks(shape, 40),
        kind="scene",
    )
    names = random.permutation(table["unit"].unique())[:units]
    attrs, table = table.attrs, table[table["unit"].isin(names)]
    table = table.sample(min(len(table), 20_000), random_state=seed)
    table.attrs = attrs
    model = fit_error_model(table, pairs=20_000, seed=seed)
    shown = 120 + 40 * field((SIDE, SIDE), SHARED, PIXEL, random)
    one = region_of(shown)
    low, high = model.held_out or (-math.inf, math.inf)
    one.extrapolated = float(((shown < low) | (shown > high)).mean()) * one.mapped
    return error_checks(one, model, PIXEL)


def alarms(draws: int) -> pd.DataFrame:
    """Return the share of draws with an alarm, percent, by case and check."""
    cases: dict[str, Any] = {
        f"{n} plots, {kind}": lambda seed, kind=kind, n=n: plots_checks(kind, n, seed)
        for kind in ("normal", "lognormal 0.8")
        for n in (10, 30)
    }
    cases |= {
        f"{units} blocks": lambda seed, units=units: errors_checks(units, seed)
        for units in (12, 36)
    }
    rows = {}
    for name, draw in cases.items():
        seen: Counter[str] = Counter()
        for seed in range(draws):
            for check in draw(seed):
                if check.verdict != OK:
                    seen[f"{check.name}, {check.verdict}"] += 1
        rows[name] = {check: 100 * count / draws for check, count in seen.items()}
        print(name, rows[name], flush=True)
    return pd.DataFrame(rows).fillna(0.0)


if __name__ == "__main__":
    print(alarms(int(sys.argv[1]) if len(sys.argv) > 1 else 200).round(1).to_string())
