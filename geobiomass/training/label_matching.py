"""Labels that lie off by about a pixel: which predictions they are compared with.

The places of footprints are known to about a pixel, and footprints of one pass are off
together. All labels of a crop are therefore shifted together, to where their mean
squared error is least (Pauls et al., Estimating canopy height at scale, ICML 2024, who
shift tracks). Labels that were shifted one by one would each take the pixel that fits
their own noise: docs/benchmarks.md has what that costs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from .losses import Tail, masked_error

__all__ = ["FEWEST_TOGETHER", "match_predictions", "with_image_layer"]

FEWEST_TOGETHER = 5
"""Labels of a crop that are shifted at least, as in the code of Pauls et al.; fewer
would fit their noise, and stay where they are."""

Change = Callable[[tuple[Any, ...], Tensor], tuple[tuple[Any, ...], Tensor]]


def match_predictions(
    prediction: Tensor,
    target: Tensor,
    seen: Tensor,
    shift: int,
    ceiling: float | None = None,
    tail: Tail = "drop",
    weights: Tensor | None = None,
) -> Tensor:
    """Return the predictions that labels are compared with, at their pixels.

    Parameters
    ----------
    prediction : Tensor
        (batch, outputs, y, x) float. The first output decides about all.
    target : Tensor
        (batch, 1, y, x) float, NaN where unlabelled.
    seen : Tensor
        (batch, 1, y, x) bool: where there is an image. A label whose shifted pixel has
        no image, or is beyond the edge, is compared with its own.
    shift : int
        Pixels along y and along x, at most; 1 or more.
    ceiling, tail
        As in :func:`.chip_rmse_loss`.
    weights : Tensor, optional
        (batch, 1, y, x) weights of the labels.

    Returns
    -------
    Tensor
        (batch, outputs, y, x) float32: at the labels of a sample the predictions at the
        best of the (2 shift + 1)^2 shifts, elsewhere the prediction.
    """
    prediction = prediction.float()
    reach = range(-shift, shift + 1)
    # None first: of shifts that are equally good the least one is best to keep.
    shifts = sorted(
        ((y, x) for y in reach for x in reach), key=lambda s: (s != (0, 0), s)
    )
    moved = [
        torch.where(_moved(seen, *by, False), _moved(prediction, *by, 0.0), prediction)
        for by in shifts
    ]
    squares = []
    for one in moved:
        error, valid = masked_error(one[:, :1].detach(), target, ceiling, tail)
        if weights is not None:
            error = error * torch.where(valid, weights.float(), 0.0).sqrt()
        squares.append(error.square().flatten(1).sum(dim=1))
    best = torch.stack(squares).argmin(dim=0)
    best[valid.flatten(1).sum(dim=1) < FEWEST_TOGETHER] = 0
    matched = torch.stack(moved)[best, torch.arange(len(best), device=best.device)]
    return torch.where(valid, matched, prediction)


def _moved(values: Tensor, y: int, x: int, beyond: float) -> Tensor:
    """Return the values of the pixels at a distance (y, x) from each, (..., y, x)."""
    height, width = values.shape[-2:]
    far = max(abs(y), abs(x))
    wide = functional.pad(values, [far] * 4, value=beyond)
    return wide[..., far + y : far + y + height, far + x : far + x + width]


def with_image_layer(
    augment: Change, inputs: tuple[Any, ...], target: Tensor, planes: int = 0
) -> tuple[tuple[Any, ...], Tensor]:
    """Augment a batch, and add where it has an image as a last layer of the target.

    Parameters
    ----------
    augment : callable
        ``augment(inputs, target) -> (inputs, target)``.
    inputs : tuple
        The image (batch, month, band, y, x) first, NaN where missing, then which
        months are there (batch, month) or None.
    target : Tensor
        (batch, layer, y, x).
    planes : int
        Last months of the image that hold static layers, which are no image.

    Returns
    -------
    inputs : tuple
        As `augment` returns them.
    target : Tensor
        (batch, layer + 1, y, x): 1 in the last layer where the network sees a value in
        any month and band, else 0.
    """
    inputs, target = augment(inputs, target)
    image, present = inputs[0], inputs[1] if len(inputs) > 1 else None
    seen = image[:, : image.shape[1] - planes].isfinite().any(dim=2)
    if present is not None:
        seen = seen & present[:, :, None, None]
    return inputs, torch.cat([target, seen.any(dim=1, keepdim=True).to(target)], dim=1)
