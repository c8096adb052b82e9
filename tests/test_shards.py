"""Reading a cube on disk: the same bits on every way, and damage that is noticed."""

from __future__ import annotations

import builtins
import pickle
import shutil
import warnings
from pathlib import Path

import dask.array as da
import numpy as np
import pytest
import xarray as xr
import zarr
from conftest import make_chips, make_scene
from hypothesis import given
from hypothesis import strategies as st
from zarr.codecs import BloscCodec, Crc32cCodec, ZstdCodec

import geobiomass as gb
from geobiomass.cube.codecs import quick_codecs
from geobiomass.cube.selection import Selection
from geobiomass.cube.shards import Layout
from geobiomass.cube.stored_array import StoredArray

SHAPE = (4, 3, 2, 70, 90)
STEPS = np.array([0.01, 1], np.float32)[:, None, None]


def codes(seed: int = 0) -> np.ndarray:
    draw = np.random.default_rng(seed)
    values = draw.integers(-3000, 30000, SHAPE).astype(np.int16)
    values[draw.random(SHAPE) < 0.1] = -32768
    values[1, 2] = -32768
    return values


def physical(values: np.ndarray) -> np.ndarray:
    return np.where(values == -32768, np.nan, values * STEPS).astype(np.float32)


def make_array(folder: Path, values: np.ndarray, kind: str) -> zarr.Array:
    blosc = BloscCodec(cname="lz4", shuffle="bitshuffle")
    compressors = {"blosc": [blosc], "zstd": [ZstdCodec()]}.get(
        kind, [blosc, Crc32cCodec()]
    )
    array = zarr.create_array(
        folder / "image",
        shape=SHAPE,
        dtype="int16",
        chunks=(1, 2, 2, 32, 64),
        shards=None if kind == "plain" else (1, 4, 2, 64, 64),
        compressors=compressors,
        fill_value=-32768,
        dimension_names=["chip", "month", "band", "y", "x"],
    )
    array[:] = values
    return zarr.open_array(folder / "image", mode="r")


def stored(folder: Path, kind: str = "checked") -> StoredArray:
    labels = {"chip": list("abcd"), "month": list("678"), "band": ["VV", "B04"]}
    array = make_array(folder, codes(), kind)
    return StoredArray(array, str(folder), STEPS, -32768, labels)


@st.composite
def indexes(draw: st.DrawFn) -> tuple[int | slice | list[int], ...]:
    def one(size: int) -> int | slice | list[int]:
        place = st.integers(-size, size - 1)
        if draw(st.booleans()):
            return draw(place)
        if draw(st.booleans()):
            return draw(st.lists(place, max_size=4))
        ends = st.none() | st.integers(-size - 2, size + 2)
        return slice(
            draw(ends), draw(ends), draw(st.sampled_from([None, 1, 3, -1, -7]))
        )

    return tuple(one(size) for size in SHAPE[: draw(st.integers(0, 5))])


@pytest.fixture(scope="module")
def arrays(tmp_path_factory: pytest.TempPathFactory) -> dict[str, StoredArray]:
    kinds = ("checked", "blosc", "zstd", "plain")
    found = {kind: stored(tmp_path_factory.mktemp(kind), kind) for kind in kinds}
    assert [found[kind].layout is not None for kind in kinds] == [
        True,
        True,
        False,
        False,
    ]
    return found


@given(index=indexes(), kind=st.sampled_from(["checked", "blosc", "zstd", "plain"]))
def test_any_index_reads_what_numpy_would(
    arrays: dict[str, StoredArray], index: tuple, kind: str
) -> None:
    expected = physical(codes())
    for axis in reversed(range(len(index))):
        expected = expected[(slice(None),) * axis + (index[axis],)]
    found = arrays[kind][index]
    assert found.shape == expected.shape
    np.testing.assert_array_equal(found, expected)


def test_with_and_without_zarrs_the_bits_are_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = codes()
    for installed in (True, False):
        folder = tmp_path / str(installed)
        if not installed:
            monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
        with quick_codecs():
            array = make_array(folder, values, "checked")
        pipeline = type(array._async_array.codec_pipeline).__name__
        assert (pipeline == "ZarrsCodecPipeline") == installed
        np.testing.assert_array_equal(array[:], values)
        # What one wrote the other reads, and so do we.
        np.testing.assert_array_equal(zarr.open_array(folder / "image")[:], values)
        found = StoredArray(array, "here", STEPS, -32768)
        np.testing.assert_array_equal(found[...], physical(values))
    assert zarr.config.get("codec_pipeline.path").endswith("BatchedCodecPipeline")


def test_opening_leaves_the_filters_of_other_threads_alone() -> None:
    """Filters of warnings are the process's: set back here, theirs would be lost."""
    with warnings.catch_warnings():
        with quick_codecs():
            warnings.filterwarnings("ignore", "what another thread hides")
        hidden = [text.pattern for _, text, *_ in warnings.filters if text is not None]
    assert "what another thread hides" in hidden


def test_pickled_it_is_a_place(tmp_path: Path) -> None:
    array = stored(tmp_path)
    content = pickle.dumps(array)
    assert len(content) < 10_000
    back = pickle.loads(content)
    np.testing.assert_array_equal(back[1:3], array[1:3])


def test_a_window_costs_the_chunks_that_hold_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from numcodecs import blosc

    gb.write_cube(make_chips(1, 256), tmp_path / "c.zarr")
    cube = gb.open_cube(tmp_path / "c.zarr")
    decoded = []
    decompress = blosc.decompress

    def count(body, out):
        decoded.append(out.nbytes)
        return decompress(body, out)

    monkeypatch.setattr(blosc, "decompress", count)
    draw = np.random.default_rng(0)
    needed = 2 * 3 * 3 * 128 * 128
    worst = 0
    for _ in range(40):
        top, left = draw.integers(0, 129, 2)
        decoded.clear()
        cube["image"].isel(y=slice(top, top + 128), x=slice(left, left + 128)).load()
        worst = max(worst, sum(decoded))
    # A random crop of 128 pixels touches no more than twice the bytes it needs.
    assert needed < worst <= 2 * needed


# --- damage -------------------------------------------------------------------


def break_bits(path: Path, offset: int) -> None:
    content = bytearray(path.read_bytes())
    content[offset] ^= 0x10
    path.write_bytes(content)


def cut_short(path: Path, offset: int) -> None:
    path.write_bytes(path.read_bytes()[:offset])


@given(share=st.floats(0, 0.999), harm=st.sampled_from([break_bits, cut_short]))
@pytest.mark.slow
def test_no_damage_goes_unnoticed(
    tmp_path_factory: pytest.TempPathFactory, share: float, harm
) -> None:
    folder = tmp_path_factory.mktemp("d")
    gb.write_cube(make_chips(2, 40), folder / "c.zarr")
    cube = gb.open_cube(folder / "c.zarr")
    shard = folder / "c.zarr" / "image" / "c" / "1" / "0" / "0" / "0" / "0"
    sound = cube["image"].values
    harm(shard, int(share * shard.stat().st_size))
    np.testing.assert_array_equal(cube["image"][0], sound[0])
    with pytest.raises(gb.DamagedError) as caught:
        cube["image"][1].load()
    said = str(caught.value)
    assert "chip chip001" in said
    assert str(shard) in said
    assert caught.value.file == str(shard)
    shutil.rmtree(folder)


@pytest.mark.parametrize("direct", [True, False])
@pytest.mark.parametrize("name", ["image", "agb"])
def test_a_shard_that_is_gone_is_no_missing_data(
    tmp_path: Path, direct: bool, name: str
) -> None:
    chips = make_chips(3)
    chips[name][1] = np.nan
    gb.write_cube(chips, tmp_path / "c.zarr")
    cube = gb.open_cube(tmp_path / "c.zarr")
    found = Selection.of(cube[name].data)
    assert found is not None
    if not direct:
        found.stored.layout = None
    assert cube[name][1].isnull().all()
    (shard,) = (
        f for f in (tmp_path / "c.zarr" / name / "c/2").rglob("*") if f.is_file()
    )
    shard.unlink()
    with pytest.raises(gb.DamagedError, match=r"chip chip002.*damaged or gone"):
        cube[name][2].load()


def test_damage_is_named_by_month_band_and_pixels(tmp_path: Path) -> None:
    array = stored(tmp_path)
    shard = tmp_path / "image" / "c" / "2" / "0" / "0" / "1" / "0"
    break_bits(shard, 40)
    with pytest.raises(gb.DamagedError) as caught:
        array[2, 0:2, :, 64:70, 0:5]
    said = str(caught.value)
    assert "chip c, month 6 7, all bands, y 64 to 69, x 0 to 63" in said, said
    array[2, :, :, 0:64]  # the other shard of the chip


# --- what of a stored variable an array is --------------------------------------


def opened(tmp_path: Path) -> xr.DataArray:
    gb.write_cube(make_chips(5, 70), tmp_path / "c.zarr")
    return gb.open_cube(tmp_path / "c.zarr")["image"]


def test_selections_are_seen_through(tmp_path: Path) -> None:
    image = opened(tmp_path)
    numbered = image.copy(data=np.arange(image.size).reshape(image.shape))
    for choose in (
        lambda a: a,
        lambda a: a.isel(chip=[3, 1]).sel(band=["B08", "VV_asc"]).isel(x=slice(2, 9)),
        lambda a: a.sel(chip=["chip004"]).isel(month=slice(None, None, -1)),
        lambda a: a.chunk(chip=2, y=11),
        lambda a: xr.concat([a.isel(chip=[0]), a.isel(chip=[4])], "chip"),
        lambda a: a.roll(x=5, roll_coords=False),
        lambda a: a.isel(chip=slice(1, None, 2)).isel(chip=[1, 0]),
    ):
        found = Selection.of(choose(image).data)
        assert found is not None
        expected = numbered.values[np.ix_(*found.positions)]
        np.testing.assert_array_equal(choose(numbered), expected)


def test_what_was_changed_is_no_selection(tmp_path: Path) -> None:
    image = opened(tmp_path)
    points = {
        "chip": xr.DataArray([0, 1], dims="p"),
        "x": xr.DataArray([0, 1], dims="p"),
    }
    quarters = [
        [image.data[..., :35, :35], image.data[..., :35, 35:]],
        [image.data[..., 35:, :35], image.data[..., 35:, :35]],
    ]
    for changed in (
        image + 1,
        -image,
        image.where(image > 0),
        image.fillna(0),
        image.clip(0),
        image.astype("float64"),
        image.transpose("month", ...),
        image.isel(chip=0),
        image.isel(points),
        image.coarsen(x=2).mean(),
        image.copy(data=image.data.map_blocks(np.flip, dtype=np.float32)),
        image.copy(data=image.data.map_blocks(np.zeros_like, dtype=np.float32)),
    ):
        assert Selection.of(changed.data) is None
    assert Selection.of(da.block(quarters)) is None
    assert Selection.of(da.ones(3)) is None
    assert Selection.of(image.values) is None


def test_layouts_that_are_read_directly_are_known(tmp_path: Path) -> None:
    gb.write_cube(make_scene(), tmp_path / "c.zarr")
    image = zarr.open_group(tmp_path / "c.zarr", mode="r")["image"]
    assert Layout.of(image) == Layout((3, 3, 32, 56), (3, 3, 64, 56), checksum=True)
    assert Layout.of(zarr.create_array({}, shape=(4,), dtype="f4")) is None


def test_reading_does_not_need_zarrs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    importer = builtins.__import__

    def refuse(name, *args, **options):
        assert name.partition(".")[0] != "zarrs"
        return importer(name, *args, **options)

    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr(builtins, "__import__", refuse)
    scene = make_scene()
    gb.write_cube(scene, tmp_path / "c.zarr", "float32")
    xr.testing.assert_equal(gb.open_cube(tmp_path / "c.zarr").load(), scene)


@pytest.mark.parametrize(
    "file", ["zarr.json", "month/c/0", "y/c/0", "multiplier/c/0", "statistics/present"]
)
def test_a_cube_that_cannot_describe_itself_is_damaged(
    file: str, tmp_path: Path, scene: xr.Dataset
) -> None:
    path = tmp_path / "scene.zarr"
    gb.write_cube(scene, path)
    spoilt = path / file
    if spoilt.is_dir():
        spoilt = next(p for p in (spoilt / "c").rglob("*") if p.is_file())
    spoilt.write_bytes(b"\0" * spoilt.stat().st_size)
    with pytest.raises(gb.DamagedError, match=r"scene.zarr is damaged where it desc"):
        gb.open_cube(path)
