"""Tiles of TESSERA of 0.1 degrees: .npy files, their scales and their landmask."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from geobiomass.cube import CubeError
from geobiomass.cube.address_errors import failure_of
from geobiomass.cube.antimeridian import parts
from geobiomass.sources.embeddings.npy_files import NpyError, NpyFile, exists, open_npy
from geobiomass.sources.embeddings.products import TESSERA, Product
from geobiomass.sources.embeddings.stored_numbers import scaled
from geobiomass.sources.embeddings.tiles import (
    Box,
    Tile,
    missing_year,
    no_tile,
    open_together,
    wrong_layout,
)
from geobiomass.sources.rasters.open_raster import gdal_settings, open_raster
from geobiomass.sources.rasters.reproject import Pixels
from geobiomass.training.given_paths import is_address

EMBEDDINGS, LANDMASKS = "global_0.1_degree_representation", "global_0.1_degree_tiff_all"
"""Folders of the files that the package geotessera downloads, and of its servers."""

_YEAR = re.compile(r"(?:19|20)\d\d")
_VERSION = re.compile(r"v\d[^/]*")
_MOST_TILES = 20_000  # names that are asked for: 14 by 14 degrees


@dataclass(frozen=True)
class TesseraTiles:
    """TESSERA's tiles below a folder or an address.

    A tile of a year is ``<year>/grid_<lon>_<lat>/grid_<lon>_<lat>.npy``, with
    ``..._scales.npy`` beside it, below the folder or below its part
    ``global_0.1_degree_representation``. Its CRS and transform are those of its
    landmask, ``grid_<lon>_<lat>.tiff``, in one of the folders that :meth:`_landmask`
    lists.

    Parameters
    ----------
    address : str
        The folder or the address.
    """

    address: str
    product: Product = TESSERA

    @classmethod
    def at(cls, address: str) -> TesseraTiles:
        """Return the tiles of a folder, with the release that its name says."""
        names = [p for p in address.split("/") if _VERSION.fullmatch(p)]
        version = names[-1] if names else ""
        return cls(address.rstrip("/"), replace(TESSERA, version=version))

    def find_tiles(self, box: Box, years: Sequence[int]) -> dict[int, list[Tile]]:
        """Return the tiles of each year that touch a box in degrees."""
        names = tile_names(box)
        there = self._years()
        found = {}
        for year in years:
            if there is not None and year not in there:
                raise missing_year(self.address, year, there)
            tiles = open_together(partial(self._open, year=year), names)
            found[year] = [tile for tile in tiles if tile is not None]
            if not found[year]:
                raise no_tile(self.address, year, box)
        return found

    def _years(self) -> set[int] | None:
        """Return the years that a folder has; an address cannot be listed."""
        if is_address(self.address):
            return None
        return {int(n) for n in os.listdir(self._base()) if _YEAR.fullmatch(n)}

    def _base(self) -> str:
        below = f"{self.address}/{EMBEDDINGS}"
        return below if os.path.isdir(below) else self.address

    def _open(self, name: str, year: int) -> Tile | None:
        """Return a tile, its headers checked; None if the archive has none."""
        bases = [self._base()]
        if is_address(self.address):
            bases = [f"{self.address}/{EMBEDDINGS}", self.address]
        files = [f"{base}/{year}/{name}/{name}.npy" for base in bases]
        file = next((one for one in files if _there(one)), None)
        if file is None:
            return None
        folder = file.rpartition("/")[0]
        numbers = _opened(file, year)
        scales_file = f"{folder}/{name}_scales.npy"
        if not _there(scales_file):
            raise CubeError(
                f"{file} of {year} has no scales, {name}_scales.npy, beside it, and "
                "its numbers mean nothing without them; get both files."
            )
        scales = _opened(scales_file, year)
        _check(numbers, scales, year)
        mask = self._landmask(name, folder)
        if mask is None:
            raise CubeError(
                f"{file} of {year} has no landmask, {name}.tiff, which has its CRS; "
                f"put it into {LANDMASKS}/ of {self.address}."
            )
        geobox = _grid_of(mask, numbers, year)
        return Tile(file, year, geobox, partial(_read, numbers, scales, mask))

    def _landmask(self, name: str, folder: str) -> str | None:
        """Return the landmask of a tile, which is the same for all years."""
        above = self.address.rpartition("/")[0].rpartition("/")[0]
        places = [
            f"{self.address}/{LANDMASKS}",
            folder,
            f"{self.address}/landmasks",
            # On Source Cooperative beside npy/<version>, of the first release only.
            f"{above}/landmasks/{self.product.version or 'v1'}",
            f"{above}/landmasks/v1",
        ]
        files = [f"{place}/{name}.tiff" for place in dict.fromkeys(places)]
        return next((file for file in files if _there(file)), None)


def tile_names(box: Box) -> list[str]:
    """Return the names of the tiles of 0.1 degrees that touch a box in degrees.

    Raises
    ------
    CubeError
        If there are more than 20,000.
    """
    spans = []
    for west, south, east, north in parts(box):
        columns = range(math.floor(west * 10 + 1e-9), math.ceil(east * 10 - 1e-9))
        rows = range(math.floor(south * 10 + 1e-9), math.ceil(north * 10 - 1e-9))
        spans.append((rows, columns))
    count = sum(len(rows) * len(columns) for rows, columns in spans)
    if count > _MOST_TILES:
        raise CubeError(
            f"The area must be in at most {_MOST_TILES:,} tiles of TESSERA, got "
            f"{count:,}; give smaller areas one after another."
        )
    return [
        f"grid_{column / 10 + 0.05:.2f}_{row / 10 + 0.05:.2f}"
        for rows, columns in spans
        for row in rows
        for column in columns
    ]


def _there(file: str) -> bool:
    try:
        return exists(file)
    except Exception as error:  # each file system has its own
        if (failure := failure_of(error, file)) is not None:
            raise failure from error
        raise


def _opened(file: str, year: int) -> NpyFile:
    try:
        return open_npy(file)
    except NpyError as error:
        raise CubeError(
            f"{file} of {year} cannot be read: {error}; get the file again."
        ) from error


def _check(numbers: NpyFile, scales: NpyFile, year: int) -> None:
    """Check types and shapes of a tile and its scales."""
    bands = len(TESSERA.bands)
    whole = np.dtype(numbers.dtype) == np.int8
    if not whole or len(numbers.shape) != 3 or numbers.shape[2] != bands:
        expected = f"int8 (y, x, {bands})"
        raise wrong_layout(numbers.path, year, expected, _shape_of(numbers))
    fits = scales.shape in (numbers.shape[:2], numbers.shape)
    if not fits or np.dtype(scales.dtype) != np.float32:
        expected = f"float32 {numbers.shape[:2]} or {numbers.shape}"
        raise wrong_layout(scales.path, year, expected, _shape_of(scales))


def _shape_of(file: NpyFile) -> str:
    return f"{np.dtype(file.dtype)} {file.shape}"


def _grid_of(mask: str, numbers: NpyFile, year: int) -> Any:
    """Return the grid of a tile, which is that of its landmask."""
    from odc.geo.geobox import GeoBox
    from rasterio.errors import RasterioError

    try:
        with gdal_settings(companions=False), open_raster(mask) as source:
            geobox = GeoBox.from_rio(source)
    except (RasterioError, OSError) as error:
        if (failure := failure_of(error, mask, mask)) is not None:
            raise failure from error
        raise CubeError(
            f"{mask}, the landmask of {numbers.path} of {year}, cannot be opened: "
            f"{error}; get the file again."
        ) from error
    if geobox.crs is None or tuple(geobox.shape) != numbers.shape[:2]:
        got = f"{tuple(geobox.shape)} with the CRS {geobox.crs}"
        expected = f"a CRS and the {numbers.shape[:2]} pixels of {numbers.path}"
        raise wrong_layout(mask, year, expected, got)
    return geobox


def _read(
    numbers: NpyFile, scales: NpyFile, mask: str, rows: slice, columns: slice
) -> Pixels:
    """Read a window of a tile, (band, y, x) float32, NaN where its landmask is 0."""
    from rasterio.windows import Window

    stored = np.moveaxis(numbers.read(rows, columns), 2, 0)
    by_pixel = scales.read(rows, columns)
    if by_pixel.ndim == 3:
        by_pixel = np.moveaxis(by_pixel, 2, 0)
    values = scaled(stored, by_pixel)
    with gdal_settings(companions=False), open_raster(mask) as source:
        land = source.read(1, window=Window.from_slices(rows, columns))
    values[:, land == 0] = np.nan
    return values
