"""Attributes as the plain values that every format stores: Zarr, netCDF, GeoTIFF.

netCDF has text, numbers and lists of one of them, and nothing within another. So what
is a mapping in memory is JSON text on disk, and both are read.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from geobiomass.cube.errors import CubeError

if TYPE_CHECKING:
    import xarray as xr

# What of a coordinate's encoding says what its numbers mean.
_MEANING = {"units", "calendar", "dtype", "_FillValue", "grid_mapping"}


def with_plain_attributes(data: xr.Dataset) -> xr.Dataset:
    """Return a dataset whose attributes, and its variables', are plain values.

    Numbers of numpy become Python's, transforms and arrays lists, dates ISO text;
    mappings, dataclasses (such as stackstac's ``spec``) and lists of lists or of unlike
    values JSON text, and any other object its text. Attributes that are None are left
    out. The data itself is returned where nothing changes.
    """
    every = [data.attrs, *(v.attrs for v in data.variables.values())]
    if all(_is_plain(value) for attrs in every for value in attrs.values()):
        return data
    made = data.copy(deep=False)
    made.attrs = plain_attributes(made.attrs)
    for name in made.variables:
        made[name].attrs = plain_attributes(made[name].attrs)
    return made


def plain_attributes(attrs: Mapping[Any, Any]) -> dict[str, Any]:
    """Return attributes as text, numbers, and lists of one of the two."""
    made = {}
    for name, value in attrs.items():
        if value is None:
            continue
        try:
            made[str(name)] = _flat(value)
        except RecursionError:
            raise CubeError(
                f"The attribute {str(name)[:80]!r} must be of plain values, got one "
                "that contains itself or is nested too deeply; remove it."
            ) from None
    return made


def as_json(value: Any) -> str:
    """Return a mapping or a list as the JSON text that is stored for it."""
    return json.dumps(_json(value))


def mapping_in(value: Any) -> dict[str, Any] | None:
    """Return the mapping of an attribute, None if it holds none.

    It is JSON text; what earlier versions wrote is a mapping.
    """
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except json.JSONDecodeError:
            return None
    return dict(value) if isinstance(value, Mapping) else None


def without_storage(variable: xr.Variable) -> xr.Variable:
    """Return a variable without how a file stores it: compressors, chunks, filters.

    Those of one format do not fit another one. What its numbers mean stays.
    """
    made = variable.copy(deep=False)
    made.encoding = {k: v for k, v in variable.encoding.items() if k in _MEANING}
    return made


def _is_plain(value: Any) -> bool:
    if type(value) is list:
        kinds: set[Any] = {type(one) for one in value}
        if kinds <= {int, float}:
            return all(map(_fits, value))
        return kinds == {str}
    return type(value) in (str, float) or (type(value) is int and _fits(value))


def _fits(number: Any) -> bool:
    """Return whether a number is within 64 bits, the most that netCDF stores."""
    return isinstance(number, float) or -(2**63) <= number < 2**63


def _flat(value: Any) -> Any:
    """Return a value, of the kinds of JSON, as text, a number or a list of one kind."""
    if _is_plain(value):
        return value
    value = _json(value)
    if isinstance(value, bool):  # netCDF has none
        return int(value)
    return value if _is_plain(value) else json.dumps(value)


def _json(value: Any) -> Any:
    """Return a value as JSON has it."""
    if value is None or type(value) in (str, bool, int, float):
        return value
    if isinstance(value, np.generic | np.ndarray):
        return _json(value.tolist())
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = dataclasses.fields(value)
        return {field.name: _json(getattr(value, field.name)) for field in fields}
    if isinstance(value, Mapping):
        return {str(name): _json(each) for name, each in value.items()}
    if isinstance(value, datetime.date):  # and a datetime
        return value.isoformat()
    if isinstance(value, bool | int | float | str):  # subclasses of these
        return next(k(value) for k in (bool, int, float, str) if isinstance(value, k))
    if isinstance(value, Iterable) and not isinstance(value, bytes):
        return [_json(one) for one in value]
    return str(value)
