"""gb.fit(cube, "pixels"): the interface of a network's model, and the same laws."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr

import geobiomass as gb
from geobiomass.learner.pixel_network import PixelNetwork
from geobiomass.models import pixel_record
from geobiomass.models.input_check import INPUTS
from geobiomass.models.pixel_regressor import PixelRegressor
from geobiomass.recipes.recipe import RECIPES
from geobiomass.tiles import Sample, Window

BANDS = ("VV_asc", "VH_asc", "B04", "B08")
FAST: dict[str, Any] = {"trees": 40, "neighbourhoods": (3, 5), "progress": False}


def landscape() -> xr.Dataset:
    """96 x 96 pixels of a synthetic landscape, all labelled."""
    cube = gb.landscape(96, months=3, seed=0, version=1).sel(band=list(BANDS)).load()
    image = cube["image"].copy()
    image[1, :, 10:40, 20:60] = np.nan
    return cube.assign(image=image)


def plots(cube: xr.Dataset, count: int = 150, seed: int = 0) -> xr.Dataset:
    """Return the cube with labels at some pixels only."""
    kept = np.zeros(cube["agb"].size, bool)
    kept[np.random.default_rng(seed).choice(kept.size, count, replace=False)] = True
    return cube.assign(agb=cube["agb"].where(kept.reshape(cube["agb"].shape)))


@pytest.fixture(scope="module")
def full() -> xr.Dataset:
    return landscape()


@pytest.fixture(scope="module")
def model(full: xr.Dataset) -> PixelRegressor:
    settings = FAST | {"trees": 300}
    found = gb.fit(plots(full), "pixels", interval=0.8, block=16, **settings)
    assert isinstance(found, PixelRegressor)
    return found


def test_it_is_better_than_the_mean_and_its_interval_covers(
    full: xr.Dataset, model: PixelRegressor
) -> None:
    row = model.evaluate(full, bootstrap=0).loc["all"]
    spread = float(full["agb"].std())
    assert row["pixel_rmse"] < 0.7 * spread
    # Pixels between labels are easier than the blocks that are held out.
    assert 0.78 < row["coverage"] < 0.95
    blend = model.history.set_index("stage").loc["blend", "rmse"]
    # A few tall stands make most of the error, and 150 labels hit few of them.
    assert 0.5 < blend / row["pixel_rmse"] < 1.5
    assert f"{blend:.4g}" in repr(model)
    assert "PixelRegressor(extra trees + kernel ridge, " in repr(model)
    assert f"B04 month {int(full['month'][0])}" in model.features


def test_with_few_labels_it_is_no_worse_than_a_forest_by_pixel(
    full: xr.Dataset, model: PixelRegressor
) -> None:
    from sklearn.ensemble import RandomForestRegressor

    table = full["image"].values.reshape(-1, full["agb"].size).T
    target = full["agb"].values.ravel()
    few = np.flatnonzero(np.isfinite(plots(full)["agb"].values.ravel()))
    forest = RandomForestRegressor(100, random_state=0, min_samples_leaf=2)
    forest.fit(np.nan_to_num(table[few], nan=-99), target[few])
    errors = forest.predict(np.nan_to_num(table, nan=-99)) - target
    row = model.evaluate(full, bootstrap=0).loc["all"]
    assert row["pixel_rmse"] <= np.sqrt(np.mean(errors**2))


def test_a_map_does_not_depend_on_tiles_blocks_or_threads(
    full: xr.Dataset, model: PixelRegressor, tmp_path: Path
) -> None:
    whole = model.predict(full).compute()
    for settings in ({"tile": 80, "block": 33}, {"overlap": 0, "flips": True}):
        assert model.predict(full, **settings).compute().equals(whole)
    model.predict_to(tmp_path / "map.zarr", full, progress=False, tile=72, block=48)
    with xr.open_zarr(tmp_path / "map.zarr") as written:
        for name in ("agb", "agb_lower", "agb_upper"):
            assert np.array_equal(written[name].values, whole[name].values)
    known = gb.provenance(tmp_path / "map.zarr")
    assert "learner blend" in str(known)
    torch.set_num_threads(2)
    try:
        image = torch.from_numpy(full["image"].values[None].astype(np.float32))
        agb = model.network(image)[0, 0].numpy()
    finally:
        torch.set_num_threads(1)
    assert np.array_equal(np.maximum(agb, 0), whole["agb"].values)


def test_months_that_training_lacks_can_be_mapped(
    full: xr.Dataset, model: PixelRegressor
) -> None:
    summer = full.assign_coords(month=[6, 7, 8])
    assert np.isfinite(model.predict(summer, check="off").compute()["agb"]).all()
    assert np.isfinite(model.predict(full.isel(month=[0]), check="off")["agb"]).all()


def test_saved_is_loaded_to_the_bit_and_nothing_is_pickled(
    full: xr.Dataset, model: PixelRegressor, tmp_path: Path
) -> None:
    model.save(tmp_path / "model")
    loaded = gb.load(tmp_path / "model")
    maps = [m.predict(full, applicability=True).compute() for m in (model, loaded)]
    assert maps[0].equals(maps[1])
    assert 0.8 < float(maps[0]["applicable"].mean()) <= 1
    assert repr(loaded) == repr(model)
    assert loaded.recipe == model.recipe
    names = {path.name for path in (tmp_path / "model").iterdir()}
    assert names == {
        *("config.json", "weights.safetensors", "history.csv", "README.md"),
        "domain.safetensors",
    }
    card = (tmp_path / "model" / "README.md").read_text()
    assert "Out of fold" in card
    assert "150 of 150 labels" in card
    assert "a kernel ridge regression on 150 labels" in card
    assert "300 extra trees" in str(gb.describe(tmp_path / "model"))
    claimed = json.loads(json.dumps(model.network.settings))
    claimed["trees"]["nodes"] = 2**40
    with pytest.raises(ValueError, match="sizes of trees"):
        PixelNetwork.of_settings(claimed)


def test_boosting_on_few_labels_is_in_no_fold_and_is_saved_so(
    full: xr.Dataset, tmp_path: Path
) -> None:
    model = gb.fit(plots(full, 210), "pixels", block=16, **(FAST | {"trees": 10}))
    model.save(tmp_path / "model")
    history = gb.load(tmp_path / "model").history.set_index("stage")
    assert list(history.index[history["rmse"].isna()]) == ["gradient boosting"]
    card = (tmp_path / "model" / "README.md").read_text()
    assert "| gradient boosting | - | 0.40 |" in card
    assert "gradient boosting" not in str(gb.describe(model)["out-of-fold RMSE"])


def test_the_same_seed_gives_the_same_bits_and_a_folder_is_gone_on_with(
    full: xr.Dataset, tmp_path: Path
) -> None:
    cube = plots(full, 60)
    call = {**FAST, "folder": tmp_path / "run", "seed": 3}
    first = gb.fit(cube, "pixels", **call)
    again = gb.fit(cube, "pixels", **call)  # read from the folder
    anew = gb.fit(cube, "pixels", **(FAST | {"seed": 3}))
    maps = [m.predict(full).compute() for m in (first, again, anew)]
    assert maps[0].equals(maps[1])
    assert maps[0].equals(maps[2])
    with pytest.raises(ValueError, match="differs in 'seed'; give another folder"):
        gb.fit(cube, "pixels", **(call | {"seed": 4}))


@pytest.mark.slow
def test_folds_and_cross_validation(full: xr.Dataset) -> None:
    cube = plots(full, 120)
    ensemble = gb.fit(cube, "pixels", folds=3, interval=0.6, block=16, **FAST)
    held = [m.provenance["data"]["training"]["labels"] for m in ensemble.models]
    assert sum(held) == 2 * 120  # each label is in all folds but one
    assert ensemble.calibration is not None
    checked = gb.cross_validate(cube, "pixels", gb.make_folds(cube, 3), **FAST)
    table = checked.evaluate(bootstrap=0)
    assert table.loc["all", "pixels"] == 120
    known = np.isfinite(cube["agb"].values)
    for member, fold in zip(checked.model.models, checked.folds, strict=True):
        trains = fold.trains(Sample(Window(0, 0, 96, 96)))
        own = int((known & trains).sum())
        assert member.provenance["data"]["training"]["labels"] == own < 120


def test_a_plan_says_what_will_be_done(full: xr.Dataset) -> None:
    told: list[str] = []
    gb.fit(plots(full, 50), "pixels", announce=lambda p: told.append(str(p)), **FAST)
    assert told[0].startswith("50 of 50 labels in 9 chips, blocks or groups, ")
    assert "65 % extra trees, 35 % kernel ridge, out of fold in 9 folds" in told[0]


@pytest.mark.slow  # torch traces the graph twice, once for each form
@pytest.mark.parametrize("ending", [".pt2", ".onnx"])
def test_it_is_exported_as_a_graph(
    full: xr.Dataset, tmp_path: Path, ending: str
) -> None:
    settings = FAST | {"trees": 10, "neighbourhoods": (3,), "interval": 0.8}
    full = full.sel(band=["VV_asc", "B04"])
    model = gb.fit(plots(full, 60), "pixels", block=16, **settings)
    path = model.export(tmp_path / f"model{ending}", height=24, width=24)
    image = full["image"].values[None, ..., :24, :24].astype(np.float32)
    expected = model.network(torch.from_numpy(image)).numpy()
    if ending == ".pt2":
        found = torch.export.load(path).module()(torch.from_numpy(image)).numpy()
    else:
        runtime = pytest.importorskip("onnxruntime")
        found = runtime.InferenceSession(path).run(None, {"image": image})[0]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-4)


def test_labels_that_teach_nothing_are_refused_in_one_sentence(
    full: xr.Dataset,
) -> None:
    cube = plots(full, 40)
    wrong = {
        "must be 10 or more, got 8": plots(full, 8),
        "all of 5": cube.assign(agb=cube["agb"] * 0 + 5),
        "in two blocks of a scene or more": full.isel(y=slice(0, 40), x=slice(0, 60)),
        "needs at least 19 chips or blocks": cube,
    }
    for message, labels in wrong.items():
        interval = 0.95 if "needs" in message else None
        block = 48 if "needs" in message else None
        with pytest.raises((gb.CubeError, ValueError), match=message):
            gb.fit(labels, "pixels", interval=interval, block=block, **FAST)


def test_settings_belong_to_a_network_or_to_a_learner_by_pixel() -> None:
    cube = xr.Dataset()
    with pytest.raises(ValueError, match="epochs is a setting of networks, got epochs"):
        gb.fit(cube, "pixels", epochs=3)
    with pytest.raises(ValueError, match="trees is a setting of the recipe 'pixels'"):
        gb.fit(cube, "quick", trees=30)
    with pytest.raises(ValueError, match="learner must be 'blend' or an estimator"):
        gb.fit(cube, "pixels", learner="forest")
    assert not RECIPES["default"].by_pixel
    assert RECIPES["pixels"].by_pixel


@pytest.mark.slow
def test_the_report_and_the_plot_show_what_was_fitted(
    model: PixelRegressor, full: xr.Dataset, tmp_path: Path
) -> None:
    axes = gb.plots.history(model)
    assert [text.get_text() for text in axes.get_yticklabels()] == list(
        model.history["stage"]
    )
    widths = [bar.get_width() for bar in axes.containers[0]]
    assert widths == model.history["rmse"].tolist()
    cube = full.drop_vars("agb").isel(y=slice(0, 48), x=slice(0, 48))
    page = gb.write_report(model, cube, tmp_path / "r.html", progress=False)
    text = page.read_text()
    assert "its error on labels held out in turn" in text
    assert "has no attention over months" in text


def test_without_a_folder_no_file_is_written_and_windows_are_counted_together(
    full: xr.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object) -> None:
        raise AssertionError("saved into a folder that the call deletes")

    monkeypatch.setattr(PixelRegressor, "save", refuse)
    cube = plots(full, 60)
    together = gb.fit(cube, "pixels", block=32, **FAST)
    monkeypatch.setattr(pixel_record, "_TOGETHER", 0)
    alone = gb.fit(cube, block=32, **FAST)
    assert isinstance(together, PixelRegressor)
    assert isinstance(alone, PixelRegressor)
    learnt = together.provenance[INPUTS]
    assert learnt == alone.provenance[INPUTS]
    # The windows are all blocks, and there are more than 8,192 pixels: one of two.
    values = cube["image"].sel(band="B04").values
    known = values[np.isfinite(values)]
    assert learnt["bands"]["B04"]["minimum"] == pytest.approx(known.min())
    assert learnt["bands"]["B04"]["maximum"] == pytest.approx(known.max())
    month = learnt["months"][next(iter(learnt["months"]))]["B04"]
    assert month["p50"] == pytest.approx(np.nanmedian(values[0]), rel=0.05)
