"""Measures of error: each a function of arrays and a class that sums over batches.

Function and class share one pair of an update, which condenses arrays to a few
float64 numbers, and a compute, which turns these into the measure. A target that
is NaN is not counted; where none counts the measure is NaN.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor
from torchmetrics import Metric

__all__ = [
    "R2",
    "AverageRMSE",
    "Bias",
    "MeanAbsoluteError",
    "PixelRMSE",
    "WeightedR2",
    "average_rmse",
    "bias",
    "mean_absolute_error",
    "pixel_rmse",
    "r2",
    "weighted_r2",
]

Array = Tensor | ArrayLike


def average_rmse(prediction: Array, target: Array) -> float:
    """Root mean squared error of each chip, averaged over the chips.

    The measure of the BioMassters challenge. Chips without a valid pixel are left
    out.

    Parameters
    ----------
    prediction, target
        (batch, ...) of the same shape, Mg/ha; NaN target where unlabelled.
    """
    return float(_ratio(_chip_roots(*_align(prediction, target))))


def pixel_rmse(prediction: Array, target: Array) -> float:
    """Root of the mean squared error over all valid pixels together.

    Never lower than `average_rmse` where all chips have equally many valid pixels.

    Parameters
    ----------
    prediction, target
        The same shape, any; NaN target where unlabelled.
    """
    return float(_ratio(_squares(*_align(prediction, target))).sqrt())


def mean_absolute_error(prediction: Array, target: Array) -> float:
    """Mean size of the error over all valid pixels.

    Parameters
    ----------
    prediction, target
        The same shape, any; NaN target where unlabelled.
    """
    return float(_ratio(_sizes(*_align(prediction, target))))


def bias(prediction: Array, target: Array) -> float:
    """Mean of prediction minus target over all valid pixels.

    Parameters
    ----------
    prediction, target
        The same shape, any; NaN target where unlabelled.
    """
    return float(_ratio(_differences(*_align(prediction, target))))


def r2(prediction: Array, target: Array) -> float:
    """Share of the targets' variance that the predictions explain.

    1 - sum (y - f)^2 / sum (y - mean(y))^2 over all valid pixels; NaN where all
    targets are equal.

    Parameters
    ----------
    prediction, target
        The same shape, any; NaN target where unlabelled.
    """
    return float(_pooled_r2(_moments(*_flat(*_align(prediction, target))), _ONE))


def weighted_r2(
    prediction: Array,
    target: Array,
    weights: Array,
    pooled: bool = True,
) -> float:
    """R2 over several targets that count differently.

    Parameters
    ----------
    prediction, target
        (batch, targets) of the same shape; NaN target where unknown.
    weights
        (targets,), the weight of each column.
    pooled
        True: 1 - sum w (y - f)^2 / sum w (y - m)^2 over all pairs together, with
        m = sum w y / sum w, the measure of the CSIRO pasture challenge. False: the
        weighted mean of the columns' own R2, another number; columns whose
        targets are all equal or all unknown are left out.

    Raises
    ------
    ValueError
        The shapes differ, or the weights do not match the columns.
    """
    share = _column_weights(weights)
    moments = _moments(*_columns(*_align(prediction, target), len(share)))
    return float((_pooled_r2 if pooled else _mean_r2)(moments, share))


class _Ratio(Metric):
    """A sum over valid pixels or chips and how many there are.

    Parameters
    ----------
    outputs
        How many of a prediction's outputs, the first ones, are compared with the
        target, where a network gives more; by default all.
    """

    is_differentiable = False
    higher_is_better: bool | None = False
    full_state_update = False
    sums: Tensor

    def __init__(self, outputs: int | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.outputs = outputs
        self.add_state("sums", torch.zeros(2, dtype=torch.float64), "sum")

    def _pair(self, prediction: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        if self.outputs is not None:
            prediction = prediction[:, : self.outputs]
        return _align(prediction, target)

    def compute(self) -> Tensor:
        """Give the measure over all updates, a float64 scalar."""
        return _ratio(self.sums)


class AverageRMSE(_Ratio):
    """`average_rmse` over many batches."""

    def update(self, prediction: Tensor, target: Tensor) -> None:
        """Count (batch, ...) predictions and targets."""
        self.sums += _chip_roots(*self._pair(prediction, target))


class PixelRMSE(_Ratio):
    """`pixel_rmse` over many batches."""

    def update(self, prediction: Tensor, target: Tensor) -> None:
        """Count predictions and targets of the same shape."""
        self.sums += _squares(*self._pair(prediction, target))

    def compute(self) -> Tensor:
        """Give the measure over all updates, a float64 scalar."""
        return _ratio(self.sums).sqrt()


class MeanAbsoluteError(_Ratio):
    """`mean_absolute_error` over many batches."""

    def update(self, prediction: Tensor, target: Tensor) -> None:
        """Count predictions and targets of the same shape."""
        self.sums += _sizes(*self._pair(prediction, target))


class Bias(_Ratio):
    """`bias` over many batches."""

    higher_is_better = None

    def update(self, prediction: Tensor, target: Tensor) -> None:
        """Count predictions and targets of the same shape."""
        self.sums += _differences(*self._pair(prediction, target))


class R2(Metric):
    """`r2` over many batches."""

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    moments: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("moments", torch.zeros(1, 4, dtype=torch.float64), _merge)

    def update(self, prediction: Tensor, target: Tensor) -> None:
        """Count predictions and targets of the same shape."""
        new = _moments(*_flat(*_align(prediction, target)))
        self.moments = _merge(torch.stack([self.moments, new]))

    def compute(self) -> Tensor:
        """Give the measure over all updates, a float64 scalar."""
        return _pooled_r2(self.moments, _ONE.to(self.moments.device))


class WeightedR2(Metric):
    """`weighted_r2` over many batches.

    Parameters
    ----------
    weights
        (targets,), the weight of each column.
    pooled
        As in `weighted_r2`.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    moments: Tensor

    def __init__(
        self, weights: Sequence[float] | Tensor, pooled: bool = True, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.weights = _column_weights(weights)
        self.pooled = pooled
        empty = torch.zeros(len(self.weights), 4, dtype=torch.float64)
        self.add_state("moments", empty, _merge)

    def update(self, prediction: Tensor, target: Tensor) -> None:
        """Count (batch, targets) predictions and targets."""
        pairs = _columns(*_align(prediction, target), len(self.weights))
        self.moments = _merge(torch.stack([self.moments, _moments(*pairs)]))

    def compute(self) -> Tensor:
        """Give the measure over all updates, a float64 scalar."""
        share = self.weights.to(self.moments.device)
        return (_pooled_r2 if self.pooled else _mean_r2)(self.moments, share)


_ONE = torch.ones(1, dtype=torch.float64)


def _align(prediction: Array, target: Array) -> tuple[Tensor, Tensor]:
    """Both as float64 tensors of one shape."""
    pair = _double(prediction), _double(target)
    if pair[0].shape != pair[1].shape:
        raise ValueError(
            "prediction and target of a metric must have the same shape, got "
            f"prediction {tuple(pair[0].shape)} and target {tuple(pair[1].shape)}"
        )
    return pair


def _double(values: Array) -> Tensor:
    if isinstance(values, Tensor):
        return values.detach().double()
    return torch.from_numpy(np.array(values, dtype=np.float64))


def _flat(prediction: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    return prediction.reshape(-1, 1), target.reshape(-1, 1)


def _columns(prediction: Tensor, target: Tensor, count: int) -> tuple[Tensor, Tensor]:
    if prediction.ndim != 2 or prediction.shape[1] != count:
        raise ValueError(
            "weights must hold one number for each column of (batch, targets), got "
            f"{count} for {tuple(prediction.shape)}"
        )
    return prediction, target


def _column_weights(weights: Array) -> Tensor:
    share = _double(weights)
    if share.ndim != 1 or not bool((share >= 0).all()) or not bool(share.sum() > 0):
        raise ValueError(
            "weights must be a row of numbers of 0 or more, not all 0, got "
            f"{share.tolist()}"
        )
    return share


def _errors(prediction: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Errors, zero where the target is NaN, and where it is not."""
    valid = ~target.isnan()
    return torch.where(valid, prediction - target, 0.0), valid


def _chip_roots(prediction: Tensor, target: Tensor) -> Tensor:
    error, valid = _errors(prediction, target)
    pixels = valid.flatten(1).sum(1)
    mean = error.square().flatten(1).sum(1) / pixels.clamp(min=1)
    return torch.stack([mean.sqrt().sum(), (pixels > 0).sum().double()])


def _squares(prediction: Tensor, target: Tensor) -> Tensor:
    error, valid = _errors(prediction, target)
    return torch.stack([error.square().sum(), valid.sum().double()])


def _sizes(prediction: Tensor, target: Tensor) -> Tensor:
    error, valid = _errors(prediction, target)
    return torch.stack([error.abs().sum(), valid.sum().double()])


def _differences(prediction: Tensor, target: Tensor) -> Tensor:
    error, valid = _errors(prediction, target)
    return torch.stack([error.sum(), valid.sum().double()])


def _ratio(sums: Tensor) -> Tensor:
    return sums[0] / sums[1]  # 0 / 0 is NaN, as promised


def _moments(prediction: Tensor, target: Tensor) -> Tensor:
    """(columns, 4): count, mean and spread of the targets, sum of squared errors."""
    error, valid = _errors(prediction, target)
    count = valid.sum(0).double()
    mean = torch.where(valid, target, 0.0).sum(0) / count.clamp(min=1)
    spread = torch.where(valid, target - mean, 0.0).square().sum(0)
    return torch.stack([count, mean, spread, error.square().sum(0)], dim=1)


def _merge(parts: Tensor) -> Tensor:
    """Moments of the union of (parts, columns, 4).

    Sums of squares about the mean, not about zero, so that nothing cancels (Chan,
    Golub and LeVeque, Updating formulae for computing sample variances, 1979).
    """
    counts, means, spreads, errors = parts.unbind(-1)
    count = counts.sum(0)
    mean = (counts * means).sum(0) / count.clamp(min=1)
    between = (counts * (means - mean).square()).sum(0)
    return torch.stack([count, mean, spreads.sum(0) + between, errors.sum(0)], dim=-1)


def _pooled_r2(moments: Tensor, weights: Tensor) -> Tensor:
    count, mean, spread, error = moments.unbind(-1)
    mass = weights * count
    total = mass.sum()
    centre = (mass * mean).sum() / total
    about = (weights * spread).sum() + (mass * (mean - centre).square()).sum()
    return _explained((weights * error).sum(), about, total, centre)


def _mean_r2(moments: Tensor, weights: Tensor) -> Tensor:
    count, mean, spread, error = moments.unbind(-1)
    scores = _explained(error, spread, count, mean)
    known = ~scores.isnan()
    share = weights * known
    return torch.where(known, scores * weights, 0.0).sum() / share.sum()


def _explained(error: Tensor, spread: Tensor, mass: Tensor, mean: Tensor) -> Tensor:
    # Equal targets have a spread of rounding errors only, some units in the last
    # place of their mean.
    rounding = mass * (16 * torch.finfo(torch.float64).eps * mean).square()
    return torch.where(spread > rounding, 1 - error / spread, torch.nan)
