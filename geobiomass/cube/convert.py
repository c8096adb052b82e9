"""A cube out of arrays that plain xarray already holds."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import numpy.typing as npt
import xarray as xr

from geobiomass.cube.schema import SCENE_DIMS, CubeError, check_cube


def as_cube(
    data: xr.Dataset | xr.DataArray,
    agb: xr.DataArray | None = None,
    *,
    nodata: float | None = None,
    crs: Any = None,
) -> xr.Dataset:
    """Make a cube from arrays that xarray already holds.

    Parameters
    ----------
    data : xarray.Dataset or xarray.DataArray
        Either a Dataset with a variable a band, each (time, y, x), or a DataArray
        (time, band, y, x) with band names as coordinate. The time axis may be
        called ``month``, ``time`` or ``t`` and hold dates or calendar months; a
        band without it (elevation) is repeated for every month.
    agb : xarray.DataArray, optional
        Above-ground biomass density, or any other target, (y, x) on the same grid.
    nodata : float, optional
        The value that marks missing pixels in `data`, where the file does not
        declare one. It becomes NaN.
    crs : optional
        Anything that rioxarray takes as a coordinate reference system, where
        `data` does not carry one.

    Returns
    -------
    xarray.Dataset
        ``image`` (month, band, y, x) float32 and, if given, ``agb`` (y, x) float32.

    Raises
    ------
    CubeError
        If there is no time axis, if dates cannot be read, or if the target is on
        another grid.
    """
    import rioxarray  # noqa: F401  (the .rio accessor)

    image = _stack_bands(data) if isinstance(data, xr.Dataset) else data
    time = next((dim for dim in ("month", "time", "t") if dim in image.dims), None)
    if time is None:
        raise CubeError(
            f"A cube needs a time axis called month, time or t, got {image.dims}; "
            "mend with data.expand_dims(month=[7])."
        )
    months = _calendar_months(image, time)
    image = image.rename({time: "month"}) if time != "month" else image
    image = image.drop_vars("month", errors="ignore").assign_coords(month=months)
    if image.dims != SCENE_DIMS:
        image = image.transpose(*SCENE_DIMS)
    if nodata is not None:
        image = image.where(image != nodata)
    cube = image.astype(np.float32).to_dataset(name="image")
    cube = cube.drop_vars([name for name in cube.coords if name not in _COORDS])
    if agb is not None:
        _same_grid(image, agb)
        target = agb.astype(np.float32).transpose("y", "x").variable
        cube["agb"] = xr.Variable(("y", "x"), target.data, {"units": "Mg/ha"})
    found = crs if crs is not None else data.rio.crs
    if found is not None:
        cube = cube.rio.write_crs(found).rio.write_coordinate_system()
    check_cube(cube)
    return cube


_COORDS = ("month", "band", "y", "x", "spatial_ref")


def _stack_bands(data: xr.Dataset) -> xr.DataArray:
    bands = {str(n): v for n, v in data.items() if {"y", "x"} <= set(map(str, v.dims))}
    if not bands:
        raise CubeError(
            f"No variable has the dimensions y and x, got {dict(data.sizes)}; "
            "rename the axes of the grid to y and x."
        )
    stacked = xr.concat(
        xr.broadcast(*bands.values()),
        dim="band",
        coords="minimal",
        compat="override",
        join="exact",
        combine_attrs="drop",
    )
    return stacked.assign_coords(band=list(bands))


def _calendar_months(image: xr.DataArray, time: str) -> npt.NDArray[np.int64]:
    if time not in image.coords:
        raise CubeError(
            f"The time axis {time!r} has no coordinate: give the dates or the "
            f"calendar months, data.assign_coords({time}=[9, 10, ...])."
        )
    values = image[time]
    if np.issubdtype(values.dtype, np.datetime64):
        return cast(npt.NDArray[np.int64], values.dt.month.values.astype(np.int64))
    if np.issubdtype(values.dtype, np.integer):
        return cast(npt.NDArray[np.int64], values.values.astype(np.int64))
    raise CubeError(
        f"The time axis {time!r} must hold dates or calendar months, got "
        f"{values.dtype}."
    )


def _same_grid(image: xr.DataArray, agb: xr.DataArray) -> None:
    for dim in ("y", "x"):
        ours, theirs = image[dim].values, agb[dim].values
        if ours.shape != theirs.shape or not np.allclose(ours, theirs):
            raise CubeError(
                f"'agb' must be on the grid of the image, but {dim!r} has "
                f"{theirs.size} values from {theirs[0]} to {theirs[-1]} against "
                f"{ours.size} from {ours[0]} to {ours[-1]}; reproject it first, "
                "agb.rio.reproject_match(image)."
            )
