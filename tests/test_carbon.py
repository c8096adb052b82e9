"""Carbon of totals: factors, their errors, and intervals with them."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from carbon_map import a_map, some_plots, sums
from hypothesis import given
from hypothesis import strategies as st

from geobiomass.accounting import (
    DEAD_WOOD,
    RULES,
    Carbon,
    ParameterCovariance,
    RootShoot,
    combine_regions,
)
from geobiomass.accounting.carbon_factors import NAMED
from geobiomass.accounting.shared_error import Estimates

PAGE = Path(__file__).parent.parent / "docs" / "explanation" / "carbon.md"


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


def test_the_pages_example_of_three_errors() -> None:
    for own, told in ((3.0, "7.08"), (1.5, "6.58")):
        ends = ([100 - 2 * own], [100 + 2 * own])
        found = Estimates.of([100.0], [own], ends, [np.inf], 0.95)
        found = found.times(1.0, 0.05).times(0.5, 0.04)
        assert f"{100 * found.standard_error()[0] / 50:.2f}" == told


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
