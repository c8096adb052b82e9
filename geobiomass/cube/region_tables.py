"""Regions with their names: tables, vector files, GeoJSON, bounds, geometries."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from geobiomass.cube.schema import CubeError
from geobiomass.cube.table_errors import cube_errors
from geobiomass.cube.vector_areas import check_geojson_system, checked_area, read_areas
from geobiomass.tables import match_column
from geobiomass.tables.columns import near_names

_ONLY = "region"  # the name of a region that is the only one
_Bounds = tuple[float, float, float, float]


def named_regions(
    regions: Any, whole: _Bounds, name: str | None, counts: Counter[str]
) -> Iterator[tuple[str, Any]]:
    """Yield the regions with their names, each in a form that `Region.of` accepts.

    Parameters
    ----------
    regions, name
        As :func:`geobiomass.cube.areas.regions_of` takes them.
    whole : tuple of float
        Bounds of the map, which is the region if `regions` is None.
    counts : collections.Counter
        Counts shapes that are left out, repaired or without a name.

    Raises
    ------
    CubeError
        If regions cannot be read, have no reference system, or lack `name`.
    """
    if regions is None:
        yield _ONLY, whole
    elif isinstance(regions, str | os.PathLike):
        with cube_errors():
            content = read_areas(os.fspath(regions))
        yield from named_regions(content, whole, name, counts)
    elif hasattr(regions, "to_crs") and hasattr(regions, "iloc"):
        yield from _rows(checked_area(regions, counts), name, counts)
    elif isinstance(regions, Mapping) and not isinstance(regions.get("type"), str):
        for label, one in regions.items():
            inner: Counter[str] = Counter()
            for _, shape in named_regions(one, whole, None, inner):
                yield str(label), shape
            del inner["unnamed"]  # its name is the mapping's
            counts.update(inner)
    elif isinstance(regions, Mapping) and regions["type"] == "FeatureCollection":
        check_geojson_system(regions)
        given = list(regions.get("features") or [])
        for number, feature in enumerate(given):
            one = checked_or_none(feature, regions, counts)
            if one is not None:
                yield _label(feature, number, name, counts), one
        if given and counts["empty"] + counts["no area"] == len(given):
            checked_area(regions, Counter())  # raises: there is no polygon at all
    else:
        yield _ONLY, checked_area(regions, counts)


def checked_or_none(
    feature: Mapping[str, Any], collection: Mapping[str, Any], counts: Counter[str]
) -> Any:
    """Return a feature as polygons, None if it is no area, which is counted."""
    alone = {**collection, "features": [feature]}
    before = counts["empty"] + counts["no area"]
    try:
        return checked_area(alone, counts)
    except CubeError:
        if counts["empty"] + counts["no area"] == before:
            raise
        return None


def _rows(table: Any, name: str | None, counts: Counter[str]) -> Iterator[Any]:
    columns = [str(column) for column in getattr(table, "columns", ())]
    column: Any = None
    if columns:
        with cube_errors():
            column = match_column(table, (name or "name",))
    if name is not None and column is None:
        raise CubeError(
            f"The regions have no column {name!r}, they have {columns}"
            f"{near_names((name,), columns)}."
        )
    labels = table.index if column is None else table[column]
    for row, label in enumerate(labels):
        text = region_name(label)
        if text is None:
            counts["unnamed"] += 1
            text = f"unnamed {row + 1}"
        yield text, table.iloc[[row]]


def region_name(value: Any) -> str | None:
    """Return the name of a region, None where there is none; 7.0 is "7"."""
    if value is None or value != value or str(value).strip() in ("", "<NA>", "NaT"):
        return None
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def _label(
    feature: Mapping[str, Any], number: int, name: str | None, counts: Counter[str]
) -> str:
    known = feature.get("properties") or {}
    if name is not None and name not in known:
        raise CubeError(
            f"Feature {number} of the regions has no property {name!r}, it has "
            f"{sorted(known)}."
        )
    if name is None and "name" not in known:
        return str(feature.get("id", number))
    text = region_name(known[name or "name"])
    if text is None:
        counts["unnamed"] += 1
        return f"unnamed {number + 1}"
    return text
