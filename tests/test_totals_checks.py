"""Checks of totals: a fault has its verdict, and clean draws have none.

The faults are those of an audit: each gave a total with an empty note before.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import rioxarray  # noqa: F401  (the .rio accessor)
import xarray as xr
from typer.testing import CliRunner

import geobiomass as gb
from benchmarks.error_fields import blocks, field, residuals
from geobiomass.accounting.error_model import ErrorModel, fit_error_model
from geobiomass.cli import app
from geobiomass.statistics.variogram import Variogram

X, Y, SIDE = 500_000.0, 6_800_000.0, 100  # a map of 100 x 100 pixels of 10 m


def as_map(values: np.ndarray) -> xr.Dataset:
    y, x = Y - 10 * (np.arange(SIDE) + 0.5), X + 10 * (np.arange(SIDE) + 0.5)
    made = xr.Dataset({"agb": (("y", "x"), values)}, {"y": y, "x": x})
    return made.rio.write_crs("EPSG:32635")


@pytest.fixture(scope="module")
def values() -> np.ndarray:
    return 120 + 40 * np.random.default_rng(0).standard_normal((SIDE, SIDE))


def at(values: np.ndarray, column: Any, row: Any, noise: float = 20) -> pd.DataFrame:
    """Return plots at pixels, below the map by 10 and with noise."""
    column, row = np.asarray(column, float), np.asarray(row, float)
    random = np.random.default_rng(5)
    agb = values[row.astype(int), column.astype(int)] - 10
    agb = np.maximum(agb + random.normal(0, noise, agb.size), 1)
    return pd.DataFrame({"x": X + 10 * column, "y": Y - 10 * row, "agb": agb})


def drawn(values: np.ndarray, n: int = 40, seed: int = 1) -> pd.DataFrame:
    return at(values, *np.random.default_rng(seed).uniform(0, SIDE, (2, n)))


def totals(*given: Any, **settings: Any) -> pd.DataFrame:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*have no value in")
        return gb.totals(*given, progress=False, **settings)


def verdicts(table: pd.DataFrame) -> dict[str, str]:
    """Return the verdicts of the checks that are not ok."""
    found = table.attrs["checks"]
    return {c["check"]: c["verdict"] for c in found if c["verdict"] != "ok"}


# --- plots ---


def test_a_clean_sample_is_ok(values: np.ndarray) -> None:
    table = totals(as_map(values), None, drawn(values), estimator="all")
    assert verdicts(table) == {}
    assert (table["note"] == "").all()
    assert (table["verdict"] == "ok").all()
    assert np.isfinite(table["total_lower"]).all()


def repeated(plots: pd.DataFrame) -> pd.DataFrame:
    return pd.concat([plots] * 3)


def silent(plots: pd.DataFrame) -> pd.DataFrame:
    return plots.assign(agb=plots["agb"].where(np.arange(len(plots)) % 2 == 0))


def of_zeros(plots: pd.DataFrame) -> pd.DataFrame:
    return plots.assign(agb=0.0)


def few_forests(plots: pd.DataFrame) -> pd.DataFrame:
    return plots.assign(agb=plots["agb"].where(np.arange(len(plots)) < 3, 0.0))


def in_kilograms(plots: pd.DataFrame) -> pd.DataFrame:
    return plots.assign(agb=plots["agb"] / 10)


def of_carbon(plots: pd.DataFrame) -> pd.DataFrame:
    return plots.assign(agb=plots["agb"] * 0.47)


def skewed(plots: pd.DataFrame) -> pd.DataFrame:
    tall = np.random.default_rng(2).lognormal(0, 1.4, len(plots))
    return plots.assign(agb=plots["agb"] * tall)


FAULTS = {
    "repeated": (repeated, "plots at equal places", "broken"),
    "nonresponse": (silent, "nonresponse", "broken"),
    "zeros": (of_zeros, "zeros", "doubtful"),
    "few that are not 0": (few_forests, "zeros", "doubtful"),
    "kg/m2": (in_kilograms, "units", "broken"),
    "carbon": (of_carbon, "units", "doubtful"),
    "skewed": (skewed, "skewness", "doubtful"),
    "few": (lambda plots: plots.iloc[:8], "number of plots", "doubtful"),
}


@pytest.mark.parametrize("name", list(FAULTS))
def test_a_fault_of_plots_has_its_verdict(name: str, values: np.ndarray) -> None:
    change, check, verdict = FAULTS[name]
    # Hall's interval, which "auto" takes, allows for skewness.
    rule = "t" if name == "skewed" else "auto"
    table = totals(as_map(values), None, change(drawn(values)), interval=rule)
    assert verdicts(table)[check] == verdict
    row = table.iloc[0]
    assert np.isfinite(row["total"])
    words = next(c["words"] for c in table.attrs["checks"] if c["check"] == check)
    assert words in row["note"]
    if verdict == "broken":
        assert row["verdict"] == "broken"
        assert row["note"].startswith("no interval: ")
        ends = ("_se", "_lower", "_upper")
        gone = [f"{of}{end}" for of in ("mean", "total") for end in ends]
        assert row[[*gone, "carbon_lower", "carbon_upper"]].isna().all()
        forced = totals(as_map(values), None, change(drawn(values)), force=True)
        assert forced.iloc[0]["verdict"] == "forced"
        assert words in forced.iloc[0]["note"]
        assert np.isfinite(forced.iloc[0]["total_lower"])
    else:
        assert row["verdict"] == "doubtful"
        assert np.isfinite(row["total_lower"])


def test_skewness_is_told_of_students_interval_only(values: np.ndarray) -> None:
    table = totals(as_map(values), None, skewed(drawn(values)))
    assert table["interval"].item() == "Hall"
    assert "skewness" not in verdicts(table)


@pytest.mark.parametrize("change", [lambda p: p.iloc[:5], lambda p: p.assign(agb=99.0)])
@pytest.mark.parametrize("force", [False, True])
def test_what_the_rule_of_intervals_refuses_is_broken_and_cannot_be_forced(
    change: Any, force: bool, values: np.ndarray
) -> None:
    plots = change(drawn(values))
    settings = {"carbon": "ipcc 2006", "model_error": 0.05, "deduction": "FCPF"}
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        table = totals(as_map(values), None, plots, force=force, **settings)
    row = table.iloc[0]
    assert (row["interval"], row["verdict"]) == ("none", "broken")
    assert verdicts(table)["width of the interval"] == "broken"
    assert np.isfinite(row[["total", "carbon", "co2e"]].astype(float)).all()
    names = [f"{of}{end}" for of in ("total", "co2e") for end in ("_lower", "_upper")]
    names += ["total_half_width_90_percent", "carbon_half_width_95_percent"]
    assert row[[*names, "deduction_percent"]].isna().all()
    words = next(
        c["words"] for c in table.attrs["checks"] if c["check"].startswith("width")
    )
    assert row["note"].count(words) == 1


def test_a_sum_of_regions_without_biomass_is_not_below_zero(
    values: np.ndarray,
) -> None:
    middle, top = X + 5 * SIDE, Y - 10 * SIDE
    halves = {"west": (X, top, middle, Y), "east": (middle, top, X + 10 * SIDE, Y)}
    table = totals(as_map(values), halves, of_zeros(drawn(values)), estimator="all")
    assert (table["interval"] == "all zero").all()
    whole = gb.accounting.combine_regions(table)
    assert list(whole["method"]) == ["plots", "difference", "regression"]
    assert (whole["total_lower"] == 0).all()
    # Both bounds are exact: that of the sum is below their sum, and above each.
    plots = table[table["method"] == "plots"]["total_upper"]
    assert plots.max() < whole["total_upper"].iloc[0] < plots.sum()
    mixed = table.iloc[[0, 4]]  # as "auto" may have it: one row for each region
    mixed.attrs = table.attrs
    assert gb.accounting.combine_regions(mixed)["method"].item() == (
        "plots and difference"
    )


def test_subplots_of_clusters_are_not_too_close(values: np.ndarray) -> None:
    centres = drawn(values, 20).assign(tract=np.arange(20))
    near = centres.assign(x=centres["x"] + 2)
    both = pd.concat([centres, near])
    assert verdicts(totals(as_map(values), None, both))["plots apart"] == "broken"
    table = totals(as_map(values), None, both, cluster="tract")
    assert "plots apart" not in verdicts(table)


def test_plots_that_the_map_has_learnt(values: np.ndarray) -> None:
    plots = drawn(values)
    shown = values.copy()
    row = ((Y - plots["y"]) // 10).astype(int), ((plots["x"] - X) // 10).astype(int)
    shown[row] = plots["agb"]
    found = verdicts(totals(as_map(shown), None, plots))
    assert found["plots are new to the map"] == "broken"
    alone = totals(as_map(shown), None, plots, estimator="plots")
    assert "plots are new to the map" not in verdicts(alone)  # the map is not used
    shown[row] = plots["agb"] + np.random.default_rng(0).normal(0, 2, len(plots))
    found = verdicts(totals(as_map(shown), None, plots))
    assert found["plots are new to the map"] == "doubtful"


def test_clusters_are_seen_and_grids_and_strata_are_not(values: np.ndarray) -> None:
    random = np.random.default_rng(3)
    column, row = random.uniform(2, SIDE - 6, (2, 12))
    four = [(0, 0), (3, 0), (0, 3), (3, 3)]
    clusters = at(
        values,
        np.concatenate([column + right for right, _ in four]),
        np.concatenate([row + down for _, down in four]),
    )
    found = totals(as_map(values), None, clusters)
    assert verdicts(found)["plots apart"] == "broken"
    assert "clusters of plots are one unit each" in found.iloc[0]["note"]
    grid = np.meshgrid(np.arange(7, SIDE, 15.0), np.arange(4, SIDE, 15.0))
    even = totals(as_map(values), None, at(values, *(axis.ravel() for axis in grid)))
    assert "plots apart" not in verdicts(even)
    figures = {c["check"]: c["figure"] for c in even.attrs["checks"]}
    assert figures["plots apart"] > 1.7
    # Half of the plots in a small part of the region: a stratum, if the user says so.
    strata = np.ones((SIDE, SIDE))
    strata[:20, :20] = 2
    narrow = at(values, random.uniform(0, 20, 30), random.uniform(0, 20, 30))
    wide = at(values, random.uniform(20, SIDE, 30), random.uniform(0, SIDE, 30))
    both = pd.concat([narrow, wide])
    assert "plots apart" in verdicts(totals(as_map(values), None, both))
    kinds = as_map(strata).agb
    assert verdicts(totals(as_map(values), None, both, strata=kinds)) == {}


def test_plots_that_are_no_random_sample_of_the_map(values: np.ndarray) -> None:
    """Tall forest along a road: the plots agree with each other and not with it."""
    rising = values + 2 * np.arange(SIDE)
    random = np.random.default_rng(4)
    road = random.uniform(75, SIDE, 40), random.uniform(0, SIDE, 40)
    found = verdicts(totals(as_map(rising), None, at(rising, *road)))
    # Plots in a quarter of the region are also closer than random ones.
    assert found["plots are like the region"] == "doubtful"
    assert found["plots apart"] in ("doubtful", "broken")
    assert found["range of plots"] == "doubtful"
    weights = np.random.default_rng(0).uniform(0, 1, 4000)
    chosen = at(rising, *np.random.default_rng(7).uniform(0, SIDE, (2, 4000)))
    height = rising[
        ((Y - chosen["y"]) // 10).astype(int), ((chosen["x"] - X) // 10).astype(int)
    ]
    chance = np.clip(height / 500, 0.05, 1)
    sample = chosen.assign(chance=chance)[weights < chance].iloc[:150]
    assert "plots are like the region" in verdicts(totals(as_map(rising), None, sample))
    known = totals(as_map(rising), None, sample, probability="chance")
    assert "plots are like the region" not in verdicts(known)


def test_strata_of_another_area_or_without_plots(values: np.ndarray) -> None:
    plots = drawn(values)
    plots["kind"] = np.where(plots["x"] < X + 500, "west", "east")
    for factor, verdict in ((1, None), (1.05, "doubtful"), (50, "broken")):
        hectares = {"west": 50.0 * factor, "east": 50.0 * factor}
        table = totals(as_map(values), None, plots, strata=hectares, stratum="kind")
        assert verdicts(table).get("hectares of strata") == verdict
    hectares = {"west": 50.0, "east": 50.0, "bog": 0.1}
    table = totals(as_map(values), None, plots, strata=hectares, stratum="kind")
    assert verdicts(table)["strata with plots"] == "broken"
    row = table.iloc[0]
    assert row["verdict"] == "no estimate"
    assert row["note"].count("no plots in stratum bog") == 1


def test_map_and_plots_of_different_years(values: np.ndarray) -> None:
    data = as_map(values).assign_attrs(
        time_coverage_start="2023-01-01", time_coverage_end="2023-12-31"
    )
    for dates, verdict in (
        ({"year": 2022}, None),
        ({"year": 2015}, "doubtful"),
        ({"date": "2016-07-01"}, "doubtful"),
        ({"date": "last summer"}, None),
    ):
        found = totals(data, None, drawn(values).assign(**dates))
        assert verdicts(found).get("years") == verdict
    assert np.isfinite(found.iloc[0]["total_lower"])


def test_plots_that_are_small_parts_of_pixels(values: np.ndarray) -> None:
    found = totals(as_map(values), None, drawn(values), radius=1)
    assert verdicts(found) == {"size of plots": "doubtful"}
    assert verdicts(totals(as_map(values), None, drawn(values), radius=5)) == {}


def test_checks_do_not_depend_on_blocks(values: np.ndarray) -> None:
    plots = drawn(values, 60)
    one = totals(as_map(values), None, plots)
    other = totals(as_map(values).chunk(y=32, x=32), None, plots)
    for first, second in zip(one.attrs["checks"], other.attrs["checks"], strict=True):
        assert first["verdict"] == second["verdict"]
        if first["figure"] is not None:
            assert second["figure"] == pytest.approx(first["figure"], rel=1e-6)


# --- residuals ---

PIXEL = (10.0, 10.0)


def held_out(seed: int, level: float = 100, units: int | None = None) -> pd.DataFrame:
    shape = (128, 128)
    random = np.random.default_rng(seed)
    z = field(shape, Variogram(0.4, 0.6, 30.0, "exponential"), PIXEL, random)
    predicted = level + 30 * random.standard_normal(shape)
    table = residuals(
        5 + 10 * z, PIXEL, predicted=predicted, unit=blocks(shape, 16), kind="scene"
    )
    if units is not None:
        table = table[table["unit"].isin(table["unit"].unique()[:units])]
    return table


def test_clean_residuals_are_ok(values: np.ndarray) -> None:
    table = totals(as_map(values * 0.5 + 40), residuals=held_out(0))
    assert verdicts(table) == {}
    row = table.iloc[0]
    assert row["beyond_held_out"] == pytest.approx(0, abs=0.1)
    assert np.isfinite(row["total_lower"])


def test_a_region_beyond_the_held_out_predictions(values: np.ndarray) -> None:
    table = totals(as_map(values + 150), residuals=held_out(0))
    names = ("range of predictions", "usual predictions")
    assert verdicts(table) == dict.fromkeys(names, "broken")
    row = table.iloc[0]
    assert row["beyond_held_out"] > 0.7 * row["area"]
    assert "of the region is beyond the held-out predictions" in row["note"]
    assert np.isnan(row["total_lower"])


def model_of(**other: Any) -> ErrorModel:
    """Return errors of 30 units that are ok."""
    lags = pd.DataFrame({"lag": [10.0, 600.0], "semivariance": 1.0, "pairs": 100})
    terms: dict[str, Any] = {
        "centres": (100.0,),
        "biases": (0.0,),
        "spreads": (20.0,),
        "bias_covariance": ((0.0,),),
        "variogram": Variogram(0.5, 0.5, 50, "exponential", lags),
        "units": 30,
        "residuals": 900,
        "held_out": (0.0, 400.0),
        "pixel": PIXEL,
        "unevenness": 1.0,
    }
    return ErrorModel(**(terms | other))


LAGS = pd.DataFrame({"lag": [10.0, 600.0], "semivariance": 1.0, "pairs": 100})


@pytest.mark.parametrize(
    ("other", "check", "verdict"),
    [
        ({}, None, "ok"),
        ({"units": 3}, "held-out units", "broken"),
        ({"units": 6}, "held-out units", "doubtful"),
        ({"places": False}, "held-out land", "doubtful"),
        (
            {"variogram": Variogram(0.1, 0.9, 150, "exponential", LAGS)},
            "range of errors",
            "doubtful",
        ),
        (
            {"variogram": Variogram(0.1, 0.9, 3000, "exponential", LAGS)},
            "range of errors",
            "broken",
        ),
        ({"inflation": 5.0}, "sums of errors", "doubtful"),
        ({"far": 0.02, "inflation": 2.5}, "errors of distant units", "doubtful"),
        ({"far": 0.001, "inflation": 1.5}, "errors of distant units", "doubtful"),
        ({"far": 0.001, "inflation": 2.5}, "errors of distant units", "broken"),
        ({"usual": (0.0, 80.0)}, "usual predictions", "broken"),
        ({"usual": (0.0, 120.0)}, "usual predictions", "doubtful"),
        ({"unevenness": 9.0}, "even spread", "doubtful"),
        ({"pixel": (20.0, 20.0)}, "size of pixels", "doubtful"),
        ({"pixel": (100.0, 100.0)}, "size of pixels", "broken"),
        ({"held_out": (0.0, 120.0)}, "range of predictions", "broken"),
        ({"held_out": (50.0, 400.0)}, "range of predictions", "doubtful"),
    ],
)
def test_a_fault_of_errors_has_its_verdict(
    other: dict[str, Any], check: str | None, verdict: str, values: np.ndarray
) -> None:
    model = ErrorModel.from_dict(json.loads(json.dumps(model_of(**other).to_dict())))
    table = totals(as_map(values), residuals=model)
    assert verdicts(table) == ({} if check is None else {check: verdict})
    assert table.iloc[0]["verdict"] == verdict


def test_an_earlier_error_model_is_checked_as_far_as_it_goes(
    values: np.ndarray,
) -> None:
    model = model_of(held_out=None, pixel=None, unevenness=None)
    assert {"held_out", "pixel", "unevenness"}.isdisjoint(model.to_dict())
    assert ErrorModel.from_dict(model.to_dict()) == model
    table = totals(as_map(values), residuals=model)
    assert verdicts(table) == {}
    words = " ".join(c["words"] for c in table.attrs["checks"])
    assert words.count("not checked: an earlier error model") == 5
    assert table["beyond_held_out"].isna().all()


@pytest.mark.parametrize(
    "changes",
    [{"far": 0.03}, {"directions": 1.4}, {"far": 0.005, "inflation": 2.5}],
)
def test_errors_that_may_reach_further_have_twice_the_spread(
    values: np.ndarray, changes: dict[str, float]
) -> None:
    known = {"far": 0.5, "directions": 1.1, "inflation": changes.get("inflation", 1.0)}
    sure, doubted = (
        totals(as_map(values), residuals=model_of(**each), force=True)
        for each in (known, known | changes)
    )
    assert verdicts(sure) == {}
    assert len(verdicts(doubted)) == 1
    assert doubted["mean"].item() == sure["mean"].item()
    ratio = doubted["mean_se"].item() / sure["mean_se"].item()
    assert 1.5 < ratio <= 2  # the part of the estimated biases stays
    assert "the standard error is doubled" in doubted["note"].item()


def test_errors_that_spread_unevenly() -> None:
    even = fit_error_model(held_out(1), pairs=20_000)
    assert even.unevenness is not None
    assert 0.4 < even.unevenness < 2.5
    table = held_out(1)
    unit, names = pd.factorize(table["unit"])
    factor = np.random.default_rng(0).lognormal(0, 1, len(names))
    error = (table["predicted"] - table["observed"]) * factor[unit]
    attrs = table.attrs
    table = table.assign(observed=table["predicted"] - error)
    table.attrs = attrs
    uneven = fit_error_model(table, pairs=20_000)
    assert uneven.unevenness is not None
    assert uneven.unevenness > 6


# --- in words ---


def test_totals_are_explained(values: np.ndarray) -> None:
    table = totals(as_map(values), None, repeated(drawn(values)), estimator="all")
    text = gb.explain_totals(table)
    lines = text.splitlines()
    assert sum(line.startswith("region (") for line in lines) == 3
    assert "no interval. Verdict: broken." in lines[0]
    assert lines[1].startswith("  broken   plots at equal places: 80 of 120")
    assert lines[-1].startswith("  - that measurements on plots")
    verdict = [line.split()[0] for line in lines[1:] if line.startswith("  ")]
    first = verdict[: verdict.index("ok")]
    assert first == sorted(first)  # broken, then doubtful
    with pytest.raises(ValueError, match=r"needs the table that gb.totals"):
        gb.explain_totals(pd.DataFrame({"total": [1.0]}))


def test_the_command_has_the_rules_and_explains(
    tmp_path: Path, values: np.ndarray
) -> None:
    holes = values.copy()
    holes[:10] = np.nan
    as_map(holes).to_zarr(tmp_path / "map.zarr", zarr_format=3, consolidated=False)
    drawn(values).to_csv(tmp_path / "plots.csv", index=False)
    command = ["totals", str(tmp_path / "map.zarr"), "--plots"]
    command += [str(tmp_path / "plots.csv")]
    result = CliRunner().invoke(app, [*command, "--explain"])
    assert result.exit_code == 0, result.output
    assert "doubtful mapped part: the total is of 90." in result.stdout
    assert "No check can see" in result.stdout
    filled = ["--unmapped", "mean of its stratum", "--force", "--json"]
    result = CliRunner().invoke(app, [*command, *filled])
    assert result.exit_code == 0, result.output
    said = json.loads(result.stdout.splitlines()[-1])
    assert said["unmapped"] == "mean of its stratum"
    assert said["totals"][0]["area"] == pytest.approx(100, rel=2e-3)
    assert {"check", "figure", "verdict", "words"} < set(said["checks"][0])
