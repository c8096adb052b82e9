"""Comparison of data loaders that read chips from disk, in one run.

``python benchmarks/feed.py [--chips 24] [--quick] [--markdown] [--folder DIR]``

Prints samples/s, MB/s, peak memory and ratios for whole chips and for random crops of
128. Then prints the time of training steps from the loader, relative to batches in
memory.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from contend import (
    CODEC,
    CONTENDERS,
    DECODED,
    FLOOR,
    OURS,
    OVERLAP_BATCH,
    OVERLAP_CROPS,
    Order,
    memory_of,
    stored_layout,
)
from material import SIDE, Material, describe, prepare
from peers import MONTHS, OPTICAL, RADAR, Task
from tables import THREADS, Row, show

CROP, BATCH = 128, 4
MEGABYTE = 1e6
NOT_PEERS = (CODEC, FLOOR, OURS, DECODED)
PACKAGES = {"xarray, zarrs": "zarrs", "xbatcher": "xbatcher", "torchgeo": "torchgeo"}
Figures = dict[str, dict[str, Any]]


def contend(order: Order) -> dict[str, Any]:
    """Run one contender in its own process, and add its peak memory in bytes.

    Raises
    ------
    RuntimeError
        If the contender fails; the message has its output.
    """
    command = [sys.executable, str(Path(__file__).with_name("contend.py"))]
    process = subprocess.Popen(
        [*command, json.dumps(dataclasses.asdict(order))],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "RAYON_NUM_THREADS": str(THREADS)},
    )
    assert process.stdout
    peak: list[int] = []
    figures: dict[str, Any] = {}
    watcher = threading.Thread(target=_watch, args=(process, peak))
    errors: list[str] = []
    listener = threading.Thread(target=lambda: errors.append(process.stderr.read()))  # type: ignore[union-attr]
    listener.start()
    for line in process.stdout:
        if line.strip() == "watch":
            watcher.start()
        elif line.startswith("{"):
            figures = json.loads(line)
    listener.join()
    if process.wait() or not figures:
        raise RuntimeError(f"{order.name} failed:\n{errors[0]}")
    if watcher.is_alive() or peak:
        watcher.join()
        figures["peak"] = max(peak, default=0) - figures["begin"]
    return figures


def _watch(process: subprocess.Popen[str], seen: list[int]) -> None:
    """Measure the memory of a process and its children until it ends."""
    import psutil

    while process.poll() is None:
        try:
            tree = psutil.Process(process.pid)
            ids = [tree.pid, *(child.pid for child in tree.children(recursive=True))]
            seen.append(sum(memory_of(one) for one in ids))
        except (psutil.Error, OSError, ProcessLookupError):
            continue  # the process ended during the measurement
        time.sleep(0.01)


def missing_packages() -> dict[str, str]:
    """Return the contenders whose package is not installed."""
    return {name: pack for name, pack in PACKAGES.items() if not find_spec(pack)}


def race(order: Order) -> Figures:
    """Measure every contender on one task."""
    found: Figures = {}
    absent = missing_packages()
    others = [name for name in CONTENDERS if name not in NOT_PEERS]
    for name in [CODEC, FLOOR, OURS, DECODED, *others]:
        if name in absent:
            continue
        print(f"{name}, {order.crop or SIDE} ...", file=sys.stderr, flush=True)
        found[name] = contend(dataclasses.replace(order, name=name))
    return found


def best_peer(found: Figures) -> float:
    """Return the samples per second of the fastest peer."""
    return max(
        (figures["best"] for name, figures in found.items() if name not in NOT_PEERS),
        default=float("nan"),
    )


def table(found: Figures, side: int) -> list[Row]:
    """Return rows; the bytes of a sample are those of its int16 codes, for all."""
    sample = 2 * MONTHS * (RADAR + OPTICAL) * side**2 / MEGABYTE
    rows = []
    for name, figures in found.items():
        rows.append(
            {
                "feed": name,
                "samples/s": figures["best"],
                "median": figures["median"],
                "MB/s": figures["best"] * sample,
                "gives": None if name == CODEC else figures["dtype"],
                "peak MB": None if name == CODEC else figures["peak"] / MEGABYTE,
                "x codec": figures["best"] / found[CODEC]["best"],
                "x best peer": figures["best"] / best_peer(found),
            }
        )
    return rows


def crops_touch(material: Material, samples: int, chips: int) -> tuple[float, float]:
    """Return pixels read over pixels needed by random crops: mean and maximum."""
    layout = stored_layout(material.cube)
    drawn = Task(material, chips, samples, BATCH, CROP).draw(0)
    ratios = [layout.touched(top, left, CROP) for _, top, left in drawn]
    corners = range(SIDE - CROP + 1)
    most = max(layout.touched(t, c, CROP) for t in corners for c in corners)
    return float(np.mean(ratios)), most


def targets(
    whole: Figures,
    crops: Figures,
    touched: tuple[float, float],
    bound: int,
    steps: Figures,
) -> list[Row]:
    """Return rows that compare measurements with their targets."""

    def row(what: str, value: float, limit: float, least: bool) -> Row:
        met = value >= limit if least else value <= limit
        sign = ">=" if least else "<="
        return {
            "target": what,
            "measured": value,
            "limit": f"{sign} {limit:g}",
            "met": "yes" if met else "no",
        }

    peak = max(f[name]["peak"] for f in (whole, crops) for name in (OURS, DECODED))
    peak /= MEGABYTE
    return [
        row(
            "whole chips over the codec alone",
            whole[OURS]["best"] / whole[CODEC]["best"],
            0.8,
            True,
        ),
        row("pixels touched by a crop over needed, mean", touched[0], 2, False),
        row("the same, most", touched[1], 2, False),
        row(
            "whole chips, as stored, over the best peer",
            whole[OURS]["best"] / best_peer(whole),
            3,
            True,
        ),
        row(
            "crops, as stored, over the best peer",
            crops[OURS]["best"] / best_peer(crops),
            3,
            True,
        ),
        row(
            "whole chips, decoded, over the best peer",
            whole[DECODED]["best"] / best_peer(whole),
            3,
            True,
        ),
        row(
            "crops, decoded, over the best peer",
            crops[DECODED]["best"] / best_peer(crops),
            3,
            True,
        ),
        row("peak memory, MB", peak, bound / MEGABYTE, False),
        *(
            row(f"fed step over step in memory, {name}", step["ratio"], 1.05, False)
            for name, step in steps.items()
        ),
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--chips", type=int, default=24, help="chips on disk")
    parser.add_argument(
        "--quick", action="store_true", help="one batch, to test that it runs"
    )
    parser.add_argument("--markdown", action="store_true", help="print as markdown")
    parser.add_argument(
        "--folder", type=Path, help="folder of the data, kept and reused"
    )
    parser.add_argument(
        "--memory",
        type=int,
        default=1074,
        help="limit of our data loader, MB (10^6 bytes)",
    )
    chosen = parser.parse_args(arguments)
    print(describe())
    for name, package in missing_packages().items():
        print(f"{package} is not installed: no row {name!r}.")
    with tempfile.TemporaryDirectory(prefix="feed-") as temporary:
        folder = chosen.folder or Path(temporary)
        chips = min(chosen.chips, 2) if chosen.quick else chosen.chips
        compare(prepare(folder, chips), chips, chosen)


def compare(material: Material, chips: int, chosen: argparse.Namespace) -> None:
    """Run everything on the prepared chips, and print it."""
    bound = int(chosen.memory * MEGABYTE)
    order = Order(
        name="",
        folder=str(material.folder),
        chips=chips,
        samples=BATCH if chosen.quick else 2 * chips,
        batch_size=BATCH,
        crop=None,
        epochs=1 if chosen.quick else 3,
        seconds=0.0 if chosen.quick else 4.0,
        memory=bound,
        quick=chosen.quick,
    )
    whole = race(order)
    crops = race(dataclasses.replace(order, crop=CROP))
    steps = {}
    for recipe, crop in OVERLAP_CROPS.items():
        print(f"{recipe}, fed and in memory ...", file=sys.stderr, flush=True)
        count = {"default": 8, "quick": 24}[recipe]
        steps[recipe] = contend(
            dataclasses.replace(
                order,
                name="overlap",
                recipe=recipe,
                samples=(1 if chosen.quick else count) * OVERLAP_BATCH,
                batch_size=OVERLAP_BATCH,
                crop=crop,
                epochs=1 if chosen.quick else 6,
            )
        )
    touched = crops_touch(material, 1000, chips)
    print(f"Store: chunks of {stored_layout(material.cube)}")
    markdown = chosen.markdown
    show("Whole chips, 256 x 256", table(whole, SIDE), markdown=markdown)
    show(f"Random crops of {CROP}", table(crops, CROP), markdown=markdown)
    overlap = [
        {
            "network of recipe": recipe,
            "crop": OVERLAP_CROPS[recipe],
            "fed, ms a step": 1000 * step["fed"],
            "in memory, ms": 1000 * step["memory"],
            "fed / in memory": step["ratio"],
            "least": step["least"],
            "most": step["most"],
            "steps a round": step["steps"],
        }
        for recipe, step in steps.items()
    ]
    show("Overlap with the network", overlap, markdown=markdown)
    if chosen.quick:
        print("--quick: one cold batch each shows that it runs, not its speed.")
        return
    rows = targets(whole, crops, touched, bound, steps)
    show("Targets", rows, markdown=markdown)


if __name__ == "__main__":
    main()
