"""Calibration of a model's intervals, on labelled data that it never saw.

A unit is an exchangeable group: a chip, a block of a scene, or a group of chips.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from geobiomass.cube import CubeError, DamagedError
from geobiomass.cube.quantity import AGB, Quantity
from geobiomass.data.labelled_cube import LabelledCube
from geobiomass.data.reader import Reader, Sample
from geobiomass.data.splits import groups_of, labelled
from geobiomass.evaluation.metrics import BIOMASS_BINS, bins_for
from geobiomass.inference.mapper import Mapper
from geobiomass.recipes.label_weights import LabelWeights
from geobiomass.recipes.recipe import Recipe
from geobiomass.statistics.conformal import (
    Calibration,
    calibrate,
    in_words,
    too_few,
)
from geobiomass.statistics.conformal_quantile import needed_units, worth
from geobiomass.statistics.conformal_units import Unit, joined
from geobiomass.statistics.label_errors import without_missing
from geobiomass.tiles import Window, even_blocks, samples_on_chips

LabelsKnown = Callable[[Sample], npt.NDArray[np.bool_]]


class Calibratable(Protocol):
    """A trained network with the recipe that it was trained with."""

    recipe: Recipe | None

    @property
    def target(self) -> Quantity:
        """What it predicts."""
        ...

    def _bare_over(self, reader: Reader) -> Mapper: ...


CLASSES = BIOMASS_BINS[1:-1]
"""Edges between classes of predicted biomass, Mg/ha, before they are merged."""

# Pixels kept of all units together; of larger data each unit keeps every n-th pixel.
_PIXELS = 2**24


def units_of(reader: Reader, side: int) -> list[Sample]:
    """Return the labelled chips of a cube, or the labelled blocks of a scene.

    Parameters
    ----------
    reader : Reader
        Over the cube.
    side : int
        About the side of a scene's blocks, pixels.

    Raises
    ------
    CubeError
        If nothing is labelled.
    ValueError
        If `side` is below 1.
    """
    if side < 1:
        raise ValueError(f"unit must be at least 1 pixel, got {side}.")
    if reader.chips:
        return labelled(reader, samples_on_chips([reader.whole], reader.count))
    windows = even_blocks(reader.height, reader.width, side)
    return labelled(reader, samples_on_chips(windows, None))


def compare_units(
    mapper: Mapper,
    samples: Sequence[Sample],
    skip: bool = False,
    groups: Sequence[str] | None = None,
    weigh: bool = False,
) -> list[Unit]:
    """Map samples as any map is made, and return predictions with their labels.

    Parameters
    ----------
    mapper : Mapper
        Over a cube with ``agb``, without post-processing.
    samples : sequence of Sample
        Chips or blocks.
    skip : bool
        Leave out samples that cannot be read.
    groups : sequence of str, optional
        The group of each sample.
    weigh : bool
        Whether labels come with their standard errors, by which they weigh.

    Raises
    ------
    CubeError
        If a sample cannot be read and `skip` is false.
    """
    names = {} if groups is None else dict(zip(samples, groups, strict=True))
    budget = max(1, _PIXELS // max(1, len(samples)))
    parts: dict[Sample, list[Unit]] = {sample: [] for sample in samples}
    by_chip: dict[int | None, list[Sample]] = {}
    for sample in parts:
        by_chip.setdefault(sample.chip, []).append(sample)
    # Block by block, because the samples in a block share tiles.
    for own in by_chip.values():
        for window in mapper.blocks():
            here = [sample for sample in own if sample.window.intersect(window)]
            try:
                for sample, unit in _compare(mapper, window, here, budget, weigh):
                    parts[sample].append(unit)
            except DamagedError:
                if not skip:
                    raise
                damaged = set(here)
                own = [sample for sample in own if sample not in damaged]
                parts = {k: v for k, v in parts.items() if k not in damaged}
    none = np.zeros(0)
    empty = Unit(
        dict.fromkeys(mapper.outputs, none), none, errors=none if weigh else None
    )
    return [
        dataclasses.replace(joined([empty, *units]), group=names.get(sample))
        for sample, units in parts.items()
    ]


def _with_all_errors(units: Sequence[Unit]) -> list[Unit]:
    """Return units whose labels without an error have the median of the others.

    Without any error labels do not weigh.
    """
    known = [unit.errors for unit in units if unit.errors is not None]
    filled, missing = without_missing(np.concatenate([*known, np.zeros(0)]))
    if missing == len(filled):
        return [dataclasses.replace(unit, errors=None) for unit in units]
    ends = np.cumsum([len(own) for own in known])[:-1]
    pairs = zip(units, np.split(filled, ends), strict=True)
    return [dataclasses.replace(unit, errors=own) for unit, own in pairs]


def _compare(
    mapper: Mapper,
    window: Window,
    samples: Sequence[Sample],
    budget: int,
    weigh: bool,
) -> Iterator[tuple[Sample, Unit]]:
    """Yield the samples in one block of the map, with predictions and labels."""
    labels = {}
    for sample in samples:
        part = sample.window.intersect(window) or sample.window
        observed = mapper.reader.labels(Sample(part, sample.chip)).astype(np.float64)
        if np.isfinite(observed).any():
            labels[sample] = (part, observed)
    if not labels:
        return
    values = mapper.compute(window, samples[0].chip)
    for sample, (part, observed) in labels.items():
        cut = values[:, *part.within(window)]
        known = np.flatnonzero(np.isfinite(observed) & np.isfinite(cut[0]))
        area = sample.window.height * sample.window.width
        known = known[:: -(-area // budget)]
        layers = zip(mapper.outputs, cut, strict=True)
        errors = None
        if weigh:
            read = mapper.reader.errors(Sample(part, sample.chip))
            errors = read.ravel()[known].astype(np.float64)
        yield (
            sample,
            Unit(
                {
                    name: layer.ravel()[known].astype(np.float64)
                    for name, layer in layers
                },
                observed.ravel()[known],
                errors=errors,
            ),
        )


def calibration_of(
    units: Sequence[Unit],
    reader: Reader,
    interval: float,
    classes: int | Sequence[float] | None = None,
    *,
    folds: int = 0,
    target: Quantity = AGB,
    groups: str | None = None,
) -> Calibration:
    """Calibrate on units of a cube, with :func:`.conformal.calibrate`.

    Parameters
    ----------
    units : sequence of Unit
        Units of :func:`compare_units`.
    reader : Reader
        Over the cube.
    interval, classes, folds, groups
        As in that function; classes are by default the bins of ``model.evaluate``.
    target : Quantity
        What is predicted.

    Raises
    ------
    CubeError
        If there are too few units.
    ValueError
        If a setting is out of range.
    """
    return calibrate(
        _with_all_errors(units),
        interval,
        bins_for(target.units)[1:-1] if classes is None else classes,
        kind="chips" if reader.chips else "blocks",
        folds=folds,
        name=target.name,
        groups=groups,
    )


def calibrate_together(
    models: Sequence[Calibratable],
    data: LabelledCube,
    samples: Sequence[Sequence[Sample]],
    known: Sequence[LabelsKnown | None] | None = None,
    groups: str | None = None,
) -> Calibration:
    """Calibrate the interval of models that each left out a different part of a cube.

    The scores of several models are pooled (cross-conformal prediction: Vovk,
    Cross-conformal predictors, 2015).

    Parameters
    ----------
    models : sequence of BiomassRegressor
        Trained with the same recipe.
    data : LabelledCube
        The training data of all of them, before the splits.
    samples : sequence of sequence of Sample
        The held-out samples of each model.
    known : sequence, optional
        For each model, a function that returns which labels of a sample are held out;
        None for all.
    groups : str, optional
        A coordinate along ``chip``: the chips of one value are one exchangeable group.

    Raises
    ------
    ValueError
        If too few of them have both a label and an observation.
    """
    recipe = models[0].recipe
    if recipe is None or recipe.interval is None:
        raise ValueError("models to calibrate must be trained with interval, got none.")
    known = [None] * len(models) if known is None else known
    each = [
        units_left_out(*one, data, groups)
        for one in zip(models, samples, known, strict=True)
    ]
    units = [unit for own in each for unit in own]
    folds = len(models) if len(models) > 1 else 0
    return calibration_of(
        units,
        data.reader,
        recipe.interval,
        folds=folds,
        target=models[0].target,
        groups=groups,
    )


def units_left_out(
    model: Calibratable,
    samples: Sequence[Sample],
    known: LabelsKnown | None,
    data: LabelledCube,
    groups: str | None = None,
) -> list[Unit]:
    """Compare a model's predictions, before calibration, with held-out labels.

    Parameters
    ----------
    model : BiomassRegressor
        Trained.
    samples : sequence of Sample
        The held-out samples.
    known : callable, optional
        Returns which labels of a sample are held out; by default all.
    data : LabelledCube
        The training data before the split, with the model's bands.
    groups : str, optional
        As :func:`calibrate_together` takes it.
    """
    reader = data.reader if known is None else data.reader.with_labels_where(known)
    mapper = model._bare_over(reader)
    skip = model.recipe is not None and model.recipe.damaged == "skip"
    weigh = model.recipe is not None and model.recipe.label_errors and reader.has_errors
    named = groups_of(data.cube, samples, groups)
    return compare_units(mapper, samples, skip, named, weigh)


def check_worth(
    reader: Reader, samples: Sequence[Sample], weigh: LabelWeights, interval: float
) -> None:
    """Check that weighed labels are worth enough to calibrate, before long work.

    Parameters
    ----------
    reader : Reader
        Over the cube.
    samples : sequence of Sample
        The chips or blocks that calibrate.
    weigh : LabelWeights
        The weights of the training.
    interval : float
        To calibrate.

    Raises
    ------
    CubeError
        If they are worth too few of equal weight.
    """
    found = []
    for sample in samples:
        try:
            known = np.isfinite(reader.labels(sample))
            found.append(weigh(reader.errors(sample)[known].astype(np.float64)))
        except DamagedError:  # told where it is read to calibrate
            continue
    check_weights(found, interval)


def check_weights(weights: Sequence[npt.NDArray[np.float64]], interval: float) -> None:
    """Check that the labels of chips or blocks are worth enough to calibrate.

    Parameters
    ----------
    weights : sequence of numpy.ndarray
        For each chip or block the weights of its labels, (label,).
    interval : float
        To calibrate.

    Raises
    ------
    CubeError
        If they are worth too few of equal weight.
    """
    weights = [own for own in weights if len(own)]
    effective = worth(weights) if weights else 0.0
    if effective < needed_units(interval):
        raise CubeError(too_few(interval, in_words(len(weights), effective)))
