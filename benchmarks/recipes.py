"""Comparison of recipes: the winner's, ours, each switch between, other methods.

``python -m benchmarks.recipes [--size small|full] [--landscape 1|2] [--markdown]
[--rows ours winner]``

Trains every row on the same chips for the same number of steps, with several seeds.
Prints errors, bias by biomass, time per step and memory. Finished runs are kept: the
same command resumes, and rows and seeds can be added.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from recipe_data import DATA, PARTS, fill_chips, write_chips
from recipe_rows import OURS, SIZES, Row, Size, make_rows
from recipe_runs import Figures, Order, run
from tables import Row as Line
from tables import show

Results = dict[str, Figures]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the requested rows without results; print all of them."""
    parser = _parser()
    chosen = parser.parse_args(arguments)
    if chosen.one:
        print(json.dumps(run(Order(**json.loads(chosen.one)))))
        return
    size = SIZES["quick" if chosen.quick else chosen.size]
    chips = dataclasses.replace(size.chips, landscape=chosen.landscape)
    size = dataclasses.replace(size, chips=chips)
    steps = chosen.steps or size.steps
    rows = make_rows(size, steps)
    unknown = sorted(set(chosen.rows or []) - set(rows))
    if unknown:
        parser.error(f"--rows must be among {sorted(rows)}, got {unknown}.")
    picked = [rows[name] for name in rows if name in (chosen.rows or rows)]
    _say_what_is_missing()
    with tempfile.TemporaryDirectory(prefix="recipes-") as temporary:
        # Chips of version 1 stay where older results are.
        version = "" if chosen.landscape == 1 else f"-landscape-{chosen.landscape}"
        kept = Path(f"build/recipes-{size.name}{version}")
        kept = Path(temporary) if chosen.quick else kept
        folder = (chosen.folder or kept).resolve()
        _compare(chosen, size, steps, picked, folder)


def _compare(
    chosen: argparse.Namespace, size: Size, steps: int, picked: list[Row], folder: Path
) -> None:
    """Run the chosen rows, and print them."""
    seeds = [int(seed) for seed in (chosen.seeds or _seeds(size)).split(",")]
    orders = [
        Order(size.name, row.name, data, seed, steps, str(folder))
        for seed in seeds
        for data in chosen.data
        for row in picked
    ]
    results = carry_out(orders, picked, size, chosen.out or folder, chosen.jobs)
    for data in chosen.data:
        mine = {
            row.name: [
                results[order.key]
                for order in orders
                if (order.row, order.data) == (row.name, data)
            ]
            for row in picked
        }
        report(data, picked, mine, chosen.part, chosen.markdown)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", choices=("small", "full"), default="small")
    parser.add_argument(
        "--quick", action="store_true", help="tiny runs, to test that it works"
    )
    parser.add_argument("--rows", nargs="+", help="names of rows; by default all")
    parser.add_argument("--data", nargs="+", choices=tuple(DATA), default=["shift"])
    parser.add_argument(
        "--landscape",
        type=int,
        choices=(1, 2),
        default=2,
        help="version of the synthetic landscape; 1 is that of older tables",
    )
    parser.add_argument("--seeds", help="numbers with commas; by default 0,1,2")
    parser.add_argument("--steps", type=int, help="steps of the optimiser")
    parser.add_argument("--jobs", type=int, default=2, help="runs at the same time")
    parser.add_argument(
        "--part", choices=PARTS, default="test", help="part of the chips to report"
    )
    parser.add_argument("--folder", type=Path, help="folder of chips and results")
    parser.add_argument("--out", type=Path, help="JSON file of the results")
    parser.add_argument("--markdown", action="store_true", help="print as markdown")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    return parser


def _seeds(size: Size) -> str:
    return "0" if size.name == "quick" else "0,1,2"


def _say_what_is_missing() -> None:
    """Print the package whose row is left out."""
    if not find_spec("torchgeo"):
        _say("torchgeo is not installed: no row 'torchgeo ConvLSTM'.")


def carry_out(
    orders: Sequence[Order], rows: Sequence[Row], size: Size, out: Path, jobs: int
) -> Results:
    """Run the orders without a result; store each result immediately.

    Raises
    ------
    RuntimeError
        If runs failed; all others have finished and are stored.
    """
    path = out if out.suffix == ".json" else out / "results.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    results: Results = json.loads(path.read_text()) if path.exists() else {}
    by_name = {row.name: row for row in rows}
    definitions = {o.key: _definition(by_name[o.row], size) for o in orders}
    todo = [
        order
        for order in orders
        if results.get(order.key, {}).get("definition") != definitions[order.key]
    ]
    if todo:
        _prepare(todo, by_name, size)
    failed = []
    with ThreadPoolExecutor(jobs) as pool:
        futures = {pool.submit(_in_process, order): order for order in todo}
        for number, future in enumerate(as_completed(futures), 1):
            order = futures[future]
            if (error := future.exception()) is not None:
                failed.append(f"{order.key}: {error}")
                continue
            figures = future.result()
            results[order.key] = figures | {"definition": definitions[order.key]}
            _keep(results, path)
            error_ = figures["test"]["average_rmse"]
            _say(f"{number} of {len(todo)}: {order.key}: {error_:.2f}")
    if failed:
        raise RuntimeError("\n".join(failed))
    return results


def _definition(row: Row, size: Size) -> str:
    return f"{size.chips.fingerprint} {row.definition}"


def _prepare(todo: Sequence[Order], rows: dict[str, Row], size: Size) -> None:
    folder = Path(todo[0].folder)
    _say(f"{len(todo)} runs; chips in {folder} ...")
    write_chips(folder, size.chips)
    if any(rows[order.row].filled for order in todo):
        for part in (*PARTS, *{order.data for order in todo}):
            fill_chips(folder, part)


def _in_process(order: Order) -> Figures:
    """Run one order in its own process, on one thread."""
    began = time.monotonic()
    threads = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, __file__, "--one", order.text()],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | threads,
    )
    if done.returncode:
        raise RuntimeError(done.stderr[-3000:])
    figures: Figures = json.loads(done.stdout.splitlines()[-1])
    return figures | {"minutes": (time.monotonic() - began) / 60}


def _keep(results: Results, path: Path) -> None:
    half = path.with_suffix(".half")
    half.write_text(json.dumps(results, indent=1))
    half.replace(path)


def report(
    data: str,
    rows: Sequence[Row],
    results: dict[str, list[Figures]],
    part: str,
    markdown: bool,
) -> None:
    """Print errors, costs and biases of one kind of training chips."""
    title = f"Recipes, {part} chips; {DATA[data]}"
    ours = results.get(OURS)
    lines = [_line(row, results[row.name], part, ours) for row in rows]
    show(title, lines, markdown=markdown)
    biases = [_biases(row, results[row.name], part) for row in rows]
    show(f"Bias by observed biomass, Mg/ha, {part} chips", biases, markdown=markdown)


def _line(
    row: Row, figures: list[Figures], part: str, ours: list[Figures] | None
) -> Line:
    return {
        "row": row.name + (f" ({row.last})" if row.last else ""),
        "against": row.neighbour,
        "average RMSE": _spread([f[part]["average_rmse"] for f in figures]),
        "minus ours": _minus(figures, ours, part),
        "pixel RMSE": _spread([f[part]["pixel_rmse"] for f in figures]),
        "core-s a step": _mean(figures, "core_s_a_step"),
        "wall s a step": _mean(figures, "wall_s_a_step"),
        "core-s in all": _mean(figures, "core_s"),
        "peak MB": _mean(figures, "peak_mb"),
        "million parameters": _mean(figures, "parameters", 1e-6),
        "seeds": len(figures),
    }


def _biases(row: Row, figures: list[Figures], part: str) -> Line:
    names = figures[0][part]["bias"]
    means = {
        name: f"{np.mean([f[part]['bias'][name] for f in figures]):.1f}"
        for name in names
    }
    # Results of earlier versions have no such figure.
    tall = [f[part].get("bias_of_tall", np.nan) for f in figures]
    return {"row": row.name} | means | {"300 and more": _spread(tall)}


def _spread(values: Sequence[float]) -> str:
    """Return a mean as text, with the standard deviation of several values."""
    mean = f"{np.mean(values):.2f}"
    return mean if len(values) == 1 else f"{mean} ± {np.std(values, ddof=1):.2f}"


def _minus(figures: list[Figures], ours: list[Figures] | None, part: str) -> str | None:
    """Return the difference to ours by seed as text: mean and spread."""
    if ours is None or ours is figures:
        return None
    pairs = zip(figures, ours, strict=True)
    return _spread(
        [a[part]["average_rmse"] - b[part]["average_rmse"] for a, b in pairs]
    )


def _mean(figures: Sequence[Figures], name: str, times: float = 1.0) -> Any:
    """Return the mean of a figure; None if a method does not have it."""
    if name not in figures[0]:
        return None
    return float(np.mean([f[name] for f in figures])) * times


def _say(what: str) -> None:
    print(what, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
