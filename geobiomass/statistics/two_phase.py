r"""Two-phase samples: a map's values at many points, plots at some of them.

The first phase are n1 points with auxiliary values z (a constant is added), such as a
map that is read at points only, or height metrics along flight lines; the second phase
are n2 of them, drawn at random, with observed y. With :math:`\hat\beta` of least
squares in the second phase, residuals r, and :math:`\bar Z` the mean of z in the first,

.. math::

    \hat\mu &= \bar Z' \hat\beta, \quad
    A = \frac{1}{n_2} \sum z z', \quad
    \Sigma = A^{-1} \Bigl(\frac{1}{n_2^2} \sum r^2 z z'\Bigr) A^{-1} \\
    V &= \bar Z' \Sigma \bar Z + \hat\beta' C \hat\beta, \quad
    C = \frac{1}{n_1 (n_1 - 1)} \sum (z - \bar Z)(z - \bar Z)'

(g-weight variance, Mandallaz 2013). If the means are exact (the auxiliary values are
known everywhere, as of a map), C is 0. The external variance is
:math:`s^2(\hat y) / n_1 + s^2(r) / n_2`, in which the coefficients count as known.

References
----------
Mandallaz, D. (2013). Design-based properties of some small-area estimators in forest
inventory with two-phase sampling. Canadian Journal of Forest Research 43, 441-449.

Hill, A., Massey, A. and Mandallaz, D. (2021). The R package forestinventory. Journal of
Statistical Software 97(4).
"""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np

from geobiomass.statistics.estimated_mean import Estimate
from geobiomass.statistics.sample import Numbers, SampleError, column

Variance = Literal["g-weight", "external"]


def two_phase(
    observed: Any,
    auxiliary: Any,
    first_phase: Any = None,
    *,
    exact_means: Any = None,
    variance: Variance = "g-weight",
) -> Estimate:
    """Estimate the mean from a sample of plots within a larger sample of points.

    Parameters
    ----------
    observed : array-like
        (n2,) reference data at the plots.
    auxiliary : array-like
        (n2,) or (n2, p) auxiliary values at the plots, such as the map's.
    first_phase : array-like, optional
        (n1,) or (n1, p) the same at all points of the first phase, plots included.
    exact_means : array-like, optional
        Instead: (p,) means over the whole area.
    variance : "g-weight" or "external"
        The formula.

    Returns
    -------
    Estimate
        Degrees of freedom are n2 - p - 1.

    Raises
    ------
    SampleError
        If there are fewer than p + 3 plots, or the auxiliary values are collinear.
    ValueError
        If arguments have other shapes, or there are both or neither kind of means.
    """
    y = column(observed, "observed")
    z = _with_constant(auxiliary, "auxiliary", y.size)
    if (first_phase is None) == (exact_means is None):
        raise ValueError(
            "A two-phase estimate needs first_phase= (values at all points) or "
            "exact_means= (of the whole area), got "
            f"{'neither' if first_phase is None else 'both'}."
        )
    if variance not in ("g-weight", "external"):
        raise ValueError(
            f"variance must be 'g-weight' or 'external', got {variance!r}."
        )
    n, columns = z.shape
    if n < columns + 2:
        raise SampleError(
            f"{columns + 2} plots are needed for {columns - 1} auxiliary values, got "
            f"{n}"
        )
    moments = z.T @ z / n
    if np.linalg.matrix_rank(moments) < columns:
        raise SampleError("auxiliary values are constant or collinear at the plots")
    mean, spread, first = _means(first_phase, exact_means, columns)
    beta = np.linalg.solve(moments, z.T @ y / n)
    rest = y - z @ beta
    if variance == "external":
        square = float(rest.var(ddof=1)) / n
        if first is not None:
            square += float((first @ beta).var(ddof=1)) / len(first)
    else:
        at = np.linalg.solve(moments, mean)
        square = float((((z @ at) * rest) ** 2).sum()) / n**2
        square += float(beta @ spread @ beta)
    return Estimate(
        float(mean @ beta),
        math.sqrt(square),
        float(n - columns),
        n,
        "two-phase",
        units=float(n),
        lowest=float(y.min()),
        highest=float(y.max()),
    )


def _with_constant(values: Any, name: str, size: int | None = None) -> Numbers:
    found = np.asarray(values, np.float64)
    found = found[:, None] if found.ndim == 1 else found
    if found.ndim != 2 or (size is not None and len(found) != size):
        raise ValueError(
            f"{name} must have a row for each plot, got the shape {np.shape(values)}."
        )
    if not np.isfinite(found).all():
        raise ValueError(f"{name} must be finite numbers.")
    return np.column_stack([np.ones(len(found)), found])


def _means(
    first_phase: Any, exact_means: Any, columns: int
) -> tuple[Numbers, Numbers, Numbers | None]:
    """Return the means, their covariance, and the values of the first phase."""
    if first_phase is None:
        mean = np.r_[1.0, np.atleast_1d(np.asarray(exact_means, np.float64))]
        _check_columns(mean.size, columns)
        return mean, np.zeros((columns, columns)), None
    first = _with_constant(first_phase, "first_phase")
    _check_columns(first.shape[1], columns)
    away = first - first.mean(axis=0)
    return first.mean(axis=0), away.T @ away / (len(first) * (len(first) - 1)), first


def _check_columns(found: int, columns: int) -> None:
    if found != columns:
        raise ValueError(
            f"The means must be of {columns - 1} auxiliary values, as at the plots, "
            f"got {found - 1}."
        )
