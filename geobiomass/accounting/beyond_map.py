"""The parts of regions that reach beyond a map: measured, and told."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr

from geobiomass.cube.grid import Grid
from geobiomass.cube.region import Region

_SIDES = 64  # pieces of an edge, which is no straight line in another system


def hectares_beyond(
    named: Sequence[tuple[str, Region]], layer: xr.DataArray, stacklevel: int = 3
) -> list[float]:
    """Return the hectares of each region beyond the edges of a map.

    On the ellipsoid. Half a pixel beyond an edge does not count: no pixel's centre
    would lie there.

    Parameters
    ----------
    named : sequence of (str, Region)
        Regions in the system of the map; those without shapes are the whole of it.
    layer : xarray.DataArray
        The map.
    stacklevel : int
        Of the warning.

    Warns
    -----
    UserWarning
        Once, if regions reach beyond the map, with their number and hectares.
    """
    import pyproj
    import rioxarray  # noqa: F401  (the .rio accessor)
    import shapely

    grid = Grid.of(layer, "The map")
    x, y = grid.corners
    outline = shapely.Polygon(np.stack([x, y], 1)[[0, 1, 3, 2]])
    half = max(math.hypot(*grid.affine[0:4:3]), math.hypot(*grid.affine[1:5:3])) / 2
    rim = outline.buffer(half, join_style="mitre")
    crs: Any = None
    found = []
    for _, region in named:
        shapes: Any = shapely.union_all(
            [shapely.geometry.shape(shape) for shape in region.shapes]
        )
        if shapes.is_empty or shapely.covers(rim, shapes):
            found.append(0.0)
            continue
        crs = crs or pyproj.CRS.from_wkt(layer.rio.crs.to_wkt())
        move = pyproj.Transformer.from_crs(crs, crs.geodetic_crs, always_xy=True)
        part = shapely.difference(shapes, outline)
        west, south, east, north = part.bounds
        part = shapely.segmentize(part, max(east - west, north - south) / _SIDES)
        degrees = shapely.transform(part, move.transform, interleaved=False)
        # A system without an ellipsoid of its own (a plain grid) is on WGS 84.
        geod = crs.get_geod() or pyproj.Geod(ellps="WGS84")
        area, _ = geod.geometry_area_perimeter(degrees)
        found.append(abs(area) / 1e4 if math.isfinite(area) else 0.0)
    beyond = [area for area in found if area > 0]
    if beyond:
        warnings.warn(
            f"{len(beyond)} of {len(found)} regions reach beyond the map, by "
            f"{sum(beyond):,.4g} ha in all: totals are of the part within, and the "
            "rest counts as unmapped.",
            stacklevel=stacklevel,
        )
    return found
