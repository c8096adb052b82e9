"""Attention over months: weights of the months by pixel."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

_HARMONICS = 2  # of the year: sine and cosine of each distinguish the months


class MonthAttention(nn.Module):
    """Pooling of the months' features with one weight per month and pixel.

    Each month's feature vector is scored by Linear, LayerNorm, GELU, Linear; the
    softmax of the scores over the present months gives the weights of their sum.

    Parameters
    ----------
    channels : int
        Number of channels of the features; the module has channels^2 + 4 channels + 1
        parameters.
    calendar : bool
        Whether the score has a month-of-year term, which is zero before training and
        has 4 channels parameters.
    """

    def __init__(self, channels: int, calendar: bool = False) -> None:
        super().__init__()
        self.score = nn.Sequential(
            nn.Linear(channels, channels),
            nn.LayerNorm(channels),
            nn.GELU(),
            nn.Linear(channels, 1),
        )
        self.season: nn.Linear | None = None
        if calendar:
            self.season = nn.Linear(2 * _HARMONICS, channels, bias=False)
            nn.init.zeros_(self.season.weight)

    def weights(
        self,
        features: Tensor,
        present: Tensor | None = None,
        season: Tensor | None = None,
    ) -> Tensor:
        """Return the weights of the months.

        Parameters
        ----------
        features : Tensor
            (batch, month, channel, y, x).
        present : Tensor, optional
            (batch, month) bool; by default all months.
        season : Tensor, optional
            (month, 4), as `seasons` returns them; without it there is no month-of-year
            term.

        Returns
        -------
        Tensor
            (batch, month, 1, y, x); they sum to one over the present months and
            are exactly zero elsewhere. If no month is present, all are zero.
        """
        if present is None:
            present = features.new_ones(features.shape[:2], dtype=torch.bool)
        scores = self.scores(features[present], season_of_each(season, present))
        counts: list[int] = present.sum(dim=1).tolist()
        shares = [of_sample.softmax(dim=0) for of_sample in torch.split(scores, counts)]
        weights = scores.new_zeros(*present.shape, *scores.shape[1:])
        weights[present] = torch.cat(shares)
        return weights

    def scores(self, features: Tensor, season: Tensor | None = None) -> Tensor:
        """Return the score of each image: (image, channel, y, x) -> (image, 1, y, x).

        `season` is (image, 4). Features in channels-last order are not copied.
        """
        hidden: Tensor = self.score[0](features.movedim(1, -1))
        if self.season is not None and season is not None:
            hidden = hidden + self.season(season)[:, None, None]
        scores: Tensor = self.score[1:](hidden)
        return scores.movedim(-1, 1)

    def forward(
        self,
        features: Tensor,
        present: Tensor | None = None,
        season: Tensor | None = None,
    ) -> Tensor:
        """Pool (batch, month, channel, y, x) to (batch, channel, y, x).

        Months that are not `present`, (batch, month) bool, have no effect, even if
        their features are NaN.
        """
        if present is None:
            present = features.new_ones(features.shape[:2], dtype=torch.bool)
        packed = features[present]
        scores = self.scores(packed, season_of_each(season, present))
        return pool_months(packed, scores, present.sum(dim=1).tolist())


def season_of_each(season: Tensor | None, present: Tensor) -> Tensor | None:
    """Return the seasons of the present months of each sample, (months, 4)."""
    if season is None:
        return None
    return season.expand(len(present), *season.shape)[present]


def pool_months(features: Tensor, scores: Tensor, counts: list[int]) -> Tensor:
    """Return the mean of each sample's images, weighted by the softmax of their scores.

    It works sample by sample, so that absent months take no memory, and the weighted
    features of only one sample are in memory.

    Parameters
    ----------
    features, scores : Tensor
        (image, channel, y, x) and (image, 1, y, x), sample by sample.
    counts : list of int
        Number of images of each sample; without images the result is zero.

    Returns
    -------
    Tensor
        (batch, channel, y, x).
    """
    of_sample = torch.split(features, counts), torch.split(scores, counts)
    pooled = torch.cat(
        [
            (each * score.softmax(dim=0)).sum(dim=0, keepdim=True)
            for each, score in zip(*of_sample, strict=True)
        ]
    )
    # The decoder is fastest in this memory format, which the sum does not keep.
    return pooled.contiguous(memory_format=torch.channels_last)


def seasons(calendar: Sequence[int] | Tensor) -> Tensor:
    """Return (month, 4), sine and cosine of the first two harmonics of the year."""
    months = torch.as_tensor(calendar, dtype=torch.float32)
    angles = [2 * math.pi * wave / 12 * months for wave in range(1, _HARMONICS + 1)]
    return torch.stack([f(a) for a in angles for f in (torch.sin, torch.cos)], dim=-1)


def check_calendar(calendar: Sequence[int]) -> tuple[int, ...]:
    """Return calendar months as integers.

    Raises
    ------
    ValueError
        If a month is not 1 to 12.
    """
    months = tuple(int(month) for month in calendar)
    if any(not 1 <= month <= 12 for month in months):
        raise ValueError(
            f"calendar must hold calendar months 1 to 12, got {list(months)}."
        )
    return months
