"""Areas out of vector files as they are found: polygons count, the rest is told."""

import gzip
import json
import warnings
import zipfile
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pytest
import shapely
import xarray as xr
from shapely.geometry import GeometryCollection, MultiPolygon, Point, Polygon, box

import geobiomass as gb
from geobiomass.cube.areas import regions_of
from geobiomass.cube.region import Region
from geobiomass.sources.stac.area import grid_of
from geobiomass.tiles import Window

UTM = "EPSG:32635"
N = 64
WEST, NORTH = 500_000.0, 6_900_000.0
A = box(WEST, NORTH - 320, WEST + 320, NORTH)  # 32 x 32 pixels
B = box(WEST + 320, NORTH - 640, WEST + 640, NORTH - 320)
BOW = Polygon(
    [(WEST + x, NORTH + y) for x, y in [(0, 0), (320, -320), (320, 0), (0, -320)]]
)
WHOLE = Window(0, 0, N, N)


@pytest.fixture(scope="module")
def scene() -> xr.Dataset:
    import rioxarray  # noqa: F401  (the .rio accessor)

    agb = xr.DataArray(
        np.full((N, N), 100.0, np.float32),
        {
            "y": NORTH - 10 * np.arange(N) - 5.0,
            "x": WEST + 10 * np.arange(N) + 5.0,
        },
        ("y", "x"),
        "agb",
    )
    return agb.rio.write_crs(UTM).to_dataset()


def table(*shapes: Any, crs: Any = UTM, **columns: Any) -> geopandas.GeoDataFrame:
    return geopandas.GeoDataFrame(columns, geometry=list(shapes), crs=crs)


def pixels(scene: xr.Dataset, regions: Any, **given: Any) -> dict[str, int]:
    found = regions_of(scene, regions, **given)
    return {name: int(region.mask(WHOLE).sum()) for name, region in found}


DRIVERS = {
    "a.gpkg": "GPKG", "a.geojson": "GeoJSON", "a.shp": "ESRI Shapefile",
    "a.fgb": "FlatGeobuf", "a.kml": "KML", "a.gml": "GML",
}  # fmt: skip


def as_file(folder: Path, name: str) -> Path:
    degrees = name.endswith((".geojson", ".kml"))
    rows = table(A, name=["a"])
    rows = rows.to_crs(4326) if degrees else rows
    rows.to_file(folder / name, driver=DRIVERS[name])
    return folder / name


@pytest.mark.parametrize("name", list(DRIVERS))
def test_every_vector_file_is_an_area_everywhere(
    scene: xr.Dataset, tmp_path: Path, name: str
) -> None:
    path = as_file(tmp_path, name)
    assert list(pixels(scene, path).values()) == [1024]
    for given in (path, str(path), geopandas.read_file(path)):
        assert int(Region.of(given, scene).mask(WHOLE).sum()) == 1024
        grid = grid_of(given, 10, UTM, "EPSG:4326", None)
        assert grid.boundingbox.bbox == pytest.approx((*A.bounds,), abs=25)


def test_zipped_shapefiles_and_compressed_geojson(
    scene: xr.Dataset, tmp_path: Path
) -> None:
    as_file(tmp_path, "a.shp")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for each in tmp_path.glob("a.*"):
            if each.suffix != ".zip":
                archive.write(each, each.name)
    assert pixels(scene, tmp_path / "a.zip") == {"a": 1024}
    content = as_file(tmp_path, "a.geojson").read_bytes()
    (tmp_path / "b.geojson.gz").write_bytes(gzip.compress(content))
    assert pixels(scene, tmp_path / "b.geojson.gz") == {"a": 1024}


@pytest.mark.slow
def test_areas_in_memory(scene: xr.Dataset) -> None:
    degrees = table(A, name=["a"]).to_crs(4326)
    shape = degrees.geometry.iloc[0]
    for given in (
        A.bounds,
        np.array(A.bounds),
        list(A.bounds),
        table(A),
        table(A).geometry,
        degrees,
        shape,
        MultiPolygon([shape]),
        GeometryCollection([shape, Point(27, 62)]),
        shape.__geo_interface__,
        json.loads(degrees.to_json()),
        json.loads(degrees.to_json())["features"][0],
    ):
        assert int(Region.of(given, scene).mask(WHOLE).sum()) == 1024
        assert list(pixels(scene, given).values()) == [1024]


def test_several_layers_are_asked_about(scene: xr.Dataset, tmp_path: Path) -> None:
    path = tmp_path / "two.gpkg"
    table(A, name=["a"]).to_file(path, layer="parks")
    table(B, name=["b"]).to_file(path, layer="counties")
    with pytest.raises(gb.CubeError, match=r"several layers, \['parks', 'counties'\]"):
        pixels(scene, path)
    with pytest.raises(gb.CubeError, match="several layers"):
        Region.of(path, scene)
    assert pixels(scene, f"{path}|layername=counties") == {"b": 1024}
    assert pixels(scene, f"{path}|parks") == {"a": 1024}
    with pytest.raises(gb.CubeError, match=r"no layer 'towns', it has \['parks'"):
        pixels(scene, f"{path}|layername=towns")


@pytest.mark.parametrize(
    ("rows", "found", "counts", "said"),
    [
        (table(A, None, name=["a", "b"]), {"a": 1024}, {"empty": 1}, "1 without a"),
        (table(A, Polygon(), name=["a", "b"]), {"a": 1024}, {"empty": 1}, "1 without"),
        (table(A, Point(WEST, NORTH), B.exterior, name=["a", "p", "l"]), {"a": 1024},
         {"no area": 2}, "2 are points or lines"),
        (table(BOW, name=["x"]), {"x": 512}, {"repaired": 1}, "1 cross themselves"),
        (table(A, B, name=["a", None]), {"a": 1024, "unnamed 2": 1024}, {"unnamed": 1},
         "1 without a name"),
        (table(A, B, name=[None, None]), {"unnamed 1": 1024, "unnamed 2": 1024},
         {"unnamed": 2}, "2 without a name"),
        (table(A, B, name=["", np.nan]), {"unnamed 1": 1024, "unnamed 2": 1024},
         {"unnamed": 2}, "2 without a name"),
        (table(A, B, name=["a", "a"]), {"a": 2048}, {"joined": 1}, "1 have the name"),
    ],
)  # fmt: skip
def test_what_is_no_area_or_has_no_name_is_counted_and_told(
    scene: xr.Dataset, rows: Any, found: dict[str, int], counts: Any, said: str
) -> None:
    with pytest.warns(UserWarning, match=said):
        named = regions_of(scene, rows)
    assert {name: int(one.mask(WHOLE).sum()) for name, one in named} == found
    assert named.counts == counts
    collection = json.loads(rows.to_crs(4326).to_json())
    with pytest.warns(UserWarning, match=said):
        assert pixels(scene, collection) == found


def test_numbers_as_names_have_no_decimals(scene: xr.Dataset) -> None:
    with pytest.warns(UserWarning, match="1 without a name"):
        found = pixels(scene, table(A, B, id=[7, np.nan]), name="ID")
    assert found == {"7": 1024, "unnamed 2": 1024}


def test_good_regions_are_read_without_a_word(scene: xr.Dataset) -> None:
    hole = A.difference(box(WEST + 100, NORTH - 200, WEST + 200, NORTH - 100))
    high = shapely.force_3d(B, 5.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        assert pixels(scene, table(hole, high, name=["a", "b"])) == {
            "a": 924,
            "b": 1024,
        }
        assert pixels(scene, table(MultiPolygon([hole, B]), name=["m"])) == {"m": 1948}


@pytest.mark.parametrize("shape", [Point(WEST, NORTH), A.exterior, Polygon(), None])
def test_points_lines_and_nothing_have_no_area(scene: xr.Dataset, shape: Any) -> None:
    for given in (table(shape, name=["a"]), {"a": table(shape)}):
        with pytest.raises(gb.CubeError, match="must have at least one polygon"):
            pixels(scene, given)
    with pytest.raises(gb.CubeError, match="must have at least one polygon"):
        Region.of(table(shape), scene)


def test_what_is_not_an_area_is_refused(scene: xr.Dataset, tmp_path: Path) -> None:
    with pytest.raises(gb.CubeError, match=r"set_crs"):
        Region.of(table(A, crs=None), scene)
    with pytest.raises(
        gb.CubeError, match=r"in longitude and latitude, got coordinates"
    ):
        Region.of(A, scene)
    with pytest.raises(ValueError, match=r"got 'Finland', which is no file"):
        Region.of("Finland", scene)
    (tmp_path / "a.csv").write_text("lon,lat\n1,2\n")
    with pytest.raises(gb.CubeError, match=r"must have geometries to be an area"):
        Region.of(tmp_path / "a.csv", scene)
    (tmp_path / "a.geojson").write_text("{")
    with pytest.raises(gb.CubeError, match="must be GeoJSON"):
        Region.of(tmp_path / "a.geojson", scene)


def test_counts_stand_in_the_table_of_totals(scene: xr.Dataset) -> None:
    rng = np.random.default_rng(0)
    at = rng.integers(0, N, (2, 40))
    plots = geopandas.pd.DataFrame(
        {"x": scene["x"].values[at[0]], "y": scene["y"].values[at[1]], "agb": 110.0}
    )
    with pytest.warns(UserWarning, match="1 without a geometry"):
        found = gb.totals(
            scene, table(A, None), plots, estimator="difference", progress=False
        )
    assert found.attrs["regions"] == {"empty": 1}
    assert found["area"].item() == pytest.approx(10.25, rel=1e-3)
