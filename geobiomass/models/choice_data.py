"""Labels of a choice between learners: how dense they are, and the folds to compare on.

Only labels are read here, block by block, and no image.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from geobiomass.cube import DamagedError
from geobiomass.data.fold_groups import grid_of, size_of
from geobiomass.data.folds import Fold, Folds
from geobiomass.data.groups import BlockGround, ChipGround
from geobiomass.data.labelled_cube import LabelledCube
from geobiomass.data.reader import Sample
from geobiomass.data.splits import NARROWEST_BLOCK
from geobiomass.learner.fitting import folds_of
from geobiomass.recipes.label_table import LabelTable
from geobiomass.recipes.recipe import Recipe
from geobiomass.recipes.split import HeldOut, Split, units_to_split
from geobiomass.tiles import EVALUATION_BLOCK, blocks, even_blocks

DENSE_SHARE = 0.5
"""Share of the pixels of labelled chips or blocks from which on labels are dense."""
DENSE_PIXELS = 192 * 64 * 64
"""Labelled pixels from which on a network is trained without a comparison: as many as
in docs/benchmarks.md, "Recipes", where the network is better than boosting by pixel
(30.5 against 38.8 Mg/ha). Fewer dense labels are compared as few labels are."""
FOLDS = 3
"""Folds that learners are compared on, where a network is: each costs a training."""

_WINDOW = 1024  # pixels: side of the windows that labels are read in
_FEW_UNITS = 32  # labelled chips or blocks after which a share is known well enough

Mask = npt.NDArray[np.bool_]
Allowed = Callable[[Sample], Mask]


@dataclass(frozen=True)
class Density:
    """How many labels there are, as far as they were counted.

    Parameters
    ----------
    labels : int
        Labelled pixels.
    pixels : int
        Pixels of the chips or blocks that have one.
    units : int
        Chips or blocks that have one.
    whole : bool
        Whether all were counted: not where that many are dense in any case.
    """

    labels: int
    pixels: int
    units: int
    whole: bool

    @property
    def dense(self) -> bool:
        """Whether a network is trained without a comparison."""
        return self.labels >= DENSE_PIXELS and self.labels > DENSE_SHARE * self.pixels

    @property
    def share(self) -> float:
        """Share of the pixels of labelled chips or blocks that have a label."""
        return self.labels / max(1, self.pixels)


def count_labels(data: LabelledCube, recipe: Recipe, held: HeldOut) -> Density:
    """Count the labels of chips, or of the blocks that a learner by pixel groups.

    Chips or blocks come in random order. Where labels are dense, not all are read.

    Parameters
    ----------
    data : LabelledCube
        To learn from.
    recipe : Recipe
        Of the learner by pixel.
    held : HeldOut
        What validates.

    Raises
    ------
    CubeError
        If labels cannot be read and the recipe does not skip them.
    """
    units = units_to_split(data, recipe, held, calibrate=False)
    order = np.random.default_rng(recipe.training.seed).permutation(len(units))
    found = Density(0, 0, 0, False)
    for number in order:
        unit = units[number]
        labels = _labels_in(data, unit, recipe.damaged == "skip")
        if labels:
            area = unit.window.height * unit.window.width
            found = Density(
                found.labels + labels, found.pixels + area, found.units + 1, False
            )
        if found.dense and found.units >= _FEW_UNITS:
            return found
    return replace(found, whole=True)


def _labels_in(data: LabelledCube, unit: Sample, skip: bool) -> int:
    top, left, total = unit.window.top, unit.window.left, 0
    for part in blocks(unit.window.height, unit.window.width, _WINDOW):
        window = replace(
            part,
            top=part.top + top,
            left=part.left + left,
            bottom=part.bottom + top,
            right=part.right + left,
        )
        try:
            labels = data.reader.labels(Sample(window, unit.chip))
        except DamagedError:
            if not skip:
                raise
            continue
        total += int(np.isfinite(labels).sum())
    return total


@dataclass(frozen=True)
class ComparedFold(Fold):
    """A fold of a comparison: labels that are held out from all of it take no part.

    Parameters
    ----------
    folds, number
        As :class:`.Fold` takes them.
    allowed : callable
        Returns which pixels of a sample take part, (y, x).
    """

    allowed: Allowed

    @property
    def validated(self) -> bool:
        """Whether held-out pixels are seen in training: they measure the error alone.

        With them the network would also choose its norms, in a share of the time.
        """
        return False

    def validates(self, sample: Sample) -> Mask:
        """Return which pixels of a sample are held out, (y, x)."""
        return np.asarray(super().validates(sample) & self.allowed(sample))

    def trains(self, sample: Sample) -> Mask:
        """Return which pixels of a sample train, (y, x)."""
        return np.asarray(super().trains(sample) & self.allowed(sample))


def allowed_by(held: HeldOut, splits: Sequence[Split]) -> Allowed:
    """Return the pixels that may take part: none that validates afterwards.

    Parameters
    ----------
    held : HeldOut
        What the user holds out.
    splits : sequence of Split
        Of the trainings of which one follows.
    """
    outside = [
        sample
        for split in splits
        if split.validation is not None and not isinstance(held, Fold | LabelledCube)
        for sample in split.validation.samples
    ]

    def allowed(sample: Sample) -> Mask:
        window = sample.window
        found = np.ones((window.height, window.width), bool)
        for other in outside:
            common = window.intersect(other.window)
            if other.chip == sample.chip and common is not None:
                found[common.within(window)] = False
        return found & held.trains(sample) if isinstance(held, Fold) else found

    return allowed


def rows_allowed(table: LabelTable, allowed: Allowed) -> Mask:
    """Return which rows of a table take part."""
    return _at_rows(table, allowed).astype(bool)


def _at_rows(
    table: LabelTable, layer: Callable[[Sample], npt.NDArray[np.generic]]
) -> npt.NDArray[np.generic]:
    """Return the values of a layer at the rows of a table."""
    found: npt.NDArray[np.generic] | None = None
    for number in np.unique(table.where):
        sample, own = table.samples[number], table.where == number
        values = layer(sample)
        if found is None:
            found = np.zeros(len(table), values.dtype)
        at = table.pixels[own] - np.array([sample.window.top, sample.window.left])
        found[own] = values[at[:, 0], at[:, 1]]
    return np.zeros(0) if found is None else found


def side_of_blocks(
    data: LabelledCube, recipe: Recipe, held: HeldOut, calibrate: bool
) -> int | None:
    """Return the side of the blocks that labels of a scene are grouped by, pixels.

    Parameters
    ----------
    data, recipe, held, calibrate
        As :func:`.split.units_to_split` takes them.
    """
    reader = data.reader
    if reader.chips:
        return None
    units = units_to_split(data, recipe, held, calibrate)
    windows = [unit.window for unit in units]
    side = recipe.block or 2 * (recipe.crop or EVALUATION_BLOCK)
    sides = [held.folds.block] if isinstance(held, Fold) and held.folds.block else []
    while side > NARROWEST_BLOCK:
        sides.append(side)
        side = max(NARROWEST_BLOCK, side // 2)
    for one in [*sides, side]:
        if even_blocks(reader.height, reader.width, one) == windows:
            return one
    raise ValueError(f"blocks must be of one of {[*sides, side]} pixels, got {windows}")


def make_common_folds(
    data: LabelledCube,
    table: LabelTable,
    groups: npt.NDArray[np.int64],
    named: str | None,
    side: int | None,
    seed: int,
) -> tuple[Folds, npt.NDArray[np.int64]]:
    """Return folds that all learners are compared on, and the fold of each row.

    Parameters
    ----------
    data : LabelledCube
        To learn from.
    table : LabelTable
        The labels.
    groups : numpy.ndarray
        (row,) the group of each: rows of one group are in one fold.
    named : str, optional
        The coordinate along ``chip`` that names the groups.
    side : int, optional
        Of the blocks of a scene, pixels; None for chips.
    seed : int
        Seed of the order of groups of equal size.
    """
    cube, reader = data.cube, data.reader
    by_row = folds_of(groups, seed, FOLDS)
    ground: BlockGround | ChipGround
    if side is not None:
        ground, by = BlockGround(reader.height, reader.width, side), "block"
    else:
        # One group by a coordinate is measured by chip.
        by = "chip" if named is None or _by_chip(groups, table) else named
        names = map(str, cube["chip"].values if by == "chip" else cube[by].values)
        ground = ChipGround([*names], reader.height, reader.width)
    fold_of = np.arange(len(ground.names)) % (int(by_row.max()) + 1)
    first = np.unique(table.where, return_index=True)[1]
    for row in first:
        sample = table.samples[table.where[row]]
        corner = Sample(
            replace(sample.window, bottom=sample.window.top + 1), sample.chip
        )
        fold_of[ground.groups(corner)[0, 0]] = by_row[row]
    folds = Folds(
        by,
        int(by_row.max()) + 1,
        ground,
        tuple(fold_of.tolist()),
        None,
        0,
        seed,
        side,
        size_of(cube),
        grid_of(cube),
    )
    return folds, by_row


def _by_chip(groups: npt.NDArray[np.int64], table: LabelTable) -> bool:
    return np.array_equal(groups, table.where)
