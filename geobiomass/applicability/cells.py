"""The features of a location, as a network sees them, cell by cell."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from geobiomass.network import Look

CELL = 16  # pixels: the side of the squares that are compared
AT_ONCE = 2048  # cells whose distances are computed together

_FINEST = 2  # levels of the encoder that are used, the finest ones


class Looking(Protocol):
    """A network that also returns its features and inputs, as AttentionUNet does."""

    encoder: nn.Module
    stride: int

    def look(self, image: Tensor, *args: Any, **named: Any) -> Look:
        """Return maps (batch, month, band, y, x), and the features they come from."""
        ...


def need_looking(network: object) -> None:
    """Check that a network returns the features that it makes maps from.

    Raises
    ------
    TypeError
        If it has no method ``look``.
    """
    if not hasattr(network, "look"):
        raise TypeError(
            "network of the model must return what it pools over months (look, as in "
            "geobiomass.network.AttentionUNet) for an area of applicability, got a "
            f"{type(network).__name__}."
        )


def strides_of(network: nn.Module) -> list[int]:
    """Return the side of a cell at each level of a network's encoder, pixels.

    A learner by pixel has no encoder, and says itself what it compares.
    """
    own = getattr(network, "strides", None)
    if own is not None:
        return list(own)
    found: list[int] = network.encoder.feature_info.reduction()  # type: ignore[operator, union-attr]
    return found


def cell_of(network: nn.Module) -> int:
    """Return the side of the compared cells: 16 pixels, or the nearest that exists."""
    strides = strides_of(network)
    return max(strides[0], min(CELL, strides[-1]))


def views_of(look: Look, strides: Sequence[int], cell: int) -> tuple[Tensor, Tensor]:
    """Return the features of cells, (batch, channel, rows, columns) float32.

    Parameters
    ----------
    look : Look
        The features that a network returned.
    strides : sequence of int
        Side of the cells of its levels, pixels.
    cell : int
        Side of the cells to average over, pixels.

    Returns
    -------
    features, bands : Tensor
        The finest levels of the encoder; the bands as the network sees them, with
        their presence.
    """
    levels = zip(look.levels[:_FINEST], strides, strict=False)
    finest = [
        nn.functional.avg_pool2d(level.float(), cell // stride)
        for level, stride in levels
        if stride <= cell
    ]
    bands = nn.functional.avg_pool2d(look.seen.float(), cell // strides[0])
    return torch.cat(finest, dim=1), bands
