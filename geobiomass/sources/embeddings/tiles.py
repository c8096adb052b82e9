"""A tile of any archive, and the pixels of a block from all tiles that touch it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast

import numpy as np

from geobiomass.cube import CubeError, DamagedError
from geobiomass.cube.address_errors import failure_of
from geobiomass.cube.claimed_size import check_tasks
from geobiomass.sources.embeddings.products import Product
from geobiomass.sources.rasters.grid_geometry import (
    outline_on,
    pixel_offset,
    pixel_ratio,
)
from geobiomass.sources.rasters.lazy_array import BLOCK, block_lengths, touches
from geobiomass.sources.rasters.read_block import copy_pixels, source_window
from geobiomass.sources.rasters.reproject import Pixels, Resampling, warp

if TYPE_CHECKING:
    from odc.geo.geobox import GeoBox

Box = tuple[float, float, float, float]
Read = Callable[[slice, slice], Pixels]
Thing = TypeVar("Thing")
Made = TypeVar("Made")

_AT_ONCE = 2**25  # values in memory: 134 MB; a block that needs more is read in halves
_OPENED_AT_ONCE = 8  # headers of tiles, which are waited for more than they are read


@dataclass(frozen=True)
class Tile:
    """The embeddings of one file, or of one array, of one year.

    Parameters
    ----------
    file : str
        Its path or address, for messages.
    year : int
        The year.
    geobox : GeoBox
        Its grid, as it is stored: rows may begin in the south.
    read : callable
        Of rows and columns, it returns (band, y, x) float32, NaN where missing.
    """

    file: str
    year: int
    geobox: GeoBox
    read: Read


class Archive(Protocol):
    """Embeddings that are published in one layout."""

    @property
    def product(self) -> Product:
        """What it has."""

    @property
    def address(self) -> str:
        """Where it is."""

    def find_tiles(self, box: Box, years: Sequence[int]) -> dict[int, list[Tile]]:
        """Return the tiles of each year that touch a box in degrees.

        Raises
        ------
        CubeError
            If the archive lacks a year, or has no tile there; or a tile is not as its
            layout wants it.
        """


def no_tile(address: str, year: int, box: Box) -> CubeError:
    """Return the error of an area without a tile."""
    where = ", ".join(f"{edge:.5g}" for edge in box)
    return CubeError(
        f"{address} has no tile of {year} in the area ({where}; west, south, east, "
        "north); check the area, and the coverage that the archive states."
    )


def missing_year(address: str, year: int, there: Iterable[int]) -> CubeError:
    """Return the error of a year that an archive lacks."""
    return CubeError(
        f"{address} has no embeddings of {year}, only of "
        f"{', '.join(map(str, sorted(there)))}; choose one of these years."
    )


def wrong_layout(file: str, year: int, expected: str, got: str) -> CubeError:
    """Return the error of a file that is not as its layout wants it."""
    return CubeError(
        f"{file} of {year} must have {expected}, got {got}; it is another product, or "
        "damaged: get the file again."
    )


def open_together(
    open_one: Callable[[Thing], Made], things: Sequence[Thing]
) -> list[Made]:
    """Open the headers of several tiles, some at a time, in order."""
    with ThreadPoolExecutor(_OPENED_AT_ONCE) as pool:
        return list(pool.map(open_one, things))


def upright(tile: Tile) -> Tile:
    """Return a tile whose rows go from north to south."""
    if tile.geobox.affine.e < 0:
        return tile
    turned = partial(_turned, tile.read, tile.geobox.shape[0])
    return replace(tile, geobox=tile.geobox.flipy(), read=turned)


def _turned(read: Read, height: int, rows: slice, columns: slice) -> Pixels:
    return read(slice(height - rows.stop, height - rows.start), columns)[:, ::-1]


@dataclass(frozen=True)
class BlockReader:
    """What reading a block needs to know of the whole cube."""

    bands: int
    method: Resampling
    unit_length: bool

    def read(self, tiles: Sequence[Tile], box: GeoBox) -> Pixels:
        """Read a block: each pixel has the vector of the first tile that has one.

        Returns
        -------
        numpy.ndarray
            (1, band, y, x) float32, NaN where no tile has a vector.

        Raises
        ------
        DamagedError
            If a tile cannot be read; it names file and year.
        """
        out: Pixels = np.full((self.bands, *box.shape), np.nan, np.float32)
        for tile in tiles:
            empty = np.isnan(out[0])  # a vector is missing in all bands, or in none
            if not empty.any():
                break
            np.copyto(out, self._on_block(tile, box), where=empty)
        return out[None]

    def _on_block(self, tile: Tile, box: GeoBox) -> Pixels:
        corner = pixel_offset(tile.geobox, box)
        if corner is not None:
            read = partial(_read, tile)
            return copy_pixels(self.bands, box, tile.geobox, corner, read)
        window = source_window(tile.geobox, box, self.method)
        if window is None:
            return np.full((self.bands, *box.shape), np.nan, np.float32)
        rows, columns = window
        size = (rows.stop - rows.start) * (columns.stop - columns.start) * self.bands
        if size > _AT_ONCE and max(box.shape) > 1:
            return self._in_halves(tile, box)
        values = _read(tile, rows, columns)
        ratio = pixel_ratio(tile.geobox, box)
        moved = warp(values, tile.geobox[rows, columns], box, self.method, ratio)
        if self.unit_length and self.method != "nearest":
            moved = with_unit_length(moved)
        return moved

    def _in_halves(self, tile: Tile, box: GeoBox) -> Pixels:
        axis = 0 if box.shape[0] >= box.shape[1] else 1
        middle = box.shape[axis] // 2
        halves = [slice(0, middle), slice(middle, None)]
        parts = [box[half, :] if axis == 0 else box[:, half] for half in halves]
        return np.concatenate(
            [self._on_block(tile, part) for part in parts], axis=axis + 1
        )


def with_unit_length(values: Pixels) -> Pixels:
    """Return vectors, (band, y, x), scaled to length 1; those of length 0 are missing.

    A mean of vectors of length 1 is shorter than 1.
    """
    length = np.sqrt(np.square(values.astype(np.float64)).sum(axis=0))
    length[length == 0] = np.nan
    return np.asarray(values / length, np.float32)


def _read(tile: Tile, rows: slice, columns: slice) -> Pixels:
    """Read a window of a tile; what goes wrong names file, year and window."""
    try:
        return tile.read(rows, columns)
    except (CubeError, MemoryError):
        raise
    except Exception as error:  # each codec, and each library, has its own
        if (failure := failure_of(error, tile.file, tile.file)) is not None:
            raise failure from error
        raise DamagedError(
            f"{tile.file} of {tile.year} cannot be read at rows {rows.start} to "
            f"{rows.stop - 1}, columns {columns.start} to {columns.stop - 1}: "
            f"{error.__cause__ or error}; get the file again.",
            tile.file,
        ) from error


def lazy_image(
    tiles: Sequence[Tile], grid: GeoBox, reader: BlockReader, token: Any
) -> Any:
    """Return a dask array (1, band, y, x) with one task a block of the grid.

    A task contains only the tiles that touch its block, those on its grid first.

    Parameters
    ----------
    tiles : sequence of Tile
        Of one year.
    grid : GeoBox
        The grid of the cube.
    reader : BlockReader
        Reads a block.
    token : object
        What the pixels depend on, besides the grid and the reader.
    """
    import dask.array as da
    from dask.base import tokenize

    height, width = grid.shape
    check_tasks(1, (height, width), BLOCK)
    found = sorted(map(upright, tiles), key=partial(_order, grid))
    reach = [outline_on(tile.geobox, grid) for tile in found]
    name = f"embeddings-{tokenize(token, repr(grid), repr(reader))}"
    tasks: dict[Any, Any] = {}
    for row, top in enumerate(range(0, height, BLOCK)):
        for column, left in enumerate(range(0, width, BLOCK)):
            bottom, right = min(top + BLOCK, height), min(left + BLOCK, width)
            here = (top, left, bottom, right)
            mine = [
                tile
                for tile, outline in zip(found, reach, strict=True)
                if touches(here, outline)
            ]
            part = grid[top:bottom, left:right]
            tasks[name, 0, 0, row, column] = (partial(reader.read, mine, part),)
    chunks = ((1,), (reader.bands,), block_lengths(height), block_lengths(width))
    return cast(Any, da.Array)(tasks, name, chunks, dtype=np.float32)


def _order(grid: GeoBox, tile: Tile) -> tuple[bool, bool, str]:
    """Sort tiles whose pixels are copied before others, and then by name."""
    moved = pixel_offset(tile.geobox, grid) is None
    return moved, tile.geobox.crs != grid.crs, tile.file


def choose_method(tiles: Mapping[int, Sequence[Tile]], grid: GeoBox) -> Resampling:
    """Return "nearest", or "average" for pixels that are over 1.5 times as large."""
    first = next(tile for found in tiles.values() for tile in found)
    ratio = max(pixel_ratio(first.geobox, grid))
    return "average" if math.isfinite(ratio) and ratio > 1.5 else "nearest"


def share_without_tile(tiles: Sequence[Tile], grid: GeoBox) -> float:
    """Return the share of a grid's area that no tile reaches, 0 to 1."""
    from shapely import union_all
    from shapely.geometry import box

    left, bottom, right, top = grid.boundingbox
    area = box(left, bottom, right, top)
    outlines = [tile.geobox.footprint(cast(Any, grid.crs)).geom for tile in tiles]
    return float(area.difference(union_all(outlines)).area / area.area)
