"""A landscape's embeddings, written in the layouts in which archives publish them.

For tests and examples of :func:`geobiomass.from_embeddings` without a download. The
layouts are those of AlphaEarth's files, TESSERA's files and Zarr store, and of the
geo-embeddings convention.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
import xarray as xr

from geobiomass.cube.grid import Grid
from geobiomass.cube.schema import CubeError
from geobiomass.sources.landscape.embedding_stores import write_squares, write_zones
from geobiomass.sources.landscape.embedding_vectors import (
    Vectors,
    embed,
    scales_of,
    squares_of,
)
from geobiomass.training.packages import need

Layout = Literal["alphaearth", "tessera-npy", "tessera-zarr", "geoemb"]

LAYOUTS: tuple[Layout, ...] = ("alphaearth", "tessera-npy", "tessera-zarr", "geoemb")
DIMENSIONS = {"alphaearth": 64, "geoemb": 64, "tessera-npy": 128, "tessera-zarr": 128}
"""Length of a vector of each layout."""

# Where the paths of the published index begin; copies are elsewhere.
_PUBLISHED = "s3://us-west-2.opendata.source.coop/tge-labs/aef"


def write_embeddings(
    scenes: Mapping[int, xr.Dataset],
    folder: str | os.PathLike[str],
    layout: Layout,
    *,
    tile: int = 8192,
    address: str | None = None,
) -> str:
    """Write the embeddings of a landscape as an archive publishes them.

    Parameters
    ----------
    scenes : mapping of int to xarray.Dataset
        A scene of each year, all on one grid in a zone of UTM.
    folder : path
        Folder to write into; it is created if it does not exist.
    layout : "alphaearth", "tessera-npy", "tessera-zarr" or "geoemb"
        AlphaEarth: GeoTIFFs that begin in the south, int8 as signed squares, and their
        index as Parquet, GeoPackage and CSV. TESSERA: tiles of 0.1 degrees with scales
        and landmasks, cut to the landscape; or a Zarr store with a group a zone. Or a
        Zarr store of the convention with AlphaEarth's numbers.
    tile : int
        Side in pixels of AlphaEarth's files.
    address : str, optional
        Address at which `folder` is served, which the index then has. By default it has
        the addresses of the published files, in whose place those beside it are read.

    Returns
    -------
    str
        What to give to :func:`geobiomass.from_embeddings`: a path, or an address.

    Raises
    ------
    CubeError
        If the scenes are not in a zone of UTM, or on different grids.
    ValueError
        If the layout is unknown.
    """
    if layout not in LAYOUTS:
        raise ValueError(f"layout must be one of {LAYOUTS}, got {layout!r}.")
    zone = _zone_of(scenes)
    folder = Path(folder).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    vectors = {y: embed(one, DIMENSIONS[layout]) for y, one in scenes.items()}
    grid = Grid.of(next(iter(scenes.values())))
    if layout == "alphaearth":
        below = _write_tiles(vectors, grid, zone, folder, tile, address or _PUBLISHED)
    elif layout == "tessera-npy":
        below = _write_npy(vectors, grid, zone, folder)
    elif layout == "tessera-zarr":
        below = write_zones(vectors, grid, zone, folder)
    else:
        below = write_squares(vectors, grid, zone, folder)
    return f"{address.rstrip('/')}/{below}" if address else str(folder / below)


def _zone_of(scenes: Mapping[int, xr.Dataset]) -> int:
    """Return the EPSG code of the zone that all scenes are in."""
    import rioxarray  # noqa: F401  (the .rio accessor)

    codes = {one.rio.crs and one.rio.crs.to_epsg() for one in scenes.values()}
    grids = [Grid.of(one) for one in scenes.values()]
    code = codes.pop() if len(codes) == 1 else None
    if code is None or not (32601 <= code <= 32660 or 32701 <= code <= 32760):
        raise CubeError(
            "Scenes must all be in one zone of UTM, such as crs='EPSG:32635', as the "
            "archives are, got others."
        )
    if not all(grid.same_as(grids[0]) for grid in grids):
        raise CubeError("Scenes must be on one grid, got several; write them apart.")
    return int(code)


# AlphaEarth ----------------------------------------------------------------------


def _write_tiles(
    vectors: Mapping[int, Vectors],
    grid: Grid,
    zone: int,
    folder: Path,
    side: int,
    address: str,
) -> str:
    """Write GeoTIFFs and their index; return the index below the folder."""
    from rasterio.warp import transform_bounds

    name = f"{zone % 100}{'N' if zone < 32700 else 'S'}"
    base = folder / "v1" / "annual"
    rows: list[dict[str, Any]] = []
    for year, all_vectors in vectors.items():
        (base / str(year) / name).mkdir(parents=True, exist_ok=True)
        for window in _windows(all_vectors.shape[1:], side):
            part = squares_of(all_vectors[:, *window])
            file = f"{year}/{name}/x{zone}-{window[0].start:010d}-"
            file += f"{window[1].start:010d}.tiff"
            edges = _edges(grid, window)
            _write_south_up(base / file, part, zone, grid, edges)
            degrees = transform_bounds(zone, 4326, *edges)
            place = f"{address.rstrip('/')}/v1/annual/{file}"
            rows.append(
                {"fid": len(rows), "path": place, "year": year}
                | dict(zip(_edge_names("wgs84"), degrees, strict=True))
                | {"crs": f"EPSG:{zone}", "utm_zone": name}
                | dict(zip(_edge_names("utm"), edges, strict=True))
            )
    _write_index(pd.DataFrame(rows), base)
    return "v1/annual/aef_index.parquet"


def _edge_names(system: str) -> list[str]:
    return [f"{system}_{side}" for side in ("west", "south", "east", "north")]


def _windows(shape: tuple[int, ...], side: int) -> Iterator[tuple[slice, slice]]:
    height, width = shape
    for top in range(0, height, side):
        for left in range(0, width, side):
            rows = slice(top, min(top + side, height))
            yield rows, slice(left, min(left + side, width))


def _edges(
    grid: Grid, window: tuple[slice, slice]
) -> tuple[float, float, float, float]:
    """Return west, south, east and north of a window of a grid."""
    corner = grid.transform
    rows, columns = window
    north, south = (corner.f + corner.e * row for row in (rows.start, rows.stop))
    west, east = (corner.c + corner.a * x for x in (columns.start, columns.stop))
    return west, south, east, north


def _write_south_up(
    path: Path,
    stored: npt.NDArray[np.int8],
    zone: int,
    grid: Grid,
    edges: tuple[float, float, float, float],
) -> None:
    """Write a GeoTIFF whose first row is in the south."""
    import rasterio
    from affine import Affine

    side = grid.transform.a
    with rasterio.open(
        path,
        "w",
        driver="COG",
        count=stored.shape[0],
        height=stored.shape[1],
        width=stored.shape[2],
        dtype="int8",
        crs=f"EPSG:{zone}",
        transform=Affine(side, 0.0, edges[0], 0.0, side, edges[1]),
        nodata=-128,
        compress="deflate",
        blocksize=256,
        overviews="none",
    ) as target:
        target.write(stored[:, ::-1])
        target.descriptions = tuple(f"A{number:02d}" for number in range(len(stored)))


def _write_index(rows: pd.DataFrame, base: Path) -> None:
    need("Writing an index of embeddings", "gedi", "geopandas", "pyarrow")
    import geopandas
    from shapely import box

    shapes = box(*(rows[name] for name in _edge_names("wgs84")))
    table = geopandas.GeoDataFrame(rows, geometry=shapes, crs=4326)
    table.to_parquet(base / "aef_index.parquet")
    table.to_file(base / "aef_index.gpkg", driver="GPKG")
    text = rows.assign(WKT=[shape.wkt for shape in shapes])
    text.to_csv(base / "aef_index.csv", index=False)


# TESSERA -------------------------------------------------------------------------


def _write_npy(
    vectors: Mapping[int, Vectors], grid: Grid, zone: int, folder: Path
) -> str:
    """Write tiles of 0.1 degrees, their scales and landmasks."""
    below = "tessera/npy/v1"
    masks = folder / "tessera" / "landmasks" / "v1"
    masks.mkdir(parents=True, exist_ok=True)
    for name, window in _cells(grid, zone):
        for year, all_vectors in vectors.items():
            part = all_vectors[:, *window]
            stored, scales = scales_of(part)
            home = folder / below / str(year) / name
            home.mkdir(parents=True, exist_ok=True)
            # As TESSERA has them: a pixel's numbers are adjacent.
            by_pixel = np.ascontiguousarray(np.moveaxis(stored, 0, 2))
            np.save(home / f"{name}.npy", by_pixel)
            np.save(home / f"{name}_scales.npy", scales)
        land = np.isfinite(part[0]).astype(np.uint8)
        _write_mask(masks / f"{name}.tiff", land, zone, grid, window)
    return below


def _cells(grid: Grid, zone: int) -> Iterator[tuple[str, tuple[slice, slice]]]:
    """Yield each tile that touches a grid, and the window of the grid around it."""
    from rasterio.warp import transform_bounds

    from geobiomass.sources.embeddings.tessera_tiles import tile_names

    box = transform_bounds(zone, 4326, *grid.bounds)
    corner, (height, width) = grid.transform, (grid.height, grid.width)
    for name in tile_names(box):
        lon, lat = map(float, name.split("_")[1:])
        cell = (lon - 0.05, lat - 0.05, lon + 0.05, lat + 0.05)
        west, south, east, north = transform_bounds(4326, zone, *cell)
        top, bottom = ((y - corner.f) / corner.e for y in (north, south))
        left, right = ((x - corner.c) / corner.a for x in (west, east))
        rows = slice(max(0, math.floor(top)), min(height, math.ceil(bottom)))
        columns = slice(max(0, math.floor(left)), min(width, math.ceil(right)))
        if rows.start < rows.stop and columns.start < columns.stop:
            yield name, (rows, columns)


def _write_mask(
    path: Path,
    land: npt.NDArray[np.uint8],
    zone: int,
    grid: Grid,
    window: tuple[slice, slice],
) -> None:
    import rasterio

    corner = grid.transform
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        count=1,
        height=land.shape[0],
        width=land.shape[1],
        dtype="uint8",
        crs=f"EPSG:{zone}",
        transform=corner @ type(corner).translation(window[1].start, window[0].start),
        compress="deflate",
    ) as target:
        target.write(land, 1)
