"""Batch norm cannot train on one value: one month of one sample, one pixel deep."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from geobiomass.cube import CubeError
from geobiomass.data.loader import ChipLoader
from geobiomass.network import AttentionUNet
from geobiomass.network.norm_statistics import sees_single_values
from geobiomass.network.static_planes import plane_count, static_layers_of
from geobiomass.recipes.recipe import Recipe

_OF_TORCH = "Expected more than 1 value per channel when training"


def check_batch_norm(
    network: AttentionUNet, recipe: Recipe, loader: ChipLoader, side: int
) -> None:
    """Check that each training batch has more than one value for batch norm.

    Parameters
    ----------
    network : AttentionUNet
        To train.
    recipe : Recipe
        How to train.
    loader : ChipLoader
        The training samples.
    side : int
        Of the crops, pixels.

    Raises
    ------
    CubeError
        If a batch has one sample of one month, and its deepest features one pixel.
    """
    alone = loader.smallest_batch(recipe.training.ranks) == 1
    if alone and loader.reader.months == 1 and _is_single(network, side):
        raise CubeError(_sentence(network, recipe, side))


@contextmanager
def told_of_single_values(
    network: AttentionUNet, recipe: Recipe, side: int
) -> Iterator[None]:
    """Say the same of a batch that has one image only because months are missing.

    That is not known before: augmentation drops months, and crops can lack some.
    """
    try:
        yield
    except ValueError as error:
        if _OF_TORCH not in str(error):
            raise
        raise CubeError(_sentence(network, recipe, side)) from error


def _is_single(network: AttentionUNet, side: int) -> bool:
    bands = network.shift.numel()
    months = 1 + plane_count(len(static_layers_of(network)), bands)
    image = torch.zeros(1, months, bands, side, side, device=network.shift.device)
    calendar: Any = [1]  # any month: only sizes count
    return sees_single_values(network, image, calendar=calendar)


def _sentence(network: AttentionUNet, recipe: Recipe, side: int) -> str:
    # An encoder that pools whole images before a norm has one value at any size.
    sizes = (side * 2**power for power in range(1, 5))
    enough = next((each for each in sizes if not _is_single(network, each)), None)
    larger = f"chips, or blocks of a scene, of {enough} pixels or more, "
    return (
        f"Training batches must have more than one image of {side} x {side} pixels "
        f"where the deepest features of encoder {recipe.encoder!r} are one pixel, got "
        "one sample with one month: batch norm has no variance of one value. Give "
        f"{larger if enough else ''}more months or more chips; or a batch_size that "
        "leaves no batch with one sample (now "
        f"{recipe.training.batch_size}). Where augmentation drops months, "
        "month_dropout=0 keeps them."
    )
