"""Batch norm for maps: statistics at the size of tiles where training crops are small.

On small crops the deepest features of a network are of few pixels. There batch norm
sees little but the padding at the border, and its variances fall to almost nothing: a
map, whose tiles are larger, then explodes. So the statistics are measured again after
training, on images of a tile's size put together of training crops. No held-out pixel
is seen, and the same training data gives the same statistics.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from geobiomass.data.loader import ChipLoader, decode_batch
from geobiomass.network import AttentionUNet
from geobiomass.network.norm_statistics import measure_norms
from geobiomass.recipes.recipe import Recipe

SMALLEST_FEATURES = 4
"""Side of a crop's deepest features, below which norms are measured again.

Measured with tf_efficientnetv2_b0 on a landscape of one month: with 4 x 4 maps are
within a tenth of the error of crops, with 2 x 2 three times as wrong, with 1 x 1 up to
10^7 times. docs/training.md has the figures.
"""
_IMAGES = 12  # of single months, in tiles
_FEWEST_TILES = 3


def has_small_features(network: AttentionUNet, side: int) -> bool:
    """Return whether images of this side have deepest features of too few pixels."""
    return side < SMALLEST_FEATURES * network.stride


def check_crop(network: AttentionUNet, recipe: Recipe, side: int) -> None:
    """Check that the encoder can learn from the crops of a training.

    Parameters
    ----------
    network : AttentionUNet
        To train.
    recipe : Recipe
        With the crop that the user asks for.
    side : int
        Of the crops, pixels: chips, and blocks of a small scene, can be smaller than
        the recipe's crop.

    Raises
    ------
    ValueError
        If a crop is smaller than one pixel of the deepest features: it is padded with
        missing pixels, which maps do not have.
    """
    stride, encoder = network.stride, network.settings["encoder"]
    needed = f"{stride} pixels, one pixel of the deepest features of encoder"
    if recipe.crop is not None and recipe.crop < stride:
        raise ValueError(
            f"crop must be at least {needed} {encoder!r}, got {recipe.crop}; "
            f"give crop={stride} or more, or an encoder with fewer levels."
        )
    if side < stride:
        raise ValueError(
            f"Chips, or a scene, must have at least {needed} {encoder!r}, got a side "
            f'of {side}; give levels="crop", which leaves out levels that are too '
            "deep for them, or larger chips."
        )


def measure_norms_on_tiles(
    network: AttentionUNet,
    loader: ChipLoader,
    side: int,
    device: str = "cpu",
    fixed: nn.Module | None = None,
) -> None:
    """Measure batch norm on images of a tile's size, from training images.

    Parameters
    ----------
    network : AttentionUNet
        Trained; it stays on its device.
    loader : ChipLoader
        The training samples.
    side : int
        Side of a tile, pixels.
    device : str
        The device for these passes.
    fixed : torch.nn.Module, optional
        A frozen part of the network, whose statistics stay.
    """
    before = network.shift.device
    network.to(device)
    try:
        tiles = (tile.to(device) for tile in _tiles(loader, side))
        calendar = loader.reader.calendar
        measure_norms(network, tiles, fixed=fixed, calendar=calendar)
    finally:
        network.to(before)


def _tiles(loader: ChipLoader, side: int) -> Iterator[Tensor]:
    """Yield images (1, month, band, y, x) of a tile's side, of training crops."""
    waiting, made = list[Tensor](), 0
    for image in _images(loader):
        waiting.append(image)
        down, across = (-(-side // length) for length in image.shape[-2:])
        if len(waiting) < down * across:
            continue
        rows = [
            torch.cat(waiting[row * across : (row + 1) * across], dim=-1)
            for row in range(down)
        ]
        yield torch.cat(rows, dim=-2)[None, ..., :side, :side].contiguous()
        waiting, made = [], made + 1
        if made >= max(_FEWEST_TILES, -(-_IMAGES // loader.reader.months)):
            return


def _images(loader: ChipLoader) -> Iterator[Tensor]:
    """Yield training images (month, band, y, x), epoch after epoch without an end."""
    epoch = 0
    while True:
        for codes, arrangement, target in loader.epoch(epoch):
            (images,), _ = decode_batch((codes, arrangement), target)
            yield from images
        epoch += 1
