"""The calendar months of users' data, from dates or numbers."""

from __future__ import annotations

import calendar
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from geobiomass.cube.schema import CubeError

Months = npt.NDArray[np.int64]
STEPS = ("month", "dekad", "season", "date")
"""How far apart the images of a cube are at least; "date": there may be any number."""
DEKADS = (1, 11, 21)
"""Days of a month that its dekads begin on; the last one has the rest of the month."""

_NAMES = {
    name.lower(): number
    for names in (calendar.month_name, calendar.month_abbr)
    for number, name in enumerate(names)
    if name
}
_GIVE_MONTHS = "give the calendar months, gb.as_cube(data, month=[9, 10, ...])"


def plain_coordinates(data: Any) -> Any:
    """Return data whose coordinates are numpy's, as CF decoding requires.

    Of times with a time zone the local date is kept, of periods the first day, of
    categories their names.
    """
    found = {}
    for name, coordinate in data.coords.items():
        if not isinstance(coordinate.dtype, np.dtype) and coordinate.dims == (name,):
            index = coordinate.to_index()
            if hasattr(index, "tz_localize"):
                values = index.tz_localize(None).to_numpy()
            elif hasattr(index, "to_timestamp"):
                values = index.to_timestamp().to_numpy()
            else:
                values = np.asarray(index.to_numpy())
            found[name] = (name, values, coordinate.attrs)
    return data.assign_coords(found) if found else data


def with_months(
    image: xr.DataArray, month: int | Sequence[int] | None, step: str = "month"
) -> xr.DataArray:
    """Return the image with the calendar month of each step as coordinate.

    Of dates, at most one may be in each `step`.
    """
    if step not in STEPS:
        raise CubeError(f"step must be one of {list(STEPS)}, got {step!r}.")
    if "month" not in image.dims:
        if month is None:
            raise CubeError(
                f"A cube needs a time axis called month, time or t, got {image.dims}; "
                "for one image say which month it is of, gb.as_cube(data, month=7)."
            )
        image = image.drop_vars("month", errors="ignore").expand_dims("month")
    if month is not None:
        months = np.atleast_1d(np.asarray(month))
        if months.shape != (image.sizes["month"],):
            raise CubeError(
                f"month must have a calendar month for each of {image.sizes['month']} "
                f"steps, got {months.tolist()}."
            )
        if months.dtype.kind in "MOUS":  # dates, or names of months
            months = _months_of(months, step)
    else:
        months = _calendar_months(image, step)
    return image.drop_vars("month", errors="ignore").assign_coords(month=months)


def _calendar_months(image: xr.DataArray, step: str) -> Months:
    if "month" not in image.coords:
        raise CubeError(f"The time axis has no coordinate: {_GIVE_MONTHS}.")
    return _months_of(image["month"].values, step)


def _months_of(values: npt.NDArray[Any], step: str) -> Months:
    if values.dtype.kind == "M":
        if np.isnat(values).any():
            _raise_missing(np.isnat(values))
        whole = values.astype("datetime64[M]")
        days = (values.astype("datetime64[D]") - whole).astype(np.int64) + 1
        number = whole.astype(np.int64)
        return _one_a_step(number // 12 + 1970, number % 12 + 1, days, step)
    if values.dtype.kind in "iuf":
        return _of_numbers(values, step)
    if values.dtype.kind in "SUOT":
        return _of_objects(values, step)
    raise CubeError(
        f"The time axis must hold dates or calendar months, got {values.dtype}; "
        f"{_GIVE_MONTHS}."
    )


def _of_numbers(values: npt.NDArray[Any], step: str) -> Months:
    """Return months from months, or from dates such as 20230605."""
    if not np.isfinite(values).all():
        _raise_missing(~np.isfinite(values))
    if (values == np.floor(values)).all():
        if ((values >= 1) & (values <= 12)).all():
            return values.astype(np.int64)
        digits = {len(str(int(value))) for value in values}
        if digits <= {7, 8}:
            return _of_text([str(int(value)) for value in values], step)
        if ((values >= 1900) & (values <= 2100)).all():
            raise CubeError(
                f"The time axis holds years, {_few(values)}, and a cube has a calendar "
                "month for each step: name the months that the images are of, "
                "gb.as_cube(data, month=[7, 7, ...])."
            )
    raise CubeError(
        "The time axis must hold dates or calendar months, got the numbers "
        f"{_few(values)}, which are neither months, 1 to 12, nor dates such as "
        f"20230605. {_GIVE_MONTHS[0].upper()}{_GIVE_MONTHS[1:]}, or dates, "
        "data.assign_coords(time=pandas.to_datetime(...))."
    )


def _of_objects(values: npt.NDArray[Any], step: str) -> Months:
    """Return months from texts, or from objects with year and month, as cftime's."""
    found = values.ravel().tolist()
    missing = np.array([_is_missing(value) for value in found])
    if missing.any():
        _raise_missing(missing)
    if all(hasattr(value, "month") and hasattr(value, "year") for value in found):
        # Also calendars without leap days or with 30 days a month, and time zones,
        # whose own date counts.
        return _one_a_step(
            np.array([int(value.year) for value in found]),
            np.array([int(value.month) for value in found]),
            # A pandas.Period of a month has its first day.
            np.array([int(getattr(value, "day", 1)) for value in found]),
            step,
        )
    if all(isinstance(v, int | float | np.number) for v in found):
        return _of_numbers(np.array(found, np.float64), step)
    texts = [v.decode() if isinstance(v, bytes) else str(v).strip() for v in found]
    names = [_NAMES.get(text.lower().rstrip(".")) for text in texts]
    if all(names):
        return np.array(names, np.int64)
    if all(text.isdigit() and 1 <= int(text) <= 12 for text in texts):
        return np.array([int(text) for text in texts], np.int64)
    return _of_text(texts, step)


def _of_text(texts: list[str], step: str) -> Months:
    import pandas as pd

    from geobiomass.cube.table_errors import cube_errors
    from geobiomass.tables import read_dates

    with cube_errors("The time axis must hold dates or calendar months: "):
        dates = read_dates(pd.Series(texts), "time")
    if dates.isna().any():
        _raise_missing(dates.isna().to_numpy())
    year, month, day = (
        part.to_numpy(np.int64)
        for part in (dates.dt.year, dates.dt.month, dates.dt.day)
    )
    return _one_a_step(year, month, day, step)


def _is_missing(value: Any) -> bool:
    return value is None or value != value or str(value) in ("NaT", "", "<NA>")


def _raise_missing(missing: npt.NDArray[np.bool_]) -> None:
    raise CubeError(
        f"{int(missing.sum())} of {missing.size} steps of the time axis have no date, "
        f"the first is step {int(np.flatnonzero(missing)[0])}; leave them out, "
        "data.isel(time=...), or give the calendar months, gb.as_cube(data, "
        "month=[9, 10, ...])."
    )


def _few(values: npt.NDArray[Any]) -> str:
    shown = ", ".join(f"{value:g}" for value in values[:4])
    return f"{shown}, ..." if values.size > 4 else shown


def _one_a_step(years: Months, months: Months, days: Months, step: str) -> Months:
    """Check that no step of a year has several images, and return the months."""
    if step == "date":
        return months.astype(np.int64)
    names = [
        _name_of_step(int(year), int(month), int(day), step)
        for year, month, day in zip(years, months, days, strict=True)
    ]
    often = {name: n for name, n in Counter(names).items() if n > 1}
    if often:
        name, count = max(often.items(), key=lambda pair: pair[1])
        raise CubeError(
            f"A cube has one image per {step}, got {count} dates in {name}; compose "
            "them, data.resample(time='MS').median(), or use gb.from_stac, which also "
            "leaves out clouds; if they are meant, gb.as_cube(data, step='date') takes "
            "any number."
        )
    return months.astype(np.int64)


def season_of(year: int, month: int) -> tuple[int, int]:
    """Return year and month that a season begins in: December, March, June, ..."""
    return (year, month // 3 * 3) if month >= 3 else (year - 1, 12)


def _name_of_step(year: int, month: int, day: int, step: str) -> str:
    if step == "season":
        first = season_of(year, month)
        return f"the season from {first[0]:04d}-{first[1]:02d} on"
    dekad = max(first for first in DEKADS if first <= day)
    return f"{year:04d}-{month:02d}" + (f"-{dekad:02d}" if step == "dekad" else "")
