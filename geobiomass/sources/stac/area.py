"""The area of a cube from an archive: its grid, and boxes in degrees."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from geobiomass.cube import CubeError
from geobiomass.cube.antimeridian import box_around, box_of_shapes
from geobiomass.cube.vector_areas import checked_area, geometries_of
from geobiomass.sources.grid import WGS84, grid_coordinates, make_grid
from geobiomass.sources.grid_like import grid_like
from geobiomass.sources.stac.archives import Box
from geobiomass.sources.stac.period import Period

if TYPE_CHECKING:
    from odc.geo.geobox import GeoBox


def one_area(bounds: Any, area: Any) -> Any:
    """Return which of two arguments of one meaning is given, None if neither is.

    Raises
    ------
    CubeError
        If both are.
    """
    if bounds is not None and area is not None:
        raise CubeError(
            "area and bounds mean the same, got both; give one of them, such as "
            "area='farm.gpkg'."
        )
    return bounds if area is None else area


def grid_of(
    bounds: Any, resolution: float, crs: Any, bounds_crs: Any, like: Any
) -> GeoBox:
    """Return the grid of a cube: the one of `like`, or a new one over `bounds`.

    Raises
    ------
    CubeError
        If both or neither are given, or `like` has no grid along rows and columns.
    """
    if (bounds is None) == (like is None):
        raise CubeError(
            "A cube of an archive needs an area: give either area=, which is (west, "
            "south, east, north) in degrees, a vector file or a polygon; or like=, an "
            "object whose grid is used."
        )
    if isinstance(bounds, xr.Dataset | xr.DataArray):
        raise CubeError(
            "area must be bounds, a vector file or a polygon, got a cube; for the grid "
            "of a cube give like=cube instead."
        )
    if like is None:
        box, box_crs = box_of(bounds, bounds_crs)
        return make_grid(box, resolution, crs, bounds_crs=box_crs)
    grid = grid_like(like)
    if grid.affine.b or grid.affine.d:
        raise CubeError(
            f"like must be a grid along the axes of its CRS, got {grid!r}, which "
            "is rotated; give bounds and crs instead."
        )
    return grid


def box_of(bounds: Any, crs: Any) -> tuple[Any, Any]:
    """Return the box of a polygon or of bounds, and its CRS.

    Raises
    ------
    CubeError
        If it is no area, or wider than 180 degrees.
    """
    bounds = checked_area(bounds, degrees=crs == WGS84)
    if hasattr(bounds, "to_crs") and getattr(bounds, "crs", None) is not None:
        bounds, crs = bounds.to_crs(WGS84), WGS84  # geopandas and odc-geo
    content = getattr(bounds, "__geo_interface__", bounds)
    if not isinstance(content, Mapping):
        return bounds, crs
    box = box_of_shapes(geometries_of(content))
    if box[2] - box[0] > 180:
        raise CubeError(
            f"The area must be at most 180 degrees wide, got {box[2] - box[0]:.6g}; "
            "one across 180 degrees is given as bounds with west above east, or as "
            "polygons that are cut there."
        )
    return box, crs


def lonlat_box(grid: GeoBox) -> Box:
    """Return the box around a grid in degrees; west is above east across 180."""
    return box_around(grid)


def coordinates(
    grid: GeoBox, period: Period, bands: Sequence[str]
) -> dict[str, tuple[str, Any]]:
    """Return the coordinates of a cube: month, band, and the centres of pixels."""
    return {
        "month": ("month", np.array([month for _, month in period.months])),
        "band": ("band", np.array(bands)),
        **{dim: (dim, centres) for dim, centres in grid_coordinates(grid).items()},
    }
