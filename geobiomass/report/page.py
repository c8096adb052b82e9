"""The page and its elements, as HTML that links to nothing.

The HTML is in ``geobiomass/templates``; every value is escaped there.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from geobiomass.summary import html_environment, html_macros

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def page(title: str, sections: Sequence[tuple[str, Markup]]) -> str:
    """Return the text of the whole file.

    Parameters
    ----------
    title : str
        Its heading.
    sections : sequence of (str, Markup)
        Heading and HTML of each.
    """
    template = html_environment().get_template("report.html")
    return template.render(title=title, sections=sections)


def join(parts: Iterable[Any]) -> Markup:
    """Return the parts joined: HTML, and tables that have an HTML view."""
    return Markup("").join(parts)


def facts_table(facts: Mapping[str, str]) -> Markup:
    """Return a table of headings and texts."""
    return _element("facts_table", facts)


def boxes(facts: Mapping[str, str]) -> Markup:
    """Return figures in large type, each with its name."""
    return _element("boxes", facts)


def heading(words: str) -> Markup:
    """Return a heading within a section."""
    return _element("heading", words)


def paragraph(words: str) -> Markup:
    """Return a paragraph of plain text."""
    return _element("paragraph", words)


def warning(words: str, rest: str) -> Markup:
    """Return a paragraph that begins with words in bold."""
    return _element("warning", words, rest)


def text_table(
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    note: str = "",
    fold: str = "",
) -> Markup:
    """Return a table of texts, whose long cells are broken into lines.

    Parameters
    ----------
    columns : sequence of str
        Headings.
    rows : sequence of sequence of str
        Texts; a cell that is a verdict of a check has its colour.
    note : str
        A remark below.
    fold : str
        Title of a long table, which is folded until a click on it.
    """
    return _element("text_table", columns, rows, note, fold)


def preformatted(words: str, fold: str = "") -> Markup:
    """Return text in lines as they are, folded if it has a title for that."""
    return _element("preformatted", words, fold)


def figure(
    caption: str, draw: Callable[[Axes], object], size: tuple[float, float]
) -> Markup:
    """Return a figure of one picture, made without pyplot and its backends."""
    from matplotlib.figure import Figure

    made = Figure(size, layout="constrained")
    draw(made.subplots())
    return embedded(made, caption)


def embedded(made: Any, caption: str) -> Markup:
    """Return a figure of matplotlib as a picture in the page."""
    file = io.BytesIO()
    made.savefig(file, format="png", dpi=100)
    return _element(
        "picture", base64.b64encode(file.getvalue()).decode("ascii"), caption
    )


def from_markdown(words: str) -> Markup:
    """Return a card as HTML: without its front matter, headings two levels lower.

    HTML within the card is shown as text.
    """
    from markdown_it import MarkdownIt

    if words.startswith("---\n"):
        words = words.split("\n---\n", 1)[-1]
    # A card comes with a model: the page would load its pictures from anywhere.
    reader = MarkdownIt("commonmark", {"html": False}).enable("table").disable("image")
    tokens = reader.parse(words)
    for token in tokens:
        if token.type in ("heading_open", "heading_close"):
            token.tag = f"h{min(6, int(token.tag[1]) + 2)}"
    content = reader.renderer.render(tokens, reader.options, {})
    return _element("card", Markup(content))


def _element(name: str, *values: Any) -> Markup:
    macro: Callable[..., Markup] = getattr(html_macros("report_parts.html"), name)
    return macro(*values)
