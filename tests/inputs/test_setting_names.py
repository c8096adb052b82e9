"""Settings and arguments by the names that users have from elsewhere."""

from __future__ import annotations

import dataclasses
import warnings

import pytest

import geobiomass as gb
import pasture
from geobiomass.recipes.recipe import RECIPES, find_recipe
from geobiomass.training import TrainingConfig
from geobiomass.training.setting_names import (
    explain_arguments,
    other_name,
    unknown_name,
)
from pasture.recipes import find_recipe as find_pasture

GB = {
    field.name
    for kind in (gb.Recipe, TrainingConfig)
    for field in dataclasses.fields(kind)
}


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("lr", "learning_rate"),
        ("learning_rte", "learning_rate"),
        ("n_epochs", "epochs"),
        ("max_epochs", "epochs"),
        ("epoch", "epochs"),
        ("batch", "batch_size"),
        ("batchsize", "batch_size"),
        ("wd", "weight_decay"),
        ("random_state", "seed"),
        ("checkpoint_dir", "folder"),
        ("output_dir", "folder"),
        ("out", "folder"),
        ("path", "folder"),
        ("verbose", "progress"),
        ("ema", "moving_average"),
        ("device", "accelerator"),
        ("gpus", "devices"),
        ("grad_clip", "gradient_clip"),
        ("amp", "precision"),
        ("scheduler", "schedule"),
        ("min_lr", "final_learning_rate"),
        ("Learning-Rate", "learning_rate"),
        ("LR", "learning_rate"),
    ],
)
def test_settings_by_other_names(typed, meant) -> None:
    for find in (find_recipe, find_pasture):
        with pytest.raises(
            ValueError, match=f"is not a setting.*mean.*{meant}"
        ) as told:
            find("quick", **{typed: 1})
        assert "All are listed by help(" in str(told.value)


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("backbone", "encoder"),
        ("tile", "crop"),
        ("patch_size", "crop"),
        ("tile_size", "crop"),
    ],
)
def test_settings_of_a_forest_by_other_names(typed, meant) -> None:
    with pytest.raises(ValueError, match=f"did you mean {meant}"):
        gb.fit(None, **{typed: 1})  # type: ignore[call-overload]


@pytest.mark.parametrize(
    ("typed", "meant"),
    [("encoder", "backbone"), ("img_height", "height"), ("tta", "flips")],
)
def test_settings_of_pasture_by_other_names(typed, meant) -> None:
    with pytest.raises(ValueError, match=f"did you mean.*{meant}"):
        find_pasture("quick", **{typed: 1})


def test_a_name_like_no_other_lists_all() -> None:
    with pytest.raises(
        ValueError, match="'xyzzy' is not a setting of a recipe, which"
    ) as told:
        find_recipe("quick", xyzzy=1)
    for name in GB:
        assert name in str(told.value)


@pytest.mark.parametrize("find", [find_recipe, find_pasture])
def test_recipes_that_are_near(find) -> None:
    with pytest.raises(ValueError, match=r"one of .*[Dd]id you mean '?quick"):
        find("quik")
    assert RECIPES


@pytest.mark.parametrize(
    ("call", "kind", "meant"),
    [
        (lambda: gb.totals(None, None, value_column="agb"), "totals", "column"),
        (lambda: gb.totals(None, None, stratification="a"), "totals", "strata"),
        (lambda: gb.with_labels(None, None, field="agb"), "with_labels", "column"),
        (lambda: gb.landscape(64, random_state=1), "landscape", "seed"),
        (lambda: pasture.read_photos("a.csv", image_dir="."), "read_photos", "root"),
        (lambda: pasture.read_photos("a.csv", labels=("a",)), "read_photos", "targets"),
        (lambda: pasture.balanced_folds(None, k=5), "balanced_folds", "n_splits"),
        (lambda: pasture.balanced_folds(None, folds=5), "balanced_folds", "n_splits"),
        (
            lambda: pasture.PastureRegressor.predict(None, "a", tta=1),
            "predict",
            "flips",
        ),
    ],
)
def test_arguments_by_the_name_of_a_sister_function(call, kind, meant) -> None:
    told = f"is not an argument of {kind}; did you mean.*{meant}.* Its arguments are"
    with pytest.raises(TypeError, match=told):
        call()


@pytest.mark.parametrize(
    ("method", "typed", "meant"),
    [
        ("predict", "tile_size", "tile"),
        ("predict", "tta", "flips"),
        ("predict", "bbox", "region"),
        ("predict_to", "force", "overwrite"),
    ],
)
def test_settings_of_a_map_by_other_names(method, typed, meant) -> None:
    with pytest.raises(TypeError, match=f"{typed}.*did you mean '{meant}'"):
        getattr(gb.BiomassRegressor, method)(None, None, **{typed: 1})


def test_other_names_lead_to_one_that_is_there() -> None:
    assert other_name("lr", {"learning_rate", "epochs"}) == "learning_rate"
    assert other_name("lr", {"epochs"}) is None
    assert other_name("epochs", {"epochs"}) is None
    text = unknown_name("abc", ["a", "b"], "a letter", "See the alphabet.")
    assert text == "'abc' is not a letter, which are a, b. See the alphabet."


def test_warnings_are_of_the_callers_line() -> None:
    @explain_arguments
    def warns(value: int) -> int:
        warnings.warn("told", stacklevel=2)
        return value

    with pytest.warns(UserWarning, match="told") as noted:
        assert warns(value=3) == 3
    assert noted[0].filename == __file__
