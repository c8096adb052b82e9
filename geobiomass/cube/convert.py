"""Conversion of users' xarray arrays and datasets to a cube."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr

from geobiomass.cube.band_names import stack_bands
from geobiomass.cube.calendar import with_months
from geobiomass.cube.corners import MOVED, centred
from geobiomass.cube.grid import check_not_rotated, placed
from geobiomass.cube.grid_size import check_scene_size
from geobiomass.cube.schema import CHIP_DIMS, SCENE_DIMS, CubeError, check_cube
from geobiomass.cube.target import target_on
from geobiomass.cube.values import UNDECODED, decoded, missing_as_nan

_COORDS = ("chip", "month", "band", "y", "x", "spatial_ref")


def as_cube(
    data: xr.Dataset | xr.DataArray,
    agb: xr.DataArray | None = None,
    *,
    nodata: float | None = None,
    crs: Any = None,
    month: int | Sequence[int] | None = None,
) -> xr.Dataset:
    """Convert arrays of xarray to a cube; a cube stays as it is.

    ``fit``, ``predict``, ``evaluate``, ``write_cube`` and the others do this with their
    input. Call it yourself if the data lacks a fact that you know: `nodata`, `crs`,
    `month`.

    Parameters
    ----------
    data : xarray.Dataset or xarray.DataArray
        A Dataset with one variable per band, each (time, y, x), as odc-stac and openEO
        return it, or with ``image``; or a DataArray (time, band, y, x) with band names
        as coordinate, or as the attribute ``long_name``, as rioxarray returns it. Axes
        may have other names (``longitude``, ``t``, ``bands``, ...) and any order; the
        time axis may contain dates or calendar months. A band without a time axis
        (elevation) is repeated for every month. Values may be dask's or not, decoded
        by CF or not.
    agb : xarray.DataArray, optional
        Above-ground biomass density, or any other target, (y, x) on the same grid.
        A variable ``agb`` of `data` is used without this argument.
    nodata : float, optional
        The value that marks missing pixels in `data`, if the file does not declare
        one. It becomes NaN.
    crs : optional
        Anything that rioxarray accepts as a coordinate reference system, if `data`
        has none.
    month : int or sequence of int, optional
        Calendar month of each step, if `data` has no time axis or no dates on it.

    Returns
    -------
    xarray.Dataset
        ``image`` (month, band, y, x), or with chips (chip, month, band, y, x), float32
        and, if there is one, ``agb`` (y, x) or (chip, y, x) float32.

    Raises
    ------
    CubeError
        If an axis is unknown, there is no time axis, dates cannot be read or are in
        the same month, integers declare no nodata, or the target is on another grid.
        The message says how to fix it.
    """
    if not isinstance(data, xr.Dataset | xr.DataArray):
        raise CubeError(
            "A cube is made of an xarray.Dataset or DataArray, got "
            f"{type(data).__name__}; gb.open_cube(path) opens one from disk."
        )
    check_not_rotated(data)
    check_scene_size(data)
    data = centred(data)
    no_options = all(option is None for option in (agb, nodata, crs, month))
    if isinstance(data, xr.Dataset) and no_options and _is_cube(data):
        check_cube(data)
        return placed(data)
    # Not before: a cube comes without it, and it takes long to import.
    import rioxarray  # noqa: F401  (the .rio accessor)

    given, data = data, decoded(data)
    found = next((c for c in (crs, data.rio.crs, given.rio.crs) if c is not None), None)
    target = data["agb"] if isinstance(data, xr.Dataset) and "agb" in data else None
    image = missing_as_nan(stack_bands(data), nodata)
    image = with_months(image, month)
    chips = "chip" in image.dims
    image = image.transpose(*(CHIP_DIMS if chips else SCENE_DIMS))
    if chips and "chip" not in image.coords:
        image = image.assign_coords(chip=np.arange(image.sizes["chip"]).astype(str))
    cube = image.astype(np.float32).to_dataset(name="image")
    cube = cube.drop_vars([name for name in cube.coords if name not in _COORDS])
    for wanted in (target, agb):
        if wanted is not None:
            cube["agb"] = target_on(image, wanted)
    if found is not None and not chips:
        cube = cube.rio.write_crs(found).rio.write_coordinate_system()
    if MOVED in given.attrs:
        cube.attrs[MOVED] = given.attrs[MOVED]
    check_cube(cube)
    return placed(cube)


def cube_or_chip(data: xr.Dataset | xr.DataArray) -> xr.Dataset:
    """Return a cube, as :func:`as_cube` does; one chip of a cube stays as it is."""
    if isinstance(data, xr.Dataset) and "image" in data:
        image = data["image"]
        if image.dims == SCENE_DIMS and not {"y", "x"} <= set(data.coords):
            return data
    return as_cube(data)


def _is_cube(data: xr.Dataset) -> bool:
    """Return whether a dataset is left unconverted: a cube already, or without data."""
    if "image" not in data:
        return not data.data_vars
    image = data["image"]
    return (
        image.dims in (SCENE_DIMS, CHIP_DIMS)
        and np.issubdtype(image.dtype, np.floating)
        and not UNDECODED & image.attrs.keys()
        and "multiplier" not in image.coords
        and all(variable.ndim for variable in data.data_vars.values())
        and ("month" not in image.coords or image["month"].dtype.kind != "M")
    )


def need_target(cube: xr.Dataset | xr.DataArray) -> xr.Dataset:
    """Return the data as a cube with labels.

    Raises
    ------
    CubeError
        If there are no labels; it says how to add them.
    """
    cube = as_cube(cube)
    if "agb" not in cube:
        raise CubeError(
            "The cube has no 'agb' (biomass density, Mg/ha) to learn from or to "
            f"compare with, only {sorted(map(str, cube))}; add it with "
            "cube.assign(agb=...) or gb.as_cube(data, agb=...)."
        )
    return cube
