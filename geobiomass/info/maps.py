"""Descriptions of maps: layers, georeference, values, provenance."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from geobiomass.cube.axes import in_our_names
from geobiomass.cube.grid_summary import bytes_in, grid_facts, size_in_words
from geobiomass.cube.sealing import damage_in_words
from geobiomass.info.rasters import (
    SAMPLES,
    SIDE,
    Facts,
    levels_in,
    numbers_of,
    provenance_facts,
)
from geobiomass.maps.opening import open_layers
from geobiomass.metadata.provenance import provenance
from geobiomass.summary import Table, bytes_in_words

IN_MEMORY = 25_000_000  # pixels; larger maps are sampled


def describe_map(data: xr.Dataset | xr.DataArray) -> Facts:
    """Return the facts of a map in memory; a lazy map is not computed.

    Raises
    ------
    ValueError
        If it has no dimensions (y, x).
    """
    scene = in_our_names(data if isinstance(data, xr.Dataset) else _as_dataset(data))
    if not {"y", "x"} <= set(scene.dims):
        raise ValueError(
            f"A map must have dimensions (y, x), got {tuple(map(str, scene.dims))}."
        )
    facts: Facts = {"what": "map", **_sizes(scene)}
    lazy = any(variable.chunks is not None for variable in scene.values())
    facts["state"] = "lazy, computed when it is read" if lazy else "in memory"
    facts |= provenance_facts(scene.attrs) | grid_facts(scene)
    if not lazy:
        facts["values"] = _values(scene)
    return facts


def _as_dataset(data: xr.DataArray) -> xr.Dataset:
    return data.to_dataset(name=data.name or "map")


def _sizes(scene: xr.Dataset) -> dict[str, str]:
    layers = (f"{n}, {v.attrs.get('units')}" for n, v in scene.items())
    return {"size": size_in_words(scene), "layers": ", ".join(layers)}


def describe_stored_map(store: Any) -> Facts:
    """Return the facts of a finished map in a Zarr store."""
    scene = open_layers(store)
    facts: Facts = {
        "what": "map",
        **_sizes(scene),
        "state": "finished",
        "stored as": f"float32, {bytes_in_words(bytes_in(store))} on disk",
        **damage_in_words(store),
        **provenance_facts(scene.attrs),
    }
    facts |= grid_facts(scene)
    levels = levels_in(scene.attrs)
    if not levels:
        return facts | {"values": _values(scene)}
    coarse = open_layers(store, f"overviews/{levels[-1]}")
    note = f"means of {levels[-1]} x {levels[-1]} pixels"
    return facts | {"values": _values(coarse, note)}


def origin_at(path: str) -> dict[str, Any]:
    """Return the whole provenance of the map at a path; nothing for other files."""
    if not path.rstrip("/").endswith((".zarr", ".tif", ".tiff")):
        return {}
    try:
        return {"provenance": provenance(path).to_dict()}
    except ValueError:  # a cube, or another program's raster
        return {}


def describe_unfinished(progress: Mapping[str, Any]) -> Facts:
    """Return the facts of an unfinished map, which is written or was interrupted."""
    written, blocks, side = (progress[name] for name in ("written", "blocks", "side"))
    writer, store = progress["writer"], progress["store"]
    facts: Facts = {"what": "map"}
    if not progress["being_made"]:
        scene = open_layers(store)
        facts |= {**_sizes(scene), **grid_facts(scene)}
    facts["state"] = (
        f"unfinished, {written} of {blocks} blocks written "
        f"({100 * written // max(blocks, 1)} %), blocks of {side} x {side} pixels"
    )
    facts["being written"] = f"by {writer}" if writer else "no"
    facts["what to do"] = (
        "wait; after an interruption the same call continues"
        if writer
        else "repeat the same call of predict, which continues where it stopped"
    )
    return facts


def _values(scene: xr.Dataset, note: str = "") -> Table:
    """Return mean, range and missing share of each layer; large ones are sampled."""
    windows: list[dict[str, Any]] = [{}]
    if max(variable.size for variable in scene.values()) > IN_MEMORY:
        windows = _some_blocks(scene)
        note = f"sampled: {len(windows)} blocks"
    rows = {}
    for name, layer in scene.items():
        parts = [np.ravel(layer.isel(window).values) for window in windows]
        rows[str(name)] = numbers_of(np.concatenate(parts))
    return Table(pd.DataFrame(rows).T, note)


def _some_blocks(scene: xr.Dataset) -> list[dict[str, Any]]:
    """Return a few windows along the diagonal of a map."""
    windows = []
    for share in (np.arange(SAMPLES) + 0.5) / SAMPLES:
        window: dict[str, Any] = {}
        for dim in ("y", "x"):
            start = int(share * max(0, scene.sizes[dim] - SIDE)) // SIDE * SIDE
            window[dim] = slice(start, start + SIDE)
        if "chip" in scene.dims:
            window["chip"] = [int(share * scene.sizes["chip"])]
        windows.append(window)
    return windows
