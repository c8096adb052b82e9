"""Values of users' arrays: scale, offset, nodata and missing values, decoded."""

from __future__ import annotations

from typing import cast

import numpy as np
import xarray as xr
from pandas import MultiIndex

from geobiomass.cube.schema import CubeError

UNDECODED = {"scale_factor", "add_offset", "_FillValue", "missing_value", "nodata"}


def decoded(data: xr.Dataset | xr.DataArray) -> xr.Dataset | xr.DataArray:
    """Apply the attributes for scale, offset and nodata, and find the CRS."""
    if isinstance(data, xr.DataArray):
        whole = decoded(data.to_dataset(name="image"))
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


def missing_as_nan(image: xr.DataArray, nodata: float | None) -> xr.DataArray:
    """Return the bands' values as floats, NaN where missing."""
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
