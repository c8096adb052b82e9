import math
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from geobiomass.training import (
    RegressionTask,
    TrainingConfig,
    average_weights,
    train,
)
from geobiomass.training.metrics import Bias, PixelRMSE
from geobiomass.training.weights import load_weights, read_weights

mse = nn.functional.mse_loss


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def network(width: int = 8) -> nn.Module:
    torch.manual_seed(7)
    return nn.Sequential(
        nn.Linear(3, width),
        nn.BatchNorm1d(width),
        nn.Dropout(0.3),
        nn.ReLU(),
        nn.Linear(width, 1),
    )


def batches(count: int = 5, seed: int = 0) -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(count, 6, 3, generator=generator)
    return [(x, x.sum(1, keepdim=True)) for x in rows]


def jitter(inputs, target):
    return (inputs[0] + 0.1 * torch.randn_like(inputs[0]),), target


def config(**changes) -> TrainingConfig:
    plain = {"epochs": 4, "accelerator": "cpu", "progress": False}
    return TrainingConfig(**plain | changes)


class StopAt:
    """Batches that raise at one step of one epoch, as a feed."""

    def __init__(self, epoch: int, step: int, error: type[BaseException]) -> None:
        self.asked: list[int] = []
        self.place = epoch, step
        self.error = error

    def batches_per_epoch(self, ranks):
        return 5

    def epoch(self, number, rank, ranks):
        self.asked.append(number)
        order = torch.randperm(5, generator=torch.Generator().manual_seed(number))
        for step, which in enumerate(order.tolist()):
            if (number, step) == self.place:
                raise self.error("stop here")
            yield batches()[which]


NEVER = (-1, -1, RuntimeError)


def run(folder=None, source=None, validation=None, task=None, **changes):
    task = task or RegressionTask(
        network(), mse, {"rmse": PixelRMSE()}, jitter, config(folder=folder, **changes)
    )
    source = StopAt(*NEVER) if source is None else source
    validation = batches(2, seed=9) if validation is None else validation
    result = train(task, source, validation or None)
    return task.network.state_dict(), result


def assert_same(one, other):
    assert list(one[0]) == list(other[0])
    for name, value in one[0].items():
        assert torch.equal(value, other[0][name]), name
    histories = [
        result.history.drop(columns="seconds") for result in (one[1], other[1])
    ]
    assert histories[0].equals(histories[1])


def test_history_and_files(tmp_path):
    _, result = run(tmp_path)
    history = result.history
    assert list(history.columns) == [
        "epoch",
        "train_loss",
        "validation_loss",
        "validation_rmse",
        "learning_rate",
        "seconds",
    ]
    assert history.epoch.tolist() == [1, 2, 3, 4]
    assert result.epochs == 4
    np.testing.assert_allclose(
        history.validation_rmse, np.sqrt(history.validation_loss), rtol=1e-5
    )
    plan = config()
    assert history.learning_rate.tolist() == [
        plan.learning_rate_at(epoch, 4, 5) for epoch in range(4)
    ]
    best = history.validation_loss.argmin() + 1
    assert result.best == tmp_path / f"epoch-{best:04d}.safetensors"
    assert result.kept == (result.best,)
    assert result.last == tmp_path / "last.ckpt"
    assert {f.name for f in tmp_path.iterdir()} == {"last.ckpt", result.best.name}


def test_losses_in_the_history_are_those_of_a_plain_loop():
    net, plain = nn.Linear(3, 1), nn.Linear(3, 1)
    plain.load_state_dict(net.state_dict())
    data, held = batches(), batches(2, seed=9)
    plan = config(epochs=2, schedule="constant", gradient_clip=0.5, keep="last")
    result = train(RegressionTask(net, mse), data, held, plan)
    optimizer = torch.optim.AdamW(
        [
            {"params": [plain.weight], "weight_decay": 1e-2},
            {"params": [plain.bias], "weight_decay": 0.0},
        ],
        lr=1e-3,
    )
    for epoch in range(2):
        losses = []
        for x, y in data:
            loss = mse(plain(x), y)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(plain.parameters(), 0.5)
            optimizer.step()
            losses.append(loss.item())
        row = result.history.loc[epoch]
        assert row.train_loss == pytest.approx(np.mean(losses), rel=1e-6)
        with torch.no_grad():
            expected = np.mean([mse(plain(x), y).item() for x, y in held])
        assert row.validation_loss == pytest.approx(expected, rel=1e-6)
    assert torch.equal(net.weight, plain.weight)
    assert torch.equal(net.bias, plain.bias)


def test_the_same_seed_gives_the_same_weights_and_another_others():
    first = run()
    assert_same(first, run())
    other, _ = run(seed=1)
    assert not torch.equal(first[0]["0.weight"], other["0.weight"])


def test_validation_does_not_change_the_training():
    with_validation, _ = run(keep="last")
    without, result = run(validation=[], keep="last")
    for name, value in with_validation.items():
        assert torch.equal(value, without[name]), name
    assert result.history.validation_loss.isna().all()


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("place", [(0, 2), (1, 0), (2, 3), (3, 4)])
@pytest.mark.parametrize("average", [None, 0.9])
def test_interrupted_and_resumed_is_uninterrupted_to_the_bit(
    tmp_path, error, place, average
):
    expected = run(moving_average=average, keep_best=2)
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(error):
        run(tmp_path, StopAt(*place, error), moving_average=average, keep_best=2)
    assert signal.getsignal(signal.SIGINT) is handler
    assert (tmp_path / "last.ckpt").exists() == (place[0] > 0)
    rest = StopAt(*NEVER)
    resumed = run(tmp_path, rest, moving_average=average, keep_best=2)
    assert rest.asked == list(range(place[0], 4))
    assert_same(expected, resumed)


def test_a_resumed_loader_keeps_its_order(tmp_path):
    rows = torch.cat([x for x, _ in batches()])
    data = TensorDataset(rows, rows.sum(1, keepdim=True))

    class Breaking(nn.Module):
        calls = 0

        def forward(self, prediction, target):
            Breaking.calls += 1
            if Breaking.calls == 12:
                raise RuntimeError("stop here")
            return mse(prediction, target)

    def go(folder, loss):
        loader = DataLoader(data, batch_size=6, shuffle=True)
        task = RegressionTask(network(), loss, augment=jitter)
        return task, train(task, loader, None, config(folder=folder))

    whole, result = go(None, mse)
    with pytest.raises(RuntimeError, match="stop here"):
        go(tmp_path, Breaking())
    resumed, again = go(tmp_path, mse)
    assert_same(
        (whole.network.state_dict(), result), (resumed.network.state_dict(), again)
    )


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
    assert source.asked == [0, 1]
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


def test_a_foreign_or_damaged_checkpoint_is_refused(tmp_path):
    torch.save({"state_dict": {}}, tmp_path / "last.ckpt")
    with pytest.raises(ValueError, match="not a checkpoint of this trainer"):
        run(tmp_path)
    (tmp_path / "last.ckpt").write_bytes(b"cut short")
    with pytest.raises(ValueError, match="not a whole checkpoint"):
        run(tmp_path)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_bad_loss_stops_with_the_place_and_keeps_the_last_good_weights(tmp_path, bad):
    class Bad(nn.Module):
        calls = 0

        def forward(self, prediction, target):
            Bad.calls += torch.is_grad_enabled()
            return mse(prediction, target) * (bad if Bad.calls == 8 else 1.0)

    task = RegressionTask(network(), Bad(), config=config(folder=tmp_path))
    with pytest.raises(FloatingPointError, match=r"epoch 2, step 3.*learning_rate"):
        run(task=task)
    kept = read_weights(tmp_path / "last.ckpt")
    assert all(bool(value.isfinite().all()) for value in kept.values())
    good, _ = run(
        tmp_path, task=RegressionTask(network(), mse, config=config(folder=tmp_path))
    )
    assert all(bool(value.isfinite().all()) for value in good.values())


def test_weights_that_became_nan_in_the_last_step_are_not_kept(tmp_path):
    net = network()

    class Poison(nn.Module):
        calls = 0

        def forward(self, prediction, target):
            loss = mse(prediction, target)
            if torch.is_grad_enabled():
                Poison.calls += 1
                if Poison.calls == 10:  # the last step of the second epoch
                    loss.register_hook(lambda gradient: gradient * math.nan)
            return loss

    task = RegressionTask(net, Poison(), config=config(folder=tmp_path))
    with pytest.raises(FloatingPointError, match="weights after epoch 2"):
        train(task, batches())
    kept = read_weights(tmp_path / "last.ckpt")
    assert all(bool(value.isfinite().all()) for value in kept.values())


def test_a_bad_validation_loss_is_named():
    bad = [(torch.full((6, 3), torch.nan), torch.zeros(6, 1))]
    with pytest.raises(FloatingPointError, match="validation loss of epoch 1"):
        run(validation=bad)


def test_the_best_epochs_are_kept_and_the_network_holds_the_best(tmp_path):
    # The rate is high enough for the loss to go up and down.
    plan = {
        "learning_rate": 0.3,
        "schedule": "constant",
        "epochs": 8,
        "keep_best": 3,
        "keep_last": 2,
    }
    weights, result = run(tmp_path, **plan)
    losses = result.history.validation_loss
    order = losses.sort_values(kind="stable").index[:3]
    assert order[0] != 7  # otherwise best and last are one
    expected = dict.fromkeys([*order, 6, 7])
    assert [f.name for f in result.kept] == [
        f"epoch-{e + 1:04d}.safetensors" for e in expected
    ]
    assert {f.name for f in tmp_path.iterdir()} == {
        "last.ckpt",
        *(f.name for f in result.kept),
    }
    best = read_weights(result.best)
    assert all(torch.equal(value, best[name]) for name, value in weights.items())
    net = network().eval()
    load_weights(net, result.best)
    with torch.no_grad():
        loss = np.mean([mse(net(x), y).item() for x, y in batches(2, seed=9)])
    assert loss == pytest.approx(losses.min(), rel=1e-6)
    last, _ = run(**plan, keep="last")
    saved = read_weights(result.last)
    assert all(torch.equal(value, saved[name]) for name, value in last.items())


def test_several_values_are_monitored(tmp_path):
    class Score(PixelRMSE):
        """Best when high: the highest error, for the sake of a difference."""

        higher_is_better = True

    plan = config(
        folder=tmp_path,
        learning_rate=0.3,
        epochs=6,
        keep_best=2,
        monitor=("validation_score", "validation_loss"),
    )
    task = RegressionTask(network(), mse, {"score": Score()}, config=plan)
    _, result = run(task=task)
    order = result.history.validation_loss.sort_values().index
    assert result.best.name == f"epoch-{order[-1] + 1:04d}.safetensors"
    assert {f.name for f in result.kept} == {
        f"epoch-{e + 1:04d}.safetensors" for e in [*order[:2], *order[-2:]]
    }
    averaged = average_weights([*result.kept, result.last])
    network().load_state_dict(averaged)


@pytest.mark.parametrize(
    ("monitor", "message"),
    [("validation_r2", "validation_r2"), ("validation_bias", "best side")],
)
def test_a_value_that_cannot_be_monitored_is_refused(monitor, message):
    task = RegressionTask(
        network(), mse, {"bias": Bias()}, config=config(monitor=monitor)
    )
    with pytest.raises(ValueError, match=message):
        run(task=task)


def test_the_moving_average_is_what_is_evaluated_and_kept(tmp_path):
    weights, result = run(tmp_path, moving_average=0.8, keep="last")
    raw, _ = run(keep="last")
    assert not torch.equal(weights["0.weight"], raw["0.weight"])
    net = network().eval()
    net.load_state_dict(weights)
    with torch.no_grad():
        loss = np.mean([mse(net(x), y).item() for x, y in batches(2, seed=9)])
    assert loss == pytest.approx(result.history.validation_loss.iloc[-1], rel=1e-6)
    saved = read_weights(result.last)
    assert all(torch.equal(value, saved[name]) for name, value in weights.items())


def test_the_callers_generators_are_given_back():
    torch.manual_seed(11)
    expected = torch.rand(3)
    task = RegressionTask(nn.Linear(3, 1), mse, config=config())
    torch.manual_seed(11)
    train(task, batches())
    assert torch.equal(torch.rand(3), expected)
    task = RegressionTask(nn.Linear(3, 1), mse, config=config())
    torch.manual_seed(11)
    with pytest.raises(RuntimeError, match="stop here"):
        train(task, StopAt(1, 1, RuntimeError))
    assert torch.equal(torch.rand(3), expected)


def test_nothing_is_printed_or_left_behind(tmp_path, monkeypatch, capfd, caplog):
    monkeypatch.chdir(tmp_path)
    _, result = run()
    assert list(tmp_path.iterdir()) == []
    assert result.best is None
    assert result.last is None
    assert result.kept == ()
    streams = capfd.readouterr()
    assert streams.out == streams.err == ""
    assert caplog.records == []


def test_the_bar_shows_epoch_loss_and_metrics(capfd):
    run(progress=True)
    bar = capfd.readouterr().err
    assert "epoch 4/4: 100%" in bar
    assert "20/20" in bar
    assert "loss=" in bar
    assert "validation_rmse=" in bar


def test_frozen_parameters_stay_and_groups_are_right():
    net = network()
    net[0].weight.requires_grad_(False)
    before = net[0].weight.clone()
    task = RegressionTask(net, mse, config=config(weight_decay=0.1))
    task.use(task.config)
    decayed, free = task.configure_optimizers().param_groups
    assert decayed["weight_decay"] == 0.1
    assert free["weight_decay"] == 0.0
    assert [id(p) for p in decayed["params"]] == [id(net[4].weight)]
    expected = [net[0].bias, net[1].weight, net[1].bias, net[4].bias]
    assert {id(p) for p in free["params"]} == {id(p) for p in expected}
    train(task, batches())
    assert torch.equal(net[0].weight, before)
    assert not net.training


def test_bfloat16_trains_on_the_cpu():
    _, result = run(precision="bf16")
    assert np.isfinite(result.history.train_loss).all()


def test_several_inputs_reach_the_network():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(3, 1)

        def forward(self, x, present):
            return self.linear(x * present[:, None])

    data = [(x, torch.ones(6), y) for x, y in batches()]
    train(RegressionTask(Two(), mse), data, data, config())
    data = [[x, torch.ones(6), y] for x, y in batches()]
    train(RegressionTask(Two(), mse), data, data, config())


def test_two_different_configs_are_refused():
    task = RegressionTask(network(), mse, config=config())
    with pytest.raises(ValueError, match="config must be given"):
        train(task, batches(), None, config(seed=1))
    with pytest.raises(ValueError, match=r"names of metrics.*'loss'"):
        RegressionTask(network(), mse, {"loss": PixelRMSE()})


KILLED = """
import os, signal, sys
sys.path.insert(0, {here!r})
import torch
torch.set_num_threads(1)
from test_core import StopAt, run

class Kill(StopAt):
    def epoch(self, number, rank, ranks):
        for step, batch in enumerate(super().epoch(number, rank, ranks)):
            if (number, step) == (2, 1):
                {action}
            yield batch

try:
    run({folder!r}, Kill(-1, -1, RuntimeError))
except KeyboardInterrupt:
    print("interrupted")
"""


def start(folder: Path, action: str) -> subprocess.Popen:
    script = KILLED.format(
        here=str(Path(__file__).parent), folder=str(folder), action=action
    )
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_killed_and_resumed_is_uninterrupted_to_the_bit(tmp_path):
    process = start(tmp_path, "os.kill(os.getpid(), signal.SIGKILL)")
    _, errors = process.communicate(timeout=120)
    assert process.returncode == -signal.SIGKILL, errors
    assert (tmp_path / "last.ckpt").exists()
    assert_same(run(), run(tmp_path))


def test_ctrl_c_is_a_keyboard_interrupt(tmp_path):
    waiting = "open({!r}, 'w').close(); import time; time.sleep(60)"
    sign = tmp_path / "waiting"
    process = start(tmp_path / "run", waiting.format(str(sign)))
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
