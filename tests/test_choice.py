"""gb.fit(cube) without a recipe: learners are compared, and one of them is kept."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dask.array
import numpy as np
import pytest
import xarray as xr

import geobiomass as gb
from geobiomass.data.labelled_cube import LabelledCube
from geobiomass.learner.references import mean_out_of_fold, ridge_out_of_fold
from geobiomass.models import (
    choice,
    choice_data,
    choice_network,
    choice_verdict,
    compare_learners,
)
from geobiomass.models.choice_record import minutes_for, read_held_out
from geobiomass.models.pixel_regressor import PixelRegressor
from geobiomass.recipes.asked import asked_recipe
from geobiomass.recipes.recipe import RECIPES, Recipe
from geobiomass.statistics.paired_errors import (
    Compared,
    compare_errors,
    simplest_of_best,
)
from geobiomass.tiles import Sample, Window

BANDS = ("VV_asc", "VH_asc", "B04", "B08")
CALL: dict[str, Any] = {"block": 32, "progress": False}
TINY: dict[str, Any] = {
    "name": "sparse",
    "encoder": "test_resnet",
    "decoder_channels": (8, 8, 8, 8, 8),
    "epochs": 1,
    "crop": 32,
}


def landscape() -> xr.Dataset:
    """96 x 96 pixels of a synthetic landscape, all labelled."""
    return gb.landscape(96, months=3, seed=0, version=1).sel(band=list(BANDS)).load()


def plots(cube: xr.Dataset, count: int = 90, seed: int = 0) -> xr.Dataset:
    """Return the cube with labels at some pixels only."""
    kept = np.zeros(cube["agb"].size, bool)
    kept[np.random.default_rng(seed).choice(kept.size, count, replace=False)] = True
    return cube.assign(agb=cube["agb"].where(kept.reshape(cube["agb"].shape)))


@pytest.fixture(scope="module")
def full() -> xr.Dataset:
    return landscape()


@pytest.fixture(scope="module")
def tiny_network() -> Iterator[Recipe]:
    """A recipe for few labels, which takes the place of the network's others."""
    patch = pytest.MonkeyPatch()
    patch.setitem(RECIPES, "sparse", RECIPES["quick"].with_changes(**TINY))
    # It learns next to nothing in one epoch, and shall be compared all the same.
    patch.setattr(compare_learners, "_WORSE", 1e9)
    yield RECIPES["sparse"]
    patch.undo()


@pytest.fixture(scope="module")
def compared(
    full: xr.Dataset, tiny_network: Recipe, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Any, Path, list[str]]:
    """A model that was chosen beside a network, its folder, what was announced."""
    folder, said = tmp_path_factory.mktemp("choice") / "run", list[str]()
    call = CALL | {"folder": folder, "minutes": 5, "interval": 0.5}
    with pytest.MonkeyPatch().context() as patch:
        # Which one is kept is arithmetic, and tested above.
        patch.setattr(choice_verdict, "simplest_of_best", lambda *_: "pixels")
        model = gb.fit(plots(full), announce=lambda p: said.append(str(p)), **call)
    return model, folder, said


# --- arithmetic ---


def test_the_standard_error_of_a_difference_is_the_jackknife_by_hand() -> None:
    errors = {"a": np.array([1.0, 2, 3, 4]), "b": np.array([2.0, 2, 1, 5])}
    found = compare_errors(errors, np.array([7, 7, 2, 5]), ["a", "b"])
    # Without groups 2, 5, 7: a has sqrt(7), sqrt(14/3), sqrt(12.5); b has sqrt(11),
    # sqrt(3), sqrt(13).
    each = np.sqrt([11, 3, 13]) - np.sqrt([7, 14 / 3, 12.5])
    by_hand = np.sqrt(2 / 3 * np.sum((each - each.mean()) ** 2))
    assert by_hand == pytest.approx(0.6354, abs=1e-4)
    assert found["b"].difference_error == pytest.approx(by_hand, rel=1e-12)
    assert found["b"].difference == pytest.approx(8.5**0.5 - 7.5**0.5)
    assert (found["a"].difference, found["a"].difference_error) == (0, 0)
    assert (found["a"].rmse, found["a"].bias) == (7.5**0.5, 2.5)
    alone = np.sqrt([7, 14 / 3, 12.5])
    spread = np.sqrt(2 / 3 * np.sum((alone - alone.mean()) ** 2))
    assert found["a"].standard_error == pytest.approx(spread)
    one = compare_errors(errors, np.zeros(4, int), ["a"])["b"]
    assert np.isnan(one.difference_error)


def test_the_simplest_that_is_not_worse_by_a_standard_error_is_kept() -> None:
    def learners(difference: float, error: float) -> dict[str, Compared]:
        return {
            "pixels": Compared(1, 0, 0, difference, error),
            "network": Compared(1, 0, 0, 0, 0),
        }

    order = ["pixels", "network"]
    assert simplest_of_best(learners(0.9, 1.0), order) == "pixels"
    assert simplest_of_best(learners(1.1, 1.0), order) == "network"
    assert simplest_of_best(learners(1.1, np.nan), order) == "pixels"


def test_references_are_those_of_scikit_learn() -> None:
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import RidgeCV
    from sklearn.preprocessing import StandardScaler

    draw = np.random.default_rng(0)
    table = draw.normal(size=(60, 5)).astype(np.float32)
    target = 3.0 + table[:, 0] - 2.0 * table[:, 1] + draw.normal(size=60)
    folds = np.arange(60) % 3
    table[::7, 2] = np.nan
    table[:, 4] = np.nan
    whole = SimpleImputer().fit(table[:, :4])
    whole.statistics_ = np.nanmedian(table[:, :4].astype(float), axis=0)
    filled = whole.transform(table[:, :4].astype(float))
    ridge, mean = np.zeros(60), np.zeros(60)
    for fold in range(3):
        held = folds == fold
        scaler = StandardScaler().fit(filled[~held])
        model = RidgeCV(np.logspace(-1, 5, 13))
        model.fit(scaler.transform(filled[~held]), target[~held])
        ridge[held] = model.predict(scaler.transform(filled[held]))
        mean[held] = target[~held].mean()
    np.testing.assert_allclose(ridge_out_of_fold(table, target, folds), ridge, 1e-6)
    np.testing.assert_allclose(mean_out_of_fold(table, target, folds), mean)


# --- few labels: by pixel alone ---


def test_few_labels_learn_by_pixel_as_if_it_had_been_named(
    full: xr.Dataset, tmp_path: Path, run: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    cube = plots(full)
    model = gb.fit(cube, block=32, seed=3)
    assert "90 labels in 9 blocks. Learns by pixel" in capsys.readouterr().err
    named = gb.fit(cube, "pixels", seed=3, **CALL)
    assert isinstance(model, PixelRegressor)
    assert model.predict(full).compute().equals(named.predict(full).compute())
    assert named.choice is None
    table = model.choice
    assert table is not None
    rows = table.set_index("learner")
    assert list(rows.index) == ["pixels", "network", "ridge", "mean"]
    blend = model.history.set_index("stage").loc["blend", "rmse"]
    assert rows.loc["pixels", "rmse"] == pytest.approx(blend, rel=0.01)  # floored
    assert rows.loc["pixels", "kept"]
    assert rows["kept"].sum() == 1
    assert rows.loc["mean", "rmse"] > rows.loc["pixels", "rmse"]
    assert rows.loc["mean", "difference_error"] > 0
    assert "minutes=" in rows.loc["network", "note"]
    assert np.isnan(rows.loc["network", "rmse"])
    model.save(tmp_path / "model")
    loaded = gb.load(tmp_path / "model")
    assert loaded.choice.equals(table)
    assert loaded.choice.attrs == table.attrs
    card = (tmp_path / "model" / "README.md").read_text()
    assert "## Choice" in card
    assert "| pixels | " in card
    code, out, _ = run("info", tmp_path / "model")
    assert code == 0
    assert "chosen among" in out
    assert "Kept: pixels." in out


def test_the_command_chooses_without_a_recipe(
    full: xr.Dataset, tmp_path: Path, run: Any
) -> None:
    gb.write_cube(plots(full, 60), tmp_path / "cube.zarr", progress=False)
    model = tmp_path / "model"
    command = ("train", tmp_path / "cube.zarr", model, "--set", "progress=False")
    code, out, err = run(*command, "--set", "block=32", "--json")
    assert code == 0
    assert "60 labels in 9 blocks" in err
    assert json.loads(out)["choice"][0]["learner"] == "pixels"
    code, out, err = run(*command, "--recipe", "quick", "--minutes", "5")
    assert code == 2
    assert "minutes is the time for a choice" in err


# --- beside a network ---


@pytest.mark.slow
def test_learners_are_compared_on_the_same_held_out_labels(
    compared: tuple[Any, Path, list[str]], full: xr.Dataset
) -> None:
    model, folder, said = compared
    assert len(said) == 1
    assert "Compares on 3 folds of these: learning by pixel" in said[0]
    rows = model.choice.set_index("learner")
    assert set(rows["labels"]) == {90}
    figures = rows[["rmse", "standard_error", "bias", "seconds"]].to_numpy(float)
    assert np.isfinite(figures).all()
    assert (rows["seconds"] > 0).all()
    assert "recipe 'sparse'" in rows.loc["network", "note"]
    assert list(rows.index) == ["pixels", "network", "stack", "ridge", "mean"]
    assert rows.loc["network", "difference"] > rows.loc["network", "difference_error"]
    assert rows.loc["pixels", "kept"]
    assert model.calibration is not None
    named = gb.fit(plots(full), "pixels", interval=0.5, **CALL)
    assert model.predict(full).compute().equals(named.predict(full).compute())
    folds = sorted(path.parent.name for path in folder.rglob("held-out.json"))
    assert folds == [f"network-fold-{number}" for number in (1, 2, 3)]
    # What the network predicts for a label is of the fold that held it out.
    parts = [json.loads(path.read_text()) for path in folder.rglob("held-out.json")]
    seen = np.array([[v is not None for v in part["values"]] for part in parts])
    assert (seen.sum(axis=0) == 1).all()


@pytest.mark.slow
def test_the_same_call_reads_what_is_finished_and_another_is_refused(
    compared: tuple[Any, Path, list[str]],
    full: xr.Dataset,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, folder, _ = compared
    call = CALL | {"folder": folder, "minutes": 5, "interval": 0.5}
    monkeypatch.setattr(compare_learners, "held_out_of_fold", None)
    monkeypatch.setattr(choice, "Comparison", None)
    again = gb.fit(plots(full), **call)
    assert again.choice.equals(model.choice)
    assert again.predict(full).compute().equals(model.predict(full).compute())
    for other, said in (
        ({"minutes": 6}, "differs in 'minutes'"),
        ({"seed": 1}, "differs in 'seed'"),
        ({"folds": 3}, "differs in 'folds'"),
        ({"minutes": None}, "differs in 'minutes'"),
    ):
        with pytest.raises(ValueError, match=said):
            gb.fit(plots(full), **call | other)
    with pytest.raises(ValueError, match="chose between learners; give another folder"):
        gb.fit(plots(full), "pixels", folder=folder, **CALL)


@pytest.mark.slow
def test_an_interrupted_choice_goes_on_and_the_network_can_be_kept(
    full: xr.Dataset,
    tiny_network: Recipe,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cube, calls = plots(full), list[int]()
    whole = compare_learners.held_out_of_fold

    def stopped(*given: Any) -> Any:
        calls.append(given[2].number)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return whole(*given)

    # The network shall be kept, whatever its error.
    monkeypatch.setattr(choice_verdict, "simplest_of_best", lambda *_: "network")
    monkeypatch.setattr(compare_learners, "held_out_of_fold", stopped)
    call = CALL | {"folder": tmp_path / "run", "minutes": 5}
    with pytest.raises(KeyboardInterrupt, match=r"epoch 1 of choice/network-fold-1"):
        gb.fit(cube, **call)
    with pytest.warns(UserWarning, match="network is no better than the mean"):
        model = gb.fit(cube, **call)
    assert calls == [0, 1, 1, 2]
    assert model.choice.set_index("learner").loc["network", "kept"]
    named = gb.fit(cube, "sparse", **CALL)
    assert model.predict(full).compute().equals(named.predict(full).compute())
    # A file that has changed is named.
    file = tmp_path / "run" / "choice" / "network-fold-1" / "held-out.json"
    file.write_text(file.read_text().replace("1", "2", 30))
    with pytest.raises(ValueError, match=r"held-out\.json has changed since"):
        read_held_out(file.parent, True)
    record = tmp_path / "run" / "choice.json"
    record.write_text(record.read_text().replace('"pixels"', '"pixel5"', 1))
    with pytest.raises(ValueError, match=r"choice\.json has changed since"):
        gb.fit(cube, **call)


def test_the_network_of_a_fold_learns_nothing_from_what_it_holds_out(
    full: xr.Dataset, tiny_network: Recipe, tmp_path: Path
) -> None:
    cube, whole = plots(full), Sample(Window(0, 0, 96, 96))
    folds = gb.make_folds(cube, 3, block=32)
    weights = []
    for factor in (1, 10):
        fold = choice_data.ComparedFold(folds, 1, lambda s: np.array(True))
        labels = cube["agb"] * np.where(fold.validates(whole), factor, 1)
        data = LabelledCube.open(cube.assign(agb=labels.assign_attrs(cube.agb.attrs)))
        recipe = tiny_network.with_changes(block=32, progress=False)
        model = choice_network.train_fold(data, recipe, fold, tmp_path / f"{factor}")
        weights.append(model.network.state_dict())
        assert model.map_error is None
    assert all(np.array_equal(a, weights[1][k]) for k, a in weights[0].items())


@pytest.mark.slow
def test_a_network_that_is_much_worse_is_given_up_after_a_fold(
    full: xr.Dataset,
    tiny_network: Recipe,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls = list[int]()

    def far_off(*given: Any) -> Any:
        calls.append(given[2].number)
        return np.where(given[4], given[3].target + 200.0, np.nan), 1.5

    monkeypatch.setattr(compare_learners, "held_out_of_fold", far_off)
    monkeypatch.setattr(compare_learners, "_WORSE", 2.0)
    model = gb.fit(plots(full), minutes=5, **CALL)
    row = model.choice.set_index("learner").loc["network"]
    assert calls == [0]
    assert "given up after the first fold" in row["note"]
    assert row["seconds"] == 1.5
    assert np.isnan(row["rmse"])


@pytest.mark.parametrize("kind", ["fold", "fraction"])
@pytest.mark.slow
def test_what_the_user_holds_out_takes_no_part(
    full: xr.Dataset,
    tiny_network: Recipe,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
) -> None:
    cube = plots(full, 120)
    held: Any = 0.3 if kind == "fraction" else gb.make_folds(cube, 3, block=32)[1]
    seen: list[Any] = []

    def spied(data: Any, recipe: Any, fold: Any, table: Any, rows: Any, *_: Any) -> Any:
        whole = Sample(Window(0, 0, 96, 96))
        seen.append((fold.trains(whole), fold.validates(whole)))
        return np.where(rows, table.target, np.nan), 0.1

    monkeypatch.setattr(compare_learners, "held_out_of_fold", spied)
    monkeypatch.setattr(choice_verdict, "simplest_of_best", lambda *_: "pixels")
    model = gb.fit(cube, validation=held, minutes=5, **CALL)
    labels = np.isfinite(cube["agb"].values)
    for trains, validates in seen:
        assert not (trains & validates).any()
    used = np.any([t | v for t, v in seen], axis=0) & labels
    assert sum(int((v & labels).sum()) for _, v in seen) == used.sum()
    assert set(model.choice["labels"]) == {int(used.sum())}
    if kind == "fold":
        whole = Sample(Window(0, 0, 96, 96))
        assert not (used & held.validates(whole)).any()
        assert (used == (labels & held.trains(whole))).all()
    else:
        out = model.provenance["data"]["validation"]["labels"]
        assert out > 0
        assert used.sum() <= 120 - out


@pytest.mark.slow
def test_a_network_that_takes_too_long_is_left_out_and_chips_of_a_pixel_have_none(
    full: xr.Dataset, tiny_network: Recipe
) -> None:
    model = gb.fit(plots(full), minutes=0.001, **CALL)
    note = model.choice.set_index("learner").loc["network", "note"]
    assert note.startswith("left out: about ")
    assert "minutes=1 compares it" in note
    labels = plots(full, 40)["agb"].values
    at = np.argwhere(np.isfinite(labels))
    chips = xr.Dataset(
        {
            "image": (
                ("chip", "month", "band", "y", "x"),
                full["image"]
                .values[:, :, at[:, 0], at[:, 1]]
                .transpose(2, 0, 1)[..., None, None],
            ),
            "agb": (("chip", "y", "x"), labels[at[:, 0], at[:, 1]][:, None, None]),
        },
        coords={
            "chip": [f"{number:02d}" for number in range(40)],
            "month": full["month"].values,
            "band": list(BANDS),
            "site": ("chip", np.arange(40) // 5),
        },
    )
    model = gb.fit(chips, groups="site", progress=False)
    rows = model.choice.set_index("learner")
    assert "images of 1 pixels are too small" in rows.loc["network", "note"]
    # The groups of the jackknife are the sites.
    assert model.provenance["choice"]["groups"] == 8


@pytest.mark.slow
def test_folds_choose_once(full: xr.Dataset, tmp_path: Path) -> None:
    cube, call = plots(full), CALL | {"folder": tmp_path / "run"}
    model = gb.fit(cube, folds=3, **call)
    named = gb.fit(cube, "pixels", folds=3, **CALL)
    assert model.predict(full).compute().equals(named.predict(full).compute())
    assert model.choice is not None
    model.save(tmp_path / "model")
    assert gb.load(tmp_path / "model").choice.equals(model.choice)
    assert "chosen among" in gb.describe(tmp_path / "model")
    assert gb.fit(cube, folds=3, **call).choice.equals(model.choice)


# --- dense labels ---


def test_dense_labels_train_the_network_as_before(
    full: xr.Dataset, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    tiny = RECIPES["default"].with_changes(**TINY | {"name": "default"})
    monkeypatch.setitem(RECIPES, "default", tiny)
    monkeypatch.setattr(choice_data, "DENSE_PIXELS", 9_000)
    said: list[str] = []
    settings = CALL | {"folder": tmp_path / "run"}
    model = gb.fit(full, announce=lambda plan: said.append(str(plan)), **settings)
    assert said[0].startswith("Labels are dense: 9,216 labelled pixels, 100 % of")
    assert "steps of about" in said[1]
    assert model.choice is None
    named = gb.fit(full, "default", **CALL)
    assert model.predict(full).compute().equals(named.predict(full).compute())
    # Labels that change from dense to few in a folder are another training.
    with pytest.raises(ValueError, match="got others: data was"):
        gb.fit(plots(full), **settings)


def test_labels_are_counted_without_images_and_only_as_far_as_needed(
    full: xr.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(block: Any) -> Any:
        raise AssertionError("an image was read")

    image = dask.array.from_array(full["image"].values, chunks=(3, 4, 32, 32))
    lazy = full.assign(image=(full["image"].dims, image.map_blocks(refuse, dtype="f4")))
    recipe = RECIPES["pixels"].with_changes(block=32)
    counted = choice_data.count_labels(LabelledCube.open(lazy), recipe, None)
    assert (counted.labels, counted.pixels, counted.units) == (9216, 9216, 9)
    assert counted.whole
    assert not counted.dense
    few = choice_data.count_labels(LabelledCube.open(plots(lazy, 7)), recipe, None)
    assert few.labels == 7
    assert few.units <= 7
    monkeypatch.setattr(choice_data, "DENSE_PIXELS", 2_000)
    monkeypatch.setattr(choice_data, "_FEW_UNITS", 3)
    part = choice_data.count_labels(LabelledCube.open(lazy), recipe, None)
    assert (part.units, part.dense, part.whole) == (3, True, False)


# --- settings and errors ---


def test_settings_say_what_is_asked_for_where_no_recipe_is_named() -> None:
    assert asked_recipe(None, None, {"seed": 1, "interval": 0.9}) is None
    assert asked_recipe("auto", 30, {"groups": "site", "progress": False}) is None
    for changes in ({"epochs": 3}, {"crop": 64}, {"keep": "last"}, {"fold": 3}):
        found = asked_recipe(None, None, changes)
        assert found == RECIPES["default"].with_changes(**changes)
    assert asked_recipe(None, None, {"trees": 30}) == RECIPES["pixels"].with_changes(
        trees=30
    )
    for recipe, minutes, changes, said in (
        ("quick", 30, {}, "nothing is chosen where the recipe is named"),
        (None, 30, {"epochs": 3}, "nothing is chosen where epochs= is of networks"),
        ("auto", 30, {"trees": 30}, "trees= is of the recipe 'pixels'"),
        ([0.3], None, {}, "recipe must be a name or a Recipe, got a list; what vali"),
        (None, 0, {}, "minutes must be a number above 0, such as 30, got 0"),
        (None, None, {"trees": 30, "epochs": 3}, "epochs is a setting of networks"),
        (None, None, {"interval": 2}, "interval must be between 0 and 1"),
        (None, None, {"intervall": 0.9}, "did you mean interval"),
    ):
        with pytest.raises(ValueError, match=said):
            asked_recipe(recipe, minutes, changes)  # type: ignore[arg-type]
    assert [minutes_for(seconds) for seconds in (20, 300, 1500, 9000)] == [
        1,
        6,
        30,
        180,
    ]


def test_labels_that_nothing_can_be_learnt_from_are_one_sentence(
    full: xr.Dataset, tmp_path: Path
) -> None:
    alike = plots(full).assign(agb=plots(full)["agb"] * 0 + 5)
    corner = full.assign(agb=full["agb"].where((full.y > full.y[9]) & (full.x < 0)))
    corner = full.assign(agb=full["agb"].copy())
    corner["agb"][10:] = np.nan
    corner["agb"][:, 10:] = np.nan
    for cube, said in (
        (plots(full, 7), "must be 10 or more, got 7"),
        (alike, "must have two values at least"),
        (corner, "must be in two blocks of a scene or more"),
    ):
        with pytest.raises(gb.CubeError, match=said):
            gb.fit(cube, minutes=100, **CALL)
    with pytest.raises(ValueError, match="folds must be 2 or more, got 1"):
        gb.fit(plots(full), folds=1)
    gb.fit(plots(full, 40), "pixels", folder=tmp_path / "named", **CALL)
    with pytest.raises(ValueError, match="has a model of the recipe 'pixels'"):
        gb.fit(plots(full, 40), folder=tmp_path / "named", **CALL)


def test_labels_that_say_nothing_are_told(full: xr.Dataset) -> None:
    cube = plots(full, 60)
    noise = np.random.default_rng(5).uniform(10, 300, cube["agb"].shape)
    cube = cube.assign(agb=xr.where(cube["agb"].notnull(), noise, np.nan))
    with pytest.warns(UserWarning, match=r"\(60\) pixels is no better than the mean"):
        gb.fit(cube, **CALL)
