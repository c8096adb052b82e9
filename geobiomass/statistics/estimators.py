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
line,

.. math::

    \hat V(\hat\mu) = \sum_h (1 - f_h) \frac{n_h}{n_h - 1}
    \sum_{i \in h} (w_i g_i e_i)^2,\quad
    g_i = 1 + \frac{(\bar X - \sum w_j x_j)(x_i - \bar x_h)}
    {\sum w_j (x_j - \bar x_h)^2}

(:math:`g = 1` without regression; with regression the sum over strata is multiplied by
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
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.float64]
Method = Literal["plots", "difference", "regression"]

METHODS: tuple[Method, ...] = ("plots", "difference", "regression")
SEPARATE = 20
"""Number of plots in each stratum from which on each stratum has its own regression
line: the bias of the regression estimator is of the order of 1/n in each stratum, and
these biases add up (Cochran 1977, 7.10)."""
_FREEDOM = 2  # degrees of freedom at least: with one, t is 12.7 at 95 %


class SampleError(ValueError):
    """The error of a sample that is too small for an estimate with an interval."""


@dataclass(frozen=True)
class Estimate:
    """An estimated mean.

    Parameters
    ----------
    mean : float
        In the unit of the observations.
    se : float
        Its standard error.
    freedom : float
        Degrees of freedom of the standard error; infinite if it is known.
    n : int
        Number of plots.
    method : str
        Name of the estimator.
    """

    mean: float
    se: float
    freedom: float
    n: int
    method: str

    def interval(self, confidence: float = 0.95) -> tuple[float, float]:
        """Return the bounds of the confidence interval by Student's t, lower and upper.

        Raises
        ------
        ValueError
            If the confidence is not between 0 and 1.
        """
        half = t_quantile(confidence, self.freedom) * self.se
        return self.mean - half, self.mean + half


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
        (plot,) the stratum that each plot was drawn in.
    shares : mapping, optional
        Area by stratum, in any unit.
    map_means : mapping, optional
        The map's mean by stratum, for separate regression lines.
    probability : array-like, optional
        (plot,) inclusion probabilities, or values proportional to them such as plots
        per hectare: only their ratios within each stratum count.
    population : float or mapping, optional
        Size of the population (by stratum), in plots, for the finite population
        correction.
    separate : bool, optional
        With strata and "regression": a separate line for each stratum, or one slope for
        all. By default separate if `map_means` are known and every stratum has 20
        plots.

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
    plots = _Plots.of(observed, predicted, map_mean, method, strata, probability)
    areas = _areas(plots.names, shares)
    units = _units(plots.names, population, probability)
    if separate is None:
        separate = map_means is not None and int(plots.sizes.min()) >= SEPARATE
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
                units[[number]],
                method,
            )
            for number, name in enumerate(plots.names)
        ]
        return combine(parts, areas)
    return _joint(plots, areas, units, method)


def combine(parts: Sequence[Estimate], areas: Any) -> Estimate:
    """Return the mean over strata with separate estimates.

    Parameters
    ----------
    parts : sequence of Estimate
        One for each stratum, independent of each other.
    areas : array-like
        (stratum,) their areas, in any unit.
    """
    shares = np.asarray(areas, np.float64) / np.sum(areas)
    means = np.array([part.mean for part in parts])
    variances = (shares * np.array([part.se for part in parts])) ** 2
    freedom = _satterthwaite(variances, np.array([part.freedom for part in parts]))
    return Estimate(
        float(shares @ means),
        math.sqrt(variances.sum()),
        freedom,
        sum(part.n for part in parts),
        parts[0].method,
    )


@dataclass(frozen=True)
class _Plots:
    """A sample as arrays; `where` is the position of each plot's stratum in `names`."""

    y: Numbers
    x: Numbers
    map_mean: float
    where: npt.NDArray[np.int64]
    names: tuple[Hashable, ...]
    weight: Numbers

    @classmethod
    def of(
        cls,
        observed: Any,
        predicted: Any,
        map_mean: float | None,
        method: str,
        strata: Sequence[Hashable] | None,
        probability: Any,
    ) -> _Plots:
        if method not in METHODS:
            raise ValueError(f"method must be one of {METHODS}, got {method!r}.")
        y = _column(observed, "observed")
        if method != "plots" and (predicted is None or map_mean is None):
            raise ValueError(
                f"The {method} estimator needs the map: predicted= at the plots, and "
                "map_mean= over the area."
            )
        assisted = method != "plots"
        x = _column(predicted, "predicted", y.size) if assisted else np.zeros(y.size)
        weight = np.ones(y.size)
        if probability is not None:
            weight = 1 / _column(probability, "probability", y.size, positive=True)
        labels = [0] * y.size if strata is None else list(strata)
        if len(labels) != y.size:
            raise ValueError(
                f"strata must be one for each plot, got {len(labels)} for {y.size} "
                "plots."
            )
        names = tuple(dict.fromkeys(labels))
        numbers = {name: number for number, name in enumerate(names)}
        where = np.array([numbers[label] for label in labels], np.int64)
        mean = float(map_mean) if map_mean is not None and assisted else 0.0
        return cls(y, x, mean, where, names, weight)

    @property
    def sizes(self) -> npt.NDArray[np.int64]:
        """Number of plots in each stratum."""
        return np.bincount(self.where, minlength=len(self.names))

    def only(self, number: int, map_mean: float) -> _Plots:
        """Return one stratum as a sample."""
        mine = self.where == number
        zeros = np.zeros(int(mine.sum()), np.int64)
        y, x, weight = self.y[mine], self.x[mine], self.weight[mine]
        return _Plots(y, x, map_mean, zeros, (self.names[number],), weight)


def _column(
    values: Any, name: str, size: int | None = None, positive: bool = False
) -> Any:
    found = np.asarray(values, np.float64)
    if found.ndim != 1 or (size is not None and found.size != size):
        raise ValueError(
            f"{name} must be one for each plot, got the shape {found.shape}."
        )
    wrong = ~np.isfinite(found) | ((found <= 0) & positive)
    if wrong.any():
        kind = "numbers above 0" if positive else "finite numbers"
        raise ValueError(f"{name} must be {kind}, got {found[wrong][0]}.")
    return found


def _areas(names: tuple[Hashable, ...], shares: Mapping[Any, float] | None) -> Numbers:
    if len(names) <= 1 and shares is None:
        return np.ones(len(names))
    if shares is None:
        raise ValueError(
            f"A sample of the strata {list(names)} needs their areas, shares=; got "
            "none."
        )
    unknown = [name for name in names if name not in shares]
    if unknown:
        raise SampleError(
            f"plots are in the strata {unknown}, whose areas are not given; known are "
            f"{list(shares)}"
        )
    bare = [name for name in shares if shares[name] > 0 and name not in names]
    if bare:
        raise SampleError(f"no plots in stratum {_list(bare)}")
    return np.array([float(shares[name]) for name in names])


def _units(
    names: tuple[Hashable, ...],
    population: float | Mapping[Hashable, float] | None,
    probability: Any,
) -> Numbers:
    """Return the size of the population by stratum, infinite if none is given."""
    if population is None:
        return np.full(len(names), np.inf)
    if probability is not None:
        raise ValueError(
            "population= belongs to equal probabilities: with probability= the "
            "variance is that of sampling with replacement."
        )
    if isinstance(population, Mapping):
        return np.array([float(population[name]) for name in names])
    if len(names) > 1:
        raise ValueError(f"population must be by stratum, got {population!r}.")
    return np.full(len(names), float(population))


def _list(names: Sequence[Hashable]) -> str:
    return ", ".join(map(str, names))


# --- the formula of all estimators ---


def _joint(plots: _Plots, areas: Numbers, units: Numbers, method: Method) -> Estimate:
    """Return the estimate with one slope, or none, over all strata."""
    sizes = plots.sizes
    _check_sizes(plots, sizes, method)
    shares = areas / areas.sum()
    at = plots.where
    inside = np.bincount(at, plots.weight, minlength=sizes.size)
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
    parts = _variances(weight * g * (dy - slope * dx), at, sizes, units)
    # Effective sample size (Kish 1965).
    effective = inside**2 / np.bincount(at, plots.weight**2)
    freedom = _satterthwaite(parts, np.maximum(effective - 1, 1))
    if method == "regression":
        left = int(sizes.sum()) - sizes.size
        parts = parts * left / (left - 1)
        freedom *= (left - 1) / left
    mean = float(weight @ y) + shift
    return Estimate(mean, math.sqrt(parts.sum()), freedom, y.size, method)


def _check_sizes(plots: _Plots, sizes: npt.NDArray[np.int64], method: str) -> None:
    few = [
        f"{name} has {size}"
        for name, size in zip(plots.names, sizes, strict=True)
        if size < 2
    ]
    if sizes.size > 1 and few:
        raise SampleError(f"2 plots are needed in each stratum, {', '.join(few)}")
    lines = int(method == "regression")
    needed = max(1, sizes.size) + lines + _FREEDOM
    if sizes.sum() < needed:
        raise SampleError(
            f"{needed} plots are needed for the {method} estimator"
            + (f" with {sizes.size} strata" if sizes.size > 1 else "")
            + f", got {int(sizes.sum())}"
        )


def _means(
    values: Numbers, weight: Numbers, shares: Numbers, at: npt.NDArray[np.int64]
) -> Numbers:
    """Return weighted means by stratum."""
    return np.bincount(at, weight * values, minlength=shares.size) / shares


def _variances(
    parts: Numbers,
    at: npt.NDArray[np.int64],
    sizes: npt.NDArray[np.int64],
    units: Numbers,
) -> Numbers:
    """Return each stratum's variance of a sum of independent parts."""
    middle = np.bincount(at, parts, minlength=sizes.size) / sizes
    squares = np.bincount(at, (parts - middle[at]) ** 2, minlength=sizes.size)
    rest = np.clip(1 - sizes / units, 0, None)
    return np.asarray(rest * squares * sizes / (sizes - 1), np.float64)


def _satterthwaite(variances: Numbers, freedom: npt.NDArray[Any]) -> float:
    """Return the degrees of freedom of a sum of variances (Satterthwaite 1946)."""
    if not variances.sum() > 0:
        return float(freedom.sum())
    return float(variances.sum() ** 2 / (variances**2 / freedom).sum())


def t_quantile(confidence: float, freedom: float) -> float:
    """Return half the width of a confidence interval in standard errors: Student's t.

    Raises
    ------
    ValueError
        If the confidence is not between 0 and 1.
    """
    from scipy.special import ndtri, stdtrit

    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be between 0 and 1, got {confidence!r}.")
    share = (1 + confidence) / 2
    return float(stdtrit(freedom, share) if math.isfinite(freedom) else ndtri(share))
