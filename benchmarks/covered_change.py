"""Coverage of intervals of change, on two dates of a landscape with known biomass.

Maps of both dates have errors of 5 Mg/ha and 10 %, correlated over 180 m and between
the dates. Patches are felled between the dates, and the rest grows.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import rioxarray  # noqa: F401  (the .rio accessor)
import xarray as xr

import geobiomass as gb
from covered_runs import Go
from error_fields import Floats, blocks, field, residuals
from geobiomass.statistics.variogram import Variogram
from tables import Row

RUNS = 100
PIXEL = (10.0, 10.0)
ERRORS = Variogram(0.4, 0.6, 60.0, "exponential")
LAND = Variogram(0.05, 1.0, 300.0, "exponential")
PATCHES = Variogram(0.0, 1.0, 80.0, "matern")
BOUNDS = (500_100.0, 5_998_900.0, 501_100.0, 5_999_900.0)
INSIDE = np.s_[10:110, 10:110]


def as_map(values: Floats, margin: tuple[float, float] | None = None) -> xr.Dataset:
    """Return a map in UTM of the values, with an interval of a fixed half width."""
    height, width = values.shape
    layers = {"agb": values}
    if margin is not None:
        layers |= {"agb_lower": values - margin[0], "agb_upper": values + margin[1]}
    scene = xr.Dataset(
        {name: (("y", "x"), each.astype(np.float32)) for name, each in layers.items()},
        coords={
            "y": 5_999_995.0 - 10 * np.arange(height),
            "x": 500_005.0 + 10 * np.arange(width),
        },
    )
    return scene.rio.write_crs("EPSG:32633")  # type: ignore[no-any-return]


def two_dates(n: int, random: np.random.Generator, r: float = 0.6) -> list[Floats]:
    """Return true biomass of two dates, and maps of them whose errors correlate."""
    before = np.exp(4.4 + 0.6 * field((n, n), LAND, PIXEL, random))
    felled = field((n, n), PATCHES, PIXEL, random) > 1.5
    grown = 3 + 2 * field((n, n), PATCHES, PIXEL, random)
    after = np.where(felled, 0.2 * before, before + grown)
    one, other = (field((n, n), ERRORS, PIXEL, random) for _ in range(2))
    both = (one, r * one + np.sqrt(1 - r**2) * other)
    maps = [
        10 + 0.85 * true + (5 + 0.1 * true) * z
        for true, z in zip((before, after), both, strict=True)
    ]
    return [before, after, *maps]


def held_out(
    n: int, random: np.random.Generator, r: float = 0.6
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return residuals of both dates, from another landscape in blocks of 24 pixels."""
    before, after, first, second = two_dates(n, random, r)
    unit = blocks((n, n), 24)
    return (
        residuals(first - before, PIXEL, predicted=first, unit=unit),
        residuals(second - after, PIXEL, predicted=second, unit=unit),
    )


def truth(moved: Floats) -> dict[str, tuple[float, float]]:
    """Return net change, loss and gain in Mg and ha, of pixels of 0.01 ha."""
    lost, gained = moved < 0, moved > 0
    return {
        "net": (0.01 * moved.sum(), 0.01 * moved.size),
        "loss": (-0.01 * moved[lost].sum(), 0.01 * lost.sum()),
        "gain": (0.01 * moved[gained].sum(), 0.01 * gained.sum()),
    }


def run(seed: int) -> list[dict[str, object]]:
    """Simulate maps with known truth, and their totals: one row per part."""
    random = np.random.default_rng(seed)
    tables = held_out(192, random)
    before, after, first, second = two_dates(120, random)
    table = gb.change_totals(
        as_map(first),
        as_map(second),
        {"here": BOUNDS},
        residuals=tables,
        confidence=0.9,
        progress=False,
    ).loc["here"]
    rows: list[dict[str, object]] = []
    for part, (mass, area) in truth((after - before)[INSIDE]).items():
        row = table.loc[part]
        rows.append(
            {
                "part": part,
                "held": row["total_lower"] <= mass <= row["total_upper"],
                "area_held": row["area_lower"] <= 1.001 * area
                and 0.999 * area <= row["area_upper"],
                "estimated": row["total"] / mass,
                "mapped": row["map_total"] / mass,
                "total": row["total"],
                "map_total": row["map_total"],
                "truth": mass,
                "width": row["total_upper"] - row["total_lower"],
            }
        )
    return rows


def covered(runs: int) -> pd.DataFrame:
    """Return the means of all runs by part."""
    rows = [row for seed in range(runs) for row in run(seed)]
    return pd.DataFrame(rows).groupby("part").mean()


def tables(go: Go, runs: int, seed: int) -> dict[str, list[Row]]:
    """Return the totals of change, one row per part.

    Ratios are those of means over all runs, because the net change of a single run may
    be near zero.
    """
    rows = [row for rows in go(run, range(seed, seed + runs), "maps") for row in rows]
    means = pd.DataFrame(rows).groupby("part", sort=False).mean()
    found: list[Row] = []
    for part, mean in means.iterrows():
        size = abs(mean["truth"])
        found.append(
            {
                "": {"net": "net change"}.get(str(part), part),
                "mapped, times the truth": f"{mean['map_total'] / mean['truth']:.2f}",
                "estimated, times the truth": f"{mean['total'] / mean['truth']:.2f}",
                "covered": f"{100 * mean['held']:.0f} %",
                "area covered": f"{100 * mean['area_held']:.0f} %",
                "width, times the truth": f"{mean['width'] / size:.2f}",
            }
        )
    return {f"Totals of change, intervals of 90 %, {runs} landscapes": found}
