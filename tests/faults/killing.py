"""Writers that are killed at a file operation, and what the same call then does."""

from __future__ import annotations

import errno
import pickle
import re
import shutil
import textwrap
from dataclasses import dataclass
from pathlib import Path

from kill_points import ROOT, Runner, fail_at, kill_at, kill_at_size, operations_of
from new_process import IMPORTED, NewProcesses
from outcomes import (
    CLEAR,
    POOR,
    RIGHT,
    SILENT,
    Outcome,
    Reading,
    differing,
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
AGAIN = """
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
    return NewProcesses(*IMPORTED, *WARM, *here)


@dataclass(frozen=True)
class Answer:
    """What a script read, or the error that it got."""

    reading: Reading | None
    clear: bool
    said: str


@dataclass(frozen=True)
class Kill:
    """Where a writer is killed: before its n-th operation, or at a size of a file."""

    operation: int = 0
    size: int = 0
    what: str = ""

    def __str__(self) -> str:
        return (
            f"killed at {self.size} bytes"
            if self.size
            else f"killed before {self.what}"
        )


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
            self.do(_PREPARE, self.before)
        there = (self.before / self.writer.entry).exists()
        self.old = self.read(self.before).reading if there else None
        self.fresh(self.place)
        script = self.script(_WRITE, self.place)
        self.operations = operations_of(script, self.place, run)
        found = self.read(self.place)
        assert found.reading is not None, found.said
        self.expected = found.reading
        self.names = {name_of(path, self.place) for path in self.place.rglob("*")}

    def script(self, body: str, folder: Path, answer: Path | None = None) -> str:
        """Return a script with the paths and the pipeline of this writer."""
        tests = ROOT / "tests"
        facts = {"name": self.name, "folder": str(folder), "answer": str(answer)}
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

    def some(self, most: int) -> list[Kill]:
        """Return at most so many kills: all sizes, and operations evenly."""
        kills = self.kills()
        sizes = [kill for kill in kills if kill.size]
        operations = [kill for kill in kills if not kill.size]
        room = max(most - len(sizes), 1)
        step = max(1.0, len(operations) / room)
        count = min(room, len(operations))
        # From the middle of each part: before the first operation nothing is written.
        return [operations[int((n + 0.5) * step)] for n in range(count)] + sizes

    def of_number(self, number: int) -> Kill:
        """Return the kill that an outcome's number stands for."""
        for kill in self.kills():
            if number in (kill.operation or None, -kill.size or None):
                return kill
        event, path = self.operations[number - 1]
        return Kill(number, what=f"{event} {name_of(path, self.place)}")

    def outcome(self, kill: Kill) -> Outcome:
        """Kill the writer, look at what is there, make the same call again, compare."""
        case = f"{self.name}, {self.pipeline}:{kill.operation or -kill.size}"
        self.fresh(self.place)
        script = self.script(_WRITE, self.place)
        landed = (
            kill_at_size(script, kill.size, self.run)
            if kill.size
            else kill_at(script, kill.operation, self.place, self.run)
        )
        result, said = self._judge()
        return Outcome(
            case, str(kill) if landed else f"{kill}: not reached", result, said
        )

    def full(self, kill: Kill, code: int = errno.ENOSPC) -> Outcome:
        """Write on a disk that is full from an operation on; judge as after a kill.

        The error must be of this package, name the path and a remedy.
        """
        self.fresh(self.place)
        told = self.do(AGAIN, self.place, run=lambda script: fail_at(
            script, kill.operation, self.place, code, self.run
        ))  # fmt: skip
        result, said = self._judge()
        if told.said and not told.clear and result != SILENT:
            result, said = POOR, f"{told.said}; then {said or 'right'}"
        case = f"{self.name}, {self.pipeline}, full:{kill.operation}"
        return Outcome(case, f"full at {kill.what}: {told.said}", result, said)

    def needing_space(self) -> list[Kill]:
        """Return the operations that fail on a full disk."""
        needs = ("open ", "mkdir ", "link ", "symlink ")
        return [kill for kill in self.kills() if kill.what.startswith(needs)]

    def _judge(self) -> tuple[str, str]:
        between = self.read(self.place)
        if between.reading is None and self.writer.replaces:
            return POOR, f"before the second call: {between.said}"
        whole = [
            reading for reading in (self.old, self.expected) if reading is not None
        ]
        if between.reading is not None:
            wrong = [differing(between.reading, one) for one in whole]
            if all(wrong):
                return SILENT, f"half is read: {wrong[-1]}"
        again = self.do(AGAIN, self.place)
        found = self.read(self.place)
        said = again.said or "done"
        if found.reading is None:
            result = CLEAR if again.clear else POOR
            return result, f"second call: {said}; then {found.said}"
        if wrong_now := differing(found.reading, self.expected):
            result = SILENT if not again.said else CLEAR if again.clear else POOR
            return result, f"second call: {said}; differs: {wrong_now}"
        if again.said and not again.clear:
            return POOR, again.said
        left = {name_of(p, self.place) for p in self.place.rglob("*")} - self.names
        if left:
            return POOR, f"left: {sorted(left)}"
        return RIGHT, again.said

    def fresh(self, place: Path) -> None:
        """Make a folder what it was before the writer."""
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(self.before, place)

    def read(self, folder: Path) -> Answer:
        """Read what the writer left, in another process."""
        return self.do(_READ, folder)

    def do(
        self,
        body: str,
        folder: Path,
        answer: Path | None = None,
        run: Runner | None = None,
    ) -> Answer:
        """Run a script of this module; return its answer."""
        answer = self.answer if answer is None else answer
        answer.unlink(missing_ok=True)
        done = (run or self.run)(self.script(body, folder, answer))
        assert done.returncode == 0, done.stderr[-3000:]
        return self.taken(answer)

    def taken(self, answer: Path) -> Answer:
        """Return what a script of this module answered, if it did."""
        if not answer.exists():
            return Answer(None, False, "")
        return Answer(*pickle.loads(answer.read_bytes()))


def writer_prepares(writer: Writer) -> bool:
    return writer.prepare.__name__ != "<lambda>" or writer.replaces


def kind_of(path: Path, folder: Path) -> str:
    """Return what kind of file it is: chunks of coordinates, for example, are one."""
    parts = name_of(path, folder).split("/")
    if "c" in parts[1:]:
        array = parts[parts.index("c", 1) - 1]
        large = array in ("image", "agb")
        return f"chunk of {array}" if large else "chunk of another array"
    if "." not in parts[-1]:
        return "folder" if len(parts) > 1 else parts[0]
    return parts[-1]


def name_of(path: Path, folder: Path) -> str:
    """Return a path without what differs from run to run, numbers and random names."""
    name = path.relative_to(folder).as_posix()
    name = re.sub(r"[0-9a-f]{8,}(-[0-9a-f]{4,})*", "*", name)
    return re.sub(r"\d+", "0", name)
