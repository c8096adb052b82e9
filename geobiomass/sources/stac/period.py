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
    def end(self) -> str:
        """The last day, ISO 8601."""
        year, month = self.months[-1]
        return f"{year}-{month:02d}-{calendar.monthrange(year, month)[1]}"


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
