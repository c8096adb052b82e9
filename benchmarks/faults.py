"""Faults: damaged files, killed writers and pairs of writers, and how each ended.

``python -m benchmarks.faults [--quick] [--markdown] [--kinds damage kills pairs]``, the
table of docs/reliability.md. Each outcome is right (the same values to the bit), clear
(an error of this package that names the file and a remedy), poor (another error) or
silent (other values, and nothing said). The same numbers give the same faults.

``python -m benchmarks.faults --repeat "zarr map:17"`` repeats one outcome, by the name
that ``--rows FILE`` writes, a JSON object a line, and that a failed test shows.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "faults")]

import torch  # noqa: E402
from damaging import damaged  # noqa: E402
from kept import KEPT  # noqa: E402
from killing import Killing, warm_processes  # noqa: E402
from outcomes import MOST_POOR, Outcome, counts  # noqa: E402
from pairing import DELAYS, Pair, paired  # noqa: E402
from writers import WRITERS  # noqa: E402

from benchmarks.tables import Row, show  # noqa: E402

KINDS = ("damage", "kills", "pairs")
BOTH = "two processes"


def damages(each: int, names: Iterable[str]) -> Iterator[tuple[str, list[Outcome]]]:
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            yield f"damage, {name}", damaged(name, range(each), Path(folder))


def pipelines(name: str) -> list[str]:
    installed = WRITERS[name].pipelines
    return [one for one in installed if one != "zarrs" or find_spec("zarrs")]


def kills(most: int, names: Iterable[str]) -> Iterator[tuple[str, list[Outcome]]]:
    with warm_processes() as run:
        for name in names:
            outcomes = []
            for pipeline in pipelines(name):
                with tempfile.TemporaryDirectory() as folder:
                    one = Killing(name, pipeline, Path(folder) / "k", run)
                    outcomes += [one.outcome(kill) for kill in one.some(most)]
            yield f"killed, {name}", outcomes


def pairs(times: int, names: Iterable[str]) -> Iterator[tuple[str, list[Outcome]]]:
    with warm_processes() as run:
        for name in names:
            outcomes = []
            for pipeline in pipelines(name):
                with tempfile.TemporaryDirectory() as folder:
                    place = Path(folder) / "k"
                    numbers = range(times * len(DELAYS))
                    outcomes += paired(name, pipeline, place, run, numbers)
            yield f"pairs, {name}", outcomes


def repeat(case: str) -> Outcome:
    """Repeat the fault of an outcome, by its case: ``"append, zarrs:161"``."""
    name, _, number = case.rpartition(":")
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        place = Path(folder) / "k"
        if name in KEPT:
            return damaged(name, [int(number)], place)[0]
        both = name.endswith(BOTH)
        writer, pipeline = name.removesuffix(f", {BOTH}").rsplit(", ", 1)
        run = stack.enter_context(warm_processes())
        one = Killing(writer, pipeline, place, run)
        if not both:
            return one.outcome(one.of_number(int(number)))
        return Pair(one).at(int(number))


def row_of(title: str, outcomes: Sequence[Outcome]) -> Row:
    return {"fault": title, "runs": len(outcomes), **counts(outcomes)}


def commit() -> str:
    words = ["git", "describe", "--always", "--dirty", "--abbrev=7"]
    done = subprocess.run(words, cwd=ROOT, text=True, capture_output=True, check=False)
    return done.stdout.strip() or "unknown"


def write_rows(path: Path | None, outcomes: Iterable[Outcome]) -> None:
    if path is not None:
        with path.open("a") as file:
            file.writelines(json.dumps(asdict(one)) + "\n" for one in outcomes)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few faults of each kind")
    parser.add_argument("--markdown", action="store_true", help="print as markdown")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these kinds only")
    parser.add_argument("--damages", type=int, default=67, help="of each kind of file")
    parser.add_argument("--kills", type=int, default=24, help="of each writer")
    parser.add_argument("--rows", type=Path, help="write each outcome to this file")
    parser.add_argument("--repeat", metavar="CASE", help="repeat one outcome")
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(1)
    if chosen.repeat:
        print(repeat(chosen.repeat))
        return 0
    kept = [name for name in KEPT if not chosen.only or name in chosen.only]
    writers = [name for name in WRITERS if not chosen.only or name in chosen.only]
    each, most = (2, 1) if chosen.quick else (chosen.damages, chosen.kills)
    runs: dict[str, Any] = {
        "damage": lambda: damages(each, kept),
        "kills": lambda: kills(most, writers),
        "pairs": lambda: pairs(1, writers),
    }
    rows, every = [], []
    for kind in chosen.kinds:
        for title, outcomes in runs[kind]():
            row = row_of(title, outcomes)
            print(row, file=sys.stderr, flush=True)
            for one in outcomes:
                if one.result in ("poor", "silent"):
                    print(one, file=sys.stderr)
            write_rows(chosen.rows, outcomes)
            rows.append(row)
            every += outcomes
    rows.append(row_of("all", every))
    show(f"Faults, commit {commit()}", rows, markdown=chosen.markdown)
    found = rows[-1]
    return int(found["silent"] > 0 or found["poor"] > MOST_POOR * len(every))


if __name__ == "__main__":
    sys.exit(main())
