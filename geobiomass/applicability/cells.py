"""What a network sees of a place, cell by cell: what places are told apart by."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from geobiomass.network import Look

CELL = 16  # pixels: the side of the squares that are told apart
AT_ONCE = 2048  # cells that distances are computed of together

_FINEST = 2  # levels of the encoder that are looked at


class Looking(Protocol):
    """A network that tells what it makes maps from, as AttentionUNet does."""

    encoder: nn.Module
    stride: int

    def look(self, image: Tensor, *args: Any, **named: Any) -> Look:
        """(batch, month, band, y, x) -> maps, and what they are made from."""
        ...


def need_looking(network: object) -> None:
    """Refuse networks that do not tell what they make maps from.

    Raises
    ------
    TypeError
        Says what is asked for.
    """
    if not hasattr(network, "look"):
        raise TypeError(
            "network of the model must tell what it pools over months (look, as "
            "geobiomass.network.AttentionUNet does) for an area of applicability, got "
            f"a {type(network).__name__}."
        )


def strides_of(network: nn.Module) -> list[int]:
    """Give the side of a cell of each level of a network's encoder, pixels."""
    found: list[int] = network.encoder.feature_info.reduction()  # type: ignore[operator, union-attr]
    return found


def cell_of(network: nn.Module) -> int:
    """Give the side of the cells that are told apart: 16 pixels, where it has such."""
    strides = strides_of(network)
    return max(strides[0], min(CELL, strides[-1]))


def views_of(look: Look, strides: Sequence[int], cell: int) -> tuple[Tensor, Tensor]:
    """Give what cells are told apart by, (batch, channel, rows, columns) float32.

    Parameters
    ----------
    look : Look
        Of a network.
    strides : sequence of int
        Side of the cells of its levels, pixels.
    cell : int
        Side of the cells that are asked for.

    Returns
    -------
    features, bands : Tensor
        The finest levels of the encoder; the bands as they were seen, and where.
    """
    levels = zip(look.levels[:_FINEST], strides, strict=False)
    finest = [
        nn.functional.avg_pool2d(level.float(), cell // stride)
        for level, stride in levels
        if stride <= cell
    ]
    bands = nn.functional.avg_pool2d(look.seen.float(), cell // strides[0])
    return torch.cat(finest, dim=1), bands
