"""Regression losses in which an invalid pixel takes no part.

A pixel counts when its target is finite and, where a ceiling is given, below
it. What the prediction or the target holds anywhere else changes neither the
loss nor a gradient. All losses are computed in float32, whatever comes in.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["chip_rmse_loss", "masked_huber_loss", "masked_mse_loss", "r2_loss"]


def chip_rmse_loss(
    prediction: Tensor, target: Tensor, ceiling: float | None = 400.0
) -> Tensor:
    """Root mean squared error of each chip, averaged over the chips.

    The loss of the winner of the BioMassters challenge, which scores the same
    way and in which 0.1 to 0.3 % of the pixels reach 400 Mg/ha.

    Parameters
    ----------
    prediction
        (batch, outputs, y, x) float, Mg/ha.
    target
        (batch, outputs, y, x) float, Mg/ha, NaN where unlabelled.
    ceiling
        Targets at or above it are left out; None keeps all. Leaving them out
        lowers the score and guarantees predictions that are too low on the
        tallest forest.

    Returns
    -------
    Tensor
        A float32 scalar, the mean over the chips with a valid pixel. Zero, with
        zero gradients, where no chip has one. A chip without any error has zero
        gradients as well, though the square root has none there.

    Raises
    ------
    ValueError
        The shapes differ.
    """
    error, valid = _masked_error(prediction, target, ceiling)
    pixels = valid.flatten(1).sum(1)
    squares = error.square().flatten(1).sum(1)
    mean = squares / pixels.clamp(min=1)
    positive = mean > 0
    root = torch.where(positive, mean, 1.0).sqrt()
    per_chip = torch.where(positive, root, mean)
    return per_chip.sum() / (pixels > 0).sum().clamp(min=1)


def masked_mse_loss(
    prediction: Tensor, target: Tensor, ceiling: float | None = None
) -> Tensor:
    """Mean squared error over the valid pixels of the whole batch.

    Parameters
    ----------
    prediction, target
        The same shape, any; NaN target where unlabelled.
    ceiling
        Targets at or above it are left out; None keeps all.

    Returns
    -------
    Tensor
        A float32 scalar; zero, with zero gradients, where nothing is valid.

    Raises
    ------
    ValueError
        The shapes differ.
    """
    error, valid = _masked_error(prediction, target, ceiling)
    return error.square().sum() / valid.sum().clamp(min=1)


def masked_huber_loss(
    prediction: Tensor,
    target: Tensor,
    delta: float = 1.0,
    ceiling: float | None = None,
) -> Tensor:
    """Huber's loss over the valid pixels: squares near zero, lines beyond `delta`.

    Half the squared error up to `delta`, `delta * (|error| - delta / 2)` above
    (P. J. Huber, Robust estimation of a location parameter, 1964).

    Parameters
    ----------
    prediction, target
        The same shape, any; NaN target where unlabelled.
    delta
        Where the squares end, in the target's unit.
    ceiling
        Targets at or above it are left out; None keeps all.

    Returns
    -------
    Tensor
        A float32 scalar; zero, with zero gradients, where nothing is valid.

    Raises
    ------
    ValueError
        The shapes differ, or `delta` is not positive.
    """
    if not delta > 0:
        raise ValueError(f"delta of masked_huber_loss must be positive, got {delta}")
    error, valid = _masked_error(prediction, target, ceiling)
    size = error.abs()
    near = size.clamp(max=delta)
    return (near * (size - near / 2)).sum() / valid.sum().clamp(min=1)


def r2_loss(
    prediction: Tensor,
    target: Tensor,
    weights: Tensor | Sequence[float],
    epsilon: float = 1e-6,
) -> Tensor:
    """One minus the pooled weighted R2 of the batch.

    sum w (y - f)^2 / sum w (y - m)^2 over all samples and targets together, with
    the pooled mean m = sum w y / sum w: the score of the CSIRO pasture challenge
    turned into a loss.

    Parameters
    ----------
    prediction, target
        (batch, targets) float, grams; NaN target where unknown.
    weights
        (targets,), the weight of each column.
    epsilon
        The least spread per unit of weight, in squared units of the target: it
        keeps the loss finite where all targets of a batch are equal.

    Returns
    -------
    Tensor
        A float32 scalar; zero is perfect, one is no better than the mean.

    Raises
    ------
    ValueError
        The shapes differ, or the weights do not match the columns.
    """
    error, valid = _masked_error(prediction, target, None)
    column = torch.as_tensor(weights, dtype=torch.float32, device=error.device)
    if error.ndim != 2 or column.shape != error.shape[1:]:
        raise ValueError(
            "weights of r2_loss must hold one number for each column of targets: got "
            f"weights {tuple(column.shape)} for targets {tuple(target.shape)}"
        )
    weight = column * valid
    known = torch.where(valid, target.float(), 0.0)
    total = weight.sum()
    mean = (weight * known).sum() / total.clamp(min=torch.finfo(torch.float32).tiny)
    spread = (weight * (known - mean).square()).sum()
    floor = (epsilon * total).clamp(min=torch.finfo(torch.float32).tiny)
    return (weight * error.square()).sum() / spread.clamp(min=floor)


def _masked_error(
    prediction: Tensor, target: Tensor, ceiling: float | None
) -> tuple[Tensor, Tensor]:
    """Prediction minus target in float32, zero and without gradient where invalid."""
    if prediction.shape != target.shape:
        raise ValueError(
            "prediction and target of a loss must have the same shape, got "
            f"prediction {tuple(prediction.shape)} and target {tuple(target.shape)}"
        )
    target = target.float()
    valid = torch.isfinite(target)
    if ceiling is not None:
        valid = valid & (target < ceiling)
    # Both sides are replaced before the subtraction: the derivative of a
    # discarded NaN or overflow would still be NaN (zero times infinity).
    error = torch.where(valid, prediction.float(), 0.0) - torch.where(
        valid, target, 0.0
    )
    return error, valid
