"""Maps on disk: law 4, they resume after any interruption; law 6, others read them."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from threading import Thread

import dask.array as da
import numpy as np
import pytest
import rasterio
import rioxarray
import torch
import xarray as xr
import zarr
from conftest import make_chips, make_scene
from map_work import (
    Stop,
    Work,
    assert_is_the_map,
    expected,
    interrupted,
    layout,
    write,
)
from new_process import NewProcesses
from rio_cogeo.cogeo import cog_info, cog_validate
from test_maps import BANDS, NETWORK, Failing, small_network
from variants import variants

import geobiomass as gb
from geobiomass.maps import Block, MapInUseError
from geobiomass.maps.blocks import Target, create_array
from geobiomass.tiles import Window

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def model() -> gb.BiomassRegressor:
    return gb.BiomassRegressor(NETWORK, BANDS, months=3)


# --- on disk ------------------------------------------------------------------

TILING = {"tile": 32, "overlap": 16, "block": 32, "progress": False}


def test_zarr_is_read_by_plain_xarray(
    tmp_path: Path, model: gb.BiomassRegressor, scene: xr.Dataset
) -> None:
    path = model.predict_to(tmp_path / "map.zarr", scene, **TILING)
    plain = xr.open_zarr(path, decode_coords="all")
    expected = model.predict(scene, tile=32, overlap=16)
    np.testing.assert_array_equal(plain.agb, expected.agb)
    assert plain.rio.crs == scene.rio.crs
    assert plain.rio.transform() == scene.rio.transform()
    assert plain.agb.attrs["units"] == "Mg/ha"


def test_the_geotiff_is_a_valid_cog(tmp_path: Path, model: gb.BiomassRegressor) -> None:
    scene = make_scene(700, 600, months=(7, 8))
    scene["image"][:, :, :50, :60] = np.nan
    path = model.predict_to(tmp_path / "map.tif", scene, flips=False, progress=False)
    valid, errors, warned = cog_validate(path, strict=True, quiet=True)
    assert valid, (errors, warned)
    expected = model.predict(scene).agb.values
    with rasterio.open(path) as source:
        values = source.read(1)
        np.testing.assert_array_equal(values, expected)
        assert source.crs == scene.rio.crs
        assert source.transform == scene.rio.transform()
        assert source.shape == (700, 600)
        assert np.isnan(source.nodata)
        assert source.descriptions == ("agb",)
        assert source.units == ("Mg/ha",)
        tags = source.tags(1)
        assert float(tags["STATISTICS_MEAN"]) == pytest.approx(np.nanmean(expected))
        assert float(tags["STATISTICS_STDDEV"]) == pytest.approx(np.nanstd(expected))
        assert source.overviews(1)
        factor = source.overviews(1)[0]
        small = source.read(1, out_shape=(700 // factor, 600 // factor))
    assert cog_info(path).GEO.Resolution == (10.0, -10.0)
    blocks = expected[: 700 // 2 * 2].reshape(350, 2, 300, 2)
    with np.errstate(invalid="ignore"):
        mean = np.nanmean(blocks[30:], axis=(1, 3))
    np.testing.assert_allclose(small[30:], mean, rtol=1e-5)
    raster = rioxarray.open_rasterio(path, masked=True)
    np.testing.assert_array_equal(raster[0], expected)
    # No temporary file is left.
    assert [p.name for p in tmp_path.iterdir()] == ["map.tif"]


def test_chips_to_zarr_but_not_to_geotiff(
    tmp_path: Path, model: gb.BiomassRegressor
) -> None:
    chips = make_chips(3).assign_coords(region=("chip", ["north", "south", "south"]))
    path = model.predict_to(tmp_path / "map.zarr", chips, **TILING)
    plain = xr.open_zarr(path)
    assert plain["region"].values.tolist() == ["north", "south", "south"]
    np.testing.assert_array_equal(plain.agb, model.predict(chips, 32, 16).agb)
    assert plain["chip"].values.tolist() == chips["chip"].values.tolist()
    with pytest.raises(ValueError, match="no common grid"):
        model.predict_to(tmp_path / "map.tif", chips, **TILING)


def test_impossible_paths_are_refused(
    tmp_path: Path, model: gb.BiomassRegressor, scene: xr.Dataset
) -> None:
    with pytest.raises(ValueError, match=r"must end in \.zarr, \.tif or \.tiff"):
        model.predict_to(tmp_path / "map.png", scene)
    with pytest.raises(ValueError, match=r"folder .* does not exist"):
        model.predict_to(tmp_path / "absent" / "map.tif", scene)


# --- law 4: interrupted, it resumes -------------------------------------------


@pytest.mark.parametrize("suffix", ["zarr", "tif"])
@pytest.mark.parametrize("limit", [0, 3, 11])
def test_an_interrupted_map_resumes_with_the_same_bits(
    tmp_path: Path, model: gb.BiomassRegressor, suffix: str, limit: int
) -> None:
    scene, path = make_scene(128, 96), tmp_path / f"map.{suffix}"
    plain = {"tile": 32, "overlap": 0, "block": 32, "progress": False}
    model.network = Failing(limit)
    with pytest.raises(KeyboardInterrupt):
        model.predict_to(path, scene, **plain)
    assert suffix == "zarr" or not path.exists()
    counting = Failing(10**9)
    model.network = counting
    model.predict_to(path, scene, **plain)
    # Twelve blocks of one tile; what was finished is not computed again, but the
    # one that the other thread was computing at the interruption.
    assert 12 - limit <= counting.calls <= min(12, 12 - limit + 1)
    found = (
        xr.open_zarr(path).agb.values
        if suffix == "zarr"
        else rioxarray.open_rasterio(path)[0].values
    )
    model.network = NETWORK
    np.testing.assert_array_equal(found, model.predict(scene, 32, 0).agb.values)


KILLED = """
import sys, time
sys.path.insert(0, {tests!r})
from conftest import make_scene
from test_maps import NETWORK, BANDS
from test_map_files import TILING
import geobiomass as gb
model = gb.BiomassRegressor(NETWORK, BANDS, months=3)
slow = NETWORK.forward
def forward(*args):
    time.sleep(0.05)
    with open({tiles!r}, "a") as file:
        file.write(".")
    return slow(*args)
NETWORK.forward = forward
model.predict_to({path!r}, make_scene(160, 160), **TILING)
"""


@pytest.mark.slow
def test_killed_at_random_moments_it_ends_with_the_same_bits(
    tmp_path: Path, model: gb.BiomassRegressor, new_process: NewProcesses
) -> None:
    path, tiles = tmp_path / "map.zarr", tmp_path / "tiles"
    tests = str(Path(__file__).parent)
    script = KILLED.format(tests=tests, path=str(path), tiles=str(tiles))
    draw = np.random.default_rng(7)
    kills = 0
    for _ in range(12):
        tiles.write_text("")
        process = new_process.start("-c", script)
        patience = int(draw.integers(3, 24))  # tiles, of 81
        while kills < 2 and process.poll() is None:
            if tiles.stat().st_size >= patience:
                process.send_signal(signal.SIGKILL)  # no cleaning up
                kills += 1
                break
            time.sleep(0.005)
        if process.wait(60) == 0:
            break
    assert kills == 2
    expected = model.predict(make_scene(160, 160), 32, 16).agb.values
    np.testing.assert_array_equal(xr.open_zarr(path).agb.values, expected)


def test_a_finished_map_is_left_or_refused_but_never_overwritten(
    tmp_path: Path, model: gb.BiomassRegressor, scene: xr.Dataset
) -> None:
    for path in (tmp_path / "map.zarr", tmp_path / "map.tif"):
        model.predict_to(path, scene, **TILING)
        counting = Failing(0)
        model.network = counting
        model.predict_to(path, scene, **TILING)  # the same again: nothing to do
        assert counting.calls == 0
        other = gb.BiomassRegressor(small_network(), BANDS, months=3)
        with torch.no_grad():
            other.network.head.bias.add_(1.0)
        for refused in (
            lambda p=path, o=other: o.predict_to(p, scene, **TILING),
            lambda p=path: model.predict_to(p, scene, **TILING | {"overlap": 0}),
            lambda p=path: model.predict_to(p, scene, **TILING, flips=True),
            lambda p=path: model.predict_to(p, scene.isel(x=slice(1, 50)), **TILING),
        ):
            with pytest.raises(FileExistsError, match="overwrite=True"):
                refused()
        other.predict_to(path, scene, **TILING, overwrite=True)
        found = rioxarray.open_rasterio(path)[0] if path.suffix == ".tif" else None
        if found is None:
            found = xr.open_zarr(path).agb
        model.network = NETWORK
        expected = model.predict(scene, 32, 16).agb.values + np.float32(40)
        np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("suffix", ["zarr", "tif.unfinished.zarr"])
def test_a_refusal_says_what_differs(
    tmp_path: Path, model: gb.BiomassRegressor, suffix: str
) -> None:
    scene, path = make_scene(64, 64), tmp_path / f"map.{suffix.split('.')[0]}"
    model.network = Failing(2 if path.suffix == ".tif" else 99)
    with contextlib.suppress(KeyboardInterrupt):
        model.predict_to(path, scene, **TILING)
    model.network = NETWORK
    with pytest.raises(FileExistsError, match="overlap 16, not 0") as caught:
        model.predict_to(path, scene, **TILING | {"overlap": 0}, precision="bf16")
    assert "precision float32, not bf16" in str(caught.value)
    assert "tile" not in str(caught.value)
    with pytest.raises(FileExistsError, match=r"input [0-9a-f]{12}\.\.\., not"):
        model.predict_to(path, scene.fillna(0), **TILING)
    there = xr.open_zarr(tmp_path / f"map.{suffix}", consolidated=False)
    assert json.loads(there.attrs["made_with"])["bands"] == list(BANDS)


@pytest.mark.slow
def test_overviews_where_they_are_asked_for(
    tmp_path: Path, model: gb.BiomassRegressor
) -> None:
    scene, path = make_scene(600, 520, months=(7,)), tmp_path / "map.zarr"
    plain = {"tile": 256, "overlap": 0, "progress": False}
    model.predict_to(path, scene, **plain)
    assert "overviews" not in zarr.open_group(path)
    # They can be added later, without computing the map again.
    model.network = Failing(0)
    model.predict_to(path, scene, **plain, overviews=True)
    full = xr.open_zarr(path).agb.values
    levels = [
        xr.open_zarr(path, group=f"overviews/{f}", decode_coords="all") for f in (2, 4)
    ]
    assert [level.agb.shape for level in levels] == [(300, 260), (150, 130)]
    mean = full.reshape(300, 2, 260, 2).mean((1, 3), dtype=np.float64)
    np.testing.assert_allclose(levels[0].agb, mean, rtol=1e-6)
    assert levels[1].rio.bounds() == pytest.approx(scene.rio.bounds())
    before = sorted(path.rglob("*"))
    model.predict_to(path, scene, **plain, overviews=True)
    assert sorted(path.rglob("*")) == before
    with pytest.raises(ValueError, match="no common grid for overviews"):
        model.predict_to(tmp_path / "chips.zarr", make_chips(2), overviews=True)


def test_other_files_at_the_path_are_kept(
    tmp_path: Path, model: gb.BiomassRegressor, scene: xr.Dataset
) -> None:
    (tmp_path / "map.tif").write_text("my thesis")
    (tmp_path / "map.zarr").mkdir()
    (tmp_path / "map.zarr" / "thesis.txt").write_text("my thesis")
    for name in ("map.tif", "map.zarr"):
        with pytest.raises(FileExistsError, match="holds something else"):
            model.predict_to(tmp_path / name, scene, **TILING)
    assert (tmp_path / "map.tif").read_text() == "my thesis"
    assert (tmp_path / "map.zarr" / "thesis.txt").read_text() == "my thesis"


def test_a_damaged_chunk_is_named_and_the_rest_is_written(
    tmp_path: Path, model: gb.BiomassRegressor
) -> None:
    scene = make_scene(64, 600)
    store, path = tmp_path / "scene.zarr", tmp_path / "map.zarr"
    gb.write_cube(scene, store)
    shard = store / "image" / "c" / "0" / "0" / "0" / "2"
    good = shard.read_bytes()
    shard.write_bytes(good[:-7])
    tiling = {"tile": 64, "overlap": 0, "block": 64, "progress": False}
    with pytest.raises(gb.IncompleteMapError, match="columns 512 to 576") as caught:
        model.predict_to(path, gb.open_cube(store), **tiling)
    assert "2 of 10 blocks" in str(caught.value)
    said = (
        "image of .* at all months, all bands, y 0 to 63, x 512 to 599: .*/2 is damaged"
    )
    assert re.search(said, str(caught.value))
    expected = model.predict(gb.open_cube(store).isel(x=slice(0, 512)), 64, 0).agb
    partly = xr.open_zarr(path, consolidated=False).agb.values
    np.testing.assert_array_equal(partly[:, :512], expected)
    assert np.isnan(partly[:, 512:]).all()
    shard.write_bytes(good)
    counting = Failing(10**9)
    model.network = counting
    model.predict_to(path, gb.open_cube(store), **tiling)
    assert counting.calls == 2
    assert np.isfinite(xr.open_zarr(path).agb.values).all()


def test_damage_is_named_by_months_bands_and_pixels(
    tmp_path: Path, model: gb.BiomassRegressor
) -> None:
    # Fourteen months are two chunks along months; one byte of a chunk is wrong.
    months = (*range(1, 13), 1, 2)
    gb.write_cube(make_scene(128, 64, months=months), tmp_path / "scene.zarr")
    shard = tmp_path / "scene.zarr" / "image" / "c" / "0" / "0" / "0" / "0"
    raw = bytearray(shard.read_bytes())
    raw[2000] ^= 255  # in the first chunk that was written
    shard.write_bytes(raw)
    tiling = TILING | {"overlap": 0}
    with pytest.raises(gb.IncompleteMapError) as caught:
        model.predict_to(
            tmp_path / "map.zarr", gb.open_cube(tmp_path / "scene.zarr"), **tiling
        )
    # A chunk is twelve months, all bands, and a row of two of the eight blocks.
    named = r"at month [\d ]+, all bands, y (\d+) to (\d+), x 0 to 63: "
    found = re.findall(named, str(caught.value))
    assert len(found) == 2
    top = int(found[0][0])
    assert found == [(str(top), str(top + 31))] * 2
    written = np.isfinite(xr.open_zarr(tmp_path / "map.zarr", consolidated=False).agb)
    assert not written[top : top + 32].any()
    assert written.sum() == 96 * 64


# --- how a map is written -----------------------------------------------------


@pytest.mark.parametrize(
    ("side", "shard", "chunk"),
    [
        (64, (64, 64), (64, 64)),
        (100, (100, 100), (100, 100)),
        (1024, (150, 220), (150, 220)),
        (149, (149, 149), (149, 149)),
    ],
)
def test_a_shard_is_a_block(
    tmp_path: Path, side: int, shard: tuple[int, int], chunk: tuple[int, int]
) -> None:
    path = tmp_path / "map.zarr"
    write(path, Work(tmp_path / "log"), side=side)
    array = zarr.open_group(path)["agb"]
    assert array.shards == shard
    assert array.chunks == chunk
    assert np.isnan(array.fill_value)
    names = [type(codec).__name__ for codec in array.compressors]
    assert names == ["BloscCodec", "Crc32cCodec"]
    corners = {block.window for block in layout(side)}
    grid = [
        Window(top, left, min(top + shard[0], 150), min(left + shard[1], 220))
        for top in range(0, 150, shard[0])
        for left in range(0, 220, shard[1])
    ]
    assert corners == set(grid)
    assert_is_the_map(path)


@pytest.mark.parametrize(
    ("side", "chunk"),
    [(1024, 256), (1000, 250), (512, 256), (600, 200), (254, 254), (514, 257), (7, 7)],
)
def test_inner_chunks_are_whole_in_a_block(side: int, chunk: int) -> None:
    group = zarr.create_group(zarr.storage.MemoryStore())
    lazy = xr.DataArray(da.zeros((2100, 2100), chunks=2100), dims=("y", "x"))
    create_array(group, "agb", lazy, side)
    assert group["agb"].shards == (side, side)
    if side == 514:  # twice a prime: no suitable divisor
        chunk = 514
    assert group["agb"].chunks == (chunk, chunk)


def test_two_blocks_never_share_a_shard(tmp_path: Path) -> None:
    write(tmp_path / "map.zarr", Work(tmp_path / "log"))
    target = Target(tmp_path / "map.zarr", ("agb", "sd"))
    for window in (
        Window(0, 0, 32, 64),
        Window(32, 0, 96, 64),
        Window(128, 192, 150, 210),
    ):
        with pytest.raises(ValueError, match=r"must be one shard of \(64, 64\) pixels"):
            target.write(Block(window), np.zeros((2, window.height, window.width)))
    assert_is_the_map(tmp_path / "map.zarr")


def test_a_blank_block_is_not_computed_again(tmp_path: Path) -> None:
    path, work = tmp_path / "map.zarr", Work(tmp_path / "log")
    with interrupted(work, after=5) as stopping:
        write(path, stopping)
    assert "0.0" in work.computed  # it has no file, because all its values are NaN
    assert not (path / "agb" / "c" / "0" / "0").exists()
    write(path, work)
    assert len(work.computed) == 12
    assert_is_the_map(path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["log", "map.zarr"]
    assert not (path / "written").exists()
    group = zarr.open_group(path)
    assert group.metadata.consolidated_metadata is not None
    marks = {"geobiomass_fingerprint", "block", "blocks"}
    ours = {name for name in group.attrs if ":" not in name}
    assert ours == marks | {"coordinates"}


@pytest.mark.parametrize("harm", ["torn", "flipped", "emptied", "gone", "swapped"])
def test_what_was_damaged_since_it_was_written_is_computed_again(
    tmp_path: Path, harm: str
) -> None:
    path, work = tmp_path / "map.zarr", Work(tmp_path / "log", broken=("64.0",))
    with pytest.raises(gb.IncompleteMapError):
        write(path, work)
    shard = path / "agb" / "c" / "2" / "3"  # at the corner, less than a whole one
    content = bytearray(shard.read_bytes())
    if harm == "torn":
        shard.write_bytes(content[: len(content) // 2])
    elif harm == "flipped":
        content[40] ^= 1
        shard.write_bytes(content)
    elif harm == "emptied":
        shard.write_bytes(b"")
    elif harm == "gone":
        shard.unlink()
    else:
        shard.write_bytes((path / "agb" / "c" / "0" / "1").read_bytes())
    again = Work(tmp_path / "again")
    with pytest.warns(UserWarning, match=r"1 of 11 blocks .* rows 128 to 150, col"):
        write(path, again)
    assert sorted(again.computed) == ["128.192", "64.0"]
    assert_is_the_map(path)


def test_damage_in_many_places_stops_nothing_else(tmp_path: Path) -> None:
    keys = [block.key for block in layout()]
    work = Work(tmp_path / "log", damaged=tuple(keys[:7]))
    with pytest.raises(gb.IncompleteMapError, match=r"^7 of 12 blocks") as caught:
        write(tmp_path / "map.zarr", work)
    assert "rows 0 to 64, columns 64 to 128: pixels of" in str(caught.value)
    assert "in month 7, band B04 are damaged" in str(caught.value)
    assert isinstance(caught.value.__cause__, gb.DamagedError)
    assert sorted(work.computed) == sorted(keys)
    again = Work(tmp_path / "again")
    write(tmp_path / "map.zarr", again)
    assert sorted(again.computed) == sorted(keys[:7])
    assert_is_the_map(tmp_path / "map.zarr")


def test_where_nothing_works_it_says_so_at_once(tmp_path: Path) -> None:
    keys = [block.key for block in layout()]
    work = Work(tmp_path / "log", broken=tuple(keys[4:]))
    with pytest.raises(
        gb.IncompleteMapError, match=r"^[345] of 12 .*no space left.* not tried"
    ) as caught:
        write(tmp_path / "map.zarr", work)
    # A slow block that works can end the row, after two; one more may be under way.
    failed = int(str(caught.value)[0])
    assert len(work.computed) <= 4 + failed + 1


def test_with_another_block_side_it_cannot_resume(tmp_path: Path) -> None:
    path, work = tmp_path / "map.zarr", Work(tmp_path / "log")
    with interrupted(work, after=4) as stopping:
        write(path, stopping)
    refused = "begun with block=64 and cannot be continued with"
    with pytest.raises(ValueError, match=refused):
        write(path, work, side=50)
    with pytest.raises(FileExistsError, match="holds something else"):
        write(path, work, fingerprint="another model")
    write(path, Work(tmp_path / "other"), side=50, resume=False)
    assert_is_the_map(path)


@pytest.mark.parametrize("suffix", ["zarr", "tif"])
@pytest.mark.parametrize("step", ["consolidate", "_mark_finished", "write_geotiff"])
def test_interrupted_at_the_end_nothing_is_computed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, step: str
) -> None:
    if (suffix, step) == ("zarr", "write_geotiff"):
        pytest.skip("a Zarr map makes no GeoTIFF")
    path, work = tmp_path / f"map.{suffix}", Work(tmp_path / "log")

    def stop(*arguments: object) -> None:
        raise Stop

    with monkeypatch.context() as patch:
        patch.setattr(f"geobiomass.maps.map_writer.{step}", stop)
        with pytest.raises(Stop):
            write(path, work)
    write(path, work)
    assert len(work.computed) == 12
    assert sorted(p.name for p in tmp_path.iterdir()) == ["log", path.name]
    if suffix == "zarr":
        assert_is_the_map(path)
    else:
        with rasterio.open(path) as source:
            np.testing.assert_array_equal(source.read(), expected())


# --- one writer at a time -----------------------------------------------------

WRITE = """
import sys
sys.path.insert(0, {tests!r})
from pathlib import Path
from map_work import Work, write
print("started", flush=True)
try:
    write({path!r}, Work(Path({log!r}), seconds={seconds}))
except KeyboardInterrupt:
    sys.exit(130)
"""


def script_of(path: Path, work: Work) -> str:
    return WRITE.format(
        tests=str(Path(__file__).parent),
        path=str(path),
        log=str(work.log),
        seconds=work.seconds,
    )


def start(path: Path, work: Work) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", script_of(path, work)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parent.parent,
    )


def wait_for(true: Callable[[], bool], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


@variants("suffix", ["zarr", "tif"], quick=1)
def test_a_second_writer_is_refused_and_a_dead_one_is_not_waited_for(
    tmp_path: Path, suffix: str, run: Run
) -> None:
    path = tmp_path / f"map.{suffix}"
    work, mine = Work(tmp_path / "log", seconds=0.7), Work(tmp_path / "mine")
    with start(path, work) as process:
        wait_for(lambda: len(work.computed) >= 4)
        began = time.monotonic()
        for more in ({}, {"overwrite": True}, {"resume": False}):
            with pytest.raises(MapInUseError, match=f"by process {process.pid} on "):
                write(path, mine, **more)
        assert time.monotonic() - began < 30
        code, out, err = run("info", path)
        assert code == 0, err
        assert f"by process {process.pid} on" in out
        assert "wait" in out
        process.kill()
    code, out, err = run("info", path)
    assert code == 0, err
    assert re.search(r"unfinished, \d+ of 12 blocks written \(\d+ %\)", out), out
    assert "blocks of 64 x 64 pixels" in out
    assert "being written     no\n" in out
    assert "repeat the same call of predict" in out
    assert "agb, Mg/ha" in out
    write(path, mine)
    assert len(work.computed) + len(mine.computed) <= 12 + 2
    assert sorted(p.name for p in tmp_path.iterdir()) == ["log", path.name, "mine"]
    code, out, _ = run("info", path)
    assert "unfinished" not in out


def test_a_thread_of_this_process_is_a_second_writer_too(tmp_path: Path) -> None:
    path, work = tmp_path / "map.zarr", Work(tmp_path / "log", seconds=0.2)
    first = Thread(target=write, args=(path, work))
    first.start()
    wait_for(lambda: len(work.computed) >= 1)
    with pytest.raises(MapInUseError, match=str(os.getpid())):
        write(path, work)
    first.join()
    assert_is_the_map(path)
    write(path, work)
    assert len(work.computed) == 12


def test_ctrl_c_stops_at_once_and_keeps_what_is_done(tmp_path: Path) -> None:
    path, quick = tmp_path / "map.zarr", Work(tmp_path / "quick")
    with interrupted(quick, after=6) as stopping:
        write(path, stopping)
    slow = Work(tmp_path / "slow", seconds=60)
    # Like a program that ends with its main thread while other threads still run.
    with start(path, slow) as process:
        wait_for(lambda: len(slow.computed) >= 1)
        began = time.monotonic()
        process.send_signal(signal.SIGINT)
        wait_for(lambda: not lock_of(path).exists(), 50)
        assert time.monotonic() - began < 45  # a block of this work takes 60
        process.kill()
    write(path, quick)
    assert len(quick.computed) <= 12 + 1
    assert_is_the_map(path)


def lock_of(path: Path) -> Path:
    return path.with_name(path.name + ".lock")


DIE = """
import os, signal, sys
left = {moment}
def die(event, arguments):
    global left
    if event in ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir"):
        writes = event != "open" or bool(arguments[2] & (os.O_WRONLY | os.O_RDWR))
        if writes and {folder!r} in str(arguments[0]):
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(die)
"""


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["zarr", "tif"])
def test_killed_before_any_change_to_a_file_it_ends_with_the_same_bits(
    tmp_path: Path, suffix: str, new_process: NewProcesses
) -> None:
    """Kill it at the start, in blocks and at the end: there are about 120 changes."""
    path, work = tmp_path / f"map.{suffix}", Work(tmp_path / "log")
    draw = np.random.default_rng(5)
    kills, whole = 0, 0
    for moment in [1, 2, 4, *draw.integers(5, 45, 4).tolist(), 10**9]:
        prelude = DIE.format(moment=moment, folder=str(path))
        process = new_process(prelude + script_of(path, work))
        assert process.returncode in (0, -signal.SIGKILL), process.stderr
        kills += process.returncode != 0
        whole += process.returncode == 0
    assert kills >= 5
    assert whole >= 1
    assert len(work.computed) <= 12 + 2 * kills
    noted = Counter(work.computed)
    assert set(noted) == {block.key for block in layout()}
    if suffix == "zarr":
        assert_is_the_map(path)
    else:
        with rasterio.open(path) as source:
            np.testing.assert_array_equal(source.read(), expected())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["log", path.name]
    assert not list(tmp_path.rglob("*.partial"))
