"""Errors by number of labels: a user's usual choices by pixel, the network, ours.

``python -m benchmarks.labels [--quick] [--cells WORDS] [--rows forest pixels]``

Trains each row on cubes with few labels and tests it on blocks or sites left out:
landscapes of unseen seeds, and the real sets in the folder ``GEOBIOMASS_DATA``. Prints
error, bias, coverage of the 90 % interval and CPU seconds on one thread, and the errors
relative to the best of the usual choices. Finished runs are kept: the same command
continues, and cells, rows and seeds can be added. The network takes minutes a run: by
default it has rows in a few cells only, with a limit of time.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from label_cases import Cell, absent, make_case, make_cells
from label_learners import BASELINES, ROWS, Figures, judge_baseline, judge_ours
from tables import Row, show

SEEDS = "0,1,2"
OUT = Path("build/labels.jsonl")
LIMIT = 900  # seconds that one call of gb.fit and its map may take
NETWORK = ("network", "fit")  # rows that may train a network
FEW = 1_000  # labels below which ``gb.fit(cube)`` trains no network
# Cells with a row of the network, unless --rows or --cells name others.
NETWORK_CELLS = (
    "landscape | points, random | 100",
    "landscape | points, random | 1000",
    "landscape | points | dense",
    "nicaragua | footprints, random | 300",
    "worldcereal | points | dense",
)
QUICK = (
    "landscape | points, random | 30",
    "landscape | points, clustered | 100",
    "landscape | footprints, clustered | 30",
    "landscape | points | dense",
)
Found = dict[tuple[str, str], list[Figures]]
TINY: dict[str, Any] = {
    "epochs": 1,
    "crop": 32,
    "encoder": "test_resnet",
    "decoder_channels": (8, 8, 8, 8, 8),
}


@dataclass(frozen=True)
class Run:
    """A row of a cell, with a seed."""

    cell: str
    row: str
    seed: int


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what has no result yet; print the tables."""
    parser = _parser()
    chosen = parser.parse_args(arguments)
    if chosen.one:
        order = json.loads(chosen.one)
        quick = order.pop("quick")
        print(json.dumps(_figures(Run(**order), quick)))
        return
    cells = _cells(chosen)
    if not cells:
        parser.error(
            f"--cells must be words of a name, such as 'points, random | 100', got "
            f"{chosen.cells}; names are {list(make_cells())}."
        )
    present = {}
    for name, cell in cells.items():
        if (reason := absent(cell)) is not None:
            say(f"{name}: left out. {reason}")
        else:
            present[name] = cell
    seeds = [int(seed) for seed in (chosen.seeds or _seeds(chosen)).split(",")]
    # By set and seed, so that each scene is made once.
    runs = [
        Run(name, row, seed)
        for data in dict.fromkeys(cell.data for cell in present.values())
        for seed in seeds
        for name, cell in present.items()
        for row in chosen.rows
        if cell.data == data
        if chosen.all or _is_default(row, cell) or name in (*NETWORK_CELLS, *QUICK)
    ]
    with tempfile.TemporaryDirectory(prefix="labels-") as folder:
        out = chosen.out or (Path(folder) / "labels.jsonl" if chosen.quick else OUT)
        if chosen.show:
            results = {
                run: figures
                for run, figures in _kept(out)
                if run.cell in present and run.row in chosen.rows
            }
        else:
            results = carry_out(runs, out, chosen.quick, chosen.limit)
    done = {run.cell for run in results}
    present = {name: cell for name, cell in present.items() if name in done}
    report(present, results, chosen.markdown)


def _is_default(row: str, cell: Cell) -> bool:
    """Return whether a row runs in a cell where no row of the network was asked for."""
    return row not in NETWORK or (row == "fit" and 0 < cell.labels < FEW)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--quick", action="store_true", help="tiny landscapes, to test that it runs"
    )
    parser.add_argument("--markdown", action="store_true", help="print as markdown")
    parser.add_argument(
        "--cells", nargs="+", help="words of the names of cells; by default all cells"
    )
    parser.add_argument(
        "--rows", nargs="+", choices=ROWS, default=[*BASELINES, "network"]
    )
    parser.add_argument("--seeds", help=f"numbers with commas; by default {SEEDS}")
    parser.add_argument(
        "--all", action="store_true", help="the network in all chosen cells"
    )
    parser.add_argument(
        "--limit", type=float, default=LIMIT, help="seconds that a call may take"
    )
    parser.add_argument(
        "--out", type=Path, help=f"file of the results, by default {OUT}"
    )
    parser.add_argument(
        "--show", action="store_true", help="run nothing; print what the file has"
    )
    parser.add_argument("--one", help=argparse.SUPPRESS)
    return parser


def _cells(chosen: argparse.Namespace) -> dict[str, Cell]:
    words = chosen.cells or (QUICK if chosen.quick else [""])
    return cells_named(words, make_cells())


def cells_named(words: Sequence[str], cells: Mapping[str, Cell]) -> dict[str, Cell]:
    """Return the cells whose names have one of some words."""
    return {
        name: cell
        for name, cell in cells.items()
        # Not the cell of 1,000 labels, whose name begins with that of 100.
        if any(re.search(rf"{re.escape(word)}(?!\d)", name) for word in words)
    }


def _seeds(chosen: argparse.Namespace) -> str:
    return "0" if chosen.quick else SEEDS


def carry_out(
    runs: Sequence[Run], out: Path, quick: bool, limit: float
) -> dict[Run, Figures]:
    """Run what the file has no result of; append each result to it immediately."""
    out.parent.mkdir(parents=True, exist_ok=True)
    results = dict(_kept(out))
    todo = [run for run in runs if run not in results]
    for number, run in enumerate(todo, 1):
        if run.row in BASELINES:
            figures = _figures(run, quick)
        else:
            figures = _in_process(run, quick, limit)
        results[run] = figures
        with out.open("a") as file:
            file.write(json.dumps(asdict(run) | figures) + "\n")
        found = figures.get("left_out") or f"{figures['rmse']:.3g}"
        say(f"{number} of {len(todo)}: {run.cell}, {run.row}, {run.seed}: {found}")
    return {run: results[run] for run in runs}


def _kept(out: Path) -> Iterator[tuple[Run, Figures]]:
    """Yield the results of a file; the last line may be half of one."""
    if not out.exists():
        return
    text = out.read_text()
    if text and not text.endswith("\n"):
        out.write_text(text[: text.rfind("\n") + 1])
    for line in out.read_text().splitlines():
        figures = json.loads(line)
        yield Run(*(figures.pop(name) for name in ("cell", "row", "seed"))), figures


def _figures(run: Run, quick: bool) -> Figures:
    """Make the case of a run, and train and test its row."""
    case = make_case(make_cells()[run.cell], run.seed, quick)
    if run.row in BASELINES:
        return judge_baseline(run.row, case, run.seed)
    if run.row == "network" and not case.network:
        return {"left_out": "images of one pixel are too small for a network"}
    settings = TINY if quick and run.row == "network" else {}
    return judge_ours(run.row, case, run.seed, **settings)


def _in_process(run: Run, quick: bool, limit: float) -> Figures:
    """Run in a process with one thread, which ends at a limit of time."""
    threads = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    order = json.dumps(asdict(run) | {"quick": quick})
    try:
        done = subprocess.run(
            [sys.executable, __file__, "--one", order],
            capture_output=True,
            text=True,
            check=False,
            env=os.environ | threads,
            timeout=limit,
        )
    except subprocess.TimeoutExpired:
        return {"left_out": f"not finished after {limit:.0f} s"}
    if done.returncode:
        raise RuntimeError(f"{run}: {done.stderr[-3000:]}")
    figures: Figures = json.loads(done.stdout.splitlines()[-1])
    return figures


# Tables ------------------------------------------------------------------------

# The tables of means over seeds: title, and the figure of a run.
MEANS = {
    "RMSE": "rmse",
    "Bias": "bias",
    "Share within the 90 % interval": "covered",
    "CPU seconds of training": "seconds",
}


def report(cells: dict[str, Cell], results: dict[Run, Figures], markdown: bool) -> None:
    """Print tables of means over seeds, a row a cell, and errors relative to the best.

    Runs without a result are named below, with the reason.
    """
    rows = list(dict.fromkeys(run.row for run in results))
    found: Found = {
        (cell, row): [
            figures
            for run, figures in results.items()
            if (run.cell, run.row) == (cell, row) and "rmse" in figures
        ]
        for cell in cells
        for row in rows
    }
    for title, figure in MEANS.items():
        lines = [_means(cell, rows, found, figure) for cell in cells]
        show(f"{title}, means over seeds", lines, markdown=markdown)
    usual = [row for row in rows if row in BASELINES]
    relative = [_relative(name, rows, usual, found) for name in cells] if usual else []
    if relative:
        relative += _summary(relative, rows)
        show(
            "RMSE over that of the best usual choice of the cell",
            relative,
            markdown=markdown,
        )
    for run, figures in results.items():
        if "left_out" in figures:
            print(f"\n{run.cell}, {run.row}, seed {run.seed}: {figures['left_out']}")


def _mean(figures: Sequence[Figures], name: str) -> float | None:
    values = [each[name] for each in figures if each[name] is not None]
    return float(np.mean(values)) if values else None


def _means(cell: str, rows: Sequence[str], found: Found, figure: str) -> Row:
    line: Row = {
        "cell": cell.replace(" | ", ", "),
        "seeds": max(len(found[cell, row]) for row in rows),
    }
    for row in rows:
        value = _mean(found[cell, row], figure)
        if figure == "covered" and value is not None:
            line[row] = f"{100 * value:.0f} %"
        else:
            line[row] = value
    return line


def _relative(
    cell: str, rows: Sequence[str], usual: Sequence[str], found: Found
) -> Row:
    """Return mean errors over the least one of a usual choice.

    A row with fewer seeds is compared on the seeds that it has.
    """
    means = {row: _mean(found[cell, row], "rmse") for row in rows}
    best = min(usual, key=lambda row: means[row] or np.inf)
    line: Row = {
        "cell": cell.replace(" | ", ", "),
        "best usual choice": best,
        "its RMSE": means[best],
    }
    for row in rows:
        count = len(found[cell, row])
        others = [_mean(found[cell, each][:count], "rmse") for each in usual]
        least = min((each for each in others if each is not None), default=None)
        mine = means[row]
        line[row] = mine / least if mine is not None and least is not None else None
    return line


def _summary(lines: Sequence[Row], rows: Sequence[str]) -> list[Row]:
    found = []
    for name, of in (("median", np.median), ("maximum", np.max)):
        line: Row = {"cell": name, "best usual choice": None, "its RMSE": None}
        for row in rows:
            values = [each[row] for each in lines if each[row] is not None]
            line[row] = float(of(values)) if values else None
        found.append(line)
    return found


def say(what: str) -> None:
    print(what, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
