"""Flips, quarter turns and left-out months: changes that leave the answer as it is.

The eight orientations own their inverses, so that training and test-time averaging
use the same ones. Random choices come from torch's global generator of the CPU,
which the trainer seeds before every step, unless a generator is given.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor

__all__ = [
    "FLIPS",
    "ORIENTATIONS",
    "Augmentation",
    "Orientation",
    "drop_months",
    "random_orientation",
]


@dataclass(frozen=True)
class Orientation:
    """One of the eight ways to lay a square tile on its place.

    Parameters
    ----------
    turns
        Quarter turns against the clock, 0 to 3 (y runs downwards).
    mirrored
        Whether left and right are exchanged before turning.
    """

    turns: int = 0
    mirrored: bool = False

    def __post_init__(self) -> None:
        if self.turns not in range(4):
            raise ValueError(f"turns of Orientation must be 0 to 3, got {self.turns}")

    @property
    def inverse(self) -> Orientation:
        """The orientation that undoes this one; a mirrored one undoes itself."""
        return self if self.mirrored else Orientation(-self.turns % 4)

    @property
    def swaps_axes(self) -> bool:
        """Whether y and x change places."""
        return self.turns % 2 == 1

    def apply(self, tensor: Tensor) -> Tensor:
        """Lay the last two axes (y, x) of a tensor the other way."""
        if self.mirrored:
            tensor = tensor.flip(-1)
        return tensor.rot90(self.turns, (-2, -1)) if self.turns else tensor


ORIENTATIONS = tuple(
    Orientation(turns, mirrored) for mirrored in (False, True) for turns in range(4)
)
# Identity, left-right, up-down, both: these keep the shape of any tile.
FLIPS = (
    Orientation(),
    Orientation(0, mirrored=True),
    Orientation(2, mirrored=True),
    Orientation(2),
)


def random_orientation(
    inputs: Sequence[Any], target: Tensor, generator: Generator | None = None
) -> tuple[tuple[Any, ...], Tensor]:
    """Lay each sample another way, image and target alike.

    Parameters
    ----------
    inputs
        The image (batch, ..., y, x) first; the rest is passed on.
    target
        (batch, ..., y, x) with the image's y and x.
    generator
        Of the CPU; None is torch's global one.

    Returns
    -------
    inputs, target
        New tensors. One of eight orientations a sample where y equals x, one of
        the four flips elsewhere, all equally likely.

    Raises
    ------
    ValueError
        Image and target differ in batch, y or x.
    """
    image, *rest = inputs
    if image.shape[-2:] != target.shape[-2:] or len(image) != len(target):
        raise ValueError(
            "image and target must have the same batch, y and x, got image "
            f"{tuple(image.shape)} and target {tuple(target.shape)}"
        )
    square = image.shape[-1] == image.shape[-2]
    choices = ORIENTATIONS if square else FLIPS
    drawn = torch.randint(len(choices), (len(image),), generator=generator)
    image = _orient(image, choices, drawn)
    return (image, *rest), _orient(target, choices, drawn)


def _orient(tensor: Tensor, choices: Sequence[Orientation], drawn: Tensor) -> Tensor:
    laid = [
        choices[choice].apply(sample)
        for choice, sample in zip(drawn.tolist(), tensor, strict=True)
    ]
    return torch.stack(laid)


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


@dataclass(frozen=True)
class Augmentation:
    """What the trainer does to a batch of chips: turns them and drops months.

    Called with ((image,) or (image, present), target); returns the same, with
    `present` wherever months may be dropped.

    Parameters
    ----------
    orientations
        Whether chips are flipped and turned.
    probability_batch
        That a sample loses months; 0 drops none.
    probability_month
        That it then loses one of its months.

    Raises
    ------
    ValueError
        A probability lies outside 0 to 1.
    """

    orientations: bool = True
    probability_batch: float = 0.5
    probability_month: float = 0.3

    def __post_init__(self) -> None:
        for name in ("probability_batch", "probability_month"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise ValueError(
                    f"{name} of Augmentation must be between 0 and 1, got {value!r}"
                )

    def __call__(
        self, inputs: tuple[Any, ...], target: Tensor
    ) -> tuple[tuple[Any, ...], Tensor]:
        """Change one batch."""
        if self.orientations:
            inputs, target = random_orientation(inputs, target)
        if self.probability_batch > 0 and self.probability_month > 0:
            image, *rest = inputs
            present = drop_months(
                image,
                rest[0] if rest else None,
                self.probability_batch,
                self.probability_month,
            )
            inputs = (image, present)
        return inputs, target
