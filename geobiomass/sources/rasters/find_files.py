"""Raster files by pattern or table, with the month, year and band of each."""

from __future__ import annotations

import datetime as dt
import glob
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import pandas as pd

from geobiomass.cube import CubeError
from geobiomass.cube.table_errors import cube_errors
from geobiomass.sources.rasters.file_tables import (
    NO_MONTH,
    is_table_of_files,
    month_number,
    read_rows,
)
from geobiomass.sources.stac.addresses import Guard
from geobiomass.tables import read_table

Files: TypeAlias = (
    str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | pd.DataFrame
)

_MOST_SHOWN = 20  # problems in one message
_FIELD = re.compile(r"\{(\w+)(?::([^{}]*))?\}|\*\*|\*|\?")
_FIELDS = {
    "year": r"\d{4}",
    "month": r"\d{1,2}|[A-Za-z]{3,9}",
    "date": r"\d{4}[-_]?\d{2}[-_]?\d{2}",
    "band": r"[^/]+?",
    "any": r"[^/]*?",
}
# Text that the directives of a date format match, as in strptime.
_DIRECTIVES = {"Y": r"\d{4}", "j": r"\d{3}", "b": "[A-Za-z]{3}", "B": "[A-Za-z]+"}


@dataclass(frozen=True)
class Found:
    """A file with the facts from its name or its row of a table.

    Parameters
    ----------
    path : str
        Path or address that GDAL opens.
    month, year : int, optional
        Month and year of its pixels; None means every month, every year.
    band : str, optional
        Name of the band, for a file of one band.
    """

    path: str
    month: int | None = None
    year: int | None = None
    band: str | None = None


class Problems:
    """Problems of files, collected so that one error reports them all."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def add(self, path: str, line: str) -> None:
        """Add a problem of a file."""
        self.lines.append(f"{path}: {line}")

    def check(self) -> None:
        """Check that there are no problems.

        Raises
        ------
        CubeError
            If there are any; it lists them.
        """
        if not self.lines:
            return
        more = len(self.lines) - _MOST_SHOWN
        shown = self.lines[:_MOST_SHOWN] + ([f"and {more} more"] if more > 0 else [])
        raise CubeError(
            f"{len(self.lines)} of the files cannot be used:\n  " + "\n  ".join(shown)
        )


def find_files(files: Files, problems: Problems) -> list[Found]:
    """List files by a pattern, several patterns, or a table.

    Raises
    ------
    CubeError
        If a pattern or a table is invalid, or there is no file.
    """
    if isinstance(files, pd.DataFrame):
        return _in_table(files, Path(), problems)
    if not isinstance(files, str | os.PathLike):
        return [found for each in files for found in find_files(each, problems)]
    path = os.fspath(files)
    if is_table_of_files(path) and not _FIELD.search(path):
        with cube_errors():
            table = read_table(path)
        return _in_table(table, Path(path).parent, problems, Guard(path))
    return _by_name(path, problems)


def _by_name(pattern: str, problems: Problems) -> list[Found]:
    if not _FIELD.search(pattern):
        if os.path.isdir(pattern):
            raise CubeError(
                f"{pattern} is a folder; give the pattern of its file names, such as "
                f"{os.path.join(pattern, 'S2_{year}-{month}.tif')!r}."
            )
        return [Found(pattern)]
    matcher, formats = _regex(pattern)
    paths = sorted(glob.glob(_glob(pattern), recursive=True))
    matches = [(path, matcher.fullmatch(Path(path).as_posix())) for path in paths]
    found = []
    for path, match in matches:
        if match is not None:
            parts = match.groupdict()
            found.append((*_date_of_name(path, parts, formats, problems), path, parts))
    if not found:
        near = [Path(path).name for path in paths[:3]]
        hint = f"; there are {near}, which do not match it" if near else ""
        raise CubeError(f"No file matches the pattern {pattern!r}{hint}.")
    # Within a month, the earlier date comes first.
    found.sort(key=lambda each: (each[2], each[3]))
    return [
        Found(path, month, year, parts.get("band"))
        for month, year, _, path, parts in found
    ]


def _glob(pattern: str) -> str:
    """Return a glob pattern that finds at least the files that match."""
    text = ""
    for part, wild in _parts(pattern):
        if not wild:
            text += glob.escape(part)
        else:
            text += "*" + part.count("/") * "/*" if part.startswith("{") else part
    return text


def _parts(pattern: str) -> list[tuple[str, bool]]:
    """Split a pattern into text (False) and fields or wildcards (True)."""
    parts, end = [], 0
    for match in _FIELD.finditer(pattern):
        parts += [(pattern[end : match.start()], False), (match.group(), True)]
        end = match.end()
    return [*parts, (pattern[end:], False)]


def _regex(pattern: str) -> tuple[re.Pattern[str], dict[str, str]]:
    """Return the regular expression of a pattern, and the formats of its dates."""
    text, met, formats = "", set(), {}
    wild = {"*": "[^/]*", "**": ".*", "?": "[^/]"}
    for part, special in _parts(Path(pattern).as_posix()):
        if not special:
            text += re.escape(part)
            continue
        if part in wild:
            text += wild[part]
            continue
        name, form = _FIELD.fullmatch(part).groups()  # type: ignore[union-attr]
        if name not in _FIELDS or (form is not None and name != "date"):
            raise CubeError(
                f"Fields of a pattern must be among {sorted(_FIELDS)}, a date with "
                f"its own format as in {{date:%Y%j}}, got {part} in {pattern!r}."
            )
        if form is not None:
            formats[name] = form
        kind = _FIELDS[name] if form is None else _regex_of_format(form)
        if name == "any":
            text += kind
        elif name in met:
            text += f"(?P={name})"
        else:
            text += f"(?P<{name}>{kind})"
        met.add(name)
    return re.compile(text), formats


def _regex_of_format(form: str) -> str:
    parts = re.split(r"%(\w)", form)  # text and directives in turn
    return "".join(
        _DIRECTIVES.get(part, r"\d{2}") if index % 2 else re.escape(part)
        for index, part in enumerate(parts)
    )


def _date_of_name(
    path: str, parts: Mapping[str, str], formats: Mapping[str, str], problems: Problems
) -> tuple[int | None, int | None, str]:
    """Return month, year and date of a file, as far as its name contains them."""
    year = int(parts["year"]) if parts.get("year") else None
    if parts.get("date"):
        try:
            day = _date(parts["date"], formats.get("date"))
        except ValueError:
            problems.add(path, f"{parts['date']!r} is not a date.")
            return None, year, ""
        return day.month, day.year, day.isoformat()
    if parts.get("month") is None:
        return None, year, ""
    month = month_number(parts["month"])
    if month is None:
        problems.add(path, NO_MONTH.format(parts["month"]))
    return month, year, f"{year or 0:04d}-{month or 0:02d}"


def _date(text: str, form: str | None) -> dt.date:
    if form is None:
        return dt.datetime.strptime(re.sub("[-_]", "", text), "%Y%m%d").date()
    return dt.datetime.strptime(text, form).date()


def _in_table(
    table: pd.DataFrame, folder: Path, problems: Problems, guard: Guard | None = None
) -> list[Found]:
    found = []
    with cube_errors():
        rows = read_rows(table)
    for row in rows:
        if row.path is None:
            problems.add("a row without a path", repr(row.cells))
            continue
        outside = "://" in row.path or row.path.startswith("/vsi")
        path = row.path if outside else str(folder / row.path)
        if guard is not None:  # a table on the internet names no file of this machine
            guard.check(path, "A row of the table")
            if guard.place != "file" and path.partition("?")[0].lower().endswith(
                (".vrt", ".wms", ".xml")
            ):
                raise CubeError(
                    f"A row of the table refers to {path}, which may name files of "
                    "this machine; save the table to a file and open that, if you know "
                    "what it is."
                )
        if row.wrong:
            problems.add(path, row.wrong)
        found.append(Found(path, row.month, row.year, row.band))
    return found
