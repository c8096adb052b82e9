"""Labels weigh by their standard errors in metrics and in the calibration."""

from __future__ import annotations

import itertools
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from sklearn.linear_model import Ridge
from test_evaluation import drawn
from test_label_errors import FAST

import geobiomass as gb
from geobiomass.cli.train import in_short
from geobiomass.cube.quantity import AGB
from geobiomass.data.labelled_cube import LabelledCube
from geobiomass.evaluation import label_errors
from geobiomass.evaluation.label_errors import FACTS, ErrorTally, tell_clipped
from geobiomass.evaluation.metrics import Bins, Tally
from geobiomass.models.calibration import check_worth
from geobiomass.models.fit_members import untrained
from geobiomass.models.pixel_data import check_rows_worth
from geobiomass.models.training_record import validation_by_bin
from geobiomass.recipes.datasets import make_loaders
from geobiomass.recipes.label_weights import LabelWeights
from geobiomass.recipes.recipe import find_recipe
from geobiomass.report import label_audit
from geobiomass.statistics.conformal import Calibration, calibrate
from geobiomass.statistics.conformal_quantile import threshold, worth
from geobiomass.statistics.conformal_units import Unit
from geobiomass.statistics.label_errors import (
    relative_weights,
    unexplained_variance,
    without_missing,
)
from geobiomass.tiles import Sample, even_blocks

# Four labels: with tau^2 = 9 the sum of r^2 / (tau^2 + se^2) is 9/9 + 9/9 + 25/25 +
# 25/25 = 4, so that they weigh as 1/9, 1/9, 1/25, 1/25.
RESIDUALS = np.array([3.0, -3.0, 5.0, -5.0])
ERRORS = np.array([0.0, 0.0, 4.0, 4.0])
OBSERVED = np.array([20.0, 40.0, 60.0, 80.0])
INTERVAL: dict[str, Any] = {"learner": Ridge(), "block": 12, "interval": 0.8}


def tallied(
    weigh: bool, errors: Any = ERRORS, by: str = "biomass", **settings: Any
) -> pd.DataFrame:
    tally = ErrorTally(Bins(by), weigh, **settings)
    tally.add(OBSERVED + RESIDUALS, OBSERVED, errors=errors)
    return tally.table()


# --- metrics ---


def test_weights_are_worked_out_by_hand() -> None:
    assert unexplained_variance(RESIDUALS, ERRORS) == pytest.approx(9)
    weights, unexplained = relative_weights(RESIDUALS, ERRORS)
    assert unexplained == pytest.approx(9)
    # Over that of the median variance, 17.
    np.testing.assert_allclose(weights, [17 / 9, 17 / 9, 17 / 25, 17 / 25])
    assert (relative_weights(RESIDUALS, np.full(4, 0.3))[0] == 1).all()
    assert (relative_weights(np.zeros(4), np.zeros(4))[0] == 1).all()
    filled, missing = without_missing(np.array([1.0, np.nan, 3.0]))
    assert (filled.tolist(), missing) == ([1, 2, 3], 1)


def test_weighed_metrics_are_worked_out_by_hand() -> None:
    row = tallied(weigh=True).loc["all"]
    mass = 2 / 9 + 2 / 25
    assert row["pixels"] == 4
    assert row["pixel_rmse"] == pytest.approx((4 / mass) ** 0.5)
    assert row["average_rmse"] == pytest.approx((4 / mass) ** 0.5)
    assert row["mae"] == pytest.approx((2 * 3 / 9 + 2 * 5 / 25) / mass)
    assert row["bias"] == pytest.approx(0)
    assert row["observed"] == pytest.approx((60 / 9 + 140 / 25) / mass)
    assert row["label_error"] == pytest.approx((2 * 16 / 25 / mass) ** 0.5)
    # (4 - 32 / 25) / mass = 9.
    assert row["rmse_without_label_error"] == pytest.approx(3)
    mean = (60 / 9 + 140 / 25) / mass
    spread = (400 + 1600) / 9 + (3600 + 6400) / 25 - mass * mean**2
    assert row["r2"] == pytest.approx(1 - 4 / spread)
    facts = tallied(weigh=True).attrs[FACTS]
    assert facts["tau"] == pytest.approx(3)
    assert facts["effective labels"] == pytest.approx(mass**2 / (2 / 9**2 + 2 / 25**2))
    assert facts["weighed"]
    plain = tallied(weigh=False).loc["all"]
    assert plain["pixel_rmse"] == pytest.approx(17**0.5)
    assert plain["label_error"] == pytest.approx(8**0.5)
    assert plain["rmse_without_label_error"] == pytest.approx(3)
    assert tallied(weigh=False).attrs[FACTS]["effective labels"] == 4


def test_equal_errors_and_no_weights_give_the_figures_of_no_errors_to_the_bit() -> None:
    plain = Tally()
    weighed, off = ErrorTally(weigh=True), ErrorTally(weigh=False)
    draw = np.random.default_rng(1)
    for predicted, observed in drawn():
        ends = (predicted - 15, predicted + 15)
        plain.add(predicted, observed, interval=ends)
        equal = np.full(observed.shape, 7.3)
        weighed.add(predicted, observed, interval=ends, errors=equal)
        other = draw.uniform(1, 30, observed.shape)
        off.add(predicted, observed, interval=ends, errors=other)
    expected = plain.table(bootstrap=50)
    for tally in (weighed, off):
        found = tally.table(bootstrap=50)
        pd.testing.assert_frame_equal(
            found[expected.columns], expected, check_exact=True
        )
        more = set(found.columns) - set(expected.columns)
        assert more == {
            "label_error",
            "rmse_without_label_error",
            "rmse_without_label_error_lower",
            "rmse_without_label_error_upper",
        }


def test_the_error_of_the_map_is_found_behind_that_of_the_labels() -> None:
    draw = np.random.default_rng(2)
    tallies = [ErrorTally(weigh=weigh) for weigh in (True, False)]
    for _ in range(40):
        truth = draw.gamma(4, 30, 100)
        predicted = truth + draw.normal(0, 20, 100)
        errors = draw.choice([5.0, 60.0], 100)
        observed = truth + draw.normal(0, errors)
        for tally in tallies:
            tally.add(predicted, observed, errors=errors)
    weighed, plain = (tally.table(bootstrap=200).loc["all"] for tally in tallies)
    for row in (weighed, plain):
        low, high = (
            row[f"rmse_without_label_error_{end}"] for end in ("lower", "upper")
        )
        assert low < 20 < high
    assert plain["pixel_rmse"] > 45
    # Weights make it exact: that is what they are for.
    width = [
        row["rmse_without_label_error_upper"] - row["rmse_without_label_error_lower"]
        for row in (weighed, plain)
    ]
    assert width[0] < 0.7 * width[1]


def test_what_cannot_be_told_apart_is_not_given() -> None:
    table = tallied(weigh=False)
    # Errors of labels put labels into bins of labels.
    assert table.loc["0-50":, "rmse_without_label_error"].isna().all()
    by_map = tallied(weigh=False, by="predicted")
    assert by_map.loc["0-50", "rmse_without_label_error"] == 3
    assert by_map.loc["50-100", "rmse_without_label_error"] == pytest.approx(3)
    seen = tallied(weigh=False, independent=False)
    assert np.isnan(seen.loc["all", "rmse_without_label_error"])
    assert seen.loc["all", "label_error"] > 0
    assert "trained on these labels" in seen.attrs[FACTS]["not independent"]


def test_errors_above_what_is_seen_give_0_and_are_told() -> None:
    table = tallied(weigh=False, errors=np.full(4, 6.0))
    assert table.loc["all", "rmse_without_label_error"] == 0
    assert "all" in table.attrs[FACTS]["clipped"]
    with pytest.warns(UserWarning, match=r"errors of the labels, 6 .* RMSE of 4\.123"):
        tell_clipped(table)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tell_clipped(tallied(weigh=False))
        tell_clipped(Tally().table())


def test_labels_without_an_error_have_the_median_and_are_counted() -> None:
    table = tallied(weigh=False, errors=np.array([2.0, 4.0, 9.0, np.nan]))
    assert table.attrs[FACTS]["without an error"] == 1
    squares = (4 + 16 + 81 + 16) / 4
    assert table.loc["all", "label_error"] == pytest.approx(squares**0.5)
    for none in (np.nan, 0.0):
        weighed = tallied(weigh=True, errors=np.full(4, none))
        assert (
            weighed.loc["all", "pixel_rmse"] == tallied(False).loc["all", "pixel_rmse"]
        )
        with pytest.warns(
            UserWarning, match="No label .* has a standard error above 0"
        ):
            tell_clipped(weighed)
    assert np.isnan(tallied(weigh=False, errors=None).loc["all", "label_error"])


def test_labels_are_kept_up_to_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = tallied(weigh=True)
    monkeypatch.setattr(label_errors, "_MOST", 3)
    tally = ErrorTally(weigh=True)
    for _ in range(3):
        tally.add(OBSERVED + RESIDUALS, OBSERVED, errors=ERRORS)
        assert not tally._parts
    assert tally.count == 12
    again = tally.table()
    columns = ["pixel_rmse", "bias", "r2", "rmse_without_label_error"]
    pd.testing.assert_frame_equal(again[columns], whole[columns])


# --- quantiles ---


def by_all_draws(
    scores: list[Any], interval: float, weights: list[Any], levels: int = 8
) -> float:
    """Return the weighted threshold from each way to draw a pixel a group."""
    masses = np.array([own.mean() for own in weights])
    count = masses.sum() ** 2 / (masses**2).sum()
    values = np.unique(np.concatenate(scores))
    chosen = []
    for part in range(levels):
        level = ((count + 1) * interval - (part + 0.5) / levels) / count
        for value in values:
            chance = 0.0
            for draw in itertools.product(*(range(len(own)) for own in scores)):
                below = [s[i] <= value for s, i in zip(scores, draw, strict=True)]
                share = masses[np.array(below)].sum() / masses.sum()
                likely = [w[i] / w.sum() for w, i in zip(weights, draw, strict=True)]
                chance += float(np.prod(likely)) * (share >= level)
            if chance >= 0.5:
                chosen.append(value)
                break
    return float(np.mean(chosen))


def test_the_weighted_threshold_is_the_median_over_all_draws() -> None:
    draw = np.random.default_rng(4)
    for interval in (0.5, 0.6):
        scores = [draw.normal(size=n) for n in (2, 3, 1, 2, 2, 3)]
        weights = [draw.uniform(0.2, 3, len(own)) for own in scores]
        found = threshold(scores, interval, weights)
        assert found == pytest.approx(by_all_draws(scores, interval, weights))


def test_groups_of_one_label_are_weighted_by_hand() -> None:
    # Masses 3, 1, 1, 1: worth 36 / 12 = 3. For p = 0.5 the levels are from 1 to 2 of 3,
    # which is 2 to 4 of 6: the first score has 3, the second makes 4.
    scores = [np.array([s]) for s in (1.0, 2.0, 3.0, 4.0)]
    weights = [np.array([w]) for w in (3.0, 1.0, 1.0, 1.0)]
    assert worth(weights) == 3
    assert threshold(scores, 0.5, weights) == pytest.approx((4 * 1 + 4 * 2) / 8)
    # From 4 to 6 of 6: the third makes 5.
    assert threshold(scores, 0.75, weights) == pytest.approx((4 * 3 + 4 * 4) / 8)
    assert threshold(scores, 0.76, weights) == np.inf
    assert threshold(scores, 0.76) < np.inf


def test_equal_weights_are_no_weights() -> None:
    draw = np.random.default_rng(5)
    scores = [draw.normal(size=n) for n in draw.integers(1, 9, 20)]
    equal = [np.ones(len(own)) for own in scores]
    assert worth(equal) == 20
    assert threshold(scores, 0.9, equal) == threshold(scores, 0.9)
    # Nearly equal ones are nearly the same.
    nearly = [own + 1e-6 * draw.random(len(own)) for own in equal]
    spread = np.ptp(np.concatenate(scores))
    assert threshold(scores, 0.9, nearly) == pytest.approx(
        threshold(scores, 0.9), abs=0.03 * spread
    )


def test_new_labels_drawn_by_weight_are_covered() -> None:
    draw = np.random.default_rng(6)
    weighed, plain = [], []
    for _ in range(25):
        good = draw.random(60) < 0.5
        scores = np.abs(draw.normal(0, np.where(good, 1.0, 5.0)))
        weights = np.where(good, 1.0, 1 / 25)
        own = [scores[n : n + 1] for n in range(60)]
        of_weights = [weights[n : n + 1] for n in range(60)]
        # Of new labels drawn by weight 25 of 26 are good.
        new = np.abs(draw.normal(0, np.where(draw.random(2000) < 25 / 26, 1.0, 5.0)))
        weighed.append((new <= threshold(own, 0.9, of_weights)).mean())
        plain.append((new <= threshold(own, 0.9)).mean())
    assert 0.88 < np.mean(weighed) < 0.93
    assert np.mean(plain) > 0.97


# --- calibration ---


def units_with(errors: Any, count: int = 40) -> list[Unit]:
    """Return units with labels of which every second is poor, with these errors."""
    draw = np.random.default_rng(7)
    units = []
    for _ in range(count):
        truth = draw.uniform(20, 300, 6)
        poor = np.array([0, 1, 0, 1, 0, 1], bool)
        observed = truth + draw.normal(0, np.where(poor, 80.0, 1.0))
        own = None if errors is None else np.where(poor, *errors)
        predicted = truth + draw.normal(0, 10, 6)
        units.append(Unit({"agb": predicted}, np.maximum(observed, 0), None, own))
    return units


def test_an_interval_is_calibrated_by_what_labels_are_worth() -> None:
    plain = calibrate(units_with(None), 0.9, [100])
    equal = calibrate(units_with((5.0, 5.0)), 0.9, [100])
    assert (equal.margins, equal.units) == (plain.margins, plain.units)
    assert (plain.effective, equal.effective) == (None, 40)
    weighed = calibrate(units_with((80.0, 1.0)), 0.9, [100])
    # The map's errors are 10 Mg/ha, those of poor labels 80.
    assert max(weighed.margins) < 0.5 * min(plain.margins)
    assert min(weighed.margins) > 10
    assert weighed.effective == pytest.approx(40, abs=0.1)  # all units are alike
    assert "labels weighed by their standard errors (worth 40 of equal weight" in str(
        weighed
    )
    assert "effective" not in plain.to_dict()
    for one in (plain, weighed):
        assert Calibration.from_dict(one.to_dict()) == one


def test_units_that_are_worth_too_little_are_refused() -> None:
    units = units_with((1.0, 1.0), 12)
    for number, unit in enumerate(units):
        errors = np.full(6, 1.0 if number < 4 else 3000.0)
        units[number] = Unit(unit.values, unit.observed, str(number // 2), errors)
    calibrate([Unit(u.values, u.observed, u.group) for u in units], 0.9, [])
    said = r"needs at least 9 .* got 12, which are worth 4(\.\d+)? of equal"
    with pytest.raises(ValueError, match=said):
        calibrate(units, 0.9, [])
    # Groups are worth too little, and chips are not.
    by_chip = calibrate(units, 0.7, [], groups="region")
    assert by_chip.kind == "chips"
    plain = [Unit(u.values, u.observed, u.group) for u in units]
    assert calibrate(plain, 0.7, [], groups="region").kind == "groups"


def test_weights_that_are_worth_too_little_are_refused_before_training(
    cube: xr.Dataset,
) -> None:
    # Two blocks have labels of weight 1, eight hardly any.
    where = np.repeat(np.arange(10), 3)
    weights = np.where(where < 2, 1.0, 1e-6)
    recipe = find_recipe("pixels", interval=0.9)
    said = "got 10, which are worth 2 of equal weight"
    with pytest.raises(gb.CubeError, match=said):
        check_rows_worth(where, weights, recipe)
    check_rows_worth(where, np.ones(30), recipe)
    # A network's labels are read for it: of four blocks one has exact labels.
    windows = even_blocks(48, 48, 24)
    samples = [Sample(window, None) for window in windows]
    errors = cube["agb_se"].where(cube["agb_se"].isnull(), np.float32(5000))
    errors[:24, :24] = errors[:24, :24].where(errors[:24, :24].isnull(), np.float32(1))
    reader = LabelledCube.open(cube.assign(agb_se=errors)).reader
    weigh = LabelWeights(unexplained=900.0, scale=1.0, middle=1.0, labels=4)
    with pytest.raises(gb.CubeError, match="got 4, which are worth 1 of equal"):
        check_worth(reader, samples, weigh, 0.75)
    check_worth(LabelledCube.open(cube).reader, samples, weigh, 0.75)


def test_the_command_says_what_labels_are_worth() -> None:
    said = "Labels weigh by their standard errors: they are worth 3 labels"
    assert said in in_short(tallied(weigh=True))
    assert "weigh" not in in_short(tallied(weigh=False))


# --- in a model ---


@pytest.fixture(scope="module")
def cube() -> xr.Dataset:
    """Return a scene whose labels have standard errors of 1 or 60 Mg/ha.

    Beside these errors, 30 Mg/ha of the labels are not seen in the image.
    """
    made = gb.landscape(48, months=2, seed=3).isel(band=[0, 2, 6, 10]).load()
    draw = np.random.default_rng(0)
    seen = made["image"][0, 2].values
    errors = draw.choice([1.0, 60.0], seen.shape)
    values = 250 + 40 * seen / seen.mean() + draw.normal(0, 30, seen.shape)
    values += draw.normal(0, errors)
    at = draw.random(seen.shape) < 0.15
    layers = {"agb": values, "agb_se": errors}
    return made.assign(
        {
            name: made["agb"].copy(data=np.where(at, layer, np.nan).astype(np.float32))
            for name, layer in layers.items()
        }
    )


@pytest.fixture(scope="module")
def model(cube: xr.Dataset) -> Any:
    return gb.fit(cube, "pixels", label_errors=True, **(FAST | INTERVAL))


def test_a_fit_weighs_its_validation_and_its_interval(
    cube: xr.Dataset, model: Any, tmp_path: Path
) -> None:
    plain = gb.fit(cube, "pixels", label_errors=False, **(FAST | INTERVAL))
    none = gb.fit(cube.drop_vars("agb_se"), "pixels", **(FAST | INTERVAL))
    assert model.calibration.effective is not None
    assert plain.calibration == none.calibration
    before = none.provenance["validation"]["all"]
    after = plain.provenance["validation"]["all"]
    assert before == {name: after[name] for name in before}
    assert set(after) - set(before) == {"label_error", "rmse_without_label_error"}
    assert after["label_error"] == pytest.approx(60 / 2**0.5, rel=0.1)
    own = model.provenance["validation"]["all"]
    assert own["label_error"] < 0.7 * after["label_error"]
    assert max(model.calibration.margins) < max(plain.calibration.margins)
    model.save(tmp_path / "model")
    card = (tmp_path / "model" / "README.md").read_text()
    assert "the interval if there is one, weigh labels in the same way" in card
    assert "whose standard errors are" in card
    assert gb.load(tmp_path / "model").calibration == model.calibration


@pytest.mark.filterwarnings("ignore:.*trained the model")
def test_evaluate_weighs_as_the_recipe_says_or_as_it_is_asked(
    cube: xr.Dataset, model: Any
) -> None:
    with_errors = cube.isel(y=slice(0, 24))  # not the training cube as a whole
    weighed = model.evaluate(with_errors, bootstrap=0, check="off")
    assert weighed.attrs[FACTS]["weighed"]
    off = model.evaluate(with_errors, label_errors=False, bootstrap=20, check="off")
    assert not off.attrs[FACTS]["weighed"]
    assert weighed.loc["all", "pixel_rmse"] != off.loc["all", "pixel_rmse"]
    bare = with_errors.drop_vars("agb_se")
    plain = model.evaluate(bare, bootstrap=20, check="off")
    pd.testing.assert_frame_equal(off[plain.columns], plain, check_exact=True)
    assert "label_error" not in plain
    with pytest.warns(UserWarning, match="label_errors=True has no effect"):
        model.evaluate(bare, label_errors=True, bootstrap=0, check="off")
    seen = model.evaluate(cube, bootstrap=0, check="off")
    assert np.isnan(seen.loc["all", "rmse_without_label_error"])
    assert "not independent" in seen.attrs[FACTS]


def test_a_model_is_calibrated_on_labels_that_weigh(
    cube: xr.Dataset, model: Any
) -> None:
    import copy

    part = cube.isel(x=slice(0, 36))
    found = {}
    for weighs in (None, True, False):
        other = copy.copy(model)
        other.calibrate(part, 0.8, unit=12, label_errors=weighs)
        found[weighs] = other.calibration
    assert found[None] == found[True]
    assert found[None].effective is not None
    assert found[False].effective is None
    bare = copy.copy(model).calibrate(part.drop_vars("agb_se"), 0.8, unit=12)
    assert bare.calibration == found[False]


def test_a_cross_validation_weighs_too(cube: xr.Dataset) -> None:
    settings = FAST | {"learner": Ridge(), "domain_cells": 0}
    settings |= {"block": 12, "label_errors": True}
    held = gb.cross_validate(cube, "pixels", 2, **settings)
    table = held.evaluate("fold", bootstrap=0)
    assert table.attrs[FACTS]["weighed"]
    off = held.evaluate("fold", bootstrap=0, label_errors=False)
    assert (table["label_error"] < off["label_error"]).all()
    assert table["pixels"].tolist() == off["pixels"].tolist()


def test_the_validation_of_a_network_has_the_errors_of_labels(cube: xr.Dataset) -> None:
    recipe = find_recipe("quick", crop=12, block=12, encoder="test_resnet")
    recipe = recipe.with_changes(decoder_channels=(8,) * 5)
    data = LabelledCube.open(cube)
    loader = make_loaders(data, recipe).validation
    assert loader is not None
    network = untrained(cube, recipe).network
    errors = np.concatenate(
        [
            data.reader.errors(s)[np.isfinite(data.reader.labels(s))]
            for s in loader.samples
        ]
    )
    plain = validation_by_bin(network, loader, target=AGB)
    assert plain.loc["all", "pixels"] == len(errors)
    assert plain.loc["all", "label_error"] == pytest.approx(
        np.sqrt(np.mean(errors.astype(np.float64) ** 2)), rel=1e-6
    )
    weighed = validation_by_bin(network, loader, target=AGB, weigh=True)
    assert weighed.loc["all", "label_error"] < plain.loc["all", "label_error"]
    bare = LabelledCube.open(cube.drop_vars("agb_se"))
    other = make_loaders(bare, recipe).validation
    assert other is not None
    before = validation_by_bin(network, other, target=AGB)
    pd.testing.assert_frame_equal(plain[before.columns], before, check_exact=True)


# --- bad errors ---


def test_errors_of_other_labels_are_one_sentence(cube: xr.Dataset, model: Any) -> None:
    moved = cube["agb"].shift(x=1)
    stale = cube.assign(agb=moved)
    said = r"labels without an error and .* as where 'agb' was replaced; give both"
    with pytest.raises(gb.CubeError, match=said):
        gb.fit(stale, "pixels", **(FAST | {"block": 12}))
    with pytest.raises(gb.CubeError, match=said):
        model.evaluate(stale, check="off")
    # Fewer labels, or errors everywhere, are no contradiction.
    high = cube["agb"] > 290
    fewer = cube.assign(agb=cube["agb"].where(high))
    lacking = cube.assign(agb_se=cube["agb_se"].where(high))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.evaluate(fewer, check="off", bootstrap=0)
        table = model.evaluate(lacking, check="off", bootstrap=0)
    assert table.attrs[FACTS]["without an error"] > 0


@pytest.mark.parametrize("kind", ["cube", "layers"])
def test_errors_that_state_other_units_are_converted(
    kind: str, cube: xr.Dataset
) -> None:
    errors = cube["agb_se"]
    stated = cube.assign(agb=cube["agb"].assign_attrs(units="Mg/ha"))
    if kind == "layers":
        bands = {
            str(b): cube["image"].sel(band=b, drop=True) for b in cube["band"].values
        }
        stated = xr.Dataset(bands | {"agb": stated["agb"]})

    def found(errors: xr.DataArray) -> xr.DataArray:
        return gb.as_cube(stated.assign(agb_se=errors))["agb_se"]

    lighter = (errors / 10).assign_attrs(units="kg/m2")
    np.testing.assert_allclose(found(lighter), errors, rtol=1e-6)
    assert found(lighter).attrs["units"] == "Mg/ha"
    np.testing.assert_array_equal(found(errors.assign_attrs(units="Mg/ha")), errors)
    np.testing.assert_array_equal(found(errors.assign_attrs(units="")), errors)
    with pytest.raises(gb.CubeError, match=r"units of the labels, Mg/ha, got '%'"):
        found(errors.assign_attrs(units="%"))


@pytest.mark.filterwarnings("ignore:The data type:UserWarning")
@pytest.mark.filterwarnings("ignore:.*Zarr V3 specification")
def test_errors_stored_by_others_are_checked_when_they_are_used(
    cube: xr.Dataset, model: Any, tmp_path: Path
) -> None:
    for number, wrong in enumerate((-2.0, np.inf)):
        errors = cube["agb_se"].where(cube["agb_se"].isnull(), np.float32(wrong))
        path = tmp_path / f"{number}.zarr"
        cube.assign(agb_se=errors).drop_encoding().to_zarr(path, consolidated=False)
        stored = gb.open_cube(path)
        with pytest.raises(gb.CubeError, match=f"not below 0, got {wrong:g} at"):
            model.evaluate(stored, check="off")


# --- the audit ---


def test_an_audit_converts_the_errors_of_labels(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cube = gb.landscape(24, months=1, seed=1).isel(band=[0, 2]).load()
    labels = np.full((24, 24), np.nan, np.float32)
    # All are predicted as 100 Mg/ha. 40 labels are 10 Mg/ha off, two are 100.
    labels[0, :20], labels[1, :20], labels[2, :2] = 9.0, 11.0, 20.0
    errors = np.where(np.isfinite(labels), np.float32(0), np.float32(np.nan))
    errors[2, :2] = 3.0, 1.0
    units = {"units": "kg/m2"}
    cube["agb"] = cube["agb"].copy(data=labels).assign_attrs(units)
    cube["agb_se"] = cube["agb"].copy(data=errors)
    predictions = xr.Dataset({"agb": xr.full_like(cube["agb"], 100.0)})
    predictions["agb"].attrs["units"] = "Mg/ha"
    held = SimpleNamespace(
        predictions=predictions,
        cube=cube,
        pixel=(10.0, 10.0),
        model=SimpleNamespace(target=AGB),
    )
    monkeypatch.setattr(label_audit, "_held_out", lambda *_: held)
    found = gb.labels.audit(None, threshold=0.5)
    table = found.table.set_index(["row", "column"])
    # The median of the 42 differences is 10, the median distance from it 20.
    usual = 1.4826 * 20
    poor, good = (90 / np.hypot(usual, se) for se in (30, 10))
    assert table.loc[(2, 0), "score"] == pytest.approx(poor, rel=1e-4)
    assert table.loc[(2, 1), "score"] == pytest.approx(good, rel=1e-4)
    assert table.loc[(2, 0), "difference"] == pytest.approx(100)
