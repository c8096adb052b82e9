"""When images are of: an instant, or the first and the last one, however it is said."""

from __future__ import annotations

import datetime as dt
import re
from typing import Any

import numpy as np

__all__ = ["parse_times"]

_EXPECTED = (
    "must be a date, such as '2023-07-15', or the first and the last one, "
    "('2023-07-01', '2023-08-31'), as text of ISO 8601, date, datetime, "
    "numpy.datetime64 or pandas.Timestamp"
)
_MONTH = re.compile(r"(\d{4})-(\d{2})")
_DAY = re.compile(r"\d{4}-\d{2}-\d{2}|\d{8}")
_CLOCK = re.compile(r"(\d{4}-\d{2}-\d{2}|\d{8})[T ].+")
_LONG = {"Y", "M", "W", "D"}  # units of numpy.datetime64 that are no instants
_SECOND = dt.timedelta(seconds=1)

_Span = tuple[dt.datetime, dt.datetime]


def parse_times(given: Any, name: str = "datetime") -> list[dt.datetime]:
    """Return the time of images, or of the first and the last one, with a time zone.

    Parameters
    ----------
    given : str, date, datetime, numpy.datetime64, pandas.Timestamp, or two of these
        A day at the end of a pair lasts until its last second. A month, '2023-07' or a
        pandas.Period is the pair of its first and last second. A single day is its
        beginning. Without a time zone: UTC. Text of two parts has a slash, as in STAC.
    name : str
        Of the argument, for messages.

    Returns
    -------
    list of datetime.datetime
        One or two.

    Raises
    ------
    ValueError
        If it is something else, or ends before it begins.
    """
    both = given.split("/") if isinstance(given, str) else given
    if not isinstance(both, list | tuple):
        many = not np.isscalar(both) and np.ndim(both) == 1  # an array, an index
        both = list(both) if many else [both]
    if len(both) not in (1, 2):
        raise ValueError(f"{name} {_EXPECTED}; got {len(both)} of them, {given!r}.")
    spans = [_span(one, name, given) for one in both]
    if len(spans) == 2:
        first, last = spans[0][0], spans[1][1]
        if last < first:
            raise ValueError(
                f"{name} must not end before it begins, got {given!r}; give the first "
                "and then the last date."
            )
        return [first, last]
    first, last = spans[0]
    return [first, last] if last - first > dt.timedelta(days=1) else [first]


def _span(one: Any, name: str, given: Any) -> _Span:
    """Return the first and the last second of a date."""
    try:
        first, last = _ends(one)
    except (ValueError, TypeError, OverflowError) as error:
        got = repr(given) if given is one else f"{one!r} in {given!r}"
        raise ValueError(f"{name} {_EXPECTED}; got {got}.") from error
    return _in_utc(first), _in_utc(last)


def _ends(one: Any) -> _Span:
    if hasattr(one, "to_numpy") and getattr(one, "ndim", None) == 0:
        one = one.to_numpy()[()]  # of xarray
    if isinstance(one, np.ndarray) and one.ndim == 0:
        one = one[()]
    if isinstance(one, np.datetime64):
        return _of_numpy(one)
    if hasattr(one, "start_time") and hasattr(one, "end_time"):  # a period of pandas
        return one.start_time.to_pydatetime(), _whole(one.end_time)
    if isinstance(one, str):
        return _of_text(one.strip())
    if one != one:  # NaT
        raise ValueError
    if isinstance(one, dt.datetime):
        return (_plain(one),) * 2
    if isinstance(one, dt.date):
        return _of_days(one, one)
    raise TypeError


def _of_text(text: str) -> _Span:
    if found := _MONTH.fullmatch(text):
        return _of_numpy(np.datetime64(f"{found[1]}-{found[2]}", "M"))
    if _DAY.fullmatch(text):
        day = dt.date.fromisoformat(text)
        return _of_days(day, day)
    if not _CLOCK.fullmatch(text):
        raise ValueError
    return (dt.datetime.fromisoformat(text),) * 2


def _of_numpy(one: np.datetime64) -> _Span:
    if np.isnat(one):
        raise ValueError
    first = one.astype("datetime64[us]").item()
    if not isinstance(first, dt.datetime):  # of a year that Python has not
        raise OverflowError
    if np.datetime_data(one)[0] not in _LONG:
        return first, first
    after = (one + 1).astype("datetime64[us]").item()  # of its own unit
    return first, after - _SECOND


def _of_days(first: dt.date, last: dt.date) -> _Span:
    begin, end = dt.time(), dt.time(23, 59, 59)
    return dt.datetime.combine(first, begin), dt.datetime.combine(last, end)


def _whole(end: Any) -> dt.datetime:
    """Return the last second of a period; pandas has its last nanosecond."""
    return _plain(end).replace(microsecond=0)


def _plain(one: Any) -> dt.datetime:
    """Return a datetime of Python's: pandas has nanoseconds, which STAC has not."""
    if hasattr(one, "to_pydatetime"):
        one = one.to_pydatetime(warn=False)
    return dt.datetime.combine(one.date(), one.timetz())


def _in_utc(one: dt.datetime) -> dt.datetime:
    return one if one.tzinfo else one.replace(tzinfo=dt.UTC)
