"""What a target is: biomass, or another quantity with its own name and units."""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any

import xarray as xr

from geobiomass.cube.schema import CubeError
from geobiomass.cube.units import MASS_PER_AREA, conversion, hectare_factor, plain

TARGET = "target"
"""Attribute of the labels ``agb`` of a cube: the own name of another quantity."""

_FIXED = {
    *("x", "y", "band", "month", "chip", "time", "layer", "image", "spatial_ref"),
    *("multiplier", "static", "statistics", "overviews", "applicable", "dissimilarity"),
}
# Names of other layers of a map are a name with one of these.
_ENDINGS = ("_lower", "_upper", "_raw", "_spread", "_se", "_change")
# Names that programs give, and that say nothing.
_EMPTY = re.compile(
    r"|band_?data|band_?\d*|b\d+|layer_?\d*|data|values?|labels?|target|y|image|raster"
    r"|__xarray_dataarray_variable__|stackstac_\w+|\d+",
    re.I,
)
_BIOMASS = re.compile(
    r"(^|[^a-z])(agb|agbd|agbm|agwb|biomass|above.?ground)([^a-z]|$)|biomass", re.I
)
# What people map beside biomass. Only a warning depends on it.
_OTHER = re.compile(
    r"height|(^|[^a-z])(chm|rh_?\d{2,3}|cover|fcover|lai|gsv|dbh|carbon|agc|bgb|bgc"
    r"|soc|volume|density of trees|stems|basal.?area|age|ndvi|evi|closure)([^a-z]|$)"
    r"|canopy|carbon|tree.?cover|stock|m[23][_ /]?(per[_ ])?ha",
    re.I,
)


@dataclass(frozen=True)
class Quantity:
    """What a model predicts: name of the map's variable, description and units.

    Parameters
    ----------
    name : str
        Name of the variable of maps, such as ``agb`` or ``canopy_height``.
    long_name : str
        Description for people.
    units : str
        Units of labels, maps and errors.
    """

    name: str = "agb"
    long_name: str = "above-ground biomass density"
    units: str = MASS_PER_AREA

    @property
    def is_biomass(self) -> bool:
        """Whether the quantity is what the package maps without being told."""
        return self.name == "agb" and self.units == MASS_PER_AREA

    @property
    def short(self) -> str:
        """Words of plots and pages: biomass, or the name of the other quantity."""
        biomass = self.name == "agb" and hectare_factor(self.units) is not None
        return "biomass" if biomass else self.name.replace("_", " ")

    @property
    def settings(self) -> dict[str, str]:
        """Units and, unless it is biomass, description, as ``config.json`` has them."""
        known = {"units": self.units}
        if self.long_name != AGB.long_name:
            known["long_name"] = self.long_name
        return known

    @classmethod
    def of_settings(cls, settings: Mapping[str, Any]) -> Quantity:
        """Return what a model predicts, from the settings in its ``config.json``."""
        outputs = settings.get("outputs") or (AGB.name,)
        return cls(
            str(outputs[0]),
            str(settings.get("long_name", AGB.long_name)),
            str(settings.get("units", AGB.units)),
        )

    def outputs(self, names: tuple[str, ...]) -> tuple[str, ...]:
        """Return names of outputs with this quantity's name for the first one's."""
        first = names[0]
        return tuple(self.name + name.removeprefix(first) for name in names)


AGB = Quantity()


def identifier(words: object) -> str:
    """Return a name as a variable may have it; "" where it says nothing."""
    if isinstance(words, tuple | list) and len(words) == 1:  # of rioxarray's bands
        words = words[0]
    text = "" if words is None else str(words).strip()
    # "Canopy height (m)": units are not part of the name.
    text = re.sub(r"\s*[\[(].*?[\])]\s*$", "", text)
    text = text.lower() if " " in text else text  # a description, not a name
    text = re.sub(r"\W+", "_", text).strip("_")
    if _EMPTY.fullmatch(text):
        return ""
    return text if text.isidentifier() else f"target_{text}"


def check_name(name: str) -> str:
    """Return a target's own name, checked not to be another variable's.

    Raises
    ------
    CubeError
        If it is one, or ends like one.
    """
    if not isinstance(name, str) or not name.isidentifier():
        raise CubeError(
            "The name of a target must be letters, digits and _, such as "
            f"target='canopy_height', got {name!r}."
        )
    if name.lower() in _FIXED or name.endswith(_ENDINGS):
        raise CubeError(
            f"The target cannot be called {name!r}, which is the name of another "
            "variable of cubes or maps; rename it, target='canopy_height'."
        )
    return name


def means_other(words: object) -> bool:
    """Return whether a name is known as that of another quantity than biomass."""
    text = str(words or "")
    return bool(_OTHER.search(text)) and not _BIOMASS.search(text)


def means_biomass(words: object) -> bool:
    """Return whether a name says that it is biomass."""
    return bool(_BIOMASS.search(str(words or "")))


def quantity_of(labels: xr.DataArray) -> Quantity:
    """Return what the labels ``agb`` of a cube are, from their attributes."""
    return from_attributes(labels.attrs)


def factor_between(found: Quantity, wanted: Quantity, what: str) -> float:
    """Return the factor from a quantity's units to those of another.

    Parameters
    ----------
    found, wanted : Quantity
        What is converted, and what into.
    what : str
        What is compared, for the message: "Maps to compare".

    Raises
    ------
    CubeError
        If the units cannot be converted.
    """
    factor = conversion(found.units, wanted.units)
    if factor is None:
        raise CubeError(
            f"{what} must be of one quantity, got {wanted.name!r} in {wanted.units} "
            f"and {found.name!r} in {found.units}."
        )
    return factor


def from_attributes(attrs: Mapping[Any, Any], name: Hashable | None = None) -> Quantity:
    """Return what an array is, from its attributes and its name.

    Parameters
    ----------
    attrs : mapping
        ``units``, ``long_name``, ``standard_name``, and ``target``, the own name.
    name : str, optional
        The array's name; ``agb`` says nothing, as labels of a cube are called so.

    Raises
    ------
    CubeError
        If the own name is that of another variable of cubes or maps.
    """
    units, own = plain(attrs.get("units")), attrs.get(TARGET)
    mass = hectare_factor(units) is not None
    words = attrs.get("long_name")
    if isinstance(words, tuple | list) and len(words) == 1:
        words = words[0]
    words = plain(words)
    if own is None and (mass or not units):
        return AGB
    known = [own, name, attrs.get("standard_name"), words]
    found = [identifier(one) for one in known if one != "agb"]
    chosen = check_name(next((one for one in found if one), "target"))
    return Quantity(
        chosen,
        words if identifier(words) else chosen.replace("_", " "),
        MASS_PER_AREA if mass else units,
    )


def target_of(map: xr.Dataset) -> Quantity:
    """Return what a map shows: its variable's name, description and units.

    It is ``agb`` where there is one; otherwise the only layer that is not an end of an
    interval or one of the layers beside a map, or the only one with an interval.
    Where no layer is, it is biomass.

    Parameters
    ----------
    map : xarray.Dataset
        As :meth:`geobiomass.BiomassRegressor.predict` returns it, or a cube with
        labels.
    """
    if "image" in map and "agb" in map:
        return quantity_of(map["agb"])
    names = [str(name) for name, values in map.items() if values.ndim > 1]
    layers = [
        name
        for name in names
        if name.lower() not in _FIXED and not name.endswith(_ENDINGS)
    ]
    if "agb" in names:
        layers = ["agb"]
    elif len(layers) > 1:
        layers = [n for n in layers if {f"{n}_lower", f"{n}_upper"} <= set(names)]
    return of_layer(map[layers[0]]) if len(layers) == 1 else AGB


def of_any(data: Any) -> Quantity:
    """Return what a map, a cube, a layer or an array is; biomass if nothing says so."""
    if isinstance(data, xr.Dataset):
        return target_of(data)
    if not isinstance(data, xr.DataArray) or not plain(data.attrs.get("units")):
        return AGB
    if TARGET in data.attrs or (data.name == AGB.name and not _is_mass(data)):
        return quantity_of(data)
    return of_layer(data)


def _is_mass(layer: xr.DataArray) -> bool:
    return hectare_factor(layer.attrs.get("units")) is not None


def of_layer(layer: xr.DataArray, name: str | None = None) -> Quantity:
    """Return what one layer of a map is; biomass where it states no units."""
    own = str(name or layer.name or AGB.name)
    words = plain(layer.attrs.get("long_name")) or own.replace("_", " ")
    if own == "agb":
        words = plain(layer.attrs.get("long_name")) or AGB.long_name
    return Quantity(own, words, plain(layer.attrs.get("units")) or MASS_PER_AREA)
