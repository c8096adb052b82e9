"""Designs of samples against published numbers, to the digits that are printed."""

import math
from typing import Any

import numpy as np
import pytest

from geobiomass.statistics.estimators import choose_method, estimate
from geobiomass.statistics.ratio import hansen_hurwitz, ratio
from geobiomass.statistics.sample import SampleError
from geobiomass.statistics.two_phase import two_phase
from geobiomass.statistics.variances import neighbours


def with_moments(n: int, mean: float, variance: float, seed: int = 0) -> np.ndarray:
    """Return n values with exactly this mean and variance."""
    drawn = np.random.default_rng(seed).normal(size=n)
    drawn = (drawn - drawn.mean()) / drawn.std(ddof=1)
    return mean + math.sqrt(variance) * drawn


# --- strata: Olofsson et al. (2014), Remote Sensing of Environment 148, table 8 ---

MAP_CLASSES = {
    "deforestation": [66, 0, 5, 4],
    "gain": [0, 55, 8, 12],
    "stable forest": [1, 0, 153, 11],
    "stable non-forest": [2, 1, 9, 313],
}
PIXELS = dict(zip(MAP_CLASSES, [200_000, 150_000, 3_200_000, 6_450_000], strict=True))
AREAS = {  # hectares and 1.96 standard errors
    "deforestation": (21_158, 6_158),
    "gain": (11_686, 3_756),
    "stable forest": (285_770, 15_510),
    "stable non-forest": (581_386, 16_282),
}


@pytest.mark.parametrize(("number", "name"), list(enumerate(MAP_CLASSES)))
def test_areas_of_map_classes_are_olofssons(number: int, name: str) -> None:
    counts = np.array(list(MAP_CLASSES.values()))
    strata = np.repeat(list(MAP_CLASSES), counts.sum(axis=1))
    classes = np.concatenate([np.repeat(range(4), row) for row in counts])
    found = estimate(
        (classes == number).astype(float),
        method="plots",
        strata=strata.tolist(),
        shares=PIXELS,
    )
    hectares = 0.09 * sum(PIXELS.values())
    area, half = AREAS[name]
    assert found.mean * hectares == pytest.approx(area, abs=0.5)
    assert 1.96 * found.se * hectares == pytest.approx(half, abs=0.5)


# --- clusters and ratios: R's package survey (Lumley), its data api ---

# apiclus1: schools, sum of api00 and sum of enrolment of 15 of 757 districts.
DISTRICTS = np.array(
    [
        (13, 9372, 6777),
        (34, 22508, 15038),
        (4, 2077, 1668),
        (13, 8593, 6958),
        (16, 11369, 9025),
        (2, 1116, 683),
        (1, 551, 274),
        (4, 1888, 1436),
        (12, 9111, 7375),
        (21, 13761, 14968),
        (9, 6386, 2180),
        (11, 7359, 6081),
        (37, 20394, 25814),
        (2, 905, 680),
        (4, 2493, 1641),
    ]
)


def schools() -> tuple[np.ndarray, list[int]]:
    """Return values of schools that have their district's sum, and districts."""
    sizes, sums = DISTRICTS[:, 0], DISTRICTS[:, 1]
    random = np.random.default_rng(0)
    values = [
        total / m + (lambda e: e - e.mean())(random.normal(0, 50, m))
        for m, total in zip(sizes, sums, strict=True)
    ]
    return np.concatenate(values), np.repeat(np.arange(15), sizes).tolist()


def test_a_cluster_sample_is_as_rs_survey_has_it() -> None:
    values, district = schools()
    found = estimate(values, method="plots", cluster=district, population=757)
    assert found.mean == pytest.approx(644.17, abs=0.005)
    assert found.se == pytest.approx(23.542, abs=5e-4)
    assert (found.n, found.units, found.freedom) == (183, 15, 14)
    plain = estimate(values, method="plots", cluster=district)
    assert plain.se == pytest.approx(23.779, abs=5e-4)
    # Schools as if they were drawn one by one: far too sure.
    assert estimate(values, method="plots").se < plain.se / 2


def test_a_total_over_clusters_is_as_rs_survey_has_it() -> None:
    found = estimate(DISTRICTS[:, 2], method="plots", population=757)
    total = 15 * 33.84699631
    assert total * found.mean == pytest.approx(3_404_940, abs=0.5)
    assert total * found.se == pytest.approx(932_235, abs=0.5)


# apistrat: n, N, sums and (co)variances of api.stu and enroll by type of school.
TYPES = {
    "E": (100, 4421, 35502, 41678, 19561.0097, 22711.2469, 27576.8804),
    "H": (50, 755, 53526, 66035, 347437.4384, 372674.8531, 450339.9286),
    "M": (50, 1018, 34785, 41624, 124836.5408, 132790.8612, 156307.2751),
}


def pairs(n: int, means: Any, covariance: Any) -> np.ndarray:
    """Return (2, n) values with exactly these means and covariances."""
    drawn = np.random.default_rng(1).normal(size=(2, n))
    drawn -= drawn.mean(axis=1, keepdims=True)
    drawn = np.linalg.solve(np.linalg.cholesky(np.cov(drawn)), drawn)
    return np.linalg.cholesky(covariance) @ drawn + np.array(means)[:, None]


def test_a_ratio_is_as_rs_survey_has_it() -> None:
    parts, strata = [], []
    for name, (n, _, y, x, yy, yx, xx) in TYPES.items():
        parts.append(pairs(n, (y / n, x / n), [[yy, yx], [yx, xx]]))
        strata += [name] * n
    tested, enrolled = np.concatenate(parts, axis=1)
    sizes = {name: row[1] for name, row in TYPES.items()}
    found = ratio(tested, enrolled, strata=strata, shares=sizes, population=sizes)
    assert found.mean == pytest.approx(0.836957, abs=5e-7)
    assert found.mean * 3_811_472 == pytest.approx(3_190_038, abs=1)
    assert found.se * 3_811_472 == pytest.approx(29_565.98, abs=0.01)


def test_draws_are_hansens_and_hurwitzs() -> None:
    """Four draws of three units (Thompson, Sampling, chapter 6)."""
    found = hansen_hurwitz([60, 60, 14, 1], [0.05, 0.05, 0.02, 0.01])
    assert found.mean == pytest.approx(800)
    assert found.se**2 == pytest.approx(68_333.3, abs=0.05)
    assert found.se == pytest.approx(261.4, abs=0.05)
    with pytest.raises(ValueError, match=r"at most 1, got 2"):
        hansen_hurwitz([1, 2, 3], [0.1, 0.2, 2])


# --- post-strata: FIESTA's Wyoming data, forest land, as their formula has it ---

UNITS = {
    1: ((17, 116), (30603, 147961), (0.924500, 0.060345), (0.049237, 0.057196)),
    3: ((12, 86), (15896, 114985), (0.6875, 0.026393), (0.194602, 0.020996)),
}
RESULTS = {1: (0.208447, 0.0205585, 0.0205820), 3: (0.106687, 0.0211533, 0.0206797)}


@pytest.mark.parametrize("number", UNITS)
def test_post_strata_are_fiestas(number: int) -> None:
    sizes, areas, means, variances = UNITS[number]
    values = [
        with_moments(n, mean, variance)
        for n, mean, variance in zip(sizes, means, variances, strict=True)
    ]
    known: dict[str, Any] = {
        "strata": np.repeat(["a", "b"], sizes).tolist(),
        "shares": dict(zip("ab", areas, strict=True)),
    }
    mean, post, fixed = RESULTS[number]  # moments are known to five digits
    plots = np.concatenate(values)
    found = estimate(plots, method="plots", design="poststrata", **known)
    assert found.mean == pytest.approx(mean, abs=5e-7)
    assert found.se == pytest.approx(post, abs=1e-7)
    assert estimate(plots, method="plots", **known).se == pytest.approx(fixed, abs=1e-7)
    # One cluster a plot is the sample without clusters, but for the second order.
    alone = estimate(
        plots,
        method="plots",
        design="poststrata",
        cluster=range(plots.size),
        **known,
    )
    assert alone.units == plots.size
    assert alone.se < post * 1.2


# --- grids ---


def grid(side: int = 10) -> np.ndarray:
    return np.stack(np.meshgrid(np.arange(side), np.arange(side)), -1).reshape(-1, 2)


def test_neighbours_on_a_grid() -> None:
    first, second = neighbours(100.0 * grid(4))
    assert first.size == 24  # 2 * 4 * 3
    steps = np.abs(grid(4)[first] - grid(4)[second]).sum(axis=1)
    assert (steps == 1).all()


def test_a_line_of_plots_has_successive_differences() -> None:
    """By hand: the mean square of differences, halved, over n (Wolter 2007, 8.2)."""
    values = np.array([3.0, 5, 4, 8, 9, 7])
    places = np.stack([np.arange(6), np.zeros(6)], 1)
    found = estimate(values, method="plots", design="systematic", places=places)
    assert found.se**2 == pytest.approx((4 + 1 + 16 + 1 + 4) / 5 / 2 / 6)
    # Degrees 1, 2, 2, 2, 2, 1: (2 P)^2 over the sum of degree^2 + degree.
    assert found.freedom == pytest.approx(10**2 / (2 * 2 + 4 * 6))


def test_a_trend_is_not_part_of_the_error_of_a_grid() -> None:
    random = np.random.default_rng(0)
    places = grid()
    values = 10.0 * places[:, 0] + random.normal(0, 3, 100)
    plain = estimate(values, method="plots")
    found = estimate(values, method="plots", design="systematic", places=places)
    assert found.mean == plain.mean
    assert plain.se > 2.5
    # Steps of 10 between half of the neighbours remain: sqrt(10**2 / 4 + 3**2) / 10.
    assert found.se == pytest.approx(0.58, rel=0.15)
    noise = random.normal(0, 3, 100)
    assert estimate(
        noise, method="plots", design="systematic", places=places
    ).se == pytest.approx(0.3, rel=0.2)
    scattered = np.stack([1.5 ** np.arange(12), np.zeros(12)], 1)
    with pytest.raises(SampleError, match=r"must lie on a grid, got \d of 12"):
        estimate(values[:12], method="plots", design="systematic", places=scattered)


# --- strata with one plot ---


def test_two_lone_strata_are_collapsed_as_in_cochran() -> None:
    """The squared difference of the strata's parts: Cochran (1977), 5A.12."""
    shares = dict.fromkeys("abcd", 1.0)
    values = [10.0, 14.0, 30.0, 31.0]
    maps = [12.0, 13.0, 33.0, 35.0]
    found = estimate(
        [*values, 5.0, 7.0, 6.0],
        method="plots",
        strata=list("abcdeee"),
        shares=shares | {"e": 1.0},
        map_means=dict(zip("abcde", [*maps, 0.0], strict=True)),
    )
    third = np.var([5, 7, 6], ddof=1) / 3
    expected = ((10 - 14) ** 2 + (30 - 31) ** 2 + third) / 25
    assert found.se**2 == pytest.approx(expected)
    assert found.notes == (
        "strata with one plot are collapsed: a with b, b with a, c with d, d with c",
    )


def test_lone_strata_by_other_rules() -> None:
    known: dict[str, Any] = {
        "method": "plots",
        "strata": list("aabbbc"),
        "shares": {"a": 1.0, "b": 1.0, "c": 2.0},
    }
    values = [10.0, 12.0, 20.0, 22.0, 24.0, 40.0]
    with pytest.raises(SampleError, match=r"^2 plots are needed in each .*, c has 1$"):
        estimate(values, lone="refuse", **known)
    found = estimate(values, lone="adjust", **known)
    middle = (11 + 22 + 2 * 40) / 4
    parts = (1 / 16 * 2 / 2, 1 / 16 * 4 / 3, 1 / 4 * (40 - middle) ** 2)
    assert found.se**2 == pytest.approx(sum(parts))
    assert "centred at the mean: c has 1" in found.notes[0]
    assert math.isnan(found.strata[2].se)


# --- tables by stratum, effective sizes ---


def test_an_estimate_has_its_strata() -> None:
    random = np.random.default_rng(3)
    x = random.uniform(50, 150, 30)
    y = 0.8 * x + random.normal(0, 5, 30)
    names = ["low"] * 12 + ["high"] * 18
    means = {"low": 90.0, "high": 110.0}
    found = estimate(
        y,
        x,
        98.0,
        method="difference",
        strata=names,
        shares={"low": 3.0, "high": 2.0},
        map_means=means,
    )
    low, high = found.strata
    assert (low.name, low.n, low.share) == ("low", 12, pytest.approx(0.6))
    assert low.mean == pytest.approx(90 + (y - x)[:12].mean())
    assert low.se == pytest.approx((y - x)[:12].std(ddof=1) / math.sqrt(12))
    assert 0.6 * low.mean + 0.4 * high.mean == pytest.approx(found.mean)
    assert math.hypot(0.6 * low.se, 0.4 * high.se) == pytest.approx(found.se)


def test_effective_sizes_are_by_stratum() -> None:
    """Probabilities that differ between strata only cost nothing."""
    y = np.arange(40.0)
    found = estimate(
        y,
        method="plots",
        strata=[1] * 20 + [2] * 20,
        shares={1: 40.0, 2: 360.0},
        probability=[20 / 40] * 20 + [20 / 360] * 20,
    )
    assert found.units == pytest.approx(40)
    skewed = estimate(y, method="plots", probability=[1.0] * 39 + [0.001])
    assert skewed.units < 2


# --- two phases ---


def test_two_phases_are_least_squares_and_both_variances() -> None:
    random = np.random.default_rng(0)
    z = random.normal(10, 3, (300, 2))
    y = 5 + z @ [2.0, -1.0] + random.normal(0, 2, 300)
    found = two_phase(y[:60], z[:60], z)
    line = np.linalg.lstsq(np.c_[np.ones(60), z[:60]], y[:60], rcond=None)[0]
    assert found.mean == pytest.approx(line[0] + z.mean(axis=0) @ line[1:])
    fitted = line[0] + z @ line[1:]
    rest = (y - fitted)[:60]
    outer = two_phase(y[:60], z[:60], z, variance="external")
    assert outer.se**2 == pytest.approx(
        fitted.var(ddof=1) / 300 + rest.var(ddof=1) / 60
    )
    assert found.se == pytest.approx(outer.se, rel=0.05)
    exact = two_phase(y[:60], z[:60], exact_means=[10.0, 10.0])
    assert exact.se < found.se
    # With one auxiliary value that is known everywhere it is the regression estimator.
    one = two_phase(y[:60], z[:60, 0], exact_means=10.0)
    same = estimate(y[:60], z[:60, 0], 10.0)
    assert one.mean == pytest.approx(same.mean)
    assert one.se == pytest.approx(same.se * math.sqrt(58 / 60))


def test_two_phases_hold() -> None:
    random = np.random.default_rng(1)
    held = 0
    for _ in range(400):
        z = random.gamma(3, 30, 200)
        y = 10 + 0.7 * z + random.normal(0, 15, 200)
        low, high = two_phase(y[:40], z[:40], z).interval()
        held += low <= 10 + 0.7 * 90 <= high
    assert 0.92 < held / 400 < 0.98


def test_two_phases_of_wrong_arguments() -> None:
    with pytest.raises(ValueError, match=r"first_phase= .* got neither"):
        two_phase([1, 2, 3, 4, 5], [1, 2, 3, 4, 5])
    with pytest.raises(SampleError, match=r"5 plots are needed for 2 auxiliary"):
        two_phase([1, 2, 3], [[1, 2], [3, 4], [5, 7]], exact_means=[1, 2])
    with pytest.raises(SampleError, match=r"collinear"):
        two_phase([1, 2, 3, 4, 5], np.ones(5), exact_means=1)
    with pytest.raises(ValueError, match=r"of 1 auxiliary values, .* got 2"):
        two_phase([1, 2, 3, 4, 5], [1, 2, 3, 4, 6], exact_means=[1, 2])


# --- the choice of the estimator ---


def test_the_slope_of_few_plots_above_zero_is_not_used() -> None:
    assert choose_method([0] * 30 + [100] * 9) == "difference"
    assert choose_method([0] * 30 + [100] * 10) == "regression"
    assert choose_method([50.0] * 4 + [0] * 4) == "regression"
    assert choose_method(range(1, 9)) == "regression"


# --- what contradicts ---


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"design": "grid"}, r"design must be one of .*'grid'"),
        ({"lone": "drop"}, r"lone must be one of .*'drop'"),
        ({"design": "systematic"}, r"needs places="),
        (
            {"design": "poststrata", "probability": [1.0] * 8},
            r"poststrata sample has equal",
        ),
        (
            {
                "cluster": [0, 0, 1, 1, 2, 2, 3, 3],
                "strata": list("aabbbccc"),
                "shares": {"a": 1, "b": 1, "c": 1},
            },
            r"Each cluster must be in one stratum, got one in c and b",
        ),
        ({"cluster": [1, 2]}, r"cluster must be one for each plot, got 2 for 8"),
    ],
)
def test_designs_that_contradict_raise(settings: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        estimate(np.arange(8.0), method="plots", **settings)
