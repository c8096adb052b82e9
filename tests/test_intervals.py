"""Intervals: calibration by unit and class, and a model that is trained with one."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from conftest import make_chips, make_scene
from earlier_models import without_checksums
from hypothesis import given, settings
from hypothesis import strategies as st
from variants import variants

import geobiomass as gb
from benchmarks.covered_blocks import coverage, pooled
from geobiomass.data.labelled_cube import LabelledCube
from geobiomass.inference.map_settings import MapSettings
from geobiomass.models.calibration import CLASSES, compare_units, units_of
from geobiomass.network import AttentionUNet
from geobiomass.recipes.datasets import make_loaders
from geobiomass.recipes.recipe import find_recipe
from geobiomass.statistics import conformal_quantile
from geobiomass.statistics.conformal import Calibration, calibrate
from geobiomass.statistics.conformal_quantile import needed_units, threshold
from geobiomass.statistics.conformal_units import Unit
from geobiomass.training.losses import pinball_loss
from geobiomass.training.metrics import AverageRMSE, average_rmse

SMALL: dict[str, Any] = {
    "encoder": "test_resnet",
    "decoder_channels": (8, 8, 8, 8, 8),
    "batch_size": 4,
    "crop": 32,
    "progress": False,
    "epochs": 1,
}
LAYERS = ["agb", "agb_lower", "agb_upper"]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def model() -> gb.BiomassRegressor:
    return gb.fit(make_chips(20), "quick", interval=0.8, **SMALL)


def untrained(
    outputs: tuple[str, ...] = ("agb",), seed: int = 0
) -> gb.BiomassRegressor:
    torch.manual_seed(seed)
    network = AttentionUNet(3, "test_resnet", (8, 8, 8, 8, 8), outputs=len(outputs))
    network.set_statistics(
        (-15, 1500, 1500), (5, 900, 900), [80] * len(outputs), [40] * len(outputs)
    )
    return gb.BiomassRegressor(network.eval(), ("VV_asc", "B04", "B08"), 3, outputs)


def bits(data: xr.Dataset) -> dict[str, bytes]:
    return {str(name): data[name].values.tobytes() for name in data}


# --- the loss and the metrics ---


@pytest.mark.parametrize("quantile", [0.05, 0.5, 0.9])
def test_the_pinball_loss_is_scikit_learns(quantile: float) -> None:
    from sklearn.metrics import mean_pinball_loss

    draw = torch.Generator().manual_seed(0)
    target = 100 * torch.rand(2, 1, 9, 7, generator=draw)
    guess = (100 * torch.rand(2, 1, 9, 7, generator=draw)).requires_grad_()
    target[0, 0, :3], target[1, 0, 0, 0] = torch.nan, 2000.0
    loss = pinball_loss(guess, target, quantile, ceiling=1000.0)
    loss.backward()
    known = target.isfinite() & (target < 1000)
    expected = mean_pinball_loss(
        target[known].numpy(), guess.detach()[known].numpy(), alpha=quantile
    )
    assert float(loss.detach()) == pytest.approx(expected, rel=1e-6)
    assert guess.grad is not None
    assert bool((guess.grad[~known] == 0).all())
    assert bool((guess.grad[known] != 0).all())


def test_the_pinball_loss_of_a_clipped_tail_and_of_nothing() -> None:
    target, guess = torch.tensor([[500.0, 50.0]]), torch.tensor([[450.0, 40.0]])
    # Above the ceiling it is enough to reach it.
    clipped = pinball_loss(guess, target, 0.9, ceiling=400.0, tail="clip")
    assert float(clipped) == pytest.approx(0.9 * 10 / 2)
    nothing = pinball_loss(guess.requires_grad_(), target * torch.nan, 0.9)
    nothing.backward()
    assert float(nothing.detach()) == 0
    assert guess.grad is not None
    assert bool((guess.grad == 0).all())
    with pytest.raises(ValueError, match="between 0 and 1, got 1"):
        pinball_loss(guess, target, 1)


def test_metrics_judge_the_map_and_not_the_ends_of_its_interval() -> None:
    draw = np.random.default_rng(0)
    guess, target = draw.normal(size=(2, 3, 4, 4)), draw.normal(size=(2, 1, 4, 4))
    metric = AverageRMSE(outputs=1)
    metric.update(torch.tensor(guess), torch.tensor(target))
    assert float(metric.compute()) == average_rmse(guess[:, :1], target)


# --- the threshold ---


def test_one_pixel_a_unit_is_split_conformal_prediction_as_mapie_has_it() -> None:
    from mapie.regression import ConformalizedQuantileRegressor, SplitConformalRegressor
    from sklearn.base import BaseEstimator, RegressorMixin

    class Column(RegressorMixin, BaseEstimator):  # type: ignore[misc]
        def __init__(self, column: int = 0) -> None:
            self.column = column

        def fit(self, given: Any, target: Any) -> Any:
            self.is_fitted_, self.n_features_in_ = True, given.shape[1]
            return self

        def predict(self, given: Any) -> Any:
            return given[:, self.column]

    draw = np.random.default_rng(3)
    agb = draw.uniform(20, 300, 99)
    given = np.stack([agb, agb - 5, agb + 8], axis=1)
    observed = agb + draw.normal(size=99) * 12
    names = ("agb", "agb_lower_raw", "agb_upper_raw")
    columns = [Column(i).fit(given, observed) for i in range(3)]
    new = given[:5]

    def ours(outputs: tuple[str, ...]) -> dict[str, Any]:
        units = [
            Unit(
                {n: given[i : i + 1, c] for c, n in enumerate(outputs)},
                observed[i : i + 1],
            )
            for i in range(99)
        ]
        step = calibrate(units, 0.9, [])
        return step.apply({n: new[:, c] for c, n in enumerate(outputs)})

    split = SplitConformalRegressor(columns[0], confidence_level=0.9, prefit=True)
    ends = split.conformalize(given, observed).predict_interval(new)[1][..., 0]
    found = ours(names[:1])
    # Margins are kept in float32, as maps are.
    np.testing.assert_allclose(found["agb_lower"], np.maximum(ends[:, 0], 0), rtol=1e-5)
    np.testing.assert_allclose(found["agb_upper"], ends[:, 1], rtol=1e-6)
    both = ConformalizedQuantileRegressor(
        [columns[1], columns[2], columns[0]], confidence_level=0.9, prefit=True
    ).conformalize(given, observed)
    ends = both.predict_interval(new, symmetric_correction=True)[1][..., 0]
    found = ours(names)
    np.testing.assert_allclose(found["agb_lower"], np.maximum(ends[:, 0], 0), rtol=1e-5)
    np.testing.assert_allclose(found["agb_upper"], ends[:, 1], rtol=1e-6)


def test_the_threshold_is_the_median_over_all_ways_to_draw_a_pixel_a_unit() -> None:
    draw = np.random.default_rng(0)
    scores = [draw.normal(size=size) + size / 9 for size in (3, 40, 9, 17, 5, 28, 11)]
    picks = np.stack([draw.choice(s, 40_001) for s in scores])
    # (7 + 1) * 0.75 = 6 and 0.8 lies 0.4 of the way from the sixth to the seventh.
    sixth, seventh = (np.median(np.sort(picks, axis=0)[rank]) for rank in (5, 6))
    assert threshold(scores, 0.75) == pytest.approx(sixth, abs=0.03)
    assert threshold(scores, 0.8) == pytest.approx(
        0.6 * sixth + 0.4 * seventh, abs=0.03
    )


def test_of_many_units_the_mean_count_replaces_the_median(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    draw = np.random.default_rng(0)
    scores = [draw.normal(draw.normal(), 1, 20) for _ in range(400)]
    exact = threshold(scores, 0.9)
    monkeypatch.setattr(conformal_quantile, "_MANY", 100)
    assert threshold(scores, 0.9) == pytest.approx(exact, abs=0.01)


@pytest.mark.parametrize(
    ("interval", "needed"), [(0.5, 1), (0.8, 4), (0.9, 9), (0.95, 19), (0.99, 99)]
)
def test_an_interval_needs_so_many_units(interval: float, needed: int) -> None:
    assert needed_units(interval) == needed
    units = [np.array([float(i)]) for i in range(needed)]
    assert threshold(units, interval) == needed - 1
    assert needed == 1 or threshold(units[1:], interval) == np.inf


@variants("count", [15, 9, 30], quick=1)
def test_new_units_are_covered_with_any_correlation_of_their_pixels(count: int) -> None:
    for correlation in (0.0, 0.5, 0.95):
        # Nine units are the fewest; a little more is held than was asked for.
        assert 0.89 < coverage(threshold, count, correlation, 200) < 0.93


def test_by_pixel_few_units_promise_more_than_they_hold() -> None:
    # A class with 120 pixels, or as many thousands, that lie in three blocks.
    assert coverage(pooled, 3, 0.0, 1000) == pytest.approx(0.9, abs=0.01)
    assert coverage(pooled, 3, 0.95, 1000) < 0.82
    assert coverage(pooled, 6, 0.95, 1000) < 0.87


# --- groups ---


def grouped_units(
    groups: int, draw: np.random.Generator, chips: Sequence[int] = (6,)
) -> list[Unit]:
    """Return units of regions of different size, which share most of their error."""
    units = []
    for region in range(groups):
        shared = 0.9 * draw.normal()
        for _ in range(chips[region % len(chips)]):
            error = shared + 0.3 * draw.normal() + 0.3 * draw.normal(size=20)
            truth = np.full(20, 100.0)
            units.append(Unit({"agb": truth + error}, truth, f"region{region}"))
    return units


@pytest.mark.slow
def test_new_groups_are_held_with_groups_as_units_and_not_with_chips() -> None:
    draw, held = np.random.default_rng(0), []
    for _ in range(120):
        known = grouped_units(10, draw, (24, 8, 4, 2, 1))
        new = grouped_units(10, draw)
        steps = [calibrate(known, 0.9, [], groups=by) for by in ("region", None)]
        assert [step.kind for step in steps] == ["groups", "chips"]
        assert [step.count for step in steps] == [10, 78]
        size = np.abs([unit.values["agb"] - unit.observed for unit in new])
        held.append([(size <= step.margins[0]).mean() for step in steps])
    by_region, by_chip = np.mean(held, axis=0)
    assert 0.89 < by_region < 0.93
    assert by_chip < 0.88


def test_too_few_groups_are_calibrated_by_chip_and_say_so() -> None:
    draw = np.random.default_rng(0)
    step = calibrate(grouped_units(8, draw), 0.9, [], groups="region")
    assert (step.kind, step.count, step.groups) == ("chips", 48, "region")
    assert "48 chips (groups by 'region' were too few" in str(step)
    assert Calibration.from_dict(step.to_dict()) == step
    enough = calibrate(grouped_units(9, draw), 0.9, [], groups="region")
    assert "calibrated on 9 groups by 'region', 1 class" in str(enough)
    # Regions without a label are none.
    empty = [Unit({"agb": np.zeros(0)}, np.zeros(0), f"empty{i}") for i in range(9)]
    few = calibrate([*grouped_units(8, draw), *empty], 0.9, [], groups="region")
    assert few.kind == "chips"


# --- classes ---


def make_units(count: int, seed: int = 0, pixels: int = 60) -> list[Unit]:
    """Return units whose errors grow with biomass, each of one stand or two."""
    draw = np.random.default_rng(seed)
    units = []
    for _ in range(count):
        truth = np.repeat(draw.gamma(2, 70, 2), pixels // 2)
        agb = truth + 0.2 * truth * (
            0.7 * draw.normal() + 0.7 * draw.normal(size=pixels)
        )
        units.append(Unit({"agb": agb}, truth))
    return units


@pytest.mark.slow
def test_by_class_of_what_was_predicted_tall_forest_is_held_too() -> None:
    by_class = {"classes": list(CLASSES), "none": []}
    held: dict[str, list[tuple[float, float]]] = {name: [] for name in by_class}
    for seed in range(40):
        units = make_units(80, seed)
        for name, classes in by_class.items():
            step = calibrate(units[:60], 0.9, classes)
            tall: list[float] = []
            low: list[float] = []
            for unit in units[60:]:
                ends = step.apply(unit.values)
                inside = ends["agb_lower"] <= unit.observed
                inside &= unit.observed <= ends["agb_upper"]
                high = unit.values["agb"] >= 200
                for part, where in ((tall, high), (low, ~high)):
                    if where.any():
                        part.append(inside[where].mean())
            held[name].append((float(np.mean(tall)), float(np.mean(low))))
    high_held, low_held = np.mean(held["classes"], axis=0)
    assert abs(high_held - 0.9) < 0.05
    assert abs(low_held - 0.9) < 0.05
    # One margin for all is too narrow for tall forest and too wide for the rest.
    assert np.mean(held["none"], axis=0)[0] < 0.8


def test_neighbouring_classes_are_merged_until_each_has_enough_units() -> None:
    step = calibrate(make_units(60), 0.9, [50, 100, 200, 5000])
    assert min(step.units) >= 18
    assert step.edges[-1] <= 200
    assert step.classes[0] == "below 50"
    assert step.classes[-1] == f"{step.edges[-1]:g} and more"
    assert list(step.table.index) == list(step.classes)
    assert sum(step.pixels) == 60 * 60
    assert len(calibrate(make_units(9), 0.9, [50, 100]).margins) == 1
    assert len(calibrate(make_units(99), 0.5, 4).margins) == 4


def test_too_few_units_are_refused_with_what_to_do() -> None:
    with pytest.raises(ValueError, match=r"at least 9 chips or blocks .* got 4; give"):
        calibrate(make_units(4), 0.9, [])
    empty = Unit({"agb": np.zeros(0)}, np.zeros(0))
    with pytest.raises(ValueError, match="got 8"):
        calibrate([*make_units(8), empty], 0.9, [])
    for interval in (0, 1, 90):
        with pytest.raises(ValueError, match="between 0 and 1"):
            calibrate(make_units(20), interval, [])
    for classes in (0, [100, 50], [50, np.inf]):
        with pytest.raises(ValueError, match="classes must be"):
            calibrate(make_units(20), 0.9, classes)


# --- the step ---


@given(
    st.lists(st.floats(-50, 500, width=32), min_size=4, max_size=4),
    st.lists(st.floats(-80, 80, width=32), min_size=2, max_size=2),
    st.sampled_from(["map", "quantiles", "spread", "quantiles and spread"]),
)
def test_the_map_lies_in_its_interval_and_nothing_is_below_zero(
    numbers: list[float], margins: list[float], base: Any
) -> None:
    step = Calibration(0.9, base, (100.0,), tuple(margins), (20, 20), (9, 9), 20)
    agb, lower, upper, spread = (np.float32(n) for n in numbers)
    values = {"agb": np.array([agb, np.nan], np.float32)}
    if "quantiles" in base:
        values["agb_lower_raw"] = np.array([lower, np.nan], np.float32)
        values["agb_upper_raw"] = np.array([upper, np.nan], np.float32)
    if "spread" in base:
        values["agb_spread"] = np.array([abs(spread), np.nan], np.float32)
        if "quantiles" in base:
            values["agb_lower_raw_spread"] = values["agb_spread"]
    found = step.apply(values)
    assert list(found) == LAYERS + ["agb_spread"] * ("spread" in base)
    assert list(step.layers({name: {} for name in values})) == list(found)
    for name in LAYERS:
        assert found[name].dtype == np.float32
        assert np.isnan(found[name][1])
    assert found["agb_lower"][0] <= agb <= found["agb_upper"][0]
    assert found["agb_lower"][0] >= min(0, agb)


def test_quantiles_that_cross_are_sorted_and_margins_are_by_class() -> None:
    step = Calibration(0.9, "quantiles", (100.0,), (5.0, 20.0), (9, 9), (9, 9), 9)
    found = step.apply(
        {
            "agb": np.array([50, 150], np.float32),
            "agb_lower_raw": np.array([70, 120], np.float32),
            "agb_upper_raw": np.array([40, 180], np.float32),
        }
    )
    assert found["agb_lower"].tolist() == [35, 100]
    assert found["agb_upper"].tolist() == [75, 200]


def test_a_calibration_is_json_and_says_what_it_is() -> None:
    step = calibrate(make_units(41), 0.9, [60.5], kind="blocks")
    back = Calibration.from_dict(json.loads(json.dumps(step.to_dict())))
    assert back == step
    assert str(step) == "90 % interval, calibrated on 41 blocks, 2 classes"
    assert step.values_depend_on() == {"calibration": step.to_dict()}
    with pytest.raises(ValueError, match="must be 2 finite numbers"):
        Calibration.from_dict(step.to_dict() | {"margins": [1.0]})
    with pytest.raises(ValueError, match="with its own model, got a model with"):
        step.layers({"agb": {}, "agb_spread": {}})


# --- fit ---


def parts_of(loaders: Any) -> list[set[Any]]:
    """Return the pixels or chips that train, that validate and that calibrate."""
    held = loaders.validation.samples if loaders.validation else []
    found = []
    for samples in (loaders.training.samples, held, loaders.calibration):
        found.append(
            {
                (sample.chip, row, column)
                for sample in samples
                for row in range(sample.window.top, sample.window.bottom, 4)
                for column in range(sample.window.left, sample.window.right, 4)
            }
        )
    return found


@settings(max_examples=20)
@given(
    st.integers(20, 40),
    st.sampled_from([0.05, 0.2, 0.5]),
    st.sampled_from([None, 0.1, 0.3, 0, "ids"]),
    st.integers(0, 5),
    st.booleans(),
)
def test_what_calibrates_neither_trains_nor_validates(
    count: int, fraction: float, validation: Any, seed: int, grouped: bool
) -> None:
    chips = make_chips(4, 8)
    chips = chips.isel(chip=np.arange(count) % 4).assign_coords(
        chip=[f"chip{i}" for i in range(count)],
        flight=("chip", [f"flight{i // 2}" for i in range(count)]),
    )
    ids = validation == "ids"
    recipe = find_recipe(
        "quick",
        interval=0.8,
        calibration_fraction=fraction,
        seed=seed,
        crop=8,
        groups="flight" if grouped else None,
    )
    given = ["chip0", "chip1"] if ids else validation
    loaders = make_loaders(LabelledCube.open(chips), recipe, given)
    training, held, aside = parts_of(loaders)
    assert training
    assert not training & aside
    assert not training & held
    assert not held & aside
    assert len(training | held | aside) == 4 * count
    assert len(loaders.calibration) >= 4
    everything = {sample.chip for sample in loaders.everything.samples}
    assert not everything & {sample.chip for sample in loaders.calibration}
    if grouped and not ids:
        flights = [{chip // 2 for chip, *_ in part} for part in (training, held, aside)]
        assert not (flights[0] | flights[1]) & flights[2]
        assert len(flights[2]) >= 4  # as many groups as it takes, of ten at least
    if ids:
        assert {chip for chip, *_ in held} == {0, 1}


@pytest.mark.parametrize("seed", range(3))
def test_blocks_of_a_scene_are_as_many_as_an_interval_needs(seed: int) -> None:
    scene = make_scene(256, 288)
    recipe = find_recipe("quick", interval=0.9, seed=seed)
    loaders = make_loaders(LabelledCube.open(scene), recipe)
    training, held, aside = parts_of(loaders)
    assert len(loaders.calibration) >= needed_units(0.9)
    assert held
    assert not training & aside
    assert not held & aside
    assert not training & held
    assert len(aside) < len(training)


def test_members_of_folds_leave_out_all_of_the_cube_together() -> None:
    chips, aside = make_chips(12, 8), []
    for fold in range(3):
        # There are fewer parts to validate on than there are folds.
        recipe = find_recipe(
            "quick",
            interval=0.8,
            calibration_fraction=1 / 3,
            validation_fraction=0.5,
            fold=fold,
            crop=8,
        )
        loaders = make_loaders(LabelledCube.open(chips), recipe, calibrate=False)
        aside += [sample.chip for sample in loaders.calibration]
        training, held, apart = parts_of(loaders)
        assert held
        assert not (training | held) & apart
    assert sorted(aside) == list(range(12))


def test_what_cannot_be_calibrated_is_refused_before_training(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def train(*given: Any) -> None:
        raise AssertionError("trained")

    monkeypatch.setattr("geobiomass.training.train_stages", train)
    with pytest.raises(gb.CubeError, match=r"at least 9 .* train on, got 6"):
        gb.fit(make_chips(6), "quick", interval=0.9, **SMALL)
    with pytest.raises(gb.CubeError, match="at least 9 chips or blocks"):
        gb.fit(make_scene(40, 56), "quick", interval=0.9, **SMALL)
    with pytest.raises(gb.CubeError, match="at least 9 chips or blocks"):
        gb.fit(make_chips(12), "quick", interval=0.9, folds=3, **SMALL)
    for name, value in (("interval", 1), ("interval", 90), ("calibration_fraction", 0)):
        with pytest.raises(ValueError, match=f"{name} must be between"):
            find_recipe("quick", **{name: value})


def test_a_model_with_an_interval_maps_it_everywhere(
    model: gb.BiomassRegressor, tmp_path: Path
) -> None:
    scene = make_scene(70, 90)
    scene["image"][:, :, :5, :7] = np.nan
    found = model.predict(scene, 64, 16)
    assert list(found) == LAYERS
    assert found.agb_lower.attrs["long_name"].startswith(
        "lower end of the 80 % interval"
    )
    values = found.load()
    assert np.isnan(values.to_array()[:, :5, :7]).all()
    rest = values.isel(y=slice(5, None))
    assert (rest.agb_lower <= rest.agb).all()
    assert (rest.agb <= rest.agb_upper).all()
    assert (rest.agb_lower >= np.minimum(rest.agb, 0)).all()
    model.predict_to(tmp_path / "map.zarr", scene, 64, 16, block=64, progress=False)
    with xr.open_zarr(tmp_path / "map.zarr") as written:
        assert bits(written[LAYERS].load()) == bits(values)
    model.predict_to(tmp_path / "map.tif", scene, 64, 16, block=64, progress=False)
    import rasterio

    with rasterio.open(tmp_path / "map.tif") as written:
        np.testing.assert_array_equal(written.read(), values.to_array())
    # The competition takes one map.
    chips = make_chips(1)
    model.predict_chips_to(tmp_path / "chips", chips, progress=False)
    assert len(model.predict(chips).agb_upper) == 1


def test_calibrated_is_saved_and_loaded(
    model: gb.BiomassRegressor, tmp_path: Path
) -> None:
    assert model.calibration is not None
    assert model.calibration.count == 4
    assert model.calibration.kind == "chips"
    assert "80 % interval, calibrated on 4 chips, 1 class" in repr(model)
    model.save(tmp_path / "model")
    loaded = gb.load(tmp_path / "model")
    assert loaded.calibration == model.calibration
    scene = make_scene()
    assert bits(loaded.predict(scene)) == bits(model.predict(scene))
    card = (tmp_path / "model" / "README.md").read_text()
    assert "80 % interval, calibrated on 4 chips, 1 class" in card
    assert "Maps: agb, agb_lower, agb_upper." in card
    facts = str(gb.describe(tmp_path / "model"))
    assert "80 % interval, calibrated on 4 chips" in facts
    assert "agb, agb_lower, agb_upper, Mg/ha" in facts
    # Another margin is another map.
    before = depends_on(model)
    without_checksums(tmp_path / "model")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    config["settings"]["calibration"]["margins"] = [1.0]
    (tmp_path / "model" / "config.json").write_text(json.dumps(config))
    assert depends_on(gb.load(tmp_path / "model")) != before
    config["settings"]["calibration"]["margins"] = []
    (tmp_path / "model" / "config.json").write_text(json.dumps(config))
    with pytest.raises(gb.ModelError, match="margins of a Calibration"):
        gb.load(tmp_path / "model")


def depends_on(model: Any) -> dict[str, Any]:
    scene = make_scene()
    return model._depends_on(scene, model._mapper(scene, MapSettings()))


@pytest.mark.slow
def test_without_an_interval_nothing_is_otherwise(tmp_path: Path) -> None:
    plain = gb.fit(make_chips(4), "quick", **SMALL)
    assert plain.outputs == ("agb",)
    assert plain.calibration is None
    assert "calibration" not in plain.settings
    assert [type(step).__name__ for step in plain._steps()] == ["Floor"]
    before, agb = depends_on(plain), bits(plain.predict(make_scene()))
    assert "calibration" not in before
    # Models saved before had no such settings.
    plain.save(tmp_path / "model")
    without_checksums(tmp_path / "model")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    for name in ("interval", "calibration_fraction"):
        del config["settings"]["recipe"][name]
    (tmp_path / "model" / "config.json").write_text(json.dumps(config))
    old = gb.load(tmp_path / "model")
    assert old.recipe == plain.recipe
    assert depends_on(old) == before
    # Calibrated, the map itself stays as it was.
    old.calibrate(make_chips(6, seed=50), 0.8)
    found = bits(old.predict(make_scene()))
    assert found["agb"] == agb["agb"]
    assert list(found) == LAYERS
    after = depends_on(old)
    assert after.pop("calibration")
    assert after == before


class Killed(BaseException):
    pass


@pytest.mark.slow  # law 7 is quick
def test_killed_and_run_again_it_ends_with_the_same_calibration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chips = make_chips(10)
    given = SMALL | {"interval": 0.8, "epochs": 2, "checkpoint_minutes": 0}
    whole = gb.fit(chips, "quick", **given, folder=tmp_path / "whole")

    def stop(*given: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr("geobiomass.models.calibration.compare_units", stop)
        with pytest.raises(Killed):
            gb.fit(chips, "quick", **given, folder=tmp_path / "halted")
    again = gb.fit(chips, "quick", **given, folder=tmp_path / "halted")
    assert again.calibration == whole.calibration
    assert bits(again.predict(make_scene())) == bits(whole.predict(make_scene()))


@pytest.mark.slow
def test_with_another_cube_to_validate_on(tmp_path: Path) -> None:
    other = make_chips(2, seed=90).assign_coords(chip=["a", "b"])
    model = gb.fit(make_chips(10), "quick", other, interval=0.8, **SMALL)
    assert model.calibration is not None
    assert model.calibration.count == 4
    assert model.provenance["data"]["validation"]["places"] == 2
    assert model.provenance["data"]["training"]["places"] == 6


@pytest.mark.slow
def test_folds_calibrate_together_on_what_each_left_out(tmp_path: Path) -> None:
    chips = make_chips(9)
    model = gb.fit(chips, "quick", interval=0.8, folds=3, **SMALL)
    assert model.calibration is not None
    assert (model.calibration.count, model.calibration.folds) == (9, 3)
    assert all(member.calibration is None for member in model.models)
    assert "9 chips of 3 folds" in repr(model)
    model.save(tmp_path / "model")
    loaded = gb.load(tmp_path / "model")
    found = loaded.predict(make_scene())
    assert list(found) == LAYERS
    assert bits(found) == bits(model.predict(make_scene()))
    assert (
        "what is seen, not what is proven"
        in (tmp_path / "model" / "README.md").read_text()
    )
    # A single member returns its quantiles, named as not calibrated.
    assert list(model.models[0].predict(chips)) == [
        *("agb", "agb_lower_raw", "agb_upper_raw")
    ]


def with_regions(count: int, regions: int) -> xr.Dataset:
    names = [f"region{number % regions}" for number in range(count)]
    return make_chips(count).assign_coords(region=("chip", names))


@pytest.mark.slow
def test_groups_that_are_split_by_are_what_calibrates(tmp_path: Path) -> None:
    chips = with_regions(20, 10)
    model = gb.fit(chips, "quick", interval=0.8, groups="region", **SMALL)
    assert model.calibration is not None
    assert (model.calibration.kind, model.calibration.count) == ("groups", 4)
    assert "4 groups by 'region'" in repr(model)
    model.save(tmp_path / "model")
    assert gb.load(tmp_path / "model").calibration == model.calibration
    with pytest.warns(UserWarning, match="4 groups by 'region' to calibrate on and"):
        model = gb.fit(
            with_regions(20, 7), "quick", interval=0.8, groups="region", **SMALL
        )
    assert model.calibration is not None
    assert model.calibration.kind == "chips"
    assert "too few" in repr(model)


@pytest.mark.slow
def test_folds_by_region_calibrate_by_region() -> None:
    chips = with_regions(12, 6)
    folds = gb.make_folds(chips, 2, "region")
    model = gb.fit(chips, "quick", folds=folds, interval=0.8, **SMALL)
    assert model.calibration is not None
    assert (model.calibration.kind, model.calibration.count) == ("groups", 6)
    assert model.calibration.folds == 2


@pytest.mark.slow
def test_any_model_is_calibrated_and_judged_by_group(run: Any, tmp_path: Path) -> None:
    chips = with_regions(12, 4)
    model = untrained().calibrate(chips, 0.8, groups="region")
    assert model.calibration is not None
    assert (model.calibration.kind, model.calibration.count) == ("groups", 4)
    with pytest.warns(UserWarning, match="9 groups by 'region' to calibrate on: it is"):
        model.calibrate(chips, 0.9, groups="region")
    assert model.calibration.kind == "chips"
    with pytest.raises(gb.CubeError, match="groups='flight' must be a coordinate"):
        model.evaluate(chips, groups="flight")
    repeated = xr.concat([make_chips(4)] * 3, "chip").assign_coords(
        chip=[f"chip{i}" for i in range(12)], region=chips["region"]
    )
    tables = [model.evaluate(repeated, groups=by).loc["all"] for by in ("region", None)]
    widths = [row["bias_upper"] - row["bias_lower"] for row in tables]
    # Three copies of a chip are no more evidence than one.
    assert widths[0] == pytest.approx(np.sqrt(3) * widths[1], rel=0.2)
    assert tables[0]["pixel_rmse"] == pytest.approx(tables[1]["pixel_rmse"])
    model.save(tmp_path / "model")
    gb.write_cube(repeated, tmp_path / "chips.zarr", dtype="float32", progress=False)
    words = (tmp_path / "model", tmp_path / "chips.zarr", "--groups", "region")
    code, out, err = run("evaluate", *words, "--json")
    assert code == 0, err
    row = json.loads(out)["metrics"][0]
    ends = [row["bias_upper"] - row["bias_lower"]]
    assert ends == pytest.approx(widths[:1], rel=1e-4)


# --- calibrate ---


@pytest.mark.parametrize("spread", [False, True])
@pytest.mark.slow
def test_ensembles_are_calibrated_by_their_spread_or_without(
    tmp_path: Path, spread: bool
) -> None:
    model = gb.Ensemble([untrained(seed=s) for s in (1, 2)], spread)
    assert model.calibrate(make_chips(12), 0.8) is model
    assert model.calibration is not None
    assert model.calibration.base == ("spread" if spread else "map")
    found = model.predict(make_scene()).load()
    assert list(found) == LAYERS + ["agb_spread"] * spread
    if spread:
        width = (found.agb_upper - found.agb) / np.maximum(found.agb_spread, 1)
        assert len(np.unique(width.values.round(3))) <= len(model.calibration.margins)
    model.save(tmp_path / "model")
    assert bits(gb.load(tmp_path / "model").predict(make_scene())) == bits(found)


def test_quantiles_of_an_ensemble_move_apart_by_its_spread() -> None:
    names = ("agb", "agb_lower_raw", "agb_upper_raw")
    models = [untrained(names, seed) for seed in (1, 2)]
    model = gb.Ensemble(models, spread=True).calibrate(make_chips(12), 0.8)
    assert model.calibration is not None
    assert model.calibration.base == "quantiles and spread"
    assert list(model.predict(make_scene())) == [*LAYERS, "agb_spread"]


def test_new_units_of_a_scene_are_held_as_often_as_promised() -> None:
    scene = make_scene(96, 192)
    known = scene.assign(agb=scene.agb.where(scene.x < float(scene.x[96])))
    model = untrained().calibrate(known, 0.8, unit=19)
    assert model.calibration is not None
    assert (model.calibration.count, model.calibration.kind) == (25, "blocks")
    found = model.predict(scene).isel(x=slice(96, None))
    truth = scene.agb.isel(x=slice(96, None))
    held = (found.agb_lower <= truth) & (truth <= found.agb_upper)
    # Half a scene of stands of 8 x 8 pixels.
    assert abs(float(held.mean()) - 0.8) < 0.1


def test_calibrating_on_what_was_learnt_is_refused(model: gb.BiomassRegressor) -> None:
    with pytest.raises(gb.CubeError, match="was trained on this cube"):
        model.calibrate(make_chips(20))
    with pytest.raises(gb.CubeError, match="was trained on this cube"):
        gb.Ensemble([model, model]).calibrate(make_chips(20))
    with pytest.raises(ValueError, match=r"at least 9 chips or blocks .* got 3"):
        untrained().calibrate(make_chips(3))
    with pytest.raises(gb.CubeError, match="no 'agb'"):
        untrained().calibrate(make_chips(3).drop_vars("agb"))
    with pytest.raises(ValueError, match="unit must be at least 1"):
        untrained().calibrate(make_scene(), unit=0)
    with pytest.raises(ValueError, match="interval must be between 0 and 1"):
        untrained().calibrate(make_scene(), 90)


def test_large_units_are_thinned_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    mapper = untrained()._bare(make_chips(3))
    samples = units_of(mapper.reader, 32)
    full = compare_units(mapper, samples)
    monkeypatch.setattr("geobiomass.models.calibration._PIXELS", 3 * 100)
    thin = compare_units(mapper, samples)
    assert [len(unit.observed) for unit in thin] == [94] * 3
    for whole, part in zip(full, thin, strict=True):
        np.testing.assert_array_equal(part.observed, whole.observed[::11])
        np.testing.assert_array_equal(part.values["agb"], whole.values["agb"][::11])


def test_units_hold_what_the_map_and_the_labels_say() -> None:
    # Blocks of 256 pixels are computed; units lie across their edges.
    scene, model = make_scene(300, 330), untrained()
    scene["image"][:, :, 100:110, 250:270] = np.nan
    scene["agb"][:, :40] = np.nan
    mapper = model._bare(scene)
    samples = units_of(mapper.reader, 100)
    assert len(samples) == 9
    units = compare_units(mapper, samples)
    agb = model.predict(scene).agb.values
    for sample, unit in zip(samples, units, strict=True):
        here = sample.window.rows, sample.window.columns
        known = np.isfinite(agb[here]) & np.isfinite(scene.agb.values[here])
        for found, whole in (
            (unit.values["agb"], agb[here]),
            (unit.observed, scene.agb.values[here]),
        ):
            np.testing.assert_array_equal(np.sort(found), np.sort(whole[known]))


def test_chips_that_cannot_be_read_are_left_out_or_stop() -> None:
    def fail(block: np.ndarray, block_info: Any = None) -> np.ndarray:
        if block_info and block_info[0]["chunk-location"][0] == 1:
            raise OSError("unreadable")
        return block

    chips = make_chips(4).chunk({"chip": 1})
    image = chips["image"].data
    broken = image.map_blocks(fail, dtype=image.dtype, meta=image._meta)
    chips["image"] = chips["image"].copy(data=broken)
    mapper = untrained()._bare(chips)
    samples = units_of(mapper.reader, 32)
    assert len(compare_units(mapper, samples, skip=True)) == 3
    with pytest.raises(gb.DamagedError, match="chip001"):
        compare_units(mapper, samples)


# --- pictures and commands ---


def test_the_picture_says_what_the_interval_holds() -> None:
    import matplotlib

    matplotlib.use("agg")
    truth = xr.DataArray(np.array([[10.0, 20.0], [260.0, np.nan]]), dims=("y", "x"))
    found = xr.Dataset(
        {
            "agb": truth.fillna(5.0) * 0 + [[12, 90], [80, 1]],
            "agb_lower": (("y", "x"), np.array([[0.0, 50.0], [60.0, 0.0]])),
            "agb_upper": (("y", "x"), np.array([[30.0, 99.0], [300.0, 9.0]])),
        }
    )
    found.agb_lower.attrs["interval"] = 0.9
    axes = gb.plots.calibration(found, truth)
    by_predicted, by_observed, nominal, overall = axes.get_lines()
    assert by_predicted.get_xydata().tolist() == [[0, 100], [1, 50]]
    assert by_observed.get_xydata().tolist() == [[0, 50], [4, 100]]
    assert nominal.get_ydata()[0] == 90
    assert overall.get_label() == "all, 66.7 %"
    with pytest.raises(ValueError, match="of a map needs observed=, got none"):
        gb.plots.calibration(found)
    table = found.rename(agb="predicted", agb_lower="lower").to_dataframe()
    with pytest.raises(ValueError, match="table must have observed, upper, got none"):
        gb.plots.calibration(table, interval=0.9)
    matplotlib.pyplot.close("all")


@pytest.mark.slow
def test_the_command_line_trains_and_calibrates(tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from geobiomass.cli import app

    gb.write_cube(make_chips(9), tmp_path / "chips.zarr")
    gb.write_cube(make_chips(5, seed=40), tmp_path / "new.zarr")
    changes = [
        *("--set", "encoder=test_resnet", "--set", "decoder_channels=[8,8,8,8,8]"),
        *("--set", "crop=32", "--set", "progress=False"),
    ]
    samples = [str(tmp_path / name) for name in ("chips.zarr", "model", "new.zarr")]
    run = CliRunner().invoke
    command = ["train", *samples[:2], "--recipe", "quick", "--epochs", "1"]
    done = run(app, [*command, "--interval", "0.8", *changes])
    assert done.exit_code == 0, done.output
    assert "80 % interval, calibrated on 4 chips" in done.output
    command = ["calibrate", samples[1], samples[2], "--interval", "0.75", "--json"]
    done = run(app, command)
    assert done.exit_code == 0, done.output
    assert json.loads(done.output)["calibration"]["count"] == 5
    assert gb.load(samples[1]).calibration.interval == 0.75


# --- the synthetic landscape, over many seeds ---


@pytest.mark.slow
def test_new_blocks_of_many_landscapes_are_held_as_promised() -> None:
    bands = ["VH_asc", "VH_desc", "B04", "B08", "B11", "B12"]
    chosen = {"band": bands}
    ground = gb.landscape(256, 2, 100, version=1).sel(chosen).load()
    model = gb.fit(ground, "quick", interval=0.9, **SMALL | {"epochs": 4, "block": 32})
    held, by_class, widths = [], [], []
    for seed in range(20):
        new = gb.landscape(256, 2, 1000 + seed, version=1).sel(chosen).load()
        mapper = model._bare(new)
        units = compare_units(mapper, units_of(mapper.reader, 32))
        order = np.random.default_rng(seed).permutation(len(units))
        half = len(units) // 2
        step = calibrate([units[i] for i in order[:half]], 0.9, CLASSES)
        inside, which = [], []
        for unit in (units[i] for i in order[half:]):
            ends = step.apply(unit.values)
            low, high = ends["agb_lower"], ends["agb_upper"]
            inside.append((low <= unit.observed) & (unit.observed <= high))
            which.append(np.digitize(unit.values["agb"], step.edges))
            widths.append((high - low).mean())
        held.append(np.mean([part.mean() for part in inside]))
        for number in range(len(step.margins)):
            parts = [i[w == number] for i, w in zip(inside, which, strict=True)]
            by_class.append((number, np.mean([p.mean() for p in parts if len(p)])))
    assert abs(np.mean(held) - 0.9) < 0.02
    numbers, found = np.array(by_class).T
    assert numbers.max() >= 2
    for number in np.unique(numbers):
        of_class = found[numbers == number]
        if len(of_class) >= 8:
            assert abs(of_class.mean() - 0.9) < 0.05
    assert np.mean(widths) < 400
