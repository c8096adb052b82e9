"""The target of users' data: biomass, or another quantity, on the cube's grid."""

from __future__ import annotations

import re
import warnings
from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import xarray as xr

from geobiomass.cube.alignment import check_one_grid
from geobiomass.cube.axes import axis_changes
from geobiomass.cube.corners import centred
from geobiomass.cube.quantity import (
    AGB,
    TARGET,
    Quantity,
    check_name,
    from_attributes,
    means_biomass,
    means_other,
    quantity_of,
)
from geobiomass.cube.schema import CubeError
from geobiomass.cube.units import (
    MASS_PER_AREA,
    conversion,
    hectare_factor,
    is_known,
    plain,
)

CONVERTED = "converted"
"""Attribute of labels whose values were multiplied: from which units, by what."""

# A mass per area by its letters, in a form that is not understood.
_LIKE_MASS = re.compile(
    r"(^|[^a-z])(mg|kg|g|t|tons?|tonnes?)\b.*(ha\b|hectare|acre|m\^?-?2|m²)", re.I
)
# Units at the end of a name: "AGB (kg/m2)", "biomass [t/ha]", "agb_kg_m2".
_IN_BRACKETS = re.compile(r"[\[(]([^\])]+)[\])]\s*$")
# A mass that is not per area: "agb_kg", "AGB (Mg)", "agb_kg_tree", "t per plot".
# Not "agbd_t", which is GEDI's density before its transformation back.
_WEIGHT = r"(?:kg|g|t|Mg|tons?|tonnes?)"
_MASS_ALONE = re.compile(
    rf"(?<!agbd)_({_WEIGHT})$|[\[(]\s*({_WEIGHT})\s*[\])]\s*$"
    rf"|({_WEIGHT}(?:_per_|[ _]per[ _]|[/_ ])(?:plot|tree|stem|pixel)s?)\W?$",
    re.I,
)
_AT_THE_END = re.compile(r"_((?:kg|g|t|Mg)_?(?:per_)?(?:m2|ha))$", re.I)


def target_on(
    image: xr.DataArray,
    agb: xr.DataArray,
    target: str | None = None,
    units: str | None = None,
) -> xr.Variable:
    """Return the target as a variable of the cube, with the image's dimensions.

    Parameters
    ----------
    image : xarray.DataArray
        The cube's image.
    agb : xarray.DataArray
        The labels. A mass per area becomes Mg/ha; another quantity keeps its units,
        and its own name as the attribute ``target``.
    target, units : str, optional
        The own name and the units, instead of the array's.
    """
    agb = centred(agb)
    changes = axis_changes(agb)
    agb = agb.rename(changes)
    dims = tuple(dim for dim in image.dims if dim not in ("month", "band"))
    if set(agb.dims) != set(dims):
        raise CubeError(f"Dimensions of 'agb' must be {dims}, got {agb.dims}.")
    check_one_grid(image, agb)
    factor, attrs = described(agb.attrs, agb.name, target=target, units=units)
    values = agb.astype(np.float32).transpose(*dims)
    return xr.Variable(dims, times(values, factor).data, attrs)


def errors_on(
    image: xr.DataArray,
    errors: xr.DataArray,
    labels: xr.DataArray,
    target: str | None = None,
    units: str | None = None,
) -> xr.Variable:
    """Return standard errors of labels as :func:`target_on` returns the labels.

    They are in the units that they state, without `units`; else in those of the labels.
    """
    stated = plain(errors.attrs.get("units"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the labels told it
        alike = errors.assign_attrs(labels.attrs).rename(labels.name)
        found = target_on(image, alike, target, units)
        own = plain(found.attrs.get("units"))
        given = plain(labels.attrs.get("units"))
        if units is None and own and stated and stated != given:
            made = times(alike, _factor_of_errors(stated, own))
            made = made.assign_attrs(labels.attrs | {"units": own})
            found = target_on(image, made.rename(labels.name), target)
    words = found.attrs.get("long_name", "the label")
    found.attrs = {"long_name": f"standard error of {words}"} | (
        {"units": found.attrs["units"]} if "units" in found.attrs else {}
    )
    return found


def described(
    attrs: Mapping[Any, Any],
    name: Hashable | None = None,
    *,
    target: str | None = None,
    units: str | None = None,
    stacklevel: int = 4,
) -> tuple[float, dict[str, str]]:
    """Return the factor to the units of the cube's labels, and their attributes.

    Parameters
    ----------
    attrs : mapping
        Attributes of the user's labels.
    name : str, optional
        Their name: of an array, a column, a band.
    target, units : str, optional
        The own name and the units, where the user states them.
    stacklevel : int
        Of warnings.

    Raises
    ------
    CubeError
        If a name or units cannot be used.

    Warns
    -----
    UserWarning
        If the name says another quantity, or the units, and nothing states them.
    """
    given = {k: v for k, v in attrs.items() if k != CONVERTED}
    stated = plain(given.get("units")) if units is None else plain(units)
    words = [w for w in (name, given.get("standard_name"), given.get("long_name")) if w]
    named = next(filter(None, map(units_in_name, words)), "")
    if not stated and (stated := named) and stated != MASS_PER_AREA:
        warnings.warn(
            f"The labels {words[0]!r} state no units except in their name: they are "
            f"read as {stated}. State them with units= or the attribute units.",
            stacklevel=stacklevel,
        )
    mass = hectare_factor(stated)
    if (
        not stated
        and target is None
        and (one := next(filter(None, map(mass_in_name, words)), ""))
    ):
        warnings.warn(
            f"The labels {words[0]!r} seem to be a mass ({one}), not a mass per area, "
            f"and are taken for {MASS_PER_AREA}: divide masses of plots by their area, "
            "leave masses of trees out, or state the units, units='Mg/ha'.",
            stacklevel=stacklevel,
        )
    if not stated and any(re.fullmatch(r"agbd_t(_se)?", str(word)) for word in words):
        warnings.warn(
            f"The labels {words[0]!r} are GEDI's biomass as its model was fitted, "
            "transformed, not in Mg/ha: use the column 'agbd'.",
            stacklevel=stacklevel,
        )
    own = target if target is not None else given.get(TARGET)
    if own is not None:
        _check_own(check_name(own), stated, mass)
    given |= {"units": stated, TARGET: None if own == AGB.name else own}
    found = from_attributes(given, name)
    if own is None:
        _check_words(words, stated, found, stacklevel + 1)
    factor = 1.0 if mass is None else mass
    made = {"units": found.units}
    if found.name != AGB.name:
        made |= {"long_name": found.long_name, TARGET: found.name}
    if factor != 1.0:
        made[CONVERTED] = f"from {stated}, times {factor:g}"
    return factor, made


def units_in_name(words: object) -> str:
    """Return units that a name ends with: "AGB (kg/m2)", "agb_kg_m2", "height (m)"."""
    text = str(words)
    if (found := _IN_BRACKETS.search(text)) and is_known(found[1]):
        return found[1].strip()
    if found := _AT_THE_END.search(text):
        inside = re.sub(r"_?(?:per_)?(m2|ha)$", r"/\1", found[1], flags=re.I)
        return inside if is_known(inside) else ""
    return ""


def mass_in_name(words: object) -> str:
    """Return a mass, not per area, that a name ends with: "agb_kg", "kg per tree"."""
    found = _MASS_ALONE.search(str(words))
    return next(filter(None, found.groups())) if found else ""


def units_of_column(attrs: Mapping[Any, Any], column: str) -> str:
    """Return the units that a table's attributes state for a column; "" for none.

    Parameters
    ----------
    attrs : mapping
        ``units``: text, or a mapping from columns to texts.
    column : str
        The column.
    """
    units = attrs.get("units")
    return plain(units.get(column) if isinstance(units, Mapping) else units)


def _check_own(own: str, units: str, mass: float | None) -> None:
    """Check that a named target has units, and that biomass is a mass per area."""
    if own == AGB.name and units and mass is None:
        raise CubeError(
            f"Biomass must be in units of mass per area, such as {MASS_PER_AREA} or "
            f"kg/m2, got {units!r}; name another quantity, target='canopy_height'."
        )
    if own != AGB.name and not units:
        raise CubeError(
            f"The target {own!r} must have units, got none; state them, units='m', or "
            "as the attribute units of the array."
        )


def _check_words(
    words: list[Any], units: str, found: Quantity, stacklevel: int
) -> None:
    """Check the units of biomass; warn if the labels seem to be something else."""
    biomass = any(map(means_biomass, words))
    if found != AGB and biomass and _LIKE_MASS.search(units):
        raise CubeError(
            f"The units {units!r} of {words[0]!r} are not understood as a mass of dry "
            f"biomass per area; state them as {MASS_PER_AREA}, t/ha, kg/m2 or g/m2 "
            "(units=), after conversion of the values, or name the quantity that they "
            "are of (target=)."
        )
    other = next((word for word in words if means_other(word)), None)
    if found == AGB and other is not None and not biomass:
        state = f"in {units}" if units else "without units"
        warnings.warn(
            f"The labels {str(other)!r} {state} are taken for above-ground biomass in "
            f"{MASS_PER_AREA}; if they are another quantity, say so: "
            "units='m' (or the attribute units), or target= with its name; "
            "target='agb' if they are biomass.",
            stacklevel=stacklevel,
        )


def times(labels: xr.DataArray, factor: float) -> xr.DataArray:
    """Return labels multiplied, lazily if they are lazy; the same ones if by 1."""
    return labels if factor == 1.0 else labels * np.float32(factor)


def settled(cube: xr.Dataset) -> xr.Dataset:
    """Return a cube whose labels are in the package's units; the same one if so.

    Labels that state no units and whose name says nothing stay as they are.
    """
    if "agb" not in cube:
        return cube
    cube = errors_settled(cube)
    labels = cube["agb"]
    units = plain(labels.attrs.get("units"))
    if units == MASS_PER_AREA and not labels.attrs.get(TARGET):
        return cube
    factor, attrs = described(labels.attrs, stacklevel=5)
    named = means_other(labels.attrs.get("long_name"))
    if factor == 1.0 and attrs["units"] == units:
        quantity_of(labels)
        return cube
    if not units and not named and factor == 1.0:
        return cube
    made = times(labels, factor).astype(np.float32)
    made = made.assign_attrs({**labels.attrs, **attrs})
    return cube.assign({"agb": made} | _errors(cube, factor, attrs["units"]))


def in_units_of(cube: xr.Dataset, wanted: Quantity, who: str) -> xr.Dataset:
    """Return a cube whose labels are in the units of a model, a map or another cube.

    Parameters
    ----------
    cube : xarray.Dataset
        With ``agb``.
    wanted : Quantity
        What the labels have to be.
    who : str
        What they are compared with, for the message: "The model predicts".

    Raises
    ------
    CubeError
        If the units cannot be converted.
    """
    found = quantity_of(cube["agb"])
    factor = conversion(found.units, wanted.units)
    if factor is None:
        raise CubeError(
            f"{who} {wanted.name} in {wanted.units}, and the labels of the cube are "
            f"{found.name} in {found.units}, which cannot be converted; give labels of "
            f"the same quantity, with_labels(..., units={wanted.units!r})."
        )
    if factor == 1.0:
        return cube
    attrs = cube["agb"].attrs | {
        "units": wanted.units,
        CONVERTED: f"from {found.units}, times {factor:g}",
    }
    made = times(cube["agb"], factor).assign_attrs(attrs)
    return cube.assign({"agb": made} | _errors(cube, factor, wanted.units))


def _errors(cube: xr.Dataset, factor: float, units: str) -> dict[str, xr.DataArray]:
    """Return the standard errors of labels in their units, if there are any.

    Their own units decide, where they state any: an old cube's errors stay as they are
    where its labels are replaced by others in another unit.
    """
    if "agb_se" not in cube:
        return {}
    stated = plain(cube["agb_se"].attrs.get("units"))
    if stated and stated != plain(cube["agb"].attrs.get("units")):
        factor = _factor_of_errors(stated, units)
    attrs = cube["agb_se"].attrs | {"units": units}
    return {"agb_se": times(cube["agb_se"], factor).assign_attrs(attrs)}


def _factor_of_errors(stated: str, units: str) -> float:
    factor = conversion(stated, units)
    if factor is None:
        raise CubeError(
            f"'agb_se', the standard errors of the labels, must be in units of the "
            f"labels, {units}, got {stated!r}; convert them and set their attribute "
            "units, or leave them out, cube.drop_vars('agb_se')."
        )
    return factor


def errors_settled(cube: xr.Dataset) -> xr.Dataset:
    """Return a cube whose labels' errors are in the units of the labels.

    The same one if they are, or if they state no units. Labels that state none are
    biomass in Mg/ha.

    Raises
    ------
    CubeError
        If their units cannot be converted.
    """
    if "agb" not in cube or "agb_se" not in cube:
        return cube
    stated, units = (plain(cube[n].attrs.get("units")) for n in ("agb_se", "agb"))
    if not stated or stated == units:
        return cube
    if not units and conversion(stated, MASS_PER_AREA) in (None, 1.0):
        return cube
    return cube.assign(_errors(cube, 1.0, units or MASS_PER_AREA))
