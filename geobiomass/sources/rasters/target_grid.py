"""The grid of a cube from raster files: their own, another cube's, or a new one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from geobiomass.cube import CubeError
from geobiomass.cube.antimeridian import box_around, box_of_boxes
from geobiomass.cube.grid_size import check_size
from geobiomass.sources.grid import WGS84, make_grid
from geobiomass.sources.grid_like import grid_like
from geobiomass.sources.rasters.grid_geometry import crs_name, outline_on

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
    """Choose the grid of a cube from the grids of files and the user's arguments.

    Parameters
    ----------
    boxes : sequence of GeoBox
        Grids of the files.
    like, bounds, resolution, crs, bounds_crs : optional
        As :func:`geobiomass.from_rasters` accepts them.

    Raises
    ------
    CubeError
        If the arguments contradict each other, or do not determine one grid.
    """
    if like is not None:
        if not (bounds is None and resolution is None and crs is None):
            raise CubeError(
                "Give either like= or bounds, resolution and crs, got both; leave out "
                "the others of them."
            )
        return grid_like(like)
    systems = list(dict.fromkeys(box.crs for box in boxes))
    if crs is None and len(systems) > 1:
        raise CubeError(
            f"The files have {len(systems)} different CRSs, "
            f"{[crs_name(each) for each in systems[:4]]}; choose one with crs= (such "
            "as 'utm') and resolution=."
        )
    own = len(systems) == 1 and (crs is None or systems[0] == _parse_crs(crs))
    if own and resolution is None:
        return _finest_grid(boxes, bounds, bounds_crs)
    if resolution is None:
        raise CubeError(
            f"resolution must be given with crs={crs!r}, which is not the CRS of the "
            "files: the side of a pixel in its units."
        )
    wanted = systems[0] if crs is None else crs
    if bounds is None:
        bounds, bounds_crs = _around(boxes, systems[0] if own else WGS84)
    return make_grid(bounds, resolution, wanted, bounds_crs=bounds_crs)


def _parse_crs(crs: Any) -> Any:
    """Return a CRS object, or None for "utm", which :func:`make_grid` resolves."""
    from odc.geo.crs import CRS

    if isinstance(crs, str) and crs.lower() == "utm":
        return None
    try:
        return CRS(crs)
    except Exception as error:
        raise CubeError(
            f"crs must be a CRS such as 'EPSG:32633', or 'utm', got {crs!r}: {error}."
        ) from error


def _finest_grid(
    boxes: Sequence[GeoBox], bounds: Sequence[float] | None, bounds_crs: Any
) -> GeoBox:
    """Return the grid of the finest file, extended over all files or over bounds."""
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
    # The corners of files of one tiling differ by rounding.
    top, left = np.floor(edges[:, :2].min(axis=0) + 0.01).astype(int).tolist()
    bottom, right = np.ceil(edges[:, 2:].max(axis=0) - 0.01).astype(int).tolist()
    affine = finest.affine * type(finest.affine).translation(left, top)
    check_size((bottom - top, right - left), "The grid of the files")
    return GeoBox((bottom - top, right - left), affine, finest.crs)


def _around(boxes: Sequence[GeoBox], crs: Any) -> tuple[tuple[float, ...], Any]:
    if crs == WGS84:  # across 180 degrees too
        return box_of_boxes(map(box_around, boxes)), crs
    edges = np.array([tuple(box.footprint(crs).boundingbox) for box in boxes])
    return (*edges[:, :2].min(axis=0), *edges[:, 2:].max(axis=0)), crs
