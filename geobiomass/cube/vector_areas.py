"""Areas as users have them, as polygons: what is no area is counted and told."""

from __future__ import annotations

import os
import warnings
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np

from geobiomass.cube.schema import CubeError
from geobiomass.cube.table_errors import cube_errors
from geobiomass.tables import read_table
from geobiomass.tables.files import split_part
from geobiomass.training.json_files import read_json

_GEOJSON = (".geojson", ".json")
_POLYGON = 3  # as shapely numbers the kinds of geometries
_MOST_DEGREES = 540  # of longitude, once around and a half: areas may cross 180
MOST_GEOJSON = 256 * 2**20  # bytes: all communes of a continent have less


def checked_area(
    area: Any, counts: Counter[str] | None = None, *, degrees: bool = True
) -> Any:
    """Return an area of any kind as bounds, a geopandas object or GeoJSON of polygons.

    Parameters
    ----------
    area : optional
        A path of a vector file (``path|layername=...`` for one of several layers), a
        GeoDataFrame or GeoSeries, a geometry or GeoJSON in longitude and latitude,
        four bounds.
    counts : collections.Counter, optional
        Counts what is left out and repaired; without it one warning tells them.
    degrees : bool
        Whether geometries and GeoJSON have to be in longitude and latitude.

    Returns
    -------
    tuple of float, geopandas object or GeoJSON mapping
        Only valid polygons; what is none of the above is returned as it is.

    Raises
    ------
    CubeError
        If a file cannot be read or has several layers, there is no CRS, or there is no
        polygon.
    """
    told: Counter[str] = Counter() if counts is None else counts
    made = _polygons(_opened(area), told, degrees)
    if counts is None:
        tell(told)
    return made


def tell(counts: Mapping[str, int], what: str = "the area") -> None:
    """Warn once of what was left out of areas, or repaired."""
    words = {
        "empty": "without a geometry are left out",
        "no area": "are points or lines, which have no area, and are left out",
        "repaired": "cross themselves or are otherwise invalid and are repaired "
        "(shapely.make_valid)",
        "unnamed": "without a name are regions of their own, called unnamed",
        "joined": "have the name of another and are joined with it to one region",
    }
    lines = [f"{n} {words[kind]}" for kind, n in counts.items() if n and kind in words]
    if lines:
        warnings.warn(f"Of the shapes of {what}, {'; '.join(lines)}.", stacklevel=4)


def read_areas(path: str) -> Any:
    """Read a vector file: GeoJSON as a mapping, others as a GeoDataFrame.

    Raises
    ------
    CubeError
        If it cannot be read, or has several layers.
    """
    file, _ = split_part(path)
    if file.lower().endswith(_GEOJSON) and file == path and os.path.exists(file):
        try:
            content = read_json(file, None, MOST_GEOJSON, "utf-8-sig")
        except ValueError as error:
            raise CubeError(f"{path} must be GeoJSON, got {error}.") from error
        if not isinstance(content, dict) or "type" not in content:
            raise CubeError(f"{path} must be GeoJSON, got {type(content).__name__}.")
        if _system_of(content) is None:
            return content
    with cube_errors():
        table = read_table(path)
    if not hasattr(table, "to_crs"):
        raise CubeError(
            f"{path} must have geometries to be an area, got a table with the columns "
            f"{list(map(str, table.columns))}."
        )
    return table


def _opened(area: Any) -> Any:
    if isinstance(area, str | os.PathLike):
        return read_areas(os.fspath(area))
    if isinstance(area, np.ndarray) and area.shape == (4,):
        return tuple(map(float, area))
    if hasattr(area, "bbox") and hasattr(area, "polygon"):  # odc.geo's bounding box
        return area.polygon
    return area


def _polygons(area: Any, counts: Counter[str], degrees: bool) -> Any:
    if hasattr(area, "to_crs") and hasattr(area, "iloc"):
        return _checked_rows(area, counts)
    if hasattr(area, "to_crs"):  # odc.geo's geometry
        return area
    mapping = getattr(area, "__geo_interface__", area)
    if not isinstance(mapping, Mapping) or not isinstance(mapping.get("type"), str):
        return area
    return _checked_geojson(mapping, counts, degrees)


def _checked_rows(rows: Any, counts: Counter[str]) -> Any:
    """Return the rows of a geopandas object that are areas, as valid polygons."""
    import shapely

    if rows.crs is None:
        raise CubeError(
            "The table of regions has no reference system; set it with "
            "regions.set_crs('EPSG:...')."
        )
    shapes = np.asarray(rows.geometry.values, object)
    made = _only_polygons(shapes, counts)
    keep = ~shapely.is_missing(made)
    same = keep.all() and all(a is b for a, b in zip(made, shapes, strict=True))
    if len(rows) and not keep.any():
        raise CubeError(_no_area(counts))
    if same:
        return rows
    kept = rows[keep]
    if hasattr(rows, "set_geometry"):
        return kept.set_geometry(list(made[keep]), crs=rows.crs)
    return type(rows)(list(made[keep]), index=kept.index, crs=rows.crs)


def _checked_geojson(
    mapping: Mapping[str, Any], counts: Counter[str], degrees: bool
) -> Any:
    check_geojson_system(mapping)
    if mapping["type"] == "FeatureCollection":
        features = list(mapping.get("features") or [])
    elif mapping["type"] == "Feature":
        features = [mapping]
    else:
        features = [{"type": "Feature", "properties": {}, "geometry": mapping}]
    made = _only_polygons(_shapes_of(features, degrees), counts)
    kept = [
        {**feature, "geometry": shape.__geo_interface__}
        for feature, shape in zip(features, made, strict=True)
        if shape is not None
    ]
    if features and not kept:
        raise CubeError(_no_area(counts))
    if mapping["type"] == "FeatureCollection":
        return {**mapping, "features": kept}
    return kept[0] if mapping["type"] == "Feature" else kept[0]["geometry"]


def _shapes_of(features: list[Any], degrees: bool) -> Any:
    import shapely

    found = []
    for number, feature in enumerate(features):
        geometry = feature.get("geometry")
        try:
            shape = None if geometry is None else shapely.geometry.shape(geometry)
        except (AttributeError, KeyError, TypeError, ValueError, IndexError) as error:
            raise CubeError(
                f"The geometry of feature {number} is not GeoJSON: {error}."
            ) from error
        if degrees and shape is not None and not shape.is_empty:
            west, south, east, north = shape.bounds
            if max(abs(west), abs(east)) > _MOST_DEGREES or max(-south, north) > 90.001:
                raise CubeError(
                    "Geometries and GeoJSON are in longitude and latitude, got "
                    f"coordinates such as {west:g}, {south:g}; for another reference "
                    "system pass geopandas.GeoSeries([...], crs='EPSG:...')."
                )
        found.append(shape)
    return np.array([*found, None], object)[:-1]


def _only_polygons(shapes: Any, counts: Counter[str]) -> Any:
    """Return shapes as valid polygons, None for what is empty or no area."""
    import shapely

    made = np.array([*shapes, None], object)[:-1]
    empty = shapely.is_missing(made) | shapely.is_empty(made)
    counts["empty"] += int(empty.sum())
    made[empty] = None
    flat = ~empty & (shapely.get_dimensions(made) < 2)
    counts["no area"] += int(flat.sum())
    made[flat] = None
    rest = np.flatnonzero(~shapely.is_missing(made))
    wrong = rest[~shapely.is_valid(made[rest])]
    counts["repaired"] += wrong.size
    for index in wrong:
        made[index] = areas_in(shapely.make_valid(made[index]))
    collections = shapely.get_type_id(made) == 7  # GeometryCollection
    for index in np.flatnonzero(collections):
        made[index] = areas_in(made[index])
    return made


def geometries_of(mapping: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the geometries of GeoJSON: of its features, its feature, or itself."""
    if mapping["type"] == "FeatureCollection":
        return [feature["geometry"] for feature in mapping["features"]]
    return [mapping["geometry"] if mapping["type"] == "Feature" else mapping]


def areas_in(shape: Any) -> Any:
    """Return the polygons of a shape as one, None if it has none."""
    import shapely

    parts = np.atleast_1d(shapely.get_parts(shape))
    while (shapely.get_type_id(parts) > _POLYGON).any():  # collections within it
        parts = shapely.get_parts(parts)
    parts = parts[shapely.get_type_id(parts) == _POLYGON]
    if not parts.size:
        return None
    return parts[0] if parts.size == 1 else shapely.union_all(parts)


def _no_area(counts: Counter[str]) -> str:
    return (
        "An area must have at least one polygon, got "
        f"{counts['no area']} points or lines and {counts['empty']} empty geometries; "
        "buffer points and lines to polygons first, or give polygons."
    )


def _system_of(mapping: Mapping[str, Any]) -> str | None:
    """Return the reference system that GeoJSON names, None for degrees."""
    crs = mapping.get("crs")
    if crs is None:
        return None
    named = crs.get("properties", {}) if isinstance(crs, Mapping) else {}
    text = str(named.get("name", crs))
    return None if text.endswith(("CRS84", "4326")) else text


def check_geojson_system(mapping: Mapping[str, Any]) -> None:
    """Check that GeoJSON names no other reference system, as old files may do.

    The standard (RFC 7946) allows longitude and latitude only.
    """
    text = _system_of(mapping)
    if text is not None:
        raise CubeError(
            f"GeoJSON is in longitude and latitude, this one says {text}; read it with "
            "geopandas.read_file, which knows its reference system, and pass the table."
        )
