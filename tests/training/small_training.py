"""A training of a fifth of a second, and a feed that says what was asked of it."""

import pytest
import torch
from torch import nn

from geobiomass.training import RegressionTask, TrainingConfig, train
from geobiomass.training.metrics import PixelRMSE

STEPS = 5
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


def batches(
    count: int = STEPS, seed: int = 0
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(count, 6, 3, generator=generator)
    return [(x, x.sum(1, keepdim=True)) for x in rows]


def jitter(inputs, target):
    return (inputs[0] + 0.1 * torch.randn_like(inputs[0]),), target


def config(**changes) -> TrainingConfig:
    plain = {"epochs": 4, "accelerator": "cpu", "progress": False}
    return TrainingConfig(**plain | changes)


class StopAt:
    """Batches that raise at one step of one epoch, as a feed.

    `asked` holds (epoch, start) of each call, `read` (epoch, step) of each batch.
    """

    def __init__(self, epoch: int, step: int, error: type[BaseException]) -> None:
        self.asked: list[tuple[int, int]] = []
        self.read: list[tuple[int, int]] = []
        self.place = epoch, step
        self.error = error

    def batches_per_epoch(self, ranks):
        return STEPS

    def epoch(self, number, rank, ranks, start=0):
        self.asked.append((number, start))
        order = torch.randperm(STEPS, generator=torch.Generator().manual_seed(number))
        for step in range(start, STEPS):
            if (number, step) == self.place:
                raise self.error("stop here")
            self.read.append((number, step))
            yield batches()[int(order[step])]


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
