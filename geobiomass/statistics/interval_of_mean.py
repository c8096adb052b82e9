r"""Confidence intervals of an estimated mean: few plots, skewness, zeros.

``"t"`` is Student's t. ``"auto"`` follows these rules, in this order:

1. Fewer sampling units than 8: no interval. Nothing in such a sample shows whether t
   holds.
2. All plots at the lowest possible value (0 Mg/ha): from the lowest value to an exact
   bound. With confidence c, the share of the area above it is at most
   :math:`1 - (1 - c)^{1/n}` (Clopper and Pearson 1934; about 3/n at 95 %), in strata at
   most the largest :math:`\sum W_h p_h` with :math:`\prod (1 - p_h)^{n_h} \ge 1 - c`;
   the bound is this share times the highest possible value. It is not below the upper
   end of the estimator's own interval.
3. All plots equal otherwise, or a map that is exact at the plots: no interval, since a
   standard error of 0 is not an estimate of it.
4. More than 45 % of the variance of the map, over the area, is above the highest map
   value at the plots: no interval. The sample then lacks what makes the area vary; all
   intervals fail, whichever formula they have (docs/explanation/totals.md).
5. Skewness above its standard error :math:`\sqrt{6/n}` in a symmetric population:
   Hall's (1992) interval. Let :math:`a` be the skewness of the estimator and
   :math:`q` the quantile of Student's t; the interval is

   .. math::

       \hat\mu - \hat s\,T(q) \;\text{to}\; \hat\mu - \hat s\,T(-q),\quad
       T(q) = \frac{3}{a}\left[\left(1 + a\,(q - a/6)\right)^{1/3} - 1\right]

6. Else Student's t.

``"t"`` follows rules 2 and 3 only. With a regression the standard error of "auto" is
from residuals divided by :math:`\sqrt{1 - h}`, h the leverage on the slope (HC2:
MacKinnon and White 1985), where that is larger: with few plots the residuals of the
plots that determine a slope are too small. The lower end is never below the lowest
possible value.

References
----------
Clopper, C. J. and Pearson, E. S. (1934). The use of confidence or fiducial limits
illustrated in the case of the binomial. Biometrika 26, 404-413.

Hall, P. (1992). On the removal of skewness by transformation. Journal of the Royal
Statistical Society B 54, 221-228.

MacKinnon, J. G. and White, H. (1985). Some heteroskedasticity-consistent covariance
matrix estimators with improved finite sample properties. Journal of Econometrics 29,
305-325.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from geobiomass.statistics.confidence import check_confidence, t_quantile
from geobiomass.statistics.estimated_mean import Estimate
from geobiomass.statistics.sample import Numbers

Kind = Literal["auto", "t"]
KINDS: tuple[Kind, ...] = ("auto", "t")
FEWEST = 8
"""Fewest sampling units that "auto" gives an interval for."""
_EXACT = 1e-6  # of the values: a standard error of rounding only, as maps are float32
MOST_UNSEEN = 0.45
"""Largest share of the map's variance above the highest map value at the plots. With
3 % of old forest that the map shows and no plot is in, it is a half."""


@dataclass(frozen=True)
class IntervalRule:
    """How intervals are made.

    Parameters
    ----------
    kind : "auto" or "t"
        By the rules of this module, or Student's t wherever there is a standard error.
    lowest : float
        The lowest possible value, in the unit of the observations; minus infinity if
        there is none.
    highest : float, optional
        The highest possible value of the area, which the bound for plots that are all
        zero needs.

    Raises
    ------
    ValueError
        If the kind is unknown, or the highest value is not above the lowest.
    """

    kind: Kind = "auto"
    lowest: float = 0.0
    highest: float | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(
                f"interval must be one of {KINDS}, got {self.kind!r}; the level of an "
                "interval is confidence=."
            )
        if self.highest is not None and not self.highest > self.lowest:
            raise ValueError(
                f"The highest possible value must be above the lowest, {self.lowest}, "
                f"got {self.highest}."
            )


@dataclass(frozen=True)
class Bounds:
    """A confidence interval.

    Parameters
    ----------
    lower, upper : float
        Its ends; NaN if there is none.
    kind : str
        "t", "Hall", "all zero", or "none".
    note : str
        Why there is none, or what it rests on; else empty.
    """

    lower: float
    upper: float
    kind: str
    note: str = ""


def interval_of(
    found: Estimate,
    confidence: float = 0.95,
    rule: IntervalRule | None = None,
    *,
    unseen: float = 0.0,
) -> Bounds:
    """Return the confidence interval of an estimated mean.

    Parameters
    ----------
    found : Estimate
        The estimated mean.
    confidence : float
        Confidence level.
    rule : IntervalRule, optional
        By default "auto", for values of 0 and above.
    unseen : float
        Share of the map's variance over the area that is above the highest map value at
        the plots.

    Raises
    ------
    ValueError
        If the confidence is not between 0 and 1.
    """
    check_confidence(confidence)
    rule = IntervalRule() if rule is None else rule
    careful = rule.kind == "auto"
    if careful and found.units < FEWEST:
        return _refused(
            f"an interval needs {FEWEST} sampling units or more, got {found.units:.3g}"
        )
    if found.lowest == found.highest == rule.lowest:
        return _all_zero(found, confidence, rule)
    if not found.se > _EXACT * max(abs(found.mean), abs(found.highest)):
        return _refused(
            "all plots agree, so that the standard error is 0 and no interval follows"
        )
    if not careful:
        return _within(*found.interval(confidence), "t", rule)
    if unseen > MOST_UNSEEN:
        return _refused(
            f"{100 * unseen:.0f} % of the variance of the map is above its highest "
            "value at the plots, so that no interval of this sample holds"
        )
    se = max(found.se, found.leveraged_se or 0.0)
    q = t_quantile(confidence, found.freedom)
    a = found.skewness
    if abs(a) * (found.freedom + 1) > math.sqrt(6):
        ends = (found.mean - se * _of_hall(q, a), found.mean - se * _of_hall(-q, a))
        return _within(*ends, "Hall", rule)
    return _within(found.mean - q * se, found.mean + q * se, "t", rule)


def largest_share(units: Numbers, shares: Numbers, confidence: float) -> float:
    """Return the largest share of the area above zero, if all plots are zero.

    Parameters
    ----------
    units : numpy.ndarray
        (stratum,) number of sampling units, all of them zero.
    shares : numpy.ndarray
        (stratum,) share of the area; they sum to 1.
    confidence : float
        One-sided confidence level: the lower end is exact.
    """
    # At the largest share, 1 - p is proportional to n / W, and at most 1 (Lagrange).
    rates = units / shares
    low, high = 0.0, 1 / float(rates.min())
    for _ in range(100):
        middle = (low + high) / 2
        empty = np.minimum(1.0, middle * rates)
        if float(units @ np.log(empty)) > math.log1p(-confidence):
            high = middle
        else:
            low = middle
    return float(shares @ (1 - np.minimum(1.0, high * rates)))


def _all_zero(found: Estimate, confidence: float, rule: IntervalRule) -> Bounds:
    if rule.highest is None:
        return _refused(
            f"all plots are {rule.lowest:g}: an upper bound needs the highest possible "
            "value"
        )
    strata = found.strata
    units = np.array([part.units for part in strata], np.float64)
    units *= found.units / units.sum()  # with unequal probabilities these are fewer
    shares = np.array([part.share for part in strata])
    most = largest_share(units, shares, confidence)
    bound = rule.lowest + most * (rule.highest - rule.lowest)
    note = (
        f"all plots are {rule.lowest:g}: the upper end is {100 * most:.3g} % of the "
        f"area, the exact bound, at {rule.highest:.4g}"
    )
    upper = max(bound, found.interval(confidence)[1])
    return Bounds(rule.lowest, upper, "all zero", note)


def _of_hall(q: float, a: float) -> float:
    """Return the inverse of Hall's transformation at a quantile."""
    return 3 / a * (float(np.cbrt(1 + a * (q - a / 6))) - 1)


def _within(lower: float, upper: float, kind: str, rule: IntervalRule) -> Bounds:
    """Return an interval, cut off at the lowest possible value."""
    if upper <= rule.lowest:
        return _refused(
            f"the interval, up to {upper:.4g}, is below the lowest possible value, "
            f"{rule.lowest:g}: map and plots contradict each other"
        )
    return Bounds(max(lower, rule.lowest), upper, kind)


def _refused(why: str) -> Bounds:
    return Bounds(math.nan, math.nan, "none", why)
