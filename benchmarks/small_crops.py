"""Errors of maps of small training crops, with all levels and with fewer.

``python -m benchmarks.small_crops [--quick] [--markdown]``, a table of
docs/training.md. A recipe learns from 15 % of the pixels of the west half of a
landscape of one month, and maps the east half in tiles of several sizes: `default` with
all five levels and with those that ``levels="crop"`` keeps, and `quick`. A row for each
of three seeds.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr

import geobiomass as gb
from tables import Row, show

SIZE, SHARE, LANDSCAPE = (288, 512), 0.15, 11
TILES = (32, 64, 256)
SEEDS = (0, 1, 2)
TRAININGS = ((32, 12), (64, 20))  # side of crops and blocks, epochs
NETWORKS = (("default", "all"), ("default", "crop"), ("quick", "all"))
TINY: dict[str, Any] = {
    "encoder": "test_resnet",
    "decoder_channels": (32, 24, 16, 16, 8),
}


def halves(size: tuple[int, int]) -> tuple[xr.Dataset, xr.Dataset]:
    """Return the west half with few labels, and the east half with all of them."""
    scene = gb.landscape(size, months=1, seed=LANDSCAPE, version=1).compute()
    half = size[1] // 2
    west, east = scene.isel(x=slice(0, half)), scene.isel(x=slice(half, None))
    drawn = np.random.default_rng(0).random(west["agb"].shape) < SHARE
    return west.assign(agb=west["agb"].where(drawn)), east


def row_of(west: xr.Dataset, east: xr.Dataset, recipe: str, **settings: Any) -> Row:
    """Train in the west; return RMSE by tile and the maximum in the east."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The error of maps|Bands without any value")
        model = gb.fit(west, recipe, progress=False, domain_cells=0, **settings)
        assert isinstance(model, gb.BiomassRegressor)
        maps = {
            tile: model.predict(east, tile=tile, overlap=tile // 4)["agb"].values
            for tile in TILES
        }
    assert model.map_error is not None
    kept = model.network.settings.get("levels") or "all"
    truth = east["agb"].values
    return {
        "recipe": f"{recipe}, {kept} levels",
        "crop": settings["crop"],
        "seed": settings["seed"],
        **{
            f"tile {tile}": float(np.sqrt(np.nanmean((found - truth) ** 2)))
            for tile, found in maps.items()
        },
        "highest at 256": float(np.nanmax(maps[256])),
        "gb.fit warns": "yes" if model.map_error.problem else "no",
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, map and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--quick", action="store_true", help="a tiny network, to test that it runs"
    )
    parser.add_argument("--markdown", action="store_true", help="print as markdown")
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(1)
    west, east = halves((96, 192) if chosen.quick else SIZE)
    rows = []
    for crop, epochs in TRAININGS:
        for recipe, levels in NETWORKS:
            for seed in SEEDS[:1] if chosen.quick else SEEDS:
                settings = {"crop": crop, "block": crop, "epochs": epochs, "seed": seed}
                settings |= {"levels": levels, **(TINY if chosen.quick else {})}
                rows.append(row_of(west, east, recipe, **settings))
    show("RMSE beside the training ground, Mg/ha", rows, markdown=chosen.markdown)


if __name__ == "__main__":
    main()
