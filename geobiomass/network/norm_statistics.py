"""Batch norm's mean and variance, measured on images of the size of a map's tiles."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


def measure_norms(network: nn.Module, images: Iterable[Tensor], **others: Any) -> None:
    """Measure the mean and variance of each batch norm again, with fixed weights.

    The means over all images replace the running ones of training. Everything else
    of the network is in evaluation mode meanwhile, and it is so afterwards.

    Parameters
    ----------
    network : torch.nn.Module
        Changed in place: only the statistics of batch norm.
    images : iterable of Tensor
        Inputs of the network, each a batch on the network's device; at least one.
    **others
        Other arguments of the network, the same for all images.
    """
    norms = [one for one in network.modules() if isinstance(one, _BatchNorm)]
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
