"""Ensembles, plans, and the fingerprint of a map."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from conftest import make_chips, make_scene
from test_maps import BANDS, NETWORK, Counting, small_network

import geobiomass as gb
from geobiomass.network import AttentionUNet

TILING = {"tile": 32, "overlap": 16, "block": 32, "progress": False}


def model_of(network: torch.nn.Module, bands: tuple[str, ...] = BANDS):
    model = gb.BiomassRegressor(NETWORK, BANDS, months=3)
    model.network, model.bands = network, bands
    return model


# --- ensembles ----------------------------------------------------------------


def test_an_ensemble_is_the_mean_of_its_models_and_their_spread() -> None:
    scene = make_scene(70, 50)
    other = small_network()
    with torch.no_grad():
        other.head.weight.mul_(0.7)
    models = [gb.BiomassRegressor(net, BANDS, 3) for net in (NETWORK, other)]
    both = gb.Ensemble(models, spread=True)
    found = both.predict(scene, tile=32, overlap=16)
    assert list(found) == ["agb", "agb_spread"]
    single = np.stack([model.predict(scene, 32, 16).agb.values for model in models])
    np.testing.assert_allclose(found.agb, single.mean(0), rtol=1e-5)
    # The spread is blended over tiles, like the mean.
    whole = gb.Ensemble(models, spread=True).predict(scene, tile=96, overlap=0)
    single = np.stack([model.predict(scene, 96, 0).agb.values for model in models])
    np.testing.assert_allclose(whole.agb_spread, single.std(0, ddof=1), rtol=2e-3)
    assert "2" in repr(both)
    assert list(gb.Ensemble(models).predict(scene)) == ["agb"]


def test_members_take_their_own_bands_by_name() -> None:
    torch.manual_seed(1)
    narrow = AttentionUNet(2, "test_resnet", (16, 16, 16, 16, 16)).eval()
    models = [
        gb.BiomassRegressor(NETWORK, BANDS, 3),
        gb.BiomassRegressor(narrow, ("B08", "VV_asc"), 3),
    ]
    scene = make_scene(64, 64)
    found = gb.Ensemble(models).predict(scene).agb.values
    expected = np.mean([model.predict(scene).agb.values for model in models], 0)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    with pytest.raises(gb.CubeError, match="B08"):
        gb.Ensemble(models).predict(scene.sel(band=["VV_asc", "B04"]))


def test_ensembles_write_and_evaluate_as_one_model_does(tmp_path: Path) -> None:
    scene = make_scene(64, 64)
    model = gb.BiomassRegressor(NETWORK, BANDS, 3)
    both = gb.Ensemble([model, model], spread=True)
    path = both.predict_to(tmp_path / "map.tif", scene, **TILING)
    import rasterio

    with rasterio.open(path) as source:
        assert source.descriptions == ("agb", "agb_spread")
        np.testing.assert_array_equal(
            source.read(1), model.predict(scene, 32, 16).agb.values
        )
        assert (source.read(2) == 0).all()
    alone, together = model.evaluate(scene), both.evaluate(scene)
    np.testing.assert_allclose(alone.to_numpy(), together.to_numpy(), equal_nan=True)


def test_impossible_ensembles_are_refused() -> None:
    model = gb.BiomassRegressor(NETWORK, BANDS, 3)
    other = gb.BiomassRegressor(small_network(2), BANDS, 3, ("agb", "height"))
    with pytest.raises(ValueError, match="one or more with the same outputs"):
        gb.Ensemble([model, other])
    with pytest.raises(ValueError, match="one or more"):
        gb.Ensemble([])
    with pytest.raises(ValueError, match="at least two"):
        gb.Ensemble([model], spread=True)


def test_several_outputs_have_a_map_each(tmp_path: Path) -> None:
    network = small_network(3)
    names = ("agb", "agb_lower", "agb_upper")
    model = gb.BiomassRegressor(network, BANDS, 3, names)
    scene = make_scene(50, 40)
    found = model.predict(scene, tile=64, overlap=0)
    assert tuple(found) == names
    with torch.inference_mode():
        padded = np.pad(
            scene["image"].values, ((0, 0), (0, 0), (0, 14), (0, 24)), "symmetric"
        )
        expected = network(torch.from_numpy(padded)[None])[0, :, :50, :40].numpy()
    for name, values in zip(names, expected, strict=True):
        np.testing.assert_allclose(found[name], values, rtol=1e-5)
        assert found[name].attrs["units"] == "Mg/ha"
    path = model.predict_to(tmp_path / "map.zarr", scene, 64, 0, progress=False)
    xr.testing.assert_equal(xr.open_zarr(path)[list(names)].compute(), found.compute())


# --- the fingerprint of a map ----------------------------------------------------


def test_another_input_at_the_same_path_is_noticed(tmp_path: Path) -> None:
    model = gb.BiomassRegressor(NETWORK, BANDS, 3)
    scene = make_scene(64, 64)
    gb.write_cube(scene, tmp_path / "scene.zarr")
    model.predict_to(tmp_path / "a.zarr", gb.open_cube(tmp_path / "scene.zarr"))
    # Moved, it is the same scene: the map is recognised and stays as it is.
    shutil.move(tmp_path / "scene.zarr", tmp_path / "moved.zarr")
    network = Counting(lambda image: image[:, 0, :1])
    network.state_dict = NETWORK.state_dict  # type: ignore[method-assign]
    again = model_of(network)
    again.predict_to(tmp_path / "a.zarr", gb.open_cube(tmp_path / "moved.zarr"))
    assert network.calls == 0
    # Another scene of the same shape and grid is not.
    other = scene.assign(image=scene["image"] + 1)
    gb.write_cube(other, tmp_path / "moved.zarr", overwrite=True)
    with pytest.raises(FileExistsError, match="overwrite=True"):
        again.predict_to(tmp_path / "a.zarr", gb.open_cube(tmp_path / "moved.zarr"))
    # Also in memory.
    model.predict_to(tmp_path / "b.zarr", scene, progress=False)
    model.predict_to(tmp_path / "b.zarr", scene.copy(deep=True), progress=False)
    with pytest.raises(FileExistsError, match="overwrite=True"):
        model.predict_to(tmp_path / "b.zarr", other, progress=False)


# --- plans ----------------------------------------------------------------------


@pytest.mark.parametrize("tiling", [(32, 0, 64), (32, 16, 40), (64, 16, 1024)])
def test_a_plan_counts_what_is_then_done(
    tmp_path: Path, tiling: tuple[int, int, int]
) -> None:
    scene = make_scene(150, 100).fillna(0)
    gb.write_cube(scene, tmp_path / "scene.zarr")
    cube = gb.open_cube(tmp_path / "scene.zarr")
    network = Counting(lambda image: image[:, 0, :1])
    model = model_of(network)
    plan = model.plan(cube, *tiling)
    network.calls = 0
    model.predict_to(tmp_path / "map.zarr", cube, *tiling, progress=False)
    assert plan.tiles == network.calls
    side = tiling[2]
    assert plan.blocks == -(-150 // side) * -(-100 // side)
    assert plan.bytes_written == 150 * 100 * 4
    stored = sum(
        file.stat().st_size
        for file in (tmp_path / "scene.zarr" / "image").rglob("*")
        if file.is_file()
    )
    once = tiling[1] == 0
    assert plan.bytes_read == stored if once else plan.bytes_read > stored
    assert plan.hours == pytest.approx(plan.tiles * plan.seconds_a_tile / 3600)
    assert 0 < plan.seconds_a_tile < 60


def test_a_plan_for_several_machines_prints_itself() -> None:
    scene = make_scene(300, 200)
    model = gb.BiomassRegressor(NETWORK, BANDS, 3)
    plan = model.plan(scene, tile=32, overlap=16, block=64, workers=3)
    once = 18 * 12
    # Workers have strips of blocks; the row of tiles between two strips is run twice.
    assert plan.tiles == once + 2 * 12
    assert plan.memory > 0
    text = str(plan)
    assert "20 of 64 pixels" in text
    assert "on 3 machines like this one" in text
    assert "<table" in plan._repr_html_()
    assert "20 of 64 pixels" in plan._repr_html_()
    with pytest.raises(ValueError, match="workers must be at least 1, got 0"):
        model.plan(scene, workers=0)


def test_a_plan_of_a_region_and_of_chips() -> None:
    scene = make_scene(256, 256).fillna(0)
    model = model_of(Counting(lambda image: image[:, 0, :1]))
    part = scene.isel(y=slice(70, 120), x=slice(10, 60)).rio.bounds()
    plan = model.plan(scene, tile=32, overlap=0, block=64, region=part)
    assert plan.blocks == 1
    assert plan.tiles == 4
    outside = (part[0] - 1e6, part[1], part[0] - 9e5, part[3])
    with pytest.raises(ValueError, match="outside it"):
        model.plan(scene, region=outside)
    plan = model.plan(make_chips(3, side=64), tile=32, overlap=0)
    assert (plan.chips, plan.blocks, plan.tiles) == (3, 3, 12)
