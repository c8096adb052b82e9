"""A rising curve of straight parts, which a network's maps can pass through."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor, nn


class RisingCurve(nn.Module):
    """A continuous curve of straight parts that never falls; beyond them it is a shift.

    It is a sum of clamped straight lines, each of which never falls; so its values in
    float32 never fall either. A graph of ONNX has all of these operations.

    Parameters
    ----------
    parts : int
        Number of straight parts; one that was just made changes nothing.
    """

    starts: Tensor
    lengths: Tensor
    slopes: Tensor
    shift: Tensor

    def __init__(self, parts: int) -> None:
        super().__init__()
        self.register_buffer("starts", torch.zeros(parts))
        self.register_buffer("lengths", torch.zeros(parts))
        self.register_buffer("slopes", torch.ones(parts))
        self.register_buffer("shift", torch.zeros(()))

    @classmethod
    def through(cls, knots: Sequence[float], values: Sequence[float]) -> Self:
        """Build the curve through points.

        Parameters
        ----------
        knots : sequence of float
            Values before, rising; two or more.
        values : sequence of float
            Values after, one for each, that do not fall.

        Raises
        ------
        ValueError
            If the numbers differ, knots do not rise or values fall.
        """
        at = torch.as_tensor(knots, dtype=torch.float64)
        to = torch.as_tensor(values, dtype=torch.float64)
        lengths, rises = at.diff(), to.diff()
        if at.shape != to.shape or not len(lengths) or bool((lengths <= 0).any()):
            raise ValueError(
                "knots of a curve must be two or more rising numbers, with a value "
                f"each, got {list(knots)} and {list(values)}."
            )
        if bool((rises < 0).any()):
            raise ValueError(f"values of a curve must not fall, got {list(values)}.")
        made = cls(len(lengths))
        made.starts.copy_(at[:-1])
        made.lengths.copy_(lengths)
        made.slopes.copy_(rises / lengths)
        made.shift.copy_(to[0] - at[0])
        return made

    @property
    def parts(self) -> int:
        """Number of straight parts."""
        return len(self.starts)

    def forward(self, values: Tensor) -> Tensor:
        """Return the curve at values, of their shape; NaN stays NaN."""
        first, last = self.starts[0], self.starts[-1] + self.lengths[-1]
        found = torch.minimum(values, first) + self.shift
        zero = torch.zeros_like(first)
        for start, length, slope in zip(
            self.starts, self.lengths, self.slopes, strict=True
        ):
            along = torch.minimum(torch.maximum(values - start, zero), length)
            found = found + slope * along
        return found + torch.maximum(values - last, zero)
