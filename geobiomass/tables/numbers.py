"""Numbers that are text: decimal commas, thousands, missing values, by column."""

from __future__ import annotations

import re
import warnings
from typing import Any, cast

import numpy as np
import pandas as pd

from geobiomass.tables.columns import TableError, plain_name

# Words for a missing number, beside those that pandas knows.
MISSING = frozenset(
    ("nd", "na", "nan", "none", "null", "missing", "nodata", "notavailable", "unknown")
)
_SPACES = re.compile(r"[\s\u00a0\u2009\u202f\u2007]+")  # also of thousands in French
_MINUS = str.maketrans({"\u2212": "-", "\u2013": "-", "\u2019": "'"})
_EXPONENT = r"(?:[eE][+-]?\d+)?"
# "0.123" is no number with thousands, "1.234" may be one.
_GROUPED = r"[1-9]\d{{0,2}}(?:{0}\d{{3}})+"
_LARGEST_EXACT = 2**53  # integers above it are not all float64 numbers


def _form(decimal: str, thousands: str) -> re.Pattern[str]:
    decimal, thousands = re.escape(decimal), re.escape(thousands)
    grouped = "|".join(_GROUPED.format(each) for each in (thousands, " ", "'"))
    whole = rf"(?:\d+|{grouped})"
    return re.compile(rf"[+-]?(?:{whole}(?:{decimal}\d*)?|{decimal}\d+){_EXPONENT}")


_FORMS = {".": _form(".", ","), ",": _form(",", ".")}
# Either separator could be a decimal point or one of thousands.
_EITHER = re.compile(r"[+-]?[1-9]\d{0,2}[.,]\d{3}")


def read_numbers(
    values: pd.Series, name: str | None = None, *, decimal: str | None = None
) -> pd.Series:
    """Read a column of numbers, which may be text with decimal commas or thousands.

    The separators are decided by column, never by row.

    Parameters
    ----------
    values : pandas.Series
        Numbers, or their text. Empty cells and words such as "n.d.", "NA" or "-" are
        missing.
    name : str, optional
        Name of the column, for the error; by default that of the series.
    decimal : "." or ",", optional
        The decimal separator, where it is known.

    Returns
    -------
    pandas.Series
        Numbers on the same index, NaN where missing; integers stay integers.

    Raises
    ------
    TableError
        If an entry is no number, if the column mixes decimal points and commas, or if
        all its separators could be of decimals or of thousands, as in "1.234".
    """
    name = str(values.name) if name is None else name
    if pd.api.types.is_numeric_dtype(values.dtype):
        return values
    text = plain_text(values)
    forms = [decimal] if decimal else possible_decimals(text)
    if not forms:
        _raise_unreadable(values, text, name)
    if len(forms) > 1 and has_separators(text):
        example = text[text.str.contains("[.,]", na=False)].iloc[0]
        raise TableError(
            f"Column {name!r} has numbers such as {example!r}, whose separator could "
            "be of decimals or of thousands, and no row decides it. Say which, for "
            "example pandas.read_csv(path, sep=';', decimal=',') or thousands=',', and "
            "pass the table."
        )
    found = as_numbers(text, forms[0])
    if decimal and found.isna().gt(text.isna()).any():
        _raise_unreadable(values, text, name)
    return found


def plain_text(values: pd.Series) -> pd.Series:
    """Return cells as text without spaces around, and missing where they say so."""
    text = values.astype("string").astype(object)
    known = text.notna()
    stripped = text[known].map(lambda cell: _SPACES.sub(" ", cell).strip())
    stripped = stripped.map(lambda cell: cell.translate(_MINUS))
    missing = stripped.map(_is_missing).astype(bool)
    text[known] = stripped.mask(missing, None)
    return text


def _is_missing(cell: str) -> bool:
    return not any(letter.isdigit() for letter in cell) and (
        (plain := plain_name(cell)) == "" or plain in MISSING
    )


def possible_decimals(text: pd.Series) -> list[str]:
    """Return the decimal separators with which every entry is a number."""
    known = pd.unique(text.dropna())
    return [
        decimal
        for decimal, form in _FORMS.items()
        if all(form.fullmatch(cell) for cell in known)
    ]


def has_separators(text: pd.Series) -> bool:
    """Return whether any entry has a comma or a point."""
    return any("." in cell or "," in cell for cell in pd.unique(text.dropna()))


def as_numbers(text: pd.Series, decimal: str) -> pd.Series:
    """Return numbers of text in one form; entries in another are missing.

    Integers stay integers; those beyond the digits of float64 also where others are
    missing.
    """
    form = _FORMS[decimal]
    other = "." if decimal == "," else ","

    def plain(cell: Any) -> str | None:
        if not isinstance(cell, str) or not form.fullmatch(cell):
            return None
        cell = cell.replace(other, "").replace(" ", "").replace("'", "")
        return str(cell.replace(decimal, "."))

    cells = text.map(plain, na_action="ignore")
    known = cells.dropna()
    if len(known) and known.str.fullmatch(r"[+-]?\d+").all():
        return _integers(cells)
    return cast(pd.Series, pd.to_numeric(cells, errors="coerce").astype(np.float64))


def _integers(cells: pd.Series) -> pd.Series:
    known = cells.dropna().map(int)
    low, high = known.min(), known.max()
    if low < -(2**63) or high >= 2**64 or (low < 0 and high >= 2**63):
        return cast(pd.Series, pd.to_numeric(cells, errors="coerce").astype(np.float64))
    kind = "Int64" if high < 2**63 else "UInt64"
    if cells.notna().all():
        return pd.Series(known.to_numpy(kind.lower()), cells.index, name=cells.name)
    if max(abs(low), abs(high)) > _LARGEST_EXACT:  # float64 would lose digits
        exact: Any = [pd.NA if pd.isna(cell) else int(cell) for cell in cells]
        return pd.Series(exact, cells.index, cast(Any, kind), cells.name)
    return cast(pd.Series, pd.to_numeric(cells).astype(np.float64))


def _raise_unreadable(values: pd.Series, text: pd.Series, name: str) -> None:
    counts = {
        decimal: [bool(form.fullmatch(str(cell))) for cell in text.dropna()]
        for decimal, form in _FORMS.items()
    }
    known = text.dropna()
    best = max(counts, key=lambda decimal: sum(counts[decimal]))
    row = known.index[counts[best].index(False)]
    wrong = len(known) - sum(counts[best])
    by_either = bool(np.any(list(counts.values()), axis=0).all())
    if by_either:
        raise TableError(
            f"Column {name!r} mixes decimal points and decimal commas: "
            f"{sum(counts['.'])} of {len(known)} entries are numbers with a point, "
            f"{sum(counts[','])} with a comma, such as {values.loc[row]!r} in row "
            f"{row}. Write all with a point."
        )
    raise TableError(
        f"Column {name!r} must hold numbers, got {values.loc[row]!r} in row {row}"
        f"{f' and {wrong - 1} others that are none' if wrong > 1 else ''}; correct "
        "them, or empty these cells."
    )


# --- columns of a table ---


_IDENTIFIER = re.compile(
    r"(^|[^a-z])(id|ids|uid|uuid|fid|code|name|label|plot|plotid|sample|sampleid|photo|"
    r"shot|shot_number|beam|group|key|zip|postcode)$|[a-z]Id$|[a-z]ID$"
)


def typed_columns(table: pd.DataFrame, decimal: str | None) -> pd.DataFrame:
    """Return a table of text with its columns of numbers as numbers.

    Parameters
    ----------
    table : pandas.DataFrame
        All text, as read.
    decimal : str, optional
        The separator of decimals if no column decides it; None: such columns stay
        text, and :func:`read_numbers` asks.
    """
    texts, forms = {}, {}
    for number, column in enumerate(table.columns):
        text = plain_text(table.iloc[:, number])
        possible = possible_decimals(text)
        if text.notna().any() and possible and not _is_identifier(column, text):
            texts[number], forms[number] = text, possible
    decided = {f[0] for f in forms.values() if len(f) == 1}
    agreed = decided.pop() if len(decided) == 1 else None if decided else decimal
    made: list[pd.Series] = []
    guessed: list[str] = []
    for number, column in enumerate(table.columns):
        cells = table.iloc[:, number]
        if number not in texts:
            made.append(_as_truth(cells))
            continue
        text, possible = texts[number], forms[number]
        either = len(possible) > 1 and has_separators(text)
        if either and agreed is None:
            made.append(cells)
            continue
        form = agreed if either and agreed else possible[0]
        if either and text.dropna().str.contains("," if form == "." else ".").any():
            example = text[text.str.contains("[.,]", na=False)].iloc[0]
            whole = as_numbers(pd.Series([example]), form).iloc[0]
            guessed.append(f"{column} ({example} is {whole:g})")
        made.append(as_numbers(text, form))
    if guessed:
        word = "point" if agreed == "." else "comma"
        warnings.warn(
            f"Separators of {', '.join(guessed)} are read as thousands, because other "
            f"columns write decimals with a {word}.",
            stacklevel=4,
        )
    out = pd.concat(made, axis=1) if made else table
    out.columns = table.columns
    return out


def _is_identifier(column: object, text: pd.Series) -> bool:
    """Return whether a column is of identifiers, which stay as they are written."""
    known = text.dropna()
    if known.str.fullmatch(r"[+-]?0\d+").any():  # 007
        return True
    if not _IDENTIFIER.search(str(column)) and not _IDENTIFIER.search(
        str(column).lower()
    ):
        return False
    return not known.str.fullmatch(r"0|-?[1-9]\d{0,18}").all()


def _as_truth(cells: pd.Series) -> pd.Series:
    words = cells.dropna().astype(str).str.lower()
    if len(words) and len(words) == len(cells) and words.isin(["true", "false"]).all():
        return words.eq("true")
    if cells.isna().all():
        return cells.astype(np.float64)
    return cells
