"""Formats of a finished map: conventions, overviews, cloud-optimised GeoTIFF."""

from __future__ import annotations

import re
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import rioxarray
import xarray as xr
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from rasterio.crs import CRS
from rio_cogeo.cogeo import cog_info, cog_validate
from zarr.codecs import BloscCodec
from zarr.storage import MemoryStore

from geobiomass.maps import geotiff, overviews
from geobiomass.maps.conventions import conventions_of
from geobiomass.maps.geotiff import FINGERPRINT, geotiff_tags, write_geotiff
from geobiomass.maps.overviews import halve, level_sizes, write_overviews

LAEA = "+proj=laea +lat_0=-3 +lon_0=-60 +datum=WGS84 +units=m"  # EPSG has none such
UUIDS = {
    "proj": "f17cb550-5864-4468-aeb7-f3180cfb622f",
    "spatial": "689b58e2-cf7b-45e0-9fff-9cfc0883d6b4",
    "multiscales": "d35379db-88df-4056-af3a-620245f8e347",
}


def a_frame(height: int, width: int, crs: str | None = "EPSG:32633") -> xr.Dataset:
    frame = xr.Dataset(
        coords={
            "y": ("y", 5_000_000 - 10 * (np.arange(height) + 0.5), {"units": "m"}),
            "x": ("x", 400_000 + 10 * (np.arange(width) + 0.5), {"units": "m"}),
        }
    )
    if crs is not None:
        place = rasterio.Affine(10.0, 0.0, 400_000.0, 0.0, -10.0, 5_000_000.0)
        frame = frame.rio.write_crs(crs).rio.write_transform(place)
    return frame


def some_values(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Biomass, with a block, a ragged edge and single pixels without data."""
    rng = np.random.default_rng(seed)
    values = rng.gamma(2, 60, (height, width)).astype(np.float32)
    values[rng.random((height, width)) < 0.05] = np.nan
    values[height // 3 : height // 2, : width // 3] = np.nan
    return values


def a_map(
    store: Any,
    frame: xr.Dataset,
    values: dict[str, np.ndarray],
    shards: int | None = 128,
) -> zarr.Group:
    """Write a finished map as it stands on disk: attributes, chunks, shards."""
    frame.to_zarr(store, mode="w", zarr_format=3, consolidated=False)
    group = zarr.open_group(store, mode="r+")
    mapping = {"grid_mapping": "spatial_ref"} if "spatial_ref" in frame else {}
    for name, array in values.items():
        target = group.create_array(
            name,
            shape=array.shape,
            dtype="float32",
            chunks=(64, 64),
            shards=None if shards is None else (shards, shards),
            compressors=BloscCodec(cname="zstd", clevel=5, shuffle="bitshuffle"),
            fill_value=float("nan"),
            dimension_names=["y", "x"],
            attributes={"units": "Mg/ha", "long_name": f"{name} of trees", **mapping},
        )
        target[...] = array
    return zarr.open_group(store, mode="r+")


def reference_mean(values: np.ndarray) -> np.ndarray:
    """Average two by two, one pixel at a time, in plain numpy."""
    height, width = values.shape
    out = np.full((-(-height // 2), -(-width // 2)), np.nan, np.float32)
    for y, x in np.ndindex(out.shape):
        four = values[2 * y : 2 * y + 2, 2 * x : 2 * x + 2]
        four = four[np.isfinite(four)].astype(np.float64)
        if four.size:
            out[y, x] = four.mean()
    return out


# --- conventions ---------------------------------------------------------------


def check_declared(attributes: dict[str, Any], names: set[str]) -> None:
    """Hold the list of conventions against what the schemas of v0.1 fix."""
    entries = attributes.get("zarr_conventions", [])
    assert {entry["name"] for entry in entries} == names
    assert len(entries) == len(names)
    for entry in entries:
        name = entry["name"]
        base = f"zarr-conventions/{name}"
        assert set(entry) == {"schema_url", "spec_url", "uuid", "name", "description"}
        assert entry["uuid"] == UUIDS[name]
        assert entry["schema_url"] == (
            f"https://raw.githubusercontent.com/{base}/refs/tags/v0.1/schema.json"
        )
        assert entry["spec_url"] == f"https://github.com/{base}/blob/v0.1/README.md"


def check_proj(attributes: dict[str, Any]) -> None:
    kept = [n for n in ("code", "wkt2", "projjson") if f"proj:{n}" in attributes]
    assert kept
    assert re.fullmatch(r"[^:]+:[^:]+", attributes.get("proj:code", "EPSG:1"))
    assert isinstance(attributes["proj:wkt2"], str)


def check_spatial(attributes: dict[str, Any]) -> None:
    assert attributes["spatial:dimensions"] == ["y", "x"]
    assert attributes["spatial:transform_type"] == "affine"
    assert attributes["spatial:registration"] == "pixel"
    for name, length, kind in (("bbox", 4, float), ("transform", 6, float)):
        numbers = attributes[f"spatial:{name}"]
        assert len(numbers) == length
        assert all(type(number) is kind for number in numbers)
    shape = attributes["spatial:shape"]
    assert len(shape) == 2
    assert all(type(size) is int and size >= 1 for size in shape)


def check_multiscales(attributes: dict[str, Any]) -> None:
    layout = attributes["multiscales"]["layout"]
    assert layout
    assert attributes["multiscales"]["resampling_method"] == "average"
    relative = re.compile(r"(?!/)(?!.*\.\.)[^/]+(/[^/]+)*")
    for item in layout:
        assert relative.fullmatch(item["asset"])
        assert len(item["transform"]["scale"]) == 2
        assert len(item["transform"]["translation"]) == 2
        if "derived_from" in item:
            assert relative.fullmatch(item["derived_from"])
            assert item["resampling_method"] == "average"


def test_conventions_tell_where_a_map_lies() -> None:
    attributes = conventions_of(a_frame(7, 5))
    check_declared(attributes, {"proj", "spatial"})
    check_proj(attributes)
    check_spatial(attributes)
    assert attributes["proj:code"] == "EPSG:32633"
    assert CRS.from_wkt(attributes["proj:wkt2"]) == CRS.from_epsg(32633)
    assert attributes["proj:wkt2"].startswith("PROJCRS[")  # WKT2, not WKT1
    assert attributes["spatial:shape"] == [7, 5]
    assert attributes["spatial:transform"] == [10, 0, 400_000, 0, -10, 5_000_000]
    assert attributes["spatial:bbox"] == [400_000, 4_999_930, 400_050, 5_000_000]


def test_conventions_say_only_what_is_true() -> None:
    unlisted = conventions_of(a_frame(7, 5, LAEA))
    assert "proj:code" not in unlisted
    assert CRS.from_wkt(unlisted["proj:wkt2"]) == CRS.from_string(LAEA)
    # Close to EPSG:32633, but not declared as that system.
    similar = conventions_of(a_frame(7, 5, "+proj=utm +zone=33 +datum=WGS84"))
    assert "proj:code" not in similar
    placed = conventions_of(a_frame(7, 5, None))
    check_declared(placed, {"spatial"})
    check_spatial(placed)
    assert not [name for name in placed if name.startswith("proj:")]


@pytest.mark.parametrize(
    "frame",
    [
        xr.Dataset({"agb": (("y", "x"), np.zeros((4, 4)))}),
        a_frame(4, 5).assign(agb=(("chip", "y", "x"), np.zeros((2, 4, 5)))),
        a_frame(1, 5, None),
        a_frame(4, 5).assign_coords(x=[1.0, 2, 3, 4, 6]),
        a_frame(4, 2).assign_coords(x=["a", "b"]),
    ],
    ids=["no coordinates", "chips", "one row", "uneven", "names"],
)
def test_no_conventions_where_the_place_is_unknown(frame: xr.Dataset) -> None:
    assert conventions_of(frame) == {}


def test_one_row_lies_where_its_grid_mapping_says() -> None:
    attributes = conventions_of(a_frame(1, 5))
    assert attributes["spatial:bbox"] == [400_000, 4_999_990, 400_050, 5_000_000]


# --- overviews -----------------------------------------------------------------


@settings(deadline=None)
@given(
    hnp.arrays(
        np.float32,
        hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=9),
        elements=st.one_of(
            st.just(np.nan), st.floats(-400, 400, width=32), st.just(np.inf)
        ),
    )
)
def test_halving_averages_what_is_finite(values: np.ndarray) -> None:
    np.testing.assert_array_equal(halve(values), reference_mean(values))


@given(
    st.integers(1, 9),
    st.integers(1, 9),
    st.floats(width=32, allow_nan=False, allow_infinity=False),
)
def test_halving_keeps_a_constant(height: int, width: int, value: float) -> None:
    values = np.full((height, width), value, np.float32)
    values.flat[: values.size // 2] = np.nan
    small = halve(values)
    assert set(small[np.isfinite(small)].tolist()) == {np.float32(value)}


@given(st.integers(1, 100_000), st.integers(1, 100_000))
def test_levels_halve_until_they_are_small(height: int, width: int) -> None:
    levels = list(level_sizes(height, width))
    assert bool(levels) == (min(height, width) > 256)
    for factor, (rows, columns) in levels:
        assert (rows, columns) == (-(-height // factor), -(-width // factor))
    if levels:
        assert 128 <= min(levels[-1][1]) <= 256


@pytest.mark.parametrize("shards", [128, None])
@pytest.mark.parametrize(("height", "width"), [(701, 523), (640, 768)])
@pytest.mark.slow
def test_overviews_hold_the_means_and_lie_right(
    tmp_path: Path, height: int, width: int, shards: int | None
) -> None:
    path = tmp_path / "map.zarr"
    values = {"agb": some_values(height, width), "sd": some_values(height, width, 1)}
    group = a_map(path, a_frame(height, width), values, shards)
    before = xr.open_zarr(path, consolidated=False).load()
    write_overviews(group, ["agb", "sd"], side=200)

    expected = values
    for factor, size in level_sizes(height, width):
        expected = {name: reference_mean(array) for name, array in expected.items()}
        level = xr.open_zarr(
            path, group=f"overviews/{factor}", decode_coords="all", consolidated=True
        )
        for name in values:
            np.testing.assert_array_equal(level[name], expected[name])
            assert level[name].dims == ("y", "x")
            assert level[name].attrs["units"] == "Mg/ha"
            assert level[name].attrs["long_name"] == f"{name} of trees"
            assert level[name].encoding["grid_mapping"] == "spatial_ref"
        assert (level.sizes["y"], level.sizes["x"]) == size
        assert level.rio.crs == CRS.from_epsg(32633)
        side = 10 * factor
        transform = rasterio.Affine(side, 0, 400_000, 0, -side, 5_000_000)
        assert level.agb.rio.transform() == transform
        assert level.agb.rio.transform(recalc=True) == transform
        bottom, right = 5_000_000 - side * size[0], 400_000 + side * size[1]
        assert level.rio.bounds() == (400_000, bottom, right, 5_000_000)
        assert level.y.attrs == {"units": "m"}
        check_declared(level.attrs, {"proj", "spatial"})
        check_spatial(level.attrs)
        assert level.attrs["spatial:bbox"] == [400_000, bottom, right, 5_000_000]

    # Full resolution is what it was, and now says what is below it.
    after = xr.open_zarr(path, consolidated=True).load()
    after_attributes, after.attrs = after.attrs, before.attrs
    xr.testing.assert_identical(after, before)
    check_declared(after_attributes, {"proj", "spatial", "multiscales"})
    check_proj(after_attributes)
    check_spatial(after_attributes)
    check_multiscales(after_attributes)
    tree = xr.open_datatree(path, engine="zarr", group="overviews")
    assert sorted(tree.children) == ["2", "4"]
    assert set(xr.open_groups(path, engine="zarr")) >= {"/", "/overviews/2"}


def test_the_layout_names_each_array_and_where_it_lies(tmp_path: Path) -> None:
    values = {"agb": some_values(701, 600), "sd": some_values(701, 600, 1)}
    group = a_map(tmp_path / "map.zarr", a_frame(701, 600), values)
    write_overviews(group, list(values), side=128)
    root = zarr.open_group(tmp_path / "map.zarr", mode="r")
    layout: Any = root.attrs["multiscales"]["layout"]  # type: ignore[index,call-overload]
    assert [(item["asset"], item.get("derived_from")) for item in layout] == [
        ("agb", None),
        ("overviews/2/agb", "agb"),
        ("overviews/4/agb", "overviews/2/agb"),
        ("sd", None),
        ("overviews/2/sd", "sd"),
        ("overviews/4/sd", "overviews/2/sd"),
    ]
    for item in layout:
        array: Any = root[item["asset"]]
        assert list(array.shape) == item["spatial:shape"]
        scale = 1.0 if "derived_from" not in item else 2.0
        assert item["transform"]["scale"] == [scale, scale]
        assert item["transform"]["translation"] == [0.0, 0.0]
    sides = [item["spatial:transform"][0] for item in layout]
    assert sides == [10.0, 20.0, 40.0] * 2


@pytest.mark.parametrize("frame", [a_frame(300, 420, None), xr.Dataset()])
def test_overviews_of_a_map_with_less_said_of_its_place(frame: xr.Dataset) -> None:
    values = {"agb": some_values(300, 420)}
    store = MemoryStore()
    write_overviews(a_map(store, frame, values), ["agb"], side=64)
    level = xr.open_zarr(store, group="overviews/2", decode_coords="all")
    np.testing.assert_array_equal(level.agb, reference_mean(values["agb"]))
    root = zarr.open_group(store, mode="r")
    known = {"spatial", "multiscales"} if "y" in frame else {"multiscales"}
    check_declared(dict(root.attrs), known)
    check_multiscales(dict(root.attrs))
    assert ("y" in level.coords) == ("y" in frame)
    assert level.rio.crs is None


def test_coordinates_that_are_uneven_are_averaged_too() -> None:
    frame = a_frame(300, 301, None)
    frame["x"] = np.arange(301.0) ** 2
    store = MemoryStore()
    group = a_map(store, frame, {"agb": some_values(300, 301)})
    write_overviews(group, ["agb"], side=64)
    level = xr.open_zarr(store, group="overviews/2")
    np.testing.assert_array_equal(level.x[[0, 1, 150]], [0.5, 6.5, 90_000.0])


def test_a_small_map_has_no_overviews_but_its_place() -> None:
    store = MemoryStore()
    group = a_map(store, a_frame(256, 4000), {"agb": some_values(256, 4000)})
    write_overviews(group, ["agb"], side=512)
    root = zarr.open_group(store, mode="r")
    assert "overviews" not in root
    assert "multiscales" not in root.attrs
    check_declared(dict(root.attrs), {"proj", "spatial"})


def test_chips_have_no_overviews() -> None:
    group = zarr.create_group(MemoryStore())
    group.create_array(
        "agb", shape=(2, 9, 9), dtype="f4", dimension_names=["chip", "y", "x"]
    )
    with pytest.raises(ValueError, match=r"agb must have dimensions \(y, x\), got"):
        write_overviews(group, ["agb"], side=64)
    assert "overviews" not in group


def everything_in(store: MemoryStore) -> dict[str, bytes]:
    return {key: data.to_bytes() for key, data in store._store_dict.items()}


@pytest.mark.slow  # law 4 is quick
def test_interrupted_anywhere_overviews_come_out_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    frame, values = a_frame(600, 530), {"agb": some_values(600, 530)}
    whole = MemoryStore()
    write_overviews(a_map(whole, frame, values), ["agb"], side=128)
    store = MemoryStore()
    group = a_map(store, frame, values)
    tried = 0
    for fails in range(100):
        calls = 0

        def failing(array: np.ndarray, fails: int = fails) -> np.ndarray:
            nonlocal calls
            calls += 1
            if calls > fails:
                raise KeyboardInterrupt
            return halve(array)

        monkeypatch.setattr(overviews, "halve", failing)
        try:
            write_overviews(group, ["agb"], side=128)
        except KeyboardInterrupt:
            tried += 1
            root = zarr.open_group(store, mode="r")
            assert "multiscales" not in root.attrs
            np.testing.assert_array_equal(root["agb"], values["agb"])
        else:
            break
    assert tried > 10
    assert everything_in(store) == everything_in(whole)
    # Once more over what is whole: the same again, and not believed meanwhile.
    monkeypatch.setattr(overviews, "_fill", _interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_overviews(zarr.open_group(store, mode="r+"), ["agb"], side=128)
    attributes = dict(zarr.open_group(store, mode="r").attrs)
    assert "multiscales" not in attributes
    check_declared(attributes, {"proj", "spatial"})
    monkeypatch.undo()
    write_overviews(zarr.open_group(store, mode="r+"), ["agb"], side=128)
    assert everything_in(store) == everything_in(whole)


def _interrupt(*_: Any) -> None:
    raise KeyboardInterrupt


@pytest.mark.slow  # law 8 is quick for a map
def test_overviews_need_memory_by_the_side_not_by_the_map(tmp_path: Path) -> None:
    def peak(size: int) -> int:
        path = tmp_path / f"{size}.zarr"
        group = a_map(path, a_frame(size, size), {"agb": some_values(size, size)})
        tracemalloc.start()
        write_overviews(group, ["agb"], side=128)
        highest = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return highest

    peak(512)  # what is imported and cached on the way does not count
    small, large = peak(768), peak(1792)
    assert large < 1.3 * small + 2**20
    assert large < 1792 * 1792 * 4 / 2


# --- GeoTIFF -------------------------------------------------------------------


@pytest.mark.slow
def test_the_geotiff_is_a_right_cog_with_bands(tmp_path: Path) -> None:
    values = {"agb": some_values(1104, 600), "sd": some_values(1104, 600, 1) + 1e6}
    a_map(tmp_path / "map.zarr", a_frame(1104, 600), values)
    path = tmp_path / "map.tif"
    write_geotiff(tmp_path / "map.zarr", path, ["agb", "sd"], "abc", side=300)
    valid, errors, warned = cog_validate(path, strict=True, quiet=True)
    assert valid, (errors, warned)
    assert geotiff_tags(path)[FINGERPRINT] == "abc"
    info = cog_info(path)
    assert np.isnan(info.Profile.Nodata)
    assert (info.Compression, info.Profile.Dtype) == ("DEFLATE", "float32")
    with rasterio.open(path) as source:
        assert source.crs == CRS.from_epsg(32633)
        assert source.transform == rasterio.Affine(10, 0, 400_000, 0, -10, 5_000_000)
        assert source.descriptions == ("agb", "sd")
        assert source.units == ("Mg/ha", "Mg/ha")
        assert source.tags(ns="IMAGE_STRUCTURE")["PREDICTOR"] == "3"
        assert source.block_shapes == [(512, 512)] * 2
        for band, name in enumerate(values, start=1):
            expected = values[name]
            np.testing.assert_array_equal(source.read(band), expected)
            tags = source.tags(band)
            assert tags["long_name"] == f"{name} of trees"
            exact = expected[np.isfinite(expected)].astype(np.float64)
            found = {k: float(v) for k, v in tags.items() if k.startswith("STAT")}
            assert found["STATISTICS_MINIMUM"] == exact.min()
            assert found["STATISTICS_MAXIMUM"] == exact.max()
            assert found["STATISTICS_MEAN"] == pytest.approx(exact.mean(), rel=1e-14)
            assert found["STATISTICS_STDDEV"] == pytest.approx(exact.std(), rel=1e-10)
            share = 100 * exact.size / expected.size
            assert found["STATISTICS_VALID_PERCENT"] == pytest.approx(share, rel=1e-3)
            assert source.overviews(band) == [2, 4]
            small = source.read(band, out_shape=(552, 300))
            np.testing.assert_allclose(small, reference_mean(expected), rtol=2e-7)
            smaller = source.read(band, out_shape=(276, 150))
            twice = reference_mean(small)
            np.testing.assert_allclose(smaller, twice, rtol=2e-7)
    raster = rioxarray.open_rasterio(path, masked=True)
    np.testing.assert_array_equal(raster[1], values["sd"])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["map.tif", "map.zarr"]


def test_overviews_of_a_ragged_geotiff_stay_within_what_they_cover(
    tmp_path: Path,
) -> None:
    values = np.full((1111, 777), 123.456, np.float32)
    values[400:601, 300:501] = np.nan
    scene = a_frame(1111, 777).assign(agb=(("y", "x"), values))
    write_geotiff(scene, tmp_path / "map.tif", ["agb"], "abc")
    for level in range(2):
        with rasterio.open(tmp_path / "map.tif", overview_level=level) as source:
            small = source.read(1)
            assert np.isnan(small).any()
            assert set(small[np.isfinite(small)]) == {np.float32(123.456)}


@pytest.mark.parametrize("crs", [LAEA, "EPSG:4326", None])
def test_any_reference_system_survives_in_a_geotiff(
    tmp_path: Path, crs: str | None
) -> None:
    scene = a_frame(60, 70, crs).assign(agb=(("y", "x"), some_values(60, 70)))
    write_geotiff(scene, tmp_path / "map.tif", ["agb"], "abc")
    with rasterio.open(tmp_path / "map.tif") as source:
        assert source.crs == (None if crs is None else CRS.from_string(crs))
        assert source.transform == rasterio.Affine(10, 0, 400_000, 0, -10, 5_000_000)
    assert [p.name for p in tmp_path.iterdir()] == ["map.tif"]


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_a_map_that_lies_nowhere_is_a_plain_raster(tmp_path: Path) -> None:
    values = some_values(60, 70)
    values[:] = np.nan
    scene = xr.Dataset({"agb": (("y", "x"), values)})
    write_geotiff(scene, tmp_path / "map.tif", ["agb"], "abc")
    assert geotiff_tags(tmp_path / "map.tif")[FINGERPRINT] == "abc"
    with rasterio.open(tmp_path / "map.tif") as source:
        assert np.isnan(source.read(1)).all()
        assert not [tag for tag in source.tags(1) if tag.startswith("STATISTICS")]


def test_rasterio_warns_of_no_other_map(tmp_path: Path) -> None:
    """The silence about a map that lies nowhere ends with it."""
    scene = xr.Dataset({"agb": (("y", "x"), some_values(20, 20))})
    write_geotiff(scene, tmp_path / "map.tif", ["agb"], "abc")
    with (
        pytest.warns(rasterio.errors.NotGeoreferencedWarning),
        rasterio.open(tmp_path / "map.tif"),
    ):
        pass


@pytest.mark.slow
def test_the_geotiff_is_the_same_from_any_store_and_window(tmp_path: Path) -> None:
    values = {"agb": some_values(700, 1200)}
    store = MemoryStore()
    group = a_map(store, a_frame(700, 1200), values)
    lazy = xr.open_zarr(store, consolidated=False, chunks={}, decode_coords="all")
    made = []
    for number, source in enumerate((store, group, lazy)):
        path = tmp_path / f"{number}.tif"
        write_geotiff(source, path, ["agb"], "abc", side=512 * (1 + number))
        with rasterio.open(path) as raster:
            made.append((raster.read(1), raster.profile, raster.tags()))
        np.testing.assert_array_equal(made[-1][0], values["agb"])
    assert str(made[0][1:]) == str(made[1][1:]) == str(made[2][1:])


@pytest.mark.parametrize("stage", ["_write_plain", "_describe"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_nothing_is_left_of_a_geotiff_that_failed(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    stage: str,
    error: type[BaseException],
) -> None:
    scene = a_frame(60, 70).assign(agb=(("y", "x"), some_values(60, 70)))
    path = tmp_path / "map [1].tif"
    path.write_text("what was there")
    for killed in ("plain.tif", "making.tif", "making.tif.ovr.tmp"):
        (tmp_path / f"{path.name}.{killed}").write_text("of a call that was killed")
    (tmp_path / "map 1.tif.plain.tif").write_text("of another map")

    def failing(*_: Any) -> None:
        raise error("disk full")

    monkeypatch.setattr(geotiff, stage, failing)
    with pytest.raises(error):
        write_geotiff(scene, path, ["agb"], "abc")
    assert path.read_text() == "what was there"
    left = sorted(p.name for p in tmp_path.iterdir())
    assert left == ["map 1.tif.plain.tif", "map [1].tif"]


def test_leftovers_of_a_killed_call_do_not_get_into_the_next(tmp_path: Path) -> None:
    scene = a_frame(60, 70).assign(agb=(("y", "x"), some_values(60, 70)))
    path = tmp_path / "map.tif"
    (tmp_path / "map.tif.plain.tif.aux.xml").write_text(
        "<PAMDataset><Metadata><MDI key='old'>1</MDI></Metadata></PAMDataset>"
    )
    write_geotiff(scene, path, ["agb"], "abc")
    with rasterio.open(path) as source:
        assert "old" not in source.tags()
    assert [p.name for p in tmp_path.iterdir()] == ["map.tif"]


def test_chips_have_no_geotiff(tmp_path: Path) -> None:
    chips = xr.Dataset({"agb": (("chip", "y", "x"), np.zeros((2, 4, 4), "f4"))})
    with pytest.raises(ValueError, match=r"agb must have dimensions \(y, x\), got"):
        write_geotiff(chips, tmp_path / "map.tif", ["agb"], "abc")


MEASURE = """
import re, sys
from pathlib import Path
import numpy as np, zarr
from geobiomass.maps.geotiff import write_geotiff
import rasterio, rioxarray
size, folder = int(sys.argv[1]), Path(sys.argv[2])
group = zarr.create_group(folder / f"{size}.zarr")
array = group.create_array("agb", shape=(size, size), dtype="f4", chunks=(512, 512),
    shards=(1024, 1024), fill_value=float("nan"), dimension_names=["y", "x"])
block = np.full((1024, 1024), 99.0, "f4")  # of one value, which is quick to compress
for top in range(0, size, 1024):
    for left in range(0, size, 1024):
        array[top:top + 1024, left:left + 1024] = block
write_geotiff(folder / f"{size}.zarr", folder / f"{size}.tif", ["agb"], "abc")
print(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")
def test_a_geotiff_needs_memory_by_its_settings_not_by_the_map(tmp_path: Path) -> None:
    def peak(size: int) -> float:
        command = [sys.executable, "-c", MEASURE, str(size), str(tmp_path)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return int(done.stdout) / 1024

    # Caches and the allocator's arenas are full by 256 MiB of pixels (four runs: 26 MiB
    # more at the peak), not by 64 MiB; a map that is held whole needs 768 MiB more.
    medium, large = peak(8192), peak(16384)
    assert large < medium + 768 / 4
