"""The network in a comparison: how long it takes, and its maps of held-out labels."""

from __future__ import annotations

import math
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from geobiomass.cube import CubeError
from geobiomass.data.folds import Fold
from geobiomass.data.labelled_cube import LabelledCube
from geobiomass.inference.map_settings import MapSettings
from geobiomass.inference.mapper import Mapper
from geobiomass.models.choice_data import FOLDS
from geobiomass.models.fit_members import untrained_for
from geobiomass.models.pixel_data import floored
from geobiomass.models.regressor import BiomassRegressor
from geobiomass.recipes.label_table import LabelTable
from geobiomass.recipes.levels import crop_side
from geobiomass.recipes.recipe import Recipe
from geobiomass.recipes.split import HeldOut, units_to_split
from geobiomass.recipes.tile_statistics import check_crop
from geobiomass.tiles import Window
from geobiomass.training.unfinished import UnfinishedTraining

Numbers = npt.NDArray[np.float64]

_BESIDES = 1.2
"""Time of the epochs of a training over that of their steps: reading, validation."""
_STEP_OVER_MAP = 3.0
"""Time of a step for a pixel over that of its map: a step goes back too."""
_SECONDS_OF_MONTH = 1.0e-6
"""Seconds that a training step takes for one pixel of one month, on one core: from the
rows of "sparse" in docs/benchmarks.md, for a guess where no step may be timed."""
_TILES_AFTER = 24
"""Tiles that the end of a training maps at most, to measure the error of maps."""
_TILES_OF_CELL = 1.8
"""Tiles that the map of a few pixels needs on average: they overlap."""
_CELL = MapSettings.tile - MapSettings.overlap  # pixels: stride of the tiles
_SMALLEST = 4  # pixels: side of the images that a network can learn from


@dataclass(frozen=True)
class Estimate:
    """How long a network takes, for its folds and the last training.

    Parameters
    ----------
    recipe : str
        Its recipe.
    seconds : float
        For all of it; infinite where it cannot be trained.
    problem : str
        Why it cannot be trained; empty where it can.
    """

    recipe: str
    seconds: float
    problem: str = ""


def trainings(folds: int = FOLDS) -> float:
    """Return how many times as long as one training the folds and the last one are."""
    return (folds - 1) + 1.0


def measure_time(
    data: LabelledCube, recipe: Recipe, held: HeldOut, table: LabelTable | None = None
) -> Estimate:
    """Estimate the time of a network from a few steps of it on this machine.

    Parameters
    ----------
    data, recipe, held
        To train.
    table : LabelTable, optional
        The labels of a comparison. Without them it is the time of one training.
    """
    try:
        model = untrained_for(data, recipe, held)
        side = crop_side(recipe, units_to_split(data, recipe, held, True))
        check_crop(model.network, recipe, side)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            plan = model._plan_fit(data, recipe, held)
    except ValueError as error:  # a CubeError, too
        return Estimate(recipe.name, math.inf, str(error))
    of_pixel = plan.seconds_a_step / (plan.batch_size * side**2)
    seconds = plan.steps * plan.seconds_a_step
    return Estimate(recipe.name, _whole(data, seconds, of_pixel, table))


def guess_time(
    data: LabelledCube, recipe: Recipe, table: LabelTable, threads: int
) -> Estimate:
    """Guess the time of a comparison from the number of its steps alone."""
    reader = data.reader
    side = min(recipe.crop or reader.height, reader.height, reader.width)
    if side < _SMALLEST:
        problem = f"images of {side} pixels are too small for a network"
        return Estimate(recipe.name, math.inf, problem)
    crops = 0
    for number in np.unique(table.where):
        window = table.samples[number].window
        area = max(1, round(window.height * window.width / side**2))
        labels = area if reader.chips else int((table.where == number).sum())
        crops += min(area, labels)
    of_pixel = _SECONDS_OF_MONTH * reader.months / max(1, threads)
    seconds = crops * side**2 * recipe.training.epochs * of_pixel
    return Estimate(recipe.name, _whole(data, seconds, of_pixel, table))


def _whole(
    data: LabelledCube, seconds: float, of_pixel: float, table: LabelTable | None
) -> float:
    """Return the time of all trainings with their maps, from that of one's steps."""
    reader = data.reader
    tile = of_pixel / _STEP_OVER_MAP
    if reader.chips:
        tile *= min(MapSettings.tile, reader.height) * min(
            MapSettings.tile, reader.width
        )
    else:
        tile *= MapSettings.tile**2
    if table is None:
        return seconds * _BESIDES + _TILES_AFTER * tile
    tiles = _TILES_OF_CELL * len(cells_of(table, np.ones(len(table), bool)))
    after = min(_TILES_AFTER, tiles) * trainings()
    return seconds * _BESIDES * trainings() + (tiles + after) * tile


def train_fold(
    data: LabelledCube,
    recipe: Recipe,
    fold: Fold,
    folder: Path,
    client: Any = None,
) -> BiomassRegressor:
    """Train a network on a fold, for its errors on what the fold holds out.

    The weights of the last epoch are kept: labels that measure the error do not also
    choose the epoch.

    Raises
    ------
    CubeError, ValueError
        If the network cannot be trained on these labels.
    KeyboardInterrupt
        If it is interrupted; the folder keeps the last step.
    """
    count = fold.folds.count
    member = recipe.with_changes(
        validation_fraction=1 / count,
        fold=fold.number,
        interval=None,
        domain_cells=0,
        keep="last",
        folder=folder,
    )
    model = untrained_for(data, member, fold, calibrate=False)
    try:
        with warnings.catch_warnings():
            # Of a model that is not kept; the kept one tells its own.
            warnings.simplefilter("ignore", UserWarning)
            return model._fit(data, member, fold, client=client, calibrate=False)
    except UnfinishedTraining as stop:
        # The model so far is not what the call returns.
        raise KeyboardInterrupt(str(stop)) from None


def map_rows(
    mapper: Mapper,
    table: LabelTable,
    rows: npt.NDArray[np.bool_],
    floor: float | None,
) -> Numbers:
    """Return the map's values at some rows of a table of labels; NaN at others.

    Parameters
    ----------
    mapper : Mapper
        Over the cube of the labels. Only tiles of its map with a row are computed.
    table : LabelTable
        The labels.
    rows : numpy.ndarray
        (row,) bool.
    floor : float, optional
        The model's floor.
    """
    found = np.full(len(table), np.nan)
    for chip, window, own in cells_of(table, rows):
        values = mapper.compute(window, chip)
        at = table.pixels[own] - np.array([window.top, window.left])
        found[own] = values[0, at[:, 0], at[:, 1]]
    return floored(found, floor)


def cells_of(
    table: LabelTable, rows: npt.NDArray[np.bool_]
) -> list[tuple[int | None, Window, npt.NDArray[np.int64]]]:
    """Return chip, window and rows of the parts of a map that some labels need.

    A part is within a cell of the lattice of tiles, and is no larger than its labels
    ask for: it needs the fewest tiles.
    """
    chips = np.array([table.samples[n].chip for n in table.where], object)
    numbers = np.array([-1 if chip is None else chip for chip in chips], np.int64)
    cells = table.pixels // _CELL
    keys = np.column_stack([numbers, cells])[rows]
    places = np.flatnonzero(rows)
    kinds, which = np.unique(keys, axis=0, return_inverse=True)
    found = []
    for number, (chip, _, _) in enumerate(kinds.tolist()):
        own = places[which.ravel() == number]
        (top, left), (bottom, right) = (
            table.pixels[own].min(axis=0).tolist(),
            (table.pixels[own].max(axis=0) + 1).tolist(),
        )
        window = Window(top, left, bottom, right)
        found.append((None if chip < 0 else chip, window, own))
    return found


def held_out_of_fold(
    data: LabelledCube,
    recipe: Recipe,
    fold: Fold,
    table: LabelTable,
    rows: npt.NDArray[np.bool_],
    folder: Path,
    client: Any = None,
) -> tuple[Numbers, float]:
    """Train a network on a fold; return its values at the held-out rows, and seconds.

    Parameters
    ----------
    data, recipe, fold, folder, client
        As :func:`train_fold` takes them.
    table : LabelTable
        The labels.
    rows : numpy.ndarray
        (row,) bool: those that the fold holds out.
    """
    began = time.perf_counter()
    model = train_fold(data, recipe, fold, folder, client)
    values = map_rows(model._bare_over(data.reader), table, rows, model.floor)
    return values, time.perf_counter() - began


__all__ = ["CubeError", "Estimate", "guess_time", "held_out_of_fold", "measure_time"]
