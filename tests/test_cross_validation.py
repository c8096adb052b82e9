"""Cross-validation: each pixel is mapped by the model that did not train on it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from conftest import make_chips, make_scene
from test_evaluation import with_interval

import geobiomass as gb
from geobiomass.inference.mapper import Mapper
from geobiomass.models.fit_members import untrained
from geobiomass.tiles import Sample, Window

TILES: dict[str, Any] = {"tile": 32, "overlap": 0, "block": 32}
SMALL: dict[str, Any] = {
    "encoder": "test_resnet",
    "decoder_channels": (8, 8, 8, 8, 8),
    "crop": 32,
    "epochs": 1,
    "progress": False,
}


def members(cube: xr.Dataset, count: int) -> gb.Ensemble:
    """Return untrained models that differ."""
    models = [untrained(cube, gb.Recipe(**_recipe(seed))) for seed in range(count)]
    return gb.Ensemble(models)


def _recipe(seed: int) -> dict[str, Any]:
    from geobiomass.training import TrainingConfig

    network = {name: SMALL[name] for name in ("encoder", "decoder_channels")}
    return {**network, "training": TrainingConfig(seed=seed)}


@pytest.fixture
def scene() -> xr.Dataset:
    """Return 64 x 96 pixels with three regions, and pixels of no region."""
    scene = make_scene(64, 96)
    zones = np.repeat([0, 1, 2, np.nan], [20, 30, 30, 16])[None] * np.ones((64, 1))
    return scene.assign_coords(region=(("y", "x"), zones))


def crossed(cube: xr.Dataset, folds: gb.Folds, **settings: Any) -> gb.CrossValidation:
    model = members(cube, folds.count)
    return gb.CrossValidation(cube, model, folds, **TILES | settings)


def test_each_pixel_is_mapped_by_the_model_that_did_not_train_on_it(
    scene: xr.Dataset,
) -> None:
    folds = gb.make_folds(scene, 3, by="region")
    cv = crossed(scene, folds)
    numbers = folds.numbers(Sample(Window(0, 0, 64, 96)))
    expected = np.full((64, 96), np.nan, np.float32)
    for number, member in enumerate(cv.model.models):
        values = member.predict(scene, **TILES).agb.values
        expected[numbers == number] = values[numbers == number]
    assert np.isnan(expected[:, 80:]).all()
    np.testing.assert_array_equal(cv.predictions.agb.values, expected)
    assert cv.predictions.agb.attrs["units"] == "Mg/ha"
    assert cv.predictions.rio.crs == scene.rio.crs


def test_only_models_that_are_needed_run(
    scene: xr.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    folds = gb.make_folds(scene, 2, block=32)
    cv = crossed(scene, folds)
    computed: list[Window] = []
    compute = Mapper.compute

    def noted(self: Mapper, window: Window, chip: int | None = None) -> Any:
        computed.append(window)
        return compute(self, window, chip)

    monkeypatch.setattr(Mapper, "compute", noted)
    cv.predictions.agb.isel(y=slice(0, 32), x=slice(0, 32)).compute()
    assert computed == [Window(0, 0, 32, 32)]
    cv.predictions.agb.compute()
    assert len(computed) == 1 + 6  # a block each, none of them twice


def test_chips_are_mapped_by_the_model_that_did_not_train_on_them() -> None:
    chips = make_chips(5)
    folds = gb.make_folds(chips, 2)
    cv = crossed(chips, folds)
    maps = [m.predict(chips, **TILES).agb.values for m in cv.model.models]
    found = cv.predictions.agb.values
    for chip, number in enumerate(folds.fold_of):
        np.testing.assert_array_equal(found[chip], maps[number][chip])


def test_one_table_is_over_all_that_was_held_out(scene: xr.Dataset) -> None:
    scene["agb"][5:30, 3:60] = np.nan
    folds = gb.make_folds(scene, 3, by="region")
    cv = crossed(scene, folds)
    table = cv.evaluate(bootstrap=200)
    found, truth = cv.predictions.agb.values, scene.agb.values
    error = (found - truth)[np.isfinite(found) & np.isfinite(truth)].astype(float)
    row = table.loc["all"]
    assert row["pixels"] == error.size
    assert row["pixel_rmse"] == pytest.approx(np.sqrt((error**2).mean()), rel=1e-5)
    assert row["bias"] == pytest.approx(error.mean(), rel=1e-5)
    assert row["bias_lower"] <= row["bias"] <= row["bias_upper"]
    months = cv.evaluate("months")
    assert months.loc[["3", "2", "1"], "pixels"].sum() == error.size
    # A region is drawn as a whole, and its root mean squared error averaged.
    each = [
        np.sqrt(np.nanmean((found - truth)[:, part].astype(float) ** 2))
        for part in (slice(0, 20), slice(20, 50), slice(50, 80))
    ]
    assert row["average_rmse"] == pytest.approx(np.mean(each), rel=1e-5)


def test_what_was_held_out_together_is_drawn_together() -> None:
    chips = make_chips(6).assign_coords(flight=("chip", list("aaabbb")))
    cv = crossed(chips, gb.make_folds(chips, 2, by="flight"))
    row = cv.evaluate(bootstrap=400).loc["all"]
    error = cv.predictions.agb - chips.agb
    ends = [float(error[part].mean()) for part in (slice(0, 3), slice(3, 6))]
    # Two flights: every sample is one, the other, or both.
    assert row["bias_lower"] == pytest.approx(min(ends), rel=1e-4)
    assert row["bias_upper"] == pytest.approx(max(ends), rel=1e-4)


def test_residuals_are_a_table_with_places_units_and_folds(scene: xr.Dataset) -> None:
    folds = gb.make_folds(scene, 2, block=32)
    cv = crossed(scene, folds)
    table = cv.residuals()
    assert list(table) == ["observed", "predicted", "y", "x", "unit", "fold"]
    assert len(table) == 64 * 96
    assert table.attrs["kind"] == "scene"
    down, across = table.attrs["pixel"]
    assert down == pytest.approx(10, rel=0.01)
    row, column = (table["y"] / down).round(), (table["x"] / across).round()
    index = row.astype(int).to_numpy(), column.astype(int).to_numpy()
    np.testing.assert_array_equal(table["observed"], scene.agb.values[index])
    np.testing.assert_array_equal(table["predicted"], cv.predictions.agb.values[index])
    numbers = folds.numbers(Sample(Window(0, 0, 64, 96)))
    np.testing.assert_array_equal(table["fold"], numbers[index])
    assert set(table["unit"]) == set("012345")
    few = cv.residuals(most=300, seed=1)
    assert len(few) <= 300
    assert few.groupby("unit").size().between(20, 80).all()
    assert few.equals(cv.residuals(most=300, seed=1))
    assert not few.equals(cv.residuals(most=300, seed=2))


def test_small_units_leave_their_share_to_large_ones() -> None:
    chips = make_chips(4)
    chips["agb"][0, 2:] = np.nan  # 64 of 1,024 labels are left
    table = gb.residuals(chips[["agb"]], chips, most=1000, pixel=(10.0, 20.0))
    sizes = table.groupby("unit").size()
    assert sizes["chip000"] == 64
    assert sizes.drop("chip000").between(250, 370).all()
    assert 900 < len(table) <= 1000
    assert table.attrs == {"kind": "chips", "pixel": (10.0, 20.0)}
    assert table["y"].max() == 31 * 10
    assert table["x"].max() == 31 * 20
    assert (table["predicted"] == table["observed"]).all()


def test_intervals_come_along() -> None:
    chips = make_chips(4)
    folds = gb.make_folds(chips, 2)
    model = members(chips, 2)
    for half, member in zip((10.0, 30.0), model.models, strict=True):
        with_interval(member, half)
    cv = gb.CrossValidation(chips, model, folds, **TILES)
    table = cv.residuals()
    assert table.attrs["pixel"] == (10.0, 10.0)
    width = (table["upper"] - table["lower"]).to_numpy()
    np.testing.assert_allclose(width, np.array([20, 60])[table["fold"]], rtol=1e-5)
    within = table["observed"].between(table["lower"], table["upper"])
    scores = cv.evaluate(bootstrap=0).loc["all"]
    assert scores["coverage"] == pytest.approx(within.mean())
    assert scores["width"] == pytest.approx(40, rel=1e-5)


def test_errors_say_how_large_blocks_should_be(scene: xr.Dataset) -> None:
    cv = crossed(scene, gb.make_folds(scene, 2, block=16))
    assert "may be too small" not in repr(cv)
    suggested = cv.suggested_block
    assert suggested % 32 == 0
    assert f"smaller than the {suggested} pixels within which" in repr(cv)
    assert "buffer of 0" in cv.advice
    wide = crossed(scene, gb.make_folds(scene, 2, block=16, buffer=200))
    assert "16 pixels with a buffer of 200 are as large as the " in wide.advice
    chips = make_chips(3)
    with pytest.raises(gb.CubeError, match="Chips are held out whole"):
        _ = crossed(chips, gb.make_folds(chips, 3)).suggested_block


@pytest.mark.slow
def test_it_trains_resumes_and_is_loaded_from_disk(tmp_path: Path) -> None:
    scene = make_scene(64, 64, months=(7,))
    settings = {**SMALL, "folder": tmp_path / "runs", "block": 32}
    cv = gb.cross_validate(scene, "quick", 2, **settings)
    assert cv.folds == gb.make_folds(scene, 2, block=32)
    assert repr(cv).startswith("CrossValidation with 2 folds of 4 blocks of 32 pixels")
    again = gb.cross_validate(scene, "quick", cv.folds, **settings)
    xr.testing.assert_identical(again.predictions.compute(), cv.predictions.compute())
    cv.model.save(tmp_path / "model")
    loaded = gb.CrossValidation(scene, gb.load(tmp_path / "model"), cv.folds)
    xr.testing.assert_identical(loaded.predictions.compute(), cv.predictions.compute())


def test_bad_input_is_one_clear_sentence(scene: xr.Dataset) -> None:
    chips = make_chips(3)
    folds = gb.make_folds(scene, 3, by="region")
    with pytest.raises(ValueError, match="one member for each fold, 3, got 2"):
        gb.CrossValidation(scene, members(scene, 2), folds)
    for said, call in (
        ("pixel must be given for chips", lambda: gb.residuals(chips, chips)),
        ("must be metres above 0", lambda: gb.residuals(chips, chips, pixel=0)),
        ("most must be a number", lambda: gb.residuals(scene, scene, most=0)),
        (
            "cube must have 'agb' to compare with, got",
            lambda: gb.residuals(scene, scene.drop_vars("agb")),
        ),
        ("map must have 'agb', got", lambda: gb.residuals(scene[["image"]], scene)),
        ("the cube's axes", lambda: gb.residuals(scene.agb[:9], scene)),
        (
            "map must be on the grid of the cube, but along 'x' it is up to 0.5 pixels",
            lambda: gb.residuals(scene.agb.assign_coords(x=scene.x + 5), scene),
        ),
        (
            "label where the map has a value, got none",
            lambda: gb.residuals(scene.agb * np.nan, scene),
        ),
    ):
        with pytest.raises(ValueError, match=said):
            call()


@pytest.mark.slow
def test_an_interval_is_calibrated_on_the_other_folds() -> None:
    scene = make_scene(128, 128, months=(7,))
    folds = gb.make_folds(scene, 2, block=32, buffer=2)
    settings = {**SMALL, "block": 32, "interval": 0.8, "validation_fraction": 0.2}
    cv = gb.cross_validate(scene, "quick", folds, **settings)
    assert set(cv.predictions) == {"agb", "agb_lower", "agb_upper"}
    expected = cv.predictions.compute()
    scores = cv.evaluate(bootstrap=0)
    inside = (expected.agb_lower <= scene.agb) & (scene.agb <= expected.agb_upper)
    assert scores.loc["all", "coverage"] == pytest.approx(float(inside.mean()))
    # The interval of fold 0 does not depend on the labels of fold 0.
    numbers = folds.numbers(Sample(Window(0, 0, 128, 128)))
    other = scene.assign(agb=scene.agb.where(numbers != 0, scene.agb + 500))
    again = gb.CrossValidation(other, cv.model, folds).predictions.compute()
    for name in expected:
        np.testing.assert_array_equal(
            again[name].values[numbers == 0], expected[name].values[numbers == 0]
        )
    ends = again.agb_upper.values[numbers == 1]
    assert (ends != expected.agb_upper.values[numbers == 1]).any()
