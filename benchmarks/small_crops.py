"""Errors of maps of small training crops, with all levels of the encoder and with fewer.

``python -m benchmarks.small_crops [--quick] [--markdown]``, a table of docs/training.md.
`default` learns from 15 % of the pixels of the west half of a landscape of one month and
maps its east half in tiles of several sizes. Each row has the figures of three seeds of
training, with all five levels and with those that ``levels="crop"`` keeps.
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
TINY: dict[str, Any] = {"encoder": "test_resnet", "decoder_channels": (32, 24, 16, 16, 8)}


def halves(size: tuple[int, int]) -> tuple[xr.Dataset, xr.Dataset]:
    """Return the west half with few labels, and the east half with all of them."""
    scene = gb.landscape(size, months=1, seed=LANDSCAPE).compute()
    half = size[1] // 2
    west, east = scene.isel(x=slice(0, half)), scene.isel(x=slice(half, None))
    drawn = np.random.default_rng(0).random(west["agb"].shape) < SHARE
    return west.assign(agb=west["agb"].where(drawn)), east


def figures(
    west: xr.Dataset, east: xr.Dataset, **settings: Any
) -> tuple[list[float], float, bool]:
    """Train in the west; return RMSE by tile and maximum in the east, and the alarm."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The error of maps")
        model = gb.fit(west, "default", progress=False, domain_cells=0, **settings)
        assert isinstance(model, gb.BiomassRegressor)
        maps = [
            model.predict(east, tile=tile, overlap=tile // 4)["agb"].values
            for tile in TILES
        ]
    truth = east["agb"].values
    errors = [float(np.sqrt(np.nanmean((found - truth) ** 2))) for found in maps]
    told = model.map_error is not None and model.map_error.problem is not None
    return errors, float(np.nanmax(maps[-1])), told


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
    rows: list[Row] = []
    for crop, epochs in TRAININGS:
        for levels in ("all", "crop"):
            for seed in SEEDS[:1] if chosen.quick else SEEDS:
                settings = {"crop": crop, "block": crop, "levels": levels, "seed": seed}
                settings |= {"epochs": 1, **TINY} if chosen.quick else {"epochs": epochs}
                errors, highest, told = figures(west, east, **settings)
                rows.append(
                    {
                        "crop, epochs, levels, seed": f"{crop}, {epochs}, {levels}, {seed}",
                        **dict(
                            zip((f"tile {t}" for t in TILES), errors, strict=True)
                        ),
                        "highest at 256": highest,
                        "told by fit": "yes" if told else "no",
                    }
                )
                print(rows[-1], flush=True)
    show("RMSE beside the training ground, Mg/ha", rows, markdown=chosen.markdown)


if __name__ == "__main__":
    main()
