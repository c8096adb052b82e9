"""Windows, lattices and blending weights: pure arithmetic on whole pixels.

Integers in, slices and weights out; no files, no tensors. Rows come before
columns everywhere, as y before x in a cube.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, order=True)
class Window:
    """A rectangle of pixels; the stops are not included.

    A window may reach beyond the scene; :func:`mirror` returns the pixels to use
    there.
    """

    top: int
    left: int
    bottom: int
    right: int

    @property
    def height(self) -> int:
        """Rows of pixels."""
        return self.bottom - self.top

    @property
    def width(self) -> int:
        """Columns of pixels."""
        return self.right - self.left

    @property
    def rows(self) -> slice:
        """The rows as a slice."""
        return slice(self.top, self.bottom)

    @property
    def columns(self) -> slice:
        """The columns as a slice."""
        return slice(self.left, self.right)

    def intersect(self, other: Window) -> Window | None:
        """Return the common part of two windows, None if there is none."""
        top, left = max(self.top, other.top), max(self.left, other.left)
        bottom, right = min(self.bottom, other.bottom), min(self.right, other.right)
        if top >= bottom or left >= right:
            return None
        return Window(top, left, bottom, right)

    def within(self, other: Window) -> tuple[slice, slice]:
        """Return this window's rows and columns, counted from the corner of `other`."""
        return (
            slice(self.top - other.top, self.bottom - other.top),
            slice(self.left - other.left, self.right - other.left),
        )


@dataclass(frozen=True)
class Sample:
    """A sample of a cube: a window of a scene, or of one of its chips."""

    window: Window
    chip: int | None = None


def mirror(start: int, stop: int, size: int) -> npt.NDArray[np.int64]:
    """Return the pixel to use at each position from `start` to `stop` - 1.

    Beyond the ends of an axis of `size` pixels the scene is reflected, with the edge
    pixel repeated (so that an axis of a single pixel works too).

    Returns
    -------
    numpy.ndarray
        (stop - start,) indices from 0 to size - 1.
    """
    position = np.arange(start, stop) % (2 * size)
    return np.minimum(position, 2 * size - 1 - position)


Blend = Literal["smooth", "crop"]


@dataclass(frozen=True)
class Lattice:
    """The overlapping tiles over a scene, the same for every block of a map.

    Tile (row, column) starts at (row, column) times the stride, ``tile -
    overlap``; the last tiles may reach beyond the scene. Two maps of one scene
    with the same lattice have the same tiles.

    Parameters
    ----------
    height, width : int
        Size of the scene, pixels.
    tile : int
        Side of a tile, pixels. An axis shorter than a tile has one tile of the
        axis's length, rounded up to a multiple of `multiple`.
    overlap : int
        Pixels that neighbouring tiles share, less than `tile`.
    multiple : int
        The network's stride, for the rounding above.
    blend : "smooth" or "crop"
        How shared pixels are combined. "smooth": weighted mean of the tiles; weights
        are squared sines over the overlap. "crop": each pixel is from one tile, cut
        in the middle of the overlap.

    Raises
    ------
    ValueError
        If a length is not positive, the overlap is not smaller than the tile, or
        the blend is unknown.
    """

    height: int
    width: int
    tile: int = 256
    overlap: int = 64
    multiple: int = 32
    blend: Blend = "smooth"

    def __post_init__(self) -> None:
        for name in ("height", "width", "tile", "multiple"):
            if getattr(self, name) < 1:
                raise ValueError(
                    f"{name} of a lattice must be at least 1 pixel, got "
                    f"{getattr(self, name)}."
                )
        if not 0 <= self.overlap < self.tile:
            raise ValueError(
                "overlap must be at least 0 and less than tile, got overlap="
                f"{self.overlap} and tile={self.tile} pixels."
            )
        if self.blend not in ("smooth", "crop"):
            raise ValueError(f"blend must be 'smooth' or 'crop', got {self.blend!r}.")

    @property
    def stride(self) -> int:
        """Pixels from one tile's start to the next's."""
        return self.tile - self.overlap

    @cached_property
    def tile_shape(self) -> tuple[int, int]:
        """Height and width of every tile, pixels."""
        return self._side(self.height), self._side(self.width)

    @cached_property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of tiles."""
        return self._count(self.height), self._count(self.width)

    def _side(self, size: int) -> int:
        return min(self.tile, -(-size // self.multiple) * self.multiple)

    def _count(self, size: int) -> int:
        return 1 + max(0, -(-(size - self.tile) // self.stride))

    def window(self, row: int, column: int) -> Window:
        """Return the window of one tile; it may reach beyond the scene."""
        top, left = row * self.stride, column * self.stride
        height, width = self.tile_shape
        return Window(top, left, top + height, left + width)

    def touching(self, window: Window) -> tuple[range, range]:
        """Return rows and columns of the tiles that share a pixel with a window."""
        return (
            self._along(window.top, window.bottom, 0),
            self._along(window.left, window.right, 1),
        )

    def _along(self, start: int, stop: int, axis: int) -> range:
        first = max(0, (start - self.tile_shape[axis]) // self.stride + 1)
        last = min(self.shape[axis] - 1, (stop - 1) // self.stride)
        return range(first, last + 1)

    def weights(self, row: int, column: int) -> npt.NDArray[np.float64]:
        """Return the weights of one tile's pixels, (tile height, tile width).

        At every pixel of the scene, also at its edge, the weights of all tiles that
        contain it sum to one; weights of "smooth" are above zero everywhere.
        """
        rows, columns = self._shares(0, row), self._shares(1, column)
        return rows[:, None] * columns[None, :]

    def _shares(self, axis: int, index: int) -> npt.NDArray[np.float64]:
        """Return a tile's weights along one axis; rows and columns are multiplied."""
        side, start = self.tile_shape[axis], index * self.stride
        if self.blend == "crop":
            position = np.arange(side) + start
            low = start + self.overlap // 2 if index else 0
            last = index == self.shape[axis] - 1
            high = start + side if last else start + self.stride + self.overlap // 2
            return ((low <= position) & (position < high)).astype(np.float64)
        return self._ramp(side) / self._sums[axis][start : start + side]

    @cached_property
    def _sums(self) -> tuple[npt.NDArray[np.float64], ...]:
        """Sums of all tiles' ramps at each pixel, along y and along x."""
        return tuple(self._sum_along(axis) for axis in (0, 1))

    def _sum_along(self, axis: int) -> npt.NDArray[np.float64]:
        side, count = self.tile_shape[axis], self.shape[axis]
        total, ramp = np.zeros((count - 1) * self.stride + side), self._ramp(side)
        for index in range(count):
            total[index * self.stride :][:side] += ramp
        return total

    def _ramp(self, side: int) -> npt.NDArray[np.float64]:
        if self.overlap == 0:
            return np.ones(side)
        distance = np.minimum(np.arange(side), np.arange(side)[::-1]) + 0.5
        rise = np.minimum(distance / self.overlap, 1.0)
        return np.asarray(np.sin(0.5 * np.pi * rise) ** 2)


def blocks(height: int, width: int, side: int) -> list[Window]:
    """Cut a scene into blocks of `side` pixels, smaller ones at the far edges.

    Every pixel is in exactly one block. Blocks are in rows, from the top left.
    """
    if side < 1:
        raise ValueError(f"side of a block must be at least 1 pixel, got {side}.")
    return [
        Window(top, left, min(top + side, height), min(left + side, width))
        for top in range(0, height, side)
        for left in range(0, width, side)
    ]


def even_blocks(height: int, width: int, side: int) -> list[Window]:
    """Cut a scene into blocks of about `side` pixels, none of them narrower.

    The remainder is distributed over all blocks, so a block is `side` to just under
    twice `side` long; an axis shorter than `side` is one block. Used to split a scene
    into parts for training and validation.
    """
    edges = [
        np.linspace(0, n, max(1, n // side) + 1).astype(int) for n in (height, width)
    ]
    rows, columns = (
        list(zip(e[:-1].tolist(), e[1:].tolist(), strict=True)) for e in edges
    )
    return [Window(t, left, b, right) for t, b in rows for left, right in columns]


def random_crop(
    window: Window, height: int, width: int, generator: np.random.Generator
) -> Window:
    """Draw a random crop inside a window.

    If the window is shorter than the crop along an axis, the crop has its length.
    """
    height, width = min(height, window.height), min(width, window.width)
    top = window.top + int(generator.integers(window.height - height + 1))
    left = window.left + int(generator.integers(window.width - width + 1))
    return Window(top, left, top + height, left + width)


class Marks:
    """A mask of a window's pixels, such as labelled ones; one bit for each.

    Parameters
    ----------
    window : Window
        In the scene.
    marked : numpy.ndarray
        (height, width) bool.
    """

    # Random crops that are drawn before one is drawn around a marked pixel.
    _TRIES = 8

    def __init__(self, window: Window, marked: npt.NDArray[np.bool_]) -> None:
        self.window = window
        self.count = int(np.count_nonzero(marked))
        self._bits = np.packbits(marked)

    def _marked(self) -> npt.NDArray[np.bool_]:
        height, width = self.window.height, self.window.width
        bits = np.unpackbits(self._bits, count=height * width)
        return bits.reshape(height, width).view(np.bool_)

    def within(self, window: Window) -> bool:
        """Return whether a window inside this one contains a marked pixel."""
        if self.count == self.window.height * self.window.width:
            return True
        return bool(self._marked()[window.within(self.window)].any())

    def random_crop(
        self, height: int, width: int, generator: np.random.Generator
    ) -> Window:
        """Draw a crop like :func:`random_crop` that contains a marked pixel.

        If most crops contain one, all of these are equally likely. If few do, a marked
        pixel is drawn, and a crop around it.
        """
        for _ in range(self._TRIES):
            crop = random_crop(self.window, height, width, generator)
            if self.count == 0 or self.within(crop):
                return crop
        rows, columns = np.nonzero(self._marked())
        chosen = int(generator.integers(rows.size))
        row = self.window.top + int(rows[chosen])
        column = self.window.left + int(columns[chosen])
        around = Window(
            max(self.window.top, row - crop.height + 1),
            max(self.window.left, column - crop.width + 1),
            min(self.window.bottom, row + crop.height),
            min(self.window.right, column + crop.width),
        )
        return random_crop(around, height, width, generator)


def cover(window: Window, height: int, width: int) -> list[Window]:
    """Cover a window with evenly spaced crops of one size; the last ends at its edge.

    Neighbours overlap if the size does not divide the window's. If the window is
    shorter than the crop along an axis, the crop has its length.
    """
    height, width = min(height, window.height), min(width, window.width)
    tops = _spread(window.height, height)
    lefts = _spread(window.width, width)
    return [
        Window(
            window.top + top,
            window.left + left,
            window.top + top + height,
            window.left + left + width,
        )
        for top in tops
        for left in lefts
    ]


def _spread(size: int, crop: int) -> list[int]:
    return [int(s) for s in np.linspace(0, size - crop, -(-size // crop)).round()]


EVALUATION_BLOCK = 256  # pixels: the part of a scene that counts as one chip


def samples_on_chips(windows: Sequence[Window], chips: int | None) -> list[Sample]:
    """Return a sample for each window of a scene, or of each of some chips.

    Parameters
    ----------
    windows : sequence of Window
        Window of the scene, or of one chip.
    chips : int, optional
        Number of chips; None for a scene. Chips come one after the other.
    """
    numbers: Sequence[int | None] = (None,) if chips is None else range(chips)
    return [Sample(window, chip) for chip in numbers for window in windows]


def parts_of(sample: Sample, side: int) -> list[Sample]:
    """Cut a sample into parts of `side` pixels, smaller ones at its far edges."""
    corner = sample.window
    return [
        Sample(
            Window(
                corner.top + part.top,
                corner.left + part.left,
                corner.top + part.bottom,
                corner.left + part.right,
            ),
            sample.chip,
        )
        for part in blocks(corner.height, corner.width, side)
    ]


def indexers_of(sample: Sample) -> dict[str, slice | int]:
    """Return what ``isel`` of a cube or map takes to cut out a sample."""
    rows: dict[str, slice | int] = {"y": sample.window.rows, "x": sample.window.columns}
    return rows if sample.chip is None else rows | {"chip": sample.chip}
