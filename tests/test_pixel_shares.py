"""Shares of pixels in a region, against shapely's intersections."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st

from geobiomass.cube.pixel_shares import PixelOutline
from geobiomass.cube.region import Region
from geobiomass.tiles import Window

PLAIN = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)


def outline(*shapes: Any) -> PixelOutline:
    return PixelOutline(Region(tuple(map(shapely.geometry.mapping, shapes)), PLAIN))


def by_intersection(shape: Any, window: Window) -> np.ndarray:
    rows = np.arange(window.top, window.bottom)
    columns = np.arange(window.left, window.right)
    column, row = np.meshgrid(columns, rows)
    return shapely.area(
        shapely.intersection(shape, shapely.box(column, row, column + 1, row + 1))
    )


SHAPES = {
    "turned": shapely.affinity.rotate(shapely.box(2.3, 4, 11, 9.7), 33),
    "aligned": shapely.box(2, 3, 9, 12),
    "half pixels": shapely.box(2.5, 3.5, 9.5, 12.5),
    "hole": shapely.Point(8, 8).buffer(6).difference(shapely.Point(9, 7).buffer(2)),
    "tiny": shapely.box(4.1, 5.2, 4.3, 5.3),
    "beyond": shapely.Point(0, 0).buffer(6),
    "parts": shapely.MultiPolygon([shapely.box(0, 0, 3, 3.3), shapely.box(8, 8, 9, 9)]),
}


@pytest.mark.parametrize("name", list(SHAPES))
def test_shares_are_those_of_intersections(name: str) -> None:
    shape = SHAPES[name]
    for window in (Window(0, 0, 16, 16), Window(3, 5, 9, 12)):
        found = outline(shape).shares(window)
        np.testing.assert_allclose(found, by_intersection(shape, window), atol=2e-6)
    assert outline(shape).shares(Window(-20, -20, 40, 40)).sum() == pytest.approx(
        shape.area, rel=1e-6
    )


@given(
    st.lists(st.tuples(st.floats(-3, 15), st.floats(-3, 15)), min_size=3, max_size=9),
    st.integers(0, 6),
    st.integers(0, 6),
)
def test_any_polygon(points: list[tuple[float, float]], top: int, left: int) -> None:
    shape = shapely.MultiPoint(points).convex_hull
    if shape.geom_type != "Polygon":
        return
    window = Window(top, left, top + 7, left + 7)
    found = outline(shape).shares(window)
    np.testing.assert_allclose(found, by_intersection(shape, window), atol=5e-6)


def test_overlapping_parts_count_once() -> None:
    found = outline(shapely.box(0, 0, 4, 4), shapely.box(2, 2, 6, 6))
    assert found.shares(Window(0, 0, 8, 8)).sum() == pytest.approx(28)
    assert found.shares(Window(0, 0, 8, 8)).max() == 1.0


def test_a_point_on_a_border_is_in_one_of_two_regions() -> None:
    west, east = outline(shapely.box(0, 0, 4, 4)), outline(shapely.box(4, 0, 8, 4))
    column, row = np.array([4.0, 0.0, 8.0, 2.5]), np.array([2.0, 0.0, 2.0, 2.0])
    assert west.contains(column, row).tolist() == [False, True, False, True]
    assert east.contains(column, row).tolist() == [True, False, False, False]
