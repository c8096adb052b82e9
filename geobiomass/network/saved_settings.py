"""A network of the settings that are saved with it: checked, and without weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from geobiomass.network.attention_unet import AttentionUNet

_MOST_LEVELS = 16  # of an encoder: timm's have up to 5, plain transformers more
_MOST_CHANNELS = 2**16
_MOST_PARTS = 256  # of the curve that maps pass through


def network_of_settings(settings: Mapping[str, Any]) -> AttentionUNet:
    """Build the network of saved settings, with random weights.

    Settings cannot ask for weights: ``pretrained`` is ignored, since the weights of a
    saved model are in its own folder.

    Parameters
    ----------
    settings : mapping
        As ``network.settings`` has them, read from JSON.

    Raises
    ------
    ValueError
        If a setting has another type, or a size that no network has.
    """
    if not isinstance(settings, Mapping):
        raise ValueError(f"network must be an object, got {_kind(settings)}")
    given = {name: value for name, value in settings.items() if name != "pretrained"}
    for name in ("bands", "outputs"):
        check_count(given.get(name), name)
    if given.get("levels") is not None:
        check_count(given["levels"], "levels", _MOST_LEVELS)
    if given.get("curve") is not None:
        check_count(given["curve"], "curve", _MOST_PARTS)
    if not isinstance(given.get("spread", False), bool):
        raise ValueError(f"spread must be true or false, got {_kind(given['spread'])}")
    if "static" in given:
        check_names(given["static"], "static")
        check_text(given.get("static_levels"), "static_levels")
    channels = given.get("decoder_channels")
    if not isinstance(channels, list) or len(channels) > _MOST_LEVELS:
        raise ValueError(
            f"decoder_channels must be a list of up to {_MOST_LEVELS} numbers, got "
            f"{_kind(channels)}"
        )
    for one in channels:
        check_count(one, "decoder_channels")
    for name in ("encoder", "missing"):
        check_text(given.get(name, ""), name)
    return AttentionUNet(**given)


def check_count(value: object, name: str, most: int = _MOST_CHANNELS) -> None:
    """Check that a saved setting is a whole number from 1 to `most`.

    Raises
    ------
    ValueError
        If it is not.
    """
    if type(value) is not int or not 1 <= value <= most:
        raise ValueError(
            f"{name} must be a whole number from 1 to {most}, got {str(value)[:40]}"
        )


def check_names(value: object, name: str) -> None:
    """Check that a saved setting is a list of texts.

    Raises
    ------
    ValueError
        If it is not.
    """
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise ValueError(f"{name} must be a list of texts, got {_kind(value)}")


def check_text(value: object, name: str) -> None:
    """Check that a saved setting is a text.

    Raises
    ------
    ValueError
        If it is not.
    """
    if not isinstance(value, str):
        raise ValueError(f"{name} must be a text, got {_kind(value)}")


def _kind(value: object) -> str:
    return f"{type(value).__name__} {str(value)[:40]}"
