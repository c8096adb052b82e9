"""Intervals for few plots, skewness and zeros."""

import math
import re
from typing import Any

import numpy as np
import pytest

from geobiomass.statistics.estimated_mean import Estimate
from geobiomass.statistics.estimators import estimate
from geobiomass.statistics.interval_of_mean import (
    FEWEST,
    MOST_UNSEEN,
    Bounds,
    IntervalRule,
    interval_of,
    largest_share,
)


def plots(values: Any, **settings: Any) -> Estimate:
    return estimate(values, method="plots", **settings)


def test_a_symmetric_sample_has_students_interval() -> None:
    values = 100 + np.array([-9.0, -6, -4, -2, 2, 4, 6, 9])
    found = plots(values)
    bounds = interval_of(found)
    assert bounds.kind == "t"
    assert (bounds.lower, bounds.upper) == pytest.approx(found.interval(0.95))


def test_a_skewed_sample_has_halls_interval() -> None:
    """The ends are where Hall's transformation has the quantiles of Student's t."""
    values = np.array([10.0, 12, 13, 15, 18, 20, 26, 40, 75, 160])
    found = plots(values)
    bounds = interval_of(found)
    assert bounds.kind == "Hall"
    n, s = values.size, values.std(ddof=1)
    skew = ((values - values.mean()) ** 3).sum() / n / s**3

    def of_hall(mean: float) -> float:
        w = (values.mean() - mean) / s
        cubic = w + skew * w**2 / 3 + skew**2 * w**3 / 27 + skew / (6 * n)
        return float(math.sqrt(n) * cubic)

    # The skewness of a sum in `estimate` has the factor (n / (n - 1))**1.5 in s only.
    assert of_hall(bounds.lower) == pytest.approx(2.262, abs=1e-3)
    assert of_hall(bounds.upper) == pytest.approx(-2.262, abs=1e-3)
    upper = found.interval()[1]
    assert bounds.upper - found.mean > 1.3 * (upper - found.mean)
    mirrored = interval_of(plots(400 - values))
    assert (400 - mirrored.upper, 400 - mirrored.lower) == pytest.approx(
        (bounds.lower, bounds.upper)
    )


def test_no_end_is_below_the_lowest_value() -> None:
    values = [0.0] * 9 + [80.0]
    assert plots(values).interval()[0] < 0
    for kind in ("auto", "t"):
        assert interval_of(plots(values), rule=IntervalRule(kind)).lower == 0
    free = IntervalRule("t", lowest=-math.inf)
    assert interval_of(plots(values), rule=free).lower < 0


@pytest.mark.parametrize(
    ("n", "share"), [(8, 0.312), (12, 0.221), (15, 0.181), (30, 0.095)]
)
def test_plots_that_are_all_zero_have_an_exact_bound(n: int, share: float) -> None:
    bounds = interval_of(plots(np.zeros(n)), rule=IntervalRule(highest=400))
    assert bounds.lower == 0
    assert bounds.upper == pytest.approx(400 * share, abs=0.2)
    assert bounds.kind == "all zero"
    assert "the exact bound, at 400" in bounds.note
    # Clopper and Pearson: a share that large has such a sample with 5 %.
    assert (1 - bounds.upper / 400) ** n == pytest.approx(0.05)


def test_the_bound_of_strata_is_the_largest_that_is_possible() -> None:
    units, shares = np.array([4.0, 20.0]), np.array([0.5, 0.5])
    found = largest_share(units, shares, 0.95)
    first = np.linspace(0, 1 - 0.05 ** (1 / 4), 20_001)
    second = 1 - (0.05 / (1 - first) ** 4) ** (1 / 20)
    assert found == pytest.approx((0.5 * first + 0.5 * second).max(), abs=1e-6)
    one = largest_share(np.array([20.0]), np.ones(1), 0.95)
    assert one == pytest.approx(1 - 0.05 ** (1 / 20))


def test_an_assisted_estimate_of_zeros_keeps_its_own_upper_end() -> None:
    mapped = np.r_[np.zeros(6), 5.0, 60.0]
    found = estimate(np.zeros(8), mapped, 200.0, method="difference")
    bounds = interval_of(found, rule=IntervalRule(highest=210))
    assert bounds.lower == 0
    assert bounds.upper == pytest.approx(found.interval()[1])
    assert bounds.upper > 210 * 0.312


@pytest.mark.parametrize(
    ("found", "settings", "reason"),
    [
        (plots(np.arange(7.0)), {}, r"needs 8 sampling units or more, got 7"),
        (plots(np.zeros(9)), {}, r"all plots are 0: an upper bound needs the highest"),
        (plots(np.full(9, 50.0)), {}, r"all plots agree"),
        (plots(np.full(9, 0.1) + 0.2), {}, r"all plots agree"),
        (plots(np.arange(9.0)), {"unseen": 0.5}, r"50 % of the variance of the map"),
        (
            Estimate(-9, 2, 30, 31, "difference", units=31, lowest=0, highest=9),
            {},
            r"up to -4.9.*, is below the lowest possible value",
        ),
    ],
)
def test_samples_without_an_interval(
    found: Estimate, settings: Any, reason: str
) -> None:
    bounds = interval_of(found, **settings)
    assert bounds.kind == "none"
    assert math.isnan(bounds.lower)
    assert math.isnan(bounds.upper)
    assert re.search(reason, bounds.note), bounds.note


def test_students_t_can_be_asked_for() -> None:
    rule = IntervalRule("t")
    found = plots(np.arange(7.0))
    bounds = interval_of(found, rule=rule, unseen=0.9)
    lower, upper = found.interval()
    assert bounds == Bounds(max(lower, 0), upper, "t")


def test_what_counts_is_units_and_not_subplots() -> None:
    values = np.arange(28.0)
    few = plots(values, cluster=np.repeat(np.arange(7), 4).tolist())
    assert interval_of(few).kind == "none"
    enough = plots(values, cluster=np.repeat(np.arange(14), 2).tolist())
    assert interval_of(enough).kind == "t"
    assert FEWEST == 8
    assert interval_of(enough, unseen=MOST_UNSEEN).kind == "t"


def test_plots_that_make_the_slope_widen_the_interval() -> None:
    """With a few far plots the residuals there are too small, with even plots not."""

    def ratio(x: np.ndarray, seed: int) -> float:
        noise = np.random.default_rng(seed).normal(0, 0.2, x.size)
        found = estimate(x * np.exp(noise), x, 1.4 * float(x.mean()))
        wide = found.leveraged_se or 0.0
        low, high = interval_of(found).lower, interval_of(found).upper
        if interval_of(found).kind == "t" and low > 0:
            se = max(wide, found.se)
            assert (high - low) / 2 == pytest.approx(2.306 * se, rel=1e-3)
        return wide / found.se

    far = np.r_[np.linspace(40, 60, 8), 150.0, 180.0]
    even = np.linspace(40, 180, 10)
    means = [np.mean([ratio(x, seed) for seed in range(40)]) for x in (far, even)]
    assert means[0] > 1.15 > 1.06 > means[1]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "bca"}, r"interval must be one of .*'bca'"),
        ({"highest": 0.0}, r"above the lowest, 0.0, got 0.0"),
    ],
)
def test_rules_that_cannot_be_raise(settings: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        IntervalRule(**settings)
    with pytest.raises(ValueError, match=r"above 0 and below 1, got 95"):
        interval_of(plots(np.arange(9.0)), 95)
