"""The time of a whole call with few labels: a random forest, and ours.

``python -m benchmarks.label_times [--cells WORDS] [--seeds 0,1,2] [--maps]``

Both begin with an opened Zarr cube on disk and have one thread. The forest reads image
and labels, takes months, bands and yearly statistics of the labelled pixels, and has an
interval of 90 % from out-of-bag errors (``fit``); then it predicts the tested pixels
(``predict``). Ours is ``gb.fit(cube, interval=0.9)`` with all that it does, and with
``pixels`` the call with the recipe; with ``--maps`` the map of the cube is timed too,
which is of all of its pixels. Seconds are of CPU, of the second call in a process of
its own: the first one imports.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

import geobiomass as gb
from geobiomass.data.splits import NARROWEST_BLOCK
from label_cases import absent, labelled_pixels, make_case, make_cells
from label_learners import OURS, Floats, _fitted, features, forest
from labels import cells_named, say
from tables import Row, show

CELLS = (
    "landscape | points, random | 30",
    "landscape | points, random | 100",
    "landscape | points, random | 300",
    "landscape | footprints, clustered | 300",
    "nicaragua | footprints, random | 100",
    "nicaragua | footprints, random | 300",
    "fuel moisture | points, random | 300",
    "texas | footprints, random | 160",
    "worldcereal | points, random | 300",
)
MOST = 3  # times the forest: what is promised below 1,000 labels
SIDES = ("forest", "pixels", "fit")
Times = dict[str, float]


def main(arguments: Sequence[str] | None = None) -> None:
    """Time both sides in each cell; print seconds and ratios."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cells", nargs="+", default=CELLS, help="words of names")
    parser.add_argument("--seeds", default="0", help="numbers with commas")
    parser.add_argument(
        "--maps", action="store_true", help="also map the cube: minutes"
    )
    parser.add_argument("--markdown", action="store_true", help="print as markdown")
    parser.add_argument(
        "--quick", action="store_true", help="tiny landscapes, to test that it runs"
    )
    parser.add_argument("--one", help=argparse.SUPPRESS)
    chosen = parser.parse_args(arguments)
    if chosen.one:
        print(json.dumps(_timed(**json.loads(chosen.one))))
        return
    lines = []
    for name, cell in cells_named(chosen.cells, make_cells()).items():
        if (reason := absent(cell)) is not None:
            say(f"{name}: left out. {reason}")
            continue
        found = [
            _times(name, int(seed), chosen.quick, chosen.maps)
            for seed in chosen.seeds.split(",")
        ]
        lines.append(row_of(name, found))
        say(f"{name}: {lines[-1]}")
    show("CPU seconds of a whole call", lines, markdown=chosen.markdown)
    worst = max(line["fit over forest"] for line in lines)
    verdict = "is" if worst <= MOST else "is not"
    print(f"\ngb.fit(cube) {verdict} at most {MOST} times the forest: {worst:.3g}")


def row_of(name: str, found: Sequence[dict[str, Times]]) -> Row:
    """Return the line of a cell: medians over seeds, and ratios of these."""
    middle = {
        (side, part): float(np.median([each[side][part] for each in found]))
        for side in SIDES
        for part in ("fit", "predict")
    }
    line: Row = {"cell": name.replace(" | ", ", "), "seeds": len(found)}
    for side in SIDES:
        line[f"{'gb.fit' if side == 'fit' else side}, s"] = middle[side, "fit"]
    base = middle["forest", "fit"]
    line["pixels over forest"] = middle["pixels", "fit"] / base
    line["fit over forest"] = middle["fit", "fit"] / base
    line["forest predicts, s"] = middle["forest", "predict"]
    if middle["fit", "predict"]:
        line["our map, s"] = middle["fit", "predict"]
    return line


def _times(name: str, seed: int, quick: bool, maps: bool) -> dict[str, Times]:
    """Write the cube of a case, and time each side in a process of its own."""
    case = make_case(make_cells()[name], seed, quick)
    threads = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    found = {}
    with tempfile.TemporaryDirectory(prefix="label-times-") as folder:
        path, tests = Path(folder) / "cube.zarr", Path(folder) / "test.zarr"
        # The step to store with is known of bands of Sentinel-1 and -2 only.
        dtype = "int16" if name.startswith("landscape") else "float32"
        gb.write_cube(case.training, path, dtype=dtype)
        gb.write_cube(case.test, tests, dtype=dtype)
        order: dict[str, Any] = {"path": str(path), "tests": str(tests), "seed": seed}
        order |= {"block": max(NARROWEST_BLOCK, case.block), "groups": case.groups}
        order["maps"] = maps
        for side in SIDES:
            done = subprocess.run(
                [sys.executable, __file__, "--one", json.dumps(order | {"side": side})],
                capture_output=True,
                text=True,
                check=False,
                env=os.environ | threads,
            )
            if done.returncode:
                raise RuntimeError(f"{name}, {side}: {done.stderr[-3000:]}")
            found[side] = json.loads(done.stdout.splitlines()[-1])
    return found


def _timed(
    side: str,
    path: str,
    tests: str,
    seed: int,
    block: int,
    groups: str | None,
    maps: bool,
) -> Times:
    """Return the CPU seconds of the second of two calls of a side."""
    import torch

    torch.set_num_threads(1)
    run = _forest if side == "forest" else _ours
    more: dict[str, Any] = {}
    if side != "forest":
        more = {"recipe": OURS[side], "block": block, "maps": maps and side == "fit"}
    if groups is not None and side != "forest":
        more["groups"] = groups
    for _ in range(2):
        cube, tested = gb.open_cube(path), gb.open_cube(tests)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what users are warned of is in the tests
            found = run(cube, tested, seed, **more)
    return found


def _forest(cube: xr.Dataset, tested: xr.Dataset, seed: int) -> Times:
    """Time the forest; what reads and predicts the tests is not in ``fit``."""
    begin = time.process_time()
    observed, image = labelled_pixels(cube)
    seen = features(image)
    known = np.isfinite(seen).any(axis=0)
    observed = observed.astype(float)
    forest(seen[:, known], observed, seen[:1, known], seed)
    fitted = time.process_time()
    _, image = labelled_pixels(tested)
    asked: Floats = features(image)[:, known]
    whole = _seconds(lambda: forest(seen[:, known], observed, asked, seed))
    alone = _seconds(lambda: forest(seen[:, known], observed, asked[:1], seed))
    read = time.process_time() - fitted - whole - alone
    return {"fit": fitted - begin, "predict": read + max(0.0, whole - alone)}


def _ours(
    cube: xr.Dataset,
    tested: xr.Dataset,
    seed: int,
    recipe: str | None,
    maps: bool,
    **settings: Any,
) -> Times:
    """Time ``gb.fit`` with its interval, and the map of the tested cube."""
    begin = time.process_time()
    model, _ = _fitted(cube, recipe, {"seed": seed, "progress": False} | settings)
    fitted = time.process_time()
    if maps:
        model.predict(tested, check="off").compute()
    mapped = time.process_time() - fitted if maps else 0.0
    return {"fit": fitted - begin, "predict": mapped}


def _seconds(call: Callable[[], object]) -> float:
    begin = time.process_time()
    call()
    return time.process_time() - begin


if __name__ == "__main__":
    main()
