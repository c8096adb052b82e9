"""A page for each command line, out of what its ``--help`` says."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from typing import Any

import typer

PROGRAMS = ("geobiomass", "pasture")


def commands_of(program: str) -> Iterator[tuple[str, Any]]:
    """Yield each command with the words that call it, groups before their parts."""
    app = importlib.import_module(f"{program}.cli").app
    yield from _walk(typer.main.get_command(app), program)


def _walk(command: Any, words: str) -> Iterator[tuple[str, Any]]:
    yield words, command
    for name, part in getattr(command, "commands", {}).items():
        yield from _walk(part, f"{words} {name}")


def pages() -> dict[str, str]:
    """Return the text of each program's page, by file name."""
    return {f"command-{name}.md": _page(name) for name in PROGRAMS}


def _page(program: str) -> str:
    parts = [f"# {program} on the command line\n"]
    for words, command in commands_of(program):
        if words != program:
            parts.append(f"## {words}\n")
        parts.append(_section(words, command))
    return "\n".join(parts)


def _section(words: str, command: Any) -> str:
    context = command.make_context(words, [], resilient_parsing=True)
    usage = " ".join(command.collect_usage_pieces(context))
    text = f"{_said(command.help)}\n\n```\n{words} {usage}\n```\n"
    rows = [row for p in command.get_params(context) if (row := _row(p, context))]
    if command.epilog:
        text += f"\n{_said(command.epilog)}\n"
    if not rows:
        return text
    return f"{text}\n| argument or option | |\n|---|---|\n" + "\n".join(rows) + "\n"


def _row(parameter: Any, context: Any) -> str:
    record = parameter.get_help_record(context)
    if record is None or "--help" in parameter.opts:
        return ""
    name, said = (str(cell).replace("|", "\\|") for cell in record)
    return f"| `{name.strip('*').strip()}` | {_said(said)} |"


def _said(text: str | None) -> str:
    # What is in brackets, such as a default, is no Markdown.
    return re.sub(r"\[([^]]*)\]", r"(\1)", (text or "").strip())
