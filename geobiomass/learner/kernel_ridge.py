"""Kernel ridge regression on standardised features, as tensors."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

Table = npt.NDArray[np.float32]
Numbers = npt.NDArray[np.float64]
Folds = npt.NDArray[np.int64]

_WIDTHS = (0.5, 1.0, 2.0, 4.0)  # of the kernel, in median squared distances
_PENALTIES = np.logspace(-3, 2, 16)
_SQUARINGS = 6
_BEYOND = 1.0  # standard deviations past the training data that a feature counts
_FARTHEST = 100.0  # standard deviations: sums of squares are then exact
_STEP = 2.0**12  # steps of a standard deviation that features are rounded to
_AT_ONCE = 2048  # pixels: a few MB in the cache


class KernelRidge(nn.Module):
    """A weighted sum over training rows of how similar their features are to a pixel's.

    A missing feature counts as its median, and one far beyond the training data as a
    value one standard deviation beyond it, so that the result does not run away.
    Features are rounded to 1/4096 of a standard deviation: products and sums of whole
    numbers are exact, and so the same in every order, with any number of pixels and
    threads.

    Parameters
    ----------
    features : int
        Their number.
    rows : int
        Training rows. Without any, features can only be standardised.
    """

    shift: Tensor
    scale: Tensor
    lowest: Tensor
    highest: Tensor
    filler: Tensor
    rows: Tensor
    alpha: Tensor
    width: Tensor
    intercept: Tensor

    def __init__(self, features: int, rows: int = 0) -> None:
        super().__init__()
        double = torch.float64
        for name in ("shift", "lowest", "highest", "filler"):
            self.register_buffer(name, torch.zeros(features, dtype=double))
        self.register_buffer("scale", torch.ones(features, dtype=double))
        self.register_buffer("rows", torch.zeros(rows, features, dtype=double))
        self.register_buffer("alpha", torch.zeros(rows, dtype=double))
        self.register_buffer("width", torch.ones((), dtype=double))
        self.register_buffer("intercept", torch.zeros((), dtype=double))

    def standardise(self, features: Tensor) -> Tensor:
        """Return (feature, pixel) float64, about in the range of training."""
        scaled = (features.double() - self.shift[:, None]) / self.scale[:, None]
        scaled = torch.minimum(
            torch.maximum(scaled, self.lowest[:, None]), self.highest[:, None]
        )
        return torch.where(features == features, scaled, self.filler[:, None])

    def forward(self, features: Tensor) -> Tensor:
        """Return (pixel,) float64 for (feature, pixel) float32."""
        squares = (self.rows * self.rows).sum(dim=1)
        if torch.compiler.is_exporting():
            return self._sums(features, squares)
        parts = torch.split(features, _AT_ONCE, dim=1)
        return torch.cat([self._sums(part, squares) for part in parts])

    def _sums(self, features: Tensor, squares: Tensor) -> Tensor:
        steps = (self.standardise(features) * _STEP).round()
        apart = squares[:, None] + (steps * steps).sum(dim=0)
        apart = apart - 2 * (self.rows @ steps)
        terms = self.alpha[:, None] / farness(apart, self.width)
        while len(terms) > 1:  # halves are added, always in one order
            half = len(terms) // 2
            terms = torch.cat(
                [terms[:half] + terms[half : 2 * half], terms[2 * half :]]
            )
        return terms[0] + self.intercept


def farness(apart: Tensor, width: Tensor) -> Tensor:
    """Return one over the kernel of squared distances: about exp(apart / width).

    The kernel is the rational quadratic one with an exponent of 64 (Rasmussen and
    Williams 2006, section 4.2): the Gaussian, but of sums and products only, which all
    machines round alike.
    """
    found: Tensor = apart / (2**_SQUARINGS * width) + 1
    for _ in range(_SQUARINGS):
        found = found * found
    return found


@dataclass(frozen=True)
class Standardised:
    """Features of a table, standardised; missing ones are the median.

    Parameters
    ----------
    values : numpy.ndarray
        (row, feature) float64.
    shift, scale, lowest, highest, filler : numpy.ndarray
        (feature,): values are (value - shift) / scale and within the next two; the
        last is taken for a missing one.
    """

    values: Numbers
    shift: Numbers
    scale: Numbers
    lowest: Numbers
    highest: Numbers
    filler: Numbers

    @classmethod
    def of(cls, table: Table) -> Standardised:
        """Standardise a table (row, feature), NaN where missing."""
        wide = table.astype(np.float64)
        there = np.isfinite(wide)
        some = there.any(axis=0)
        median = np.zeros(wide.shape[1])
        median[some] = np.nanmedian(np.where(there, wide, np.nan)[:, some], axis=0)
        filled = np.where(there, wide, median)
        shift = filled.mean(axis=0)
        scale = filled.std(axis=0)
        # One value, or none: nothing to learn from it.
        constant = scale <= 1e-9 * np.maximum(1.0, np.abs(shift))
        scale = np.where(constant, 1.0, scale)
        values = np.where(constant, 0.0, (filled - shift) / scale)
        values = values.clip(-_FARTHEST, _FARTHEST)
        margin = np.where(constant, 0.0, _BEYOND)
        filler = np.where(constant, 0.0, (median - shift) / scale)
        lowest = (values.min(axis=0) - margin).clip(-_FARTHEST)
        highest = (values.max(axis=0) + margin).clip(max=_FARTHEST)
        return cls(values, shift, scale, lowest, highest, filler)

    def give_to(self, network: KernelRidge) -> None:
        """Set what features are standardised by."""
        for name in ("shift", "scale", "lowest", "highest", "filler"):
            getattr(network, name).copy_(torch.from_numpy(getattr(self, name)))


def fit_kernel_ridge(
    table: Table,
    target: Numbers,
    weights: Numbers,
    folds: Folds,
    asked: Table | None = None,
) -> tuple[KernelRidge, Numbers]:
    """Fit a kernel ridge regression; folds choose its width and its penalty.

    The predictions out of fold are those of fits without the fold's labels, in closed
    form (Rifkin and Lippert 2007). Width and penalty of a fold are what suits the
    other folds best.

    Parameters
    ----------
    table : numpy.ndarray
        (row, feature) float32, NaN where missing.
    target, weights : numpy.ndarray
        (row,) float64.
    folds : numpy.ndarray
        (row,) number of the fold of each row.
    asked : numpy.ndarray, optional
        (row, feature) float32: predict these out of fold, and not the table's rows.

    Returns
    -------
    tuple
        The function, and its predictions (row,) out of fold.
    """
    known = Standardised.of(table)
    rows = np.round(known.values * _STEP)
    squares = (rows**2).sum(axis=1)
    apart = squares[:, None] + squares - 2 * (rows @ rows.T)
    middle = float(np.median(apart)) or _STEP**2
    root = np.sqrt(weights / weights.mean())
    held = [np.flatnonzero(folds == fold) for fold in np.unique(folds)]
    means = [_mean_without(target, weights, own) for own in held]
    predicted = np.zeros((len(_WIDTHS) * len(_PENALTIES), len(target)))
    kept = []
    for number, width in enumerate(_WIDTHS):
        sizes, axes = np.linalg.eigh(
            _kernel(apart, middle * width) * np.outer(root, root)
        )
        kept.append((sizes.clip(min=0), axes))
        sides = [axes.T @ (root * (target - mean)) for mean in means]
        for place, penalty in enumerate(_PENALTIES, number * len(_PENALTIES)):
            inverse = 1 / (kept[-1][0] + penalty)
            for own, side in zip(held, sides, strict=True):
                part = axes[own] * inverse
                off = np.linalg.solve(part @ axes[own].T, part @ side)
                predicted[place, own] = target[own] - off / root[own]
    errors = (predicted - target) ** 2 * weights
    by_fold = np.stack([errors[:, own].sum(axis=1) for own in held])
    held_out = np.zeros(len(target))
    found = KernelRidge(table.shape[1], len(rows))
    known.give_to(found)
    found.rows.copy_(torch.from_numpy(rows))
    for own, error, mean in zip(held, by_fold, means, strict=True):
        best = int(np.argmin(by_fold.sum(axis=0) - error))
        if asked is None:
            held_out[own] = predicted[best, own]
            continue
        number, place = divmod(best, len(_PENALTIES))
        alpha = root * _without(
            own, *kept[number], _PENALTIES[place], root * (target - mean)
        )
        _set(found, alpha, middle * _WIDTHS[number], mean)
        some = torch.from_numpy(np.ascontiguousarray(asked[own].T))
        held_out[own] = found(some).numpy()
    number, place = divmod(int(np.argmin(by_fold.sum(axis=0))), len(_PENALTIES))
    sizes, axes = kept[number]
    mean = float(np.average(target, weights=weights))
    side = axes.T @ (root * (target - mean))
    alpha = root * (axes @ (side / (sizes + _PENALTIES[place])))
    _set(found, alpha, middle * _WIDTHS[number], mean)
    return found, held_out


def _set(network: KernelRidge, alpha: Numbers, width: float, mean: float) -> None:
    network.alpha.copy_(torch.from_numpy(alpha))
    network.width.fill_(width)
    network.intercept.fill_(mean)


def _without(
    left_out: npt.NDArray[np.int64],
    sizes: Numbers,
    axes: Numbers,
    penalty: float,
    side: Numbers,
) -> Numbers:
    """Return the solution of all rows but some, with 0 at these, in closed form.

    Of the block inverse: with the inverse G of all rows it is G s - G_o (G_oo)^-1 (G
    s)_o for the rows o that are left out.
    """
    inverse = axes / (sizes + penalty)
    whole = inverse @ (axes.T @ side)
    part = inverse @ axes[left_out].T
    found: Numbers = whole - part @ np.linalg.solve(part[left_out], whole[left_out])
    found[left_out] = 0.0
    return found


def _kernel(apart: Numbers, width: float) -> Numbers:
    wide = torch.tensor(width, dtype=torch.float64)
    found: Numbers = (1 / farness(torch.from_numpy(apart), wide)).numpy()
    return found


def _mean_without(target: Numbers, weights: Numbers, left_out: Folds) -> float:
    rest = np.ones(len(target), bool)
    rest[left_out] = False
    return float(np.average(target[rest], weights=weights[rest]))
