"""Networks around networks: in other months, and several as one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from geobiomass.network.attention_unet import AttentionUNet, Look


class InMonths(nn.Module):
    """A network for images of other months than it was made for.

    Parameters
    ----------
    network : AttentionUNet
        With a month-of-year term.
    calendar : sequence of int
        Calendar months, 1 to 12, of the images' steps.
    """

    def __init__(self, network: AttentionUNet, calendar: Sequence[int]) -> None:
        super().__init__()
        self.network = network
        self.calendar = tuple(calendar)

    def forward(self, image: Tensor) -> Tensor:
        """(batch, month, band, y, x) -> (batch, output, y, x)."""
        return cast(Tensor, self.network(image, calendar=self.calendar))

    def look(self, image: Tensor) -> Look:
        """Predict and tell from what, as :meth:`AttentionUNet.look` does."""
        return self.network.look(image, calendar=self.calendar)


class Ensemble(nn.Module):
    """Several networks as one: the mean of their maps.

    Parameters
    ----------
    members : sequence of torch.nn.Module
        Each (batch, month, band, y, x) -> (batch, output, y, x).
    bands : sequence of sequence of int
        Which of the image's bands each member takes, in its order.
    spread : bool
        Give the standard deviation among the members too, after the means.
    last : int
        So many of each member's last maps have no spread; their means come last.
    """

    def __init__(
        self,
        members: Sequence[nn.Module],
        bands: Sequence[Sequence[int]],
        spread: bool = False,
        last: int = 0,
    ) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.bands = [list(chosen) for chosen in bands]
        self.spread = spread
        self.last = last

    def forward(self, image: Tensor) -> Tensor:
        """(batch, month, band, y, x) -> (batch, output, y, x)."""
        everything = list(range(image.shape[2]))
        maps = torch.stack(
            [
                member(image if chosen == everything else image[:, :, chosen])
                for member, chosen in zip(self.members, self.bands, strict=True)
            ]
        )
        if not self.spread:
            return maps.mean(dim=0)
        mean, first = maps.mean(dim=0), maps.shape[2] - self.last
        return torch.cat(
            [mean[:, :first], maps[:, :, :first].std(dim=0), mean[:, first:]], dim=1
        )
