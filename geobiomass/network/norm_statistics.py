"""Batch norm's mean and variance, measured on images of the size of a map's tiles."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


def measure_norms(
    network: nn.Module,
    images: Iterable[Tensor],
    *,
    fixed: nn.Module | None = None,
    **others: Any,
) -> None:
    """Measure the mean and variance of each batch norm again, with fixed weights.

    The means over all images replace the running ones of training. Everything else
    of the network is in evaluation mode meanwhile, and it is so afterwards.

    Parameters
    ----------
    network : torch.nn.Module
        Changed in place: only the statistics of batch norm.
    images : iterable of Tensor
        Inputs of the network, each a batch on the network's device; at least one.
    fixed : torch.nn.Module, optional
        A part of the network whose statistics stay.
    **others
        Other arguments of the network, the same for all images.
    """
    stay = set() if fixed is None else set(fixed.modules())
    norms = [
        one
        for one in network.modules()
        if isinstance(one, _BatchNorm) and one not in stay
    ]
    momenta = [one.momentum for one in norms]
    network.eval()
    for one in norms:
        one.reset_running_stats()
        one.momentum = None  # the plain mean over all batches
        one.train()
    try:
        with torch.no_grad():
            for image in images:
                network(image, **others)
    finally:
        for one, momentum in zip(norms, momenta, strict=True):
            one.momentum = momentum
        network.eval()


def sees_single_values(network: nn.Module, image: Tensor, **others: Any) -> bool:
    """Return whether a batch norm gets one value by channel of an image.

    Parameters
    ----------
    network : torch.nn.Module
        It stays as it is.
    image : Tensor
        An input of the network, on its device: a batch of one.
    **others
        Other arguments of the network.
    """
    found = []

    def look(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        found.append(inputs[0].numel() == inputs[0].shape[1])

    norms = [one for one in network.modules() if isinstance(one, _BatchNorm)]
    hooks = [one.register_forward_pre_hook(look) for one in norms]
    modes = [(one, one.training) for one in network.modules()]
    try:
        network.eval()
        with torch.no_grad():
            network(image, **others)
    finally:
        for hook in hooks:
            hook.remove()
        for one, mode in modes:
            one.training = mode
    return any(found)
