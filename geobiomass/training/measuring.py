"""How long a step of a training takes on this machine, before it begins."""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Generator, Iterator
from itertools import cycle, islice
from typing import Any

import torch
from lightning.fabric.utilities import move_data_to_device
from torch import Tensor, nn
from torch.utils.data import DataLoader

from .randomness import Purpose, derive_seed, preserve_generators, seed_generators
from .settings import TrainingConfig
from .sharding import Batch, Batches, BatchSource
from .task import RegressionTask, make_optimizer
from .weights import MovingAverage

__all__ = ["measure_steps"]

_TYPES = {"float32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def measure_steps(
    task: RegressionTask,
    batches: Batches,
    config: TrainingConfig | None = None,
    steps: int = 3,
) -> float:
    """Measure the seconds of a training step on this machine.

    A step goes forward and backward through the network, steps the optimiser and
    the moving average, from a batch in memory; reading, validation, checkpoints and
    the exchange of gradients between processes come on top. It is done on copies:
    training afterwards gives the bits that it would have given before.

    Parameters
    ----------
    task
        What will be trained.
    batches
        What it will be trained on; up to `steps` + 1 batches of the first epoch are
        read and held in memory. Of a DataLoader with persistent workers these are
        started.
    config
        The settings; by default the task's.
    steps
        Steps to measure, after a first one that does not count.

    Returns
    -------
    float
        The median, seconds.

    Raises
    ------
    ValueError
        `steps` is below 1, there is no batch, or a setting does not fit the machine.
    """
    if steps < 1:
        raise ValueError(f"steps of measure_steps must be 1 or more, got {steps}")
    config = config or task.config or TrainingConfig()
    device = torch.device(config.device)
    with preserve_generators(config.device):
        seed_generators(derive_seed(config.seed, Purpose.STEP, 0, 0), device)
        some = _first_batches(batches, steps + 1)
        trial = _Trial(task, config, device)
        times = [trial.step(batch) for batch in islice(cycle(some), steps + 1)]
    return statistics.median(times[1:])


class _Trial:
    """A copy of a task's network that learns, and is thrown away."""

    def __init__(
        self, task: RegressionTask, config: TrainingConfig, device: torch.device
    ) -> None:
        parts = (task.network, task.loss, task.augment, task.prepare)
        self.network: nn.Module
        self.network, self.loss, self.augment, self.prepare = copy.deepcopy(parts)
        self.network.to(device).train()
        self.device = device
        self.type = _TYPES[config.numbers]
        self.clip = config.gradient_clip
        self.optimizer = make_optimizer(self.network, config)
        self.scaler = torch.amp.GradScaler(
            device.type, enabled=self.type == torch.float16
        )
        decay = config.moving_average
        self.average = None if decay is None else MovingAverage(self.network, decay)

    def step(self, batch: Batch) -> float:
        """Learn from a batch; give the seconds it took."""
        self._wait()
        begin = time.perf_counter()
        self.optimizer.zero_grad()
        self.scaler.scale(self._loss(batch)).backward()  # type: ignore[no-untyped-call]
        if self.clip is not None:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.network.parameters(), self.clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.average is not None:
            self.average.update(self.network)
        self._wait()
        return time.perf_counter() - begin

    def _loss(self, batch: Batch) -> Tensor:
        *inputs, target = move_data_to_device(batch, self.device)
        given: tuple[Any, ...] = tuple(inputs)
        with torch.autocast(
            self.device.type, self.type, enabled=self.type != torch.float32
        ):
            for change in (self.prepare, self.augment):
                if change is not None:
                    given, target = change(given, target)
            return self.loss(self.network(*given), target)

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def _first_batches(source: Batches, count: int) -> list[Batch]:
    """Read batches of the first epoch, leaving the source as it was."""
    generators = []
    if isinstance(source, DataLoader):
        owners = (source, source.sampler)
        found = [getattr(owner, "generator", None) for owner in owners]
        generators = [(each, each.get_state()) for each in found if each is not None]
    try:
        some = list(_read(source, count))
    finally:
        for generator, state in generators:
            generator.set_state(state)
    if not some:
        raise ValueError(
            f"batches of measure_steps must hold at least one, got none from "
            f"{type(source).__name__}"
        )
    return some


def _read(source: Batches, count: int) -> Iterator[Batch]:
    if not isinstance(source, BatchSource):
        yield from islice(source, count)
        return
    epoch = source.epoch(0, 0, 1)
    try:
        yield from islice(epoch, count)
    finally:
        # A feed that reads ahead stops when its generator is closed.
        if isinstance(epoch, Generator):
            epoch.close()
