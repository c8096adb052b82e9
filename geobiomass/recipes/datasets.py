"""From a cube and a recipe to what the trainer takes: feeds, loss, augmentation."""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import xarray as xr
from torch import Tensor
from torchmetrics import Metric

from geobiomass.cube import CubeError, DamagedError
from geobiomass.cube.convert import need_target
from geobiomass.data.folds import Fold
from geobiomass.data.groups import ChipGround
from geobiomass.data.loader import ChipLoader, decode_batch
from geobiomass.data.reader import Reader, Sample
from geobiomass.data.splits import (
    FEWEST_BLOCKS,
    crops_in,
    fixed_crops,
    groups_of,
    hold_out,
    label_marks,
    labelled,
    refuse_overlap,
    samples_of,
)
from geobiomass.recipes.recipe import Recipe, sensor_passes
from geobiomass.recipes.scaling import Statistics, measure_statistics
from geobiomass.statistics.conformal import few_groups, too_few
from geobiomass.statistics.conformal_quantile import needed_units
from geobiomass.tiles import EVALUATION_BLOCK, Marks
from geobiomass.training.augment import Augmentation
from geobiomass.training.losses import (
    chip_huber_loss,
    chip_rmse_loss,
    masked_huber_loss,
    masked_mse_loss,
    pinball_loss,
)
from geobiomass.training.metrics import AverageRMSE, Bias, PixelRMSE

Validation = xr.Dataset | Fold | float | Sequence[str] | None


@dataclass(frozen=True)
class DataLoaders:
    """What trains and what validates.

    Parameters
    ----------
    training : ChipLoader
        Without what is held out.
    validation : ChipLoader or None
        What is held out, or the user's own validation cube.
    everything : ChipLoader
        Training data with what validates, for stages that train on all.
    recipe : Recipe
        With a crop that fits.
    calibration : list of Sample
        Chips or blocks that none of these holds, for an interval's calibration.
    """

    training: ChipLoader
    validation: ChipLoader | None
    everything: ChipLoader
    recipe: Recipe
    calibration: list[Sample]

    @property
    def problems(self) -> dict[str, str]:
        """What could not be read, by place."""
        loaders = (self.training, self.validation, self.everything)
        return {
            k: v for loader in loaders if loader for k, v in loader.problems.items()
        }

    def measure(self) -> Statistics:
        """Measure how to scale bands and labels, on the training data alone."""
        recipe = self.recipe
        samples = list(dict.fromkeys(self.training.samples))  # crops repeat them
        return measure_statistics(
            self.training.reader,
            samples,
            recipe.damaged == "skip",
            recipe.training.progress,
        )


def make_loaders(
    cube: xr.Dataset,
    bands: Sequence[str],
    recipe: Recipe,
    validation: Validation = None,
    client: Any = None,
    calibrate: bool = True,
) -> DataLoaders:
    """Split a cube, or take what the user gave, into what trains and validates.

    Parameters
    ----------
    cube, validation, client
        As :func:`geobiomass.fit` takes them.
    bands : sequence of str
        Of the network, in its order.
    recipe : Recipe
        How to split, crop and batch.
    calibrate : bool
        Whether the model is calibrated by itself, not together with other folds'.

    Raises
    ------
    CubeError, ValueError
        As :func:`geobiomass.fit` says.
    """
    cube = need_target(cube)
    reader = _reader(cube, bands, recipe)
    crop = recipe.crop
    samples = parts_of(reader, recipe, calibrate)
    if isinstance(validation, Fold):
        validation.folds.check(cube)
        block = validation.folds.block or 0
        if recipe.interval is None and block > _side_of(recipe):
            samples = samples_of(reader, block)  # none is cut by a border of the fold
    if crop is not None:
        narrowest = min(min(p.window.height, p.window.width) for p in samples)
        crop = min(crop, narrowest)
        recipe = dataclasses.replace(recipe, crop=crop)
    elif not reader.chips:
        raise ValueError(
            "crop must be a number of pixels to train on a scene, got None; "
            "blocks of a scene differ in size."
        )
    skip = recipe.damaged == "skip"
    marks = {} if reader.chips else label_marks(reader, samples, skip)
    samples = list(marks) or labelled(reader, samples, skip)
    if isinstance(validation, Fold):
        every = _Found(reader, samples, marks)
        return _loaders_of(cube, every, validation, recipe, client, calibrate)
    samples, aside = _set_aside(cube, samples, recipe, validation, calibrate)
    marks = {sample: marks[sample] for sample in samples if sample in marks}
    checking: ChipLoader | None = None
    loader = _loader(recipe, client)
    if isinstance(validation, xr.Dataset | xr.DataArray):
        validation = need_target(validation)
        refuse_overlap(cube, validation)
        other = _reader(validation, bands, recipe)
        held = labelled(other, samples_of(other, EVALUATION_BLOCK), skip)
        found = {} if other.chips else label_marks(other, held, skip)
        crops = fixed_crops(held, _common(held, crop), found)
        checking = loader(other, crops, shuffle=False)
        training = samples
    else:
        training, held = _split(cube, samples, recipe, validation)
        if held:
            checking = loader(reader, fixed_crops(held, crop, marks), shuffle=False)
    return DataLoaders(
        loader(reader, crops_in(training, crop, marks), crop=crop, marks=marks),
        checking,
        loader(reader, crops_in(samples, crop, marks), crop=crop, marks=marks),
        recipe,
        aside,
    )


def _loader(recipe: Recipe, client: Any) -> Callable[..., ChipLoader]:
    """Give what makes feeds with a recipe's settings."""
    return partial(
        ChipLoader,
        batch_size=recipe.training.batch_size,
        seed=recipe.training.seed,
        memory=recipe.read_ahead,
        damaged=recipe.damaged,
        client=client,
    )


@dataclass(frozen=True)
class _Found:
    """What reads labels, the places that have some, and of a scene where."""

    reader: Reader
    samples: list[Sample]
    marks: dict[Sample, Marks]

    def crops(
        self, crop: int | None, samples: list[Sample] | None = None
    ) -> list[Sample]:
        return crops_in(self.samples if samples is None else samples, crop, self.marks)


def _loaders_of(
    cube: xr.Dataset,
    every: _Found,
    fold: Fold,
    recipe: Recipe,
    client: Any,
    calibrate: bool,
) -> DataLoaders:
    """Give what trains and validates where a fold says what is held out."""
    crop, loader, aside = recipe.crop, _loader(recipe, client), list[Sample]()
    learning = _side(every, fold, recipe, trains=True)
    training = learning.samples
    if recipe.interval is not None and not calibrate:
        # The fold calibrates, so that another part tells which epoch is best.
        whole, looking = learning, learning
        training, held = hold_out(
            training,
            recipe.validation_fraction,
            recipe.training.seed,
            groups_of(cube, training, recipe.groups),
            recipe.training.ranks,
        )
    else:
        training, aside = _set_aside(cube, training, recipe, fold, calibrate)
        looking = _side(every, fold, recipe, trains=False)
        held = looking.samples
        left = [sample for sample in every.samples if sample not in set(aside)]
        whole = dataclasses.replace(every, samples=left)
    return DataLoaders(
        loader(
            learning.reader,
            learning.crops(crop, training),
            crop=crop,
            marks=learning.marks,
        ),
        loader(looking.reader, fixed_crops(held, crop, looking.marks), shuffle=False),
        loader(whole.reader, whole.crops(crop), crop=crop, marks=whole.marks),
        recipe,
        aside,
    )


def held_samples(cube: xr.Dataset, recipe: Recipe, fold: Fold) -> list[Sample]:
    """Give the places with labels that a fold holds out, to be calibrated on.

    Parameters
    ----------
    cube : xarray.Dataset
        That all members are trained on.
    recipe : Recipe
        The member's.
    fold : Fold
        What it left out.
    """
    reader = Reader(cube, [str(name) for name in cube["band"].values])
    found = _Found(reader, parts_of(reader, recipe, calibrate=False), {})
    return _side(found, fold, recipe, trains=False).samples


def calibration_samples(cube: xr.Dataset, recipe: Recipe) -> list[Sample]:
    """Give what a member of several folds leaves out, to be calibrated on.

    Parameters
    ----------
    cube : xarray.Dataset
        That all members are trained on.
    recipe : Recipe
        The member's.
    """
    reader = Reader(cube, [str(name) for name in cube["band"].values])
    skip = recipe.damaged == "skip"
    samples = labelled(reader, parts_of(reader, recipe, calibrate=False), skip)
    return _set_aside(cube, samples, recipe, None, calibrate=False)[1]


def grouped_by(recipe: Recipe, validation: Validation = None) -> str | None:
    """Give the coordinate along ``chip`` that tells groups of chips apart.

    Parameters
    ----------
    recipe : Recipe
        With the groups that were asked for.
    validation : optional
        Where it has none, and this is a fold by such a coordinate, that one.
    """
    if recipe.groups is None and isinstance(validation, Fold):
        folds = validation.folds
        if isinstance(folds.ground, ChipGround) and folds.by != "chip":
            return folds.by
    return recipe.groups


def parts_of(reader: Reader, recipe: Recipe, calibrate: bool = True) -> list[Sample]:
    """Give the chips, or the blocks of a scene, that a recipe's split never cuts.

    Parameters
    ----------
    reader : Reader
        Over the cube to split.
    recipe : Recipe
        With an interval there are as many blocks as its calibration needs.
    calibrate : bool
        As :func:`make_loaders` takes it.
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
    validation: Validation,
    calibrate: bool,
) -> tuple[list[Sample], list[Sample]]:
    """Split off what calibrates an interval; what the user validates on stays."""
    if recipe.interval is None:
        return samples, []
    needed = needed_units(recipe.interval)
    named = _named(cube, samples, validation)
    free = [sample for sample in samples if sample not in named]
    if len(free) < 2 * needed:
        found = f"and as many to train on, got {len(free)}"
        raise CubeError(too_few(recipe.interval, found))
    by = grouped_by(recipe, validation)
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
        held = len(set(groups_of(cube, aside, by) or ())) if calibrate else units
        if held < needed:
            rest = f"{' and as many to train on' if calibrate else ''}, got {units}"
            warnings.warn(few_groups(recipe.interval, by, rest), stacklevel=2)
    if calibrate and len(aside) < needed:
        found = f"got {len(aside)} in fold {recipe.fold}"
        raise CubeError(too_few(recipe.interval, found))
    chosen = set(aside)
    return [sample for sample in samples if sample not in chosen], aside


def _named(
    cube: xr.Dataset, samples: Sequence[Sample], validation: Validation
) -> set[Sample]:
    """Give the chips that the user validates on, by id."""
    ids = validation
    if ids is None or isinstance(ids, Fold | int | float | xr.Dataset | xr.DataArray):
        return set()
    wanted = {str(chip) for chip in ids}
    names = [str(chip) for chip in cube["chip"].values] if "chip" in cube.dims else []
    return {p for p in samples if p.chip is not None and names[p.chip] in wanted}


def _reader(cube: xr.Dataset, bands: Sequence[str], recipe: Recipe) -> Reader:
    """Give what reads the cube as suits the device."""
    reader = Reader(cube, bands)
    try:
        reader.cache(recipe.cache)
    except DamagedError:
        if recipe.damaged == "raise":
            raise  # else it is read chip by chip, and what cannot be is left out
    return reader.decoded() if recipe.training.device == "cpu" else reader


def _common(samples: Sequence[Sample], crop: int | None) -> int | None:
    if crop is None:
        return None
    return int(min(crop, *(min(p.window.height, p.window.width) for p in samples)))


def _side(every: _Found, fold: Fold, recipe: Recipe, trains: bool) -> _Found:
    """Give what one side of a fold may see of the labels."""
    known = fold.trains if trains else fold.validates
    reader = every.reader.with_labels_where(known)
    skip = recipe.damaged == "skip"
    none = (
        f"{fold!r} leaves no label to {'train' if trains else 'validate'} on: give a "
        "smaller buffer, fewer folds or other blocks."
    )
    if not reader.chips:
        marks = label_marks(reader, every.samples, skip, none)
        return _Found(reader, list(marks), marks)
    chosen = [sample for sample in every.samples if known(sample).any()]
    return _Found(reader, labelled(reader, chosen, skip, none), {})


def _split(
    cube: xr.Dataset,
    samples: list[Sample],
    recipe: Recipe,
    validation: float | Sequence[str] | None,
) -> tuple[list[Sample], list[Sample]]:
    if validation is None:
        if len(samples) == 1:
            warnings.warn(
                "one chip, or a scene too small for two blocks: training without "
                "validation; give a validation cube to know the error",
                stacklevel=2,
            )
            return samples, []
        validation = recipe.validation_fraction
    if isinstance(validation, int | float):
        if not 0 <= validation < 1:
            raise ValueError(f"validation must be from 0 to below 1, got {validation}.")
        if validation == 0:
            return samples, []
        groups = groups_of(cube, samples, recipe.groups)
        config = recipe.training
        return hold_out(
            samples, validation, config.seed, groups, config.ranks, _fold_of(recipe)
        )
    if "chip" not in cube.dims:
        raise CubeError(
            "validation by ids needs a cube of chips; for a scene give a fraction or "
            "another cube."
        )
    wanted = {str(chip) for chip in validation}
    ids = [str(chip) for chip in cube["chip"].values]
    unknown = sorted(wanted - set(ids))
    if unknown:
        raise CubeError(f"Chips {unknown[:5]} to validate on are not in the cube.")
    training = [p for p in samples if ids[p.chip or 0] not in wanted]
    if not training:
        raise CubeError("No chip is left to train on: all are for validation.")
    return training, [p for p in samples if ids[p.chip or 0] in wanted]


def _fold_of(recipe: Recipe) -> int:
    """Give which part validates; with an interval the fold is what calibrates."""
    return recipe.fold if recipe.interval is None else 0


def loss_of(recipe: Recipe) -> Callable[[Tensor, Tensor], Tensor]:
    """Give the loss that a recipe names."""
    losses: dict[str, Callable[..., Tensor]] = {
        "chip_rmse": chip_rmse_loss,
        "chip_huber": partial(chip_huber_loss, delta=recipe.huber_delta),
        "huber": partial(masked_huber_loss, delta=recipe.huber_delta),
        "mse": masked_mse_loss,
    }
    point = partial(losses[recipe.loss], ceiling=recipe.ceiling, tail=recipe.tail)
    if recipe.interval is None:
        return point
    ends = ((1 - recipe.interval) / 2, (1 + recipe.interval) / 2)
    edge = partial(pinball_loss, ceiling=recipe.ceiling, tail=recipe.tail)
    return partial(_interval_loss, point, edge, ends)


def _interval_loss(
    point: Callable[[Tensor, Tensor], Tensor],
    end: Callable[[Tensor, Tensor, float], Tensor],
    quantiles: tuple[float, float],
    prediction: Tensor,
    target: Tensor,
) -> Tensor:
    """Add the losses of a map and of the two ends of its interval.

    All are in Mg/ha; docs/explanation/intervals.md says what the map loses by it.
    """
    lower, upper = quantiles
    return (
        point(prediction[:, :1], target)
        + end(prediction[:, 1:2], target, lower)
        + end(prediction[:, 2:3], target, upper)
    )


def metrics_of() -> dict[str, Metric]:
    """Give what judges the map of biomass, whatever else the network gives."""
    return {
        "average_rmse": AverageRMSE(outputs=1),
        "pixel_rmse": PixelRMSE(outputs=1),
        "bias": Bias(outputs=1),
    }


def augmentation_of(recipe: Recipe, loader: ChipLoader) -> Augmentation:
    """Give what a recipe does to samples of a feed before they train."""
    passes = sensor_passes(loader.reader.bands)
    return Augmentation(
        orientations=recipe.turns,
        probability_batch=recipe.month_dropout,
        rotation=recipe.rotation,
        ceiling=recipe.ceiling if recipe.tail == "drop" else None,
        pattern_dropout=recipe.pattern_dropout if 0 in passes else 0.0,
        pass_dropout=recipe.pass_dropout if max(passes) else 0.0,
        passes=passes,
        optical=0,
        calendar=loader.reader.calendar,
    )


def prepare_with_calendar(
    inputs: tuple[Any, ...], target: Tensor
) -> tuple[tuple[Any, ...], Tensor]:
    """Decode a batch and add the calendar months of its steps.

    Returns
    -------
    inputs : tuple
        Image, None (months with any value are present) and the calendar months, as
        :class:`geobiomass.network.AttentionUNet` takes them.
    target : torch.Tensor
        (batch, 1, y, x), as it was.
    """
    (image,), target = decode_batch(inputs, target)
    return (image, None, inputs[1].decoder.calendar), target
