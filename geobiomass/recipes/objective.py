"""The objective of a recipe: loss, metrics, augmentation, and how batches are prepared.

All of them go to the trainer with the data loaders of :mod:`.datasets`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from torch import Tensor

from geobiomass.cube.quantity import AGB, Quantity
from geobiomass.data.loader import ChipLoader, decode_batch
from geobiomass.recipes.band_facts import sensor_passes
from geobiomass.recipes.recipe import RECIPES, Recipe
from geobiomass.recipes.tall_forest import LabelBalance
from geobiomass.training.augment import Augmentation
from geobiomass.training.label_matching import (
    Change,
    match_predictions,
    with_image_layer,
)
from geobiomass.training.losses import (
    beta_nll_loss,
    chip_huber_loss,
    chip_rmse_loss,
    masked_huber_loss,
    masked_mse_loss,
    pinball_loss,
)

if TYPE_CHECKING:
    from torchmetrics import Metric


def recipe_for(recipe: Recipe, target: Quantity) -> Recipe:
    """Return a recipe for labels in other units than Mg/ha.

    A recipe's own `ceiling` is a biomass above which labels are damaged. It says
    nothing about a height in centimetres, and only a ceiling that was set holds there.
    """
    own = RECIPES[recipe.name].ceiling if recipe.name in RECIPES else Recipe.ceiling
    if target.units == AGB.units or recipe.ceiling != own:
        return recipe
    return dataclasses.replace(recipe, ceiling=None)


def loss_of(
    recipe: Recipe, balance: LabelBalance | None = None
) -> Callable[[Tensor, Tensor], Tensor]:
    """Return the loss that a recipe names.

    A target of one layer is labels; the second layer of two is their weights. With
    `balance` labels weigh by their own value too. With `label_shift` the last layer of
    two or three is where there is an image, and labels are matched with the predictions
    around them.
    """
    plain = partial(_by_layers, _plain_loss(recipe), balance)
    return partial(_matched, plain, recipe) if recipe.label_shift else plain


def _matched(
    loss: Callable[[Tensor, Tensor], Tensor],
    recipe: Recipe,
    prediction: Tensor,
    target: Tensor,
) -> Tensor:
    if target.shape[1] == 1:  # of a validation, which compares labels where they are
        return loss(prediction, target)
    known, seen = target[:, :-1], target[:, -1:] > 0
    matched = match_predictions(
        prediction,
        known[:, :1],
        seen,
        recipe.label_shift,
        recipe.ceiling,
        recipe.tail,
        known[:, 1:] if known.shape[1] > 1 else None,
    )
    return loss(matched, known)


def _by_layers(
    loss: Callable[..., Tensor],
    balance: LabelBalance | None,
    prediction: Tensor,
    target: Tensor,
) -> Tensor:
    labels, weights = target[:, :1], target[:, 1:]
    if balance is not None:
        by_value = balance(labels)
        weights = by_value * weights if weights.shape[1] else by_value
    if not weights.shape[1]:
        return loss(prediction, labels)
    return loss(prediction, labels, weights=weights)


def _plain_loss(recipe: Recipe) -> Callable[..., Tensor]:
    losses: dict[str, Callable[..., Tensor]] = {
        "chip_rmse": chip_rmse_loss,
        "chip_huber": partial(chip_huber_loss, delta=recipe.huber_delta),
        "huber": partial(masked_huber_loss, delta=recipe.huber_delta),
        "mse": masked_mse_loss,
        "beta_nll": _spread_loss,
    }
    point = partial(losses[recipe.loss], ceiling=recipe.ceiling, tail=recipe.tail)
    if recipe.interval is None or recipe.loss == "beta_nll":
        return point
    quantiles = ((1 - recipe.interval) / 2, (1 + recipe.interval) / 2)
    end = partial(pinball_loss, ceiling=recipe.ceiling, tail=recipe.tail)
    return partial(_interval_loss, point, end, quantiles)


def _spread_loss(prediction: Tensor, target: Tensor, **settings: Any) -> Tensor:
    """Return the loss of a map and of the standard deviation of its error.

    What validates has the plain likelihood, a proper score: weighed by the predicted
    variance, a network that claims small errors would be the better.
    """
    beta = 0.5 if prediction.requires_grad else 0.0
    mean, spread = prediction[:, :1], prediction[:, 1:2]
    return beta_nll_loss(mean, spread, target, beta=beta, **settings)


def _interval_loss(
    point: Callable[..., Tensor],
    end: Callable[..., Tensor],
    quantiles: tuple[float, float],
    prediction: Tensor,
    target: Tensor,
    weights: Tensor | None = None,
) -> Tensor:
    """Add the losses of a map and of the two ends of its interval.

    All are in Mg/ha; docs/explanation/intervals.md says what the map loses by it.
    """
    lower, upper = quantiles
    return (
        point(prediction[:, :1], target, weights=weights)
        + end(prediction[:, 1:2], target, lower, weights=weights)
        + end(prediction[:, 2:3], target, upper, weights=weights)
    )


def metrics_of() -> dict[str, Metric]:
    """Return the metrics of the biomass map, the first output of the network."""
    from geobiomass.training.metrics import AverageRMSE, Bias, PixelRMSE

    return {
        "average_rmse": AverageRMSE(outputs=1),
        "pixel_rmse": PixelRMSE(outputs=1),
        "bias": Bias(outputs=1),
    }


def augmentation_of(recipe: Recipe, loader: ChipLoader) -> Augmentation:
    """Return the augmentation of a recipe for the bands and months of a loader."""
    passes = sensor_passes(loader.reader.bands)
    return Augmentation(
        orientations=recipe.turns,
        probability_batch=recipe.month_dropout,
        rotation=recipe.rotation,
        ceiling=recipe.ceiling if recipe.tail == "drop" else None,
        # Each kind of dropout needs bands of its sensor.
        pattern_dropout=recipe.pattern_dropout if 0 in passes else 0.0,
        pass_dropout=recipe.pass_dropout if max(passes) else 0.0,
        passes=passes,
        optical=0,
        calendar=loader.reader.calendar,
        planes=loader.reader.planes,
    )


def training_changes(recipe: Recipe, loader: ChipLoader) -> Change:
    """Return what changes the batches of a training: the augmentation of a recipe.

    With `label_shift` it also adds the layer of the target that :func:`loss_of` needs.
    """
    augmentation = augmentation_of(recipe, loader)
    if recipe.label_shift:
        return partial(with_image_layer, augmentation, planes=augmentation.planes)
    return augmentation


def prepare_with_calendar(
    inputs: tuple[Any, ...], target: Tensor
) -> tuple[tuple[Any, ...], Tensor]:
    """Decode a batch and add the calendar months of its steps.

    Parameters
    ----------
    inputs : tuple
        Codes and their arrangement, as :meth:`.ChipLoader.epoch` yields them.
    target : torch.Tensor
        (batch, 1, y, x).

    Returns
    -------
    inputs : tuple
        Image, None (months with any value are present) and the calendar months, as
        :class:`geobiomass.network.AttentionUNet` takes them.
    target : torch.Tensor
        (batch, 1, y, x), unchanged; with weights of labels (batch, 2, y, x).
    """
    (image,), target = decode_batch(inputs, target)
    return (image, None, inputs[1].decoder.calendar), target
