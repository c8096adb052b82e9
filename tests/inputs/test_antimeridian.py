"""Areas that touch or cross 180 degrees: just the area, as bounds and as polygons."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
import rioxarray  # noqa: F401  (the .rio accessor)
import xarray as xr
from shapely.geometry import MultiPolygon, Polygon, box, mapping

import geobiomass as gb
from geobiomass.cube.antimeridian import (
    box_of_shapes,
    boxes_touch,
    parts,
    wrapped,
)
from geobiomass.cube.region import Region
from geobiomass.sources.grid import make_grid
from geobiomass.sources.stac.area import grid_of, lonlat_box
from geobiomass.tiles import Window

SPLIT = MultiPolygon([box(179.95, -17.2, 180, -17), box(-180, -17.2, -179.95, -17)])
UNSPLIT = Polygon([(179.95, -17.2), (-179.95, -17.2), (-179.95, -17), (179.95, -17)])
FIJI = {
    "west above east": (179.95, -17.2, -179.95, -17.0),
    "east above 180": (179.95, -17.2, 180.05, -17.0),
    "west below -180": (-180.05, -17.2, -179.95, -17.0),
    "cut at 180, as RFC 7946 says": mapping(SPLIT),
    "a feature": {"type": "Feature", "properties": {}, "geometry": mapping(SPLIT)},
    "shapely": SPLIT,
    "two features": {
        "type": "FeatureCollection",
        "features": [
            {"type": "Feature", "properties": {}, "geometry": mapping(part)}
            for part in SPLIT.geoms
        ],
    },
    "not cut": mapping(UNSPLIT),
}
SYSTEMS = {"utm": 10.0, "EPSG:3832": 30.0, "EPSG:3460": 30.0, "EPSG:4326": 0.001}


@pytest.mark.parametrize("how", FIJI)
@pytest.mark.parametrize("crs", SYSTEMS)
def test_the_grid_covers_just_the_area(how: str, crs: str) -> None:
    """Case 14."""
    began = time.process_time()
    grid = grid_of(FIJI[how], SYSTEMS[crs], crs, "EPSG:4326", None)
    assert time.process_time() - began < 2
    west, south, east, north = lonlat_box(grid)
    assert west == pytest.approx(179.95, abs=0.005)
    assert east == pytest.approx(-179.95, abs=0.005)
    assert (south, north) == pytest.approx((-17.2, -17), abs=0.005)
    if crs == "utm":
        assert grid.crs.epsg in (32701, 32760)
        # 0.1 degrees of longitude at 17 degrees south are 10.6 km, 0.2 of latitude 22.
        assert tuple(grid.shape) == pytest.approx((2215, 1065), abs=50)


def test_an_area_that_touches_180_is_that_area() -> None:
    for bounds, edge in (
        ((179.9, -17, 180, -16.9), 2),
        ((-180, -17, -179.9, -16.9), 0),
    ):
        grid = make_grid(bounds, 0.001, "EPSG:4326")
        assert lonlat_box(grid) == pytest.approx(bounds)
        assert abs(lonlat_box(grid)[edge]) == 180
        utm = make_grid(bounds, 10)
        left, _, right, _ = lonlat_box(utm)
        assert (right - left) % 360 == pytest.approx(0.1, abs=0.01)


def test_what_is_no_area_across_180_is_refused() -> None:
    with pytest.raises(
        gb.CubeError, match=r"cross 180 degrees, where EPSG:3857 is cut"
    ):
        make_grid((179.95, -17.2, -179.95, -17.0), 10, "EPSG:3857")
    with pytest.raises(gb.CubeError, match=r"at most 180 degrees wide, got 360"):
        grid_of(mapping(box(-180, -60, 180, 80)), 10, "utm", "EPSG:4326", None)
    with pytest.raises(gb.CubeError, match=r"in degrees.*bounds_crs="):
        make_grid((500_000, 6_890_000, 510_000, 6_900_000))
    with pytest.raises(gb.CubeError, match=r"UTM has zones.*'EPSG:3031'"):
        make_grid((20, -85, 30, -84))
    with pytest.raises(gb.CubeError, match=r"south below north"):
        make_grid((179.95, -17.0, -179.95, -17.2))


def test_islands_far_apart_have_the_narrowest_box() -> None:
    islands = [mapping(box(170, -1, 171, 1)), mapping(box(-171, 0, -170, 2))]
    assert box_of_shapes(islands) == pytest.approx((170, -1, 190, 2))
    near = [mapping(box(-10, 0, -9, 1)), mapping(box(20, 0, 21, 1))]
    assert box_of_shapes(near) == (-10, 0, 21, 1)
    world = [mapping(box(-180, -90, 180, 90))]
    assert box_of_shapes(world) == (-180, -90, 180, 90)


def test_boxes_across_180_touch_their_neighbours() -> None:
    fiji = (179.9, -17, -179.9, -16)
    for lon, near in ((179.95, True), (-179.95, True), (0, False), (179, False)):
        other = (lon - 0.01, -16.5, lon + 0.01, -16.4)
        assert boxes_touch(fiji, other) is near
        assert boxes_touch(other, fiji) is near
    assert boxes_touch((-180, -90, 180, 90), fiji)
    assert not boxes_touch(fiji, (179.95, 10, 180, 11))
    assert parts(fiji) == [(179.9, -17, 180, -16), (-180, -17, -179.9, -16)]
    assert parts((1, 2, 3, 4)) == [(1, 2, 3, 4)]
    assert wrapped(179.9, -17, 180.1, -16) == pytest.approx(fiji)


def test_a_grid_around_a_pole_has_all_longitudes() -> None:
    from odc.geo.geobox import GeoBox

    grid = GeoBox.from_bbox((-1e6, -1e6, 1e6, 1e6), "EPSG:3413", resolution=10_000)
    west, south, east, north = lonlat_box(grid)
    assert (west, east, north) == (-180, 180, 90)
    assert 70 < south < 80


def test_a_search_asks_for_both_sides(monkeypatch: Any) -> None:
    from geobiomass.sources.stac import search
    from geobiomass.sources.stac.archives import ARCHIVES
    from geobiomass.sources.stac.period import parse_period

    asked = []

    class Client:
        @staticmethod
        def open(url: str, **_: Any) -> Client:
            return Client()

        def search(self, bbox: Any, **other: Any) -> Any:
            asked.append(bbox)
            return type("Search", (), {"pages_as_dicts": lambda self: []})()

    monkeypatch.setattr("pystac_client.Client", Client)
    period = parse_period("2023-06:2023-07")
    fiji = (179.9, -17.0, -179.9, -16.0)
    search.find_items("earth-search", ARCHIVES["earth-search"], fiji, period)
    assert asked == [(179.9, -17, 180, -16), (-180, -17, -179.9, -16)]


def test_an_items_box_across_180_is_narrow() -> None:
    import pystac

    from geobiomass.sources.stac.scene import _box

    when = datetime(2023, 6, 1, tzinfo=UTC)
    for bbox, geometry in (
        ([179.5, -17, -179.5, -16], None),
        ([-180, -17, 180, -16], mapping(SPLIT)),
        (None, mapping(SPLIT)),
    ):
        item = pystac.Item("a", geometry, bbox, None, {}, when, when)
        west, _, east, _ = _box(item)
        assert west > 179
        assert 180 < east < 181


# --- regions ------------------------------------------------------------------


def scene(crs: str, y: Any, x: Any) -> xr.Dataset:
    made = xr.Dataset({"agb": (("y", "x"), np.ones((len(y), len(x)), np.float32))})
    return made.assign_coords(y=y, x=x).rio.write_crs(crs)


@pytest.mark.parametrize("how", ["cut at 180, as RFC 7946 says", "not cut", "bounds"])
@pytest.mark.parametrize("west", [179.9, -180.1])
def test_a_region_across_180_is_on_a_scene_in_degrees(how: str, west: float) -> None:
    y, x = -16.955 - 0.01 * np.arange(30), west + 0.01 * (np.arange(20) + 0.5)
    data = scene("EPSG:4326", y, x)
    region = FIJI["west above east"] if how == "bounds" else FIJI[how]
    mask = Region.of(region, data).mask(Window(0, 0, 30, 20))
    assert mask.sum() == 10 * 20
    assert mask.any(axis=0).nonzero()[0].tolist() == list(range(5, 15))


def test_a_region_across_180_is_on_a_scene_in_metres() -> None:
    x, y = 810_000 + 100 * np.arange(250.0), 8_121_000 - 100 * np.arange(260.0)
    data = scene("EPSG:32760", y, x)
    whole = Window(0, 0, 260, 250)
    cut = Region.of(mapping(SPLIT), data).mask(whole)
    assert 22_000 < cut.sum() < 24_500  # 10.6 x 22.1 km
    whole_edges = Region.of(mapping(UNSPLIT), data).mask(whole)
    assert (whole_edges != cut).sum() <= 5  # edges are straight between corners


def test_a_region_at_minus_170_is_on_a_scene_of_0_to_360() -> None:
    data = scene("EPSG:4326", 20 - np.arange(40.0), np.arange(360.0) + 0.5)
    found = Region.of(mapping(box(-170, 0, -165, 5)), data).mask(Window(0, 0, 40, 360))
    assert found.any(axis=0).nonzero()[0].tolist() == list(range(190, 195))


def test_a_region_elsewhere_keeps_its_own_numbers() -> None:
    data = scene("EPSG:4326", 20 - np.arange(40.0), np.arange(30.0) + 0.5)
    shapes = Region.of(mapping(box(3, 1, 8, 5)), data).shapes
    assert len(shapes) == 1
    assert np.ptp(shapes[0]["coordinates"][0], axis=0).tolist() == [5, 4]
