"""Pixels of raster files on a grid: a window of a file in, a block of the grid out."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
import numpy.typing as npt

from geobiomass.cube import DamagedError

if TYPE_CHECKING:
    from odc.geo.geobox import GeoBox

Pixels = npt.NDArray[np.float32]
Resampling = Literal[
    "nearest", "bilinear", "cubic", "average", "mode", "min", "max", "med"
]

# Pixels of a file that stray less than this from a grid's, over the whole file, are
# the grid's: files of one tiling differ so much by the rounding of their corners.
ALIGNED = 0.01
# Of a source pixel. GDAL interpolates places along a row until the error is below; by
# default 0.125, so that pixels would differ with the block that they are read in.
_EXACT = 1e-10
# Pixels of a file in memory at a time; a block that needs more is read in parts.
_AT_ONCE = 2**24
# Source pixels that GDAL's kernels reach, where the grid is as fine as the file.
_REACH = {"nearest": 1, "bilinear": 1, "cubic": 2}


@dataclass(frozen=True)
class Layer:
    """One band of one file.

    Parameters
    ----------
    path : str
        What GDAL opens.
    index : int
        Of the band in the file, from 1.
    geobox : GeoBox
        The file's pixels, or those of the overview that is read.
    band : str
        Its name in the cube.
    resampling : str
        How pixels come onto another grid than the file's.
    nodata : float, optional
        What marks missing pixels, instead of the file's own tag.
    scale, offset : float, optional
        value = stored x scale + offset, instead of the file's own tags.
    overview : int, optional
        Which of the file's overviews is read; None: its full resolution.
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


def read_block(
    layers: Sequence[Layer], bands: Sequence[str], box: GeoBox, skip: bool = False
) -> Pixels:
    """Read what several files hold of a block; of a band's files the first wins.

    Parameters
    ----------
    layers : sequence of Layer
        In order: where one has no value, those of its band that follow fill in.
    bands : sequence of str
        What to give, in this order.
    box : GeoBox
        The block's pixels.
    skip : bool
        Warn of what cannot be read, and take it as missing.

    Returns
    -------
    numpy.ndarray
        (band, y, x) float32, NaN where no file has a value.

    Raises
    ------
    DamagedError
        If a file cannot be read and not `skip`; it names the file.
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
    """Take layers on the first one's pixels: they are reprojected in one go.

    A layer does not overtake one of its own band.
    """
    first = waiting[0]
    batch, passed = [], set()
    for layer in waiting:
        alike = layer.geobox == first.geobox and layer.resampling == first.resampling
        if alike and layer.band not in passed:
            batch.append(layer)
        passed.add(layer.band)
    return batch


def _batch_values(
    batch: Sequence[Layer], box: GeoBox, skip: bool
) -> Iterator[tuple[Layer, Pixels]]:
    """Give layers of one kind with their values on a block, (y, x) each."""
    try:
        yield from zip(batch, _on_block(batch, box), strict=True)
    except DamagedError as error:
        if not skip:
            raise
        if len(batch) == 1:
            warnings.warn(f"Left out: {error}", stacklevel=2)
            return
        for layer in batch:
            yield from _batch_values([layer], box, skip)


def _on_block(batch: Sequence[Layer], box: GeoBox) -> Pixels:
    source = batch[0].geobox
    corner = shift(source, box)
    if corner is not None:
        return _cut(batch, box, *corner)
    method = batch[0].resampling
    window = _needed(source, box, method)
    if window is None:
        return np.full((len(batch), *box.shape), np.nan, np.float32)
    rows, columns = window
    area = (rows.stop - rows.start) * (columns.stop - columns.start)
    if area * len(batch) > _AT_ONCE and max(box.shape) > 1:
        return _in_halves(batch, box)
    values = _read(batch, rows, columns)
    return warp(values, source[rows, columns], box, method, ratio(source, box))


def _in_halves(batch: Sequence[Layer], box: GeoBox) -> Pixels:
    height, width = box.shape
    axis = 0 if height >= width else 1
    middle = (height, width)[axis] // 2
    halves = [slice(0, middle), slice(middle, None)]
    parts = [box[half, :] if axis == 0 else box[:, half] for half in halves]
    return np.concatenate([_on_block(batch, part) for part in parts], axis + 1)


def shift(source: GeoBox, grid: GeoBox) -> tuple[int, int] | None:
    """Give row and column of a grid where a file's first pixel lies.

    None where the file's pixels are not the grid's: in another reference system,
    of another size, rotated, or off by more than 0.01 pixels.
    """
    if source.crs != grid.crs:
        return None
    step = ~grid.affine * source.affine  # affine 2 knows no @
    height, width = source.shape
    stray = max(abs(step.a - 1), abs(step.d)) * width
    stray = max(stray, max(abs(step.e - 1), abs(step.b)) * height)
    row, column = round(step.f), round(step.c)
    stray = max(stray, abs(step.f - row), abs(step.c - column))
    return (row, column) if stray < ALIGNED else None


def ratio(source: GeoBox, grid: GeoBox) -> tuple[float, float]:
    """Give how many of a file's pixels a grid's pixel is long, along x and along y.

    Measured in the middle of the file, so that it is the same for every block.
    """
    height, width = source.shape
    x = width / 2 + np.array([0.0, 1.0, 0.0])
    y = height / 2 + np.array([0.0, 0.0, 1.0])
    columns, rows = places_on(x, y, source, grid)
    along_x, along_y = np.hypot(columns - columns[0], rows - rows[0])[1:]
    if not (math.isfinite(along_x) and math.isfinite(along_y)):
        return 1.0, 1.0
    return 1 / float(along_x), 1 / float(along_y)


def places_on(
    x: npt.NDArray[np.float64],
    y: npt.NDArray[np.float64],
    source: GeoBox,
    target: GeoBox,
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Turn columns and rows of one grid into those of another; infinite if nowhere."""
    east, north = _apply(source.affine, x, y)
    if source.crs != target.crs:
        transform = cast(Any, source.crs).transformer_to_crs(target.crs, always_xy=True)
        east, north = transform(east, north)
    return _apply(~target.affine, np.asarray(east), np.asarray(north))


def _apply(
    affine: Any, x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    return (
        affine.a * x + affine.b * y + affine.c,
        affine.d * x + affine.e * y + affine.f,
    )


def outline_on(source: GeoBox, target: GeoBox) -> tuple[float, float, float, float]:
    """Give top, left, bottom and right of one grid in pixels of another.

    NaN where no point of it has a place there.
    """
    height, width = source.shape
    y, x = np.meshgrid(np.linspace(0, height, 17), np.linspace(0, width, 17))
    columns, rows = places_on(x.ravel(), y.ravel(), source, target)
    there = np.isfinite(columns) & np.isfinite(rows)
    if not there.any():
        return math.nan, math.nan, math.nan, math.nan
    columns, rows = columns[there], rows[there]
    return rows.min(), columns.min(), rows.max(), columns.max()


def _needed(source: GeoBox, box: GeoBox, method: str) -> tuple[slice, slice] | None:
    """Give the rows and columns of a file that a block depends on."""
    edges = outline_on(box, source)
    if math.isnan(edges[0]):
        return None
    spans = []
    for low, high, size, step in zip(
        edges[:2], edges[2:], source.shape, ratio(source, box)[::-1], strict=True
    ):
        # A pixel more for what bulges between the points of the outline.
        margin = 2 + math.ceil(_REACH.get(method, 1) * max(1, step) + (high - low) / 50)
        start = max(0, math.floor(low) - margin)
        stop = min(size, math.ceil(high) + margin)
        if start >= stop:
            return None
        spans.append(slice(start, stop))
    return spans[0], spans[1]


def _cut(batch: Sequence[Layer], box: GeoBox, row: int, column: int) -> Pixels:
    """Read pixels that are the block's own, to the bit."""
    out: Pixels = np.full((len(batch), *box.shape), np.nan, np.float32)
    height, width = batch[0].geobox.shape
    top, bottom = max(0, row), min(box.shape[0], row + height)
    left, right = max(0, column), min(box.shape[1], column + width)
    if top < bottom and left < right:
        rows = slice(top - row, bottom - row)
        columns = slice(left - column, right - column)
        out[:, top:bottom, left:right] = _read(batch, rows, columns)
    return out


def _read(batch: Sequence[Layer], rows: slice, columns: slice) -> Pixels:
    """Read a window of each layer, opening a file once for all of its bands."""
    shape = (len(batch), rows.stop - rows.start, columns.stop - columns.start)
    out: Pixels = np.empty(shape, np.float32)
    files = dict.fromkeys((layer.path, layer.overview) for layer in batch)
    for path, overview in files:
        mine = [
            i for i, x in enumerate(batch) if (x.path, x.overview) == (path, overview)
        ]
        _read_file([batch[i] for i in mine], rows, columns, out, mine)
    return out


def _read_file(
    layers: Sequence[Layer],
    rows: slice,
    columns: slice,
    out: Pixels,
    places: Sequence[int],
) -> None:
    from rasterio.errors import RasterioError
    from rasterio.windows import Window

    window = Window.from_slices(rows, columns)
    path = layers[0].path
    try:
        with gdal(), open_raster(path, layers[0].overview) as source:
            stored = source.read([layer.index for layer in layers], window=window)
            for layer, values, place in zip(layers, stored, places, strict=True):
                out[place] = _physical(source, layer, values, window)
    except (RasterioError, OSError, IndexError) as error:
        raise DamagedError(
            f"{path} cannot be read at rows {rows.start} to {rows.stop - 1}, columns "
            f"{columns.start} to {columns.stop - 1}: {error.__cause__ or error}; fetch "
            "the file again, or go on without it, damaged='skip'.",
            path,
        ) from error


def _physical(
    source: Any, layer: Layer, stored: npt.NDArray[Any], window: Any
) -> npt.NDArray[np.float32]:
    """Turn stored values of a band into physical ones, (y, x), NaN where missing."""
    from rasterio.enums import MaskFlags

    flags = source.mask_flag_enums[layer.index - 1]
    scale, offset = factors(source, layer)
    values = stored.astype(np.float32)
    if (scale, offset) != (1.0, 0.0):
        values = (stored * scale + offset).astype(np.float32)
    if layer.nodata is not None:
        values[stored == layer.nodata] = np.nan
    if MaskFlags.all_valid not in flags and (
        layer.nodata is None or MaskFlags.per_dataset in flags
    ):
        values[source.read_masks(layer.index, window=window) == 0] = np.nan
    values[np.isinf(values)] = np.nan
    return values


def factors(source: Any, layer: Layer) -> tuple[float, float]:
    """Give scale and offset of a band: those asked for, or the file's own."""
    scale, offset = source.scales[layer.index - 1], source.offsets[layer.index - 1]
    return (
        float(scale if layer.scale is None else layer.scale),
        float(offset if layer.offset is None else layer.offset),
    )


def open_raster(path: str | os.PathLike[str], overview: int | None = None) -> Any:
    """Open a file, or one of its overviews."""
    import rasterio

    if overview is None:
        return rasterio.open(path)
    return rasterio.open(path, overview_level=overview)


def gdal() -> Any:
    """Set GDAL up for reading, in this thread only."""
    import rasterio

    return rasterio.Env(
        # Companions of a file are asked for by name; a folder may hold 100,000 files.
        GDAL_DISABLE_READDIR_ON_OPEN="TRUE",
        GTIFF_IGNORE_READ_ERRORS="NO",
    )


def warp(
    values: Pixels,
    source: GeoBox,
    box: GeoBox,
    method: Resampling,
    steps: tuple[float, float],
) -> Pixels:
    """Reproject, (band, y, x) to (band, y, x), without seams between blocks.

    odc-geo's ``rio_reproject`` would do, but that it leaves GDAL's tolerance as it is
    and a file's reduction unfiltered.
    """
    from rasterio.enums import Resampling as Methods
    from rasterio.io import MemoryFile
    from rasterio.vrt import WarpedVRT

    # GDAL would take the reduction, and so the kernel's width, from each block.
    kernel = {
        name: min(1.0, 1 / step)
        for name, step in zip(("XSCALE", "YSCALE"), steps, strict=True)
    }
    bands = len(values)
    if bands == 1:
        # Of a single band GDAL treats the rim of what is missing in another way.
        values = np.concatenate([values, values])
    count, height, width = values.shape
    profile = {"crs": str(source.crs), "transform": source.transform}
    with MemoryFile() as memory:
        with memory.open(
            driver="GTiff",
            count=count,
            height=height,
            width=width,
            dtype="float32",
            nodata=math.nan,
            interleave="band",
            **profile,
        ) as file:
            file.write(values)
        with (
            memory.open() as file,
            WarpedVRT(
                file,
                crs=str(box.crs),
                transform=box.transform,
                height=box.shape[0],
                width=box.shape[1],
                resampling=Methods[method],
                tolerance=_EXACT,
                UNIFIED_SRC_NODATA="NO",  # a band that is missing hides no other
                **kernel,
            ) as warped,
        ):
            found = warped.read(list(range(1, bands + 1)))
            return np.asarray(found, np.float32)
