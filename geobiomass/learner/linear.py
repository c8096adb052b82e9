"""Ridge regression on standardised features, as tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

Table = npt.NDArray[np.float32]
Numbers = npt.NDArray[np.float64]
Folds = npt.NDArray[np.int64]

_PENALTIES = np.logspace(-1, 6, 22)
_MOST_ROWS = 20_000  # of more labels a line needs no more


class Linear(nn.Module):
    """A linear function of standardised features, within the range of training.

    A missing feature counts as its mean, and one beyond the training data as the
    nearest value there, so that the result does not run away.

    Parameters
    ----------
    features : int
        Their number.
    """

    shift: Tensor
    scale: Tensor
    lowest: Tensor
    highest: Tensor
    slope: Tensor
    intercept: Tensor
    range: Tensor

    def __init__(self, features: int) -> None:
        super().__init__()
        double = torch.float64
        for name in ("shift", "lowest", "highest", "slope"):
            self.register_buffer(name, torch.zeros(features, dtype=double))
        self.register_buffer("scale", torch.ones(features, dtype=double))
        self.register_buffer("intercept", torch.zeros((), dtype=double))
        self.register_buffer("range", torch.zeros(2, dtype=double))

    def standardise(self, features: Tensor) -> Tensor:
        """Return (feature, pixel) float64 within the range of training; 0 if missing."""
        wide = features.double()
        scaled = (wide - self.shift[:, None]) / self.scale[:, None]
        scaled = torch.minimum(
            torch.maximum(scaled, self.lowest[:, None]), self.highest[:, None]
        )
        return scaled.masked_fill(features != features, 0.0)

    def forward(self, features: Tensor) -> Tensor:
        """Return (pixel,) float64 for (feature, pixel) float32, added in one order."""
        scaled = self.standardise(features)
        if torch.compiler.is_exporting():
            total = self.slope @ scaled
        else:
            total = torch.zeros_like(scaled[0])
            for slope, row in zip(self.slope.tolist(), scaled, strict=True):
                if slope:
                    total = total + slope * row
        return torch.minimum(
            torch.maximum(total + self.intercept, self.range[0]), self.range[1]
        )


@dataclass(frozen=True)
class Standardised:
    """Features of a table, standardised; missing ones are 0.

    Parameters
    ----------
    values : numpy.ndarray
        (row, feature) float64.
    shift, scale, lowest, highest : numpy.ndarray
        (feature,): values are (value - shift) / scale, and within the two others.
    """

    values: Numbers
    shift: Numbers
    scale: Numbers
    lowest: Numbers
    highest: Numbers

    @classmethod
    def of(cls, table: Table) -> Standardised:
        """Standardise a table (row, feature), NaN where missing."""
        wide = table.astype(np.float64)
        there = np.isfinite(wide)
        count = np.maximum(there.sum(axis=0), 1)
        filled = np.where(there, wide, 0.0)
        shift = filled.sum(axis=0) / count
        away = np.where(there, wide - shift, 0.0)
        scale = np.sqrt((away**2).sum(axis=0) / count)
        # One value, or none: nothing to learn from it.
        constant = scale <= 1e-9 * np.maximum(1.0, np.abs(shift))
        scale = np.where(constant, 1.0, scale)
        values = np.where(constant, 0.0, away / scale)
        return cls(values, shift, scale, values.min(axis=0), values.max(axis=0))


def fit_linear(
    table: Table, target: Numbers, weights: Numbers, folds: Folds
) -> tuple[Linear, Numbers]:
    """Fit a ridge regression, its penalty chosen by predictions out of fold.

    Parameters
    ----------
    table : numpy.ndarray
        (row, feature) float32, NaN where missing.
    target, weights : numpy.ndarray
        (row,) float64.
    folds : numpy.ndarray
        (row,) number of the fold of each row.

    Returns
    -------
    tuple
        The function, and its predictions (row,) out of fold.
    """
    known = Standardised.of(table)
    step = -(-len(target) // _MOST_ROWS)
    predicted = np.zeros((len(_PENALTIES), len(target)))
    for fold in np.unique(folds):
        held = folds == fold
        rows = np.flatnonzero(~held)[::step]
        slopes, intercepts = _ridge(
            known.values[rows], target[rows], weights[rows], _PENALTIES
        )
        predicted[:, held] = slopes @ known.values[held].T + intercepts[:, None]
    low, high = float(target.min()), float(target.max())
    predicted = predicted.clip(low, high)
    errors = ((predicted - target) ** 2 * weights).sum(axis=1)
    best = int(np.argmin(errors))
    rows = np.arange(len(target))[::step]
    slopes, intercepts = _ridge(
        known.values[rows], target[rows], weights[rows], _PENALTIES[best : best + 1]
    )
    found = Linear(table.shape[1])
    for name, values in (
        *((name, getattr(known, name)) for name in ("shift", "scale")),
        *((name, getattr(known, name)) for name in ("lowest", "highest")),
        ("slope", slopes[0]),
        ("intercept", intercepts[0]),
        ("range", np.array([low, high])),
    ):
        getattr(found, name).copy_(torch.from_numpy(np.asarray(values)))
    return found, predicted[best]


def _ridge(
    values: Numbers, target: Numbers, weights: Numbers, penalties: Sequence[float]
) -> tuple[Numbers, Numbers]:
    """Return slopes (penalty, feature) and intercepts (penalty,)."""
    share = weights / weights.sum()
    middle, mean = share @ values, float(share @ target)
    root = np.sqrt(weights / weights.mean())[:, None]
    centred, away = (values - middle) * root, (target - mean) * root[:, 0]
    if len(values) <= values.shape[1]:
        left, sizes, right = np.linalg.svd(centred, full_matrices=False)
        projected = left.T @ away
        shrunk = [sizes / (sizes**2 + penalty) * projected for penalty in penalties]
    else:
        squares, axes = np.linalg.eigh(centred.T @ centred)
        right = axes.T
        projected = right @ (centred.T @ away)
        shrunk = [projected / (squares.clip(min=0) + penalty) for penalty in penalties]
    slopes = np.array(shrunk) @ right
    return slopes, mean - slopes @ middle
