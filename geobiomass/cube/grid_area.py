"""The area within bounds, as text; without xarray."""

from __future__ import annotations

from typing import Any

Bounds = tuple[float, float, float, float]  # left, bottom, right, top


def area_facts(crs: Any, bounds: Bounds) -> dict[str, str]:
    """Return the area within bounds (left, bottom, right, top) in hectares."""
    if crs is None:
        return {}
    unit = None if crs.is_geographic else float(crs.linear_units_factor[1])
    return area_in_words(bounds, unit)


def area_in_words(bounds: Bounds, unit: float | None) -> dict[str, str]:
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
