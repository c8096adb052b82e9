"""Carbon of totals: factors and their errors, what regions share, deductions."""

import json
import math
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import rioxarray  # noqa: F401  (the .rio accessor)
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st

import geobiomass as gb
from geobiomass.accounting import (
    DEAD_WOOD,
    RULES,
    Carbon,
    Factor,
    ParameterCovariance,
    RootShoot,
    combine_regions,
    half_width_of_change,
)
from geobiomass.accounting.carbon_factors import NAMED
from geobiomass.accounting.shared_error import Estimates
from geobiomass.report import audit

PAGE = Path(__file__).parent.parent / "docs" / "explanation" / "carbon.md"
SIDE, PIXEL = 40, 10.0
WEST = (500_000.0, 5_000_000.0 - SIDE * PIXEL, 500_200.0, 5_000_000.0)
EAST = (500_200.0, 5_000_000.0 - SIDE * PIXEL, 500_400.0, 5_000_000.0)
REGIONS = {"west": WEST, "east": EAST}


def a_map(west: float = 100.0, east: float = 100.0) -> xr.Dataset:
    """Return a map of two halves, Mg/ha."""
    values = np.full((SIDE, SIDE), west)
    values[:, SIDE // 2 :] = east
    y = 5_000_000 - (np.arange(SIDE) + 0.5) * PIXEL
    x = 500_000 + (np.arange(SIDE) + 0.5) * PIXEL
    made = xr.Dataset({"agb": (("y", "x"), values)}, {"y": y, "x": x})
    return made.rio.write_crs("EPSG:32633")


def some_plots(spread: float = 20.0, n: int = 40, **more: Any) -> pd.DataFrame:
    """Return plots in both halves whose mean in each is exactly 100 Mg/ha."""
    random = np.random.default_rng(1)
    observed = random.normal(0, spread, (2, n // 2))
    observed += 100 - observed.mean(1, keepdims=True)
    x = 500_000 + random.uniform(5, 195, (2, n // 2)) + np.array([[0], [200]])
    y = 5_000_000 - random.uniform(5, 395, n)
    return pd.DataFrame({"x": x.ravel(), "y": y, "agb": observed.ravel(), **more})


def sums(map_: xr.Dataset | None = None, **settings: Any) -> pd.DataFrame:
    """Return totals of both halves, by the difference estimator."""
    chosen: dict[str, Any] = {"regions": REGIONS, "plots": some_plots()} | settings
    chosen |= {"estimator": "difference", "progress": False}
    return gb.totals(a_map() if map_ is None else map_, **chosen)


# --- factors ---


def test_one_hectare_by_hand() -> None:
    """100 Mg/ha, a ratio of 0.37 and a fraction of 0.47."""
    factors = Carbon(fraction=0.47, below_ground=0.37)
    for row in sums(carbon=factors).itertuples():
        assert row.mean == pytest.approx(100)
        assert f"{row.carbon / row.area:.2f}" == "64.39"
        assert f"{row.co2e / row.area:.2f}" == "236.10"
        assert row.carbon_below_ground == pytest.approx(17.39 * row.area)


SHARES = st.floats(0.05, 0.9)
ERRORS = st.floats(0.0, 0.2)


@given(SHARES, ERRORS, SHARES, ERRORS)
def test_relative_variance_of_a_product_is_the_sum_and_the_product(
    fraction: float, error: float, ratio: float, other: float
) -> None:
    found = Carbon((fraction, error), (ratio, other)).per_biomass(100)
    one, two = (error / fraction) ** 2, (other / (1 + ratio)) ** 2
    assert found.value == pytest.approx(fraction * (1 + ratio))
    assert (found.se / found.value) ** 2 == pytest.approx(one + two + one * two)


@given(SHARES, SHARES, SHARES, SHARES)
def test_carbon_is_linear_in_each_factor(
    fraction: float, ratio: float, dead: float, own: float
) -> None:
    def value(*factors: float) -> float:
        return Carbon(*factors).per_biomass(100).value

    given_ = np.array([fraction, ratio, dead, own])
    assert value(*given_) == pytest.approx(fraction * (1 + ratio) + own * dead)
    for at in range(4):
        low, high = given_.copy(), given_.copy()
        low[at], high[at] = 0.1, 0.9
        middle = (low + high) / 2
        assert value(*middle) == pytest.approx((value(*low) + value(*high)) / 2)


def test_dead_wood_shares_the_carbon_fraction_or_has_its_own() -> None:
    shared = Carbon((0.5, 0.05), None, (0.2, 0.0)).per_biomass(100)
    assert shared.dead_wood == pytest.approx(0.1)
    assert shared.se / shared.value == pytest.approx(0.1)
    own = Carbon((0.5, 0.05), None, (0.2, 0.0), (0.5, 0.05)).per_biomass(100)
    assert own.value == pytest.approx(shared.value)
    assert own.se == pytest.approx(math.hypot(0.05, 0.01))
    named = Carbon(dead_wood="temperate and boreal")
    assert named.dead_wood == DEAD_WOOD["temperate and boreal"]
    assert named.per_biomass(100).without_error == ("dead wood",)


def test_factors_have_names_and_survive_as_dictionaries() -> None:
    assert {"ipcc 2006", "ipcc 2019 tropical rainforest Africa"} <= set(Carbon.names())
    for name in Carbon.names():
        found = Carbon.named(f" {name.upper()} ")
        assert found.name == name
        assert Carbon.from_dict(json.loads(json.dumps(found.to_dict()))) == found
        assert "own value" not in str(found)
    africa = Carbon.named("ipcc 2019 tropical rainforest Africa").below_ground
    assert isinstance(africa, RootShoot)
    assert (africa.at(125).value, africa.at(125.1).value) == (0.825, 0.532)
    boreal = Carbon.named("ipcc 2019 boreal conifer")
    assert boreal.per_biomass(75).value == pytest.approx(0.51 * 1.39)
    assert boreal.per_biomass(76).value == pytest.approx(0.51 * 1.24)


def test_the_page_has_each_value() -> None:
    text = PAGE.read_text()
    for name, (fraction, ratio) in NAMED.items():
        assert f"{fraction.value:.2f}" in text
        if ratio is None or name.startswith("ipcc 2006"):
            continue
        ends = (ratio.low, ratio.high) if isinstance(ratio, RootShoot) else [ratio] * 2
        cells = " | ".join(f"{end.value:g}" for end in ends)
        assert f"| `{name}` | {cells} |" in text
    for name, factor in DEAD_WOOD.items():
        assert f"| `{name}` | {factor.value:g} |" in text
    for rule in RULES:
        assert f"| `{rule}` |" in text


# --- in tables ---


def test_an_old_call_has_its_columns_and_numbers() -> None:
    table = sums()
    row = table.iloc[0]
    assert not {"carbon_se", "co2e", "deduction_percent", "total_model_se"} & set(table)
    assert row["carbon_upper"] == 0.47 * row["total_upper"]
    assert table.columns[-1] == "note"
    assert table.columns.tolist().index("carbon") == (
        table.columns.tolist().index("total_upper") + 1
    )
    half = (row["total_upper"] - row["total_lower"]) / 2
    percent = 100 * half / row["total"]
    assert row["total_half_width_95_percent"] == pytest.approx(percent)
    assert row["total_se_percent"] == pytest.approx(
        100 * row["total_se"] / row["total"]
    )
    for level, name in ((0.9, "90"), (0.95, "95")):
        other = sums(confidence=level).iloc[0]
        half = (other["total_upper"] - other["total_lower"]) / 2
        percent = 100 * half / other["total"]
        assert row[f"total_half_width_{name}_percent"] == pytest.approx(percent)


def test_errors_of_factors_and_models_are_in_the_interval() -> None:
    plain = sums().iloc[0]
    table = sums(carbon=Carbon((0.5, 0.02)), model_error=0.05)
    row = table.iloc[0]
    own = (plain["total_se"] / plain["total"]) ** 2
    model = (row["total_se"] / row["total"]) ** 2
    assert model == pytest.approx(own + 0.05**2 + own * 0.05**2)
    carbon = (row["carbon_se"] / row["carbon"]) ** 2
    assert carbon == pytest.approx(model + 0.04**2 + model * 0.04**2)
    assert row["mean_se"] == pytest.approx(row["total_se"] / row["area"])
    assert row["mean_upper"] == pytest.approx(row["total_upper"] / row["area"])
    assert row["total_sampling_lower"] == plain["total_lower"]
    assert row["total_sampling_se"] == plain["total_se"]
    assert row["total_model_se"] == pytest.approx(0.05 * row["total"])
    assert row["co2e_upper"] == pytest.approx(row["carbon_upper"] * 44 / 12)
    assert row["note"] == plain["note"]
    assert table.attrs["model_error"] == 0.05
    assert table.attrs["carbon"]["fraction"]["value"] == 0.5
    json.dumps(table.attrs)


def test_intervals_are_wider_with_larger_errors() -> None:
    def width(error: float, model: float) -> float:
        row = sums(carbon=Carbon((0.5, error)), model_error=model).iloc[0]
        return float(row["carbon_upper"] - row["carbon_lower"])

    widths = [width(0.0, 0.0), width(0.02, 0.0), width(0.02, 0.1), width(0.2, 0.1)]
    assert widths == sorted(set(widths))
    plain = sums().iloc[0]
    assert widths[0] == pytest.approx(
        0.5 * (plain["total_upper"] - plain["total_lower"])
    )


@pytest.mark.parametrize("freedom", [5, 200])
def test_intervals_of_products_cover_them(freedom: int) -> None:
    """Biomass with few or many plots, times a factor that has an error."""
    from scipy.stats import t

    random, draws = np.random.default_rng(0), 20_000
    se = 4 * np.sqrt(random.chisquare(freedom, draws) / freedom)
    mean = 100 + random.normal(0, 4, draws)
    half = t.ppf(0.975, freedom) * se
    ends = (mean - half, mean + half)
    own = Estimates.of(mean, se, ends, np.full(draws, freedom), 0.95)
    factor = 0.5 * (1 + 0.06 * random.normal(size=draws))
    lower, upper = own.times(factor, 0.5 * 0.06 / factor).ends()
    covered = ((lower < 50) & (upper > 50)).mean()
    noise = 4 * math.sqrt(0.95 * 0.05 / draws)
    # Square-and-add is exact for many plots, and wide for few, where t is long.
    assert covered > 0.95 - noise
    assert freedom == 5 or covered < 0.95 + noise


def test_a_covariance_of_parameters_is_the_gradients_error() -> None:
    covariance = [[0.04, 0.01], [0.01, 0.09]]
    gradient = {"west": [10.0, 5.0], "east": [20.0, 0.0]}
    table = sums(model_error=ParameterCovariance(covariance, gradient))
    expected = {"west": 4 + 2 * 0.5 + 2.25, "east": 16.0}
    for name, variance in expected.items():
        row = table.loc[name]
        assert row["total_model_se"] / row["area"] == pytest.approx(math.sqrt(variance))
        own = row["total_sampling_se"]
        assert row["total_se"] == pytest.approx(math.hypot(own, row["total_model_se"]))
    json.dumps(table.attrs)


def test_half_widths_of_intervals_that_are_not_symmetric_or_of_unknown_freedom() -> (
    None
):
    from scipy.stats import t

    ends = (100 - t.ppf(0.975, 7) * 4, 100 + t.ppf(0.975, 7) * 4)
    unknown = Estimates.of([100.0], [4.0], [[end] for end in ends], [np.nan], 0.95)
    assert unknown.half_width(0.9) == pytest.approx(t.ppf(0.95, 7) * 4)
    skewed = Estimates.of([100.0], [4.0], ([95.0], [ends[1]]), [7.0], 0.95)
    assert skewed.half_width(0.9) == pytest.approx(t.ppf(0.95, 7) * 4)
    lower, upper = skewed.times(1.0, 0.02).ends()
    assert 95 - lower[0] > 0
    assert 100 - lower[0] < upper[0] - 100


def test_a_ratio_that_jumps_is_decided_by_the_mean_or_by_pixels() -> None:
    """Half of the region has 60 Mg/ha and half 180: the page's example."""
    halves = a_map(60, 180)
    plots = some_plots().assign(agb=lambda t: np.where(t["x"] < 500_200, 60.0, 180.0))
    africa = Carbon.named("ipcc 2019 tropical rainforest Africa")
    below = {}
    for rule, factors in (("region", africa), ("pixels", africa.by_pixels())):
        row = sums(halves, regions=None, plots=plots, carbon=factors).iloc[0]
        assert row["mean"] == pytest.approx(120)
        below[rule] = row["carbon_below_ground"] / 0.47 / row["area"]
    assert f"{below['region']:.1f} {below['pixels']:.1f}" == "99.0 72.6"
    wide = some_plots().assign(agb=lambda t: t["agb"] + 24)
    row = sums(plots=wide, carbon=africa).iloc[0]
    assert row["mean_lower"] < 125 < row["mean_upper"]
    assert "includes 125 Mg/ha, where the below-ground ratio jumps" in row["note"]
    assert "jumps" not in sums(carbon=africa)["note"].iloc[0]


def test_an_own_value_without_an_error_is_told() -> None:
    row = sums(carbon=Carbon(fraction=0.5, below_ground=(0.3, 0.05))).iloc[0]
    told = "errors not given, and not in the interval of carbon: carbon fraction"
    assert row["note"] == told
    assert row["carbon_se"] > 0.5 * 1.3 * row["total_se"]


def test_regions_may_have_factors_of_their_own() -> None:
    each = {"west": Carbon((0.4, 0.01)), "east": "ipcc 2006"}
    table = sums(carbon=each)
    assert table["carbon_factor"].tolist() == [0.4, 0.47]
    assert table.attrs["carbon"]["west"]["fraction"]["value"] == 0.4
    with pytest.raises(ValueError, match=r"each region, got none for 'east'; .*west"):
        sums(carbon={"west": "ipcc 2006"})


def test_a_region_without_an_estimate_has_no_carbon() -> None:
    plots = some_plots()
    table = sums(plots=plots[plots["x"] < 500_200], carbon="ipcc 2006")
    assert np.isfinite(table.loc["west", "carbon"])
    columns = ["carbon", "co2e_lower", "carbon_factor", "total_half_width_90_percent"]
    assert table.loc["east", columns].isna().all()
    whole = combine_regions(table).iloc[0]
    assert math.isnan(whole["total"])
    assert "no estimate of east" in whole["note"]


# --- several regions, two dates ---


def test_regions_share_errors_of_factors_and_not_of_sampling() -> None:
    table = sums(carbon=Carbon((0.5, 0.05)), model_error=0.04)
    whole = combine_regions(table).iloc[0]
    sampling = math.hypot(*table["total_sampling_se"])
    total = table["total"].sum()
    assert whole["total"] == pytest.approx(total)
    assert whole["total_sampling_se"] == pytest.approx(sampling)
    assert whole["total_model_se"] == pytest.approx(0.04 * total)
    own, model, factor = (sampling / total) ** 2, 0.04**2, 0.1**2
    product = (1 + own) * (1 + model) * (1 + factor) - 1
    assert (whole["carbon_se"] / whole["carbon"]) ** 2 == pytest.approx(product)
    assert whole["plots"] == 40
    assert whole["area"] == pytest.approx(table["area"].sum())
    apart = math.hypot(*table["carbon_se"])
    assert apart < 0.8 * whole["carbon_se"]


def test_one_region_alone_is_itself() -> None:
    africa = Carbon.named("ipcc 2019 tropical rainforest Africa")
    table = sums(carbon=africa, model_error=0.04, deduction="FCPF")
    for settings in ({}, {"carbon": africa, "model_error": 0.04, "deduction": "FCPF"}):
        table = sums(**settings).iloc[:1]
        found = combine_regions(table, "west")
        assert list(found) == list(table)
        numbers = [name for name in table if name not in ("method", "note")]
        pd.testing.assert_frame_equal(
            found[numbers],
            table[numbers],
            check_names=False,
            rtol=1e-9,
            check_dtype=False,
        )


def test_regions_of_residuals_are_added_as_correlated() -> None:
    table = sums()
    table["method"] = "model"
    whole = combine_regions(table).iloc[0]
    assert whole["total_se"] == pytest.approx(table["total_se"].sum())
    half = (table["total_upper"] - table["total_lower"]).sum() / 2
    assert whole["total_upper"] - whole["total"] == pytest.approx(half)
    assert "fully correlated" in whole["note"]


def test_tables_that_are_no_totals_are_refused() -> None:
    with pytest.raises(ValueError, match=r"from a table of gb\.totals"):
        combine_regions(pd.DataFrame({"total": [1.0]}))
    twice = pd.concat([sums()] * 2)
    twice.attrs = sums().attrs
    with pytest.raises(ValueError, match=r"in the sum once, got \['west', 'east'\]"):
        combine_regions(twice)


@pytest.fixture(scope="module")
def change() -> dict[str, Any]:
    """Two dates of which the second has 10 Mg/ha less in the east."""
    plots = some_plots().rename(columns={"agb": "agb_first"})
    random = np.random.default_rng(3)
    less = np.where(plots["x"] < 500_200, 0.0, 10.0) + random.uniform(0, 8, len(plots))
    plots["agb_second"] = plots["agb_first"] - less
    return {
        "first": a_map(),
        "second": a_map(100, 90),
        "regions": REGIONS,
        "plots": plots,
        "estimator": "difference",
        "progress": False,
    }


def test_a_change_has_the_factors_error_once(change: dict[str, Any]) -> None:
    plain = gb.change_totals(**change)
    table = gb.change_totals(
        **change, carbon=Carbon((0.5, 0.05)), deduction="VM0047 1.1"
    )
    for name in ("net", "loss"):
        was, row = plain.loc[("east", name)], table.loc[("east", name)]
        own = (was["total_se"] / was["total"]) ** 2
        carbon = (row["carbon_se"] / row["carbon"]) ** 2
        assert carbon == pytest.approx(own + 0.1**2 + own * 0.1**2)
        half = row["carbon_half_width_90_percent"]
        assert row["deduction_percent"] == pytest.approx(min(100, max(0, half - 10)))
    assert plain.loc[("east", "loss"), "carbon"] == (
        0.47 * plain.loc[("east", "loss"), "total"]
    )
    pd.testing.assert_series_equal(table["total_upper"], plain["total_upper"])
    whole = combine_regions(table).loc[("all regions", "net")]
    net = table.xs("net", level="change")
    assert whole["carbon"] == pytest.approx(net["carbon"].sum())
    own = (math.hypot(*net["total_se"]) / whole["total"]) ** 2
    expected = own + 0.1**2 + own * 0.1**2
    assert (whole["carbon_se"] / whole["carbon"]) ** 2 == pytest.approx(expected)
    assert whole["area_lower"] == whole["area"] == whole["area_upper"]


def test_a_change_has_one_ratio_for_both_dates(change: dict[str, Any]) -> None:
    """The first map has 126 Mg/ha, the second 116: the ratio above the limit counts."""
    high = change | {"first": a_map(126, 126), "second": a_map(126, 116)}
    africa = Carbon.named("ipcc 2019 tropical rainforest Africa")
    table = gb.change_totals(**high, carbon=africa)
    assert table["carbon_factor"].dropna().tolist() == pytest.approx(
        [0.47 * 1.532] * len(table["carbon_factor"].dropna())
    )
    with pytest.raises(ValueError, match="got a ratio by pixels"):
        gb.change_totals(**high, carbon=africa.by_pixels())
    with pytest.raises(ValueError, match="got a covariance"):
        gb.change_totals(**high, model_error=ParameterCovariance([[1.0]], [1.0]))


# --- deductions ---


def test_deductions_by_hand() -> None:
    art, verra, fcpf = (RULES[name] for name in ("ART TREES 2.0", "VM0047 1.1", "FCPF"))
    assert f"{float(art.percent(20)):.2f}" == "6.38"
    margins = [0, 15, 15.01, 30, 30.01, 60, 60.01, 100, 100.01, 300]
    steps = [0, 0, 4, 4, 8, 8, 12, 12, 15, 15]
    assert fcpf.percent(margins).tolist() == pytest.approx(steps)
    # T = 1.7 at 90 %, standard errors of 30 and 40, correlation 0.5, change 200.
    half = half_width_of_change(30, 40, correlation=0.5, quantile=1.7)
    assert half == pytest.approx(1.7 * math.sqrt(900 + 1600 - 1200))
    unc = 1.7 * math.sqrt(1300) / 200 - 0.10
    assert verra.percent(100 * half / 200) == pytest.approx(100 * unc)
    assert verra.percent([5, 10, 100, 101]).tolist() == pytest.approx([0, 0, 90, 100])
    for rule in RULES.values():
        assert math.isnan(rule.percent(np.nan))
        assert (np.diff(rule.percent(np.linspace(0, 200, 999))) >= 0).all()


def test_a_deduction_is_of_the_half_width_with_its_source() -> None:
    table = sums(carbon=Carbon((0.5, 0.05)), deduction="art trees 2.0")
    half = table["carbon_half_width_90_percent"]
    expected = 0.524417 * half / 1.645006
    assert table["deduction_percent"].tolist() == pytest.approx(expected.tolist())
    told = table.attrs["deduction"]
    assert told["rule"] == "ART TREES 2.0"
    assert "0.524417" in told["formula"]
    assert told["compliance"].startswith("not claimed")
    row = sums(deduction="FCPF").iloc[0]
    margin = row["total_half_width_90_percent"]
    assert row["deduction_percent"] == RULES["FCPF"].percent(margin)


# --- errors, the command, the report ---


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"carbon": "ipcc 2019 rainforest"}, r"one of the names ipcc 2006, .*boreal"),
        ({"carbon": 0.47}, r"a name, a Carbon, or a mapping .*got 0.47"),
        ({"carbon": "ipcc 2006", "carbon_fraction": 0.5}, "carbon_fraction=, got both"),
        ({"deduction": "ART TREES 3.0"}, "'ART TREES 2.0', 'VM0047 1.1', 'FCPF', got"),
        ({"model_error": 5}, r"such as 0.05 for 5 %, got 5"),
        ({"model_error": "5 %"}, r"ParameterCovariance, got '5 %'"),
    ],
)
def test_wrong_settings_are_one_sentence(settings: dict[str, Any], told: str) -> None:
    with pytest.raises((ValueError, TypeError), match=told) as error:
        sums(**settings)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: Factor(-1.0), "0 or more, got -1.0"),
        (lambda: Factor(1.0, math.nan), "None where it is not known, got nan"),
        (lambda: Carbon(47), r"above 0 and at most 1, such as 0.47, got 47"),
        (lambda: Carbon((0.4, 0.1, 0.2)), "a value and its standard error, got"),
        (lambda: Carbon("0.47"), "must be a number, a pair"),
        (lambda: Carbon(dead_wood_fraction=0.5), "needs dead_wood="),
        (lambda: Carbon(dead_wood="taiga"), "one of 'tropical below 2000 m"),
        (lambda: RootShoot(Factor(0.2), Factor(0.3), by="pixel"), "got 'pixel'"),
        (lambda: ParameterCovariance([[1, 2]], [1]), r"square .*\(1, 2\)"),
        (lambda: ParameterCovariance([[1, 2], [0, 1]], [1, 1]), "symmetric"),
        (lambda: ParameterCovariance([[1, 2], [2, 1]], [1, 1]), "eigenvalue"),
        (lambda: ParameterCovariance([[1]], [1, 2]), "1 finite numbers"),
        (lambda: half_width_of_change(1, 1, correlation=2, quantile=1.7), "got 2"),
    ],
)
def test_wrong_values_are_told(make: Any, told: str) -> None:
    with pytest.raises((ValueError, TypeError), match=told):
        make()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("carbon")
    a_map().agb.rio.to_raster(folder / "map.tif")
    for name, map_ in (("first", a_map()), ("later", a_map(100, 90))):
        ends = {"agb_lower": map_.agb - 5, "agb_upper": map_.agb + 5}
        whole = map_.assign(ends).rio.write_crs("EPSG:32633")
        whole.to_zarr(folder / f"{name}.zarr", zarr_format=3, consolidated=False)
    plots = some_plots()
    plots["agb_first"], plots["agb_second"] = plots["agb"], plots["agb"] - 5
    plots.to_csv(folder / "plots.csv", index=False)
    return folder


SETTINGS = ("--carbon", "ipcc 2006 tropical rainforest", "--model-error", "0.05")
SETTINGS += ("--deduction", "fcpf")


def test_the_command_reports_carbon(files: Path, run: Any) -> None:
    words = ["totals", files / "map.tif", "--plots", files / "plots.csv", *SETTINGS]
    code, told, _ = run(*words, "--json")
    assert code == 0
    facts = json.loads(told)
    (row,) = facts["totals"]
    assert row["co2e"] == pytest.approx(row["area"] * 100 * 0.47 * 1.37 * 44 / 12, 0.01)
    assert row["deduction_percent"] == 0.0
    assert facts["carbon"]["below_ground"]["value"] == 0.37
    _, text, _ = run(*words)
    assert re.search(r"co2e_upper \(Mg CO2e\) +deduction_percent \(%\)", text)
    assert (
        "carbon: ipcc 2006 tropical rainforest: carbon fraction 0.47 (se 0.0128" in text
    )
    assert "error of the models behind the plots: 5 %" in text
    assert "deduction: FCPF, " in text
    assert "compliance is not claimed" in text


def test_the_command_of_change_reports_carbon(files: Path, run: Any) -> None:
    words: list[Any] = ["change", files / "first.zarr", files / "later.zarr"]
    words += [files / "change.tif", *SETTINGS]
    code, _, told = run(*words)
    assert code == 2
    assert "are for the totals of regions; give --regions too" in told
    outline = {"type": "Polygon", "coordinates": [_ring()]}
    (files / "all.geojson").write_text(json.dumps(outline))
    words += ["--plots", files / "plots.csv", "--regions", files / "all.geojson"]
    code, text, told = run(*words)
    assert code == 0, told
    assert "co2e_upper" in text
    assert "compliance is not claimed" in text


def _ring() -> list[list[float]]:
    west, south, east, north = a_map().rio.transform_bounds("EPSG:4326")
    corners = ((west, south), (east, south), (east, north), (west, north))
    return [list(corner) for corner in (*corners, corners[0])]


def test_the_report_names_the_factors() -> None:
    table = sums(carbon="ipcc 2006 tropical rainforest", deduction="FCPF")
    page = str(audit.totals(SimpleNamespace(totals=table, by_plots=True)))  # type: ignore[arg-type]
    assert "CO2 equivalent, Mg" in page
    assert "ratio" not in page or "0.37" in page
    assert "compliance is not claimed" in page
    plain = str(audit.totals(SimpleNamespace(totals=sums(), by_plots=True)))  # type: ignore[arg-type]
    assert "Carbon is 0.47 of dry biomass." in plain
    assert "deduction" not in plain
