"""Encoder and decoder of a network.

The encoder is any timm model with a feature pyramid, the decoder is the U-Net decoder
of segmentation_models_pytorch.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from geobiomass.network.pretrained import load_pretrained, weights_path
from geobiomass.network.weight_packages import (
    WEIGHT_PACKAGES,
    WeightPackage,
    find_package,
    installed_file,
)

# (image, band, y, x), (image, 4) -> features and scores of each level, by image.
Encode = Callable[[Tensor, Tensor | None], tuple[list[Tensor], list[Tensor]]]


def feature_encoder(
    name: str, bands: int, pretrained: bool | str | Path, levels: int | None = None
) -> nn.Module:
    """Build the encoder, a timm model.

    Parameters
    ----------
    name : str
        Name of a timm model with a feature pyramid.
    bands : int
        Number of channels of its input.
    pretrained : bool, str or Path
        As in :class:`geobiomass.network.AttentionUNet`.
    levels : int, optional
        Number of levels to build, the finest first; None: all.

    Returns
    -------
    torch.nn.Module
        (image, band, y, x) -> list of (image, channel, rows, columns), finest first;
        ``feature_info`` has channels and strides.

    Raises
    ------
    ValueError
        If there is no such model, no such file of weights, or the file does not have
        all of the encoder's.
    """
    import timm

    base = name.split(".")[0]
    if not timm.is_model(base):
        near = ", ".join(timm.list_models(f"{base[:8]}*")[:5]) or "resnet18"
        raise ValueError(f"encoder {name!r} is not a timm model; similar: {near}.")
    package = find_package(pretrained)
    if package is not None:
        file: Path | None = _file_of_package(str(pretrained), package, base)
    else:
        file = None if isinstance(pretrained, bool) else weights_path(pretrained)
    if file is not None and not file.is_file():
        raise ValueError(
            f"pretrained must be a file of weights, one of {sorted(WEIGHT_PACKAGES)}, "
            f"True or False, got {pretrained}."
        )
    some: dict[str, Any] = {}
    if levels is not None:
        some["out_indices"] = tuple(range(levels))
    encoder: nn.Module = timm.create_model(
        name,
        features_only=True,
        in_chans=bands,
        pretrained=pretrained is True,
        **some,
    )
    if file is not None:
        with torch.device("meta"):
            full = timm.create_model(name, in_chans=bands)
        trained_on = "" if package is None else package.trained_on
        encoder.pretrained_from = load_pretrained(  # type: ignore[assignment]
            encoder, file, full, trained_on=trained_on
        )
    return encoder


def _file_of_package(name: str, package: WeightPackage, encoder: str) -> Path:
    if encoder != package.encoder:
        raise ValueError(
            f"pretrained={name!r} are weights of the encoder {package.encoder!r}, got "
            f"encoder {encoder!r}; give encoder={package.encoder!r}."
        )
    return installed_file(name, package)


def encoder_strides(name: str) -> list[int]:
    """Return the strides of an encoder's levels in pixels, the finest first.

    Raises
    ------
    ValueError
        If there is no such timm model.
    """
    with torch.device("meta"):  # without memory or random numbers for its weights
        encoder = feature_encoder(name, 3, False)
    return list(encoder.feature_info.reduction())  # type: ignore[operator, union-attr]


def unet_decoder(
    encoder_channels: tuple[int, ...], decoder_channels: tuple[int, ...]
) -> nn.Module:
    """Build the decoder of a U-Net, with the scSE gates of the competition's winner.

    Parameters
    ----------
    encoder_channels : tuple of int
        Channels of the image and of the encoder's levels, the finest first.
    decoder_channels : tuple of int
        Channels of the decoder's levels, coarse to fine.
    """
    from segmentation_models_pytorch.base.modules import SCSEModule
    from segmentation_models_pytorch.decoders.unet.decoder import UnetDecoder

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Initializing zero-element tensors")
        # The decoder ignores the first entry: no skip connection at full resolution.
        decoder: nn.Module = UnetDecoder(
            encoder_channels=encoder_channels,
            decoder_channels=decoder_channels,
            n_blocks=len(decoder_channels),
            attention_type="scse",
            add_center_block=False,
        )
    for module in decoder.modules():
        gate = getattr(module, "attention", None)
        # scSE divides the channels by 16, which leaves none of fewer than 16 channels.
        if isinstance(gate, SCSEModule) and gate.cSE[1].out_channels == 0:
            channels = gate.cSE[1].in_channels
            module.attention = SCSEModule(channels, reduction=channels)
    # The last level has no skip connection, so its first gate is never run. It stays,
    # as in the winner's network, but frozen: several processes wait for all gradients.
    decoder.blocks[-1].attention1.requires_grad_(False)  # type: ignore[index, union-attr]
    return decoder


def initialise(decoder: nn.Module, head: nn.Conv2d) -> None:
    """Initialise decoder (Kaiming uniform) and head (Xavier), as the winner did."""
    for module in decoder.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_uniform_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    nn.init.xavier_uniform_(head.weight)
    if head.bias is not None:
        nn.init.zeros_(head.bias)


def encode_by_group(
    encode: Encode,
    encoder: nn.Module,
    packed: Tensor,
    season: Tensor | None,
    groups: int,
) -> tuple[list[Tensor], list[Tensor]]:
    """Encode in groups, and again in the backward pass, which takes less memory.

    A group has months of the whole year and of all samples, since batch norm computes
    its statistics within the group.

    Parameters
    ----------
    encode : callable
        Function of the images of a group, and of their seasons.
    encoder : torch.nn.Module
        The encoder that it runs; its batch norm counts each group once.
    packed, season : Tensor
        (image, band, y, x), and (image, 4) or None.
    groups : int
        Number of groups.

    Returns
    -------
    levels, scores : list of Tensor
        As `encode` returns them, in the order of `packed`.
    """
    parts = [
        checkpoint(
            encode,
            packed[first::groups],
            None if season is None else season[first::groups],
            use_reentrant=False,
            context_fn=lambda: (nullcontext(), _preserve_buffers(encoder)),
        )
        for first in range(groups)
    ]
    order = torch.arange(len(packed), device=packed.device)
    back = torch.cat([order[first::groups] for first in range(groups)]).argsort()
    levels, scores = (
        [torch.cat(level)[back] for level in zip(*kind, strict=True)]
        for kind in zip(*parts, strict=True)
    )
    return levels, scores


def nothing_pooled(
    encoder: nn.Module, attention: nn.Module, packed: Tensor, batch: int
) -> list[Tensor]:
    """Return the pooled features of samples without any month: zeros.

    Parameters
    ----------
    encoder, attention : torch.nn.Module
        Of the network.
    packed : Tensor
        (0, band, y, x), padded to a multiple of the network's stride.
    batch : int
        Number of samples.

    Returns
    -------
    list of Tensor
        (batch, channel, rows, columns) for each level, the finest first.
    """
    height, width = packed.shape[-2:]
    info = encoder.feature_info
    sizes = zip(info.channels(), info.reduction(), strict=True)  # type: ignore[operator, union-attr]
    zero = packed.new_zeros(())
    if torch.is_grad_enabled():
        # Several processes wait for a gradient of every weight, even if it is zero.
        weights = [*encoder.parameters(), *attention.parameters()]
        zero = torch.stack([weight.sum() for weight in weights]).sum() * 0
    return [zero.expand(batch, c, height // s, width // s) for c, s in sizes]


@contextmanager
def _preserve_buffers(module: nn.Module) -> Iterator[None]:
    """Preserve all buffers during a second pass over the same images."""
    owners = [
        (owner, name, buffer)
        for owner in module.modules()
        for name, buffer in owner.named_buffers(recurse=False)
    ]
    for owner, name, buffer in owners:
        setattr(owner, name, buffer.clone())
    try:
        yield
    finally:
        for owner, name, buffer in owners:
            setattr(owner, name, buffer)
