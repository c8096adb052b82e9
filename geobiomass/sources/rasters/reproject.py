"""Reprojection of pixels from one grid to another."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from odc.geo.geobox import GeoBox

Pixels = npt.NDArray[np.float32]
Resampling = Literal[
    "nearest", "bilinear", "cubic", "average", "mode", "min", "max", "med"
]

# Tolerance in source pixels. GDAL interpolates coordinates along a row up to this
# error. With its default, 0.125, pixels would depend on the block that is read.
_EXACT = 1e-10


def warp(
    values: Pixels,
    source: GeoBox,
    box: GeoBox,
    method: Resampling,
    steps: tuple[float, float],
) -> Pixels:
    """Reproject, (band, y, x) to (band, y, x), without seams between blocks.

    It replaces odc-geo's ``rio_reproject``, which keeps GDAL's default tolerance and
    does not set the width of the kernel.
    """
    from rasterio.enums import Resampling as Methods
    from rasterio.io import MemoryFile
    from rasterio.vrt import WarpedVRT

    # Else GDAL derives the reduction, hence the width of the kernel, from each block.
    kernel = {
        name: min(1.0, 1 / step)
        for name, step in zip(("XSCALE", "YSCALE"), steps, strict=True)
    }
    bands = len(values)
    if bands == 1:
        # GDAL treats the edge of missing pixels differently for a single band.
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
                UNIFIED_SRC_NODATA="NO",  # a missing band does not hide the others
                **kernel,
            ) as warped,
        ):
            found = warped.read(list(range(1, bands + 1)))
            return np.asarray(found, np.float32)
