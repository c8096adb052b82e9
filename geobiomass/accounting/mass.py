"""Units of maps, plots and errors: what is summed is a mass per area, in Mg/ha."""

from __future__ import annotations

import dataclasses
import os
import re
import warnings
from typing import Any, TypeVar

import pandas as pd
import xarray as xr

from geobiomass.accounting.error_model import ErrorModel
from geobiomass.cube import CubeError
from geobiomass.cube.quantity import (
    AGB,
    Quantity,
    factor_between,
    means_other,
    of_layer,
    target_of,
)
from geobiomass.cube.target import mass_in_name, units_in_name, units_of_column
from geobiomass.cube.units import MASS_PER_AREA, conversion, hectare_factor, plain
from geobiomass.maps.reading import open_layer, open_map

Errors = TypeVar("Errors", pd.DataFrame, ErrorModel, pd.DataFrame | ErrorModel)

ASSUMED = "map_units"
"""Attribute of a table of totals: units of the map, where it does not state them."""

_CARBON = re.compile(r"carbon|(^|_)(agc|bgc|soc)(_|$)", re.I)

_REMEDY = (
    "State the units of a map of biomass, map['agb'].assign_attrs(units='Mg/ha'); of "
    "another quantity make biomass first (of carbon: divide by its fraction, 0.47)."
)


def open_target(
    source: Any, variable: str | None = None
) -> tuple[xr.DataArray, Quantity]:
    """Open the layer of a map's own variable lazily; a mass per area in Mg/ha.

    Parameters
    ----------
    source : xarray.Dataset, xarray.DataArray, str or Path
        A map, or its path.
    variable : str, optional
        Name of the layer; by default ``agb``, or the target of the model that made
        the map.

    Returns
    -------
    layer : xarray.DataArray
        (y, x), with the units in its attributes if the map states them.
    target : Quantity
        What it shows; biomass if it states no units.
    """
    if isinstance(source, str | os.PathLike):
        source = open_map(os.fspath(source))
    if variable is None:
        variable = AGB.name
        if isinstance(source, xr.Dataset):
            variable = target_of(source).name
    layer = open_layer(source, variable)
    target = of_layer(layer, None if layer.name is not None else variable)
    factor = hectare_factor(layer.attrs.get("units"))
    if factor is None:
        return layer, target
    target = dataclasses.replace(target, units=MASS_PER_AREA)
    return scaled(layer, factor, MASS_PER_AREA), target


def scaled(layer: xr.DataArray, factor: float, units: str) -> xr.DataArray:
    """Return a layer in other units, lazily if it is lazy."""
    if factor == 1.0:
        return layer
    made = (layer * factor).assign_attrs({**layer.attrs, "units": units})
    made.encoding = {k: v for k, v in layer.encoding.items() if k == "grid_mapping"}
    return made


def need_mass(layer: xr.DataArray, target: Quantity, what: str) -> str | None:
    """Check that a layer is a mass per area.

    Parameters
    ----------
    layer : xarray.DataArray
        As :func:`open_target` returns it.
    target : Quantity
        What it shows.
    what : str
        What is made of it, for the message: "Totals".

    Returns
    -------
    str or None
        The units, with the words that they are assumed; None where they are stated.

    Raises
    ------
    CubeError
        If its units are not, or it states none and its name is another quantity's.

    Warns
    -----
    UserWarning
        If it is called as carbon.
    """
    stated = plain(layer.attrs.get("units"))
    if stated and hectare_factor(stated) is None:
        raise CubeError(
            f"{what} need a map of biomass in a mass per area ({MASS_PER_AREA}, t/ha, "
            f"kg/m2), got {target.name!r} in {stated!r}. {_REMEDY}"
        )
    if stated:
        if _CARBON.search(target.name):
            warnings.warn(
                f"The map {target.name!r} in {MASS_PER_AREA} is summed as dry biomass, "
                "and its carbon is a fraction of that. Of a map of carbon make biomass "
                "first: divide by its fraction, 0.47.",
                stacklevel=3,
            )
        return None
    if means_other(target.name) or means_other(layer.attrs.get("long_name")):
        raise CubeError(
            f"{what} need a map of biomass, got {target.name!r}, which states no "
            f"units. {_REMEDY}"
        )
    return f"{MASS_PER_AREA}, assumed: the map states no units"


def column_in_mass(table: pd.DataFrame, column: str) -> float:
    """Return the factor from the units of a table's column to Mg/ha.

    The units are in the attributes of the table (``attrs["units"]``, text or a mapping
    by column), or at the end of the column's name (``agb_kg_m2``), which is told;
    otherwise they are Mg/ha.

    Raises
    ------
    CubeError
        If the units are not a mass per area.

    Warns
    -----
    UserWarning
        If the units are read from the name.
    """
    stated = units_of_column(table.attrs, column)
    named = "" if stated else units_in_name(column)
    if named and hectare_factor(named) not in (None, 1.0):
        warnings.warn(
            f"The column {column!r} states no units except in its name: it is read as "
            f"{named}; state them, table.attrs['units'] = ...",
            stacklevel=4,
        )
    if not stated and not named and (one := mass_in_name(column)):
        raise CubeError(
            f"The column {column!r} must be a mass per area ({MASS_PER_AREA}, t/ha, "
            f"kg/m2), and its name says a mass ({one}): divide by the plots' area; "
            f"where it is a mass per area, say so, table.attrs['units'] = ..."
        )
    stated = stated or named
    factor = hectare_factor(stated)
    if stated and factor is None:
        raise CubeError(
            f"The column {column!r} must be a mass per area ({MASS_PER_AREA}, t/ha, "
            f"kg/m2), got {stated!r}; give measured biomass."
        )
    return 1.0 if factor is None else factor


def errors_in(errors: Errors, units: str) -> Errors:
    """Return residuals in the units of a map; those without units are taken to be so.

    Parameters
    ----------
    errors : pandas.DataFrame or ErrorModel
        A table of residuals, whose ``attrs["units"]`` count, or an error model that
        was fitted to such a table.
    units : str
        Units of the map.

    Raises
    ------
    CubeError
        If they cannot be converted; an error model never is.
    """
    if isinstance(errors, ErrorModel):
        if conversion(errors.measured_in, units) != 1.0:
            raise CubeError(
                f"The error model must be in the units of the map, {units}, got one in "
                f"{errors.measured_in}; fit it to residuals in {units}."
            )
        return errors
    stated = plain(errors.attrs.get("units"))
    factor = conversion(stated, units) if stated else 1.0
    if factor is None:
        raise CubeError(
            f"Residuals must be in the units of the map, {units}, got residuals of "
            f"{errors.attrs.get('target', 'another quantity')} in {stated}."
        )
    if factor == 1.0:
        return errors
    names = [n for n in ("observed", "predicted", "lower", "upper") if n in errors]
    made = errors.assign(**{name: errors[name] * factor for name in names})
    made.attrs = {**errors.attrs, "units": units}
    return made


def in_same_units(
    layer: xr.DataArray, found: Quantity, wanted: Quantity
) -> xr.DataArray:
    """Return a layer in the units of another map.

    Raises
    ------
    CubeError
        If they cannot be converted.
    """
    factor = factor_between(found, wanted, "Maps to compare")
    return scaled(layer, factor, wanted.units)
