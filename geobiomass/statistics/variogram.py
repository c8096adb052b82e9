"""Variograms of residuals: the spatial correlation of errors."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import pandas as pd

from geobiomass.statistics.residual_columns import check_residuals
from geobiomass.statistics.residual_pairs import Floats, ResidualPairs, Whole

Model = Literal["exponential", "spherical", "matern"]
MODELS: tuple[Model, ...] = get_args(Model)

FEWEST_POINTS = 30  # residuals: fewer are an error
FEWEST_PAIRS = 30  # a lag: the rule of Journel and Huijbregts (1978), p. 194
BLOCK_STEP = 32  # pixels: sides of blocks are multiples of 32, like the sides of tiles

# Distance, in units of the range, at which 95 % of the sill is reached: the roots of
# exp(-u) = 0.05, 1 - 1.5 u + 0.5 u^3 = 0.05 and (1 + sqrt(3) u) exp(-sqrt(3) u) = 0.05.
_REACHED = {"exponential": 2.995732, "spherical": 0.811401, "matern": 2.738871}


@dataclass(frozen=True)
class Variogram:
    """A variogram: half the mean squared difference of two errors by their distance.

    Parameters
    ----------
    nugget : float
        Variance of errors that no neighbour shares, in the residuals' unit squared.
    sill : float
        Partial sill: the variance that neighbours share. nugget + sill is the variance.
    range : float
        The range parameter r of the model, metres. With u = h / r the covariance at the
        distance h is sill times exp(-u) (exponential), 1 - 1.5 u + 0.5 u^3 up to u = 1
        and 0 beyond (spherical), or (1 + sqrt(3) u) exp(-sqrt(3) u) (Matern of
        smoothness 3/2). Compare different models by ``effective_range``.
    model : {"exponential", "spherical", "matern"}
        Name of the covariance function.
    table : pandas.DataFrame
        The empirical variogram: ``lag`` in metres, ``semivariance`` and ``pairs``.
    """

    nugget: float
    sill: float
    range: float
    model: Model
    table: pd.DataFrame = field(
        repr=False,
        compare=False,
        default_factory=lambda: pd.DataFrame(
            columns=["lag", "semivariance", "pairs"], dtype=float
        ),
    )

    def __post_init__(self) -> None:
        if self.model not in MODELS:
            raise ValueError(
                f"Model of a variogram must be one of {MODELS}, got {self.model!r}."
            )
        if not (self.nugget >= 0 and self.sill >= 0 and self.nugget + self.sill > 0):
            raise ValueError(
                "Nugget and sill of a variogram must be 0 or more and not both 0, got "
                f"{self.nugget} and {self.sill}."
            )
        if not self.range > 0:
            raise ValueError(
                f"Range of a variogram must be above 0 m, got {self.range}."
            )

    def semivariance(self, distance: npt.ArrayLike) -> Floats:
        """Return the semivariance at distances in metres; 0 at 0."""
        h = np.asarray(distance, float)
        rising = self.nugget + self.sill * (1 - self.shared(h))
        return np.where(h > 0, rising, 0.0)

    def correlation(self, distance: npt.ArrayLike) -> Floats:
        """Return the correlation of two errors at distances in metres; 1 at 0."""
        h = np.asarray(distance, float)
        part = self.sill / (self.nugget + self.sill)
        return np.where(h > 0, part * self.shared(h), 1.0)

    def shared(self, distance: npt.ArrayLike) -> Floats:
        """Return the share of the sill that is left at distances in metres."""
        return _shared(self.model, np.asarray(distance, float) / self.range)

    @property
    def effective_range(self) -> float:
        """Metres at which the covariance is 5 % of the sill; 0 without a sill."""
        return self.range * _REACHED[self.model] if self.sill > 0 else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Return the values for JSON, as ``from_dict`` takes them."""
        return {
            "nugget": self.nugget,
            "sill": self.sill,
            "range": self.range,
            "model": self.model,
            "table": self.table.to_dict("list"),
        }

    @classmethod
    def from_dict(cls, given: dict[str, Any]) -> Variogram:
        """Build a variogram from the result of ``to_dict``."""
        return cls(**(given | {"table": pd.DataFrame(given["table"])}))


def _shared(model: Model, u: Floats) -> Floats:
    if model == "exponential":
        return np.exp(-u)
    if model == "spherical":
        near = np.minimum(u, 1.0)
        return 1 - 1.5 * near + 0.5 * near**3
    scaled = np.minimum(math.sqrt(3) * u, 1e3)  # infinity times 0 is NaN
    return (1 + scaled) * np.exp(-scaled)


def fit_variogram(
    residuals: pd.DataFrame,
    *,
    column: str = "error",
    lags: int = 16,
    furthest: float | None = None,
    pairs: int = 200_000,
    model: Model | None = None,
    variance: float | None = None,
    seed: int = 0,
) -> Variogram:
    """Fit a variogram to residuals.

    The semivariances are Matheron's (1963): half the mean of squared differences. The
    robust estimator of Cressie and Hawkins (1980) gives less weight to large errors,
    which count in the variance of a sum. Lags are evenly spaced on a logarithmic scale.
    Pairs of a lag are drawn by a pixel, a distance and a direction, so that short lags
    have the same number of pairs as long ones. If there are no more than ``pairs``
    pairs, all are used.
    The fit is by least squares with the weights pairs / semivariance^2 of the fitted
    curve (Cressie 1985), nugget and sill 0 or more, and an effective range of at most
    twice ``furthest``.

    Parameters
    ----------
    residuals : pandas.DataFrame
        One row for each pixel: ``y``, ``x`` in metres, ``unit`` (its chip or block),
        and ``predicted`` and ``observed`` or the column that is named.
        ``attrs["pixel"]``: metres down and across. With ``attrs["kind"] == "chips"``
        (or without a kind) pairs are only drawn within a unit, with "scene" across
        units too.
    column : str
        "error" is predicted minus observed; any other is a column of the table.
    lags : int
        Number of classes of distance.
    furthest : float, optional
        The longest lag, metres; by default half of the longer side of the scene, or of
        the largest unit.
    pairs : int
        Number of pairs to draw in all, about: it bounds memory and time.
    model : {"exponential", "spherical", "matern"}, optional
        By default the one of the three that fits best.
    variance : float, optional
        Known value of nugget + sill: it has the weight of all lags together, and the
        effective range may be ten times longer. For chips that are smaller than the
        range of their errors, whose variance between chips is known.
    seed : int
        Seed of the draws.

    Returns
    -------
    Variogram

    Raises
    ------
    ValueError
        If there are fewer than 30 residuals, if all are the same, or if too few pairs
        are within the longest lag.
    """
    located = ResidualPairs.of(residuals)
    if column == "error" and "error" not in residuals:
        check_residuals(residuals, ("predicted", "observed"))
        values = np.asarray(residuals["predicted"] - residuals["observed"], float)
    else:
        check_residuals(residuals, (column,))
        values = np.asarray(residuals[column], float)
    _check_values(values)
    reach = located.extent / 2 if furthest is None else float(furthest)
    if reach < min(located.pixel):
        raise ValueError(
            f"The longest lag of a variogram must be a pixel or more, got {reach} m "
            f"with pixels of {min(located.pixel)} m: use larger units."
        )
    edges = np.geomspace(min(located.pixel) * 0.9, reach * 1.0001, lags + 1)
    first, second = located.pairs(edges, pairs, np.random.default_rng(seed))
    table = _semivariances(located, values, first, second, edges)
    measured = _Measured.of(table, variance)
    ranges = (min(located.pixel) / 2, reach * (2 if variance is None else 20))
    fits = [_fit(measured, name, ranges, table) for name in _asked(model)]
    return min(fits, key=lambda fit: fit[0])[1]


def _asked(model: Model | None) -> tuple[Model, ...]:
    return MODELS if model is None else (model,)


def _check_values(values: Floats) -> None:
    if values.size < FEWEST_POINTS:
        raise ValueError(
            f"Residuals of a variogram must be {FEWEST_POINTS} or more, got "
            f"{values.size}."
        )
    if not np.isfinite(values).all():
        raise ValueError(
            "Residuals of a variogram must be finite, got "
            f"{np.count_nonzero(~np.isfinite(values))} that are not: leave them out."
        )
    if np.ptp(values) == 0:
        raise ValueError(
            f"Residuals of a variogram must differ, got {values[0]} everywhere."
        )


def _semivariances(
    located: ResidualPairs, values: Floats, first: Whole, second: Whole, edges: Floats
) -> pd.DataFrame:
    distance = np.hypot(
        located.y[first] - located.y[second], located.x[first] - located.x[second]
    )
    squared = (values[first] - values[second]) ** 2
    lag = np.digitize(distance, edges) - 1
    pairs = pd.DataFrame({"lag": lag, "distance": distance, "squared": squared})
    pairs = pairs[(lag >= 0) & (lag < edges.size - 1)]
    each = pairs.groupby("lag")
    table = pd.DataFrame(
        {
            "lag": each["distance"].mean(),
            "semivariance": each["squared"].mean() / 2,
            "pairs": each.size(),
        }
    )
    kept = table[table["pairs"] >= FEWEST_PAIRS].reset_index(drop=True)
    if len(kept) < 3:
        raise ValueError(
            f"Residuals of a variogram must have {FEWEST_PAIRS} pairs or more at 3 "
            f"distances or more, got {len(kept)}: use units of several pixels each, or "
            "set attrs['kind'] = 'scene' if distances between units have a meaning."
        )
    return kept


@dataclass(frozen=True)
class _Measured:
    """The empirical variogram that a curve is fitted to."""

    lag: Floats
    semivariance: Floats
    pairs: Floats

    @classmethod
    def of(cls, table: pd.DataFrame, variance: float | None) -> _Measured:
        lag, semivariance, pairs = (
            table[name].to_numpy(float) for name in ("lag", "semivariance", "pairs")
        )
        if not semivariance.any():
            raise ValueError(
                "Residuals of a variogram must differ from those near them, got none."
            )
        if variance is not None:
            lag = np.append(lag, np.inf)
            semivariance = np.append(semivariance, variance)
            pairs = np.append(pairs, pairs.sum())
        return cls(lag, semivariance, pairs)

    def weights(self, curve: Floats) -> Floats:
        """Return the square roots of pairs / curve^2, without a division by zero."""
        least = self.semivariance.max() * 1e-6
        roots = np.sqrt(self.pairs / self.pairs.mean())
        return np.asarray(roots / np.maximum(curve, least), np.float64)

    def solve(
        self, model: Model, log_range: float, weights: Floats
    ) -> tuple[Floats, float]:
        """Return nugget and sill at a given range, and the loss."""
        from scipy.optimize import nnls

        rising = 1 - _shared(model, self.lag / math.exp(log_range))
        columns = np.stack([np.ones_like(rising), rising], axis=1)
        parts, loss = nnls(columns * weights[:, None], self.semivariance * weights)
        return parts, float(loss)


def _fit(
    measured: _Measured,
    model: Model,
    ranges: tuple[float, float],
    table: pd.DataFrame,
) -> tuple[float, Variogram]:
    """Return the loss of a model and its fit, by a search over the range."""
    from scipy.optimize import minimize_scalar

    grid = np.linspace(math.log(ranges[0]), math.log(ranges[1] / _REACHED[model]), 60)
    step = grid[1] - grid[0]
    # The first fit is weighted by the measured values, the others by the fitted curve,
    # which is less noisy.
    curve = measured.semivariance
    for _ in range(3):
        weights = measured.weights(curve)
        losses = [measured.solve(model, value, weights)[1] for value in grid]
        start = float(grid[np.argmin(losses)])
        found = minimize_scalar(
            lambda value, weights=weights: measured.solve(model, value, weights)[1],
            bounds=(max(start - step, grid[0]), min(start + step, grid[-1])),
            method="bounded",
        )
        nugget, sill = measured.solve(model, float(found.x), weights)[0].tolist()
        fitted = Variogram(nugget, sill, math.exp(found.x), model, table)
        curve = fitted.semivariance(measured.lag)
    # The models are compared with the same weights.
    off = (curve - measured.semivariance) * measured.weights(measured.semivariance)
    return float((off**2).sum()), fitted


def suggest_block(
    source: Variogram | pd.DataFrame, pixel: float | tuple[float, float] | None = None
) -> int:
    """Return the size of blocks for a spatial cross-validation.

    Blocks that are longer than the range of correlated residuals keep training and
    validation pixels independent (Roberts et al. 2017; Valavi et al. 2019). The result
    is the effective range, at most the longest lag, rounded up to a multiple of 32
    pixels.

    Parameters
    ----------
    source : Variogram or pandas.DataFrame
        A variogram, or a table of residuals to fit one to.
    pixel : float or (float, float), optional
        Size of a pixel, metres; of two the smaller is used. By default
        ``attrs["pixel"]`` of the residuals.

    Returns
    -------
    int
        Side of a block, pixels.

    Raises
    ------
    ValueError
        If a variogram comes without the size of a pixel.
    """
    if isinstance(source, pd.DataFrame):
        pixel = source.attrs.get("pixel") if pixel is None else pixel
        source = fit_variogram(source)
    if not isinstance(source, Variogram):
        raise ValueError(
            "source must be a Variogram or a table of residuals, got a "
            f"{type(source).__name__}."
        )
    if pixel is None:
        raise ValueError(
            "pixel= must be given with a variogram, the size of a pixel in metres."
        )
    side = float(np.min(pixel))
    length = source.effective_range
    if len(source.table):
        length = min(length, float(source.table["lag"].max()))
    return max(math.ceil(length / side / BLOCK_STEP), 1) * BLOCK_STEP
