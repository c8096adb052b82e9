"""What an archive has for an area, before a pixel is read."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import stac_server
from affine import Affine
from odc.geo.geobox import GeoBox
from PIL import Image as Picture
from shapely.geometry import box, mapping
from stac_server import Site

import geobiomass as gb
from geobiomass.info.notebook import dataset_html
from geobiomass.sources.stac import access
from geobiomass.sources.stac.period import asked_period

Run = Callable[..., tuple[int, str, str]]
AREA = (12.0, 50.0, 12.1, 50.1)
DEGREES = {"crs": "EPSG:4326", "resolution": 0.001}
TILE_WEST, TILE_NORTH, TILE_SIDE = 300_000, 5_600_040, 10_980
TILE_BOX = (11.9, 49.4, 13.9, 50.7)


def an_item(
    name: str,
    when: str,
    footprint: tuple[float, float, float, float] = AREA,
    *,
    bands: dict[str, dict[str, Any]] | None = None,
    **properties: Any,
) -> dict[str, Any]:
    """Return an item of Sentinel-2, or with a pass of Sentinel-1."""
    is_radar = "sat:orbit_state" in properties
    names = bands or ({"vv": {}, "vh": {}} if is_radar else {"B02": {}, "SCL": {}})
    return {
        "type": "Feature",
        "stac_version": "1.0.0",
        "stac_extensions": [],
        "id": name,
        "collection": "sentinel-1-rtc" if is_radar else "sentinel-2-l2a",
        "geometry": mapping(box(*footprint)),
        "bbox": list(footprint),
        "properties": {"datetime": f"{when}T10:00:00Z", **properties},
        "links": [],
        "assets": {
            key: {"href": f"https://example.org/{name}/{key}.tif", **more}
            for key, more in names.items()
        },
    }


def optical(name: str, when: str, *more: Any, **properties: Any) -> dict[str, Any]:
    return an_item(
        name, when, *more, **{"s2:processing_baseline": "05.10"}, **properties
    )


def surveyed(items: Any, *more: Any, **settings: Any) -> gb.ArchiveSurvey:
    return gb.survey_archive(items, *more, **{"headers": False, **settings})


# The table ------------------------------------------------------------------------


@pytest.fixture
def items() -> list[dict[str, Any]]:
    """Two passes of April, half of June without a cloud cover, one pass of radar."""
    west, east = (12.0, 50.0, 12.05, 50.1), (12.025, 50.0, 12.1, 50.1)
    april = {"platform": "Sentinel-2B"}
    return [
        optical("a", "2023-04-03", platform="Sentinel-2A", **{"eo:cloud_cover": 20}),
        optical("b", "2023-04-13", west, **april, **{"eo:cloud_cover": 50}),
        optical("c", "2023-04-13", east, **april, **{"eo:cloud_cover": 100}),
        optical("d", "2023-06-03", west, platform="Sentinel-2C"),
        an_item("e", "2023-04-05", platform="sentinel-1c", **ASCENDING),
    ]


ASCENDING = {"sat:orbit_state": "ascending"}


def test_months_by_sensor(items: list[dict[str, Any]]) -> None:
    survey = surveyed(items, AREA, range(4, 7), 2023, **DEGREES)
    table = survey.table
    assert list(table.columns) == [
        *("items", "dates", "covered", "clear", "clear_dates", "archive", "platforms"),
        "bytes",
    ]
    april = table.loc["2023-04", "Sentinel-2"]
    # Of two tiles of one pass the first one counts: half at 0.5, half at 0.
    assert (april["items"], april["dates"], april["covered"]) == (3, 2, 1)
    assert april["clear"] == pytest.approx((0.8 + 0.25) / 2, abs=1e-3)
    assert april["clear_dates"] == pytest.approx(0.8 + 0.25, abs=0.01)
    assert april["platforms"] == "sentinel-2a, sentinel-2b"
    assert april["archive"] == "Planetary Computer"
    june = table.loc["2023-06", "Sentinel-2"]
    assert (june["items"], june["covered"]) == (1, 0.5)
    assert np.isnan(june["clear"])
    assert table.loc["2023-04", "Sentinel-1 ascending"]["platforms"] == "sentinel-1c"
    assert table["bytes"].sum() == pytest.approx(survey.bytes, abs=3)


def test_gaps_are_told(items: list[dict[str, Any]]) -> None:
    far = optical("far", "2023-04-20", (20.0, 50.0, 20.1, 50.1))
    survey = surveyed([*items, far], AREA, "2023-04:2023-06", **DEGREES)
    assert survey.gaps["covered"].to_dict() == {
        ("2023-05", "Sentinel-2"): 0,
        ("2023-06", "Sentinel-2"): 0.5,
        ("2023-05", "Sentinel-1 ascending"): 0,
        ("2023-06", "Sentinel-1 ascending"): 0,
    }
    text, html = str(survey), survey._repr_html_()
    for words in (
        "no item in any month  Sentinel-1 descending",
        "Sentinel-2: 2023-05, 2023-06 (50 % of the area)",
        "left out   1 outside the area",
    ):
        assert " ".join(words.split()) in " ".join(text.split())
    assert "Sentinel-2, % clear" in html
    assert survey.summary()["to fetch"].count("estimate") == 1


def test_an_area_at_180_degrees_is_covered_on_both_sides() -> None:
    fiji = (179.9, -17.1, -179.9, -17.0)
    cut = optical("cut", "2023-04-03")
    parts = [box(179.5, -17.5, 180, -16.5), box(-180, -17.5, -179.5, -16.5)]
    cut["geometry"] = {
        "type": "MultiPolygon",
        "coordinates": [mapping(part)["coordinates"] for part in parts],
    }
    cut["bbox"] = [179.5, -17.5, -179.5, -16.5]
    beside = optical("beside", "2023-05-03", (179.5, -17.5, 180, -16.5))
    table = surveyed([cut, beside], fiji, "2023-04:2023-05", resolution=100).table
    assert table["covered"].tolist() == pytest.approx([1, 0.5], abs=0.02)


def test_an_unusable_footprint_leaves_the_box() -> None:
    odd = optical("odd", "2023-04-03")
    odd["geometry"] = {"type": "Polygon", "coordinates": [[[0, 0], ["x", 1], [2, 2]]]}
    table = surveyed([odd], AREA, "2023-04", **DEGREES).table
    assert table["covered"].tolist() == [1]


def test_the_picture_has_a_row_a_sensor(items: list[dict[str, Any]]) -> None:
    survey = surveyed(items, AREA, "2023-04:2023-06", **DEGREES)
    axes = survey.plot()
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert names == [
        "Sentinel-2\nPlanetary Computer",
        "Sentinel-1 ascending\nPlanetary Computer",
    ]
    assert [text.get_text() for text in axes.texts] == ["2", "1", "1"]
    assert len(axes.patches) == 3  # months without an image
    shown = axes.images[0].get_array()
    assert shown[0, 0] == pytest.approx(52.5, abs=0.1)
    assert shown.mask.tolist() == [[False, True, False], [False, True, True]]


# Bytes, and the time for them -----------------------------------------------------


def on_the_tile(row: int, column: int, side: int, step: float = 10.0) -> GeoBox:
    """Return pixels of a tile, counted at 10 m."""
    west, north = TILE_WEST + 10 * column, TILE_NORTH - 10 * row
    return GeoBox((side, side), Affine(step, 0, west, 0, -step, north), "EPSG:32633")


def radar_tile(**asset: Any) -> dict[str, Any]:
    """Return an image on a grid of 10,980 pixels, with an asset that says more."""
    place = {
        "proj:shape": [TILE_SIDE, TILE_SIDE],
        "proj:transform": [10, 0, TILE_WEST, 0, -10, TILE_NORTH],
    }
    bands = {"vv": {**place, **asset}, "vh": place}
    code = {"proj:epsg": 32633, **ASCENDING}
    return an_item("tile", "2023-04-03", TILE_BOX, bands=bands, **code)


BLOCK = 512 * 512


@pytest.mark.parametrize(
    ("asset", "grid", "expected", "basis"),
    [
        ({}, on_the_tile(1024, 1536, 512), 4 * BLOCK, "proj:shape"),
        (
            {"raster:bands": [{"data_type": "float64"}]},
            on_the_tile(1024, 1536, 512),
            *(8 * BLOCK, "proj:shape"),
        ),
        ({"data_type": "uint16"}, on_the_tile(0, 0, 512), 2 * BLOCK, "proj:shape"),
        # One pixel further it needs four blocks; at the edge of the tile a part of one.
        ({}, on_the_tile(1025, 1537, 512), 16 * BLOCK, "proj:shape"),
        ({}, on_the_tile(10_800, 10_800, 50), 4 * 228 * 228, "proj:shape"),
        # Of an overview of 40 m a sixteenth; one of 30 m is read from that of 20 m.
        ({}, on_the_tile(1024, 1536, 128, 40.0), 4 * BLOCK / 16, "proj:shape"),
        ({}, on_the_tile(1024, 1536, 170, 30.0), 4 * BLOCK / 4, "proj:shape"),
        (
            {"file:size": 10**9},
            on_the_tile(1024, 1536, 512),
            *(1e9 * BLOCK / TILE_SIDE**2, "file:size"),
        ),
        ({}, on_the_tile(-2000, 0, 100), 0, "proj:shape"),
    ],
)
def test_bytes_of_the_blocks_that_the_area_touches(
    asset: dict[str, Any], grid: GeoBox, expected: float, basis: str
) -> None:
    settings = {"months": "2023-04", "like": grid, "bands": ["VV_asc"]}
    survey = surveyed([radar_tile(**asset)], **settings)
    assert survey.bytes == pytest.approx(expected, abs=1)
    assert survey.estimated_bytes == survey.bytes
    assert survey.sizes["files"].to_dict() == {basis: 1}


@pytest.mark.parametrize(
    "place",
    [
        {"proj:shape": [0, 5]},
        {"proj:shape": "large"},
        {"proj:transform": [0, 0, 0, 0, 0, 0]},
        {"proj:transform": [1, 2]},
        {"proj:transform": ["x"] * 6},
    ],
)
def test_a_grid_that_makes_no_sense_counts_as_none(place: dict[str, Any]) -> None:
    settings = {"months": "2023-04", "like": on_the_tile(0, 0, 512)}
    survey = surveyed([radar_tile(**place)], bands=["VV_asc"], **settings)
    assert survey.sizes.index.tolist() == ["resolution"]
    assert survey.bytes == 4 * BLOCK  # pixels of 10 m in the area, 4 bytes each


def test_the_size_of_a_file_without_a_grid_is_shared_by_area() -> None:
    bands = {"vv": {"file:size": 10**9}, "vh": {}}
    item = an_item("one", "2023-04-03", bands=bands, **ASCENDING)
    quarter = (12.0, 50.0, 12.05, 50.05)
    survey = surveyed([item], quarter, "2023-04", bands=["VV_asc"], **DEGREES)
    # At 111 m the overview of 80 m is read, of one 64th of the pixels.
    assert survey.bytes == pytest.approx(1e9 / 4 / 64, rel=0.02)
    assert survey.sizes.index.tolist() == ["file:size"]


@pytest.mark.parametrize(
    ("rate", "expected"),
    [(20e6, 20e6), ("20 MB/s", 20e6), ("100 Mbit/s", 12.5e6), ("8kbps", 1000)],
)
def test_time_at_a_rate(
    items: list[dict[str, Any]], rate: Any, expected: float
) -> None:
    survey = surveyed(items, AREA, "2023-04", **DEGREES)
    assert survey.bytes > 0
    assert survey.seconds(rate) == pytest.approx(survey.bytes / expected)


@pytest.mark.parametrize("rate", [0, -1, np.nan, True, None, "fast", "20 MB", "0 MB/s"])
def test_what_is_no_rate_is_an_error(items: list[dict[str, Any]], rate: Any) -> None:
    survey = surveyed(items, AREA, "2023-04", **DEGREES)
    with pytest.raises(gb.CubeError, match="rate must be bytes a second above 0"):
        survey.seconds(rate)


# Requests, on a server that counts them -------------------------------------------


@pytest.fixture(scope="module")
def drawn() -> list[stac_server.Image]:
    """Radar of Sentinel-1C and 1D, noise that does not compress."""

    def seen(name: str, when: str, state: str, power: float, platform: str) -> Any:
        image = stac_server.radar(name, f"{when}T16:50:00Z", 32633, state, power)
        properties = {**image.properties, "platform": platform}
        noise = np.random.default_rng(0).uniform(0.5, 1.5, (400, 320)) * power
        vv = replace(image.rasters["VV"], pixels=noise.astype(np.float32))
        return replace(
            image, properties=properties, rasters={**image.rasters, "VV": vv}
        )

    return [
        seen("c", "2026-07-05", "ascending", 0.1, "sentinel-1c"),
        seen("d", "2026-07-11", "ascending", 0.3, "SENTINEL-1D"),
        seen("e", "2026-08-09", "descending", 0.1, "Sentinel-1D"),
    ]


@pytest.fixture(scope="module")
def folder(
    drawn: list[stac_server.Image], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    path = tmp_path_factory.mktemp("archive")
    stac_server.write_images(path, drawn)
    return path


@pytest.fixture
def site(folder: Path, drawn: list[stac_server.Image]) -> Iterator[Site]:
    with stac_server.serve(folder, drawn) as served:
        yield served


def block_of(band: str, row: int, column: int) -> GeoBox:
    """Return one block of 128 pixels of the files of zone 33."""
    west, north, _, _ = stac_server.ZONES[32633]
    edge = Affine(10, 0, west + 1280 * column, 0, -10, north - 1280 * row)
    return GeoBox((128, 128), edge, "EPSG:32633")


def test_headers_say_how_large_blocks_are_and_no_pixel_is_read(
    site: Site, folder: Path
) -> None:
    months = "2026-07:2026-08"
    grid = block_of("VV", 1, 2)
    survey = gb.survey_archive(site.url, months=months, like=grid, bands=["VV_asc"])
    # One request of the first 64 kB for the kind, of a file of eight times as many.
    files = [answer for answer in site.answers if answer[0].endswith(".tif")]
    assert files == [("/c/VV.tif", 206)]
    assert site.sent["/c/VV.tif"] == 2**16
    assert (folder / "c" / "VV.tif").stat().st_size > 6 * 2**16
    with Picture.open(folder / "c" / "VV.tif") as image:
        sizes = image.tag_v2[325]  # TileByteCounts, three blocks a row
    assert survey.sizes["bytes"]["header"] == sizes[1 * 3 + 2]
    assert survey.sizes["files"].to_dict() == {
        "header": 1,
        "header of another image": 1,
    }
    other = survey.sizes["bytes"]["header of another image"]
    assert other == pytest.approx(sizes[1 * 3 + 2], rel=0.1)
    assert survey.estimated_bytes == other


def test_items_that_state_sizes_need_no_request(site: Site) -> None:
    west, north, width, height = stac_server.ZONES[32633]
    for item in site.items:
        item["properties"]["proj:code"] = "EPSG:32633"
        for asset in item["assets"].values():
            asset["file:size"] = 600_000
            asset["proj:shape"] = [height, width]
            asset["proj:transform"] = [10, 0, west, 0, -10, north]
    survey = gb.survey_archive(
        site.url, stac_server.BOUNDS, range(7, 9), 2026, resolution=20
    )
    assert site.statuses() == []
    assert len(site.searches) == 1
    assert survey.sizes["files"].to_dict() == {"file:size": 6}
    # The area has all of the file's blocks, read from its overview of 20 m.
    assert survey.bytes == pytest.approx(6 * 600_000 / 4, rel=0.02)


def test_a_header_that_cannot_be_read_names_item_and_asset(site: Site) -> None:
    site.signature = "secret"
    bounds, months = stac_server.BOUNDS, "2026-07"
    with pytest.raises(gb.DamagedError) as caught:
        gb.survey_archive(site.url, bounds, months, sign=lambda href: f"{href}?sig=no")
    said = str(caught.value)
    assert "asset vv of item c" in said or "asset vh of item c" in said
    assert (
        "may not be read without permission, says its server (it answers 403)" in said
    )
    assert "headers=False" in said
    assert "sig=no" not in said
    signed = gb.survey_archive(
        site.url, bounds, months, sign=lambda href: f"{href}?sig=secret"
    )
    assert "header" in signed.sizes.index
    gb.survey_archive(site.url, bounds, months, headers=False)


def test_a_file_that_is_no_image_is_told_without_its_signature(
    site: Site, folder: Path
) -> None:
    (folder / "junk.tif").write_text("no image")
    items = asset_at(f"{site.url}/junk.tif")
    with pytest.raises(gb.DamagedError) as caught:
        gb.survey_archive(
            *(items, AREA, "2023-04"), sign=lambda href: f"{href}?sig=secret"
        )
    said = str(caught.value)
    assert "junk.tif is damaged or gone" in said
    assert "of item one" in said
    assert "secret" not in said


def test_new_platforms_are_found_and_read(site: Site) -> None:
    """Nothing lists platforms: Sentinel-1C and 1D are what their items say."""
    bounds = stac_server.BOUNDS
    table = gb.survey_archive(site.url, bounds, "2026-07:2026-08", headers=False).table
    july = table.loc["2026-07", "Sentinel-1 ascending"]
    assert (july["items"], july["dates"]) == (2, 2)
    assert july["platforms"] == "sentinel-1c, sentinel-1d"
    assert table.loc["2026-08", "Sentinel-1 descending"]["platforms"] == "sentinel-1d"
    asked = {name for search in site.searches for name in search}
    assert not asked & {"query", "filter", "ids"}
    cube = gb.from_stac(
        *(site.url, None, 10, "utm", "2026-07"),
        like=block_of("VV", 0, 1),
        bands=["VV_asc"],
    )
    found = 10 ** (cube["image"].compute(scheduler="synchronous") / 10)
    # Noise of one seed times 0.1 and 0.3: its mean over both is that times 0.2.
    noise = np.random.default_rng(0).uniform(0.5, 1.5, (400, 320))[:128, 128:256]
    np.testing.assert_allclose(found.values[0, 0], 0.2 * noise, rtol=1e-4)


# The cube carries it --------------------------------------------------------------


def test_a_cube_carries_the_survey(items: list[dict[str, Any]]) -> None:
    asked = {"months": "2023-04:2023-06", **DEGREES}
    cube = gb.from_stac(items, area=AREA, **asked)
    text = cube.attrs["survey"]
    assert json.loads(text) == surveyed(items, AREA, **asked).to_dict()
    assert len(text) < 2000
    # None of its other attributes, nor its fingerprint, is new.
    assert set(cube.attrs) - {"survey"} == {
        *("title", "source", "licence", "attribution", "composite", "observations"),
        *("time_coverage_start", "time_coverage_end", "scenes", "left_out"),
        "source_fingerprint",
    }
    html = dataset_html(cube)
    assert "Sentinel-1 ascending, dates" in html
    assert "bytes in the archive" in html


def test_a_finished_cube_without_a_survey_is_still_the_same(tmp_path: Path) -> None:
    cube = gb.landscape(32, months=1).compute()
    gb.write_cube(cube, tmp_path / "scene.zarr")
    written = (tmp_path / "scene.zarr" / "zarr.json").stat().st_mtime_ns
    gb.write_cube(cube.assign_attrs(survey="{}"), tmp_path / "scene.zarr")
    assert (tmp_path / "scene.zarr" / "zarr.json").stat().st_mtime_ns == written
    with pytest.raises(FileExistsError, match="would write something else"):
        gb.write_cube(cube.assign_attrs(title="other"), tmp_path / "scene.zarr")


@pytest.mark.parametrize(
    "text",
    ["no JSON", "[]", '{"months": 3}', '{"months": [1], "sensors": {"a": 2}}', 7],
)
def test_an_attribute_that_is_no_survey_is_left_out(text: Any) -> None:
    from geobiomass.cube.found_images import image_facts

    cube = gb.landscape(32, months=1).assign_attrs(survey=text)
    assert image_facts(cube) == {}


# Area, months, keys ---------------------------------------------------------------


def test_an_area_is_any_vector_file(
    items: list[dict[str, Any]], tmp_path: Path
) -> None:
    geopandas = pytest.importorskip("geopandas")
    frame = geopandas.GeoDataFrame({"name": ["farm"]}, geometry=[box(*AREA)], crs=4326)
    frame.to_crs(32633).to_file(tmp_path / "farm.gpkg")
    (tmp_path / "farm.geojson").write_text(json.dumps(mapping(box(*AREA))))
    expected = gb.from_stac(items, AREA, 100, months="2023-04")
    for area in (
        tmp_path / "farm.geojson",
        frame,
        mapping(box(*AREA)),
        box(*AREA),
    ):
        cube = gb.from_stac(items, area=area, resolution=100, months="2023-04")
        assert cube["x"].equals(expected["x"])
        assert cube["y"].equals(expected["y"])
        size = surveyed(items, area, "2023-04", resolution=100).place["size"]
        assert size.startswith(f"{cube.sizes['y']} x {cube.sizes['x']} pixels")
    # In another reference system its box is a little larger.
    moved = gb.from_stac(
        items, area=tmp_path / "farm.gpkg", resolution=100, months="2023-04"
    )
    assert 0 <= moved.sizes["x"] - expected.sizes["x"] < 6


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"area": AREA, "bounds": AREA}, "area and bounds mean the same"),
        ({}, "needs an area: give either area="),
        ({"area": gb.landscape(32, months=1)}, "give like=cube instead"),
    ],
)
def test_areas_that_are_errors(
    items: list[dict[str, Any]], settings: dict[str, Any], said: str
) -> None:
    with pytest.raises(gb.CubeError, match=said):
        gb.from_stac(items, months="2023-04", **settings)


def test_months_are_numbers_of_a_year() -> None:
    def names(months: Any, year: int | None) -> tuple[str, ...]:
        period = asked_period(months, year)
        assert period is not None
        return period.names

    assert names(range(4, 6), 2023) == ("2023-04", "2023-05")
    assert names(np.array([11, 12, 1]), np.int64(2023))[-1] == "2024-01"
    assert names(7, 2023) == ("2023-07",)
    assert len(names(None, 2023)) == 12
    assert names("2023-04:2023-05", None) == ("2023-04", "2023-05")
    assert asked_period(None, None) is None


@pytest.mark.parametrize(
    ("months", "year", "said"),
    [
        (range(4, 11), None, "need their year"),
        ("2023-04", 2023, "leave year out"),
        ([4, 6], 2023, r"follow each other.*\[4, 6\]"),
        ([0, 1], 2023, r"from 1 to 12, got \[0, 1\]"),
        ([], 2023, "leave year out"),
        (4, 23, "from 1900 to 2199, got 23"),
        (4, "2023", "whole number such as 2023, got '2023'"),
        ([*range(1, 13), 1], 2023, "12 at most.*got 13"),
    ],
)
def test_months_that_are_errors(months: Any, year: Any, said: str) -> None:
    with pytest.raises(gb.CubeError, match=said):
        asked_period(months, year)


NAMES = (*access.KEYS, *access.ENDPOINTS, *access.TOKENS)


@pytest.fixture
def no_keys(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in (*NAMES, "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


def asset_at(href: str) -> list[dict[str, Any]]:
    item = optical("one", "2023-04-03")
    for asset in item["assets"].values():
        asset["href"] = href
    return [item]


@pytest.mark.parametrize(
    ("href", "given", "said"),
    [
        (
            "s3://eodata/Sentinel-2/B02.jp2",
            {"AWS_ACCESS_KEY_ID": "k", "AWS_S3_ENDPOINT": "eodata.example.org"},
            "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY.* AWS_S3_ENDPOINT to eodata",
        ),
        (
            "https://cumulus.asf.earthdatacloud.nasa.gov/B02.tif",
            {"GDAL_HTTP_BEARER": "t"},
            "GDAL_HTTP_BEARER to a token of urs.earthdata.nasa.gov",
        ),
    ],
)
def test_a_key_that_is_lacking_is_told_before_anything_is_read(
    href: str,
    given: dict[str, str],
    said: str,
    no_keys: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    items, asked = asset_at(href), {"months": "2023-04", **DEGREES}
    for call in (surveyed, gb.from_stac):
        with pytest.raises(gb.CubeError, match=said):
            call(items, area=AREA, **asked)
    # A function of the user's own knows how to get in.
    gb.from_stac(items, area=AREA, sign=str, **asked)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    assert gb.from_stac(items, area=AREA, **asked).sizes["month"] == 1


def test_a_login_in_netrc_is_enough(no_keys: None, tmp_path: Path) -> None:
    login = tmp_path / ".netrc"
    login.write_text("machine urs.earthdata.nasa.gov login me password secret\n")
    login.chmod(0o600)
    items = asset_at("https://data.lpdaac.earthdatacloud.nasa.gov/B02.tif")
    surveyed(items, AREA, "2023-04", **DEGREES)


# It uses version 1 of pydantic, and warns when it is imported.
@pytest.mark.filterwarnings("ignore:Support for class-based `config`")
@pytest.mark.parametrize("status", [403, 503])
def test_a_refused_signature_names_the_key(
    status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    import planetary_computer
    from requests import HTTPError, Response

    def refuse(*_: Any) -> None:
        answer = Response()
        answer.status_code = status
        raise HTTPError("refused", response=answer)

    monkeypatch.setattr(planetary_computer.sas, "get_token", refuse)
    items = asset_at("https://data.blob.core.windows.net/s1/B02.tif")
    expected, said = (gb.CubeError, "PC_SDK_SUBSCRIPTION_KEY")
    if status == 503:  # that is not a question of keys
        expected, said = (gb.DamagedError, "answers 503")
    with pytest.raises(expected, match=said):
        gb.survey_archive(items, AREA, "2023-04", **DEGREES)


# The command ----------------------------------------------------------------------


def test_the_command_shows_what_there_is(
    items: list[dict[str, Any]], tmp_path: Path, run: Run
) -> None:
    saved = tmp_path / "items.json"
    saved.write_text(json.dumps({"type": "FeatureCollection", "features": items}))
    words: list[Any] = [
        "ingest",
        "stac",
        "--items",
        saved,
        "--months",
        "2023-04:2023-06",
    ]
    words += ["--bbox", *AREA, "--crs", "EPSG:4326", "--resolution", 0.001]
    asked = [*words, "--survey", "--no-headers", "--rate", "1 MB/s"]
    code, out, errors = run(*asked)
    assert code == 0, errors
    survey = surveyed(items, AREA, "2023-04:2023-06", **DEGREES)
    assert out.strip() == str(survey.summary("1 MB/s")).strip()
    assert "at 1 MB/s" in out
    code, out, _ = run(*asked, "--json")
    facts = json.loads(out)
    assert facts["bytes"] == survey.bytes
    assert facts["seconds"] == pytest.approx(survey.bytes / 1e6)
    code, _, errors = run(*words)
    assert code == 2
    assert "--survey to see what there is" in errors
    code, _, errors = run(*words, "--survey", "--rate", "quick")
    assert code == 2
    assert "'20 MB/s'" in errors
    assert [path.name for path in tmp_path.iterdir()] == ["items.json"]
