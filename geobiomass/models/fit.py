"""Train a model, or one for each fold: ``gb.fit``."""

from __future__ import annotations

import multiprocessing
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any, overload

import torch
import xarray as xr

from geobiomass.cube import CubeError, as_cube
from geobiomass.cube.convert import need_target
from geobiomass.data.folds import Fold, Folds
from geobiomass.data.reader import Reader
from geobiomass.data.splits import groups_of
from geobiomass.models.ensemble import Ensemble
from geobiomass.models.loading import load
from geobiomass.models.regressor import BiomassRegressor, calibrate_together
from geobiomass.network import AttentionUNet
from geobiomass.recipes.datasets import (
    Validation,
    calibration_samples,
    grouped_by,
    held_samples,
    parts_of,
)
from geobiomass.recipes.recipe import Recipe, find_recipe, sensor_passes
from geobiomass.recipes.schedule import TrainingPlan
from geobiomass.statistics.conformal import Calibration
from geobiomass.training.checkpoint_record import is_begun


@overload
def fit(
    cube: xr.Dataset | xr.DataArray,
    recipe: str | Recipe = "default",
    validation: Validation = None,
    *,
    folds: None = None,
    at_once: int | None = None,
    announce: Callable[[TrainingPlan], object] | None = None,
    client: Any = None,
    **overrides: Any,
) -> BiomassRegressor: ...


@overload
def fit(
    cube: xr.Dataset | xr.DataArray,
    recipe: str | Recipe = "default",
    validation: None = None,
    *,
    folds: int | Folds,
    at_once: int | None = None,
    announce: Callable[[TrainingPlan], object] | None = None,
    client: Any = None,
    **overrides: Any,
) -> Ensemble: ...


def fit(
    cube: xr.Dataset | xr.DataArray,
    recipe: str | Recipe = "default",
    validation: Validation = None,
    *,
    folds: int | Folds | None = None,
    at_once: int | None = None,
    announce: Callable[[TrainingPlan], object] | None = None,
    client: Any = None,
    **overrides: Any,
) -> BiomassRegressor | Ensemble:
    """Train a biomass regressor on a cube.

    Parameters
    ----------
    cube : xarray.Dataset
        A scene or chips, with ``agb``; NaN where unlabelled, sparse labels are fine.
        All its bands are used. Or whatever :func:`as_cube` makes such a cube of.
    recipe : str or Recipe
        ``"default"``, ``"quick"`` (minutes on two cores), ``"biomassters"`` (the
        network and settings of the competition's winner), or your own.
    validation : optional
        What tells which epoch is best. None: a tenth of the chips, or of the blocks
        of a scene (nothing, with a warning, where there is only one). A number:
        that fraction, 0 for no validation. A sequence of chip ids: those chips.
        A :class:`~geobiomass.data.folds.Fold`: what it holds out. Another
        cube: all of it.
    folds : int or Folds, optional
        Train so many models, each with another part of the chips or blocks held out,
        and give them as one; :func:`make_folds` holds out by region, or with a
        buffer, and :func:`cross_validate` keeps what each says of what it did not
        see. With ``folder=`` each has its own folder there, and the same call goes on
        where it stopped.
        With ``interval=`` each leaves its part out altogether, another one tells
        which epoch is best, and the parts of all calibrate the interval.
    at_once : int, optional
        Of those, how many train side by side, each in a process of its own; by
        default as many as there are GPUs, or one.
    announce : callable, optional
        Called with the :class:`~geobiomass.recipes.schedule.TrainingPlan` (stages,
        steps, hours) before training begins, after some steps were timed:
        ``announce=print``. With `folds` once, for the first member: the others do as
        much.
    client : distributed.Client, optional
        Read chips on its workers, who must see the cube under the same path; the
        network stays here.
    **overrides
        Any setting of the recipe or of its training: ``epochs=10``, ``seed=1``,
        ``encoder="resnet18"``, ``folder="runs/first"`` to be able to resume;
        ``interval=0.9`` for maps with ``agb_lower`` and ``agb_upper``, calibrated on
        chips or blocks that are held out for it.

    Returns
    -------
    BiomassRegressor or Ensemble
        Trained; ``.history`` has a row an epoch. With `folds` an :class:`Ensemble`.

    Raises
    ------
    CubeError
        If `cube` is not a cube, has no ``agb`` or no label, shares chips or ground
        with the validation cube, or has too few chips or blocks for the interval.
    ValueError
        If a recipe or setting is unknown or out of range, `folds` and `validation` are
        both given, or the folder holds a training with other settings or of other
        data: more epochs with ``schedule="constant"``, and settings of memory, may
        differ. It is told before any image is read, with `folds` of all members.

    Warns
    -----
    UserWarning
        If there are too few `groups` for the interval to be calibrated by group.

    Examples
    --------
    >>> import geobiomass as gb
    >>> model = gb.fit(gb.open_cube("chips.zarr"), "quick")  # doctest: +SKIP
    """
    chosen = find_recipe(recipe, **overrides)
    cube = need_target(cube)
    if folds is not None:
        if validation is not None:
            raise ValueError("validation must be left out where folds is given.")
        return fit_folds(cube, chosen, folds, at_once, announce, client)
    model = untrained(cube, chosen)
    return model.fit(cube, chosen, validation, announce=announce, client=client)


def untrained(
    cube: xr.Dataset | xr.DataArray, recipe: str | Recipe
) -> BiomassRegressor:
    """Make a recipe's network for the bands and months of a cube, random weights."""
    recipe, cube = find_recipe(recipe), as_cube(cube)
    bands = [str(name) for name in cube["band"].values]
    # The same seed gives the same weights, and the caller's random state is kept.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.training.seed + recipe.fold)
        network = AttentionUNet(
            bands=len(bands),
            encoder=recipe.encoder,
            decoder_channels=recipe.decoder_channels,
            outputs=len(recipe.outputs),
            pretrained=recipe.pretrained,
            passes=sensor_passes(bands),
            missing=recipe.missing,
            calendar=cube["month"].values.tolist() if recipe.month_term else None,
        )
    months = cube.sizes["month"]
    return BiomassRegressor(network, bands, months, recipe.outputs)


def fit_folds(
    cube: xr.Dataset,
    recipe: Recipe,
    folds: int | Folds,
    at_once: int | None = None,
    announce: Callable[[TrainingPlan], object] | None = None,
    client: Any = None,
) -> Ensemble:
    """Train a member for each fold; :func:`geobiomass.fit` says what is meant.

    Parameters
    ----------
    cube : xarray.Dataset
        Chips or a scene, with ``agb``.
    recipe : Recipe
        Of every member; its fold and validation fraction are set here. In its folder,
        if it names one, each member has its own, and a finished one is read again.
    folds : int or Folds
        Parts that are held out, one by each member: 2 or more.
    at_once : int, optional
        Members that train side by side, in processes of their own, each on the next
        GPU where there are several; by default as many as there are GPUs, or one.
    announce : callable, optional
        Called with the first member's plan.
    client : distributed.Client, optional
        Reads chips, where members train one after another.

    Returns
    -------
    Ensemble
        Of `folds` models, whose histories say how each did on its own fold.

    Raises
    ------
    CubeError, ValueError
        If there are fewer groups of chips, or blocks, than folds; if a number is out
        of range, or a client is given and members train side by side.
    """
    held: Sequence[Fold | None] = [None] * folds if isinstance(folds, int) else [*folds]
    members = _members(cube, recipe, folds)
    if at_once is None:
        at_once = max(1, torch.cuda.device_count())
    if at_once < 1 or (at_once > 1 and client is not None):
        raise ValueError(
            "at_once must be 1 or more, and 1 where a dask client reads, got "
            f"{at_once}; leave out one of the two."
        )
    # Of all before any: each may train for hours before the next one is refused.
    for member, fold in zip(members, held, strict=True):
        if is_begun(member.training):
            untrained(cube, member)._check_folder(cube, member, fold)
    if announce is not None:
        announce(untrained(cube, members[0]).plan_fit(cube, members[0], held[0]))
    with ExitStack() as stack:
        if at_once == 1:
            pairs = zip(members, held, strict=True)
            models = [_fit_member(cube, *pair, client) for pair in pairs]
        else:
            if recipe.training.folder is None:
                folder = stack.enter_context(tempfile.TemporaryDirectory())
                members = [_in_folder(m, folder) for m in members]
            at_once = min(at_once, len(members))
            models = _side_by_side(cube, members, held, at_once)
    ensemble = Ensemble(models)
    if recipe.interval is not None:
        ensemble.calibration = _calibration(models, cube, members, held)
    return ensemble


def _calibration(
    models: Sequence[BiomassRegressor],
    cube: xr.Dataset,
    members: Sequence[Recipe],
    held: Sequence[Fold | None],
) -> Calibration:
    """Calibrate members together, each on what it left out."""
    groups = grouped_by(members[0], held[0])
    if held[0] is None:
        aside = [calibration_samples(cube, member) for member in members]
        return calibrate_together(models, cube, aside, groups=groups)
    folds = [fold for fold in held if fold is not None]
    aside = [held_samples(cube, *pair) for pair in zip(members, folds, strict=True)]
    known = [fold.validates for fold in folds]
    return calibrate_together(models, cube, aside, known, groups)


def _members(cube: xr.Dataset, recipe: Recipe, folds: int | Folds) -> list[Recipe]:
    cube = need_target(cube)
    if isinstance(folds, Folds):
        folds.check(cube)
        folds = folds.count
    elif folds < 2:
        raise ValueError(f"folds must be 2 or more, got {folds}.")
    else:
        _enough_for(cube, recipe, folds)
    # With an interval a fold calibrates, and another part tells which epoch is best.
    held = "validation_fraction" if recipe.interval is None else "calibration_fraction"
    members = [
        recipe.with_changes(**{held: 1 / folds, "fold": fold}) for fold in range(folds)
    ]
    folder = recipe.training.folder
    return members if folder is None else [_in_folder(m, folder) for m in members]


def _enough_for(cube: xr.Dataset, recipe: Recipe, folds: int) -> None:
    reader = Reader(cube, [str(name) for name in cube["band"].values])
    samples = parts_of(reader, recipe, calibrate=False)
    groups = groups_of(cube, samples, recipe.groups)
    count = len(set(groups)) if groups is not None else len(samples)
    if count < folds:
        raise CubeError(
            f"folds={folds} needs as many chips, groups of chips or blocks of a scene, "
            f"got {count}; ask for fewer folds."
        )


def _in_folder(member: Recipe, folder: str | Path) -> Recipe:
    return member.with_changes(folder=Path(folder) / f"member-{member.fold + 1}")


def _fit_member(
    cube: xr.Dataset, member: Recipe, held: Fold | None, client: Any = None
) -> BiomassRegressor:
    if member.training.progress:
        # Where progress bars are: what is asked for goes to the other stream.
        print(f"Fold {member.fold + 1} of {member.folds}", file=sys.stderr)
    return untrained(cube, member)._fit(
        cube, member, held, client=client, calibrate=False
    )


def _side_by_side(
    cube: xr.Dataset,
    members: Sequence[Recipe],
    held: Sequence[Fold | None],
    at_once: int,
) -> list[BiomassRegressor]:
    """Train members in processes; each has a GPU to itself, where there are some."""
    context = multiprocessing.get_context("spawn")
    slots = context.Queue()
    for slot in range(at_once):
        slots.put(slot)
    settle = (slots, torch.cuda.device_count(), torch.get_num_threads())
    with ProcessPoolExecutor(at_once, context, _settle, settle) as pool:
        pairs = zip(members, held, strict=True)
        jobs = [pool.submit(_fit_and_save, cube, *pair) for pair in pairs]
        return [load(job.result()) for job in jobs]


def _settle(slots: Any, gpus: int, threads: int) -> None:
    """Take a GPU, before this process knows of any, and the threads of the parent.

    The number of threads decides about the last bits, so it is not divided.
    """
    slot = slots.get()
    if gpus:
        os.environ["CUDA_VISIBLE_DEVICES"] = str(slot % gpus)
    torch.set_num_threads(threads)


def _fit_and_save(cube: xr.Dataset, member: Recipe, held: Fold | None) -> Path:
    model = _fit_member(cube, member, held)
    folder = Path(str(member.training.folder)) / "model"
    model.save(folder)
    return folder
