"""Chips and spatial blocks: find the labelled ones, hold some out, cut crops."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import xarray as xr

from geobiomass.cube import CubeError, DamagedError
from geobiomass.cube.alignment import crs_text
from geobiomass.data.reader import Reader, Sample
from geobiomass.tiles import Marks, cover, even_blocks

FEWEST_BLOCKS = 9
"""A scene is split into this many blocks at least, if they stay wide enough."""
NARROWEST_BLOCK = 32
"""Pixels: the side of the smallest blocks that a scene is split into."""

NO_LABEL = (
    "'agb' has no label: every value is NaN. Check the nodata value and that labels "
    "and image overlap."
)


def samples_of(reader: Reader, block: int, fewest: int = FEWEST_BLOCKS) -> list[Sample]:
    """Return the units that a split never cuts: chips, or blocks of a scene.

    Parameters
    ----------
    reader : Reader
        Over the cube to split.
    block : int
        Side of a scene's blocks, pixels; made smaller if the scene would have fewer
        than `fewest` of them.
    fewest : int
        Blocks of a scene at least.
    """
    if reader.chips:
        return [Sample(reader.whole, chip) for chip in range(reader.count)]
    side = block
    while True:
        windows = even_blocks(reader.height, reader.width, side)
        if len(windows) >= fewest or side <= NARROWEST_BLOCK:
            return [Sample(window) for window in windows]
        side = max(NARROWEST_BLOCK, side // 2)


def labelled(
    reader: Reader,
    samples: Sequence[Sample],
    skip: bool = False,
    none: str = NO_LABEL,
) -> list[Sample]:
    """Return the samples with at least one label.

    Chips are all returned as soon as one has a label: reading the labels of thousands
    of chips takes long, and the losses ignore chips without any.

    Parameters
    ----------
    reader : Reader
        Over a cube with ``agb``.
    samples : sequence of Sample
        Chips or blocks.
    skip : bool
        Skip labels that cannot be read.
    none : str
        The error message if there is no label anywhere.

    Raises
    ------
    CubeError
        If there is no label anywhere, or labels cannot be read and not `skip`.
    """
    if not reader.chips:
        return list(label_marks(reader, samples, skip, none))
    if not any(marks.count for marks in _read_marks(reader, samples, skip)):
        raise CubeError(none)
    return list(samples)


def label_marks(
    reader: Reader,
    samples: Sequence[Sample],
    skip: bool = False,
    none: str = NO_LABEL,
) -> dict[Sample, Marks]:
    """Return the positions of the labels in each block of a scene that has some.

    Parameters
    ----------
    reader, samples, skip, none
        As :func:`labelled` takes them.

    Raises
    ------
    CubeError
        As :func:`labelled` does.
    """
    marks = {
        Sample(each.window): each
        for each in _read_marks(reader, samples, skip)
        if each.count
    }
    if not marks:
        raise CubeError(none)
    return marks


def _read_marks(
    reader: Reader, samples: Sequence[Sample], skip: bool
) -> Iterator[Marks]:
    for sample in samples:
        try:
            known = np.isfinite(reader.labels(sample))
        except DamagedError:
            if not skip:
                raise
            continue
        yield Marks(sample.window, known)


def hold_out(
    samples: Sequence[Sample],
    fraction: float,
    seed: int,
    groups: Sequence[str] | None = None,
    least: int = 1,
    fold: int = 0,
    least_groups: int = 1,
) -> tuple[list[Sample], list[Sample]]:
    """Draw the samples to hold out at random, whole groups at a time.

    Parameters
    ----------
    samples : sequence of Sample
        Chips or blocks.
    fraction : float
        Share of the samples to hold out; at least one group is, and one stays.
    seed : int
        Seed of the random draw.
    groups : sequence of str, optional
        The group of each sample; by default each is its own.
    least : int
        Samples to hold out at least: every process needs one to validate on.
    fold : int
        The part to hold out, from 0. Parts of the same seed and fraction share no
        sample, and 1 / fraction of them are all samples.
    least_groups : int
        Groups to hold out at least, if this fold has enough left.

    Returns
    -------
    training, validation : list of Sample

    Raises
    ------
    CubeError
        If there is only one group, or none for this fold.
    """
    names = (
        list(groups) if groups is not None else [str(i) for i in range(len(samples))]
    )
    order = np.random.default_rng(seed).permutation(sorted(set(names)))
    if len(order) < 2:
        raise CubeError(
            f"{len(samples)} chip or block in one group cannot be split into training "
            "and validation; give a validation cube, or validation=0 for none."
        )
    size = fraction * len(samples)
    end = max((fold + 1) * size, fold * size + least)
    chosen: set[str] = set()
    passed = 0
    for name in order:
        enough = len(chosen) >= max(1, least_groups) and passed >= end
        if enough or len(chosen) == len(order) - 1:
            break
        if passed >= fold * size:
            chosen.add(str(name))
        passed += names.count(str(name))
    if not chosen:
        raise CubeError(
            f"fold {fold} of {len(samples)} chips or blocks in {len(order)} groups is "
            "empty; ask for fewer folds."
        )
    pairs = list(zip(samples, names, strict=True))
    training = [sample for sample, name in pairs if name not in chosen]
    validation = [sample for sample, name in pairs if name in chosen]
    return training, validation


def groups_of(
    cube: xr.Dataset, samples: Sequence[Sample], coordinate: str | None
) -> list[str] | None:
    """Return the group of each chip, from a coordinate along ``chip``.

    Raises
    ------
    CubeError
        If the cube has no such coordinate.
    """
    if coordinate is None:
        return None
    if coordinate not in cube.coords or cube[coordinate].dims != ("chip",):
        raise CubeError(
            f"groups={coordinate!r} must be a coordinate along 'chip', got coordinates "
            f"{sorted(map(str, cube.coords))}."
        )
    values = cube[coordinate].values
    return [str(values[sample.chip]) for sample in samples]


def check_no_overlap(training: xr.Dataset, validation: xr.Dataset) -> None:
    """Check that a validation cube shares no chips or ground with the training cube.

    Raises
    ------
    CubeError
        Names the chips, or the bounds that overlap.
    """
    if "chip" in training.dims and "chip" in validation.dims:
        ours = set(map(str, training["chip"].values))
        both = sorted(ours & set(map(str, validation["chip"].values)))
        if both:
            raise CubeError(
                f"{len(both)} chips are in training and in validation, such as "
                f"{both[:3]}; leave them out of one of the two."
            )
    if "chip" in training.dims or "chip" in validation.dims:
        return
    system = crs_text(training)
    if system is None or system != crs_text(validation):
        return
    spans = [
        (min(a.min(), a.max()), max(a.min(), a.max()))
        for cube in (training, validation)
        for a in (cube["y"].values, cube["x"].values)
    ]
    (y0, y1), (x0, x1), (v0, v1), (w0, w1) = spans
    if y0 <= v1 and v0 <= y1 and x0 <= w1 and w0 <= x1:
        raise CubeError(
            "The validation scene covers ground of the training scene: y "
            f"{max(y0, v0)} to {min(y1, v1)}, x {max(x0, w0)} to {min(x1, w1)}; "
            "select parts that do not overlap, cube.sel(x=slice(...))."
        )


def crops_in(
    samples: Sequence[Sample],
    crop: int | None,
    marks: Mapping[Sample, Marks] | None = None,
) -> list[Sample]:
    """Repeat samples so that an epoch's random crops cover about their area.

    A sample in `marks` gets no more crops than it has labels.
    """
    if crop is None:
        return list(samples)
    return [
        sample
        for sample in samples
        for _ in range(_crops_of(sample, crop, (marks or {}).get(sample)))
    ]


def repeated(samples: Sequence[Sample], least: int) -> list[Sample]:
    """Return samples, each repeated about as often, so that there are `least`."""
    count = max(least, len(samples))
    return [samples[number * len(samples) // count] for number in range(count)]


def _crops_of(sample: Sample, crop: int, marks: Marks | None) -> int:
    count = max(1, round(sample.window.height * sample.window.width / crop**2))
    return count if marks is None else min(count, marks.count)


def fixed_crops(
    samples: Sequence[Sample],
    crop: int | None,
    marks: Mapping[Sample, Marks] | None = None,
) -> list[Sample]:
    """Return crops of one size that cover the samples, for validation.

    Crops without a label are left out, if their sample is in `marks`.
    """
    if crop is None:
        return list(samples)
    known = marks or {}
    return [
        Sample(window, sample.chip)
        for sample in samples
        for window in cover(sample.window, crop, crop)
        if sample not in known or known[sample].within(window)
    ]
