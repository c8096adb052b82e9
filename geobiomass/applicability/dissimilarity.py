"""The dissimilarity to a network's training data, in the pass that makes the map."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from geobiomass.applicability.cells import (
    AT_ONCE,
    Looking,
    need_looking,
    strides_of,
    views_of,
)
from geobiomass.applicability.domain import ARRAYS, VIEWS, Domain
from geobiomass.applicability.layer_names import INDEX, INSIDE

# Repeated from inference/steps.py, which is a room on the same floor.
Pixels = npt.NDArray[np.float32]
Attributes = Mapping[str, Any]


class WithDissimilarity(nn.Module):
    """A network whose last map is the dissimilarity, from the same pass.

    Parameters
    ----------
    network : torch.nn.Module
        With ``look``, as :class:`geobiomass.network.AttentionUNet`.
    domain : Domain
        The domain of this network.
    """

    def __init__(self, network: nn.Module, domain: Domain) -> None:
        super().__init__()
        inner = getattr(network, "network", network)  # InMonths wraps a network
        need_looking(inner)
        self.network = network
        self.strides, self.cell = strides_of(inner), domain.cell
        self.scales = [view.mean_distance * view.threshold for view in domain.views]
        for name, view in zip(VIEWS, domain.views, strict=True):
            for part in ARRAYS:
                values = torch.from_numpy(getattr(view, part).copy())
                self.register_buffer(f"{name}_{part}", values)

    def forward(self, image: Tensor) -> Tensor:
        """Return (batch, output + 1, y, x) for (batch, month, band, y, x)."""
        look = cast(Looking, self.network).look(image)
        # Distances need more digits than bf16 has.
        with torch.autocast(image.device.type, enabled=False):
            index = self._index(views_of(look, self.strides, self.cell))
            wide = nn.functional.interpolate(
                index[:, None], scale_factor=self.cell, mode="bilinear"
            )
            wide = wide[..., : image.shape[-2], : image.shape[-1]]
        return torch.cat([look.maps, wide.to(look.maps.dtype)], dim=1)

    def _index(self, views: Sequence[Tensor]) -> Tensor:
        """Return the index (batch, rows, columns) of views (batch, channel, ...)."""
        each = []
        for name, scale, view in zip(VIEWS, self.scales, views, strict=True):
            mean, projection, reference = (
                getattr(self, f"{name}_{part}") for part in ARRAYS
            )
            rows = (view.movedim(1, -1) - mean) @ projection
            nearest = _nearest(rows.flatten(0, 2), reference) / scale
            each.append(nearest.reshape(rows.shape[:3]))
        return torch.stack(each).amax(dim=0)


def _nearest(rows: Tensor, reference: Tensor) -> Tensor:
    """Return the distance (n) of rows (n, k) to the nearest reference (m, k)."""
    lengths = (reference * reference).sum(dim=1)
    found = []
    for part in torch.split(rows, AT_ONCE):
        # |x - r|^2 without |x|^2 finds the nearest; its distance is then exact.
        nearest = torch.addmm(lengths, part, reference.T, alpha=-2).argmin(dim=1)
        found.append((part - reference[nearest]).norm(dim=1))
    return torch.cat(found)


@dataclass(frozen=True)
class Applicability:
    """The post-processing that adds the mask to the blended index.

    Parameters
    ----------
    fingerprint : str
        Fingerprint of the domain.
    """

    fingerprint: str

    def layers(self, layers: Mapping[str, Attributes]) -> dict[str, Attributes]:
        """Return the layers with the index, its attributes, and the mask."""
        return {
            **layers,
            INDEX: {
                "long_name": "dissimilarity to the training data",
                "units": "1",
                "comment": "0: as training data; above 1: outside the area of "
                "applicability (Meyer and Pebesma 2021)",
            },
            INSIDE: {
                "long_name": "inside the area of applicability",
                "units": "1",
                "flag_values": [0.0, 1.0],
                "flag_meanings": "outside inside",
            },
        }

    def apply(self, values: Mapping[str, Pixels]) -> dict[str, Pixels]:
        """Add the mask: 1 inside, 0 outside, NaN where nothing was observed."""
        index = values[INDEX]
        inside = np.where(np.isnan(index), index, index <= 1).astype(np.float32)
        return {**values, INSIDE: inside}

    def values_depend_on(self) -> dict[str, Any]:
        """Return the domain's fingerprint."""
        return {"applicability": self.fingerprint}
