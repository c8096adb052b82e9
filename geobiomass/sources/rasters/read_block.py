"""The pixels of one block of the grid, read from windows of the files."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from geobiomass.cube import DamagedError
from geobiomass.cube.address_errors import failure_of
from geobiomass.cube.missing_values import Teller, clean
from geobiomass.sources.rasters.grid_geometry import (
    outline_on,
    pixel_offset,
    pixel_ratio,
)
from geobiomass.sources.rasters.open_raster import gdal_settings, open_raster
from geobiomass.sources.rasters.reproject import Pixels, Resampling, warp
from geobiomass.sources.rasters.terrain import derive

if TYPE_CHECKING:
    from odc.geo.geobox import GeoBox

# Limit of file pixels in memory; a block that needs more is read in two halves.
_AT_ONCE = 2**24
# Radius of GDAL's kernels in source pixels, if the grid is as fine as the file.
_REACH = {"nearest": 1, "bilinear": 1, "cubic": 2}


@dataclass(frozen=True)
class Layer:
    """One band of one file.

    Parameters
    ----------
    path : str
        Path or address that GDAL opens.
    index : int
        Number of the band in the file, from 1.
    geobox : GeoBox
        Grid of the file, or of the overview that is read.
    band : str
        Name of the band in the cube.
    resampling : str
        Method of reprojection to another grid.
    nodata : float, optional
        Value of missing pixels, instead of the file's own nodata tag.
    scale, offset : float, optional
        value = stored x scale + offset, instead of the file's own tags.
    overview : int, optional
        Number of the overview that is read; None means full resolution.
    labels : bool
        Whether the band is a quantity of vegetation, not a band of an image.
    teller : Teller, optional
        Counts values that no measurement has, which are missing, and tells them.
    step : float, optional
        The difference of neighbouring values of a file of scaled whole numbers.
    whole : bool
        Whether the file has whole numbers.
    derived : str
        ``slope``, ``aspect_sin`` or ``aspect_cos`` of the band, an elevation; "" for
        the band itself.
    """

    path: str
    index: int
    geobox: GeoBox
    band: str
    resampling: Resampling = "nearest"
    nodata: float | None = None
    scale: float | None = None
    offset: float | None = None
    overview: int | None = None
    labels: bool = False
    teller: Teller | None = field(default=None, repr=False, compare=False)
    step: float | None = field(default=None, repr=False, compare=False)
    whole: bool = field(default=False, repr=False, compare=False)
    derived: str = ""


def read_block(
    layers: Sequence[Layer], bands: Sequence[str], box: GeoBox, skip: bool = False
) -> Pixels:
    """Read a block from several files; of a band's files, the first value is used.

    Parameters
    ----------
    layers : sequence of Layer
        In order: pixels without a value in a layer are filled from the next layers of
        the same band.
    bands : sequence of str
        Bands of the result, in order.
    box : GeoBox
        Grid of the block.
    skip : bool
        Warn about files that cannot be read, and treat them as missing.

    Returns
    -------
    numpy.ndarray
        (band, y, x) float32, NaN where no file has a value.

    Raises
    ------
    DamagedError
        If a file cannot be read and `skip` is False; it names the file.
    """
    out: Pixels = np.full((len(bands), *box.shape), np.nan, np.float32)
    waiting = list(layers)
    while waiting:
        batch = _read_together(waiting)
        for layer, values in _batch_values(batch, box, skip):
            into = out[bands.index(layer.band)]
            np.copyto(into, values, where=np.isnan(into))
        done = {band for band, at in zip(bands, out, strict=True) if _full(at)}
        used = set(batch)
        waiting = [x for x in waiting if x not in used and x.band not in done]
    return out


def _full(values: Pixels) -> bool:
    return not np.isnan(values).any()


def _read_together(waiting: Sequence[Layer]) -> list[Layer]:
    """Return the layers on the grid of the first one, to be reprojected together.

    A layer never comes before an earlier layer of its band.
    """
    first = waiting[0]
    batch, passed = [], set()
    for layer in waiting:
        same = layer.geobox == first.geobox and layer.resampling == first.resampling
        if same and layer.band not in passed:
            batch.append(layer)
        passed.add(layer.band)
    return batch


def _batch_values(
    batch: Sequence[Layer], box: GeoBox, skip: bool
) -> Iterator[tuple[Layer, Pixels]]:
    """Yield layers of one grid, each with its values on a block, (y, x)."""
    try:
        yield from zip(batch, _on_block(batch, box), strict=True)
    except DamagedError as error:
        if not skip:
            raise
        if len(batch) == 1:
            warnings.warn(f"Left out: {error}", stacklevel=2)
            return
        # One by one, so that only the damaged layer is left out.
        for layer in batch:
            yield from _batch_values([layer], box, skip)


def _on_block(batch: Sequence[Layer], box: GeoBox) -> Pixels:
    source = batch[0].geobox
    corner = pixel_offset(source, box)
    if corner is not None:
        read = partial(_read, batch)
        return copy_pixels(len(batch), box, source, corner, read)
    method = batch[0].resampling
    window = source_window(source, box, method)
    if window is None:
        return np.full((len(batch), *box.shape), np.nan, np.float32)
    rows, columns = window
    area = (rows.stop - rows.start) * (columns.stop - columns.start)
    if area * len(batch) > _AT_ONCE and max(box.shape) > 1:
        return _in_halves(batch, box)
    values = _read(batch, rows, columns)
    return warp(values, source[rows, columns], box, method, pixel_ratio(source, box))


def _in_halves(batch: Sequence[Layer], box: GeoBox) -> Pixels:
    height, width = box.shape
    axis = 0 if height >= width else 1
    middle = (height, width)[axis] // 2
    halves = [slice(0, middle), slice(middle, None)]
    parts = [box[half, :] if axis == 0 else box[:, half] for half in halves]
    return np.concatenate([_on_block(batch, part) for part in parts], axis + 1)


def source_window(
    source: GeoBox, box: GeoBox, method: str
) -> tuple[slice, slice] | None:
    """Return the rows and columns of a file that a block depends on."""
    edges = outline_on(box, source)
    if math.isnan(edges[0]):
        return None
    spans = []
    for low, high, size, step in zip(
        edges[:2], edges[2:], source.shape, pixel_ratio(source, box)[::-1], strict=True
    ):
        # The margin covers the curve between the points of the outline.
        margin = 2 + math.ceil(_REACH.get(method, 1) * max(1, step) + (high - low) / 50)
        start = max(0, math.floor(low) - margin)
        stop = min(size, math.ceil(high) + margin)
        if start >= stop:
            return None
        spans.append(slice(start, stop))
    return spans[0], spans[1]


def copy_pixels(
    count: int,
    box: GeoBox,
    source: GeoBox,
    at: tuple[int, int],
    read: Callable[[slice, slice], Pixels],
) -> Pixels:
    """Return the pixels of a source whose grid is the block's, copied unchanged.

    Parameters
    ----------
    count : int
        Number of layers.
    box : GeoBox
        Grid of the block.
    source : GeoBox
        Grid of the source.
    at : tuple of int
        Row and column of the source's first pixel in the block; may be negative.
    read : callable
        Returns a window of the source, (layer, y, x), by its rows and columns.
    """
    out: Pixels = np.full((count, *box.shape), np.nan, np.float32)
    (row, column), (height, width) = at, source.shape
    top, bottom = max(0, row), min(box.shape[0], row + height)
    left, right = max(0, column), min(box.shape[1], column + width)
    if top < bottom and left < right:
        rows = slice(top - row, bottom - row)
        columns = slice(left - column, right - column)
        out[:, top:bottom, left:right] = read(rows, columns)
    return out


def _read(batch: Sequence[Layer], rows: slice, columns: slice) -> Pixels:
    """Read a window of each layer; a file is opened once for all of its bands."""
    shape = (len(batch), rows.stop - rows.start, columns.stop - columns.start)
    out: Pixels = np.empty(shape, np.float32)
    files = dict.fromkeys(_source_of(layer) for layer in batch)
    for source in files:
        mine = [i for i, layer in enumerate(batch) if _source_of(layer) == source]
        layers = [batch[i] for i in mine]
        if layers[0].derived:
            out[mine] = _derived(layers, rows, columns)
        else:
            _read_file(layers, rows, columns, out, mine)
    return out


def _source_of(layer: Layer) -> tuple[Any, ...]:
    """Return what is read together: the bands of a file, or what one is derived to."""
    return (layer.path, layer.overview, layer.index if layer.derived else 0)


def _derived(layers: Sequence[Layer], rows: slice, columns: slice) -> Pixels:
    """Return slope and aspect of a window of an elevation, read with a pixel around.

    Beyond the edge of the file the elevation is missing.
    """
    height, width = layers[0].geobox.shape
    top, left = max(0, rows.start - 1), max(0, columns.start - 1)
    bottom, right = min(height, rows.stop + 1), min(width, columns.stop + 1)
    plain = replace(layers[0], derived="")
    read = _read([plain], slice(top, bottom), slice(left, right))[0]
    around = (
        (top - (rows.start - 1), rows.stop + 1 - bottom),
        (left - (columns.start - 1), columns.stop + 1 - right),
    )
    elevation = np.pad(read, around, constant_values=np.nan)
    return derive(elevation, [x.derived for x in layers], layers[0].geobox, rows)


def _read_file(
    layers: Sequence[Layer],
    rows: slice,
    columns: slice,
    out: Pixels,
    positions: Sequence[int],
) -> None:
    from rasterio.errors import RasterioError
    from rasterio.windows import Window

    window = Window.from_slices(rows, columns)
    path = layers[0].path
    try:
        with gdal_settings(), open_raster(path, layers[0].overview) as source:
            stored = source.read([layer.index for layer in layers], window=window)
            for layer, values, at in zip(layers, stored, positions, strict=True):
                out[at] = _physical(source, layer, values, window)
    except (RasterioError, OSError, IndexError) as error:
        if (failure := failure_of(error, path, path)) is not None:
            raise failure from error
        raise DamagedError(
            f"{path} cannot be read at rows {rows.start} to {rows.stop - 1}, columns "
            f"{columns.start} to {columns.stop - 1}: {error.__cause__ or error}; get "
            "the file again, or continue without it, damaged='skip'.",
            path,
        ) from error


def _physical(
    source: Any, layer: Layer, stored: npt.NDArray[Any], window: Any
) -> npt.NDArray[np.float32]:
    """Convert stored values of a band to physical ones, (y, x), NaN where missing."""
    from rasterio.enums import MaskFlags

    flags = source.mask_flag_enums[layer.index - 1]
    scale, offset = _scale_and_offset(source, layer)
    values = stored.astype(np.float32)
    missing = np.zeros(values.shape, np.bool_)
    if layer.nodata is not None:
        missing = stored == layer.nodata
    if MaskFlags.all_valid not in flags and (
        layer.nodata is None or MaskFlags.per_dataset in flags
    ):
        missing |= source.read_masks(layer.index, window=window) == 0
    values[missing] = np.nan
    scaled = (scale, offset) != (1.0, 0.0)
    bands = None if layer.labels else [layer.band]
    # Before the scale, and before pixels are averaged with their neighbours.
    values, found = clean(values[None], bands, whole=False, stored=scaled)
    if layer.teller is not None:
        height, width = stored.shape
        layer.teller.add(found, f"in {height} x {width} pixels of {layer.path}")
    values = values[0]
    if scaled:
        gone = np.isnan(values)
        values = (stored * scale + offset).astype(np.float32)
        values[gone] = np.nan
        values[np.isinf(values)] = np.nan
    return values


def _scale_and_offset(source: Any, layer: Layer) -> tuple[float, float]:
    """Return scale and offset of a band: the given ones, or the file's own."""
    scale, offset = source.scales[layer.index - 1], source.offsets[layer.index - 1]
    return (
        float(scale if layer.scale is None else layer.scale),
        float(offset if layer.offset is None else layer.offset),
    )
