"""Static layers of a cube: terrain, canopy height, embeddings, the same every month."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import numpy as np
import xarray as xr

from geobiomass.cube.errors import CubeError
from geobiomass.cube.plain_attributes import mapping_in

STATIC = "static"
"""The variable of the layers, (layer, y, x) or (chip, layer, y, x)."""
SOURCES = "sources"
"""Attribute of the variable: where layers come from, by layer, JSON text."""
PIXELS = ("image", "agb", STATIC)
"""The variables that are written and read block by block."""

_ADD = "gb.with_static(cube, ...) adds layers with their names and units"


def is_static(data: xr.Dataset) -> bool:
    """Return whether a dataset has static layers, not a band of that name."""
    return STATIC in data and "layer" in data[STATIC].dims


def layers_of(cube: xr.Dataset) -> tuple[str, ...]:
    """Return the names of a cube's static layers; none where it has no layers."""
    if STATIC not in cube:
        return ()
    return tuple(str(name) for name in cube["layer"].values)


def units_of_layers(static: xr.DataArray) -> dict[str, str]:
    """Return the units of each layer by its name, as the attribute ``units`` says."""
    stated = mapping_in(static.attrs.get("units")) or {}
    names = [str(name) for name in static["layer"].values]
    return {name: str(stated[name]) for name in names if stated.get(name)}


def units_text(units: Mapping[str, str]) -> str:
    """Return units by layer as the attribute ``units`` holds them, JSON text."""
    return json.dumps(dict(units))


def check_static(cube: xr.Dataset) -> None:
    """Check the static layers of a cube, without reading pixels.

    Raises
    ------
    CubeError
        If dimensions, type, names or units are not those of static layers.
    """
    static, image = cube[STATIC], cube["image"]
    chips = ("chip",) if "chip" in image.dims else ()
    dims = (*chips, "layer", "y", "x")
    if static.dims != dims:
        raise CubeError(
            f"Dimensions of 'static' must be {dims}, got {static.dims}; fix it with "
            f"cube.static.transpose(...), or add the layers again: {_ADD}."
        )
    if not np.issubdtype(static.dtype, np.floating):
        raise CubeError(
            "'static' must be floating point with NaN where missing, got "
            f"{static.dtype}; fix it with cube.static.astype('float32')."
        )
    if not static.sizes["layer"]:
        raise CubeError(
            "'static' must have a layer, got none; leave it out, "
            "cube.drop_dims('layer')."
        )
    if "layer" not in static.coords or static["layer"].dtype.kind not in "UOT":
        raise CubeError(
            "Coordinate 'layer' must hold the names of the static layers; fix it with "
            "cube.assign_coords(layer=['elevation', ...])."
        )
    names = [str(name) for name in static["layer"].values]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise CubeError(
            f"Coordinate 'layer' must not repeat names, got {twice} twice; rename one "
            "of them with cube.assign_coords(layer=[...])."
        )
    known = units_of_layers(static)
    if lacking := [name for name in names if name not in known]:
        raise CubeError(
            f"Units of the static layers {lacking} are unknown; set the attribute "
            f"units of 'static', JSON text such as '{{\"{lacking[0]}\": \"m\"}}' "
            f'("1" of plain numbers), or add the layers again: {_ADD}.'
        )


def select_layers(cube: xr.Dataset, names: Sequence[str], who: str) -> xr.Dataset:
    """Select static layers by name, in this order; other layers are left out.

    Parameters
    ----------
    cube : xarray.Dataset
        With or without static layers.
    names : sequence of str
        The layers; none of them leaves the cube without ``static``.
    who : str
        What needs them, for the message: "The model learnt".

    Raises
    ------
    CubeError
        If layers are missing; the message names all of them.
    """
    there = layers_of(cube)
    lacking = [name for name in names if name not in there]
    if lacking:
        has = f"has the layers {list(there)}" if there else "has no static layers"
        raise CubeError(
            f"{who} the static layers {list(names)}, and the cube {has}; add "
            f"{lacking} with gb.with_static(cube, ...)."
        )
    if there == tuple(names):
        return cube
    if not names:
        return cube.drop_dims("layer")
    return cube.isel(layer=[there.index(name) for name in names])
