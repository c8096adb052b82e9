"""Static layers of a tile beside its months, in one array.

A tile is cut, turned, batched and copied to a device as one array. Layers follow the
months in it: each further "month" holds as many layers as the image has bands, and the
last one is filled up with NaN. So no layer is repeated by month.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar, cast

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from torch import Tensor, nn

Pixels = npt.NDArray[np.float32]
Images = TypeVar("Images", bound=Any)

StaticLevels: TypeAlias = Literal["finest", "coarsest", "both"]
"""Levels of a network's encoder whose features static layers are added to."""


def plane_count(layers: int, bands: int) -> int:
    """Return how many further months hold so many layers."""
    return -(-layers // bands)


def packed(image: Pixels, static: Pixels) -> Pixels:
    """Return an image with its static layers after its months.

    Parameters
    ----------
    image : numpy.ndarray
        (month, band, y, x).
    static : numpy.ndarray
        (layer, y, x) of the same pixels.

    Returns
    -------
    numpy.ndarray
        (month and further planes, band, y, x) float32.
    """
    months, bands, height, width = image.shape
    count = plane_count(len(static), bands)
    made = np.full((months + count, bands, height, width), np.nan, np.float32)
    made[:months] = image
    made[months:].reshape(count * bands, height, width)[: len(static)] = static
    return made


def months_of(images: Images, layers: int) -> Images:
    """Return the months of a batch (batch, month, band, y, x), a view of it."""
    if not layers:
        return images
    count = images.shape[1] - plane_count(layers, images.shape[2])
    return cast(Images, images[:, :count])


def unpacked(images: Tensor, layers: int) -> tuple[Tensor, Tensor]:
    """Return months (batch, month, band, y, x) and layers (batch, layer, y, x)."""
    months = months_of(images, layers)
    planes = images[:, months.shape[1] :].flatten(1, 2)
    return months, planes[:, :layers]


def packed_batch(months: Tensor, static: Tensor) -> Tensor:
    """Return a batch of months with layers (batch, layer, y, x) after them, if any."""
    import torch

    batch, layers, height, width = static.shape
    if not layers:
        return months
    bands = months.shape[2]
    count = plane_count(layers, bands)
    shape = (batch, count * bands - layers, height, width)
    planes = torch.cat([static, static.new_full(shape, torch.nan)], dim=1)
    planes = planes.reshape(batch, count, bands, height, width)
    return torch.cat([months, planes], dim=1)


def without_values(images: Tensor, layers: int, gone: Tensor) -> Tensor:
    """Return a batch whose months have no value where `gone`; layers keep theirs.

    Parameters
    ----------
    images : Tensor
        (batch, month, band, y, x), with layers after the months.
    layers : int
        Number of these layers.
    gone : Tensor
        bool, of a shape that is broadcast to that of the months.
    """
    months, static = unpacked(images, layers)
    return packed_batch(months.masked_fill(gone, np.nan), static)


def static_layers_of(network: nn.Module) -> tuple[str, ...]:
    """Return the static layers that a network reads, wrapped or not; none of most."""
    for one in network.modules():
        found = getattr(one, "static_layers", None)
        if found is not None:
            return tuple(found)
    return ()
