"""Paths that are given: of the right type, and of files that end.

A named pipe without a writer is waited for without end, and a device gives bytes
without end, so neither is opened.
"""

from __future__ import annotations

import os
import stat
from typing import Any

__all__ = ["check_file", "is_address", "path_text"]

# What a shell gives for `<(command)` and `-`: its writer is there.
_OF_SHELL = ("/dev/fd/", "/dev/stdin", "/proc/self/fd/")
_NEAR = ("file:", "local:", "memory:")
# GDAL, "Network based file systems".
_FAR = tuple(f"/vsi{name}/" for name in ("curl", "s3", "gs", "az", "adls", "oss"))
_SHOWN = 200  # characters of a path in a message


def path_text(path: Any, what: str, error: type[Exception] = ValueError) -> str:
    """Return a path as text, checked that it can be the name of a file.

    Parameters
    ----------
    path : str or path-like
        A path or an address; anything else is an error.
    what : str
        What it is, for the message: "The folder of a model".
    error : type
        Class of the error.

    Raises
    ------
    Exception
        Of the class `error`, if the path has another type, is empty, is too long or
        contains a character that no name has.
    """
    text = os.fspath(path) if isinstance(path, os.PathLike) else path
    if not isinstance(text, str):
        kind = type(path).__name__
        raise error(f"{what} must be a path, got a {kind}; give its name as text.")
    if not text:
        raise error(f"{what} must be a path, got an empty one; give its name.")
    _state(text, error)
    return text


def check_file(path: Any, error: type[Exception] = ValueError) -> None:
    """Check that what is at a path ends, before it is opened.

    Addresses, and paths at which nothing is, are left to the reader. So is what a shell
    opens for a command.

    Raises
    ------
    Exception
        Of the class `error`, if it is a pipe, a socket or a device, or the path cannot
        be the name of a file.
    """
    if not isinstance(path, str | os.PathLike):
        return
    text = os.fspath(path)
    if not isinstance(text, str) or text.startswith(_OF_SHELL):
        return
    found = _state(text, error)
    if found is None or stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode):
        return
    kind = "a device"
    if stat.S_ISFIFO(found.st_mode) or stat.S_ISSOCK(found.st_mode):
        kind = "a pipe or a socket"
    raise error(
        f"{text[:_SHOWN]} must be a file, got {kind}; write what it gives to a file, "
        "and give that."
    )


def is_address(path: Any) -> bool:
    """Return whether a path is an address, which is read over a network."""
    text = str(path)
    if text.startswith("/vsi"):
        return text.startswith(_FAR) or "/vsicurl/" in text
    return "://" in text and not text.startswith(_NEAR)


def _state(text: str, error: type[Exception]) -> os.stat_result | None:
    """Return what the file system knows of a path; None of an address, or nothing."""
    if "://" in text or text.startswith("/vsi"):
        return None
    try:
        return os.stat(text)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return None
    except (OSError, ValueError) as problem:
        reason = getattr(problem, "strerror", None) or str(problem)
        shown = repr(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}...")
        raise error(
            f"{shown} cannot be the path of a file ({reason}); give another one."
        ) from None
