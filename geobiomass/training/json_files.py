"""JSON of files, tags and the web: bounded in size and depth, named in errors."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .given_paths import check_file

__all__ = [
    "JsonError",
    "check_json_depth",
    "finite_number",
    "parse_json",
    "read_json",
]

MOST_BYTES = 32 * 2**20
"""Largest text that is parsed: settings, records and tags have kilobytes."""

MOST_DEPTH = 100
"""Deepest nesting: STAC items have about 8 levels, a MultiPolygon in a collection 8."""


class JsonError(ValueError):
    """Error of JSON that is damaged, too large, too deep, or of another kind."""


def read_json(
    path: str | Path,
    kind: type | None = None,
    most_bytes: int = MOST_BYTES,
    encoding: str = "utf-8",
) -> Any:
    """Read a JSON file.

    Parameters
    ----------
    path : str or Path
        The file.
    kind : type, optional
        Type that the value must have: dict or list.
    most_bytes : int
        Size of the largest file that is read. Not more is ever in memory, whatever
        the file system says about its size.
    encoding : str
        Of the file.

    Raises
    ------
    JsonError
        A ValueError that names the file, if it is larger, nested deeper than
        `MOST_DEPTH`, no JSON, or of another type.
    OSError
        If it cannot be read.
    """
    check_file(path, JsonError)
    with Path(path).open("rb") as file:
        data = file.read(most_bytes + 1)
    return parse_json(data, str(path), kind, most_bytes, encoding)


def parse_json(
    text: str | bytes,
    name: str,
    kind: type | None = None,
    most_bytes: int = MOST_BYTES,
    encoding: str = "utf-8",
) -> Any:
    """Parse JSON that comes from outside: of a file, a tag, an attribute, the web.

    Parameters
    ----------
    text : str or bytes
        The JSON.
    name : str
        What it is, for error messages: a path, an address, "the attribute scenes".
    kind, most_bytes, encoding : optional
        As :func:`read_json` takes them.

    Raises
    ------
    JsonError
        As :func:`read_json` does.
    """
    if not isinstance(text, str | bytes):
        raise JsonError(f"{name} must be JSON text, got {type(text).__name__}.")
    if len(text) > most_bytes:
        raise JsonError(
            f"{name} must have at most {most_bytes:,} bytes of JSON, got more; it is "
            "damaged or not meant for this."
        )
    try:
        decoded = text if isinstance(text, str) else text.decode(encoding)
        value = json.loads(decoded)
    except RecursionError:
        raise JsonError(_too_deep(name)) from None
    except ValueError as error:  # of JSON, of UTF-8, of numbers with 4,301 digits
        raise JsonError(f"{name} must be JSON, got something else ({error}).") from None
    check_json_depth(value, name)
    if kind is not None and not isinstance(value, kind):
        raise JsonError(
            f"{name} must be a JSON {_NAMES.get(kind, kind.__name__)}, got "
            f"{_NAMES.get(type(value), type(value).__name__)}."
        )
    return value


def check_json_depth(value: Any, name: str, most: int = MOST_DEPTH) -> None:
    """Check that a parsed value is not nested deeper than `most` levels.

    What is nested nearly as deep as the interpreter allows is parsed, and then stops
    the first function that walks through it.

    Raises
    ------
    JsonError
        If it is, naming `name`.
    """
    level = list(_containers([value]))
    for _ in range(most):
        if not level:
            return
        level = [child for one in level for child in _containers(one)]
    if level:
        raise JsonError(_too_deep(name))


def finite_number(value: Any) -> bool:
    """Return whether a parsed value is a finite number, which true and NaN are not."""
    plain = isinstance(value, int | float) and not isinstance(value, bool)
    return plain and math.isfinite(value)


_NAMES = {dict: "object", list: "array", str: "string", type(None): "null"}


def _containers(value: Any) -> Iterator[Any]:
    among = value.values() if isinstance(value, dict) else value
    return (one for one in among if isinstance(one, dict | list))


def _too_deep(name: str) -> str:
    return (
        f"{name} must be JSON nested at most {MOST_DEPTH} levels deep, got more; it is "
        "damaged or not meant for this."
    )
