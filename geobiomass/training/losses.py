"""Regression losses over the valid pixels.

A pixel is valid if its target is finite. If a ceiling is given, a target at or above it
is left out (``tail="drop"``) or censored (``tail="clip"``): the error of a prediction
below the ceiling is its distance to the ceiling, that of a prediction above it is zero.
Values of invalid pixels affect neither the loss nor a gradient. All losses are computed
in float32, for inputs of any type.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias

import torch
from torch import Tensor

__all__ = [
    "Tail",
    "beta_nll_loss",
    "chip_huber_loss",
    "chip_rmse_loss",
    "masked_huber_loss",
    "masked_mse_loss",
    "pinball_loss",
    "r2_loss",
]

Tail: TypeAlias = Literal["drop", "clip"]


def chip_rmse_loss(
    prediction: Tensor,
    target: Tensor,
    ceiling: float | None = 400.0,
    tail: Tail = "drop",
    weights: Tensor | None = None,
) -> Tensor:
    """Return the root mean squared error of each chip, averaged over the chips.

    The loss of the winner of the BioMassters challenge, and its score. In its data 0.1
    to 0.3 % of the pixels reach 400 Mg/ha.

    Parameters
    ----------
    prediction
        (batch, outputs, y, x) float, Mg/ha.
    target
        (batch, outputs, y, x) float, Mg/ha, NaN where unlabelled.
    ceiling
        `tail` names the treatment of targets at or above it; None keeps all
        unchanged.
    tail
        ``"drop"`` leaves them out, as the winner did, which lowers the score and makes
        predictions of the tallest forest too low. ``"clip"`` is a censored loss: their
        prediction must be at least the ceiling, so that an outlier counts no more than
        the ceiling.
    weights
        Weight of each pixel, of the target's shape; None weighs all equally.

    Returns
    -------
    Tensor
        A float32 scalar, the mean over the chips with a valid pixel; zero, with zero
        gradients, if there is none. A chip without any error has zero gradients too,
        although the derivative of the square root at zero is infinite.

    Raises
    ------
    ValueError
        If the shapes differ, or `tail` is neither.
    """
    error, valid = masked_error(prediction, target, ceiling, tail)
    return _mean_of_roots(_weighed(error.square(), valid, weights), valid)


def chip_huber_loss(
    prediction: Tensor,
    target: Tensor,
    delta: float = 100.0,
    ceiling: float | None = None,
    tail: Tail = "drop",
    weights: Tensor | None = None,
) -> Tensor:
    """Return the root of each chip's mean Huber loss, averaged over the chips.

    It equals `chip_rmse_loss` if no error exceeds `delta`. Larger errors count
    ``delta * (2 * |error| - delta)`` instead of their square (twice Huber's loss), so
    that no outlier dominates a chip, and none has to be left out.

    Parameters
    ----------
    prediction
        (batch, outputs, y, x) float, Mg/ha.
    target
        (batch, outputs, y, x) float, Mg/ha, NaN where unlabelled.
    delta
        The largest error that is squared, Mg/ha. A small `delta` moves predictions from
        the mean to the median, which is too low where biomass is skewed; 100 is more
        than three times the error of the best maps of BioMassters.
    ceiling, tail
        As in `chip_rmse_loss`; None keeps all.
    weights
        Weight of each pixel, of the target's shape; None weighs all equally.

    Returns
    -------
    Tensor
        A float32 scalar, with finite gradients as in `chip_rmse_loss`.

    Raises
    ------
    ValueError
        If the shapes differ, `delta` is not positive, or `tail` is neither.
    """
    error, valid = masked_error(prediction, target, ceiling, tail)
    return _mean_of_roots(_weighed(2 * _huber(error, delta), valid, weights), valid)


def _weighed(values: Tensor, valid: Tensor, weights: Tensor | None) -> Tensor:
    """Return values times weights; weights of invalid pixels have no effect.

    A mean is still over the number of pixels: where all weights of a chip are small,
    it counts less than others.
    """
    if weights is None:
        return values
    return values * torch.where(valid, weights.float(), 0.0)


def _mean_of_roots(values: Tensor, valid: Tensor) -> Tensor:
    """Return the mean over the chips of the root of their mean value."""
    pixels = valid.flatten(1).sum(1)
    mean = values.flatten(1).sum(1) / pixels.clamp(min=1)
    positive = mean > 0
    root = torch.where(positive, mean, 1.0).sqrt()
    per_chip = torch.where(positive, root, mean)
    return per_chip.sum() / (pixels > 0).sum().clamp(min=1)


def _huber(error: Tensor, delta: float) -> Tensor:
    if not delta > 0:
        raise ValueError(f"delta of a Huber loss must be positive, got {delta}")
    size = error.abs()
    near = size.clamp(max=delta)
    return near * (size - near / 2)


def masked_mse_loss(
    prediction: Tensor,
    target: Tensor,
    ceiling: float | None = None,
    tail: Tail = "drop",
    weights: Tensor | None = None,
) -> Tensor:
    """Return the mean squared error over the valid pixels of the whole batch.

    Parameters
    ----------
    prediction, target
        The same shape, any; NaN target where unlabelled.
    ceiling, tail
        Targets at or above the ceiling are left out, or clipped as in
        `chip_rmse_loss`; None keeps all.
    weights
        Weight of each pixel, of the target's shape; None weighs all equally.

    Returns
    -------
    Tensor
        A float32 scalar; zero, with zero gradients, if no pixel is valid.

    Raises
    ------
    ValueError
        If the shapes differ, or `tail` is neither.
    """
    error, valid = masked_error(prediction, target, ceiling, tail)
    squares = _weighed(error.square(), valid, weights)
    return squares.sum() / valid.sum().clamp(min=1)


def masked_huber_loss(
    prediction: Tensor,
    target: Tensor,
    delta: float = 1.0,
    ceiling: float | None = None,
    tail: Tail = "drop",
    weights: Tensor | None = None,
) -> Tensor:
    """Return the mean Huber loss over the valid pixels.

    It is half the squared error up to `delta`, `delta * (|error| - delta / 2)` above
    (P. J. Huber, Robust estimation of a location parameter, 1964).

    Parameters
    ----------
    prediction, target
        The same shape, any; NaN target where unlabelled.
    delta
        The largest error that is squared, in the target's unit.
    ceiling, tail
        Targets at or above the ceiling are left out, or clipped as in
        `chip_rmse_loss`; None keeps all.
    weights
        Weight of each pixel, of the target's shape; None weighs all equally.

    Returns
    -------
    Tensor
        A float32 scalar; zero, with zero gradients, if no pixel is valid.

    Raises
    ------
    ValueError
        If the shapes differ, `delta` is not positive, or `tail` is neither.
    """
    error, valid = masked_error(prediction, target, ceiling, tail)
    values = _weighed(_huber(error, delta), valid, weights)
    return values.sum() / valid.sum().clamp(min=1)


def beta_nll_loss(
    prediction: Tensor,
    spread: Tensor,
    target: Tensor,
    ceiling: float | None = None,
    tail: Tail = "drop",
    weights: Tensor | None = None,
    beta: float = 0.5,
) -> Tensor:
    """Return the beta negative log-likelihood of normal errors, over the valid pixels.

    Each pixel's negative log-likelihood is multiplied by its variance to the power of
    `beta`, as a constant without a gradient. With ``beta=0``, the plain likelihood,
    pixels of large errors hardly teach the mean; with 1 the mean has the gradient of
    the squared error (Seitzer, Tavakoli, Antic and Martius, On the pitfalls of
    heteroscedastic uncertainty estimation with probabilistic neural networks, ICLR
    2022, who recommend 0.5).

    Parameters
    ----------
    prediction
        Any shape.
    spread
        The predicted standard deviation of the target about the prediction, of its
        shape, above zero.
    target
        Of the same shape; NaN where unlabelled.
    ceiling, tail
        Targets at or above the ceiling are left out, or clipped as in
        `chip_rmse_loss`; None keeps all.
    weights
        Weight of each pixel, of the target's shape; None weighs all equally.
    beta
        From 0 to 1.

    Returns
    -------
    Tensor
        A float32 scalar; zero, with zero gradients, if no pixel is valid. It can be
        negative.

    Raises
    ------
    ValueError
        If the shapes differ, `beta` is not from 0 to 1, or `tail` is neither.
    """
    if not 0 <= beta <= 1:
        raise ValueError(f"beta of a likelihood must be from 0 to 1, got {beta}")
    if spread.shape != target.shape:
        raise ValueError(
            "spread and target of a loss must have the same shape, got spread "
            f"{tuple(spread.shape)} and target {tuple(target.shape)}"
        )
    error, valid = masked_error(prediction, target, ceiling, tail)
    # Replaced before any arithmetic, as errors are; a one has no logarithm.
    sd = torch.where(valid, spread.float(), 1.0)
    values = sd.log() + (error / sd).square() / 2
    values = torch.where(valid, values * sd.detach() ** (2 * beta), 0.0)
    return _weighed(values, valid, weights).sum() / valid.sum().clamp(min=1)


def pinball_loss(
    prediction: Tensor,
    target: Tensor,
    quantile: float,
    ceiling: float | None = None,
    tail: Tail = "drop",
    weights: Tensor | None = None,
) -> Tensor:
    """Return the mean pinball loss, which a quantile minimises, over the valid pixels.

    It is ``quantile * (target - prediction)`` where the prediction is too low, ``(1 -
    quantile) * (prediction - target)`` where it is too high (Koenker and Bassett,
    Regression quantiles, Econometrica 46, 1978).

    Parameters
    ----------
    prediction, target
        The same shape, any; NaN target where unlabelled.
    quantile
        The quantile, between 0 and 1: one target in twenty is below the quantile 0.05.
    ceiling, tail
        Targets at or above the ceiling are left out, or clipped as in
        `chip_rmse_loss`; None keeps all.
    weights
        Weight of each pixel, of the target's shape; None weighs all equally.

    Returns
    -------
    Tensor
        A float32 scalar in the target's unit; zero, with zero gradients, if no pixel
        is valid.

    Raises
    ------
    ValueError
        If the shapes differ, `quantile` is not between 0 and 1, or `tail` is neither.
    """
    if not 0 < quantile < 1:
        raise ValueError(
            f"quantile of a pinball loss must be between 0 and 1, got {quantile}"
        )
    error, valid = masked_error(prediction, target, ceiling, tail)
    loss = torch.maximum(-quantile * error, (1 - quantile) * error)
    return _weighed(loss, valid, weights).sum() / valid.sum().clamp(min=1)


def r2_loss(
    prediction: Tensor,
    target: Tensor,
    weights: Tensor | Sequence[float],
    epsilon: float = 1e-6,
) -> Tensor:
    """Return one minus the pooled weighted R2 of the batch.

    It is sum w (y - f)^2 / sum w (y - m)^2 over all samples and targets together, with
    the pooled mean m = sum w y / sum w: the score of the CSIRO pasture challenge
    turned into a loss.

    Parameters
    ----------
    prediction, target
        (batch, targets) float, grams; NaN target where unknown.
    weights
        (targets,), the weight of each column.
    epsilon
        The smallest spread per unit of weight, in squared units of the target. It keeps
        the loss finite if all targets of a batch are equal.

    Returns
    -------
    Tensor
        A float32 scalar; zero is perfect, one is as good as the mean.

    Raises
    ------
    ValueError
        If the shapes differ, or the weights do not match the columns.
    """
    error, valid = masked_error(prediction, target, None)
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


def masked_error(
    prediction: Tensor, target: Tensor, ceiling: float | None, tail: Tail = "drop"
) -> tuple[Tensor, Tensor]:
    """Return prediction minus target, zero and without gradient where invalid."""
    if prediction.shape != target.shape:
        raise ValueError(
            "prediction and target of a loss must have the same shape, got "
            f"prediction {tuple(prediction.shape)} and target {tuple(target.shape)}"
        )
    if tail not in ("drop", "clip"):
        raise ValueError(f"tail of a loss must be 'drop' or 'clip', got {tail!r}")
    target = target.float()
    valid = torch.isfinite(target)
    if ceiling is not None and tail == "drop":
        valid = valid & (target < ceiling)
    # Both are replaced before the subtraction: the derivative of a discarded NaN or
    # overflow would still be NaN (zero times infinity).
    guess = torch.where(valid, prediction.float(), 0.0)
    known = torch.where(valid, target, 0.0)
    if ceiling is not None and tail == "clip":
        high = valid & (known >= ceiling)
        guess = torch.where(high, guess.clamp(max=ceiling), guess)
        known = known.clamp(max=ceiling)
    return guess - known, valid
