"""What `write_cube` is called with, checked before anything is written."""

from __future__ import annotations

import os
from collections.abc import Mapping
from numbers import Integral
from typing import Any

import xarray as xr

from geobiomass.cube.plain_attributes import with_plain_attributes
from geobiomass.cube.schema import CubeError
from geobiomass.training.given_paths import path_text


def check_call(cube: Any, path: Any, quantum: Any, workers: Any) -> None:
    """Check where a cube is written to, and how.

    Raises
    ------
    CubeError
        If the path is none, a folder above it is a file, or an argument has another
        type.
    """
    from zarr.abc.store import Store

    if not isinstance(path, Store):
        name = path_text(path, "The path of a cube", CubeError)
        if "://" not in name and (file := _file_above(name)):
            raise CubeError(f"{name} cannot be a cube: {file} is a file; give another.")
    if quantum is not None and not isinstance(quantum, Mapping):
        raise CubeError(
            "quantum must be a mapping of bands to steps, got a "
            f"{type(quantum).__name__}; give {{'B04': 1.0}}."
        )
    if not isinstance(workers, Integral) or workers < 1:
        raise CubeError(f"workers must be a whole number from 1, got {workers!r}.")
    if isinstance(cube, xr.Dataset):
        with_plain_attributes(cube)
        _check_names(cube)


def _file_above(name: str) -> str | None:
    """Return the file that stands where a folder of a path must be."""
    above = os.path.dirname(os.path.abspath(name))
    while not os.path.exists(above) and above != os.path.dirname(above):
        above = os.path.dirname(above)
    return None if os.path.isdir(above) else above


def _check_names(cube: xr.Dataset) -> None:
    """Check that chips and bands have names that can be stored."""
    for axis in ("chip", "band"):
        if axis not in cube.coords or cube[axis].dtype != object:
            continue
        for one in cube[axis].values.ravel().tolist():
            if isinstance(one, str) and not any("\ud800" <= c <= "\udfff" for c in one):
                continue
            if isinstance(one, str) or not isinstance(one, Integral | bytes):
                raise CubeError(
                    f"Names along {axis!r} must be text or whole numbers, got {one!r}; "
                    "rename them with assign_coords."
                )
