"""Conversion of users' xarray arrays and datasets to a cube."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, Literal

import numpy as np
import xarray as xr

from geobiomass.cube.axes import axis_changes
from geobiomass.cube.band_names import Bands, stack_bands
from geobiomass.cube.calendar import plain_coordinates, with_months
from geobiomass.cube.coordinate_units import MULTIPLIED, check_units
from geobiomass.cube.corners import MOVED, centred
from geobiomass.cube.errors import missing_target
from geobiomass.cube.grid import check_not_rotated, placed
from geobiomass.cube.grid_size import check_scene_size
from geobiomass.cube.label_values import warn_of_odd_labels
from geobiomass.cube.missing_values import floats_of, measured
from geobiomass.cube.schema import CHIP_DIMS, SCENE_DIMS, CubeError, check_cube
from geobiomass.cube.static_layers import STATIC, is_static
from geobiomass.cube.target import errors_on, settled, target_on
from geobiomass.cube.values import (
    UNDECODED,
    as_float32,
    decoded,
    decoded_layers,
    missing_as_nan,
)
from geobiomass.training.setting_names import explain_arguments

# `start` and `end` are the days of steps that are no months.
_COORDS = ("chip", "month", "start", "end", "band", "y", "x", "spatial_ref")


@explain_arguments
def as_cube(
    data: xr.Dataset | xr.DataArray,
    agb: xr.DataArray | None = None,
    *,
    nodata: float | None = None,
    crs: Any = None,
    month: int | Sequence[int] | None = None,
    step: Literal["month", "dekad", "season", "date"] = "month",
    target: str | None = None,
    units: str | None = None,
    bands: Bands = None,
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
        (elevation) is repeated for every month; :func:`geobiomass.with_static` keeps
        it as a static layer instead, and a variable ``static`` of `data` with a
        dimension ``layer`` stays one. Values may be dask's or not, decoded
        by CF or not.
    agb : xarray.DataArray, optional
        Above-ground biomass density, or any other target, (y, x) on the same grid.
        A variable ``agb`` of `data` is used without this argument. A mass per area by
        its attribute ``units``, or an array without units, is biomass: it becomes
        Mg/ha. An array in other units keeps them, and its own name.
    nodata : float, optional
        The value that marks missing pixels in `data`, if the file does not declare
        one. It becomes NaN.
    crs : optional
        Anything that rioxarray accepts as a coordinate reference system, if `data`
        has none.
    month : int or sequence of int, optional
        Calendar month of each step, if `data` has no time axis or no dates on it; of a
        date, its month is taken.
    step : "month", "dekad", "season" or "date"
        How far apart images are at least. Two dates in one step are an error, because
        months of several images are mostly a mistake; with "date" any number is right.
        The coordinate `month` has the calendar month of each.
    target : str, optional
        Own name of the target, such as ``"canopy_height"``, instead of the array's:
        the name of the variable in maps. In the cube it stays ``agb``.
    units : str, optional
        Units of the target, such as ``"m"`` or ``"kg/m2"``, instead of its attribute.
    bands : mapping or sequence of str, optional
        Names in the cube by those in `data`, ``{"red": "B04"}``; or the names of the
        variables or bands that are the cube's bands, and no others. By default all
        are, except the target, copies of it, and what is no image (masks, weights,
        quality flags): those are left out with a warning. Bands of Sentinel-2 get
        their names here (B04, B8A) where the collection or the set of names leaves no
        doubt. The attributes ``bands_of_variables``, ``left_out`` and
        ``renamed_bands`` say what became of each.

    Returns
    -------
    xarray.Dataset
        ``image`` (month, band, y, x), or with chips (chip, month, band, y, x), float32
        and, if there is one, ``agb`` (y, x) or (chip, y, x) float32, whose attributes
        are its ``units`` and, unless it is biomass, ``long_name`` and ``target``, its
        own name.

    Raises
    ------
    CubeError
        If an axis is unknown, there is no time axis, dates cannot be read or are in
        the same month, integers declare no nodata, or the target is on another grid
        or has a name or units that cannot be used. The message says how to fix it.

    Warns
    -----
    UserWarning
        If values are taken as missing that no measurement has: infinite ones, and fill
        values such as -9999 that nothing declares. Of arrays in memory, the attribute
        `taken_as_missing` of ``image`` and ``agb`` has their numbers.
        If the target states no units, and its name says another quantity, or units.
    """
    return measured(
        converted(
            data,
            agb,
            nodata=nodata,
            crs=crs,
            month=month,
            step=step,
            target=target,
            units=units,
            bands=bands,
        )
    )


def cube_for(data: xr.Dataset | xr.DataArray, needed: Collection[str]) -> xr.Dataset:
    """Return data as a cube for a model that needs these bands.

    As :func:`as_cube` does, but variables with these names are bands in any case, and
    keep their names.
    """
    return measured(converted(data, needed=needed))


def converted(
    data: xr.Dataset | xr.DataArray,
    agb: xr.DataArray | None = None,
    *,
    nodata: float | None = None,
    crs: Any = None,
    month: int | Sequence[int] | None = None,
    step: Literal["month", "dekad", "season", "date"] = "month",
    target: str | None = None,
    units: str | None = None,
    bands: Bands = None,
    needed: Collection[str] = (),
) -> xr.Dataset:
    """Convert as :func:`as_cube`, but leave infinite values and undeclared nodata."""
    if not isinstance(data, xr.Dataset | xr.DataArray):
        raise CubeError(
            "A cube is made of an xarray.Dataset or DataArray, got "
            f"{type(data).__name__}; gb.open_cube(path) opens one from disk."
        )
    check_not_rotated(data)
    check_scene_size(data)
    data = centred(data)
    given_options = (agb, nodata, crs, month, target, units, bands)
    no_options = all(option is None for option in given_options)
    if isinstance(data, xr.Dataset) and no_options and _is_cube(data):
        check_cube(data)
        check_units(data)
        return placed(settled(data))
    # Not before: a cube comes without it, and it takes long to import.
    import rioxarray  # noqa: F401  (the .rio accessor)

    data = plain_coordinates(data)
    given, data = data, decoded(data, nodata)
    found = next((c for c in (crs, data.rio.crs, given.rio.crs) if c is not None), None)
    if agb is not None and not isinstance(agb, xr.DataArray):
        raise CubeError(
            f"agb= must be an xarray.DataArray on the image's grid, got "
            f"{type(agb).__name__}; name its axes and give it the image's coordinates, "
            "xr.DataArray(values, dims=('y', 'x'), coords={'y': image.y, 'x': image.x})"
            ", or add a file or a table, gb.with_labels(cube, labels)."
        )
    own = data["agb"] if isinstance(data, xr.Dataset) and "agb" in data else None
    wanted = own if agb is None else agb
    if wanted is None and (target is not None or units is not None):
        raise CubeError(
            "target= and units= describe labels, got none; give them as well, "
            "gb.as_cube(data, agb=labels, target=...)."
        )
    image, notes = stack_bands(data, bands=bands, target=wanted, needed=needed)
    image = missing_as_nan(image)
    image = with_months(image, month, step)
    chips = "chip" in image.dims
    image = image.transpose(*(CHIP_DIMS if chips else SCENE_DIMS))
    if chips and "chip" not in image.coords:
        image = image.assign_coords(chip=np.arange(image.sizes["chip"]).astype(str))
    cube = as_float32(image).to_dataset(name="image")
    cube = cube.drop_vars([name for name in cube.coords if name not in _COORDS])
    cube.attrs |= notes
    if wanted is not None:
        known = floats_of(decoded_layers(wanted))
        cube["agb"] = target_on(image, known, target, units)
        if agb is None and isinstance(data, xr.Dataset) and "agb_se" in data:
            errors = floats_of(decoded_layers(data["agb_se"]))
            cube["agb_se"] = errors_on(image, errors, known, target, units)
    if isinstance(data, xr.Dataset) and is_static(data):
        layers = as_float32(missing_as_nan(data[STATIC]))
        changes = {t: o for t, o in axis_changes(layers).items() if t != "layer"}
        layers = layers.rename(changes)
        dims = ("layer", "y", "x")
        cube[STATIC] = layers.transpose(*(("chip", *dims) if chips else dims))
    if found is not None and not chips:
        cube = cube.rio.write_crs(found).rio.write_coordinate_system()
    cube.attrs |= {k: given.attrs[k] for k in (MOVED, MULTIPLIED) if k in given.attrs}
    check_cube(cube)
    check_units(cube)
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
        and ("month" not in image.coords or image["month"].dtype.kind in "iu")
    )


def need_target(
    cube: xr.Dataset | xr.DataArray, needed: Collection[str] = ()
) -> xr.Dataset:
    """Return the data as a cube with labels, for a model with the needed bands.

    Raises
    ------
    CubeError
        If there are no labels; it says how to add them.
    """
    cube = cube_for(cube, needed)
    if "agb" not in cube:
        raise missing_target(map(str, cube))
    warn_of_odd_labels(cube)
    return cube
