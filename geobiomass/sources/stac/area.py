"""Where a cube from an archive lies: its grid, and boxes in degrees."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import xarray as xr

from geobiomass.cube import CubeError
from geobiomass.sources.grid import WGS84, grid_coordinates, make_grid
from geobiomass.sources.stac.archives import Box
from geobiomass.sources.stac.search import Period

if TYPE_CHECKING:
    from odc.geo.geobox import GeoBox


def grid_of(
    bounds: Any, resolution: float, crs: Any, bounds_crs: Any, like: Any
) -> GeoBox:
    """Lay out the grid of a cube, or take the one that is given.

    Raises
    ------
    CubeError
        If it is not clear where, or what is given is no grid.
    """
    from odc.geo.geobox import GeoBox

    if (bounds is None) == (like is None):
        raise CubeError(
            "from_stac needs to know where: give either bounds=(west, south, east, "
            "north) in degrees, or a polygon, or like=, a grid to be on."
        )
    if like is None:
        box, box_crs = _box_of(bounds, bounds_crs)
        return make_grid(box, resolution, crs, bounds_crs=box_crs)
    if not isinstance(like, GeoBox):
        import odc.geo.xr  # noqa: F401  (the .odc accessor)

        like = like.odc.geobox if isinstance(like, xr.Dataset | xr.DataArray) else None
    known = isinstance(like, GeoBox) and like.crs is not None
    if not known or like.affine.b or like.affine.d:
        raise CubeError(
            "like must be a GeoBox or an xarray object with even coordinates and a "
            f"reference system, along rows and columns, got {like!r}."
        )
    return cast("GeoBox", like)


def _box_of(bounds: Any, crs: Any) -> tuple[Any, Any]:
    """Take the box of a polygon, and the system it is in."""
    from shapely.geometry import shape

    if hasattr(bounds, "to_crs") and getattr(bounds, "crs", None) is not None:
        bounds, crs = bounds.to_crs(WGS84), WGS84  # of geopandas, of odc-geo
    content = getattr(bounds, "__geo_interface__", bounds)
    if not isinstance(content, Mapping):
        return bounds, crs
    kind = content.get("type")
    if kind == "FeatureCollection":
        parts = [shape(one["geometry"]).bounds for one in content["features"]]
        lows, highs = np.array(parts).min(axis=0), np.array(parts).max(axis=0)
        return (*lows[:2].tolist(), *highs[2:].tolist()), crs
    return shape(content["geometry"] if kind == "Feature" else content).bounds, crs


def lonlat_box(grid: GeoBox) -> Box:
    """Give the box around a grid in degrees: west, south, east, north."""
    outline = grid.extent.segmented(100 * abs(grid.resolution.x)).to_crs(WGS84)
    west, south, east, north = outline.boundingbox
    return west, south, east, north


def coordinates(
    grid: GeoBox, period: Period, bands: Sequence[str]
) -> dict[str, tuple[str, Any]]:
    """Give the coordinates of a cube: y and x at the centres of pixels."""
    return {
        "month": ("month", np.array([month for _, month in period.months])),
        "band": ("band", np.array(bands)),
        **{dim: (dim, centres) for dim, centres in grid_coordinates(grid).items()},
    }


def meet(one: Box, other: Box) -> bool:
    """Tell whether two boxes touch."""
    apart = one[0] > other[2] or other[0] > one[2]
    return not (apart or one[1] > other[3] or other[1] > one[3])
