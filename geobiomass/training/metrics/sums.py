"""Sums of errors, of which the metrics are computed: float64, NaN targets left out."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

Array = Tensor | ArrayLike

# The weights of a metric of one column.
ONE_COLUMN = torch.ones(1, dtype=torch.float64)


def aligned_pair(prediction: Array, target: Array) -> tuple[Tensor, Tensor]:
    """Return both as float64 tensors, which must have the same shape."""
    pair = as_float64(prediction), as_float64(target)
    if pair[0].shape != pair[1].shape:
        raise ValueError(
            "prediction and target of a metric must have the same shape, got "
            f"prediction {tuple(pair[0].shape)} and target {tuple(pair[1].shape)}"
        )
    return pair


def as_float64(values: Array) -> Tensor:
    """Return values as a float64 tensor without gradient."""
    if isinstance(values, Tensor):
        return values.detach().double()
    return torch.from_numpy(np.array(values, dtype=np.float64))


def as_one_column(prediction: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Return both as one column, (values, 1)."""
    return prediction.reshape(-1, 1), target.reshape(-1, 1)


def as_columns(prediction: Tensor, target: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Check that there is one column for each of `count` weights; return both."""
    if prediction.ndim != 2 or prediction.shape[1] != count:
        raise ValueError(
            "weights must hold one number for each column of (batch, targets), got "
            f"{count} for {tuple(prediction.shape)}"
        )
    return prediction, target


def column_weights(weights: Array) -> Tensor:
    """Return the weights of the columns as float64, not negative and not all zero."""
    share = as_float64(weights)
    if share.ndim != 1 or not bool((share >= 0).all()) or not bool(share.sum() > 0):
        raise ValueError(
            "weights must be a row of numbers of 0 or more, not all 0, got "
            f"{share.tolist()}"
        )
    return share


def _errors(prediction: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Return the errors, zero where the target is NaN, and a mask where it is not."""
    valid = ~target.isnan()
    return torch.where(valid, prediction - target, 0.0), valid


def chip_roots(prediction: Tensor, target: Tensor) -> Tensor:
    """Return the sum of the chips' RMSE, and the number of chips with valid pixels."""
    error, valid = _errors(prediction, target)
    pixels = valid.flatten(1).sum(1)
    mean = error.square().flatten(1).sum(1) / pixels.clamp(min=1)
    return torch.stack([mean.sqrt().sum(), (pixels > 0).sum().double()])


def squared_errors(prediction: Tensor, target: Tensor) -> Tensor:
    """Return the sum of squared errors, and the number of valid values."""
    error, valid = _errors(prediction, target)
    return torch.stack([error.square().sum(), valid.sum().double()])


def absolute_errors(prediction: Tensor, target: Tensor) -> Tensor:
    """Return the sum of absolute errors, and the number of valid values."""
    error, valid = _errors(prediction, target)
    return torch.stack([error.abs().sum(), valid.sum().double()])


def signed_errors(prediction: Tensor, target: Tensor) -> Tensor:
    """Return the sum of errors, and the number of valid values."""
    error, valid = _errors(prediction, target)
    return torch.stack([error.sum(), valid.sum().double()])


def ratio(sums: Tensor) -> Tensor:
    """Return the mean of a sum and its count."""
    return sums[0] / sums[1]  # NaN where nothing was counted


def moments_of(prediction: Tensor, target: Tensor) -> Tensor:
    """Return (columns, 4): count, mean and spread of targets, sum of squared errors."""
    error, valid = _errors(prediction, target)
    count = valid.sum(0).double()
    mean = torch.where(valid, target, 0.0).sum(0) / count.clamp(min=1)
    spread = torch.where(valid, target - mean, 0.0).square().sum(0)
    return torch.stack([count, mean, spread, error.square().sum(0)], dim=1)


def merge_moments(parts: Tensor) -> Tensor:
    """Return the moments of the union of (parts, columns, 4).

    Sums of squares are about the mean, not about zero, so that no digits cancel (Chan,
    Golub and LeVeque, Updating formulae for computing sample variances, 1979).
    """
    counts, means, spreads, errors = parts.unbind(-1)
    count = counts.sum(0)
    mean = (counts * means).sum(0) / count.clamp(min=1)
    between = (counts * (means - mean).square()).sum(0)
    return torch.stack([count, mean, spreads.sum(0) + between, errors.sum(0)], dim=-1)


def pooled_r2(moments: Tensor, weights: Tensor) -> Tensor:
    """Return the R2 of all columns together."""
    count, mean, spread, error = moments.unbind(-1)
    mass = weights * count
    total = mass.sum()
    centre = (mass * mean).sum() / total
    about = (weights * spread).sum() + (mass * (mean - centre).square()).sum()
    return _explained((weights * error).sum(), about, total, centre)


def mean_r2(moments: Tensor, weights: Tensor) -> Tensor:
    """Return the weighted mean of the columns' own R2."""
    count, mean, spread, error = moments.unbind(-1)
    scores = _explained(error, spread, count, mean)
    known = ~scores.isnan()
    share = weights * known
    return torch.where(known, scores * weights, 0.0).sum() / share.sum()


def _explained(error: Tensor, spread: Tensor, mass: Tensor, mean: Tensor) -> Tensor:
    # Equal targets have a spread of rounding errors only: some units in the last digit
    # of their mean.
    rounding = mass * (16 * torch.finfo(torch.float64).eps * mean).square()
    return torch.where(spread > rounding, 1 - error / spread, torch.nan)
