"""Commands answer, and bad input is reported, before PyTorch is imported.

How long that takes is measured by ``python -m benchmarks.first_use``.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import xarray as xr
from conftest import make_scene
from test_stored import unpack

import geobiomass as gb
from benchmarks.first_use import BEGINS, FIT, LOAD, OURS, Case, Seconds, ratios_of
from geobiomass.network import AttentionUNet

ROOT = Path(__file__).parent.parent
HEAVY = ("torch", "lightning", "torchmetrics", "torchvision", "timm")

# Runs commands in one process, and prints after each its exit code, what it wrote, and
# which heavy packages are imported.
COMMANDS = """
import contextlib, io, json, sys
from geobiomass import cli as forest
from pasture import cli as pasture
for line in sys.stdin:
    words = json.loads(line)
    sys.argv, app = words, {"geobiomass": forest, "pasture": pasture}[words[0]]
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try: app.main()
        except SystemExit as stop: code = stop.code or 0
    heavy = [name for name in HEAVY if name in sys.modules]
    print(json.dumps([code, out.getvalue(), err.getvalue(), heavy]))
"""


def python(script: str, *arguments: object, given: str = "") -> str:
    done = subprocess.run(
        [sys.executable, "-c", f"HEAVY = {HEAVY!r}\n{script}", *map(str, arguments)],
        input=given,
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stored examples of each kind, and an unfinished validation."""
    folder = tmp_path_factory.mktemp("files")
    unpack(folder, "cubes", "maps", "model", "ensemble", "validation", "training")
    member = folder / "unfinished" / "checkpoints" / "member-1"
    shutil.copytree(folder / "training" / "one-stage", member)
    scene = make_scene(48, 48)
    gb.write_cube(scene, folder / "scene.zarr")
    gb.write_cube(scene.drop_vars("agb"), folder / "unlabelled.zarr")
    # The stored model's encoder is registered with timm by tests/stored/make.py only.
    network = AttentionUNet(3, "test_resnet", (8, 8, 8, 8, 8))
    model = gb.BiomassRegressor(network, ("VV_asc", "B04", "B08"), 3)
    model.save(folder / "untrained")
    return folder


def check_answers(said: dict[tuple[Any, ...], tuple[int, str]]) -> None:
    """Check exit code and text of commands, and that none imports PyTorch."""
    given = "".join(json.dumps([*map(str, words)]) + "\n" for words in said)
    answers = python(COMMANDS, given=given).splitlines()
    for (words, (code, text)), line in zip(said.items(), answers, strict=True):
        found, printed, errors, heavy = json.loads(line)
        assert (found, heavy) == (code, []), (words, printed, errors)
        assert text in (errors if code else printed), (words, printed, errors)
        assert errors.count("\n") == (code == 2), (words, errors)


def test_help_and_info_come_without_torch(files: Path) -> None:
    cube, model = files / "scene.zarr", files / "model" / "model"
    said: dict[tuple[Any, ...], tuple[int, str]] = {
        ("geobiomass", "--version"): (0, f"geobiomass {gb.__version__}\n"),
        ("pasture", "--version"): (0, f"pasture {gb.__version__}\n"),
        ("geobiomass", "--help"): (0, "--version"),
        ("pasture", "--help"): (0, "--version"),
        ("geobiomass", "info", cube): (0, "48 x 48 pixels"),
        ("geobiomass", "info", files / "maps" / "map.tif"): (0, "agb, Mg/ha"),
        ("geobiomass", "info", files / "maps" / "map.zarr"): (0, "finished"),
        ("geobiomass", "info", model): (0, "model, BiomassRegressor"),
        ("geobiomass", "info", files / "ensemble" / "model"): (0, "model, Ensemble"),
        ("geobiomass", "info", files / "validation" / "validation"): (0, "held out"),
        ("geobiomass", "info", files / "unfinished", "--json"): (0, "1 models begun"),
        ("geobiomass", "info", files / "none"): (2, "nothing at"),
    }
    check_answers(said)


def test_errors_come_without_torch(files: Path) -> None:
    cube, out, model = files / "scene.zarr", files / "out", files / "model" / "model"
    none = files / "none"
    said: dict[tuple[Any, ...], tuple[int, str]] = {
        ("geobiomass", "train", none, out): (2, "none"),
        ("geobiomass", "train", cube, out, "--recipe", "best"): (2, "recipe must be"),
        ("geobiomass", "train", cube, out, "--set", "epoch=1"): (2, "did you mean"),
        ("geobiomass", "train", cube, out, "--epochs", "0"): (2, "epochs of Training"),
        ("geobiomass", "train", cube, out, "--validation", none): (2, "none"),
        ("geobiomass", "train", files / "unlabelled.zarr", out): (2, "no 'agb'"),
        ("geobiomass", "predict", none, cube, "m.tif"): (2, "config.json is missing"),
        ("geobiomass", "predict", model, none, "m.tif"): (2, "none"),
        ("geobiomass", "predict", model, cube, "m.tif"): (2, "are needed"),
        ("geobiomass", "evaluate", model, files / "unlabelled.zarr"): (2, "no 'agb'"),
        ("geobiomass", "evaluate", model, cube, "--by", "hue"): (2, "--by must be one"),
        ("geobiomass", "evaluate", model, cube): (2, "are needed"),
        ("geobiomass", "calibrate", model, cube, "--interval", "2"): (2, "interval"),
        ("geobiomass", "plan", cube, "--recipe", "best"): (2, "recipe must be"),
        ("geobiomass", "export", none, "m.onnx"): (2, "config.json is missing"),
        ("geobiomass", "report", model, cube): (2, "are needed"),
        ("geobiomass", "validate", cube, "--folder", out, "--by", "x"): (
            2,
            "--by must",
        ),
        ("geobiomass", "validate", none, "--folder", out): (2, "none"),
    }
    check_answers(said)
    assert not out.exists()


def test_info_and_errors_of_a_cube_come_without_dask_and_rasterio(files: Path) -> None:
    cube, unlabelled = files / "scene.zarr", files / "unlabelled.zarr"
    model, out = files / "model" / "model", files / "out"
    commands = [
        ("geobiomass", "info", cube),
        ("geobiomass", "train", unlabelled, out),
        ("geobiomass", "evaluate", model, unlabelled),
        ("geobiomass", "predict", model, cube, "m.tif"),
    ]
    heavy = 'HEAVY = ("dask.array", "scipy", "rasterio", "rioxarray")'
    given = "".join(json.dumps([*map(str, words)]) + "\n" for words in commands)
    answers = python(f"{heavy}\n{COMMANDS}", given=given).splitlines()
    found = [json.loads(line) for line in answers]
    assert [code for code, *_ in found] == [0, 2, 2, 2]
    assert [names for *_, names in found] == [[]] * 4


@pytest.mark.slow  # a process that imports torch costs ten CPU seconds
def test_work_begins_after_torch_and_nothing_else(files: Path) -> None:
    model, cube = files / "untrained", files / "scene.zarr"
    script = f"""
print_heavy = lambda: print([name for name in HEAVY if name in sys.modules])
{LOAD}
print_heavy()
{FIT}
print_heavy()
"""
    assert python(script, cube, model).splitlines() == ["['torch']", "['torch']"]
    assert "raise Begins" in BEGINS


@pytest.mark.slow  # a process that imports torch costs ten CPU seconds
def test_prediction_imports_neither_lightning_nor_torchmetrics(files: Path) -> None:
    script = """
import sys, geobiomass as gb
model, scene = gb.load(sys.argv[1]), gb.open_cube(sys.argv[2])
model.predict(scene, tile=64, overlap=0).agb.load()
model.predict_to(sys.argv[3], scene, tile=64, overlap=0, progress=False)
print([name for name in ("lightning", "torchmetrics") if name in sys.modules])
"""
    target = files / "new.zarr"
    cube = files / "scene.zarr"
    assert python(script, files / "untrained", cube, target) == "[]\n"
    assert "agb" in xr.open_zarr(target)


def test_ratios_of_the_benchmark_subtract_and_divide_medians() -> None:
    case = Case("work", ("-c", "pass"), reference="import torch", without="open")
    plain = [Case(name, ()) for name in (OURS, "import torch", "open")]
    seconds = {OURS: [1.0], "import torch": [2.0, 2.0, 9.0], "open": [1.0, 2.0, 1.0]}
    seconds["work"] = [4.0, 0.0, 4.0]
    runs = {name: iter(values * 3) for name, values in seconds.items()}

    def measured(case: Case) -> Seconds:
        found = next(runs[case.name])
        return Seconds(found, 2 * found)

    found = ratios_of([*plain, case], 3, measured)
    assert found["work"] == (4.0, 1.5, 1.5)
    assert found["open"] == (1.0, 1.0, 1.0)


def test_a_wrong_setting_of_fit_comes_without_torch() -> None:
    said = python(
        "import sys, geobiomass as gb\n"
        "gb.load\n"
        "try: gb.fit(None, epoch=1)\n"
        "except ValueError as error: print(error)\n"
        "print([n for n in (*HEAVY, 'xarray') if n in sys.modules])"
    )
    error, imported = said.splitlines()
    assert "epoch" in error
    assert imported == "[]"
