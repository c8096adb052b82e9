"""A network that learns without labels: it reconstructs pixels that are hidden from it.

What it reconstructs is the mean over months of each band. A pixel's noise cannot be
predicted from its neighbours, so the features that learn to do it are smooth where the
image is noisy (as in Krull and co-workers, Noise2Void, CVPR 2019; He and co-workers,
Masked autoencoders are scalable vision learners, CVPR 2022).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from geobiomass.network.attention_unet import AttentionUNet

HIDDEN_PIXELS = 0.3
"""Share of the pixels that are hidden, in all months."""
HIDDEN_MONTHS = 0.3
"""Probability that a month is hidden as a whole; one is kept at least."""


class Reconstruction(nn.Module):
    """The encoder, attention and decoder of a network, with a head for its bands.

    Parameters
    ----------
    network : AttentionUNet
        With its scaling. Its own head is not used.
    """

    def __init__(self, network: AttentionUNet) -> None:
        super().__init__()
        self.network = network
        bands = network.shift.numel()
        self.head = nn.Conv2d(network.head.in_channels, bands, 3, padding=1)
        nn.init.xavier_uniform_(self.head.weight)

    def forward(
        self,
        image: Tensor,
        present: Tensor | None = None,
        calendar: Sequence[int] | None = None,
    ) -> Tensor:
        """Return (batch, band, y, x): scaled bands, the mean over the year.

        Parameters
        ----------
        image, present, calendar
            As :meth:`.AttentionUNet.forward` takes them.
        """
        network = self.network
        packed, pooled = network._pool(image, present, calendar)
        decoded = network.decoder([packed[:0], *pooled])
        with torch.autocast(image.device.type, enabled=False):
            maps = cast(Tensor, self.head(decoded.to(self.head.weight.dtype)))
        return maps[..., : image.shape[-2], : image.shape[-1]]


def hide(
    image: Tensor, shift: Tensor, scale: Tensor, known: Tensor
) -> tuple[Tensor, Tensor]:
    """Hide pixels and months of images, at random by torch's global generator.

    Parameters
    ----------
    image : Tensor
        (batch, month, band, y, x), NaN where missing.
    shift, scale : Tensor
        (band,) of the network's scaling.
    known : Tensor
        (band,) bool: bands to reconstruct.

    Returns
    -------
    image : Tensor
        A copy that is also NaN where pixels and months are hidden.
    target : Tensor
        (batch, band, y, x): the mean over months of the scaled values of hidden pixels,
        NaN where they have none, and at pixels that are not hidden.
    """
    batch, months, _, height, width = image.shape
    draw = torch.rand(batch, height, width, device=image.device)
    pixels = draw < HIDDEN_PIXELS
    drop = torch.rand(batch, months, device=image.device) < HIDDEN_MONTHS
    there = image.isfinite().flatten(2).any(dim=2)
    # The first month with values stays, where all of them would be hidden.
    first = torch.zeros_like(drop)
    first.scatter_(1, there.int().argmax(dim=1, keepdim=True), value=True)
    lost = ~(there & ~drop).any(dim=1, keepdim=True)
    drop = drop & ~(lost & first)
    hidden = pixels[:, None, None] | drop[:, :, None, None, None]
    scaled = (image - shift[:, None, None]) / scale[:, None, None]
    target = scaled.nanmean(dim=1)
    seen = pixels[:, None] & known[:, None, None]
    return (
        image.masked_fill(hidden, math.nan),
        target.masked_fill(~seen, math.nan),
    )
