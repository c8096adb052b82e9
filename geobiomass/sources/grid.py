"""The grid of a cube: CRS, bounds and pixels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from geobiomass.cube import CubeError
from geobiomass.cube.antimeridian import check_continuous, continuous
from geobiomass.cube.grid_size import check_size

if TYPE_CHECKING:
    from odc.geo.geobox import GeoBox

WGS84 = "EPSG:4326"

SCENES = "scenes"
"""Attribute of a cube, JSON: the images of each month. Keys are ``"2023-09"``, or
``"09"`` if the year is unknown. Values are lists of groups of ``ids`` with the facts
that they share: ``collection``, ``baseline``, ``offset``, ``at`` (their folder)."""


def make_grid(
    bounds: Sequence[float],
    resolution: float = 10.0,
    crs: Any = "utm",
    *,
    bounds_crs: Any = WGS84,
) -> GeoBox:
    """Return a grid of square pixels over an area; edges are multiples of their side.

    So two areas with the same CRS and resolution are on one lattice, and maps of them
    align.

    Parameters
    ----------
    bounds : sequence of four floats
        West, south, east, north in `bounds_crs`; the grid covers this area. In
        degrees, a west above east, or an east above 180, crosses 180 degrees.
    resolution : float
        Side of a pixel in units of `crs`: metres, or degrees.
    crs : optional
        CRS of the grid, in any form that odc-geo accepts, such as "EPSG:32633"; "utm"
        is the UTM zone of the centre of `bounds`.
    bounds_crs : optional
        CRS of `bounds`; by default longitude and latitude.

    Raises
    ------
    CubeError
        If bounds are not a box, the CRS is unknown, or the resolution is not a positive
        number.
    """
    from odc.geo.crs import CRS
    from odc.geo.geobox import GeoBox
    from odc.geo.geom import box
    from pyproj.exceptions import CRSError

    west, south, east, north = _checked(bounds, bounds_crs)
    if not (math.isfinite(resolution) and resolution > 0):
        raise CubeError(f"resolution must be a positive number, got {resolution!r}.")
    try:
        area = box(west, south, east, north, bounds_crs)
        # The edges of a box are curved in another CRS: four corners are not enough.
        area = area.segmented(max(east - west, north - south) / 20)
        crosses = east > 180 or west < -180
        if crosses and isinstance(crs, str) and crs.lower() == "utm":
            middle = ((west + east) / 2 + 180) % 360 - 180
            crs = CRS.utm(middle, (south + north) / 2)
        wanted = area.to_crs(crs)
    except (CRSError, ValueError) as error:
        polar = "EPSG:3413" if south > 0 else "EPSG:3031"
        if str(crs).lower() == "utm" and (north > 84 or south < -80):
            raise CubeError(
                "UTM has zones from 80 degrees south to 84 degrees north, got bounds "
                f"{tuple(bounds)}; choose another crs, such as {polar!r}."
            ) from error
        raise CubeError(
            f"crs must be a CRS such as 'EPSG:32633', or 'utm', got "
            f"{crs!r} for bounds in {bounds_crs!r}: {error}."
        ) from error
    if crosses and _is_geographic(bounds_crs):
        check_continuous(wanted, crs, bounds)
    if not all(map(math.isfinite, wanted.boundingbox)):
        raise CubeError(
            f"bounds must be within the area of {crs}, got {tuple(bounds)}; choose "
            "another crs."
        )
    made = GeoBox.from_bbox(wanted.boundingbox, resolution=resolution)
    around = tuple(wanted.boundingbox)
    name = "The grid of bounds and resolution"
    check_size(made.shape, name, (resolution, resolution), around)
    extent = max(around[2] - around[0], around[3] - around[1])
    if _is_geographic(str(made.crs)) and resolution > max(1.0, 2 * extent):
        raise CubeError(
            f"resolution must be in units of crs, degrees for {crs}, got "
            f"{resolution:g} for an area of {extent:.4g} degrees; give metres with a "
            "projected crs, such as the default 'utm'."
        )
    return made


def grid_coordinates(grid: GeoBox) -> dict[str, Any]:
    """Return the coordinates of pixel centres along y and x."""
    height, width = grid.shape
    affine = grid.affine
    return {
        "y": affine.f + affine.e * (np.arange(height) + 0.5),
        "x": affine.c + affine.a * (np.arange(width) + 0.5),
    }


def _is_geographic(crs: Any) -> bool:
    from pyproj import CRS
    from pyproj.exceptions import CRSError

    try:
        return bool(CRS.from_user_input(crs).is_geographic)
    except CRSError:
        return False  # said where the area is converted


def _checked(bounds: Sequence[float], crs: Any) -> tuple[float, float, float, float]:
    try:
        west, south, east, north = map(float, bounds)
    except (TypeError, ValueError) as error:
        raise CubeError(
            f"bounds must be west, south, east and north, got {bounds!r}."
        ) from error
    if _is_geographic(crs):
        west, east = continuous(west, east)
        if max(abs(west), abs(east)) > 360 or max(abs(south), abs(north)) > 90:
            raise CubeError(
                "bounds must be west, south, east and north in degrees, got "
                f"{tuple(bounds)}; if they are in the units of another system, say "
                "which, bounds_crs='EPSG:...'."
            )
    if not (west < east and south < north):
        raise CubeError(
            "bounds must be west, south, east and north, with west below east and "
            f"south below north, got {tuple(bounds)}. Only across 180 degrees is west "
            "above east, by 180 degrees or more."
        )
    return west, south, east, north
