"""Which places are in an area, in whatever form a user names it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from geobiomass.cube import CubeError
from geobiomass.cube.vector_areas import checked_area, geometries_of
from geobiomass.sources.gedi_granules import Inside
from geobiomass.sources.grid import WGS84

Mask = npt.NDArray[np.bool_]


def inside_area(area: Any) -> Inside:
    """Return a function that says which places are in an area."""
    import shapely

    if area is None:
        return lambda lon, lat: np.isfinite(lon) & np.isfinite(lat)
    if isinstance(area, xr.Dataset | xr.DataArray):
        return _inside_cube(area)
    found = checked_area(area)
    if isinstance(found, np.ndarray | tuple | list):
        return _inside_bounds(found)
    shape = _shape(found)
    return _finite(partial(shapely.intersects_xy, shape))


def _inside_bounds(bounds: Any) -> Inside:
    if len(bounds) != 4 or not np.isfinite(np.asarray(bounds, np.float64)).all():
        raise CubeError(
            "area must have four finite bounds (west, south, east, north), got "
            f"{bounds}."
        )
    west, south, east, north = map(float, bounds)
    if not (-180 <= west <= 360 and -180 <= east <= 360 and -90 <= south < north <= 90):
        raise CubeError(
            "area must be in longitude and latitude (west, south, east, north), got "
            f"{tuple(bounds)}; for bounds in metres give a cube, or a geopandas object."
        )
    if west == east:
        raise CubeError(f"area must be wider than 0 degrees, got {tuple(bounds)}.")
    width = (east - west) % 360 or 360.0  # across 180 degrees, east is below west
    return _finite(
        lambda lon, lat: (lat >= south) & (lat <= north) & ((lon - west) % 360 <= width)
    )


def _inside_cube(cube: xr.Dataset | xr.DataArray) -> Inside:
    """Return what is within the bounds of a cube, in its own reference system."""
    import rioxarray  # noqa: F401  (the .rio accessor)
    from pyproj import Transformer

    if "y" not in cube.dims or "x" not in cube.dims or cube.rio.crs is None:
        raise CubeError(
            "area must be a scene with a reference system, got a cube without; give "
            "bounds in longitude and latitude instead."
        )
    left, bottom, right, top = cube.rio.bounds(recalc=True)
    if cube.rio.crs.is_geographic:
        return _inside_bounds((left, bottom, right, top))
    move = Transformer.from_crs(WGS84, cube.rio.crs, always_xy=True).transform

    def found(lon: Any, lat: Any) -> Any:
        x, y = move(lon, lat)
        return (x >= left) & (x <= right) & (y >= bottom) & (y <= top)

    return _finite(found)


def _finite(found: Callable[[Any, Any], Any]) -> Inside:
    """Return a function that asks for places that are known, and denies the others."""

    def inside(lon: Any, lat: Any) -> Mask:
        known = np.isfinite(lon) & np.isfinite(lat)
        mask = np.zeros(len(known), bool)
        mask[known] = found(np.asarray(lon)[known], np.asarray(lat)[known])
        return mask

    return inside


def _shape(area: Any) -> Any:
    """Return one shape in longitude and latitude of what `checked_area` returned."""
    import shapely
    from shapely.geometry import shape

    in_degrees = area.to_crs(WGS84) if hasattr(area, "to_crs") else area
    mapping = getattr(in_degrees, "__geo_interface__", in_degrees)
    if not isinstance(mapping, Mapping) or "type" not in mapping:
        raise CubeError(
            "area must be a cube, bounds (west, south, east, north), a vector file, a "
            f"geopandas object or GeoJSON, got {type(area).__name__}."
        )
    whole = shapely.union_all([shape(part) for part in geometries_of(mapping)])
    shapely.prepare(whole)
    return whole
