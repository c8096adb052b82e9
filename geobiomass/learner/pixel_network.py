"""A learner by pixel as a network: an image in, maps out, all of it tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self, cast

import numpy as np
import torch
from torch import Tensor, nn

from geobiomass.learner.features import PixelFeatures
from geobiomass.learner.fitting import EXTRA, KERNEL, FittedParts
from geobiomass.learner.kernel_ridge import KernelRidge
from geobiomass.learner.own_estimator import OwnEstimator
from geobiomass.learner.trees import Trees
from geobiomass.network.look import Look
from geobiomass.network.static_planes import without_values

BLEND = "blend"
OWN = "own"

_AT_ONCE = 16_384  # pixels that trees are followed for together
_LARGEST = 2**33  # nodes, bytes: what saved settings may claim


class PixelNetwork(nn.Module):
    """Features of each pixel, and a learner that predicts from them.

    Parameters
    ----------
    features : dict
        Settings of :class:`.PixelFeatures`.
    learner : "blend" or "own"
        Trees and a kernel ridge regression, or the user's own estimator.
    outputs : int
        Maps: 1, or 3 with the two ends of an interval before calibration.
    quantiles : sequence of float
        The two quantiles of these ends; empty without.
    trees : dict, optional
        Settings of :class:`.Trees`.
    kinds : dict, optional
        Number of trees by kind, in the order of the trees.
    rows : int
        Training rows of the kernel ridge regression, 0 without it.
    own : dict, optional
        Settings of :class:`.OwnEstimator`.
    """

    tile_multiple = 1  # pixels: a tile may have any size
    more = 0  # features besides those of the image
    shares: Tensor
    start: Tensor
    unknown: Tensor

    def __init__(
        self,
        features: Mapping[str, Any],
        learner: str = BLEND,
        outputs: int = 1,
        quantiles: Sequence[float] = (),
        trees: Mapping[str, Any] | None = None,
        kinds: Mapping[str, int] | None = None,
        rows: int = 0,
        own: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.features = PixelFeatures.of_settings(features)
        self.learner, self.outputs = learner, outputs
        self.quantiles = tuple(quantiles)
        self.kinds = dict(kinds or {})
        count = len(self.features.names) + self.more
        self.kernel = KernelRidge(count, rows)
        self.trees = Trees(**trees) if trees is not None else Trees(0, ())
        self.own = OwnEstimator(count, **own) if own is not None else None
        shares = torch.zeros(len(self.kinds) + 1, dtype=torch.float64)
        self.shares = nn.Parameter(shares, requires_grad=False)
        self.register_buffer("start", torch.zeros((), dtype=torch.float64))
        unknown = torch.zeros(len(self.features.bands), dtype=torch.bool)
        self.register_buffer("unknown", unknown)

    @property
    def settings(self) -> dict[str, Any]:
        """The settings, ready for JSON; with them the tensors have their sizes."""
        found: dict[str, Any] = {
            "bands": len(self.features.bands),
            "learner": self.learner,
            "outputs": self.outputs,
            "quantiles": list(self.quantiles),
            "features": self.features.settings,
            "trees": self.trees.settings,
            "kinds": self.kinds,
            "rows": len(self.kernel.rows),
        }
        return found | ({} if self.own is None else {"own": self.own.settings})

    @classmethod
    def of_settings(cls, settings: Mapping[str, Any]) -> Self:
        """Build the network of saved settings, without what it learnt.

        Raises
        ------
        ValueError
            If a setting has another type, or a size that no learner has.
        """
        given = {k: v for k, v in settings.items() if k != "bands"}
        if given.get("learner") not in (BLEND, OWN) or given.get("outputs") not in (
            *(1, 3),
        ):
            raise ValueError(
                f"learner must be {BLEND!r} or {OWN!r} and outputs 1 or 3, got "
                f"{given.get('learner')!r} and {given.get('outputs')!r}"
            )
        trees = given.get("trees") or {}
        sizes = [trees.get("nodes", 0), *trees.get("depths", []), given.get("rows", 0)]
        sizes += [(given.get("own") or {}).get("size", 0)]
        if any(type(n) is not int or not 0 <= n <= _LARGEST for n in sizes):
            raise ValueError("sizes of trees must be whole numbers, got others")
        layers = (given.get("features") or {}).get("layers", [])
        if type(layers) is not list or any(type(name) is not str for name in layers):
            raise ValueError("layers must be a list of names, got another value")
        made = cls(**given)
        if len(made.features.bands) != settings["bands"]:
            raise ValueError(
                f"bands must be those of the features, {len(made.features.bands)}, got "
                f"{settings['bands']}"
            )
        return made

    @classmethod
    def of_parts(
        cls,
        features: PixelFeatures,
        parts: FittedParts,
        quantiles: Sequence[float] = (),
        **more: Any,
    ) -> Self:
        """Build the network of what was fitted; `more` are settings of a subclass."""
        made = cls(
            features.settings,
            **more,
            outputs=3 if quantiles else 1,
            quantiles=quantiles,
            trees=parts.trees.settings,
            kinds=parts.kinds,
            rows=len(parts.kernel.rows),
        )
        made.kernel, made.trees = parts.kernel, parts.trees
        shares = [parts.shares.get(name, 0.0) for name in (*parts.kinds, KERNEL)]
        made.shares.copy_(torch.tensor(shares, dtype=torch.float64))
        made.start.fill_(parts.start)
        return made

    @property
    def static_layers(self) -> tuple[str, ...]:
        """Names of the static layers that are features."""
        return self.features.layers

    @property
    def calendar(self) -> tuple[int, ...]:
        """Calendar months of the images, where no others are given."""
        return self.features.calendar

    @property
    def strides(self) -> tuple[int, ...]:
        """Side of the cells that an area of applicability compares: pixels."""
        return (1,)

    @property
    def radius(self) -> int:
        """Pixels around a pixel that its value depends on."""
        return self.features.radius

    @property
    def parameter_count(self) -> int:
        """Number of values that were learnt: of nodes and of training rows."""
        own = 0 if self.own is None else self.own.content.numel()
        return self.trees.value.numel() + self.kernel.rows.numel() + own

    def forward(self, image: Tensor, calendar: Sequence[int] | None = None) -> Tensor:
        """Predict maps.

        Parameters
        ----------
        image : Tensor
            (batch, month, band, y, x) float32, physical units, NaN where missing; with
            static layers after the months, as
            :mod:`geobiomass.network.static_planes` has them.
        calendar : sequence of int, optional
            Calendar months of its steps; by default those of training.

        Returns
        -------
        Tensor
            (batch, output, y, x) float32.
        """
        return self._maps(self._features_of(image, calendar))

    def look(
        self,
        image: Tensor,
        present: Tensor | None = None,
        calendar: Sequence[int] | None = None,
    ) -> Look:
        """Predict maps, and return the features that they come from.

        Parameters
        ----------
        image, calendar
            As in :meth:`forward`.
        present : Tensor, optional
            (batch, month) bool: months that count.

        Returns
        -------
        Look
            Its ``maps`` equal the result of :meth:`forward`; features and bands are
            standardised.
        """
        if present is not None:
            image = without_values(
                image, len(self.static_layers), ~present[:, :, None, None, None]
            )
        features = self._features_of(image, calendar)
        batch, count, height, width = features.shape
        flat = features.movedim(1, 0).reshape(count, -1)
        level, seen = (
            view.reshape(-1, batch, height, width).movedim(0, 1)
            for view in self.views(flat)
        )
        return Look(self._maps(features), [level], seen)

    def views(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return what pixels are compared by, of (feature, pixel) float32.

        Returns
        -------
        tuple of Tensor
            (feature, pixel) standardised features; (2 inputs, pixel) the bands and
            static layers, and whether they have a value.
        """
        scaled = self.kernel.standardise(features).float()
        if self.static_layers:
            scaled = self._with_far_layers(scaled, features)
        inputs = [f"{band} mean" for band in self.features.bands]
        inputs += self.features.layer_names
        means = [self.features.names.index(name) for name in inputs]
        there = features[means].isfinite().float()
        return scaled, torch.cat([scaled[means], there])

    def _with_far_layers(self, scaled: Tensor, features: Tensor) -> Tensor:
        """Return standardised features whose static layers are not held in range.

        Held in the range of training, one feature of many would hardly be noticed.
        """
        first = len(self.features.names) - len(self.static_layers)
        rows = slice(first, len(self.features.names))
        shift, scale = self.kernel.shift[rows, None], self.kernel.scale[rows, None]
        far = ((features[rows].double() - shift) / scale).float()
        layers = torch.where(far.isfinite(), far, scaled[rows])
        return torch.cat([scaled[:first], layers, scaled[rows.stop :]])

    def _features_of(self, image: Tensor, calendar: Sequence[int] | None) -> Tensor:
        with torch.autocast(image.device.type, enabled=False):
            calendar = self.calendar if calendar is None else tuple(calendar)
            image = image.float()
            # A graph has no branch on values.
            if torch.compiler.is_exporting() or bool(self.unknown.any()):
                image = without_values(
                    image, len(self.static_layers), self.unknown[:, None, None]
                )
            return cast(Tensor, self.features(image, calendar))

    def _maps(self, features: Tensor) -> Tensor:
        batch, count, height, width = features.shape
        with torch.autocast(features.device.type, enabled=False):
            flat = features.movedim(1, 0).reshape(count, -1)
            if torch.compiler.is_exporting():
                maps = self.predict(flat)
            else:
                parts = [
                    self.predict(one) for one in torch.split(flat, _AT_ONCE, dim=1)
                ]
                maps = torch.cat(parts, dim=1)
        return maps.reshape(self.outputs, batch, height, width).movedim(0, 1).float()

    def predict(self, features: Tensor) -> Tensor:
        """Return (output, pixel) float64 for (feature, pixel) float32."""
        if self.own is not None:
            return cast(Tensor, self.own(features))[None]
        leaves = self.trees.leaves(features)
        total = torch.zeros(
            features.shape[1], dtype=torch.float64, device=features.device
        )
        forest, first = total, 0
        for share, (kind, count) in zip(self.shares, self.kinds.items(), strict=False):
            part = self.trees.total(leaves[first : first + count])
            if kind == EXTRA:
                part = forest = part / count
            else:
                part = self.start + part
            total = total + share * part
            first += count
        if len(self.kernel.rows):
            total = total + self.shares[-1] * self.kernel(features)
        if not self.quantiles:
            return total[None]
        # The trees that are no sums: each says what the value may be.
        own = leaves[: self.kinds[EXTRA]]
        response = self.trees.response.index_select(0, own.flatten())
        ordered = _sorted(response.reshape(own.shape)).double()
        moved = total - forest
        ends = [_quantile(ordered, level) + moved for level in self.quantiles]
        return torch.stack([total, *ends])


def _sorted(rows: Tensor) -> Tensor:
    """Return rows sorted along the first axis; numpy takes a fifth of torch's time."""
    if rows.device.type == "cpu" and not torch.compiler.is_exporting():
        return torch.from_numpy(np.sort(rows.numpy(), axis=0))
    return rows.sort(dim=0).values


def _quantile(ordered: Tensor, level: float) -> Tensor:
    """Return a quantile of sorted rows, between two of them as numpy does."""
    place = level * (ordered.shape[0] - 1)
    below = int(place)
    above = min(below + 1, ordered.shape[0] - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])


__all__ = ["BLEND", "OWN", "PixelNetwork"]
