"""Seconds until a command answers or a function begins, over those of an import.

Each row runs in new processes, in turns with the references; a figure is the median of
the CPU seconds of user code. Help, ``info`` and errors are whole processes, divided by
``import geobiomass, xarray``. The row that imports zarr as well is the floor of what
opens a cube or a map in Zarr.
`gb.load` begins when it reads the model's folder, `gb.fit` when it builds the network,
after all checks of its arguments; both are divided by ``import torch``. Their rows with
a limit leave out the seconds of importing this package and opening a cube, which a
process spends before it calls them. The rows of the whole process include these seconds
and have no limit.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent

OURS = "import geobiomass, xarray"
READING = "import geobiomass, xarray, zarr"
TORCH = "import torch"
OPEN = """
import sys, xarray, geobiomass as gb
cube = gb.open_cube(sys.argv[1])
"""
# Work that begins raises this, which ends the process.
BEGINS = """
class Begins(Exception): pass
def begin(*_, **__): raise Begins
"""
LOAD = (
    OPEN
    + BEGINS
    + """
from geobiomass.training import estimator
estimator.read_config = begin
try: gb.load(sys.argv[2])
except Begins: pass
"""
)
FIT = (
    OPEN
    + BEGINS
    + """
from geobiomass.network import attention_unet
attention_unet.feature_encoder = begin
try: gb.fit(cube, "quick", epochs=1)
except Begins: pass
"""
)


@dataclass(frozen=True)
class Case:
    """One row: a process, and the code that it is compared with.

    Parameters
    ----------
    name
        Its name in the table.
    words
        Arguments of Python.
    code
        Expected exit code.
    reference
        Name of the row that it is divided by.
    without
        Name of a row whose seconds are subtracted first.
    most
        The largest ratio allowed; None is only printed.
    """

    name: str
    words: Sequence[str]
    code: int = 0
    reference: str = OURS
    without: str | None = None
    most: float | None = 1.5


@dataclass(frozen=True)
class Seconds:
    """CPU seconds of user code, and seconds on the clock."""

    user: float
    wall: float


def make_files(folder: Path) -> None:
    """Write a cube, one without labels and one without a band, a model and a map."""
    import torch

    import geobiomass as gb
    from geobiomass.network import AttentionUNet

    scene = gb.landscape((64, 64), months=3, seed=1, version=1)
    gb.write_cube(scene, folder / "cube.zarr")
    gb.write_cube(scene.drop_vars("agb"), folder / "unlabelled.zarr")
    gb.write_cube(scene.isel(band=[0]), folder / "one_band.zarr")
    torch.manual_seed(1)
    bands = [str(name) for name in scene["band"].values]
    network = AttentionUNet(len(bands), "test_resnet", (8, 8, 8, 8, 8))
    model = gb.BiomassRegressor(network, bands, 3)
    model.save(folder / "model")
    for name in ("map.zarr", "map.tif"):
        model.predict_to(folder / name, scene, tile=64, overlap=0)


def cases_of(folder: Path) -> list[Case]:
    """Return the rows of the table."""

    def command(name: str, *words: object, code: int = 2) -> Case:
        return Case(name, ("-m", "geobiomass", *map(str, words)), code)

    cube, model = folder / "cube.zarr", folder / "model"
    files = (str(cube), str(model))
    opened = f"{OURS}, and an open cube"
    return [
        Case(OURS, ("-c", OURS), most=None),
        Case(READING, ("-c", READING), most=None),
        Case(TORCH, ("-c", TORCH), most=None),
        Case(opened, ("-c", OPEN, *files), most=None),
        command("--version", "--version", code=0),
        command("--help", "--help", code=0),
        command("info of a cube", "info", cube, code=0),
        command("info of a map.zarr", "info", folder / "map.zarr", code=0),
        command("info of a map.tif", "info", folder / "map.tif", code=0),
        command("info of a model", "info", model, code=0),
        command("error: no such path", "info", folder / "none"),
        command("error: no such cube", "train", folder / "none", folder / "m"),
        command("error: option", "train", cube, folder / "m", "--set", "epoch=1"),
        command("error: no such model", "evaluate", folder / "none", cube),
        command("error: labels", "train", folder / "unlabelled.zarr", folder / "m"),
        command("error: band", "predict", model, folder / "one_band.zarr", "m.tif"),
        Case("gb.load", ("-c", LOAD, *files), 0, TORCH, opened, 1.4),
        Case("gb.fit", ("-c", FIT, *files), 0, TORCH, opened, 1.4),
        Case("gb.load, the whole process", ("-c", LOAD, *files), 0, TORCH, None, None),
        Case("gb.fit, the whole process", ("-c", FIT, *files), 0, TORCH, None, None),
    ]


def measure(case: Case) -> Seconds:
    """Run a case once."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    # As a user has it: modules are compiled once, also those of a working tree.
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, *case.words],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    wall = time.perf_counter() - start
    if done.returncode != case.code:
        raise RuntimeError(
            f"{case.name} must end with exit code {case.code}, got {done.returncode}:\n"
            f"{done.stderr}"
        )
    user = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before
    return Seconds(user, wall)


def ratios_of(
    cases: Sequence[Case],
    rounds: int,
    measured: Callable[[Case], Seconds] = measure,
) -> dict[str, tuple[float, float, float]]:
    """Return user seconds, and the ratios of user and wall seconds, by row."""
    runs: dict[str, list[Seconds]] = {case.name: [] for case in cases}
    for _ in range(rounds):
        for case in cases:
            runs[case.name].append(measured(case))
    user = {n: statistics.median(run.user for run in r) for n, r in runs.items()}
    wall = {n: statistics.median(run.wall for run in r) for n, r in runs.items()}

    def ratio(case: Case, seconds: dict[str, float]) -> float:
        before = 0.0 if case.without is None else seconds[case.without]
        return (seconds[case.name] - before) / seconds[case.reference]

    return {c.name: (user[c.name], ratio(c, user), ratio(c, wall)) for c in cases}


def main() -> None:
    """Print the table; exit with code 1 if a ratio is above its limit."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="Runs of each row.")
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_files(folder)
        cases = cases_of(folder)
        for case in cases:
            measure(case)  # compiles the modules
        found = ratios_of(cases, rounds)
    above = []
    print(f"{'':36} {'user s':>7} {'ratio':>6} {'wall':>6} {'limit':>6}")
    for case in cases:
        user, ratio, wall = found[case.name]
        limit = "" if case.most is None else f"{case.most:.1f}"
        print(f"{case.name:36} {user:7.2f} {ratio:6.2f} {wall:6.2f} {limit:>6}")
        if case.most is not None and max(ratio, wall) > case.most:
            above.append(case.name)
    if above:
        sys.exit(f"above their limit: {', '.join(above)}")


if __name__ == "__main__":
    main()
