"""The result of a network with the features that it comes from."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Look(NamedTuple):
    """Maps, with the features and inputs that the network predicted them from.

    Parameters
    ----------
    maps : Tensor
        (batch, outputs, y, x), Mg/ha.
    levels : list of Tensor
        (batch, channel, rows, columns) for each level of the encoder, the finest first,
        pooled over months, with static layers. The image is padded to a multiple of
        the network's stride.
    seen : Tensor
        (batch, 2 bands, rows, columns) on the cells of the finest level: the scaled
        bands, and whether they have a value, pooled over months with the attention of
        that level. Then static layers, scaled, and whether they have a value.
    """

    maps: Tensor
    levels: list[Tensor]
    seen: Tensor
