"""The pixels that plots and footprints label."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from geobiomass.sources.grid import WGS84
from geobiomass.sources.plot_table import Plots
from geobiomass.threads import silence_arrays_in_memory

if TYPE_CHECKING:
    from odc.geo.geobox import GeoBox

Numbers = npt.NDArray[np.float64]
Indexes = npt.NDArray[np.int64]

_POINT = 0  # as shapely numbers the kinds of geometries
_ELLIPSOID = "WGS84"
_AZIMUTHS = np.linspace(0, 360, 16, endpoint=False)


def label_pixels(
    plots: Plots, grid: GeoBox, radius: float | None, all_touched: bool
) -> tuple[Indexes, Indexes]:
    """Return the pixels that each plot labels.

    Parameters
    ----------
    plots : Plots
        Points and polygons.
    grid : GeoBox
        The grid of the pixels.
    radius : float, optional
        Radius of a point, metres.
    all_touched : bool
        Whether polygons label all pixels that they touch.

    Returns
    -------
    pixels, which : numpy.ndarray
        int64, of equal length: a pixel's row x width + column, and a plot's number.
    """
    import shapely

    geometries = plots.geometries_on(grid)
    parts, owner = shapely.get_parts(geometries, return_index=True)
    points = shapely.get_type_id(parts) == _POINT
    points_xy = shapely.get_coordinates(parts[points]).T
    found = [_pixels_of_points(points_xy, owner[points], grid, radius)]
    for part, number in zip(parts[~points], owner[~points], strict=True):
        pixels = _pixels_of_area(part, grid, all_touched)
        found.append((pixels, np.full(pixels.size, number, np.int64)))
    pixels = np.concatenate([each for each, _ in found])
    which = np.concatenate([number for _, number in found])
    # Parts of one plot may touch the same pixel.
    pairs = np.unique(np.stack([pixels, which]), axis=1)
    return pairs[0], pairs[1]


def _pixels_of_points(
    points_xy: Numbers, owner: Indexes, grid: GeoBox, radius: float | None
) -> tuple[Indexes, Indexes]:
    height, width = grid.shape
    if radius is None:
        return _pixels_at(points_xy, owner, grid)
    reached: list[tuple[Indexes, Indexes]] = []
    near = np.zeros(owner.size, bool)
    for row, column, inside in _pixels_within(points_xy, grid, radius):
        near |= inside
        mine = inside & (row >= 0) & (row < height) & (column >= 0) & (column < width)
        reached.append((row[mine] * width + column[mine], owner[mine]))
    reached.append(_pixels_at(points_xy[:, ~near], owner[~near], grid))
    pixels, which = (np.concatenate(each) for each in zip(*reached, strict=True))
    return pixels, which


def _pixels_at(
    points_xy: Numbers, owner: Indexes, grid: GeoBox
) -> tuple[Indexes, Indexes]:
    """Return the pixels that contain the points, for points inside the grid."""
    height, width = grid.shape
    column, row = np.floor(_pixel_coordinates(points_xy, grid))
    inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    pixels = row[inside] * width + column[inside]
    return pixels.astype(np.int64), owner[inside].astype(np.int64)


def _pixels_within(
    points_xy: Numbers, grid: GeoBox, radius: float
) -> Iterator[tuple[Indexes, Indexes, npt.NDArray[np.bool_]]]:
    """Yield the pixels around all points, one pixel per point at a time.

    Yields
    ------
    row, column : numpy.ndarray
        One pixel for each point; it may be outside the grid.
    inside : numpy.ndarray
        bool: whether its centre is within the radius, on the ellipsoid.
    """
    from pyproj import Geod

    if not points_xy.size:
        return
    geod = Geod(ellps=_ELLIPSOID)
    to_degrees = _transformer(grid.crs, WGS84)
    from_degrees = _transformer(WGS84, grid.crs)
    lon, lat = map(np.asarray, to_degrees(*points_xy))
    count = _AZIMUTHS.size
    around = geod.fwd(
        np.repeat(lon, count),
        np.repeat(lat, count),
        np.tile(_AZIMUTHS, lon.size),
        np.full(lon.size * count, radius),
    )[:2]
    edge = _pixel_coordinates(np.stack(from_degrees(*around)), grid)
    edge = edge.reshape(2, lon.size, count)
    edge = np.where(np.isfinite(edge), edge, 0)
    # Between two azimuths, a circle extends 2 % of its radius further.
    low, high = edge.min(axis=2), edge.max(axis=2)
    rim = 0.02 * (high - low)
    low, high = (
        np.floor(low - rim).astype(np.int64),
        np.floor(high + rim).astype(np.int64),
    )
    tall, wide = (high - low).max(axis=1)[::-1] + 1
    for step in np.ndindex(int(tall), int(wide)):
        row, column = low[1] + step[0], low[0] + step[1]
        centre = to_degrees(*_centres(row, column, grid))
        distance = np.asarray(geod.inv(lon, lat, *centre)[2])
        yield row, column, distance <= radius


def _transformer(source: Any, target: Any) -> Any:
    from odc.geo.crs import CRS

    return CRS(source).transformer_to_crs(CRS(target), always_xy=True)


def _centres(row: Indexes, column: Indexes, grid: GeoBox) -> tuple[Numbers, Numbers]:
    a = grid.affine
    x, y = column + 0.5, row + 0.5
    return a.a * x + a.b * y + a.c, a.d * x + a.e * y + a.f


def _pixel_coordinates(points_xy: Numbers, grid: GeoBox) -> Numbers:
    """Return columns and rows of points, (2, point), with fractions."""
    a = ~grid.affine
    x, y = points_xy
    return np.stack([a.a * x + a.b * y + a.c, a.d * x + a.e * y + a.f])


def _pixels_of_area(area: Any, grid: GeoBox, all_touched: bool) -> Indexes:
    """Return the pixels whose centre is in a polygon, else the pixel in its middle."""
    import shapely
    from rasterio.features import rasterize

    height, width = grid.shape
    corners = np.array(area.bounds)[[[0, 0, 2, 2], [1, 3, 1, 3]]]
    columns, rows = _pixel_coordinates(corners, grid)
    top, bottom = max(0, int(rows.min()) - 1), min(height, int(rows.max()) + 2)
    left, right = max(0, int(columns.min()) - 1), min(width, int(columns.max()) + 2)
    if top >= bottom or left >= right:
        return np.empty(0, np.int64)
    box = grid[top:bottom, left:right]
    silence_arrays_in_memory()
    mask = rasterize(
        [(area, 1)],
        out_shape=(bottom - top, right - left),
        transform=box.transform,
        all_touched=all_touched,
        dtype="uint8",
    )
    row, column = np.nonzero(mask)
    if row.size:
        return (row + top) * width + column + left
    middle = shapely.get_coordinates(shapely.point_on_surface(area)).T
    return _pixels_at(middle, np.zeros(1, np.int64), grid)[0]
