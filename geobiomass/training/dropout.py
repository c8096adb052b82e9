"""Left-out months, passes and optical images, as real archives leave them out.

A month that is dropped stays in the image, since the mask alone decides; a pass that
is dropped becomes NaN, since other bands of its month stay. Random choices come from
torch's global generator of the CPU, which the trainer seeds before every step, unless
a generator is given. A sample that would lose all it has loses nothing.
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
# the six patterns that occur. The second and the last occur in no test chip.
OPTICAL_PATTERNS = (
    "111011111111",
    "000000111111",
    "111111111111",
    "111001111111",
    "110001111111",
    "000000011111",
)
_FIRST_MONTH = 9


def drop_months(
    image: Tensor,
    present: Tensor | None,
    probability_batch: float = 0.5,
    probability_month: float = 0.3,
    generator: Generator | None = None,
) -> Tensor:
    """Declare some months of some samples missing, never all of a sample's.

    The image itself stays, as values of a missing month change no prediction.

    Parameters
    ----------
    image
        (batch, month, band, y, x) float, NaN where missing.
    present
        (batch, month) bool; None: months with any finite value.
    probability_batch
        That a sample loses months at all.
    probability_month
        That it then loses one of its months.
    generator
        Of the CPU; None is torch's global one.

    Returns
    -------
    Tensor
        (batch, month) bool, which months are there now. Where all of a sample's
        months would go, one of them, drawn at random, stays.
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
    """Take the optical images from the months in which a real chip lacks them.

    Radar stays, and nothing comes back: a month that a sample already lacks stays away.

    Parameters
    ----------
    image
        (batch, month, band, y, x) float, physical units, NaN where missing.
    passes
        The number of its sensor pass for each band.
    optical
        The number of the optical pass.
    calendar
        The calendar month, 1 to 12, of each step: cubes hold months in the order
        of acquisition. A step with another number keeps its image.
    probability
        That a sample gets one of the patterns, all equally likely.
    patterns
        Twelve characters each, September to August, 1 where the image stays.
        Naming one twice doubles its chance.
    present
        (batch, month) bool, the months that count; None is all.
    generator
        Of the CPU; None is torch's global one.

    Returns
    -------
    Tensor
        A copy of the image, or the image itself where no sample loses anything.

    Raises
    ------
    ValueError
        `passes` or `calendar` does not match the image, or a pattern is not twelve
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
    """Take a whole radar pass from some months of some samples.

    The months are one run of neighbours with ends drawn evenly, a month to all of
    them: in BioMassters a chip lacks its descending pass from one month to another,
    not here and there. At `probability` 0.5 and two passes of radar, each is missing
    in 10 % of the months (7 to 18 % of the real descending ones are).

    Parameters
    ----------
    image
        (batch, month, band, y, x) float, physical units, NaN where missing.
    passes
        The number of its sensor pass for each band.
    optical
        The number of the pass that is not radar and stays; None: all are radar.
    probability
        That a sample loses one of its radar passes, all equally likely.
    present
        (batch, month) bool, the months that count; None is all.
    generator
        Of the CPU; None is torch's global one.

    Returns
    -------
    Tensor
        A copy of the image, or the image itself where no sample loses anything,
        as where no pass is radar.

    Raises
    ------
    ValueError
        `passes` does not match the image.
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
    """Draw what `drop_patterns` takes: (sample, month, band) bool, of the CPU."""
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
    """Draw what `drop_passes` takes: (sample, month, band) bool, of the CPU."""
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
    """Set bands of months to NaN, one loss after the other.

    Parameters
    ----------
    image
        (batch, month, band, y, x) float, NaN where missing.
    losses
        Of (batch, month, band) bool each, what goes. A sample of which nothing
        would stay is spared that loss.
    present
        (batch, month) bool, the months that count; None is all.

    Returns
    -------
    image, present
        A copy, and the months that still hold a value, (batch, month) bool; what
        was given where the losses are empty.

    Raises
    ------
    ValueError
        A loss is not (batch, month, band) of the image.
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
        # A comparison on the device, not a branch: a GPU need not be waited for.
        bearable = (there & ~leaving).flatten(1).any(1)[:, None, None]
        gone = gone | (leaving & bearable)
        there = there & ~gone
    return image.masked_fill(gone[..., None, None], torch.nan), there.any(2)
