"""Areas in longitude and latitude that touch or cross 180 degrees.

Longitudes are taken as continuous: such an area is west to east with an east above 180.
In answers and searches a box whose west is above its east crosses 180, as in RFC 7946
(5.2) and in STAC.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from geobiomass.cube.schema import CubeError

if TYPE_CHECKING:
    from odc.geo.geobox import GeoBox

Box = tuple[float, float, float, float]
Numbers = npt.NDArray[np.float64]

_POINTS = 200  # of a grid's outline, a side: enough for its curves in degrees


def continuous(west: float, east: float) -> tuple[float, float]:
    """Return longitudes that increase: a west far above east crosses 180 degrees.

    An area that would be wider than 180 degrees is left for the caller to refuse: its
    west and east are rather exchanged.
    """
    if west - east >= 180 and abs(west) <= 180 and abs(east) <= 180:
        return west, east + 360
    return west, east


def wrapped(west: float, south: float, east: float, north: float) -> Box:
    """Return a box with longitudes of -180 to 180; west is above east if it crosses."""
    if east - west >= 360:
        return -180.0, south, 180.0, north
    turns = np.floor((west + 180) / 360)
    west, east = west - 360 * turns, east - 360 * turns
    return float(west), south, float(east - 360 if east > 180 else east), north


def parts(box: Sequence[float]) -> list[Box]:
    """Return the one or two boxes, west below east, that a box consists of."""
    west, south, east, north = map(float, box)
    if west <= east:
        return [(west, south, east, north)]
    return [(west, south, 180.0, north), (-180.0, south, east, north)]


def boxes_touch(one: Sequence[float], other: Sequence[float]) -> bool:
    """Return whether two boxes in degrees touch or overlap, also across 180."""
    if one[1] > other[3] or other[1] > one[3]:
        return False
    (a, width), (b, length) = (
        (box[0], (box[2] - box[0]) if box[2] >= box[0] else box[2] - box[0] + 360)
        for box in (one, other)
    )
    if max(width, length) >= 360:
        return True
    return (b - a) % 360 <= width or (a - b) % 360 <= length


def box_around(grid: GeoBox) -> Box:
    """Return the box around a grid in degrees: west, south, east, north.

    It is as wide as the grid, also where it crosses 180 degrees: west is above east
    then. Around a pole it has all longitudes.
    """
    from pyproj import Transformer

    height, width = grid.shape
    t, one = np.linspace(0, 1, _POINTS + 1), np.ones(_POINTS + 1)
    columns = width * np.concatenate([t, one, 1 - t, 0 * t])
    rows = height * np.concatenate([0 * t, t, one, 1 - t])
    a = grid.affine
    x, y = a.a * columns + a.b * rows + a.c, a.d * columns + a.e * rows + a.f
    crs: Any = grid.crs
    if not crs.geographic:
        move = Transformer.from_crs(crs.proj, "EPSG:4326", always_xy=True)
        x, y = move.transform(x, y)
    known = np.isfinite(x) & np.isfinite(y)
    lon, lat = np.unwrap(np.asarray(x)[known], period=360), np.asarray(y)[known]
    south, north = float(lat.min()), float(lat.max())
    if abs(lon[-1] - lon[0]) > 180:  # the outline goes round a pole
        pole = (south, 90.0) if north > -south else (-90.0, north)
        return -180.0, pole[0], 180.0, pole[1]
    return wrapped(float(lon.min()), south, float(lon.max()), north)


def box_of_shapes(shapes: Iterable[Mapping[str, Any]]) -> Box:
    """Return the narrowest box around GeoJSON geometries in longitude and latitude.

    Parts that are cut at 180 degrees, as RFC 7946 wants it, and outlines that jump from
    180 to -180 are put together: the box is continuous, with an east above 180.

    Raises
    ------
    CubeError
        If there is no point.
    """
    spans, lows, highs = [], [], []
    for ring in _outlines(shapes):
        lon, lat = ring[:, 0], ring[:, 1]
        jumps = np.abs(np.diff(lon))
        if ((jumps > 180) & (jumps < 360 - 1e-9)).any():
            lon = np.unwrap(lon, period=360)
        spans.append((float(lon.min()), float(lon.max())))
        lows.append(float(lat.min()))
        highs.append(float(lat.max()))
    if not spans:
        raise CubeError("The area must have points, got an empty geometry.")
    west, east = min(a for a, _ in spans), max(b for _, b in spans)
    if east - west > 180:
        west, east = _narrowest(spans)
    return west, min(lows), east, max(highs)


def _narrowest(spans: list[tuple[float, float]]) -> tuple[float, float]:
    """Return the narrowest arc that contains all arcs of longitude."""
    if max(b - a for a, b in spans) >= 360 - 1e-9:
        return -180.0, 180.0
    begun = sorted(((a + 180) % 360, b - a) for a, b in spans)
    merged = [[begun[0][0], begun[0][0] + begun[0][1]]]
    for start, width in begun[1:]:
        if start <= merged[-1][1] + 1e-9:
            merged[-1][1] = max(merged[-1][1], start + width)
        else:
            merged.append([start, start + width])
    ends = [end for _, end in merged]
    starts = [start for start, _ in merged[1:]] + [merged[0][0] + 360]
    gaps = [start - end for start, end in zip(starts, ends, strict=True)]
    widest = int(np.argmax(gaps))
    if gaps[widest] <= 0:
        return -180.0, 180.0
    west = starts[widest] % 360 - 180
    return west, west + 360 - gaps[widest]


def _outlines(shapes: Iterable[Mapping[str, Any] | None]) -> Iterator[Numbers]:
    """Yield the points of each ring, line or point, (point, 2)."""
    for shape in shapes:
        if shape is None:
            continue
        if shape.get("type") == "GeometryCollection":
            yield from _outlines(shape["geometries"])
        else:
            yield from _rings(shape.get("coordinates", ()))


def _rings(nested: Any) -> Iterator[Numbers]:
    if not len(nested):
        return
    first = nested[0]
    if not np.ndim(first):  # a point
        yield np.asarray(nested, np.float64)[None, :2]
    elif not np.ndim(first[0]):
        yield np.array([point[:2] for point in nested], np.float64)
    else:
        for part in nested:
            yield from _rings(part)


def box_of_boxes(boxes: Iterable[Box]) -> Box:
    """Return the narrowest box around boxes, continuous, with an east above 180."""
    shapes = []
    for west, south, east, north in boxes:
        west, east = continuous(west, east)
        shapes.append({"coordinates": [(west, south), (east, north)]})
    return box_of_shapes(shapes)


def beside(shape: Mapping[str, Any], bounds: Box) -> Iterator[Mapping[str, Any]]:
    """Yield a geometry in degrees as often as it meets bounds, a turn apart.

    So a part at -179.9 is found on a scene whose longitudes go on to 180.1, or from 0
    to 360. A geometry that meets the bounds nowhere is yielded as it is.
    """
    import shapely
    from shapely.geometry import mapping
    from shapely.geometry import shape as as_shapely

    inside = bounds[0] >= -180 and bounds[2] <= 180
    area = as_shapely(shape)
    if not inside:  # an outline that jumps from 180 to -180 goes on to 180.1
        area = shapely.transform(area, _without_jumps)
    met = False
    for turn in (0.0, 360.0, -360.0):
        west, _, east, _ = area.bounds
        if not (west + turn < bounds[2] and east + turn > bounds[0]):
            continue
        met = True
        if turn == 0 and inside:
            yield shape
        else:
            yield mapping(shapely.transform(area, _turned(turn)))
    if not met:
        yield shape


def turned_near(shapes: npt.NDArray[Any], bounds: Box) -> npt.NDArray[Any]:
    """Return geometries in degrees, each on the turn of longitude that meets bounds.

    So a plot at -179.9 is at 180.1 on a scene whose longitudes go on to 181, and one
    at 200 is at -160. Geometries that meet the bounds as they are, or nowhere, stay.
    """
    import shapely

    made = np.array(shapes, object)
    west, _, east, _ = shapely.bounds(made).T
    apart = ~((west <= bounds[2]) & (east >= bounds[0]))
    for turn in (360.0, -360.0):
        meets = (west + turn <= bounds[2]) & (east + turn >= bounds[0])
        if (mine := apart & meets).any():
            made[mine] = shapely.transform(made[mine], _turned(turn))
            apart &= ~mine
    return made


def _turned(turn: float) -> Callable[[Numbers], Numbers]:
    return lambda points: points + np.array([turn, 0.0])


def _without_jumps(points: Numbers) -> Numbers:
    jumps = np.abs(np.diff(points[:, 0]))
    if not ((jumps > 180) & (jumps < 360 - 1e-9)).any():
        return points
    return np.column_stack([np.unwrap(points[:, 0], period=360), points[:, 1]])


def check_continuous(outline: Any, crs: Any, bounds: Sequence[float]) -> None:
    """Check that a projected outline is not torn where a reference system is cut.

    Raises
    ------
    CubeError
        If it is: such systems (EPSG:3857, EPSG:6933) are cut at 180 degrees.
    """
    points = np.asarray(outline.exterior.coords, np.float64)
    steps = np.hypot(*np.diff(points[:, :2], axis=0).T)
    if steps.max() > 100 * np.median(steps[steps > 0]):
        raise CubeError(
            f"bounds {tuple(bounds)} cross 180 degrees, where {crs} is cut; choose "
            "another crs, such as 'utm'."
        )
