"""Training on two real processes, by a script that starts itself again."""

import os
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path

import pytest
import torch

import geobiomass
from geobiomass.training.weights import read_weights

pytestmark = [pytest.mark.slow, pytest.mark.timeout(280)]

SCRIPT = '''
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from geobiomass.training import (
    RegressionTask,
    TrainingConfig,
    average_weights,
    checkpoints,
    train,
    train_stages,
)
from geobiomass.training.metrics import PixelRMSE
from geobiomass.training.weights import save_weights

out, kind, devices, fails = sys.argv[1:]
out, devices = Path(out), int(devices)
own_rank = int(os.environ.get("LOCAL_RANK", 0))
torch.set_num_threads(1)
torch.manual_seed(own_rank)  # the network of the first process is the one trained
SIZE = 4


def samples(count, seed):
    return torch.randn(count, 3, generator=torch.Generator().manual_seed(seed))


ROWS = samples(26, 0)


def batch(numbers):
    x = ROWS[numbers]
    return torch.tensor(numbers), x, x.sum(1, keepdim=True) ** 2


class Rows(nn.Module):
    """Ignores the numbers of the samples, after writing them down."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, numbers, x):
        if self.training:
            with open(out / f"seen-{own_rank}.txt", "a") as file:
                file.write(" ".join(map(str, numbers.tolist())) + "\\n")
        return self.inner(x)


class Shuffled:
    """A feed: blocks of four samples in an order of its own for each epoch."""

    def batches_per_epoch(self, ranks):
        return 6 // ranks

    def epoch(self, number, rank, ranks, start=0):
        order = torch.randperm(24, generator=torch.Generator().manual_seed(number))
        blocks = order.reshape(-1, SIZE).tolist()
        for step in range(start, 6 // ranks):
            if fails == f"{number}:{step}:{rank}":
                raise RuntimeError("stop here")
            if fails == f"{number}:{step}:killed" and rank == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            if fails == f"{number}:{step}:main" and rank == 0:
                os.kill(os.getpid(), signal.SIGTERM)
            if fails == f"{number}:{step}:other" and rank == ranks - 1:
                os.kill(os.getpid(), signal.SIGTERM)
            if fails == f"{number}:{step}:all" and rank == 0:
                os.killpg(0, signal.SIGTERM)
            yield batch(blocks[step * ranks + rank])


def fixed():
    blocks = [list(range(i, i + SIZE)) for i in range(0, 24, SIZE)]
    if devices == 1:  # what two processes see together in one step
        blocks = [blocks[i] + blocks[i + 1] for i in range(0, 6, 2)]
    return [batch(block) for block in blocks]


plain = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 1))


class Memory(nn.Module):
    """Learns by a buffer that differs between the processes while an epoch runs."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(3))

    def forward(self, x):
        if self.training:
            self.mean.lerp_(x.mean(0), 0.5)
        return x - self.mean


rich = nn.Sequential(
    Memory(),
    nn.Linear(3, 8),
    nn.BatchNorm1d(8),
    nn.Dropout(0.3),
    nn.ReLU(),
    nn.Linear(8, 1),
)


class Clock:
    """Ticks a minute a call in the first process and an hour in the other."""

    now = 0.0

    def monotonic(self):
        self.now += 60 if own_rank == 0 else 3600
        return self.now


def jitter(inputs, target):
    numbers, x = inputs
    return (numbers, x + 0.1 * torch.randn_like(x)), target


def main():
    config = TrainingConfig(
        epochs=4,
        learning_rate=1e-2,
        devices=devices,
        accelerator="cpu",
        progress=False,
        folder=None if kind == "plain" else out / "run",
        keep="last" if kind == "plain" else "best",
        moving_average=None if kind == "plain" else 0.9,
        checkpoint_minutes={"step": 0, "clock": 1.5, "stages-step": 0}.get(kind),
        keep_last=2,
    )
    net = Rows(plain if kind == "plain" else rich)
    if kind == "plain":
        task = RegressionTask(net, nn.functional.mse_loss, {"rmse": PixelRMSE()})
        held = [batch([20, 21]), batch([22, 23, 24]), batch([25])]
        result = train(task, fixed(), held, config)
    else:
        task = RegressionTask(net, nn.functional.mse_loss, augment=jitter)
        held = [batch([i, i + 1]) for i in (18, 20, 22)]
        if kind == "clock":
            checkpoints.time = Clock()
        if kind.startswith("stages"):
            cool = replace(config, epochs=2, learning_rate=1e-3)
            every = replace(config, epochs=1, learning_rate=1e-4, keep="last")
            plans = [
                ("long", replace(config, epochs=3), Shuffled(), held),
                ("cool", cool, Shuffled(), held),
                ("all", every, Shuffled(), None),
            ]
            result = train_stages(task, plans)
        else:
            result = train(task, Shuffled(), held, config)
        average = average_weights(result.kept)
        save_file(average, out / f"average-{own_rank}.safetensors")
    save_weights(net, out / f"weights-{own_rank}.safetensors")
    if own_rank == 0:
        history = result.history.drop(columns="seconds")
        history.to_csv(out / "history.csv", index=False)


if __name__ == "__main__":
    (out / f"pid-{own_rank}.txt").write_text(str(os.getpid()))
    main()
    (out / f"done-{own_rank}.txt").write_text("done")
'''


SIZE = 4  # samples a step and process


@pytest.fixture(scope="module")
def launch(new_process):
    """Run the script to its end; everything it started must have ended as well."""

    def run(out: Path, kind: str, devices: int, fails: str = "never") -> int:
        out.mkdir(exist_ok=True)
        for old in [*out.glob("pid-*"), *out.glob("done-*"), *out.glob("seen-*")]:
            old.unlink()
        script = out / "script.py"
        script.write_text(SCRIPT)
        ours = Path(geobiomass.__file__).parent.parent
        hidden = ("LOCAL_RANK", "MASTER_PORT", "MASTER_ADDR", "WORLD_SIZE", "NODE_RANK")
        environment = {k: v for k, v in os.environ.items() if k not in hidden}
        environment["PYTHONPATH"] = str(ours)
        words = map(str, (script, out, kind, devices, fails))
        process = new_process.start(*words, env=environment, devices=devices)
        try:
            output = "".join(process.communicate(timeout=120))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise
        (out / "output.txt").write_text(output)
        assert_ended([int(file.read_text()) for file in out.glob("pid-*")])
        if fails == "never":
            assert process.returncode == 0, output
            assert output == ""
            assert len(list(out.glob("done-*"))) == devices
        return process.returncode

    return run


def assert_ended(pids: list[int]) -> None:
    deadline = time.monotonic() + 60
    while any(is_running(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not [pid for pid in pids if is_running(pid)]


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def seen(out: Path) -> list[list[int]]:
    """The samples that each process trained on, in order."""
    files = sorted(out.glob("seen-*.txt"))
    return [[int(n) for n in file.read_text().split()] for file in files]


def test_two_processes_train_like_one_on_the_same_batches(launch, tmp_path):
    launch(tmp_path / "two", "plain", 2)
    launch(tmp_path / "one", "plain", 1)
    one = read_weights(tmp_path / "one" / "weights-0.safetensors")
    for rank in range(2):
        two = read_weights(tmp_path / "two" / f"weights-{rank}.safetensors")
        for name, value in one.items():
            torch.testing.assert_close(two[name], value, rtol=1e-5, atol=1e-6)
    first, second = seen(tmp_path / "two")
    for epoch in range(4):
        part = slice(12 * epoch, 12 * (epoch + 1))
        assert Counter(first[part] + second[part]) == Counter(range(24))
    # Validation leaves nothing out, though the processes get two and one batches.
    rows = {}
    for name in ("one", "two"):
        lines = (tmp_path / name / "history.csv").read_text().splitlines()[1:]
        rows[name] = torch.tensor([[float(v) for v in x.split(",")] for x in lines])
    torch.testing.assert_close(rows["two"], rows["one"], rtol=1e-5, atol=0)


@pytest.fixture(scope="module")
def whole(launch, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    launch(folder, "rich", 2)
    return folder


@pytest.mark.parametrize(
    ("kind", "fails", "left"),
    [
        ("rich", "2:1:killed", 6),  # steps left to do
        ("clock", "2:2:0", 5),
    ],
)
def test_two_processes_interrupted_and_resumed_end_with_the_same_bits(
    launch, whole, tmp_path, kind, fails, left
):
    assert launch(tmp_path, kind, 2, fails) != 0
    message = (tmp_path / "output.txt").read_text()
    assert ("stop here" in message) == ("killed" not in fails)
    assert list(tmp_path.glob("done-*")) == []
    launch(tmp_path, "rich", 2)
    assert [len(numbers) for numbers in seen(tmp_path)] == [left * SIZE] * 2
    assert_same_end(whole, tmp_path, 2)


def assert_same_end(whole: Path, resumed: Path, devices: int) -> None:
    """Weights, their average over kept epochs and history, to the bit."""
    for name in ("history.csv", *map("weights-{}.safetensors".format, range(devices))):
        assert (resumed / name).read_bytes() == (whole / name).read_bytes(), name
    for rank in range(devices):
        averages = [
            read_weights(folder / f"average-{rank}.safetensors")
            for folder in (whole, resumed)
        ]
        assert list(averages[0]) == list(averages[1])
        for name, value in averages[0].items():
            assert torch.equal(averages[1][name], value), name


@pytest.fixture(scope="module")
def staged(launch, tmp_path_factory):
    """Return the folder of an uninterrupted training in stages, by its processes."""
    folders: dict[int, Path] = {}

    def find(devices: int) -> Path:
        if devices not in folders:
            folders[devices] = tmp_path_factory.mktemp(f"staged{devices}")
            launch(folders[devices], "stages", devices)
        return folders[devices]

    return find


# Epochs of the stages: 0 to 2, 3 and 4, 5.
@pytest.mark.parametrize(
    ("devices", "kind", "place", "who"),
    [
        (2, "stages", (4, 0), "all"),
        (2, "stages", (5, 1), "other"),
    ],
)
def test_stages_interrupted_and_resumed_end_with_the_same_bits(
    launch, staged, tmp_path, devices, kind, place, who
):
    whole = staged(devices)
    names = {file.name for file in (whole / "run").iterdir()}
    assert names == {"1-long", "2-cool", "3-all"}
    code = launch(tmp_path, kind, devices, f"{place[0]}:{place[1]}:{who}")
    said = (tmp_path / "output.txt").read_text()
    if who == "killed":
        assert code == -signal.SIGKILL
    else:
        assert code == 143, said
        assert said.count("SIGTERM: training stopped after step") == 1, said
        assert said.count("\n") == 1, said
    assert list(tmp_path.glob("done-*")) == []
    launch(tmp_path, "stages", devices)
    steps = 6 // devices
    left = 6 * steps - (place[0] * steps + place[1] + (who != "killed"))
    assert [len(numbers) for numbers in seen(tmp_path)] == [left * SIZE] * devices
    assert_same_end(whole, tmp_path, devices)
