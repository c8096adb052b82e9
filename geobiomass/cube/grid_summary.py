"""Size, bounds, resolution and area of a scene or map, as text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import xarray as xr

from geobiomass.cube.store import is_local, open_group


def size_in_words(data: xr.Dataset) -> str:
    """Return the size in pixels of a scene, a map, or chips."""
    grid = f"{data.sizes['y']} x {data.sizes['x']} pixels"
    return f"{data.sizes['chip']} chips of {grid}" if "chip" in data.sizes else grid


def grid_facts(data: xr.Dataset) -> dict[str, str]:
    """Return the reference system, bounds, resolution and area of a scene or map."""
    if "chip" in data.dims or not {"y", "x"} <= set(data.coords):
        return {}
    import rioxarray  # noqa: F401  (the .rio accessor)

    crs = data.rio.crs
    edges = ", ".join(f"{edge:.10g}" for edge in data.rio.bounds())
    return {
        "reference system": crs.to_string() if crs is not None else "none",
        "bounds": edges,
        "resolution": " x ".join(f"{abs(r):.6g}" for r in data.rio.resolution()),
    } | area_facts(crs, data.rio.bounds())


def area_facts(crs: Any, bounds: tuple[float, float, float, float]) -> dict[str, str]:
    """Return the area within bounds (left, bottom, right, top) in hectares."""
    if crs is None:
        return {}
    left, bottom, right, top = bounds
    if crs.is_geographic:
        from pyproj import Geod

        # Parallels are no geodesics: a hundred short geodesics follow them closely.
        steps = [left + (right - left) * i / 100 for i in range(101)]
        x = [*steps, *steps[::-1]]
        y = [bottom] * 101 + [top] * 101
        square_metres = abs(Geod(ellps="WGS84").polygon_area_perimeter(x, y)[0])
    else:
        unit = float(crs.linear_units_factor[1])
        square_metres = abs((right - left) * (top - bottom)) * unit**2
    return {"area": f"{square_metres / 10_000:,.4g} ha"}


def bytes_in(path: Any) -> int:
    """Return the bytes of a store, by listing it."""
    if is_local(path):
        return sum(f.stat().st_size for f in Path(path).rglob("*") if f.is_file())
    from zarr.core.sync import sync

    return sync(open_group(path, "r").store.getsize_prefix(""))
