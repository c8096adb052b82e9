"""Sizes that a file claims, checked before memory is taken or time is spent for them.

A header of a few bytes claims any number of pixels: a sparse GeoTIFF, a Zarr array
without chunks. What is read or allocated by that number is checked here.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from geobiomass.cube.errors import CubeError
from geobiomass.cube.grid_size import MOST_PIXELS, check_size

if TYPE_CHECKING:
    import zarr

MOST_BLOCK = 4 * 2**30
"""Bytes of a block that is decoded at once. A tile of Sentinel-2 has 240 MB."""

MOST_WHOLE = 20_000_000_000
"""Pixels of a raster that is read as a whole, as it has no overviews: some minutes."""

MOST_TASKS = 3_000_000
"""Tasks of a lazy array: each takes 1.2 kB and 130 microseconds (measured with 460,000
of from_rasters). Twelve months of 1,200 x 1,200 km at 10 m have as many."""

_MOST_ALONG = 100_000_000  # values of a coordinate: xarray reads it as a whole
_MOST_VALUES = 10**15  # of an array: 5e11 pixels, 15 bands, 12 months have 9e13
_MOST_PARTS = 10_000_000  # chunks of a shard: its index has 16 bytes for each


def check_tasks(steps: int, shape: Sequence[int], side: int) -> None:
    """Check the number of tasks of a lazy cube, before they are made.

    Parameters
    ----------
    steps : int
        Months.
    shape : sequence of int
        Rows and columns.
    side : int
        Pixels along a side of a block.

    Raises
    ------
    CubeError
        If they are too many to be planned.
    """
    height, width = shape
    tasks = steps * -(-height // side) * -(-width // side)
    if tasks > MOST_TASKS:
        raise CubeError(
            f"A lazy cube must have at most {MOST_TASKS:,} blocks of {side} pixels, "
            f"got {tasks:,} for {steps} months of {height:,} x {width:,} pixels; give "
            "bounds, and make one cube for each part of a larger area."
        )


def check_raster(source: Any, name: str) -> None:
    """Check the size that an open raster claims.

    Parameters
    ----------
    source : rasterio.DatasetReader
        The raster, of which nothing is read.
    name : str
        Its path, for the message.

    Raises
    ------
    CubeError
        If it has too many pixels, or a block that does not fit into memory.
    """
    check_size(source.shape, name, source.res, source.bounds)
    check_blocks(source, name)


def check_blocks(source: Any, name: str) -> None:
    """Check the size of the blocks of an open raster, as :func:`check_raster` does."""
    import numpy as np

    for (height, width), dtype in zip(source.block_shapes, source.dtypes, strict=True):
        size = height * width * np.dtype(dtype).itemsize
        if size > MOST_BLOCK:
            raise CubeError(
                f"{name} must have blocks of at most {MOST_BLOCK:,} bytes, got "
                f"{height:,} x {width:,} of {dtype}; it is damaged, or write it with "
                "smaller ones: rio convert --co tiled=true."
            )


def driver_of(path: object) -> str | None:
    """Return GDAL's driver for a file whose name says that it is a GeoTIFF.

    GDAL decides by content. A data set of the driver VRT, called ``map.tif``, would
    read whatever other file it names. None for other names, where GDAL decides.
    """
    name = str(path).partition("?")[0].lower()
    return "GTiff" if name.endswith((".tif", ".tiff")) else None


def pixels_to_read(source: Any, step: float) -> float:
    """Return the pixels of a band that GDAL reads for every `step`-th of them.

    It takes the coarsest overview that is fine enough. Overviews, too, have any size.
    """
    fit = [factor for factor in source.overviews(1) if factor <= step]
    return float(source.height * source.width / max(fit, default=1) ** 2)


def check_group(group: zarr.Group, name: str) -> None:
    """Check the sizes that the arrays of a Zarr group claim.

    Raises
    ------
    CubeError
        If one has too many values, a chunk that does not fit into memory, or is a
        coordinate too long to be read.
    """
    import zarr

    known = group.metadata.consolidated_metadata
    with warnings.catch_warnings():
        # Other files in the folder are none of its arrays, and no matter here.
        warnings.simplefilter("ignore", zarr.errors.ZarrUserWarning)
        there = dict(known.metadata) if known is not None else dict(group.members())
    for key, one in there.items():
        meta = one.metadata if isinstance(one, zarr.Array) else one
        shape = getattr(meta, "shape", None)
        if shape is not None:
            array = one if isinstance(one, zarr.Array) else group[key]
            check_array(array, f"Array {key!r} of {name}")


def check_array(array: Any, what: str) -> None:
    """Check the size that an array of Zarr claims, and the size of its chunks.

    Raises
    ------
    CubeError
        If it has too many values, is a coordinate too long to be read, or has a chunk
        that does not fit into memory.
    """
    shape = array.shape
    if len(shape) <= 1 and math.prod(shape) > _MOST_ALONG:
        raise CubeError(
            f"{what} must have at most {_MOST_ALONG:,} values, as it is read as a "
            f"whole, got {math.prod(shape):,}; the cube or map is damaged."
        )
    if math.prod(shape[-2:]) > MOST_PIXELS or math.prod(shape) > _MOST_VALUES:
        sizes = " x ".join(f"{size:,}" for size in shape)
        raise CubeError(
            f"{what} must have at most {MOST_PIXELS:.0e} pixels and {_MOST_VALUES:.0e} "
            f"values, got {sizes}; the cube or map is damaged."
        )
    # A chunk may reach beyond its array, and is decoded as a whole.
    size = math.prod(array.chunks) * max(1, array.dtype.itemsize)
    shards = array.shards or array.chunks
    parts = math.prod(
        -(-outer // max(1, inner))
        for outer, inner in zip(shards, array.chunks, strict=True)
    )
    if size > MOST_BLOCK or parts > _MOST_PARTS:
        raise CubeError(
            f"{what} must have chunks of at most {MOST_BLOCK:,} bytes, and at most "
            f"{_MOST_PARTS:,} in a shard, got {size:,} and {parts:,}; the cube or map "
            "is damaged."
        )
