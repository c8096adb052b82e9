"""Footprints that are off by about a pixel: with and without ``label_shift=1``.

``python -m benchmarks.label_shift [--quick] [--rows WORDS] [--cells WORDS]``

Trains ``"pixels"`` and the network ``"sparse"`` on landscapes of unseen seeds, with
labels as GEDI's: means of a disc of 25 m, off by 10 m, with an error of 20 %. At random
each is off by itself; along tracks those of a track are off together. Maps are compared
with the truth of pixels without labels in training. Finished runs are kept: the same
command continues, and rows, cells and seeds can be added.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from few_labels import _landscape, carry_out, judge
from label_cases import BY_TRACK, Cell, make_case
from label_learners import Figures
from labels import TINY, Run, _kept, cells_named
from tables import Row, show

OUT = Path("build/label_shift.jsonl")
SEEDS = "0,1,2"
CELLS = {
    cell.name: cell
    for count in (300, 1_000)
    for cell in (
        Cell("landscape", "footprints", "random", count),
        Cell("landscape", BY_TRACK, "clustered", count),
    )
}
RECIPES = ("pixels", "sparse")
ROWS = {f"{recipe}, shift {n}": (recipe, n) for recipe in RECIPES for n in (0, 1)}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what has no result yet; print the tables."""
    parser = _parser()
    chosen = parser.parse_args(arguments)
    cells = cells_named(chosen.cells or [""], CELLS)
    if not cells:
        parser.error(
            f"--cells must be words of a name, such as 'random | 300', got "
            f"{chosen.cells}; names are {list(CELLS)}."
        )
    rows = [row for row in ROWS if row in (chosen.rows or ROWS)]
    seeds = chosen.seeds or ("0" if chosen.quick else SEEDS)
    runs = [
        Run(name, row, int(seed))
        for seed in seeds.split(",")  # so that each landscape is made once
        for name in cells
        for row in rows
    ]
    with tempfile.TemporaryDirectory(prefix="label-shift-") as folder:
        out = chosen.out or (Path(folder) / "shift.jsonl" if chosen.quick else OUT)
        if not chosen.show:
            carry_out(runs, out, lambda run: _figures(run, chosen.quick))
        _report(dict(_kept(out)), list(cells), rows, chosen.markdown)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--quick", action="store_true", help="tiny landscapes, one epoch, to test it")
    add("--markdown", action="store_true", help="print as markdown")
    add("--cells", nargs="+", help=f"words of names; by default all of {list(CELLS)}")
    add("--rows", nargs="+", choices=list(ROWS), help="by default all")
    add("--seeds", help=f"numbers with commas; by default {SEEDS}")
    add("--out", type=Path, help=f"file of the results, by default {OUT}")
    add("--show", action="store_true", help="run nothing; print what the file has")
    return parser


def _figures(run: Run, quick: bool) -> Figures:
    case = make_case(CELLS[run.cell], run.seed, scene=_landscape(run.seed, quick))
    recipe, shift = ROWS[run.row]
    settings: dict[str, Any] = {"seed": run.seed, "label_shift": shift}
    if quick and recipe == "pixels":
        settings |= {"trees": 10, "neighbourhoods": (3,)}
    elif quick:
        settings |= TINY
    return judge(case, recipe, settings)


# Tables ------------------------------------------------------------------------


def _report(
    results: dict[Run, Figures],
    cells: Sequence[str],
    rows: Sequence[str],
    markdown: bool,
) -> None:
    """Print a table, a row a cell and recipe: errors, and their ratios seed by seed."""
    recipes = [name for name in RECIPES if any(name in row for row in rows)]
    lines = [
        line
        for recipe in recipes
        for cell in cells
        if (line := _line(results, cell, recipe))
    ]
    if lines:
        show("RMSE against the true pixels", lines, markdown=markdown)


def _line(results: dict[Run, Figures], cell: str, recipe: str) -> Row | None:
    plain, shifted = (
        {
            run.seed: found
            for run, found in results.items()
            if (run.cell, run.row) == (cell, f"{recipe}, shift {shift}")
        }
        for shift in (0, 1)
    )
    seeds = sorted(plain.keys() & shifted.keys())
    if not seeds:
        return None
    over = [shifted[seed]["rmse"] / plain[seed]["rmse"] for seed in seeds]
    line: Row = {
        "recipe": recipe,
        "labels": cell.removeprefix("landscape | ").replace(" | ", ", "),
        "seeds": len(seeds),
    }
    for name, title in (("rmse", "RMSE"), ("bias", "bias"), ("seconds", "CPU s")):
        for shift, found in enumerate((plain, shifted)):
            line[f"{title}, shift {shift}"] = float(
                np.mean([found[seed][name] for seed in seeds])
            )
    line["1 over 0"] = float(np.mean(over))
    return line | {"least, most": f"{min(over):.2f}, {max(over):.2f}"}


if __name__ == "__main__":
    main()
