"""Estimators against published numbers, and against simulated samples."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from geobiomass.statistics.confidence import t_quantile
from geobiomass.statistics.estimated_mean import Estimate, combine
from geobiomass.statistics.estimators import estimate
from geobiomass.statistics.sample import METHODS, SampleError

# --- worked examples ---

# Cochran (1977), Sampling Techniques, 3rd ed., exercise 7.1: peaches on 10 of 200
# trees, weighed and estimated by eye; by eye all trees together had 11,600 lb.
WEIGHED = [61, 42, 50, 58, 67, 45, 39, 57, 71, 53]
BY_EYE = [59, 47, 52, 60, 67, 48, 44, 58, 76, 58]


def test_the_difference_estimate_of_peaches_is_cochrans() -> None:
    found = estimate(WEIGHED, BY_EYE, 58, method="difference", population=200)
    assert found.mean * 200 == pytest.approx(11_080)
    # By hand: the differences add up to -26, their squares to 122.
    variance = (1 - 10 / 200) / 10 * (122 - 26**2 / 10) / 9
    assert found.se * 200 == pytest.approx(200 * math.sqrt(variance))
    assert found.se * 200 == pytest.approx(151.55, abs=0.01)
    alone = estimate(WEIGHED, method="plots", population=200)
    assert alone.mean * 200 == pytest.approx(10_860)
    assert alone.se > 4 * found.se


# Lohr, Sampling: Design and Analysis, example 4.7 (2nd ed.): dead trees on 25 of 100
# plots, counted on photos and in the field; 11.3 a plot on the photos of all.
PHOTO = [10, 12, 7, 13, 13, 6, 17, 16, 15, 10, 14, 12, 10]
PHOTO += [5, 12, 10, 10, 9, 6, 11, 7, 9, 11, 10, 10]
FIELD = [15, 14, 9, 14, 8, 5, 18, 15, 13, 15, 11, 15, 12]
FIELD += [8, 13, 9, 11, 12, 9, 12, 13, 11, 10, 9, 8]


def test_the_regression_estimate_of_dead_trees_is_lohrs() -> None:
    found = estimate(FIELD, PHOTO, 11.3, population=100)
    assert found.mean == pytest.approx(11.99, abs=0.005)
    # The book leaves out the g weights, which are one where the sample has the mean of
    # all plots, and divides by n - 1 where we divide by n - 2.
    plain = estimate(FIELD, PHOTO, np.mean(PHOTO), population=100)
    assert plain.se * math.sqrt(23 / 24) == pytest.approx(0.408, abs=5e-4)
    assert found.freedom == pytest.approx(23)


# R's package survey (Lumley 2004, 2010): its samples apisrs (columns api00 and api99)
# and apistrat (api00, by school type) of 6,194 Californian schools.
API00 = """
462 878 734 772 739 835 456 506 543 649 556 671 528 742 555 631 698 810 502 532
430 658 453 635 508 804 813 650 569 642 500 808 594 607 760 764 622 793 802 529
630 742 842 903 720 634 529 540 795 485 734 665 541 642 758 425 878 691 558 424
641 462 749 715 498 744 564 448 496 744 725 762 542 693 553 704 474 720 665 720
827 743 485 759 752 528 670 598 675 603 512 728 906 588 591 796 722 579 657 474
573 348 708 699 738 529 757 674 741 475 533 427 536 504 771 965 559 590 745 790
915 734 787 579 737 719 794 596 840 952 794 905 660 497 666 801 765 722 893 834
447 582 410 728 818 905 698 644 577 677 633 479 852 509 884 813 813 482 804 447
630 739 658 564 894 460 787 494 772 537 676 868 544 740 584 548 382 706 584 754
638 883 660 708 607 544 607 806 708 487 682 513 644 625 720 547 467 612 601 595
"""
API99 = """
448 831 742 657 719 822 472 474 458 604 575 620 524 691 505 594 677 794 505 494
391 615 423 619 471 787 794 590 552 618 424 772 555 589 717 749 519 750 758 482
612 696 833 891 708 602 550 457 758 406 749 592 537 560 759 413 874 682 515 409
612 470 724 682 425 722 532 391 479 708 737 742 525 504 542 651 476 707 639 700
748 703 478 760 703 432 643 570 637 572 512 629 888 547 531 765 629 519 651 436
584 347 641 666 703 478 772 676 738 411 527 443 464 490 758 952 497 602 615 775
885 751 756 553 664 702 776 578 816 926 760 885 622 463 641 750 778 698 845 752
409 551 372 704 790 885 675 593 553 649 618 397 829 483 867 785 748 472 775 404
628 735 634 519 860 429 770 485 698 513 622 834 496 721 530 485 404 701 527 755
531 864 642 716 529 493 604 815 701 435 615 493 613 578 704 529 442 528 574 581
"""
SCHOOLS = {
    "E": """
840 516 531 501 720 805 778 731 592 669 497 638 534 705 761 771 751 474 832 559
765 744 865 782 745 892 619 616 703 509 806 759 740 642 565 726 863 765 893 398
539 776 580 503 724 476 529 870 746 836 756 423 588 606 632 651 553 676 861 588
597 884 819 542 509 493 893 709 596 609 671 720 669 650 836 542 578 814 777 719
617 856 723 609 676 668 421 667 631 845 631 696 714 788 667 568 847 679 477 521
""",
    "M": """
496 505 409 609 867 685 647 745 694 676 870 500 679 552 559 650 565 443 774 668
581 878 753 528 678 535 667 534 648 551 485 765 743 403 695 551 467 669 773 780
693 635 660 733 657 606 522 601 819 627
""",
    "H": """
467 522 455 509 681 666 582 641 510 527 681 724 525 712 680 784 743 593 518 770
721 713 816 641 667 610 618 717 610 868 678 418 712 784 472 764 646 585 556 600
599 706 409 635 477 710 453 546 646 624
""",
}
UNITS = {"E": 4421, "M": 1018, "H": 755}


def numbers(text: str) -> np.ndarray:
    return np.array(text.split(), float)


def test_a_simple_random_sample_is_as_rs_survey_has_it() -> None:
    """svymean(~api00, svydesign(id=~1, data=apisrs, ...)), with fpc and without."""
    found = estimate(numbers(API00), method="plots", population=6194)
    assert found.mean == pytest.approx(656.585, abs=1e-9)
    assert found.se == pytest.approx(9.2497220392828, rel=1e-10)
    found = estimate(numbers(API00), method="plots")
    assert found.se == pytest.approx(9.40277217088064, rel=1e-10)


def test_a_difference_is_as_rs_survey_has_it() -> None:
    """svycontrast(means, c(api00=1, api99=-1)): 31.9, standard error 2.0905.

    With the population's api99 the difference estimator has the same standard error;
    its mean of 3,914,069 / 6,194 is that of R's help on calibrate.
    """
    mean99 = 3_914_069 / 6194
    found = estimate(
        numbers(API00), numbers(API99), mean99, method="difference", population=6194
    )
    assert found.mean - mean99 == pytest.approx(31.9, abs=1e-9)
    assert found.se == pytest.approx(2.0905, abs=5e-5)


def test_a_stratified_sample_is_as_rs_survey_has_it() -> None:
    """svymean(~api00, svydesign(id=~1, strata=~stype, data=apistrat, ...))."""
    parts = {name: numbers(text) for name, text in SCHOOLS.items()}
    assert {name: part.size for name, part in parts.items()} == {
        "E": 100,
        "M": 50,
        "H": 50,
    }
    observed = np.concatenate(list(parts.values()))
    strata = [name for name, part in parts.items() for _ in part]
    found = estimate(
        observed, method="plots", strata=strata, shares=UNITS, population=UNITS
    )
    assert found.mean == pytest.approx(662.287363577655, rel=1e-7)
    assert found.se == pytest.approx(9.408940879434, rel=1e-7)
    found = estimate(observed, method="plots", strata=strata, shares=UNITS)
    assert found.se == pytest.approx(9.53613229692516, rel=1e-7)
    # Each by itself and put together is the same, with Satterthwaite's freedom.
    each = [estimate(part, method="plots") for part in parts.values()]
    joined = combine(each, [UNITS[name] for name in parts])
    assert joined.mean == pytest.approx(found.mean)
    assert joined.se == pytest.approx(found.se)
    assert joined.freedom == pytest.approx(found.freedom)
    assert 50 < joined.freedom < 197


# --- what the formulas are ---


def sample(n: int = 40, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    x = random.gamma(2, 50, n)
    return 0.6 * x + 20 + random.normal(0, 15, n), x


def test_regression_is_least_squares_at_the_maps_mean() -> None:
    """With g weights the standard error is that of the line's value there, from the
    residuals themselves rather than their mean square."""
    y, x = sample()
    design = np.stack([np.ones(x.size), x], axis=1)
    coefficients, *_ = np.linalg.lstsq(design, y, rcond=None)
    at = np.array([1, 130])
    hat = at @ np.linalg.inv(design.T @ design) @ design.T
    found = estimate(y, x, 130)
    assert found.mean == pytest.approx(at @ coefficients)
    squares = (hat * (y - design @ coefficients)) ** 2
    assert found.se == pytest.approx(math.sqrt(squares.sum() * 40 / 38))


def test_equal_probabilities_are_a_simple_random_sample() -> None:
    y, x = sample()
    for method in METHODS:
        plain = estimate(y, x, 130, method=method)
        equal = estimate(y, x, 130, method=method, probability=np.full(y.size, 0.3))
        assert equal.mean == pytest.approx(plain.mean)
        assert equal.se == pytest.approx(plain.se)


def test_weights_are_hajeks() -> None:
    y, x = sample()
    probability = np.linspace(1, 3, y.size)
    weight = 1 / probability / (1 / probability).sum()
    found = estimate(y, method="plots", probability=probability)
    assert found.mean == pytest.approx((weight * y).sum())
    residuals = weight * (y - found.mean)
    assert found.se == pytest.approx(math.sqrt(40 / 39 * (residuals**2).sum()))
    line = np.polyfit(x, y, 1, w=np.sqrt(weight))
    assert estimate(y, x, 130, probability=probability).mean == pytest.approx(
        np.polyval(line, 130)
    )


def test_a_map_that_is_off_by_any_line_gives_the_same_regression() -> None:
    y, x = sample()
    first = estimate(y, x, 130)
    second = estimate(y, 3 * x - 500, 3 * 130 - 500)
    assert second.mean == pytest.approx(first.mean)
    assert second.se == pytest.approx(first.se)


def test_a_constant_map_changes_nothing() -> None:
    y, x = sample()
    found, alone = estimate(y, 0 * x + 7, 7), estimate(y, method="plots")
    assert found.mean == pytest.approx(alone.mean)
    assert found.se == pytest.approx(alone.se * math.sqrt(39 / 38))


def test_students_t() -> None:
    # As tables have it.
    for freedom, expected in {1: 12.706, 2: 4.303, 10: 2.228, math.inf: 1.960}.items():
        assert t_quantile(0.95, freedom) == pytest.approx(expected, abs=5e-4)
    with pytest.raises(ValueError, match=r"between 0 and 1, got 95"):
        t_quantile(95, 3)


def test_intervals_lie_around_the_mean() -> None:
    lower, upper = Estimate(100, 10, 9, 10, "plots").interval(0.95)
    assert (lower, upper) == pytest.approx((100 - 22.62157, 100 + 22.62157))


# --- what is refused ---


def test_small_samples_raise() -> None:
    with pytest.raises(
        SampleError, match=r"^3 plots are needed for the plots estimator, g"
    ):
        estimate([1, 2], method="plots")
    with pytest.raises(SampleError, match=r"^4 plots are needed for the regression"):
        estimate([1, 2, 3], [1, 2, 3], 2)
    shares = {"a": 1.0, "b": 2.0, "c": 1.0}
    with pytest.raises(SampleError, match=r"^2 plots are needed in each .*, b has 1$"):
        estimate(
            [1, 2, 3, 4, 5],
            method="plots",
            strata=list("aabcc"),
            shares=shares,
            lone="refuse",
        )
    with pytest.raises(SampleError, match=r"^no plots in stratum c$"):
        estimate([1, 2, 3, 4], method="plots", strata=list("aabb"), shares=shares)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda y, x: estimate(y, method="ratio"), r"method must be one of .*'ratio'"),
        (lambda y, x: estimate(y), r"regression estimator needs the map"),
        (
            lambda y, x: estimate(y, x[1:], 3),
            r"predicted must be one for each plot, got .*39",
        ),
        (lambda y, x: estimate(y, x * np.nan, 3), r"finite numbers, got nan"),
        (lambda y, x: estimate(y, x, 3, probability=0 * x), r"above 0, got 0.0"),
        (
            lambda y, x: estimate(y, x, 3, strata=["a"]),
            r"strata must be one for each plot",
        ),
        (
            lambda y, x: estimate(y, x, 3, strata=["a", "b"] * 20),
            r"needs their areas, shares=",
        ),
        (
            lambda y, x: estimate(y, x, 3, strata=["a"] * 40, shares={"b": 1.0}),
            r"strata \['a'\], whose areas are not given",
        ),
        (
            lambda y, x: estimate(y, x, 3, population=99, probability=x),
            r"belongs to equal probabilities",
        ),
        (
            lambda y, x: estimate(
                y, x, 3, strata=["a"] * 40, shares={"a": 1.0}, separate=True
            ),
            r"needs map_means=",
        ),
    ],
)
def test_arguments_that_contradict_raise(
    call: Callable[..., Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        call(*sample())


# --- what samples do: bias, standard errors and coverage ---

SAMPLES = 1000


def landscape(seed: int = 5) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return ground truth, strata (forest or not), and a biased and noisy map."""
    random = np.random.default_rng(seed)
    forest = random.random(100_000) < 0.6
    truth = np.where(
        forest, random.gamma(4, 45, forest.size), random.gamma(1, 8, forest.size)
    )
    poor = 15 + 6 * truth**0.7 + random.normal(0, 25, forest.size)
    return truth, forest.astype(int), poor


def runs(draw: Callable[[np.random.Generator], Estimate]) -> Iterator[Estimate]:
    random = np.random.default_rng(11)
    return (draw(random) for _ in range(SAMPLES))


def check(
    found: list[Estimate], truth: float, lowest: float = 0.95, bias: float = 0.0
) -> float:
    """Check bias, standard errors and coverage; return the spread of the means.

    Tolerances are four standard errors of what 1,000 samples show. `bias` allows for
    what is known to be of the order of 1/n, in standard errors.
    """
    means, ses = (
        np.array([getattr(f, name) for f in found]) for name in ("mean", "se")
    )
    spread = float(means.std())
    assert abs(means.mean() - truth) < (4 / math.sqrt(SAMPLES) + bias) * spread
    assert math.sqrt((ses**2).mean()) == pytest.approx(spread, rel=4 * 0.0224 + 0.02)
    inside = np.mean(
        [low <= truth <= high for low, high in (f.interval() for f in found)]
    )
    tolerance = 4 * math.sqrt(0.95 * 0.05 / SAMPLES)
    assert lowest - tolerance < inside < 0.95 + tolerance
    return spread


def test_simple_random_samples() -> None:
    truth, _, poor = landscape()
    spreads = {}
    for method in METHODS:

        def draw(random: np.random.Generator, method: Any = method) -> Estimate:
            at = random.integers(0, truth.size, 60)
            return estimate(truth[at], poor[at], poor.mean(), method=method)

        spreads[method] = check(list(runs(draw)), truth.mean())
    assert poor.mean() > 1.4 * truth.mean()
    assert spreads["regression"] < spreads["difference"] < spreads["plots"] / 1.5


@pytest.mark.parametrize("separate", [True, False])
def test_stratified_samples(separate: bool) -> None:
    truth, forest, poor = landscape()
    members = [np.flatnonzero(forest == stratum) for stratum in (0, 1)]
    shares = {0: float(members[0].size), 1: float(members[1].size)}
    means = {name: float(poor[members[name]].mean()) for name in (0, 1)}
    spreads = {}
    for method in METHODS:

        def draw(random: np.random.Generator, method: Any = method) -> Estimate:
            at = [random.choice(members[0], 20), random.choice(members[1], 40)]
            return estimate(
                np.concatenate([truth[each] for each in at]),
                np.concatenate([poor[each] for each in at]),
                poor.mean(),
                method=method,
                strata=[0] * 20 + [1] * 40,
                shares=shares,
                map_means=means,
                separate=separate,
            )

        spreads[method] = check(list(runs(draw)), truth.mean())
    assert spreads["regression"] < spreads["plots"] / 1.5


def test_unequal_probabilities() -> None:
    truth, forest, poor = landscape()
    chance = np.where(forest, 2.0, 1.0) * np.sqrt(np.clip(poor, 50, 300))
    chance /= chance.sum()
    edges = np.cumsum(chance)
    spreads = {}
    for method in METHODS:

        def draw(random: np.random.Generator, method: Any = method) -> Estimate:
            at = np.searchsorted(edges, random.random(80) * edges[-1])
            return estimate(
                truth[at],
                poor[at],
                poor.mean(),
                method=method,
                probability=chance[at],
            )

        spreads[method] = check(list(runs(draw)), truth.mean(), lowest=0.93, bias=0.1)
    assert spreads["regression"] < spreads["plots"] / 1.5


def test_ten_plots_cover_a_little_less() -> None:
    """Skewed plots in small samples: the coverage in docs/explanation/totals.md."""
    truth, _, poor = landscape()
    for method in METHODS:

        def draw(random: np.random.Generator, method: Any = method) -> Estimate:
            at = random.integers(0, truth.size, 10)
            return estimate(truth[at], poor[at], poor.mean(), method=method)

        found = list(runs(draw))
        covered = [
            low <= truth.mean() <= high for low, high in (f.interval() for f in found)
        ]
        assert 0.90 < np.mean(covered) < 0.98
