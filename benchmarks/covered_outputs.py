"""The cost of two outputs for an interval: errors of networks with and without them.

Both are trained on the same 48 landscapes: neither uses those that calibrate the
interval. Both map the same new landscapes, with their last weights.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
import xarray as xr

import geobiomass as gb
from covered_runs import Go
from geobiomass.data.labelled_cube import LabelledCube
from geobiomass.recipes.recipe import Recipe, find_recipe
from geobiomass.recipes.split import calibration_samples
from places import forests
from tables import Row

RUNS = 5
INTERVAL = 0.9
SPECIES = ("pine", "spruce", "birch")
EPOCHS, LEARNT, NEW = 20, 60, 16
FRACTION = 0.2  # share of landscapes for calibration: at least what an interval needs
_APART = 1000  # distance between the seeds of one run and those of the next


def recipe_of(seed: int, epochs: int) -> Recipe:
    """Return the recipe of a small network with an interval; it trains in minutes."""
    return find_recipe(
        "quick",
        interval=INTERVAL,
        calibration_fraction=FRACTION,
        decoder_channels=(16, 16, 16, 16, 16),
        epochs=epochs,
        seed=seed,
        domain_cells=0,
        progress=False,
    )


def without_calibration(cube: xr.Dataset, recipe: Recipe) -> xr.Dataset:
    """Return the chips without those that calibrate a recipe's interval."""
    data = LabelledCube.open(cube)
    aside = [sample.chip for sample in calibration_samples(data, recipe)]
    return cube.drop_isel(chip=aside)


def run(size: tuple[int, int, int], seed: int) -> tuple[float, float]:
    """Train both networks on the same landscapes; return their errors on new ones.

    Parameters
    ----------
    size : tuple of int
        Number of training landscapes, new landscapes and epochs.
    seed : int
        Random seed of the landscapes, the weights and the split.

    Returns
    -------
    tuple of float
        Root mean squared errors, Mg/ha: without the two outputs, and with them.
    """
    torch.set_num_threads(1)  # more threads change the last bits
    learnt, new, epochs = size
    first = _APART * (seed + 1)
    cube = forests(range(first, first + learnt), SPECIES)
    unknown = forests(range(first + learnt, first + learnt + new), SPECIES)
    recipe = recipe_of(seed, epochs)
    plain = gb.fit(without_calibration(cube, recipe), recipe, 0, interval=None)
    both = gb.fit(cube, recipe, 0)
    return rmse(plain, unknown), rmse(both, unknown)


def rmse(model: gb.BiomassRegressor | gb.Ensemble, cube: xr.Dataset) -> float:
    """Return the error over all pixels of a cube, Mg/ha."""
    error = model.predict(cube)["agb"].compute() - cube["agb"]
    return float(np.sqrt((error**2).mean()))


def tables(go: Go, runs: int, seed: int) -> dict[str, list[Row]]:
    """Return the errors of both networks: one row per seed, then their mean."""
    seeds = range(seed, seed + runs)
    found = go(partial(run, (LEARNT, NEW, EPOCHS)), seeds, "trainings")
    named = [
        *zip(map(str, seeds), found, strict=True),
        ("mean", np.mean(found, axis=0)),
    ]
    rows: list[Row] = [
        {
            "seed": name,
            "without": f"{plain:.1f}",
            "with the two outputs": f"{both:.1f}",
            "difference": f"{both - plain:+.1f}",
        }
        for name, (plain, both) in named
    ]
    return {f"Error of a map, Mg/ha, {runs} trainings of each network": rows}
