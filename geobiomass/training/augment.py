"""Flips, turns and left-out months: changes that leave the answer as it is.

The eight orientations own their inverses, so that training and test-time averaging
use the same ones; turns by any angle stand in `rotation`, what is left out in
`dropout`. Random choices come from torch's global generator of the CPU, which the
trainer seeds before every step, unless a generator is given.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor

from .dropout import draw_passes, draw_patterns, drop_bands, drop_months
from .rotation import Rotation, check_places, random_rotation

__all__ = [
    "FLIPS",
    "ORIENTATIONS",
    "Augmentation",
    "Orientation",
    "Rotation",
    "drop_months",
    "random_orientation",
    "random_rotation",
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
    check_places(image, target)
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


@dataclass(frozen=True)
class Augmentation:
    """What the trainer does to a batch of chips: turns them and leaves things out.

    Called with ((image,) or (image, present, ...), target); returns the same, with
    `present` wherever months may be dropped. Further inputs are passed on.

    Parameters
    ----------
    orientations
        Whether chips are flipped and turned by quarters.
    probability_batch
        That a sample loses months; 0 drops none.
    probability_month
        That it then loses one of its months.
    rotation
        That a sample is turned by any angle, as `random_rotation` does.
    pattern_dropout
        That a sample keeps optical images only in the months of a real pattern, as
        `drop_patterns` does; asks for `passes`, `optical` and `calendar`.
    pass_dropout
        That a sample loses a radar pass in some months, as `drop_passes` does; asks
        for `passes`.
    passes
        The number of its sensor pass for each band.
    optical
        The number of the optical pass; None: there is none.
    calendar
        The calendar month, 1 to 12, of each step of the image.
    ceiling
        The ceiling of the loss, above which a rotation mixes no labels; None: none.

    Raises
    ------
    ValueError
        A probability lies outside 0 to 1, or what a switch asks for is not given.
    """

    orientations: bool = True
    probability_batch: float = 0.5
    probability_month: float = 0.3
    rotation: float = 0.0
    pattern_dropout: float = 0.0
    pass_dropout: float = 0.0
    passes: tuple[int, ...] | None = None
    optical: int | None = None
    calendar: tuple[int, ...] | None = None
    ceiling: float | None = None

    def __post_init__(self) -> None:
        for name in (
            "probability_batch",
            "probability_month",
            "rotation",
            "pattern_dropout",
            "pass_dropout",
        ):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise ValueError(
                    f"{name} of Augmentation must be between 0 and 1, got {value!r}"
                )
        self._check_given("pass_dropout", "passes")
        self._check_given("pattern_dropout", "passes", "optical", "calendar")

    def _check_given(self, switch: str, *needs: str) -> None:
        for name in needs:
            if getattr(self, switch) and getattr(self, name) is None:
                raise ValueError(
                    f"{name} of Augmentation must be given where {switch} is above 0, "
                    f"got None with {switch}={getattr(self, switch)!r}"
                )

    def __call__(
        self, inputs: tuple[Any, ...], target: Tensor
    ) -> tuple[tuple[Any, ...], Tensor]:
        """Change one batch."""
        if self.orientations:
            inputs, target = random_orientation(inputs, target)
        if self.rotation:
            inputs, target = random_rotation(
                inputs, target, self.rotation, ceiling=self.ceiling
            )
        return self._leave_out(inputs), target

    def _leave_out(self, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        image, present, *rest = inputs if len(inputs) > 1 else (*inputs, None)
        image, present = drop_bands(image, self._losses(image), present)
        if self.probability_batch > 0 and self.probability_month > 0:
            present = drop_months(
                image, present, self.probability_batch, self.probability_month
            )
        elif len(inputs) == 1:
            return (image,)
        return (image, present, *rest)

    def _losses(self, image: Tensor) -> list[Tensor]:
        batch, months = image.shape[:2]
        losses = []
        if self.pass_dropout and self.passes is not None:
            losses.append(
                draw_passes(batch, months, self.passes, self.optical, self.pass_dropout)
            )
        if (
            self.pattern_dropout
            and self.passes is not None
            and self.optical is not None
            and self.calendar is not None
        ):
            losses.append(
                draw_patterns(
                    batch,
                    self.passes,
                    self.optical,
                    self.calendar,
                    self.pattern_dropout,
                )
            )
        return losses
