"""Monthly cubes from a STAC archive that a local HTTP server serves."""

from __future__ import annotations

import json
import pickle
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pystac
import pytest
import stac_server
import xarray as xr
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from new_process import NewProcesses, Started
from odc.geo.geobox import GeoBox
from pyproj import Transformer
from pystac_client import Client
from shapely.geometry import box, mapping
from stac_server import BOUNDS, PERIOD, S2_BANDS, Image, Site

import geobiomass as gb
from geobiomass.sources.stac import composites as composites
from geobiomass.sources.stac.archives import (
    ARCHIVES,
    EARTH_SEARCH,
    PLANETARY_COMPUTER,
)
from geobiomass.sources.stac.from_archive import summary
from geobiomass.sources.stac.period import parse_period
from geobiomass.sources.stac.scene import as_scene
from geobiomass.training.packages import MissingPackageError

MASKED = (0, 1, 3, 8, 9, 10)
CRS = 32633


@pytest.fixture(scope="module")
def drawn() -> list[Image]:
    return stac_server.images()


@pytest.fixture(scope="module")
def folder(drawn: list[Image], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("archive")
    stac_server.write_images(path, drawn)
    return path


@pytest.fixture(scope="module")
def served(folder: Path, drawn: list[Image]) -> Iterator[Site]:
    with stac_server.serve(folder, drawn) as site:
        yield site


@pytest.fixture
def site(served: Site) -> Iterator[Site]:
    served.forget()
    yield served
    served.page, served.delay, served.signature = 100, 0.0, ""


def opened(items: Any, **more: Any) -> xr.Dataset:
    settings = {"bounds": BOUNDS, "crs": CRS, "months": PERIOD, "block": 256, **more}
    return gb.from_stac(items, **settings)


@pytest.fixture(scope="module")
def cube(served: Site) -> xr.Dataset:
    return opened(served.url).compute(scheduler="synchronous")


# Expected composites, computed pixel by pixel from the drawn images -----------


def centres(cube: xr.Dataset) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    x, y = np.meshgrid(cube["x"].values, cube["y"].values)
    return x, y


def observations(
    drawn: list[Image], cube: xr.Dataset, month: str
) -> list[dict[str, npt.NDArray[Any]]]:
    """Return the classes and the reflectance by band of each pass, oldest first."""
    passes: dict[str, list[Image]] = {}
    for image in drawn:
        if image.when.startswith(month) and "SCL" in image.rasters:
            passes.setdefault(image.when[:10], []).append(image)
    x, y = centres(cube)
    seen = []
    for images in passes.values():
        layers: dict[str, npt.NDArray[Any]] = {}
        taken = np.zeros(x.shape, bool)
        for image in images:
            classes = image.rasters["SCL"].at(x, y, CRS)
            new = ~taken & (classes > 0)
            taken |= new
            put(layers, "SCL", classes, new)
            put(layers, "where", np.full(x.shape, image.zone), new)
            for band in S2_BANDS:
                numbers = image.rasters[band].at(x, y, CRS).astype(float)
                if image.name == "s2-feb-11-z32":  # the only one with the offset
                    numbers -= 1000
                put(layers, band, numbers, new)
        seen.append(layers)
    return seen


def put(
    layers: dict[str, npt.NDArray[Any]],
    name: str,
    values: npt.NDArray[Any],
    where: npt.NDArray[np.bool_],
) -> None:
    layers.setdefault(name, np.zeros(values.shape))[where] = values[where]


def masked(layers: dict[str, npt.NDArray[Any]], band: str) -> npt.NDArray[Any]:
    return np.where(np.isin(layers["SCL"], MASKED), np.nan, layers[band])


def expected_median(
    seen: list[dict[str, npt.NDArray[Any]]], band: str
) -> npt.NDArray[Any]:
    values = np.stack([masked(layers, band) for layers in seen])
    out = np.full(values.shape[1:], np.nan)
    some = np.isfinite(values).any(axis=0)
    out[some] = np.nanmedian(values[:, some], axis=0)
    return out


def same(got: xr.DataArray, expected: npt.NDArray[Any], only: Any = True) -> None:
    """Check that pixels agree, except for a few at the edges of a warped zone.

    A pixel of zone 32 is looked up exactly here and to an eighth of a pixel by GDAL;
    the ground rises by about one a pixel.
    """
    values = got.values.astype(float)
    holes = np.isnan(values) != np.isnan(expected)
    assert (holes & only).mean() < 0.003
    both = np.isfinite(values) & np.isfinite(expected) & only
    assert both.any()
    assert (np.abs(values - expected)[both] > 2.5).mean() < 0.003


# Whole cubes ----------------------------------------------------------------------


def test_a_cube_is_opened_without_reading_a_pixel(site: Site) -> None:
    site.page = 3
    cube = opened(site.url)
    assert site.statuses() == []
    assert len(site.searches) == 4  # pages of three
    assert site.searches[0]["collections"] == [
        *("sentinel-1-rtc", "sentinel-2-c1-l2a", "sentinel-2-l2a")
    ]
    assert cube["month"].values.tolist() == [12, 1, 2, 3]
    assert list(cube["band"].values) == list(gb.cube.BIOMASSTERS_BANDS[:-1])
    assert cube.rio.crs.to_epsg() == CRS
    assert cube.rio.resolution() == (10, -10)
    assert cube["image"].data.chunksize == (1, 14, 256, 256)
    # One task per month and block, no graph of pixels.
    assert len(cube["image"].data.dask) == 4 * cube["image"].data.numblocks[-1] * 2
    gb.check_cube(cube)


@pytest.mark.slow
def test_pixels_are_read_by_range(site: Site) -> None:
    cube = opened(site.url)
    part = (
        cube["image"].sel(month=12, band=["B02"]).isel(y=slice(10), x=slice(300, 310))
    )
    part.compute(scheduler="synchronous")
    assert site.statuses().count(206) >= 4
    assert set(site.statuses()) == {200, 206}  # 200 is the request of its length
    read = {path for path, status in site.answers if status == 206}
    assert not [path for path in read if "feb" in path or "mar" in path]


@pytest.mark.slow
def test_median_of_clear_observations(cube: xr.Dataset, drawn: list[Image]) -> None:
    for month, name in ((12, "2021-12"), (2, "2022-02")):
        seen = observations(drawn, cube, name)
        one_zone = ~np.any([layers["where"] == 32632 for layers in seen], axis=0)
        for band in S2_BANDS:
            got = cube["image"].sel(month=month, band=band)
            expected = expected_median(seen, band)
            same(got, expected)
            # In the cube's own UTM zone nothing is reprojected: equal bits.
            exact = got.values[one_zone]
            np.testing.assert_array_equal(exact, expected[one_zone].astype(np.float32))


@pytest.mark.slow
def test_there_is_no_seam_and_no_offset(cube: xr.Dataset) -> None:
    x, y = centres(cube)
    to = Transformer.from_crs(CRS, 4326, always_xy=True)
    lon, lat = to.transform(x, y)
    field = 7_000 * (lon - 11.96) + 3_000 * (lat - 49.98)
    # In February one tile has the offset; from the other it is already removed.
    got = cube["image"].sel(month=2, band="B04").values
    assert np.isfinite(got).mean() > 0.9
    assert np.nanmax(np.abs(got - (field + 207))) < 4


@pytest.mark.slow
def test_months_and_passes_without_images_are_missing(cube: xr.Dataset) -> None:
    there = np.isfinite(cube["image"]).any(("y", "x"))
    optical, radar = list(S2_BANDS), ["VV_asc", "VH_asc", "VV_desc", "VH_desc"]
    assert not there.sel(month=1).any()
    assert there.sel(month=12, band=optical).all()
    assert not there.sel(month=12, band=radar).any()
    assert there.sel(month=2).all()
    assert there.sel(month=3, band=radar).values.tolist() == [True, True, False, False]
    assert not there.sel(month=3, band=optical).any()


@pytest.mark.slow
def test_radar_by_pass_in_decibels(cube: xr.Dataset, drawn: list[Image]) -> None:
    x, y = centres(cube)
    for band, names in (
        ("VV_asc", ["s1-feb-05-asc", "s1-feb-17-asc"]),
        ("VH_asc", ["s1-feb-05-asc", "s1-feb-17-asc"]),
        ("VV_desc", ["s1-feb-09-desc"]),
        ("VH_desc", ["s1-feb-09-desc"]),
    ):
        images = [image for image in drawn if image.name in names]
        power = np.stack([im.rasters[band[:2]].at(x, y, CRS) for im in images])
        power = np.where(power > 0, power.astype(float), np.nan)
        some = np.isfinite(power).any(axis=0)
        expected = np.full(x.shape, np.nan)
        expected[some] = 10 * np.log10(np.nanmean(power[:, some], axis=0))
        assert not some.all()
        got = cube["image"].sel(month=2, band=band)
        assert (np.isnan(got.values) == ~some).mean() > 0.995
        both = some & np.isfinite(got.values)
        assert np.abs(got.values - expected)[both].max() < 0.01


@pytest.mark.slow
def test_best_takes_all_bands_from_one_observation(
    site: Site, drawn: list[Image]
) -> None:
    bands = ["B02", "B03", "B8A"]
    lazy = opened(site.url, composite="best", months="2021-12", bands=bands)
    cube = lazy.compute(scheduler="synchronous")
    seen = observations(drawn, cube, "2021-12")
    # Days from the middle of the month, 2 for the second pass; snow has a risk of 1.
    order = [1, 2, 0]
    chosen = np.full(seen[0]["SCL"].shape, -1)
    for classes in ([4], [11]):
        for index in order:
            free = (chosen < 0) & np.isin(seen[index]["SCL"], classes)
            chosen[free] = index
    assert {-1, 0, 1, 2} == set(np.unique(chosen).tolist()) | {-1}
    for band in bands:
        expected = np.full(chosen.shape, np.nan)
        for index, layers in enumerate(seen):
            expected[chosen == index] = layers[band][chosen == index]
        same(cube["image"].sel(month=12, band=band), expected)
    got = cube["image"].sel(month=12)
    steps = got.sel(band="B03") - got.sel(band="B02")
    assert np.abs(steps.values[np.isfinite(steps.values)] - 100).max() <= 1


@pytest.mark.slow
def test_other_classes_and_less_cloudy_scenes(site: Site) -> None:
    all_kept = opened(site.url, masked_classes=(0,), months="2021-12", bands=["B02"])
    clouds = all_kept["image"].compute(scheduler="synchronous")
    assert clouds.max() == 9_000
    few = opened(site.url, max_cloud=10)
    assert json.loads(few.attrs["left_out"]) == {"too cloudy": 5}


def test_the_attributes_report_what_was_found(site: Site) -> None:
    found = Client.open(site.url).search(collections=["sentinel-2-l2a"])
    landsat = dict(site.items[0], id="other", assets={}, collection="landsat-c2-l2")
    far = dict(site.items[0], id="far", bbox=[14.0, 50.0, 14.1, 50.1])
    cube = opened([*found.items(), landsat, far])
    assert json.loads(cube.attrs["observations"]) == {
        **{"2021-12": {"Sentinel-2": 4}, "2022-01": {}},
        **{"2022-02": {"Sentinel-2": 2}, "2022-03": {}},
    }
    assert list(cube["band"].values) == list(S2_BANDS)
    assert summary(cube).splitlines() == [
        "Sentinel-2: 6 items (2021-12: 4, 2022-02: 2)",
        "Without images: 2022-01, 2022-03",
        "Left out: 1 neither Sentinel-2 L2A nor Sentinel-1 RTC, 1 outside the area, "
        "1 outside the period",
    ]
    assert cube.attrs["time_coverage_start"] == "2021-12-01"
    assert cube.attrs["time_coverage_end"] == "2022-03-31"
    assert "Copernicus Sentinel data 2021, 2022" in cube.attrs["attribution"]


@pytest.mark.slow
def test_items_come_from_any_kind_of_source(
    site: Site, folder: Path, tmp_path: Path, cube: xr.Dataset
) -> None:
    search = Client.open(site.url).search(bbox=BOUNDS, datetime="2021-12-01/2022-03-31")
    collection = search.item_collection()
    collection.save_object(str(tmp_path / "items.json"))
    (folder / "items.json").write_bytes((tmp_path / "items.json").read_bytes())
    catalogue = stac_server.write_catalogue(folder, site.items)
    for items in (
        search,
        collection,
        [item.to_dict() for item in collection],
        [*collection, *collection],  # each is used once
        tmp_path / "items.json",
        f"{site.url}/items.json",
        catalogue,  # files on disk
        f"{site.url}/catalog.json",
    ):
        got = opened(items, bands=["VV_asc", "B04"])
        assert got.attrs["observations"] == cube.attrs["observations"]
        part = {"y": slice(100, 140), "x": slice(90, 130)}
        window = got["image"].isel(month=2, **part).compute(scheduler="synchronous")
        wanted = cube["image"].sel(band=["VV_asc", "B04"]).isel(month=2, **part)
        xr.testing.assert_equal(window, wanted)


def test_months_follow_from_items(site: Site) -> None:
    cube = opened(site.items[:6], months=None)
    assert cube["month"].values.tolist() == [12, 1, 2]
    late = dict(site.items[0], id="late")
    late["properties"] = {**late["properties"], "datetime": "2023-01-01T10:00:00Z"}
    with pytest.raises(
        gb.CubeError, match="got 14: the items are from 2021-12 to 2023"
    ):
        opened([site.items[0], late], months=None)
    with pytest.raises(gb.CubeError, match="needs months"):
        opened(site.url, months=None)


def test_an_archive_by_name(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, collections in (
        ("earth-search", ["sentinel-2-c1-l2a", "sentinel-2-l2a"]),
        ("planetary-computer", ["sentinel-1-rtc", "sentinel-2-l2a"]),
    ):
        here = replace(ARCHIVES[name], url=site.url)
        monkeypatch.setitem(ARCHIVES, name, here)  # type: ignore[arg-type]
        site.forget()
        cube = opened(name)
        assert site.searches[0]["collections"] == collections
        assert here.title in cube.attrs["source"]
    # With the names of one archive, items of another are not usable.
    assert json.loads(cube.attrs["left_out"]) == {
        "neither Sentinel-2 L2A nor Sentinel-1 RTC": 1
    }


# Area and period ------------------------------------------------------------------


def test_areas_of_many_kinds(site: Site) -> None:
    geopandas = pytest.importorskip("geopandas")
    wanted = opened(site.items)
    polygon = box(*BOUNDS)
    frame = geopandas.GeoDataFrame(geometry=[polygon], crs=4326)
    feature = {"type": "Feature", "properties": {}, "geometry": mapping(polygon)}
    for bounds in (
        polygon,
        mapping(polygon),
        feature,
        {"type": "FeatureCollection", "features": [feature]},
        frame,
    ):
        cube = opened(site.items, bounds=bounds)
        xr.testing.assert_equal(cube["x"], wanted["x"])
        xr.testing.assert_equal(cube["y"], wanted["y"])
    projected = opened(site.items, bounds=frame.to_crs(CRS))
    assert projected.sizes["x"] >= wanted.sizes["x"]
    for like in (wanted, wanted["image"], wanted.odc.geobox):
        same_grid = opened(site.items, bounds=None, like=like)
        assert same_grid.rio.transform() == wanted.rio.transform()
        assert same_grid.rio.crs == wanted.rio.crs
    in_degrees = opened(site.items, resolution=0.0005, crs="EPSG:4326")
    assert in_degrees["image"].dims == ("month", "band", "y", "x")
    coarse = opened(site.items, resolution=100, months="2022-02", bands=["B04"])
    values = coarse["image"].compute(scheduler="synchronous")
    assert np.isfinite(values).mean() > 0.8


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"bounds": None}, "needs an area"),
        ({"like": GeoBox((2, 2), None, None)}, "needs an area"),
        ({"bounds": None, "like": 7}, "like must be a GeoBox"),
        (
            {"bounds": None, "like": GeoBox((2, 2), Affine.rotation(20), "EPSG:3067")},
            "along the axes of its CRS",
        ),
        ({"bounds": (3, 1, 2, 4)}, "west below east"),
        ({"bounds": (50, 10, 51, 11)}, "No items over this area.*outside the area"),
        ({"months": "2022-06:2022-07"}, "6-01 to 2022-07-31.*11 outside the period"),
        ({"months": "2022-03:2021-12"}, "must not end before they begin"),
        ({"months": "2021-12:2022-12"}, "12 at most.*got 13"),
        ({"months": "December"}, "got 'December'"),
        ({"months": "2021-13"}, "got '2021-13'"),
        ({"archive": "somewhere"}, "archive must be one of"),
        ({"composite": "mean"}, "composite must be one of"),
        ({"damaged": "keep"}, "damaged must be one of"),
        ({"masked_classes": (0, 12)}, r"got \[12\]"),
        ({"bands": ["B02", "NDVI"]}, r"got \['NDVI'\]"),
        ({"block": 0}, "at least 1 pixel"),
    ],
)
def test_invalid_arguments_are_errors(
    site: Site, more: dict[str, Any], said: str
) -> None:
    with pytest.raises(gb.CubeError, match=said):
        opened(site.items, **more)


def test_a_source_without_items_is_an_error(site: Site, tmp_path: Path) -> None:
    (tmp_path / "page.json").write_text(
        json.dumps(
            {"type": "FeatureCollection", "features": [], "links": [{"rel": "next"}]}
        )
    )
    (tmp_path / "plain.json").write_text('{"type": "Thing"}')
    (tmp_path / "text.json").write_text("no JSON")
    for items, said in (
        (7, "got int"),
        ([7], "Each of items must be a STAC item"),
        (tmp_path / "page.json", "one page of several"),
        (tmp_path / "plain.json", "got type 'Thing'"),
        (tmp_path / "text.json", "cannot be read as STAC"),
        (f"{site.url}/nothing.json", "cannot be read as STAC"),
        ([], "No items over this area.*got 0"),
    ):
        with pytest.raises(gb.CubeError, match=said):
            opened(items)


def test_periods() -> None:
    assert parse_period("2023-09:2024-08").months == (
        *((2023, month) for month in (9, 10, 11, 12)),
        *((2024, month) for month in range(1, 9)),
    )
    assert parse_period(("2024-02", "2024-02")) == parse_period("2024-02")
    assert parse_period("2024-02").span == (
        "2024-02-01T00:00:00Z/2024-02-29T23:59:59.999Z"
    )


# The offset -----------------------------------------------------------------------


def an_item(when: str = "2022-06-01T10:00:00Z", **properties: Any) -> pystac.Item:
    taken = datetime.fromisoformat(when)
    item = pystac.Item("one", None, [12, 50, 13, 51], taken, properties)
    for name in ("B02", "SCL"):
        item.add_asset(name, pystac.Asset(f"https://example.org/{name}.tif"))
    return item


@pytest.mark.parametrize(
    ("when", "properties", "bands", "offset"),
    [
        ("2022-06-01T10:00:00Z", {"s2:processing_baseline": "04.00"}, None, 1000),
        ("2022-06-01T10:00:00Z", {"s2:processing_baseline": "05.11"}, None, 1000),
        # Collection 1 has old years reprocessed, with the offset.
        ("2018-06-01T10:00:00Z", {"s2:processing_baseline": "05.00"}, None, 1000),
        ("2022-06-01T10:00:00Z", {"s2:processing_baseline": "03.01"}, None, 0),
        (
            "2022-06-01T10:00:00Z",
            {
                "s2:processing_baseline": "04.00",
                "earthsearch:boa_offset_applied": True,
            },
            {"raster:bands": [{"scale": 0.0001, "offset": -0.1}]},  # as in the archive
            0,
        ),
        (
            "2022-06-01T10:00:00Z",
            {
                "s2:processing_baseline": "04.00",
                "earthsearch:boa_offset_applied": False,
            },
            None,
            1000,
        ),
        (
            "2022-06-01T10:00:00Z",
            {},
            {"raster:bands": [{"scale": 0.0001, "offset": -0.1}]},
            1000,
        ),
        ("2022-06-01T10:00:00Z", {}, {"raster:bands": [{"scale": 0.0001}]}, 0),
        ("2022-01-24T10:00:00Z", {}, None, 0),
    ],
)
def test_the_offset_that_an_item_states(
    when: str, properties: dict[str, Any], bands: dict[str, Any] | None, offset: int
) -> None:
    item = an_item(when, **properties)
    item.assets["B02"].extra_fields |= bands or {}
    assert as_scene(item, PLANETARY_COMPUTER, None).offset == offset


def test_an_unknown_offset_is_an_error() -> None:
    with pytest.raises(gb.CubeError, match="Item one of 2022-06-01 must state whether"):
        as_scene(an_item(), PLANETARY_COMPUTER, None)
    assert as_scene(an_item(), PLANETARY_COMPUTER, 1000).offset == 1000


@pytest.mark.slow
def test_the_offset_can_be_given(site: Site, cube: xr.Dataset) -> None:
    part = {"y": slice(100, 104), "x": slice(10, 14)}
    lazy = opened(site.url, offset=0, bands=["B02"])
    window = lazy["image"].sel(month=2, band="B02").isel(part)
    wanted = cube["image"].sel(month=2, band="B02").isel(part)
    values = window.compute(scheduler="synchronous").values
    np.testing.assert_array_equal(values, wanted.values + 1000)


# Wrong, duplicate, damaged and signed items ---------------------------------


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"properties": {"datetime": None}}, "got no datetime"),
        ({"bbox": None, "geometry": None}, "must have a bbox or a geometry, got none"),
        (
            {"properties": {"datetime": "2022-02-01T00:00:00Z", "platform": "S1A"}},
            "must be 'ascending' or 'descending', got ''",
        ),
    ],
)
def test_incomplete_items_are_errors(
    site: Site, change: dict[str, Any], said: str
) -> None:
    radar = next(item for item in site.items if item["id"] == "s1-mar-01-asc")
    item = {**radar, **change}
    if item["bbox"] is None:
        del item["bbox"]
    if item["properties"].get("datetime") is None:
        item["properties"] = {
            "datetime": None,
            "end_datetime": "2022-02-01T00:00:00Z",
            "start_datetime": "2022-02-01T00:00:00Z",
        }
        item["properties"]["sat:orbit_state"] = "ascending"
        scene = as_scene(pystac.Item.from_dict(item), PLANETARY_COMPUTER, None)
        assert scene.month == (2022, 2)  # the start is enough
        return
    with pytest.raises(gb.CubeError, match=said):
        opened([item])


def test_neighbouring_orbits_are_two_observations(site: Site) -> None:
    radar = next(item for item in site.items if item["id"] == "s1-mar-01-asc")
    sweeps = set()
    for orbit in (51, 51, 124):
        properties = {**radar["properties"], "sat:relative_orbit": orbit}
        item = pystac.Item.from_dict({**radar, "properties": properties})
        sweeps.add(as_scene(item, PLANETARY_COMPUTER, None).sweep)
    assert len(sweeps) == 2


def test_a_missing_package_is_named(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pystac_client", None)
    said = r"needs .*pystac_client.*geobiomass\[stac\]"
    with pytest.raises(MissingPackageError, match=said):
        opened(site.items)


def test_ground_range_images_are_not_used_as_rtc(site: Site) -> None:
    grd = [
        dict(item, collection="sentinel-1-grd")
        for item in site.items
        if item["collection"] == "sentinel-1-rtc"
    ]
    with pytest.raises(
        gb.CubeError, match="4 neither Sentinel-2 L2A nor Sentinel-1 RTC"
    ):
        opened(grd)


@pytest.mark.slow
def test_collection_1_is_preferred_and_has_cloud_probability(
    tmp_path: Path, site: Site
) -> None:
    names = stac_server.EARTH_SEARCH_NAMES
    properties = {"platform": "sentinel-2a", "grid:code": "MGRS-33UUR"}
    old = {"s2:processing_baseline": "04.00", "earthsearch:boa_offset_applied": True}
    day = "2022-02-21T10:14:01Z"
    new = stac_server.optical(
        "c1", day, 32633, 0, 1000, collection="sentinel-2-c1-l2a", names=names,
        properties={**properties, "s2:processing_baseline": "05.00"},
    )  # fmt: skip
    percent = stac_server.raster(32633, 20)
    percent.pixels[:] = np.arange(percent.pixels.shape[1]) % 50
    new.rasters["CLP"] = replace(percent, pixels=percent.pixels.astype(np.uint8))
    worse = stac_server.optical(
        "l2a", day, 32633, 3_000, 0, names=names, properties={**properties, **old}
    )
    stac_server.write_images(tmp_path, [new, worse])
    with stac_server.serve(tmp_path, [worse, new]) as other:
        cube = opened(other.url, months="2022-02", archive="earth-search")
        image = cube["image"].compute(scheduler="synchronous")
        left_out = json.loads(cube.attrs["left_out"])
    assert left_out == {"in a better collection as well": 1}
    assert list(image["band"].values) == [*S2_BANDS, "CLP"]
    assert image.sel(band="B02").max() < 3_000
    x, y = centres(cube)
    clouds = new.rasters["CLP"].at(x, y, CRS)
    got = image.sel(month=2, band="CLP").values
    np.testing.assert_array_equal(got[np.isfinite(got)], clouds[np.isfinite(got)])
    assert (got == 0).any()


def test_bands_that_no_item_has_are_missing(site: Site) -> None:
    cube = opened(site.items[:1], bands=gb.cube.BIOMASSTERS_BANDS, months="2021-12")
    window = cube["image"].isel(y=slice(8), x=slice(300, 308))
    image = window.compute(scheduler="synchronous")
    there = np.isfinite(image).all(("month", "y", "x"))
    assert list(image["band"].values[there.values]) == list(S2_BANDS)


@pytest.fixture
def damaged(drawn: list[Image], tmp_path: Path) -> Iterator[Site]:
    """The scenes of December: one has an incomplete band, one incomplete classes."""
    december = [image for image in drawn if image.when.startswith("2021-12")]
    stac_server.write_images(tmp_path, december)
    stac_server.cut_short(tmp_path / "s2-dec-13-z33" / "B04.tif")
    stac_server.cut_short(tmp_path / "s2-dec-23-z33" / "SCL.tif")
    (tmp_path / "s2-dec-03-z33" / "B08.tif").unlink()
    with stac_server.serve(tmp_path, december) as site:
        yield site


def test_an_unreadable_asset_is_named(damaged: Site) -> None:
    cube = opened(damaged.items[:3], months="2021-12", bands=["B02", "B04"])
    wanted = cube["image"].isel(y=slice(60, 80), x=slice(250, 270))
    with pytest.raises(gb.DamagedError) as caught:
        wanted.sel(band=["B04"]).compute(scheduler="synchronous")
    message = str(caught.value)
    href = f"{damaged.url}/s2-dec-13-z33/B04.tif"
    assert "Asset B04 of item s2-dec-13-z33 cannot be read" in message
    assert href in message
    assert "--damaged skip" in message
    assert caught.value.file == href


@pytest.mark.slow
def test_unreadable_assets_are_left_out_and_logged(
    damaged: Site, drawn: list[Image], caplog: pytest.LogCaptureFixture
) -> None:
    bands = ["B02", "B04", "B08"]
    cube = opened(damaged.items, months="2021-12", damaged="skip", bands=bands)
    image = cube["image"].compute(scheduler="synchronous")
    said = [one.getMessage() for one in caplog.records if "geobiomass" in one.name]
    assert all("is treated as missing" in message for message in said)
    logged = sorted(message.split(" cannot")[0] for message in said)
    assert logged == [  # once, although each is in several blocks
        "Asset B04 of item s2-dec-13-z33",
        "Asset B08 of item s2-dec-03-z33",
        "Asset SCL of item s2-dec-23-z33",
    ]
    seen = observations(drawn, cube, "2021-12")[:2]  # the third has no classes
    for band, passes in (("B02", seen), ("B04", seen[:1])):
        same(image.sel(month=12, band=band), expected_median(passes, band))
    # B08 of the first pass exists only in zone 32, outside zone 33.
    first = {
        **seen[0],
        "B08": np.where(seen[0]["where"] == 32632, seen[0]["B08"], np.nan),
    }
    same(image.sel(month=12, band="B08"), expected_median([first, seen[1]], "B08"))


class Signer:
    """A function that signs addresses for the archive, and counts its calls."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, href: str) -> str:
        self.calls += 1
        return f"{href}?sig=secret"


@pytest.mark.slow
def test_addresses_are_signed_when_they_are_read(site: Site, cube: xr.Dataset) -> None:
    site.signature = "secret"
    part = {"y": slice(100, 110), "x": slice(200, 210)}
    signer = Signer()
    bands = ["B02"]
    signed = opened(site.url, sign=signer, bands=bands)
    assert signer.calls == 0
    got = signed["image"].sel(month=2).isel(part).compute(scheduler="synchronous")
    assert signer.calls > 0
    wanted = cube["image"].sel(month=2, band=bands).isel(part)
    xr.testing.assert_equal(got, wanted)
    # A signature changes every day; the cube stays the same.
    dated = json.loads(json.dumps(site.items).replace('.tif"', '.tif?sig=today"'))
    prints = [
        opened(items).attrs["source_fingerprint"] for items in (site.items, dated)
    ]
    assert prints[0] == prints[1]


def test_an_archive_that_refuses_is_an_error(folder: Path, drawn: list[Image]) -> None:
    with stac_server.serve(folder, drawn) as site:  # GDAL has not cached it yet
        site.signature = "secret"
        cube = opened(site.url, sign=False, bands=["B02"], damaged="raise")
        with pytest.raises(gb.DamagedError, match="it answers 403"):
            cube["image"].isel(month=2).compute(scheduler="synchronous")


# It uses version 1 of pydantic, and warns when it is imported.
@pytest.mark.filterwarnings("ignore:Support for class-based `config`")
def test_addresses_of_the_planetary_computer_are_signed_by_default(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import planetary_computer

    asked: list[tuple[str, str]] = []

    class Token:
        def sign(self, href: str) -> Any:
            return type("Signed", (), {"href": f"{href}?st=now"})

    def give(account: str, container: str) -> Token:
        asked.append((account, container))
        return Token()

    monkeypatch.setattr(planetary_computer.sas, "get_token", give)
    item = an_item(**{"s2:processing_baseline": "04.00"})
    item.assets["SCL"].href = "https://data.blob.core.windows.net/s2/SCL.tif"
    read: list[str] = []

    def load(items: list[pystac.Item], **_: Any) -> None:
        read.extend(asset.href for one in items for asset in one.assets.values())
        raise OSError("far away")

    monkeypatch.setattr("odc.stac.load", load)
    bounds = (12.5, 50.5, 12.51, 50.51)
    for sign, ending in ((None, "?st=now"), (False, ".tif")):
        lazy = gb.from_stac([item], bounds, months="2022-06", sign=sign)
        with pytest.raises(OSError, match="far away"):
            lazy["image"].compute(scheduler="synchronous")
        assert read.pop().endswith(f"SCL.tif{ending.removeprefix('.tif')}")
    assert asked == [("data", "s2")]
    monkeypatch.setitem(sys.modules, "planetary_computer", None)
    with pytest.raises(MissingPackageError, match=r"pip install 'geobiomass\[stac\]'"):
        gb.from_stac([item], bounds, months="2022-06")


@pytest.mark.slow
def test_tasks_can_be_sent_to_other_processes(site: Site, cube: xr.Dataset) -> None:
    corner = {"month": [2], "y": slice(50), "x": slice(50)}
    lazy = opened(site.url, bands=["VH_asc", "B11"])["image"].isel(corner)
    sent = pickle.loads(pickle.dumps(lazy))
    assert len(pickle.dumps(lazy)) < 200_000
    wanted = cube["image"].sel(band=["VH_asc", "B11"]).isel(corner)
    xr.testing.assert_equal(sent.compute(scheduler="synchronous"), wanted)


# The arithmetic -------------------------------------------------------------------

VALUES = st.one_of(st.just(np.nan), st.floats(0, 1e4, width=32))


@given(arrays(np.float32, st.tuples(st.integers(1, 6), st.just(3), st.just(4)),
              elements=VALUES))  # fmt: skip
def test_median_is_numpys(values: npt.NDArray[np.float32]) -> None:
    got = composites.median(values)
    some = np.isfinite(values).any(axis=0)
    assert np.isnan(got[~some]).all()
    expected = np.nanmedian(values[:, some], axis=0)
    np.testing.assert_allclose(got[some], expected, rtol=1e-6)


def test_harmonised_numbers() -> None:
    numbers = np.array([[[0, 1, 999, 1000, 1001, 65535]]], np.uint16)
    kept = np.ones(numbers.shape, bool)
    got = composites.harmonise(numbers, [1000], kept)[0, 0]
    np.testing.assert_array_equal(got, [np.nan, 0, 0, 0, 1, 64535])
    got = composites.harmonise(numbers, [0], kept & (numbers != 999))[0, 0]
    np.testing.assert_array_equal(got, [np.nan, 1, np.nan, 1000, 1001, 65535])


def test_a_pass_counts_once() -> None:
    there = np.array([[[1, 1, 0]], [[1, 0, 0]], [[1, 1, 1]]], bool)
    kept = composites.first_of_each_pass(there, ["a", "b", "a"])
    np.testing.assert_array_equal(kept[:, 0], [[1, 1, 0], [1, 0, 0], [0, 0, 1]])


def test_clear_classes() -> None:
    classes = np.array([*range(12), 12, 255], np.uint8)
    kept = composites.clear(classes, composites.MASKED_CLASSES)
    assert np.flatnonzero(kept).tolist() == [2, 4, 5, 6, 7, 11]


def test_the_observation_of_least_risk() -> None:
    classes = np.array([[[4, 2, 9, 4]], [[11, 11, 8, 4]], [[5, 7, 9, 6]]], np.uint8)
    kept = composites.clear(classes, composites.MASKED_CLASSES)
    chosen = composites.least_risk(classes, kept, [3.0, 1.0, 2.0])
    assert chosen.tolist() == [[2, 1, -1, 1]]
    values = np.arange(12, dtype=np.float32).reshape(3, 1, 4)
    np.testing.assert_array_equal(composites.pick(values, chosen), [[8, 5, np.nan, 7]])


def test_power_is_averaged_before_the_logarithm() -> None:
    power = np.array([[[0.1, 0.1, -1, np.nan]], [[0.3, 0, 0, 0.01]]], np.float32)
    got = composites.mean_decibels(power, np.ones(power.shape, bool))[0]
    expected = [10 * np.log10(0.2), -10, np.nan, -20]
    np.testing.assert_allclose(got, expected, rtol=1e-6)


# Writing, and the command ---------------------------------------------------------


@pytest.mark.slow
def test_a_dask_chunk_of_several_shards_is_computed_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, site: Site, cube: xr.Dataset
) -> None:
    from geobiomass.sources.stac import from_archive as stac

    calls: list[tuple[int, int]] = []
    read = stac.read_month

    def counted(scenes: Any, middle: datetime, *more: Any) -> Any:
        calls.append((middle.year, middle.month))
        return read(scenes, middle, *more)

    monkeypatch.setattr(stac, "read_month", counted)
    bands = ["VV_desc", "B02"]
    lazy = opened(site.url, block=512, bands=bands)
    assert lazy["image"].data.numblocks == (4, 1, 1, 1)  # of 348 x 336: four shards
    gb.write_cube(lazy, tmp_path / "scene.zarr")
    assert sorted(calls) == [(2021, 12), (2022, 1), (2022, 2), (2022, 3)]
    stored = gb.open_cube(tmp_path / "scene.zarr")
    small = cube["image"].sel(band=bands)
    np.testing.assert_allclose(stored["image"].values, small.values, atol=0.5001)
    assert stored.attrs["observations"] == lazy.attrs["observations"]


@pytest.mark.slow
def test_other_images_do_not_resume_a_cube(site: Site, tmp_path: Path) -> None:
    path = tmp_path / "scene.zarr"
    bands = ["VV_asc", "B02"]
    lazy = opened(site.items, bands=bands)

    def stop(*_: Any) -> Any:
        raise KeyboardInterrupt

    broken = lazy.assign(image=lazy["image"].copy())
    broken["image"].data = lazy["image"].data.map_blocks(
        stop, dtype=np.float32, meta=np.empty((0,) * 4, np.float32)
    )
    with pytest.raises(KeyboardInterrupt):
        gb.write_cube(broken, path)
    for other in (
        opened(site.items[1:], bands=bands),
        opened(site.items, composite="best", bands=bands),
        opened(site.items, offset=0, bands=bands),
    ):
        with pytest.raises(gb.CubeError, match=r"another cube .*images"):
            gb.write_cube(other, path)
    gb.write_cube(opened(site.items, bands=bands), path)
    assert gb.open_cube(path)["month"].values.tolist() == [12, 1, 2, 3]


Run = Callable[..., tuple[int, str, str]]


def command(site: Site, out: Path, *more: object) -> list[str]:
    words = (
        *("ingest", "stac", "--bbox", *BOUNDS, "--months", PERIOD),
        *("--archive", site.url, "--crs", "EPSG:32633", "--block", 256, *more, out),
    )
    return [str(word) for word in words]


@pytest.mark.slow
def test_the_command_shows_what_it_finds(site: Site, tmp_path: Path, run: Run) -> None:
    few = ("--bands", "VV_asc,B02")
    code, out, errors = run(*command(site, tmp_path / "scene.zarr", *few))
    assert code == 0, errors
    assert out.splitlines() == [
        "Sentinel-2: 6 items (2021-12: 4, 2022-02: 2)",
        "Sentinel-1 ascending: 3 items (2022-02: 2, 2022-03: 1)",
        "Sentinel-1 descending: 1 items (2022-02: 1)",
        "Without images: 2022-01",
        f"{tmp_path / 'scene.zarr'}: 4 months, 348 x 336 pixels",
    ]
    assert "16/16" in errors  # four months of four blocks
    code, _, errors = run(*command(site, tmp_path / "scene.zarr"))
    assert code == 2
    assert "--overwrite" in errors


def test_the_command_with_a_file_of_items_and_a_region(
    site: Site, tmp_path: Path, run: Run
) -> None:
    (tmp_path / "items.json").write_text(
        json.dumps({"type": "FeatureCollection", "features": site.items})
    )
    (tmp_path / "here.geojson").write_text(
        json.dumps(mapping(box(12, 50, 12.01, 50.01)))
    )
    words = ("ingest", "stac", "--months", "2022-03", "--resolution", 20)
    items = ("--items", tmp_path / "items.json")
    region = ("--region", tmp_path / "here.geojson")
    code, _, errors = run(*words, *items, *region, tmp_path / "scene.zarr")
    assert code == 0, errors
    cube = gb.open_cube(tmp_path / "scene.zarr")
    assert cube.sizes == {"month": 1, "band": 4, "y": 58, "x": 39}
    assert cube.rio.crs.to_epsg() == 32633
    code, _, errors = run(*words, *items, tmp_path / "other.zarr")
    assert code == 2
    assert "needs an area" in errors
    (tmp_path / "here.geojson").write_text("[]")
    code, _, errors = run(*words, *items, *region, tmp_path / "other.zarr")
    assert code == 2
    assert "must be GeoJSON" in errors


@pytest.mark.slow
@pytest.mark.parametrize("blow", [signal.SIGINT, signal.SIGKILL])
def test_the_command_resumes_after_an_interruption(
    site: Site,
    tmp_path: Path,
    cube: xr.Dataset,
    blow: signal.Signals,
    new_process: NewProcesses,
) -> None:
    path = tmp_path / "scene.zarr"
    bands = ["VV_asc", "B02", "B08"]
    few = ("--bands", ",".join(bands))
    words = ["-m", "geobiomass", *map(str, command(site, path, *few))]
    site.delay = 0.05
    first = new_process.start(*words)
    wait_for_a_block(path, first)
    first.send_signal(blow)
    _, errors = first.communicate(timeout=60)
    assert first.returncode == (130 if blow == signal.SIGINT else -signal.SIGKILL)
    if blow == signal.SIGINT:
        assert "the same command continues" in errors
    with pytest.raises(gb.CubeError, match="not finished"):
        gb.open_cube(path)
    site.delay = 0.0
    done = len(written(path))
    assert 1 <= done < 4
    second = new_process.start(*words)
    _, errors = second.communicate(timeout=120)
    assert second.returncode == 0, errors
    assert f"{4 * done}/16" in errors  # starts where the first one stopped
    stored = gb.open_cube(path).compute()
    gb.write_cube(cube.sel(band=bands), tmp_path / "whole.zarr")
    xr.testing.assert_identical(
        stored["image"].drop_attrs(),
        gb.open_cube(tmp_path / "whole.zarr").compute()["image"].drop_attrs(),
    )


def written(path: Path) -> list[Path]:
    """Return the records of written blocks."""
    return [
        one for one in (path / "statistics" / "written").glob("c/**/*") if one.is_file()
    ]


def wait_for_a_block(path: Path, process: Started) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if written(path):
            return
        assert process.poll() is None, process.communicate(1)[1]
        time.sleep(0.01)
    raise AssertionError("no block was written within a minute")


def test_earth_search_has_no_radar() -> None:
    assert EARTH_SEARCH.radar == ()
    assert {*S2_BANDS, "SCL", "CLP"} <= EARTH_SEARCH.assets.keys()
    assert {*S2_BANDS, "SCL", "VV", "VH"} <= PLANETARY_COMPUTER.assets.keys()
