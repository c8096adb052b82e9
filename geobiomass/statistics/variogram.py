"""How alike errors are that lie near each other: variograms of residuals."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import pandas as pd

Floats = npt.NDArray[np.float64]
Whole = npt.NDArray[np.int64]
Model = Literal["exponential", "spherical", "matern"]
MODELS: tuple[Model, ...] = get_args(Model)

FEWEST_POINTS = 30
FEWEST_PAIRS = 30  # a lag: the rule of Journel and Huijbregts (1978), p. 194
BLOCK_STEP = 32  # pixels: sides of blocks are multiples of it, as tiles are

# Distance, in units of the range, where 95 % of the sill is reached: the roots of
# exp(-u) = 0.05, 1 - 1.5 u + 0.5 u^3 = 0.05 and (1 + sqrt(3) u) exp(-sqrt(3) u) = 0.05.
_REACHED = {"exponential": 2.995732, "spherical": 0.811401, "matern": 2.738871}


@dataclass(frozen=True)
class Variogram:
    """Half the mean squared difference of two errors, by the distance between them.

    Parameters
    ----------
    nugget : float
        Of errors that no neighbour shares, in the residuals' unit squared.
    sill : float
        What neighbours share, on top of the nugget; nugget + sill is the variance.
    range : float
        Metres, the model's own length r. With u = h / r what neighbours at the distance
        h still share is sill times exp(-u) (exponential), 1 - 1.5 u + 0.5 u^3 up to
        u = 1 and 0 beyond (spherical), or (1 + sqrt(3) u) exp(-sqrt(3) u) (Matern of
        smoothness 3/2). Lengths of different models compare by ``effective_range``.
    model : {"exponential", "spherical", "matern"}
    table : pandas.DataFrame
        What it was fitted to: ``lag`` in metres, ``semivariance`` and ``pairs``.
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
        """Give the semivariance at distances in metres; 0 at 0."""
        h = np.asarray(distance, float)
        rising = self.nugget + self.sill * (1 - self.shared(h))
        return np.where(h > 0, rising, 0.0)

    def correlation(self, distance: npt.ArrayLike) -> Floats:
        """Give the correlation of two errors at distances in metres; 1 at 0."""
        h = np.asarray(distance, float)
        part = self.sill / (self.nugget + self.sill)
        return np.where(h > 0, part * self.shared(h), 1.0)

    def shared(self, distance: npt.ArrayLike) -> Floats:
        """Give the part of the sill that errors at distances in metres share."""
        return _shared(self.model, np.asarray(distance, float) / self.range)

    @property
    def effective_range(self) -> float:
        """Metres at which neighbours share but 5 % of the sill; 0 without a sill."""
        return self.range * _REACHED[self.model] if self.sill > 0 else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Give what ``from_dict`` takes, ready for JSON."""
        return {
            "nugget": self.nugget,
            "sill": self.sill,
            "range": self.range,
            "model": self.model,
            "table": self.table.to_dict("list"),
        }

    @classmethod
    def from_dict(cls, given: dict[str, Any]) -> Variogram:
        """Make a variogram out of what ``to_dict`` gave."""
        return cls(**(given | {"table": pd.DataFrame(given["table"])}))


def _shared(model: Model, u: Floats) -> Floats:
    if model == "exponential":
        return np.exp(-u)
    if model == "spherical":
        near = np.minimum(u, 1.0)
        return 1 - 1.5 * near + 0.5 * near**3
    scaled = np.minimum(math.sqrt(3) * u, 1e3)  # infinity times 0 is no number
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
    robust ones of Cressie and Hawkins (1980) describe most errors and not the worst;
    the variance of a sum rests on the worst too. Lags are spaced evenly in their
    logarithms. Pairs of a lag are drawn by a pixel, a distance and a direction, so
    that short lags get as many as long ones; where all pairs are no more than
    ``pairs``, all are taken.
    The fit is by least squares with weights pairs / semivariance^2 of the fitted curve
    (Cressie 1985), nugget and sill 0 or more, and an effective range of at most twice
    ``furthest``.

    Parameters
    ----------
    residuals : pandas.DataFrame
        A row a pixel: ``y``, ``x`` in metres, ``unit``, and ``predicted`` and
        ``observed`` or the column that is named. ``attrs["pixel"]``: metres down and
        across. With ``attrs["kind"] == "chips"`` (or without a kind) pairs are only
        taken within a unit, with "scene" across units too.
    column : str
        "error" is predicted minus observed; any other a column of the table.
    lags : int
        Classes of distance.
    furthest : float, optional
        The longest distance, metres; by default half of the longer side of the scene,
        or of the largest unit.
    pairs : int
        Drawn in all, about: what bounds memory and time.
    model : {"exponential", "spherical", "matern"}, optional
        By default the one of the three that fits best.
    variance : float, optional
        What nugget and sill must come to, far away: counts as much as all lags
        together, and the effective range may be ten times as long. For chips too small
        to see how far errors reach, whose variance from chip to chip is known.
    seed : int
        Of the draws.

    Returns
    -------
    Variogram

    Raises
    ------
    ValueError
        Fewer than 30 residuals, all the same, or hardly any two within reach.
    """
    places = _Places.of(residuals)
    if column == "error" and "error" not in residuals:
        values = np.asarray(residuals["predicted"] - residuals["observed"], float)
    else:
        values = np.asarray(residuals[column], float)
    _check_values(values)
    reach = places.extent / 2 if furthest is None else float(furthest)
    if reach < min(places.pixel):
        raise ValueError(
            f"The longest lag of a variogram must be a pixel or more, got {reach} m "
            f"with pixels of {min(places.pixel)} m: units must be larger."
        )
    edges = np.geomspace(min(places.pixel) * 0.9, reach * 1.0001, lags + 1)
    first, second = places.pairs(edges, pairs, np.random.default_rng(seed))
    table = _semivariances(places, values, first, second, edges)
    measured = _Measured.of(table, variance)
    ranges = (min(places.pixel) / 2, reach * (2 if variance is None else 20))
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


@dataclass(frozen=True)
class _Places:
    """Where residuals lie, with a look-up by pixel."""

    y: Floats
    x: Floats
    pixel: tuple[float, float]
    group: Whole  # pairs are taken within a group
    row: Whole
    column: Whole
    order: Whole
    keys: Whole  # sorted

    @classmethod
    def of(cls, residuals: pd.DataFrame) -> _Places:
        for name in ("y", "x", "unit"):
            if name not in residuals:
                raise ValueError(
                    f"Residuals must have a column {name!r}, got "
                    f"{list(residuals.columns)}."
                )
        if "pixel" not in residuals.attrs:
            raise ValueError(
                "Residuals must say how large a pixel is, attrs['pixel'] = (metres "
                f"down, metres across), got attrs {residuals.attrs}."
            )
        down, across = (float(side) for side in residuals.attrs["pixel"])
        y, x = (np.asarray(residuals[name], float) for name in ("y", "x"))
        if residuals.attrs.get("kind") == "scene":
            group = np.zeros(y.size, np.int64)
        else:
            group = pd.factorize(residuals["unit"])[0].astype(np.int64)
        row = np.rint((y - y.min(initial=0)) / down).astype(np.int64)
        column = np.rint((x - x.min(initial=0)) / across).astype(np.int64)
        keys = _keys(group, row, column)
        order = np.argsort(keys, kind="stable")
        return cls(y, x, (down, across), group, row, column, order, keys[order])

    @property
    def extent(self) -> float:
        """The longest side of a group, metres."""
        table = pd.DataFrame({"group": self.group, "y": self.y, "x": self.x})
        each = table.groupby("group")
        sides = (each.max() - each.min()).to_numpy() + np.array(self.pixel)
        return float(sides.max())

    def pairs(
        self, edges: Floats, most: int, random: np.random.Generator
    ) -> tuple[Whole, Whole]:
        """Give rows of pairs, all where they are few, else drawn by class of lag."""
        sizes = np.bincount(self.group).astype(float)
        if (sizes * (sizes - 1) / 2).sum() <= most:
            return self._all_pairs()
        lags = edges.size - 1
        found = [
            self._drawn(edges[k], edges[k + 1], most // lags, random)
            for k in range(lags)
        ]
        first, second = (np.concatenate(side) for side in zip(*found, strict=True))
        return first, second

    def _all_pairs(self) -> tuple[Whole, Whole]:
        members = [np.flatnonzero(self.group == g) for g in np.unique(self.group)]
        found = [m[np.stack(np.triu_indices(m.size, 1))] for m in members]
        first, second = np.concatenate(found, axis=1)
        return first, second

    def _drawn(
        self, low: float, high: float, wanted: int, random: np.random.Generator
    ) -> tuple[Whole, Whole]:
        down, across = self.pixel
        firsts, seconds, there = [], [], 0
        # Where few pixels have a residual most draws miss; the draws are bounded.
        for _ in range(25):
            i = random.integers(self.y.size, size=wanted)
            angle = random.uniform(0, np.pi, wanted)
            distance = np.exp(random.uniform(np.log(low), np.log(high), wanted))
            rows = np.rint(distance * np.sin(angle) / down).astype(np.int64)
            columns = np.rint(distance * np.cos(angle) / across).astype(np.int64)
            j = self._at(self.group[i], self.row[i] + rows, self.column[i] + columns)
            hit = (j >= 0) & (j != i)
            firsts.append(i[hit])
            seconds.append(j[hit])
            there += int(np.count_nonzero(hit))
            if there >= wanted:
                break
        return np.concatenate(firsts)[:wanted], np.concatenate(seconds)[:wanted]

    def _at(self, group: Whole, row: Whole, column: Whole) -> Whole:
        """Give the row of the table at a pixel, -1 where there is none."""
        keys = _keys(group, row, column)
        spot = np.minimum(np.searchsorted(self.keys, keys), self.keys.size - 1)
        return np.where(self.keys[spot] == keys, self.order[spot], -1)


def _keys(group: Whole, row: Whole, column: Whole) -> Whole:
    # 2^21 rows and columns, offset so that a step out of the extent meets nothing.
    shift = np.int64(1) << 20
    return (group << 42) | ((row + shift // 2) << 21) | (column + shift // 2)


def _semivariances(
    places: _Places, values: Floats, first: Whole, second: Whole, edges: Floats
) -> pd.DataFrame:
    distance = np.hypot(
        places.y[first] - places.y[second], places.x[first] - places.x[second]
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
            f"distances or more, got {len(kept)}: units of several pixels each, or "
            "attrs['kind'] = 'scene' where distances between units have a meaning."
        )
    return kept


@dataclass(frozen=True)
class _Measured:
    """What a curve is fitted to."""

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
        """Give square roots of pairs / curve^2, kept from division by nothing."""
        least = self.semivariance.max() * 1e-6
        roots = np.sqrt(self.pairs / self.pairs.mean())
        return np.asarray(roots / np.maximum(curve, least), np.float64)

    def solve(
        self, model: Model, log_range: float, weights: Floats
    ) -> tuple[Floats, float]:
        """Give nugget and sill at a range, and what they leave."""
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
    """Give what a model leaves, and its fit: the range searched, the others solved."""
    from scipy.optimize import minimize_scalar

    grid = np.linspace(math.log(ranges[0]), math.log(ranges[1] / _REACHED[model]), 60)
    step = grid[1] - grid[0]
    # First weighted by what was measured, then by the curve, which is less noisy.
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
    # Models compare by the same weights.
    off = (curve - measured.semivariance) * measured.weights(measured.semivariance)
    return float((off**2).sum()), fitted


def suggest_block(
    source: Variogram | pd.DataFrame, pixel: float | tuple[float, float] | None = None
) -> int:
    """Say how large spatial blocks of an honest cross-validation should be.

    Blocks as long as residuals are correlated keep what trains and what validates
    apart (Roberts et al. 2017; Valavi et al. 2019): the effective range, no more than
    the longest lag that was looked at, rounded up to a multiple of 32 pixels.

    Parameters
    ----------
    source : Variogram or pandas.DataFrame
        A variogram, or a table of residuals to fit one to.
    pixel : float or (float, float), optional
        Metres on the ground; of two the smaller counts. By default
        ``attrs["pixel"]`` of the residuals.

    Returns
    -------
    int
        Side of a block, pixels.
    """
    if isinstance(source, pd.DataFrame):
        pixel = source.attrs.get("pixel") if pixel is None else pixel
        source = fit_variogram(source)
    if pixel is None:
        raise ValueError("Size of a pixel must be given with a variogram, in metres.")
    side = float(np.min(pixel))
    length = source.effective_range
    if len(source.table):
        length = min(length, float(source.table["lag"].max()))
    return max(math.ceil(length / side / BLOCK_STEP), 1) * BLOCK_STEP
