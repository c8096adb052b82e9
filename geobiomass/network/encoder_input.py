"""From monthly images in physical units to the input of the encoder."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from geobiomass.network.missing import Missing, flags_of_passes

UNKNOWN = 2.0**120
"""Scale of a band that training had no information in.

Finite, since averages of weights would make NaN of infinity.
"""


def check_image(image: Tensor, present: Tensor | None, bands: int) -> None:
    """Check the shapes of a batch of monthly images and of its mask of months.

    Raises
    ------
    ValueError
        If the image is not (batch, month, band, y, x) with that many bands, or the mask
        is not (batch, month) bool.
    """
    if image.ndim != 5 or image.shape[2] != bands:
        raise ValueError(
            f"image must be (batch, month, {bands} bands, y, x), got "
            f"{tuple(image.shape)}."
        )
    if present is not None and (
        present.shape != image.shape[:2] or present.dtype != torch.bool
    ):
        raise ValueError(
            f"present must be (batch, month) = {tuple(image.shape[:2])} bool, got "
            f"{tuple(present.shape)} {present.dtype}."
        )


def pad_to_stride(months: Tensor, stride: int) -> Tensor:
    """Return (n, band, y, x) padded with missing pixels to a multiple of the stride."""
    height, width = months.shape[-2:]
    padding = (0, -width % stride, 0, -height % stride)
    if not any(padding):
        return months
    return nn.functional.pad(months, padding, value=math.nan)


def standardise(
    months: Tensor,
    shift: Tensor,
    scale: Tensor,
    missing: Missing,
    passes: Sequence[int],
) -> Tensor:
    """Return the encoder's input of (n, band, y, x) physical values.

    The memory format is channels last: convolutions on a CPU are up to 1.7 times as
    fast, and the attention reads without a copy.

    Parameters
    ----------
    months : Tensor
        (n, band, y, x), NaN where missing. It is changed in place.
    shift, scale : Tensor
        (band,): the result has (value - shift) / scale.
    missing : "zero", "validity" or "renormalise"
        As in ``AttentionUNet``.
    passes : sequence of int
        For each band the number of its sensor pass.
    """
    there = None if missing == "zero" else months.isfinite()
    # In place, since indexing has copied the present months from the image.
    scaled = months.sub_(shift[:, None, None]).div_(scale[:, None, None])
    scaled = scaled.nan_to_num_(nan=0.0, posinf=0.0, neginf=0.0)
    if there is not None and missing == "validity":
        flags = flags_of_passes(there, passes, scaled.dtype)
        scaled = torch.cat([scaled, flags], dim=1)
    elif there is not None:
        count = there.sum(dim=1, keepdim=True).clamp(min=1)
        scaled = scaled.mul_(there.shape[1] / count)
    return scaled.contiguous(memory_format=torch.channels_last)
