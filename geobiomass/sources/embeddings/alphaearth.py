"""Tiles of AlphaEarth: GeoTIFFs of a UTM zone and year, found by an index."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from geobiomass.cube import CubeError
from geobiomass.cube.address_errors import failure_of, told_of_address
from geobiomass.cube.antimeridian import boxes_touch
from geobiomass.cube.claimed_size import check_blocks
from geobiomass.cube.table_errors import cube_errors
from geobiomass.sources.embeddings.products import ALPHAEARTH, Product
from geobiomass.sources.embeddings.stored_numbers import signed_squares
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
from geobiomass.sources.rasters.tiff_header import TiffHeaderError, read_tiff_header
from geobiomass.sources.stac.addresses import Guard
from geobiomass.tables import read_table
from geobiomass.training.given_paths import is_address
from geobiomass.training.packages import need, need_for_address

INDEX_NAMES = ("aef_index.parquet", "aef_index.gpkg", "aef_index.csv")
"""Names of the index, those first that are read fastest."""

ADDRESS = "https://data.source.coop/tge-labs/aef/v1/annual/aef_index.parquet"
"""Of the index of the copy on Source Cooperative, which is open."""

_EDGES = ("wgs84_west", "wgs84_south", "wgs84_east", "wgs84_north")
# The same files, with and without an account of the cloud that they are in.
_WITH_ACCOUNT = "s3://us-west-2.opendata.source.coop/"
_OPEN = "https://data.source.coop/"
# .../2023/10N/<id>-<row>-<col>.tiff: the part of a path that copies have too.
_BELOW = re.compile(r".*?((?:19|20)\d\d/\d{1,2}[NS]/[^/]+)", re.DOTALL)


@dataclass(frozen=True)
class AlphaEarth:
    """AlphaEarth's tiles by an index.

    Parameters
    ----------
    address : str
        Path or address of the index: Parquet, GeoPackage or CSV with the columns
        ``year``, ``path`` and ``wgs84_west``, ``_south``, ``_east``, ``_north``. A file
        that is beside the index, as ``2023/10N/name.tiff``, is read in place of the
        address that the index has.
    """

    address: str
    product: Product = ALPHAEARTH

    def find_tiles(self, box: Box, years: Sequence[int]) -> dict[int, list[Tile]]:
        """Return the tiles of each year that touch a box in degrees."""
        index = _read_index(self.address)
        there = set(index["year"].astype(int))
        guard = Guard(self.address)
        found: dict[int, list[str]] = {}
        for year in years:
            if year not in there:
                raise missing_year(self.address, year, there)
            rows = index[index["year"].astype(int) == year]
            edges = rows[list(_EDGES)].to_numpy(np.float64)
            near = [boxes_touch(edge, box) for edge in edges.tolist()]
            if not any(near):
                raise no_tile(self.address, year, box)
            found[year] = [
                guard.check(self._place(path), f"A row of {self.address}, {year},")
                for path in sorted(rows["path"][near])
            ]
        return {
            year: open_together(partial(_open, year=year), files)
            for year, files in found.items()
        }

    def _place(self, path: Any) -> str:
        """Return where a file of the index is."""
        text = str(path)
        folder = self.address.rpartition("/")[0] if "/" in self.address else "."
        if not is_address(self.address) and (below := _BELOW.fullmatch(text)):
            beside = os.path.join(folder, below[1])
            if os.path.exists(beside):
                return beside
        if text.startswith(_WITH_ACCOUNT):
            return _OPEN + text.removeprefix(_WITH_ACCOUNT)
        if is_address(text) or os.path.isabs(text):
            return text
        return f"{folder}/{text}"


def _read_index(address: str) -> pd.DataFrame:
    """Read an index as year, path and the edges of each tile in degrees."""
    with told_of_address(address), cube_errors():
        table = _parquet(address) if address.lower().endswith(".parquet") else None
        if table is None:
            table = read_table(address)
    if not set(_EDGES) <= set(table) and hasattr(table, "geometry"):
        edges = table.geometry.bounds.to_numpy().T
        table = table.assign(**dict(zip(_EDGES, edges, strict=True)))
    lacking = [name for name in ("year", "path", *_EDGES) if name not in table]
    if lacking:
        raise CubeError(
            f"{address} must be an index of AlphaEarth with the columns year, path, "
            f"{', '.join(_EDGES)}, and lacks {', '.join(lacking)}; give the address "
            f"of {INDEX_NAMES[0]}."
        )
    return table


def _parquet(address: str) -> pd.DataFrame | None:
    """Read only the columns needed, as the whole index is large; None without them."""
    need(f"Reading {address}", "tables", "pyarrow")
    need_for_address(address)
    import fsspec
    import pyarrow.parquet as parquet
    from pyarrow import ArrowException

    columns = ["year", "path", *_EDGES]
    with fsspec.open(address, "rb") as stream:
        try:
            file = parquet.ParquetFile(stream)
            if not set(columns) <= set(file.schema_arrow.names):
                return None
            table: pd.DataFrame = file.read(columns=columns).to_pandas()
            return table
        except ArrowException as error:
            raise CubeError(
                f"{address} cannot be read as Parquet: {error}; get the file again."
            ) from error


def _open(file: str, year: int) -> Tile:
    """Return a tile, its header checked."""
    from odc.geo.geobox import GeoBox
    from rasterio.errors import RasterioError

    try:
        _check_length(file, year)
        with gdal_settings(companions=False), open_raster(file) as source:
            check_blocks(source, file)
            kinds = sorted(set(source.dtypes))
            got = f"{source.count} bands of {', '.join(kinds)}"
            bands = len(ALPHAEARTH.bands)
            if source.count != bands or kinds != ["int8"]:
                raise wrong_layout(file, year, f"{bands} bands of int8", got)
            if source.nodata not in (None, -128):
                raise wrong_layout(file, year, "nodata -128", f"{source.nodata:g}")
            if source.crs is None or source.transform.b or source.transform.d:
                grid = "a CRS and a grid along its axes"
                raise wrong_layout(file, year, grid, f"{source.crs}")
            geobox = GeoBox.from_rio(source)
    except (RasterioError, OSError) as error:
        if (failure := failure_of(error, file, file)) is not None:
            raise failure from error
        raise CubeError(
            f"{file} of {year}, which the index lists, cannot be opened: {error}; get "
            "the file again."
        ) from error
    return Tile(file, year, geobox, partial(_read, file))


def _check_length(file: str, year: int) -> None:
    """Check that a file on a disk is as long as its header says."""
    if is_address(file) or not os.path.isfile(file):
        return
    try:
        end = read_tiff_header(file).end
    except TiffHeaderError:
        return  # GDAL says what it is
    size = os.path.getsize(file)
    if size < end:
        raise wrong_layout(file, year, f"{end:,} bytes", f"{size:,}")


def _read(file: str, rows: slice, columns: slice) -> Pixels:
    """Read a window of a tile, (band, y, x) float32."""
    from rasterio.windows import Window

    with gdal_settings(companions=False), open_raster(file) as source:
        stored = source.read(window=Window.from_slices(rows, columns))
    return signed_squares(stored)
