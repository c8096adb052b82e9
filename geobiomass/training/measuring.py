"""Measurement of the seconds of a training step on this machine."""

from __future__ import annotations

import copy
import dataclasses
import statistics
import time
from collections.abc import Generator, Iterator
from itertools import cycle, islice
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch.utils.data import DataLoader

from .randomness import Purpose, derive_seed, preserve_generators, seed_generators
from .settings import TrainingConfig
from .sharding import Batch, Batches, BatchSource, Shard
from .task import RegressionTask
from .trainer import build_trainer, fit, silence_lightning

__all__ = ["measure_steps"]


def measure_steps(
    task: RegressionTask,
    batches: Batches,
    config: TrainingConfig | None = None,
    steps: int = 3,
) -> float:
    """Measure the seconds of a training step on this machine.

    A copy of the task is trained for some steps, by the same trainer and from batches
    in memory. A step moves the batch to the device, and includes the forward and the
    backward pass, the optimiser and the moving average. It does not include reading,
    validation, checkpoints, and the exchange of gradients between processes. The task
    and torch's random generators are not changed: a training afterwards gives the same
    bits as without the measurement.

    Parameters
    ----------
    task
        The task that will be trained.
    batches
        Its batches; up to `steps` + 1 batches of the first epoch are read and held in
        memory. The persistent workers of a DataLoader are started.
    config
        The settings; by default the task's.
    steps
        Number of steps to measure, after a first one that does not count.

    Returns
    -------
    float
        The median, seconds.

    Raises
    ------
    ValueError
        If `steps` is below 1, there is no batch, or a setting does not fit the machine.
    FloatingPointError
        If a loss is NaN or infinite, as in training.
    """
    if steps < 1:
        raise ValueError(f"steps of measure_steps must be 1 or more, got {steps}")
    config = config or task.config or TrainingConfig()
    # One process and one device, whatever the training will have.
    alone = dataclasses.replace(config, devices=1, strategy="auto")
    with silence_lightning(), preserve_generators(config.device):
        seed = derive_seed(config.seed, Purpose.STEP, 0, 0)
        seed_generators(seed, torch.device(config.device))
        some = _first_batches(batches, steps + 1)
        repeated = list(islice(cycle(some), steps + 1))
        clock = _Clock()
        trainer = build_trainer(alone, [clock], max_steps=steps + 1)
        shard = Shard(repeated, trainer, config.seed, lambda: 0)
        fit(trainer, _copy_of(task, config), (shard, None), None)
    return statistics.median(clock.seconds[1:])


def _copy_of(task: RegressionTask, config: TrainingConfig) -> RegressionTask:
    parts = (task.network, task.loss, task.augment, task.prepare)
    network, loss, augment, prepare = copy.deepcopy(parts)
    return RegressionTask(
        network,
        loss,
        augment=augment,
        config=config,
        prepare=prepare,
        frozen=task.frozen,
    )


class _Clock(Callback):
    """Stopwatch of the steps of a trainer."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._last = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._last = _now(trainer)

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        now = _now(trainer)
        self.seconds.append(now - self._last)
        self._last = now


def _now(trainer: Trainer) -> float:
    device = trainer.strategy.root_device
    if device.type == "cuda":  # its work is queued
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _first_batches(source: Batches, count: int) -> list[Batch]:
    """Read batches of the first epoch, and leave the source as it was."""
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
        # A data loader that reads ahead stops when its generator is closed.
        if isinstance(epoch, Generator):
            epoch.close()
