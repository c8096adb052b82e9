"""Writers that are killed at a file operation, and what the same call then does."""

from __future__ import annotations

import re
import shutil
import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from kill_points import ROOT, Runner, kill_at, kill_at_size, operations_of
from kept import BANDS  # noqa: F401  (imported before scripts are forked)
from new_process import NewProcesses
from outcomes import (
    CLEAR,
    POOR,
    RIGHT,
    SILENT,
    Outcome,
    Reading,
    differing,
    is_clear,
    observed,
)
from writers import WRITERS, Writer

_SCRIPT = """
import sys, warnings
warnings.simplefilter("ignore")
sys.path[:0] = {paths!r}
from pathlib import Path
from writers import WRITERS, use_pipeline
import torch
torch.set_num_threads(1)
use_pipeline({pipeline!r})
{body}
"""
_WRITE = "WRITERS[{name!r}].write(Path({folder!r}))"
_PREPARE = "WRITERS[{name!r}].prepare(Path({folder!r}))"
_READ = """
import pickle
writer = WRITERS[{name!r}]
from outcomes import is_clear, observed
paths = [Path({folder!r}) / writer.entry]
found, told, error = observed(lambda: writer.read(paths[0]))
clear = error is not None and is_clear(error, list(map(str, paths)))
said = "" if error is None else f"{{type(error).__name__}}: {{error}}"
Path({answer!r}).write_bytes(pickle.dumps((found, clear, said)))
"""
_AGAIN = """
import pickle
writer = WRITERS[{name!r}]
from outcomes import is_clear, observed
paths = [Path({folder!r}) / writer.entry, Path({folder!r})]
_, told, error = observed(lambda: [writer.write(paths[1])] and {{}})
clear = error is not None and is_clear(error, list(map(str, paths)))
said = "" if error is None else f"{{type(error).__name__}}: {{error}}"
Path({answer!r}).write_bytes(pickle.dumps((None, clear, said)))
"""

# What a server imports before it forks: most of the time of a script.
WARM = (
    "geobiomass.models.fit",
    "geobiomass.models.ensemble",
    "geobiomass.models.regressor",
    "geobiomass.validation.cross_validation",
    "geobiomass.report",
    "geobiomass.accounting.change",
    "geobiomass.metadata.stac_item",
    "geobiomass.training",
    "geobiomass.cli.ingest",
    "rioxarray",
    "conftest",
    "writers",
)


def warm_processes() -> NewProcesses:
    """Return what runs scripts in processes that have the package imported."""
    from importlib.util import find_spec

    here = [name for name in ("zarrs",) if find_spec(name)]
    return NewProcesses(*WARM, *here)


@dataclass(frozen=True)
class Kill:
    """Where a writer is killed: before its n-th operation, or at a size of a file."""

    operation: int = 0
    size: int = 0
    what: str = ""

    def __str__(self) -> str:
        return f"killed at {self.size} bytes" if self.size else f"killed before {self.what}"


class Killing:
    """One writer with one codec pipeline, and processes to kill.

    Parameters
    ----------
    writer : str
        Its name in ``WRITERS``.
    pipeline : str
        The codec pipeline.
    folder : Path
        For all that is written; new.
    run : callable
        Runs a script in a process.
    """

    def __init__(self, writer: str, pipeline: str, folder: Path, run: Runner) -> None:
        self.name, self.pipeline, self.run = writer, pipeline, run
        self.writer: Writer = WRITERS[writer]
        self.answer = folder / "answer"
        self.before, self.whole, self.place = (
            folder / name for name in ("before", "whole", "place")
        )
        self.before.mkdir(parents=True)
        if writer_prepares(self.writer):
            self._do(_PREPARE, self.before)
        self.old = self._read(self.before)[0] if self.writer.replaces else None
        self._fresh(self.place)
        script = self.script(_WRITE, self.place)
        self.operations = operations_of(script, self.place, run)
        self.expected, _, said = self._read(self.place)
        assert self.expected is not None, said
        self.names = {name_of(path, self.place) for path in self.place.rglob("*")}

    def script(self, body: str, folder: Path) -> str:
        """Return a script with the paths and the pipeline of this writer."""
        tests = ROOT / "tests"
        facts = {"name": self.name, "folder": str(folder), "answer": str(self.answer)}
        return _SCRIPT.format(
            paths=[str(ROOT), str(tests), str(tests / "faults")],
            pipeline=self.pipeline,
            body=textwrap.dedent(body).format(**facts),
        )

    def kills(self) -> list[Kill]:
        """Return a kill at the first and the last of each kind of operation."""
        found: dict[str, list[Kill]] = {}
        for number, (event, path) in enumerate(self.operations, 1):
            what = f"{event.removeprefix('os.')} {kind_of(path, self.place)}"
            found.setdefault(what, []).append(Kill(number, what=what))
        ends = [kill for kind in found.values() for kill in {kind[0], kind[-1]}]
        sizes = [Kill(size=size) for size in self.writer.sizes]
        return sorted(ends, key=lambda kill: kill.operation) + sizes

    def outcome(self, kill: Kill) -> Outcome:
        """Kill the writer, look at what is there, make the same call again, compare."""
        case = f"{self.name}, {self.pipeline}:{kill.operation or -kill.size}"
        self._fresh(self.place)
        script = self.script(_WRITE, self.place)
        landed = (
            kill_at_size(script, kill.size, self.run)
            if kill.size
            else kill_at(script, kill.operation, self.place, self.run)
        )
        result, said = self._judge()
        return Outcome(case, str(kill) if landed else f"{kill}: not reached", result, said)

    def _judge(self) -> tuple[str, str]:
        between, clear, said = self._read(self.place)
        if self.writer.replaces:
            assert self.old is not None
            if between is None:
                return POOR, f"before the second call: {said}"
            if differing(between, self.old) and differing(between, self.expected):
                return SILENT, "before the second call it is neither old nor new"
        elif between is not None and differing(between, self.expected):
            return SILENT, f"half is read: {differing(between, self.expected)}"
        _, clear, refused = self._do(_AGAIN, self.place)
        found, _, said = self._read(self.place)
        if found is None:
            result = CLEAR if clear else POOR
            return result, f"second call: {refused or 'done'}; then {said}"
        if wrong := differing(found, self.expected):
            kind = SILENT if not refused else CLEAR if clear else POOR
            return kind, f"second call: {refused or 'done'}; differs: {wrong}"
        if refused and not clear:
            return POOR, refused
        left = {name_of(path, self.place) for path in self.place.rglob("*")} - self.names
        if left:
            return POOR, f"left: {sorted(left)}"
        return RIGHT, refused

    def _fresh(self, place: Path) -> None:
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(self.before, place)

    def _read(self, folder: Path) -> tuple[Reading | None, bool, str]:
        return self._do(_READ, folder)

    def _do(self, body: str, folder: Path) -> tuple[Reading | None, bool, str]:
        import pickle

        self.answer.unlink(missing_ok=True)
        done = self.run(self.script(body, folder))
        assert done.returncode == 0, done.stderr[-3000:]
        if not self.answer.exists():
            return None, False, ""
        found: tuple[Reading | None, bool, str] = pickle.loads(self.answer.read_bytes())
        return found


def writer_prepares(writer: Writer) -> bool:
    return writer.prepare.__name__ != "<lambda>" or writer.replaces


def kind_of(path: Path, folder: Path) -> str:
    """Return what kind of file it is: its last name, and those of two folders above.

    Chunks of one array, and of coordinates, are of one kind.
    """
    parts = name_of(path, folder).split("/")
    chunk = "c" in parts[:-1]
    last = "chunk" if chunk else parts[-1]
    above = parts[: parts.index("c")] if chunk else parts[:-1]
    small = above and above[-1] in ("band", "month", "x", "y", "multiplier", "chip")
    return "/".join([*(["coordinate"] if small else above[-1:]), last])


def name_of(path: Path, folder: Path) -> str:
    """Return a path without what differs from run to run, numbers and random names."""
    name = path.relative_to(folder).as_posix()
    name = re.sub(r"[0-9a-f]{8,}(-[0-9a-f]{4,})*", "*", name)
    return re.sub(r"\d+", "0", name)
