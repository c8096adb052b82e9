"""Training of a model, or of one for each fold, after ``gb.fit`` read its settings."""

from __future__ import annotations

import multiprocessing
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
import xarray as xr

from geobiomass.cube import CubeError, as_cube
from geobiomass.cube.static_layers import layers_of
from geobiomass.data.folds import Fold, Folds
from geobiomass.data.labelled_cube import LabelledCube
from geobiomass.data.reader import Reader
from geobiomass.data.splits import groups_of
from geobiomass.models.calibration import calibrate_together
from geobiomass.models.ensemble import Ensemble
from geobiomass.models.loading import load
from geobiomass.models.pixel_regressor import PixelRegressor
from geobiomass.models.regressor import BiomassRegressor
from geobiomass.network import AttentionUNet
from geobiomass.recipes.band_facts import sensor_passes
from geobiomass.recipes.levels import crop_side, levels_for
from geobiomass.recipes.recipe import Recipe, find_recipe
from geobiomass.recipes.resume import levels_begun
from geobiomass.recipes.schedule import TrainingPlan
from geobiomass.recipes.split import (
    HeldOut,
    Validation,
    calibration_samples,
    grouped_by,
    held_samples,
    open_validation,
    parts_of,
    units_to_split,
)
from geobiomass.statistics.conformal import Calibration
from geobiomass.training.checkpoint_record import is_begun
from geobiomass.training.usable_model import train_each

Fitted = TypeVar("Fitted", BiomassRegressor, Ensemble)


def forget_folder(model: Fitted, recipe: Recipe) -> Fitted:
    """Leave a temporary folder out of a trained model's recipe, and return the model.

    Parameters
    ----------
    model : BiomassRegressor or Ensemble
        Trained.
    recipe : Recipe
        As the user asked for it.
    """
    if recipe.training.folder is None:
        for each in model.models if isinstance(model, Ensemble) else [model]:
            if isinstance(each, BiomassRegressor) and each.recipe is not None:
                each.recipe = each.recipe.with_changes(folder=None)
    return model


def fit_one(
    data: LabelledCube,
    recipe: Recipe,
    validation: Validation = None,
    announce: Callable[[TrainingPlan], object] | None = None,
    client: Any = None,
) -> BiomassRegressor:
    """Train one model, for :func:`geobiomass.fit`, which explains the parameters."""
    held = open_validation(validation, data.bands, data.target)
    return fit_opened(data, recipe, held, announce, client)


def fit_opened(
    data: LabelledCube,
    recipe: Recipe,
    held: HeldOut = None,
    announce: Callable[[TrainingPlan], object] | None = None,
    client: Any = None,
) -> BiomassRegressor:
    """Train one model, whose validation is opened."""
    model = untrained_for(data, recipe, held)
    return model._fit(data, recipe, held, announce, client)


def untrained(
    cube: xr.Dataset | xr.DataArray, recipe: str | Recipe
) -> BiomassRegressor:
    """Build a recipe's network for the bands and months of a cube, random weights."""
    cube = as_cube(cube)
    bands = [str(name) for name in cube["band"].values]
    chosen, reader = find_recipe(recipe), Reader(cube, bands)
    crop = crop_side(chosen, parts_of(reader, chosen))
    return _build(chosen, bands, reader.calendar, crop, layers_of(cube))


def untrained_for(
    data: LabelledCube, recipe: Recipe, held: HeldOut = None, calibrate: bool = True
) -> BiomassRegressor:
    """Return the untrained model for a training, which takes the same arguments."""
    if recipe.by_pixel:
        return PixelRegressor.untrained(
            data.bands, data.reader.calendar, recipe, data.layers
        )
    crop = crop_side(recipe, units_to_split(data, recipe, held, calibrate))
    return _build(recipe, data.bands, data.reader.calendar, crop, data.layers)


def _build(
    recipe: Recipe,
    bands: Sequence[str],
    months: Sequence[int],
    crop: int,
    layers: Sequence[str] = (),
) -> BiomassRegressor:
    # The same seed gives the same weights, and the caller's random state is kept.
    with torch.random.fork_rng(devices=[]):
        levels = levels_for(recipe, crop)
        if recipe.levels == "crop" and is_begun(recipe.training):
            levels = levels_begun(recipe.training, len(recipe.decoder_channels))
        torch.manual_seed(recipe.training.seed + recipe.fold)
        network = AttentionUNet(
            bands=len(bands),
            encoder=recipe.encoder,
            decoder_channels=recipe.decoder_channels[-(levels or 0) :],
            outputs=len(recipe.outputs),
            pretrained=recipe.pretrained,
            passes=sensor_passes(bands),
            missing=recipe.missing,
            calendar=list(months) if recipe.month_term else None,
            levels=levels,
            spread=recipe.loss == "beta_nll",
            static=layers,
            static_levels=recipe.static_levels,
        )
    return BiomassRegressor(network, bands, len(months), recipe.outputs)


def fit_folds(
    data: LabelledCube,
    recipe: Recipe,
    folds: int | Folds,
    at_once: int | None = None,
    announce: Callable[[TrainingPlan], object] | None = None,
    client: Any = None,
) -> Ensemble:
    """Train a member for each fold, for :func:`geobiomass.fit`.

    All members in this process read the cube with the one reader of `data`. Members
    in separate processes open it once each.

    Parameters
    ----------
    data : LabelledCube
        To train on.
    recipe : Recipe
        The recipe of every member; its fold and validation fraction are set here. If
        it names a folder, each member has a subfolder, and finished members are loaded.
    folds : int or Folds
        The parts that are held out, one by each member: 2 or more.
    at_once : int, optional
        Members that train at the same time, in separate processes, each on the
        next GPU if there are several; by default the number of GPUs, or one.
    announce : callable, optional
        Called with the first member's plan.
    client : distributed.Client, optional
        Reads chips, if members train one after another.

    Returns
    -------
    Ensemble
        Of `folds` models; their histories have the errors on their own folds.

    Raises
    ------
    CubeError, ValueError
        If there are fewer groups of chips, or blocks, than folds; if a number is out
        of range, or a client is given and several members train at the same time.
    """
    held: Sequence[Fold | None] = [None] * folds if isinstance(folds, int) else [*folds]
    members, at_once = check_members(data, recipe, folds, at_once, client)
    # All before any trains: each may take hours before the next one is checked.
    for member, fold in zip(members, held, strict=True):
        if is_begun(member.training):
            model = untrained_for(data, member, fold, calibrate=False)
            model._check_folder(data, member, fold)
    if announce is not None:
        first = untrained_for(data, members[0], held[0], calibrate=False)
        announce(first._plan_fit(data, members[0], held[0]))
    with ExitStack() as stack:
        if at_once == 1:
            pairs = zip(members, held, strict=True)
            calls = [partial(_fit_member, data, *pair, client) for pair in pairs]
            models = train_each(calls, len(calls), Ensemble)
        else:
            if recipe.training.folder is None:
                folder = stack.enter_context(tempfile.TemporaryDirectory())
                members = [_in_folder(m, folder) for m in members]
            at_once = min(at_once, len(members))
            models = _side_by_side(data.cube, members, held, at_once)
    ensemble = Ensemble(models)
    if recipe.interval is not None:
        ensemble.calibration = _calibration(models, data, members, held)
    return ensemble


def _calibration(
    models: Sequence[BiomassRegressor],
    data: LabelledCube,
    members: Sequence[Recipe],
    held: Sequence[Fold | None],
) -> Calibration:
    """Calibrate members together, each on its held-out samples."""
    groups = grouped_by(members[0], held[0])
    if held[0] is None:
        aside = [calibration_samples(data, member) for member in members]
        return calibrate_together(models, data, aside, groups=groups)
    folds = [fold for fold in held if fold is not None]
    aside = [held_samples(data, *pair) for pair in zip(members, folds, strict=True)]
    known = [fold.validates for fold in folds]
    return calibrate_together(models, data, aside, known, groups)


def check_members(
    data: LabelledCube,
    recipe: Recipe,
    folds: int | Folds,
    at_once: int | None = None,
    client: Any = None,
) -> tuple[list[Recipe], int]:
    """Return the recipe of each member, and how many train at the same time.

    Parameters
    ----------
    data, recipe, folds, at_once, client
        As :func:`fit_folds` takes them.

    Raises
    ------
    CubeError, ValueError
        As :func:`fit_folds` does.
    """
    members = _members(data, recipe, folds)
    if at_once is None:
        at_once = max(1, torch.cuda.device_count())
    if at_once < 1 or (at_once > 1 and client is not None):
        raise ValueError(
            "at_once must be 1 or more, and 1 where a dask client reads, got "
            f"{at_once}; leave out one of the two."
        )
    return members, at_once


def _members(data: LabelledCube, recipe: Recipe, folds: int | Folds) -> list[Recipe]:
    if isinstance(folds, Folds):
        folds.check(data.cube)
        folds = folds.count
    elif folds < 2:
        raise ValueError(f"folds must be 2 or more, got {folds}.")
    else:
        _check_enough_units(data, recipe, folds)
    # With an interval a fold calibrates, and another part chooses the best epoch.
    held = "validation_fraction" if recipe.interval is None else "calibration_fraction"
    members = [
        recipe.with_changes(**{held: 1 / folds, "fold": fold}) for fold in range(folds)
    ]
    folder = recipe.training.folder
    return members if folder is None else [_in_folder(m, folder) for m in members]


def _check_enough_units(data: LabelledCube, recipe: Recipe, folds: int) -> None:
    samples = parts_of(data.reader, recipe, calibrate=False)
    groups = groups_of(data.cube, samples, recipe.groups)
    count = len(set(groups)) if groups is not None else len(samples)
    if count < folds:
        raise CubeError(
            f"folds={folds} needs as many chips, groups of chips or blocks of a scene, "
            f"got {count}; ask for fewer folds."
        )


def _in_folder(member: Recipe, folder: str | Path) -> Recipe:
    return member.with_changes(folder=Path(folder) / f"member-{member.fold + 1}")


def _fit_member(
    data: LabelledCube, member: Recipe, held: Fold | None, client: Any = None
) -> BiomassRegressor:
    if member.training.progress:
        # Progress bars go there as well; results go to the other stream.
        print(f"Fold {member.fold + 1} of {member.folds}", file=sys.stderr)
    model = untrained_for(data, member, held, calibrate=False)
    return model._fit(data, member, held, client=client, calibrate=False)


def _side_by_side(
    cube: xr.Dataset,
    members: Sequence[Recipe],
    held: Sequence[Fold | None],
    at_once: int,
) -> list[BiomassRegressor]:
    """Train members in processes; if there are GPUs, each process has one."""
    context = multiprocessing.get_context("spawn")
    slots = context.Queue()
    for slot in range(at_once):
        slots.put(slot)
    setup = (slots, torch.cuda.device_count(), torch.get_num_threads())
    with ProcessPoolExecutor(at_once, context, _set_up, setup) as pool:
        pairs = zip(members, held, strict=True)
        jobs = [pool.submit(_fit_and_save, cube, *pair) for pair in pairs]
        return [load(job.result()) for job in jobs]


def _set_up(slots: Any, gpus: int, threads: int) -> None:
    """Set the GPU of this process, before torch sees any, and its threads.

    The number of threads is the parent's, not a share of it, because the number
    affects the last bits of the results.
    """
    slot = slots.get()
    if gpus:
        os.environ["CUDA_VISIBLE_DEVICES"] = str(slot % gpus)
    torch.set_num_threads(threads)


def _fit_and_save(cube: xr.Dataset, member: Recipe, held: Fold | None) -> Path:
    model = _fit_member(LabelledCube.open(cube), member, held)
    folder = Path(str(member.training.folder)) / "model"
    model.save(folder)
    return folder
