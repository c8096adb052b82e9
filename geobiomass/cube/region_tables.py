"""Regions as users have them: tables, vector files, GeoJSON, bounds, geometries."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from geobiomass.cube.schema import CubeError
from geobiomass.training.packages import need

_GEOJSON = (".geojson", ".json")
_ONLY = "region"  # the name of a region that is the only one
_Bounds = tuple[float, float, float, float]


def named_regions(
    regions: Any, whole: _Bounds, name: str | None
) -> Iterator[tuple[str, Any]]:
    """Yield the regions with their names, each in a form that `Region.of` accepts.

    Parameters
    ----------
    regions, name
        As :func:`geobiomass.cube.areas.regions_of` takes them.
    whole : tuple of float
        Bounds of the map, which is the region if `regions` is None.

    Raises
    ------
    CubeError
        If regions cannot be read, have no reference system, or lack `name`.
    """
    if regions is None:
        yield _ONLY, whole
    elif isinstance(regions, str | os.PathLike):
        yield from named_regions(_read(os.fspath(regions)), whole, name)
    elif hasattr(regions, "to_crs"):
        yield from _rows(regions, name)
    elif isinstance(regions, Mapping) and not isinstance(regions.get("type"), str):
        for label, one in regions.items():
            for _, shape in named_regions(one, whole, None):
                yield str(label), shape
    elif isinstance(regions, Mapping) and regions["type"] == "FeatureCollection":
        _check_geojson_system(regions)
        for number, feature in enumerate(regions["features"]):
            yield _label(feature, number, name), feature
    else:
        if isinstance(regions, Mapping):
            _check_geojson_system(regions)
        yield _ONLY, regions


def _read(path: str) -> Any:
    try:
        if path.lower().endswith(_GEOJSON):
            return json.loads(Path(path).read_text())
        need(f"Reading {path}", "vectors", "geopandas", "pyogrio")
        import geopandas

        return geopandas.read_file(path)
    except (OSError, RuntimeError, ValueError) as error:
        if isinstance(error, ImportError):
            raise
        raise CubeError(f"The regions {path} cannot be read: {error}.") from error


def _rows(table: Any, name: str | None) -> Iterator[tuple[str, Any]]:
    if table.crs is None:
        raise CubeError(
            "The table of regions has no reference system; set it with "
            "regions.set_crs('EPSG:...')."
        )
    columns = [str(column) for column in getattr(table, "columns", ())]
    if name is not None and name not in columns:
        raise CubeError(f"The regions have no column {name!r}, they have {columns}.")
    column = name or ("name" if "name" in columns else None)
    labels = table.index if column is None else table[column]
    for row, label in enumerate(labels):
        yield str(label), table.iloc[[row]]


def _label(feature: Mapping[str, Any], number: int, name: str | None) -> str:
    known = feature.get("properties") or {}
    if name is not None and name not in known:
        raise CubeError(
            f"Feature {number} of the regions has no property {name!r}, it has "
            f"{sorted(known)}."
        )
    return str(known.get(name or "name", feature.get("id", number)))


def _check_geojson_system(mapping: Mapping[str, Any]) -> None:
    """Check that GeoJSON names no other reference system, as old files may do.

    The standard (RFC 7946) allows longitude and latitude only.
    """
    crs = mapping.get("crs")
    if crs is None:
        return
    text = str(crs.get("properties", {}).get("name", crs))
    if not text.endswith(("CRS84", "4326")):
        raise CubeError(
            f"GeoJSON is in longitude and latitude, this one says {text}; read it with "
            "geopandas.read_file, which knows its reference system, and pass the table."
        )
