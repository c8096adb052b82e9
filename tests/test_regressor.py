"""Fit, predict, evaluate, save, load: laws 5, 7 and 9, and what users do wrong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from conftest import make_chips, make_scene
from sklearn.metrics import r2_score

import geobiomass as gb
from geobiomass.data.labelled_cube import LabelledCube
from geobiomass.models.fit_members import untrained_for
from geobiomass.network import AttentionUNet
from geobiomass.recipes.band_facts import BIOMASSTERS_RANGE
from geobiomass.recipes.recipe import RECIPES, find_recipe
from tests.training.contract import FILES, RegressorContract

BANDS = ("VV_asc", "B04", "B08")
QUICK = {
    "epochs": 2,
    "batch_size": 4,
    "crop": 32,
    "encoder": "test_resnet",
    "decoder_channels": (16, 16, 16, 16, 16),
    "progress": False,
}


def untrained(seed: int = 0) -> gb.BiomassRegressor:
    torch.manual_seed(seed)
    network = AttentionUNet(3, "test_resnet", (16, 16, 16, 16, 16))
    return gb.BiomassRegressor(network, BANDS, months=3)


class TestBiomassRegressor(RegressorContract):
    files = (*FILES, "domain.safetensors")
    starts_unfitted = False
    predict_elsewhere = """
import numpy as np
import geobiomass as gb
cube = gb.open_cube(data_file)
print(gb.load(folder).predict(cube, 32, 16).agb.values.tobytes().hex())
"""

    @pytest.fixture
    def make(self):
        return untrained

    @pytest.fixture
    def fit(self):
        return lambda model, data: model.fit(data, "quick", **QUICK)

    @pytest.fixture
    def data(self):
        return make_scene(64, 80)

    @pytest.fixture(scope="class")
    @classmethod
    def fitted(cls):
        return untrained().fit(make_scene(64, 80), "quick", **QUICK)

    def predict(self, model, data):
        return model.predict(data, 32, 16).agb.values

    def write_data(self, data, path):
        gb.write_cube(data, path, "float32")

    def same_data(self, one, other):
        return one.identical(other)


# --- fit ----------------------------------------------------------------------


def weights(model: gb.BiomassRegressor) -> dict[str, torch.Tensor]:
    return model.network.state_dict()


def same(one: gb.BiomassRegressor, other: gb.BiomassRegressor) -> bool:
    pairs = zip(weights(one).values(), weights(other).values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def test_the_first_weights_follow_the_seed_alone() -> None:
    # What follows from them is `test_refit_under_a_seed_is_identical`.
    data, made = LabelledCube.open(make_chips(2)), []
    for generator, seed in ((1, 0), (2, 0), (2, 1)):
        torch.manual_seed(generator)
        expected = torch.rand(3)
        torch.manual_seed(generator)
        recipe = find_recipe("quick", **QUICK, seed=seed)
        made.append(untrained_for(data, recipe))
        assert torch.equal(torch.rand(3), expected)
    assert same(made[0], made[1])
    assert not same(made[0], made[2])


@pytest.mark.slow  # its parts are quick
def test_the_seed_decides_and_the_callers_random_state_is_kept() -> None:
    scene = make_scene(64, 64)
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    one = gb.fit(scene, "quick", **QUICK)
    assert torch.equal(torch.rand(3), expected)
    assert same(one, gb.fit(scene, "quick", **QUICK))
    assert not same(one, gb.fit(scene, "quick", **QUICK, seed=1))


@pytest.mark.slow
def test_an_interrupted_and_resumed_fit_has_the_same_weights(tmp_path: Path) -> None:
    scene = make_scene(64, 64)
    settings = QUICK | {"epochs": 3, "month_dropout": 0.5, "cache": 0}
    reads = {"left": 10**6}

    def fail_late(block: np.ndarray) -> np.ndarray:
        reads["left"] -= 1
        if reads["left"] < 0:
            raise OSError("the disk is gone")
        return block

    broken = scene.chunk(y=64, x=64)
    image = broken["image"].data.map_blocks(fail_late, dtype=np.float32)
    broken["image"] = broken["image"].copy(data=image)
    whole = gb.fit(broken, "quick", **settings)
    # Interrupted in the third epoch: the image cannot be read any more.
    reads["left"] = 10**6 - reads["left"] - 2
    with pytest.raises(gb.DamagedError, match=r"rows .*the disk is gone"):
        gb.fit(broken, "quick", **settings, folder=tmp_path / "run")
    assert (tmp_path / "run" / "last.ckpt").exists()
    reads["left"] = 10**9
    resumed = gb.fit(broken, "quick", **settings, folder=tmp_path / "run")
    assert same(whole, resumed)
    pd.testing.assert_frame_equal(
        whole.history.drop(columns="seconds"), resumed.history.drop(columns="seconds")
    )
    assert len(resumed.history) == 3


@pytest.mark.slow
def test_damaged_chips_stop_a_fit_or_are_left_out(
    tmp_path: Path,
) -> None:
    path = tmp_path / "chips.zarr"
    gb.write_cube(make_chips(6, 32), path)
    for chip, name in ((1, "image"), (4, "agb")):
        folder = path / name / "c" / str(chip)
        (shard,) = (file for file in folder.rglob("*") if file.is_file())
        content = bytearray(shard.read_bytes())
        content[60] ^= 4
        shard.write_bytes(content)
    cube = gb.open_cube(path)
    settings = QUICK | {"validation": ["chip000"], "batch_size": 1}
    # With and without the cache it stops before any training.
    for cache in (0, 2**30):
        with pytest.raises(gb.DamagedError, match=r"chip chip00[14].*c/[14]/0"):
            gb.fit(cube, "quick", **settings, cache=cache)
    with pytest.warns(UserWarning, match="(?i)left out of training") as warned:
        model = gb.fit(cube, "quick", **settings, damaged="skip")
    said = [str(one.message) for one in warned]
    assert sum("Left out of training" in text for text in said) == 2
    assert any("2 samples could not be read" in text for text in said)
    assert all("chip001" in p or "chip004" in p for p in model.damaged.values())
    assert len(model.damaged) == 2
    assert np.isfinite(model.history["train_loss"]).all()
    with pytest.raises(ValueError, match="damaged must be one of"):
        gb.fit(cube, "quick", damaged="ignore")


@pytest.mark.slow
def test_the_weights_are_the_same_if_a_cluster_reads(tmp_path: Path) -> None:
    from dask.distributed import Client

    gb.write_cube(make_chips(8, 48), tmp_path / "chips.zarr")
    cube = gb.open_cube(tmp_path / "chips.zarr")
    here = gb.fit(cube, "quick", **QUICK, cache=0)
    with Client(n_workers=2, threads_per_worker=1, dashboard_address=":0") as client:
        there = gb.fit(cube, "quick", client=client, **QUICK, cache=0)
    assert same(here, there)


@pytest.mark.slow
def test_the_weights_are_the_same_on_disk_and_in_memory(tmp_path: Path) -> None:
    gb.write_cube(make_chips(6, 48), tmp_path / "chips.zarr")
    cube = gb.open_cube(tmp_path / "chips.zarr")
    on_disk = gb.fit(cube, "quick", **QUICK, cache=0)
    assert same(on_disk, gb.fit(cube, "quick", **QUICK))
    assert same(on_disk, gb.fit(cube, "quick", **QUICK, cache=0, read_ahead=0))


@pytest.mark.slow
def test_it_learns_and_beats_the_mean() -> None:
    west = make_scene(128, 128, seed=0)
    east = make_scene(96, 96, seed=1)
    east = east.assign_coords(x=east["x"] + 1e5)  # other ground
    settings = QUICK | {"epochs": 15, "learning_rate": 5e-3}
    model = gb.fit(west, "quick", **settings)
    table = model.evaluate(east, tile=96, overlap=0)
    assert table.loc["all", "r2"] > 0.5
    assert model.history["train_loss"].iloc[-1] < model.history["train_loss"].iloc[0]


@pytest.mark.slow
def test_it_trains_on_chips_and_on_sparse_labels() -> None:
    chips = make_chips(6)
    model = gb.fit(chips, "quick", **QUICK)
    assert model.bands == BANDS
    assert model.months == 3
    assert list(model.history["epoch"]) == [1, 2]
    assert np.isfinite(model.history["validation_average_rmse"]).all()
    whole = gb.fit(chips, "quick", **QUICK | {"crop": None})
    assert np.isfinite(whole.history["train_loss"]).all()
    scene = make_scene(96, 96)
    sparse = np.random.default_rng(0).random((96, 96)) < 0.01
    scene["agb"] = scene["agb"].where(xr.DataArray(sparse, dims=("y", "x")))
    model = gb.fit(scene, "quick", **QUICK)
    assert np.isfinite(model.history["validation_loss"]).all()


@pytest.mark.slow
def test_the_ways_to_choose_what_validates() -> None:
    chips = make_chips(6)
    none = gb.fit(chips, "quick", **QUICK, validation=0)
    assert none.history["validation_loss"].isna().all()
    named = gb.fit(chips, "quick", **QUICK, validation=["chip003"])
    other = gb.fit(
        chips.isel(chip=[0, 1, 2, 4, 5]),
        "quick",
        **QUICK,
        validation=chips.isel(chip=[3]),
    )
    assert same(named, other)
    np.testing.assert_allclose(
        named.history["validation_loss"], other.history["validation_loss"], rtol=1e-6
    )


@pytest.mark.slow
def test_one_chip_trains_without_validation_and_warns() -> None:
    with pytest.warns(UserWarning, match="training without validation"):
        model = gb.fit(make_chips(1), "quick", **QUICK)
    assert model.history["validation_loss"].isna().all()


@pytest.mark.slow
def test_the_winners_scaling_and_the_measured_one() -> None:
    scene = make_scene(64, 64)
    model = gb.fit(scene, "quick", **QUICK | {"scaling": "biomassters"})
    low, high = zip(*(BIOMASSTERS_RANGE[b] for b in BANDS), strict=True)
    assert weights(model)["shift"].tolist() == list(low)
    np.testing.assert_allclose(weights(model)["scale"], np.subtract(high, low))
    model = gb.fit(scene, "quick", **QUICK)
    median = np.nanmedian(scene["image"].sel(band="B04"))
    assert weights(model)["shift"][1] == pytest.approx(median, rel=0.1)
    assert weights(model)["target_shift"] == pytest.approx(
        scene["agb"].mean().item(), rel=0.2
    )


@pytest.mark.slow
def test_all_is_missing_in_a_month_somewhere() -> None:
    chips = make_chips(4)
    chips["image"][0, 1] = np.nan
    chips["image"][2] = np.nan
    model = gb.fit(chips, "quick", **QUICK)
    assert all(torch.isfinite(v).all() for v in weights(model).values())
    found = model.predict(chips).agb
    assert np.isnan(found[2]).all()
    assert np.isfinite(found[[0, 1, 3]]).all()


def bad_fits() -> list[tuple[str, object]]:
    scene, chips = make_scene(64, 64), make_chips(3)
    empty = scene.assign(agb=scene["agb"] * np.nan)
    fit = gb.fit
    return [
        ("has no 'agb'", lambda: fit(scene.drop_vars("agb"))),
        ("'agb' has no label", lambda: fit(empty)),
        (
            r"an xarray.Dataset or DataArray, got str; gb\.open_cube",
            lambda: fit("chips.zarr"),
        ),
        (
            r"recipe must be one of .*got 'winner'",
            lambda: fit(scene, "winner"),
        ),
        (
            "'epoch' is not a setting of a recipe; did you mean epochs",
            lambda: fit(scene, epoch=3),
        ),
        ("epochs .*got 0", lambda: fit(scene, epochs=0)),
        ("crop must be at least 1 pixel, got 0", lambda: fit(scene, crop=0)),
        ("loss must be one of .*got 'l1'", lambda: fit(scene, loss="l1")),
        ("crop must be a number of pixels", lambda: fit(scene, crop=None)),
        ("'resnet_5' is not a timm model", lambda: fit(scene, encoder="resnet_5")),
        ("validation must be from 0 to below 1", lambda: fit(chips, validation=1.5)),
        (r"Chips \['x'\] to validate on", lambda: fit(chips, validation=["x"])),
        ("No chip is left", lambda: fit(chips, validation=list(chips.chip.values))),
        ("needs a cube of chips", lambda: fit(scene, validation=["x"])),
        ("cannot be split", lambda: fit(chips.isel(chip=[0]), validation=0.5)),
        ("groups='flight'", lambda: fit(chips, groups="flight")),
        ("chips are in training and in", lambda: fit(chips, validation=chips)),
        (
            r"Bands \['B08'\] are needed",
            lambda: fit(chips, validation=scene.isel(band=[0, 1])),
        ),
        (
            r"no minimum and maximum of \['NDVI'\]",
            lambda: fit(
                scene.assign_coords(band=["VV_asc", "B04", "NDVI"]),
                scaling="biomassters",
            ),
        ),
        ("bands must name the network's 3", lambda: gb.BiomassRegressor(NETWORK, "AB")),
    ]


NETWORK = untrained().network


@pytest.mark.parametrize(("said", "call"), bad_fits())
def test_bad_input_is_one_clear_sentence(said: str, call) -> None:
    with pytest.raises(ValueError, match=said):
        call()


def test_recipes_by_name_are_complete() -> None:
    for name, recipe in RECIPES.items():
        assert recipe.name == name
        if recipe.by_pixel:  # without epochs and crops
            continue
        assert find_recipe(name, epochs=1).training.epochs == 1
        assert find_recipe(name, epochs=7).training.epochs == 7
        assert find_recipe(name, crop=64).crop == 64
    winner = RECIPES["biomassters"]
    assert winner.training.learning_rate == 1e-3
    assert winner.training.weight_decay == 1e-2
    assert winner.training.gradient_clip == 5
    assert winner.training.final_learning_rate == 1e-4
    assert winner.ceiling == 400


# --- evaluate -----------------------------------------------------------------


def test_metrics_against_plain_numpy(scene: xr.Dataset) -> None:
    chips = make_chips(4)
    chips["agb"][1, :10] = np.nan
    chips["agb"][2] = np.nan
    model = untrained()
    predicted = model.predict(chips).agb.values.astype(float)
    truth = chips["agb"].values.astype(float)
    error = predicted - truth
    table = model.evaluate(chips)
    row = table.loc["all"]
    valid = np.isfinite(error)
    assert row["pixels"] == valid.sum()
    by_chip = [np.sqrt(np.nanmean(error[i] ** 2)) for i in (0, 1, 3)]
    assert row["average_rmse"] == pytest.approx(np.mean(by_chip))
    assert row["pixel_rmse"] == pytest.approx(np.sqrt(np.nanmean(error**2)))
    assert row["mae"] == pytest.approx(np.nanmean(abs(error)))
    assert row["bias"] == pytest.approx(np.nanmean(error))
    assert row["r2"] == pytest.approx(r2_score(truth[valid], predicted[valid]))
    some = valid & (truth >= 100) & (truth < 150)
    row = table.loc["100-150"]
    assert row["pixels"] == some.sum()
    assert row["bias"] == pytest.approx(error[some].mean())
    assert row["observed"] == pytest.approx(truth[some].mean())
    assert row["predicted"] == pytest.approx(predicted[some].mean())
    assert table["pixels"].iloc[1:].sum() == valid.sum()
    with pytest.raises(gb.CubeError, match="has no 'agb'"):
        model.evaluate(chips.drop_vars("agb"))
    with pytest.raises(gb.CubeError, match="nothing to compare"):
        model.evaluate(chips.isel(chip=[2]))


def test_metrics_of_a_scene_do_not_depend_on_the_block() -> None:
    scene = make_scene(300, 280)
    model = untrained()
    one = model.evaluate(scene, tile=64, overlap=0, block=256)
    other = model.evaluate(scene, tile=64, overlap=0, block=1024)
    pd.testing.assert_frame_equal(one, other)
