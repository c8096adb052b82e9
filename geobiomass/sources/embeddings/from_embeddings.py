"""Cubes of embeddings, a year each."""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast, overload

import numpy as np
import xarray as xr

from geobiomass.cube import CubeError, check_cube
from geobiomass.sources.embeddings.archives import open_archive
from geobiomass.sources.embeddings.products import Product
from geobiomass.sources.embeddings.tiles import (
    Archive,
    BlockReader,
    Tile,
    choose_method,
    lazy_image,
    share_without_tile,
    upright,
)
from geobiomass.sources.grid import SCENES, WGS84, grid_coordinates, make_grid
from geobiomass.sources.grid_like import grid_like
from geobiomass.sources.rasters.grid_geometry import crs_name, pixel_offset
from geobiomass.sources.rasters.reproject import Resampling
from geobiomass.sources.rasters.target_grid import choose_grid
from geobiomass.sources.stac.addresses import without_secrets
from geobiomass.sources.stac.area import box_of, lonlat_box
from geobiomass.training.given_paths import is_address
from geobiomass.training.setting_names import explain_arguments

if TYPE_CHECKING:
    from odc.geo.geobox import GeoBox

_METHODS = ("nearest", "bilinear", "cubic", "average")
_RESOLUTION = 10.0  # metres, of all archives that are known
_TOLD = 1e-3  # share of the area without a tile, from which it is told

MONTH = 1
"""The calendar month of a step that is a year: that in which the year begins."""


@overload
def from_embeddings(
    source: Any,
    area: Any = None,
    years: int = ...,
    *,
    like: Any = None,
    resolution: float | None = None,
    crs: Any = None,
    bounds_crs: Any = WGS84,
    resampling: Resampling | None = None,
    dimensions: int | None = None,
) -> xr.Dataset: ...
@overload
def from_embeddings(
    source: Any,
    area: Any,
    years: Sequence[int],
    *,
    like: Any = None,
    resolution: float | None = None,
    crs: Any = None,
    bounds_crs: Any = WGS84,
    resampling: Resampling | None = None,
    dimensions: int | None = None,
) -> dict[int, xr.Dataset]: ...
@explain_arguments
def from_embeddings(
    source: Any,
    area: Any = None,
    years: int | Sequence[int] | None = None,
    *,
    like: Any = None,
    resolution: float | None = None,
    crs: Any = None,
    bounds_crs: Any = WGS84,
    resampling: Resampling | None = None,
    dimensions: int | None = None,
) -> xr.Dataset | dict[int, xr.Dataset]:
    """Open embeddings of AlphaEarth, TESSERA or a Zarr store as a lazy cube of a year.

    An embedding is a vector a pixel and year, computed by a large model from the images
    of the year. Each of its numbers is a band of the cube, and the year is its one
    step. Opening reads the headers of the tiles that touch the area; vectors are read
    when they are computed, in blocks of 256 x 256 pixels.

    Parameters
    ----------
    source : str or path
        "alphaearth" or "tessera"; the path or address of an index of AlphaEarth
        (``aef_index.parquet``, ``.gpkg``, ``.csv``) or of its folder; a folder or an
        address of TESSERA's tiles (``.npy``), as the package geotessera downloads
        them; or a Zarr store that follows the geo-embeddings convention.
    area : optional
        West, south, east, north in `bounds_crs`, or a polygon (a vector file, GeoJSON,
        shapely, geopandas), whose bounding box is used; or a cube, whose grid is used.
    years : int or sequence of int
        The year, or several.
    like : optional
        The grid, instead of `area`, `resolution` and `crs`: a cube, a GeoBox of
        odc-geo, an array with coordinates and a CRS, or the path of a raster.
    resolution, crs : optional
        Side of a pixel and CRS of the cube. By default the pixels of the archive, which
        are then copied unchanged; where the area is in several UTM zones, 10 m in the
        zone of its centre.
    bounds_crs : optional
        CRS of `area`; by default longitude and latitude.
    resampling : "nearest", "bilinear", "cubic" or "average", optional
        Method for tiles on another grid. By default "nearest", or "average" if pixels
        are over 1.5 times as large as the archive's. Vectors of AlphaEarth are scaled
        to length 1 after all methods but "nearest".
    dimensions : int, optional
        Read only so many dimensions, the first ones. Only releases whose dimensions are
        ordered have such arrays (``geoemb:depths``: TESSERA v2).

    Returns
    -------
    xarray.Dataset, or dict of int to xarray.Dataset
        For one year a cube, ``image`` (month, band, y, x) float32 without units, NaN
        where there is no vector. ``month`` has one step, 1: the schema has calendar
        months, and the year begins in this one; the attribute `step` is "year". For
        several years a cube of each, by year, on one grid: a model of one of them maps
        all, and :func:`geobiomass.change` compares the maps. The bands are A00 to A63
        of AlphaEarth, T000 to T127 of TESSERA, E000, E001, ... of others. Attributes:
        `source`, `product_version`, `licence`, `attribution`, `time_coverage_start`,
        `time_coverage_end`, `resampling`, `scenes` (the tiles) and
        `share_without_tile` (of the area).

    Raises
    ------
    CubeError
        If the source is no archive of embeddings, it lacks a year or has no tile in the
        area, a tile has another type, number of bands, or no scales, or is cut short;
        or the grid is ambiguous.
    DamagedError
        While computing, if a tile cannot be read; it names file and year.

    Warns
    -----
    UserWarning
        If part of the area has no tile.

    Notes
    -----
    AlphaEarth stores v = -127 to 127 for sign(v) (v / 127.5)^2, and -128 where there is
    no vector (the readme of the files). TESSERA stores int8 and a scale a pixel; pixels
    are missing where the scale is not finite, not above 0 or above 1, and where the
    landmask of a tile is 0. Of rows of .npy tiles at an address the whole width is
    read: the Zarr store is read in smaller parts.

    Examples
    --------
    >>> import geobiomass as gb
    >>> cube = gb.from_embeddings(  # doctest: +SKIP
    ...     "alphaearth", (24.0, 61.8, 24.1, 61.9), years=2023
    ... )
    >>> model = gb.fit(gb.with_labels(cube, "plots.gpkg"), "pixels")  # doctest: +SKIP
    """
    wanted = _checked_years(years)
    if resampling not in (None, *_METHODS):
        raise CubeError(f"resampling must be one of {_METHODS}, got {resampling!r}.")
    if isinstance(area, xr.Dataset | xr.DataArray) and like is None:
        area, like = None, area
    place = _Place(area, like, resolution, crs, bounds_crs)
    archive = open_archive(source, dimensions)
    tiles = archive.find_tiles(lonlat_box(place.rough), wanted)
    grid = place.grid([tile for found in tiles.values() for tile in found])
    method = resampling or choose_method(tiles, grid)
    cubes = {
        year: _cube_of(archive, year, found, grid, method)
        for year, found in tiles.items()
    }
    return cubes[wanted[0]] if isinstance(years, int | np.integer) else cubes


def _checked_years(years: Any) -> list[int]:
    whole = int | np.integer
    given = [years] if isinstance(years, whole) else years
    if isinstance(given, np.ndarray):
        given = given.tolist()
    right = isinstance(given, Sequence | range) and not isinstance(given, str)
    if not right or not given or not all(_is_year(one) for one in given):
        raise CubeError(
            f"years must be a year or several, such as 2023 or [2020, 2024], got "
            f"{years!r}."
        )
    return list(dict.fromkeys(map(int, given)))


def _is_year(one: Any) -> bool:
    whole = isinstance(one, int | np.integer) and not isinstance(one, bool)
    return whole and 1900 < int(one) < 2200


class _Place:
    """The area of a cube, of which the grid follows when the tiles are known."""

    def __init__(
        self, area: Any, like: Any, resolution: Any, crs: Any, bounds_crs: Any
    ) -> None:
        if (area is None) == (like is None):
            raise CubeError(
                "from_embeddings needs an area: give either area=(west, south, east, "
                "north) in degrees, or a polygon; or like=, an object whose grid is "
                "used."
            )
        if like is not None and not (resolution is None and crs is None):
            raise CubeError(
                "Give either like= or area, resolution and crs, got both; leave out "
                "the others of them."
            )
        self.resolution, self.crs = resolution, crs
        if like is not None:
            self.box, self.box_crs = None, None
            self.rough = grid_like(like)
            return
        self.box, self.box_crs = box_of(area, bounds_crs)
        self.rough = make_grid(
            self.box,
            _RESOLUTION if resolution is None else resolution,
            "utm" if crs is None else crs,
            bounds_crs=self.box_crs,
        )

    def grid(self, tiles: Sequence[Tile]) -> GeoBox:
        """Return the grid: the one given, or that of tiles that have one CRS."""
        own = self.box is not None and self.resolution is None and self.crs is None
        systems = {tile.geobox.crs for tile in tiles}
        if not own or len(systems) > 1:
            return self.rough
        boxes = [tile.geobox for tile in tiles]
        return choose_grid(boxes, bounds=self.box, bounds_crs=self.box_crs)


def _cube_of(
    archive: Archive,
    year: int,
    tiles: Sequence[Tile],
    grid: GeoBox,
    method: Resampling,
) -> xr.Dataset:
    """Return the cube of a year."""
    import rioxarray  # noqa: F401  (the .rio accessor)

    product = archive.product
    share = share_without_tile(tiles, grid)
    if share > _TOLD:
        warnings.warn(
            f"{archive.address} has no tile of {year} for {100 * share:.1f} % of the "
            "area; these pixels are missing.",
            stacklevel=3,
        )
    reader = BlockReader(len(product.bands), method, product.unit_length)
    fingerprint = _fingerprint(archive, year, tiles, method)
    image = lazy_image(tiles, grid, reader, fingerprint)
    about = {"long_name": f"embeddings of {product.name}", "units": "1"}
    cube = xr.Dataset(
        {"image": (("month", "band", "y", "x"), image, about)},
        coords={
            "month": np.array([MONTH], np.int64),
            "band": np.array(product.bands),
            **grid_coordinates(grid),
        },
        attrs=_attributes(archive, year, tiles)
        | {
            "resampling": _in_words(method, tiles, grid),
            "share_without_tile": round(share, 4),
            "source_fingerprint": fingerprint,
        },
    )
    cube = cast(
        xr.Dataset, cube.rio.write_crs(str(grid.crs)).rio.write_coordinate_system()
    )
    if product.step is not None:
        cube["image"].encoding["quantum"] = dict.fromkeys(product.bands, product.step)
    check_cube(cube)
    return cube


def _attributes(archive: Archive, year: int, tiles: Sequence[Tile]) -> dict[str, Any]:
    product = archive.product
    address = without_secrets(archive.address)
    if not is_address(archive.address):  # local folders mean nothing elsewhere
        address = os.path.basename(address)
    names = [_name_of(tile.file) for tile in tiles]
    group = {"collection": _titled(product), "ids": sorted(set(names))}
    stated = {
        "product_version": product.version,
        "licence": product.licence,
        "attribution": product.attribution,
    }
    return {
        "title": f"Embeddings of {product.name}, {year}",
        "source": f"{_titled(product)}: {address}",
        **{name: text for name, text in stated.items() if text},
        "step": "year",
        "time_coverage_start": f"{year}-01-01",
        "time_coverage_end": f"{year}-12-31",
        SCENES: json.dumps({f"{year}-{MONTH:02d}": [group]}),
    }


def _titled(product: Product) -> str:
    return " ".join(filter(None, (product.name, product.version)))


def _name_of(file: str) -> str:
    """Return the name of a tile without its folders, or the group of a store."""
    parts = file.split("?")[0].replace("\\", "/").rstrip("/").split("/")
    return "/".join(parts[-2:]) if parts[-1].startswith("embeddings") else parts[-1]


def _in_words(method: str, tiles: Sequence[Tile], grid: GeoBox) -> str:
    """Return the method, or that pixels are copied."""
    moved = [pixel_offset(upright(t).geobox, grid) is None for t in tiles]
    if not any(moved):
        return "none: the grid of the archive"
    kinds = sorted({crs_name(tile.geobox.crs) for tile in tiles})
    return f"{method}, from {', '.join(kinds)} to {crs_name(grid.crs)}"


def _fingerprint(
    archive: Archive, year: int, tiles: Sequence[Tile], method: str
) -> str:
    """Return a hash of what the pixels are read from."""
    files = sorted((without_secrets(t.file), repr(t.geobox)) for t in tiles)
    described = (archive.product, year, files, method)
    return hashlib.sha256(repr(described).encode()).hexdigest()
