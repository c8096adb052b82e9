"""The split of a cube into training, validation and calibration of an interval."""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import xarray as xr

from geobiomass.cube import CubeError
from geobiomass.cube.convert import need_target
from geobiomass.cube.quantity import AGB, Quantity
from geobiomass.cube.target import in_units_of
from geobiomass.data.folds import Fold
from geobiomass.data.groups import ChipGround
from geobiomass.data.labelled_cube import LabelledCube, LabelledSamples
from geobiomass.data.reader import Reader, Sample
from geobiomass.data.splits import (
    FEWEST_BLOCKS,
    groups_of,
    hold_out,
    labelled,
    samples_of,
)
from geobiomass.recipes.recipe import Recipe
from geobiomass.statistics.conformal import few_groups, too_few
from geobiomass.statistics.conformal_quantile import needed_units
from geobiomass.tiles import EVALUATION_BLOCK

Validation = xr.Dataset | Fold | float | Sequence[str] | None
"""The validation that a user gives to ``gb.fit``."""

HeldOut = LabelledCube | Fold | float | Sequence[str] | None
"""The same inside of a fit: a validation cube is opened already."""


@dataclass(frozen=True)
class Split:
    """Samples of a cube by purpose: training, validation, calibration.

    Parameters
    ----------
    training : LabelledSamples
        Without held-out samples.
    validation : LabelledSamples or None
        Held-out samples; None if there are none.
    everything : LabelledSamples
        What trains with what validates, for stages that train on all.
    calibration : list of Sample
        Chips or blocks that are in none of these, to calibrate an interval.
    """

    training: LabelledSamples
    validation: LabelledSamples | None
    everything: LabelledSamples
    calibration: list[Sample]


def open_validation(
    validation: Validation, bands: Sequence[str], target: Quantity = AGB
) -> HeldOut:
    """Open the validation that a user gives, if it is a cube.

    Its labels are converted to the units of `target`, which the training learns.

    Raises
    ------
    CubeError
        If it is a cube without ``agb`` or without one of the bands, or its labels are
        in units that cannot be converted.
    """
    if isinstance(validation, xr.Dataset | xr.DataArray):
        cube = in_units_of(need_target(validation), target, "The training data has")
        return LabelledCube.open(cube, bands)
    return validation


def units_to_split(
    data: LabelledCube, recipe: Recipe, held: HeldOut, calibrate: bool
) -> list[Sample]:
    """Return the chips, or the blocks of a scene, that a split never cuts.

    Parameters
    ----------
    data : LabelledCube
        To split.
    recipe : Recipe
        With an interval there are as many blocks as its calibration needs.
    held : HeldOut
        What validates. Blocks of a fold are taken as they are, where they are larger,
        so that no border of the fold cuts one.
    calibrate : bool
        As :func:`.datasets.make_loaders` takes it.

    Raises
    ------
    CubeError
        If `held` is a fold of another cube.
    """
    if isinstance(held, Fold):
        held.folds.check(data.cube)
        block = held.folds.block or 0
        if recipe.interval is None and block > _side_of(recipe):
            return samples_of(data.reader, block)
    return parts_of(data.reader, recipe, calibrate)


def split_samples(
    data: LabelledCube,
    every: LabelledSamples,
    recipe: Recipe,
    held: HeldOut,
    calibrate: bool,
) -> Split:
    """Split the labelled samples of a cube by purpose.

    Parameters
    ----------
    data : LabelledCube
        That the samples are of.
    every : LabelledSamples
        All of them.
    recipe : Recipe
        How to split.
    held : HeldOut
        What validates. With another cube nothing is held out of this one.
    calibrate : bool
        As :func:`.datasets.make_loaders` takes it.

    Raises
    ------
    CubeError, ValueError
        As :func:`geobiomass.fit` says.
    """
    if isinstance(held, Fold):
        return _split_by_fold(data, every, held, recipe, calibrate)
    samples, aside = _set_aside(data.cube, every.samples, recipe, held, calibrate)
    training, validating = samples, list[Sample]()
    if not isinstance(held, LabelledCube):
        training, validating = _split(data.cube, samples, recipe, held)
    return Split(
        dataclasses.replace(every, samples=training),
        dataclasses.replace(every, samples=validating) if validating else None,
        dataclasses.replace(every, samples=samples),
        aside,
    )


def _split_by_fold(
    data: LabelledCube,
    every: LabelledSamples,
    fold: Fold,
    recipe: Recipe,
    calibrate: bool,
) -> Split:
    """Split by what a fold holds out, label by label."""
    learning = _side(every, fold, recipe, trains=True)
    if _spares_fold(recipe) and not calibrate:
        # The fold calibrates, or measures the error of maps that another part corrects;
        # so that part chooses the best epoch too.
        training, held = hold_out(
            learning.samples,
            recipe.validation_fraction,
            recipe.training.seed,
            groups_of(data.cube, learning.samples, recipe.groups),
            recipe.training.ranks,
        )
        return Split(
            dataclasses.replace(learning, samples=training),
            dataclasses.replace(learning, samples=held),
            learning,
            [],
        )
    training, aside = _set_aside(data.cube, learning.samples, recipe, fold, calibrate)
    if not fold.validated:
        only = dataclasses.replace(learning, samples=training)
        return Split(only, None, only, aside)
    left = [sample for sample in every.samples if sample not in set(aside)]
    return Split(
        dataclasses.replace(learning, samples=training),
        _side(every, fold, recipe, trains=False),
        dataclasses.replace(every, samples=left),
        aside,
    )


def held_samples(data: LabelledCube, recipe: Recipe, fold: Fold) -> list[Sample]:
    """Return the labelled samples that a fold holds out, to calibrate a member on.

    Parameters
    ----------
    data : LabelledCube
        That all members are trained on.
    recipe : Recipe
        The member's.
    fold : Fold
        What the member did not see.
    """
    parts = parts_of(data.reader, recipe, calibrate=False)
    every = LabelledSamples(data.reader, parts, {})
    return _side(every, fold, recipe, trains=False).samples


def calibration_samples(data: LabelledCube, recipe: Recipe) -> list[Sample]:
    """Return the samples that a member of several folds leaves out, to calibrate on.

    Parameters
    ----------
    data : LabelledCube
        That all members are trained on.
    recipe : Recipe
        The member's.
    """
    skip = recipe.damaged == "skip"
    parts = parts_of(data.reader, recipe, calibrate=False)
    samples = labelled(data.reader, parts, skip)
    return _set_aside(data.cube, samples, recipe, None, calibrate=False)[1]


def grouped_by(recipe: Recipe, held: HeldOut = None) -> str | None:
    """Return the coordinate along ``chip`` that names the groups of chips.

    Parameters
    ----------
    recipe : Recipe
        With the groups that the user asks for.
    held : optional
        Where the recipe has none, and this is a fold by such a coordinate, that one.
    """
    if recipe.groups is None and isinstance(held, Fold):
        folds = held.folds
        if isinstance(folds.ground, ChipGround) and folds.by != "chip":
            return folds.by
    return recipe.groups


def parts_of(reader: Reader, recipe: Recipe, calibrate: bool = True) -> list[Sample]:
    """Return the chips, or the blocks of a scene, that a recipe's split never cuts.

    Parameters
    ----------
    reader : Reader
        Over the cube to split.
    recipe : Recipe
        With an interval there are as many blocks as its calibration needs.
    calibrate : bool
        As :func:`.datasets.make_loaders` takes it.
    """
    side = _side_of(recipe)
    if recipe.interval is None:
        return samples_of(reader, side)
    needed = needed_units(recipe.interval)
    part = recipe.calibration_fraction if calibrate else 1.0
    fewest = max(2 * needed, math.ceil(needed / part))
    return samples_of(reader, side, max(FEWEST_BLOCKS, fewest))


def _side_of(recipe: Recipe) -> int:
    return recipe.block or 2 * (recipe.crop or EVALUATION_BLOCK)


def _set_aside(
    cube: xr.Dataset,
    samples: list[Sample],
    recipe: Recipe,
    held: HeldOut,
    calibrate: bool,
) -> tuple[list[Sample], list[Sample]]:
    """Split off the samples that calibrate an interval, none of the user's own ids."""
    if recipe.interval is None:
        return samples, []
    needed = needed_units(recipe.interval)
    named = _named(cube, samples, held)
    free = [sample for sample in samples if sample not in named]
    if len(free) < 2 * needed:
        found = f"and as many to train on, got {len(free)}"
        raise CubeError(too_few(recipe.interval, found))
    by = grouped_by(recipe, held)
    groups = groups_of(cube, free, by)
    units = len(set(groups)) if groups is not None else len(free)
    _, aside = hold_out(
        free,
        recipe.calibration_fraction,
        recipe.training.seed,
        groups,
        needed if calibrate else 1,
        recipe.fold,
        needed if calibrate and units >= 2 * needed else 1,
    )
    if by is not None:
        set_aside = len(set(groups_of(cube, aside, by) or ())) if calibrate else units
        if set_aside < needed:
            rest = f"{' and as many to train on' if calibrate else ''}, got {units}"
            warnings.warn(few_groups(recipe.interval, by, rest), stacklevel=2)
    if calibrate and len(aside) < needed:
        found = f"got {len(aside)} in fold {recipe.fold}"
        raise CubeError(too_few(recipe.interval, found))
    chosen = set(aside)
    return [sample for sample in samples if sample not in chosen], aside


def _named(cube: xr.Dataset, samples: Sequence[Sample], held: HeldOut) -> set[Sample]:
    """Return the chips that the user validates on, by id."""
    if held is None or isinstance(held, Fold | int | float | LabelledCube):
        return set()
    wanted = {str(chip) for chip in held}
    names = [str(chip) for chip in cube["chip"].values] if "chip" in cube.dims else []
    return {p for p in samples if p.chip is not None and names[p.chip] in wanted}


def _side(
    every: LabelledSamples, fold: Fold, recipe: Recipe, trains: bool
) -> LabelledSamples:
    """Return the samples of one side of a fold, with the labels that it may see."""
    known = fold.trains if trains else fold.validates
    reader = every.reader.with_labels_where(known)
    samples = every.samples
    if reader.chips:
        samples = [sample for sample in samples if known(sample).any()]
    none = (
        f"{fold!r} leaves no label to {'train' if trains else 'validate'} on: give a "
        "smaller buffer, fewer folds or other blocks."
    )
    return LabelledSamples.find(reader, samples, recipe.damaged == "skip", none)


def _split(
    cube: xr.Dataset,
    samples: list[Sample],
    recipe: Recipe,
    held: float | Sequence[str] | None,
) -> tuple[list[Sample], list[Sample]]:
    if held is None:
        if len(samples) == 1:
            warnings.warn(
                "one chip, or a scene too small for two blocks: training without "
                "validation; give a validation cube to know the error",
                stacklevel=2,
            )
            return samples, []
        held = recipe.validation_fraction
    if isinstance(held, int | float):
        if not 0 <= held < 1:
            raise ValueError(f"validation must be from 0 to below 1, got {held}.")
        if held == 0:
            return samples, []
        groups = groups_of(cube, samples, recipe.groups)
        config = recipe.training
        return hold_out(
            samples, held, config.seed, groups, config.ranks, _fold_of(recipe)
        )
    if "chip" not in cube.dims:
        raise CubeError(
            "validation by ids needs a cube of chips, got a scene; give a fraction or "
            "another cube."
        )
    wanted = {str(chip) for chip in held}
    ids = [str(chip) for chip in cube["chip"].values]
    unknown = sorted(wanted - set(ids))
    if unknown:
        raise CubeError(
            f"Chips {unknown[:5]} to validate on are not in the cube; its ids are in "
            f"cube['chip'], such as {ids[:3]}."
        )
    training = [p for p in samples if ids[p.chip or 0] not in wanted]
    if not training:
        raise CubeError(
            f"No chip is left to train on: all {len(ids)} are for validation; name "
            "fewer."
        )
    return training, [p for p in samples if ids[p.chip or 0] in wanted]


def _spares_fold(recipe: Recipe) -> bool:
    """Return whether more than the best epoch is learnt from held-out labels."""
    return recipe.interval is not None or recipe.tail_correction


def _fold_of(recipe: Recipe) -> int:
    """Return the part that validates; with an interval the fold is what calibrates."""
    return recipe.fold if recipe.interval is None else 0
