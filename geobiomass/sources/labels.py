"""Labels for a cube: from a raster, or from plots and footprints as sparse labels."""

from __future__ import annotations

import math
import os
import warnings
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt
import pandas as pd
import xarray as xr

from geobiomass.cube import CubeError, check_cube, is_chips
from geobiomass.sources.footprints import Plots, label_pixels, read_plots
from geobiomass.sources.rasters.find import Found, Problems
from geobiomass.sources.rasters.headers import look
from geobiomass.sources.rasters.lazy import BLOCK, lazy_blocks
from geobiomass.sources.rasters.read import (
    Layer,
    Pixels,
    Resampling,
    outline_on,
    ratio,
    shift,
    warp,
)
from geobiomass.sources.rasters.target_grid import choose_grid

if TYPE_CHECKING:
    from odc.geo.geobox import GeoBox

_TABLES = (
    ".gpkg", ".geojson", ".json", ".shp", ".fgb", ".gml", ".kml", ".zip",
    ".parquet", ".geoparquet", ".csv",
)  # fmt: skip


def with_labels(
    cube: xr.Dataset,
    labels: Any,
    *,
    column: str = "agb",
    radius: float | None = None,
    nodata: float | None = None,
    crs: Any = None,
    resampling: Resampling | None = None,
    all_touched: bool = False,
    minimum: float | None = 0.0,
    units: str = "Mg/ha",
) -> xr.Dataset:
    """Give a scene labels: from a raster, or from a table of plots or footprints.

    Parameters
    ----------
    cube : xarray.Dataset
        A scene with a reference system. What it has as ``agb`` is replaced.
    labels : path, xarray.DataArray, geopandas.GeoDataFrame or pandas.DataFrame
        A raster (a file, or an array with a place, which is held in memory): it is
        brought onto the cube's grid. Or geometries with a value each: points label
        the pixel they lie in; polygons the pixels whose centre lies inside, and if
        there is none, the pixel in their middle. Vector files (GeoPackage, GeoJSON,
        shapefile, GeoParquet) need ``geobiomass[vectors]``; a CSV file or a plain
        table has its places in columns lon and lat, or x and y.
    column : str
        Of the table, with the values; of a raster of several bands, the name of the
        band.
    radius : float, optional
        Of what a point stands for, metres: 12.5 for a footprint of GEDI. Points then
        label the pixels whose centre is no further away on the ground, and if there
        is none, the pixel they lie in.
    nodata : float, optional
        What marks missing values, instead of a raster's own tag.
    crs : optional
        Reference system of labels that do not say theirs, such as columns x and y.
    resampling : str, optional
        How a raster comes onto another grid: by default "average" of the labels in a
        pixel that is more than 1.5 times as long as theirs, else "nearest".
    all_touched : bool
        Polygons label all pixels that they touch.
    minimum : float, optional
        Labels below it are left out, with a warning: no biomass is negative, but
        many marks for missing values are. None keeps all.
    units : str
        Of the labels.

    Returns
    -------
    xarray.Dataset
        The cube with ``agb`` (y, x) float32, lazy; where several labels fall on a
        pixel, their mean; NaN elsewhere. ``agb.attrs`` says how many pixels are
        labelled, and of how many plots ("plots", "plots_outside").

    Raises
    ------
    CubeError
        If the cube is no scene with a place, if labels cannot be read, say no place
        or have no numbers in `column`, or if none of them is inside the cube.

    Notes
    -----
    A raster of labels is read once here, block by block, to count and check them.
    """
    check_cube(cube)
    if is_chips(cube):
        raise CubeError(
            "Labels are put on a scene; this cube is a collection of chips."
        )
    grid = choose_grid([], like=cube)
    counts: dict[str, int] = {}
    if isinstance(labels, xr.DataArray):
        array = _of_array(labels, grid, nodata, crs, resampling)
        found = _checked(array, "the array", minimum, grid)
    elif isinstance(labels, pd.DataFrame) or _is_table(labels):
        plots = read_plots(labels, column, crs, nodata, minimum)
        found, counts = _of_plots(plots, grid, radius, all_touched)
    elif isinstance(labels, str | os.PathLike):
        layer = _layer(os.fspath(labels), column, nodata, grid, resampling)
        _refuse_elsewhere(layer, grid)
        array = lazy_blocks([[layer]], [layer.band], grid, skip=False)[0, 0]
        found = _checked(array, layer.path, minimum, grid)
    else:
        raise CubeError(
            "labels must be a path, an xarray.DataArray or a table, got "
            f"{type(labels).__name__}."
        )
    values, pixels = found
    attrs = {"long_name": column, "units": units, "labelled_pixels": pixels, **counts}
    if column == "agb":
        attrs["long_name"] = "above-ground biomass density"
    made = cube.drop_vars("agb", errors="ignore")
    made = made.assign(agb=xr.Variable(("y", "x"), values, attrs))
    made["agb"].encoding["grid_mapping"] = "spatial_ref"
    check_cube(made)
    return made


def _is_table(labels: Any) -> bool:
    return isinstance(labels, str | os.PathLike) and os.fspath(labels).lower().endswith(
        _TABLES
    )


# --- rasters ---


def _layer(
    path: str,
    column: str,
    nodata: float | None,
    grid: GeoBox,
    resampling: Resampling | None,
) -> Layer:
    problems = Problems()
    images = look([Found(path, band=column)], None, problems)
    if problems.lines:  # unless it cannot be read at all, it has several bands
        problems = Problems()
        images = look([Found(path)], {column: column}, problems)
        problems.check()
    layers = [layer for image in images for layer in image.layers]
    if len(layers) != 1:
        raise CubeError(
            f"The raster {path} has no band called {column!r}; name one with column=."
        )
    method = resampling or _method(layers[0].geobox, grid)
    return Layer(path, layers[0].index, layers[0].geobox, column, method, nodata)


def _method(source: GeoBox, grid: GeoBox) -> Resampling:
    along_x, along_y = ratio(source, grid)
    return "average" if math.sqrt(along_x * along_y) > 1.5 else "nearest"


def _refuse_elsewhere(layer: Layer, grid: GeoBox) -> None:
    top, left, bottom, right = outline_on(layer.geobox, grid)
    height, width = grid.shape
    if not (top < height and bottom > 0 and left < width and right > 0):
        raise CubeError(
            f"The labels {layer.path} cover {_box(layer.geobox)}, none of the cube's "
            f"{_box(grid)}."
        )


def _box(grid: GeoBox) -> str:
    box = grid.boundingbox
    return (
        f"x {box.left:g} to {box.right:g}, y {box.bottom:g} to {box.top:g} ({grid.crs})"
    )


def _of_array(
    labels: xr.DataArray,
    grid: GeoBox,
    nodata: float | None,
    crs: Any,
    resampling: Resampling | None,
) -> Any:
    """Bring an array onto the grid, as a dask array."""
    import dask.array as da
    import rioxarray  # noqa: F401  (the .rio accessor)

    if labels.ndim != 2:
        raise CubeError(f"An array of labels must be (y, x), got {labels.dims}.")
    if labels.rio.crs is None and crs is None:
        raise CubeError(
            "The array of labels says no reference system; give it, crs='EPSG:...'."
        )
    placed = labels if crs is None else labels.rio.write_crs(crs)
    source = choose_grid([], like=placed)
    mark = labels.rio.nodata if nodata is None else nodata
    values = np.asarray(labels.values, np.float32)
    if mark is not None:
        values = np.where(labels.values == mark, np.float32(np.nan), values)
    out: Pixels = np.full(grid.shape, np.nan, np.float32)
    corner = shift(source, grid)
    if corner is None:
        method = resampling or _method(source, grid)
        out[:] = warp(values[None], source, grid, method, ratio(source, grid))[0]
    else:
        _paste(out, values, *corner)
    return da.from_array(out, chunks=BLOCK)


def _paste(out: Pixels, values: Pixels, row: int, column: int) -> None:
    """Put values with their first pixel at a row and column, as far as they fit."""
    height, width = values.shape
    top, left = max(0, row), max(0, column)
    part = out[top : max(0, row + height), left : max(0, column + width)]
    rows, columns = part.shape
    part[:] = values[top - row :, left - column :][:rows, :columns]


def _checked(
    array: Any, name: str, minimum: float | None, grid: GeoBox
) -> tuple[Any, int]:
    """Count labels block by block; leave out, and tell of, those below the minimum."""
    import dask

    pixels, low = 0, Counter[float]()
    least = -math.inf if minimum is None else minimum
    for block in array.to_delayed().ravel():
        (values,) = dask.compute(block, scheduler="threads")  # type: ignore[attr-defined, no-untyped-call]
        values = values[np.isfinite(values)]
        below = values[values < least]
        low.update(dict(zip(*_counted(below), strict=True)))
        pixels += values.size - below.size
    if low:
        value, count = low.most_common(1)[0]
        warnings.warn(
            f"{low.total()} labels of {name} are below {least:g}, {value:g} most "
            f"often ({count} pixels), and are left out; if that marks missing values, "
            f"say so: nodata={value:g}.",
            stacklevel=3,
        )
        array = array.map_blocks(partial(_at_least, least), dtype=np.float32)
    if pixels == 0:
        raise CubeError(
            f"There is no label of {name} within the cube's {_box(grid)}: every value "
            "there is missing or below the minimum."
        )
    return array, pixels


def _counted(values: Pixels) -> tuple[list[float], list[int]]:
    found, counts = np.unique(values, return_counts=True)
    most = np.argsort(counts)[-100:]  # of measured values there are too many to keep
    rest = int(counts.sum() - counts[most].sum())
    extra = ([float(found[0])], [rest]) if rest else ([], [])
    return found[most].tolist() + extra[0], counts[most].tolist() + extra[1]


def _at_least(minimum: float, values: Pixels) -> Pixels:
    return np.where(values < minimum, np.float32(np.nan), values)


# --- plots and footprints ---


def _of_plots(
    plots: Plots, grid: GeoBox, radius: float | None, all_touched: bool
) -> tuple[tuple[Any, int], dict[str, int]]:
    """Give the lazy array and its number of pixels, and what to say of the plots."""
    if radius is not None and not radius > 0:
        raise CubeError(f"radius must be a positive number of metres, got {radius!r}.")
    places, which = label_pixels(plots, grid, radius, all_touched)
    inside = int(np.unique(which).size)
    outside = len(plots.values) - inside
    if inside == 0:
        west, south, east, north = plots.bounds_in(grid.crs)
        raise CubeError(
            f"None of {len(plots.values)} labels of {plots.name} lies within the cube: "
            f"they cover x {west:g} to {east:g}, y {south:g} to {north:g}, it covers "
            f"{_box(grid)}."
        )
    if outside:
        warnings.warn(
            f"{outside} of {len(plots.values)} labels of {plots.name} lie outside the "
            "cube and are left out.",
            stacklevel=3,
        )
    pixels, at = np.unique(places, return_inverse=True)
    means = np.bincount(at, plots.values[which]) / np.bincount(at)
    array = _sparse(pixels, means.astype(np.float32), *grid.shape)
    return (array, int(pixels.size)), {"plots": inside, "plots_outside": outside}


def _sparse(
    pixels: npt.NDArray[np.int64], values: Pixels, height: int, width: int
) -> Any:
    """Make a dask array of few labelled pixels; a task knows those of its block."""
    import dask.array as da
    from dask.base import tokenize

    rows, columns = pixels // width, pixels % width
    name = f"labels-{tokenize(pixels, values, height, width)}"
    blocks = (rows // BLOCK) * (-(-width // BLOCK)) + columns // BLOCK
    order = np.argsort(blocks, kind="stable")
    tasks = {}
    for at, top in enumerate(range(0, height, BLOCK)):
        for across, left in enumerate(range(0, width, BLOCK)):
            number = at * (-(-width // BLOCK)) + across
            first, last = np.searchsorted(blocks[order], [number, number + 1])
            mine = order[first:last]
            size = min(BLOCK, height - top), min(BLOCK, width - left)
            inside = (rows[mine] - top) * size[1] + columns[mine] - left
            tasks[name, at, across] = (partial(_filled, size, inside, values[mine]),)
    chunks = tuple(
        tuple(min(BLOCK, n - start) for start in range(0, n, BLOCK))
        for n in (height, width)
    )
    return cast(Any, da.Array)(tasks, name, chunks, dtype=np.float32)


def _filled(
    size: tuple[int, int], pixels: npt.NDArray[np.int64], values: Pixels
) -> Pixels:
    out: Pixels = np.full(size, np.nan, np.float32)
    out.flat[pixels] = values
    return out
