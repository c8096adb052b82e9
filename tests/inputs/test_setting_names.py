"""Settings and arguments by the names that users have from elsewhere."""

from __future__ import annotations

import dataclasses
import inspect
import warnings
from typing import Any

import pytest

import geobiomass as gb
import pasture
from geobiomass.cli import main
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
    [
        ("cv", "folds"),
        ("val", "validation"),
        ("encoder", "backbone"),
        ("img_height", "height"),
        ("tta", "flips"),
    ],
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
    with pytest.raises(TypeError, match=f"{typed}.*did you mean {meant}"):
        getattr(gb.BiomassRegressor, method)(None, None, **{typed: 1})


FACES = (gb, gb.plots, gb.labels, gb.accounting, pasture)


def public_calls() -> dict[str, Any]:
    """Return all public functions and methods by name, as classes define them."""
    found: dict[str, Any] = {}
    for face in FACES:
        for name in face.__all__:
            thing = getattr(face, name)
            if inspect.isfunction(thing):
                found[f"{face.__name__}.{name}"] = thing
            # A named tuple is what a function returns; nobody calls it.
            if not inspect.isclass(thing) or issubclass(thing, Exception | tuple):
                continue
            for method in [name for name in dir(thing) if not name.startswith("_")]:
                own = getattr(thing, method)
                if inspect.isfunction(own) or inspect.ismethod(own):
                    found[f"{face.__name__}.{name}.{method}"] = own
            found[f"{face.__name__}.{name}.__init__"] = thing.__init__
    return found


# Their further arguments are settings of another function, which explains them.
PASSED_ON = {"fit", "adapt", "cross_validate", "with_changes", "write_report"}
PASSED_ON |= {"change_totals", "variogram", "from_pretrained", "push_to_hub"}
PASSED_ON |= {"save_pretrained", "CrossValidation.__init__"}
PASSED_ON |= {"write_dossier", "sensitivity", "audit"}
PASSED_ON |= {"with_static"}  # whose further arguments are names of layers


def test_every_public_function_names_the_argument_that_is_meant() -> None:
    calls = public_calls()
    assert len(calls) > 100
    for label, call in calls.items():
        names = [*inspect.signature(call).parameters]
        own = [name for name in names if name not in ("self", "cls")]
        kinds = {one.kind.name for one in inspect.signature(call).parameters.values()}
        if "VAR_KEYWORD" in kinds:
            assert any(label.endswith(f".{name}") for name in PASSED_ON), label
            continue
        with pytest.raises(TypeError, match="'xyzzy' is not an argument of") as told:
            call(xyzzy=1)
        for name in own:
            assert name in str(told.value), label
        for name in own[:2]:  # a slip of the finger
            typed = f"{name}s" if name != "x" else name
            if typed not in own:
                with pytest.raises(TypeError, match=f"did you mean.*{name}"):
                    call(**{typed: 1})


@pytest.mark.parametrize(
    ("call", "typed", "meant"),
    [
        (gb.fit, "n_splits", "folds"),
        (gb.fit, "n_jobs", "at_once"),
        (gb.open_cube, "folder", "path"),
        (gb.load, "path", "folder"),
        (pasture.load, "path", "folder"),
        (gb.write_cube, "folder", "path"),
        (gb.write_cube, "n_jobs", "workers"),
        (gb.BiomassRegressor.save, "path", "folder"),
        (gb.BiomassRegressor.predict_to, "folder", "path"),
        (gb.BiomassRegressor.predict_chips_to, "path", "folder"),
        (gb.BiomassRegressor.calibrate, "confidence", "interval"),
        (gb.Ensemble, "members", "models"),
        (pasture.PastureEnsemble, "models", "members"),
        (gb.totals, "maps", "map"),
        (gb.totals, "region", "regions"),
        (gb.totals, "confidence_level", "confidence"),
        (gb.totals, "labels", "plots"),
        (gb.totals, "strata_column", "strata"),
        (gb.change, "maps", "first"),
        (gb.change_totals, "region", "regions"),
        (gb.residuals, "random_state", "seed"),
        (gb.as_cube, "months", "month"),
        (gb.as_cube, "fill_value", "nodata"),
        (gb.from_rasters, "month", "months"),
        (gb.from_rasters, "label_nodata", "agb_nodata"),
        (gb.from_rasters, "region", "bounds"),
        (gb.from_stac, "aoi", "bounds"),
        (gb.from_biomassters, "path", "root"),
        (gb.with_labels, "plots", "labels"),
        (gb.with_labels, "value_column", "column"),
        (gb.make_folds, "n_splits", "count"),
        (gb.make_folds, "tile", "block"),
        (gb.write_stac_item, "map", "map_path"),
        (gb.plots.history, "regressor", "model"),
        (gb.plots.scatter, "y_true", "observed"),
        (gb.plots.biomass, "map", "values"),
        (gb.plots.months, "ncols", "columns"),
        (pasture.balanced_folds, "count", "n_splits"),
        (pasture.fold_balance, "table", "photos"),
        (pasture.read_photos, "folder", "root"),
        (pasture.score, "y_pred", "predicted"),
        (pasture.write_submission, "file", "path"),
    ],
)
def test_arguments_of_sister_functions(call, typed, meant) -> None:
    needed = [
        one
        for one in inspect.signature(call).parameters.values()
        if one.default is one.empty and one.kind is one.POSITIONAL_OR_KEYWORD
    ]
    given = [None for one in needed if one.name not in (meant, typed)]
    with pytest.raises((TypeError, ValueError), match=rf"mean.*\b{meant}\b.*\?"):
        call(*given, **{typed: 1})


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (["train", "a.zarr", "b", "--n-splits", "3"], "--folds"),
        (["train", "a.zarr", "b", "--lr", "3"], "--set lr=..."),
        (["train", "a.zarr", "b", "--gpus", "3"], "--devices"),
        (["predict", "a", "b", "c", "--bbox", "3"], "--region"),
        (["predict", "a", "b", "c", "--tile-size", "3"], "--tile"),
        (["totals", "a", "b", "--confidence-level", "3"], "--confidence"),
    ],
)
def test_options_by_other_names(words, meant, monkeypatch, capsys) -> None:
    monkeypatch.setattr("sys.argv", ["geobiomass", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert meant in " ".join(capsys.readouterr().err.replace("│", "").split())


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
