"""The axes of users' arrays: recognised by name, else by their coordinate."""

from __future__ import annotations

from collections.abc import Hashable
from typing import TypeVar

import numpy as np
import xarray as xr

from geobiomass.cube.schema import CubeError
from geobiomass.cube.static_layers import STATIC, is_static

# The names of rioxarray, odc-stac, openEO, stackstac and xbatcher. xbatcher adds
# "_input" to the axes of a batch.
_NAMES = {
    "chip": ("chip", "sample", "patch", "batch", "input_batch"),
    "month": ("month", "time", "t", "date", "valid_time"),
    "band": ("band", "bands", "channel", "variable"),
    "y": ("y", "lat", "latitude", "northing"),
    "x": ("x", "lon", "longitude", "easting"),
}
MapData = TypeVar("MapData", xr.Dataset, xr.DataArray)
_OURS = {name: ours for ours, names in _NAMES.items() for name in names}
# Values of CF's attributes "axis" and "standard_name" of a coordinate.
_CF = {
    "T": "month",
    "Y": "y",
    "X": "x",
    "time": "month",
    "projection_y_coordinate": "y",
    "projection_x_coordinate": "x",
    "latitude": "y",
    "longitude": "x",
}


def find_axes(data: xr.Dataset | xr.DataArray) -> dict[str, str]:
    """Return the name in a cube of each dimension of the data.

    Parameters
    ----------
    data : xarray.Dataset or xarray.DataArray
        In a Dataset, variables with a single dimension, the bounds of an axis, and
        static layers do not count.

    Returns
    -------
    dict
        The cube's name, ``chip``, ``month``, ``band``, ``y`` or ``x``, by the data's.

    Raises
    ------
    CubeError
        If a dimension is none of these, or two are the same one.
    """
    found: dict[str, str] = {}
    for dim in _dims(data):
        ours = _OURS.get(dim.lower()) or _OURS.get(dim.lower().removesuffix("_input"))
        ours = ours or _by_coordinate(data, dim)
        if ours is None:
            names = ", ".join(f"{name} ({' '.join(_NAMES[name])})" for name in _NAMES)
            raise CubeError(
                f"Dimensions must be those of a cube, {names}, got {dim!r}; fix it "
                f"with data.rename({dim}=...) or data.isel({dim}=0)."
            )
        if ours in found.values():
            other = next(theirs for theirs, name in found.items() if name == ours)
            raise CubeError(
                f"Dimensions {other!r} and {dim!r} would both be the {ours} of a cube; "
                "drop or rename one."
            )
        found[dim] = ours
    return found


def named_like(result: xr.Dataset, data: xr.Dataset | xr.DataArray) -> xr.Dataset:
    """Return a map with the axis names of the data that it was made from."""
    if set(result.dims) <= set(data.dims):
        return result
    theirs = {ours: name for name, ours in find_axes(data).items()}
    change = {str(dim): theirs.get(str(dim), str(dim)) for dim in result.dims}
    same = {a: b for a, b in change.items() if result.sizes[a] == data.sizes.get(b)}
    return result.rename({a: b for a, b in same.items() if a != b})


def in_our_names(data: MapData) -> MapData:
    """Return a map with its axes renamed to y, x and chip.

    Raises
    ------
    CubeError
        If an axis is unknown.
    """
    if set(data.dims) <= {"chip", "y", "x"}:
        return data
    ours = {a: b for a, b in find_axes(data).items() if b in ("chip", "y", "x")}
    return data.rename({a: b for a, b in ours.items() if a != b})


def spatial_axes(data: xr.Dataset | xr.DataArray) -> tuple[str, str] | None:
    """Return the data's names of y and x; None if it does not have both."""
    found: dict[str, str] = {}
    for dim in map(str, data.dims):
        ours = _OURS.get(dim.lower()) or _by_coordinate(data, dim)
        if ours is not None:
            found.setdefault(ours, dim)
    return (found["y"], found["x"]) if {"y", "x"} <= set(found) else None


def _dims(data: xr.Dataset | xr.DataArray) -> list[str]:
    if isinstance(data, xr.DataArray):
        return [str(dim) for dim in data.dims]
    used: dict[Hashable, None] = {}
    for name, variable in data.data_vars.items():
        if name == STATIC and is_static(data):
            continue  # its layers are no axis of the image
        if variable.ndim > 1 and not _is_bounds(str(name), variable):
            used.update(dict.fromkeys(variable.dims))
    return [str(dim) for dim in used]


def _is_bounds(name: str, variable: xr.DataArray) -> bool:
    """Return whether a variable has the edges of cells: time_bnds (time, bnds)."""
    ends = name.lower().endswith(("_bnds", "_bounds"))
    last = str(variable.dims[-1])
    return ends and variable.ndim == 2 and last not in variable.coords


def _by_coordinate(data: xr.Dataset | xr.DataArray, dim: str) -> str | None:
    if dim not in data.coords:
        return None
    values = data.coords[dim]
    words = [values.attrs.get("axis"), values.attrs.get("standard_name")]
    known = next((_CF[word] for word in words if word in _CF), None)
    if known is None and np.issubdtype(values.dtype, np.datetime64):
        known = "month"
    if known is None and values.dtype.kind in "UOT":
        known = "band"
    return known


def axis_changes(array: xr.DataArray) -> dict[str, str]:
    """Return the axes to rename, from their names to ours."""
    return {theirs: ours for theirs, ours in find_axes(array).items() if theirs != ours}


def renamed(array: xr.DataArray) -> xr.DataArray:
    """Return an array with our names of axes.

    A coordinate beside the axis that has our name, such as ``month`` (time), made of
    ``time.dt.month``, is left out: the axis itself has the dates.
    """
    changes = axis_changes(array)
    beside = [name for name in changes.values() if name in array.coords]
    return array.drop_vars(beside).rename(changes)
