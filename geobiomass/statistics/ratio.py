r"""Ratios of two totals, and totals of draws with unequal probabilities.

The ratio of two means from one sample, such as biomass per hectare of forest, is
:math:`\hat R = \bar y / \bar x`. Its variance is that of the mean of
:math:`e = y - \hat R x` divided by :math:`\bar x^2`, under the design of the sample
(Cochran 1977, 6.3 and 6.11; linearisation).

Draws with replacement, with the probabilities :math:`p_i` of each draw, have the total
:math:`\hat T = \frac{1}{n} \sum y_i / p_i` and the variance
:math:`\frac{1}{n (n - 1)} \sum (y_i / p_i - \hat T)^2` (Hansen and Hurwitz 1943).

References
----------
Cochran, W. G. (1977). Sampling techniques, 3rd ed. Wiley. Chapter 6.

Hansen, M. H. and Hurwitz, W. N. (1943). On the theory of sampling from finite
populations. Annals of Mathematical Statistics 14, 333-362.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from geobiomass.statistics.estimated_mean import Estimate
from geobiomass.statistics.estimators import estimate
from geobiomass.statistics.sample import SampleError, column


def ratio(numerator: Any, denominator: Any, **design: Any) -> Estimate:
    """Estimate the ratio of two means from the same plots.

    Parameters
    ----------
    numerator, denominator : array-like
        (plot,) the two values of each plot.
    **design
        How the plots were drawn: strata, shares, population, probability, cluster,
        design and places of :func:`geobiomass.statistics.estimators.estimate`.

    Returns
    -------
    Estimate
        ``mean`` is the ratio. Times a known total of the denominator it is the ratio
        estimate of the numerator's total.

    Raises
    ------
    SampleError
        If there are too few plots, or the denominator's mean is not above 0.
    """
    above = estimate(numerator, method="plots", **design)
    below = estimate(denominator, method="plots", **design)
    if not below.mean > 0:
        raise SampleError(
            f"the mean of the denominator must be above 0, got {below.mean:g}"
        )
    found = above.mean / below.mean
    rest = np.asarray(numerator, float) - found * np.asarray(denominator, float)
    error = estimate(rest, method="plots", **design)
    return Estimate(
        found,
        error.se / below.mean,
        error.freedom,
        error.n,
        "ratio",
        units=error.units,
        skewness=error.skewness,
        lowest=error.lowest,
        highest=error.highest,
        notes=error.notes,
    )


def hansen_hurwitz(values: Any, draw_probability: Any) -> Estimate:
    """Estimate a total from draws with replacement and known probabilities.

    Parameters
    ----------
    values : array-like
        (draw,) total of the drawn unit.
    draw_probability : array-like
        (draw,) probability of the unit in one draw; over all units they sum to 1.

    Returns
    -------
    Estimate
        ``mean`` is the total.

    Raises
    ------
    SampleError
        If there are fewer than 3 draws.
    ValueError
        If a probability is not above 0 and at most 1.
    """
    y = column(values, "values")
    p = column(draw_probability, "draw_probability", y.size, positive=True)
    if (p > 1).any():
        raise ValueError(f"draw_probability must be at most 1, got {p.max()}.")
    return estimate(y / p, method="plots")
