"""Tables of residuals on disk: a CSV, and JSON with its attributes and checksum."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from geobiomass.outside_text import readable_cell, safe_cells
from geobiomass.tables import read_table
from geobiomass.training.checksums import OWN, agrees, with_checksum
from geobiomass.training.files import (
    alone_at,
    replacing,
    sha256_of,
    sha256_of_file,
    sweep,
)
from geobiomass.training.given_paths import path_text
from geobiomass.training.json_files import read_json
from geobiomass.training.own_files import check_own_file

__all__ = ["TABLE", "read_residuals", "write_residuals"]

TABLE = "residuals.csv"
_COLUMNS = ("observed", "predicted", "y", "x", "unit")
_NUMBERS = ("observed", "predicted", "lower", "upper", "y", "x")
_OF_OTHERS = ("target", "units")  # attributes of residuals of no biomass
_FORMAT = 1
_MARK = '"unit"'
"""The column as :func:`write_residuals` names it in the first line of a CSV.

Quotes around one name say that there is a JSON file beside: every reader of CSV removes
them, and another program that writes the table again quotes all names or none.
"""
_LINE = 65_536  # bytes: longest first line that is looked at
_AS_ANY = (
    "To read it as any CSV, with nothing known of it, remove the quotes around unit in "
    "its first line"
)
_BEFORE = "before"  # the facts of the table that is replaced, until it is


def write_residuals(table: pd.DataFrame, path: str | Path) -> None:
    """Write residuals as a CSV, and their attributes as a JSON file next to it.

    Numbers are written so that reading returns the same bits. The JSON file has the
    table's name with ``.json`` added, and holds its ``attrs`` and its checksum. The two
    belong together: quotes around ``unit`` in the first line of the CSV tell
    :func:`read_residuals` that there must be a JSON file.

    Parameters
    ----------
    table : pandas.DataFrame
        As returned by :func:`geobiomass.residuals`, with its ``attrs``.
    path : str or Path
        The table, ``.csv``; one that this function wrote is replaced.

    Raises
    ------
    ValueError
        If `path` does not end with .csv, or the table lacks a column, "kind" or
        "pixel".
    FileExistsError
        If `path`, or the JSON file next to it, is anything else.
    DiskError, InUseError
        If the disk is full or cannot be written, or another process writes there; a
        table that was there can still be read.
    """
    path = Path(path)
    if path.suffix != ".csv":
        raise ValueError(
            f"path of a table of residuals must end with .csv, got {path}."
        )
    _need_columns(table, "The table")
    lacking = [name for name in ("kind", "pixel") if name not in table.attrs]
    if lacking:
        raise ValueError(
            f"attrs of a table of residuals must have {lacking}, got {table.attrs}; "
            "gb.residuals sets them."
        )
    _check_replaceable(path)
    text = safe_cells(table).to_csv(index=False, lineterminator="\n")
    # The same table of an earlier release, which has no mark, stays as it is.
    same = path.is_file() and sha256_of_file(path) == sha256_of(text.encode())
    content = text.encode() if same else _marked(text)
    facts = {
        "format": _FORMAT,
        "kind": table.attrs["kind"],
        "pixel": [float(side) for side in table.attrs["pixel"]],
        "sha256": sha256_of(content),
    }
    facts |= {n: str(table.attrs[n]) for n in _OF_OTHERS if n in table.attrs}
    with alone_at(path) as place:
        beside = _facts_beside(path)
        sweep(beside)
        # The facts first, with those of the table that is still there: a table is never
        # read without its facts, or with those of another.
        if old := _facts_of_old(path):
            facts[_BEFORE] = old
        with replacing(beside) as part:
            part.write_text(json.dumps(with_checksum(facts), indent=2))
        with replacing(place) as part:
            part.write_bytes(content)


def _check_replaceable(path: Path) -> None:
    """Check that a path is free, or has a table of ours with its facts."""
    beside = _facts_beside(path)
    # By its names, or by the table's mark, so that damaged facts are written again too.
    own = "file of the facts of a table of residuals"
    ours = path.is_file() and _is_marked(path)
    check_own_file(beside, own, lambda text, _: ours or b'"sha256"' in text)
    what = "table of residuals"
    check_own_file(path, what, lambda *_: beside.exists() or _is_marked(path))


def _marked(text: str) -> bytes:
    """Return a CSV with the mark in its first line."""
    names, line, rows = text.partition("\n")
    cells = [_MARK if name == "unit" else name for name in names.split(",")]
    return f"{','.join(cells)}{line}{rows}".encode()


def _is_marked(path: Path) -> bool:
    """Return whether a CSV is as :func:`write_residuals` leaves it."""
    with path.open("rb") as file:
        names = file.readline(_LINE).strip().split(b",")
    return _MARK.encode() in names and b"observed" in names


def _facts_of_old(path: Path) -> dict[str, Any] | None:
    """Return the facts of a table that is to be replaced, if it is whole."""
    try:
        _read_facts(path)
        facts: dict[str, Any] = read_json(_facts_beside(path), dict)
    except (OSError, ValueError):  # there is none, or it is damaged
        return None
    chosen = _facts_for(facts, sha256_of_file(path)) or facts
    return {name: fact for name, fact in chosen.items() if name not in (OWN, _BEFORE)}


def _facts_for(facts: dict[str, Any], checksum: str) -> dict[str, Any] | None:
    """Return the facts of the table of a checksum, of those in a JSON file."""
    both = (facts, facts.get(_BEFORE))
    mine = [one for one in both if isinstance(one, dict)]
    return next((one for one in mine if one.get("sha256") == checksum), None)


def read_residuals(path: str | Path) -> pd.DataFrame:
    """Read a table of residuals.

    Parameters
    ----------
    path : str or Path
        A file of :func:`write_residuals`, or a folder of
        :meth:`geobiomass.CrossValidation.save` with such a table; or any CSV with the
        columns ``observed``, ``predicted`` (Mg/ha), ``y``, ``x`` (metres) and ``unit``.

    Returns
    -------
    pandas.DataFrame
        As returned by :func:`geobiomass.residuals`. A CSV of another program has no
        ``attrs``.

    Raises
    ------
    FileNotFoundError
        If there is no such table.
    ValueError
        If the table has changed since it was written, its JSON file is not there, it
        lacks a column, or it is no CSV.
    """
    path = Path(path_text(path, "A table of residuals"))
    if path.is_dir():
        if not (path / TABLE).is_file():
            found = sorted(file.name for file in path.iterdir())
            raise FileNotFoundError(
                f"{path} must hold {TABLE}, got {found}; give the folder of a finished "
                "geobiomass validate, or a CSV."
            )
        path = path / TABLE
    if not path.is_file():
        raise FileNotFoundError(
            f"There is nothing at {path}; give the path of a table of residuals, as "
            "gb.CrossValidation.save writes."
        )
    facts = _read_facts(path)
    try:
        cells = pd.read_csv(path, dtype=str, keep_default_na=False)
        if set(_COLUMNS) <= set(cells):
            table = pd.DataFrame({name: _parsed(cells[name]) for name in cells})
        else:  # written by another program
            table = read_table(path)
            _need_columns(table, str(path))
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeError) as error:
        raise ValueError(
            f"{path} must be a CSV of residuals with columns {_COLUMNS}, got a file "
            f"that is none ({error})."
        ) from error
    table.attrs.update(facts)
    return table


def _parsed(cells: pd.Series) -> Any:
    """Convert a column by Python: releases of pandas differ in the last bit."""
    if cells.name not in (*_NUMBERS, "fold"):
        return cells.map(readable_cell)
    try:
        if cells.name == "fold":
            return np.array([int(cell) for cell in cells], np.int64)
        return np.array([float(cell or "nan") for cell in cells], np.float64)
    except ValueError as error:
        raise ValueError(
            f"Column {cells.name!r} of residuals must be numbers, {error}."
        ) from error


def _facts_beside(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")


def _read_facts(path: Path) -> dict[str, Any]:
    """Return the attributes of a table; empty where another program wrote it."""
    facts_path = _facts_beside(path)
    if not facts_path.exists():
        if _is_marked(path):
            raise ValueError(
                f"{facts_path}, which has the pixel, the units and the checksum of "
                f"{path.name}, is not there; copy it too, or write the residuals "
                f"again. {_AS_ANY}."
            )
        return {}
    try:
        facts = read_json(facts_path, dict)
        if OWN in facts and not agrees(facts):
            raise ValueError("its checksum differs")
        now = sha256_of_file(path)
        facts = _facts_for(facts, now) or facts
        down, across = map(float, facts["pixel"])
        form, kind, checksum = facts["format"], str(facts["kind"]), facts["sha256"]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{facts_path} is damaged ({error!r}); write the residuals again."
        ) from error
    if form != _FORMAT:
        raise ValueError(
            f"{facts_path} must be of format {_FORMAT}, got {form}; read it with the "
            "version of geobiomass that wrote it."
        )
    if now != checksum:
        raise ValueError(
            f"{path} must be as it was written, but its checksum differs; write the "
            f"residuals again. {_AS_ANY}, and delete {facts_path.name}."
        )
    others = {name: str(facts[name]) for name in _OF_OTHERS if name in facts}
    return {"kind": kind, "pixel": (down, across), **others}


def _need_columns(table: pd.DataFrame, what: str) -> None:
    lacking = [name for name in _COLUMNS if name not in table]
    if lacking:
        raise ValueError(
            f"{what} must have the columns {_COLUMNS}, got {list(table)} without "
            f"{lacking}."
        )
