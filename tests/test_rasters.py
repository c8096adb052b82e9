"""Cubes from raster files: their pixels, their months, their grid."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import rasterio
import xarray as xr
from affine import Affine
from odc.geo.geobox import GeoBox
from pyproj import Transformer
from raster_files import UTM, draw, north_up, write_tif
from rasterio.enums import Resampling
from rasterio.errors import NotGeoreferencedWarning
from rasterio.warp import reproject
from variants import variants

import geobiomass as gb
from geobiomass.sources.rasters.headers import choose_overview
from geobiomass.sources.rasters.read_block import Layer, read_block

BANDS = ("B02", "B03", "B04")


def image(cube: xr.Dataset) -> np.ndarray:
    return cube["image"].values


# --- pixels and bands ---


@pytest.mark.slow
def test_one_file_per_month_is_copied_bit_for_bit(tmp_path: Path) -> None:
    stored = {
        month: write_tif(
            tmp_path / f"S2_2020-{month:02d}.tif", draw((3, 300, 270), month),
            names=BANDS, nodata=0, tiled=True, blockxsize=128, blockysize=128,
        )
        for month in (11, 12)
    }  # fmt: skip
    stored[1] = draw((3, 300, 270), 1)
    stored[1][:, :5] = 0
    write_tif(tmp_path / "S2_2021-01.tif", stored[1], names=BANDS, nodata=0)
    cube = gb.from_rasters(tmp_path / "S2_{year}-{month}.tif")
    assert cube["month"].values.tolist() == [11, 12, 1]
    assert tuple(cube["band"].values) == BANDS
    assert cube["image"].chunks is not None
    assert cube.rio.crs.to_epsg() == 32633
    assert cube.rio.bounds() == (500_000, 5_597_000, 502_700, 5_600_000)
    for at, month in enumerate((11, 12, 1)):
        expected = np.where(stored[month] == 0, np.nan, stored[month].astype(float))
        np.testing.assert_array_equal(image(cube)[at], expected)
    # The same as a cube on disk, which write_cube writes block by block.
    gb.write_cube(cube, tmp_path / "scene.zarr")
    back = gb.open_cube(tmp_path / "scene.zarr")
    np.testing.assert_array_equal(image(back), image(cube))


def test_one_file_per_band_in_any_order(tmp_path: Path) -> None:
    for month in (6, 7):
        for number, band in enumerate(BANDS):
            write_tif(
                tmp_path / f"T33_2020{month:02d}15T1021_{band}.tif",
                np.full((20, 30), 10 * month + number, np.uint16),
            )
    pattern = tmp_path / "T33_{date}T{any}_{band}.tif"
    cube = gb.from_rasters(pattern, bands=["B04", "B02"])
    assert image(cube)[:, :, 0, 0].tolist() == [[62, 60], [72, 70]]
    renamed = gb.from_rasters(pattern, bands={"B03": "green"}, months=[7, 8])
    assert renamed["band"].values.tolist() == ["green"]
    assert renamed["month"].values.tolist() == [7, 8]
    assert (image(renamed)[0] == 71).all()
    assert np.isnan(image(renamed)[1]).all()  # a month without a file is missing


def test_a_table_with_a_band_for_all_months(tmp_path: Path) -> None:
    values = {
        name: write_tif(tmp_path / "in" / f"{name}.tif", draw((12, 9), at))
        for at, name in enumerate(("may", "june", "hills"))
    }
    table = pd.DataFrame(
        {
            "path": ["in/may.tif", "in/june.tif", "in/hills.tif"],
            "month": ["May", 6, None],
            "band": ["B08", "B08", "elevation"],
        }
    )
    table.to_csv(tmp_path / "files.csv", index=False)
    cube = gb.from_rasters(tmp_path / "files.csv")
    assert cube["month"].values.tolist() == [5, 6]
    for at, name in enumerate(("may", "june")):
        np.testing.assert_array_equal(image(cube)[at, 0], values[name])
        np.testing.assert_array_equal(image(cube)[at, 1], values["hills"])
    table["path"] = [str(tmp_path / path) for path in table["path"]]
    xr.testing.assert_identical(gb.from_rasters(table).load(), cube.load())


def test_two_patterns_two_years_and_folders_of_dates(tmp_path: Path) -> None:
    for year, day in ((2019, 200), (2020, 200), (2020, 20)):
        write_tif(
            tmp_path / f"{year}" / f"{day:03d}" / "VV.tif",
            np.full((4, 4), year + day, np.float32),
        )
    write_tif(tmp_path / "terrain.tif", np.full((1, 4, 4), 5, "u1"), names=["slope"])
    by_day = tmp_path / "{date:%Y/%j}" / "{band}.tif"
    cube = gb.from_rasters([by_day, tmp_path / "terrain.tif"])
    assert cube["month"].values.tolist() == [7, 1, 7]
    assert cube["band"].values.tolist() == ["VV", "slope"]
    assert image(cube)[:, 0, 0, 0].tolist() == [2219, 2040, 2220]
    assert (image(cube)[:, 1] == 5).all()
    july = gb.from_rasters(by_day, months=[7])
    assert image(july)[:, 0, 0, 0].tolist() == [2219, 2220]


def test_the_first_tile_with_a_value_wins(tmp_path: Path) -> None:
    west = draw((2, 20, 20), 1)
    west[0, :, 15:] = 0
    east = draw((2, 20, 20), 2)
    write_tif(tmp_path / "a_07.tif", west, names=BANDS[:2], nodata=0)
    write_tif(
        tmp_path / "b_07.tif", east, north_up(500_100, 5_600_000, 10),
        names=BANDS[:2], nodata=0,
    )  # fmt: skip
    cube = gb.from_rasters(tmp_path / "{any}_{month}.tif")
    both = image(cube)[0]
    assert both.shape == (2, 20, 30)
    np.testing.assert_array_equal(both[1, :, :20], west[1])
    np.testing.assert_array_equal(both[0, :, :15], west[0, :, :15])
    np.testing.assert_array_equal(both[0, :, 15:], east[0, :, 5:])
    np.testing.assert_array_equal(both[1, :, 20:], east[1, :, 10:])


@pytest.mark.parametrize(
    ("profile", "given", "missing"),
    [
        ({"nodata": 7}, {}, 7),
        ({"nodata": 7}, {"nodata": 9}, 9),  # the tag is wrong
        ({}, {"nodata": {"B02": 9}}, 9),
        ({}, {}, None),
    ],
)
def test_marks_of_missing_pixels(
    tmp_path: Path, profile: dict[str, Any], given: dict[str, Any], missing: int | None
) -> None:
    values = np.arange(24, dtype=np.int16).reshape(4, 6)
    write_tif(tmp_path / "B02_07.tif", values, **profile)
    cube = gb.from_rasters(tmp_path / "{band}_{month}.tif", **given)
    np.testing.assert_array_equal(np.isnan(image(cube)[0, 0]), values == missing)


def test_alpha_and_infinity_are_missing_and_scales_are_applied(tmp_path: Path) -> None:
    values = np.stack([np.full((4, 4), 8), np.full((4, 4), 255)]).astype(np.uint8)
    values[1, 1, 1] = 0
    path = tmp_path / "B02_3.tif"
    write_tif(path, values, ALPHA="YES")
    infinite = np.full((4, 4), 8, np.float32)
    infinite[0, 0] = -np.inf  # the logarithm of 0
    write_tif(tmp_path / "VV_3.tif", infinite)
    for name, extra in ((path, (1,)), (tmp_path / "VV_3.tif", ())):
        with rasterio.open(name, "r+") as file:
            file.scales, file.offsets = (0.5, *extra), (-20, *(0 for _ in extra))
    cube = gb.from_rasters(tmp_path / "{band}_{month}.tif")
    with pytest.warns(UserWarning, match=r"VV -inf \(1 pixels\)"):
        found = image(cube)[0]
    assert found.shape == (2, 4, 4)
    assert np.argwhere(np.isnan(found)).tolist() == [[0, 1, 1], [1, 0, 0]]
    assert np.nanmin(found) == np.nanmax(found) == -16
    stored = gb.from_rasters(path, bands=["B02"], months=[3], scale=1, offset=0)
    assert np.nanmin(image(stored)) == np.nanmax(image(stored)) == 8


# --- reprojecting ---


def _turned(x: float, y: float, step: float) -> Affine:
    """Return the transform of pixels that are rotated by 30 degrees."""
    return Affine.translation(x, y) @ Affine.rotation(30) @ Affine.scale(step, -step)


def test_nearest_is_the_pixel_that_contains_the_centre(tmp_path: Path) -> None:
    source = north_up(500_000, 5_600_000, 10)
    stored = write_tif(tmp_path / "B02_1.tif", draw((400, 400)), source, "EPSG:32632")
    cube = gb.from_rasters(
        tmp_path / "{band}_{month}.tif", crs=UTM, resolution=10, resampling="nearest"
    )
    x, y = np.meshgrid(cube["x"].values, cube["y"].values)
    # pyproj for every pixel: no approximation.
    back = Transformer.from_crs(UTM, "EPSG:32632", always_xy=True)
    columns, rows = ~source @ np.array(back.transform(x, y))
    inside = (columns > 0) & (rows > 0) & (columns < 400) & (rows < 400)
    expected = np.full(x.shape, np.nan, np.float32)
    expected[inside] = stored[rows[inside].astype(int), columns[inside].astype(int)]
    assert cube.sizes["x"] > 400
    np.testing.assert_array_equal(image(cube)[0, 0], expected)


@variants("method", ["bilinear", "average", "cubic"], quick=1)
@pytest.mark.parametrize(
    ("transform", "crs"),
    [
        (north_up(500_000, 5_600_000, 10), "EPSG:32632"),
        (_turned(33_000, 5_610_000, 10), UTM),
        (north_up(9.0, 50.5, 0.0001), "EPSG:4326"),
    ],
    ids=["zone", "rotated", "geographic"],
)  # fmt: skip
def test_reprojecting_agrees_with_rasterio(
    tmp_path: Path, transform: Affine, crs: str, method: str
) -> None:
    smooth = np.add.outer(np.arange(300.0), 2 * np.arange(320.0)).astype(np.float32)
    write_tif(tmp_path / "B02_1.tif", smooth, transform, crs)
    cube = gb.from_rasters(
        tmp_path / "{band}_{month}.tif", crs=UTM, resolution=20, resampling=method
    )
    expected = np.full((cube.sizes["y"], cube.sizes["x"]), np.nan, np.float32)
    reproject(
        smooth, expected, src_transform=transform, src_crs=crs,
        dst_transform=cube.rio.transform(), dst_crs=UTM, dst_nodata=np.nan,
        resampling=Resampling[method],
    )  # fmt: skip
    found = image(cube)[0, 0]
    both = np.isfinite(found) & np.isfinite(expected)
    assert both.mean() > 0.3
    assert np.mean(np.isfinite(found) != np.isfinite(expected)) < 0.01
    # GDAL's default is wrong by up to 0.125 pixels; a pixel is 1 to 2 units here.
    inner = both & np.isfinite(np.roll(expected, 3, 0) + np.roll(expected, -3, 0))
    inner &= np.isfinite(np.roll(expected, 3, 1) + np.roll(expected, -3, 1))
    assert np.abs(found - expected)[inner].max() < 0.6


def test_blocks_of_a_reprojected_file_have_no_seams(tmp_path: Path) -> None:
    import odc.geo.xr  # noqa: F401  (the .odc accessor)

    write_tif(tmp_path / "B02_1.tif", draw((300, 300)), None, "EPSG:32632", nodata=7)
    cube = gb.from_rasters(
        tmp_path / "{band}_{month}.tif", crs=UTM, resolution=7.5, resampling="bilinear"
    )
    assert cube["image"].data.numblocks[2:] == (2, 2)
    with rasterio.open(tmp_path / "B02_1.tif") as file:
        box = GeoBox.from_rio(file)
    layer = Layer(str(tmp_path / "B02_1.tif"), 1, box, "B02", "bilinear")
    whole = read_block([layer], ["B02"], cube.odc.geobox)[0]
    np.testing.assert_allclose(image(cube)[0, 0], whole, rtol=1e-5)


def test_much_coarser_grids_read_overviews(tmp_path: Path) -> None:
    path = tmp_path / "B02_1.tif"
    fine = np.add.outer(np.arange(512.0), np.arange(512.0)).astype(np.float32)
    write_tif(path, fine, tiled=True, blockxsize=128, blockysize=128)
    with rasterio.open(path, "r+") as file:
        file.build_overviews([2, 4, 8], Resampling.average)
    cube = gb.from_rasters(
        tmp_path / "{band}_{month}.tif", resolution=160, resampling="average"
    )
    expected = fine.reshape(32, 16, 32, 16).mean(axis=(1, 3))
    np.testing.assert_allclose(image(cube)[0, 0], expected, rtol=1e-6)
    with rasterio.open(path) as file:
        box = GeoBox.from_rio(file)
    layer = Layer(str(path), 1, box, "B02", "average")
    chosen = {
        step: choose_overview(layer, box.zoom_out(step)).overview
        for step in (1, 3, 4, 9, 16)
    }
    # Of the overviews 2, 4 and 8, the coarsest that is at most half as coarse.
    assert chosen == {1: None, 3: None, 4: 0, 9: 1, 16: 2}
    sampled = dataclasses.replace(layer, resampling="nearest")
    assert choose_overview(sampled, box.zoom_out(16)).overview is None


# --- the grid ---


def test_grids_by_bounds_by_another_cube_and_of_the_finest_file(tmp_path: Path) -> None:
    write_tif(tmp_path / "B02_1.tif", draw((40, 40)))
    write_tif(tmp_path / "B05_1.tif", draw((30, 30)), north_up(499_900, 5_600_100, 20))
    pattern = tmp_path / "{band}_{month}.tif"
    cube = gb.from_rasters(pattern)
    assert cube.rio.bounds() == (499_900, 5_599_500, 500_500, 5_600_100)
    assert cube.rio.resolution() == (10, -10)
    west = gb.from_rasters(
        pattern, bounds=(499_900, 5_599_805, 500_093, 5_600_000), bounds_crs=UTM
    )
    assert west.rio.bounds() == (499_900, 5_599_800, 500_100, 5_600_000)
    inside = cube.sel(x=slice(499_900, 500_100), y=slice(5_600_000, 5_599_800))
    np.testing.assert_array_equal(image(west)[:, 0], image(inside)[:, 0])
    np.testing.assert_allclose(image(west), image(inside), rtol=1e-5)
    again = gb.from_rasters(pattern, like=west)
    np.testing.assert_array_equal(image(again), image(west))
    assert again["x"].equals(west["x"])
    utm = gb.from_rasters(pattern, crs="utm", resolution=20)
    assert utm.rio.crs.to_epsg() == 32633


@pytest.mark.slow
def test_nested_pixels_of_sentinel_2_come_exactly_onto_one_grid(data: Path) -> None:
    folder = data / "s2_l1c_multires_jp2"
    pattern = folder / "T33UUU_{date}T{any}_{band}.jp2"
    cube = gb.from_rasters(pattern, resampling="nearest")
    assert cube.sizes == {"month": 1, "band": 13, "y": 768, "x": 1536}
    assert cube["month"].values.tolist() == [2]
    assert cube.rio.resolution() == (10, -10)
    assert cube.rio.bounds() == (330_000, 5_814_360, 345_360, 5_822_040)
    cube = cube.load()
    for band in cube["band"].values:
        with rasterio.open(folder / f"T33UUU_20170216T102101_{band}.jp2") as file:
            coarse = file.read(1)
        times = 768 // coarse.shape[0]
        expected = coarse.repeat(times, axis=0).repeat(times, axis=1)
        np.testing.assert_array_equal(cube["image"].sel(band=band).values[0], expected)


# --- problems ---


def test_all_problems_are_reported_at_once(tmp_path: Path) -> None:
    write_tif(tmp_path / "S2_01.tif", draw((2, 4, 4)), names=BANDS[:2])
    write_tif(tmp_path / "S2_13.tif", draw((2, 4, 4)), names=BANDS[:2])
    write_tif(tmp_path / "S2_03.tif", draw((2, 4, 4)))
    write_tif(tmp_path / "S2_04.tif", draw((2, 4, 4)), names=("B02", "B02"))
    with pytest.warns(NotGeoreferencedWarning):
        write_tif(tmp_path / "S2_05.tif", draw((2, 4, 4)), Affine.identity(), None)
    (tmp_path / "S2_06.tif").write_bytes(b"no raster")
    (tmp_path / "readme.txt").write_text("not meant")
    with pytest.raises(gb.CubeError) as caught:
        gb.from_rasters(tmp_path / "S2_{month}.tif")
    message = str(caught.value)
    for file, problem in {
        "S2_13.tif": "got '13'",
        "S2_03.tif": "have no names",
        "S2_04.tif": "['B02'] twice",
        "S2_05.tif": "no georeference",
        "S2_06.tif": "cannot be opened",
    }.items():
        (line,) = (line for line in message.splitlines() if file in line)
        assert problem in line
    assert "5 of the files" in message
    assert "S2_01" not in message


@pytest.mark.parametrize(
    ("pattern", "given", "said"),
    [
        ("none_{month}.tif", {}, "No file matches"),
        ("B02_{moon}.tif", {}, "Fields of a pattern"),
        ("", {}, "is a folder"),
        ("B02_7.tif", {"bands": ["B02"]}, "contain no month"),
        (
            "{band}_{month}.tif",
            {"bands": ["B12"]},
            r"\['B12'\]; the files have \['B02'",
        ),
        ("{band}_{month}.tif", {"months": [0]}, "months must be whole numbers"),
        ("{band}_{month}.tif", {"resampling": "best"}, "resampling must be"),
        ("{band}_{month}.tif", {"damaged": "maybe"}, "damaged must be"),
        ("{band}_{month}.tif", {"crs": "EPSG:3035"}, "resolution must be given"),
        ("{band}_{month}.tif", {"crs": "EPSG:1", "resolution": 1}, "crs must be"),
        ("{any}_{month}.tif", {"bands": ["a", "b"]}, "have no names"),
    ],
)
def test_unreadable_input_is_an_error(
    tmp_path: Path, pattern: str, given: dict[str, Any], said: str
) -> None:
    write_tif(tmp_path / "B02_7.tif", draw((4, 4)))
    with pytest.raises(gb.CubeError, match=said):
        gb.from_rasters(tmp_path / pattern, **given)


def test_files_in_two_crs_need_a_choice(tmp_path: Path) -> None:
    write_tif(tmp_path / "B02_1.tif", draw((9, 9)))
    write_tif(tmp_path / "B02_2.tif", draw((9, 9)), None, "EPSG:32632")
    with pytest.raises(gb.CubeError, match="2 different CRSs"):
        gb.from_rasters(tmp_path / "{band}_{month}.tif")


def test_a_file_that_breaks_later_is_named_or_left_out(tmp_path: Path) -> None:
    path = tmp_path / "B02_2.tif"
    for month in (1, 2):
        write_tif(tmp_path / f"B02_{month}.tif", draw((64, 64)))
    strict = gb.from_rasters(tmp_path / "{band}_{month}.tif")
    lenient = gb.from_rasters(tmp_path / "{band}_{month}.tif", damaged="skip")
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(gb.DamagedError, match=r"B02_2\.tif cannot be read") as caught:
        strict.compute()
    assert caught.value.file == str(path)
    with pytest.warns(UserWarning, match=r"Left out: .*B02_2\.tif"):
        found = image(lenient)
    assert np.isfinite(found[0]).all()
    assert np.isnan(found[1]).all()
    path.write_bytes(b"nothing")
    with pytest.warns(UserWarning, match=r"Left out: .*B02_2\.tif"):
        left = gb.from_rasters(tmp_path / "{band}_{month}.tif", damaged="skip")
    assert left["month"].values.tolist() == [1]


def test_a_file_listed_twice_is_an_error(tmp_path: Path) -> None:
    write_tif(tmp_path / "B02_1.tif", draw((4, 4)))
    twice = pd.DataFrame(
        {"path": [str(tmp_path / "B02_1.tif")] * 2, "month": 1, "band": "B02"}
    )
    with pytest.raises(gb.CubeError, match="listed twice"):
        gb.from_rasters(twice)


# --- the command line ---


@pytest.mark.slow
def test_the_command_writes_a_cube_and_resumes(
    tmp_path: Path, run: Callable[..., tuple[int, str, str]]
) -> None:
    write_tif(tmp_path / "S2_2020-07.tif", draw((2, 40, 40)), names=BANDS[:2])
    (tmp_path / "plots.csv").write_text(
        "x,y,carbon\n500105,5599895,12\n500205,5599795,30\n"
    )
    out = tmp_path / "scene.zarr"
    words = (
        *("ingest", "rasters", tmp_path / "S2_{year}-{month}.tif", out),
        *("--labels", tmp_path / "plots.csv", "--column", "carbon", "--radius", "12.5"),
        *("--labels-units", "Mg C/ha"),
        *("--labels-crs", UTM, "--band", "B03", "--resolution", "20", "--nodata", "0"),
    )
    code, printed, _ = run(*words)
    assert code == 0
    assert "1 month, 1 band, 20 x 20 pixels, 2 labelled" in printed
    cube = gb.open_cube(out)
    assert cube["band"].values.tolist() == ["B03"]
    assert sorted(cube["agb"].values[np.isfinite(cube["agb"])]) == [12, 30]
    known = {"target": "carbon", "units": "Mg C/ha", "long_name": "carbon"}
    assert known.items() <= cube["agb"].attrs.items()
    assert run(*words)[0] == 0  # the same command finds its work done
    # Never overwritten without being asked.
    assert run(*words[:-6], "--resolution", "10", "--nodata", "0")[0] == 2
    shutil.rmtree(out)
    code, _, error = run(*words[:3], out, "--band", "B99")
    assert code == 2
    assert "B99" in error
