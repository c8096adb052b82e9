"""Verdicts on the bands of an input, by comparison with a model's training data."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from geobiomass.data.band_profile import PERCENTILES, BandProfile, Numbers
from geobiomass.data.input_sample import InputSample
from geobiomass.inference.input_causes import (
    DIGITAL_NUMBERS,
    FACTORS,
    UNITS_OF_DB,
    UNITS_OF_FRACTION,
    UNITS_OF_POWER,
    UNITS_OF_REFLECTANCE,
    Cause,
    landsat_numbers,
    offsets,
)

OK, UNKNOWN, UNUSUAL = "ok", "unknown", "unusual"
SCALE, OFFSET, NODATA = "wrong scale", "offset", "nodata as values"
SWAPPED, MISSING, SEASON = "swapped", "missing", "other season"
WORST_FIRST = (
    *(SCALE, SWAPPED, OFFSET, NODATA, MISSING, SEASON, UNUSUAL),
    *(UNKNOWN, OK),
)
"""All verdicts, the worst first."""

_FEWEST = 50  # values of a band in one month; with fewer a month is not judged
_LIKE = 0.75  # of the training data's spread: as like as another region's data is
_VERY_LIKE = 0.35
_UNLIKE = 1.5  # distance beyond which values are unusual ...
_MOST_OUTSIDE = 0.75  # ... or this share outside the training percentiles 1 to 99
_DARKEST = 3  # bands, such as blue, green and red
_MANY_MONTHS = 5
_DARK = 0.5  # of an offset: the darkest pixels of a band without it, at most
_ABOUT = 0.2  # of an offset: so much may the darkest pixels of other ground differ
_MAJORITY = 0.6  # of the bands of one unit that must speak for a cause
_RADAR = re.compile(r"(?<![a-z0-9])(vv|vh|hh|hv)(?![a-z0-9])", re.IGNORECASE)
_OPTICAL = re.compile(
    r"(?<![a-z0-9])(b\d|blue|green|red|nir|swir|coastal)", re.IGNORECASE
)
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


@dataclass(frozen=True)
class _Band:
    """Percentiles of one band, of the training data and of the input."""

    name: str
    training: Numbers
    low: float
    high: float
    values: npt.NDArray[np.float32]  # without values that mark missing pixels
    found: Numbers
    like: Numbers  # percentiles of the training data in the same months, or NaN
    nodata: tuple[float, float] | None = None  # value and share

    @property
    def empty(self) -> bool:
        return self.values.size == 0

    @property
    def nearest(self) -> Numbers:
        """Percentiles of the training data, in the same months if it has them."""
        return self.like if np.isfinite(self.like).all() else self.training

    @property
    def unit(self) -> str:
        return _unit(self.name, self.training)

    def distance(
        self,
        changed: Numbers | None = None,
        by: Callable[[Numbers], Any] = np.mean,
    ) -> float:
        """Return how far percentiles are from the training data, in its spread."""
        found = self.found if changed is None else changed
        each = [
            float(by(np.abs(found - one)[1:-1]))
            for one in (self.training, self.like)
            if np.isfinite(one).all()
        ]
        return min(each, default=math.inf) / _spread(self.training)

    def _cannot_be(self, factor: float) -> bool:
        """Return whether values are beyond all that nature has in the training unit.

        Water, snow and clouds are an order darker or brighter than ground.
        """
        size, known = np.abs(self.found), np.abs(self.training)
        if factor > 1:
            return bool(max(size[0], size[-2]) < min(known[1], known[-2]))
        highest = {"reflectance": 2e4, "fraction": 2.0, "dB": 100.0}.get(self.unit, 0)
        return bool(size[3] > max(highest, known[0], known[-1]))

    def accepts(self, cause: Cause) -> bool:
        """Return whether a factor or a unit explains the values of this band."""
        changed = cause.change(self.found)
        if cause.kind == "factor":
            typical, known = _typical(self.found), _typical(self.training)
            if not (typical > 0 and known > 0):
                return False
            # The values are an order off, and the factor takes it away.
            off = abs(math.log10(typical / known))
            left = abs(math.log10(typical * cause.factor / known))
            if off < 0.75 or left > 0.5 or not self._cannot_be(cause.factor):
                return False
        return self.distance(changed) <= _LIKE


def _unit(name: str, training: Numbers) -> str:
    """Return the unit of training data, as far as name and values tell it."""
    if _RADAR.search(name):
        return "dB" if training[3] < 0 else "power"
    if _OPTICAL.search(name) and training[1] > -2000:
        return "reflectance" if training[5] > 20 else "fraction"
    return name  # of its own: nothing else is like it


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
        if len(lifted) < (3 if len(sample.calendar) > _MANY_MONTHS else 1):
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
    bands = _without_nodata([_measure(profile, sample, n, step) for n in names])
    steps = len(sample.calendar) if step is None else 1
    causes = _offset(bands, steps) | _scales(bands) | _swapped(bands)
    months = sorted(set(sample.calendar)) if step is None else [sample.calendar[step]]
    verdicts = []
    for band in bands:
        values = sample.of(band.name, step)
        size = sample.values.shape[-1] * (len(sample.calendar) if step is None else 1)
        outside = _outside(band.training, values)
        verdict, cause = causes.get(band.name, (OK, ""))
        if verdict == OK:
            verdict, cause = _alone(band, profile, months, outside)
        found = _percentiles(values)
        missing = 1 - values.size / size if size else np.nan
        verdicts.append(
            Verdict(band.name, verdict, cause, band.training, found, outside, missing)
        )
    return verdicts


def _measure(
    profile: BandProfile, sample: InputSample, name: str, step: int | None
) -> _Band:
    values = sample.of(name, step)
    if step is not None and values.size < _FEWEST:
        values = values[:0]
    months = sample.calendar if step is None else (sample.calendar[step],)
    row, training = profile.bands[name], profile.percentiles(name)
    return _Band(
        name,
        training,
        row["minimum"],
        row["maximum"],
        values,
        _percentiles(values),
        profile.percentiles(name, months),
    )


def _without_nodata(bands: Sequence[_Band]) -> list[_Band]:
    """Leave out values that mark missing pixels, and note them."""
    marks = {band.name: _nodata(band) for band in bands}
    # In water and shadow some bands are zero; zero as nodata is in all of them.
    light = [b for b in bands if b.unit in ("reflectance", "fraction") and not b.empty]
    zeros = [b for b in light if (marks[b.name] or (1.0,))[0] == 0]
    if len(zeros) < 0.8 * len(light):
        marks |= {band.name: None for band in zeros}
    return [_less(band, marks[band.name]) for band in bands]


def _less(band: _Band, mark: tuple[float, float] | None) -> _Band:
    if mark is None:
        return band
    values = band.values[band.values != np.float32(mark[0])]
    return replace(band, values=values, found=_percentiles(values), nodata=mark)


def _percentiles(values: npt.NDArray[np.float32]) -> Numbers:
    if values.size == 0:
        return np.full(len(PERCENTILES), np.nan)
    return np.percentile(values.astype(np.float64), PERCENTILES)


def _outside(training: Numbers, values: npt.NDArray[np.float32]) -> float:
    if values.size == 0 or not np.isfinite(training).all():
        return math.nan
    # Percentiles of floats are known to 0.8 %.
    room = 0.01 * np.abs(training[[0, -1]]) + 1e-9
    low, high = training[0] - room[0], training[-1] + room[1]
    return float(((values < low) | (values > high)).mean())


def _spread(training: Numbers) -> float:
    """Return the distance between the percentiles 5 and 95, but not nearly none."""
    return float(max(training[5] - training[1], 0.01 * np.abs(training).max(), 1e-9))


def _typical(percentiles: Numbers) -> float:
    """Return the magnitude of the values; of many zeros, that of the others."""
    size = np.abs(percentiles)
    return float(size[3] or size[4] or size[5] or size[6])


# --- values that mark missing pixels ---


def _nodata(band: _Band) -> tuple[float, float] | None:
    """Return a constant far from all else, such as -9999 or 0, with its share."""
    values, training, low, high = band.values, band.training, band.low, band.high
    zero = band.unit != band.name
    if values.size == 0 or not np.isfinite(training).all():
        return None
    for value in (values.min(), values.max(), np.float32(0)):
        share = float((values == value).mean())
        inside = training[0] <= value <= training[-1]
        if value == 0:
            if not zero or inside:  # of elevation or a share, zero is a value
                continue
            # Training data with zeros below its first percentile may have some here.
            least = 0.02 if low > 0 or high < 0 else 0.05
            if share >= least and (share < 1 or values.size >= _FEWEST):
                return 0.0, share
        elif share >= 0.005 and not low <= value <= high:
            others = values[values != value]
            if others.size == 0:
                return float(value), share
            gap = float(np.abs(others - value).min())
            ends = np.percentile(others.astype(np.float64), (1, 99))
            if gap > max(0.5 * float(ends[1] - ends[0]), 1e-9):
                return float(value), share
    return None


# --- causes that several bands speak for ---

_Causes = dict[str, tuple[str, str]]


def _by_unit(bands: Iterable[_Band]) -> dict[str, list[_Band]]:
    units: dict[str, list[_Band]] = {}
    for band in bands:
        if not band.empty and np.isfinite(band.training).all():
            units.setdefault(band.unit, []).append(band)
    return units


def _scales(bands: Sequence[_Band]) -> _Causes:
    """Return the bands whose values are in another unit or off by an order."""
    found: _Causes = {}
    for unit, members in _by_unit(bands).items():
        agreeing = [
            (cause, [band for band in members if _plainly(band, cause)])
            for cause in _possible(unit)
        ]
        # What most bands speak for; of equals, what brings them nearest.
        agreeing.sort(key=lambda pair: (-len(pair[1]), _after(*pair)))
        for cause, agree in agreeing:
            if not agree or len(agree) < _needed(cause, unit, len(members)):
                continue
            for band in agree:
                found.setdefault(band.name, (SCALE, cause.text))
        for band in members:
            if unit == "dB" and (band.values > 0).mean() > 0.9 and band.training[6] < 0:
                found.setdefault(band.name, (SCALE, DIGITAL_NUMBERS.text))
    return found


def _needed(cause: Cause, unit: str, count: int) -> int:
    """Return how many of the bands of a unit must speak for a cause."""
    if cause.kind == "unit":
        return math.ceil(_MAJORITY * count)
    if abs(math.log10(cause.factor)) >= 3:
        return 1  # no water or cloud is a thousand times darker or brighter
    if unit in ("reflectance", "fraction", "power", "dB") and count > 1:
        return math.ceil(0.9 * count)
    return 1 if unit == "dB" else count + 1


def _after(cause: Cause, bands: Sequence[_Band]) -> float:
    """Return how far bands are from the training data after a change, on average."""
    each = [band.distance(cause.change(band.found)) for band in bands]
    return float(np.mean(each)) if each else math.inf


def _possible(unit: str) -> tuple[Cause, ...]:
    """Return what may be wrong, the likeliest first."""
    units = {
        "dB": UNITS_OF_DB,
        "power": UNITS_OF_POWER,
        "reflectance": UNITS_OF_REFLECTANCE,
        "fraction": UNITS_OF_FRACTION,
    }.get(unit, ())
    return (*units, *FACTORS) if unit in ("dB", "power") else (*FACTORS, *units)


def _plainly(band: _Band, cause: Cause) -> bool:
    """Return whether a cause explains a band that is not like the training data."""
    if not band.accepts(cause):
        return False
    if cause.kind == "factor":
        return True
    after = band.distance(cause.change(band.found))
    if band.unit == "dB":  # power, amplitude or numbers: above zero, all of them
        return bool((band.values > 0).mean() > 0.99 and band.training[5] < 0)
    if band.unit == "power":
        return bool(band.found[3] < 0 and after < band.distance())
    off = abs(math.log10(max(_typical(band.found), 1e-12) / _typical(band.training)))
    return off > 0.4 and after < 0.5 * band.distance()


def _offset(bands: Sequence[_Band], months: int) -> _Causes:
    """Return the bands of reflectance that are lifted by a constant, all of them."""
    found: _Causes = {}
    units = _by_unit(b for b in bands if b.unit in ("reflectance", "fraction"))
    for unit, members in units.items():
        lifted, lowered = offsets(1e4 if unit == "reflectance" else 1.0)
        step = lifted.factor
        ours = np.array([band.found for band in members])
        theirs = np.array([band.nearest for band in members])
        for cause, high, low in ((lifted, ours, theirs), (lowered, theirs, ours)):
            if _lifted(high, low, step, months):
                found |= {band.name: (OFFSET, cause.text) for band in members}
    return found


def _lifted(high: Numbers, low: Numbers, step: float, months: int) -> bool:
    """Return whether bands, (band, percentile), are lifted by a constant.

    Haze lifts blue most, snow the visible bands, clouds bright pixels more than dark
    ones. The offset lifts the darkest pixels of the dark bands alike; those of near
    infrared are water, or not. Or it lifts all pixels of all bands alike.
    """
    if (high[:, 0] < 0.9 * step).any():
        return False
    off = np.abs(high - low - step)
    if len(off) > 1 and (off[:, :5] < _ABOUT * step).all():
        return True
    dark = np.argsort(low[:, 3])[:_DARKEST]
    # Of many months the darkest pixels are clear ones; else look at more of them.
    ends = slice(0, 1 if months > _MANY_MONTHS else 2)
    near = (off[dark, ends] < _ABOUT * step).all()
    return bool(near and low[dark, 0].max() < _DARK * step)


def _swapped(bands: Sequence[_Band]) -> _Causes:
    """Return the bands whose values are those of each other in the training data."""
    from scipy.optimize import linear_sum_assignment

    known = [b for b in bands if not b.empty and np.isfinite(b.training).all()]
    if len(known) < 2:
        return {}
    cost = np.array([[_as(a, b) for b in known] for a in known])
    # Bands that are as like their own place stay there.
    _, best = linear_sum_assignment(np.minimum(cost, 1e3) - 0.01 * np.eye(len(known)))
    found: _Causes = {}
    for cycle in _cycles(best.tolist()):
        own = np.array([cost[i, i] for i in cycle])
        other = np.array([cost[i, best[i]] for i in cycle])
        if len(cycle) > 1 and (own > 0.8).all() and (other < 0.35 * own).all():
            if (other > 1).any():
                continue
            pairs = [f"{known[i].name} holds {known[best[i]].name}" for i in cycle]
            text = (
                f"by the training data {', '.join(pairs)}; name the bands in their "
                "order, cube.assign_coords(band=[...])"
            )
            found |= {known[i].name: (SWAPPED, text) for i in cycle}
    return found


def _as(values: _Band, place: _Band) -> float:
    """Return how far the values of a band are from the training data of another."""
    # By the darker half, without clouds and snow, and by the smaller of both spreads.
    half = slice(0, 4)
    spread = min(_half_spread(values.training), _half_spread(place.training))
    each = [
        float(np.abs(values.found - one)[half].mean())
        for one in (place.training, place.like)
        if np.isfinite(one).all()
    ]
    return min(each) / spread


def _half_spread(training: Numbers) -> float:
    return float(max(training[3] - training[0], 0.01 * np.abs(training).max(), 1e-9))


def _cycles(order: Sequence[int]) -> list[list[int]]:
    left, cycles = set(range(len(order))), []
    while left:
        cycle, at = [], min(left)
        while at in left:
            left.remove(at)
            cycle.append(at)
            at = order[at]
        cycles.append(cycle)
    return cycles


# --- what one band says ---


def _alone(
    band: _Band, profile: BandProfile, months: Sequence[int], outside: float
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
        lacked = profile.bands[band.name]["missing"]
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
        value = f"{band.values[0]:g}"
        text = f"all values are {value}: probably missing; gb.as_cube(data, nodata={value})"
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
    if distance <= _LIKE and _outside(same, band.values) <= _MOST_OUTSIDE:
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
    band: _Band, profile: BandProfile, months: Sequence[int], distance: float
) -> str:
    """Return the sentence where months, or other months' values, explain it."""
    lacking = sorted(set(months) - set(profile.months))
    if lacking and profile.months:
        known = ", ".join(map(str, sorted(profile.months)))
        return (
            f"month {', '.join(map(str, lacking))} is not in the training data (months "
            f"{known}); map months that are, or train on these"
        )
    spread = _spread(band.training)
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


def _percent(band: _Band) -> str:
    """Return the sentence where shares of 100, such as clouds, have another unit."""
    if not _is_percent(band) or band.values.min() < 0:
        return ""
    highest = float(band.values.max())
    if 101 < highest <= 255:
        return "0 to 255 instead of 0 to 100; use values * 100 / 255"
    if highest <= 1 and (band.values % 1 > 0).any() and band.training[5] > 10:
        return "0 to 1 instead of 0 to 100; multiply by 100"
    return ""


def _is_percent(band: _Band) -> bool:
    return 0 <= band.low and 90 <= band.high <= 101
