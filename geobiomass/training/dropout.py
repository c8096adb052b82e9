"""Dropout of months, radar passes and optical images, as they are missing in archives.

The values of a dropped month stay in the image, since the network uses only the months
of the mask. A dropped pass becomes NaN, since other bands of its month stay. Random
numbers are of torch's global CPU generator, which the trainer seeds before every step,
unless a generator is given. A sample that would lose all its values loses none.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Generator, Tensor

__all__ = [
    "OPTICAL_PATTERNS",
    "draw_passes",
    "draw_patterns",
    "drop_bands",
    "drop_months",
    "drop_passes",
    "drop_patterns",
]

# Months, September to August, in which a chip of BioMassters has a Sentinel-2 image:
# all six patterns of the data. No test chip has the second or the last one.
OPTICAL_PATTERNS = (
    "111011111111",
    "000000111111",
    "111111111111",
    "111001111111",
    "110001111111",
    "000000011111",
)
_FIRST_MONTH = 9  # September, the first month of the patterns


def drop_months(
    image: Tensor,
    present: Tensor | None,
    probability_batch: float = 0.5,
    probability_month: float = 0.3,
    generator: Generator | None = None,
) -> Tensor:
    """Return a mask of months in which some samples lose months, but never all.

    The image is not changed, since values of a missing month affect no prediction.

    Parameters
    ----------
    image
        (batch, month, band, y, x) float, NaN where missing.
    present
        (batch, month) bool; None: months with any finite value.
    probability_batch
        Probability that a sample loses months.
    probability_month
        Probability that it then loses each of its months.
    generator
        A generator of the CPU; None is torch's global one.

    Returns
    -------
    Tensor
        (batch, month) bool: the present months. If a sample would lose all months, one
        of them, drawn at random, stays.
    """
    if present is None:
        present = image.isfinite().flatten(2).any(2)
    batch, months = present.shape
    affected = torch.rand(batch, 1, generator=generator) < probability_batch
    scores = torch.rand(batch, months, generator=generator)
    leaves = (affected & (scores < probability_month)).to(present.device)
    kept = present & ~leaves
    highest = scores.to(present.device).masked_fill(~present, -1.0).argmax(1)
    survivor = torch.zeros_like(present)
    survivor[torch.arange(batch, device=present.device), highest] = True
    emptied = ~kept.any(1, keepdim=True)
    return kept | (emptied & present & survivor)


def drop_patterns(
    image: Tensor,
    passes: Sequence[int],
    optical: int,
    calendar: Sequence[int],
    probability: float = 0.5,
    *,
    patterns: Sequence[str] = OPTICAL_PATTERNS,
    present: Tensor | None = None,
    generator: Generator | None = None,
) -> Tensor:
    """Drop optical images in the months in which real chips have none.

    Radar is not changed, and missing months stay missing.

    Parameters
    ----------
    image
        (batch, month, band, y, x) float, physical units, NaN where missing.
    passes
        The number of its sensor pass for each band.
    optical
        The number of the optical pass.
    calendar
        The calendar month, 1 to 12, of each time step: the months of a cube are in the
        order of acquisition. A time step with another number keeps its image.
    probability
        Probability that a sample gets one of the patterns, all equally likely.
    patterns
        Twelve characters each, September to August, 1 where the image stays. A pattern
        that is given twice has twice the probability.
    present
        (batch, month) bool, the months to use; None is all.
    generator
        A generator of the CPU; None is torch's global one.

    Returns
    -------
    Tensor
        A copy of the image, or the image itself if no sample loses a value.

    Raises
    ------
    ValueError
        If `passes` or `calendar` does not match the image, or a pattern is not twelve
        characters of 0 and 1.
    """
    lost = draw_patterns(
        len(image), passes, optical, calendar, probability, patterns, generator
    )
    return drop_bands(image, [lost], present)[0]


def drop_passes(
    image: Tensor,
    passes: Sequence[int],
    optical: int | None = None,
    probability: float = 0.5,
    *,
    present: Tensor | None = None,
    generator: Generator | None = None,
) -> Tensor:
    """Drop a whole radar pass in some months of some samples.

    The months are one run of consecutive months with uniformly drawn ends: chips of
    BioMassters lack their descending pass from one month to another, not in single
    months. With `probability` 0.5 and two radar passes, each is missing in 10 % of the
    months (of the real descending passes 7 to 18 % are).

    Parameters
    ----------
    image
        (batch, month, band, y, x) float, physical units, NaN where missing.
    passes
        The number of its sensor pass for each band.
    optical
        The number of the pass that is not radar and is not dropped; None: all are
        radar.
    probability
        Probability that a sample loses one of its radar passes, all equally likely.
    present
        (batch, month) bool, the months to use; None is all.
    generator
        A generator of the CPU; None is torch's global one.

    Returns
    -------
    Tensor
        A copy of the image, or the image itself if no sample loses a value, or no pass
        is radar.

    Raises
    ------
    ValueError
        If `passes` does not match the image.
    """
    batch, months = image.shape[:2]
    lost = draw_passes(batch, months, passes, optical, probability, generator)
    return drop_bands(image, [lost], present)[0]


def draw_patterns(
    samples: int,
    passes: Sequence[int],
    optical: int,
    calendar: Sequence[int],
    probability: float,
    patterns: Sequence[str] = OPTICAL_PATTERNS,
    generator: Generator | None = None,
) -> Tensor:
    """Draw what `drop_patterns` drops: (sample, month, band) bool, on the CPU."""
    for pattern in patterns:
        if len(pattern) != 12 or set(pattern) - set("01"):
            raise ValueError(
                "patterns of drop_patterns must be twelve characters of 0 and 1, "
                f"September to August, got {pattern!r}"
            )
    absent = torch.tensor(
        [
            [
                1 <= month <= 12 and pattern[(month - _FIRST_MONTH) % 12] == "0"
                for month in calendar
            ]
            for pattern in patterns
        ]
    )
    affected = torch.rand(samples, generator=generator) < probability
    drawn = torch.randint(len(patterns), (samples,), generator=generator)
    lost = absent[drawn] & affected[:, None]
    return lost[:, :, None] & (torch.tensor(passes) == optical)


def draw_passes(
    samples: int,
    months: int,
    passes: Sequence[int],
    optical: int | None,
    probability: float,
    generator: Generator | None = None,
) -> Tensor:
    """Draw what `drop_passes` drops: (sample, month, band) bool, on the CPU."""
    radar = torch.tensor(sorted(set(passes) - {optical}), dtype=torch.long)
    if not len(radar):
        return torch.zeros(samples, months, len(passes), dtype=torch.bool)
    affected = torch.rand(samples, generator=generator) < probability
    drawn = radar[torch.randint(len(radar), (samples,), generator=generator)]
    ends = torch.randint(months, (samples, 2), generator=generator)
    step = torch.arange(months)
    run = (step >= ends.amin(1, keepdim=True)) & (step <= ends.amax(1, keepdim=True))
    bands = torch.tensor(passes) == drawn[:, None]
    return (run & affected[:, None])[:, :, None] & bands[:, None]


def drop_bands(
    image: Tensor, losses: Sequence[Tensor], present: Tensor | None = None
) -> tuple[Tensor, Tensor | None]:
    """Set bands of months to NaN, by several masks in sequence.

    Parameters
    ----------
    image
        (batch, month, band, y, x) float, NaN where missing.
    losses
        (batch, month, band) bool each: the values to drop. A loss is not applied to a
        sample that would have no value left.
    present
        (batch, month) bool, the months to use; None is all.

    Returns
    -------
    image, present
        A copy, and the months that still have a value, (batch, month) bool; the
        arguments themselves if nothing is dropped.

    Raises
    ------
    ValueError
        If a loss is not (batch, month, band) of the image.
    """
    for lost in losses:
        if lost.shape != image.shape[:3]:
            raise ValueError(
                "passes and calendar must match the bands and months of the image, "
                f"{tuple(image.shape[:3])} (batch, month, band), got "
                f"{tuple(lost.shape)}"
            )
    if not any(bool(lost.any()) for lost in losses):
        return image, present
    there = image.isfinite().flatten(3).any(3)
    if present is not None:
        there = there & present[:, :, None]
    gone = torch.zeros_like(there)
    for lost in losses:
        leaving = lost.to(image.device)
        # Computed on the device, without a branch, which would wait for the GPU.
        allowed = (there & ~leaving).flatten(1).any(1)[:, None, None]
        gone = gone | (leaving & allowed)
        there = there & ~gone
    return image.masked_fill(gone[..., None, None], torch.nan), there.any(2)
