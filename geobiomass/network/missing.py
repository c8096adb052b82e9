"""What is missing of monthly images, and how the encoder is told of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

Missing = Literal["zero", "validity", "renormalise"]


def checked_passes(
    passes: Sequence[int] | None, bands: int, missing: str
) -> tuple[int, ...]:
    """Give the number of each band's sensor pass; without any, all are of one.

    Raises
    ------
    ValueError
        If there is not a number for each band, or `missing` is no way to tell the
        encoder.
    """
    if missing not in ("zero", "validity", "renormalise"):
        raise ValueError(
            f"missing must be 'zero', 'validity' or 'renormalise', got {missing!r}."
        )
    if passes is not None and len(passes) != bands:
        raise ValueError(
            f"passes must have a number for each of {bands} bands, got {list(passes)}."
        )
    return tuple(int(number) for number in passes or [0] * bands)


def months_with_values(image: Tensor) -> Tensor:
    """(batch, month) bool, which months have any value; mostly one band tells."""
    there = image[:, :, 0].isfinite().flatten(2).any(dim=2)
    unclear = ~there
    if bool(unclear.any()):
        there[unclear] = image[unclear].isfinite().flatten(1).any(dim=1)
    return there


def flags_of_passes(there: Tensor, passes: Sequence[int], dtype: torch.dtype) -> Tensor:
    """(n, band, y, x) bool -> (n, pass, y, x), 1 where a pass has no value.

    Zero is the usual case, so that weights learnt without flags fit as they are.
    """
    numbers = sorted(set(passes))
    chosen = [[i for i, p in enumerate(passes) if p == n] for n in numbers]
    seen = [there[:, bands].any(dim=1) for bands in chosen]
    return (~torch.stack(seen, dim=1)).to(dtype)
