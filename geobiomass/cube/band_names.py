"""The bands of users' data, stacked and named."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import xarray as xr

from geobiomass.cube.axes import find_axes, renamed
from geobiomass.cube.known_bands import certain_names, orbit_of, sensor_of
from geobiomass.cube.not_images import flagged_bands, not_images
from geobiomass.cube.schema import CubeError
from geobiomass.cube.static_layers import STATIC, is_static

BANDS_OF, LEFT_OUT, RENAMED = "bands_of_variables", "left_out", "renamed_bands"
"""Attributes of a cube: which variables became bands, which did not, new names."""

Bands = Mapping[str, str] | Sequence[str] | None
_REMEDY = "gb.as_cube(data, bands=[...]) chooses the variables"


def stack_bands(
    data: xr.Dataset | xr.DataArray,
    *,
    bands: Bands = None,
    target: xr.DataArray | None = None,
    needed: Collection[str] = (),
) -> tuple[xr.DataArray, dict[str, str]]:
    """Return (chip, month, band, y, x) in any order, its bands named.

    Parameters
    ----------
    data : xarray.Dataset or xarray.DataArray
        As users hold it.
    bands : mapping or sequence of str, optional
        New names by the data's, or the names of those that are the bands.
    target : xarray.DataArray, optional
        The target, which is never a band, and neither are its copies.
    needed : collection of str
        The bands of the model that is to read the data: a band with such a name keeps
        it, and is one whatever its name says.

    Returns
    -------
    tuple
        The image, and attributes of the cube that say what became of the variables.

    Warns
    -----
    UserWarning
        If variables on the grid are left out; not if all that are needed are there.
    """
    chosen = _chosen(bands)
    kept = {*needed, *(chosen or ())}
    notes: dict[str, str] = {}
    if isinstance(data, xr.Dataset) and "image" in data:
        image = data["image"]
        image = renamed(image)
        left: Mapping[str, str] = {}
    elif isinstance(data, xr.Dataset):
        image, left = _stack_variables(data, chosen, target, kept)
        notes[BANDS_OF] = " ".join(map(str, image["band"].values))
    else:
        image, left = renamed(data), {}
    if "band" not in image.dims:
        raise CubeError(
            f"A cube needs a band axis, got {image.dims}; name the single band, "
            "data.expand_dims(band=['B04'])."
        )
    image = image.assign_coords(band=_band_names(image))
    if isinstance(data, xr.DataArray):
        left = flagged_bands([str(name) for name in image["band"].values], kept)
        image = _select(image, chosen, left)
    elif chosen is not None and BANDS_OF not in notes:
        image = _select(image, chosen, {})
    if left:
        notes[LEFT_OUT] = "; ".join(f"{name}: {why}" for name, why in left.items())
        if not _all_there(needed, image):  # a model reads its bands, and no others
            _tell_left_out(left, image)
    new = _new_names(data, image, bands, needed)
    if new:
        names = [new.get(str(name), str(name)) for name in image["band"].values]
        image = image.assign_coords(band=names)
        notes[RENAMED] = ", ".join(f"{old}: {ours}" for old, ours in new.items())
    return image, notes


def _all_there(needed: Collection[str], image: xr.DataArray) -> bool:
    return bool(needed) and set(needed) <= {str(name) for name in image["band"].values}


def _chosen(bands: Bands) -> list[str] | None:
    """Return the names that the user chose; a mapping chooses nothing."""
    if bands is None or isinstance(bands, Mapping):
        return None
    if isinstance(bands, str):
        raise CubeError(
            f"bands must be a list of names, or new names by the data's, got {bands!r};"
            f" write bands=[{bands!r}]."
        )
    return [str(name) for name in bands]


def _select(
    image: xr.DataArray, chosen: list[str] | None, left: Collection[str]
) -> xr.DataArray:
    there = [str(name) for name in image["band"].values]
    if chosen is None:
        chosen = [name for name in there if name not in left]
    _check_there(chosen, there)
    if not chosen:
        raise CubeError(f"None of {there} is an image by its name; {_REMEDY}.")
    if chosen == there:
        return image
    return image.isel(band=[there.index(name) for name in chosen])


def _check_there(chosen: Sequence[str], there: Sequence[str]) -> None:
    lacking = [name for name in chosen if name not in there]
    if lacking:
        raise CubeError(
            f"bands must be names of the data's bands, got {lacking}; the "
            f"data has {list(there)}."
        )


def _tell_left_out(left: Mapping[str, str], image: xr.DataArray) -> None:
    reasons = "; ".join(f"{name!r} ({why})" for name, why in left.items())
    plural = "variables are" if len(left) > 1 else "variable is"
    warnings.warn(
        f"{len(left)} {plural} left out of the bands: {reasons}. Bands are "
        f"{[str(name) for name in image['band'].values]}; {_REMEDY}.",
        UserWarning,
        stacklevel=5,
    )


def _stack_variables(
    data: xr.Dataset,
    chosen: list[str] | None,
    target: xr.DataArray | None,
    kept: Collection[str],
) -> tuple[xr.DataArray, Mapping[str, str]]:
    axes = find_axes(data)
    grid = {theirs for theirs, ours in axes.items() if ours in ("y", "x")}
    # The cube's own variables that are not the image have their own names.
    ours = {"agb", "agb_se"} - set(kept)
    ours |= {STATIC} if is_static(data) else set()
    bands: dict[str, Any] = {
        str(name): variable
        for name, variable in data.items()
        if len(grid) == 2 and grid <= set(map(str, variable.dims)) and name not in ours
    }
    if not bands:
        raise CubeError(
            f"No variable has the dimensions y and x, got {dict(data.sizes)}; "
            "rename the axes of the grid to y and x."
        )
    if chosen is not None:
        _check_there(chosen, list(bands))
        bands, left = {name: bands[name] for name in chosen}, {}
    else:
        left = dict(not_images(bands, target, kept))
        if len(left) == len(bands):
            reasons = "; ".join(f"{name!r} ({why})" for name, why in left.items())
            raise CubeError(f"No variable is a band of an image: {reasons}; {_REMEDY}.")
        bands = {name: one for name, one in bands.items() if name not in left}
    stacked = xr.concat(
        xr.broadcast(*bands.values()),
        dim="band",
        coords="minimal",
        compat="override",
        join="exact",
        combine_attrs="drop",
    )
    names = [variable.attrs.get("long_name") for variable in bands.values()]
    plain = all(name.startswith("band_") for name in bands) and all(names)
    stacked = stacked.assign_coords(band=[*map(str, names)] if plain else list(bands))
    return renamed(stacked), left


def _new_names(
    data: xr.Dataset | xr.DataArray,
    image: xr.DataArray,
    bands: Bands,
    needed: Collection[str],
) -> dict[str, str]:
    """Return new names by the data's: those that are given, else those certain."""
    there = [str(name) for name in image["band"].values]
    if isinstance(bands, Mapping):
        _check_there([str(name) for name in bands], there)
        new = {str(old): str(ours) for old, ours in bands.items()}
    elif _all_there(needed, image):
        return {}  # a model that was trained on red reads red
    else:
        found = certain_names(there, sensor_of(data), orbit_of(data))
        new = {old: ours for old, ours in found.items() if old not in needed}
    return {old: ours for old, ours in new.items() if old != ours}


def _band_names(image: xr.DataArray) -> list[str]:
    """Return the coordinate, or rioxarray's descriptions of numbered bands."""
    described = image.attrs.get("long_name")
    count = image.sizes["band"]
    if "band" in image.coords and image["band"].dtype.kind in "UOT":
        return [str(name) for name in image["band"].values]
    if isinstance(described, str) and count == 1:
        return [described]
    if isinstance(described, tuple | list) and len(described) == count:
        return [str(name) for name in described]
    got = image["band"].values.tolist() if "band" in image.coords else "no coordinate"
    raise CubeError(
        f"Coordinate 'band' must hold names, got {got}: bands are matched by name; "
        "fix it with data.assign_coords(band=['B02', ...])."
    )
