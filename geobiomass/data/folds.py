"""Folds of spatial cross-validation: blocks, regions or chips, never single pixels."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import xarray as xr

from geobiomass.cube import CubeError, as_cube
from geobiomass.data.fingerprint import hash_values
from geobiomass.data.fold_groups import (
    check_options,
    chips_in,
    count_labels,
    count_labels_in_memory,
    grid_of,
    regions_in,
    side_of_blocks,
    size_of,
)
from geobiomass.data.groups import (
    NOWHERE,
    BlockGround,
    ChipGround,
    Ground,
    Numbers,
    widened,
)
from geobiomass.data.reader import Sample
from geobiomass.tiles import Window
from geobiomass.training.setting_names import explain_arguments

Mask = npt.NDArray[np.bool_]


@explain_arguments
@dataclass(frozen=True, eq=False)
class Folds:
    """Assignment of blocks, regions or chips to the folds that hold them out.

    :func:`make_folds` makes it; iterating over it yields each
    :class:`~geobiomass.data.folds.Fold`.

    Parameters
    ----------
    by : str
        Kind of the groups: "block", "chip", the name of a region, "polygon".
    count : int
        Number of folds.
    ground : Ground
        The group of each pixel.
    fold_of : tuple of int
        The fold of each group.
    pixels : tuple of int, optional
        Labelled pixels of each group; None if they are not counted.
    buffer : int
        Width of the buffer around held-out pixels, pixels: its labels do not train.
    seed : int
        Seed of the assignment of groups to folds.
    block : int, optional
        Side of a scene's blocks, pixels.
    size : tuple of int
        Chips (0 for a scene), rows and columns of the cube.
    grid : str
        Fingerprint of the names of the cube's chips, or of a scene's coordinates.
    """

    by: str
    count: int
    ground: Ground
    fold_of: tuple[int, ...]
    pixels: tuple[int, ...] | None
    buffer: int
    seed: int
    block: int | None
    size: tuple[int, int, int]
    grid: str

    def __len__(self) -> int:
        """Return the number of folds."""
        return self.count

    def __getitem__(self, number: int) -> Fold:
        """Return one fold, counted from 0."""
        if not 0 <= number < self.count:
            raise IndexError(f"fold must be from 0 to {self.count - 1}, got {number}.")
        return Fold(self, number)

    def __iter__(self) -> Iterator[Fold]:
        """Iterate over the folds in order."""
        return (Fold(self, number) for number in range(self.count))

    def __eq__(self, other: object) -> bool:
        """Return whether the same folds hold out the same pixels."""
        return isinstance(other, Folds) and self.identity == other.identity

    def __hash__(self) -> int:
        """Return a hash of what equality compares."""
        return hash(self.identity)

    @cached_property
    def identity(self) -> str:
        """Fingerprint of the assignment of pixels to folds, 64 hexadecimal digits."""
        return hash_values(
            self.count, self.fold_of, self.buffer, self.size, self.ground.identity()
        )

    @property
    def groups(self) -> pd.Series:
        """The fold of each group, by the group's name."""
        names = pd.Index(self.ground.names, name=self.by)
        return pd.Series(self.fold_of, names, name="fold")

    @property
    def table(self) -> pd.DataFrame:
        """A row for each fold: groups held out, and labelled pixels if counted."""
        numbers = np.array(self.fold_of)
        counts = np.bincount(numbers, minlength=self.count)
        table = pd.DataFrame({"groups": counts}, pd.RangeIndex(self.count, name="fold"))
        if self.pixels is not None:
            pixels = np.array(self.pixels, float)
            found = np.bincount(numbers, pixels, self.count).astype(int)
            table["labelled_pixels"] = found
        return table

    @property
    def what(self) -> str:
        """The kind of group that is held out, in words."""
        return _what(self.by, self.block)

    def __repr__(self) -> str:
        """Return the number and kind of the folds, and what each holds out."""
        rows = [
            f"fold {number}: {row['groups']} held out"
            + (f", {row['labelled_pixels']:,} labels" if self.pixels else "")
            for number, row in self.table.iterrows()
        ]
        return "\n  ".join([folds_in_words(vars(self)), *rows])

    def numbers(self, sample: Sample) -> Numbers:
        """Return the fold that holds out each pixel, (y, x), or -1 for none.

        Parameters
        ----------
        sample : Sample
            A window of a scene, or of one chip.
        """
        folds = np.array([*self.fold_of, NOWHERE], np.int32)
        return folds[self.ground.groups(sample)]

    def names(self, sample: Sample) -> tuple[Numbers, tuple[str, ...]]:
        """Return the group of each pixel, (y, x), or -1, and the names of the groups.

        Parameters
        ----------
        sample : Sample
            A window of a scene, or of one chip.
        """
        return self.ground.groups(sample), self.ground.names

    def check(self, cube: xr.Dataset) -> None:
        """Check that these folds were made from this cube.

        Parameters
        ----------
        cube : xarray.Dataset
            A scene or chips.

        Raises
        ------
        CubeError
            If the cube has other chips, or another size or position.
        """
        if (size_of(cube), grid_of(cube)) != (self.size, self.grid):
            raise CubeError(
                f"folds must be made of the cube that they are used with, got folds of "
                f"{_in_words(self.size)} and a cube of {_in_words(size_of(cube))}"
                f"{'' if size_of(cube) != self.size else ' elsewhere'}; "
                "gb.make_folds(cube) makes them."
            )


def folds_in_words(folds: Mapping[str, Any]) -> str:
    """Describe folds in one line.

    Parameters
    ----------
    folds : mapping
        The parameters of :class:`Folds` by name, as a saved cross-validation has them.
    """
    buffer, groups = folds["buffer"], len(folds["fold_of"])
    around = f"buffer of {buffer} pixels" if buffer else "no buffer"
    what = _what(folds["by"], folds["block"])
    return f"{folds['count']} folds of {groups} {what}, {around}"


def _what(by: str, block: int | None) -> str:
    if by == "block":
        return f"blocks of {block} pixels"
    return {"chip": "chips", "polygon": "polygons"}.get(by, f"groups by {by!r}")


@dataclass(frozen=True)
class Fold:
    """One of several folds: the pixels it holds out and those that train.

    Parameters
    ----------
    folds : Folds
        All of them.
    number : int
        Number of this fold, from 0.
    """

    folds: Folds
    number: int

    @property
    def validated(self) -> bool:
        """Whether the held-out pixels are compared with the network in training."""
        return True

    @property
    def held_out(self) -> tuple[str, ...]:
        """Names of the held-out blocks, regions or chips."""
        pairs = zip(self.folds.ground.names, self.folds.fold_of, strict=True)
        return tuple(name for name, fold in pairs if fold == self.number)

    def __repr__(self) -> str:
        """Return its number, and the groups it holds out."""
        count = len(self.held_out)
        return f"Fold {self.number} of {self.folds.count}: {count} {self.folds.what}"

    def to_dict(self) -> dict[str, Any]:
        """Return a description for a model's provenance, as JSON values."""
        folds = self.folds
        return {
            "number": self.number,
            "count": folds.count,
            "by": folds.by,
            "block": folds.block,
            "buffer": folds.buffer,
            "groups": len(self.held_out),
            "fingerprint": folds.identity,
        }

    def validates(self, sample: Sample) -> Mask:
        """Return which pixels of a sample are held out, (y, x).

        Parameters
        ----------
        sample : Sample
            A window of a scene, or of one chip.
        """
        return np.asarray(self.folds.numbers(sample) == self.number)

    def trains(self, sample: Sample) -> Mask:
        """Return which pixels of a sample train: neither held out nor in the buffer.

        Parameters
        ----------
        sample : Sample
            A window of a scene, or of one chip.
        """
        folds, window = self.folds, sample.window
        if isinstance(folds.ground, ChipGround):
            chips = np.array(folds.fold_of)[folds.ground.group_of] == self.number
            if chips[sample.chip or 0]:
                return np.zeros((window.height, window.width), bool)
            return ~folds.ground.near(sample, chips, folds.buffer)
        _, height, width = folds.size
        around = Window(
            max(0, window.top - folds.buffer),
            max(0, window.left - folds.buffer),
            min(height, window.bottom + folds.buffer),
            min(width, window.right + folds.buffer),
        )
        held = widened(self.validates(Sample(around)), folds.buffer)
        return ~held[window.within(around)]


@explain_arguments
def make_folds(
    cube: xr.Dataset | xr.DataArray,
    count: int = 5,
    by: Any = None,
    *,
    block: int | str | None = None,
    buffer: int = 0,
    seed: int = 0,
    column: str | None = None,
    variogram: Any = None,
    residuals: pd.DataFrame | None = None,
    corners: tuple[str, str] = ("top", "left"),
) -> Folds:
    """Assign the pixels of a cube to folds, for spatial cross-validation.

    Whole blocks, regions or chips are held out together. Groups are assigned so that
    all folds have about the same number of labelled pixels of a scene, or of chips.
    Single pixels cannot be held out: next to training pixels their error
    is too small.

    Parameters
    ----------
    cube : xarray.Dataset
        With ``agb``.
    count : int
        Number of folds: 2 or more.
    by : optional
        "block": blocks of a scene, its default. "chip": chips, the default of chips.
        The name of a coordinate along ``chip`` (a region, a flight, a tile), or of a
        (y, x) coordinate or variable of a scene with numbers or names of regions. Or
        polygons on a scene: a GeoDataFrame or GeoJSON (a feature is a group), a path to
        a vector file, a mapping of names to regions, or a sequence of regions. Polygons
        that share a pixel are one group. Pixels in no region or polygon train, except
        in the buffer, and never validate.
    block : int or "auto", optional
        Side of blocks, pixels; by default 256, or less so that the scene has at least
        nine of them and two for each fold. "auto": the distance up to which errors
        correlate, from `variogram` or `residuals`.
    buffer : int
        Width of the buffer around held-out pixels, in rows and columns: its labels do
        not train.
    seed : int
        Seed of the assignment of groups to folds.
    column : str, optional
        The column of polygons that names the groups; by default "name" if there is
        one, else each polygon is a group.
    variogram : geobiomass.statistics.variogram.Variogram, optional
        Variogram of errors, for ``block="auto"``.
    residuals : pandas.DataFrame, optional
        As :func:`residuals` returns them, for ``block="auto"``.
    corners : tuple of str
        Names of two coordinates along ``chip``: row and column of each chip's first
        pixel on a grid that they share. If the cube has them, pixels of a chip that
        are in a held-out chip or its buffer do not train.

    Returns
    -------
    Folds
        For ``gb.fit(cube, folds=...)`` or ``gb.cross_validate(cube, folds=...)``;
        prints itself.

    Raises
    ------
    CubeError
        If the cube has no label, no such coordinate, or fewer groups with labels than
        folds; if there is a buffer and the positions of the chips are unknown.
    ValueError
        If a number is out of range, settings contradict each other, or `by` asks for
        pixels.

    Examples
    --------
    >>> import geobiomass as gb
    >>> gb.make_folds(gb.landscape(192, months=2), 3, block=64)
    3 folds of 9 blocks of 64 pixels, no buffer
      fold 0: 3 held out, 12,288 labels
      fold 1: 3 held out, 12,288 labels
      fold 2: 3 held out, 12,288 labels
    """
    cube = as_cube(cube)
    if "agb" not in cube:
        raise CubeError(
            "folds need labels: the cube has no 'agb'; cube.assign(agb=...)."
        )
    chips = "chip" in cube.dims
    by = ("chip" if chips else "block") if by is None else by
    kind = by if isinstance(by, str) else "polygon"
    check_options(count, kind, block, buffer, column, chips)
    side = None
    ground: Ground
    if chips:
        ground = chips_in(cube, by, buffer, corners)
        sizes = areas = np.bincount(ground.group_of)
        pixels = count_labels_in_memory(cube, ground)
    else:
        if kind == "block":
            side = side_of_blocks(cube, count, block, variogram, residuals)
            ground = BlockGround(cube.sizes["y"], cube.sizes["x"], side)
        else:
            ground = regions_in(cube, by, column)
        sizes, areas = count_labels(cube, ground)
        pixels = tuple(sizes.tolist())
    known = int(np.count_nonzero(sizes))
    if known < count:
        raise CubeError(
            f"{count} folds need as many groups with labels, got {known} of "
            f"{len(ground.names)}; ask for fewer folds, or for smaller blocks."
        )
    return Folds(
        kind,
        count,
        ground,
        tuple(_deal(sizes, areas, count, seed)),
        pixels,
        buffer,
        seed,
        side,
        size_of(cube),
        grid_of(cube),
    )


def _deal(
    sizes: npt.NDArray[Any], areas: npt.NDArray[Any], count: int, seed: int
) -> list[int]:
    """Assign groups to folds, large ones first, each to the smallest fold so far.

    Groups of similar size come in random order. Groups without labels are assigned by
    area, after the others.
    """
    draw = np.random.default_rng(seed)
    order = draw.permutation(len(sizes))
    # A rank holds sizes that differ by a factor below 1.4, the root of two.
    rank = np.where(sizes > 0, np.floor(2 * np.log2(np.maximum(sizes, 1))), -1)
    order = order[np.argsort(-rank[order], kind="stable")]
    folds = [0] * len(sizes)
    for with_labels, weights in ((True, sizes), (False, areas)):
        # The second number breaks ties at random, the same for the same seed.
        heap = [(0, int(tie), fold) for fold, tie in enumerate(draw.permutation(count))]
        heapq.heapify(heap)
        for group in order:
            if (sizes[group] > 0) != with_labels:
                continue
            load, tie, fold = heapq.heappop(heap)
            folds[group] = fold
            heapq.heappush(heap, (load + int(weights[group]), tie, fold))
    return folds


def _in_words(size: Sequence[int]) -> str:
    chips, height, width = size
    pixels = f"{height} x {width} pixels"
    return f"{chips} chips of {pixels}" if chips else f"a scene of {pixels}"
