"""Labels from rasters: a file or an array, on the grid of a cube, counted."""

from __future__ import annotations

import math
import warnings
from collections import Counter
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from geobiomass.cube import CubeError
from geobiomass.cube.axes import in_our_names
from geobiomass.cube.label_values import LabelTally, tell_odd, zero_all_around
from geobiomass.cube.missing_values import (
    TAKEN,
    FillTally,
    Teller,
    clean,
    in_words,
    tell,
)
from geobiomass.cube.raster_errors import named_errors
from geobiomass.cube.values import decoded
from geobiomass.sources.grid_like import grid_like
from geobiomass.sources.rasters.find_files import Found, Problems
from geobiomass.sources.rasters.grid_geometry import (
    crs_name,
    outline_on,
    pixel_offset,
    pixel_ratio,
)
from geobiomass.sources.rasters.headers import read_headers
from geobiomass.sources.rasters.lazy_array import BLOCK
from geobiomass.sources.rasters.open_raster import gdal_settings, open_raster
from geobiomass.sources.rasters.read_block import Layer
from geobiomass.sources.rasters.reproject import Pixels, Resampling, warp

if TYPE_CHECKING:
    from odc.geo.geobox import GeoBox


def raster_layer(
    path: str,
    column: str,
    nodata: float | None,
    grid: GeoBox,
    resampling: Resampling | None,
) -> Layer:
    """Return the band of a raster that holds the labels.

    Raises
    ------
    CubeError
        If the file cannot be read, or no single band has the column's name.
    """
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


def on_turns(layer: Layer, grid: GeoBox) -> list[Layer]:
    """Return the raster on each turn of longitude that meets a grid in degrees."""
    return [replace(layer, geobox=turn) for turn in turns_of(layer.geobox, grid)]


def check_overlap(layers: list[Layer], grid: GeoBox, what: str = "The labels") -> None:
    """Check that a raster covers a part of the grid, on any turn of longitude.

    Parameters
    ----------
    layers : list of Layer
        One band on each turn.
    grid : GeoBox
        Of the cube.
    what : str
        What it is called in the message.

    Raises
    ------
    CubeError
        If it does not; it names both extents.
    """
    height, width = grid.shape
    outlines = [outline_on(layer.geobox, grid) for layer in layers]
    layer = layers[0]
    if not any(
        top < height and bottom > 0 and left < width and right > 0
        for top, left, bottom, right in outlines
    ):
        raise CubeError(
            f"{what} {layer.path} must overlap the cube, which covers "
            f"{box_in_words(grid)}, got {box_in_words(layer.geobox)}; check the file "
            "and its CRS."
        )


def box_in_words(grid: GeoBox) -> str:
    """Return the extent of a grid, with its CRS."""
    box = grid.boundingbox
    return (
        f"x {box.left:g} to {box.right:g}, y {box.bottom:g} to {box.top:g} "
        f"({crs_name(grid.crs)})"
    )


def reproject_array(
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
    # Axes in any order, under any usual names: rows are y, columns x.
    labels = in_our_names(labels).transpose("y", "x")
    placed = labels if crs is None else labels.rio.write_crs(crs)
    source = grid_like(placed, "The array of labels")
    known = decoded(labels, nodata, instead=nodata is not None)
    values, taken = clean(np.asarray(known.values, np.float32))
    teller.add(taken, "")
    out: Pixels = np.full(grid.shape, np.nan, np.float32)
    for turn in turns_of(source, grid):
        corner = pixel_offset(turn, grid)
        if corner is None:
            method = resampling or _method(turn, grid)
            part = warp(values[None], turn, grid, method, pixel_ratio(turn, grid))[0]
        else:
            part = np.full(grid.shape, np.nan, np.float32)
            _paste(part, values, *corner)
        np.copyto(out, part, where=np.isnan(out))
    return da.from_array(out, chunks=BLOCK)


def turns_of(source: GeoBox, grid: GeoBox) -> list[GeoBox]:
    """Return a grid in degrees on each turn of longitude that meets another one.

    So labels from -180 to 180 are also at 181. Others are returned as they are.
    """
    from affine import Affine
    from odc.geo.geobox import GeoBox

    if not all(one.crs is not None and one.crs.geographic for one in (source, grid)):
        return [source]
    box, other = source.boundingbox, grid.boundingbox
    found = [
        GeoBox(source.shape, Affine.translation(turn, 0) * source.affine, source.crs)
        for turn in (0.0, 360.0, -360.0)
        if box.left + turn < other.right and box.right + turn > other.left
    ]
    return found or [source]


def tell_taken(teller: Teller, name: str) -> dict[str, str]:
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


def count_and_filter(
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
            f"{name} must have labels within the cube, which covers "
            f"{box_in_words(grid)}: every value there is missing or below the "
            "minimum; check nodata and minimum."
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


def zero_edge(labels: xr.DataArray, nodata: float | None) -> bool:
    """Return whether all four edges of an array without nodata of its own are 0."""
    if nodata is not None or labels.isnull().any() or labels.rio.nodata is not None:
        return False
    values = labels.values
    return zero_all_around([values[0], values[-1], values[:, 0], values[:, -1]])


def zero_edge_of_file(layer: Layer) -> bool:
    """Return the same of a file, of which four lines are read."""
    if layer.nodata is not None:
        return False
    with (
        named_errors(layer.path),
        gdal_settings(),
        open_raster(layer.path, None) as source,
    ):
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


def stated_in_raster(layer: Layer) -> dict[str, Any]:
    """Return the units and the description of a raster's band, as far as it has any."""
    with named_errors(layer.path), open_raster(layer.path) as source:
        tags = source.tags(layer.index)
        return {
            "units": source.units[layer.index - 1] or tags.get("units"),
            "long_name": tags.get("long_name") or source.descriptions[layer.index - 1],
        }
