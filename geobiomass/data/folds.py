"""Folds for honest validation: ground held out together, never single pixels."""

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
from geobiomass.cube.areas import pixel_size
from geobiomass.data.groups import (
    NOWHERE,
    BlockGround,
    ChipGround,
    Ground,
    Numbers,
    PolygonGround,
    ZoneGround,
    corners_of,
    polygons_of,
    widened,
)
from geobiomass.data.hashing import hash_values
from geobiomass.data.reader import Reader, Sample
from geobiomass.data.splits import FEWEST_BLOCKS, NARROWEST_BLOCK
from geobiomass.statistics.variogram import suggest_block
from geobiomass.tiles import Window, blocks, even_blocks

Mask = npt.NDArray[np.bool_]

_BLOCK = 256  # pixels: blocks of a scene where nothing else is said
_PIECE = 1024  # pixels: side of what is read at once
_RANDOM = ("pixel", "pixels", "random")
_NEVER = (
    "by={!r} is not on offer: neighbouring pixels are alike, so a model that has seen "
    "the neighbours of a held-out pixel is scored on what it remembers (Roberts et al. "
    "2017, Ecography 40:913; Ploton et al. 2020, Nature Communications 11:4540). Use "
    "by='block' for a scene, by='chip' for chips, or the name of a region."
)


@dataclass(frozen=True, eq=False)
class Folds:
    """Which ground each of several models does not see: blocks, regions or chips.

    Iterate over it for each :class:`~geobiomass.data.folds.Fold`.
    :func:`make_folds` makes it.

    Parameters
    ----------
    by : str
        What is held out together: "block", "chip", the name of a region, "polygon".
    count : int
        Folds.
    ground : Ground
        Which group a pixel belongs to.
    fold_of : tuple of int
        The fold of each group.
    pixels : tuple of int, optional
        Labelled pixels of each group; None where they were not counted.
    buffer : int
        Pixels around what is held out whose labels do not train.
    seed : int
        Decided which group is in which fold.
    block : int, optional
        Side of a scene's blocks, pixels.
    size : tuple of int
        Chips (0 for a scene), rows and columns of the cube.
    grid : str
        Stands for the cube's chips or places.
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
        """Give the number of folds."""
        return self.count

    def __getitem__(self, number: int) -> Fold:
        """Give one fold, counted from 0."""
        if not 0 <= number < self.count:
            raise IndexError(f"fold must be from 0 to {self.count - 1}, got {number}.")
        return Fold(self, number)

    def __iter__(self) -> Iterator[Fold]:
        """Give the folds in order."""
        return (Fold(self, number) for number in range(self.count))

    def __eq__(self, other: object) -> bool:
        """Tell whether the same pixels are held out by the same folds."""
        return isinstance(other, Folds) and self.identity == other.identity

    def __hash__(self) -> int:
        """Hash what equality compares."""
        return hash(self.identity)

    @cached_property
    def identity(self) -> str:
        """Letters that stand for who holds out what."""
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
        """A row a fold: groups held out, and labelled pixels where they are known."""
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
        """What is held out together, in words."""
        return _what(self.by, self.block)

    def __repr__(self) -> str:
        """Say how many, of what, and how large."""
        rows = [
            f"fold {number}: {row['groups']} held out"
            + (f", {row['labelled_pixels']:,} labels" if self.pixels else "")
            for number, row in self.table.iterrows()
        ]
        return "\n  ".join([folds_in_words(vars(self)), *rows])

    def numbers(self, sample: Sample) -> Numbers:
        """Give the fold that holds out each pixel of a place, (y, x); -1: none does.

        Parameters
        ----------
        sample : Sample
            A window, of one chip where there are chips.
        """
        folds = np.array([*self.fold_of, NOWHERE], np.int32)
        return folds[self.ground.groups(sample)]

    def names(self, sample: Sample) -> tuple[Numbers, tuple[str, ...]]:
        """Give the group of each pixel, (y, x), -1 for none, and the groups' names.

        Parameters
        ----------
        sample : Sample
            A window, of one chip where there are chips.
        """
        return self.ground.groups(sample), self.ground.names

    def check(self, cube: xr.Dataset) -> None:
        """Refuse a cube that these folds were not made of.

        Parameters
        ----------
        cube : xarray.Dataset
            A scene or chips.

        Raises
        ------
        CubeError
            If its chips, or its size or place, are others.
        """
        if (_size_of(cube), _grid_of(cube)) != (self.size, self.grid):
            raise CubeError(
                f"folds must be made of the cube that they are used with, got folds of "
                f"{_in_words(self.size)} and a cube of {_in_words(_size_of(cube))}"
                f"{'' if _size_of(cube) != self.size else ' elsewhere'}; "
                "gb.make_folds(cube) makes them."
            )


def folds_in_words(folds: Mapping[str, Any]) -> str:
    """Say how many folds hold out what, in a line.

    Parameters
    ----------
    folds : mapping
        What :class:`Folds` is made of, by name, as a saved cross-validation has it.
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
    """One of several folds: what it holds out, and what may train.

    Parameters
    ----------
    folds : Folds
        All of them.
    number : int
        Of this one, from 0.
    """

    folds: Folds
    number: int

    @property
    def held_out(self) -> tuple[str, ...]:
        """Names of what is held out: blocks, regions or chips."""
        pairs = zip(self.folds.ground.names, self.folds.fold_of, strict=True)
        return tuple(name for name, fold in pairs if fold == self.number)

    def __repr__(self) -> str:
        """Say which of how many, and what it holds out."""
        count = len(self.held_out)
        return f"Fold {self.number} of {self.folds.count}: {count} {self.folds.what}"

    def to_dict(self) -> dict[str, Any]:
        """Give what a model's provenance says of it, fit for JSON."""
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
        """Tell which pixels of a place are held out, (y, x).

        Parameters
        ----------
        sample : Sample
            A window, of one chip where there are chips.
        """
        return np.asarray(self.folds.numbers(sample) == self.number)

    def trains(self, sample: Sample) -> Mask:
        """Tell which pixels of a place may train: none held out, nor in the buffer.

        Parameters
        ----------
        sample : Sample
            A window, of one chip where there are chips.
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
    """Share the ground of a cube out among folds, for cross-validation.

    Whole blocks, regions or chips are held out together; groups are dealt so that
    folds have about as many labelled pixels of a scene, or chips. Single pixels drawn
    at random are not on offer, as they would be judged by their neighbours.

    Parameters
    ----------
    cube : xarray.Dataset
        With ``agb``.
    count : int
        Folds: 2 or more.
    by : optional
        "block": blocks of a scene, its default. "chip": chips, the default of chips.
        The name of a coordinate along ``chip`` (a region, a flight, a tile), or of a
        (y, x) coordinate or variable of a scene with numbers or names of regions. Or
        polygons on a scene: a GeoDataFrame or GeoJSON (a feature is a group), a path to
        a vector file, a mapping of names to regions, or a sequence of regions. Polygons
        that share a pixel are one group. What lies in no region or polygon trains,
        outside of the buffer, and never validates.
    block : int or "auto", optional
        Side of blocks, pixels; by default 256, less where the scene would not have
        nine of them, or two a fold. "auto": as large as errors are correlated,
        which needs `variogram` or `residuals`.
    buffer : int
        Rows and columns of pixels around what is held out whose labels do not train.
    seed : int
        Decides what is held out together.
    column : str, optional
        Of polygons with columns: with the name of a group; by default "name" where
        there is one, else each polygon is its own.
    variogram : geobiomass.statistics.variogram.Variogram, optional
        Of errors, for ``block="auto"``.
    residuals : pandas.DataFrame, optional
        As :func:`residuals` gives them, for ``block="auto"``.
    corners : tuple of str
        Names of two coordinates along ``chip``: row and column of each chip's first
        pixel on a grid that they share. Where the cube has them, pixels of a
        chip that lie on held-out ground or in its buffer do not train.

    Returns
    -------
    Folds
        Prints itself; goes to ``gb.fit(cube, folds=...)`` or
        ``gb.cross_validate(cube, folds=...)``.

    Raises
    ------
    CubeError
        If the cube has no label, no such coordinate, or fewer groups with labels than
        folds; if chips shall have a buffer and their places are unknown.
    ValueError
        If a number is out of range, settings contradict each other, or pixels are
        asked for.

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
    _check(count, kind, block, buffer, column, chips)
    side = None
    ground: Ground
    if chips:
        ground = _chips(cube, by, buffer, corners)
        sizes, pixels = np.bincount(ground.group_of), _labels_in_memory(cube, ground)
        areas = sizes
    else:
        if kind == "block":
            side = _side(cube, count, block, variogram, residuals)
            ground = BlockGround(cube.sizes["y"], cube.sizes["x"], side)
        else:
            ground = _regions(cube, by, column)
        sizes, areas = _count_labels(cube, ground)
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
        _size_of(cube),
        _grid_of(cube),
    )


def _check(
    count: int, by: str, block: Any, buffer: int, column: str | None, chips: bool
) -> None:
    if by in _RANDOM:
        raise ValueError(_NEVER.format(by))
    if count < 2:
        raise ValueError(f"count of folds must be 2 or more, got {count}.")
    if buffer < 0:
        raise ValueError(f"buffer must be 0 pixels or more, got {buffer}.")
    if block is not None and by != "block":
        raise ValueError(f"block goes with by='block', got block={block!r}, by={by!r}.")
    if block not in (None, "auto") and (not isinstance(block, int) or block < 1):
        raise ValueError(f"block must be pixels, or 'auto', got {block!r}.")
    if column is not None and by != "polygon":
        raise ValueError(f"column goes with polygons, got by={by!r}.")
    if by == "block" and chips:
        raise CubeError("by='block' needs a scene; for chips there is by='chip'.")
    if by == "chip" and not chips:
        raise CubeError("by='chip' needs chips; for a scene there is by='block'.")
    if chips and by == "polygon":
        raise CubeError("Polygons need a scene: chips have no place on Earth.")


def _side(
    cube: xr.Dataset,
    count: int,
    block: int | str | None,
    variogram: Any,
    residuals: Any,
) -> int:
    if isinstance(block, int):
        return block
    height, width = cube.sizes["y"], cube.sizes["x"]
    if block == "auto":
        return suggested_side(cube, variogram, residuals)
    side = _BLOCK
    wanted = max(FEWEST_BLOCKS, 2 * count)
    while side > NARROWEST_BLOCK and len(even_blocks(height, width, side)) < wanted:
        side //= 2
    return side


def suggested_side(cube: xr.Dataset, variogram: Any, residuals: Any) -> int:
    """Give the side of blocks that errors are hardly correlated beyond, pixels.

    Raises
    ------
    ValueError
        If there is neither a variogram nor residuals.
    """
    if variogram is None and residuals is None:
        raise ValueError(
            "block='auto' needs variogram= or residuals= of a model's errors; "
            "gb.cross_validate(cube).residuals() gives them."
        )
    if variogram is None:
        return suggest_block(residuals)
    return suggest_block(variogram, pixel_size(cube))


def _regions(cube: xr.Dataset, by: Any, column: str | None) -> Ground:
    height, width = cube.sizes["y"], cube.sizes["x"]
    if not isinstance(by, str):
        return PolygonGround(polygons_of(by, cube, column), height, width)
    if by not in cube.variables or set(cube[by].dims) != {"y", "x"}:
        known = [str(n) for n, v in cube.variables.items() if set(v.dims) == {"y", "x"}]
        raise CubeError(
            "by must be 'block', polygons, or the name of a coordinate or variable "
            f"(y, x) with regions, got {by!r}; the cube has {sorted(known)}."
        )
    return ZoneGround(cube[by].transpose("y", "x"))


def _chips(
    cube: xr.Dataset, by: str, buffer: int, names: tuple[str, str]
) -> ChipGround:
    corners = corners_of(cube, names)
    if buffer and corners is None:
        raise CubeError(
            f"buffer={buffer} needs the places of chips, to know which are neighbours; "
            f"the cube has no coordinates {names[0]!r} and {names[1]!r} along 'chip' "
            "(corners=). Without them hold out whole regions: by='region', say."
        )
    ids = [str(chip) for chip in cube["chip"].values]
    if by != "chip":
        if by not in cube.coords or cube[by].dims != ("chip",):
            known = [str(n) for n, v in cube.coords.items() if v.dims == ("chip",)]
            raise CubeError(
                "by must be 'chip' or the name of a coordinate along 'chip', got "
                f"{by!r}; the cube has {sorted(known)}."
            )
        ids = [str(value) for value in cube[by].values]
    return ChipGround(ids, cube.sizes["y"], cube.sizes["x"], corners)


def _labels_in_memory(cube: xr.Dataset, ground: ChipGround) -> tuple[int, ...] | None:
    """Count labels by group of chips, where nothing has to be read for that."""
    labels = cube["agb"].data
    if not isinstance(labels, np.ndarray):
        return None
    counts = np.isfinite(labels).sum((1, 2))
    return tuple(np.bincount(ground.group_of, counts).astype(int).tolist())


def _count_labels(
    cube: xr.Dataset, ground: Ground
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Count labelled pixels, and pixels, by group of a scene, a piece at a time."""
    reader = Reader(cube, [str(cube["band"].values[0])])
    count = len(ground.names)
    labelled, area = np.zeros(count, np.int64), np.zeros(count, np.int64)
    for window in blocks(reader.height, reader.width, _PIECE):
        groups = ground.groups(Sample(window))
        inside = groups != NOWHERE
        known = inside & np.isfinite(reader.labels(Sample(window)))
        area += np.bincount(groups[inside], minlength=count)
        labelled += np.bincount(groups[known], minlength=count)
    return labelled, area


def _deal(
    sizes: npt.NDArray[Any], areas: npt.NDArray[Any], count: int, seed: int
) -> list[int]:
    """Deal groups to folds, large ones first, each to the fold with least so far.

    Groups of about one size come in random order. Those without labels are dealt by
    area, after the others.
    """
    draw = np.random.default_rng(seed)
    order = draw.permutation(len(sizes))
    rank = np.where(sizes > 0, np.floor(2 * np.log2(np.maximum(sizes, 1))), -1)
    order = order[np.argsort(-rank[order], kind="stable")]
    folds = [0] * len(sizes)
    for with_labels, weights in ((True, sizes), (False, areas)):
        # The third number breaks ties at random, but the same for a seed.
        heap = [(0, int(tie), fold) for fold, tie in enumerate(draw.permutation(count))]
        heapq.heapify(heap)
        for group in order:
            if (sizes[group] > 0) != with_labels:
                continue
            load, tie, fold = heapq.heappop(heap)
            folds[group] = fold
            heapq.heappush(heap, (load + int(weights[group]), tie, fold))
    return folds


def _size_of(cube: xr.Dataset) -> tuple[int, int, int]:
    return cube.sizes.get("chip", 0), cube.sizes["y"], cube.sizes["x"]


def _grid_of(cube: xr.Dataset) -> str:
    dims = ("chip",) if "chip" in cube.dims else ("y", "x")
    return hash_values(
        [cube[dim].values.tolist() for dim in dims if dim in cube.coords]
    )


def _in_words(size: Sequence[int]) -> str:
    chips, height, width = size
    pixels = f"{height} x {width} pixels"
    return f"{chips} chips of {pixels}" if chips else f"a scene of {pixels}"
