"""Recipes: named training configurations (hyperparameters) as frozen dataclasses."""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from geobiomass.training.setting_names import explain_arguments, unknown_name
from geobiomass.training.settings import TrainingConfig

from .network import Fusion, Stream
from .photos import TARGETS, check_targets

__all__ = ["RECIPES", "PastureRecipe", "find_recipe"]

_LISTED = (
    "All are listed by help(pasture.PastureRecipe) and "
    "help(geobiomass.training.TrainingConfig)."
)
JITTER = 0.2  # largest relative change of brightness, contrast and saturation
HUE = 0.02  # largest change of hue, of the colour circle
# Weights of red, green and blue in luma (ITU-R BT.601).
_GREY = torch.tensor([[0.299, 0.587, 0.114]])
# Generator of rotations about the grey axis: the matrix exponential of an angle times
# this matrix rotates colours by that angle.
_ABOUT_GREY = torch.tensor([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / math.sqrt(3)


@explain_arguments
@dataclass(frozen=True)
class PastureRecipe:
    """The training configuration (hyperparameters) of a `PastureRegressor`.

    Parameters
    ----------
    name
        Name of the recipe, kept in the model's settings.
    backbone, stream
        As in `pasture.network.PastureNetwork`.
    height, width
        Pixels that the whole photo is resized to.
    fusion
        As in `pasture.network.PastureNetwork`.
    targets
        Columns of the photos' table to predict. With the five `TARGETS` in their order,
        loss and score have the competition's weights and predictions add up. Other
        targets have equal weights.
    freeze, pretrained
        As in `pasture.network.PastureNetwork`.
    flips
        Augmentation: random flips left-right and up-down in training, each with a
        probability of 0.5.
    jitter
        Augmentation: random changes of brightness, contrast and saturation by up to a
        fifth, and of hue by up to a fiftieth of the colour circle, in training.
    validation_fraction
        Share of the sampling dates that is held out if no validation photos are given.
    training
        Epochs, batch size, optimiser, precision, devices, seed, checkpoints.

    Raises
    ------
    ValueError
        A size is below 1 pixel, the fraction is not from 0 to below 1, or targets are
        not names.
    """

    name: str = "seed"
    # timm has these weights in two forms; this one has 366 parameter tensors.
    backbone: str = "vit_large_patch16_dinov3_qkvb.lvd1689m"
    stream: Stream = "single"
    height: int = 1024
    width: int = 2048
    fusion: Fusion = "concat"
    targets: tuple[str, ...] = TARGETS
    freeze: float = 0.8
    pretrained: bool | str | Path = False
    flips: bool = True
    jitter: bool = True
    validation_fraction: float = 0.1
    training: TrainingConfig = field(default_factory=TrainingConfig)

    def __post_init__(self) -> None:
        object.__setattr__(self, "targets", check_targets(self.targets))
        for name in ("height", "width"):
            if (value := getattr(self, name)) < 1:
                raise ValueError(
                    f"{name} of PastureRecipe must be 1 pixel or more, got {value}"
                )
        if not 0 <= self.validation_fraction < 1:
            raise ValueError(
                "validation_fraction of PastureRecipe must be from 0 to below 1, got "
                f"{self.validation_fraction}"
            )

    @property
    def adds_up(self) -> bool:
        """Whether the last two targets are sums of the first three."""
        return self.targets == TARGETS

    def with_changes(self, **changes: Any) -> PastureRecipe:
        """Return a copy with some settings changed, its own or its training's.

        Parameters
        ----------
        **changes
            Settings by name.

        Raises
        ------
        ValueError
            A name is not a setting of a recipe or of TrainingConfig.
        """
        own = {field.name for field in dataclasses.fields(PastureRecipe)}
        inner = {field.name for field in dataclasses.fields(TrainingConfig)}
        for name in changes:
            if name not in own | inner:
                what = "a setting of a recipe"
                also = ("validation", "folds", "groups")
                raise ValueError(unknown_name(name, own | inner, what, _LISTED, also))
        training = dataclasses.replace(
            changes.pop("training", self.training),
            **{name: changes.pop(name) for name in inner & set(changes)},
        )
        return dataclasses.replace(self, **changes, training=training)

    def augmentation(
        self,
    ) -> Callable[[tuple[Any, ...], Tensor], tuple[tuple[Any, ...], Tensor]] | None:
        """Return the augmentation of photos, random for each photo, or None.

        Whole photos are augmented, before a network halves them.
        """
        changes: list[Callable[[Tensor], Tensor]] = []
        if self.flips:
            changes.append(_flip)
        if self.jitter:
            changes.append(_jitter)
        if not changes:
            return None

        def augment(
            inputs: tuple[Any, ...], target: Tensor
        ) -> tuple[tuple[Any, ...], Tensor]:
            (image,) = inputs
            for change in changes:
                image = change(image)
            return (image,), target

        return augment

    def plain(self) -> dict[str, Any]:
        """Return the settings for JSON, without the folder of checkpoints."""
        training = dataclasses.replace(self.training, folder=None)
        settings = dataclasses.asdict(dataclasses.replace(self, training=training))
        if isinstance(self.pretrained, Path):
            settings["pretrained"] = str(self.pretrained)
        settings["targets"] = list(self.targets)
        return settings

    @classmethod
    def from_plain(cls, settings: Mapping[str, Any]) -> PastureRecipe:
        """Build a recipe from the settings that `plain` returned.

        Parameters
        ----------
        settings
            Settings as `plain` returned them, or as read back from JSON.
        """
        training = dict(settings["training"])
        if isinstance(training["monitor"], list):
            training["monitor"] = tuple(training["monitor"])
        return cls(**{**settings, "training": TrainingConfig(**training)})


def _flip(image: Tensor) -> Tensor:
    """Flip photos (batch, 3, y, x) left-right and up-down, each at random."""
    for axis in (-1, -2):
        flipped = (torch.rand(len(image)) < 0.5).to(image.device)
        image = torch.where(flipped[:, None, None, None], image.flip(axis), image)
    return image


def _jitter(image: Tensor) -> Tensor:
    """Change hue, saturation, contrast and brightness of photos (batch, 3, y, x).

    One linear change of colours per photo: a rotation about the grey axis (hue), a mix
    with grey (saturation), a scale of the distance to the photo's mean grey (contrast),
    and a scale of all (brightness). Values are not clipped to 0 and 1, because bright
    soil and dry leaves would all become white.
    """
    count = len(image)
    angle = 2 * math.pi * torch.empty(count).uniform_(-HUE, HUE)
    saturation, contrast, brightness = torch.empty(3, count).uniform_(
        1 - JITTER, 1 + JITTER
    )
    grey = _GREY.expand(3, 3)
    turn = torch.linalg.matrix_exp(angle[:, None, None] * _ABOUT_GREY)
    share = saturation[:, None, None]
    colours = (share * torch.eye(3) + (1 - share) * grey) @ turn
    pixels = (image if image.is_floating_point() else image / 255).flatten(2)
    mean = (_GREY.to(image.device) @ pixels.mean(2, keepdim=True)).squeeze(-1)
    scale = (brightness * contrast)[:, None, None] * colours
    offset = (brightness * (1 - contrast))[:, None].to(image.device) * mean
    changed = torch.baddbmm(offset[:, None], scale.to(image.device), pixels)
    return changed.view(image.shape)


_SEED = TrainingConfig(
    epochs=30,
    batch_size=4,
    learning_rate=2e-4,
    weight_decay=1e-2,
    final_learning_rate=2e-6,
    # The three best epochs by score and the three best by loss, each used once, are
    # averaged.
    monitor=("validation_weighted_r2", "validation_loss"),
    keep_best=3,
    keep="average",
)

RECIPES: dict[str, PastureRecipe] = {
    # The settings described by the published solution that later ones started from.
    # It does not state the number of epochs: 30 is our choice.
    "seed": PastureRecipe(training=_SEED),
    # The settings of public runs of that solution.
    "public": PastureRecipe(
        name="public",
        training=dataclasses.replace(
            _SEED, learning_rate=1e-4, weight_decay=2e-5, final_learning_rate=1e-6
        ),
    ),
    # To try a pipeline: minutes on two cores, without pretrained weights. A million
    # parameters learn drawn photos as well as the six million of resnet10t.
    "quick": PastureRecipe(
        name="quick",
        backbone="test_resnet",
        height=128,
        width=256,
        freeze=0.0,
        training=dataclasses.replace(
            _SEED, epochs=36, batch_size=8, learning_rate=1e-3, final_learning_rate=1e-5
        ),
    ),
}


def find_recipe(recipe: str | PastureRecipe, **changes: Any) -> PastureRecipe:
    """Return a recipe by name, or the given recipe, with changes.

    Raises
    ------
    ValueError
        The name is unknown, or a change is not a setting.
    """
    if isinstance(recipe, str):
        if recipe not in RECIPES:
            near = difflib.get_close_matches(recipe, RECIPES, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise ValueError(
                f"recipe must be one of {', '.join(RECIPES)} or a PastureRecipe, got "
                f"{recipe!r}{hint}"
            )
        recipe = RECIPES[recipe]
    return recipe.with_changes(**changes)
