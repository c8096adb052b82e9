"""Causes for which values do not look like those that a model was trained on.

Each is a change of the values that brings them back to the training data, with a
sentence that names it and the remedy. Nothing here changes a value.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.float64]

_OFFSET = 1000.0
"""RADIO_ADD_OFFSET of Sentinel-2 since processing baseline 04.00 (January 2022)."""
_LANDSAT = 2.75e-5, -0.2
"""Scale and offset of surface reflectance in Landsat Collection 2 Level 2."""
_ALOS = 83.0
"""Calibration of ALOS PALSAR mosaics: gamma0 in dB = 20 log10(DN) - 83."""


@dataclass(frozen=True)
class Cause:
    """A change that would make values like the training data.

    Parameters
    ----------
    text : str
        What the values are, and the remedy.
    change : callable
        Applied to percentiles; it keeps their order, or reverses it.
    kind : "factor", "unit" or "offset"
        A factor; another unit, such as linear power; or a constant that was added.
    factor : float
        Of a factor.
    """

    text: str
    change: Callable[[Numbers], Numbers]
    kind: str
    factor: float = 1.0


def _factor(factor: float, what: str, remedy: str) -> Cause:
    return Cause(f"{what}; {remedy}", lambda x: x * factor, "factor", factor)


FACTORS = (
    _factor(1e4, "reflectance 0 to 1 instead of 0 to 10000", "multiply it by 10000"),
    _factor(1e-4, "reflectance 0 to 10000 instead of 0 to 1", "divide it by 10000"),
    _factor(100, "values 100 times too small (1 for 100 %)", "multiply them by 100"),
    _factor(
        0.01, "values 100 times too large (percent, or 0.01 dB)", "divide them by 100"
    ),
    _factor(1e3, "values 1000 times too small", "multiply them by 1000"),
    _factor(1e-3, "values 1000 times too large", "divide them by 1000"),
    _factor(10, "values 10 times too small", "multiply them by 10"),
    _factor(0.1, "values 10 times too large", "divide them by 10"),
    _factor(1e5, "values 100000 times too small", "multiply them by 100000"),
    _factor(1e-5, "values 100000 times too large", "divide them by 100000"),
    _factor(1e6, "values a million times too small", "multiply them by 1e6"),
    _factor(1e-6, "values a million times too large", "divide them by 1e6"),
)


def _db(x: Numbers, times: float, less: float = 0.0) -> Numbers:
    return np.asarray(times * np.log10(np.maximum(x, 1e-30)) - less)


def _not_db(x: Numbers, times: float) -> Numbers:
    # Values of another kind, as 10,000, are no dB and would overflow.
    return np.asarray(10 ** np.clip(x / times, -30, 30))


UNITS_OF_DB = (
    Cause(
        "linear power instead of dB; use 10 * log10(values)",
        lambda x: _db(x, 10),
        "unit",
    ),
    Cause(
        "amplitude instead of dB; use 20 * log10(values)", lambda x: _db(x, 20), "unit"
    ),
    Cause(
        "digital numbers of ALOS PALSAR instead of dB; use 20 * log10(values) - 83",
        lambda x: _db(x, 20, _ALOS),
        "unit",
    ),
    Cause("dB without the minus sign; use -values", lambda x: -x[::-1], "unit"),
)
"""For training data in dB."""

UNITS_OF_POWER = (
    Cause(
        "dB instead of linear power; use 10 ** (values / 10)",
        lambda x: _not_db(x, 10),
        "unit",
    ),
    Cause(
        "dB instead of amplitude; use 10 ** (values / 20)",
        lambda x: _not_db(x, 20),
        "unit",
    ),
)
"""For training data of radar that is not in dB."""

DIGITAL_NUMBERS = Cause(
    "not in dB (digital numbers, perhaps not calibrated); calibrate them and use dB",
    lambda x: x,
    "unit",
)

UNITS_OF_REFLECTANCE = (
    Cause(
        "reflectance 0 to 1 with the offset of 0.1 (Sentinel-2 since processing "
        "baseline 04.00); use values * 10000 - 1000",
        lambda x: x * 1e4 - _OFFSET,
        "unit",
    ),
)
"""For training data of reflectance x 10000."""

UNITS_OF_FRACTION = (
    Cause(
        "reflectance 0 to 10000 with the offset of 1000 (Sentinel-2 since processing "
        "baseline 04.00); use (values - 1000) / 10000",
        lambda x: (x - _OFFSET) / 1e4,
        "unit",
    ),
)
"""For training data of reflectance 0 to 1."""


def landsat_numbers(values: Numbers, unit: str) -> str:
    """Return the sentence where percentiles may be Landsat's digital numbers.

    Zero reflectance is 7273 there, so that all values are above it.
    """
    if not (values[0] > 7000 and values[-1] < 65536):
        return ""
    scale, offset = (f"{v * (1e4 if unit == 'reflectance' else 1):g}" for v in _LANDSAT)
    return (
        "perhaps digital numbers of Landsat Collection 2; use values * "
        f"{scale} - {offset.lstrip('-')}"
    )


def offsets(unit: float) -> tuple[Cause, Cause]:
    """Return the offset of Sentinel-2 not taken away, and taken away only here.

    Parameters
    ----------
    unit : float
        The value of a reflectance of one, 10000 or 1.
    """
    step = _OFFSET * unit / 1e4
    name = f"{step:g}"
    return (
        Cause(
            f"the offset of {name} (Sentinel-2 since processing baseline 04.00) is not "
            f"taken away; subtract {name}",
            lambda x: x - step,
            "offset",
            step,
        ),
        Cause(
            f"the training data has the offset of {name} (Sentinel-2 since processing "
            f"baseline 04.00), these values have not; add {name}, or train without it",
            lambda x: x + step,
            "offset",
            -step,
        ),
    )
