"""Names of bands in other archives and tools, and what they are called here.

Earth Search and Landsat's archives name bands by colour, Google Earth Engine writes B2
for B02, the Copernicus Data Space B02_10m. A colour is a band of Sentinel-2 only where
the collection or the set of names says so: red of Landsat is another band.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from geobiomass.cube.errors import CubeError

if TYPE_CHECKING:
    import xarray as xr

SENTINEL2, LANDSAT, SENTINEL1 = "Sentinel-2", "Landsat", "Sentinel-1"

# Common names of STAC's EO extension as Earth Search gives them to Sentinel-2, with the
# spellings of other tools (DEA: nbart_nir_1, nbart_swir_2; openEO; sen2like).
_COLOURS = {
    "coastal": "B01", "coastalaerosol": "B01", "blue": "B02", "green": "B03",
    "red": "B04", "rededge1": "B05", "rededge2": "B06", "rededge3": "B07",
    "rededge071": "B05", "rededge075": "B06", "rededge078": "B07",
    "nir": "B08", "nir1": "B08", "nir08": "B8A", "nir2": "B8A", "narrownir": "B8A",
    "nirnarrow": "B8A", "rededge4": "B8A", "nir09": "B09", "watervapour": "B09",
    "cirrus": "B10", "swir16": "B11", "swir1": "B11", "swir22": "B12", "swir2": "B12",
}  # fmt: skip
# Digital Earth Australia counts the short-wave bands of Sentinel-2 from 2.
_DEA = {"swir2": "B11", "swir3": "B12"}
_RADAR = ("vv", "vh", "hh", "hv")
_PREFIX = re.compile(
    r"^(s2[-_]?l[12][ac][-_]|sentinel[-_]?2[-_]|s2[-_]|nbart[-_]|nbar[-_])"
)
_RESOLUTION = re.compile(r"[-_](10|20|60)m$")
_WORDS = {
    SENTINEL2: r"sentinel[-_ /]?2|copernicus/s2|\bs2[abc]?\b|\bs2_|\bs2msi"
    r"|hls[-_ .]?s30|\bmsi\b",
    LANDSAT: r"landsat|\bl[coet]0[4-9]|hls[-_ .]?l30|\boli\b|\boli[-_]2|\betm\b",
    SENTINEL1: r"sentinel[-_ /]?1|copernicus/s1|\bs1[abc]?\b|\bs1_",
}
_ATTRIBUTES = (
    *("constellation", "collection", "collections", "platform", "sensor", "sensors"),
    *("instrument", "instruments", "mission", "satellite", "spacecraft", "title"),
    *("source", "product", "product_type", "dataset", "id", "history"),
)
_ORBITS = ("sat:orbit_state", "orbit_state", "orbitProperties_pass", "orbit_direction")


def plain(name: str) -> str:
    """Return a name without prefix, resolution, case and separators."""
    text = _RESOLUTION.sub("", _PREFIX.sub("", name.strip().lower()))
    return re.sub(r"[-_ .]", "", text)


def sentinel2_band(name: str) -> str | None:
    """Return what a band of Sentinel-2 is called here; None for other names."""
    text = plain(name)
    if name.lower().startswith("nbar") and text in _DEA:
        return _DEA[text]
    numbered = re.fullmatch(r"b(?:and)?0?(\d{1,2})(a?)", text)
    if numbered is None:
        return _COLOURS.get(text)
    number, narrow = int(numbered[1]), numbered[2]
    if narrow:
        return "B8A" if number == 8 else None
    return f"B{number:02d}" if 1 <= number <= 12 else None


def sensor_of(data: xr.Dataset | xr.DataArray) -> str | None:
    """Return the satellite that attributes or coordinates name; None if not just one.

    Parameters
    ----------
    data : xarray.Dataset or xarray.DataArray
        As a tool returned it: attributes such as ``constellation`` or ``collection``,
        or coordinates of that name, as stackstac adds them.
    """
    texts = [*_texts(data.attrs)]
    variables: Iterable[Any] = data.data_vars.values() if _many(data) else ()
    for variable in variables:
        texts += _texts(variable.attrs)
    for name in _ATTRIBUTES:
        if name in data.coords and data.coords[name].dtype.kind in "UOT":
            texts += map(str, np.unique(data.coords[name].values.astype(str)))
    return _one_sensor(texts)


def _many(data: xr.Dataset | xr.DataArray) -> bool:
    import xarray as xr  # not at the top: an error that names bands does without

    return isinstance(data, xr.Dataset)


def _texts(attrs: Mapping[Any, Any]) -> list[str]:
    return [str(attrs[name]) for name in _ATTRIBUTES if name in attrs]


def _one_sensor(texts: Iterable[str]) -> str | None:
    text = " ".join(texts).lower()
    found = [name for name, words in _WORDS.items() if re.search(words, text)]
    return found[0] if len(found) == 1 else None


def certain_names(
    names: Iterable[str], sensor: str | None, orbit: str | None = None
) -> dict[str, str]:
    """Return what bands are called here, for those whose names leave no doubt.

    Parameters
    ----------
    names : iterable of str
        Of all bands of the data.
    sensor : str, optional
        As :func:`sensor_of` returns it.
    orbit : "asc" or "desc", optional
        The pass of all of the radar's images.

    Returns
    -------
    dict
        Our name by theirs, where they differ.
    """
    names = list(names)
    optical = {name: sentinel2_band(name) for name in names}
    if sensor != SENTINEL2 and not (sensor is None and _only_sentinel2(names)):
        # Without a sensor, only another spelling of the very name.
        optical = {name: _same_name(name) for name in names}
    radar = {
        name: f"{name.upper()}_{orbit}"
        for name in names
        if orbit is not None and name.lower() in _RADAR
    }
    found = {k: v for k, v in (optical | radar).items() if v is not None and v != k}
    # Neither two bands with one name, nor one that is there already.
    taken = [*found.values(), *(name for name in names if name not in found)]
    return {k: v for k, v in found.items() if taken.count(v) == 1}


def _only_sentinel2(names: Iterable[str]) -> bool:
    """Return whether no other common satellite has such a set of bands."""
    texts = {plain(name) for name in names}
    several_edges = len({"rededge1", "rededge2", "rededge3"} & texts) >= 2
    both_nir = {"nir", "nir08"} <= texts
    narrow = bool({"b8a", "b08a"} & texts) and len(texts) > 1
    return several_edges or both_nir or narrow


def _same_name(name: str) -> str | None:
    """Return the name of a band that spells B02 otherwise: b02, B02_10m, S2-L2A-B02."""
    text = _RESOLUTION.sub("", _PREFIX.sub("", name.strip().lower()))
    if name.lower() != text or re.fullmatch(r"b(\d\d|8a)", text):
        return sentinel2_band(name) if re.fullmatch(r"b(\d\d|8a)", text) else None
    return None


def orbit_of(data: xr.Dataset | xr.DataArray) -> str | None:
    """Return "asc" or "desc" where all images are of one pass, by their metadata."""
    found: set[str] = set()
    for name in _ORBITS:
        if name in data.attrs:
            found.add(str(data.attrs[name]).lower())
        if name in data.coords and data.coords[name].dtype.kind in "UOT":
            found |= {str(v).lower() for v in np.unique(data.coords[name].values)}
    if found == {"ascending"}:
        return "asc"
    return "desc" if found == {"descending"} else None


def missing_bands(
    lacking: Sequence[str], there: Sequence[str], needed: Sequence[str]
) -> CubeError:
    """Return the error of a cube that lacks some of the bands that are needed."""
    likely = proposal(lacking, [name for name in there if name not in needed])
    remedy = "rename bands with cube.assign_coords(band=[...])"
    if likely:
        remedy = f"if they are the same, name them so: gb.as_cube(data, bands={likely})"
    return CubeError(
        f"Bands {list(lacking)} are needed and not in the cube, which has "
        f"{list(there)}; {remedy}, or train without them."
    )


def proposal(wanted: Iterable[str], there: Iterable[str]) -> dict[str, str]:
    """Return which bands may be those that are wanted, by the names they have.

    Parameters
    ----------
    wanted : iterable of str
        Names of bands that a model needs and the data has not.
    there : iterable of str
        Names of the data's bands.

    Returns
    -------
    dict
        The wanted name by the data's, where there is a likely one.
    """
    there = list(there)
    found: dict[str, str] = {}
    for band in wanted:
        like = [name for name in there if _may_be(name, band) and name not in found]
        if like:
            found[like[0]] = band
    return found


def _may_be(name: str, band: str) -> bool:
    if plain(name) == plain(band):
        return True
    ours = sentinel2_band(band)
    if ours is not None:
        return sentinel2_band(name) == ours
    radar = [
        re.search(r"(?<![a-z])(vv|vh|hh|hv)(?![a-z])", one.lower().replace("_", " "))
        for one in (name, band)
    ]
    if radar[0] is None or radar[1] is None or radar[0][1] != radar[1][1]:
        return False
    passes = [re.search(r"(asc|desc)", one.lower()) for one in (name, band)]
    return passes[0] is None or passes[1] is None or passes[0][1] == passes[1][1]
