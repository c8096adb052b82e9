"""Summaries of facts, as text, as HTML and as JSON: one set of facts for all three.

The HTML needs no style sheet: styles are in the elements, colours suit light and dark
notebooks, and every number is written out.
"""

from __future__ import annotations

import calendar
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from geobiomass.outside_text import one_line, printable

if TYPE_CHECKING:
    from jinja2 import Environment

# A blue on which both black and white text can be read, for light and dark notebooks;
# its opacity is the share.
_SHADE = "rgba(0, 114, 178, {:.2f})"
_STRONGEST = 0.55  # opacity of a share of 100 %


@dataclass(frozen=True)
class Table:
    """A table of numbers with names of rows and columns.

    Parameters
    ----------
    frame : pandas.DataFrame
        The numbers.
    note : str
        A remark on the numbers, such as that they are a sample.
    shares : bool
        Whether they are percentages, 0 to 100, to be shaded.
    decimals : int
        Decimals of numbers that are not integers.
    fold : str
        Title of a long table, which is folded until a click on it; HTML only.
    """

    frame: pd.DataFrame
    note: str = ""
    shares: bool = False
    decimals: int = 2
    fold: str = ""

    def __str__(self) -> str:
        """Return the table as text; it begins with a new line."""
        note = f"({self.note})" if self.note else ""
        text = self.frame.to_string(float_format=lambda x: f"{x:.{self.decimals}f}")
        return printable(f"{note}\n{text}")

    def to_dict(self) -> dict[str, Any]:
        """Return rows by name, with numbers by column, as JSON values."""
        rows = {
            str(name): {
                str(column): None if pd.isna(value) else value
                for column, value in row.items()
            }
            for name, row in self.frame.to_dict("index").items()
        }
        return {"note": self.note, "rows": rows} if self.note else {"rows": rows}

    def to_html(self) -> str:
        """Return an HTML table, with shares shaded."""
        # Equal neighbours share a row: one sensor's bands are often the same.
        rows = merge_equal_rows(self.frame) if self.shares else _rows(self.frame)
        cells = [(name, [self._cell(value) for value in row]) for name, row in rows]
        corner = self.frame.index.name or ""
        macros = html_macros("summary.html")
        return str(macros.table(corner, self.frame, cells, self.note, self.fold))

    __html__ = to_html  # so that a template takes a table as HTML

    def _cell(self, value: Any) -> tuple[str, str]:
        shaded = self.shares and not pd.isna(value)
        shade = _SHADE.format(_STRONGEST * float(value) / 100) if shaded else ""
        return self._figure(value), shade

    def _figure(self, value: Any) -> str:
        if pd.isna(value):
            return "-"
        if not isinstance(value, float):
            return f"{value:,}" if isinstance(value, int) else str(value)
        whole = value.is_integer() and abs(value) >= 1000
        return f"{value:,.{0 if whole else self.decimals}f}"


class Summary(Mapping[str, str]):
    """The facts of a cube, a map, a model or a plan.

    A mapping of headings to texts. It prints as ``geobiomass info`` does, and Jupyter
    displays it as HTML.

    Parameters
    ----------
    facts : mapping of str to str or Table
        In order; the first one is the kind of the object.
    """

    def __init__(self, facts: Mapping[str, str | Table]) -> None:
        self.facts = dict(facts)

    def __getitem__(self, name: str) -> str:
        """Return a fact as text."""
        return str(self.facts[name])

    def __iter__(self) -> Iterator[str]:
        """Iterate over the headings in order."""
        return iter(self.facts)

    def __len__(self) -> int:
        """Count the facts."""
        return len(self.facts)

    def __str__(self) -> str:
        """Return the facts as text, a line each, tables below their heading."""
        width = max((len(name) for name in self if len(name) < 20), default=0)
        return "\n".join(
            f"{one_line(name):<{width}}  {printable(text)}"
            for name, text in self.items()
        )

    __repr__ = __str__

    def to_dict(self) -> dict[str, Any]:
        """Return the facts as JSON values: text, and tables as rows by name."""
        return {
            name: fact.to_dict() if isinstance(fact, Table) else fact
            for name, fact in self.facts.items()
        }

    def _repr_html_(self) -> str:
        """Return HTML for Jupyter."""
        return self.to_html()

    def to_html(self, below: str = "") -> str:
        """Return HTML that needs no other file.

        Parameters
        ----------
        below : str
            HTML to add below the facts.
        """
        from markupsafe import Markup

        return str(html_macros("summary.html").summary(self.facts, Markup(below)))

    __html__ = to_html


def _rows(frame: pd.DataFrame) -> Iterator[tuple[str, list[Any]]]:
    # Column by column, so that integers stay integers beside other columns.
    columns = [frame.iloc[:, number].tolist() for number in range(frame.shape[1])]
    for name, *row in zip(frame.index, *columns, strict=True):
        yield str(name), row


def merge_equal_rows(frame: pd.DataFrame) -> Iterator[tuple[str, list[Any]]]:
    """Yield rows with their names; neighbours with the same numbers become one row."""
    names: list[str] = []
    before: list[Any] = []
    for name, row in _rows(frame):
        if names and row != before:
            yield _joined(names), before
            names = []
        names.append(name)
        before = row
    if names:
        yield _joined(names), before


def _joined(names: list[str]) -> str:
    if len(names) <= 3:
        return " ".join(names)
    return f"{names[0]} to {names[-1]} ({len(names)})"


def month_names(months: Iterable[Any]) -> list[str]:
    """Return short names of calendar months; of a second year ``Jan 2``."""
    seen: Counter[str] = Counter()
    names = []
    for month in months:
        name = calendar.month_abbr[int(month)]
        seen[name] += 1
        names.append(name if seen[name] == 1 else f"{name} {seen[name]}")
    return names


def bytes_in_words(size: float) -> str:
    """Return a number of bytes with its unit, three digits."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"


@cache
def html_environment() -> Environment:
    """Return the environment of all HTML templates, which escapes every value.

    jinja2 is imported here, so that ``import geobiomass`` stays quick.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    return Environment(
        loader=FileSystemLoader(Path(__file__).with_name("templates")),
        autoescape=True,
        undefined=StrictUndefined,
        auto_reload=False,
        keep_trailing_newline=True,
    )


def html_macros(name: str) -> Any:
    """Return the macros of a template, as functions that return HTML.

    Parameters
    ----------
    name : str
        A file in ``geobiomass/templates``.

    Returns
    -------
    module
        Each macro is an attribute; its result is a ``markupsafe.Markup``.
    """
    return html_environment().get_template(name).module
