"""Scale of the targets: a network learns the same, whatever their unit."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from .photos import TARGETS

__all__ = ["scale_of", "shares_unit", "standardise", "units_of"]

Floats = npt.NDArray[np.float64]

# The smallest scale, as a share of the mean: values that hardly differ from photo to
# photo would otherwise be far from what a new network predicts, which is about 0.7.
_LEAST = 0.25


def shares_unit(targets: Sequence[str]) -> bool:
    """Return whether targets are known to have one unit: those of `TARGETS`."""
    return set(targets) <= set(TARGETS)


def units_of(targets: Sequence[str]) -> str:
    """Return the unit of targets, "g", or that it is the training table's."""
    return "g" if shares_unit(targets) else "those of the training table"


def scale_of(values: Floats, targets: Sequence[str]) -> tuple[float, ...]:
    """Return the scale of each target: the standard deviation of the training photos.

    The targets of `TARGETS` have one scale together, so that their sums stay sums.
    Others may have different units, and each has its own. There is no offset, because
    the network predicts nothing below zero.

    Parameters
    ----------
    values
        (photo, target), of 0 or more.
    targets
        Names of the columns.

    Returns
    -------
    tuple of float
        One positive number for each target; 1 where all values are 0.
    """
    values = np.asarray(values, np.float64)
    columns = [values] * len(targets) if shares_unit(targets) else [*values.T]
    return tuple(_scale(column) for column in columns)


def _scale(values: Floats) -> float:
    # A first division keeps the sums of very large and very small values exact enough.
    largest = float(values.max(initial=0.0))
    if largest == 0:
        return 1.0
    relative = values / largest
    return largest * max(float(relative.std()), _LEAST * float(relative.mean()))


def standardise(values: Floats, scale: Sequence[float]) -> npt.NDArray[np.float32]:
    """Divide targets by their scale, in float64, then round to float32.

    The quotients of grams and of kilograms differ by about 1e-16, so that float32 has
    the same bits for both, and training takes the same course.
    """
    divided = np.asarray(values, np.float64) / np.asarray(scale, np.float64)
    return divided.astype(np.float32)
