"""Interrupted anywhere and resumed, a training ends with the same bits."""

import math
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning.pytorch import Trainer
from small_training import (
    NEVER,
    STEPS,
    StopAt,
    assert_same,
    batches,
    config,
    jitter,
    mse,
    network,
    one_thread,  # noqa: F401  (a fixture for every test here)
    run,
)
from torch import nn
from torch.utils.data import DataLoader, Dataset
from variants import variants

from geobiomass.training import RegressionTask, train
from geobiomass.training.weights import read_weights

PLACES = [(0, 0), (0, 2), (0, 4), (1, 0), (2, 3), (3, 4)]


def remaining(epoch: int, step: int) -> list[tuple[int, int]]:
    whole = [(e, s) for e in range(4) for s in range(STEPS)]
    return whole[whole.index((epoch, step)) :]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@variants("place", [(2, 3), (0, 2), (1, 0)], quick=1)
def test_without_checkpoints_what_is_not_kept_is_done_again(tmp_path, error, place):
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(error):
        run(tmp_path, StopAt(*place, error), keep_best=2)
    assert signal.getsignal(signal.SIGINT) is handler
    # Ctrl-C between two steps keeps the last one, an error only whole epochs.
    kept = place if error is KeyboardInterrupt else (place[0], 0)
    assert (tmp_path / "last.ckpt").exists() == (kept > (0, 0))
    rest = StopAt(*NEVER)
    resumed = run(tmp_path, rest, keep_best=2, checkpoint_minutes=None)
    assert rest.read == remaining(*kept)
    assert_same(run(keep_best=2), resumed)


@variants("place", [PLACES[4], *PLACES[:4], PLACES[5]], quick=3)
@variants("average", [0.9, None], quick=1)
@pytest.mark.parametrize("by", ["step", "epoch"])
def test_a_resumed_epoch_goes_on_at_its_step(tmp_path, place, average, by):
    settings = {"moving_average": average, "schedule_by": by, "keep_best": 2}
    broken = StopAt(*place, RuntimeError)
    with pytest.raises(RuntimeError, match="stop here"):
        run(tmp_path, broken, checkpoint_minutes=0, **settings)
    rest = StopAt(*NEVER)
    resumed = run(tmp_path, rest, **settings)
    assert rest.asked[0] == place
    assert broken.read + rest.read == remaining(0, 0)
    assert_same(run(**settings), resumed)


class StopsValidation:
    """Validation that raises in one of the epochs."""

    def __init__(self, epoch: int) -> None:
        self.epochs = 0
        self.bad = epoch

    def batches_per_epoch(self, ranks):
        return 2

    def epoch(self, number, rank, ranks, start=0):
        assert (number, start) == (0, 0)
        self.epochs += 1
        one, other = batches(2, seed=9)
        yield one
        if self.epochs == self.bad + 1:
            raise RuntimeError("stop here")
        yield other


@pytest.mark.parametrize("epoch", [0, 2, 3])
@variants("average", [0.9, None], quick=1)
def test_after_the_last_step_only_the_validation_is_done_again(
    tmp_path, epoch, average
):
    with pytest.raises(RuntimeError, match="stop here"):
        run(
            tmp_path,
            validation=StopsValidation(epoch),
            moving_average=average,
            checkpoint_minutes=0,
        )
    rest, held = StopAt(*NEVER), StopsValidation(9)
    resumed = run(tmp_path, rest, held, moving_average=average)
    assert rest.read == [place for place in remaining(0, 0) if place[0] > epoch]
    assert held.epochs == 4 - epoch
    assert_same(run(moving_average=average), resumed)


def test_a_training_without_validation_resumes_after_an_epochs_last_step(
    tmp_path, monkeypatch
):
    real = Trainer.save_checkpoint

    def stop(trainer, path):
        if saved[-1:] == [len(source.read)] == [2 * STEPS]:
            raise RuntimeError("stop here")  # at the end of the second epoch
        saved.append(len(source.read))
        real(trainer, path)

    saved, source = [], StopAt(*NEVER)
    monkeypatch.setattr(Trainer, "save_checkpoint", stop)
    with pytest.raises(RuntimeError, match="stop here"):
        run(tmp_path, source, [], checkpoint_minutes=0)
    monkeypatch.undo()
    rest = StopAt(*NEVER)
    resumed = run(tmp_path, rest, [])
    assert rest.read == remaining(2, 0)
    assert_same(run(validation=[]), resumed)


@pytest.mark.slow  # one interruption is quick
@settings(max_examples=6)
@given(st.lists(st.sampled_from(remaining(0, 0)), min_size=2, max_size=4, unique=True))
def test_interrupted_again_and_again(places):
    with tempfile.TemporaryDirectory() as folder:
        read = []
        for place in sorted(places):
            broken = StopAt(*place, RuntimeError)
            with pytest.raises(RuntimeError, match="stop here"):
                run(folder, broken, checkpoint_minutes=0, moving_average=0.9)
            read += broken.read
        rest = StopAt(*NEVER)
        resumed = run(folder, rest, moving_average=0.9)
    assert read + rest.read == remaining(0, 0)
    assert_same(run(moving_average=0.9), resumed)


class Minutes(StopAt):
    """Every batch takes a minute, by the clock that it puts in place."""

    def __init__(self, *place) -> None:
        super().__init__(*place)
        self.now = 0.0

    def clock(self) -> SimpleNamespace:
        return SimpleNamespace(monotonic=lambda: self.now)

    def epoch(self, number, rank, ranks, start=0):
        for batch in super().epoch(number, rank, ranks, start):
            self.now += 60
            yield batch


CHECKPOINTS = "geobiomass.training.checkpoints"


@pytest.mark.parametrize(
    ("minutes", "place", "start"),
    [
        (2.5, (0, 2), None),
        (2.5, (0, 4), (0, 3)),
        # The end of an epoch restarts the clock.
        (2.5, (1, 2), (1, 0)),
        (2.5, (1, 3), (1, 3)),
        (2, (2, 4), (2, 4)),
        (7, (3, 4), (3, 0)),
        (None, (3, 4), (3, 0)),
    ],
)
def test_checkpoints_come_by_the_clock(tmp_path, monkeypatch, minutes, place, start):
    broken = Minutes(*place, RuntimeError)
    monkeypatch.setattr(f"{CHECKPOINTS}.time", broken.clock())
    with pytest.raises(RuntimeError, match="stop here"):
        run(tmp_path, broken, checkpoint_minutes=minutes)
    assert (tmp_path / "last.ckpt").exists() == (start is not None)
    rest = Minutes(*NEVER)
    monkeypatch.setattr(f"{CHECKPOINTS}.time", rest.clock())
    resumed = run(tmp_path, rest, checkpoint_minutes=minutes)
    assert rest.asked[0] == (start or (0, 0))
    # The time before the interruption counts, up to the checkpoint.
    assert resumed[1].history.seconds.tolist() == [60.0 * STEPS] * 4
    assert_same(run(), resumed)


def test_without_a_folder_nothing_is_written_in_mid_epoch(monkeypatch):
    written = []
    real = Trainer.save_checkpoint

    def save(trainer, path):
        written.append(trainer.global_step)
        real(trainer, path)

    monkeypatch.setattr(Trainer, "save_checkpoint", save)
    run(checkpoint_minutes=0)
    assert written == [5, 10, 15, 20]


@pytest.mark.parametrize("written", [0, 1000])
def test_killed_while_writing_the_checkpoint_before_stands(
    tmp_path, monkeypatch, written
):
    real = Trainer.save_checkpoint

    def save(trainer, path):
        real(trainer, path)
        if trainer.global_step == 8:
            Path(path).write_bytes(Path(path).read_bytes()[:written])
            raise KeyboardInterrupt

    monkeypatch.setattr(Trainer, "save_checkpoint", save)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, checkpoint_minutes=0)
    monkeypatch.undo()
    rest = StopAt(*NEVER)
    resumed = run(tmp_path, rest)
    assert rest.asked[0] == (1, 2)
    assert_same(run(), resumed)
    assert {f.name for f in tmp_path.iterdir()} == {
        "last.ckpt",
        resumed[1].best.name,
    }


def test_a_checkpoint_of_format_1_is_resumed(tmp_path):
    with pytest.raises(RuntimeError, match="stop here"):
        run(tmp_path, StopAt(2, 0, RuntimeError), moving_average=0.9)
    file = tmp_path / "last.ckpt"
    content = torch.load(file, weights_only=True)
    assert content["geobiomass"]["format"] == 2
    content["geobiomass"]["format"] = 1
    del content["geobiomass"]["part"], content["geobiomass"]["buffers"]
    torch.save(content, file)
    rest = StopAt(*NEVER)
    resumed = run(tmp_path, rest, moving_average=0.9)
    assert rest.read == remaining(2, 0)
    assert_same(run(moving_average=0.9), resumed)


@pytest.mark.parametrize(("call", "place"), [(8, "step 3"), (10, "step 5")])
def test_weights_that_became_nan_are_not_kept(tmp_path, call, place):
    class Poison(nn.Module):
        calls = 0

        def forward(self, prediction, target):
            loss = mse(prediction, target)
            Poison.calls += 1
            if Poison.calls == call:
                loss.register_hook(lambda gradient: gradient * math.nan)
            return loss

    plan = config(folder=tmp_path, checkpoint_minutes=0)
    task = RegressionTask(network(), Poison(), config=plan)
    with pytest.raises(FloatingPointError, match=f"weights after {place} of epoch 2"):
        train(task, batches())
    kept = read_weights(tmp_path / "last.ckpt")
    assert all(bool(value.isfinite().all()) for value in kept.values())


class Memory(nn.Module):
    """Depends on what it saw before, by a buffer that no state_dict holds."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 1)
        self.register_buffer("mean", torch.zeros(3), persistent=False)

    def forward(self, x):
        if self.training:
            self.mean.lerp_(x.mean(0), 0.5)
        return self.linear(x - self.mean)


def test_buffers_that_are_not_saved_with_the_network_are_resumed(tmp_path):
    def go(source=None, **changes):
        torch.manual_seed(7)
        task = RegressionTask(Memory(), mse, config=config(epochs=1, **changes))
        return run(source=source, validation=[], task=task)

    with pytest.raises(RuntimeError, match="stop here"):
        go(StopAt(0, 3, RuntimeError), folder=tmp_path, checkpoint_minutes=0)
    assert_same(go(), go(folder=tmp_path))


def test_the_bar_goes_on_where_the_training_does(tmp_path, capfd):
    with pytest.raises(RuntimeError, match="stop here"):
        run(tmp_path, StopAt(3, 3, RuntimeError), checkpoint_minutes=0)
    run(tmp_path, progress=True)
    bar = capfd.readouterr().err
    assert " 18/20" in bar
    assert "epoch 4/4: 100%" in bar
    assert " 20/20" in bar
    assert "nan" not in bar


class Noisy(Dataset):
    """Draws from torch's global generator for each sample."""

    def __len__(self):
        return 6 * STEPS

    def __getitem__(self, number):
        x = torch.cat([x for x, _ in batches()])[number]
        return x + 0.1 * torch.randn(3), x.sum(0, keepdim=True)


# From Python 3.12 on, forking a loader's worker beside torch's threads warns.
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
@variants("minutes", [0, None], quick=1)
@variants("workers", [1, 0], quick=1)
def test_a_resumed_loader_keeps_its_order_and_its_noise(tmp_path, minutes, workers):
    class Breaking(nn.Module):
        calls = 0

        def forward(self, prediction, target):
            Breaking.calls += 1
            if Breaking.calls == 9:
                raise RuntimeError("stop here")
            return mse(prediction, target)

    def go(folder, loss):
        loader = DataLoader(Noisy(), batch_size=6, shuffle=True, num_workers=workers)
        plan = config(epochs=3, folder=folder, checkpoint_minutes=minutes)
        task = RegressionTask(network(), loss, augment=jitter)
        result = train(task, loader, None, plan)
        return task.network.state_dict(), result

    whole = go(None, mse)
    with pytest.raises(RuntimeError, match="stop here"):
        go(tmp_path, Breaking())
    assert_same(whole, go(tmp_path, mse))


def test_a_finished_training_is_only_read(tmp_path):
    first = run(tmp_path)
    source = StopAt(*NEVER)
    again = run(tmp_path, source)
    assert source.asked == []
    assert_same(first, again)
    assert again[1].history.equals(first[1].history)
    assert again[1].best == first[1].best


def test_starting_anew_removes_the_old_training(tmp_path):
    run(tmp_path, keep_last=4)
    (tmp_path / "mine.txt").write_text("stays")
    source = StopAt(*NEVER)
    _, result = run(tmp_path, source, epochs=2, resume=False)
    assert source.asked == [(0, 0), (1, 0)]
    assert {f.name for f in tmp_path.iterdir()} == {
        "mine.txt",
        "last.ckpt",
        result.best.name,
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"learning_rate": 0.5}, r"learning_rate was 0\.001 and is 0\.5"),
        ({"seed": 3}, "seed was 0 and is 3"),
        ({"epochs": 9}, "epochs was 4 and is 9"),
        ({"moving_average": 0.5}, r"moving_average was None and is 0\.5"),
        ({"validation": batches()[:0]}, "validation was True and is False"),
    ],
)
def test_resuming_with_other_settings_names_them(tmp_path, change, message):
    run(tmp_path)
    validation = change.pop("validation", None)
    with pytest.raises(ValueError, match=message):
        run(tmp_path, validation=validation, **change)


def test_resuming_with_another_network_or_data_is_refused(tmp_path):
    run(tmp_path, schedule="constant")
    plan = config(folder=tmp_path, schedule="constant", epochs=6)
    wide = RegressionTask(network(9), mse, config=plan)
    with pytest.raises(ValueError, match=r"0\.weight was \(8, 3\) and is \(9, 3\)"):
        run(task=wide)
    same = RegressionTask(network(), mse, config=plan)
    with pytest.raises(ValueError, match=r"as many batches.*\(5\), got 4"):
        run(task=same, source=batches(4))


def test_epochs_may_be_added_under_a_constant_rate(tmp_path):
    run(tmp_path, schedule="constant", epochs=2)
    assert_same(
        run(tmp_path, schedule="constant", epochs=4), run(schedule="constant", epochs=4)
    )
    with pytest.raises(ValueError, match="epochs was 4 and is 3"):
        run(tmp_path, schedule="constant", epochs=3)


def test_epochs_may_not_end_before_the_one_that_was_begun(tmp_path):
    plan = {"schedule": "constant", "checkpoint_minutes": 0}
    with pytest.raises(RuntimeError, match="stop here"):
        run(tmp_path, StopAt(2, 3, RuntimeError), **plan)
    with pytest.raises(ValueError, match="epochs was 4 and is 2"):
        run(tmp_path, **plan, epochs=2)
    assert_same(run(**plan, epochs=3), run(tmp_path, **plan, epochs=3))


def test_a_foreign_or_damaged_checkpoint_is_refused(tmp_path):
    torch.save({"state_dict": {}}, tmp_path / "last.ckpt")
    with pytest.raises(ValueError, match="not a checkpoint of this trainer"):
        run(tmp_path)
    (tmp_path / "last.ckpt").write_bytes(b"cut short")
    with pytest.raises(ValueError, match="not a whole checkpoint"):
        run(tmp_path)


def test_damage_in_the_folder_is_named_before_the_training_goes_on(tmp_path):
    plan = {"keep": "average", "keep_last": 2, "checkpoint_minutes": 0}
    begun = tmp_path / "begun"
    with pytest.raises(RuntimeError, match="stop here"):
        run(begun, StopAt(2, 3, RuntimeError), **plan)
    names = ["epoch-0001.safetensors", "epoch-0002.safetensors", "last.ckpt"]
    assert sorted(file.name for file in begun.iterdir()) == names
    whole = run(**plan)

    def damaged(number, change):
        folder = Path(shutil.copytree(begun, tmp_path / f"copy-{number}"))
        change(folder)
        try:
            return run(folder, **plan), ""
        except ValueError as error:
            said = str(error)
        assert str(folder) in said
        assert "again" in said
        return None, said

    draw, told = random.Random(0), 0
    for number in range(24):
        name = names[number % 3]

        def flip(folder, name=name):
            content = bytearray((folder / name).read_bytes())
            content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
            (folder / name).write_bytes(content)

        result, said = damaged(number, flip)
        told += name in said
        if result is not None:  # between the parts of the archive
            assert name == "last.ckpt"
            assert_same(whole, result)
    assert told >= 19
    one, two = (begun / name for name in names[:2])

    def swap(folder):
        shutil.copy(one, folder / names[1])
        shutil.copy(two, folder / names[0])

    assert ".safetensors is damaged" in damaged("swapped", swap)[1]
    copied = damaged("copied", lambda folder: shutil.copy(one, folder / names[1]))
    assert f"{names[1]} is damaged" in copied[1]
    gone = damaged("gone", lambda folder: (folder / names[0]).unlink())
    assert f"{names[0]} is gone" in gone[1]
    with pytest.warns(UserWarning, match=r"last\.ckpt is gone.* 2 epochs"):
        again = damaged("lost", lambda folder: (folder / "last.ckpt").unlink())
    assert_same(whole, again[0])
    (begun / names[0]).unlink()  # not needed by the last weights
    for name in names[1:]:
        (begun / name).unlink()
    run(begun, keep="last")
    (begun / "epoch-0004.safetensors").unlink()
    assert_same(run(keep="last"), run(begun, keep="last"))


KILLED = """
import os, signal, sys
sys.path[:0] = [{here!r}, {above!r}]
import torch
torch.set_num_threads(1)
from small_training import run
from test_resume import CHECKPOINTS, NEVER, Minutes

class Kill(Minutes):
    def epoch(self, number, rank, ranks, start=0):
        for step, batch in enumerate(super().epoch(number, rank, ranks, start), start):
            if (number, step) == (2, 4):
                {action}
            yield batch

source = Kill(*NEVER)
sys.modules[CHECKPOINTS].time = source.clock()
try:
    run({folder!r}, source, checkpoint_minutes=2.5)
except KeyboardInterrupt:
    print("interrupted")
"""


def script_of(folder: Path, action: str) -> str:
    here = Path(__file__).parent
    return KILLED.format(
        here=str(here), above=str(here.parent), folder=str(folder), action=action
    )


def test_killed_and_resumed_is_uninterrupted_to_the_bit(tmp_path, new_process):
    killed = new_process(script_of(tmp_path, "os.kill(os.getpid(), signal.SIGKILL)"))
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    rest = StopAt(*NEVER)
    resumed = run(tmp_path, rest)
    assert rest.asked[0] == (2, 3)  # the kill came at the fifth step
    assert_same(run(), resumed)


@pytest.mark.slow
def test_ctrl_c_is_a_keyboard_interrupt(tmp_path):
    waiting = "open({!r}, 'w').close(); import time; time.sleep(60)"
    sign = tmp_path / "waiting"
    process = subprocess.Popen(
        [sys.executable, "-c", script_of(tmp_path / "run", waiting.format(str(sign)))],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 60
    while not sign.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGINT)
    out, errors = process.communicate(timeout=60)
    assert (process.returncode, out) == (0, "interrupted\n"), errors
    assert_same(run(), run(tmp_path / "run"))


def test_killed_between_weights_and_checkpoint(tmp_path, monkeypatch):
    expected = run()
    real = os.replace

    def replace(source, target):
        if Path(target).name == "last.ckpt" and (tmp_path / "last.ckpt").exists():
            raise KeyboardInterrupt
        real(source, target)

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path)
    monkeypatch.undo()
    assert_same(expected, run(tmp_path))
    assert len(list(tmp_path.glob("*.safetensors"))) == 1
