"""Attributes as the plain values that JSON, and so Zarr, can store."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import xarray as xr


def with_plain_attributes(data: xr.Dataset) -> xr.Dataset:
    """Return a dataset whose attributes, and its variables', are plain values.

    Numbers of numpy become Python's, transforms and arrays lists, dataclasses (such as
    stackstac's ``spec``) mappings, dates ISO text, and any other object its text. The
    data itself is returned where nothing changes.
    """
    every = [data.attrs, *(v.attrs for v in data.variables.values())]
    if all(_is_plain(value) for attrs in every for value in attrs.values()):
        return data
    made = data.copy(deep=False)
    made.attrs = _plain(made.attrs)
    for name in made.variables:
        made[name].attrs = _plain(made[name].attrs)
    return made


def _is_plain(value: Any) -> bool:
    if value is None or type(value) in (str, bool, int, float):
        return True
    if type(value) in (list, tuple):
        return all(map(_is_plain, value))
    if type(value) is dict:
        return all(type(k) is str and _is_plain(v) for k, v in value.items())
    return False


def _plain(value: Any) -> Any:
    if _is_plain(value):
        return value
    if isinstance(value, np.generic | np.ndarray):
        return _plain(value.tolist())
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = dataclasses.fields(value)
        return {field.name: _plain(getattr(value, field.name)) for field in fields}
    if isinstance(value, Mapping):
        return {str(name): _plain(each) for name, each in value.items()}
    if isinstance(value, datetime.date):  # and a datetime
        return value.isoformat()
    if isinstance(value, bool | int | float | str):  # subclasses of these
        return next(k(value) for k in (bool, int, float, str) if isinstance(value, k))
    if isinstance(value, Iterable) and not isinstance(value, bytes):
        return [_plain(one) for one in value]
    return str(value)
