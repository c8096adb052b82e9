"""Means of small areas: a composite of their own plots and of a regression on a map.

The unit-level model of Battese, Harter and Fuller (1988): plot j of region i has

    y_ij = intercept + slope x_ij + v_i + e_ij

with x the map, v_i what all of a region differs by from the regression, and e_ij the
plot's own residual; v and e are independent and normal, with one variance each. The
variances are those of restricted maximum likelihood (REML). Where that is highest at a
variance of 0 between regions, it is multiplied by this variance, whose estimate is then
above 0 (Li and Lahiri 2010): at 0 no plot of a region would count for it, and intervals
hold 70 to 91 % where regions do differ. The mean of a region is the empirical best
linear unbiased predictor (EBLUP)

    weight (own plots, moved along the line) + (1 - weight) (the line at the map's mean)

and its mean squared error that of Prasad and Rao (1990), g1 + g2 + 2 g3 (Rao and Molina
2015, 7.2.2): of the prediction of v_i, of the line, and of the variances. Degrees of
freedom are Satterthwaite's, from the variance of g1, since the variance between regions
is less certain than the number of regions alone says.

Region-level models (Fay and Herriot 1979) need the sampling variance of each region's
own estimate, which few plots do not show. Here all plots share one variance.

References
----------
Battese, G. E., Harter, R. M. and Fuller, W. A. (1988). An error-components model for
prediction of county crop areas using survey and satellite data. Journal of the American
Statistical Association 83, 28-36.

Prasad, N. G. N. and Rao, J. N. K. (1990). The estimation of the mean squared error of
small-area estimators. Journal of the American Statistical Association 85, 163-171.

Li, H. and Lahiri, P. (2010). An adjusted maximum likelihood method for solving small
area estimation problems. Journal of Multivariate Analysis 101, 882-892.

Rao, J. N. K. and Molina, I. (2015). Small area estimation, 2nd edition. Wiley. 4.3, 7.

Breidenbach, J. and Astrup, R. (2012). Small area estimation of forest attributes in the
Norwegian National Forest Inventory. European Journal of Forest Research 131, 1255-1267.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from geobiomass.statistics.sample import Numbers, SampleError, column

FEWEST_REGIONS = 10
"""Regions with plots: a variance from ten of them, about a line, has eight degrees of
freedom, and a standard error of half of itself."""
FEWEST_REPEATS = 10
"""Plots beyond the first one of each region, for the variance of plots: as above."""
_STEPS, _ROUNDS = 64, 7  # of the search for the likelihood's maximum
_FREEDOM = 4.0  # least degrees of freedom: with 2, 95 % held 99 % in simulations
_ZERO = 1e-6  # a ratio of the variances that is 0


@dataclass(frozen=True)
class SmallAreaMeans:
    """Estimated means of regions, in the unit of the observations.

    Parameters
    ----------
    mean, mse : numpy.ndarray
        (region,) the composite, and its mean squared error.
    weight : numpy.ndarray
        (region,) weight of the region's own plots, 0 to 1; 0 without plots.
    own, synthetic : numpy.ndarray
        (region,) the two parts: own plots, moved along the line to the map's mean (NaN
        without plots), and the line there.
    plots : numpy.ndarray
        (region,) number of plots.
    coefficients : numpy.ndarray
        (1 + covariate,) intercept and slopes.
    between, within : float
        Variances of regions and of plots about the line.
    at_zero : bool
        Whether the likelihood is highest at a variance of 0 between regions, so that
        `between` is that of the adjusted likelihood.
    freedom : numpy.ndarray
        (region,) degrees of freedom of the mean squared error: at least 4, at most
        regions with plots minus coefficients.
    region_residuals, plot_residuals : numpy.ndarray
        (region with plots,) mean residual from the line over its standard deviation by
        the model; (plot,) residual from line and region.
    """

    mean: Numbers
    mse: Numbers
    weight: Numbers
    own: Numbers
    synthetic: Numbers
    plots: npt.NDArray[np.int64]
    coefficients: Numbers
    between: float
    within: float
    at_zero: bool
    freedom: Numbers
    region_residuals: Numbers
    plot_residuals: Numbers


def small_area_means(
    observed: Any, predicted: Any, region: Any, map_means: Any
) -> SmallAreaMeans:
    """Estimate the means of regions that have few plots each.

    Parameters
    ----------
    observed : array-like
        (plot,) reference data, such as Mg/ha.
    predicted : array-like
        (plot,) the map at the plots; or (plot, covariate).
    region : array-like
        (plot,) number of the plot's region, from 0.
    map_means : array-like
        (region,) the map's mean over each region; or (region, covariate). Regions may
        have no plot.

    Raises
    ------
    SampleError
        If fewer than 10 regions have plots, fewer than 10 plots are beyond the first
        of each region, or the map is level at the plots.
    ValueError
        If the shapes do not fit.
    """
    y = column(observed, "observed")
    x, means = _matrix(predicted), _matrix(map_means)
    where = np.asarray(region, np.int64)
    if x.shape[0] != y.size or where.shape != y.shape or x.shape[1] != means.shape[1]:
        raise ValueError(
            "predicted and region must be one for each plot, and map_means have the "
            f"covariates of predicted, got the shapes {x.shape}, {where.shape} and "
            f"{means.shape} for {y.size} plots."
        )
    plots = np.bincount(where, minlength=len(means))
    check_sizes(plots)
    # Centred and scaled, so that no equation loses digits to the level of the map.
    level, scale = x.mean(0), x.std(0)
    if not (scale > 1e-12 * np.maximum(abs(level), 1e-300)).all():
        raise SampleError(
            "The small area estimator needs a map that differs between plots, got one "
            "that is level at all of them."
        )
    design = np.column_stack([np.ones(y.size), (x - level) / scale])
    at_means = np.column_stack([np.ones(len(means)), (means - level) / scale])
    fit = _fit(y, design, where, plots)
    found = _predict(fit, at_means)
    slopes = fit.line[1:] / scale
    found["coefficients"] = np.append(fit.line[0] - slopes @ level, slopes)
    return SmallAreaMeans(**found)


def check_sizes(plots: npt.ArrayLike) -> None:
    """Check that the variances can be estimated.

    Parameters
    ----------
    plots : array-like
        (region,) number of plots.

    Raises
    ------
    SampleError
        If they cannot.
    """
    counts = np.asarray(plots)
    regions = int((counts > 0).sum())
    repeats = int(counts.sum()) - regions
    if regions < FEWEST_REGIONS:
        raise SampleError(
            f"The small area estimator needs at least {FEWEST_REGIONS} regions with "
            "plots, as it learns from them how much regions differ from the map's "
            f"regression, got {regions}; with fewer use estimator='regression'."
        )
    if repeats < FEWEST_REPEATS:
        raise SampleError(
            "The small area estimator needs regions with two plots or more, and "
            f"{FEWEST_REPEATS} plots beyond the first of each, to tell differences "
            f"between regions from those between plots; got {repeats}."
        )


@dataclass(frozen=True)
class _Fit:
    """The fitted model; `covariance` is that of the line."""

    line: Numbers
    covariance: Numbers
    between: float
    within: float
    at_zero: bool
    plots: npt.NDArray[np.int64]
    x: Numbers
    residuals: Numbers
    where: npt.NDArray[np.int64]


class _Restricted:
    """The restricted likelihood, by the ratio of the variances between and within."""

    def __init__(
        self, y: Numbers, x: Numbers, where: npt.NDArray[np.int64], count: int
    ) -> None:
        both = np.column_stack([x, y])
        self._size = both.shape[1]
        self._all = both.T @ both
        sums = np.zeros((count, self._size))
        np.add.at(sums, where, both)
        self._squares = np.einsum("ia,ib->iab", sums, sums).reshape(count, -1)
        self._n = np.bincount(where, minlength=count).astype(np.float64)
        self._left = y.size - x.shape[1]

    def solve(self, ratios: Numbers) -> tuple[Numbers, Numbers, Numbers, Numbers]:
        """Return lines, their covariances over `within`, `within`, -2 log likelihoods.

        All have an entry for each of the ratios.
        """
        ratios = ratios[:, None]
        grown = 1 + self._n * ratios
        less = (ratios / grown) @ self._squares
        cross = self._all - less.reshape(-1, self._size, self._size)
        xx, xy = cross[:, :-1, :-1], cross[:, :-1, -1]
        inverse = np.linalg.inv(xx)
        lines = np.einsum("rab,rb->ra", inverse, xy)
        rest = cross[:, -1, -1] - np.einsum("ra,ra->r", xy, lines)
        within = np.maximum(rest / self._left, np.finfo(float).tiny)
        deviance = self._left * np.log(within) + np.log(grown).sum(1)
        return lines, inverse, within, deviance + np.linalg.slogdet(xx)[1]

    def best(self, adjusted: bool = False) -> float:
        """Return the ratio of the highest likelihood, or of the adjusted one."""

        def deviance(shares: Numbers) -> Numbers:
            ratios = shares / (1 - shares)
            _, _, within, found = self.solve(ratios)
            if not adjusted:
                return found
            with np.errstate(divide="ignore"):
                lowered: Numbers = found - 2 * np.log(within * ratios)
            return lowered

        low, high = 0.0, 1 - 1e-9
        for _ in range(_ROUNDS):  # each round keeps two of the steps
            shares = np.linspace(low, high, _STEPS + 1)
            at = int(np.argmin(deviance(shares)))
            low, high = shares[max(at - 1, 0)], shares[min(at + 1, _STEPS)]
        share = float(shares[at])
        return share / (1 - share)


def _fit(
    y: Numbers, x: Numbers, where: npt.NDArray[np.int64], plots: npt.NDArray[np.int64]
) -> _Fit:
    likelihood = _Restricted(y, x, where, plots.size)
    ratio = likelihood.best()
    at_zero = ratio < _ZERO
    if at_zero:
        ratio = likelihood.best(adjusted=True)
    lines, inverses, withins, _ = likelihood.solve(np.array([ratio]))
    line, inverse, within = lines[0], inverses[0], float(withins[0])
    if not within > 1e-18 * float(y @ y):
        raise SampleError(
            "The small area estimator needs plots that differ from the map's "
            "regression, got plots that are exactly on the line."
        )
    return _Fit(
        line=line,
        covariance=inverse * within,
        between=ratio * within,
        within=within,
        at_zero=at_zero,
        plots=plots,
        x=x,
        residuals=y - x @ line,
        where=where,
    )


def _predict(fit: _Fit, means: Numbers) -> dict[str, Any]:
    """Return the composite of each region and its mean squared error."""
    count, n = fit.plots.size, fit.plots.astype(np.float64)
    some = n > 0
    divisor = np.maximum(n, 1)
    residual = np.bincount(fit.where, fit.residuals, count) / divisor
    x = np.zeros((count, fit.x.shape[1]))
    np.add.at(x, fit.where, fit.x)
    x /= divisor[:, None]
    synthetic = means @ fit.line
    weight = n * fit.between / (n * fit.between + fit.within)
    effect = weight * residual
    away = means - weight[:, None] * x
    g1 = (1 - weight) * fit.between
    g2 = np.einsum("ia,ab,ib->i", away, fit.covariance, away)
    spread = fit.between + fit.within / divisor
    variances = _covariance_of_variances(fit)
    turned = np.array([fit.within, -fit.between])
    h = float(turned @ variances @ turned)  # Rao and Molina (2015), 7.2.9
    g3 = np.where(some, h / (divisor**2 * spread**3), 0.0)
    mse = g1 + g2 + 2 * g3
    gradient = np.column_stack([(1 - weight) ** 2, weight**2 / divisor])  # of g1
    unsure = np.einsum("ia,ab,ib->i", gradient, variances, gradient)
    most = some.sum() - fit.line.size
    return {
        "mean": synthetic + effect,
        "mse": mse,
        "weight": weight,
        "own": np.where(some, synthetic + residual, np.nan),
        "synthetic": synthetic,
        "plots": fit.plots,
        "between": fit.between,
        "within": fit.within,
        "at_zero": fit.at_zero,
        "freedom": np.clip(2 * mse**2 / unsure, _FREEDOM, most),
        "region_residuals": (residual / np.sqrt(spread))[some],
        "plot_residuals": fit.residuals - effect[fit.where],
    }


def _covariance_of_variances(fit: _Fit) -> Numbers:
    """Return the covariance of the variances between and within, (2, 2).

    The inverse of the information, Rao and Molina (2015), 7.2.
    """
    n = fit.plots[fit.plots > 0].astype(np.float64)
    whole = fit.within + n * fit.between
    between = (n**2 / whole**2).sum() / 2
    both = (n / whole**2).sum() / 2
    within = ((n - 1) / fit.within**2 + 1 / whole**2).sum() / 2
    found: Numbers = np.linalg.inv(np.array([[between, both], [both, within]]))
    return found


def _matrix(values: Any) -> Numbers:
    found = np.asarray(values, np.float64)
    return found[:, None] if found.ndim == 1 else found
