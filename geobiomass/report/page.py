"""The page itself: headings, figures and tables as HTML that links to nothing."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:1160px;margin:2em auto;padding:0 1em;
color:#222;background:#fff}
h1{font-size:1.7em}h2{border-bottom:1px solid #ccc;margin-top:2em}
nav a{margin-right:1em}a{color:#0072B2}
table{border-collapse:collapse;margin:.5em 0;font-size:.93em}
img{max-width:100%;height:auto}figure{display:inline-block;margin:.5em 1em .5em 0;
max-width:100%;vertical-align:top}figcaption{color:#555;font-size:.9em;max-width:60em}
.figures{display:flex;flex-wrap:wrap;gap:.8em}.figure{border:1px solid #ccc;
border-radius:6px;padding:.5em 1em}.figure b{display:block;font-size:1.3em}
.figure span{color:#555;font-size:.9em}
.geobiomass,.scroll{overflow-x:auto}code,pre{background:#f4f4f4;padding:.1em .3em}
td{white-space:nowrap}
.card td,.card th{border:1px solid #ddd;padding:2px 8px;text-align:left;
white-space:normal}
"""


def page(title: str, sections: Sequence[tuple[str, str]]) -> str:
    """Give the whole file.

    Parameters
    ----------
    title : str
        Its heading.
    sections : sequence of (str, str)
        Heading and HTML of each.
    """
    links = "".join(
        f"<a href='#section-{number}'>{text(name)}</a>"
        for number, (name, _) in enumerate(sections, 1)
    )
    body = "".join(
        f"<section id='section-{number}'><h2>{text(name)}</h2>{content}</section>"
        for number, (name, content) in enumerate(sections, 1)
    )
    return (
        "<!DOCTYPE html><html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width'>"
        f"<title>{text(title)}</title><style>{_STYLE}</style></head><body>"
        f"<h1>{text(title)}</h1><nav>{links}</nav>{body}</body></html>\n"
    )


def rows(facts: Mapping[str, str]) -> str:
    """Give a table of headings and texts."""
    cells = "".join(
        f"<tr><th style='text-align:left;padding-right:1em;vertical-align:top'>"
        f"{text(name)}</th><td>{text(value)}</td></tr>"
        for name, value in facts.items()
    )
    return f"<table>{cells}</table>"


def boxes(facts: Mapping[str, str]) -> str:
    """Give figures in large type, each with its name."""
    parts = "".join(
        f"<div class='figure'><b>{text(value)}</b><span>{text(name)}</span></div>"
        for name, value in facts.items()
    )
    return f"<div class='figures'>{parts}</div>"


def paragraph(words: str) -> str:
    """Give a paragraph of plain text."""
    return f"<p>{text(words)}</p>"


def figure(
    caption: str, draw: Callable[[Axes], object], size: tuple[float, float]
) -> str:
    """Give a figure of one picture; pyplot and its backends are left alone."""
    from matplotlib.figure import Figure

    made = Figure(size, layout="constrained")
    draw(made.subplots())
    return embedded(made, caption)


def embedded(made: Any, caption: str) -> str:
    """Give a figure of matplotlib as a picture in the page."""
    file = io.BytesIO()
    made.savefig(file, format="png", dpi=100)
    data = base64.b64encode(file.getvalue()).decode()
    return (
        f"<figure><img alt='{text(caption)}' src='data:image/png;base64,{data}'>"
        f"<figcaption>{text(caption)}</figcaption></figure>"
    )


def from_markdown(words: str) -> str:
    """Give a card as HTML: without its front matter, headings below ours."""
    from markdown_it import MarkdownIt

    if words.startswith("---\n"):
        words = words.split("\n---\n", 1)[-1]
    reader = MarkdownIt("commonmark", {"html": False}).enable("table")
    tokens = reader.parse(words)
    for token in tokens:
        if token.type in ("heading_open", "heading_close"):
            token.tag = f"h{min(6, int(token.tag[1]) + 2)}"
    content = reader.renderer.render(tokens, reader.options, {})
    return f"<div class='card'>{content}</div>"


def text(value: object) -> str:
    """Give text that is no markup."""
    return html.escape(str(value))
