"""Verdicts on the bands of an input, by comparison with a model's training data."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from geobiomass.data.band_profile import PERCENTILES, BandProfile, Numbers
from geobiomass.data.input_sample import InputSample
from geobiomass.inference.input_bands import (
    LIKE,
    Band,
    measure,
    percentiles_of,
    share_outside,
    spread_of,
    without_nodata,
)
from geobiomass.inference.input_causes import landsat_numbers
from geobiomass.inference.input_groups import MANY_MONTHS, offset, scales, swapped

OK, UNKNOWN, UNUSUAL = "ok", "unknown", "unusual"
SCALE, OFFSET, NODATA = "wrong scale", "offset", "nodata as values"
SWAPPED, MISSING, SEASON = "swapped", "missing", "other season"
WORST_FIRST = (
    *(SCALE, SWAPPED, OFFSET, NODATA, MISSING, SEASON, UNUSUAL),
    *(UNKNOWN, OK),
)
"""All verdicts, the worst first."""

_VERY_LIKE = 0.35
_UNLIKE = 1.5  # distance beyond which values are unusual ...
_MOST_OUTSIDE = 0.75  # ... or this share outside the training percentiles 1 to 99
_PASS = re.compile("_(asc|desc)$")


@dataclass(frozen=True)
class Verdict:
    """What a band of an input is like.

    Parameters
    ----------
    band : str
        Its name.
    verdict : str
        One of `WORST_FIRST`.
    cause : str
        The likely cause and the remedy; empty for "ok".
    training, found : numpy.ndarray
        Percentiles of the training data and of the input.
    outside : float
        Share of the input's values outside the training percentiles 1 and 99.
    missing : float
        Share of missing values.
    """

    band: str
    verdict: str
    cause: str
    training: Numbers
    found: Numbers
    outside: float
    missing: float


def judge(
    profile: BandProfile, sample: InputSample, bands: Sequence[str]
) -> list[Verdict]:
    """Return the verdict on each band.

    All months together are judged first; then each month, where only some of them are
    wrong: an archive may change its offset or unit in the middle of a year.

    Parameters
    ----------
    profile : BandProfile
        Of the training data of a model.
    sample : InputSample
        Of the input, with at least `bands`.
    bands : sequence of str
        The model's.
    """
    known = [band for band in bands if band in profile.bands]
    whole = {v.band: v for v in _judge(profile, sample, known, None)}
    by_month: dict[str, list[tuple[int, Verdict]]] = {band: [] for band in known}
    for step, month in enumerate(sample.calendar if len(sample.calendar) > 1 else ()):
        for found in _judge(profile, sample, known, step):
            if found.verdict in (SCALE, OFFSET, SWAPPED, NODATA):
                by_month[found.band].append((month, found))
    for band, found_in in by_month.items():
        # In a month or two of many, haze is like the offset.
        lifted = [one for one in found_in if one[1].verdict == OFFSET]
        if len(lifted) < (3 if len(sample.calendar) > MANY_MONTHS else 1):
            found_in = [one for one in found_in if one not in lifted]
        if found_in and whole[band].verdict in (OK, UNUSUAL, SEASON):
            worst = min((v for _, v in found_in), key=_rank)
            months = [month for month, v in found_in if v.verdict == worst.verdict]
            names = ", ".join(map(str, months))
            whole[band] = replace(
                whole[band],
                verdict=worst.verdict,
                cause=f"in month {names} only: {worst.cause}",
            )
    nothing = np.full(len(PERCENTILES), np.nan)
    return [
        whole.get(band, Verdict(band, UNKNOWN, "", nothing, nothing, np.nan, np.nan))
        for band in bands
    ]


def _rank(verdict: Verdict) -> int:
    return WORST_FIRST.index(verdict.verdict)


def _judge(
    profile: BandProfile, sample: InputSample, names: Sequence[str], step: int | None
) -> list[Verdict]:
    bands = without_nodata([measure(profile, sample, n, step) for n in names])
    steps = len(sample.calendar) if step is None else 1
    causes = {name: (OFFSET, text) for name, text in offset(bands, steps).items()}
    causes |= {name: (SCALE, text) for name, text in scales(bands).items()}
    causes |= {name: (SWAPPED, text) for name, text in swapped(bands).items()}
    months = sorted(set(sample.calendar)) if step is None else [sample.calendar[step]]
    verdicts = []
    for band in bands:
        values = sample.of(band.name, step)
        size = sample.values.shape[-1] * (len(sample.calendar) if step is None else 1)
        outside = share_outside(band.training, values)
        verdict, cause = causes.get(band.name, (OK, ""))
        if verdict == OK:
            verdict, cause = _alone(band, profile, months, outside)
        found = percentiles_of(values)
        missing = 1 - values.size / size if size else np.nan
        verdicts.append(
            Verdict(band.name, verdict, cause, band.training, found, outside, missing)
        )
    return verdicts


def _alone(
    band: Band, profile: BandProfile, months: Sequence[int], outside: float
) -> tuple[str, str]:
    if band.nodata is not None:
        value, share = band.nodata
        text = (
            f"{value:g} in {share:.1%} of the values, which the training data has not: "
            f"probably missing; gb.as_cube(data, nodata={value:g})"
        )
        return NODATA, text
    trained = np.isfinite(band.training).all()
    if band.empty:
        known = profile.bands[band.name]
        # The network takes a band of one value as missing, so nothing is lacking.
        constant = known["minimum"] == known["maximum"]
        lacked = 1.0 if constant else known["missing"]
        # A place without one of the radar's passes is nothing new where the training
        # data has such places, nor is a month or two of clouds.
        common = len(months) <= 2 or _PASS.search(band.name)
        if not trained or lacked > (0.05 if common else 0.5):
            return OK, ""
        text = (
            "no value in the sample; the map then rests on the other bands. Check that "
            "the band was read, and which value marks missing pixels"
        )
        return MISSING, text
    if not trained:
        text = (
            "the training data had no value of this band: the model has learnt nothing "
            "of it; train with it, or leave it out, cube.sel(band=...)"
        )
        return UNUSUAL, text
    if trained and band.values.min() == band.values.max() and outside > 0.99:
        one = f"{band.values[0]:g}"
        text = f"all values are {one}: probably missing; gb.as_cube(data, nodata={one})"
        return NODATA, text
    percent = _percent(band)
    if percent:
        return UNUSUAL, percent
    if _is_percent(band):
        return OK, ""  # of clouds: any share is usual
    distance = band.distance(by=np.median)
    if distance <= _UNLIKE and not outside > _MOST_OUTSIDE:
        return OK, ""
    same = band.like
    if distance <= LIKE and share_outside(same, band.values) <= _MOST_OUTSIDE:
        return OK, ""  # as in the same months of the training data
    season = _other_season(band, profile, months, distance)
    if season:
        return SEASON, season
    numbers = landsat_numbers(band.found, band.unit)
    if band.unit in ("reflectance", "fraction") and numbers:
        return UNUSUAL, numbers
    text = (
        f"{outside:.0%} of the values are outside the range of the training data "
        f"({band.training[0]:.4g} to {band.training[-1]:.4g}): another region, sensor, "
        "processing level or unit; check what the band holds, or train on such data"
    )
    return UNUSUAL, text


def _other_season(
    band: Band, profile: BandProfile, months: Sequence[int], distance: float
) -> str:
    """Return the sentence where months, or other months' values, explain it."""
    lacking = sorted(set(months) - set(profile.months))
    if lacking and profile.months:
        known = ", ".join(map(str, sorted(profile.months)))
        return (
            f"month {', '.join(map(str, lacking))} is not in the training data (months "
            f"{known}); map months that are, or train on these"
        )
    spread = spread_of(band.training)
    others = {
        month: float(np.abs(band.found - profile.percentiles(band.name, [month])).max())
        / spread
        for month, found in profile.months.items()
        if month not in months and band.name in found
    }
    best = min(others, key=lambda month: others[month], default=None)
    if best is not None and others[best] < min(_VERY_LIKE, 0.25 * distance):
        return (
            f"values are like month {best} of the training data; check the calendar "
            "months, gb.as_cube(data, month=[...])"
        )
    return ""


def _percent(band: Band) -> str:
    """Return the sentence where shares of 100, such as clouds, have another unit."""
    if not _is_percent(band) or band.values.min() < 0:
        return ""
    highest = float(band.values.max())
    if 101 < highest <= 255:
        return "0 to 255 instead of 0 to 100; use values * 100 / 255"
    if highest <= 1 and (band.values % 1 > 0).any() and band.training[5] > 10:
        return "0 to 1 instead of 0 to 100; multiply by 100"
    return ""


def _is_percent(band: Band) -> bool:
    return band.low >= 0 and 90 <= band.high <= 101
