"""Labels for a cube: from a raster, or sparse labels from plots and footprints."""

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
from geobiomass.cube.label_values import LabelTally, tell_odd, zero_all_around
from geobiomass.cube.missing_values import (
    TAKEN,
    FillTally,
    Teller,
    clean,
    in_words,
    tell,
)
from geobiomass.cube.quantity import AGB
from geobiomass.cube.target import described, units_of_column
from geobiomass.cube.values import decoded
from geobiomass.sources.footprints import label_pixels
from geobiomass.sources.gedi_quality import Quality
from geobiomass.sources.grid_like import grid_like
from geobiomass.sources.plot_table import Plots, named_column, read_plots
from geobiomass.sources.rasters.find_files import Found, Problems
from geobiomass.sources.rasters.grid_geometry import (
    crs_name,
    outline_on,
    pixel_offset,
    pixel_ratio,
)
from geobiomass.sources.rasters.headers import read_headers
from geobiomass.sources.rasters.lazy_array import BLOCK, lazy_blocks
from geobiomass.sources.rasters.open_raster import gdal_settings, open_raster
from geobiomass.sources.rasters.read_block import Layer
from geobiomass.sources.rasters.reproject import Pixels, Resampling, warp
from geobiomass.tables import is_table
from geobiomass.training.setting_names import explain_arguments

if TYPE_CHECKING:
    from odc.geo.geobox import GeoBox


@explain_arguments
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
    units: str | None = None,
    target: str | None = None,
    quality: Quality = "good",
    observed: str | None = None,
) -> xr.Dataset:
    """Return a scene with labels from a raster, or from a table of plots or footprints.

    Parameters
    ----------
    cube : xarray.Dataset
        A scene with a CRS. Its ``agb``, if it has one, is replaced.
    labels : path, xarray.DataArray, geopandas.GeoDataFrame or pandas.DataFrame
        A raster: a file, or a georeferenced array, which is kept in memory. It is
        reprojected to the cube's grid. Or geometries with one value each. A point
        labels the pixel that contains it. A polygon labels the pixels whose centre is
        inside; if there is none, the pixel in its middle. Files are read by
        :func:`geobiomass.tables.read_table`: text with any delimiter, Excel, Parquet,
        vector files (which need ``geobiomass[vectors]``; ``path|layername=...`` names
        one of several layers). A table without geometries needs coordinates in
        columns with a usual name: lon and lat, longitude and latitude, or x and y,
        easting and northing with ``crs=``.
    column : str
        Column of the table with the values; for a raster of several bands, the name
        of the band.
    radius : float, optional
        Radius in metres of the area that a point represents: 12.5 for a footprint of
        GEDI. A point then labels the pixels whose centre is within this distance on
        the ground; if there is none, the pixel that contains it.
    nodata : float, optional
        Value of missing labels, instead of a raster's own nodata tag.
    crs : optional
        CRS of labels that state no CRS, such as columns x and y.
    resampling : str, optional
        Method of reprojection of a raster. By default "average" if the cube's pixels
        are more than 1.5 times as long as the raster's, else "nearest".
    all_touched : bool
        Let polygons label all pixels that they touch.
    minimum : float, optional
        Labels below it are left out, with a warning: biomass is never negative, but
        many nodata values are. None keeps all.
    units : str, optional
        Units of the labels, such as ``"kg/m2"`` or ``"m"``; by default those that an
        array, a table (``attrs["units"]``) or a band of a raster states, else Mg/ha.
        A mass per area is converted to Mg/ha.
    target : str, optional
        Own name of a target that is not biomass, such as ``"canopy_height"``: the
        name of the variable in maps. By default, where `units` are not a mass per
        area, the name of the array, of the column or of the raster's band.
    quality : "good" or "keep"
        Whether footprints of GEDI that fail their quality flags are left out, by the
        columns of either version of the products (``l4_quality_flag``,
        ``degrade_flag``, ``l4a_quality_flag_rel3``, ...), or kept. See
        docs/explanation/checks.md.
    observed : str, optional
        The same as `column`, by the name that :func:`geobiomass.totals` has for it.

    Returns
    -------
    xarray.Dataset
        The cube with a lazy ``agb`` (y, x) float32. A pixel with several labels has
        their mean; a pixel without labels is NaN. ``agb.attrs`` has the units, of
        another target its name ("target"), the number of labelled pixels, and the
        number of plots ("plots", "plots_outside"), also of those that are left out
        ("plots_without_value", "plots_without_location",
        "plots_of_unreadable_location", "plots_nodata", "plots_below_minimum",
        "plots_of_low_quality", where any are).

    Raises
    ------
    CubeError
        If the cube is not a georeferenced scene; if labels cannot be read, have no
        georeference or have no numbers in `column`; if none is inside the cube; or if
        a name or units cannot be used.

    Warns
    -----
    UserWarning
        If labels are left out; or if they state no units, and their name says another
        quantity, or units.

    Notes
    -----
    A raster of labels is read once, block by block, to count and check the labels.
    """
    column = named_column(column, observed, "agb")
    check_cube(cube)
    if is_chips(cube):
        raise CubeError(
            "Labels can only be added to a scene, got a collection of chips; pass "
            "the scene that they were cut from."
        )
    grid = grid_like(cube, "The cube")
    counts: dict[str, Any] = {}
    known: dict[str, Any] = {}
    name: Any = column
    if isinstance(labels, xr.DataArray):
        known, name = dict(labels.attrs), labels.name
        teller = Teller(quiet=True)
        array = _reproject_array(labels, grid, nodata, crs, resampling, teller)
        edge = _zero_edge(labels, nodata)
        found = _count_and_filter(array, "the array", minimum, grid, teller, edge)
        counts = _tell_taken(teller, "the array of labels")
    elif isinstance(labels, pd.DataFrame) or is_table(labels):
        if isinstance(labels, pd.DataFrame):
            known = {"units": units_of_column(labels.attrs, column)}
        plots = read_plots(labels, column, crs, nodata, minimum, quality=quality)
        found, counts = _label_with_plots(plots, grid, radius, all_touched)
    elif isinstance(labels, str | os.PathLike):
        _check_no_granule(os.fspath(labels))
        layer = _layer(os.fspath(labels), column, nodata, grid, resampling)
        _check_overlap(layer, grid)
        known, name = _stated_in_raster(layer), None if column == "agb" else column
        teller = Teller(quiet=True)
        lazy = lazy_blocks([[layer]], [layer.band], grid, skip=False, teller=teller)
        edge = _zero_edge_of_file(layer)
        found = _count_and_filter(lazy[0, 0], layer.path, minimum, grid, teller, edge)
        counts = _tell_taken(teller, layer.path)
    else:
        raise CubeError(
            "labels must be a path, an xarray.DataArray or a table, got "
            f"{type(labels).__name__}."
        )
    values, pixels = found
    factor, stated = described(known, name, target=target, units=units)
    if factor != 1.0:
        values = values * np.float32(factor)
    words = AGB.long_name if column == "agb" else column
    attrs = {"long_name": words, **stated, "labelled_pixels": pixels, **counts}
    made = cube.drop_vars("agb", errors="ignore")
    made = made.assign(agb=xr.Variable(("y", "x"), values, attrs))
    made["agb"].encoding["grid_mapping"] = "spatial_ref"
    check_cube(made)
    return made


def _stated_in_raster(layer: Layer) -> dict[str, Any]:
    """Return the units and the description of a raster's band, as far as it has any."""
    import rasterio

    with rasterio.open(layer.path) as source:
        tags = source.tags(layer.index)
        return {
            "units": source.units[layer.index - 1] or tags.get("units"),
            "long_name": tags.get("long_name") or source.descriptions[layer.index - 1],
        }


def _check_no_granule(path: str) -> None:
    if path.lower().endswith((".h5", ".hdf5")):
        raise CubeError(
            f"The labels {path} are HDF5, such as granules of GEDI, which are not read "
            "here; pass their shots as a table with lat_lowestmode, lon_lowestmode, "
            "agbd and the quality flags."
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
    images = read_headers([Found(path, band=column)], None, problems)
    if problems.lines:  # the file has several bands, or cannot be read
        problems = Problems()
        images = read_headers([Found(path)], {column: column}, problems)
        problems.check()
    layers = [layer for image in images for layer in image.layers]
    if len(layers) != 1:
        raise CubeError(
            f"The raster {path} must have one band called {column!r}, got {len(layers)}"
            "; name one of its bands with column=."
        )
    method = resampling or _method(layers[0].geobox, grid)
    index, geobox = layers[0].index, layers[0].geobox
    return Layer(path, index, geobox, column, method, nodata, labels=True)


def _method(source: GeoBox, grid: GeoBox) -> Resampling:
    along_x, along_y = pixel_ratio(source, grid)
    return "average" if math.sqrt(along_x * along_y) > 1.5 else "nearest"


def _check_overlap(layer: Layer, grid: GeoBox) -> None:
    top, left, bottom, right = outline_on(layer.geobox, grid)
    height, width = grid.shape
    if not (top < height and bottom > 0 and left < width and right > 0):
        raise CubeError(
            f"The labels {layer.path} must overlap the cube, which covers "
            f"{_box(grid)}, got {_box(layer.geobox)}; check the file and its CRS."
        )


def _box(grid: GeoBox) -> str:
    box = grid.boundingbox
    return (
        f"x {box.left:g} to {box.right:g}, y {box.bottom:g} to {box.top:g} "
        f"({crs_name(grid.crs)})"
    )


def _reproject_array(
    labels: xr.DataArray,
    grid: GeoBox,
    nodata: float | None,
    crs: Any,
    resampling: Resampling | None,
    teller: Teller,
) -> Any:
    """Return an array reprojected to the grid, as a dask array."""
    import dask.array as da
    import rioxarray  # noqa: F401  (the .rio accessor)

    if labels.ndim != 2:
        raise CubeError(
            f"An array of labels must have the dimensions (y, x), got {labels.dims}; "
            "select one of the others."
        )
    if labels.rio.crs is None and crs is None:
        raise CubeError(
            "The array of labels must have a CRS, got none; add it, crs='EPSG:...'."
        )
    placed = labels if crs is None else labels.rio.write_crs(crs)
    source = grid_like(placed, "The array of labels")
    known = decoded(labels, nodata, instead=nodata is not None)
    values, taken = clean(np.asarray(known.values, np.float32))
    teller.add(taken, "")
    out: Pixels = np.full(grid.shape, np.nan, np.float32)
    corner = pixel_offset(source, grid)
    if corner is None:
        method = resampling or _method(source, grid)
        out[:] = warp(values[None], source, grid, method, pixel_ratio(source, grid))[0]
    else:
        _paste(out, values, *corner)
    return da.from_array(out, chunks=BLOCK)


def _tell_taken(teller: Teller, name: str) -> dict[str, str]:
    """Warn of labels taken as missing, and return them as an attribute."""
    if not teller.found:
        return {}
    words = in_words(teller.found)
    tell(f"{words} of {name}", stacklevel=4)
    return {TAKEN: words}


def _paste(out: Pixels, values: Pixels, row: int, column: int) -> None:
    """Copy values to a row and column of `out`, as far as they fit."""
    height, width = values.shape
    top, left = max(0, row), max(0, column)
    part = out[top : max(0, row + height), left : max(0, column + width)]
    rows, columns = part.shape
    part[:] = values[top - row :, left - column :][:rows, :columns]


def _count_and_filter(
    array: Any,
    name: str,
    minimum: float | None,
    grid: GeoBox,
    teller: Teller,
    zero_edge: bool,
) -> tuple[Any, int]:
    """Return labels not below the minimum, and their number; warn about the others."""
    import dask

    pixels, low = 0, Counter[float]()
    tally, odd = FillTally(), LabelTally()
    least = -math.inf if minimum is None else minimum
    for block in array.to_delayed().ravel():
        (values,) = dask.compute(block, scheduler="threads")  # type: ignore[attr-defined, no-untyped-call]
        values = values[np.isfinite(values)]
        tally.add(values)
        below = values[values < least]
        low.update(dict(zip(*_counted(below), strict=True)))
        pixels += values.size - below.size
        odd.add(values[values >= least])
    for fill in tally.fills():
        if fill < least:
            continue  # counted among the low ones
        count = tally.counts[fill]
        teller.add(Counter({("", fill): count}))
        pixels -= count
        array = array.map_blocks(partial(_without, fill), dtype=np.float32)
    if low:
        value, count = low.most_common(1)[0]
        warnings.warn(
            f"{low.total()} labels of {name} are below {least:g} and are left out, "
            f"most often {value:g} ({count} pixels); if this is the value of missing "
            f"labels, pass nodata={value:g}.",
            stacklevel=3,
        )
        array = array.map_blocks(partial(_at_least, least), dtype=np.float32)
    if pixels == 0:
        raise CubeError(
            f"{name} must have labels within the cube, which covers {_box(grid)}: "
            "every value there is missing or below the minimum; check nodata and "
            "minimum."
        )
    if words := odd.in_words():
        tell_odd(f"{words} ({name})", stacklevel=4)
    elif zero_edge and odd.zeros:
        warnings.warn(
            f"{odd.zeros:,} of {odd.labels:,} labels of {name} are 0, and so is all of "
            "its edge: 0 looks like the value of missing labels. They are kept; if "
            "they are missing, pass nodata=0.",
            stacklevel=3,
        )
    return array, pixels


def _zero_edge(labels: xr.DataArray, nodata: float | None) -> bool:
    """Return whether all four edges of an array without nodata of its own are 0."""
    if nodata is not None or labels.isnull().any() or labels.rio.nodata is not None:
        return False
    values = labels.values
    return zero_all_around([values[0], values[-1], values[:, 0], values[:, -1]])


def _zero_edge_of_file(layer: Layer) -> bool:
    """Return the same of a file, of which four lines are read."""
    if layer.nodata is not None:
        return False
    with gdal_settings(), open_raster(layer.path, None) as source:
        if source.nodatavals[layer.index - 1] is not None:
            return False
        height, width = source.shape
        lines = (
            ((0, 1), (0, width)),
            ((height - 1, height), (0, width)),
            ((0, height), (0, 1)),
            ((0, height), (width - 1, width)),
        )
        return zero_all_around(
            [source.read(layer.index, window=line).ravel() for line in lines]
        )


def _counted(values: Pixels) -> tuple[list[float], list[int]]:
    found, counts = np.unique(values, return_counts=True)
    most = np.argsort(counts)[-100:]  # measured values are too many to keep
    rest = int(counts.sum() - counts[most].sum())
    extra = ([float(found[0])], [rest]) if rest else ([], [])
    return found[most].tolist() + extra[0], counts[most].tolist() + extra[1]


def _without(fill: float, values: Pixels) -> Pixels:
    return np.where(values == np.float32(fill), np.float32(np.nan), values)


def _at_least(minimum: float, values: Pixels) -> Pixels:
    return np.where(values < minimum, np.float32(np.nan), values)


# --- plots and footprints ---


def _label_with_plots(
    plots: Plots, grid: GeoBox, radius: float | None, all_touched: bool
) -> tuple[tuple[Any, int], dict[str, int]]:
    """Return the lazy array with its number of pixels, and the counts of plots."""
    if radius is not None and not radius > 0:
        raise CubeError(f"radius must be a positive number of metres, got {radius!r}.")
    labelled, which = label_pixels(plots, grid, radius, all_touched)
    inside = int(np.unique(which).size)
    outside = len(plots.values) - inside
    if inside == 0:
        west, south, east, north = plots.bounds_in(grid.crs)
        raise CubeError(
            f"None of {len(plots.values)} labels of {plots.name} is within the cube, "
            f"which covers {_box(grid)}: they cover x {west:g} to {east:g}, y "
            f"{south:g} to {north:g}; check their CRS."
            f"{plots.exchanged_hint(grid.crs, grid.boundingbox.bbox)}"
        )
    if outside:
        warnings.warn(
            f"{outside} of {len(plots.values)} labels of {plots.name} are outside the "
            "cube and are left out.",
            stacklevel=3,
        )
    pixels, at = np.unique(labelled, return_inverse=True)
    means = np.bincount(at, plots.values[which]) / np.bincount(at)
    array = _sparse(pixels, means.astype(np.float32), *grid.shape)
    counts = {"plots": inside, "plots_outside": outside, **plots.left_out}
    return (array, int(pixels.size)), counts


def _sparse(
    pixels: npt.NDArray[np.int64], values: Pixels, height: int, width: int
) -> Any:
    """Return a dask array of sparse labels; each task has its block's labels."""
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
