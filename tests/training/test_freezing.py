"""A frozen part of a network keeps its bits, and learns in the epochs it may."""

import pytest
import torch
from small_training import (
    NEVER,
    STEPS,
    StopAt,
    assert_same,
    config,
    jitter,
    mse,
    one_thread,  # noqa: F401  (a fixture for every test here)
    run,
)
from torch import nn

from geobiomass.training import RegressionTask, measure_steps, train
from geobiomass.training.freezing import Frozen
from geobiomass.training.metrics import PixelRMSE


def make_task(frozen: Frozen | None, **changes) -> RegressionTask:
    torch.manual_seed(7)
    network = nn.Sequential()
    network.add_module(
        "encoder", nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Dropout(0.3))
    )
    network.add_module("head", nn.Sequential(nn.BatchNorm1d(8), nn.Linear(8, 1)))
    changes = {"keep": "last"} | changes
    return RegressionTask(
        network, mse, {"rmse": PixelRMSE()}, jitter, config(**changes), frozen=frozen
    )


def changed(task: RegressionTask, train_it=run) -> set[str]:
    before = {name: v.clone() for name, v in task.network.state_dict().items()}
    train_it(task=task)
    after = task.network.state_dict()
    return {name for name, value in after.items() if not value.equal(before[name])}


HEAD = {f"head.{name}" for name in ("0.weight", "0.bias", "1.weight", "1.bias")}
HEAD |= {f"head.0.{n}" for n in ("running_mean", "running_var", "num_batches_tracked")}


@pytest.mark.parametrize("average", [None, 0.9])
def test_a_frozen_part_keeps_weights_and_statistics_to_the_bit(average) -> None:
    task = make_task(Frozen("encoder"), moving_average=average)
    assert changed(task) == HEAD
    task = make_task(Frozen("encoder", None, ("0.weight",)), moving_average=average)
    assert changed(task) == HEAD | {"encoder.0.weight"}
    # The optimiser has no more than what learns, and a later training learns all.
    sizes = [g["params"] for g in task.configure_optimizers().param_groups]
    assert sum(map(len, sizes)) == 8
    assert all(weight.requires_grad for weight in task.network.parameters())
    everything = set(task.network.state_dict())
    assert changed(make_task(None)) == everything


def test_a_part_is_frozen_in_its_first_epochs_only(tmp_path) -> None:
    frozen = Frozen("encoder", 2)
    assert changed(make_task(frozen, epochs=2)) == HEAD
    seen = []

    class Look(StopAt):
        def epoch(self, number, rank, ranks, start=0):
            for batch in super().epoch(number, rank, ranks, start):
                part = task.network.get_submodule("encoder")
                seen.append((number, part.training, part[0].weight.requires_grad))
                yield batch

    task = make_task(frozen)
    whole = run(source=Look(*NEVER), task=task)
    # Batches are asked for one ahead, so the first of an epoch is not counted.
    first = [(n, mode, learns) for n, mode, learns in seen[1:] if n < 2]
    assert set(first) == {(0, False, False), (1, False, False)}
    assert {(mode, learns) for n, mode, learns in seen if n == 3} == {(True, True)}
    before = make_task(None).network.state_dict()
    assert not whole[0]["encoder.0.weight"].equal(before["encoder.0.weight"])
    # Interrupted in a frozen and in a later epoch, it ends with the same bits.
    for place in ((1, 2), (2, 3)):
        folder = tmp_path / str(place[0])
        with pytest.raises(KeyboardInterrupt):
            run(
                source=StopAt(*place, KeyboardInterrupt),
                task=make_task(frozen, folder=folder),
            )
        assert_same(whole, run(task=make_task(frozen, folder=folder)))


def test_frozen_for_a_part_needs_one_process_and_is_timed_as_it_is() -> None:
    task = make_task(Frozen("encoder", 2), devices=2)
    with pytest.raises(ValueError, match="got 2 processes; freeze it for all epochs"):
        train(task, StopAt(*NEVER))
    frozen = make_task(Frozen("encoder"))
    before = {name: v.clone() for name, v in frozen.network.state_dict().items()}
    assert measure_steps(frozen, StopAt(*NEVER), steps=STEPS - 1) > 0
    assert all(v.equal(before[n]) for n, v in frozen.network.state_dict().items())
