"""Dissimilarity of new landscapes, other trees and other sensors from training data.

``python -m benchmarks.places [--quick] [--markdown]``, the table of
docs/explanation/applicability.md. A small network is trained on 48 landscapes of pine
and spruce, July and August, for three epochs. It maps 16 others, unchanged and as other
sensors might observe them.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
import xarray as xr

import geobiomass as gb
from tables import THREADS, Row, show

SIDE, MONTHS, SEEN = 128, 2, ("pine", "spruce")
OPTICAL = ["B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12"]
INFRARED = ["B06", "B07", "B08", "B8A"]
RADAR = ["VV_asc", "VH_asc", "VV_desc", "VH_desc"]
FOREST = 30.0  # Mg/ha
TRAINED, NEW = 100, 1000  # seeds of the first landscapes


def forests(seeds: range, species: tuple[str, ...] = SEEN) -> xr.Dataset:
    """Return landscapes as chips: (chip, month, band, y, x)."""
    parts = [
        gb.landscape(SIDE, MONTHS, seed, species=species, block=SIDE, version=1)
        .drop_vars(["y", "x", "spatial_ref"])
        .load()
        for seed in seeds
    ]
    chips = xr.concat(parts, "chip", coords="minimal", compat="override")
    return chips.assign_coords(chip=[f"chip{seed}" for seed in seeds])


def changed(
    cube: xr.Dataset,
    bands: list[str],
    change: Callable[[xr.DataArray], xr.DataArray],
) -> xr.Dataset:
    """Return the cube with some bands changed, as another sensor might observe them."""
    other = cube.copy(deep=True)
    chosen = {"band": bands}
    other["image"].loc[chosen] = change(other["image"].sel(chosen))
    return other


def train(count: int, epochs: int = 3) -> gb.BiomassRegressor:
    """Train a small network on a number of landscapes of pine and spruce."""
    model = gb.fit(
        forests(range(TRAINED, TRAINED + count)),
        "quick",
        decoder_channels=(16, 16, 16, 16, 16),
        epochs=epochs,
        validation_fraction=0.2,
        progress=False,
    )
    assert isinstance(model, gb.BiomassRegressor)
    return model


def judged(model: gb.BiomassRegressor, cube: xr.Dataset) -> pd.DataFrame:
    """Map a cube; return a row per pixel: index, inside or not, error and truth.

    Images are changed on purpose here, so they are not checked.
    """
    found = model.predict(cube, applicability=True, check="off").compute()
    columns = {
        "index": found["dissimilarity"].values.ravel(),
        "inside": found["applicable"].values.ravel() == 1,
        "error": (found["agb"] - cube["agb"]).values.ravel(),
        "agb": cube["agb"].values.ravel(),
    }
    return pd.DataFrame(columns).dropna()


def rmse(errors: pd.Series) -> float | None:
    """Return the root mean square; None if there are no errors."""
    return float(np.sqrt((errors**2).mean())) if len(errors) else None


def denser_sight(cube: xr.Dataset) -> xr.Dataset:
    """Return the cube with forest that is brighter in the infrared and for radar."""
    forest = cube["agb"] > FOREST
    other = changed(cube, INFRARED, lambda v: v.where(~forest, 1.6 * v))
    return changed(other, RADAR, lambda v: v.where(~forest, v + 1.5))


def noisy(cube: xr.Dataset) -> xr.Dataset:
    """Return the cube with noise of 25 % in the optical bands."""
    random = np.random.default_rng(0)
    return changed(cube, OPTICAL, lambda v: v * random.normal(1, 0.25, v.shape))


def of_water(cube: xr.Dataset) -> xr.Dataset:
    """Return the cube with labels on water only: no biomass, green above infrared."""
    bands = cube["image"].sel(band=["B03", "B08"]).median("month")
    water = (cube["agb"] == 0) & (bands.sel(band="B03") > bands.sel(band="B08"))
    return cube.assign(agb=cube["agb"].where(water))


def dark(cube: xr.Dataset, bands: list[str]) -> xr.Dataset:
    """Return the cube without some of its bands."""
    return changed(cube, bands, lambda v: v * np.nan)


class Case(NamedTuple):
    """A case: its name, and the change that makes it from the new landscapes."""

    name: str
    of: Callable[[xr.Dataset], xr.Dataset]


CASES = (
    Case("new landscapes of pine and spruce", lambda c: c),
    Case("forest brighter in the infrared by 60 %, radar + 1.5 dB", denser_sight),
    Case(
        "reflectances + 1000, as of another processing",
        lambda c: changed(c, OPTICAL, lambda v: v + 1000),
    ),
    Case("reflectances x 1.25", lambda c: changed(c, OPTICAL, lambda v: v * 1.25)),
    Case("reflectances x 1.5", lambda c: changed(c, OPTICAL, lambda v: v * 1.5)),
    Case("radar + 3 dB", lambda c: changed(c, RADAR, lambda v: v + 3)),
    Case("without Sentinel-1", lambda c: dark(c, RADAR)),
    Case("without Sentinel-2", lambda c: dark(c, [*OPTICAL, "CLP"])),
    Case("optical noise of 25 %", noisy),
    Case(
        "one month of two",
        lambda c: c.assign(image=c["image"].where(c["month"] == c["month"][0])),
    ),
    Case("the same images, twice the biomass", lambda c: c.assign(agb=2 * c["agb"])),
    Case("water only", of_water),
)


def row(name: str, table: pd.DataFrame) -> Row:
    """Return the share of pixels inside, and the errors."""
    forest = table[table["agb"] > FOREST]
    return {
        "mapped": name,
        "inside, %": f"{100 * table['inside'].mean():.0f}",
        "of forest, %": f"{100 * forest['inside'].mean():.0f}" if len(forest) else None,
        "RMSE, Mg/ha": rmse(table["error"]),
        "inside": rmse(table.loc[table["inside"], "error"]),
        "outside": rmse(table.loc[~table["inside"], "error"]),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, map and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--quick", action="store_true", help="few landscapes, to test that it runs"
    )
    parser.add_argument("--markdown", action="store_true", help="print as markdown")
    chosen = parser.parse_args(arguments)
    learnt, new, epochs = (4, 1, 1) if chosen.quick else (48, 16, 3)
    torch.set_num_threads(THREADS)
    model = train(learnt, epochs)
    seeds = range(NEW, NEW + new)
    ground = forests(seeds)
    tables = {case.name: judged(model, case.of(ground)) for case in CASES}
    birches = judged(model, forests(seeds, ("birch",)))
    tables = {CASES[0].name: tables.pop(CASES[0].name), "of birch": birches} | tables
    rows = [row(name, table) for name, table in tables.items()]
    show("Places that are foreign to a model", rows, markdown=chosen.markdown)
    usual = tables[CASES[0].name]
    likeness = usual["index"].corr(usual["error"].abs(), method="spearman")
    print(f"\nRank correlation of index and error, new landscapes: {likeness:.2f}")


if __name__ == "__main__":
    main()
