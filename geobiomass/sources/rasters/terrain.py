"""Slope and aspect of an elevation model, on the model's own grid.

Derivatives by Horn (1981), "Hill shading and the reflectance map", Proceedings of the
IEEE 69(1), 14-47: differences across the eight neighbours, weighted 1, 2, 1. They are
taken before the elevation is reprojected: a resampled surface has facets, and an
averaged one is flatter, so that slope would depend on the grid of the cube.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from geobiomass.cube import CubeError

if TYPE_CHECKING:
    from odc.geo.geobox import GeoBox

Numbers = npt.NDArray[np.float64]

ELEVATION, SLOPE = "elevation", "slope"
ASPECT = ("aspect_sin", "aspect_cos")
DERIVED = (SLOPE, *ASPECT)
"""Layers that follow from the elevation."""


def derive(
    elevation: npt.NDArray[np.float32],
    names: Sequence[str],
    grid: GeoBox,
    rows: slice,
) -> npt.NDArray[np.float32]:
    """Return slope and aspect of a window of an elevation model.

    Parameters
    ----------
    elevation : numpy.ndarray
        (y, x) in metres, NaN where missing: the window and one pixel around it.
    names : sequence of str
        Of ``slope``, ``aspect_sin`` and ``aspect_cos``.
    grid : GeoBox
        Of the whole elevation model.
    rows : slice
        The window's rows in it, without the pixel around.

    Returns
    -------
    numpy.ndarray
        (name, y, x) float32 of the window; NaN where one of the nine pixels is missing.
        Slope is in degrees. Sine and cosine are of the direction that the ground falls
        towards, clockwise from the north of the grid: east and north components of a
        unit vector, 0 and 0 where it is flat.
    """
    across, down = pixel_metres(grid)
    z = elevation.astype(np.float64)
    east = z[:, 2:] - z[:, :-2]
    east = (east[:-2] + 2 * east[1:-1] + east[2:]) / (8 * across[rows, None])
    south = z[2:] - z[:-2]
    north = -(south[:, :-2] + 2 * south[:, 1:-1] + south[:, 2:])
    north = north / (8 * down[rows, None])
    # Some formulas leave out the pixel in the middle; without it there is no slope.
    gone = np.isnan(z[1:-1, 1:-1])
    steep = np.hypot(east, north)
    flat = steep == 0
    length = np.where(flat, 1.0, steep)
    found = {
        SLOPE: np.degrees(np.arctan(steep)),
        ASPECT[0]: -east / length,
        ASPECT[1]: -north / length,
    }
    planes = np.stack([found[name] for name in names]).astype(np.float32)
    planes[:, gone] = np.nan
    return planes + np.float32(0)  # no negative zeros


@lru_cache(maxsize=8)
def pixel_metres(grid: GeoBox) -> tuple[Numbers, Numbers]:
    """Return the length on the ground of a pixel of each row, along x and along y.

    Measured on the ellipsoid in the middle column: degrees of longitude are shorter
    towards the poles, and pixels of Web Mercator too. Signed: positive where x goes
    east and y goes south.

    Raises
    ------
    CubeError
        If rows and columns are not along x and y.
    """
    from pyproj import CRS, Geod, Transformer

    affine = grid.affine
    if affine.b or affine.d:
        raise CubeError(
            "An elevation model must have rows along x and columns along y to derive "
            "slope and aspect, got a rotated one; reproject it first, "
            "dem.rio.reproject(crs)."
        )
    crs = CRS(str(grid.crs))
    height, width = grid.shape
    row = np.arange(height) + 0.5
    x = np.full(height, affine.c + affine.a * width / 2)
    y = affine.f + affine.e * row
    geod = crs.get_geod() or Geod(ellps="WGS84")
    turn = Transformer.from_crs(crs, crs.geodetic_crs, always_xy=True).transform
    lengths = []
    for dx, dy in ((affine.a / 2, 0.0), (0.0, affine.e / 2)):
        start, end = (
            turn(x - dx, _within(y - dy, crs)),
            turn(x + dx, _within(y + dy, crs)),
        )
        lengths.append(np.asarray(geod.inv(*start, *end)[2], np.float64))
    across, down = lengths[0] * np.sign(affine.a), -lengths[1] * np.sign(affine.e)
    return across, down


def _within(y: npt.NDArray[Any], crs: object) -> npt.NDArray[Any]:
    """Return latitudes not beyond the poles, which half a pixel may reach."""
    return np.clip(y, -90, 90) if getattr(crs, "is_geographic", False) else y
