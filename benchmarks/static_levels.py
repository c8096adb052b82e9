"""Where a network takes static layers: nowhere, fine, coarse, or on both levels.

``python -m benchmarks.static_levels [--quick] [--rows WORDS] [--seeds 0,1,2]``

Trains a small network, the recipe "quick" with the encoder test_resnet, on part of a
landscape with terrain that matters: biomass falls with elevation, which images do not
show, and more so on slopes that face north. Elevation, slope and aspect are the layers.
Maps are compared with the truth of blocks that no training saw. A seed is of the
network; the landscape is the same. Finished runs are kept: the same command continues,
and rows and seeds can be added.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

import geobiomass as gb
from few_labels import carry_out
from geobiomass.sources.landscape.forest import CELL, survey
from geobiomass.sources.landscape.random_fields import Patch
from geobiomass.sources.landscape.versions import VERSIONS
from label_learners import Figures
from labels import Run, _kept
from tables import Row, show

OUT = Path("build/static_levels.jsonl")
SEEDS = "0,1,2"
CELL_NAME = "landscape"
ROWS = ("no layers", "finest", "coarsest", "both")
SIZE, MONTHS, BLOCK = 256, 2, 64
BANDS = ("VV_asc", "VH_asc", "B04", "B08", "B11")
GROUND = 11
"""Seed of the landscape."""
PER_100_M, NORTH_FACING = 0.4, 0.25
"""Shares of biomass that 100 m of elevation, and a steep slope to the north, take."""
_STEEP = 10.0  # degrees: the slope from which it takes all of that
SETTINGS: dict[str, Any] = {
    **{"batch_size": 4, "epochs": 6, "crops": 80},
    **{"domain_cells": 0, "remember_labels": False},
    **{"encoder": "test_resnet", "decoder_channels": (32, 24, 16, 12, 8)},
}
"""120 steps of four crops of 64 pixels."""
TINY: dict[str, Any] = {
    **{"decoder_channels": (8, 8, 8, 8, 8)},
    **{"epochs": 1, "crops": 4, "crop": 32},
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what has no result yet; print the table."""
    chosen = _parser().parse_args(arguments)
    rows = [row for row in ROWS if row in (chosen.rows or ROWS)]
    seeds = chosen.seeds or ("0" if chosen.quick else SEEDS)
    runs = [Run(CELL_NAME, row, int(seed)) for seed in seeds.split(",") for row in rows]
    with tempfile.TemporaryDirectory(prefix="static-levels-") as folder:
        out = chosen.out or (Path(folder) / "rows.jsonl" if chosen.quick else OUT)
        if not chosen.show:
            carry_out(runs, out, lambda run: _figures(run, chosen.quick))
        _report(dict(_kept(out)), rows, chosen.markdown)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--quick", action="store_true", help="a tiny landscape and network, to test it")
    add("--markdown", action="store_true", help="print as markdown")
    add("--rows", nargs="+", choices=ROWS, help="by default all")
    add("--seeds", help=f"numbers with commas; by default {SEEDS}")
    add("--out", type=Path, help=f"file of the results, by default {OUT}")
    add("--show", action="store_true", help="run nothing; print what the file has")
    return parser


def elevation_of(size: int, seed: int) -> npt.NDArray[np.float32]:
    """Return the ground of a landscape in metres, (y, x), as its images have it."""
    out = np.empty((size, size), np.float32)
    for row in range(0, size, CELL):
        for column in range(0, size, CELL):
            place = (seed, row, column, CELL, 10.0, (0, 1, 2), VERSIONS[2])
            ground = survey(Patch(*place))
            part = ground.trimmed(ground.elevation)
            into = out[row : row + CELL, column : column + CELL]
            into[...] = part[: into.shape[0], : into.shape[1]]
    return out


@lru_cache(maxsize=1)
def terrain_scene(size: int) -> xr.Dataset:
    """Return a landscape whose biomass depends on terrain, with its layers."""
    scene = gb.landscape(size, months=MONTHS, seed=GROUND)
    scene = scene.sel(band=list(BANDS)).load()
    metres = elevation_of(size, GROUND)
    dem = scene["agb"].copy(data=metres)
    dem.attrs["units"] = "m"
    scene = gb.with_static(scene, dem=dem, slope=True, aspect=True)
    static = scene["static"]
    north = static.sel(layer="aspect_cos").fillna(0).values
    steep = (static.sel(layer="slope").fillna(0).values / _STEEP).clip(0, 1)
    above = (metres - metres.min()) / 100
    factor = (1 - PER_100_M * above).clip(0.2) * (1 - NORTH_FACING * north * steep)
    agb = scene["agb"].copy(data=(scene["agb"].values * factor).astype(np.float32))
    return scene.assign(agb=agb)


def held_out(size: int, block: int) -> npt.NDArray[np.bool_]:
    """Return the pixels of every third block along diagonals, which test."""
    number = np.arange(size) // block
    return (number[:, None] + number) % 3 == 1


def _figures(run: Run, quick: bool) -> Figures:
    size, block = (128, 32) if quick else (SIZE, BLOCK)
    scene = terrain_scene(size)
    if run.row == "no layers":
        scene = scene.drop_dims("layer")
    test = held_out(size, block)
    labels = scene["agb"].where(~test)
    settings = SETTINGS | {"seed": run.seed, "progress": False, "block": block}
    settings |= TINY if quick else {}
    if run.row != "no layers":
        settings["static_levels"] = run.row
    begin = time.process_time()
    # No epoch is chosen by validation: all rows train the same steps.
    model = gb.fit(scene.assign(agb=labels), "quick", 0.0, **settings)
    seconds = time.process_time() - begin
    found = model.predict(scene, check="off")["agb"].values
    wrong = (found - scene["agb"].values)[test].astype(float)
    wrong = wrong[np.isfinite(wrong)]
    rmse, bias = float(np.sqrt((wrong**2).mean())), float(wrong.mean())
    return {"rmse": rmse, "bias": bias, "seconds": seconds}


def _report(results: dict[Run, Figures], rows: Sequence[str], markdown: bool) -> None:
    """Print a line a row: mean errors, and their ratios to no layers, seed by seed."""
    lines = [line for row in rows if (line := _line(results, row))]
    if lines:
        show("RMSE of blocks that no training saw, Mg/ha", lines, markdown=markdown)


def _line(results: dict[Run, Figures], row: str) -> Row | None:
    plain, mine = (
        {run.seed: found for run, found in results.items() if run.row == name}
        for name in (ROWS[0], row)
    )
    seeds = sorted(plain.keys() & mine.keys())
    if not seeds:
        return None
    over = [mine[seed]["rmse"] / plain[seed]["rmse"] for seed in seeds]
    line: Row = {"layers": row, "seeds": len(seeds)}
    for name, title in (("rmse", "RMSE"), ("bias", "bias"), ("seconds", "CPU s")):
        line[title] = float(np.mean([mine[seed][name] for seed in seeds]))
    line["over none"] = float(np.mean(over))
    return line | {"least, most": f"{min(over):.2f}, {max(over):.2f}"}


if __name__ == "__main__":
    main()
