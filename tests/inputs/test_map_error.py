"""The error that is told is that of maps, at any crop; maps are not below zero."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr

import geobiomass as gb
from geobiomass.applicability import Domain
from geobiomass.cube import select_bands
from geobiomass.data.reader import Reader
from geobiomass.inference.floor import Floor
from geobiomass.models.fit_members import untrained
from geobiomass.models.map_error import MapError, outside_range
from geobiomass.network import AttentionUNet
from geobiomass.network.attention_unet import UNKNOWN
from geobiomass.network.norm_statistics import measure_norms
from geobiomass.recipes.levels import crop_side, levels_for
from geobiomass.recipes.recipe import find_recipe
from geobiomass.recipes.split import parts_of
from geobiomass.tiles import Sample, Window

TINY: dict[str, Any] = {
    "encoder": "test_resnet",
    "decoder_channels": (32, 24, 16, 16, 8),
    "progress": False,
    "domain_cells": 0,
    "learning_rate": 3e-3,
    "seed": 0,
}
RADAR = ["VV_asc", "VH_asc", "VV_desc", "VH_desc"]


def make_scene(seed: int, side: int = 256, share: float = 1.0) -> xr.Dataset:
    """Return a scene of a month, with labels at a share of the pixels."""
    scene = gb.landscape((side, side), months=1, seed=seed, version=1).compute()
    if share < 1:
        draw = np.random.default_rng(seed).random(scene["agb"].shape)
        scene["agb"] = scene["agb"].where(draw < share)
    return scene


@pytest.fixture(scope="module")
def small_crops() -> gb.BiomassRegressor:
    scene = select_bands(make_scene(11, 128, 0.15), RADAR)
    settings = TINY | {"crop": 32, "block": 32, "epochs": 6}
    return gb.fit(scene, "quick", **settings)


def rmse(found: Any, truth: Any) -> float:
    return float(np.sqrt(np.nanmean((np.asarray(found) - np.asarray(truth)) ** 2)))


# --- the law ------------------------------------------------------------------------


def test_a_model_of_small_crops_maps_the_same_at_any_tile(
    small_crops: gb.BiomassRegressor,
) -> None:
    other = make_scene(12, 128)
    maps = {
        tile: small_crops.predict(other, tile=tile, overlap=tile // 4)["agb"].values
        for tile in (32, 64, 128)
    }
    errors = {tile: rmse(found, other["agb"].values) for tile, found in maps.items()}
    assert max(errors.values()) < 1.25 * min(errors.values()), errors
    highest = float(other["agb"].max())
    assert all(
        found.min() >= 0 and found.max() < 2 * highest for found in maps.values()
    )


@pytest.fixture
def tiny_variances(monkeypatch: pytest.MonkeyPatch) -> None:
    """Training that ends with what deep encoders have after crops of one deep pixel."""
    import geobiomass.training as training

    real = training.train_stages

    def train_stages(task: Any, *args: Any, **named: Any) -> Any:
        result = real(task, *args, **named)
        for name, values in task.network.encoder.named_buffers():
            if name.endswith("running_var"):
                values.mul_(1e-3)
        return result

    monkeypatch.setattr(training, "train_stages", train_stages)


@pytest.mark.slow
@pytest.mark.usefixtures("tiny_variances")
def test_tiny_variances_of_training_do_not_reach_a_map() -> None:
    scene, other = (select_bands(make_scene(n, 64), RADAR) for n in (11, 12))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", "The error of maps")
        model = gb.fit(scene, "quick", **TINY | {"crop": 32, "block": 32, "epochs": 2})
    assert model.map_error is not None
    assert model.predict(other)["agb"].max() < 1000


@pytest.mark.usefixtures("tiny_variances")
def test_what_is_wrong_is_told_where_norms_stay(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import geobiomass.models.network_training as training

    monkeypatch.setattr(training, "choose_norms", lambda *_: None)
    scene = select_bands(make_scene(11, 64), RADAR)
    settings = TINY | {"crop": 32, "block": 32, "epochs": 2}
    with pytest.warns(UserWarning, match="of their pixels are beyond the range"):
        model = gb.fit(scene, "quick", **settings)
    with pytest.warns(UserWarning, match="of their pixels are beyond the range"):
        model.predict(scene)


def test_the_error_of_maps_is_measured_and_kept(
    small_crops: gb.BiomassRegressor, tmp_path: Path
) -> None:
    error = small_crops.map_error
    assert error is not None
    assert (error.tile, error.overlap, error.crop) == (256, 64, 32)
    assert error.pixels > 50
    assert abs(error.difference) < 0.25
    small_crops.save(tmp_path / "model")
    again = gb.load(tmp_path / "model")
    assert again.map_error == error
    assert again.floor == small_crops.floor == 0
    assert f"RMSE {error.rmse:.4g}" in (tmp_path / "model" / "README.md").read_text()
    assert gb.describe(tmp_path / "model")["error of maps"] == str(error)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*trained the model")  # its validation did
def test_the_error_is_that_of_evaluate() -> None:
    scene = select_bands(make_scene(3, 64), RADAR)
    held = select_bands(make_scene(4, 64), RADAR)
    held = held.assign_coords(x=held["x"] + 1e5)  # other ground
    settings = TINY | {"crop": 32, "block": 32, "epochs": 1}
    model = gb.fit(scene, "quick", validation=held, **settings)
    assert model.map_error is not None
    expected = model.evaluate(held, bootstrap=0, check="off")["pixel_rmse"]["all"]
    assert model.map_error.rmse == pytest.approx(expected, rel=1e-6)
    assert model.map_error.pixels == 64 * 64


def make_error(**changes: Any) -> MapError:
    values: dict[str, Any] = {
        "tile": 256,
        "overlap": 64,
        "blocks": 1,
        "of": 2,
        "pixels": 100,
        "rmse": 30.0,
        "crop_rmse": 30.0,
        "crop": 32,
        "lowest": 0.0,
        "highest": 200.0,
        "labels": (0.0, 210.0),
        "outside": 0.0,
    }
    return MapError(**values | changes)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"rmse": 32.9}, None),
        ({"rmse": 20.0}, None),
        ({"rmse": 33.1}, "33.1, 10 % above the 30 "),
        ({"rmse": 5e8}, "5e.08"),
        ({"rmse": float("nan")}, "nan"),
        ({"outside": 0.00001}, None),
        ({"outside": 0.02, "highest": 1e12}, "2 % of their pixels .* to 1e.12"),
    ],
)
def test_a_difference_of_a_tenth_or_values_far_outside_are_told(
    small_crops: gb.BiomassRegressor, changes: dict[str, Any], words: str | None
) -> None:
    model, scene = small_crops, make_scene(12, 32)
    before, model.map_error = model.map_error, make_error(**changes)
    try:
        if words is None:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                model.predict(scene)
        else:
            with pytest.warns(UserWarning, match=words) as told:
                model.predict(scene)
            assert len(told) == 1
            assert told[0].filename == __file__
    finally:
        model.map_error = before


def test_a_written_map_has_its_counts(
    small_crops: gb.BiomassRegressor, tmp_path: Path
) -> None:
    model, scene = small_crops, make_scene(12, 64)
    raw = model._bare(scene)
    values = np.concatenate([raw.compute(s.window) for s in raw.samples()], axis=1)
    before, model.map_error = model.map_error, make_error(labels=(40.0, 60.0))
    below = int((values[0] <= 0).sum())
    far = outside_range(np.maximum(values[0], 0), (40.0, 60.0)).sum()
    assert far > 10
    try:
        with pytest.warns(UserWarning, match=f"{far:,} of 4,096 pixels"):
            model.predict_to(tmp_path / "map.zarr", scene, block=32, progress=False)
        with pytest.warns(UserWarning, match=f"{far:,} of 4,096 pixels"):
            model.predict_to(tmp_path / "map.tif", scene, progress=False)
    finally:
        model.map_error = before
    written = xr.open_zarr(tmp_path / "map.zarr")
    counted = json.loads(written.attrs["map_checks"])
    assert counted["raised"] == below == int((written["agb"] == 0).sum())
    assert (counted["pixels"], counted["outside"]) == (64 * 64, far)
    import rasterio

    with rasterio.open(tmp_path / "map.tif") as source:
        assert json.loads(source.tags()["map_checks"]) == counted


# --- crops and bands ------------------------------------------------------------------


def test_a_crop_below_the_deepest_features_is_refused_with_the_remedy() -> None:
    with pytest.raises(ValueError, match=r"crop must be at least 32 pixels.*crop=32"):
        gb.fit(make_scene(1, 64), "quick", **TINY | {"crop": 16, "epochs": 1})


@pytest.mark.parametrize("average", [0.9, None])
@pytest.mark.slow
def test_bands_without_information_are_missing_in_maps_too(
    average: float | None,
) -> None:
    scene = select_bands(make_scene(5, 64), [*RADAR, "B04", "CLP"])
    scene["image"] = scene["image"].where(scene["band"] != "B04").copy(deep=True)
    scene["image"][:, 5] = 7.0
    settings = TINY | {"crop": 32, "epochs": 1, "moving_average": average}
    with pytest.warns(UserWarning, match="in the training data: B04, CLP"):
        model = gb.fit(scene, "quick", missing="validity", validation=0, **settings)
    other = select_bands(make_scene(6, 64), [*RADAR, "B04", "CLP"])
    other["image"][:, 4:] = 5000.0
    without = other.copy(deep=True)
    without["image"][:, 4:] = np.nan
    expected = model.predict(without, check="off")["agb"].values
    assert np.isfinite(expected).all()
    np.testing.assert_array_equal(
        model.predict(other, check="off")["agb"].values, expected
    )
    other["image"][:, :4] = np.nan  # nothing that the model knows
    assert np.isnan(model.predict(other, check="off")["agb"].values).all()


def test_small_chips_are_refused_with_the_remedy() -> None:
    chips = xr.concat(
        [make_scene(n, 16).drop_vars(["y", "x", "spatial_ref"]) for n in (1, 2)],
        "chip",
    ).assign_coords(chip=["a", "b"])
    settings = TINY | {"crop": None, "epochs": 1, "validation": 0}
    words = r"at least 32 pixels.*got a side of 16; give levels=\"crop\""
    for recipe in ("quick", "biomassters"):
        with pytest.raises(ValueError, match=words):
            gb.fit(chips, recipe, **settings)
    model = gb.fit(select_bands(chips, RADAR), "quick", **settings, levels="crop")
    assert model.predict(chips)["agb"].notnull().all()


@pytest.mark.slow
def test_folds_agree_on_floor_and_unknown_bands() -> None:
    scene = select_bands(make_scene(5, 64), [*RADAR, "B04", "CLP"])
    scene["image"] = scene["image"].where(scene["band"] != "B04").copy(deep=True)
    scene["image"][:, 5] = 7.0
    scene["agb"][3, 3] = -5.0  # in one block: one fold trains without it
    settings = TINY | {"crop": 32, "block": 32, "epochs": 1, "domain_cells": 100}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The error of maps|Bands without any value")
        checked = gb.cross_validate(scene, "quick", 2, **settings)
        for member in checked.model.models:
            member.network.target_shift -= 100  # maps that go below zero
        held = checked.predictions.compute()
        assert held["agb"].min() < 0
        floors = [model.floor for model in checked.model.models]
        assert sorted(floors, key=str) == [0.0, None]
        assert checked.model.floor is None
        # Held-out blocks are mapped with the floor of the ensemble, not of a member.
        number = checked.folds.numbers(Sample(Window(0, 0, 64, 64)))
        for fold, member in enumerate(checked.model.models):
            member.floor = None
            own = member.predict(scene, check="off")["agb"].values
            np.testing.assert_array_equal(
                held["agb"].values[number == fold], own[number == fold]
            )
        assert np.isfinite(checked.evaluate(bootstrap=0)["pixel_rmse"]["all"])
        # A band without information is missing for all members and their mean.
        other = scene.drop_vars("agb").copy(deep=True)
        other["image"][:, 4:] = 5000.0
        found = checked.model.predict(other, applicability=True, check="off").compute()
        expected = checked.model.predict(scene, applicability=True).compute()
        for name in ("agb", "dissimilarity", "applicable"):
            assert np.isfinite(expected[name]).all()
            np.testing.assert_array_equal(found[name], expected[name])
        other["image"][:, :4, :32] = np.nan  # there nothing that the models know
        found = checked.model.predict(other, applicability=True, check="off").compute()
        for name in ("agb", "dissimilarity", "applicable"):
            assert np.isnan(found[name][:32]).all()
            assert np.isfinite(found[name][32:]).all()


def test_the_domain_has_no_cells_of_unknown_bands_alone() -> None:
    torch.manual_seed(0)
    network = AttentionUNet(2, "test_resnet", (8, 8, 8, 8, 8)).eval()
    network.set_statistics([0.0, 0.0], [1.0, UNKNOWN])
    model = gb.BiomassRegressor(network, ["VV_asc", "B04"], months=1)
    scene = select_bands(make_scene(6, 64), ["VV_asc", "B04"])
    scene["image"][:, 1] = 800.0
    model.learn_applicability(scene)
    before = model.domain
    assert isinstance(before, Domain)
    chips = xr.concat([scene.drop_vars(["y", "x", "spatial_ref"])] * 2, "chip")
    chips = chips.assign_coords(chip=["a", "b"])
    chips["image"][1, :, 0] = np.nan  # seen in the unknown band only
    model.learn_applicability(chips)
    after = model.domain
    assert isinstance(after, Domain)
    assert len(after.views[1].reference) == len(before.views[1].reference) == 16
    assert np.isfinite(after.quantiles).all()


@pytest.mark.slow
def test_the_error_of_crops_leaves_out_what_maps_leave_out() -> None:
    scene = select_bands(make_scene(3, 64), RADAR)
    scene["image"][:, :, 1::2] = np.nan  # rows with labels, but nothing observed
    held = scene.assign_coords(x=scene["x"] + 1e5)  # other ground
    held["agb"] = held["agb"].copy(deep=True)
    held["agb"][1::2] = 1e4
    settings = TINY | {"crop": 64, "epochs": 1, "ceiling": None}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The error of maps")
        model = gb.fit(scene, "quick", validation=held, **settings)
    assert model.map_error is not None
    assert model.map_error.pixels == 32 * 64
    assert model.map_error.crop_rmse < 1000


def test_norms_are_measured_over_all_images() -> None:
    torch.manual_seed(0)
    network = AttentionUNet(2, "test_resnet", (8, 8, 8, 8, 8))
    images = [torch.randn(1, 1, 2, 64, 64) for _ in range(3)]
    measure_norms(network, images)
    first = next(m for m in network.modules() if isinstance(m, torch.nn.BatchNorm2d))
    seen: list[torch.Tensor] = []
    hook = first.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    with torch.no_grad():
        for image in images:
            network(image)
    hook.remove()
    expected = torch.stack([one.mean((0, 2, 3)) for one in seen]).mean(0)
    torch.testing.assert_close(first.running_mean, expected, rtol=1e-4, atol=1e-5)
    assert first.momentum == 0.1
    assert not network.training


# --- not below zero ---


def test_the_floor_raises_a_map_and_its_interval_and_nothing_else() -> None:
    names = ("agb", "agb_lower", "agb_upper", "agb_spread", "dissimilarity")
    values = {name: np.array([[-3.0, 2.0, np.nan]], np.float32) for name in names}
    found = Floor(0.0, "agb").apply(values)
    for name in names[:3]:
        np.testing.assert_array_equal(found[name], [[0, 2, np.nan]])
    for name in names[3:]:
        np.testing.assert_array_equal(found[name], values[name])


@pytest.mark.slow
def test_a_target_that_can_be_negative_has_no_floor() -> None:
    scene = select_bands(make_scene(7, 64), RADAR)
    scene["agb"] = scene["agb"] - 100
    settings = TINY | {"crop": 32, "epochs": 1, "validation": 0}
    with pytest.warns(UserWarning, match="are below 0, down to -100"):
        model = gb.fit(scene, "quick", **settings)
    assert model.floor is None
    bare = scene.drop_vars("agb")
    assert model.predict(bare)["agb"].min() < 0


def test_pictures_show_what_is_below() -> None:
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    values = xr.DataArray(np.linspace(0, 9, 16).reshape(4, 4), dims=("y", "x"))
    for shift, extend in ((0, "max"), (-5, "both")):
        axes = gb.plots.biomass(values + shift)
        assert axes.images[0].colorbar.extend == extend


@pytest.mark.parametrize(
    ("recipe", "changes", "shape", "crop", "levels"),
    [
        ("default", {}, (1024, 1024), 128, None),
        # Nine blocks at least are made of a scene, so its crops are smaller.
        ("default", {}, (290, 240), 72, 3),
        ("default", {"interval": 0.9}, (512, 512), 64, 3),
        ("default", {"crop": 64}, (1024, 1024), 64, 3),
        ("default", {"crop": 32}, (1024, 1024), 32, 2),
        ("default", {"block": 32}, (1024, 1024), 32, 2),
        ("default", {}, (64, 64), 32, 2),
        ("default", {"crop": 32, "levels": "all"}, (1024, 1024), 32, None),
        ("quick", {"crop": 32}, (1024, 1024), 32, None),
        ("biomassters", {"crop": 64}, (1024, 1024), 64, None),
    ],
)
def test_a_small_crop_leaves_out_deep_levels(
    recipe: str,
    changes: dict[str, Any],
    shape: tuple[int, int],
    crop: int,
    levels: int | None,
) -> None:
    scene = gb.landscape(shape, months=1, block=64, version=1)  # lazy
    chosen = find_recipe(recipe, **changes)
    units = parts_of(Reader(scene, ["VV_asc"]), chosen)
    assert crop_side(chosen, units) == crop
    assert levels_for(chosen, crop) == levels


def test_the_network_is_of_the_crops_that_train() -> None:
    for shape, levels in (((96, 96), 2), ((192, 200), 3)):
        scene = select_bands(gb.landscape(shape, months=1, seed=1, version=1), RADAR)
        network = untrained(
            scene, find_recipe("default", encoder="test_resnet")
        ).network
        assert network.settings["levels"] == levels


# --- recipes, crops and tiles ---


EPOCHS = {32: 12, 64: 30, 128: 60}
"""Of crops of this side: about as many steps each, until the network has learnt."""


SPARSE, DENSE = 0.15, 1.0


# Each recipe and number of levels, with labels that are sparse or dense.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("recipe", "crop", "share"),
    [
        ("default", 32, SPARSE),
        ("default", 64, DENSE),
        ("default", 128, SPARSE),
        ("quick", 64, SPARSE),
        ("biomassters", 32, DENSE),
    ],
)
def test_recipes_are_sound_on_small_crops_at_any_tile(
    recipe: str, crop: int, share: float
) -> None:
    settings = TINY | {"crop": crop, "block": crop, "epochs": EPOCHS[crop]}
    if recipe == "biomassters":
        settings |= {"stages": (), "warmup_epochs": 1.0, "learning_rate": 1e-3}
    side = max(256, 3 * crop)  # of nine blocks at least, or crops would be smaller
    scene, other = make_scene(11, side, share), make_scene(12, 256)
    scene, other = (select_bands(one, RADAR) for one in (scene, other))
    model = gb.fit(scene, recipe, **settings)
    assert isinstance(model, gb.BiomassRegressor)
    assert model.map_error is not None
    assert model.map_error.crop == crop
    assert model.network.settings.get("levels") == LEVELS.get((recipe, crop))
    truth = other["agb"].values
    errors = {}
    for tile in (64, 128, 256):
        found = model.predict(other, tile=tile, overlap=tile // 4)["agb"].values
        errors[tile] = rmse(found, truth)
        assert found.min() >= 0
        assert not outside_range(found, (0.0, float(truth.max()))).any()
    # On the ground of training, all of its labels: a tiny network of a few blocks need
    # not know another landscape.
    full = make_scene(11, side)["agb"].values
    assert rmse(model.predict(scene)["agb"].values, full) < float(full.std())
    assert max(errors.values()) < 1.25 * min(errors.values()), errors
    assert model.map_error.difference < 0.1


LEVELS = {("default", 32): 2, ("default", 64): 3}
