"""Alternatives to the recipes: other ways to pool months, and other methods.

Networks have the interface of geobiomass's own: images in physical units, NaN where
missing. So they are trained on the same batches, with the same loss and optimiser.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from geobiomass.data.reader import Reader
from geobiomass.tiles import Sample

GBDT_PIXELS = 100_000  # as the demonstration samples
CONVLSTM_WIDTH = 24  # hidden channels: a forward pass costs about the same as ours


class MonthMean(nn.Module):
    """A replacement of MonthAttention: all months with data have equal weights.

    Parameters
    ----------
    channels : int
        Number of features; it is not used.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels

    def scores(self, features: Tensor, *_: object) -> Tensor:
        """Return equal scores: (image, channel, y, x) -> (image, 1, y, x)."""
        return features.new_zeros(len(features), 1, *features.shape[2:])


def average_months(network: Any) -> None:
    """Replace the attention of a network with the average over months."""
    network.attention = nn.ModuleList(
        MonthMean(channels) for channels in network.encoder.feature_info.channels()
    )


class Peer(nn.Module):
    """A network after our scaling of bands; missing values are zero after scaling.

    Parameters
    ----------
    body : torch.nn.Module
        (batch, month, band, y, x) scaled, NaN where missing -> (batch, 1, y, x).
    bands : int
        Number of bands in a month's image.
    """

    shift: Tensor
    scale: Tensor
    target_shift: Tensor
    target_scale: Tensor

    def __init__(self, body: nn.Module, bands: int) -> None:
        super().__init__()
        self.body = body
        self.settings = {"bands": bands, "outputs": 1, "encoder": type(body).__name__}
        self.calendar = None
        for name, length in (("", bands), ("target_", 1)):
            self.register_buffer(f"{name}shift", torch.zeros(length))
            self.register_buffer(f"{name}scale", torch.ones(length))

    def set_statistics(
        self,
        shift: Sequence[float],
        scale: Sequence[float],
        target_shift: Sequence[float],
        target_scale: Sequence[float],
    ) -> None:
        """Set the scaling (value - shift) / scale, by band and of the target."""
        for name in ("shift", "scale", "target_shift", "target_scale"):
            getattr(self, name).copy_(torch.as_tensor(locals()[name]))

    def forward(
        self, image: Tensor, present: Tensor | None = None, *_: object
    ) -> Tensor:
        """Predict, (batch, month, band, y, x) -> (batch, 1, y, x), Mg/ha."""
        scaled = (image - self.shift[:, None, None]) / self.scale[:, None, None]
        if present is not None:
            scaled = scaled.masked_fill(~present[:, :, None, None, None], torch.nan)
        result: Tensor = self.body(scaled) * self.target_scale + self.target_shift
        return result


class YearlyMedian(nn.Module):
    """A U-Net of segmentation_models_pytorch on the median of a year by band."""

    def __init__(self, encoder: str, decoder: Sequence[int], bands: int) -> None:
        super().__init__()
        self.unet = _unet(encoder, decoder, bands)

    def forward(self, scaled: Tensor) -> Tensor:
        """Predict, (batch, month, band, y, x) -> (batch, 1, y, x)."""
        result: Tensor = self.unet(scaled.nanmedian(dim=1).values.nan_to_num(0.0))
        return result


class Concatenated(nn.Module):
    """The same U-Net with the bands of all months as channels."""

    def __init__(
        self, encoder: str, decoder: Sequence[int], bands: int, months: int
    ) -> None:
        super().__init__()
        self.unet = _unet(encoder, decoder, months * bands)

    def forward(self, scaled: Tensor) -> Tensor:
        """Predict, (batch, month, band, y, x) -> (batch, 1, y, x)."""
        result: Tensor = self.unet(scaled.nan_to_num(0.0).flatten(1, 2))
        return result


class Recurrent(nn.Module):
    """torchgeo's ConvLSTM over the months, with a 1 x 1 layer on its last state.

    Of the networks of torchgeo 0.8.1, only this one maps a series of images with any
    bands: BTC, ChangeStar, ChangeViT and FCSiam take two dates, LTAE returns one vector
    per series, and the trainer of pixelwise regression takes one image.
    """

    def __init__(self, bands: int, width: int = CONVLSTM_WIDTH) -> None:
        from torchgeo.models import ConvLSTM

        super().__init__()
        self.series = ConvLSTM(bands, width, kernel_size=3, num_layers=1)
        self.head = nn.Conv2d(width, 1, 1)

    def forward(self, scaled: Tensor) -> Tensor:
        """Predict, (batch, month, band, y, x) -> (batch, 1, y, x)."""
        states = self.series(scaled.nan_to_num(0.0))[1]
        result: Tensor = self.head(states[-1][0])
        return result


def _unet(encoder: str, decoder: Sequence[int], channels: int) -> nn.Module:
    import segmentation_models_pytorch as smp

    network: nn.Module = smp.Unet(
        f"tu-{encoder}",
        encoder_weights=None,
        in_channels=channels,
        decoder_channels=tuple(decoder),
        classes=1,
    )
    return network


class PixelBoosting:
    """Gradient boosting on the unchanged months and bands of single pixels.

    Parameters
    ----------
    reader : Reader
        Reader of the training chips, with labels.
    seed : int
        Random seed of the drawn pixels and of the boosting.
    trees : int
        Rounds of boosting, the same as in the demonstration.
    """

    def __init__(self, reader: Reader, seed: int, trees: int = 300) -> None:
        from sklearn.ensemble import HistGradientBoostingRegressor

        draw = np.random.default_rng(seed)
        features, labels = [], []
        area = reader.height * reader.width
        share = min(area, GBDT_PIXELS // reader.count)
        for chip in range(reader.count):
            sample = Sample(reader.whole, chip)
            chosen = draw.choice(area, share, replace=False)
            features.append(reader.read(sample).reshape(-1, area)[:, chosen].T)
            labels.append(reader.labels(sample).ravel()[chosen])
        self.model = HistGradientBoostingRegressor(max_iter=trees, random_state=seed)
        self.model.fit(np.concatenate(features), np.concatenate(labels))

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Predict, (month, band, y, x) -> (y, x), Mg/ha."""
        height, width = image.shape[-2:]
        pixels = image.reshape(-1, height * width).T
        result: np.ndarray = self.model.predict(pixels).reshape(height, width)
        return result
