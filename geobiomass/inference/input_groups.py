"""Causes that several bands of an input speak for: a unit, an offset, their order."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np

from geobiomass.data.band_profile import Numbers
from geobiomass.inference.input_bands import Band, typical_of
from geobiomass.inference.input_causes import (
    DIGITAL_NUMBERS,
    FACTORS,
    UNITS_OF_DB,
    UNITS_OF_FRACTION,
    UNITS_OF_POWER,
    UNITS_OF_REFLECTANCE,
    Cause,
    offsets,
)

Causes = dict[str, str]
"""Sentences by band."""

_DARKEST = 3  # bands, such as blue, green and red
MANY_MONTHS = 5
"""Months of which some are clear at any place."""

_DARK = 0.5  # of an offset: the darkest pixels of a band without it, at most
_ABOUT = 0.2  # of an offset: so much may the darkest pixels of other ground differ
_MAJORITY = 0.6  # of the bands of one unit that must speak for a cause


def _by_unit(bands: Iterable[Band]) -> dict[str, list[Band]]:
    units: dict[str, list[Band]] = {}
    for band in bands:
        if not band.empty and np.isfinite(band.training).all():
            units.setdefault(band.unit, []).append(band)
    return units


def scales(bands: Sequence[Band]) -> Causes:
    """Return the bands whose values are in another unit or off by an order."""
    found: Causes = {}
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
                found.setdefault(band.name, cause.text)
        for band in members:
            if unit == "dB" and (band.values > 0).mean() > 0.9 and band.training[6] < 0:
                found.setdefault(band.name, DIGITAL_NUMBERS.text)
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


def _after(cause: Cause, bands: Sequence[Band]) -> float:
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


def _plainly(band: Band, cause: Cause) -> bool:
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
    off = abs(
        math.log10(max(typical_of(band.found), 1e-12) / typical_of(band.training))
    )
    return off > 0.4 and after < 0.5 * band.distance()


def offset(bands: Sequence[Band], months: int) -> Causes:
    """Return the bands of reflectance that are lifted by a constant, all of them."""
    found: Causes = {}
    units = _by_unit(b for b in bands if b.unit in ("reflectance", "fraction"))
    for unit, members in units.items():
        lifted, lowered = offsets(1e4 if unit == "reflectance" else 1.0)
        step = lifted.factor
        ours = np.array([band.found for band in members])
        theirs = np.array([band.nearest for band in members])
        for cause, high, low in ((lifted, ours, theirs), (lowered, theirs, ours)):
            if _lifted(high, low, step, months):
                found |= {band.name: cause.text for band in members}
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
    ends = slice(0, 1 if months > MANY_MONTHS else 2)
    near = (off[dark, ends] < _ABOUT * step).all()
    return bool(near and low[dark, 0].max() < _DARK * step)


def swapped(bands: Sequence[Band]) -> Causes:
    """Return the bands whose values are those of each other in the training data."""
    from scipy.optimize import linear_sum_assignment

    known = [b for b in bands if not b.empty and np.isfinite(b.training).all()]
    if len(known) < 2:
        return {}
    cost = np.array([[_as(a, b) for b in known] for a in known])
    # Bands that are as like their own place stay there.
    _, best = linear_sum_assignment(np.minimum(cost, 1e3) - 0.01 * np.eye(len(known)))
    found: Causes = {}
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
            found |= {known[i].name: text for i in cycle}
    return found


def _as(values: Band, place: Band) -> float:
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
