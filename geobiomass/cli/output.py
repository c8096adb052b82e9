"""Output of commands: text for people, JSON for machines."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Annotated, Any

import typer

from geobiomass.outside_text import printable

AsJson = Annotated[
    bool, typer.Option("--json", help="Print one JSON object, for machines.")
]


TableFile = Annotated[
    Path | None, typer.Option(help="Also write the table to this file.")
]


def check_table_file(path: Path | None) -> None:
    """Check that a table can be written to a file, before it is computed."""
    if path is not None:
        from geobiomass.training.files import check_writable

        check_writable(path)


def write_table(table: Any, path: Path | None, what: str, mark: str) -> None:
    """Write a table as CSV to a file, if one is wanted, whole or not at all.

    An earlier table of its kind, which has the column `mark`, is replaced.
    """
    if path is not None:
        from geobiomass.tables import write_csv  # only now, as it imports pandas

        write_csv(table, path, what, mark=mark)


def answer(text: object, facts: dict[str, Any], as_json: bool) -> None:
    """Print a text, or the facts as one line of JSON."""
    say(json.dumps(_plain(facts)) if as_json else text)


def say(text: object, err: bool = False) -> None:
    """Print a text; control characters, as in names of a file, are written out."""
    typer.echo(printable(text), err=err)


def table_of(frame: Any) -> list[dict[str, Any]]:
    """Return a pandas table as a list of rows, with its index as a column."""
    rows: list[dict[str, Any]] = frame.reset_index().to_dict(orient="records")
    return rows


def _plain(value: Any) -> Any:
    """Return a value of JSON's types; JSON has no NaN, which becomes null."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if hasattr(value, "item"):  # numpy's numbers
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if value is None or isinstance(value, str | int | float | bool):
        return value
    return str(value)
