"""Dates: the form is decided by column, never row by row."""

from __future__ import annotations

import calendar
import datetime as dt
import re
import warnings
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import pandas as pd

from geobiomass.tables.columns import TableError

_TIME = (
    r"(?:[T ]\s*(?P<H>\d{1,2}):(?P<M>\d{2})(?::(?P<S>\d{2})(?:[.,]\d+)?)?"
    r"\s*(?:Z|UTC|[+-]\d{2}:?\d{2})?)?"
)
_NUMBER = r"\d{1,2}"
_WORD = r"[A-Za-z]{3,9}"
_SEP = r"[-/._ ]\s*"
# Forms that can be read in one way. An offset to UTC is not applied: the date is the
# one that is written.
_CERTAIN = {
    "year-month-day": rf"(?P<y>\d{{4}})(?P<sep>{_SEP})(?P<m>{_NUMBER})[-/._ ]\s*"
    rf"(?P<d>{_NUMBER})",
    "YYYYMMDD": r"(?P<y>[12]\d{3})(?P<m>\d{2})(?P<d>\d{2})",
    "year-day of year": r"(?P<y>[12]\d{3})[-/. ]?(?P<j>\d{3})",
    "year-month": rf"(?P<y>\d{{4}})[-/. ](?P<m>{_NUMBER})",
    "day month name year": rf"(?:[A-Za-z]{{3,9}},?\s+)?(?P<d>{_NUMBER})(?:st|nd|rd|th)?"
    rf"\.?[-/ ,]*(?P<b>{_WORD})\.?[-/ ,]*(?P<y>\d{{4}}|\d{{2}})",
    "month name day year": rf"(?:[A-Za-z]{{3,9}},?\s+)?(?P<b>{_WORD})\.?[-/ ]*"
    rf"(?P<d>{_NUMBER})(?:st|nd|rd|th)?[-/ ,]+(?P<y>\d{{4}}|\d{{2}})",
    "year month name day": rf"(?P<y>\d{{4}})[-/ ](?P<b>{_WORD})[-/ ](?P<d>{_NUMBER})",
    "month name year": rf"(?P<b>{_WORD})\.?[-/ ,]+(?P<y>\d{{4}})",
}
_SHORT = re.compile(
    rf"(?P<p>{_NUMBER})(?P<sep>[-/.])\s*(?P<q>{_NUMBER})[-/.]\s*(?P<r>\d{{4}}|\d{{2}})"
    + _TIME
)
_PATTERNS = {name: re.compile(form + _TIME) for name, form in _CERTAIN.items()}
_MONTHS = {
    name.lower(): number
    for names in (calendar.month_name, calendar.month_abbr)
    for number, name in enumerate(names)
    if name
} | {"sept": 9}
_EXCEL = (20_000, 60_000)  # day numbers of 1954 to 2064
_CENTURY = 69  # two digits up to it are of 2000, as in POSIX strptime

_Fields = tuple[int, int, int, int, int, int]


def read_dates(
    values: Any,
    name: str = "date",
    *,
    dayfirst: bool | None = None,
    keep_unreadable: bool = False,
) -> pd.Series:
    """Read a column of dates, in the one form that fits the whole column.

    Parameters
    ----------
    values : pandas.Series or sequence
        Text (2023-06-05, 5.6.2023, 05/06/2023, 5 Jun 2023, 20230605, 2023-156), whole
        numbers such as 20230605 or 2023156, dates, times with or without a time zone,
        periods, dates of cftime. Of a time zone, the local date is kept.
    name : str
        Name of the column, for messages.
    dayfirst : bool, optional
        Whether 05/06/2023 is 5 June. By default the column decides: a day above 12, or
        points between the numbers.
    keep_unreadable : bool
        Leave it to the caller to report unreadable entries: they are neither an error
        nor told.

    Returns
    -------
    pandas.Series
        datetime64[s] on the same index, NaT where missing or unreadable;
        ``attrs["unreadable"]`` is the number of unreadable entries.

    Raises
    ------
    TableError
        If 05/06/2023 could be May or June in every row, if rows are in different
        orders, or if no entry is a date.

    Warns
    -----
    UserWarning
        If entries are unreadable, with their number.
    """
    column = values if isinstance(values, pd.Series) else pd.Series(list(values))
    if pd.api.types.is_datetime64_any_dtype(column.dtype):
        return _as_dates(cast(Any, column).dt.tz_localize(None))
    if isinstance(column.dtype, pd.PeriodDtype):
        return _as_dates(cast(Any, column).dt.to_timestamp())
    known = column.dropna()
    if pd.api.types.is_bool_dtype(column.dtype):
        raise TableError(f"{name!r} must hold dates, got truth values.")
    cells = {index: _cell(value, name) for index, value in enumerate(column)}
    texts = {i: c for i, c in cells.items() if isinstance(c, str) and c}
    fields = {i: c for i, c in cells.items() if isinstance(c, tuple)}
    fields.update(_of_texts(texts, name, dayfirst))
    made: list[Any] = [None] * len(column)
    for index, each in fields.items():
        made[index] = _datetime(each)
    out = pd.Series(
        np.array(made, "datetime64[s]"), index=column.index, name=column.name
    )
    wrong = [i for i, c in cells.items() if c not in (None, "") and made[i] is None]
    out.attrs["unreadable"] = len(wrong)
    if keep_unreadable:
        return out
    if wrong and len(wrong) == len(known):
        first = str(column.iloc[wrong[0]])
        raise TableError(
            f"{name!r} must hold dates such as 2023-06-05, got {first!r}"
            f"{date_remedy(first)}."
        )
    if wrong:
        warnings.warn(
            f"{len(wrong)} of {len(known)} entries of {name!r} are no dates and are "
            f"read as missing, such as {column.iloc[wrong[0]]!r}.",
            stacklevel=2,
        )
    return out


def _as_dates(column: pd.Series) -> pd.Series:
    out = column.astype("datetime64[s]")
    out.attrs["unreadable"] = 0
    return out


def date_remedy(example: str) -> str:
    """Return the end of an error on an entry that is no date: what to do about it."""
    digits = example.removesuffix(".0")
    if digits.isdigit() and len(digits) == 5:
        return (
            "; these are day numbers of a spreadsheet: pandas.to_datetime(column, "
            "unit='D', origin='1899-12-30')"
        )
    if digits.isdigit() and len(digits) == 4:
        return "; these are years: say the day, or at least the month, 2023-06"
    if digits.isdigit() and len(digits) in (10, 13):
        unit = "s" if len(digits) == 10 else "ms"
        return (
            f"; these look like seconds since 1970: pandas.to_datetime(column, "
            f"unit={unit!r})"
        )
    return ""


def _cell(value: Any, name: str) -> str | _Fields | None:
    """Return the text of an entry, its year to second, or None where it is missing."""
    if isinstance(value, str):
        text = value.strip()
        return text.removesuffix(".0") if text.removesuffix(".0").isdigit() else text
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace").strip()
    if value is None or value is pd.NaT or value is pd.NA or value != value:
        return None
    if isinstance(value, pd.Period):
        value = value.to_timestamp()
    if isinstance(value, np.datetime64):
        value = pd.Timestamp(value)
    if all(hasattr(value, part) for part in ("year", "month", "day")):
        clock = (getattr(value, part, 0) for part in ("hour", "minute", "second"))
        return (value.year, value.month, value.day, *clock)
    if isinstance(value, int | float | np.integer | np.floating):
        return str(int(value)) if float(value).is_integer() else str(value)
    return str(value)


def _datetime(fields: _Fields) -> np.datetime64 | None:
    year, month, day, hour, minute, second = fields
    try:
        when = dt.datetime(year, month, day, hour % 24, minute, min(second, 59))
    except ValueError:
        return None
    return np.datetime64(when + dt.timedelta(days=hour // 24), "s")


def _of_texts(
    texts: dict[int, str], name: str, dayfirst: bool | None
) -> dict[int, _Fields]:
    """Return the fields of texts, by their place."""
    unique = dict.fromkeys(texts.values())
    parsed: dict[str, _Fields | None] = {}
    short: dict[str, re.Match[str]] = {}
    for text in unique:
        parsed[text] = _certain(text)
        if parsed[text] is None and (match := _SHORT.fullmatch(text)):
            short[text] = match
    if short:
        count = sum(text in short for text in texts.values())
        order = _order(list(short.values()), name, dayfirst)
        for text, match in short.items():
            parsed[text] = _in_order(match, order)
        others = sum(parsed[t] is not None and t not in short for t in texts.values())
        if others:
            warnings.warn(
                f"{name!r} mixes two forms of dates: {count} entries such as "
                f"{next(iter(short))!r}, {others} such as "
                f"{next(t for t in unique if parsed[t] and t not in short)!r}. A "
                "spreadsheet does this when it turns a part of the dates into others; "
                "compare them with their source.",
                stacklevel=3,
            )
    return {i: found for i, text in texts.items() if (found := parsed[text])}


def _certain(text: str) -> _Fields | None:
    for pattern in _PATTERNS.values():
        match = pattern.fullmatch(text)
        if not match:
            continue
        found = match.groupdict()
        year = _year(found["y"])
        if found.get("j"):
            day = int(found["j"])
            if not 1 <= day <= 365 + calendar.isleap(year):
                continue
            when = dt.date(year, 1, 1) + dt.timedelta(days=day - 1)
            return (year, when.month, when.day, *_clock(match))
        month = _MONTHS.get((found.get("b") or "").lower(), found.get("m"))
        if month is None:
            continue
        fields = (year, int(month), int(found.get("d") or 1), *_clock(match))
        if _datetime(fields) is not None:
            return fields
    return None


def _year(text: str) -> int:
    number = int(text)
    if len(text) == 4:
        return number
    return number + (2000 if number < _CENTURY else 1900)


def _clock(match: re.Match[str]) -> tuple[int, int, int]:
    hour, minute, second = (int(match.group(each) or 0) for each in "HMS")
    return hour, minute, second


# --- day, month and year as numbers ---


def _in_order(match: re.Match[str], order: str) -> _Fields | None:
    """Return the fields of a short date, its parts in an order such as "dmy"."""
    parts = dict(zip(order, match.group("p", "q", "r"), strict=True))
    if order[0] == "y" and len(parts["y"]) < 2:
        return None
    if order[0] == "y" and len(parts["d"]) > 2:
        return None
    fields = (_year(parts["y"]), int(parts["m"]), int(parts["d"]), *_clock(match))
    return fields if _datetime(fields) is not None else None


def _order(matches: Sequence[re.Match[str]], name: str, dayfirst: bool | None) -> str:
    """Return the order of day, month and year that a whole column is in."""
    this_year = dt.date.today().year + 1
    counts: dict[str, int] = {}
    for order in ("dmy", "mdy", "ymd"):
        found = [_in_order(match, order) for match in matches]
        if order == "ymd" and not _years_first(matches):
            continue
        future = any(each is not None and each[0] > this_year for each in found)
        short_year = any(len(match["r"]) == 2 for match in matches)
        if not (future and short_year):
            counts[order] = sum(each is not None for each in found)
    if dayfirst is not None:
        return "dmy" if dayfirst else "mdy"
    if not counts:
        return "dmy"
    most = max(counts.values())
    best = [order for order, count in counts.items() if count == most]
    example = matches[0].group(0)
    days_above = {
        order: [m for m in matches if _in_order(m, order) is None] for order in counts
    }
    if len(best) == 1:
        other = [
            m.group(0)
            for m in days_above[best[0]]
            if any(_in_order(m, order) is not None for order in ("dmy", "mdy"))
        ]
        if other:
            raise TableError(
                f"{name!r} mixes orders: {other[0]!r} can only be "
                f"{'month/day' if best[0] == 'dmy' else 'day/month'}, most others only "
                f"the opposite, such as {_decisive(matches, best[0])!r}. Write all as "
                "2023-06-05."
            )
        return best[0]
    if any(days_above[order] for order in best) and _mixed(matches):
        raise TableError(
            f"{name!r} mixes orders of day and month: {_mixed(matches)}. Write all as "
            "2023-06-05."
        )
    if all(_in_order(m, best[0]) == _in_order(m, best[1]) for m in matches):
        return best[0]
    if "dmy" in best and all(m["sep"] == "." for m in matches):
        return "dmy"  # points are of countries that begin with the day
    raise TableError(
        f"Dates in {name!r} such as {example!r} could begin with the day or the month, "
        "and no row decides it. Write them as 2023-06-05, or read them with "
        "pandas.to_datetime(column, dayfirst=True) and pass the table."
    )


def _mixed(matches: Sequence[re.Match[str]]) -> str:
    only = {
        order: next(
            (
                m.group(0)
                for m in matches
                if _in_order(m, order) is not None
                and _in_order(m, "mdy" if order == "dmy" else "dmy") is None
            ),
            None,
        )
        for order in ("dmy", "mdy")
    }
    if None in only.values():
        return ""
    return f"{only['dmy']!r} begins with the day, {only['mdy']!r} with the month"


def _decisive(matches: Sequence[re.Match[str]], order: str) -> str:
    others = {"dmy": "mdy", "mdy": "dmy", "ymd": "dmy"}
    for match in matches:
        if _in_order(match, order) and _in_order(match, others[order]) is None:
            return match.group(0)
    return matches[0].group(0)


def _years_first(matches: Sequence[re.Match[str]]) -> bool:
    """Return whether years of two digits may come first: the part that varies least."""
    if any(len(match["r"]) > 2 or len(match["p"]) < 2 for match in matches):
        return False
    first, last = ({match[part] for match in matches} for part in "pr")
    return any(int(each) > 31 for each in first) or len(first) <= len(last)
