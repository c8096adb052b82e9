r"""Design-based estimators of a mean, from a probability sample of plots and a map.

Each is a sum of weighted residuals. A plot :math:`i` of stratum :math:`h` has
the weight :math:`w_i = W_h\,\pi_i^{-1} / \sum_{j \in h} \pi_j^{-1}`, with
:math:`W_h` the stratum's share of the area and :math:`\pi` the inclusion probabilities
(Hájek's weights; :math:`1/n` for a simple random sample). With :math:`y` the
observed values, :math:`x` the map at the plots and :math:`\bar X` the map's mean over
the whole area,

.. math::

    \text{plots:}\quad & \hat\mu = \sum w_i y_i \\
    \text{difference:}\quad & \hat\mu = \bar X + \sum w_i (y_i - x_i) \\
    \text{regression:}\quad & \hat\mu = \sum w_i y_i +
    b\,(\bar X - \sum w_i x_i),\quad
    b = \frac{\sum w_i (x_i - \bar x_h)(y_i - \bar y_h)}
    {\sum w_i (x_i - \bar x_h)^2}

and, with :math:`e_i` the residuals from the stratum's mean, or from its regression
line, the variance is that of the sum of :math:`u_i = w_i g_i e_i` under the design of
the sample (:mod:`geobiomass.statistics.variances`: strata, clusters, post-strata,
systematic grids), with

.. math::

    g_i = 1 + \frac{(\bar X - \sum w_j x_j)(x_i - \bar x_h)}
    {\sum w_j (x_j - \bar x_h)^2}

(:math:`g = 1` without regression; with regression the variance is multiplied by
:math:`(n - H) / (n - H - 1)` for the slope). With unequal probabilities this is the
variance of a sample drawn with replacement, which is too large if the sample is a
notable part of the area (Särndal et al. 1992, 2.9, 5.7). The finite population
correction :math:`1 - f_h` is left out if no population size is given: plots are small
parts of a region.

References
----------
Cochran, W. G. (1977). Sampling techniques, 3rd ed. Wiley. Chapters 2, 5, 7.

Särndal, C.-E., Swensson, B. and Wretman, J. (1992). Model assisted survey sampling.
Springer. Chapters 5 to 7 (g weights: 6.6).

McRoberts, R. E., Næsset, E. and Gobakken, T. (2013). Inference for lidar-assisted
estimation of forest growing stock volume. Remote Sensing of Environment 128, 268-275.

Næsset, E. et al. (2011). Model-assisted regional forest biomass estimation using LiDAR
and InSAR as auxiliary data. Remote Sensing of Environment 115, 3599-3614.

GFOI (2020). Methods and guidance from the Global Forest Observations Initiative,
edition 3.0. FAO. Chapter 4.

Kish, L. (1965). Survey sampling. Wiley. 11.7.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from geobiomass.statistics.estimated_mean import Estimate, StratumPart, combine
from geobiomass.statistics.sample import (
    Method,
    Numbers,
    PlotSample,
    SampleError,
    areas_of,
    populations_of,
)
from geobiomass.statistics.variances import (
    LONE,
    Layout,
    Lone,
    Variances,
    in_post_strata,
    in_strata,
    on_a_grid,
    satterthwaite,
)

Design = Literal["random", "systematic", "poststrata"]
DESIGNS: tuple[Design, ...] = ("random", "systematic", "poststrata")
SEPARATE = 20
"""Number of plots in each stratum from which on each stratum has its own regression
line: the bias of the regression estimator is of the order of 1/n in each stratum, and
these biases add up (Cochran 1977, 7.10)."""
ABOVE_ZERO = 10
"""Number of plots above the lowest value for a slope, if most plots are at it."""
_FREEDOM = 2  # degrees of freedom at least: with one, t is 12.7 at 95 %
_LEAST_REST = 1e-3  # of one minus a leverage: a plot that alone makes the slope


def estimate(
    observed: Any,
    predicted: Any = None,
    map_mean: float | None = None,
    *,
    method: Method = "regression",
    strata: Sequence[Hashable] | None = None,
    shares: Mapping[Any, float] | None = None,
    map_means: Mapping[Any, float] | None = None,
    probability: Any = None,
    population: float | Mapping[Hashable, float] | None = None,
    separate: bool | None = None,
    cluster: Sequence[Hashable] | None = None,
    design: Design = "random",
    places: Any = None,
    lone: Lone = "collapse",
) -> Estimate:
    """Estimate the mean over an area from plots and a map.

    Parameters
    ----------
    observed : array-like
        (plot,) reference data, such as Mg/ha.
    predicted : array-like, optional
        (plot,) the map's values at the plots.
    map_mean : float, optional
        The map's mean over the area, weighted by area.
    method : "plots", "difference" or "regression"
        The mean of the plots; the map's mean, corrected by its mean error at the plots
        (difference estimator); the map's mean, corrected by a regression line through
        the plots (regression estimator).
    strata : sequence, optional
        (plot,) the stratum that each plot was drawn in, or its post-stratum.
    shares : mapping, optional
        Area by stratum, in any unit.
    map_means : mapping, optional
        The map's mean by stratum, for separate regression lines, means of strata, and
        pairs of strata.
    probability : array-like, optional
        (plot,) inclusion probabilities, or values proportional to them such as plots
        per hectare: only their ratios within each stratum count.
    population : float or mapping, optional
        Size of the population (by stratum), in plots or clusters, for the finite
        population correction.
    separate : bool, optional
        With strata and "regression": a separate line for each stratum, or one slope for
        all. By default separate if `map_means` are known and every stratum has 20
        plots.
    cluster : sequence, optional
        (plot,) the cluster that each plot (subplot) belongs to. Clusters are then the
        sampling units: the mean is the ratio of means, and n is their number.
    design : "random", "systematic" or "poststrata"
        How plots were drawn: at random (in strata if there are any); on a grid, with
        the variance from differences of neighbours; or without regard to `strata`,
        which are then post-strata.
    places : array-like, optional
        (plot, 2) coordinates, for "systematic".
    lone : "collapse", "adjust" or "refuse"
        The rule for strata with one unit (:mod:`geobiomass.statistics.variances`).

    Returns
    -------
    Estimate
        With the design-based standard error. Degrees of freedom are n - 1, n - 2
        with regression, Satterthwaite's with strata (Cochran 1977, 5.4); with
        unequal probabilities n is Kish's effective sample size (1965, 11.7).

    Raises
    ------
    SampleError
        If there are too few plots, in all or in a stratum, or strata without area.
    ValueError
        If arguments contradict each other.
    """
    plots = PlotSample.of(
        observed, predicted, map_mean, method, strata, probability, cluster
    )
    _check_design(plots, design, places, lone, probability is not None)
    areas = areas_of(plots.names, shares)
    populations = populations_of(plots.names, population, probability)
    how = _How(method, design, lone, places, map_means)
    _check_sizes(plots, how)
    if separate is None:
        enough = int(plots.sizes.min(initial=SEPARATE)) >= SEPARATE
        separate = map_means is not None and enough and design == "random"
    if strata is not None and separate and method == "regression":
        if map_means is None:
            raise ValueError(
                "A separate line for each stratum needs map_means=, the map's mean by "
                "stratum, got none."
            )
        parts = [
            _joint(
                plots.only(number, float(map_means[name])),
                np.ones(1),
                populations[[number]],
                replace(how, map_means=None),
            )
            for number, name in enumerate(plots.names)
        ]
        return combine(parts, areas)
    return _joint(plots, areas, populations, how)


def choose_method(observed: Any, lowest: float = 0.0) -> Method:
    """Return the estimator for a sample: the regression, or the difference.

    The regression estimator corrects the map's slope, so it is the choice unless the
    slope rests on few plots: if more than half of the plots are at the lowest value
    (bare ground) and fewer than 10 above it, the difference estimator has the smaller
    error (docs/explanation/totals.md has the simulation). The rule uses how many plots
    are at the lowest value and not the residuals, so that it does not choose the
    narrower interval.

    Parameters
    ----------
    observed : array-like
        (plot,) reference data.
    lowest : float
        The lowest possible value.
    """
    values = np.asarray(observed, np.float64)
    above = int((values > lowest).sum())
    few = above < ABOVE_ZERO and 2 * above < values.size
    return "difference" if few else "regression"


@dataclass(frozen=True)
class _How:
    """Estimator and design of a call."""

    method: Method
    design: Design
    lone: Lone
    places: Any
    map_means: Mapping[Any, float] | None


def _check_design(
    plots: PlotSample, design: str, places: Any, lone: str, unequal: bool
) -> None:
    if design not in DESIGNS:
        raise ValueError(f"design must be one of {DESIGNS}, got {design!r}.")
    if lone not in LONE:
        raise ValueError(f"lone must be one of {LONE}, got {lone!r}.")
    if design != "random" and unequal:
        raise ValueError(
            f"A {design} sample has equal probabilities, got probability= as well."
        )
    if design == "systematic" and plots.clustered:
        raise ValueError(
            "A systematic sample of clusters has no formula here: use design='random', "
            "whose interval is too wide rather than too narrow."
        )
    if design == "systematic" and np.shape(places) != (plots.y.size, 2):
        raise ValueError(
            "A systematic sample needs places=, the coordinates of each plot, got "
            f"the shape {np.shape(places)}."
        )
    if design != "poststrata":
        plots.check_clusters()


# --- the formula of all estimators ---


def _joint(
    plots: PlotSample, areas: Numbers, populations: Numbers, how: _How
) -> Estimate:
    """Return the estimate with one slope, or none, over all strata."""
    method, at = how.method, plots.where
    _check_sizes(plots, how)
    shares = areas / areas.sum()
    inside = np.bincount(at, plots.weight, minlength=shares.size)
    weight = shares[at] * plots.weight / inside[at]  # they sum to one
    y, x = plots.y, plots.x
    if method == "difference":
        y, x = y - x, np.zeros(x.size)
    dx, dy = (part - _means(part, weight, shares, at)[at] for part in (x, y))
    spread = float(weight @ dx**2)
    # A map that is constant at the plots has no regression line: use the plots only.
    level = spread <= 1e-24 * float(weight @ x**2)
    slope = 0.0 if level else float(weight @ (dx * dy)) / spread
    away = plots.map_mean - float(weight @ x) if method == "regression" else 0.0
    g = np.ones(y.size) if level else 1 + away * dx / spread
    shift = plots.map_mean if method == "difference" else slope * away
    residual = dy - slope * dx
    parts = weight * g * residual
    layout = _layout(plots, weight, y - slope * x, shares, populations, how)
    # Effective sample size (Kish 1965); a cluster is one unit.
    squares = np.bincount(at, plots.weight**2)
    effective: Numbers = np.asarray(inside**2 / squares, np.float64)
    if plots.clustered:
        effective = layout.sizes.astype(np.float64)
    variances = _by_design(layout, parts, effective, plots, how)
    freedom = satterthwaite(variances.parts, variances.freedom)
    leveraged = None
    if method == "regression":
        left = int(layout.sizes.sum()) - layout.sizes.size
        leverage = 0 * dx if level else weight * dx**2 / spread
        bent = parts / np.sqrt(np.clip(1 - leverage, _LEAST_REST, None))
        wide = _by_design(layout, bent, effective, plots, how)
        leveraged = math.sqrt(wide.parts.sum())
        variances = replace(variances, parts=variances.parts * left / (left - 1))
        freedom *= (left - 1) / left
    se = math.sqrt(variances.parts.sum())
    mean = float(weight @ y) + shift
    return Estimate(
        mean,
        se,
        freedom,
        y.size,
        method,
        units=float(effective.sum()),
        skewness=_skewness(plots, parts, se),
        leveraged_se=leveraged,
        lowest=float(plots.y.min()),
        highest=float(plots.y.max()),
        strata=_by_stratum(plots, weight * residual, weight, shares, slope, how),
        notes=variances.notes,
    )


def _layout(
    plots: PlotSample,
    weight: Numbers,
    values: Numbers,
    shares: Numbers,
    populations: Numbers,
    how: _How,
) -> Layout:
    """Return the sampling units in their strata."""
    unit, at, names, first = plots.unit, plots.where, plots.names, plots.first
    own = np.bincount(unit, values * weight) / np.bincount(unit, weight)
    if how.design == "poststrata" and plots.clustered:
        # A post-stratum may divide a cluster. The residuals from the means of
        # post-strata are added by cluster, and the clusters are one sample.
        one, zeros = np.ones(1), np.zeros(first.size, np.int64)
        total = np.array([populations.sum()])
        return Layout(0 * own, own, zeros, one, total, one, ("",))
    order = _means(plots.x, weight, shares, at)
    if how.map_means is not None:
        order = np.array([float(how.map_means[name]) for name in names])
    return Layout(0 * own, own, at[first], shares, populations, order, names)


def _by_design(
    layout: Layout, parts: Numbers, effective: Numbers, plots: PlotSample, how: _How
) -> Variances:
    """Return the variance of a sum of parts of plots."""
    units = replace(layout, part=np.bincount(plots.unit, parts).astype(np.float64))
    if how.design == "systematic":
        return on_a_grid(units, np.asarray(how.places, np.float64))
    if how.design == "poststrata" and not plots.clustered:
        return in_post_strata(units, how.lone)
    return in_strata(units, effective, how.lone)


def _skewness(plots: PlotSample, parts: Numbers, se: float) -> float:
    """Return the skewness of a sum of independent parts, added by unit."""
    if not se > 0:
        return 0.0
    own, at = np.bincount(plots.unit, parts), plots.where[plots.first]
    middle = np.bincount(at, own) / np.maximum(np.bincount(at), 1)
    return float(((own - middle[at]) ** 3).sum() / se**3)


def _by_stratum(
    plots: PlotSample,
    parts: Numbers,
    weight: Numbers,
    shares: Numbers,
    slope: float,
    how: _How,
) -> tuple[StratumPart, ...]:
    at = plots.where
    seen, mapped = (_means(v, weight, shares, at) for v in (plots.y, plots.x))
    known = how.map_means or {}
    means = [float(known.get(name, math.nan)) for name in plots.names]
    if len(plots.names) == 1:
        means = [plots.map_mean]
    moved = {"plots": 0.0, "difference": 1.0, "regression": slope}[how.method]
    at_pair = at
    if plots.clustered:  # by stratum and unit: post-strata may divide a cluster
        pair = at * plots.first.size + plots.unit
        pairs, which = np.unique(pair, return_inverse=True)
        parts = np.bincount(which, parts).astype(np.float64)
        at_pair = pairs // plots.first.size
    units = np.bincount(at_pair, minlength=shares.size)
    squares = np.bincount(at_pair, parts**2, minlength=shares.size)
    counts = np.bincount(at, minlength=shares.size)
    found = []
    for h, name in enumerate(plots.names):
        shift = moved * (means[h] - mapped[h]) if moved else 0.0
        k = int(units[h])
        se = math.sqrt(squares[h] * k / (k - 1)) / shares[h] if k > 1 else math.nan
        mean = float(seen[h] + shift)
        found.append(
            StratumPart(name, int(counts[h]), k, float(shares[h]), mean, float(se))
        )
    return tuple(found)


def _check_sizes(plots: PlotSample, how: _How) -> None:
    sizes, method = plots.sizes, how.method
    lines = int(method == "regression")
    strata = 1 if how.design == "poststrata" else max(1, sizes.size)
    needed = strata + lines + _FREEDOM
    if sizes.sum() < needed:
        raise SampleError(
            f"{needed} {'clusters' if plots.clustered else 'plots'} are needed for the "
            f"{method} estimator"
            + (f" with {sizes.size} strata" if sizes.size > 1 else "")
            + f", got {int(sizes.sum())}"
        )


def _means(values: Numbers, weight: Numbers, shares: Numbers, at: Any) -> Numbers:
    """Return weighted means by stratum."""
    return np.asarray(
        np.bincount(at, weight * values, minlength=shares.size) / shares, np.float64
    )
