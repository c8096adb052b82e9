"""Metrics and their intervals: against scikit-learn, and by simulation."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import xarray as xr
from conftest import make_chips, make_scene
from sklearn.metrics import (
    mean_absolute_error,
    r2_score,
    root_mean_squared_error,
)

import geobiomass as gb
from geobiomass import plots
from geobiomass.data.reader import Reader, Sample
from geobiomass.evaluation import metrics as evaluation
from geobiomass.evaluation.metrics import Bins, Tally, months_seen
from geobiomass.inference.steps import Attributes
from geobiomass.models.fit_members import untrained

NAMES = ("average_rmse", "pixel_rmse", "mae", "bias", "r2")


def drawn(units: int = 30, side: int = 8, seed: int = 0) -> list[tuple[Any, Any]]:
    """Return predictions and observations by unit, with similar errors in a unit."""
    draw = np.random.default_rng(seed)
    parts = []
    for _ in range(units):
        observed = draw.gamma(2, 60, (side, side))
        error = draw.normal(0, 20) + draw.normal(0, 10, (side, side))
        parts.append((observed + error, observed))
    return parts


def tallied(parts: list[tuple[Any, Any]], **settings: Any) -> Any:
    tally = Tally()
    for predicted, observed in parts:
        tally.add(predicted, observed)
    return tally.table(**settings)


def test_metrics_are_scikit_learns() -> None:
    parts = drawn()
    table = tallied(parts)
    found, truth = (np.concatenate([p[i].ravel() for p in parts]) for i in (0, 1))
    row = table.loc["all"]
    assert row["pixels"] == truth.size
    assert row["pixel_rmse"] == pytest.approx(root_mean_squared_error(truth, found))
    assert row["mae"] == pytest.approx(mean_absolute_error(truth, found))
    assert row["r2"] == pytest.approx(r2_score(truth, found))
    assert row["bias"] == pytest.approx((found - truth).mean())
    each = [root_mean_squared_error(t.ravel(), f.ravel()) for f, t in parts]
    assert row["average_rmse"] == pytest.approx(np.mean(each))
    inside = (truth >= 100) & (truth < 150)
    of_bin = table.loc["100-150"]
    assert of_bin["pixels"] == inside.sum()
    expected = root_mean_squared_error(truth[inside], found[inside])
    assert of_bin["pixel_rmse"] == pytest.approx(expected)
    assert table["r2"].isna().tolist() == [False] + [True] * 7
    assert not [name for name in table if name.endswith("_lower")]


@pytest.mark.slow
def test_the_bootstrap_is_that_of_drawing_whole_units() -> None:
    parts = drawn(12, 4)
    table = tallied(parts, confidence=0.8, bootstrap=4000)
    draw = np.random.default_rng(5)
    samples: dict[str, list[float]] = {name: [] for name in NAMES}
    for _ in range(1500):
        chosen = [parts[i] for i in draw.integers(12, size=12)]
        again = tallied(chosen).loc["all"]
        for name in NAMES:
            samples[name].append(again[name])
    for name in NAMES:
        ends = table.loc["all", [f"{name}_lower", f"{name}_upper"]].tolist()
        assert ends[0] < table.loc["all", name] < ends[1]
        spread = np.std(samples[name])
        np.testing.assert_allclose(
            ends, np.quantile(samples[name], [0.1, 0.9]), atol=0.15 * spread
        )


@pytest.mark.slow
def test_intervals_over_units_cover_and_over_pixels_would_not() -> None:
    runs, covered, of_pixels = 200, {"bias": 0, "pixel_rmse": 0}, 0
    truth = {"bias": 0.0, "pixel_rmse": np.sqrt(20**2 + 10**2)}
    for seed in range(runs):
        parts = drawn(40, 6, seed)
        row = tallied(parts, bootstrap=400).loc["all"]
        for name, value in truth.items():
            covered[name] += row[f"{name}_lower"] <= value <= row[f"{name}_upper"]
        errors = np.concatenate([(f - t).ravel() for f, t in parts])
        of_pixels += abs(errors.mean()) <= 1.96 * errors.std() / np.sqrt(errors.size)
    # 40 units: percentile intervals are a little narrow, by theory and here.
    assert 0.90 <= covered["bias"] / runs <= 0.99
    assert 0.87 <= covered["pixel_rmse"] / runs <= 0.99
    assert of_pixels / runs < 0.5


def test_one_unit_has_no_interval_and_the_same_seed_the_same() -> None:
    parts = drawn(3)
    one = tallied(parts[:1], bootstrap=50)
    assert one.filter(like="_lower").isna().all().all()
    three = tallied(parts, bootstrap=50)
    assert three.equals(tallied(parts, bootstrap=50))
    assert three.filter(like="bias_").loc["all"].notna().all()
    # A bin with pixels of a single unit does not show how units differ.
    lonely = [(o + 1, o) for o in (np.full((2, 2), 20.0), np.full((2, 2), 220.0))]
    table = tallied(lonely, bootstrap=50)
    assert table.loc["0-50"].filter(like="_lower").isna().all()


def test_parts_of_a_unit_are_drawn_together() -> None:
    parts = drawn(6, 4)
    tally = Tally()
    for number, (predicted, observed) in enumerate(parts):
        tally.add(predicted, observed, unit=number // 3)
    together, apart = tally.table(bootstrap=500), tallied(parts, bootstrap=500)
    np.testing.assert_allclose(together[apart.columns[:8]], apart.iloc[:, :8])
    # Two units, so three samples: each end is one of the units.
    ends = [
        tallied(parts[:3]).loc["all", "bias"],
        tallied(parts[3:]).loc["all", "bias"],
    ]
    assert together.loc["all", "bias_lower"] == pytest.approx(min(ends))
    assert together.loc["all", "bias_upper"] == pytest.approx(max(ends))


def test_units_without_number_take_no_memory_without_bound(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(evaluation, "MOST_UNITS", 16)
    parts = drawn(100, 2)
    tally = Tally()
    for number, (predicted, observed) in enumerate(parts):
        tally.add(predicted, observed, unit=number)
    assert len(tally._sums) <= 16
    table = tally.table(bootstrap=300)
    monkeypatch.undo()
    expected = tallied(parts, bootstrap=300)
    np.testing.assert_allclose(table.iloc[:, :8], expected.iloc[:, :8])
    width, other = (
        float(t.loc["all", "bias_upper"] - t.loc["all", "bias_lower"])
        for t in (table, expected)
    )
    assert width == pytest.approx(other, rel=0.5)


def test_months_are_counted_by_what_a_pixel_has() -> None:
    assert Bins("months", 12).names == ["all", "12", "9-11", "5-8", "1-4"]
    assert Bins("months", 4).names == ["all", "4", "3", "2", "1"]
    assert Bins("months", 1).names == ["all", "1"]
    for months in range(1, 25):
        seen = np.arange(1, months + 1)
        rows = Bins("months", months).of(seen, seen, seen)
        assert rows.min() == 1
        assert len(set(rows)) == len(Bins("months", months).names) - 1
        assert (np.diff(rows) <= 0).all()
    scene = make_scene(48, 40)
    scene["image"][0, :, :10] = np.nan
    scene["image"][:, :, :4, :4] = np.nan
    reader = Reader(scene, ["VV_asc", "B04", "B08"])
    counted = months_seen(reader, Sample(reader.whole))
    expected = np.full((48, 40), 3)
    expected[:10] = 2
    expected[:4, :4] = 0
    np.testing.assert_array_equal(counted, expected)
    model = untrained(scene, "quick")
    table = model.evaluate(scene, 64, 0, by="months")
    assert table.index.name == "months"
    assert table["pixels"].to_dict() == {
        "all": 48 * 40 - 16,
        "3": 38 * 40,
        "2": 10 * 40 - 16,
        "1": 0,
    }
    found = model.predict(scene, 64, 0).agb.values[:10]
    error = found - scene.agb.values[:10]
    assert table.loc["2", "bias"] == pytest.approx(np.nanmean(error), rel=1e-5)


class PlusMinus:
    """A step that adds an interval of fixed width on both sides."""

    def __init__(self, half: float) -> None:
        self.half = half

    def layers(self, layers: Any) -> dict[str, Attributes]:
        return {**layers, "agb_lower": {}, "agb_upper": {}}

    def apply(self, values: Any) -> dict[str, Any]:
        agb = values["agb"]
        ends = {"agb_lower": agb - self.half, "agb_upper": agb + self.half}
        return {**values, **ends}

    def values_depend_on(self) -> dict[str, Any]:
        return {"half": self.half}


def with_interval(model: Any, half: float = 40.0) -> Any:
    model._steps = lambda: (PlusMinus(half),)
    return model


def test_coverage_and_width_come_along_where_there_is_an_interval() -> None:
    chips = make_chips(5)
    model = with_interval(untrained(chips, "quick"))
    table = model.evaluate(chips, 32, 0, bootstrap=300)
    covered = abs(model.predict(chips, 32, 0).agb.values - chips.agb.values) <= 40
    assert table.loc["all", "coverage"] == pytest.approx(covered.mean())
    np.testing.assert_allclose(table["width"].dropna(), 80, rtol=1e-5)
    low = chips.agb.values < 50
    assert table.loc["0-50", "coverage"] == pytest.approx(covered[low].mean())
    row = table.loc["all"]
    assert row["coverage_lower"] < row["coverage"] < row["coverage_upper"]
    assert "width_lower" not in table
    by_class = model.evaluate(chips, 32, 0, by="predicted")
    found = model.predict(chips, 32, 0).agb.values
    assert by_class.loc["0-50", "pixels"] == (found < 50).sum()


def test_evaluate_draws_chips_and_refuses_nonsense() -> None:
    chips = make_chips(4)
    model = untrained(chips, "quick")
    table = model.evaluate(chips, 32, 0)
    maps = model.predict(chips, 32, 0).agb.values.astype(float)
    parts = list(zip(maps, chips.agb.values.astype(float), strict=True))
    xr.testing.assert_allclose(
        table.to_xarray(), tallied(parts, bootstrap=1000).to_xarray()
    )
    assert len(table.columns) == 8 + 2 * len(NAMES)
    plain = model.evaluate(chips, 32, 0, bootstrap=0)
    assert list(plain.columns) == list(table.columns[:8])
    for settings, said in (
        ({"by": "species"}, "by must be one of"),
        ({"confidence": 95}, "confidence must be above 0 and below 1, got 95"),
        ({"bootstrap": -1}, "bootstrap must be a number of samples, 0 or more, got -1"),
    ):
        with pytest.raises(ValueError, match=said):
            model.evaluate(chips, 32, 0, **settings)


def test_intervals_become_error_bars() -> None:
    from matplotlib.figure import Figure

    table = tallied(drawn(), bootstrap=50)
    axes = plots.error_by_bin(table, ax=Figure().subplots())
    assert len(axes.containers) == 4  # bars and their whiskers
    plain = plots.error_by_bin(tallied(drawn()), ax=Figure().subplots())
    assert len(plain.containers) == 2


def test_folds_are_drawn() -> None:
    from matplotlib.figure import Figure

    scene = make_scene(64, 64)
    folds = gb.make_folds(scene, 2, block=32, buffer=4)
    axes = plots.folds(scene, folds, Figure().subplots())
    assert set(np.unique(axes.images[0].get_array())) == {1, 2}
    assert axes.get_title() == "2 folds of blocks of 32 pixels"
    axes = plots.folds(scene, folds[1], Figure().subplots())
    pixels = np.asarray(axes.images[0].get_array())
    assert (pixels == 2).sum() == folds.table["labelled_pixels"][1]
    assert (pixels == 1).any()
    chips = make_chips(2)
    with pytest.raises(ValueError, match="chips, which have no coordinates"):
        plots.folds(chips, gb.make_folds(chips, 2))
