"""Simulations behind the documentation: coverage of intervals, and other error claims.

``python -m benchmarks.covered WHAT [--runs N] [--seed S] [--processes P] [--markdown]``

WHAT is errors-in-space, other-worlds, change (of docs/explanation/errors-in-space.md),
totals, small-areas (totals.md), intervals, landscapes, interval-outputs (intervals.md),
random-pixels or bootstrap (validation.md). All data are simulated, so the ground truth
is known. The results do not depend on the number of processes.
"""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Sequence
from types import ModuleType

from covered_runs import processes
from tables import show

# Each module has `tables`, and `RUNS`, the number of runs behind the page's figures.
PARTS = {
    "errors-in-space": "covered_space",
    "other-worlds": "covered_worlds",
    "change": "covered_change",
    "totals": "covered_plots",
    "small-areas": "covered_small_areas",
    "intervals": "covered_blocks",
    "landscapes": "covered_landscapes",
    "interval-outputs": "covered_outputs",
    "bootstrap": "covered_bootstrap",
    "random-pixels": "covered_pixels",
}


def part_of(what: str) -> ModuleType:
    """Import the module of a table only, so that other processes start faster."""
    return importlib.import_module(PARTS[what])


def main(arguments: Sequence[str] | None = None) -> None:
    """Simulate, and print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=PARTS)
    runs = "number of simulations; by default the page's"
    parser.add_argument("--runs", type=int, help=runs)
    parser.add_argument("--seed", type=int, default=0, help="seed of the first run")
    parser.add_argument(
        "--processes", type=int, default=2, help="single-threaded processes"
    )
    parser.add_argument("--markdown", action="store_true", help="print as markdown")
    chosen = parser.parse_args(arguments)
    part = part_of(chosen.what)
    runs = part.RUNS if chosen.runs is None else chosen.runs
    if runs < 1 or chosen.processes < 1:
        parser.error(
            "--runs and --processes must be 1 or more, "
            f"got {runs} and {chosen.processes}"
        )
    with processes(chosen.processes) as go:
        found = part.tables(go, runs, chosen.seed)
    for title, rows in found.items():
        show(title, rows, markdown=chosen.markdown)


if __name__ == "__main__":
    main()
