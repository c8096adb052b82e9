"""Measurement of the seconds of a step, on a copy."""

import time

import pytest
import torch
from small_training import (
    NEVER,
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
from torch.utils.data import DataLoader, TensorDataset

from geobiomass.training import RegressionTask, TrainingConfig, measure_steps
from geobiomass.training.metrics import PixelRMSE


def make_task(net=None, **changes):
    net = net or network()
    return RegressionTask(net, mse, {"rmse": PixelRMSE()}, jitter, config(**changes))


@pytest.mark.parametrize("average", [None, 0.9])
def test_training_after_it_gives_the_same_bits(average):
    task, source = make_task(moving_average=average), StopAt(*NEVER)
    before = {name: value.clone() for name, value in task.network.state_dict().items()}
    state = torch.random.get_rng_state()
    assert measure_steps(task, source) > 0
    assert torch.equal(torch.random.get_rng_state(), state)
    for name, value in task.network.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert all(value.grad is None for value in task.network.parameters())
    assert task.average is None
    measured = run(source=source, task=task)
    assert_same(run(moving_average=average), measured)


def test_a_shuffled_loader_keeps_its_order():
    rows = TensorDataset(torch.arange(12.0)[:, None].expand(-1, 3), torch.zeros(12, 1))

    def order(measured):
        generator = torch.Generator().manual_seed(4)
        loader = DataLoader(rows, 2, shuffle=True, generator=generator)
        if measured:
            measure_steps(make_task(), loader, steps=2)
        return [x[:, 0].tolist() for x, _ in loader]

    assert order(measured=True) == order(measured=False)


class Slow(nn.Module):
    """Takes a second for its first step and a twentieth for each further one."""

    calls = 0

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(3, 1)

    def forward(self, x):
        Slow.calls += 1
        time.sleep(1.0 if Slow.calls == 1 else 0.05)
        return self.inner(x)


def test_the_first_step_does_not_count():
    Slow.calls = 0
    assert 0.05 <= measure_steps(make_task(Slow()), batches(2), steps=4) < 0.5
    assert Slow.calls == 5


class Reads:
    """A feed that reads ahead, and says what was asked and whether it was closed."""

    def __init__(self):
        self.read, self.closed = 0, False

    def batches_per_epoch(self, ranks):
        return 100

    def epoch(self, number, rank, ranks, start=0):
        assert (number, rank, ranks, start) == (0, 0, 1, 0)
        try:
            for _ in range(100):
                self.read += 1
                yield batches(1)[0]
        finally:
            self.closed = True


def test_it_reads_only_what_it_needs_and_closes_the_feed():
    source = Reads()
    measure_steps(make_task(), source, steps=2)
    assert source.read == 3
    assert source.closed


def test_prepare_and_precision_are_those_of_training():
    seen = []

    class Typed(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(3, 1)

        def forward(self, x):
            result = self.inner(x)
            seen.append((x.dtype, result.dtype))
            return result

    def decode(inputs, target):
        return (inputs[0].float() / 100,), target

    codes = [((x * 100).to(torch.int16), y) for x, y in batches(2)]
    task = RegressionTask(
        Typed(),
        lambda prediction, target: mse(prediction.float(), target),
        prepare=decode,
    )
    plan = TrainingConfig(accelerator="cpu", precision="bf16")
    measure_steps(task, codes, plan, steps=1)
    assert seen == [(torch.float32, torch.bfloat16)] * 2


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="steps of measure_steps must be 1 or more"):
        measure_steps(make_task(), batches(), steps=0)
    with pytest.raises(ValueError, match="at least one, got none from list"):
        measure_steps(make_task(), [])
