"""Checks of a sample of plots: its size, values, places and likeness to the region."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from geobiomass.accounting.check import BROKEN, DOUBTFUL, OK, Check, Verdict, graded
from geobiomass.accounting.ground_plots import GroundPlots
from geobiomass.accounting.plot_places import nearness
from geobiomass.accounting.region_sums import WHOLE, PlotValues, RegionSum
from geobiomass.statistics.estimators import estimate
from geobiomass.statistics.sample import SampleError

Numbers = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

# Student's interval covers 93 % or more of nominal 95 from ten plots on in our own
# landscape (docs/explanation/totals.md), and 82 to 86 % at 8 plots of skewed forest.
_FEW = 10
# One in twenty plots that repeats another makes a standard error 2.5 % too small.
_REPEATED = 0.05
# Below 80 % response a survey must analyse its bias (OMB 2006, Standards and Guidelines
# for Statistical Surveys, 3.2.9).
_SILENT = (0.05, 0.20)
# Zeros are then most plots, and 5 others cannot show how the rest is spread: Student's
# interval covers 83 to 92 % (80 % zeros, 8 to 30 plots).
_NOT_ZERO = 5
# Cochran (1977), 2.15: n above 25 times the squared skewness keeps a nominal 95 % above
# 94 %. Only a skewness that is significant at 3 % counts.
_COCHRAN, _SKEW_LEVEL = 25, 0.03
# Two-sided levels of the test that plots are like the region by the map: at most 1 % of
# random samples are doubtful, and 1 in 10,000 broken.
LIKE = (0.01, 1e-4)
# With residuals half as large at a fifth of the plots, which trained the model, the
# standard error is 8 % too small; with all of them it is half of the true one.
_TRAINED = 0.2
# A map and independent plots correlate less than 0.98; see docs/explanation/totals.md.
_AGREE, _EQUAL, _FEWEST_EQUAL = 0.98, 1e-3, 5
# Factors between units: kg/m2 and Mg/ha 10, g/m2 100, kg/ha 1000. Levels and spreads
# must both have it, within half a factor of 2.25, since a biased map has one of them.
_POWERS, _NEAR_POWER = (10.0, 100.0, 1000.0), 1.5
# Carbon fraction (IPCC 2006: 0.44 to 0.55), and acres in a hectare.
_OTHERS, _NEAR_OTHER = {"a carbon fraction": 0.485, "acres": 0.405}, 1.2
# A choice: two years of growth are within the error of a plot.
_YEARS = 2.0
# A plot of less than a tenth of a pixel shows a part of it: the map's slope is diluted
# (Rejou-Mechain et al. 2014, Biogeosciences 11, 6827), which widens the interval.
_SMALL = 0.1
# A share beyond the plots' range that fewer than 1 % of random samples leave.
_BEYOND = 0.005


@dataclass(frozen=True)
class Sample:
    """The plots of a region that count, and the numbers of those that do not.

    Parameters
    ----------
    one : RegionSum
        The region.
    y, x : numpy.ndarray
        (plot,) observed and mapped values, Mg/ha.
    points : numpy.ndarray
        (plot, 2) pixels.
    strata : list of str
        (plot,) names of strata, empty without.
    shares : dict
        Hectares by stratum.
    by_raster : bool
        Whether strata are pixels of the map.
    probability, plot_hectares, years : numpy.ndarray
        (plot,) inclusion probabilities (or None), sizes, years.
    pixel : tuple of float
        Metres.
    year : float, optional
        Of the map.
    off_map, on_nodata, silent : int
        Plots of the region off the map, on pixels without a value, without a value.
    trained : int
        Plots that trained the model of the map.
    cluster : list, optional
        (plot,) the cluster of each plot.
    """

    one: RegionSum
    y: Numbers
    x: Numbers
    points: Numbers
    strata: list[str]
    shares: dict[str, float]
    by_raster: bool
    probability: Numbers | None
    plot_hectares: Numbers
    years: Numbers
    pixel: tuple[float, float]
    year: float | None
    off_map: int
    on_nodata: int
    silent: int
    trained: int
    cluster: list[Any] | None

    @classmethod
    def of(
        cls,
        one: RegionSum,
        ground: GroundPlots,
        at: PlotValues,
        hectares: dict[str, float] | None,
        pixel: tuple[float, float],
        year: float | None,
    ) -> Sample:
        """Return the plots of a region."""
        known = np.isfinite(at.predicted)
        mine = one.plots & known
        by_raster = hectares is None and set(one.areas) != {WHOLE}
        named = ground.stratum if ground.stratum is not None else at.stratum
        stratified = by_raster or (hectares is not None and ground.stratum is not None)
        return cls(
            one=one,
            y=ground.observed[mine],
            x=at.predicted[mine],
            points=ground.points[mine],
            strata=named[mine].tolist() if stratified else [],
            shares=(hectares or one.shares) if stratified else {},
            by_raster=by_raster,
            probability=None
            if ground.probability is None
            else ground.probability[mine],
            plot_hectares=ground.hectares[mine],
            years=ground.years[mine],
            pixel=pixel,
            year=year,
            off_map=int(one.outline.contains(*ground.beyond.T).sum()),
            on_nodata=int((one.plots & ~known).sum()),
            silent=int(one.outline.contains(*ground.silent.T).sum()),
            trained=int((mine & ground.trained).sum()),
            cluster=None if ground.cluster is None else ground.cluster[mine].tolist(),
        )

    @property
    def n(self) -> int:
        """Number of plots that count."""
        return int(self.y.size)

    @cached_property
    def repeated(self) -> int:
        """Number of plots at the place of another one."""
        return self.n - len(np.unique(np.round(self.points, 6), axis=0))

    @property
    def units(self) -> int:
        """Number of sampling units: clusters, if there are any, or plots."""
        return self.n if self.cluster is None else len(set(self.cluster))

    @property
    def weighted(self) -> bool:
        """Whether inclusion probabilities differ."""
        return self.probability is not None and bool(np.ptp(self.probability) > 0)

    @cached_property
    def nearness(self) -> tuple[float, float]:
        """Distance to the next plot over that of random points, and its p value."""
        return nearness(self.one, self.points, self.strata, self.pixel)


def sample_checks(
    sample: Sample, method: str, row: dict[str, Any], reason: str = ""
) -> list[Check]:
    """Return the checks of a sample.

    Parameters
    ----------
    sample : Sample
        The plots of a region.
    method : str
        "plots", "difference" or "regression".
    row : dict
        The row of totals, with ``mean_lower``, ``mean_upper`` and ``interval``.
    reason : str
        Why the rule of intervals gives none; empty if it gives one.
    """
    checks = [_silent(sample)]
    if sample.strata or sample.shares:
        checks += _bare(sample)
    if sample.n == 0 or not math.isfinite(row["mean"]):
        return checks
    checks += [_few(sample), _repeated(sample), _clustered(sample)]
    checks += [_width(row, reason), _zeros(sample)]
    checks.append(_skewed(sample, method, row["interval"]))
    checks += [_like(sample, checks), _units(sample), _years(sample)]
    if method != "plots":
        checks += [_agreement(sample), _support(sample)]
    if method == "regression":
        checks.append(_beyond(sample))
    return checks


def checks_of_places(sample: Sample) -> list[Check]:
    """Return the checks that make sense of a region with few plots."""
    return [_silent(sample), _clustered(sample)]


def checks_of_values(sample: Sample) -> list[Check]:
    """Return the checks of plots, of one region or of several."""
    checks = [_repeated(sample), _units(sample), _years(sample)]
    return [*checks, _agreement(sample), _support(sample)]


def _silent(sample: Sample) -> Check:
    rows = sample.n + sample.silent
    share = sample.silent / rows if rows else 0.0
    words = f"{sample.silent} of {rows} plots of the region have no value"
    return Check("nonresponse", share, graded(share, *_SILENT), words)


def _bare(sample: Sample) -> list[Check]:
    name = "strata with plots"
    bare = [n for n, ha in sample.shares.items() if ha > 0 and n not in sample.strata]
    if not bare:
        return [Check(name, 0.0, OK, "every stratum has plots")]
    area = sum(sample.shares[name] for name in bare)
    share = area / sum(sample.shares.values())
    words = f"no plots in stratum {', '.join(bare)} ({100 * share:.2g} % of the area)"
    return [Check(name, share, BROKEN, words)]


def _few(sample: Sample) -> Check:
    verdict: Verdict = DOUBTFUL if sample.units < _FEW else OK
    what = "plots" if sample.cluster is None else "clusters"
    words = f"{sample.units} {what}, {_FEW} or more are wanted"
    return Check("number of plots", sample.units, verdict, words)


def _repeated(sample: Sample) -> Check:
    share = sample.repeated / sample.n
    verdict: Verdict = DOUBTFUL if sample.repeated else OK
    if sample.repeated > 1 and share > _REPEATED:
        verdict = BROKEN
    words = f"{sample.repeated} of {sample.n} plots are at the place of another plot"
    return Check("plots at equal places", share, verdict, words)


def _clustered(sample: Sample) -> Check:
    name, nan = "plots apart", math.nan
    if sample.cluster is not None:
        return Check(name, nan, OK, "not checked: clusters are the sampling units")
    if sample.n - sample.repeated < _FEWEST_EQUAL:
        return Check(name, nan, OK, "not checked: fewer than 5 places")
    if sample.weighted or (sample.strata and not sample.by_raster):
        return Check(name, nan, OK, "not checked: plots are not meant to be even")
    ratio, level = sample.nearness
    if not math.isfinite(ratio):
        return Check(name, nan, OK, "not checked: strata have one plot each")
    verdict = OK
    if level <= 0.01:  # of random samples one in a hundred
        # Half the distance of random points is four of its standard errors at 16
        # plots (0.52 / sqrt(n), Clark and Evans 1954).
        verdict = BROKEN if ratio < 0.5 else DOUBTFUL
    words = (
        f"the nearest plot is {ratio:.2f} times as far as of random points in the "
        "region"
    )
    if verdict != OK:
        words += ": clusters of plots are one unit each"
    return Check(name, ratio, verdict, words)


def _width(row: dict[str, Any], reason: str) -> Check:
    if reason:
        return Check("width of the interval", math.nan, BROKEN, reason)
    width = row["mean_upper"] - row["mean_lower"]
    least = 1e-9 * max(abs(row["mean"]), 1e-300)
    verdict: Verdict = OK if width > least or not math.isfinite(width) else BROKEN
    words = f"the interval is {width:.3g} Mg/ha wide"
    if verdict == BROKEN:
        words += ": plots that agree do not show how far they may be off"
    return Check("width of the interval", width, verdict, words)


def _zeros(sample: Sample) -> Check:
    zero = int((sample.y == 0).sum())
    other = sample.n - zero
    verdict: Verdict = DOUBTFUL if zero > other and other <= _NOT_ZERO else OK
    words = f"{zero} of {sample.n} plots are 0, {other} are not"
    return Check("zeros", zero / sample.n, verdict, words)


def _residuals(sample: Sample, method: str) -> Numbers:
    """Return the residuals of an estimator within strata."""
    strata = np.array(sample.strata or [WHOLE] * sample.n, object)
    y, x = sample.y.copy(), sample.x.copy()
    if method == "difference":
        y -= x
    for name in set(strata):
        mine = strata == name
        y[mine] -= y[mine].mean()
        x[mine] -= x[mine].mean()
    if method == "regression" and (x**2).sum() > 0:
        y -= x * (x @ y) / (x @ x)
    return y


def _skewed(sample: Sample, method: str, interval: str) -> Check:
    from scipy.stats import skew, skewtest

    name, rest = "skewness", _residuals(sample, method)
    if sample.n < 8 or not rest.std() > 1e-9 * max(abs(sample.y).max(), 1e-300):
        return Check(name, math.nan, OK, "not checked: fewer than 8 plots that differ")
    found = float(skew(rest, bias=False))
    needed = _COCHRAN * found**2
    significant = float(skewtest(rest).pvalue) < _SKEW_LEVEL
    words = f"residuals have a skewness of {found:.2g}"
    if significant and sample.n < needed and interval == "Hall":
        words += ", which Hall's interval allows for"
    elif significant and sample.n < needed:
        words += f", for which {needed:.0f} plots are wanted, not {sample.n}"
        return Check(name, found, DOUBTFUL, words)
    return Check(name, found, OK, words)


def _like(sample: Sample, before: list[Check]) -> Check:
    """Return whether the map's mean at the plots is that of the region."""
    from scipy.special import stdtr

    name = "plots are like the region"
    try:
        found = estimate(
            sample.x,
            method="plots",
            strata=sample.strata or None,
            shares=sample.shares or None,
            probability=sample.probability,
            cluster=sample.cluster,
        )
    except SampleError:
        return Check(name, math.nan, OK, "not checked: too few plots")
    off = found.mean - sample.one.mean
    if not found.se > 1e-9 * max(abs(found.mean), 1e-300):
        return Check(name, math.nan, OK, "not checked: the map is level at the plots")
    errors = off / found.se
    level = 2 * float(stdtr(found.freedom, -abs(errors)))
    verdict: Verdict = (
        BROKEN if level < LIKE[1] else DOUBTFUL if level < LIKE[0] else OK
    )
    apart = [check.verdict for check in before if check.name == "plots apart"]
    if verdict == BROKEN and apart != [OK]:
        verdict = DOUBTFUL  # the standard error of clustered plots is too small
    words = (
        f"the map is {found.mean:.4g} at the plots and {sample.one.mean:.4g} over the "
        f"region, {abs(errors):.2g} standard errors apart"
    )
    if verdict != OK:
        words += ": they are not a random sample of it"
    return Check(name, errors, verdict, words, of_change=False)


def _units(sample: Sample) -> Check:
    name, nan = "units", math.nan
    y, x = float(sample.y.mean()), float(sample.x.mean())
    spreads = (float(sample.y.std()), float(sample.x.std()))
    if not (y > 0 and x > 0 and min(spreads) > 0):
        return Check(name, nan, OK, "not checked: plots or map are level", False)
    level, spread = y / x, spreads[0] / spreads[1]
    words = f"plots are {level:.3g} times the map"
    for factor in (f**sign for f in _POWERS for sign in (1, -1)):
        if all(1 / _NEAR_POWER < v / factor < _NEAR_POWER for v in (level, spread)):
            words += f", and spread {spread:.3g} times as much: a factor of {factor:g}"
            return Check(name, level, BROKEN, f"{words} between units", False)
    # A ratio of 1 must be excluded: three standard errors of a ratio of means.
    rest = sample.y - level * sample.x
    error = float(rest.std(ddof=1)) / math.sqrt(sample.n) / x if sample.n > 1 else 1.0
    for what, factor in _OTHERS.items():
        for wanted in (factor, 1 / factor):
            near = all(
                1 / _NEAR_OTHER < v / wanted < _NEAR_OTHER for v in (level, spread)
            )
            if near and abs(level - 1) > 3 * error:
                words += f", as if {what} were between them"
                return Check(name, level, DOUBTFUL, words, False)
    return Check(name, level, OK, words, False)


def _years(sample: Sample) -> Check:
    name, known = "years", sample.years[np.isfinite(sample.years)]
    if sample.year is None or not known.size:
        words = "not checked: map or plots do not state their time"
        return Check(name, math.nan, OK, words)
    apart = float(np.median(np.abs(known - sample.year)))
    words = (
        f"map and plots are {apart:.2g} years apart: the total is of the plots' time, "
        f"{np.median(known):.0f}"
    )
    return Check(name, apart, graded(apart, _YEARS), words)


def _agreement(sample: Sample) -> Check:
    name = "plots are new to the map"
    real = (sample.y >= 1) & (sample.x >= 1)  # bare land may be 0 in both
    off = np.abs(sample.y - sample.x)[real]
    equal = int((off <= _EQUAL * sample.y[real]).sum())
    if real.sum() >= _FEWEST_EQUAL and equal > 0.2 * real.sum():
        words = (
            f"{equal} of {int(real.sum())} plots equal the map within 0.1 %: it has "
            "probably learnt them"
        )
        return Check(name, equal / real.sum(), BROKEN, words, False)
    if sample.trained:
        words = f"{sample.trained} plots trained the model: the interval is too narrow"
        share = sample.trained / sample.n
        return Check(name, share, graded(share, 0.0, _TRAINED), words, False)
    spreads = float(sample.x.std()) * float(sample.y.std())
    if sample.n < _FEW or not spreads > 0:
        return Check(name, math.nan, OK, "not checked: fewer than 10 plots", False)
    r = float(np.corrcoef(sample.x, sample.y)[0, 1])
    # The lower bound of a one-sided interval of 95 % (Fisher 1915).
    low = math.tanh(math.atanh(min(r, 1 - 1e-12)) - 1.645 / math.sqrt(sample.n - 3))
    words = f"map and plots correlate by {r:.3f}"
    if low > _AGREE:
        words += ": a map that has not learnt the plots hardly does"
        return Check(name, r, DOUBTFUL, words, False)
    return Check(name, r, OK, words, False)


def _support(sample: Sample) -> Check:
    name, known = "size of plots", sample.plot_hectares
    known = known[np.isfinite(known)]
    if not known.size:
        words = "not checked: points without a radius"
        return Check(name, math.nan, OK, words)
    ratio = float(np.median(known)) / (sample.pixel[0] * sample.pixel[1] / 1e4)
    words = f"a plot is {ratio:.2g} pixels large"
    verdict: Verdict = DOUBTFUL if ratio < _SMALL else OK
    if verdict == DOUBTFUL:
        words += ": it shows a part of its pixel, and the interval is wide"
    return Check(name, ratio, verdict, words)


def _beyond(sample: Sample) -> Check:
    """Return how much of the region is beyond the map's range at the plots."""
    name = "range of plots"
    if sample.strata or sample.weighted:
        return Check(name, math.nan, OK, "not checked: plots are not meant to be even")
    _, _, area, values, _ = sample.one.drawn
    shares = [
        float(area[beyond].sum() / area.sum())
        for beyond in (values < sample.x.min(), values > sample.x.max())
    ]
    limit = 1 - _BEYOND ** (1 / sample.n)
    words = (
        f"{100 * sum(shares):.3g} % of the region is beyond the map's range at the "
        f"plots, {sample.x.min():.4g} to {sample.x.max():.4g} Mg/ha"
    )
    verdict: Verdict = DOUBTFUL if max(shares) > limit else OK
    return Check(name, sum(shares), verdict, words)
