"""Coordinates whose unit is not that of their reference system: converted or told."""

from __future__ import annotations

import math
import warnings
from functools import lru_cache
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import xarray as xr

from geobiomass.cube.axes import spatial_axes
from geobiomass.cube.grid import MapData
from geobiomass.cube.schema import CubeError

MULTIPLIED = "coordinates_multiplied"
"""Attribute of data whose coordinates were in kilometres: what was done."""

_KILOMETRES = {"km", "kilometre", "kilometer", "kilometres", "kilometers"}
_TURNS = 540.0  # degrees: longitudes may go on beyond 180, half a turn to each side
_HALF_ROUND = 20_040.0  # kilometres: half of the equator
_LARGEST_STEP = (
    1.0  # kilometre: images of biomass are finer, and pixels in metres larger
)
_POLE = 90.5  # degrees: the outer edges of a world grid may go beyond the pole


def in_metres(data: MapData) -> MapData:
    """Return data whose coordinates in kilometres are multiplied to metres.

    Those whose attribute ``units`` says kilometres, as files of geostationary
    satellites and of climate models have them. The attribute
    ``coordinates_multiplied`` and one warning say so. Other data is returned as it is.
    """
    names = spatial_axes(data)
    if names is None or not set(names) <= set(data.coords):
        return data
    wrong = [n for n in names if data[n].attrs.get("units") in _KILOMETRES]
    if not wrong or any(map(_counts_kilometres, data.coords.values())):
        return data
    made: Any = data.assign_coords(
        {
            name: data[name]
            .copy(data=np.asarray(data[name].values, np.float64) * 1000)
            .assign_attrs(units="m")
            for name in wrong
        }
    )
    made.attrs = {**made.attrs, MULTIPLIED: f"{', '.join(wrong)}: from km to m"}
    warnings.warn(
        f"The coordinates {', '.join(wrong)} are in kilometres, by their units, and "
        "are multiplied by 1000 to metres.",
        stacklevel=5,
    )
    return cast(MapData, made)


def _counts_kilometres(mapping: xr.DataArray) -> bool:
    """Return whether a grid mapping is of a system whose unit is the kilometre."""
    text = str(mapping.attrs.get("crs_wkt", mapping.attrs.get("spatial_ref", "")))
    return 'UNIT["kilomet' in text


def check_units(data: xr.Dataset | xr.DataArray) -> None:
    """Check that coordinates can be in the unit of their reference system.

    Raises
    ------
    CubeError
        If a system in degrees has coordinates beyond degrees; or if coordinates are
        outside the area that a projected system is made for, and inside it as degrees.
        Inside it as kilometres, with pixels of up to one, they are told.
    """
    mapping = data.coords.get("spatial_ref")
    names = spatial_axes(data)
    if mapping is None or names is None or not set(names) <= set(data.coords):
        return
    text = mapping.attrs.get("crs_wkt") or mapping.attrs.get("spatial_ref")
    ends = [np.asarray(data[name].values)[[0, -1]] for name in names if data[name].size]
    if (
        not isinstance(text, str)
        or len(ends) != 2
        or any(e.dtype.kind not in "fiu" for e in ends)
    ):
        return
    y, x = (np.asarray(end, np.float64) for end in ends)
    fine = all(_step(data[name].values) <= _LARGEST_STEP for name in names)
    most = max(np.abs(y).max(), np.abs(x).max())
    if text.lstrip().startswith("GEOG"):
        if np.abs(y).max() <= _POLE and np.abs(x).max() <= _TURNS:
            return
    elif most > _HALF_ROUND:
        return  # neither degrees nor kilometres, without a look at the system
    words, certain = _contradiction(text, tuple(y), tuple(x), fine)
    if not words:
        return
    message = (
        f"The coordinates, x {x.min():g} to {x.max():g} and y {y.min():g} to "
        f"{y.max():g}, {words}"
    )
    if certain:
        raise CubeError(message)
    warnings.warn(message, stacklevel=5)


@lru_cache(maxsize=256)
def _contradiction(
    text: str, y: tuple[float, ...], x: tuple[float, ...], fine: bool
) -> tuple[str, bool]:
    """Return in words how coordinates contradict their system, and if that is certain.

    The words are empty where they do not.
    """
    import pyproj

    try:
        crs = pyproj.CRS(text)
    except pyproj.exceptions.CRSError:
        return "", False  # who needs the system says so
    if crs.is_geographic:
        if max(map(abs, y)) <= _POLE and max(map(abs, x)) <= _TURNS:
            return "", False
        return (
            f"are not degrees, and their reference system is {crs.name}: write the "
            "system that they are in, data.rio.write_crs('EPSG:...').",
            True,
        )
    known = crs.to_authority()  # text has no area of use, the register has
    area = None if known is None else pyproj.CRS.from_authority(*known).area_of_use
    if not crs.is_projected or area is None:
        return "", False
    there = pyproj.Transformer.from_crs(crs.geodetic_crs, crs, always_xy=True)
    west, south, east, north = there.transform_bounds(*area.bounds)

    def inside(times: float) -> bool:
        return all(west <= v * times <= east for v in x) and all(
            south <= v * times <= north for v in y
        )

    if inside(1) or not np.isfinite([west, south, east, north]).all():
        return "", False
    if _within(x, area.west, area.east) and _within(y, area.south, area.north):
        return (
            f"are degrees, and their reference system is {crs.name}, in metres: write "
            "the system that they are in, data.rio.write_crs('EPSG:4326').",
            True,
        )
    if fine and inside(1000):
        return (
            f"are outside the area of {crs.name}, whose unit is the metre, and inside "
            "it as kilometres. They are taken for metres; if they are kilometres, "
            "multiply them: data.assign_coords(x=data.x * 1000, y=data.y * 1000).",
            False,
        )
    return "", False


def _step(values: npt.NDArray[Any]) -> float:
    """Return the distance of neighbours along an axis; of one alone, infinity."""
    if len(values) < 2:
        return math.inf
    return float(abs(values[-1] - values[0])) / (len(values) - 1)


def _within(values: tuple[float, ...], low: float, high: float) -> bool:
    return all(low <= value <= high for value in values)
