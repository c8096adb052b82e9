"""Checks of the model of small areas, and of the plots that it learns from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from geobiomass.accounting.check import BROKEN, DOUBTFUL, OK, Check, Verdict
from geobiomass.accounting.region_sums import RegionSum
from geobiomass.accounting.sample_checks import (
    LIKE,
    Sample,
    checks_of_places,
    checks_of_values,
)
from geobiomass.accounting.small_areas import SmallAreaTotals
from geobiomass.statistics.small_areas import FEWEST_REGIONS

# Of normal samples one in a hundred is doubtful.
_LEVEL = 0.01
# A correlation that many plots find by chance is no reason to doubt.
_GROWS = 0.3


def region_checks(
    small: SmallAreaTotals, one: RegionSum, sample: Sample
) -> list[Check]:
    """Return the checks of a region.

    Parameters
    ----------
    small : SmallAreaTotals
        The fitted model.
    one : RegionSum
        The region.
    sample : Sample
        Its plots.
    """
    return [*checks_of_places(sample), _own(small, one), _range(small, one)]


def model_checks(small: SmallAreaTotals, sample: Sample) -> list[Check]:
    """Return the checks of the model and of all plots, which every row rests on.

    Parameters
    ----------
    small : SmallAreaTotals
        The fitted model.
    sample : Sample
        The plots of all regions, :func:`joined`.
    """
    checks = [_regions(small), _spread(small), _like(small)]
    return [*checks, _normal(small), _even(small), *checks_of_values(sample)]


def joined(samples: Sequence[Sample]) -> Sample:
    """Return the plots of several regions as one sample.

    Its region is the first one, which the checks of plots without a place do not use.
    """

    def all_of(name: str) -> Any:
        return np.concatenate([getattr(each, name) for each in samples])

    def sum_of(name: str) -> int:
        return sum(getattr(each, name) for each in samples)

    first = samples[0]
    return Sample(
        one=first.one,
        y=all_of("y"),
        x=all_of("x"),
        points=all_of("points"),
        strata=[],
        shares={},
        by_raster=False,
        probability=None,
        plot_hectares=all_of("plot_hectares"),
        years=all_of("years"),
        pixel=first.pixel,
        year=first.year,
        off_map=sum_of("off_map"),
        on_nodata=sum_of("on_nodata"),
        silent=sum_of("silent"),
        trained=sum_of("trained"),
        cluster=None,
    )


def _regions(small: SmallAreaTotals) -> Check:
    count = int((small.means.plots > 0).sum())
    words = f"{count} regions have plots, {FEWEST_REGIONS} or more are needed"
    return Check("number of regions", count, OK, words)


def _spread(small: SmallAreaTotals) -> Check:
    found = small.means
    between, within = math.sqrt(found.between), math.sqrt(found.within)
    words = (
        f"regions differ from the line by {between:.3g} Mg/ha, plots by {within:.3g}"
    )
    verdict: Verdict = DOUBTFUL if found.at_zero else OK
    if found.at_zero:
        words += (
            ": the first is a cautious guess, as plots show no difference between "
            "regions"
        )
    return Check("spread between regions", between, verdict, words)


def _own(small: SmallAreaTotals, one: RegionSum) -> Check:
    number = small.number(one)
    count = 0 if number is None else int(small.means.plots[number])
    if count == 0:
        words = "no plots of its own: only the regression over other regions"
        return Check("own plots", 0, DOUBTFUL, words)
    weight = 0.0 if number is None else float(small.means.weight[number])
    words = f"{count} plots of its own have a weight of {weight:.2f}"
    return Check("own plots", count, OK, words)


def _like(small: SmallAreaTotals) -> Check:
    """Return whether plots are a random sample of their regions by the map."""
    from scipy.special import ndtr

    name = "plots are like the region"
    home = small.plot_region
    away = small.plot_map - np.array([one.mean for one in small.regions])[home]
    counts = np.bincount(home)
    middle = np.bincount(home, away) / np.maximum(counts, 1)
    left = away.size - int((counts > 0).sum())
    se = math.sqrt(float(((away - middle[home]) ** 2).sum()) / left / away.size)
    if not se > 0:
        return Check(name, math.nan, OK, "not checked: the map is level in regions")
    errors = float(away.mean()) / se
    level = 2 * float(ndtr(-abs(errors)))
    verdict: Verdict = OK
    if level < LIKE[0]:
        verdict = BROKEN if level < LIKE[1] else DOUBTFUL
    words = (
        f"the map is {away.mean():+.3g} Mg/ha off its regions' means at the plots, "
        f"{abs(errors):.2g} standard errors"
    )
    if verdict != OK:
        words += ": they are not a random sample of their regions"
    return Check(name, errors, verdict, words)


def _range(small: SmallAreaTotals, one: RegionSum) -> Check:
    low, high = float(small.plot_map.min()), float(small.plot_map.max())
    words = (
        f"the map's mean is {one.mean:.4g} Mg/ha, its range at all plots {low:.4g} to "
        f"{high:.4g}"
    )
    verdict: Verdict = OK if low <= one.mean <= high else DOUBTFUL
    if verdict != OK:
        words += ": the line is extrapolated"
    return Check("range of plots", one.mean, verdict, words)


def _normal(small: SmallAreaTotals) -> Check:
    from scipy.stats import shapiro

    level = float(shapiro(small.means.region_residuals).pvalue)
    verdict: Verdict = DOUBTFUL if level < _LEVEL else OK
    like = "not like" if verdict != OK else "like"
    words = (
        f"residuals of regions are {like} normal ones (Shapiro and Wilk: {level:.2g})"
    )
    return Check("normal residuals", level, verdict, words)


def _even(small: SmallAreaTotals) -> Check:
    """Return whether plots spread as much at low as at high values of the map."""
    from scipy.stats import spearmanr

    found = spearmanr(np.abs(small.means.plot_residuals), small.plot_map)
    r, level = float(found.statistic), float(found.pvalue)
    verdict: Verdict = DOUBTFUL if level < _LEVEL and abs(r) > _GROWS else OK
    words = f"the spread of plots and the map correlate by {r:.2f}"
    if verdict != OK:
        words += (
            ": where it is larger than on average intervals are too narrow, elsewhere "
            "too wide"
        )
    return Check("even spread of plots", r, verdict, words)
