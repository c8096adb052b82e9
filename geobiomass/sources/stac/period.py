"""The months that a cube covers."""

from __future__ import annotations

import calendar
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from geobiomass.cube import CubeError

LONGEST = 12  # months: a cube contains each calendar month once


@dataclass(frozen=True)
class Period:
    """Consecutive calendar months, each with its year."""

    months: tuple[tuple[int, int], ...]

    @property
    def span(self) -> str:
        """The period in the form that a STAC search needs."""
        return f"{self.start}T00:00:00Z/{self.end}T23:59:59.999Z"

    @property
    def start(self) -> str:
        """The first day, ISO 8601."""
        year, month = self.months[0]
        return f"{year}-{month:02d}-01"

    @property
    def names(self) -> tuple[str, ...]:
        """The months as ``"2023-09"``."""
        return tuple(f"{year}-{month:02d}" for year, month in self.months)

    @property
    def end(self) -> str:
        """The last day, ISO 8601."""
        year, month = self.months[-1]
        return f"{year}-{month:02d}-{calendar.monthrange(year, month)[1]}"


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
    return Period(tuple((n // 12, n % 12 + 1) for n in range(first, last + 1)))
