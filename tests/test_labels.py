"""Labels of a scene: rasters, plots and footprints, and the labelled pixels."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from conftest import make_scene
from pyproj import Geod, Transformer
from raster_files import UTM, north_up, write_tif
from shapely.geometry import LineString, MultiPoint, Point, box

import geobiomass as gb

WEST, NORTH = 500_000, 5_600_000


@pytest.fixture
def cube() -> xr.Dataset:
    """A scene of 60 x 50 pixels of 10 m, without labels."""
    scene = make_scene(60, 50).drop_vars(["agb", "spatial_ref"])
    scene["y"] = NORTH - 10 * np.arange(60) - 5.0
    scene["x"] = WEST + 10 * np.arange(50) + 5.0
    return scene.rio.write_crs(UTM).rio.write_coordinate_system()


def labelled(cube: xr.Dataset) -> dict[tuple[int, int], float]:
    """Return row, column and value of the labelled pixels."""
    agb = cube["agb"].values
    return {(r, c): float(agb[r, c]) for r, c in np.argwhere(np.isfinite(agb)).tolist()}


def table(*rows: tuple[Any, float], crs: Any = UTM) -> geopandas.GeoDataFrame:
    shapes, values = zip(*rows, strict=True)
    return geopandas.GeoDataFrame({"agb": values}, geometry=list(shapes), crs=crs)


def at(row: float, column: float) -> Point:
    return Point(WEST + 10 * column, NORTH - 10 * row)


# --- plots and footprints ---


def test_points_label_the_pixel_that_contains_them(cube: xr.Dataset) -> None:
    plots = table(
        (at(3.2, 4.9), 10), (at(3.9, 4.1), 30), (at(0, 0), 7), (at(59.9, 49.9), 8)
    )
    made = gb.with_labels(cube, plots)
    assert labelled(made) == {(3, 4): 20, (0, 0): 7, (59, 49): 8}
    assert made["agb"].dtype == np.float32
    assert made["agb"].chunks is not None
    assert made["agb"].attrs["labelled_pixels"] == 3
    assert made["agb"].attrs["plots"] == 4
    assert made["agb"].attrs["units"] == "Mg/ha"
    assert "agb" not in cube


def test_a_footprint_labels_the_centres_within_its_radius(cube: xr.Dataset) -> None:
    # On the common corner of four pixels, 7.07 m from their centres.
    corner = gb.with_labels(cube, table((at(10, 20), 5)), radius=12.5)
    assert set(labelled(corner)) == {(9, 19), (9, 20), (10, 19), (10, 20)}
    middle = gb.with_labels(cube, table((at(10.5, 20.5), 5)), radius=12.5)
    assert set(labelled(middle)) == {(10, 20), (9, 20), (11, 20), (10, 19), (10, 21)}
    # Smaller than a pixel, without a centre: the pixel that contains it.
    small = gb.with_labels(cube, table((at(10.1, 20.1), 5)), radius=2)
    assert set(labelled(small)) == {(10, 20)}
    # Across the edge: only the pixels inside.
    edge = gb.with_labels(cube, table((at(-0.1, 20.5), 5)), radius=12.5)
    assert set(labelled(edge)) == {(0, 19), (0, 20), (0, 21)}


@pytest.mark.parametrize("crs", ["EPSG:4326", "EPSG:3857", "EPSG:3035"])
@pytest.mark.parametrize("radius", [12.5, 60.0])
def test_a_radius_is_metres_on_the_ground_in_any_crs(crs: str, radius: float) -> None:
    step = 0.0001 if crs == "EPSG:4326" else 10
    x, y = Transformer.from_crs("EPSG:4326", crs, always_xy=True).transform(15.0, 60.0)
    scene = make_scene(40, 40).drop_vars(["agb", "spatial_ref"])
    scene["y"] = y - step * (np.arange(40) - 20)
    scene["x"] = x + step * (np.arange(40) - 20)
    scene = scene.rio.write_crs(crs).rio.write_coordinate_system()
    lon, lat = 15.00003, 59.99996
    plots = pd.DataFrame({"lon": [lon], "lat": [lat], "agb": [9.0]})
    found = labelled(gb.with_labels(scene, plots, radius=radius))
    back = Transformer.from_crs(crs, "EPSG:4326", always_xy=True)
    columns, rows = np.meshgrid(scene["x"].values, scene["y"].values)
    coordinates = back.transform(columns.ravel(), rows.ravel())
    away = Geod(ellps="WGS84").inv(
        *coordinates, np.full(1600, lon), np.full(1600, lat)
    )[2]
    expected = {(int(i) // 40, int(i) % 40) for i in np.flatnonzero(away <= radius)}
    assert set(found) == expected
    assert len(expected) > 2


def test_polygons_label_the_centres_inside_or_their_middle(cube: xr.Dataset) -> None:
    plot = box(WEST + 100, NORTH - 230, WEST + 130, NORTH - 200)  # 3 x 3 pixels
    sliver = box(WEST + 201, NORTH - 304, WEST + 204, NORTH - 301)
    beyond = box(WEST - 50, NORTH - 20, WEST + 14, NORTH + 50)
    plots = table((plot, 10), (sliver, 20), (beyond, 30)).to_crs("EPSG:4326")
    found = labelled(gb.with_labels(cube, plots))
    square = {(row, column): 10 for row in (20, 21, 22) for column in (10, 11, 12)}
    assert found == square | {(30, 20): 20, (0, 0): 30, (1, 0): 30}
    touched = labelled(gb.with_labels(cube, table((plot, 10)), all_touched=True))
    assert set(square) <= set(touched)
    both = labelled(gb.with_labels(cube, table((plot, 10), (at(21.5, 11.5), 40))))
    assert both[21, 11] == 25
    assert both[20, 10] == 10
    many = MultiPoint([at(5.5, 5.5), at(5.6, 5.6), at(7.5, 7.5)])
    assert labelled(gb.with_labels(cube, table((many, 4)))) == {(5, 5): 4, (7, 7): 4}


@pytest.mark.parametrize("ending", [".gpkg", ".geojson", ".shp", ".csv"])
def test_labels_come_from_files(cube: xr.Dataset, tmp_path: Path, ending: str) -> None:
    plots = table((at(3.5, 4.5), 10), (at(5.5, 4.5), 30)).to_crs("EPSG:4326")
    path = tmp_path / f"plots{ending}"
    if ending == ".csv":
        coordinates = {"Longitude": plots.geometry.x, "Latitude": plots.geometry.y}
        pd.DataFrame({**coordinates, "agb": plots["agb"]}).to_csv(path, index=False)
    else:
        plots.to_file(path)
    assert labelled(gb.with_labels(cube, path)) == {(3, 4): 10, (5, 4): 30}


def test_impossible_labels_are_left_out_with_a_warning(cube: xr.Dataset) -> None:
    plots = table((at(3.5, 4.5), -9999), (at(5.5, 4.5), 30), (at(7.5, 4.5), np.nan))
    with pytest.warns(UserWarning, match=r"1 labels .* below 0, such as -9999"):
        made = gb.with_labels(cube, plots)
    assert labelled(made) == {(5, 4): 30}
    assert made["agb"].attrs["plots_below_minimum"] == 1
    assert made["agb"].attrs["plots_without_value"] == 1
    known = plots.dropna()
    quiet = gb.with_labels(cube, known, nodata=-9999)
    assert labelled(quiet) == {(5, 4): 30}
    assert quiet["agb"].attrs["plots_nodata"] == 1
    assert len(labelled(gb.with_labels(cube, known, minimum=None))) == 2
    away = table((at(5.5, 4.5), 30), (at(500, 4.5), 30))
    with pytest.warns(UserWarning, match="1 of 2 labels of the table are outside"):
        made = gb.with_labels(cube, away)
    assert made["agb"].attrs["plots_outside"] == 1


def columns(**values: Any) -> pd.DataFrame:
    return pd.DataFrame({name: [value] for name, value in values.items()})


@pytest.mark.parametrize(
    ("plots", "given", "said"),
    [
        (table((at(1, 1), 3)), {"column": "c"}, r"no column 'c'.*\['agb'\]"),
        (table((at(1, 1), 3), crs=None), {}, "must have a CRS, got none"),
        (table((at(1, 1), 3)), {"radius": 0}, "radius must be a positive"),
        (
            table((at(900, 1), 3)),
            {},
            r"None of 1 .* cube, which covers x .* cover x 500010",
        ),
        (table((at(1, 1), np.nan)), {}, "No row of the table"),
        (table((LineString([at(1, 1), at(2, 2)]), 3)), {}, "points or polygons"),
        (columns(agb=1), {}, "columns of coordinates, lon and lat"),
        (columns(x=1, y=1, agb=1), {}, "must have a CRS, got none"),
        (columns(lon=1, lat=1, agb="much"), {}, "got 'much' in row 0"),
        (columns(x=1, y=1, agb=1), {"crs": "EPSG:1"}, "got 'EPSG:1'"),
        ("none.gpkg", {}, "cannot be read"),
        ("none.csv", {}, "cannot be read"),
        ("none.tif", {}, "cannot be opened"),
        (3, {}, "must be a path"),
    ],
)
def test_invalid_labels_are_errors(
    cube: xr.Dataset, plots: Any, given: dict[str, Any], said: str
) -> None:
    with pytest.raises(gb.CubeError, match=said):
        gb.with_labels(cube, plots, **given)


def test_chips_and_scenes_without_a_crs_cannot_take_labels(chips: xr.Dataset) -> None:
    with pytest.raises(gb.CubeError, match="chips"):
        gb.with_labels(chips, table((at(1, 1), 3)))
    ungeoreferenced = make_scene().drop_vars("spatial_ref").drop_encoding()
    with pytest.raises(gb.CubeError, match=r"The cube must be .* with a CRS"):
        gb.with_labels(ungeoreferenced, table((at(1, 1), 3)))


# --- rasters ---


def test_a_raster_on_the_grid_is_copied_bit_for_bit(
    cube: xr.Dataset, tmp_path: Path
) -> None:
    values = np.random.default_rng(0).uniform(0, 300, (60, 50)).astype(np.float32)
    values[10:20] = -9999
    write_tif(tmp_path / "agb.tif", values, nodata=-9999)
    made = gb.with_labels(cube, tmp_path / "agb.tif")
    expected = np.where(values < 0, np.nan, values)
    np.testing.assert_array_equal(made["agb"], expected)
    assert made["agb"].attrs["labelled_pixels"] == 50 * 50
    array = xr.DataArray(
        values, {"y": cube["y"], "x": cube["x"]}, ("y", "x")
    ).rio.write_crs(UTM)
    part = array.isel(y=slice(5, 40), x=slice(3, 30))
    found = gb.with_labels(cube, part, nodata=-9999)["agb"].values
    np.testing.assert_array_equal(found[5:40, 3:30], expected[5:40, 3:30])
    assert np.isnan(found[40:]).all()


def test_finer_labels_are_averaged_and_coarser_ones_repeated(
    cube: xr.Dataset, tmp_path: Path
) -> None:
    fine = np.random.default_rng(0).uniform(0, 300, (240, 200)).astype(np.float32)
    fine[:8, :8] = np.nan
    write_tif(tmp_path / "fine.tif", fine, north_up(WEST, NORTH, 2.5), nodata=np.nan)
    found = gb.with_labels(cube, tmp_path / "fine.tif")["agb"].values
    means = fine.reshape(60, 4, 50, 4).mean(axis=(1, 3))
    np.testing.assert_allclose(found, means, rtol=1e-5)
    coarse = np.arange(30, dtype=np.float32).reshape(6, 5)
    write_tif(tmp_path / "coarse.tif", coarse, north_up(WEST, NORTH, 100))
    found = gb.with_labels(cube, tmp_path / "coarse.tif")["agb"].values
    np.testing.assert_array_equal(found, np.kron(coarse, np.ones((10, 10))))


def test_a_raster_elsewhere_empty_or_of_many_bands_is_an_error(
    cube: xr.Dataset, tmp_path: Path
) -> None:
    values = np.ones((2, 9, 9), np.float32)
    write_tif(tmp_path / "away.tif", values[0], north_up(0, 0, 10))
    with pytest.raises(
        gb.CubeError, match="overlap the cube, which covers x 500000 to 500500"
    ):
        gb.with_labels(cube, tmp_path / "away.tif")
    write_tif(tmp_path / "empty.tif", values[0] - 2, nodata=-1)
    with pytest.raises(gb.CubeError, match="must have labels within the cube"):
        gb.with_labels(cube, tmp_path / "empty.tif")
    write_tif(tmp_path / "two.tif", values, names=("mean", "sd"))
    with pytest.raises(gb.CubeError, match="one band called 'agb', got 0"):
        gb.with_labels(cube, tmp_path / "two.tif")
    made = gb.with_labels(cube, tmp_path / "two.tif", column="mean")
    assert made["agb"].attrs["labelled_pixels"] == 81


def test_a_wrong_nodata_tag_is_reported(data: Path, tmp_path: Path) -> None:
    folder = data / "hls_gedi_agb_texas"
    names = [f"band{index}" for index in range(1, 11)]
    cube = gb.from_rasters(
        folder / "regression_test_0_input.tif", bands=names, months=[7]
    )
    label = folder / "regression_test_0_label.tif"
    with pytest.warns(UserWarning, match=r"49930 labels .* most often -1 .*nodata=-1"):
        warned = gb.with_labels(cube, label)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*labels of")
        made = gb.with_labels(cube, label, nodata=-1)
    for each in (warned, made):
        agb = each["agb"].values
        assert np.isfinite(agb).sum() == each["agb"].attrs["labelled_pixels"] == 246
        assert 1.2 < np.nanmin(agb) < np.nanmax(agb) < 23.4
    gb.write_cube(made, tmp_path / "chip.zarr", "float32")
    back = gb.open_cube(tmp_path / "chip.zarr")
    np.testing.assert_array_equal(back["agb"], made["agb"])
