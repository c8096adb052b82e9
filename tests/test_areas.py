import json
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pyproj
import pytest
import rioxarray  # noqa: F401  (the .rio accessor)
import shapely
import xarray as xr
from affine import Affine
from variants import variants

from geobiomass.cube import CubeError
from geobiomass.cube.areas import pixel_areas, pixel_size, regions_of
from geobiomass.tiles import Window

# Reference system, upper left corner, side of a pixel, pixels on a side, turn.
PLACES = {
    "UTM": ("EPSG:32633", 300_000, 6_700_000, 10, 3000, 0),
    "UTM, turned": ("EPSG:32633", 300_000, 6_700_000, 10, 64, 30),
    "UTM, large pixels": ("EPSG:32633", 300_000, 6_700_000, 3000, 64, 0),
    "UTM, 20 km": ("EPSG:32633", 200_000, 6_700_000, 20_000, 20, 0),
    "Finland": ("EPSG:3067", 500_000, 7_000_000, 10, 3000, 0),
    "Web Mercator at 60 N": ("EPSG:3857", 2e6, 8.4e6, 20, 2000, 0),
    "feet": ("EPSG:2272", 2.6e6, 3e5, 30, 1000, 0),
    "polar": ("EPSG:3413", 1e5, -2e6, 100, 500, 0),
    "around the pole": ("EPSG:3413", -1e5, 1e5, 1000, 200, 0),
    "degrees": ("EPSG:4326", 25, 61, 1e-4, 3000, 0),
    "tenths of degrees": ("EPSG:4326", 25, 61, 0.1, 60, 0),
    "degrees, turned": ("EPSG:4326", 25, 61, 0.01, 60, 20),
    "across the date line": ("EPSG:3832", 3.3e6, 7e6, 1000, 300, 0),
    "equal area": ("EPSG:6933", 2.4e6, 6.3e6, 100, 500, 0),
}


def scene(
    crs: str | None = "EPSG:32633",
    x: float = 300_000,
    y: float = 6_700_000,
    pixel: float = 10,
    size: int = 100,
    turn: float = 0,
) -> xr.Dataset:
    place = Affine.translation(x, y) @ Affine.rotation(turn) @ Affine.scale(pixel)
    place = place @ Affine.scale(1, -1)
    zeros = np.broadcast_to(np.float32(0), (size, size))
    made = xr.Dataset({"agb": (("y", "x"), zeros)})
    if not turn:
        steps = pixel * (np.arange(size) + 0.5)
        made = made.assign_coords(y=y - steps, x=x + steps)
    made = made if crs is None else made.rio.write_crs(crs)
    return made.rio.write_transform(place)


def hectares_of_polygon(data: xr.Dataset, row: int, column: int) -> float:
    """An independent reference: the geodesic area of a pixel's densified outline."""
    crs = pyproj.CRS.from_wkt(data.rio.crs.to_wkt())
    to_degrees = pyproj.Transformer.from_crs(crs, crs.geodetic_crs, always_xy=True)
    t, one = np.linspace(0, 1, 21), np.ones(21)
    columns = column + np.concatenate([t, one, 1 - t, 0 * t])
    rows = row + np.concatenate([0 * t, t, one, 1 - t])
    places = data.rio.transform() * (columns, rows)
    outline = shapely.Polygon(np.stack(to_degrees.transform(*places), axis=1))
    return abs(crs.get_geod().geometry_area_perimeter(outline)[0]) / 10_000


@variants("place", PLACES, quick=3)
def test_areas_are_those_of_the_pixels_polygons(place: str) -> None:
    data = scene(*PLACES[place])
    size = data.sizes["y"]
    for row in (0, size // 3, size - 1):
        for column in (0, size // 2, size - 1):
            window = Window(row, column, row + 1, column + 1)
            expected = hectares_of_polygon(data, row, column)
            np.testing.assert_allclose(pixel_areas(data, window), expected, rtol=2e-6)


@pytest.mark.parametrize("place", ["UTM", "Web Mercator at 60 N", "degrees"])
def test_areas_do_not_depend_on_the_window(place: str) -> None:
    data = scene(*PLACES[place])
    whole = pixel_areas(data, Window(0, 0, 1200, 1100))
    part = pixel_areas(data, Window(700, 390, 1150, 1001))
    assert part.shape == (450, 611)
    np.testing.assert_array_equal(part, whole[700:1150, 390:1001])


def test_a_whole_sphere_and_a_band_are_as_large_as_they_are() -> None:
    data = scene("EPSG:4326", -180, 90, 1, 360)
    areas = pixel_areas(data, Window(0, 0, 180, 360))
    assert areas.sum() == pytest.approx(51_006_562_172.4, rel=1e-9)  # WGS 84, hectares
    turned = scene("+proj=longlat +R=6371000 +no_defs", -180, 90, 1, 360)
    sphere = 4 * np.pi * 6_371_000**2 / 10_000
    areas = pixel_areas(turned, Window(0, 0, 180, 360))
    assert areas.sum() == pytest.approx(sphere, rel=1e-12)


def test_pixels_are_measured_on_the_ground() -> None:
    down, across = pixel_size(scene(*PLACES["Web Mercator at 60 N"]))
    assert (down, across) == pytest.approx((10.035, 10.052), abs=1e-3)
    data = scene("EPSG:4326", 25, 61, 1e-4, 3000)
    area = pixel_areas(data, Window(1500, 1500, 1501, 1501))[0, 0]
    assert np.prod(pixel_size(data)) / 10_000 == pytest.approx(area, rel=1e-5)


def test_axes_of_other_names_are_known() -> None:
    data = scene().rename(y="latitude", x="longitude")
    assert pixel_areas(data, Window(0, 0, 2, 3)).shape == (2, 3)


def test_what_has_no_place_is_refused() -> None:
    with pytest.raises(CubeError, match=r"write_crs"):
        pixel_size(scene(None))
    chips = scene().expand_dims(chip=3)
    with pytest.raises(CubeError, match=r"need a scene, got 3 chips"):
        pixel_areas(chips, Window(0, 0, 1, 1))
    beyond = scene("ESRI:54009", -1.8e7, 9e6, 90_000, 400)
    with pytest.raises(CubeError, match=r"is not defined"):
        pixel_areas(beyond, Window(0, 0, 10, 10))


# --- regions ---

SQUARE = shapely.box(300_100, 6_699_500, 300_300, 6_699_800)
OTHER = shapely.box(300_500, 6_699_100, 300_600, 6_699_200)
WHOLE = Window(0, 0, 100, 100)


def table(**columns: Any) -> Any:
    return geopandas.GeoDataFrame(
        columns, geometry=[SQUARE, OTHER], crs="EPSG:32633", index=["p", "q"]
    )


def pixels(found: list[tuple[str, Any]]) -> dict[str, int]:
    return {name: int(region.mask(WHOLE).sum()) for name, region in found}


def test_every_form_of_regions_gives_the_same_pixels(tmp_path: Path) -> None:
    data, both = scene(), {"a": 600, "b": 100}
    rows = table(name=["a", "b"])
    degrees = json.loads(rows.to_crs("EPSG:4326").to_json())
    rows.to_file(tmp_path / "regions.gpkg")
    (tmp_path / "regions.geojson").write_text(json.dumps(degrees))
    forms = [
        rows,
        tmp_path / "regions.gpkg",
        str(tmp_path / "regions.geojson"),
        {"a": SQUARE.bounds, "b": rows.geometry.iloc[[1]]},
        {"a": degrees["features"][0], "b": degrees["features"][1]["geometry"]},
    ]
    for form in forms:
        assert pixels(regions_of(data, form)) == both
    assert pixels(regions_of(data, SQUARE.bounds)) == {"region": 600}
    assert pixels(regions_of(data, None)) == {"region": 10_000}


def test_names_come_from_a_column_and_rows_of_one_name_are_one_region() -> None:
    data = scene()
    assert pixels(regions_of(data, table())) == {"p": 600, "q": 100}
    rows = table(owner=["x", "x"], county=[7, 8])
    with pytest.warns(UserWarning, match="1 have the name of another"):
        assert pixels(regions_of(data, rows, name="owner")) == {"x": 700}
    meant = regions_of(data, rows, name="owner", grouped=True)
    assert pixels(meant) == {"x": 700}
    assert pixels(regions_of(data, rows, name="county")) == {"7": 600, "8": 100}
    with pytest.raises(CubeError, match=r"no column 'onwer', they have"):
        regions_of(data, rows, name="onwer")


def test_a_region_beside_the_map_is_named() -> None:
    rows = table(name=["a", "b"])
    rows.loc["q", "geometry"] = shapely.box(0, 0, 1, 1)
    with pytest.raises(CubeError, match=r"1 of 2 regions.*'b'.*bounds in WGS 84 / UTM"):
        regions_of(scene(), rows)
    kept = regions_of(scene(), rows, missing="keep")
    assert pixels(kept) == {"a": 600, "b": 0}
    with pytest.raises(CubeError, match=r"2 of 2 regions"):
        regions_of(scene(x=0), rows, missing="keep")


def test_regions_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    data = scene()
    with pytest.raises(CubeError, match=r"set_crs"):
        regions_of(data, table().set_crs(None, allow_override=True))
    with pytest.raises(CubeError, match=r"Region 'a' cannot be read: .*got int"):
        regions_of(data, {"a": 5})
    with pytest.raises(CubeError, match=r"cannot be read"):
        regions_of(data, tmp_path / "none.geojson")
    with pytest.raises(CubeError, match=r"at least one region"):
        regions_of(data, {})
    old = {"type": "FeatureCollection", "features": [], "crs": {"properties": {}}}
    old["crs"] = {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::3067"}}
    with pytest.raises(CubeError, match=r"this one says urn:ogc:def:crs:EPSG::3067"):
        regions_of(data, old)
