"""Attention over months: which months a pixel's features are pooled from."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

_HARMONICS = 2  # waves a year that tell the months apart


class MonthAttention(nn.Module):
    """Pool month features with one weight a month and pixel.

    Each month's feature vector is scored by Linear, LayerNorm, GELU, Linear; the
    softmax of the scores over the months that are present weights their sum.

    Parameters
    ----------
    channels : int
        Channels of the features; the module has channels^2 + 4 channels + 1
        parameters.
    calendar : bool
        Whether the score knows the month of the year, by a term that is zero before
        training: 4 channels more parameters.
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
        """Give the weights of the months.

        Parameters
        ----------
        features : Tensor
            (batch, month, channel, y, x).
        present : Tensor, optional
            (batch, month) bool; by default all months.
        season : Tensor, optional
            (month, 4), the first two waves of the year at the months, as `seasons`
            gives them; without it the month-of-year term is left out.

        Returns
        -------
        Tensor
            (batch, month, 1, y, x); they sum to one over the present months and
            are exactly zero elsewhere, and all zero where no month is present.
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
        """Score images one by one: (image, channel, y, x) -> (image, 1, y, x).

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

        Months that are not `present`, (batch, month) bool, have no influence, even
        where their features are NaN.
        """
        if present is None:
            present = features.new_ones(features.shape[:2], dtype=torch.bool)
        packed = features[present]
        scores = self.scores(packed, season_of_each(season, present))
        return pool_months(packed, scores, present.sum(dim=1).tolist())


def season_of_each(season: Tensor | None, present: Tensor) -> Tensor | None:
    """(month, 4) -> (months that are there, 4), sample by sample."""
    if season is None:
        return None
    return season.expand(len(present), *season.shape)[present]


def pool_months(features: Tensor, scores: Tensor, counts: list[int]) -> Tensor:
    """Average the images of each sample by the softmax of their scores.

    Sample by sample, so that months that are absent need no place in a full array,
    and the weighted features, as large as the features, are never there as a whole.

    Parameters
    ----------
    features, scores : Tensor
        (image, channel, y, x) and (image, 1, y, x), sample by sample.
    counts : list of int
        Images of each sample; one without any becomes zero.

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
    # The sum gave up the order of memory in which the decoder is fastest.
    return pooled.contiguous(memory_format=torch.channels_last)


def seasons(calendar: Sequence[int] | Tensor) -> Tensor:
    """Give (month, 4), the first two waves of the year at calendar months 1 to 12."""
    months = torch.as_tensor(calendar, dtype=torch.float32)
    angles = [2 * math.pi * wave / 12 * months for wave in range(1, _HARMONICS + 1)]
    return torch.stack([f(a) for a in angles for f in (torch.sin, torch.cos)], dim=-1)


def check_calendar(calendar: Sequence[int]) -> tuple[int, ...]:
    """Give calendar months, 1 to 12, as numbers.

    Raises
    ------
    ValueError
        If one is out of range.
    """
    months = tuple(int(month) for month in calendar)
    if any(not 1 <= month <= 12 for month in months):
        raise ValueError(
            f"calendar must hold calendar months 1 to 12, got {list(months)}."
        )
    return months
