"""Text from outside, such as names in files: as file names, Markdown, text, cells.

Names of chips, layers, bands and regions come with the data. HTML escapes them in its
templates (`geobiomass.summary`); the other places where they go are here.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

__all__ = [
    "as_code",
    "as_label",
    "as_markdown",
    "check_variable_names",
    "file_names",
    "one_line",
    "printable",
    "readable_cell",
    "readable_cells",
    "safe_cell",
    "safe_cells",
]

# File names ------------------------------------------------------------------------

_LONGEST = 150
"""Bytes of a file name without its ending. Most file systems allow 255; endings, and
those of unfinished files, are added."""

_PLAIN = re.compile(r"[\w(](?:[\w .()+=@~,-]*[\w()+=@~,-])?")
# Names of devices on Windows, with any ending: Microsoft, "Naming Files, Paths, and
# Namespaces".
_DEVICES = re.compile(r"(?i)(?:con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³])(?:\..*)?")


def file_names(names: Sequence[str], what: str = "names") -> list[str]:
    """Return a name of a file, without its ending, for each of some names.

    A plain name is its own file name. Others, such as ``../evil``, ``CON`` or a very
    long one, are cleaned, and get the beginning of a hash of the whole name, so that
    two names never become one file.

    Parameters
    ----------
    names : sequence of str
        All different.
    what : str
        What they are, for messages: "chip ids".

    Returns
    -------
    list of str
        Letters, digits, spaces and ``_ . ( ) + = @ ~ , -``; not empty, not ending with
        a point or a space, not hidden, at most 150 bytes. No two of them are equal on
        file systems that ignore capital letters or the form of accents.

    Raises
    ------
    ValueError
        If a name is there twice.

    Warns
    -----
    UserWarning
        If files are not called as the names are; with the number, and the first.
    """
    names = [str(name) for name in names]
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise ValueError(
            f"{what} must be different, got {len(twice)} of them more than once, such "
            f"as {twice[0]!r}; rename them."
        )
    made = [name if _is_plain(name) else _cleaned(name) for name in names]
    equal = Counter(map(_folded, made))
    made = [
        file if equal[_folded(file)] == 1 else _cleaned(name)
        for name, file in zip(names, made, strict=True)
    ]
    changed = [n for n, name in enumerate(names) if made[n] != name]
    if changed:
        first = changed[0]
        warnings.warn(
            f"{len(changed)} of {len(names)} {what} cannot be the names of files on "
            f"every system and are written in another form: {names[first]!r} as "
            f"{made[first]!r}.",
            stacklevel=3,
        )
    return made


def _is_plain(name: str) -> bool:
    return (
        _PLAIN.fullmatch(name) is not None
        and _DEVICES.fullmatch(name) is None
        and len(name.encode()) <= _LONGEST
    )


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def _cleaned(name: str) -> str:
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:12]
    readable = re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-")[:40]
    return f"{readable}-{digest}" if readable else digest


def check_variable_names(names: Iterable[Any], what: str) -> None:
    """Check names that become folders of a Zarr group.

    Parameters
    ----------
    names : iterable
        Names of variables.
    what : str
        Where they are: "the cube".

    Raises
    ------
    ValueError
        If one is empty, begins with a point, has a slash, a backslash or a control
        character, is too long, or is a file of Zarr itself.
    """
    for name in map(str, names):
        if (
            not name
            or name.startswith((".", "__", "zarr.json"))
            or re.search(r"[/\\\x00-\x1f\x7f]", name)
            or len(name.encode("utf-8", "surrogatepass")) > _LONGEST
        ):
            raise ValueError(
                f"Names of variables become folders, and {name[:80]!r} of {what} "
                "cannot be one; take letters, digits, '_' and '-'."
            )


# Text on a terminal ----------------------------------------------------------------

# Control characters, which move the cursor, change colours or the title of a terminal;
# marks that turn the direction of writing, so that text reads as another; line and
# paragraph separators; halves of surrogate pairs, which cannot be encoded.
_UNPRINTABLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069"
    "\ud800-\udfff]"
)


def printable(text: object) -> str:
    """Return a text that a terminal shows and does not obey.

    Control characters are written as escapes; new lines and tabs stay.
    """
    return _UNPRINTABLE.sub(_escape, str(text))


def one_line(text: object) -> str:
    """Return a text as :func:`printable` does, on one line."""
    return " ".join(printable(text).split())


def as_label(text: object) -> str:
    """Return a text that matplotlib draws as it is, without formulas between ``$``."""
    return printable(text).replace("$", r"\$")


def _escape(match: re.Match[str]) -> str:
    code = ord(match.group())
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"


# Markdown --------------------------------------------------------------------------

_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}
_MARKS = re.compile(r"[\\`*\[\]|~{}#!$]|(?<![^\W_])_|_(?![^\W_])")
_CODE = re.compile(r"[\w .,:;/()%+=°²@-]*")


def as_markdown(text: object) -> str:
    """Return a text that Markdown shows as it is: no HTML, links, tables or styles.

    It is on one line. An underscore within a word is none of Markdown's marks and
    stays.
    """
    line = _MARKS.sub(r"\\\g<0>", one_line(text))
    line = "".join(_ENTITIES.get(letter, letter) for letter in line)
    # Addresses would become links: of a name, none is wanted.
    return re.sub(r"(?i)\b([a-z][a-z0-9+.-]*):(?=\S)", r"\1&#58;", line)


def as_code(text: object) -> str:
    """Return a text as code of Markdown; as plain text if it could leave the code."""
    line = one_line(text)
    return f"`{line}`" if line and _CODE.fullmatch(line) else as_markdown(text)


# Cells of tables -------------------------------------------------------------------

# What begins so is a formula to a spreadsheet, also behind spaces, and in the wide
# forms of East Asian fonts: OWASP, "CSV Injection".
_FORMULA = re.compile("'*(?:[\t\r\n]|\\s*[=+@\uff1d\uff0b\uff0d\uff20-])")
_NUMBER = re.compile(r"[+-]?(?:\d+(?:[.,]\d*)?|[.,]\d+)(?:[eE][+-]?\d+)?|[+-]?inf|-")


def safe_cell(cell: Any) -> Any:
    """Return a cell that no spreadsheet takes for a formula.

    Text that begins like one (``=``, ``+``, ``-``, ``@``, a tab or a new line) gets an
    apostrophe in front, which spreadsheets take as a mark of text.
    Numbers, also as text, stay.
    """
    if not isinstance(cell, str) or not _FORMULA.match(cell) or _NUMBER.fullmatch(cell):
        return cell
    return f"'{cell}"


def readable_cell(cell: Any) -> Any:
    """Return a cell as it was before :func:`safe_cell`."""
    if isinstance(cell, str) and cell.startswith("'") and _FORMULA.match(cell[1:]):
        return cell[1:]
    return cell


def safe_cells(table: Any) -> Any:
    """Return a pandas table whose text, names and index are no formulas.

    Write tables with text from outside as ``safe_cells(table).to_csv(path)``.
    """
    return _each_text(table, safe_cell)


def readable_cells(table: Any) -> Any:
    """Return a table that :func:`safe_cells` made as it was before."""
    return _each_text(table, readable_cell)


def _each_text(table: Any, change: Any) -> Any:
    made = table.copy()
    for place in range(made.shape[1]):
        column = made.iloc[:, place]
        if _has_text(column):
            made.isetitem(place, column.map(change, na_action="ignore").array)
    made.columns = _labels(made.columns, change)
    made.index = _labels(made.index, change)
    return made


def _has_text(values: Any) -> bool:
    kind = values.dtype
    return not (hasattr(kind, "kind") and kind.kind in "biufcmM")


def _labels(labels: Any, change: Any) -> Any:
    names: Iterable[Any] = [change(name) for name in labels.names]
    if labels.nlevels > 1 or _has_text(labels):
        changed = labels.map(
            lambda one: (
                tuple(map(change, one)) if isinstance(one, tuple) else change(one)
            )
        )
        return changed.set_names(names)
    return labels.set_names(names)
