"""Size, bounds, resolution and area of a scene or map, as text."""

from __future__ import annotations

import os
import re
from typing import Any

import xarray as xr

from geobiomass.cube.grid import Grid, transform_of
from geobiomass.cube.store import is_local, open_group

Bounds = tuple[float, float, float, float]  # left, bottom, right, top

# A projected or geographic CRS in WKT that ends with its EPSG code.
_EPSG = re.compile(
    r'(?:PROJCS|PROJCRS|GEOGCS|GEOGCRS)\[.*(?:AUTHORITY|ID)\["EPSG",\s*"?(\d+)"?\]\]',
    re.DOTALL,
)


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
    if transform_of(data) is None:
        return {"reference system": name}
    grid = Grid.of(data)
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
    if code is None or transform_of(data) is None:
        return None
    grid = Grid.of(data)
    if grid.rotated:
        return None
    from pyproj import CRS

    crs = CRS.from_wkt(wkt)
    unit = None if crs.is_geographic else crs.axis_info[0].unit_conversion_factor
    words = _in_words(f"EPSG:{code[1]}", grid.bounds, grid.resolution)
    return words | _area_in_words(grid.bounds, unit)


def _in_words(
    crs: str, bounds: Bounds, resolution: tuple[float, float]
) -> dict[str, str]:
    return {
        "reference system": crs,
        "bounds": ", ".join(f"{edge:.10g}" for edge in bounds),
        "resolution": " x ".join(f"{abs(r):.6g}" for r in resolution),
    }


def area_facts(crs: Any, bounds: Bounds) -> dict[str, str]:
    """Return the area within bounds (left, bottom, right, top) in hectares."""
    if crs is None:
        return {}
    unit = None if crs.is_geographic else float(crs.linear_units_factor[1])
    return _area_in_words(bounds, unit)


def _area_in_words(bounds: Bounds, unit: float | None) -> dict[str, str]:
    """Return the area; `unit` is in metres, None for degrees."""
    left, bottom, right, top = bounds
    if unit is None:
        from pyproj import Geod

        # Parallels are no geodesics: a hundred short geodesics follow them closely.
        steps = [left + (right - left) * i / 100 for i in range(101)]
        x = [*steps, *steps[::-1]]
        y = [bottom] * 101 + [top] * 101
        square_metres = abs(Geod(ellps="WGS84").polygon_area_perimeter(x, y)[0])
    else:
        square_metres = abs((right - left) * (top - bottom)) * unit**2
    return {"area": f"{square_metres / 10_000:,.4g} ha"}


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
