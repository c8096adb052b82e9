"""`geobiomass train` sent SIGTERM and started again: both recipes, two processes."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from conftest import make_chips
from new_process import NewProcesses, Started

import geobiomass as gb
from geobiomass.training import average_weights
from geobiomass.training.weights import read_weights

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

SETTINGS = {
    "encoder": "test_resnet",
    "decoder_channels": "[8, 8, 8, 8, 8]",
    "batch_size": "2",
    "accelerator": "cpu",
    "checkpoint_minutes": "0",
    "moving_average": "0.9",
    "keep_last": "2",
    "validation_fraction": "0.25",
}


@pytest.fixture(scope="module")
def cube(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "chips.zarr"
    gb.write_cube(make_chips(16), path)
    return path


def words_of(cube: Path, folder: Path, recipe: str) -> list[str]:
    """Return the words that begin the command, and that go on with it."""
    words = ["train", str(cube), str(folder / "model"), "--recipe", recipe]
    words += ["--epochs", "2", "--devices", "2"]
    for name, value in SETTINGS.items():
        words += ["--set", f"{name}={value}"]
    return words


def start_command(*words: str) -> subprocess.Popen[str]:
    """Start the program by its name, which Lightning does once more by itself."""
    return subprocess.Popen(
        [str(Path(sys.executable).with_name("geobiomass")), *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str] | Started) -> str:
    said, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    return said


def first_seen(folder: Path, pattern: str, process: Started) -> Path:
    """Wait for a file of a training that runs."""
    while process.poll() is None:
        for path in folder.glob(pattern):
            return path
        time.sleep(0.01)
    raise AssertionError(f"no {pattern}: {process.communicate(1)}")


# Of one stage: tests/training/test_processes.py.
@pytest.mark.parametrize(("recipe", "sign"), [("biomassters", "2-cool-down/last.ckpt")])
def test_the_same_command_ends_with_the_same_bits(
    cube: Path, tmp_path: Path, recipe: str, sign: str, new_process: NewProcesses
) -> None:
    whole, halted = tmp_path / "whole", tmp_path / "halted"
    said = finish(start_command(*words_of(cube, whole, recipe)))
    assert said.count("2 x cpu, batches of 2") == 1  # the plan: one of them says so
    module = ("-m", "geobiomass", *words_of(cube, halted, recipe))
    running = new_process.start(*module, devices=2)
    first_seen(halted, f"model.checkpoints/{sign}", running)
    running.send_signal(signal.SIGTERM)
    errors = running.communicate(timeout=120)[1]
    assert running.returncode == 128 + signal.SIGTERM, errors
    assert errors.count("SIGTERM: training stopped after step") == 1
    assert not (halted / "model").exists()
    finish(new_process.start(*module, devices=2))
    ends = [gb.load(folder / "model") for folder in (whole, halted)]
    histories = [end.history.drop(columns="seconds") for end in ends]
    assert histories[0].equals(histories[1])
    states = [end.network.state_dict() for end in ends]
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    assert ends[0].provenance == ends[1].provenance
    # The kept epochs of the last stage, and their average.
    stage = "4-all-chips-again" if recipe == "biomassters" else "."
    folders = [folder / "model.checkpoints" / stage for folder in (whole, halted)]
    kept = [sorted(folder.glob("epoch-*.safetensors")) for folder in folders]
    assert [f.name for f in kept[0]] == [f.name for f in kept[1]]
    averages = [average_weights(files) for files in kept]
    assert all(torch.equal(v, averages[1][name]) for name, v in averages[0].items())
    if len(kept[0]) > 1:
        last = read_weights(kept[0][-1])
        assert any(not torch.equal(v, averages[0][name]) for name, v in last.items())
