"""The map of a cross-validation: each pixel by the model that did not train on it."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import xarray as xr

from geobiomass.data.folds import Folds
from geobiomass.data.groups import NOWHERE
from geobiomass.data.labelled_cube import LabelledCube
from geobiomass.models.calibration import calibration_of, units_left_out
from geobiomass.models.ensemble import Ensemble
from geobiomass.models.regressor import BiomassRegressor
from geobiomass.recipes.split import grouped_by, held_samples
from geobiomass.tiles import Sample, Window


def calibrated_members(
    model: Ensemble, folds: Folds, cube: xr.Dataset
) -> Sequence[BiomassRegressor]:
    """Return the members, the interval of each calibrated on the other folds.

    What a member's own fold held out must not calibrate it, because its errors there
    are what the cross-validation reports. All have the floor of the ensemble: where
    only one fold has negative labels, its member alone would not map any.

    Parameters
    ----------
    model : Ensemble
        A member for each fold, in their order.
    folds : Folds
        The folds of the members.
    cube : xarray.Dataset
        The cube of the folds, with ``agb``.

    Returns
    -------
    sequence of BiomassRegressor
        Copies.
    """
    models = [copy.copy(m) for m in cast(Sequence[BiomassRegressor], model.models)]
    for each in models:
        each.floor = model.floor
    found = (getattr(member, "recipe", None) for member in models)
    recipes = [recipe for recipe in found if recipe is not None]
    if model.calibration is None or len(recipes) < len(models):
        return models
    groups = grouped_by(recipes[0], folds[0])
    # Opened once for all members with the same bands.
    opened = {
        bands: LabelledCube.open(cube, bands)
        for bands in {member.bands for member in models}
    }
    units = []
    for member, recipe, fold in zip(models, recipes, folds, strict=True):
        data = opened[member.bands]
        samples = held_samples(data, recipe, fold)
        units.append(units_left_out(member, samples, fold.validates, data, groups))
    reader = opened[models[0].bands].reader
    for number, member in enumerate(models):
        others = [u for k, own in enumerate(units) if k != number for u in own]
        member.calibration = calibration_of(
            others,
            reader,
            model.calibration.interval,
            folds=len(models) - 1,
            target=member.target,
            groups=groups,
        )
    return models


def join_by_fold(maps: Sequence[xr.Dataset], folds: Folds) -> xr.Dataset:
    """Join one lazy map for each fold: a pixel comes from the map of its fold.

    Parameters
    ----------
    maps : sequence of xarray.Dataset
        Lazy, with the same blocks; one for each fold, in their order.
    folds : Folds
        The folds of the maps.

    Returns
    -------
    xarray.Dataset
        Lazy; NaN in pixels of no fold. A block needs the maps of its folds only.
    """
    layers = {
        str(name): _join_layer([each[name] for each in maps], folds) for name in maps[0]
    }
    return maps[0].assign(layers)


def _join_layer(maps: Sequence[xr.DataArray], folds: Folds) -> xr.DataArray:
    """Join one layer: one task for each block of the maps."""
    import dask.array as da
    from dask.highlevelgraph import HighLevelGraph

    arrays = [each.data for each in maps]
    name = f"held-out-{arrays[0].name}"
    graph: dict[Any, Any] = {}
    for index, sample in _blocks_of(arrays[0].chunks):
        numbers = tuple(
            int(n) for n in np.unique(folds.numbers(sample)) if n != NOWHERE
        )
        keys = [(arrays[number].name, *index) for number in numbers]
        task = partial(_choose, folds, sample, numbers)
        graph[name, *index] = (task, *keys)
    layers = HighLevelGraph.from_collections(name, graph, dependencies=arrays)
    array = da.Array(layers, name, arrays[0].chunks, meta=arrays[0]._meta)
    return maps[0].copy(data=array)


def _blocks_of(
    chunks: tuple[tuple[int, ...], ...],
) -> Iterator[tuple[tuple[int, ...], Sample]]:
    """Yield the blocks of a lazy map: index, and window in the cube."""
    edges = [np.concatenate([[0], np.cumsum(sizes)]).tolist() for sizes in chunks]
    for index in np.ndindex(*map(len, chunks)):
        rows, columns = index[-2:]
        window = Window(
            edges[-2][rows],
            edges[-1][columns],
            edges[-2][rows + 1],
            edges[-1][columns + 1],
        )
        yield index, Sample(window, index[0] if len(index) == 3 else None)


def _choose(
    folds: Folds,
    sample: Sample,
    numbers: tuple[int, ...],
    *maps: npt.NDArray[np.float32],
) -> npt.NDArray[np.float32]:
    """Take each pixel from the map of its fold; NaN where it is in no fold."""
    held = folds.numbers(sample)
    if sample.chip is not None:
        held = held[None]
    chosen = np.full(held.shape, np.nan, np.float32)
    for number, values in zip(numbers, maps, strict=True):
        np.copyto(chosen, values, where=held == number)
    return chosen
