"""Functions of both command lines: parse settings, print errors, print the version."""

from __future__ import annotations

import json
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

from .packages import MissingPackageError
from .unfinished import UnfinishedTraining

__all__ = ["EXIT_CODES", "parse_setting", "print_version", "run"]

EXIT_CODES = (
    "Exit codes: 0 success; 1 internal error, with a traceback; 2 invalid input or "
    "command line; 3 some blocks of a map could not be computed, the others are "
    "written; 130 interrupted by Ctrl-C, 143 by SIGTERM: run the same command again to "
    "continue."
)
BAD_INPUT = 2  # as typer exits on a bad command line
_EXPECTED = (ValueError, OSError, MissingPackageError)
INTERRUPTED = 130  # the exit code of typer and of shells on Ctrl-C


def parse_setting(text: str) -> tuple[str, Any]:
    """Parse ``name=value``; the value is JSON, or a word without quotes.

    Raises
    ------
    ValueError
        If there is no ``=``.
    """
    name, sign, value = text.partition("=")
    if not sign:
        raise ValueError(f"--set must be name=value, got {text!r}")
    try:
        parsed = json.loads(value)
    except json.JSONDecodeError:
        parsed = value
    return name, tuple(parsed) if isinstance(parsed, list) else parsed


def print_version(name: str) -> NoReturn:
    """Print the name of a command line and its version, and exit.

    Both packages are one distribution. The version is that of the package in use: a
    checkout that is not installed has no metadata.
    """
    print(f"{name} {sys.modules['geobiomass'].__version__}")
    sys.exit(0)


def run(
    app: Callable[[], Any], name: str, shown: Callable[[object], str] = str
) -> NoReturn:
    """Run a command line, and print an error of the input as one sentence.

    Errors and warnings are printed as `shown` returns them, so that names in a file do
    not control the terminal.

    Bad input (ValueError, OSError) and a missing package end with exit code 2, an
    error with an attribute ``exit_code`` with that code. If the environment variable
    GEOBIOMASS_TRACEBACK is set, they end with the traceback.
    """
    try:
        with _warnings_shown(shown):
            app()
    except Exception as error:
        usual = BAD_INPUT if isinstance(error, _EXPECTED) else None
        code = getattr(error, "exit_code", usual)
        if code is None or os.environ.get("GEOBIOMASS_TRACEBACK"):
            raise
        print(shown(f"{name}: {error}"), file=sys.stderr)
        sys.exit(code)
    except SystemExit as stop:
        if stop.code == INTERRUPTED:
            print(
                f"\n{name}: interrupted; the same command continues.{_usable(stop)}",
                file=sys.stderr,
            )
        raise
    sys.exit(0)


def _usable(stop: BaseException) -> str:
    """Return the line that loads the model of an interrupted training, if any."""
    cause: BaseException | None = stop
    while cause is not None:
        if isinstance(cause, UnfinishedTraining) and cause.load_line:
            return f" Usable until then, in Python: {cause.load_line}"
        cause = cause.__cause__ or cause.__context__
    return ""


@contextmanager
def _warnings_shown(shown: Callable[[object], str]) -> Iterator[None]:
    """Print warnings as `shown` returns them."""
    before = warnings.formatwarning
    warnings.formatwarning = lambda *parts, **more: shown(before(*parts, **more))
    try:
        yield
    finally:
        warnings.formatwarning = before
