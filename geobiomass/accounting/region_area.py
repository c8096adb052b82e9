"""Areas of regions on the ellipsoid: their own, off the map, and shared by two."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from geobiomass.applicability.layer_names import INSIDE
from geobiomass.cube.grid import Grid
from geobiomass.cube.pixel_shares import PixelOutline
from geobiomass.maps.reading import open_layer

_SIDES = 256  # pieces of an edge, which is no straight line in another system
_RIM = 0.5  # pixels beyond the map that are not told


@dataclass(frozen=True)
class RegionArea:
    """Hectares of a region on the ellipsoid, independent of the map's values.

    Parameters
    ----------
    hectares : float
        Of the whole region; parts that overlap count once.
    off : float
        Of its parts beyond the edges of the map.
    shared : float
        Of its parts that also belong to another region of the same call.
    """

    hectares: float = 0.0
    off: float = 0.0
    shared: float = 0.0


def areas_of(
    outlines: Sequence[PixelOutline], layer: xr.DataArray, stacklevel: int = 3
) -> list[RegionArea]:
    """Return the geodesic areas of regions.

    The area of a polygon on the ellipsoid is by Karney (2013, doi:
    10.1007/s00190-012-0578-z), as pyproj has it. Its edges are straight in the
    reference system of the map, so they are cut into short pieces first.

    Parameters
    ----------
    outlines : sequence of PixelOutline
        The regions.
    layer : xarray.DataArray
        The map.
    stacklevel : int
        Of the warning.

    Warns
    -----
    UserWarning
        Once, if regions reach beyond the map by more than half a pixel, with their
        number and hectares.
    """
    import shapely

    grid = Grid.of(layer, "The map")
    measure = _Measure(layer, grid)
    edge = shapely.box(0, 0, grid.width, grid.height)
    rim = edge.buffer(_RIM, join_style="mitre")
    found, beyond = [], []
    for outline, both in zip(outlines, _overlaps(outlines), strict=True):
        whole = measure.hectares(outline.shape)
        rest = shapely.difference(outline.shape, edge)
        off = 0.0 if rest.is_empty else measure.hectares(rest)
        planar = float(outline.shape.area)
        share = both / planar if planar > 0 else 0.0
        found.append(RegionArea(whole, off, whole * share))
        if off > 0 and not shapely.covers(rim, outline.shape):
            beyond.append(off)
    if beyond:
        warnings.warn(
            f"{len(beyond)} of {len(found)} regions reach beyond the map, by "
            f"{sum(beyond):,.4g} ha in all: totals are of the part within, and the "
            "rest counts as unmapped.",
            stacklevel=stacklevel,
        )
    return found


def applicable_of(source: Any, layer: xr.DataArray) -> xr.DataArray | None:
    """Return a map's layer of applicability, None if it has none on this grid.

    Parameters
    ----------
    source : xarray.Dataset or xarray.DataArray
        The map.
    layer : xarray.DataArray
        (y, x), the layer that is summed.
    """
    if not isinstance(source, xr.Dataset) or INSIDE not in source:
        return None
    found = open_layer(source, INSIDE)
    return found if found.shape == layer.shape else None


class _Measure:
    """Geodesic areas of polygons in pixel coordinates of a map."""

    def __init__(self, layer: xr.DataArray, grid: Grid) -> None:
        import pyproj
        import rioxarray  # noqa: F401  (the .rio accessor)

        crs: Any = pyproj.CRS.from_wkt(layer.rio.crs.to_wkt())
        self._grid = grid
        self._move = pyproj.Transformer.from_crs(
            crs, crs.geodetic_crs, always_xy=True
        ).transform
        # A system without an ellipsoid of its own (a plain grid) is on WGS 84.
        self._geod = crs.get_geod() or pyproj.Geod(ellps="WGS84")

    def hectares(self, shape: Any) -> float:
        """Return the area of a polygon, 0 where the reference system has none."""
        import shapely

        if shape.is_empty:
            return 0.0
        west, south, east, north = shape.bounds
        fine = shapely.segmentize(shape, max(east - west, north - south) / _SIDES)
        degrees = shapely.transform(fine, self._in_degrees)
        area = 0.0
        for part in shapely.get_parts(degrees):
            if part.geom_type == "Polygon":  # a difference may leave lines and points
                area += abs(self._geod.geometry_area_perimeter(part)[0])
        return area / 1e4 if np.isfinite(area) else 0.0

    def _in_degrees(self, points: npt.NDArray[Any]) -> npt.NDArray[Any]:
        x, y = self._grid.position(points[:, 1], points[:, 0])
        return np.column_stack(self._move(x, y))


def _overlaps(outlines: Sequence[PixelOutline]) -> npt.NDArray[np.float64]:
    """Return the area, in pixels, that each region shares with other ones."""
    import shapely

    shapes = np.array([outline.shape for outline in outlines], object)
    shared = np.zeros(shapes.size)
    if shapes.size < 2:
        return shared
    one, other = shapely.STRtree(shapes).query(shapes, predicate="intersects")
    pairs = one != other
    one, other = one[pairs], other[pairs]
    parts = shapely.intersection(shapes[one], shapes[other])
    real = shapely.area(parts) > 0
    for number in np.unique(one[real]):
        mine = real & (one == number)
        shared[number] = shapely.area(shapely.union_all(parts[mine]))
    return shared
