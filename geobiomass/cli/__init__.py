"""Command line: ``geobiomass ingest | info | train | plan | predict | ...``.

It parses arguments and calls functions. Bad input ends with one sentence and exit code
2. Commands import modules that take long to import, PyTorch above all, only after they
have checked their arguments.
"""

from __future__ import annotations

import gc
import io
import os
import sys
from codecs import lookup
from typing import NoReturn

import lazy_loader

from geobiomass.outside_text import printable
from geobiomass.training.commands import INTERRUPTED, run

# The app imports typer and builds all commands, which `info` of a path does without.
__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__, submod_attrs={"commands": ["app"]}
)


def main() -> NoReturn:
    """Run the command line."""
    words = sys.argv[1:]
    # `geobiomass info PATH` is the first command of many. It is called without typer:
    # to build all commands and to check one text takes as long as opening a cube.
    if len(words) == 2 and words[0] == "info" and not words[1].startswith("-"):
        run(_info_alone, "geobiomass", printable)
    from geobiomass.cli.commands import app

    run(app, "geobiomass", printable)


def _info_alone() -> None:
    """Run ``info`` with its one argument; Ctrl-C ends it as typer does."""
    # Python's search for circles of objects takes a tenth of the time of the imports,
    # and finds nothing.
    gc.disable()
    try:
        from geobiomass.info import describe

        _print(printable(describe(sys.argv[2])))
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    finally:
        gc.enable()


def _print(text: str) -> None:
    """Print as typer does: all letters, and no error where the output is closed."""
    out = sys.stdout
    if isinstance(out, io.TextIOWrapper) and lookup(out.encoding).name == "ascii":
        # Such as of cron. Names of bands have other letters.
        out.reconfigure(encoding="utf-8", errors="replace")
    try:
        print(text, flush=True)
    except BrokenPipeError:
        # Python would tell it again when it closes its output at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), out.fileno())
        sys.exit(1)
