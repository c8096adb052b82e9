"""Facts of a finished map for a STAC item: grid, layers, statistics, footprint."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from geobiomass.cube.claimed_size import driver_of
from geobiomass.cube.grid import transform_of
from geobiomass.cube.raster_errors import named_errors
from geobiomass.maps import describe_progress, in_one_state
from geobiomass.maps.geotiff import Statistics
from geobiomass.maps.opening import open_layers
from geobiomass.maps.raster_checksums import RasterChecksums

_SIDE = 1024  # pixels: a GeoTIFF is read at this size to find the values' bounds
_IN_MEMORY = 25_000_000  # pixels: a Zarr map up to this size is read as a whole
_POINTS = 20  # on each side of a footprint
_LAYER = {"data_type": "float32", "nodata": "nan"}


@dataclass(frozen=True)
class MapFacts:
    """The facts of a map that a STAC item contains.

    Parameters
    ----------
    code : str or None
        Code of the reference system, ``"EPSG:32635"``; None if EPSG does not list it.
    wkt : str
        The reference system as WKT2.
    shape : tuple of int
        Rows and columns.
    transform : tuple of float
        From columns and rows to coordinates, six numbers.
    bounds : tuple of float
        Left, bottom, right, top in the reference system.
    layers : tuple of dict
        Name, unit, data type, nodata and, if they are quickly read, statistics of
        each.
    valid : tuple of int
        Top, left, bottom, right of the bounding box of pixels with values, in pixels.
    """

    code: str | None
    wkt: str
    shape: tuple[int, int]
    transform: tuple[float, ...]
    bounds: tuple[float, float, float, float]
    layers: tuple[dict[str, Any], ...]
    valid: tuple[int, int, int, int]

    @property
    def geometry(self) -> dict[str, Any]:
        """The outline of the pixels with values, GeoJSON in longitude and latitude."""
        from shapely.geometry import mapping

        shape: dict[str, Any] = _as_lists(mapping(self._outline))
        return shape

    @property
    def bbox(self) -> list[float]:
        """West, south, east, north; west is larger than east across 180 degrees."""
        outline = self._outline
        if outline.geom_type == "Polygon":
            return [float(edge) for edge in outline.bounds]
        east, west = sorted(outline.geoms, key=lambda part: part.bounds[0])
        lower = min(east.bounds[1], west.bounds[1])
        upper = max(east.bounds[3], west.bounds[3])
        return [west.bounds[0], lower, east.bounds[2], upper]

    @property
    def _outline(self) -> Any:
        from pyproj import Transformer

        a, b, c, d, e, f = self.transform
        column, row = np.array(_ring(*self.valid)).T
        to = Transformer.from_crs(self.wkt, "OGC:CRS84", always_xy=True)
        x, y = a * column + b * row + c, d * column + e * row + f
        return _in_degrees(*to.transform(x, y))


def facts_of_map(path: Path) -> MapFacts:
    """Read the grid, layers and bounds of values of a finished map.

    Raises
    ------
    FileNotFoundError
        If there is no map.
    ValueError
        If it is not finished, contains chips or has no georeference.
    """
    if not path.exists():
        raise FileNotFoundError(f"There is no finished map at {path}.")
    return _of_raster(path) if path.is_file() else _of_zarr(path)


def _of_raster(path: Path) -> MapFacts:
    import rasterio

    checksums = RasterChecksums.of(path)
    with named_errors(path), rasterio.open(path, driver=driver_of(path)) as source:
        crs = _check_system(path, source.crs)
        step = max(1, math.ceil(max(source.shape) / _SIDE))
        small = (math.ceil(source.height / step), math.ceil(source.width / step))
        if checksums is not None:
            checksums.check_for(path, *small)
        # Overviews are means of finite pixels: one of them is enough for a value.
        seen = np.isfinite(source.read(1, out_shape=small))
        names = source.descriptions
        layers = [
            _layer(
                str(names[i - 1]), source.tags(i), _resolution(crs, source.transform)
            )
            for i in source.indexes
        ]
        return _facts(crs, source.transform, source.shape, seen, layers)


def _of_zarr(path: Path) -> MapFacts:
    return in_one_state(str(path), lambda: _of_finished(path))


def _of_finished(path: Path) -> MapFacts:
    import rioxarray  # noqa: F401  (the .rio accessor)

    state = describe_progress(path)
    if state is None or not state["finished"]:
        raise ValueError(f"{path} must be a finished map; make the same call again.")
    scene = open_layers(path)
    transform = transform_of(scene)
    crs = _check_system(path, scene.rio.crs if transform is not None else None)
    shape = scene.sizes["y"], scene.sizes["x"]
    seen: npt.NDArray[np.bool_] = np.ones((1, 1), bool)
    layers = []
    for number, (name, layer) in enumerate(scene.items()):
        tags = {key: str(value) for key, value in layer.attrs.items()}
        if shape[0] * shape[1] <= _IN_MEMORY:
            values = layer.values
            seen = np.isfinite(values) if number == 0 else seen
            statistics = Statistics()
            statistics.add(values)
            tags |= statistics.tags(values.size)
        layers.append(_layer(str(name), tags, _resolution(crs, transform)))
    return _facts(crs, transform, shape, seen, layers)


def _check_system(path: Path, crs: Any) -> Any:
    if crs is None:
        raise ValueError(
            f"{path} must have a reference system and a regular grid to be a STAC "
            "item, got none."
        )
    return crs


def _resolution(crs: Any, transform: Any) -> float | None:
    """Return the mean side of a pixel in metres, None in a geographic system."""
    if crs.is_geographic:
        return None
    side = math.sqrt(abs(transform.a * transform.e - transform.b * transform.d))
    return side * float(crs.linear_units_factor[1])


def _layer(
    name: str, tags: Mapping[str, str], resolution: float | None
) -> dict[str, Any]:
    layer: dict[str, Any] = {"name": name, **_LAYER}
    if tags.get("long_name"):
        layer["description"] = tags["long_name"]
    if tags.get("units"):
        layer["unit"] = tags["units"]
    if resolution is not None:
        layer["spatial_resolution"] = resolution
    named = {"MINIMUM": "minimum", "MAXIMUM": "maximum", "MEAN": "mean"}
    named |= {"STDDEV": "stddev", "VALID_PERCENT": "valid_percent"}
    found = {
        ours: float(tags[f"STATISTICS_{theirs}"])
        for theirs, ours in named.items()
        if f"STATISTICS_{theirs}" in tags
    }
    return layer | ({"statistics": found} if found else {})


def _facts(
    crs: Any,
    transform: Any,
    shape: tuple[int, int],
    seen: npt.NDArray[np.bool_],
    layers: list[dict[str, Any]],
) -> MapFacts:
    from rasterio.transform import array_bounds

    code = crs.to_epsg(confidence_threshold=100)
    return MapFacts(
        None if code is None else f"EPSG:{code}",
        crs.to_wkt(version="WKT2_2019"),
        (int(shape[0]), int(shape[1])),
        tuple(float(number) for number in transform[:6]),
        tuple(map(float, array_bounds(*shape, transform))),  # type: ignore[arg-type]
        tuple(layers),
        _box(seen, shape),
    )


# --- the outline --------------------------------------------------------------


def _box(
    seen: npt.NDArray[np.bool_], shape: tuple[int, int]
) -> tuple[int, int, int, int]:
    """Return the bounds of pixels with values from a smaller image; all if none has."""
    rows, columns = (np.flatnonzero(seen.any(axis=axis)) for axis in (1, 0))
    if not rows.size:
        return 0, 0, *shape
    down, across = (size / small for size, small in zip(shape, seen.shape, strict=True))
    return (
        math.floor(rows[0] * down),
        math.floor(columns[0] * across),
        min(shape[0], math.ceil((rows[-1] + 1) * down)),
        min(shape[1], math.ceil((columns[-1] + 1) * across)),
    )


def _ring(top: int, left: int, bottom: int, right: int) -> list[tuple[float, float]]:
    """Return points (column, row) along a box: its edges are curves in degrees."""
    corners = [(left, bottom), (right, bottom), (right, top), (left, top)]
    points = []
    for (x0, y0), (x1, y1) in zip(corners, [*corners[1:], corners[0]], strict=True):
        steps = np.arange(_POINTS) / _POINTS
        points += [(x0 + (x1 - x0) * t, y0 + (y1 - y0) * t) for t in steps]
    return points


def _in_degrees(lon: npt.NDArray[np.float64], lat: npt.NDArray[np.float64]) -> Any:
    """Return a polygon in degrees, two where it crosses 180 (RFC 7946, 3.1.9)."""
    from shapely import MultiPolygon, box, set_precision
    from shapely.affinity import translate
    from shapely.geometry import Polygon
    from shapely.geometry.polygon import orient

    lon = np.where(np.abs(lon) > 180, lon - 360 * np.sign(lon), lon)
    if np.abs(np.diff(lon)).max() <= 180:
        return orient(set_precision(Polygon(zip(lon, lat, strict=True)), 1e-7))
    eastward = np.where(lon < 0, lon + 360, lon)  # 0 to 360 degrees
    whole = set_precision(Polygon(zip(eastward, lat, strict=True)), 1e-7)
    west = whole.intersection(box(0, -90, 180, 90))
    east = translate(whole.intersection(box(180, -90, 360, 90)), -360)
    return MultiPolygon([orient(west), orient(east)])


def _as_lists(value: Any) -> Any:
    """Return coordinates as JSON lists."""
    if isinstance(value, Mapping):
        return {name: _as_lists(one) for name, one in value.items()}
    return [_as_lists(one) for one in value] if isinstance(value, tuple) else value
