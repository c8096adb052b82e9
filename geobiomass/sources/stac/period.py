"""The steps of a cube: months, or finer or coarser ones."""

from __future__ import annotations

import calendar
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from itertools import groupby, pairwise
from typing import Any, cast

import numpy as np

from geobiomass.cube import CubeError
from geobiomass.cube.calendar import DEKADS, season_of

LONGEST = 12  # months: a cube contains each calendar month once
STEPS = ("month", "dekad", "season")
_LONGEST_DAYS = 366


@dataclass(frozen=True)
class Step:
    """One image of a cube: the days it is composed of."""

    start: date
    """The first day."""
    end: date
    """The last day, which belongs to it."""
    name: str
    """``"2023-09"`` for a calendar month, else the first day, ``"2023-09-11"``."""

    @property
    def middle(self) -> datetime:
        """The middle of a month is noon of its 15th, as in earlier releases."""
        if self.name == f"{self.start:%Y-%m}":
            return datetime(self.start.year, self.start.month, 15, 12, tzinfo=UTC)
        days = (self.end - self.start).days + 1
        first = datetime(*self.start.timetuple()[:3], tzinfo=UTC)
        return first + timedelta(days=days / 2)

    @property
    def month(self) -> int:
        """Calendar month of the middle."""
        return self.middle.month

    def holds(self, when: datetime) -> bool:
        """Return whether an image of a time belongs to it."""
        return self.start <= when.date() <= self.end


@dataclass(frozen=True)
class Period:
    """Consecutive steps, by default calendar months, each with its year."""

    steps: tuple[Step, ...]
    step: str = "month"
    """What the steps are: "month", "dekad", "season" or "edges"."""

    @property
    def months(self) -> tuple[tuple[int, int], ...]:
        """Year and calendar month of each step."""
        return tuple((one.middle.year, one.month) for one in self.steps)

    @property
    def span(self) -> str:
        """The period in the form that a STAC search needs."""
        return f"{self.start}T00:00:00Z/{self.end}T23:59:59.999Z"

    @property
    def start(self) -> str:
        """The first day, ISO 8601."""
        return self.steps[0].start.isoformat()

    @property
    def names(self) -> tuple[str, ...]:
        """The steps as ``"2023-09"``, or by their first day."""
        return tuple(one.name for one in self.steps)

    @property
    def end(self) -> str:
        """The last day, ISO 8601."""
        return self.steps[-1].end.isoformat()

    def name_of(self, when: datetime) -> str | None:
        """Return the name of the step that a time belongs to, None if none."""
        return next((one.name for one in self.steps if one.holds(when)), None)


def in_steps(period: Period | None, step: Any) -> Period | None:
    """Return a period of months in other steps.

    Parameters
    ----------
    period : Period, optional
        Calendar months.
    step : "month", "dekad", "season" or sequence
        Edges are the first days of the steps, and the day after the last one; they
        are a period themselves.

    Raises
    ------
    CubeError
        If it is none of these, or a period is lacking or too many.
    """
    if isinstance(step, str):
        if step not in STEPS:
            raise CubeError(
                f"step must be one of {list(STEPS)}, or the days that steps begin on "
                "and the day after the last, such as ['2023-04-01', '2023-05-15', "
                f"'2023-07-01'], got {step!r}."
            )
        if period is None or step == "month":
            if period is None and step != "month":
                raise CubeError(
                    f"step={step!r} needs months, such as '2023-04:2023-10', got none."
                )
            return period
        if step == "dekad":
            return Period(tuple(_dekads(period.steps)), step)
        return Period(tuple(_seasons(period.steps)), step)
    if period is not None:
        raise CubeError(
            "months and year must be left out where step has the edges of the steps, "
            f"got months from {period.start[:7]} to {period.end[:7]}."
        )
    return _between(step)


def _dekads(months: Iterable[Step]) -> Iterator[Step]:
    """Yield the days 1 to 10, 11 to 20, and the rest of each month."""
    for month in months:
        starts = [month.start.replace(day=day) for day in DEKADS]
        ends = [start - timedelta(days=1) for start in starts[1:]] + [month.end]
        for start, end in zip(starts, ends, strict=True):
            yield Step(start, end, start.isoformat())


def _seasons(months: Iterable[Step]) -> Iterator[Step]:
    """Yield December to February, March to May, ...; cut where the period ends."""
    for _, group in groupby(
        months, lambda one: season_of(one.start.year, one.start.month)
    ):
        mine = list(group)
        start = mine[0].start
        yield Step(start, mine[-1].end, start.isoformat())


def _between(edges: Any) -> Period:
    """Return the steps between edges."""
    try:
        days = [np.datetime64(str(edge), "D").astype(date) for edge in edges]
        known = all(isinstance(day, date) for day in days)
    except (TypeError, ValueError):
        known = False
    if not known or len(days) < 2:
        raise CubeError(
            "step must have two dates or more, such as ['2023-04-01', '2023-05-15'], "
            f"got {edges!r}."
        )
    if any(b <= a for a, b in pairwise(days)):
        raise CubeError(f"step must have dates that rise, got {edges!r}.")
    if (days[-1] - days[0]).days > _LONGEST_DAYS:
        raise CubeError(
            f"step must have dates of a year at most, got {days[0]} to {days[-1]}; "
            "make one cube per year."
        )
    last = timedelta(days=1)
    steps = (Step(a, b - last, a.isoformat()) for a, b in pairwise(days))
    return Period(tuple(steps), "edges")


def asked_period(months: Any, year: int | None) -> Period | None:
    """Return the period of the arguments `months` and `year`, None without both.

    Raises
    ------
    CubeError
        If they are no period, or do not belong together.
    """
    if months is None and year is None:
        return None
    if year is None:
        if _is_numbers(months):
            raise CubeError(
                "months that are numbers need their year, such as months=range(4, 11), "
                f"year=2023, got months={months!r}."
            )
        return parse_period(months)
    if isinstance(year, bool) or not isinstance(year, int | np.integer):
        raise CubeError(f"year must be a whole number such as 2023, got {year!r}.")
    if not 1900 <= year < 2200:
        raise CubeError(f"year must be from 1900 to 2199, got {year}.")
    if months is None:
        return period_of(12 * int(year), 12 * int(year) + 11, str(year))
    if not _is_numbers(months):
        raise CubeError(
            "year belongs to months that are numbers, such as months=range(4, 11), "
            f"got year={year} and months={months!r}; leave year out."
        )
    return _period_of_numbers([int(one) for one in np.atleast_1d(months)], int(year))


def _is_numbers(months: Any) -> bool:
    """Return whether months are numbers: 4, [4, 5], range(4, 6), an array."""
    if isinstance(months, str):
        return False
    many = list(months) if isinstance(months, Iterable) else [months]
    return bool(many) and all(
        isinstance(one, int | np.integer) and not isinstance(one, bool) for one in many
    )


def _period_of_numbers(months: list[int], year: int) -> Period:
    """Return consecutive months of the year; after December those of the next one."""
    if any(not 1 <= month <= 12 for month in months):
        raise CubeError(f"months must be from 1 to 12, got {months}.")
    first = 12 * year + months[0] - 1
    period = period_of(first, first + len(months) - 1, str(months))
    if [month for _, month in period.months] != months:
        raise CubeError(
            f"months must follow each other, such as range(4, 11), got {months}."
        )
    return period


def parse_period(months: str | Sequence[str]) -> Period:
    """Parse ``"2023-09:2024-08"``, a pair of such months, or one month.

    Raises
    ------
    CubeError
        If it is not a period, is empty, or is longer than a year.
    """
    if isinstance(months, str):
        words: list[Any] = months.split(":")
    else:  # two of them, or one month, as a numpy.datetime64 or a pandas.Period is
        many = isinstance(months, Iterable) and np.ndim(cast(Any, months)) == 1
        words = list(months) if many else [months]
    matches = [re.fullmatch(r"(\d{4})-(0[1-9]|1[0-2])", str(word)) for word in words]
    if len(words) not in (1, 2) or not all(matches):
        raise CubeError(
            "months must be the first and the last month, such as '2023-09:2024-08', "
            f"got {months!r}."
        )
    numbers = [int(m[1]) * 12 + int(m[2]) - 1 for m in matches if m]
    return period_of(numbers[0], numbers[-1], f"{months!r}")


def period_of(first: int, last: int, said: str) -> Period:
    """Return the months from `first` to `last`, counted as year x 12 + month - 1.

    Raises
    ------
    CubeError
        If there are none, or more than twelve; the message contains `said`.
    """
    count = last - first + 1
    if count < 1:
        raise CubeError(f"months must not end before they begin, got {said}.")
    if count > LONGEST:
        raise CubeError(
            f"months must be {LONGEST} at most, since a cube has each calendar month "
            f"once, got {count}: {said}; make one cube per year."
        )
    return Period(tuple(_month(n // 12, n % 12 + 1) for n in range(first, last + 1)))


def _month(year: int, month: int) -> Step:
    last = calendar.monthrange(year, month)[1]
    return Step(date(year, month, 1), date(year, month, last), f"{year}-{month:02d}")
