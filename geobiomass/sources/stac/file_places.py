"""Where the pixels of a file are, and which of its blocks an area needs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from geobiomass.training.json_files import finite_number

if TYPE_CHECKING:
    import pystac
    from odc.geo.geobox import GeoBox

Mask = npt.NDArray[np.bool_]

BLOCK = 512
"""Side of a file's blocks where no header says it, in pixels. The default of GDAL's
driver COG; files of archives have 512 or 1,024."""

_CELLS = 16  # of the area, along a side: their corners are looked up in the file
_ROUNDING = 1e-3  # of a pixel
_MOST_PIXELS = 10**6  # along a side of an image


@dataclass(frozen=True)
class FilePlace:
    """The grid of a file.

    Parameters
    ----------
    crs : str
        Its reference system, such as ``"EPSG:32633"``.
    transform : tuple of float
        Six numbers (a, b, c, d, e, f): x = a column + b row + c, y = d column + e row
        + f.
    shape : tuple of int
        Rows and columns.
    block : tuple of int
        Rows and columns of its blocks.
    """

    crs: str
    transform: tuple[float, float, float, float, float, float]
    shape: tuple[int, int]
    block: tuple[int, int] = (BLOCK, BLOCK)

    @property
    def pixels(self) -> int:
        """The number of its pixels."""
        return self.shape[0] * self.shape[1]

    def block_pixels(self) -> npt.NDArray[np.int64]:
        """Return the pixels of each block, (block rows, block columns)."""
        sides = [
            np.diff(np.append(np.arange(0, length, side), length))
            for length, side in zip(self.shape, self.block, strict=True)
        ]
        return np.multiply.outer(*sides).astype(np.int64)


@dataclass(frozen=True)
class Needed:
    """What an area needs of a file.

    Parameters
    ----------
    blocks : numpy.ndarray of bool
        Which blocks the area touches, (block rows, block columns).
    pixels : int
        Their pixels, at the resolution that is read.
    step : int
        A pixel that is read stands for so many along a side: 1, or 2, 4, ... where
        the cube is coarser than the file, and an overview is read.
    """

    blocks: Mask
    pixels: int
    step: int


def stated_place(item: pystac.Item, name: str) -> FilePlace | None:
    """Return the grid of an asset by its item, None if it does not state it whole."""
    fields, general = item.assets[name].extra_fields, item.properties
    said: dict[str, Any] = {**_projection(general), **_projection(fields)}
    code = _code(said)
    shape, transform = said.get("proj:shape"), said.get("proj:transform")
    if code is None or not isinstance(shape, list) or not isinstance(transform, list):
        return None
    whole = [isinstance(n, int) and 0 < n <= _MOST_PIXELS for n in shape]
    if len(shape) != 2 or not all(whole) or len(transform) not in (6, 9):
        return None
    if not all(map(finite_number, transform)):
        return None
    a, b, c, d, e, f = map(float, transform[:6])
    if abs(a * e - b * d) < 1e-18:  # such as a transform of zeros
        return None
    return FilePlace(code, (a, b, c, d, e, f), (shape[0], shape[1]))


def _projection(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: value
        for name, value in fields.items()
        if name.startswith("proj:") and value is not None
    }


def _code(said: Mapping[str, Any]) -> str | None:
    """Return the reference system: proj:code of version 2, proj:epsg of version 1."""
    code = said.get("proj:code")
    if isinstance(code, str) and re.fullmatch(r"[A-Za-z]+:\d+", code):
        return code
    number = said.get("proj:epsg")
    whole = isinstance(number, int) and not isinstance(number, bool)
    return f"EPSG:{number}" if whole else None


def needed_of(place: FilePlace, grid: GeoBox) -> Needed:
    """Return which blocks of a file the pixels of a grid need.

    The grid is looked up in the file at the corners of 256 cells, so its outline may
    be turned in the file; curves within a cell are left out.
    """
    columns, rows = _in_file(place, grid)
    per_cell = [n / min(n, _CELLS) for n in grid.shape]
    across = np.hypot(np.diff(columns, axis=1), np.diff(rows, axis=1)) / per_cell[1]
    known = np.isfinite(across)
    scale = float(np.median(across[known])) if known.any() else 1.0
    step = 1 if scale < 2 else int(2 ** np.floor(np.log2(scale)))
    counts = place.block_pixels()
    blocks = np.zeros(counts.shape, bool)
    for one, last in _spans(columns, rows, place):
        blocks[one[0] : last[0], one[1] : last[1]] = True
    return Needed(blocks, int(counts[blocks].sum()) // step**2, step)


def _in_file(
    place: FilePlace, grid: GeoBox
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return columns and rows in the file of the corners of the area's cells."""
    from pyproj import Transformer
    from pyproj.exceptions import ProjError

    height, width = grid.shape
    i, j = np.meshgrid(
        np.linspace(0, height, min(height, _CELLS) + 1),
        np.linspace(0, width, min(width, _CELLS) + 1),
        indexing="ij",
    )
    to = grid.affine
    x, y = to.a * j + to.b * i + to.c, to.d * j + to.e * i + to.f
    try:
        move = Transformer.from_crs(str(grid.crs), place.crs, always_xy=True)
    except ProjError:  # a code that does not exist
        return np.full_like(x, np.nan), np.full_like(x, np.nan)
    x, y = move.transform(x, y)
    a, b, c, d, e, f = place.transform
    one = a * e - b * d
    columns = (e * (x - c) - b * (y - f)) / one
    rows = (a * (y - f) - d * (x - c)) / one
    return columns, rows


def _spans(
    columns: npt.NDArray[np.float64], rows: npt.NDArray[np.float64], place: FilePlace
) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Return first and last block, exclusive, that each cell touches, if it does."""
    found = []
    cells = [
        np.stack([at[:-1, :-1], at[:-1, 1:], at[1:, :-1], at[1:, 1:]])
        for at in (rows, columns)
    ]
    low, high = ([at.min(0) for at in cells], [at.max(0) for at in cells])
    # A corner on the edge of a pixel, but for rounding, is on the edge.
    low, high = [at + _ROUNDING for at in low], [at - _ROUNDING for at in high]
    inside = np.isfinite(low[0]) & np.isfinite(low[1])
    for lowest, highest, length in zip(low, high, place.shape, strict=True):
        inside &= (highest > 0) & (lowest < length)
    for index in np.argwhere(inside):
        at = tuple(index)
        first = [max(0, int(a[at] // b)) for a, b in zip(low, place.block, strict=True)]
        last = [
            -(-min(int(np.ceil(a[at])), n) // b)
            for a, b, n in zip(high, place.block, place.shape, strict=True)
        ]
        found.append(((first[0], first[1]), (last[0], last[1])))
    return found
