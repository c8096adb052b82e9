"""Descriptions of maps: layers, georeference, values, provenance."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pandas as pd
import xarray as xr

from geobiomass.cube.axes import in_our_names
from geobiomass.cube.claimed_size import check_blocks, driver_of, pixels_to_read
from geobiomass.cube.grid_size import check_size
from geobiomass.cube.grid_summary import area_facts, bytes_in, grid_facts, size_in_words
from geobiomass.cube.raster_errors import named_errors
from geobiomass.cube.sealing import damage_in_words
from geobiomass.maps.opening import open_layers
from geobiomass.maps.raster_checksums import RasterChecksums
from geobiomass.metadata.provenance import provenance, provenance_in
from geobiomass.summary import Table, bytes_in_words
from geobiomass.training.packages import need_for_address

SAMPLES = 8  # blocks to read of a map without overviews
SIDE = 512  # pixels of such a block, and of a raster's overview
IN_MEMORY = 25_000_000  # pixels; larger maps are sampled
SMALL = 1_000_000_000  # pixels of a raster's band that are read for a smaller picture
MOST_LAYERS = 1000  # whose values are described

Facts = dict[str, str | Table]


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
    facts |= _provenance_facts(scene.attrs) | grid_facts(scene)
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
        **_provenance_facts(scene.attrs),
    }
    facts |= grid_facts(scene)
    levels = _levels(scene.attrs)
    if not levels:
        return facts | {"values": _values(scene)}
    coarse = open_layers(store, f"overviews/{levels[-1]}")
    note = f"means of {levels[-1]} x {levels[-1]} pixels"
    return facts | {"values": _values(coarse, note)}


def _provenance_facts(attrs: Mapping[str, Any]) -> Facts:
    """Return the provenance of a map, if it is known, and its overviews."""
    known = provenance_in(attrs)
    facts = {} if known is None else known.main_facts()
    if levels := _levels(attrs):
        facts["overviews"] = " ".join(levels)
    return facts


def origin_at(path: str) -> dict[str, Any]:
    """Return the whole provenance of the map at a path; nothing for other files."""
    if not path.rstrip("/").endswith((".zarr", ".tif", ".tiff")):
        return {}
    try:
        return {"provenance": provenance(path).to_dict()}
    except ValueError:  # a cube, or another program's raster
        return {}


def _levels(attrs: Mapping[str, Any]) -> list[str]:
    """Return the factors of a map's overviews, finest first."""
    levels = [
        level["asset"].split("/")[1]
        for level in attrs.get("multiscales", {}).get("layout", [])
        if level["asset"].startswith("overviews/")
    ]
    return list(dict.fromkeys(levels))


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
        rows[str(name)] = _row(np.concatenate(parts))
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


def _row(values: npt.NDArray[Any]) -> dict[str, float]:
    finite = values[np.isfinite(values)].astype(np.float64)
    missing = 100 * (1 - finite.size / max(1, values.size))
    numbers = (
        (finite.mean(), finite.min(), finite.max()) if finite.size else [np.nan] * 3
    )
    row = dict(zip(("mean", "minimum", "maximum"), map(float, numbers), strict=True))
    return {name: round(value, 2) for name, value in row.items()} | {
        "missing, %": round(missing, 1)
    }


def describe_raster_at(address: str) -> Facts:
    """Return the facts of a raster at an address."""
    import fsspec

    need_for_address(address)
    with fsspec.open(address, "rb") as file:
        return describe_raster(file)


def _step_of(source: Any) -> float:
    return float(max(SIDE, source.height, source.width)) / SIDE


def _sample_of_band(source: Any, index: int) -> tuple[npt.NDArray[Any], str]:
    """Read a band at a small size, or some blocks of it if all would be read for it."""
    step = _step_of(source)
    if pixels_to_read(source, step) > SMALL:
        corners = [
            [int(share * max(0, size - SIDE)) // SIDE * SIDE for size in source.shape]
            for share in (np.arange(SAMPLES) + 0.5) / SAMPLES
        ]
        parts = [
            source.read(
                index + 1,
                window=((top, top + SIDE), (left, left + SIDE)),
                masked=True,
            ).ravel()
            for top, left in corners
        ]
        values = cast(Any, np.ma).concatenate(parts)
        note = f"sampled: {SAMPLES} blocks"
    else:
        shape = tuple(max(1, round(size / step)) for size in source.shape)
        values = source.read(index + 1, out_shape=shape, masked=True).ravel()
        note = f"sampled: one of {step:.3g} x {step:.3g} pixels" if step > 1 else ""
    scaled = values.astype(np.float64) * source.scales[index] + source.offsets[index]
    return np.ma.filled(scaled, np.nan), note


def describe_raster(path: Any) -> Facts:
    """Return the facts of a raster, such as a GeoTIFF; values of a small overview."""
    import rasterio

    checksums = RasterChecksums.of(path)
    driver = driver_of(path) if isinstance(path, str | Path) else None
    with named_errors(path), rasterio.open(path, driver=driver) as source:
        check_blocks(source, source.name)
        step = _step_of(source)
        if pixels_to_read(source, step) > SMALL:
            check_size(source.shape, source.name, source.res, source.bounds)
        elif checksums is not None:
            shape = (max(1, round(size / step)) for size in source.shape)
            checksums.check_for(path, *shape)
        names = [name or f"band {i}" for i, name in enumerate(source.descriptions, 1)]
        rows, note = {}, ""
        for index, name in enumerate(names[:MOST_LAYERS]):
            values, note = _sample_of_band(source, index)
            rows[name] = _row(values)
        return {
            "what": "raster",
            "size": f"{source.height} x {source.width} pixels",
            "layers": ", ".join(
                f"{name}, {unit}"
                for name, unit in zip(names, source.units, strict=True)
            ),
            "reference system": str(source.crs),
            "bounds": ", ".join(f"{edge:.10g}" for edge in source.bounds),
            **area_facts(source.crs, source.bounds),
            "nodata": str(source.nodata),
            "overviews": " ".join(map(str, source.overviews(1))) or "none",
            **_provenance_facts(source.tags()),
            "values": Table(pd.DataFrame(rows).T, note),
        }
