"""The grid that raster files are put on: their own, another cube's, or a new one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from geobiomass.cube import CubeError
from geobiomass.sources.grid import WGS84, make_grid
from geobiomass.sources.rasters.read import open_raster, outline_on

if TYPE_CHECKING:
    from odc.geo.geobox import GeoBox


def choose_grid(
    boxes: Sequence[GeoBox],
    like: Any = None,
    bounds: Sequence[float] | None = None,
    resolution: float | None = None,
    crs: Any = None,
    bounds_crs: Any = WGS84,
) -> GeoBox:
    """Give the grid that files are put on, as :func:`from_rasters` says.

    Raises
    ------
    CubeError
        If nothing says which grid, or two things do.
    """
    if like is not None:
        if not (bounds is None and resolution is None and crs is None):
            raise CubeError("Give either like= or bounds, resolution and crs.")
        return _grid_of(like)
    systems = list(dict.fromkeys(box.crs for box in boxes))
    if crs is None and len(systems) > 1:
        raise CubeError(
            f"The files are in {len(systems)} reference systems, "
            f"{[str(each) for each in systems[:4]]}; say which to use, crs= (such as "
            "'utm') and resolution=."
        )
    own = len(systems) == 1 and (crs is None or systems[0] == _system(crs))
    if own and resolution is None:
        return _finest_grid(boxes, bounds, bounds_crs)
    if resolution is None:
        raise CubeError(
            f"resolution must be given with crs={crs!r}, which is not that of the "
            "files: a pixel's side in its units."
        )
    wanted = systems[0] if crs is None else crs
    if bounds is None:
        bounds, bounds_crs = _around(boxes, systems[0] if own else WGS84)
    return make_grid(bounds, resolution, wanted, bounds_crs=bounds_crs)


def _system(crs: Any) -> Any:
    """Give a reference system, or None of what only :func:`make_grid` understands."""
    from odc.geo.crs import CRS

    if isinstance(crs, str) and crs.lower() == "utm":
        return None
    try:
        return CRS(crs)
    except Exception as error:
        raise CubeError(
            f"crs must be a reference system such as 'EPSG:32633', or 'utm', got "
            f"{crs!r}: {error}."
        ) from error


def _grid_of(like: Any) -> GeoBox:
    import odc.geo.xr  # noqa: F401  (the .odc accessor)
    from odc.geo.geobox import GeoBox

    if isinstance(like, GeoBox):
        return like
    if isinstance(like, xr.Dataset | xr.DataArray):
        box = like.odc.geobox
    else:
        with open_raster(like) as source:
            box = GeoBox.from_rio(source)
    if not isinstance(box, GeoBox) or box.crs is None:
        raise CubeError("like must have a reference system and evenly spaced y and x.")
    return box


def _finest_grid(
    boxes: Sequence[GeoBox], bounds: Sequence[float] | None, bounds_crs: Any
) -> GeoBox:
    """Extend the pixels of the finest file over all files, or over bounds."""
    from odc.geo.geobox import GeoBox

    finest = min(boxes, key=lambda box: abs(box.affine.determinant))
    if not finest.axis_aligned:
        side = math.sqrt(abs(finest.affine.determinant))
        around, system = (bounds, bounds_crs) if bounds else _around(boxes, finest.crs)
        return make_grid(around, side, finest.crs, bounds_crs=system)
    if finest.affine.e > 0:
        finest = finest.flipy()
    if finest.affine.a < 0:
        finest = finest.flipx()
    areas = boxes
    if bounds is not None:
        side = math.sqrt(abs(finest.affine.determinant))
        areas = [make_grid(bounds, side, finest.crs, bounds_crs=bounds_crs)]
    edges = np.array([outline_on(area, finest) for area in areas])
    # Corners of files of one tiling differ by their rounding.
    top, left = np.floor(edges[:, :2].min(axis=0) + 0.01).astype(int).tolist()
    bottom, right = np.ceil(edges[:, 2:].max(axis=0) - 0.01).astype(int).tolist()
    affine = finest.affine * type(finest.affine).translation(left, top)
    return GeoBox((bottom - top, right - left), affine, finest.crs)


def _around(boxes: Sequence[GeoBox], crs: Any) -> tuple[tuple[float, ...], Any]:
    edges = np.array([tuple(box.footprint(crs).boundingbox) for box in boxes])
    return (*edges[:, :2].min(axis=0), *edges[:, 2:].max(axis=0)), crs
