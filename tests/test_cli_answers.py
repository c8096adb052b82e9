"""The command line for machines: JSON, exit codes, completion."""

from __future__ import annotations

import gc
import json
import os
import socket
import subprocess
import sys
import threading
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import make_scene
from new_process import NewProcesses
from typer.main import get_command
from variants import variants

import geobiomass as gb
from geobiomass import cli
from geobiomass.network import AttentionUNet
from geobiomass.training.commands import EXIT_CODES
from pasture import cli as pasture_cli

ROOT = Path(__file__).parent.parent
SMALL = ("--recipe", "quick", "--epochs", "2", "--set", "crop=32")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    network = AttentionUNet(3, "test_resnet", (16, 12, 8, 8, 8))
    gb.BiomassRegressor(network, ("VV_asc", "B04", "B08"), 3).save(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def store(tmp_path: Path) -> Path:
    gb.write_cube(make_scene(64, 48), tmp_path / "scene.zarr")
    return tmp_path / "scene.zarr"


@pytest.mark.slow
def test_training_answers_with_nothing_but_json(
    store: Path, tmp_path: Path, new_process: NewProcesses
) -> None:
    def answer(*words: object) -> tuple[dict[str, Any], str]:
        """Run the real program in a process of its own."""
        program = ("-m", "geobiomass", *map(str, words), "--json")
        process = new_process.start(*program)
        out, errors = process.communicate(timeout=200)
        assert process.returncode == 0, errors
        return json.loads(out), errors

    facts, errors = answer("train", store, tmp_path / "model", *SMALL)
    assert [row["epoch"] for row in facts["models"][0]["epochs"]] == [1, 2]
    assert "stage" in errors  # the plan is for people
    facts, _ = answer("evaluate", tmp_path / "model", store)
    first = facts["metrics"][0]
    assert (first["biomass"], first["pixels"]) == ("all", 64 * 48)


@pytest.mark.slow
def test_every_question_is_answered_in_json(run, model: Path, store: Path) -> None:
    code, out, err = run(
        "plan", store, "--model", model, "--tile", 32, "--overlap", 0, "--json"
    )
    assert code == 0, err
    plan = json.loads(out)
    assert (plan["height"], plan["width"], plan["tile"]) == (64, 48, 32)
    assert plan["hours"] > 0
    code, out, err = run("evaluate", model, store, "--json")
    assert code == 0, err
    expected = gb.load(model).evaluate(gb.open_cube(store))
    rows = json.loads(out)["metrics"]
    assert [row["biomass"] for row in rows] == list(expected.index)
    # JSON has no word for NaN: R2 within a bin.
    assert [row["r2"] for row in rows[1:]] == [None] * (len(rows) - 1)
    found = [row["pixel_rmse"] for row in rows]
    np.testing.assert_allclose(np.array(found, float), expected["pixel_rmse"])
    for path, what in ((store, "scene"), (model, "model")):
        code, out, err = run("info", path, "--json")
        assert code == 0, err
        facts = json.loads(out)
        assert facts["what"].startswith(what)
    target = store.parent / "map.zarr"
    code, out, err = run("predict", model, store, target, "--json")
    assert code == 0, err
    assert json.loads(out) == {"map": str(target), "outputs": ["agb"]}


def test_exit_codes_are_those_of_the_help(
    run, model: Path, store: Path, tmp_path: Path
) -> None:
    code, out, _ = run("--help")
    assert code == 0
    assert EXIT_CODES.split(";")[0] in " ".join(out.split())
    assert run("info", tmp_path / "nothing.zarr")[0] == 2
    assert run("predict", model)[0] == 2
    shard = next(path for path in (store / "image" / "c").rglob("*") if path.is_file())
    shard.write_bytes(b"\0" * shard.stat().st_size)
    code, out, err = run("predict", model, store, tmp_path / "map.zarr")
    assert code == 3
    assert "map.zarr" in err
    assert out == ""


def test_help_of_every_command_has_an_example() -> None:
    for app, name in ((cli.app, "geobiomass"), (pasture_cli.app, "pasture")):
        pending = [(name, get_command(app))]
        seen = 0
        while pending:
            words, found = pending.pop()
            below = getattr(found, "commands", {})
            pending += [(f"{words} {word}", part) for word, part in below.items()]
            if below:
                continue
            seen += 1
            assert f"`{words} " in (found.help or ""), words
            for parameter in found.params:
                assert getattr(parameter, "help", None), f"{words} {parameter.name}"
        assert seen >= 6


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
@pytest.mark.slow
def test_shells_complete_commands_and_recipes(shell: str) -> None:
    asked = {
        "bash": {"COMP_WORDS": "geobiomass ev", "COMP_CWORD": "1"},
        "zsh": {"_TYPER_COMPLETE_ARGS": "geobiomass ev"},
        "fish": {
            "_TYPER_COMPLETE_ARGS": "geobiomass ev",
            "_TYPER_COMPLETE_FISH_ACTION": "get-args",
        },
    }
    script = (
        "import sys; sys.argv = ['geobiomass']; from geobiomass.cli import app; "
        "app(prog_name='geobiomass')"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | {"_GEOBIOMASS_COMPLETE": f"complete_{shell}"} | asked[shell],
        check=False,
    )
    assert "evaluate" in done.stdout, done.stderr
    assert "export" not in done.stdout


@pytest.mark.slow
def test_info_prints_all_letters_and_no_complaint_without_a_reader(
    tmp_path: Path,
) -> None:
    scene = make_scene().assign_coords(band=["VV_asc", "élevé", "日本"])
    gb.write_cube(scene, tmp_path / "scene.zarr", dtype="float32")
    words = [sys.executable, "-m", "geobiomass", "info", str(tmp_path / "scene.zarr")]
    ascii_only = os.environ | {"PYTHONIOENCODING": "ascii"}
    done = subprocess.run(words, cwd=ROOT, env=ascii_only, capture_output=True)
    assert "VV_asc élevé 日本" in done.stdout.decode(), done.stderr
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(words, cwd=ROOT, stdout=write, stderr=subprocess.PIPE)
    os.close(write)
    assert (done.returncode, done.stderr) == (1, b"")


@variants("kind", ["tcp", "ws"], quick=1)
@variants(
    "answer",
    [b"<html>" + b" " * 90, b"", b"HTTP/1.1 400 Bad Request\r\n\r\n"],
    quick=1,
)
def test_what_is_no_scheduler_is_one_sentence(
    run, monkeypatch: pytest.MonkeyPatch, model: Path, kind: str, answer: bytes
) -> None:
    monkeypatch.setattr("geobiomass.cli.predict._PATIENCE", 0.5)
    lines = []

    def answering(server: socket.socket) -> None:
        with suppress(OSError):  # closed at the end
            while True:
                lines.append(server.accept()[0])
                lines[-1].sendall(answer)

    scene = model.parent / "scene.zarr"
    gb.write_cube(make_scene(64, 48), scene)
    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=answering, args=[server], daemon=True).start()
        address = f"{kind}://127.0.0.1:{server.getsockname()[1]}"
        words = (model.parent / "map.zarr", "--scheduler", address)
        code, _, said = run("predict", model, scene, *words)
        server.shutdown(socket.SHUT_RDWR)
    for line in lines:
        line.close()
    with warnings.catch_warnings():  # distributed leaves the socket of a web socket
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()
    assert code == 2
    assert said.count("\n") == 1
    assert "--scheduler must be the address of a dask scheduler that runs" in said
