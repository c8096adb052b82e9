"""Wrappers of networks: for other calendar months, and for ensembles."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from geobiomass.network.attention_unet import AttentionUNet
from geobiomass.network.look import Look
from geobiomass.network.static_planes import packed_batch, unpacked


class InMonths(nn.Module):
    """Network for images of other calendar months than its own.

    Parameters
    ----------
    network : AttentionUNet
        A network with a month-of-year term.
    calendar : sequence of int
        Calendar months, 1 to 12, of the images' time steps.
    """

    def __init__(self, network: AttentionUNet, calendar: Sequence[int]) -> None:
        super().__init__()
        self.network = network
        self.calendar = tuple(calendar)

    def forward(self, image: Tensor) -> Tensor:
        """Predict (batch, output, y, x) from (batch, month, band, y, x)."""
        return cast(Tensor, self.network(image, calendar=self.calendar))

    def look(self, image: Tensor) -> Look:
        """Predict with features and inputs, as :meth:`AttentionUNet.look` does."""
        return self.network.look(image, calendar=self.calendar)


class Ensemble(nn.Module):
    """Ensemble of networks, whose maps are the mean of the members' maps.

    Parameters
    ----------
    members : sequence of torch.nn.Module
        Networks, each (batch, month, band, y, x) -> (batch, output, y, x).
    bands : sequence of sequence of int
        Indices of the image's bands for each member, in its order.
    spread : bool
        Also return the standard deviation among the members, after the means.
    last : int
        Number of each member's last maps without a spread; their means come last.
    layers : sequence of sequence of int, optional
        Indices of the image's static layers for each member, in its order.
    static_layers : sequence of str
        Names of the image's static layers.
    """

    def __init__(
        self,
        members: Sequence[nn.Module],
        bands: Sequence[Sequence[int]],
        spread: bool = False,
        last: int = 0,
        layers: Sequence[Sequence[int]] | None = None,
        static_layers: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.bands = [list(chosen) for chosen in bands]
        self.spread = spread
        self.last = last
        self.static_layers = tuple(static_layers)
        self.layers = [list(chosen) for chosen in layers or [[]] * len(self.bands)]

    def forward(self, image: Tensor) -> Tensor:
        """Predict (batch, output, y, x) from (batch, month, band, y, x)."""
        everything = list(range(image.shape[2]))
        months, static = unpacked(image, len(self.static_layers))
        parts = []
        for member, chosen, layers in zip(
            self.members, self.bands, self.layers, strict=True
        ):
            part = months if chosen == everything else months[:, :, chosen]
            part = packed_batch(part, static[:, layers]) if layers else part
            parts.append(member(part))
        maps = torch.stack(parts)
        if not self.spread:
            return maps.mean(dim=0)
        mean, first = maps.mean(dim=0), maps.shape[2] - self.last
        return torch.cat(
            [mean[:, :first], maps[:, :, :first].std(dim=0), mean[:, first:]], dim=1
        )


def tile_multiple(network: nn.Module) -> int:
    """Return what the sides of the tiles of a small scene are a multiple of, pixels.

    Parameters
    ----------
    network : torch.nn.Module
        One that maps, wrapped or not.
    """
    own = [getattr(one, "tile_multiple", None) for one in network.modules()]
    nets = [isinstance(one, AttentionUNet) for one in network.modules()]
    return max([n for n in own if n is not None], default=32) if not any(nets) else 32


def unknown_bands(network: nn.Module) -> tuple[int, ...]:
    """Return the bands that a network takes as missing.

    Of an ensemble, the bands that any of its members takes so: where nothing else has a
    value, the mean would be of a member that sees nothing.

    Parameters
    ----------
    network : torch.nn.Module
        One that maps, wrapped or not.

    Returns
    -------
    tuple of int
        Indices of the image's bands.
    """
    if isinstance(network, Ensemble):
        pairs = zip(network.members, network.bands, strict=True)
        found = {own[band] for one, own in pairs for band in unknown_bands(one)}
        return tuple(sorted(found))
    inner = [one for one in network.modules() if hasattr(one, "unknown")]
    if not inner:
        return ()
    return tuple(cast(Tensor, inner[0].unknown).nonzero().flatten().tolist())
