"""The mark of a CSV that has facts beside: only its first name is in quotes.

Every reader of CSV takes them off. What another program writes has quotes around all
names, or around none.
"""

from __future__ import annotations

import re
from pathlib import Path

_NAME = re.compile(r"\w+")
_MARK = re.compile(rb'"\w+",(?!")')


def marked(text: str) -> bytes:
    """Return the content of a CSV, with the mark."""
    first, comma, rest = text.partition(",")
    if _NAME.fullmatch(first):
        first = f'"{first}"'
    return f"{first}{comma}{rest}".encode()


def is_marked(path: Path) -> bool:
    """Return whether a CSV has the mark."""
    with path.open("rb") as file:
        return bool(_MARK.match(file.read(200)))
