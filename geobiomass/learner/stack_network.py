"""A learner by pixel that takes the map of a U-Net as one more feature."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor

from geobiomass.learner.pixel_network import PixelNetwork
from geobiomass.network.saved_settings import network_of_settings
from geobiomass.network.static_planes import months_of

MAP = "map of the network"
"""Name of the feature."""


class StackNetwork(PixelNetwork):
    """Features of each pixel and the map of a U-Net, and a learner of both.

    Parameters
    ----------
    features : dict
        Settings of :class:`.PixelFeatures`.
    inner : dict
        Settings of the U-Net.
    floor : float, optional
        Value that the U-Net's map is not below.
    **settings
        As :class:`.PixelNetwork` takes them.
    """

    more = 1

    def __init__(
        self,
        features: Mapping[str, Any],
        *,
        inner: Mapping[str, Any],
        floor: float | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(features, **settings)
        self.inner = network_of_settings(inner)
        if floor is not None and not isinstance(floor, int | float):
            raise ValueError(f"floor must be a number, got {str(floor)[:40]}")
        self.floor = floor
        self._inner_layers = self.inner.static_layers
        if self._inner_layers not in ((), self.static_layers):
            raise ValueError(
                "The network of a stack must read the static layers of the learner, "
                f"{list(self.static_layers)}, or none, got {list(self._inner_layers)}."
            )

    @property
    def settings(self) -> dict[str, Any]:
        """The settings, ready for JSON; with them the tensors have their sizes."""
        own = {"inner": self.inner.settings, "floor": self.floor}
        return super().settings | own

    def _features_of(self, image: Tensor, calendar: Sequence[int] | None) -> Tensor:
        features = super()._features_of(image, calendar)
        with torch.autocast(image.device.type, enabled=False):
            if not self._inner_layers:
                image = months_of(image, len(self.static_layers))
            found = self._map_of(image.float().clone(), calendar)
        if self.floor is not None:
            found = found.clamp_min(self.floor)
        return torch.cat([features, found], dim=1)

    def _map_of(self, image: Tensor, calendar: Sequence[int] | None) -> Tensor:
        """Return the map of the U-Net, which scales its image in place."""
        if torch.compiler.is_exporting():  # it has the form that can be exported
            return cast(Tensor, self.inner(image))[:, :1]
        months = self.calendar if calendar is None else tuple(calendar)
        own = None if self.inner.calendar is None else months
        return cast(Tensor, self.inner(image, calendar=own))[:, :1]
