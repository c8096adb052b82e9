"""Evenly spaced coordinates: their first value and their step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

TOLERANCE = 0.01
"""Pixels: coordinates that differ by less are those of one grid."""


@dataclass(frozen=True)
class Line:
    """Evenly spaced centres: the first one, and the step, None of a single one."""

    first: float
    step: float | None
    size: int


def line_of(values: npt.NDArray[Any], name: str) -> Line | str:
    """Return the line of coordinates, or in a sentence why they are none.

    Steps, and places along the line through the first and the last pixel, may differ
    by a hundredth of a pixel.
    """
    if values.ndim != 1 or not np.issubdtype(values.dtype, np.number):
        return (
            f"Coordinate {name!r} must hold the numbers of pixels' centres along one "
            f"dimension, got {values.ndim} dimensions of {values.dtype}; bring the "
            "data to a regular grid, such as data.rio.reproject('EPSG:...')."
        )
    centres = values.astype(np.float64)
    if not np.isfinite(centres).all():
        missing = int((~np.isfinite(centres)).sum())
        return (
            f"Coordinate {name!r} must be known for every pixel, got {missing} of "
            f"{centres.size} that are not finite; leave them out with "
            f"data.sel({name}=data[{name!r}].notnull())."
        )
    if centres.size == 1:
        return Line(float(centres[0]), None, 1)
    step = float((centres[-1] - centres[0]) / (centres.size - 1))
    even = centres[0] + step * np.arange(centres.size)
    steps = np.diff(centres)
    off = max(np.abs(centres - even).max(), np.abs(steps - step).max())
    if step == 0 or off > TOLERANCE * abs(step):
        single = ""
        if values.dtype == np.float32 and off < 2 * np.spacing(np.abs(values).max()):
            single = " float32 is too short for them: store them as float64."
        return (
            f"Coordinate {name!r} must be evenly spaced, up to a hundredth of a pixel, "
            f"got steps from {steps.min():.10g} to {steps.max():.10g};{single} Put the "
            f"data on a regular grid, data.interp({name}=...) or, where rows are "
            f"missing, data.reindex({name}=...)."
        )
    return Line(float(centres[0]), step, centres.size)
