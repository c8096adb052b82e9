"""The grid of something that has one already: `like=` of the sources."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import xarray as xr

from geobiomass.cube import CubeError
from geobiomass.cube.axes import spatial_axes
from geobiomass.cube.corners import located
from geobiomass.cube.grid import Grid
from geobiomass.cube.grid_size import check_size
from geobiomass.sources.rasters.open_raster import open_raster

if TYPE_CHECKING:
    from odc.geo.geobox import GeoBox


def grid_like(like: Any, name: str = "like") -> GeoBox:
    """Return the grid of a cube, an array, a raster file or a GeoBox.

    Error messages call it `name`.

    Raises
    ------
    CubeError
        If it is none of these, or has no CRS or no evenly spaced coordinates.
    """
    import odc.geo.xr  # noqa: F401  (the .odc accessor)
    from odc.geo.geobox import GeoBox
    from rasterio.errors import RasterioError

    box = None
    if isinstance(like, GeoBox):
        box = like
    elif isinstance(like, xr.Dataset | xr.DataArray):
        box = _of_array(like, name)
    elif isinstance(like, str | os.PathLike):
        try:
            with open_raster(like) as source:
                box = GeoBox.from_rio(source)
        except RasterioError as error:
            raise CubeError(
                f"{name} must be the path of a raster that can be read, got {like!r}: "
                f"{error}."
            ) from error
    if not isinstance(box, GeoBox) or box.crs is None:
        shown = repr(like) if box is None else type(like).__name__
        raise CubeError(
            f"{name} must be a GeoBox, an xarray object with a CRS and evenly spaced "
            f"y and x, or the path of a raster with a CRS, got {shown}."
        )
    check_size(box.shape, name)
    return box


def _of_array(like: xr.Dataset | xr.DataArray, name: str) -> Any:
    """Return the grid of an array: its coordinates', and any CRS that odc-geo finds."""
    import odc.geo.xr  # noqa: F401  (the .odc accessor)
    from odc.geo.geobox import GeoBox

    like = located(like)
    crs = like.odc.crs
    if crs is None or spatial_axes(like) is None:
        return like.odc.geobox
    grid = Grid.of(like, name)
    return GeoBox((grid.height, grid.width), grid.transform, crs)
