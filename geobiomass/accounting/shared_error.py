"""Estimates with errors of two kinds: each row's own, and those that all rows share."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from geobiomass.training.setting_names import explain_arguments

Floats = npt.NDArray[np.float64]


@explain_arguments
@dataclass(frozen=True)
class ParameterCovariance:
    """The error of a model's parameters, such as an allometric equation's.

    The variance of a region's mean is :math:`g^T C g`, with the covariance :math:`C` of
    the estimated parameters and the mean gradient :math:`g` of the model (the delta
    method; it is the second component of hybrid inference, after that of sampling).

    Parameters
    ----------
    covariance : sequence of sequence of float
        (parameter, parameter).
    gradient : sequence of float, or mapping to such
        (parameter,) the mean over the region's plots of the derivative of biomass
        density, Mg/ha, with respect to each parameter; by region's name if it differs.

    Raises
    ------
    ValueError
        If the covariance is none, or sizes disagree.
    """

    covariance: tuple[tuple[float, ...], ...]
    gradient: tuple[float, ...] | Mapping[str, tuple[float, ...]]

    def __post_init__(self) -> None:
        matrix = np.atleast_2d(np.asarray(self.covariance, np.float64))
        square = matrix.ndim == 2 and matrix.shape[0] == matrix.shape[1]
        if not square or not np.isfinite(matrix).all():
            raise ValueError(
                "covariance must be a square matrix of finite numbers, got the shape "
                f"{matrix.shape}."
            )
        scale = float(np.abs(matrix).max())
        if not np.allclose(matrix, matrix.T, rtol=1e-6, atol=1e-12 * scale):
            raise ValueError("covariance must be symmetric, got a matrix that is not.")
        least = float(np.linalg.eigvalsh(matrix).min())
        if least < -1e-9 * scale:
            raise ValueError(
                "covariance must have no negative eigenvalue, as no covariance has, "
                f"got {least:.3g}."
            )
        size = matrix.shape[0]
        given = self.gradient
        if isinstance(given, Mapping):
            kept: Any = {str(key): _numbers(one, size) for key, one in given.items()}
        else:
            kept = _numbers(given, size)
        rows = tuple(tuple(row) for row in matrix.tolist())
        object.__setattr__(self, "covariance", rows)
        object.__setattr__(self, "gradient", kept)

    def se_of_mean(self, region: str) -> float:
        """Return the standard error of a region's mean, Mg/ha.

        Raises
        ------
        ValueError
            If there are gradients by region, and none of this region.
        """
        gradient = self.gradient
        if isinstance(gradient, Mapping):
            if region not in gradient:
                raise ValueError(
                    f"gradient must have each region, got none for {region!r}; it has "
                    f"{list(gradient)}."
                )
            gradient = gradient[region]
        vector = np.asarray(gradient)
        return math.sqrt(max(0.0, float(vector @ np.asarray(self.covariance) @ vector)))

    def to_dict(self) -> dict[str, Any]:
        """Return covariance and gradient, for JSON."""
        return {"covariance": self.covariance, "gradient": self.gradient}


def _numbers(given: Any, size: int) -> tuple[float, ...]:
    found = np.atleast_1d(np.asarray(given, np.float64))
    if found.shape != (size,) or not np.isfinite(found).all():
        raise ValueError(
            f"gradient must be {size} finite numbers, one for each parameter of the "
            f"covariance, got {given!r}."
        )
    return tuple(found.tolist())


ModelErrors = float | ParameterCovariance
"""A relative standard error, or the covariance of a model's parameters."""


@dataclass(frozen=True)
class Estimates:
    r"""Estimates by row, with the row's own error and errors that rows share.

    The variance of row :math:`i` is :math:`s_i^2 (1 + v_i) + \sum_k m_{ki}^2`: own
    standard error :math:`s`, and for each source :math:`k` of errors the signed
    standard deviation :math:`m`. Errors of one source are fully correlated between
    rows, those of different sources independent. :math:`v` is the relative variance of
    the factors that multiply the row: with it the variance of a product is exact.

    An end of the interval is away from the estimate by the root of the squared distance
    of the own interval's end, times :math:`1 + v`, plus the squared normal quantile
    times :math:`\sum_k m_k^2` (square-and-add: Zou and Donner 2008, Statistics in
    Medicine 27:1693-1702). So an interval that is not symmetric stays so.

    Parameters
    ----------
    value, se, lower, upper : numpy.ndarray
        (row,) estimate, own standard error and own interval.
    freedom : numpy.ndarray
        (row,) degrees of freedom of `se`; NaN where not known: they are then those with
        which Student's t gives the interval.
    confidence : float
        Confidence level of the own interval.
    shared : numpy.ndarray
        (source, row) standard deviations, with the sign of what they multiply.
    spread : numpy.ndarray
        (row,) relative variance of the factors.
    """

    value: Floats
    se: Floats
    lower: Floats
    upper: Floats
    freedom: Floats
    confidence: float
    shared: Floats
    spread: Floats

    @classmethod
    def of(
        cls, value: Any, se: Any, ends: Sequence[Any], freedom: Any, confidence: float
    ) -> Estimates:
        """Return estimates without shared errors."""
        at, error, lower, upper, known = (
            np.asarray(one, np.float64) for one in (value, se, *ends, freedom)
        )
        none, zero = np.zeros((0, at.size)), np.zeros(at.size)
        return cls(at, error, lower, upper, known, confidence, none, zero)

    def with_shared(self, sd: Any) -> Estimates:
        """Return them with one more source of shared errors, (row,) of `value`."""
        more = np.asarray(sd, np.float64)
        return replace(self, shared=np.vstack([self.shared, more]))

    def times(self, factor: Any, relative: Any) -> Estimates:
        """Return the products with a factor whose error all rows share.

        Parameters
        ----------
        factor : array-like
            (row,) or one; 0 or more.
        relative : array-like
            (row,) or one, relative standard error of the factor.
        """
        k = np.broadcast_to(np.asarray(factor, np.float64), self.value.shape)
        r = np.broadcast_to(np.asarray(relative, np.float64), self.value.shape)
        earlier = self.shared * k * np.sqrt(1 + r**2)
        return replace(
            self,
            value=k * self.value,
            se=k * self.se,
            lower=k * self.lower,
            upper=k * self.upper,
            shared=np.vstack([earlier, k * r * self.value]),
            spread=(1 + self.spread) * (1 + r**2) - 1,
        )

    def standard_error(self) -> Floats:
        """Return the standard error with all errors, (row,)."""
        own = self.se**2 * (1 + self.spread)
        return np.asarray(np.sqrt(own + (self.shared**2).sum(0)), np.float64)

    def ends(self) -> tuple[Floats, Floats]:
        """Return both ends of the interval with all errors, (row,) each."""
        z = _quantile(self.confidence, np.full(self.value.size, np.inf))
        if not self.shared.any() and not self.spread.any():
            return self.lower, self.upper  # the same bits as without
        return (
            self.value - self._side(self.value - self.lower, z),
            self.value + self._side(self.upper - self.value, z),
        )

    def half_width(self, confidence: float) -> Floats:
        """Return half the width of an interval of another confidence level, (row,).

        Of an interval that is not symmetric it is the longer side. The own interval's
        side is scaled by the ratio of Student's t at both levels; NaN where its
        standard error is not known.
        """
        long = np.fmax(self.value - self.lower, self.upper - self.value)
        with np.errstate(divide="ignore", invalid="ignore"):
            found = np.where(self.se > 0, long / self.se, np.nan)
        freedom = np.where(
            np.isnan(self.freedom), _freedom(self.confidence, found), self.freedom
        )
        now, wanted = (_quantile(p, freedom) for p in (self.confidence, confidence))
        own = np.where(self.se > 0, long * wanted / now, long)
        if confidence != self.confidence:
            # An exact bound of plots that are all zero has no standard error, and no
            # scale to another level.
            own = np.where(np.isnan(self.se), np.nan, own)
        return self._side(own, _quantile(confidence, np.full(own.size, np.inf)))

    def _side(self, own: Floats, z: Floats) -> Floats:
        shared = (self.shared**2).sum(0)
        return np.asarray(np.sqrt(own**2 * (1 + self.spread) + z**2 * shared), float)

    def joined(self, rows: Sequence[int], *, independent: bool = True) -> Estimates:
        """Return the sum of some rows, as one row.

        Parameters
        ----------
        rows : sequence of int
            Their positions.
        independent : bool
            True if the rows' own errors are independent. Otherwise they are added as
            fully correlated, which is the largest standard error that they can have.
        """
        at = list(rows)

        def add(parts: Floats) -> Floats:
            total = np.sqrt((parts**2).sum()) if independent else parts.sum()
            return np.array([total])

        value, own = np.array([self.value[at].sum()]), self.se[at]
        # The spread is weighted so that the sum of own variances stays what it was.
        grown = own * np.sqrt(1 + self.spread[at])
        se = add(own)
        spread = (add(grown) / se) ** 2 - 1 if se[0] > 0 else self.spread[at][:1]
        squares = own**2
        with np.errstate(divide="ignore", invalid="ignore"):
            freedom = squares.sum() ** 2 / (squares**2 / self.freedom[at]).sum()
        return Estimates(
            value,
            se,
            value - add(self.value[at] - self.lower[at]),
            value + add(self.upper[at] - self.value[at]),
            np.array([freedom if independent or len(at) == 1 else np.nan]),
            self.confidence,
            self.shared[:, at].sum(1, keepdims=True),
            spread,
        )


def _quantile(confidence: float, freedom: Floats) -> Floats:
    """Return Student's t, two-sided, by degrees of freedom; infinite: the normal."""
    from scipy.special import ndtri, stdtrit

    share = (1 + confidence) / 2
    endless = ~np.isfinite(freedom)
    found = stdtrit(np.where(endless, 1.0, freedom), share)
    return np.asarray(np.where(endless, ndtri(share), found), np.float64)


def _freedom(confidence: float, quantile: Floats) -> Floats:
    """Return the degrees of freedom with which Student's t is the quantile."""
    from scipy.special import ndtri, stdtridf

    share = (1 + confidence) / 2
    longer = quantile > ndtri(share) * (1 + 1e-9)
    found = stdtridf(share, np.where(longer, quantile, 12.0))
    return np.asarray(np.where(longer, found, np.inf), np.float64)
