"""The self-supervised start of a recipe: before labels, the network learns the images.

It is a training of its own, in the folder's subfolder `START`, which the same call
resumes. The training with labels begins with its last weights.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from geobiomass.network import AttentionUNet
from geobiomass.network.reconstruction import Reconstruction, hide
from geobiomass.recipes.datasets import DataLoaders
from geobiomass.recipes.freezing import frozen_part
from geobiomass.recipes.objective import prepare_with_calendar
from geobiomass.training import TrainingConfig
from geobiomass.training.augment import Augmentation
from geobiomass.training.losses import masked_mse_loss

if TYPE_CHECKING:
    from geobiomass.recipes.recipe import Recipe
    from geobiomass.training import RegressionTask

START = "0-self-supervised"
"""Its folder; those of stages begin with 1."""


def settings_of_start(recipe: Recipe) -> TrainingConfig:
    """Return the settings of the self-supervised start of a recipe."""
    config = recipe.training
    return dataclasses.replace(
        config,
        epochs=recipe.self_supervised,
        warmup_epochs=min(config.warmup_epochs, recipe.self_supervised / 2),
        keep="last",
        monitor="validation_loss",
        moving_average=None,
        folder=None if config.folder is None else Path(config.folder) / START,
    )


def start_self_supervised(
    network: AttentionUNet, loaders: DataLoaders, given: Mapping[str, Any] | None
) -> str | None:
    """Train encoder, attention and decoder to reconstruct hidden pixels.

    Parameters
    ----------
    network : AttentionUNet
        With its scaling; changed in place.
    loaders : DataLoaders
        With the images to learn; their labels are not used.
    given : mapping, optional
        What affects the weights, as for the training that follows.

    Returns
    -------
    str or None
        What was learnt, in words; None if the recipe asks for nothing.
    """
    recipe, loader = loaders.recipe, loaders.images
    if loader is None:
        return None
    from geobiomass.training import train  # imports Lightning

    whole = _whole(network, recipe)
    fusion = getattr(network, "fusion", None)  # of static layers, which are no images
    idle = [part for part in (network.head, fusion) if part is not None]
    for part in idle:
        part.requires_grad_(False)  # processes wait for all weights that learn
    try:
        task = _task(whole, recipe)
        config = settings_of_start(recipe)
        history = train(task, loader, None, config, given=given).history
    finally:
        for part in idle:
            part.requires_grad_(True)
    losses = history["train_loss"]
    places = len(dict.fromkeys(loader.samples))
    kind = "chips" if loader.reader.chips else "blocks"
    return (
        f"{recipe.self_supervised} epochs on the images of {places} {kind}, without "
        f"labels: mean squared error of hidden pixels from {losses.iloc[0]:.3g} to "
        f"{losses.iloc[-1]:.3g} (scaled bands)"
    )


def check_start(
    network: AttentionUNet, recipe: Recipe, given: Mapping[str, Any]
) -> None:
    """Check that the folder of a self-supervised start holds no other one.

    Raises
    ------
    ValueError
        If it does; the message names the setting that differs.
    """
    if recipe.self_supervised:
        from geobiomass.training import check_folder  # imports Lightning

        start = [(START.partition("-")[2], settings_of_start(recipe))]
        check_folder(_whole(network, recipe), start, given=given)


def _whole(network: AttentionUNet, recipe: Recipe) -> Reconstruction:
    with torch.random.fork_rng(devices=[]):  # the same seed gives the same weights
        torch.manual_seed(recipe.training.seed + recipe.fold)
        return Reconstruction(network)


def _task(whole: Reconstruction, recipe: Recipe) -> RegressionTask:
    from geobiomass.training import RegressionTask

    frozen = None
    if recipe.pretrained is not False:  # else there is nothing to keep yet
        frozen = frozen_part(recipe, whole.network)
        if frozen is not None:
            frozen = dataclasses.replace(frozen, part=f"network.{frozen.part}")
    return RegressionTask(
        whole,
        masked_mse_loss,
        augment=_Hiding(whole, Augmentation(recipe.turns, probability_batch=0.0)),
        prepare=prepare_with_calendar,
        frozen=frozen,
    )


@dataclasses.dataclass
class _Hiding:
    """Turns images at random, and hides pixels and months, which are the target."""

    whole: Reconstruction
    turn: Augmentation

    def __call__(
        self, inputs: tuple[Any, ...], target: Tensor
    ) -> tuple[tuple[Any, ...], Tensor]:
        """Return images with hidden pixels, and their values."""
        inputs, _ = self.turn(inputs, target)
        image, *rest = inputs
        network = self.whole.network
        hidden, values = hide(image, network.shift, network.scale, ~network.unknown)
        return (hidden, *rest), values
