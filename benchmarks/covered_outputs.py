"""What two outputs for an interval cost the map: networks with them and without.

Both learn from the same 48 landscapes: those that calibrate the interval are kept from
the network without one too. Both map the same new landscapes, with their last weights.
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
FRACTION = 0.2  # of the landscapes, calibrates: as many as an interval takes, or more
_APART = 1000  # seeds from the landscapes of one run to those of the next


def recipe_of(seed: int, epochs: int) -> Recipe:
    """Give the recipe of a network with an interval, small enough for minutes."""
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
    """Leave out the chips that calibrate a recipe's interval."""
    data = LabelledCube.open(cube)
    aside = [sample.chip for sample in calibration_samples(data, recipe)]
    return cube.drop_isel(chip=aside)


def run(size: tuple[int, int, int], seed: int) -> tuple[float, float]:
    """Train both networks on the same ground; give their errors on new ground.

    Parameters
    ----------
    size : tuple of int
        Landscapes to learn from, new landscapes, epochs.
    seed : int
        Of the landscapes, the weights and the split.

    Returns
    -------
    tuple of float
        Root mean squared errors, Mg/ha: without the two outputs, and with them.
    """
    torch.set_num_threads(1)  # more would change the last bits
    learnt, new, epochs = size
    first = _APART * (seed + 1)
    cube = forests(range(first, first + learnt), SPECIES)
    unknown = forests(range(first + learnt, first + learnt + new), SPECIES)
    recipe = recipe_of(seed, epochs)
    plain = gb.fit(without_calibration(cube, recipe), recipe, 0, interval=None)
    both = gb.fit(cube, recipe, 0)
    return rmse(plain, unknown), rmse(both, unknown)


def rmse(model: gb.BiomassRegressor | gb.Ensemble, cube: xr.Dataset) -> float:
    """Give the error of all pixels of a cube, Mg/ha."""
    error = model.predict(cube)["agb"].compute() - cube["agb"]
    return float(np.sqrt((error**2).mean()))


def tables(go: Go, runs: int, seed: int) -> dict[str, list[Row]]:
    """Give the errors of both networks, a row a seed, then their mean."""
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
