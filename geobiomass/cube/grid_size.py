"""The largest grid that is worked on: larger ones are mistakes of units."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from geobiomass.cube.errors import CubeError

if TYPE_CHECKING:
    import xarray as xr

MOST_PIXELS = 500_000_000_000
"""The world's land at 30 m has a third of this, a global grid at 100 m a seventh."""


def check_size(
    shape: Sequence[int],
    name: str,
    resolution: tuple[float, float] | None = None,
    bounds: tuple[float, ...] | None = None,
) -> None:
    """Check that a grid is not of absurd size, before anything is read or planned.

    Parameters
    ----------
    shape : sequence of int
        Rows and columns of pixels.
    name : str
        Words of the error message for the grid: "The grid of bounds and resolution".
    resolution, bounds : tuple of float, optional
        Size of a pixel, and the edges, as far as they are known; for the message.

    Raises
    ------
    CubeError
        If it has more than 5e11 pixels.
    """
    height, width = shape
    pixels = height * width
    if pixels <= MOST_PIXELS:
        return
    known = ""
    if resolution is not None:
        known = " of " + " x ".join(f"{abs(side):.6g}" for side in resolution)
    if bounds is not None and all(map(math.isfinite, bounds)):
        known += " over " + ", ".join(f"{edge:.10g}" for edge in bounds)
    raise CubeError(
        f"{name} must have at most {MOST_PIXELS:.0e} pixels, got {height:,} x "
        f"{width:,} = {pixels:.2g}{known}. Check the units: a resolution in degrees "
        "for a system in metres, or bounds in metres for one in degrees, give such "
        "sizes. For a part of a larger raster give bounds, or select it first."
    )


def check_scene_size(data: xr.Dataset | xr.DataArray) -> None:
    """Check the size of a scene, as :func:`check_size` does."""
    from geobiomass.cube.axes import spatial_axes  # with xarray

    names = spatial_axes(data)
    if names is not None and "chip" not in data.dims:
        check_size([data.sizes[name] for name in names], "A scene")
