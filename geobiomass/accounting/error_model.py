"""Model of the errors of a map: bias, spread and correlation, and their sum."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from geobiomass.accounting.distant_errors import widening
from geobiomass.accounting.pair_sums import Cells
from geobiomass.cube.units import MASS_PER_AREA, plain
from geobiomass.statistics.directions import unlike_directions
from geobiomass.statistics.evenness import unevenness
from geobiomass.statistics.far_correlation import far_correlation
from geobiomass.statistics.residual_columns import RESIDUALS, check_residuals
from geobiomass.statistics.variogram import Variogram, fit_variogram

Floats = npt.NDArray[np.float64]
Bias = Literal["class", "overall"]

FEWEST_RESIDUALS = 200  # of a class
MOST_CHECKED = 100  # units whose sums of errors are compared with the model
_USUAL = (0.01, 0.99)  # quantiles of the predictions
# Later than the others.
_LATER = ("held_out", "pixel", "unevenness", "usual", "far", "directions", "freedom")
SMALLEST_SPREAD = 1e-3  # of the overall spread, for classes almost without any


@dataclass(frozen=True)
class ErrorModel:
    """A model of errors, predicted minus observed, fitted to held-out residuals.

    The error of a pixel with the prediction p is b(p) + s(p) z: a bias, a standard
    deviation, and a standardised error z whose spatial correlation follows the
    variogram. Bias and variance are linear between the centres of classes and constant
    beyond the first and the last.

    Parameters
    ----------
    centres : tuple of float
        Mean prediction of each class, increasing, Mg/ha.
    biases, spreads : tuple of float
        Bias and standard deviation of errors at each centre, Mg/ha.
    bias_covariance : tuple of tuple of float
        Covariance of the estimated biases, (Mg/ha)^2: the jackknife's, which leaves
        out one unit at a time.
    variogram : geobiomass.statistics.variogram.Variogram
        Variogram of standardised errors.
    units, residuals : int
        Number of units and residuals that the model was fitted to.
    inflation : float
        1 or more: the squared sums of errors of held-out units over the variances that
        the variogram predicts. The variogram alone is too small if errors are a
        mixture of two kinds, or are correlated over more than a chip.
    places : bool
        True if the coordinates of the units are known, so that pairs of different units
        count. They are not known of chips: errors that are correlated over distances
        longer than a chip cannot be measured.
    measured_in : str
        Units of the residuals, in place of Mg/ha above.
    held_out : tuple of float, optional
        The lowest and the highest prediction among the residuals.
    pixel : tuple of float, optional
        Height and width of a pixel of the residuals, metres.
    unevenness : float, optional
        How much more the spread of errors differs between units than the variogram
        lets expect: a ratio of variances, 1 where it is even.
    usual : tuple of float, optional
        Quantiles of 1 and 99 % of the predictions among the residuals.
    far : float, optional
        How probable it is that mean errors of distant units are as alike as these are,
        if they are independent; see ``far_correlation``.
    directions : float, optional
        The largest semivariance of a direction over the smallest; see
        ``unlike_directions``.
    freedom : float, optional
        Degrees of freedom of the spread of errors: one less than the number of units,
        which its sums were compared with. None: as if it were known exactly, as
        earlier versions had it.
    """

    centres: tuple[float, ...]
    biases: tuple[float, ...]
    spreads: tuple[float, ...]
    bias_covariance: tuple[tuple[float, ...], ...]
    variogram: Variogram
    units: int
    residuals: int
    inflation: float = 1.0
    places: bool = True
    measured_in: str = MASS_PER_AREA
    held_out: tuple[float, float] | None = None
    pixel: tuple[float, float] | None = None
    unevenness: float | None = None
    usual: tuple[float, float] | None = None
    far: float | None = None
    directions: float | None = None
    freedom: float | None = None

    def bias(self, predicted: npt.ArrayLike) -> Floats:
        """Return the bias at each prediction, Mg/ha; same shape."""
        return _interpolated(predicted, self.centres, self.biases)

    def sd(self, predicted: npt.ArrayLike) -> Floats:
        """Return the standard deviation of errors about the bias, Mg/ha; same shape."""
        squares = np.square(self.spreads)
        return np.sqrt(_interpolated(predicted, self.centres, squares))

    def shares(self, predicted: npt.ArrayLike) -> Floats:
        """Return the weight of each class in each prediction, (..., class)."""
        return class_shares(np.asarray(predicted, float), np.asarray(self.centres))

    def covariance(self, distance: npt.ArrayLike) -> Floats:
        """Return the covariance of standardised errors at distances in metres.

        It is without the nugget, which pixels do not share.
        """
        return self.variogram.sill * self.variogram.shared(distance)

    def to_dict(self) -> dict[str, Any]:
        """Return the values for JSON, as ``from_dict`` takes them."""
        known = vars(self) | {"variogram": self.variogram.to_dict()}
        if self.measured_in == MASS_PER_AREA:  # as early versions wrote it
            del known["measured_in"]
        for name in _LATER:
            if known[name] is None:
                del known[name]
        return known

    @classmethod
    def from_dict(cls, given: dict[str, Any]) -> ErrorModel:
        """Build an error model from the result of ``to_dict``."""
        several = ("centres", "biases", "spreads", "held_out", "pixel", "usual")
        listed = {name: tuple(given[name]) for name in several if name in given}
        covariance = tuple(tuple(row) for row in given["bias_covariance"])
        variogram = Variogram.from_dict(given["variogram"])
        return cls(
            **(given | listed | {"bias_covariance": covariance, "variogram": variogram})
        )


def _interpolated(
    at: npt.ArrayLike, centres: tuple[float, ...], values: npt.ArrayLike
) -> Floats:
    points, heights = np.asarray(at, float), np.asarray(values, float)
    return np.asarray(np.interp(points, centres, heights), np.float64)


def class_shares(values: Floats, centres: Floats) -> Floats:
    """Return the weight of each class in each value, (..., class).

    The weights are hat functions: linear between neighbouring centres, and 1 in sum.
    """
    if centres.size == 1:
        return np.ones((*values.shape, 1))
    inside = np.clip(values, centres[0], centres[-1])
    left = np.clip(np.searchsorted(centres, inside, "right") - 1, 0, centres.size - 2)
    upper = (inside - centres[left]) / (centres[left + 1] - centres[left])
    hats = np.zeros((*values.shape, centres.size))
    np.put_along_axis(hats, left[..., None], (1 - upper)[..., None], -1)
    np.put_along_axis(hats, left[..., None] + 1, upper[..., None], -1)
    return hats


def fit_error_model(
    residuals: pd.DataFrame,
    *,
    by: str = "predicted",
    bias: Bias = "class",
    classes: int = 8,
    pairs: int = 200_000,
    seed: int = 0,
) -> ErrorModel:
    """Fit an error model to residuals of units that are not training data.

    Classes are cut at the quantiles 1/2, 1/4 and 3/4, 1/8 and 7/8, and so on, so that
    the few pixels of tall forest have separate classes. Each class has at least 200
    residuals, and there is at most one class for two units. The bias is the linear
    spline through the centres that fits best. Its covariance is the jackknife's over
    units (Bell and McCaffrey 2002), because residuals of one unit are not independent.

    Parameters
    ----------
    residuals : pandas.DataFrame
        One row for each pixel: ``observed``, ``predicted`` in Mg/ha, ``y``, ``x`` in
        metres, ``unit``; ``attrs`` as in ``fit_variogram``.
    by : str
        Column that errors depend on; by default the prediction.
    bias : {"class", "overall"}
        One bias for each class, or one for all.
    classes : int
        Largest number of classes.
    pairs, seed : int
        As in ``fit_variogram``.

    Returns
    -------
    ErrorModel

    Raises
    ------
    ValueError
        If there is only one unit, fewer than 30 residuals, or all are the same.
    """
    if bias not in ("class", "overall"):
        raise ValueError(f"bias must be 'class' or 'overall', got {bias!r}.")
    check_residuals(residuals, (*RESIDUALS, by))
    unit, names = pd.factorize(residuals["unit"])
    if len(names) < 2:
        raise ValueError(
            f"Residuals of an error model must come from 2 units or more, got "
            f"{len(names)}: one chip or block does not show the standard error of the "
            "bias. Add residuals of other chips or blocks."
        )
    level = np.asarray(residuals[by], float)
    error = np.asarray(residuals["predicted"] - residuals["observed"], float)
    centres = class_centres(level, min(classes, len(names) // 2))
    hats = class_shares(level, centres)
    basis = hats if bias == "class" else np.ones((level.size, 1))
    solved, covariance = _jackknifed(basis, error, unit, len(names))
    if bias == "overall":
        solved = np.repeat(solved, centres.size)
        covariance = np.full((centres.size,) * 2, covariance[0, 0])
    rest = error - hats @ solved
    spreads = _spreads(hats, rest)
    standardised = rest / np.sqrt(hats @ spreads**2)
    variogram = _fit_correlation(residuals, standardised, pairs, seed)
    model = ErrorModel(
        centres=tuple(centres.tolist()),
        biases=tuple(solved.tolist()),
        spreads=tuple(spreads.tolist()),
        bias_covariance=tuple(map(tuple, covariance.tolist())),
        variogram=variogram,
        units=len(names),
        residuals=level.size,
        places=_have_coordinates(residuals),
        held_out=_ends(residuals["predicted"]),
        pixel=_ends(residuals.attrs["pixel"], ordered=False),
    )
    ratio = _observed_over_predicted(model, residuals, rest, level, unit, seed)
    # The biases were fitted to the same units, which makes the sums of errors smaller:
    # a correction for degrees of freedom.
    left = len(names) - basis.shape[1]
    return replace(
        model,
        inflation=max(1.0, ratio * len(names) / left),
        measured_in=plain(residuals.attrs.get("units")) or MASS_PER_AREA,
        unevenness=unevenness(variogram, residuals, standardised, unit, seed),
        usual=_ends(np.quantile(residuals["predicted"], _USUAL)),
        far=far_correlation(
            residuals, standardised, unit, variogram.effective_range, seed
        )
        if model.places
        else None,
        directions=unlike_directions(
            residuals, standardised, variogram.effective_range, seed
        ),
        freedom=float(len(names) - 1),
    )


def _ends(values: Any, ordered: bool = True) -> tuple[float, float]:
    """Return the lowest and the highest value, or the two values as floats."""
    one, other = (values.min(), values.max()) if ordered else values
    return float(one), float(other)


def class_centres(level: Floats, most: int) -> Floats:
    """Return the means of at most `most` classes, cut as in ``fit_error_model``."""
    half = most // 2
    while half > 0 and level.size * 0.5**half < FEWEST_RESIDUALS:
        half -= 1
    low = 0.5 ** np.arange(half, 0, -1)
    edges = np.unique(np.quantile(level, np.unique([*low, *(1 - low)])))
    # A class includes its upper edge, so that many predictions of 0 are one class.
    which = np.searchsorted(edges, level, "left")
    return np.unique(pd.Series(level).groupby(which).mean().to_numpy(float))


def _jackknifed(
    basis: Floats, error: Floats, unit: npt.NDArray[np.intp], units: int
) -> tuple[Floats, Floats]:
    """Return the biases by least squares, and their jackknife covariance over units."""
    size = basis.shape[1]
    products = np.zeros((units, size, size))
    sums = np.zeros((units, size))
    for j in range(size):
        sums[:, j] = np.bincount(unit, basis[:, j] * error, units)
        for k in range(size):
            products[:, j, k] = np.bincount(unit, basis[:, j] * basis[:, k], units)
    whole, right = products.sum(0), sums.sum(0)
    solved = np.linalg.lstsq(whole, right)[0]
    without = np.stack(
        [
            np.linalg.lstsq(whole - p, right - s)[0]
            for p, s in zip(products, sums, strict=True)
        ]
    )
    off = without - without.mean(0)
    return solved, off.T @ off * (units - 1) / units


def _spreads(hats: Floats, rest: Floats) -> Floats:
    squares = rest**2
    overall = squares.mean()
    if overall == 0:
        raise ValueError(
            "Residuals of an error model must differ, got only residuals that equal "
            "the bias."
        )
    each = (hats * squares[:, None]).sum(0) / hats.sum(0)
    least = overall * SMALLEST_SPREAD**2
    return np.asarray(np.sqrt(np.maximum(each, least)), np.float64)


def _fit_correlation(
    residuals: pd.DataFrame, standardised: Floats, pairs: int, seed: int
) -> Variogram:
    table = residuals[["y", "x", "unit"]].assign(standardised=standardised)
    table.attrs = residuals.attrs
    # Chips are shorter than the range of their errors; the variance over all chips adds
    # what a single chip does not show.
    chips = not _have_coordinates(table)
    return fit_variogram(
        table,
        column="standardised",
        pairs=pairs,
        variance=float((standardised**2).mean()) if chips else None,
        seed=seed,
    )


def _have_coordinates(residuals: pd.DataFrame) -> bool:
    return residuals.attrs.get("kind") == "scene"


def _observed_over_predicted(
    model: ErrorModel,
    residuals: pd.DataFrame,
    rest: Floats,
    level: Floats,
    unit: npt.NDArray[np.intp],
    seed: int,
) -> float:
    """Return the units' squared sums of errors, divided by the modelled variance."""
    down, across = (float(side) for side in residuals.attrs["pixel"])
    row = np.rint(residuals["y"].to_numpy(float) / down).astype(np.int64)
    column = np.rint(residuals["x"].to_numpy(float) / across).astype(np.int64)
    names = np.random.default_rng(seed).permutation(unit.max() + 1)[:MOST_CHECKED]
    squared = variance = 0.0
    for name in names:
        mine = np.flatnonzero(unit == name)
        top, left = row[mine].min(), column[mine].min()
        amounts = np.zeros((np.ptp(row[mine]) + 1, np.ptp(column[mine]) + 1))
        amounts[row[mine] - top, column[mine] - left] = model.sd(level[mine])
        cells = Cells((down, across), 2**18)
        cells.add(int(top), int(left), amounts)
        squared += float(rest[mine].sum()) ** 2
        variance += model.variogram.nugget * cells.squares
        variance += cells.double_sum(model.covariance)
    return squared / variance


class ErrorSum:
    """The sum of errors over a region, with the covariance of all pairs of pixels.

    With a_i = w_i s(p_i) the variance of the sum of w_i e_i is

        f (nugget sum_i a_i^2 + sum_ij a_i a_j C(h_ij)) + sum_kl W_k W_l V_kl

    where f is the inflation, C the covariance of standardised errors, W_k the sum of
    w_i by class and V the covariance of the biases (block kriging: Journel and
    Huijbregts 1978, chapter V; for totals of maps: Wadoux and Heuvelink 2023). The
    double sum is exact, by Fourier transform, for regions of at most ``cells`` pixels.
    In larger regions pixels are joined to square cells with a side of 2, 4, 8, ...
    pixels, which share a mean covariance. The result does not depend on the blocks
    that the region is read in, nor on their order.

    Parameters
    ----------
    model : ErrorModel
    pixel : tuple of float
        Size of a pixel, metres, down and across.
    cells : int
        Largest number of cells in memory, about 80 bytes each while ``variance`` runs.
    """

    def __init__(
        self, model: ErrorModel, pixel: tuple[float, float], *, cells: int = 2**20
    ) -> None:
        self.model = model
        self._cells = Cells((float(pixel[0]), float(pixel[1])), cells)
        self.unusual = 0.0  # hectares beyond the usual held-out predictions
        self._by_class = np.zeros(len(model.centres))
        self._parts = 0.0  # what cut pixels add to the squared amounts

    def add(
        self,
        row: int,
        column: int,
        weights: npt.NDArray[Any],
        predicted: npt.NDArray[Any],
        shares: npt.NDArray[Any] | None = None,
    ) -> None:
        """Add a block of the region.

        Parameters
        ----------
        row, column : int
            Position of the block's first pixel on the map's grid.
        weights : numpy.ndarray
            (y, x) float, hectares of each pixel; 0 outside the region.
        predicted : numpy.ndarray
            (y, x) float, Mg/ha; a pixel without a prediction adds nothing.
        shares : numpy.ndarray, optional
            (y, x) share of each pixel in the region, which its weight already has; by
            default 1. Parts of a pixel differ from the whole: where a part is the
            share f, its error has the variance s^2 / f, as if parts of equal size were
            independent, which is the most that they can differ.
        """
        used = np.isfinite(predicted) & (weights != 0)
        if not used.any():
            return
        level = np.where(used, predicted, 0.0).astype(np.float64)
        area = np.where(used, weights, 0.0).astype(np.float64)
        if self.model.usual is not None:
            low, high = self.model.usual
            self.unusual += float(area[used & ((level < low) | (level > high))].sum())
        self._by_class += area[used] @ self.model.shares(level[used])
        amounts = area * self.model.sd(level)
        self._cells.add(row, column, amounts)
        if shares is not None:
            part = used & (shares < 1)
            self._parts += float((amounts[part] ** 2 * (1 / shares[part] - 1)).sum())

    def bias(self) -> float:
        """Return the expected sum, Mg, to subtract from the map's total."""
        return float(self._by_class @ np.asarray(self.model.biases))

    def bias_variance(self) -> float:
        """Return the part of the variance that is due to the estimated biases, Mg^2."""
        covariance = np.asarray(self.model.bias_covariance)
        return float(self._by_class @ covariance @ self._by_class)

    def variance(self) -> float:
        """Return the variance of the sum of weights times errors, Mg^2.

        That of the variogram is multiplied by the inflation and, where errors may
        reach further than it shows, by 4.
        """
        pairs = self._cells.double_sum(self.model.covariance)
        own = self.model.variogram.nugget * self._cells.squares
        factor = self.model.inflation * widening(self.model) ** 2
        return factor * (own + pairs + self._parts) + self.bias_variance()

    def half_width(self, confidence: float = 0.95) -> float:
        """Return half the width of the confidence interval of the sum, Mg.

        It is by Student's t with the degrees of freedom of Satterthwaite (1946): the
        part of the biases has the number of units minus one, the rest ``freedom``.

        Raises
        ------
        ValueError
            If the confidence is not between 0 and 1.
        """
        if not 0 < confidence < 1:
            raise ValueError(
                f"confidence must be between 0 and 1, such as 0.95, got {confidence}."
            )
        from scipy.stats import t

        whole, part = self.variance(), self.bias_variance()
        share = part / whole if part > 0 else 0.0
        lost = share**2 / (self.model.units - 1)
        if self.model.freedom is not None:
            lost += (1 - share) ** 2 / self.model.freedom
        freedom = 1 / lost if lost > 0 else np.inf
        return float(t.ppf((1 + confidence) / 2, freedom) * np.sqrt(whole))
