"""Groups of pixels that folds hold out: blocks, regions, polygons, chips."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import xarray as xr

from geobiomass.cube import CubeError
from geobiomass.cube.areas import regions_of
from geobiomass.cube.region import Region
from geobiomass.data.fingerprint import hash_values
from geobiomass.tiles import Sample, Window, blocks, even_blocks

NOWHERE = -1
"""The group number of pixels that belong to no group."""

Numbers = npt.NDArray[np.int32]
_WINDOW = 1024  # pixels: side of the windows that are read


class Ground(Protocol):
    """Groups of pixels that are held out together."""

    names: tuple[str, ...]

    def groups(self, sample: Sample) -> Numbers:
        """Return the number of each pixel's group, (y, x); -1 for none."""
        ...

    def identity(self) -> str:
        """Return a fingerprint of the group of every pixel."""
        ...


class BlockGround:
    """Blocks of a scene, about square.

    Parameters
    ----------
    height, width : int
        Size of the scene, pixels.
    side : int
        Size of a block, pixels; the rest at the edges is shared among the blocks.
    """

    def __init__(self, height: int, width: int, side: int) -> None:
        self.windows = even_blocks(height, width, side)
        self._tops = np.unique([window.top for window in self.windows])
        self._lefts = np.unique([window.left for window in self.windows])
        self.names = tuple(str(number) for number in range(len(self.windows)))

    def groups(self, sample: Sample) -> Numbers:
        """Return the number of each pixel's block, (y, x)."""
        window = sample.window
        row = np.searchsorted(self._tops, np.arange(window.top, window.bottom), "right")
        column = np.searchsorted(
            self._lefts, np.arange(window.left, window.right), "right"
        )
        numbers = (row - 1)[:, None] * len(self._lefts) + (column - 1)
        return numbers.astype(np.int32)

    def identity(self) -> str:
        """Return a fingerprint of the edges of the blocks."""
        return hash_values(self._tops.tolist(), self._lefts.tolist())


class ZoneGround:
    """A layer (y, x) of region numbers or names.

    Parameters
    ----------
    zones : xarray.DataArray
        (y, x); NaN, None and "" are no region. It is read in windows.
    """

    def __init__(self, zones: xr.DataArray) -> None:
        self._zones = zones.variable
        found: set[Any] = set()
        for window in blocks(zones.sizes["y"], zones.sizes["x"], _WINDOW):
            values, known = self._read(window)
            found |= set(np.unique(values[known]).tolist())
        self._values = np.array(sorted(found))
        self.names = tuple(_name(value) for value in self._values.tolist())
        hashes = hashlib.sha256()
        for window in blocks(zones.sizes["y"], zones.sizes["x"], _WINDOW):
            hashes.update(self.groups(Sample(window)).tobytes())
        self._identity = hash_values(self.names, hashes.hexdigest())

    def _read(self, window: Window) -> tuple[npt.NDArray[Any], npt.NDArray[np.bool_]]:
        values = self._zones.isel(y=window.rows, x=window.columns).values
        if values.dtype.kind == "f":
            return values, np.isfinite(values)
        if values.dtype.kind in "OUT":
            named = [
                "" if v is None or v != v else _name(v) for v in values.ravel().tolist()
            ]
            values = np.array(named).reshape(values.shape)
            return values, values != ""
        return values, np.ones(values.shape, bool)

    def groups(self, sample: Sample) -> Numbers:
        """Return the number of each pixel's region, (y, x); -1 outside of all."""
        values, known = self._read(sample.window)
        numbers = np.full(values.shape, NOWHERE, np.int32)
        numbers[known] = np.searchsorted(self._values, values[known])
        return numbers

    def identity(self) -> str:
        """Return a fingerprint of the layer."""
        return self._identity


class PolygonGround:
    """Polygons on a scene; those that share a pixel are one group.

    Parameters
    ----------
    regions : sequence of (str, Region)
        Names and polygons; polygons with the same name are one group.
    height, width : int
        Size of the scene, pixels.
    """

    def __init__(
        self, regions: Sequence[tuple[str, Region]], height: int, width: int
    ) -> None:
        self._regions = [region for _, region in regions]
        self._reach = [_reach(region, height, width) for region in self._regions]
        names = [name for name, _ in regions]
        first = list(dict.fromkeys(names))
        self._number = np.array([first.index(name) for name in names])
        # Of two groups that overlap, one would train on pixels the other holds out.
        for window in blocks(height, width, _WINDOW):
            self._join_overlapping(window)
        kept = np.unique(self._number)
        self._number = np.searchsorted(kept, self._number)
        self.names = tuple(
            " + ".join(dict.fromkeys(n for n, k in self._named(names) if k == number))
            for number in range(len(kept))
        )

    @property
    def regions(self) -> list[tuple[str, Region]]:
        """Each polygon with the name of its group, as the class takes them."""
        named = (self.names[number] for number in self._number)
        return list(zip(named, self._regions, strict=True))

    def _named(self, names: Sequence[str]) -> Iterable[tuple[str, int]]:
        return zip(names, self._number.tolist(), strict=True)

    def _join_overlapping(self, window: Window) -> None:
        owner = np.full((window.height, window.width), NOWHERE, np.int32)
        for index, mask in self._masks(window):
            for other in np.unique(owner[mask]):
                if other != NOWHERE:
                    same = (self._number[index], self._number[other])
                    self._number[np.isin(self._number, same)] = min(same)
            owner[mask] = index

    def _masks(self, window: Window) -> Iterable[tuple[int, npt.NDArray[np.bool_]]]:
        for index, (region, reach) in enumerate(
            zip(self._regions, self._reach, strict=True)
        ):
            if reach is not None and reach.intersect(window) is not None:
                yield index, region.mask(window)

    def groups(self, sample: Sample) -> Numbers:
        """Return the number of each pixel's polygon, (y, x); -1 outside of all."""
        window = sample.window
        numbers = np.full((window.height, window.width), NOWHERE, np.int32)
        for index, mask in self._masks(window):
            numbers[mask] = self._number[index]
        return numbers

    def identity(self) -> str:
        """Return a fingerprint of names and outlines."""
        # As JSON, so that lists and tuples of coordinates give the same.
        outlines = [json.dumps([r.shapes, r.transform]) for r in self._regions]
        return hash_values(self.names, self._number.tolist(), outlines)


class ChipGround:
    """Chips, or groups of chips.

    Parameters
    ----------
    groups : sequence of str
        The group of each chip.
    height, width : int
        Size of a chip, pixels.
    corners : numpy.ndarray, optional
        (chip, 2) row and column of each chip's first pixel on one grid.
    """

    def __init__(
        self,
        groups: Sequence[str],
        height: int,
        width: int,
        corners: npt.NDArray[np.int64] | None = None,
    ) -> None:
        self.names = tuple(sorted(set(groups)))
        self.group_of = np.searchsorted(self.names, list(groups)).astype(np.int32)
        self.height, self.width = height, width
        self.corners = corners

    def groups(self, sample: Sample) -> Numbers:
        """Return the number of the chip's group for all of its pixels, (y, x)."""
        shape = (sample.window.height, sample.window.width)
        return np.full(shape, self.group_of[sample.chip or 0], np.int32)

    def near(
        self, sample: Sample, chips: npt.NDArray[np.bool_], buffer: int
    ) -> npt.NDArray[np.bool_]:
        """Return which pixels are within `buffer` pixels of some chips, (y, x)."""
        window = sample.window
        found = np.zeros((window.height, window.width), bool)
        if self.corners is None:
            return found
        top, left = self.corners[sample.chip or 0] + np.array([window.top, window.left])
        first = self.corners[chips] - buffer - np.array([top, left])
        last = first + 2 * buffer + np.array([self.height, self.width])
        touching = (last > 0).all(1) & (first < found.shape).all(1)
        for (a, b), (c, d) in zip(first[touching], last[touching], strict=True):
            found[max(0, a) : c, max(0, b) : d] = True
        return found

    def identity(self) -> str:
        """Return a fingerprint of the groups and positions of the chips."""
        corners = None if self.corners is None else self.corners.tolist()
        return hash_values(self.names, self.group_of.tolist(), corners)


def widened(mask: npt.NDArray[np.bool_], by: int) -> npt.NDArray[np.bool_]:
    """Mark all pixels within `by` rows and columns of a marked one."""
    if by == 0 or not mask.any():
        return mask
    # Counts of marked pixels in the square around each, by a summed-area table.
    sums = np.pad(mask.astype(np.int32), by).cumsum(0).cumsum(1)
    sums = np.pad(sums, ((1, 0), (1, 0)))
    side = 2 * by + 1
    inside = sums[side:, side:] - sums[:-side, side:]
    inside -= sums[side:, :-side] - sums[:-side, :-side]
    return np.asarray(inside > 0)


def polygons_of(
    regions: Any, cube: xr.Dataset, column: str | None
) -> list[tuple[str, Region]]:
    """Return named polygons; a list of regions is numbered from 1.

    Parameters
    ----------
    regions : optional
        As :func:`geobiomass.cube.areas.regions_of` takes them, or a sequence of
        those.
    cube : xarray.Dataset
        A scene.
    column : str, optional
        The column with the name of each feature's group.

    Raises
    ------
    CubeError
        As :func:`geobiomass.cube.areas.regions_of` does.
    """
    several = isinstance(regions, list | tuple) and not all(map(np.isscalar, regions))
    if several:
        regions = {str(number): one for number, one in enumerate(regions, 1)}
    return regions_of(cube, regions, name=column, missing="keep", grouped=True)


def _reach(region: Region, height: int, width: int) -> Window | None:
    """Return the window of a scene that a region may touch; the rest is skipped."""
    from affine import Affine
    from rasterio.features import bounds as bounds_of

    boxes = np.array([bounds_of(shape) for shape in region.shapes])
    left, bottom = boxes[:, :2].min(0)
    right, top = boxes[:, 2:].max(0)
    a, b, c, d, e, f = tuple(~Affine(*region.transform))[:6]
    x, y = np.array([left, left, right, right]), np.array([bottom, top, bottom, top])
    columns, rows = a * x + b * y + c, d * x + e * y + f
    around = Window(
        int(np.floor(rows.min())) - 1,
        int(np.floor(columns.min())) - 1,
        int(np.ceil(rows.max())) + 1,
        int(np.ceil(columns.max())) + 1,
    )
    return around.intersect(Window(0, 0, height, width))


def _name(value: Any) -> str:
    """Return the name of a region; whole numbers without a decimal point."""
    whole = isinstance(value, float) and value.is_integer()
    return str(int(value)) if whole else str(value)


def corners_of(
    cube: xr.Dataset, names: tuple[str, str]
) -> npt.NDArray[np.int64] | None:
    """Return the rows and columns of chips' first pixels, (chip, 2); None if unknown.

    Raises
    ------
    CubeError
        If they are not whole numbers along ``chip``.
    """
    if not all(name in cube.coords for name in names):
        return None
    values = []
    for name in names:
        found = cube[name]
        if found.dims != ("chip",) or found.dtype.kind not in "iu":
            raise CubeError(
                f"{name!r} of the cube must be whole numbers along 'chip', the "
                f"{'row' if name == names[0] else 'column'} of each chip's first "
                f"pixel, got {found.dtype} along {found.dims}."
            )
        values.append(found.values.astype(np.int64))
    return np.stack(values, axis=1)
