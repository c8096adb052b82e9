"""Tables of raster files: path, month or date, year, band of each."""

from __future__ import annotations

import calendar
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

import pandas as pd

from geobiomass.tables import TableError, match_column, read_dates
from geobiomass.tables.dates import date_remedy

NO_MONTH = "the month must be 1 to 12 or a name, got {!r}."

_MONTHS = {
    name.lower(): number
    for names in (calendar.month_name, calendar.month_abbr)
    for number, name in enumerate(names)
    if name
}
_ENDS = (".csv", ".tsv", ".txt", ".tab", ".xlsx", ".parquet")
_PATHS = ("path", "file", "filename", "filepath", "file_name", "file_path", "image")
_DATES = ("date", "acquisition_date", "acquired", "datetime", "sensing_date", "day")


@dataclass(frozen=True)
class Row:
    """A row of a table of files.

    Parameters
    ----------
    path, band : str, optional
        As written.
    month, year : int, optional
        Of its date, or as written.
    wrong : str
        The problem with its date, empty without.
    cells : dict
        The cells that are filled.
    """

    path: str | None
    month: int | None
    year: int | None
    band: str | None
    wrong: str
    cells: dict[str, Any]


def is_table_of_files(path: str) -> bool:
    """Return whether the name of a file is one of a table, not of a raster."""
    return path.lower().removesuffix(".gz").endswith(_ENDS)


def read_rows(table: pd.DataFrame) -> list[Row]:
    """Read the rows of a table of files; its dates are in one form by column.

    Raises
    ------
    TableError
        If there are no rows, no column of paths, or dates could be read in two ways.
    """
    path = match_column(table, _PATHS)
    if path is None or not len(table):
        raise TableError(
            "A table of files must have rows, the columns path and month (or date), "
            "and a column band if files have one band each; got "
            f"{len(table)} rows with the columns {list(map(str, table.columns))}."
        )
    date = match_column(table, _DATES)
    month, year, band = (match_column(table, (n,)) for n in ("month", "year", "band"))
    days = None
    if date is not None:
        days = read_dates(table[date], str(date), keep_unreadable=True)
    rows = []
    for number in range(len(table)):
        cells = {
            column: value
            for column, value in table.iloc[number].items()
            if not _blank(value)
        }
        when = _when(
            cells, date, month, year, None if days is None else days.iloc[number]
        )
        rows.append(
            Row(
                str(cells[path]) if path in cells else None,
                *when[:2],
                str(cells[band]) if band in cells else None,
                when[2],
                {str(column): value for column, value in cells.items()},
            )
        )
    return rows


def _when(
    cells: dict[Hashable, Any],
    date: Hashable | None,
    month: Hashable | None,
    year: Hashable | None,
    day: Any,
) -> tuple[int | None, int | None, str]:
    """Return month and year of a row, and the problem with them."""
    if date in cells:
        if pd.isna(day):
            text = str(cells[date])
            return None, None, f"{text!r} is not a date{date_remedy(text)}."
        return int(day.month), int(day.year), ""
    known = None
    if year in cells:
        number = pd.to_numeric(cells[year], errors="coerce")
        if pd.isna(number) or number != int(number):
            return None, None, f"the year must be a whole number, got {cells[year]!r}."
        known = int(number)
    if month not in cells:
        return None, known, ""
    found = month_number(cells[month])
    return found, known, "" if found else NO_MONTH.format(cells[month])


def month_number(value: Any) -> int | None:
    """Return a month, from a number or an English name; None if it is neither."""
    text = str(value).strip().lower()
    if text in _MONTHS:
        return _MONTHS[text]
    try:
        number = float(text)
    except ValueError:
        return None
    return int(number) if number in range(1, 13) else None


def _blank(value: Any) -> bool:
    return value is None or value == "" or bool(pd.isna(value))
