"""The scaling of bands and labels, measured on the training data."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import pandas as pd

from geobiomass.cube import CubeError, DamagedError
from geobiomass.cube.statistics import BandTally
from geobiomass.data.band_profile import BandProfile
from geobiomass.data.input_sample import sample_input
from geobiomass.data.reader import Reader
from geobiomass.network import AttentionUNet
from geobiomass.network.encoder_input import UNKNOWN
from geobiomass.recipes.band_facts import BIOMASSTERS_RANGE
from geobiomass.recipes.recipe import Recipe
from geobiomass.recipes.training_checks import check_training_data
from geobiomass.threads import few_at_a_time
from geobiomass.tiles import Sample

Counts = TypeVar("Counts")

_SPAN = 3.29
"""Standard deviations from the 5th to the 95th percentile of a normal distribution."""


@dataclass(frozen=True)
class Statistics:
    """Shift and scale of bands and target: (value - shift) / scale.

    `target_range` has the lowest and the highest label.
    """

    shift: tuple[float, ...]
    scale: tuple[float, ...]
    target_shift: float
    target_scale: float
    profile: BandProfile
    """What the values are, for :meth:`geobiomass.BiomassRegressor.check`."""
    target_range: tuple[float, float] = (math.nan, math.nan)
    static: LayerStatistics | None = None
    """The same of static layers, where a network reads some."""


@dataclass(frozen=True)
class LayerStatistics:
    """Shift and scale of static layers, and what their values are."""

    shift: tuple[float, ...]
    scale: tuple[float, ...]
    profile: BandProfile


def measure_statistics(
    reader: Reader,
    samples: Sequence[Sample],
    skip: bool = False,
    progress: bool = False,
) -> Statistics:
    """Measure the scaling of bands and labels, in one pass over the training data.

    Bands: the 5th and 95th percentile become -1.645 and 1.645, as in a normal
    distribution with standard deviation 1. So clouds and damaged values do not
    compress the rest. If all of a cube on disk is trained on, its stored percentiles
    are used; else they are counted on `samples` alone, so that no held-out data
    enters. Labels: mean and standard deviation of those up to their 99.9th
    percentile. A band whose percentiles are equal is scaled by its standard deviation.
    A band without any value, or of one value, has the scale `UNKNOWN`: the network
    takes it as missing. The profile of the
    bands is of the same values; by month, of a sample of them.

    Parameters
    ----------
    reader : Reader
        Over a cube with ``agb``.
    samples : sequence of Sample
        The training samples; they do not overlap.
    skip : bool
        Skip samples that cannot be read.
    progress : bool
        Show a progress bar.

    Raises
    ------
    CubeError
        If there is no label, a sample cannot be read and `skip` is False, or nothing
        can be learnt, see :func:`.check_training_data`.
    """
    known = reader.statistics if _area(samples) == reader.pixels else None
    images, labels = reader.tally(), BandTally(["agb"])
    count = partial(_count, reader, known is None)
    for image, label in _counted(samples, count, skip, progress):
        images.merge(image)
        labels.merge(label)
    table = images.table() if known is None else known
    shifts, scales = _robust(table)
    mean, spread = labels.below(99.9)
    counted = labels.table()
    ((lowest, highest),) = counted[["minimum", "maximum"]].to_numpy().tolist()
    check_training_data(counted, scales, UNKNOWN, reader, samples, skip)
    return Statistics(
        shifts,
        scales,
        mean,
        spread or 1.0,
        BandProfile.of(table, sample_input(reader, samples).by_month()),
        (lowest, highest),
    )


def _robust(table: pd.DataFrame) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return shift and scale of each row of a table of statistics."""
    ranges = table[["p5", "p95", "sd"]].fillna(0).to_numpy().tolist()
    return (
        tuple((low + high) / 2 for low, high, _ in ranges),
        tuple((high - low) / _SPAN or sd or UNKNOWN for low, high, sd in ranges),
    )


def measure_layers(
    reader: Reader, samples: Sequence[Sample], skip: bool = False
) -> LayerStatistics:
    """Measure the scaling of static layers, as of bands, on the training data alone.

    A layer of one value has the scale `UNKNOWN`, with which it has no effect.

    Parameters
    ----------
    reader : Reader
        Over a cube, with its static layers.
    samples : sequence of Sample
        The training samples; they do not overlap.
    skip : bool
        Skip samples that cannot be read.

    Raises
    ------
    CubeError
        If a layer has no value in the training data; or a sample cannot be read and
        `skip` is False.
    """
    alone = reader.layers_alone()
    table = alone.statistics if _area(samples) == alone.pixels else None
    if table is None:
        tally = alone.tally()
        for part in _counted(samples, partial(_tallied, alone), skip):
            tally.merge(part)
        table = tally.table()
    empty = [str(name) for name, count in table["count"].items() if not count]
    if empty:
        raise CubeError(
            "Static layers must have values in the training data, got none of "
            f"{empty}; leave them out, cube.drop_sel(layer=[...])."
        )
    profile = BandProfile.of(table, sample_input(alone, samples).by_month())
    return LayerStatistics(*_robust(table), profile)


def _area(samples: Sequence[Sample]) -> int:
    return sum(sample.window.height * sample.window.width for sample in samples)


def _counted(
    samples: Sequence[Sample],
    count: Callable[[Sample], Counts],
    skip: bool,
    progress: bool = False,
) -> Iterator[Counts]:
    """Yield what is counted of each sample that can be read, on a few threads."""
    from tqdm.auto import tqdm

    workers = min(8, os.cpu_count() or 1)
    with tqdm(total=len(samples), desc="Measuring", disable=not progress) as bar:
        for _, future in few_at_a_time(samples, count, workers):
            bar.update()
            try:
                yield future.result()
            except DamagedError:
                if not skip:
                    raise


def _tallied(reader: Reader, sample: Sample) -> BandTally:
    """Count the values of one sample."""
    image = reader.tally()
    image.add(reader.codes(sample))
    return image


def _count(
    reader: Reader, with_image: bool, sample: Sample
) -> tuple[BandTally, BandTally]:
    """Count the values of one sample, if they are not known, and its labels."""
    image = _tallied(reader, sample) if with_image else reader.tally()
    labels = BandTally(["agb"])
    labels.add(reader.labels(sample)[None])
    return image, labels


def set_scaling(
    network: AttentionUNet, bands: Sequence[str], recipe: Recipe, found: Statistics
) -> None:
    """Set the scaling of a network, as a recipe says.

    Raises
    ------
    CubeError
        If the recipe has no constants for a band.
    """
    shift, scale = found.shift, found.scale
    if recipe.scaling == "biomassters":
        unknown = [band for band in bands if band not in BIOMASSTERS_RANGE]
        if unknown:
            raise CubeError(
                f"scaling='biomassters' knows no minimum and maximum of {unknown}, "
                f"only of {list(BIOMASSTERS_RANGE)}; use scaling='robust'."
            )
        ranges = [BIOMASSTERS_RANGE[band] for band in bands]
        shift = tuple(float(low) for low, _ in ranges)
        scale = tuple(float(high - low) for low, high in ranges)
    else:
        _tell_unknown([b for b, s in zip(bands, scale, strict=True) if s == UNKNOWN])
    outputs = network.target_shift.numel()
    shifts = [found.target_shift] * outputs
    if getattr(network, "spread", False):  # networks of other classes have none
        shifts[-1] = 0.0  # of a standard deviation
    network.set_statistics(shift, scale, shifts, [found.target_scale] * outputs)
    fusion = getattr(network, "fusion", None)
    if found.static is not None and fusion is not None:
        fusion.set_statistics(found.static.shift, found.static.scale)
        _tell_constant(fusion.names, found.static.scale)


def _tell_constant(layers: Sequence[str], scales: Sequence[float]) -> None:
    constant = [one for one, s in zip(layers, scales, strict=True) if s == UNKNOWN]
    if constant:
        warnings.warn(
            f"Static layers of one value in the training data: {', '.join(constant)}. "
            "They have no effect, in maps too; train on data where they differ, or "
            "leave them out with cube.drop_sel(layer=[...]).",
            stacklevel=5,
        )


def _tell_unknown(bands: Sequence[str]) -> None:
    if bands:
        warnings.warn(
            f"Bands without any value, or of one value, in the training data: "
            f"{', '.join(bands)}. The model takes them as missing, in maps too; train "
            "on data with them, or leave them out with cube.sel(band=[...]).",
            stacklevel=5,
        )
