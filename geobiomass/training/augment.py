"""Augmentation: flips, rotations and dropout of months and bands.

Training and test-time augmentation use the same eight orientations, which have their
inverses. `rotation` has rotations by any angle, `dropout` what can be left out. Random
numbers are of torch's global CPU generator, which the trainer seeds before every step,
unless a generator is given.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor

from .dropout import draw_passes, draw_patterns, drop_bands, drop_months
from .rotation import Rotation, check_same_grid, random_rotation

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
    """One of the eight orientations of a square tile.

    Parameters
    ----------
    turns
        Quarter turns counter-clockwise, 0 to 3 (y points down).
    mirrored
        Whether left and right are exchanged before the turns.
    """

    turns: int = 0
    mirrored: bool = False

    def __post_init__(self) -> None:
        if self.turns not in range(4):
            raise ValueError(f"turns of Orientation must be 0 to 3, got {self.turns}")

    @property
    def inverse(self) -> Orientation:
        """The inverse orientation; a mirrored orientation is its own inverse."""
        return self if self.mirrored else Orientation(-self.turns % 4)

    @property
    def swaps_axes(self) -> bool:
        """Whether y and x are exchanged."""
        return self.turns % 2 == 1

    def apply(self, tensor: Tensor) -> Tensor:
        """Return a tensor with its last two axes (y, x) in this orientation."""
        if self.mirrored:
            tensor = tensor.flip(-1)
        return tensor.rot90(self.turns, (-2, -1)) if self.turns else tensor


ORIENTATIONS = tuple(
    Orientation(turns, mirrored) for mirrored in (False, True) for turns in range(4)
)
# Identity, left-right, up-down, both: they keep the shape of any tile.
FLIPS = (
    Orientation(),
    Orientation(0, mirrored=True),
    Orientation(2, mirrored=True),
    Orientation(2),
)


def random_orientation(
    inputs: Sequence[Any], target: Tensor, generator: Generator | None = None
) -> tuple[tuple[Any, ...], Tensor]:
    """Orient each sample at random, the same for image and target.

    Parameters
    ----------
    inputs
        The image (batch, ..., y, x) first; the rest is passed on.
    target
        (batch, ..., y, x) with the image's y and x.
    generator
        A generator of the CPU; None is torch's global one.

    Returns
    -------
    inputs, target
        New tensors. Each sample has one of the eight orientations if y equals x, or
        one of the four flips otherwise, all equally likely.

    Raises
    ------
    ValueError
        If image and target differ in batch, y or x.
    """
    image, *rest = inputs
    check_same_grid(image, target)
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
    """Random changes of a batch of chips in training: orientation and dropout.

    It is called with ((image,) or (image, present, ...), target) and returns the same,
    with `present` if months can be dropped. Further inputs are returned unchanged.

    Parameters
    ----------
    orientations
        Whether chips are flipped and rotated by quarter turns.
    probability_batch
        Probability that a sample loses months; 0 drops none.
    probability_month
        Probability that it then loses each of its months.
    rotation
        Probability of a rotation by any angle, as in `random_rotation`.
    pattern_dropout
        Probability that a sample keeps optical images only in the months of a real
        pattern, as in `drop_patterns`; needs `passes`, `optical` and `calendar`.
    pass_dropout
        Probability that a sample loses a radar pass in some months, as in
        `drop_passes`; needs `passes`.
    passes
        The number of its sensor pass for each band.
    optical
        The number of the optical pass; None: no pass is optical.
    calendar
        The calendar month, 1 to 12, of each time step of the image.
    ceiling
        The ceiling of the loss; a rotation does not mix labels above it. None: no
        ceiling.
    planes
        Last months of the image that hold static layers: they are turned with it, and
        never dropped. Their values stay: an aspect keeps its north.

    Raises
    ------
    ValueError
        If a probability is not between 0 and 1, or a value that it needs is None.
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
    planes: int = 0

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
        """Return one batch with random changes."""
        if self.orientations:
            inputs, target = random_orientation(inputs, target)
        if self.rotation:
            inputs, target = random_rotation(
                inputs, target, self.rotation, ceiling=self.ceiling
            )
        if not self.planes:
            return self._drop(inputs), target
        image, *rest = inputs
        months = image.shape[1] - self.planes
        dropped, *rest = self._drop((image[:, :months], *rest))
        return (torch.cat([dropped, image[:, months:]], dim=1), *rest), target

    def _drop(self, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
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
