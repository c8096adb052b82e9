"""Which chips or spatial blocks train and which validate: never both."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import xarray as xr

from geobiomass.cube import CubeError, DamagedError
from geobiomass.data.reader import Reader, Sample
from geobiomass.tiles import Marks, cover, even_blocks

# A scene is split into at least this many blocks, if they stay 32 pixels wide.
FEWEST_BLOCKS = 9
NARROWEST_BLOCK = 32

NO_LABEL = (
    "'agb' has no label: every value is NaN. Check the nodata value and that labels "
    "and image overlap."
)


def samples_of(reader: Reader, block: int, fewest: int = FEWEST_BLOCKS) -> list[Sample]:
    """Give the units that a split never cuts: chips, or blocks of a scene.

    Parameters
    ----------
    reader : Reader
        Over the cube to split.
    block : int
        Side of a scene's blocks, pixels; made smaller where the scene would not
        have `fewest` of them.
    fewest : int
        Nine, or more where many are needed.
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
    """Keep the places with at least one label.

    Chips are kept all, once one with a label is found: reading the labels of
    thousands of chips takes long, and the losses pass over chips without any.

    Parameters
    ----------
    reader : Reader
        Over a cube with ``agb``.
    samples : sequence of Sample
        Chips or blocks.
    skip : bool
        Pass over labels that cannot be read.
    none : str
        What to say if there is no label anywhere.

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
    """Tell where the labels of a scene are, by place; places without any are left out.

    Parameters
    ----------
    reader, places, skip, none
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
    """Draw the places to validate on, whole groups at a time.

    Parameters
    ----------
    samples : sequence of Sample
        Chips or blocks.
    fraction : float
        Part of the places to hold out; at least one group is, and one stays.
    seed : int
        Decides which.
    groups : sequence of str, optional
        A place's group; by default each is its own.
    least : int
        Places to hold out at least: every process needs one to validate on.
    fold : int
        Which part to hold out: those of one seed and fraction share no place, and
        1 / fraction of them are all places.
    least_groups : int
        Groups to hold out at least, where so many are left for this fold.

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
    """Give each chip's group from a coordinate along ``chip``.

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
                f"{both[:3]}; leave them out of one."
            )
    if "chip" in training.dims or "chip" in validation.dims:
        return
    if training.coords.get("spatial_ref") is None:
        return
    if training["spatial_ref"].attrs != validation["spatial_ref"].attrs:
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
            "cut them apart, cube.sel(x=slice(...))."
        )


def crops_in(
    samples: Sequence[Sample],
    crop: int | None,
    marks: Mapping[Sample, Marks] | None = None,
) -> list[Sample]:
    """Repeat places so that an epoch's random crops cover about their area.

    Of a place in `marks` there are no more crops than labels.
    """
    if crop is None:
        return list(samples)
    return [
        sample
        for sample in samples
        for _ in range(_crops_of(sample, crop, (marks or {}).get(sample)))
    ]


def _crops_of(sample: Sample, crop: int, marks: Marks | None) -> int:
    count = max(1, round(sample.window.height * sample.window.width / crop**2))
    return count if marks is None else min(count, marks.count)


def fixed_crops(
    samples: Sequence[Sample],
    crop: int | None,
    marks: Mapping[Sample, Marks] | None = None,
) -> list[Sample]:
    """Cover places with crops of one size, for validation.

    Crops of a place in `marks` that hold no label are left out.
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
