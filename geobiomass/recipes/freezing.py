"""The frozen encoder of a recipe: its check, what is frozen, and the sentence on it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from geobiomass.network import AttentionUNet
    from geobiomass.recipes.recipe import Recipe
    from geobiomass.training.freezing import Frozen

_PART = "encoder"


def check_frozen(recipe: Recipe) -> None:
    """Check the share of the epochs in which a recipe's encoder is frozen.

    Raises
    ------
    ValueError
        If it is no share, or the encoder would be frozen with random weights, or the
        epochs of the self-supervised start, or crops, are no whole number.
    """
    epochs, crops = recipe.self_supervised, recipe.crops
    if type(epochs) is not int or epochs < 0:
        raise ValueError(
            f"self_supervised must be a number of epochs, 0 or more, got {epochs!r}."
        )
    if crops is not None and type(crops) is not int:
        raise ValueError(f"crops must be a number of crops, or None, got {crops!r}.")
    share = recipe.frozen
    if not 0 <= share <= 1:
        raise ValueError(f"frozen must be from 0 to 1, got {share}.")
    if share and recipe.pretrained is False and not recipe.self_supervised:
        raise ValueError(
            f"frozen must be 0 where the encoder has random weights, got {share} with "
            "pretrained=False; give pretrained= a file of weights, or self_supervised= "
            "a number of epochs."
        )


def frozen_part(recipe: Recipe, network: AttentionUNet) -> Frozen | None:
    """Return what a recipe freezes of its network; None if nothing.

    A first convolution that the file has for another number of bands learns: it was
    made of that for three bands, and has seen none of these.
    """
    from geobiomass.training.freezing import Frozen

    if not recipe.frozen:
        return None
    epochs = None if recipe.frozen == 1 else _epochs(recipe)
    loaded = getattr(network.encoder, "pretrained_from", None)
    if loaded is None or loaded.channels is None:
        return Frozen(_PART, epochs)
    return Frozen(_PART, epochs, (loaded.first,))


def _epochs(recipe: Recipe) -> int:
    return max(1, round(recipe.frozen * recipe.training.epochs))


def frozen_in_words(recipe: Recipe, network: AttentionUNet) -> str | None:
    """Return what was frozen, for the card and the provenance; None if nothing."""
    part = frozen_part(recipe, network)
    if part is None:
        return None
    epochs = "all epochs"
    if part.epochs is not None:
        many = part.epochs > 1
        epochs = f"the first {part.epochs} epochs" if many else "the first epoch"
    but = f", but {part.learning[0]}" if part.learning else ""
    return f"the encoder in {epochs}{but}"
