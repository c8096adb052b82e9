"""The grid that a cube from an archive is put on: reference system, edges, pixels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from geobiomass.cube import CubeError

if TYPE_CHECKING:
    from odc.geo.geobox import GeoBox

WGS84 = "EPSG:4326"

SCENES = "scenes"
"""Attribute of a cube, JSON: by month, ``"2023-09"``, or ``"09"`` where the year is
unknown, what its pixels are from: a list of groups with ``ids`` and what these have in
common: ``collection``, ``baseline``, ``offset``, ``at`` (address of their folder)."""


def make_grid(
    bounds: Sequence[float],
    resolution: float = 10.0,
    crs: Any = "utm",
    *,
    bounds_crs: Any = WGS84,
) -> GeoBox:
    """Lay out square pixels over an area; their edges are multiples of `resolution`.

    Two areas on the same reference system and resolution are thus on one lattice,
    and maps of them fit together.

    Parameters
    ----------
    bounds : sequence of four floats
        West, south, east, north in `bounds_crs`; the grid covers all of it.
    resolution : float
        Side of a pixel in units of `crs`: metres, or degrees.
    crs : optional
        Anything that odc-geo takes as a reference system, such as "EPSG:32633";
        "utm" is the UTM zone that the middle of `bounds` lies in.
    bounds_crs : optional
        Of `bounds`; by default longitude and latitude.

    Raises
    ------
    CubeError
        If bounds are no box, the reference system is unknown or the resolution is
        not a positive number.
    """
    from odc.geo.geobox import GeoBox
    from odc.geo.geom import box
    from pyproj.exceptions import CRSError

    west, south, east, north = _checked(bounds)
    if not (math.isfinite(resolution) and resolution > 0):
        raise CubeError(f"resolution must be a positive number, got {resolution!r}.")
    try:
        area = box(west, south, east, north, bounds_crs)
        # A box bulges in another reference system: corners alone would cut it.
        area = area.segmented(max(east - west, north - south) / 20)
        wanted = area.to_crs(crs)
    except (CRSError, ValueError) as error:
        raise CubeError(
            f"crs must be a reference system such as 'EPSG:32633', or 'utm', got "
            f"{crs!r} for bounds in {bounds_crs!r}: {error}."
        ) from error
    if not all(map(math.isfinite, wanted.boundingbox)):
        raise CubeError(f"bounds {tuple(bounds)} do not lie within {crs}.")
    return GeoBox.from_bbox(wanted.boundingbox, resolution=resolution)


def grid_coordinates(grid: GeoBox) -> dict[str, Any]:
    """Give the places of pixels' centres along y and x."""
    height, width = grid.shape
    affine = grid.affine
    return {
        "y": affine.f + affine.e * (np.arange(height) + 0.5),
        "x": affine.c + affine.a * (np.arange(width) + 0.5),
    }


def _checked(bounds: Sequence[float]) -> tuple[float, float, float, float]:
    try:
        west, south, east, north = map(float, bounds)
    except (TypeError, ValueError) as error:
        raise CubeError(
            f"bounds must be west, south, east and north, got {bounds!r}."
        ) from error
    if not (west < east and south < north):
        raise CubeError(
            "bounds must be west, south, east and north, with west below east and "
            f"south below north, got {tuple(bounds)}."
        )
    return west, south, east, north
