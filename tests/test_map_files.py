"""Maps on disk: law 4, interrupted anywhere they resume; law 6, as others read them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import rasterio
import rioxarray
import torch
import xarray as xr
from conftest import make_chips, make_scene
from rio_cogeo.cogeo import cog_info, cog_validate
from test_maps import BANDS, NETWORK, Failing, small_network

import geobiomass as gb


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


def test_the_geotiff_is_a_right_cog(tmp_path: Path, model: gb.BiomassRegressor) -> None:
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
    # Nothing is left of what it was made from.
    assert [p.name for p in tmp_path.iterdir()] == ["map.tif"]


def test_chips_to_zarr_but_not_to_geotiff(
    tmp_path: Path, model: gb.BiomassRegressor
) -> None:
    chips = make_chips(3)
    path = model.predict_to(tmp_path / "map.zarr", chips, **TILING)
    plain = xr.open_zarr(path)
    np.testing.assert_array_equal(plain.agb, model.predict(chips, 32, 16).agb)
    assert plain["chip"].values.tolist() == chips["chip"].values.tolist()
    with pytest.raises(ValueError, match="no common grid"):
        model.predict_to(tmp_path / "map.tif", chips, **TILING)


def test_paths_that_cannot_be(
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
    # one that the interruption caught in the hands of the other thread.
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
    print("tile", flush=True)
    return slow(*args)
NETWORK.forward = forward
model.predict_to({path!r}, make_scene(160, 160), **TILING)
print("done", flush=True)
"""


@pytest.mark.slow
def test_killed_at_random_moments_it_ends_with_the_same_bits(
    tmp_path: Path, model: gb.BiomassRegressor
) -> None:
    path = tmp_path / "map.zarr"
    script = KILLED.format(tests=str(Path(__file__).parent), path=str(path))
    draw = np.random.default_rng(7)
    kills = 0
    for _ in range(12):
        process = subprocess.Popen(
            [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        patience = int(draw.integers(5, 60))
        for lines, line in enumerate(process.stdout, start=1):
            if line.startswith("done"):
                break
            if kills < 3 and lines >= patience:
                process.kill()  # SIGKILL: nothing can be tidied up
                kills += 1
                break
        process.stdout.close()
        if process.wait(60) == 0:
            break
    assert kills == 3
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


def test_something_else_at_the_path_is_kept(
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


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Sending large graph:UserWarning")
def test_a_dask_cluster_gives_the_same_bits(
    tmp_path: Path, model: gb.BiomassRegressor
) -> None:
    from distributed import Client, LocalCluster

    scene = make_scene(96, 96)
    gb.write_cube(scene, tmp_path / "scene.zarr")
    cube = gb.open_cube(tmp_path / "scene.zarr")
    with (
        LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None
        ) as cluster,
        Client(cluster) as client,
    ):
        model.predict_to(tmp_path / "map.zarr", cube, **TILING, client=client)
    expected = model.predict(cube, 32, 16).agb.values
    np.testing.assert_array_equal(xr.open_zarr(tmp_path / "map.zarr").agb, expected)
