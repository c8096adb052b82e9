"""Columns by their usual names: case, spaces, accents and punctuation do not matter."""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Hashable, Sequence

import pandas as pd


class TableError(ValueError):
    """Error of a table that cannot be read, or read in one way only."""


def plain_name(name: object) -> str:
    """Return a name in lower case, without accents, spaces and punctuation."""
    text = unicodedata.normalize("NFKD", str(name)).casefold()
    return "".join(letter for letter in text if letter.isalnum())


def match_column(table: pd.DataFrame, usual_names: Sequence[str]) -> Hashable | None:
    """Return the column with the first of some usual names, None if there is none.

    Parameters
    ----------
    table : pandas.DataFrame
        A table.
    usual_names : sequence of str
        Names in order of preference. A column with exactly this name is preferred;
        else case, spaces, accents and punctuation do not matter.

    Raises
    ------
    TableError
        If several columns differ from the name only in case or punctuation.
    """
    columns = list(table.columns)
    for usual in usual_names:
        if usual in columns:
            return usual
    for usual in usual_names:
        plain = plain_name(usual)
        found = [column for column in columns if plain_name(column) == plain]
        if len(found) > 1:
            raise TableError(
                f"The table has several columns that could be {usual!r}, "
                f"{list(map(str, found))}; rename all but one."
            )
        if found:
            column: Hashable = found[0]
            return column
    return None


def find_column(table: pd.DataFrame, usual_names: Sequence[str], what: str) -> str:
    """Return the name of the column that holds something, by its usual names.

    Parameters
    ----------
    table : pandas.DataFrame
        A table.
    usual_names : sequence of str
        Names in order of preference; case, spaces, accents and punctuation do not
        matter.
    what : str
        Its meaning and unit, for the error, such as ``"the date of a photo"``.

    Raises
    ------
    TableError
        If no column, or more than one, has such a name.
    """
    found = match_column(table, usual_names)
    if found is None:
        known = list(map(str, table.columns))
        raise TableError(
            f"The table needs a column with {what}, usually called "
            f"{' or '.join(map(repr, usual_names[:4]))}; it has the columns "
            f"{known}{near_names(usual_names, known)}. Rename yours."
        )
    return str(found)


def near_names(names: Sequence[str], known: Sequence[str]) -> str:
    """Return the clause that names similar columns; empty where there are none."""
    plain = {plain_name(column): column for column in known}
    near: list[str] = []
    for name in names:
        for match in difflib.get_close_matches(
            plain_name(name), plain, n=2, cutoff=0.6
        ):
            if plain[match] not in near:
                near.append(plain[match])
    return f" ({' or '.join(map(repr, near[:3]))} is near)" if near else ""
