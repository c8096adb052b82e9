"""Visits: states and dates of photos, with season, weather and light."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

Part = Literal["train", "test"]
Floats = npt.NDArray[np.float64]

# Number of sampling dates, and share of the photos, by state: those of the CSIRO
# Image2Biomass competition.
DATES = {"Tas": 10, "Vic": 11, "NSW": 6, "WA": 3}
SHARES = {"Tas": 0.39, "Vic": 0.31, "NSW": 0.21, "WA": 0.09}
YEARS = {"train": 2015, "test": 2016}  # so no date is in both


@dataclass(frozen=True)
class Visit:
    """A sampling date in a state: growth, soil and light.

    Parameters
    ----------
    state, date
        The state and the date.
    growth
        (3,) for green, dead and clover: the date's mean mass relative to that of all
        dates.
    without_clover
        Share of the photos without clover.
    yellowing, rotting
        Change of colour of green and of dead leaves, 0 to 1.
    wet
        Darkness of the soil, 0 to 1.
    cloud
        0: sharp shadows of the sun, 1: no shadows.
    light
        (3,) factors of red, green and blue: exposure and white balance.
    """

    state: str
    date: datetime.date
    growth: Floats
    without_clover: float
    yellowing: float
    rotting: float
    wet: float
    cloud: float
    light: Floats


def visit_of(state: str, day: int, days: int, part: Part, seed: int) -> Visit:
    """Return one of the sampling dates of a state, which are spread over the year.

    Parameters
    ----------
    state
        The state.
    day, days
        Number of the date, from 0, and the number of dates.
    part
        "train" or "test", which are in different years.
    seed
        Random seed.
    """
    key = 1 + list(SHARES).index(state)
    random = np.random.default_rng([seed, list(YEARS).index(part), key, day])
    of_year = int((day + random.uniform()) / days * 365)

    def season(peak: int) -> float:
        return float(np.cos(2 * np.pi * (of_year - peak) / 365))

    # Spring growth is highest in October, hay-dry summers end in February.
    mean = np.array(
        [1 + 0.5 * season(285), 1 + 0.6 * season(45), 1 + 0.3 * season(285)]
    )
    warmth = random.normal(0, 0.07)
    return Visit(
        state,
        datetime.date(YEARS[part], 1, 1) + datetime.timedelta(of_year),
        mean * spread(random, 0.25, 3),
        float(random.beta(1.9, 3.1)),  # mean 0.38
        float(np.clip(0.3 + 0.25 * season(45) + random.normal(0, 0.15), 0, 0.8)),
        float(random.uniform()),
        float(np.clip(0.5 - 0.3 * season(45) + random.normal(0, 0.25), 0, 1)),
        float(random.uniform()),
        spread(random, 0.18, 1) * np.exp([warmth, random.normal(0, 0.02), -warmth]),
    )


def slots(count: int, dates: Mapping[str, int]) -> list[tuple[str, int]]:
    """Return state and date of each photo, next the state furthest below its share."""
    order = {state: _far_apart(days, state) for state, days in dates.items()}
    taken = dict.fromkeys(dates, 0)
    slots: list[tuple[str, int]] = []
    while len(slots) < count:
        state = min(taken, key=lambda name: (taken[name] + 0.5) / SHARES[name])
        slots += [(state, order[state][taken[state] % dates[state]])] * 2
        taken[state] += 1
    return slots[:count]


def _far_apart(days: int, state: str) -> list[int]:
    """Order dates by the golden section, so that the first few are far apart."""
    start = list(SHARES).index(state) / len(SHARES)
    return [int(day) for day in np.argsort((start + 0.618 * np.arange(days)) % 1)]


def spread(random: np.random.Generator, deviation: float, count: int) -> Floats:
    """Draw log-normal factors with a mean of 1."""
    return np.exp(random.normal(-(deviation**2) / 2, deviation, count))
