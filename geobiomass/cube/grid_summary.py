"""Size, bounds, resolution and area of a scene or map, as text."""

from __future__ import annotations

import os
import re
from typing import Any

import xarray as xr

from geobiomass.cube.addresses import is_local, open_group
from geobiomass.cube.grid import known_grid
from geobiomass.cube.grid_area import Bounds, area_facts, area_in_words

# A projected or geographic CRS in WKT that ends with its EPSG code.
_EPSG = re.compile(
    r'(?:PROJCS|PROJCRS|GEOGCS|GEOGCRS)\[.*(?:AUTHORITY|ID)\["EPSG",\s*"?(\d+)"?\]\]',
    re.DOTALL,
)
# A projected CRS in WKT 1, as GDAL and rioxarray write it, in metres: the unit comes
# after the projection's parameters, and nothing else is written with UNIT["metre".
_IN_METRES = re.compile(r'\AP.*\bUNIT\["met(?:re|er)",\s*1(?:\.0*)?[,\]]', re.DOTALL)


def size_in_words(data: xr.Dataset) -> str:
    """Return the size in pixels of a scene, a map, or chips."""
    grid = f"{data.sizes['y']} x {data.sizes['x']} pixels"
    return f"{data.sizes['chip']} chips of {grid}" if "chip" in data.sizes else grid


def grid_facts(data: xr.Dataset) -> dict[str, str]:
    """Return the reference system, bounds, resolution and area of a scene or map."""
    if "chip" in data.dims or not {"y", "x"} <= set(data.coords):
        return {}
    facts = _written_facts(data)
    if facts is not None:
        return facts
    import rioxarray  # noqa: F401  (the .rio accessor)

    crs = data.rio.crs
    name = crs.to_string() if crs is not None else "none"
    grid = known_grid(data)
    if grid is None:
        return {"reference system": name}
    facts = _in_words(name, grid.bounds, grid.resolution)
    return facts | area_facts(crs, grid.bounds)


def _written_facts(data: xr.Dataset) -> dict[str, str] | None:
    """Return the facts of a georeference as rioxarray writes it; None for others.

    rioxarray itself imports rasterio and dask, which takes longer than all the rest.
    """
    named = {v.encoding.get("grid_mapping", "spatial_ref") for v in data.values()}
    if named != {"spatial_ref"} or "spatial_ref" not in data.coords:
        return None
    attrs = data["spatial_ref"].attrs
    wkt = str(attrs.get("spatial_ref", attrs.get("crs_wkt")))
    code = _EPSG.fullmatch(wkt)
    grid = known_grid(data)
    if code is None or grid is None or grid.rotated:
        return None
    unit = _unit_in(wkt)
    words = _in_words(f"EPSG:{code[1]}", grid.bounds, grid.resolution)
    return words | area_in_words(grid.bounds, unit)


def _unit_in(wkt: str) -> float | None:
    """Return the unit of a CRS in metres, None of one in degrees."""
    if wkt.startswith("GEOG"):
        return None
    if _IN_METRES.search(wkt):
        return 1.0
    from pyproj import CRS  # not for the usual ones, as it takes long to import

    return float(CRS.from_wkt(wkt).axis_info[0].unit_conversion_factor)


def _in_words(
    crs: str, bounds: Bounds, resolution: tuple[float, float]
) -> dict[str, str]:
    return {
        "reference system": crs,
        "bounds": ", ".join(f"{edge:.10g}" for edge in bounds),
        "resolution": " x ".join(f"{abs(r):.6g}" for r in resolution),
    }


def bytes_in(path: Any) -> int:
    """Return the bytes of a store, by listing it."""
    if is_local(path):
        return sum(
            _size_of(os.path.join(folder, name))
            for folder, _, names in os.walk(path)
            for name in names
        )
    from zarr.core.sync import sync

    return sync(open_group(path, "r").store.getsize_prefix(""))


def _size_of(file: str) -> int:
    try:
        return os.stat(file).st_size
    except FileNotFoundError:  # a writer has deleted it meanwhile
        return 0
