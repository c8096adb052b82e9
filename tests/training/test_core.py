import math

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from small_training import (
    StopAt,
    assert_same,
    batches,
    config,
    mse,
    network,
    one_thread,  # noqa: F401  (a fixture for every test here)
    run,
)
from torch import nn

from geobiomass.training import RegressionTask, average_weights, train
from geobiomass.training.metrics import Bias, PixelRMSE
from geobiomass.training.weights import load_weights, read_weights


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


@pytest.mark.parametrize("validated", [True, False])
def test_kept_weights_can_be_averaged(tmp_path, validated):
    plan = {"epochs": 6, "keep": "average", "keep_best": 3, "keep_last": 2}
    held = {} if validated else {"validation": []}
    weights, result = run(tmp_path, **plan, **held)
    assert len(result.kept) > (2 if validated else 1)
    # Of another run, in a folder that does not outlive it, the same.
    again, _ = run(**plan, **held)
    files = [load_file(path) for path in result.kept]
    for name, value in weights.items():
        assert value.equal(again[name])
        if value.is_floating_point():
            mean = torch.stack([file[name].double() for file in files]).mean(0)
            torch.testing.assert_close(value, mean.float())
    assert not weights["0.weight"].equal(files[0]["0.weight"])


@pytest.mark.parametrize(
    ("monitor", "message"),
    [("validation_r2", "validation_r2"), ("validation_bias", "True or False")],
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
    task.set_up(task.config)
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


def test_batches_are_prepared_in_training_before_augment_and_in_validation():
    seen = []

    def prepare(inputs, target):
        codes, present = inputs
        seen.append((codes.dtype, present.dtype, target.dtype, type(inputs)))
        return (codes / 100,), target.float()

    def augment(inputs, target):
        (x,) = inputs
        assert x.dtype == torch.float32
        seen.append("augment")
        return (-x,), -target

    def stored(count, seed):
        codes = [(100 * x).to(torch.int16) for x, _ in batches(count, seed)]
        present = torch.ones(6, dtype=torch.bool)
        return [(x, present, x.sum(1, keepdim=True) // 100) for x in codes]

    def physical(count, seed, sign):
        data = stored(count, seed)
        return [(sign * (x / 100), sign * y.float()) for x, _, y in data]

    plan = config(epochs=1)
    task = RegressionTask(network(), mse, None, augment, plan, prepare)
    result = run(task=task, source=stored(5, 0), validation=stored(2, 9))
    plain = RegressionTask(network(), mse, config=plan)
    expected = run(task=plain, source=physical(5, 0, -1), validation=physical(2, 9, 1))
    assert_same(expected, (task.network.state_dict(), result[1]))
    as_stored = (torch.int16, torch.bool, torch.int64, tuple)
    assert seen == [as_stored, "augment"] * 5 + [as_stored] * 2


def test_two_different_configs_are_refused():
    task = RegressionTask(network(), mse, config=config())
    with pytest.raises(ValueError, match="config must be given"):
        train(task, batches(), None, config(seed=1))
    with pytest.raises(ValueError, match=r"names of metrics.*'loss'"):
        RegressionTask(network(), mse, {"loss": PixelRMSE()})
