"""Conversion of users' xarray arrays and datasets to a cube."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import xarray as xr
from pandas import MultiIndex

from geobiomass.cube.axes import find_axes
from geobiomass.cube.schema import CHIP_DIMS, SCENE_DIMS, CubeError, check_cube

_UNDECODED = {"scale_factor", "add_offset", "_FillValue", "missing_value", "nodata"}
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
    no_options = all(option is None for option in (agb, nodata, crs, month))
    if isinstance(data, xr.Dataset) and no_options and _is_cube(data):
        check_cube(data)
        return data
    # Not before: a cube comes without it, and it takes long to import.
    import rioxarray  # noqa: F401  (the .rio accessor)

    given, data = data, _decoded(data)
    found = next((c for c in (crs, data.rio.crs, given.rio.crs) if c is not None), None)
    target = data["agb"] if isinstance(data, xr.Dataset) and "agb" in data else None
    image = _image(data, nodata)
    image = _with_months(image, month)
    chips = "chip" in image.dims
    image = image.transpose(*(CHIP_DIMS if chips else SCENE_DIMS))
    if chips and "chip" not in image.coords:
        image = image.assign_coords(chip=np.arange(image.sizes["chip"]).astype(str))
    cube = image.astype(np.float32).to_dataset(name="image")
    cube = cube.drop_vars([name for name in cube.coords if name not in _COORDS])
    for wanted in (target, agb):
        if wanted is not None:
            cube["agb"] = _target(image, wanted)
    if found is not None and not chips:
        cube = cube.rio.write_crs(found).rio.write_coordinate_system()
    check_cube(cube)
    return cube


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
        and not _UNDECODED & image.attrs.keys()
        and "multiplier" not in image.coords
        and all(variable.ndim for variable in data.data_vars.values())
        and ("month" not in image.coords or image["month"].dtype.kind != "M")
    )


# Values: scale and nodata -------------------------------------------------------


def _decoded(data: xr.Dataset | xr.DataArray) -> xr.Dataset | xr.DataArray:
    """Apply the attributes for scale, offset and nodata, and find the CRS."""
    if isinstance(data, xr.DataArray):
        whole = _decoded(data.to_dataset(name="image"))
        return cast(xr.Dataset, whole)["image"]
    data = _with_grid_mapping(_unstacked(data.copy()))
    for name, variable in data.data_vars.items():
        attrs = dict(variable.attrs)
        if "nodata" in attrs:  # odc-stac's name for CF's _FillValue
            attrs.setdefault("_FillValue", variable.dtype.type(attrs.pop("nodata")))
        if attrs.get("grid_mapping") not in data.variables:
            attrs.pop("grid_mapping", None)  # lost when variables were selected
        if attrs != variable.attrs:
            data[name] = variable.copy(deep=False)
            data[name].attrs = attrs
    return xr.decode_cf(data, decode_coords="all", decode_timedelta=False)


def _unstacked(data: xr.Dataset) -> xr.Dataset:
    """Unstack the axis in which xbatcher puts all dimensions that it does not cut."""
    many = [dim for dim in data.dims if isinstance(data.indexes.get(dim), MultiIndex)]
    if not many:
        return data
    data = data.unstack(many)
    if "agb" in data:  # repeated for each month and band, to have the same axis
        once = {dim: 0 for dim in ("month", "band") if dim in data["agb"].dims}
        data["agb"] = data["agb"].isel(once, drop=True)
    return data


def _with_grid_mapping(data: xr.Dataset) -> xr.Dataset:
    """Make the grid mapping a coordinate, under the name that rioxarray expects."""
    for name, variable in data.variables.items():
        if variable.ndim == 0 and {"crs_wkt", "spatial_ref"} & variable.attrs.keys():
            data = data.set_coords(name)
            return data if name == "spatial_ref" else data.rename({name: "spatial_ref"})
    return data


def _image(data: xr.Dataset | xr.DataArray, nodata: float | None) -> xr.DataArray:
    """Return (chip, month, band, y, x) in any order, NaN where missing."""
    if isinstance(data, xr.Dataset) and "image" in data:
        image = data["image"]
        image = image.rename(_changes(image))
    elif isinstance(data, xr.Dataset):
        image = _stack_bands(data)
    else:
        image = data.rename(_changes(data))
    if "band" not in image.dims:
        raise CubeError(
            f"A cube needs a band axis, got {image.dims}; name the single band, "
            "data.expand_dims(band=['B04'])."
        )
    image = image.assign_coords(band=_band_names(image))
    if "multiplier" in image.coords:  # a cube that plain xarray opened
        image = image * image["multiplier"].astype(np.float32)
    if nodata is not None:
        return image.where(image != nodata)
    if not np.issubdtype(image.dtype, np.floating):
        raise CubeError(
            f"Values are {image.dtype} and no attribute says which value marks missing "
            "pixels; pass gb.as_cube(data, nodata=...), or data.astype('float32') "
            "where no pixel is missing."
        )
    return image


def _changes(array: xr.DataArray) -> dict[str, str]:
    return {theirs: ours for theirs, ours in find_axes(array).items() if theirs != ours}


def _stack_bands(data: xr.Dataset) -> xr.DataArray:
    axes = find_axes(data)
    grid = {theirs for theirs, ours in axes.items() if ours in ("y", "x")}
    bands = {
        str(name): variable
        for name, variable in data.items()
        if len(grid) == 2 and grid <= set(map(str, variable.dims)) and name != "agb"
    }
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
    names = [variable.attrs.get("long_name") for variable in bands.values()]
    plain = all(name.startswith("band_") for name in bands) and all(names)
    stacked = stacked.assign_coords(band=[*map(str, names)] if plain else list(bands))
    return stacked.rename({a: b for a, b in axes.items() if a != b})


def _band_names(image: xr.DataArray) -> list[str]:
    """Return the coordinate, or rioxarray's descriptions of numbered bands."""
    described = image.attrs.get("long_name")
    count = image.sizes["band"]
    if "band" in image.coords and image["band"].dtype.kind in "UOT":
        return [str(name) for name in image["band"].values]
    if isinstance(described, str) and count == 1:
        return [described]
    if isinstance(described, tuple | list) and len(described) == count:
        return [str(name) for name in described]
    got = image["band"].values.tolist() if "band" in image.coords else "no coordinate"
    raise CubeError(
        f"Coordinate 'band' must hold names, got {got}: bands are matched by name; "
        "fix it with data.assign_coords(band=['B02', ...])."
    )


# Months ------------------------------------------------------------------------


def _with_months(
    image: xr.DataArray, month: int | Sequence[int] | None
) -> xr.DataArray:
    if "month" not in image.dims:
        if month is None:
            raise CubeError(
                f"A cube needs a time axis called month, time or t, got {image.dims}; "
                "for one image say which month it is of, gb.as_cube(data, month=7)."
            )
        image = image.drop_vars("month", errors="ignore").expand_dims("month")
    if month is not None:
        months = np.atleast_1d(np.asarray(month))
        if months.shape != (image.sizes["month"],):
            raise CubeError(
                f"month must have a calendar month for each of {image.sizes['month']} "
                f"steps, got {months.tolist()}."
            )
    else:
        months = _calendar_months(image)
    return image.drop_vars("month", errors="ignore").assign_coords(month=months)


def _calendar_months(image: xr.DataArray) -> npt.NDArray[np.int64]:
    if "month" not in image.coords:
        raise CubeError(
            "The time axis has no coordinate: give the calendar months, "
            "gb.as_cube(data, month=[9, 10, ...])."
        )
    values = image["month"]
    if np.issubdtype(values.dtype, np.datetime64):
        _check_one_a_month(values)
        return cast(npt.NDArray[np.int64], values.dt.month.values.astype(np.int64))
    if np.issubdtype(values.dtype, np.integer):
        return cast(npt.NDArray[np.int64], values.values.astype(np.int64))
    raise CubeError(
        f"The time axis must hold dates or calendar months, got {values.dtype}."
    )


def _check_one_a_month(times: xr.DataArray) -> None:
    dates = [str(date) for date in times.values.astype("datetime64[M]")]
    often = {date: n for date, n in Counter(dates).items() if n > 1}
    if often:
        date, count = max(often.items(), key=lambda pair: pair[1])
        raise CubeError(
            f"A cube has one image per month, got {count} dates in {date}; compose "
            "them, data.resample(time='MS').median(), or use gb.from_stac, which also "
            "leaves out clouds."
        )


# The target --------------------------------------------------------------------


def _target(image: xr.DataArray, agb: xr.DataArray) -> xr.Variable:
    changes = _changes(agb)
    agb = agb.rename(changes)
    dims = tuple(dim for dim in image.dims if dim not in ("month", "band"))
    if set(agb.dims) != set(dims):
        raise CubeError(f"Dimensions of 'agb' must be {dims}, got {agb.dims}.")
    _check_same_grid(image, agb)
    target = agb.astype(np.float32).transpose(*dims).variable
    return xr.Variable(dims, target.data, {"units": "Mg/ha"})


def _check_same_grid(image: xr.DataArray, agb: xr.DataArray) -> None:
    for dim in ("y", "x"):
        if dim not in image.coords or dim not in agb.coords:
            continue
        ours, theirs = image[dim].values, agb[dim].values
        if ours.shape != theirs.shape or not np.allclose(ours, theirs):
            raise CubeError(
                f"'agb' must be on the grid of the image, but {dim!r} has "
                f"{theirs.size} values from {theirs[0]} to {theirs[-1]} against "
                f"{ours.size} from {ours[0]} to {ours[-1]}; reproject it first, "
                "agb.rio.reproject_match(image)."
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
