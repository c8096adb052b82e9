"""Static layers in a network: added to its features once months are pooled."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import get_args

import torch
from torch import Tensor, nn

from geobiomass.network.static_planes import StaticLevels

_WIDTH = 32  # channels of the layers' own encoder


class StaticFusion(nn.Module):
    """Features of static layers, added to those that are pooled over months.

    A small encoder of 3 x 3 convolutions sees the scaled layers and where they have a
    value. It has no norm: a map must not depend on what else is in a tile or a batch.
    1 x 1 convolutions that begin at zero add its features, so that a network begins as
    it is without layers.

    Parameters
    ----------
    names : sequence of str
        Names of the layers, in the order of the input.
    channels, strides : sequence of int
        Of the levels of the network's encoder, the finest first.
    levels : "finest", "coarsest" or "both"
        The levels that features are added to.

    Raises
    ------
    ValueError
        If a layer is named twice, `levels` is none of its choices, or a stride is no
        multiple of the one before.
    """

    shift: Tensor
    scale: Tensor

    def __init__(
        self,
        names: Sequence[str],
        channels: Sequence[int],
        strides: Sequence[int],
        levels: StaticLevels = "both",
    ) -> None:
        super().__init__()
        if len(set(names)) != len(names) or not names:
            raise ValueError(
                f"static must name one layer or more, each once, got {list(names)}."
            )
        if levels not in (choices := get_args(StaticLevels)):
            raise ValueError(f"static_levels must be one of {choices}, got {levels!r}.")
        self.names = tuple(names)
        last = len(channels) - 1
        chosen = {"finest": [0], "coarsest": [last], "both": [0, last]}[levels]
        self.levels = tuple(dict.fromkeys(chosen))
        self.finest = strides[0]
        self.stem = _convolution(2 * len(names))
        self.steps = nn.ModuleList()
        for before, stride in pairwise([1, *strides[: self.levels[-1] + 1]]):
            if stride % before:
                raise ValueError(
                    "Strides of an encoder that takes static layers must be multiples "
                    f"of each other, such as 2, 4, 8, got {list(strides)}; choose "
                    "another encoder, or leave the layers out."
                )
            pool = nn.AvgPool2d(stride // before)
            self.steps.append(nn.Sequential(pool, _convolution(_WIDTH)))
        self.joins = nn.ModuleList(
            nn.Conv2d(_WIDTH, channels[level], 1) for level in self.levels
        )
        for join in self.joins:
            for weight in join.parameters():
                nn.init.zeros_(weight)
        self.register_buffer("shift", torch.zeros(len(names)))
        self.register_buffer("scale", torch.ones(len(names)))

    def set_statistics(self, shift: Sequence[float], scale: Sequence[float]) -> None:
        """Set the scaling by layer: (value - shift) / scale.

        Raises
        ------
        ValueError
            If there is not one value for each layer, or a scale is not above zero.
        """
        for buffer, values in ((self.shift, shift), (self.scale, scale)):
            new = torch.as_tensor(values, dtype=buffer.dtype, device=buffer.device)
            if new.shape != buffer.shape or (
                buffer is self.scale and not (new > 0).all()
            ):
                raise ValueError(
                    f"Scaling of static layers must have {len(self.names)} values, "
                    f"scales above zero, got {list(values)}."
                )
            buffer.copy_(new)

    def scaled(self, static: Tensor) -> Tensor:
        """Return the scaled layers, zero where missing, then where they have a value.

        Parameters
        ----------
        static : Tensor
            (batch, layer, y, x), physical values, not finite where missing.

        Returns
        -------
        Tensor
            (batch, 2 layers, y, x): the second half is 1 where a value is, else 0.
        """
        there = static.isfinite()
        values = (static - self.shift[:, None, None]) / self.scale[:, None, None]
        return torch.cat([values.masked_fill(~there, 0.0), there.to(values)], dim=1)

    def by_cell(self, static: Tensor, height: int, width: int) -> Tensor:
        """Return :meth:`scaled` on the cells of the finest level.

        Parameters
        ----------
        static : Tensor
            (batch, layer, y, x).
        height, width : int
            Of the finest level; beyond the layers there is no value.
        """
        padded = self._padded(self.scaled(static), height, width)
        return nn.functional.avg_pool2d(padded, self.finest)

    def forward(self, static: Tensor, pooled: Sequence[Tensor]) -> list[Tensor]:
        """Add features of the layers to those that are pooled over months.

        Parameters
        ----------
        static : Tensor
            (batch, layer, y, x), physical values, not finite where missing.
        pooled : sequence of Tensor
            (batch, channel, rows, columns) for each level, the finest first.

        Returns
        -------
        list of Tensor
            As `pooled`.
        """
        padded = self._padded(self.scaled(static), *pooled[0].shape[-2:])
        features = self.stem(padded.contiguous(memory_format=torch.channels_last))
        found = list(pooled)
        joins = dict(zip(self.levels, self.joins, strict=True))
        for level, step in enumerate(self.steps):
            features = step(features)
            if level in joins:
                found[level] = found[level] + joins[level](features)
        return found

    def _padded(self, planes: Tensor, height: int, width: int) -> Tensor:
        """Pad to the size of the finest level: zeros, which have no value."""
        down = height * self.finest - planes.shape[-2]
        across = width * self.finest - planes.shape[-1]
        if not down and not across:
            return planes
        return nn.functional.pad(planes, (0, across, 0, down))


def _convolution(channels: int) -> nn.Module:
    made = nn.Conv2d(channels, _WIDTH, 3, padding=1)
    nn.init.kaiming_normal_(made.weight, nonlinearity="relu")
    nn.init.zeros_(made.bias)  # type: ignore[arg-type]
    return nn.Sequential(made, nn.ReLU(inplace=True))
