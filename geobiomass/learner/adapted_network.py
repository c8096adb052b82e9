"""A network whose map is corrected with a few plots of the user's own ground."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from geobiomass.learner.correction import Correction
from geobiomass.learner.features import PixelFeatures
from geobiomass.learner.kernel_ridge import KernelRidge
from geobiomass.network.look import Look
from geobiomass.network.static_planes import months_of, without_values

ADAPTED = "adapted"
"""Name of the correction in the settings of a network."""

_LARGEST = 2**20  # rows: what saved settings may claim


class AdaptedNetwork(nn.Module):
    """A network, and a correction of its map: a line, and a kernel of the features.

    The ends of an interval keep their distance to the map, times the line's slope.

    Parameters
    ----------
    inner : torch.nn.Module
        The network, of whatever kind.
    features : dict, optional
        Settings of the :class:`.PixelFeatures` that the kernel compares; None without.
    rows : int
        Plots that the kernel compares with.
    """

    slope: Tensor
    intercept: Tensor

    def __init__(
        self,
        inner: nn.Module,
        features: Mapping[str, Any] | None = None,
        rows: int = 0,
    ) -> None:
        super().__init__()
        self.inner = inner
        self.features = None
        count = 0
        if features is not None:
            self.features = PixelFeatures.of_settings(features)
            count = len(self.features.names) + 1
        self.kernel = KernelRidge(count, rows)
        self.register_buffer("slope", torch.ones((), dtype=torch.float64))
        self.register_buffer("intercept", torch.zeros((), dtype=torch.float64))

    @classmethod
    def of(
        cls, inner: nn.Module, features: PixelFeatures, correction: Correction
    ) -> AdaptedNetwork:
        """Build the network of what was fitted."""
        kernel = correction.kernel
        known = None if kernel is None else features.settings
        made = cls(inner, known, 0 if kernel is None else len(kernel.rows))
        if kernel is not None:
            made.kernel = kernel
        made.slope.fill_(correction.slope)
        made.intercept.fill_(correction.intercept)
        return made

    @property
    def settings(self) -> dict[str, Any]:
        """The settings of the inner network, and those of the correction."""
        own = {
            "features": None if self.features is None else self.features.settings,
            "rows": len(self.kernel.rows),
        }
        return {**cast(Mapping[str, Any], self.inner.settings), ADAPTED: own}

    @staticmethod
    def around(inner: nn.Module, settings: Mapping[str, Any]) -> AdaptedNetwork:
        """Build the network of saved settings, without what it learnt.

        Raises
        ------
        ValueError
            If a setting has another type, or a size that no correction has.
        """
        own = settings[ADAPTED]
        rows = own["rows"]
        if type(rows) is not int or not 0 <= rows <= _LARGEST:
            raise ValueError(
                f"rows of a correction must be a whole number, got {rows!r}"
            )
        return AdaptedNetwork(inner, own["features"], rows)

    @property
    def static_layers(self) -> tuple[str, ...]:
        """Names of the static layers that the inner network reads."""
        return tuple(getattr(self.inner, "static_layers", ()))

    @property
    def calendar(self) -> tuple[int, ...] | None:
        """Calendar months of the images; None where they make no difference."""
        if self.features is not None:
            return self.features.calendar
        return cast("tuple[int, ...] | None", getattr(self.inner, "calendar", None))

    @property
    def strides(self) -> tuple[int, ...]:
        """Side of the cells that an area of applicability compares: pixels."""
        own = getattr(self.inner, "strides", None)
        if own is not None:
            return tuple(own)
        return tuple(self.inner.encoder.feature_info.reduction())  # type: ignore[union-attr, operator]

    def forward(self, image: Tensor, calendar: Sequence[int] | None = None) -> Tensor:
        """Predict (batch, output, y, x) from (batch, month, band, y, x)."""
        features = self._features_of(image, calendar)
        return self._corrected(self.inner(image, **self._months(calendar)), features)

    def look(
        self,
        image: Tensor,
        present: Tensor | None = None,
        calendar: Sequence[int] | None = None,
    ) -> Look:
        """Predict maps, and return the features and inputs of the inner network.

        Parameters
        ----------
        image, calendar
            As in :meth:`forward`.
        present : Tensor, optional
            (batch, month) bool: months that count.
        """
        if present is not None:
            gone = ~present[:, :, None, None, None]
            image = without_values(image, len(self.static_layers), gone)
        features = self._features_of(image, calendar)
        found = self.inner.look(image, present, **self._months(calendar))  # type: ignore[operator]
        return Look(self._corrected(found.maps, features), found.levels, found.seen)

    def _months(self, calendar: Sequence[int] | None) -> dict[str, Any]:
        if getattr(self.inner, "calendar", None) is None:
            return {}
        return {"calendar": self.calendar if calendar is None else tuple(calendar)}

    def _features_of(
        self, image: Tensor, calendar: Sequence[int] | None
    ) -> Tensor | None:
        if self.features is None:
            return None
        months = self.features.calendar if calendar is None else tuple(calendar)
        image = months_of(image, len(self.static_layers))
        with torch.autocast(image.device.type, enabled=False):
            return cast(Tensor, self.features(image.float(), months))

    def _corrected(self, maps: Tensor, features: Tensor | None) -> Tensor:
        with torch.autocast(maps.device.type, enabled=False):
            first = maps[:, :1].double()
            moved = self.intercept + self.slope * first
            if features is not None:
                joined = torch.cat([features, maps[:, :1].float()], dim=1)
                batch, count, height, width = joined.shape
                more = self.kernel(joined.movedim(1, 0).reshape(count, -1))
                moved = moved + more.reshape(batch, 1, height, width)
            ends = moved + self.slope * (maps[:, 1:].double() - first)
            return torch.cat([moved, ends], dim=1).float()
