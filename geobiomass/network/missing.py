"""Missing values of monthly images, and their representation for the encoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Missing: TypeAlias = Literal["zero", "validity", "renormalise"]


def check_passes(
    passes: Sequence[int] | None, bands: int, missing: str
) -> tuple[int, ...]:
    """Return the number of each band's sensor pass; by default all are of one pass.

    Raises
    ------
    ValueError
        If there is not one number for each band, or `missing` is not one of its
        choices.
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
    """Return (batch, month) bool: months with any value."""
    # Most months have a value in the first band; only the others need all bands.
    there = image[:, :, 0].isfinite().flatten(2).any(dim=2)
    unclear = ~there
    if bool(unclear.any()):
        there[unclear] = image[unclear].isfinite().flatten(1).any(dim=1)
    return there


def flags_of_passes(there: Tensor, passes: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Return a channel for each pass, 1 where the pass has no value, else 0.

    (n, band, y, x) bool -> (n, pass, y, x). Most pixels have a value, so that weights
    trained without these channels can be used unchanged.
    """
    import torch

    numbers = sorted(set(passes))
    chosen = [[i for i, p in enumerate(passes) if p == n] for n in numbers]
    seen = [there[:, bands].any(dim=1) for bands in chosen]
    return (~torch.stack(seen, dim=1)).to(dtype)
