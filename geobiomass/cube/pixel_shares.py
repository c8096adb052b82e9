"""The share of each pixel that lies within a region, exactly; and points within it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from geobiomass.cube.region import Region
from geobiomass.tiles import Window

Numbers = npt.NDArray[np.float64]

_DIGITS = 6  # of pixel coordinates: edges a millionth of a pixel apart are one
_NUDGE = 1e-6  # pixels
_NOTHING = 1e-9  # of a pixel: rounding of sums along a row


@dataclass(frozen=True)
class PixelOutline:
    """The outline of a region in pixels of a map: columns and rows from its corner.

    Parts that overlap count once.

    Parameters
    ----------
    region : Region
        The region, in the reference system of the map.
    """

    region: Region

    @cached_property
    def shape(self) -> Any:
        """The union of the polygons, in pixel coordinates; it may be empty."""
        import shapely
        from affine import Affine

        inverse = ~Affine(*self.region.transform)
        parts = [shapely.geometry.shape(each) for each in self.region.shapes]

        def turned(points: Numbers) -> Numbers:
            x, y = points.T
            column = inverse.a * x + inverse.b * y + inverse.c
            row = inverse.d * x + inverse.e * y + inverse.f
            return np.round(np.column_stack([column, row]), _DIGITS)

        moved = shapely.transform(np.array(parts, object), turned)
        return shapely.normalize(shapely.union_all(shapely.make_valid(moved)))

    @cached_property
    def _edges(self) -> tuple[Numbers, Numbers]:
        """Start and end points of all edges, (edge, 2): holes turn the other way."""
        import shapely

        rings = shapely.get_rings(shapely.get_parts(self.shape))
        points, ring = shapely.get_coordinates(rings, return_index=True)
        joined = ring[1:] == ring[:-1]
        return points[:-1][joined], points[1:][joined]

    def shares(self, window: Window) -> Numbers:
        """Return the share of each pixel of a window in the region, (y, x), 0 to 1.

        It is exact for straight edges, by the areas that they enclose with the left
        edge of the window (as font rasterisers have it), and does not depend on the
        window.
        """
        height, width = window.height, window.width
        starts, ends = _split(*self._edges, window)
        # Pixels with an edge in them, and what all pixels to their right gain.
        middle = (starts + ends) / 2
        row = np.clip(np.floor(middle[:, 1]), 0, height - 1).astype(np.int64)
        column = np.clip(np.floor(middle[:, 0]), 0, width).astype(np.int64)
        rise = starts[:, 1] - ends[:, 1]
        right = np.clip(
            column + 1 - middle[:, 0], 0, 1
        )  # of the pixel, beyond the edge
        at = row * (width + 1) + column
        shape = (height, width + 1)
        size = height * (width + 1)
        part = np.bincount(at, rise * right, size).reshape(shape)
        rest = np.bincount(at, rise * (1 - right), size).reshape(shape)
        part[:, 1:] += rest[:, :-1]
        # All shells turn one way, as `normalize` has them: the sum has one sign.
        found = np.abs(np.cumsum(part, axis=1)[:, :width])
        found[found < _NOTHING] = 0.0
        found[found > 1 - _NOTHING] = 1.0
        return found

    def contains(self, columns: Numbers, rows: Numbers) -> npt.NDArray[np.bool_]:
        """Return whether points, in pixel coordinates, are within the region.

        A point on an edge belongs to the side to its right and below, as it belongs to
        that pixel: it is in one of two adjacent regions.
        """
        import shapely

        if self.shape.is_empty:
            return np.zeros(np.shape(columns), np.bool_)
        shapely.prepare(self.shape)
        inside = shapely.contains_xy(self.shape, columns + _NUDGE, rows + _NUDGE)
        return np.asarray(inside, np.bool_)


def _split(starts: Numbers, ends: Numbers, window: Window) -> tuple[Numbers, Numbers]:
    """Return edges cut at the lines between pixels, within the rows of a window.

    Coordinates count from its corner. What lies to its left or right is moved to its
    left or right edge, which changes no share within it.
    """
    corner = np.array([window.left, window.top], np.float64)
    starts, ends = starts - corner, ends - corner
    starts, ends = _within(starts, ends, 1, window.height)
    pieces = [_within(starts, ends, 0, window.width)]
    for side, edge in ((0, 0.0), (1, float(window.width))):
        low, high = (-np.inf, 0.0) if side == 0 else (float(window.width), np.inf)
        outer = _within(starts, ends, 0, high, low)
        for points in outer:
            points[:, 0] = edge
        pieces.append(outer)
    starts, ends = (np.concatenate(each) for each in zip(*pieces, strict=True))
    for axis in (0, 1):
        starts, ends = _cut(starts, ends, axis)
    return starts, ends


def _within(
    starts: Numbers, ends: Numbers, axis: int, high: float, low: float = 0.0
) -> tuple[Numbers, Numbers]:
    """Return the parts of edges whose coordinate is from `low` to `high`."""
    a, b = starts[:, axis], ends[:, axis]
    keep = (np.maximum(a, b) > low) & (np.minimum(a, b) < high)
    # An edge along a border is in the window to its right and below only.
    keep |= (a == b) & (a == low)
    starts, ends = starts[keep], ends[keep]
    a, step = starts[:, axis], ends[:, axis] - starts[:, axis]
    flat = step == 0
    safe = np.where(flat, 1.0, step)
    bounds = np.sort(np.stack([(low - a) / safe, (high - a) / safe]), axis=0)
    first = np.where(flat, 0.0, np.clip(bounds[0], 0, 1))[:, None]
    last = np.where(flat, 1.0, np.clip(bounds[1], 0, 1))[:, None]
    along = ends - starts
    return starts + first * along, starts + last * along


def _cut(starts: Numbers, ends: Numbers, axis: int) -> tuple[Numbers, Numbers]:
    """Return edges cut wherever a coordinate is a whole number."""
    a, b = starts[:, axis], ends[:, axis]
    low, high = np.minimum(a, b), np.maximum(a, b)
    first = np.floor(low) + 1
    count = np.maximum(np.ceil(high) - first, 0).astype(np.int64) + 1  # pieces
    which = np.repeat(np.arange(a.size), count)
    number = np.arange(which.size) - np.repeat(np.cumsum(count) - count, count)
    up = (b >= a)[which]
    inner = np.where(up, number, count[which] - 1 - number)

    def at(step: npt.NDArray[np.int64]) -> Numbers:
        line = first[which] + step
        span = np.where(b == a, 1.0, b - a)[which]
        return np.clip((line - a[which]) / span, 0, 1)[:, None]

    begins = at(np.where(up, inner - 1, inner))
    stops = at(np.where(up, inner, inner - 1))
    begins[number == 0] = 0.0
    stops[number == count[which] - 1] = 1.0
    along = (ends - starts)[which]
    return starts[which] + begins * along, starts[which] + stops * along
