"""U-Net with one encoder for all months, and its result with features."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from geobiomass.network.encoder_decoder import (
    encode_by_group,
    feature_encoder,
    initialise,
    nothing_pooled,
    unet_decoder,
)
from geobiomass.network.encoder_input import (
    UNKNOWN,
    check_image,
    pad_to_stride,
    standardise,
)
from geobiomass.network.look import Look
from geobiomass.network.missing import Missing, check_passes, months_with_values
from geobiomass.network.month_attention import (
    MonthAttention,
    check_calendar,
    pool_months,
    season_of_each,
    seasons,
)
from geobiomass.network.rising_curve import RisingCurve
from geobiomass.network.static_fusion import StaticFusion
from geobiomass.network.static_planes import StaticLevels, unpacked

_LEAST_SPREAD = 0.01
"""Of the target's scale: a predicted standard deviation is at least this."""


class AttentionUNet(nn.Module):
    """U-Net of monthly images with attention pooling at every level.

    Parameters
    ----------
    bands : int
        Number of bands of a month's image.
    encoder : str
        Name of a timm model with a feature pyramid (``features_only``).
    decoder_channels : sequence of int
        Channels of the decoder's levels, coarse to fine, one for each level of the
        encoder; the last is at full resolution.
    outputs : int
        Number of maps to predict.
    pretrained : bool, str or Path
        False: random weights. True: timm's weights from its hub. A path: all weights
        of the encoder in a local safetensors or pth file, with timm's names, as
        ``geobiomass/network/pretrained.py`` finds them.
    passes : sequence of int, optional
        For each band the number of its sensor pass. Bands of one pass are missing
        together. By default all bands are of one pass.
    missing : "zero", "validity" or "renormalise"
        Input of the encoder where a band has no value in a month with other values.
        "zero": zero after scaling. "validity": also one channel per pass, which is 1
        where the pass has no value, else 0. "renormalise": the present bands are
        multiplied by (number of bands / number of present bands), as partial
        convolutions do (Liu and co-workers, 2018).
    calendar : sequence of int, optional
        Calendar months, 1 to 12, of the time steps. With them the attention has a
        month-of-year term.
    levels : int, optional
        Number of the encoder's levels to use, the finest first; None: all.
    spread : bool
        Whether the last output is a standard deviation, which is always above zero.
    curve : int, optional
        Straight parts of a curve that the maps pass through; None: no curve.
    static : sequence of str
        Names of static layers that images come with, after their months, as
        ``geobiomass.network.static_planes.packed_batch`` puts them there.
    static_levels : "finest", "coarsest" or "both"
        Levels of the encoder whose pooled features they are added to.

    Raises
    ------
    ValueError
        If the encoder is unknown, its levels do not form a pyramid,
        `decoder_channels` does not have one value for each level, `passes` does not
        have one for each band, or another setting is out of range.
    """

    shift: Tensor
    scale: Tensor
    target_shift: Tensor
    target_scale: Tensor
    season: Tensor

    def __init__(
        self,
        bands: int = 15,
        encoder: str = "tf_efficientnetv2_l.in21k",
        decoder_channels: Sequence[int] = (384, 368, 352, 336, 320),
        outputs: int = 1,
        pretrained: bool | str | Path = False,
        *,
        passes: Sequence[int] | None = None,
        missing: Missing = "zero",
        calendar: Sequence[int] | None = None,
        levels: int | None = None,
        spread: bool = False,
        curve: int | None = None,
        static: Sequence[str] = (),
        static_levels: StaticLevels = "both",
    ) -> None:
        super().__init__()
        self.missing, self.passes = missing, check_passes(passes, bands, missing)
        self.calendar = None if calendar is None else check_calendar(calendar)
        self.settings = {
            "bands": bands,
            "encoder": encoder,
            "decoder_channels": list(decoder_channels),
            "outputs": outputs,
            "passes": None if passes is None else list(self.passes),
            "missing": missing,
            "calendar": None if self.calendar is None else list(self.calendar),
        }
        if levels is not None:  # networks of all levels keep the settings they had
            self.settings["levels"] = levels
        self.spread = spread
        if spread:
            self.settings["spread"] = True
        flags = len(set(self.passes)) if missing == "validity" else 0
        self.encoder = feature_encoder(encoder, bands + flags, pretrained, levels)
        channels: list[int] = self.encoder.feature_info.channels()  # type: ignore[operator, union-attr]
        strides: list[int] = self.encoder.feature_info.reduction()  # type: ignore[operator, union-attr]
        if strides != sorted(set(strides)):
            raise ValueError(
                f"Levels of encoder {encoder!r} must have growing strides, such as 2, "
                f"4, 8 or 4, 8, 16, got {strides}; choose one that forms a pyramid, "
                "such as 'resnet18' or 'convnext_tiny'."
            )
        if len(decoder_channels) != len(channels):
            raise ValueError(
                f"decoder_channels must have {len(channels)} values, one for each "
                f"level of {encoder!r}, got {tuple(decoder_channels)}."
            )
        self.stride = strides[-1]
        # Number of a sample's months to encode together in training; None: all. Groups
        # take less memory, up to 1.5 times the time, and have their own batch norm.
        self.month_group: int | None = None
        self.attention = nn.ModuleList(
            MonthAttention(c, calendar is not None) for c in channels
        )
        self.decoder = unet_decoder((bands, *channels), tuple(decoder_channels))
        self.head = nn.Conv2d(decoder_channels[-1], outputs, 3, padding=1)
        initialise(self.decoder, self.head)
        self.register_buffer("shift", torch.zeros(bands))
        self.register_buffer("scale", torch.ones(bands))
        self.register_buffer("target_shift", torch.zeros(outputs))
        self.register_buffer("target_scale", torch.ones(outputs))
        # A buffer, to be on the network's device; not saved, as settings define it.
        season = torch.zeros(0) if self.calendar is None else seasons(self.calendar)
        self.register_buffer("season", season, persistent=False)
        self.curve: RisingCurve | None = None
        self.set_curve(None if curve is None else RisingCurve(curve))
        # Last, so that the other weights are drawn as without layers.
        self.fusion: StaticFusion | None = None
        if static:
            self.settings |= {"static": list(static), "static_levels": static_levels}
            self.fusion = StaticFusion(static, channels, strides, static_levels)

    @property
    def static_layers(self) -> tuple[str, ...]:
        """Names of the static layers that it reads, in their order."""
        return () if self.fusion is None else self.fusion.names

    def set_statistics(
        self,
        shift: Sequence[float],
        scale: Sequence[float],
        target_shift: Sequence[float] | None = None,
        target_scale: Sequence[float] | None = None,
    ) -> None:
        """Set the scaling of physical values by band: (value - shift) / scale.

        Parameters
        ----------
        shift, scale : sequence of float
            One value per band, in the cube's units. Scales must be above zero. A
            band with the scale `UNKNOWN` is taken as missing.
        target_shift, target_scale : sequence of float, optional
            One value per output, Mg/ha. The prediction is the raw output times the
            scale plus the shift.

        Raises
        ------
        ValueError
            If a length differs from the bands or outputs, or a scale is not
            above zero.
        """
        given = {
            "shift": shift,
            "scale": scale,
            "target_shift": target_shift,
            "target_scale": target_scale,
        }
        for name, values in given.items():
            if values is None:
                continue
            buffer: Tensor = getattr(self, name)
            new = torch.as_tensor(values, dtype=buffer.dtype, device=buffer.device)
            if new.shape != buffer.shape:
                raise ValueError(
                    f"{name} must have {buffer.numel()} values, got {new.numel()}."
                )
            if name.endswith("scale") and not bool((new > 0).all()):
                raise ValueError(f"{name} must be above zero, got {new.tolist()}.")
            buffer.copy_(new)

    def set_curve(self, curve: RisingCurve | None) -> None:
        """Set the curve that the maps pass through, with the ends of an interval.

        Parameters
        ----------
        curve : RisingCurve or None
            In the units of the target; None: maps are as the decoder has them. A
            standard deviation does not pass through it.
        """
        self.settings.pop("curve", None)
        if curve is not None:
            self.settings["curve"] = curve.parts
            curve = curve.to(self.shift.device)
        self.curve = curve

    def maps_of(self, raw: Tensor) -> Tensor:
        """Return maps in the units of the target, of the raw output of the head.

        Parameters
        ----------
        raw : Tensor
            (batch, outputs, y, x).
        """
        if self.spread:
            positive = nn.functional.softplus(raw[:, -1:]) + _LEAST_SPREAD
            raw = torch.cat([raw[:, :-1], positive], dim=1)
        maps = raw * self.target_scale[:, None, None] + self.target_shift[:, None, None]
        if self.curve is None:
            return maps
        if not self.spread:
            return cast(Tensor, self.curve(maps))
        return torch.cat([self.curve(maps[:, :-1]), maps[:, -1:]], dim=1)

    def forward(
        self,
        image: Tensor,
        present: Tensor | None = None,
        calendar: Sequence[int] | None = None,
    ) -> Tensor:
        """Predict maps from monthly images.

        Parameters
        ----------
        image : Tensor
            (batch, month, band, y, x) float, physical units, NaN where missing; with
            static layers after the months, if the network reads any. Height and width
            are padded with missing pixels to a multiple of the network's stride.
        present : Tensor, optional
            (batch, month) bool: months to use. A month without any value is never
            used.
        calendar : sequence of int, optional
            Calendar months of the time steps, for the month-of-year term; by default
            the network's own.

        Returns
        -------
        Tensor
            (batch, outputs, y, x), Mg/ha once statistics are set.

        Raises
        ------
        ValueError
            If a shape does not fit, or there is a month-of-year term and the calendar
            months of the image are not known.
        """
        image, static = self._parted(image)
        packed, levels = self._pool(image, present, calendar)
        padded = self._decode(packed, self._joined(levels, static))
        return padded[..., : image.shape[-2], : image.shape[-1]]

    def look(
        self,
        image: Tensor,
        present: Tensor | None = None,
        calendar: Sequence[int] | None = None,
    ) -> Look:
        """Predict maps, and return features and inputs of the same forward pass.

        Parameters
        ----------
        image, present, calendar
            As in :meth:`forward`.

        Returns
        -------
        Look
            Its ``maps`` equal the result of :meth:`forward`.
        """
        image, static = self._parted(image)
        season = self._seasons_of(image, calendar)
        packed, present = self._pack(image, present)
        counts: list[int] = present.sum(dim=1).tolist()
        finest = self.encoder.feature_info.reduction()[0]  # type: ignore[operator, union-attr]
        pooled = nn.functional.avg_pool2d(packed, finest)[:, : self.shift.numel()]
        # One pixel represents its cell, since a copy of the whole image takes long.
        known = self.without_unknown(image[..., ::finest, ::finest])
        there = known[present].isfinite().to(packed.dtype)
        edges = [pooled.shape[d] - there.shape[d] for d in (-1, -2)]
        there = nn.functional.pad(there, (0, edges[0], 0, edges[1]))
        bands = torch.cat([pooled, there], dim=1)
        if packed.shape[0] == 0:
            levels = nothing_pooled(self.encoder, self.attention, packed, len(counts))
            seen = bands.new_zeros(len(counts), *bands.shape[1:])
        else:
            each, scores = self._encode(packed, season_of_each(season, present))
            levels = [
                pool_months(*pair, counts) for pair in zip(each, scores, strict=True)
            ]
            seen = pool_months(bands, scores[0], counts)
        if self.fusion is not None and static is not None:
            cells = self.fusion.by_cell(static, *seen.shape[-2:])
            seen = torch.cat([seen, cells], dim=1)
        levels = self._joined(levels, static)
        padded = self._decode(packed, levels)
        maps = padded[..., : image.shape[-2], : image.shape[-1]]
        return Look(maps, levels, seen)

    def month_weights(
        self,
        image: Tensor,
        present: Tensor | None = None,
        calendar: Sequence[int] | None = None,
    ) -> Tensor:
        """Return the attention of the finest level, (batch, month, y / 2, x / 2)."""
        return self.month_weights_by_level(image, present, calendar)[0]

    def month_weights_by_level(
        self,
        image: Tensor,
        present: Tensor | None = None,
        calendar: Sequence[int] | None = None,
    ) -> list[Tensor]:
        """Return the attention of each level, the finest first.

        Parameters
        ----------
        image, present, calendar
            As in :meth:`forward`, but without static layers, which have no weight.

        Returns
        -------
        list of Tensor
            (batch, month, rows, columns) for each level, of the image padded to a
            multiple of `stride`: the weights of the pooling in :meth:`forward`. They
            sum to one over the present months and are exactly zero elsewhere.
        """
        season = self._seasons_of(image, calendar)
        packed, present = self._pack(image, present)
        counts: list[int] = present.sum(dim=1).tolist()
        weights = []
        for scores in self._encode(packed, season_of_each(season, present))[1]:
            shares = [one.softmax(dim=0) for one in torch.split(scores[:, 0], counts)]
            weights.append(scores.new_zeros(*present.shape, *scores.shape[2:]))
            weights[-1][present] = torch.cat(shares)
        return weights

    def _seasons_of(
        self, image: Tensor, calendar: Sequence[int] | None
    ) -> Tensor | None:
        """Return (month, 4) of the image's months; None without month-of-year term."""
        if self.calendar is None:
            return None
        if calendar is None:
            own = self.season
        else:
            own = seasons(check_calendar(calendar)).to(self.season)
        if image.ndim == 5 and len(own) != image.shape[1]:
            given = self.calendar if calendar is None else tuple(calendar)
            raise ValueError(
                f"calendar must name the calendar months of the image's "
                f"{image.shape[1]} steps, got {given}; give network(image, "
                "calendar=[9, 10, ...])."
            )
        return own

    def _pack(self, image: Tensor, present: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the standardised images of the present months, and the mask of months.

        Returns
        -------
        packed : Tensor
            (present months of all samples, band, y, x).
        present : Tensor
            (batch, month) bool.
        """
        check_image(image, present, self.shift.numel())
        image = self.without_unknown(image)
        there = months_with_values(image)
        present = there if present is None else there & present
        return self.encoder_input(image[present]), present

    def encoder_input(self, months: Tensor) -> Tensor:
        """Return what the encoder takes, of (n, band, y, x) physical values.

        It is padded to a multiple of the stride. The values may be changed in place.
        """
        padded = pad_to_stride(months, self.stride)
        return standardise(padded, self.shift, self.scale, self.missing, self.passes)

    @property
    def unknown(self) -> Tensor:
        """(band,) bool: bands that training had no information in."""
        return self.scale >= UNKNOWN

    def without_unknown(self, image: Tensor) -> Tensor:
        """Return an image in which bands that the network does not know are missing.

        What stands in them cannot be scaled, and the weights have never seen it.
        """
        unknown = self.unknown
        if not bool(unknown.any()):
            return image
        return image.masked_fill(unknown[:, None, None], math.nan)

    def _parted(self, image: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the months of an image, and its static layers if any are read."""
        return (
            (image, None)
            if self.fusion is None
            else unpacked(image, len(self.static_layers))
        )

    def _joined(self, levels: list[Tensor], static: Tensor | None) -> list[Tensor]:
        """Return pooled features with those of the static layers."""
        if self.fusion is None or static is None:
            return levels
        return cast("list[Tensor]", self.fusion(static, levels))

    def _decode(self, packed: Tensor, pooled: list[Tensor]) -> Tensor:
        """Return the maps of pooled features, still padded."""
        decoded = self.decoder([packed[:0], *pooled])
        # In bf16 the last layer would round to steps of 1/256 of the value.
        with torch.autocast(packed.device.type, enabled=False):
            raw = self.head(decoded.to(self.head.weight.dtype))
        return self.maps_of(raw)

    def _pool(
        self,
        image: Tensor,
        present: Tensor | None,
        calendar: Sequence[int] | None,
    ) -> tuple[Tensor, list[Tensor]]:
        """Return the packed months, and the features of each level over the months."""
        season = self._seasons_of(image, calendar)
        packed, present = self._pack(image, present)
        counts: list[int] = present.sum(dim=1).tolist()
        season = season_of_each(season, present)
        return packed, self._encode_and_pool(packed, counts, season)

    def _encode_and_pool(
        self, packed: Tensor, counts: list[int], season: Tensor | None
    ) -> list[Tensor]:
        if packed.shape[0] == 0:
            return nothing_pooled(self.encoder, self.attention, packed, len(counts))
        if self.month_group is None or not torch.is_grad_enabled():
            levels, scores = self._encode(packed, season)
        else:
            groups = math.ceil(max(counts) / self.month_group)
            levels, scores = encode_by_group(
                self._encode, self.encoder, packed, season, groups
            )
        return [
            pool_months(*level, counts) for level in zip(levels, scores, strict=True)
        ]

    def _encode(
        self, packed: Tensor, season: Tensor | None
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Return features and scores of each level, for each image."""
        levels: list[Tensor] = self.encoder(packed)
        scores = [
            cast(MonthAttention, attention).scores(level, season)
            for attention, level in zip(self.attention, levels, strict=True)
        ]
        return levels, scores
