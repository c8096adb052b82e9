"""Metrics as classes of torchmetrics, which sum over batches and processes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from .sums import (
    ONE_COLUMN,
    absolute_errors,
    aligned_pair,
    as_columns,
    as_one_column,
    chip_roots,
    column_weights,
    mean_r2,
    merge_moments,
    moments_of,
    pooled_r2,
    ratio,
    signed_errors,
    squared_errors,
)

__all__ = [
    "R2",
    "AverageRMSE",
    "Bias",
    "MeanAbsoluteError",
    "PixelRMSE",
    "WeightedR2",
]


class _Ratio(Metric):
    """Mean over valid pixels or chips.

    Parameters
    ----------
    outputs
        Number of outputs of a prediction, the first ones, to compare with the target,
        for networks with more outputs; by default all.
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
        return aligned_pair(prediction, target)

    def compute(self) -> Tensor:
        """Return the metric over all updates, a float64 scalar."""
        return ratio(self.sums)


class AverageRMSE(_Ratio):
    """`average_rmse` over many batches."""

    def update(self, prediction: Tensor, target: Tensor) -> None:
        """Add (batch, ...) predictions and targets."""
        self.sums += chip_roots(*self._pair(prediction, target))


class PixelRMSE(_Ratio):
    """`pixel_rmse` over many batches."""

    def update(self, prediction: Tensor, target: Tensor) -> None:
        """Add predictions and targets of the same shape."""
        self.sums += squared_errors(*self._pair(prediction, target))

    def compute(self) -> Tensor:
        """Return the metric over all updates, a float64 scalar."""
        return ratio(self.sums).sqrt()


class MeanAbsoluteError(_Ratio):
    """`mean_absolute_error` over many batches."""

    def update(self, prediction: Tensor, target: Tensor) -> None:
        """Add predictions and targets of the same shape."""
        self.sums += absolute_errors(*self._pair(prediction, target))


class Bias(_Ratio):
    """`bias` over many batches."""

    higher_is_better = None

    def update(self, prediction: Tensor, target: Tensor) -> None:
        """Add predictions and targets of the same shape."""
        self.sums += signed_errors(*self._pair(prediction, target))


class R2(Metric):
    """`r2` over many batches."""

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    moments: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("moments", torch.zeros(1, 4, dtype=torch.float64), merge_moments)

    def update(self, prediction: Tensor, target: Tensor) -> None:
        """Add predictions and targets of the same shape."""
        new = moments_of(*as_one_column(*aligned_pair(prediction, target)))
        self.moments = merge_moments(torch.stack([self.moments, new]))

    def compute(self) -> Tensor:
        """Return the metric over all updates, a float64 scalar."""
        return pooled_r2(self.moments, ONE_COLUMN.to(self.moments.device))


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
        self.weights = column_weights(weights)
        self.pooled = pooled
        empty = torch.zeros(len(self.weights), 4, dtype=torch.float64)
        self.add_state("moments", empty, merge_moments)

    def update(self, prediction: Tensor, target: Tensor) -> None:
        """Add (batch, targets) predictions and targets."""
        pairs = as_columns(*aligned_pair(prediction, target), len(self.weights))
        self.moments = merge_moments(torch.stack([self.moments, moments_of(*pairs)]))

    def compute(self) -> Tensor:
        """Return the metric over all updates, a float64 scalar."""
        share = self.weights.to(self.moments.device)
        return (pooled_r2 if self.pooled else mean_r2)(self.moments, share)
