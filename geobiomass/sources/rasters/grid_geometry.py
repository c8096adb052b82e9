"""Geometry between two grids: offset, pixel_ratio of pixel sizes, outline."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from odc.geo.geobox import GeoBox

# A file is on the grid if its pixels are at most this far from the grid's, in pixels:
# files of one tiling differ by the rounding of their corners.
_ALIGNED = 0.01


def pixel_offset(source: GeoBox, grid: GeoBox) -> tuple[int, int] | None:
    """Return the row and column of a grid at which a file's first pixel is.

    None if the file is not on the grid: it has another CRS or pixel size, is rotated,
    or is displaced by more than 0.01 pixels.
    """
    if source.crs != grid.crs:
        return None
    step = ~grid.affine * source.affine  # affine 2 has no @
    height, width = source.shape
    distance = max(abs(step.a - 1), abs(step.d)) * width
    distance = max(distance, max(abs(step.e - 1), abs(step.b)) * height)
    row, column = round(step.f), round(step.c)
    distance = max(distance, abs(step.f - row), abs(step.c - column))
    return (row, column) if distance < _ALIGNED else None


def pixel_ratio(source: GeoBox, grid: GeoBox) -> tuple[float, float]:
    """Return the length of a grid's pixel in pixels of a file, along x and along y.

    It is measured in the middle of the file, so that it is the same for every block.
    """
    height, width = source.shape
    x = width / 2 + np.array([0.0, 1.0, 0.0])
    y = height / 2 + np.array([0.0, 0.0, 1.0])
    columns, rows = convert_pixels(x, y, source, grid)
    along_x, along_y = np.hypot(columns - columns[0], rows - rows[0])[1:]
    if not (math.isfinite(along_x) and math.isfinite(along_y)):
        return 1.0, 1.0
    return 1 / float(along_x), 1 / float(along_y)


def convert_pixels(
    x: npt.NDArray[np.float64],
    y: npt.NDArray[np.float64],
    source: GeoBox,
    target: GeoBox,
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Convert columns and rows of one grid to another; infinite if undefined known."""
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
    """Return top, left, bottom and right of one grid in pixels of another.

    NaN if no point of its outline can be transformed.
    """
    height, width = source.shape
    y, x = np.meshgrid(np.linspace(0, height, 17), np.linspace(0, width, 17))
    columns, rows = convert_pixels(x.ravel(), y.ravel(), source, target)
    known = np.isfinite(columns) & np.isfinite(rows)
    if not known.any():
        return math.nan, math.nan, math.nan, math.nan
    columns, rows = columns[known], rows[known]
    return rows.min(), columns.min(), rows.max(), columns.max()


def crs_name(crs: Any) -> str:
    """Return the EPSG code of a CRS, or its definition if it has none."""
    return f"EPSG:{crs.epsg}" if crs.epsg else str(crs)
