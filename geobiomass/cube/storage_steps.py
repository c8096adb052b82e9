"""The steps that whole numbers on disk stand for: by the names of bands and by values.

A name says what a band should hold: decibels, or reflectance x 10^4. Values say whether
it does. Reflectance from 0 to 1 in steps of 1 would be stored as zeros and ones.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import xarray as xr

from geobiomass.cube.schema import CubeError

_SAMPLE = 100_000  # values of a band that are looked at, evenly spaced
_ENOUGH = 100  # values, below which nothing is said
_UNIT = 3.0  # largest reflectance from 0 to 1; clouds and glint are above 1
_PERCENT = 320.0  # largest reflectance in percent
_FINEST = 1e-4  # step of reflectance, as archives store it; reaches to 3.28
_MOST_PERCENT = 130.0  # brightest reflectance in percent, of clouds and snow
_BRIGHT = 25.0  # median in percent, from which a step of 1 changes less than 1 in 100
_HUNDREDTH = 3e-3  # of a hundredth: rounding of percent as float32, times 100
_COARSE = 0.01  # rounding error, in the values' own size, that a finer step avoids

Values = npt.NDArray[Any]


class CoarseStepError(CubeError):
    """Values would be lost in the steps of storage; the message has the remedy."""


def band_quantum(name: str) -> float | None:
    """Return the step of a known band in int16, None for an unknown band.

    Radar backscatter (VV, VH, HH, HV) in steps of 0.01 dB; Sentinel-2 bands
    (B01 to B12, B8A: reflectance x 10^4) and cloud probability (CLP) as whole numbers.
    """
    if is_radar(name):
        return 0.01
    if is_reflectance(name) or name in ("CLP", "SCL"):
        return 1.0
    return None


def is_radar(name: str) -> bool:
    """Return whether a band is radar backscatter, by its name."""
    return re.match(r"(VV|VH|HH|HV)(_|$)", name) is not None


def is_reflectance(name: str) -> bool:
    """Return whether a band is one of Sentinel-2, by its name."""
    return re.fullmatch(r"B\d{1,2}A?", name) is not None


def chosen_steps(
    image: xr.DataArray, bands: Sequence[str], given: Mapping[str, float]
) -> tuple[float, ...]:
    """Return the step of each band in int16.

    Steps that are given, or that the values were stored with before, stay. All others
    follow the band's name; of an image in memory, they are finer where the values of
    Sentinel-2 are reflectance from 0 to 1, or in percent.

    Raises
    ------
    CubeError
        If the name of a band is unknown and no step is given.
    CoarseStepError
        If the values of an image in memory would be lost.
    """
    before = image.encoding.get("quantum") or {}
    if not isinstance(before, Mapping):
        same = len(before) == len(bands)
        before = dict(zip(bands, before, strict=True)) if same else {}
    steps: dict[str, float] = {}
    unknown = []
    for number, band in enumerate(bands):
        fixed = given.get(band, before.get(band))
        step = band_quantum(band) if fixed is None else float(fixed)
        values = _in_memory(image, number)
        if step is None:
            unknown.append((band, values))
            continue
        if values is not None and fixed is None and not is_radar(band):
            step = _finer(values, step, is_reflectance(band))
        elif values is not None:
            _check_not_lost(values, band, step)
        steps[band] = step
    if unknown:
        names = [band for band, _ in unknown]
        step = _suggested(unknown[0][1])
        raise CubeError(
            f"Bands {names} are neither Sentinel-1 nor Sentinel-2, so the step to "
            f"store them with is unknown; set it, quantum={{{names[0]!r}: {step:g}}} "
            "(0.0001 for what is between -1 and 1), or write with dtype='float32'."
        )
    return tuple(steps[band] for band in bands)


def _in_memory(image: xr.DataArray, band: int) -> Values | None:
    """Return values of a band, evenly spaced, of an image in memory."""
    if image.chunks is not None or not image.variable._in_memory:
        return None
    values = image.isel(band=band).values
    # Not a divisor of the rows' length, so that not only some columns are seen.
    every = max(1, values.size // _SAMPLE) | 1
    part = values.reshape(-1)[::every]
    part = part[np.isfinite(part)]
    return cast(Values, part) if part.size else None


def _power_of_ten(values: Values) -> float:
    """Return the smallest power of ten, as a step, whose int16 hold all values."""
    most = float(np.abs(values).max())
    return 10.0 ** math.ceil(math.log10(most / 32_767)) if most > 0 else 1.0


def _suggested(values: Values | None) -> float:
    return 0.1 if values is None else float(f"{_power_of_ten(values):.0e}")


def _finer(values: Values, step: float, reflectance: bool) -> float:
    """Return a finer step, where values are of about the size of their step."""
    most = float(np.abs(values).max())
    if values.size < _ENOUGH or most > (_PERCENT if reflectance else 1.0):
        return step
    error = np.median(np.abs(values - np.rint(values / step) * step))
    if not error > _COARSE * np.median(np.abs(values)):
        return step
    return max(_FINEST, float(f"{_power_of_ten(values):.0e}"))


def _check_not_lost(values: Values, band: str, step: float) -> None:
    """Raise if hundreds of different values would become a few."""
    if (np.unique(values).size >= _ENOUGH) and np.unique(
        np.rint(values / step)
    ).size < 5:
        low, high = float(values.min()), float(values.max())
        raise CoarseStepError(
            f"The values of {band} are from {low:.4g} to {high:.4g} and would be "
            f"stored in steps of {step:g}, which leaves fewer than five of them; write "
            f"with quantum={{{band!r}: {_suggested(values):g}}} or dtype='float32'."
        )


def check_steps(values: Values, bands: Sequence[str], steps: Sequence[float]) -> str:
    """Raise if a block's values are in other units than the steps are made for.

    Parameters
    ----------
    values : numpy.ndarray
        (..., band, y, x), NaN where missing.
    bands : sequence of str
        Names of the bands.
    steps : sequence of float
        The step of each band, or one for all.

    Returns
    -------
    str
        What may be in percent, or as dark as that, in words; "" of other values.

    Raises
    ------
    CoarseStepError
        If radar is linear power, reflectance from 0 to 1 or in percent, or another band
        within one step of 0, and the step too coarse.
    """
    by_band = np.broadcast_to(np.asarray(steps, np.float64), len(bands))
    doubt = ""
    radar = [i for i, b in enumerate(bands) if is_radar(b) and by_band[i] > 1e-3]
    if (part := _sample(values, radar)) is not None:
        low, middle = float(part.min()), float(np.median(part))
        if low >= 0 and middle < 1 and _fractional(part):
            raise CoarseStepError(
                f"{', '.join(bands[i] for i in radar)} must be in decibels to be "
                f"stored in steps of {by_band[radar[0]]:g}, got values from {low:.3g} "
                f"to {float(part.max()):.3g}, which look like linear power. Convert "
                "them, 10 * np.log10(power), as models expect them, or write with "
                "dtype='float32'."
            )
    optical = [
        i for i, b in enumerate(bands) if is_reflectance(b) and by_band[i] > 1e-3
    ]
    if (part := _sample(values, optical)) is not None:
        most, step = float(np.abs(part).max()), float(by_band[optical[0]])
        scale = _scale_of(part, most, step)
        if scale is not None and _fractional(part):
            names = [bands[i] for i in optical]
            unit, times, finer = scale
            raise CoarseStepError(
                f"{', '.join(names)} must be reflectance x 10^4 to be stored in steps "
                f"of {step:g}, got values up to {most:.3g}, which look like "
                f"reflectance {unit}. Multiply them by {times}, as models expect them, "
                f"or write with quantum={{{names[0]!r}: {finer}, ...}} or "
                "dtype='float32'."
            )
        if _fractional(part):
            doubt = _bright(part, [bands[i] for i in optical], step)
    for i, band in enumerate(bands):
        if not is_radar(band) and not is_reflectance(band):
            _check_within_a_step(values, i, band, float(by_band[i]))
    return doubt


def _scale_of(values: Values, most: float, step: float) -> tuple[str, str, str] | None:
    """Return what reflectance looks like that its step is too coarse for."""
    # Dark water x 10^4 is below 320 as well, but is rounded by less than a hundredth.
    error = np.median(np.abs(values - np.rint(values / step) * step))
    coarse = bool(error > _COARSE * np.median(np.abs(values)))
    if most <= _UNIT and (coarse or step > 0.1):
        return "from 0 to 1", "10,000", "0.0001"
    if _UNIT < most <= _PERCENT and (coarse or (step > 0.1 and _in_hundredths(values))):
        return "in percent", "100", "0.01"
    return None


def _in_hundredths(values: Values) -> bool:
    """Return whether values are whole numbers of reflectance x 10^4 divided by 100.

    Quarters are left out, which are means of a few dates as well.
    """
    times = values.astype(np.float64) * 100
    near = np.abs(times - np.rint(times)) < _HUNDREDTH
    return bool(near.mean() > 0.99 and (times % 25 > 1).mean() > 0.5)


def _bright(values: Values, names: Sequence[str], step: float) -> str:
    """Return words for what may be bright reflectance in percent, or dark x 10^4."""
    most, middle = float(values.max()), float(np.median(values))
    if step < 0.5 or not (middle >= _BRIGHT and most <= _MOST_PERCENT):
        return ""
    return (
        f"{', '.join(names)} have values up to {most:.4g}, not whole numbers, in steps "
        f"of {step:g}, which changes them by up to {step / 2 / middle:.1%} of their "
        "median. Where they are reflectance in percent, multiply them by 100, as "
        f"models expect them, or write with quantum={{{names[0]!r}: 0.01, ...}}."
    )


def _check_within_a_step(values: Values, number: int, band: str, step: float) -> None:
    """Raise if different values of a band would all become -1, 0 or 1 step."""
    part = _sample(values, [number])
    # Cloud probability of a clear sky, in percent, is near 0 and may be rounded to it.
    least = step / 2 if band == "CLP" else 0.0
    if part is None or not least < float(np.abs(part).max()) <= step:
        return
    if _fractional(part / step):
        _check_not_lost(part, band, step)


def _sample(values: Values, bands: Sequence[int]) -> Values | None:
    if not bands:
        return None
    size = values[..., 0, :, :].size * len(bands)
    every = max(1, math.isqrt(size // _SAMPLE))
    part = values[..., ::every, ::every][..., list(bands), :, :].reshape(-1)
    part = part[np.isfinite(part)]
    return part if part.size >= _ENOUGH else None


def _fractional(values: Values) -> bool:
    """Return whether most values are no whole numbers."""
    return bool((values != np.rint(values)).mean() > 0.5)
