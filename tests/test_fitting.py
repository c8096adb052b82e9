"""gb.fit: stages, one reader, resuming, the plan, folds, months in another order."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from conftest import make_chips
from variants import variants

import geobiomass as gb
from geobiomass.data import labelled_cube
from geobiomass.data.reader import Reader
from geobiomass.data.splits import hold_out
from geobiomass.recipes.band_facts import sensor_passes
from geobiomass.recipes.recipe import RECIPES
from geobiomass.recipes.schedule import TrainingPlan
from geobiomass.tiles import Sample, Window
from geobiomass.training import average_weights

SMALL: dict[str, Any] = {
    "encoder": "test_resnet",
    "decoder_channels": (8, 8, 8, 8, 8),
    "batch_size": 2,
    "progress": False,
    "epochs": 2,
}

# The fewest steps that pass through everything that a fit does.
FEW_STEPS = SMALL | {"crop": None, "epochs": 1}


def weights(model: Any) -> list[torch.Tensor]:
    return list(model.network.state_dict().values())


def same(one: Any, other: Any) -> bool:
    pairs = zip(weights(one), weights(other), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


class Killed(BaseException):
    pass


# --- stages ---


def test_the_winners_recipe_has_four_stages() -> None:
    recipe = RECIPES["biomassters"]
    plan = [(s.name, s.epochs, s.everything) for s in recipe.stages]
    assert recipe.training.epochs == 800
    assert plan == [
        ("cool-down", 100, False),
        ("all-chips", 100, True),
        ("all-chips-again", 100, True),
    ]
    assert {s.learning_rate for s in recipe.stages} == {1e-4}
    assert {s.final_learning_rate for s in recipe.stages} == {5e-5}
    assert (recipe.training.learning_rate, recipe.training.final_learning_rate) == (
        1e-3,
        1e-4,
    )
    assert (recipe.folds, recipe.rotation, recipe.month_dropout) == (10, 0.7, 0.5)
    # Another length keeps the proportions.
    assert [s.epochs for s in recipe.with_changes(epochs=80).stages] == [10, 10, 10]


class Reads:
    """Counts the blocks of a cube that are read, and may stop at one."""

    def __init__(self, chips: xr.Dataset, last: float = np.inf) -> None:
        self.count, self.last = 0, last
        lazy = chips.chunk({"chip": 1})
        image = lazy["image"].copy(data=lazy["image"].data.map_blocks(self.record))
        self.cube = lazy.assign(image=image)

    def record(self, block: np.ndarray) -> np.ndarray:
        self.count += 1
        if self.count > self.last:
            raise Killed
        return block


RESUMABLE = {"cache": 0, "checkpoint_minutes": 0, "moving_average": 0.9, "keep_last": 2}


@pytest.mark.parametrize(
    ("recipe", "shares"), [("default", (0.5, 0.8)), ("biomassters", (0.8,))]
)
@pytest.mark.slow
def test_recipes_resume_where_they_stopped(
    tmp_path: Path, recipe: str, shares: tuple[float, ...]
) -> None:
    settings = SMALL | RESUMABLE | {"epochs": 4 if recipe == "default" else 2}
    calm = Reads(make_chips(5))
    whole = gb.fit(calm.cube, recipe, **settings, folder=tmp_path / "whole")
    for share in shares:
        folder = tmp_path / str(share)
        halted = Reads(make_chips(5), share * calm.count)
        with pytest.raises(Killed):
            gb.fit(halted.cube, recipe, **settings, folder=folder)
        assert list(folder.rglob("last.ckpt"))
        rest = Reads(make_chips(5))
        resumed = gb.fit(rest.cube, recipe, **settings, folder=folder)
        assert rest.count < calm.count
        assert same(resumed, whole)
        assert resumed.history.drop(columns="seconds").equals(
            whole.history.drop(columns="seconds")
        )
        assert average_of_kept(folder, recipe) == average_of_kept(
            tmp_path / "whole", recipe
        )


def average_of_kept(folder: Path, recipe: str) -> dict[str, bytes]:
    """Average the weights of the epochs that the last stage keeps, two at least."""
    last = folder / "3-all-chips" if recipe == "biomassters" else folder
    averaged = average_weights(sorted(last.glob("epoch-*.safetensors")))
    return {name: value.numpy().tobytes() for name, value in averaged.items()}


@pytest.mark.slow
def test_the_winners_stages_hold_out_and_then_take_all() -> None:
    plans: list[TrainingPlan] = []
    model = gb.fit(make_chips(5), "biomassters", **SMALL, announce=plans.append)
    assert model.history.stage.tolist() == (
        ["long"] * 2 + ["cool-down", "all-chips", "all-chips-again"]
    )
    assert [stage.held_out for stage in plans[0].stages] == [1, 1, 0, 0]
    assert [stage.samples for stage in plans[0].stages] == [4, 4, 5, 5]
    assert model.history.validation_loss.isna().tolist() == [False] * 3 + [True] * 2
    # The last weights have seen all data: nothing is left to validate on.
    assert model.provenance["validation"] is None
    assert model.provenance["data"]["training"]["places"] == 5
    assert "the last stages trained on what" in model._card()


@pytest.mark.slow
def test_a_model_of_several_stages_is_saved_with_them(tmp_path: Path) -> None:
    model = gb.fit(make_chips(3), "biomassters", **SMALL)
    model.save(tmp_path / "model")
    loaded = gb.load(tmp_path / "model")
    assert loaded.recipe == model.recipe
    assert same(loaded, model)


# --- a fit goes forward: the cube is opened once ---


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Count how often a cube is opened to be read, and how often it is checked."""
    counts = [0, 0]
    build, check = Reader.__init__, labelled_cube.need_target

    def building(self: Reader, *given: Any) -> None:
        counts[0] += 1
        build(self, *given)

    def checking(cube: Any, *needed: Any) -> xr.Dataset:
        counts[1] += 1
        return check(cube, *needed)

    monkeypatch.setattr(Reader, "__init__", building)
    monkeypatch.setattr(labelled_cube, "need_target", checking)
    return counts


@variants(
    "given",
    [
        {"validation": ["chip001"]},
        {"interval": 0.5, "folder": True, "announce": True},
        {},
        {"interval": 0.5, "validation": 0.25},
        {"folder": True},
        {"announce": True},
    ],
    quick=2,
)
def test_a_fit_opens_its_cube_once(
    opened: list[int], tmp_path: Path, given: dict[str, Any]
) -> None:
    said: list[TrainingPlan] = []
    kinds = {"folder": tmp_path, "announce": said.append}
    given = {name: kinds.get(name, value) for name, value in given.items()}
    model = gb.fit(make_chips(8), "quick", **FEW_STEPS, **given)
    assert opened == [1, 1]
    assert np.isfinite(model.history.validation_loss).all()
    assert (model.calibration is not None) == ("interval" in given)
    assert len(said) == ("announce" in given)


@pytest.mark.slow
def test_a_fit_opens_a_validation_cube_once_as_well(opened: list[int]) -> None:
    chips = make_chips(6)
    first, second = chips.isel(chip=slice(4)), chips.isel(chip=slice(4, 6))
    gb.fit(first, "quick", second, **FEW_STEPS)
    assert opened == [2, 2]
    # So does a model that is trained further, and one that only plans.
    model = gb.fit(first, "quick", **FEW_STEPS)
    opened[:] = [0, 0]
    model.fit(first, "quick", second, **FEW_STEPS)
    assert opened == [2, 2]
    model.plan_fit(first, RECIPES["quick"].with_changes(**FEW_STEPS), second)
    assert opened == [4, 4]


@pytest.mark.parametrize("of_folds", [True, False])
@pytest.mark.slow
def test_all_members_of_a_fit_in_folds_share_one_reader(
    opened: list[int], tmp_path: Path, of_folds: bool
) -> None:
    chips = make_chips(6)
    folds = gb.make_folds(chips, 2) if of_folds else 2
    opened[:] = [0, 0]
    given = FEW_STEPS | {"interval": 0.5, "folder": tmp_path, "announce": str}
    model = gb.fit(chips, "quick", folds=folds, **given)
    assert len(model.models) == 2
    assert model.calibration is not None
    assert opened == [1, 1]
    # Again: the finished members are read, and the cube is still opened once.
    gb.fit(chips, "quick", folds=folds, **given)
    assert opened == [2, 2]


# --- another training in the same folder ---


CONTINUED = SMALL | {
    "crop": None,
    "cache": 0,
    "epochs": 1,
    "schedule": "constant",
    "warmup_epochs": 0.0,
}


def greener(chips: xr.Dataset) -> xr.Dataset:
    return chips.assign(image=chips["image"] + 1)


def more_biomass(chips: xr.Dataset) -> xr.Dataset:
    return chips.assign(agb=chips["agb"] + 1)


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("begun")
    with one_thread():
        gb.fit(make_chips(8), "quick", **CONTINUED, folder=folder)
    return folder


@contextmanager
def one_thread() -> Iterator[None]:
    """Use one thread: with two, sums may be split differently, to other last bits."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"loss": "mse"}, "loss was 'chip_rmse' and is 'mse'"),
        ({"huber_delta": 5.0}, r"huber_delta was 100\.0 and is 5\.0"),
        ({"interval": 0.8}, r"interval was None and is 0\.8"),
        ({"turns": False}, "turns was True and is False"),
        ({"month_dropout": 0.1}, r"month_dropout was 0\.0 and is 0\.1"),
        ({"crop": 16}, "crop was None and is 16"),
        ({"encoder": "resnet18"}, "encoder was 'test_resnet' and is 'resnet18'"),
        ({"seed": 1}, "seed was 0 and is 1"),
        ({"epochs": 2, "schedule": "cosine"}, "schedule was 'constant' and is 'cosine"),
        ({"validation": 0.3}, r"held out was '0\.1 of the data' and is '0\.3 of the"),
        ({"validation": ["chip000"]}, r"and is '1 chips \("),
        (
            {"change": more_biomass},
            r"data was '8 chips of 32 x 32 pixels \(.* and is '8",
        ),
        (
            {"change": lambda c: c.isel(chip=slice(7))},
            "data was '8 chips.* is '7 chips",
        ),
    ],
)
def test_another_training_in_the_folder_is_an_error_at_once(
    begun: Path, change: dict[str, Any], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measure(*given: Any) -> None:
        raise AssertionError("measured before it was refused")

    monkeypatch.setattr("geobiomass.recipes.datasets.measure_statistics", measure)
    change = dict(change)
    reads = Reads(change.pop("change", lambda chips: chips)(make_chips(8)))
    made = reads.count
    before = {file: file.read_bytes() for file in begun.iterdir()}
    advice = r"\. Give another folder, or resume=False to start again, which removes"
    with pytest.raises(ValueError, match=f"{said}.*{advice}") as caught:
        gb.fit(reads.cube, "quick", **CONTINUED | {"folder": begun} | change)
    assert str(begun) in str(caught.value)
    assert reads.count == made  # no image
    assert {file: file.read_bytes() for file in begun.iterdir()} == before


@pytest.mark.slow
def test_another_training_is_an_error_before_the_cache_is_filled(begun: Path) -> None:
    reads = Reads(make_chips(8))
    made = reads.count
    settings = CONTINUED | {"folder": begun, "cache": 2**30}
    with pytest.raises(ValueError, match="loss was 'chip_rmse' and is 'mse'"):
        gb.fit(reads.cube, "quick", **settings | {"loss": "mse"})
    assert reads.count == made
    # Without an error the cache reads the cube.
    gb.fit(reads.cube, "quick", **settings)
    assert reads.count >= made + 8


@pytest.mark.slow
def test_an_error_of_the_last_member_comes_before_the_first_is_planned(
    tmp_path: Path,
) -> None:
    reads, announced = Reads(make_chips(8)), list[Any]()
    made = reads.count
    settings = CONTINUED | {"cache": 2**30}
    second = {"validation_fraction": 0.5, "fold": 1, "folder": tmp_path / "member-2"}
    gb.fit(make_chips(8), "quick", **settings | second, loss="mse")
    whole = settings | {"folder": tmp_path, "announce": announced.append}
    with pytest.raises(ValueError, match=r"member-2.*loss was 'mse' and is"):
        gb.fit(reads.cube, "quick", folds=2, **whole)
    assert (reads.count, announced) == (made, [])
    assert not (tmp_path / "member-1").exists()
    gb.fit(reads.cube, "quick", folds=2, **whole, loss="mse")
    assert len(announced) == 1


@pytest.mark.slow
def test_other_images_are_other_data_in_every_form(begun: Path, tmp_path: Path) -> None:
    settings = CONTINUED | {"folder": begun}
    with pytest.raises(ValueError, match=r"images in memory was '[0-9a-f]{12}' and is"):
        gb.fit(greener(make_chips(8)), "quick", **settings)
    # The same data in another form is the same.
    bare = {name: v for name, v in settings.items() if name != "folder"}
    for name, chips in (("one", make_chips(8)), ("other", greener(make_chips(8)))):
        gb.write_cube(chips, tmp_path / name, dtype="float32")
        cube = gb.open_cube(tmp_path / name)
        if name == "one":
            known = gb.fit(make_chips(8), "quick", **settings)
            assert same(gb.fit(cube, "quick", **settings), known)
            gb.fit(cube, "quick", **bare, folder=tmp_path / "run")
            continue
        with pytest.raises(ValueError, match=r"images on disk was '[0-9a-f]{12}' and"):
            gb.fit(cube, "quick", **bare, folder=tmp_path / "run")


@pytest.mark.slow
def test_the_calibration_of_another_training_is_not_continued(
    tmp_path: Path,
) -> None:
    given = CONTINUED | {"folder": tmp_path, "interval": 0.8}
    model = gb.fit(make_chips(9), "quick", **given)
    with pytest.raises(ValueError, match=r"calibration_fraction was 0\.2 and is 0\.5"):
        gb.fit(make_chips(9), "quick", **given, calibration_fraction=0.5)
    again = gb.fit(make_chips(9), "quick", **given)
    assert again.calibration == model.calibration
    assert same(again, model)


@pytest.mark.slow  # law 7 is quick
def test_a_training_resumes_with_another_memory_or_for_longer(
    begun: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(begun, folder)
    settings = CONTINUED | {"epochs": 2}
    other = {"cache": 2**30, "read_ahead": 2**20, "damaged": "skip", "domain_cells": 9}
    with one_thread():
        whole = gb.fit(make_chips(8), "quick", **settings)
        longer = gb.fit(make_chips(8), "quick", **settings | other, folder=folder)
    assert same(longer, whole)
    assert len(longer.history) == 2
    restarted = gb.fit(
        make_chips(8),
        "quick",
        **CONTINUED | {"loss": "mse"},
        folder=folder,
        resume=False,
    )
    assert len(restarted.history) == 1


# --- the plan ---


@pytest.mark.slow
def test_the_plan_has_stages_steps_and_hours_and_changes_nothing() -> None:
    chips, said = make_chips(5), []
    planned = gb.fit(chips, "biomassters", **SMALL, announce=said.append)
    (plan,) = said
    assert plan.steps == 2 * 2 + 2 + 3 + 3
    assert plan.hours == pytest.approx(plan.steps * plan.seconds_a_step / 3600)
    text = str(plan).splitlines()
    assert len(text) == 6
    assert text[1].split()[:5] == ["long", "2", "4", "1", "4"]
    assert text[-1].startswith("12 steps of about ")
    assert same(planned, gb.fit(chips, "biomassters", **SMALL))


# --- folds ---


@pytest.mark.parametrize("count", [5, 12, 13])
@pytest.mark.parametrize("folds", [2, 5])
def test_folds_share_nothing_and_are_all_together(count: int, folds: int) -> None:
    samples = [Sample(Window(0, 0, 8, 8), chip) for chip in range(count)]
    held = []
    for fold in range(folds):
        training, validation = hold_out(samples, 1 / folds, 3, fold=fold)
        assert sorted(p.chip for p in training + validation) == list(range(count))
        held += [p.chip for p in validation]
        assert abs(len(validation) - count / folds) < 1
    assert sorted(held) == list(range(count))


def test_folds_of_groups_keep_them_together() -> None:
    samples = [Sample(Window(0, 0, 8, 8), chip) for chip in range(12)]
    groups = [f"flight {chip // 3}" for chip in range(12)]
    some = hold_out(samples, 1 / 4, 0, groups, least_groups=3)
    assert len({p.chip // 3 for p in some[1] if p.chip is not None}) == 3
    assert len(some[1]) == 9
    held = [hold_out(samples, 1 / 4, 0, groups, fold=fold)[1] for fold in range(4)]
    assert all(len({p.chip // 3 for p in part}) == 1 for part in held)
    assert sorted(p.chip for part in held for p in part) == list(range(12))
    with pytest.raises(gb.CubeError, match="ask for fewer folds"):
        hold_out(samples, 1 / 9, 0, groups, fold=8)


@pytest.mark.slow
def test_folds_are_members_that_map_as_one(tmp_path: Path) -> None:
    chips = make_chips(4)
    settings = SMALL | {"crop": None, "epochs": 1, "folder": tmp_path}
    model = gb.fit(chips, "quick", folds=2, **settings)
    assert isinstance(model, gb.Ensemble)
    assert [m.recipe.fold for m in model.models] == [0, 1]
    assert not same(*model.models)
    assert sorted(f.name for f in tmp_path.iterdir()) == ["member-1", "member-2"]
    # The mean of the networks' maps comes first, the floor then: less bias than the
    # mean of maps that are raised to the floor each.
    raised = model.predict(chips, 32, 0).agb.values
    assert raised.min() >= 0
    for one in (*model.models, model):
        one.floor = None
    maps = [m.predict(chips, 32, 0).agb.values for m in model.models]
    mean = np.mean(maps, axis=0)
    np.testing.assert_allclose(model.predict(chips, 32, 0).agb, mean, rtol=1e-5)
    np.testing.assert_allclose(raised, np.maximum(mean, 0), rtol=1e-5)
    # Again: both are read, nothing is trained.
    again = gb.fit(chips, "quick", folds=2, **settings)
    assert same(again, model)
    assert all(len(m.history) == 1 for m in again.models)


@pytest.mark.slow
def test_folds_side_by_side_are_the_same() -> None:
    chips = make_chips(4)
    settings = SMALL | {"crop": None, "epochs": 1}
    one = gb.fit(chips, "quick", folds=2, **settings)
    assert same(one, gb.fit(chips, "quick", folds=2, at_once=2, **settings))


# --- months ---


@pytest.mark.slow
def test_the_order_of_months_does_not_matter_only_their_names(tmp_path: Path) -> None:
    chips = make_chips(4)
    settings = SMALL | {"month_term": True, "missing": "validity", "crop": None}
    model = gb.fit(chips, "quick", validation=0, **settings)
    assert model.network.calendar == tuple(chips.month.values)
    expected = model.predict(chips, 32, 0).agb
    backwards = chips.isel(month=slice(None, None, -1))
    np.testing.assert_allclose(
        model.predict(backwards, 32, 0).agb, expected, rtol=1e-4, atol=1e-3
    )
    renamed = chips.assign_coords(month=(chips.month + 5) % 12 + 1)
    assert abs(model.predict(renamed, 32, 0).agb - expected).max() > 1e-4
    both = gb.Ensemble([model, model])
    np.testing.assert_allclose(
        both.predict(renamed, 32, 0).agb, model.predict(renamed, 32, 0).agb, rtol=1e-5
    )
    model.save(tmp_path / "model")
    again = gb.load(tmp_path / "model").predict(renamed, 32, 0).agb
    np.testing.assert_array_equal(again, model.predict(renamed, 32, 0).agb)


@pytest.mark.slow
def test_a_validation_cube_may_have_other_months() -> None:
    chips = make_chips(4)
    other = make_chips(6).isel(chip=slice(4, 6), month=slice(0, 2))
    settings = SMALL | {"month_term": True, "crop": None}
    model = gb.fit(chips, "quick", validation=other, **settings)
    assert np.isfinite(model.history.validation_loss).all()


@pytest.mark.slow
def test_dropout_of_passes_and_patterns_changes_the_weights() -> None:
    # September to November: in three of the six patterns some of them are left out.
    chips = make_chips(4)
    chips = chips.assign_coords(month=[9, 10, 11][: chips.sizes["month"]])
    plain = gb.fit(chips, "quick", **SMALL, crop=None)
    for change in ({"pattern_dropout": 1.0}, {"pass_dropout": 1.0}, {"rotation": 1.0}):
        assert not same(plain, gb.fit(chips, "quick", **SMALL, crop=None, **change))


def test_which_bands_are_missing_together() -> None:
    bands = ("VV_asc", "VH_asc", "VV_desc", "VH_desc", "B02", "CLP")
    assert sensor_passes(bands) == (1, 1, 2, 2, 0, 0)
    assert sensor_passes(("VV_desc", "height")) == (1, 0)


# --- bad input ---


def bad_fits() -> list[tuple[str, Any]]:
    chips: xr.Dataset = make_chips(3)
    return [
        ("folds must be 2 or more, got 1", lambda: gb.fit(chips, folds=1)),
        ("folds=4 needs as many chips.* got 3", lambda: gb.fit(chips, folds=4)),
        (
            "validation must be left out where folds",
            lambda: gb.fit(chips, validation=0.5, folds=2),  # type: ignore[call-overload]
        ),
        (
            "at_once must be 1 or more.* got 0",
            lambda: gb.fit(chips, folds=2, at_once=0),
        ),
        ("rotation must be from 0 to 1, got 2", lambda: gb.fit(chips, rotation=2)),
        ("missing must be one of", lambda: gb.fit(chips, missing="mean")),
        ("huber_delta must be above 0", lambda: gb.fit(chips, huber_delta=0)),
        ("fold must be from 0 to 9.* got 10", lambda: gb.fit(chips, fold=10)),
        ("No chips|no 'agb'", lambda: gb.fit(chips.drop_vars("agb"), folds=2)),
    ]


@pytest.mark.parametrize(("said", "call"), bad_fits())
def test_bad_input_is_one_clear_sentence(said: str, call: Any) -> None:
    with pytest.raises(ValueError, match=said):
        call()


def test_a_recipe_is_its_settings() -> None:
    recipe = RECIPES["default"].with_changes(fold=1, validation_fraction=0.2)
    assert (recipe.fold, recipe.folds) == (1, 5)
    assert dataclasses.replace(recipe, validation_fraction=0.0, fold=0).folds == 1
