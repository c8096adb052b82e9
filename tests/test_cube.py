"""Cubes: the schema says what is at fault, and what is written is read."""

from __future__ import annotations

import shutil
import tracemalloc
from pathlib import Path

import dask.array as da
import numpy as np
import pytest
import rioxarray  # noqa: F401  (the .rio accessor)
import xarray as xr
import zarr
from conftest import make_chips, make_scene
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import geobiomass as gb
from geobiomass.cube.encoding import band_quantum

# --- the schema ---------------------------------------------------------------


def test_good_cubes_pass(scene: xr.Dataset, chips: xr.Dataset) -> None:
    for cube in (scene, chips, scene.drop_vars("agb"), chips.drop_vars("agb")):
        gb.check_cube(cube)


def broken_cubes() -> list[tuple[str, xr.Dataset | object]]:
    scene, chips = make_scene(), make_chips(3)
    image = scene["image"]
    return [
        ("must be an xarray.Dataset, got DataArray", image),
        ("must have a variable 'image', got \\['agb'\\]", scene[["agb"]]),
        ("Dimensions of 'image' must be", scene.transpose("band", ...)),
        ("'image' must be floating point", scene.fillna(0).astype("int16")),
        ("Dimension 'month' of 'image' must not be empty", scene.isel(month=[])),
        ("Coordinate 'band' is missing", scene.drop_vars("band")),
        ("must hold names, got int64", scene.assign_coords(band=[1, 2, 3])),
        ("got \\['B04'\\] twice", scene.assign_coords(band=["B04", "B04", "B8A"])),
        ("Coordinate 'month' is missing", scene.drop_vars("month")),
        ("got \\[0, 7, 8\\]", scene.assign_coords(month=[0, 7, 8])),
        ("got \\[6, 7, 13\\]", scene.assign_coords(month=[6, 7, 13])),
        ("got \\[6.0, 7.5, 8.0\\]", scene.assign_coords(month=[6.0, 7.5, 8.0])),
        ("Coordinate 'chip' is missing", chips.drop_vars("chip")),
        ("got \\['a'\\] twice", chips.assign_coords(chip=["a", "b", "a"])),
        ("Coordinate 'y' is missing", scene.drop_vars("y")),
        (
            "Coordinate 'x' must be evenly spaced",
            scene.assign_coords(x=np.arange(56.0) ** 2),
        ),
        (
            "Dimensions of 'agb' must be \\('y', 'x'\\)",
            scene.assign(agb=scene["agb"].transpose("x", "y")),
        ),
        ("'agb' must be floating point", scene.assign(agb=scene["agb"].astype(int))),
    ]


@pytest.mark.parametrize(("said", "cube"), broken_cubes())
def test_what_is_at_fault_is_named(said: str, cube: xr.Dataset) -> None:
    with pytest.raises(gb.CubeError, match=said):
        gb.check_cube(cube)


# --- round trips --------------------------------------------------------------

BANDS = ("VV_asc", "VH_desc", "B04", "B8A", "CLP")


@st.composite
def cubes(draw: st.DrawFn) -> xr.Dataset:
    """Scenes and chips of any small size, with values that the sensors can give."""
    height, width = draw(st.integers(1, 40)), draw(st.integers(1, 40))
    months = draw(st.lists(st.integers(1, 12), min_size=1, max_size=3))
    bands = draw(st.lists(st.sampled_from(BANDS), min_size=1, unique=True))
    shape = (len(months), len(bands), height, width)
    seed = draw(st.integers(0, 2**32))
    random = np.random.default_rng(seed)
    image = random.uniform(-99, 99, shape).astype(np.float32)
    for index, band in enumerate(bands):
        if band_quantum(band) == 1:
            image[:, index] = random.integers(0, 32767, shape[:1] + shape[2:])
    image[random.uniform(size=shape) < draw(st.sampled_from([0, 0.3, 1]))] = np.nan
    agb = draw(
        hnp.arrays(
            np.float32,
            (height, width),
            elements=st.floats(0, 2e4, width=32) | st.just(np.nan),
            fill=st.just(np.nan),
        )
    )
    cube = xr.Dataset(
        {"image": (("month", "band", "y", "x"), image), "agb": (("y", "x"), agb)},
        coords={"month": months, "band": bands},
        attrs={"source": draw(st.text(max_size=5))},
    )
    cube["image"].attrs = {"long_name": "backscatter and reflectance"}
    cube["agb"].attrs = {"units": "Mg/ha"}
    if draw(st.booleans()):
        return cube.expand_dims(chip=["ä chip", "another"], axis=0).copy()
    step = draw(st.sampled_from([10.0, 30.0, 0.1]))
    cube = cube.assign_coords(
        y=7e6 - step * np.arange(height), x=3e5 + step * np.arange(width)
    )
    return cube.rio.write_crs(draw(st.sampled_from(["EPSG:3067", "EPSG:32721"])))


@given(cubes(), st.sampled_from(["int16", "int32", "float32"]))
def test_what_is_written_is_read(
    tmp_path_factory: pytest.TempPathFactory, cube: xr.Dataset, dtype: str
) -> None:
    path = tmp_path_factory.mktemp("cube") / "cube.zarr"
    gb.write_cube(cube, path, dtype)
    back = gb.open_cube(path).load()
    gb.check_cube(back)
    for name in ("image", "agb"):
        assert back[name].dims == cube[name].dims
        assert back[name].dtype == np.float32
        assert back[name].attrs == cube[name].attrs
        np.testing.assert_array_equal(np.isnan(back[name]), np.isnan(cube[name]))
    np.testing.assert_array_equal(back["agb"], cube["agb"])
    for band in cube["band"].values:
        found, given_ = (c["image"].sel(band=band).values for c in (back, cube))
        if dtype == "float32" or band_quantum(str(band)) == 1:
            np.testing.assert_array_equal(found, given_)
        else:  # half a step of 0.01 dB, and the rounding of float32
            np.testing.assert_allclose(found, given_, atol=0.00502)
    assert back.attrs == cube.attrs
    for name in cube.coords:
        assert back[name].values.tolist() == cube[name].values.tolist()
    if "chip" not in cube.dims:
        assert back.rio.crs == cube.rio.crs
    shutil.rmtree(path)


def test_a_deleted_cube_is_written_again(tmp_path: Path, chips: xr.Dataset) -> None:
    gb.write_cube(chips, tmp_path / "chips.zarr")
    shutil.rmtree(tmp_path / "chips.zarr")
    gb.write_cube(chips, tmp_path / "chips.zarr")
    assert gb.open_cube(tmp_path / "chips.zarr").sizes == chips.sizes


def test_on_disk_it_is_int16_zarr_v3_in_shards(
    tmp_path: Path, scene: xr.Dataset, chips: xr.Dataset
) -> None:
    gb.write_cube(scene, tmp_path / "scene.zarr")
    gb.write_cube(chips, tmp_path / "chips.zarr")
    for name, shard in (("scene", (3, 3, 64, 56)), ("chips", (1, 3, 3, 32, 32))):
        image = zarr.open_group(tmp_path / f"{name}.zarr", mode="r")["image"]
        assert isinstance(image, zarr.Array)
        assert image.metadata.zarr_format == 3
        assert image.dtype == np.int16
        assert image.shards == shard
        assert image.attrs["_FillValue"] == -32768
        metadata = zarr.open_group(tmp_path / f"{name}.zarr").metadata
        assert metadata.consolidated_metadata is not None


def test_a_big_scene_has_shards_of_256_pixels(tmp_path: Path) -> None:
    scene = make_scene(300, 520, months=(7,), bands=("B04",))
    gb.write_cube(scene, tmp_path / "scene.zarr")
    image = zarr.open_group(tmp_path / "scene.zarr", mode="r")["image"]
    assert isinstance(image, zarr.Array)
    assert image.shards == (1, 1, 256, 256)
    assert image.chunks == (1, 1, 32, 64)
    assert gb.open_cube(tmp_path / "scene.zarr").chunksizes["x"] == (256, 256, 8)


def test_plain_xarray_reads_it(tmp_path: Path, scene: xr.Dataset) -> None:
    # All bands of one step: CF's scale_factor says it all.
    radar = scene.sel(band=["VV_asc"])
    optical = scene.sel(band=["B04", "B08"])
    for part, tolerance in ((radar, 0.0051), (optical, 0)):
        path = tmp_path / f"{part.sizes['band']}.zarr"
        gb.write_cube(part, path)
        plain = xr.open_zarr(path)
        np.testing.assert_allclose(plain["image"], part["image"], atol=tolerance)
    # Mixed: decibels as they are, reflectance in percent, and the way back.
    gb.write_cube(scene, tmp_path / "mixed.zarr")
    plain = xr.open_zarr(tmp_path / "mixed.zarr")
    assert set(plain.coords) >= {"band", "month", "y", "x", "spatial_ref"}
    radar, green = (plain["image"].sel(band=b).values for b in ("VV_asc", "B04"))
    np.testing.assert_allclose(radar, scene["image"].sel(band="VV_asc"), atol=0.0051)
    np.testing.assert_allclose(green, scene["image"].sel(band="B04") / 100, rtol=1e-5)
    back = plain["image"] * plain["multiplier"]
    np.testing.assert_allclose(back, scene["image"], rtol=1e-5, atol=0.0051)
    # int32: one step for all bands, the cube's own units for any reader.
    gb.write_cube(scene, tmp_path / "int32.zarr", "int32")
    plain = xr.open_zarr(tmp_path / "int32.zarr")
    np.testing.assert_allclose(plain["image"], scene["image"], atol=0.0040)


def test_rioxarray_finds_the_grid(tmp_path: Path, scene: xr.Dataset) -> None:
    gb.write_cube(scene, tmp_path / "scene.zarr")
    plain = xr.open_zarr(tmp_path / "scene.zarr", decode_coords="all")
    for found in (plain["image"], plain["agb"], plain):
        assert found.rio.crs == scene.rio.crs
        assert found.rio.transform() == scene.rio.transform()
        assert found.rio.bounds() == scene.rio.bounds()


def test_gdal_reads_it(tmp_path: Path, scene: xr.Dataset) -> None:
    import rasterio

    if tuple(map(int, rasterio.__gdal_version__.split(".")[:2])) < (3, 13):
        pytest.skip(
            f"GDAL {rasterio.__gdal_version__} does not know Zarr v3 with shards; "
            "by its notes 3.13 does"
        )
    gb.write_cube(scene, tmp_path / "scene.zarr", "float32")
    with rasterio.open(f'ZARR:"{tmp_path / "scene.zarr"}":/agb') as source:
        np.testing.assert_array_equal(source.read(1), scene["agb"])
        assert source.crs == scene.rio.crs


def test_plain_zarr_stores_by_others_are_cubes_too(
    tmp_path: Path, scene: xr.Dataset
) -> None:
    path = tmp_path / "theirs.zarr"
    names = scene["band"].astype(object)
    scene.assign_coords(band=names).to_zarr(path, zarr_format=3, consolidated=False)
    xr.testing.assert_identical(gb.open_cube(path).load()["agb"], scene["agb"])
    np.testing.assert_array_equal(gb.open_cube(path)["image"], scene["image"])


# --- bad input and interruptions ----------------------------------------------


def test_stores_that_are_no_cubes(tmp_path: Path, scene: xr.Dataset) -> None:
    with pytest.raises(FileNotFoundError, match="nothing at"):
        gb.open_cube(tmp_path / "absent.zarr")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "notes.txt").write_text("no cube")
    with pytest.raises(gb.CubeError, match="not a Zarr group"):
        gb.open_cube(tmp_path / "folder")
    scene[["agb"]].to_zarr(tmp_path / "a.zarr", zarr_format=3, consolidated=False)
    with pytest.raises(gb.CubeError, match=r"a.zarr is not a cube. .*'image'"):
        gb.open_cube(tmp_path / "a.zarr")


def test_unknown_bands_need_a_step(tmp_path: Path, scene: xr.Dataset) -> None:
    cube = scene.assign_coords(band=["VV_asc", "slope", "B08"])
    with pytest.raises(gb.CubeError, match=r"Bands \['slope'\] .* quantum"):
        gb.write_cube(cube, tmp_path / "c.zarr")
    assert not (tmp_path / "c.zarr").exists()
    gb.write_cube(cube, tmp_path / "c.zarr", quantum={"slope": 0.5})
    back = gb.open_cube(tmp_path / "c.zarr")
    difference = abs(back["image"] - cube["image"]).max(["month", "y", "x"])
    assert (difference <= [0.0051, 0.25, 0]).all()
    # A cube that was read knows the steps it was stored with.
    gb.write_cube(back, tmp_path / "again.zarr")
    again = gb.open_cube(tmp_path / "again.zarr")
    xr.testing.assert_equal(again.load(), back.load())


def test_values_beyond_the_type_are_clipped_with_a_word(
    tmp_path: Path, scene: xr.Dataset
) -> None:
    scene["image"][1, 1, 3, 4] = 40_000
    with pytest.warns(UserWarning, match=r"1 values of bands \['B04'\] .*40000"):
        gb.write_cube(scene, tmp_path / "c.zarr")
    assert gb.open_cube(tmp_path / "c.zarr")["image"].sel(band="B04").max() == 32_767


def test_what_is_there_is_not_overwritten(tmp_path: Path, scene: xr.Dataset) -> None:
    path = tmp_path / "c.zarr"
    gb.write_cube(scene, path)
    gb.write_cube(scene, path)  # the same call finds its work done
    with pytest.raises(FileExistsError, match="overwrite=True"):
        gb.write_cube(scene + 1, path)
    gb.write_cube(scene + 1, path, overwrite=True)
    np.testing.assert_allclose(gb.open_cube(path)["agb"], scene["agb"] + 1)


def test_writing_takes_no_more_memory_for_more_chips(tmp_path: Path) -> None:
    def peak(count: int) -> int:
        lazy = da.ones((count, 3, 3, 128, 128), chunks=(1, 3, 3, 128, 128))
        chips = make_chips(1).drop_vars(["image", "agb", "chip"])
        chips["image"] = (("chip", "month", "band", "y", "x"), lazy)
        chips = chips.assign_coords(chip=[str(i) for i in range(count)])
        tracemalloc.start()
        gb.write_cube(chips, tmp_path / f"{count}.zarr")
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    peak(2)  # imports and caches
    few, many = peak(6), peak(60)
    # All 60 chips at once would be 70 MB; dask's graph of them is a little more, and
    # two workers may or may not be at the same point.
    assert many < 2 * few, (few, many)
    assert many < 20_000_000, (few, many)


# --- from plain xarray --------------------------------------------------------


def test_as_cube_from_a_variable_a_band(scene: xr.Dataset) -> None:
    # As an archive delivers it: a variable a band, dates, undeclared nodata.
    time = np.array(["2020-06-01", "2020-07-01", "2020-08-01"], "datetime64[ns]")
    raw = xr.Dataset(
        {
            str(band): scene["image"].sel(band=band, drop=True).fillna(65535)
            for band in scene["band"].values
        }
    )
    raw = raw.rename(month="t").assign_coords(t=time)
    raw["slope"] = raw["B04"].isel(t=0, drop=True) * 0 + 3
    cube = gb.as_cube(raw, agb=scene["agb"], nodata=65535, crs="EPSG:3067")
    assert [*cube["band"].values] == ["VV_asc", "B04", "B08", "slope"]
    known = cube.isel(band=slice(0, 3))
    np.testing.assert_array_equal(known["image"], scene["image"])
    assert (cube["image"].sel(band="slope") == 3).all()
    assert cube["month"].values.tolist() == [6, 7, 8]
    assert cube.rio.crs == scene.rio.crs
    assert cube.rio.transform() == scene.rio.transform()


def test_as_cube_from_one_array(scene: xr.Dataset) -> None:
    array = scene["image"].transpose("y", "x", "month", "band")
    cube = gb.as_cube(array)
    np.testing.assert_array_equal(cube["image"], scene["image"])
    assert cube.rio.crs == scene.rio.crs


def test_as_cube_says_what_it_cannot_do(scene: xr.Dataset) -> None:
    image = scene["image"]
    with pytest.raises(gb.CubeError, match="needs a time axis"):
        gb.as_cube(image.isel(month=0, drop=True))
    with pytest.raises(gb.CubeError, match="no coordinate"):
        gb.as_cube(image.drop_vars("month"))
    with pytest.raises(gb.CubeError, match="dates or calendar months"):
        gb.as_cube(image.assign_coords(month=["wet", "dry", "cold"]))
    with pytest.raises(gb.CubeError, match="dimensions y and x"):
        gb.as_cube(xr.Dataset({"B04": ("t", [1.0, 2.0])}))
    shifted = scene["agb"].assign_coords(x=scene["x"] + 10)
    with pytest.raises(gb.CubeError, match=r"grid of the image, .*'x' .* 1 pixels"):
        gb.as_cube(image, agb=shifted)
