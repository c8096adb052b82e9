"""Training of a network, shared by forest maps and pasture photos; it uses Lightning.

A batch is (*inputs, target): tensors only. The network is called with the inputs, the
loss with the network's prediction and the target.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback
from torch import nn

from .checkpoint_checks import (
    check_kept_weights,
    check_whole,
    warn_of_lost_checkpoint,
)
from .checkpoint_record import LAST, Record, read_training_record, weights_file
from .checkpoints import CheckpointWriter
from .interruption import Termination, defer_termination
from .kept_folder import kept_if_interrupted
from .progress_bar import ProgressBar
from .randomness import preserve_generators
from .settings import TrainingConfig
from .sharding import Batches, Shard
from .start import Start, read_start
from .task import RegressionTask
from .trainer import build_trainer, fit, silence_lightning
from .weights import average_weights, load_weights, read_checkpoint

__all__ = ["TrainingResult", "train"]


@dataclass(frozen=True)
class TrainingResult:
    """Result of a training: history and files.

    Parameters
    ----------
    history
        One row per epoch: epoch (from 1), train_loss, validation_loss (NaN without
        validation), validation_<metric> for each metric, learning_rate (of the
        last step), seconds.
    epochs
        Number of epochs, including earlier calls.
    best
        File of the best epoch's weights (safetensors); None without validation or
        without a folder.
    last
        The checkpoint to resume from; None without a folder.
    kept
        Files of all weights in the folder, the best epoch first.
    """

    history: pd.DataFrame
    epochs: int
    best: Path | None = None
    last: Path | None = None
    kept: tuple[Path, ...] = ()


def train(
    task: RegressionTask,
    batches: Batches,
    validation: Batches | None = None,
    config: TrainingConfig | None = None,
    *,
    start: str | Path | None = None,
    given: Mapping[str, Any] | None = None,
) -> TrainingResult:
    """Train a task's network, or continue a training that was interrupted.

    The same seed gives the same weights on the same CPU. If a training is interrupted
    and `train` is called again with the same folder, data and settings, it resumes at
    the step of the last checkpoint (`TrainingConfig.checkpoint_minutes`) and ends with
    the same bits as a training without an interruption. A finished training is only
    read. Afterwards the network is on the CPU, in evaluation mode, and torch's random
    generators are in their earlier state.

    Parameters
    ----------
    task
        The task to train.
    batches
        A list of batches, a DataLoader, or a `BatchSource`. With several processes,
        each takes every n-th batch of a list, and a remainder is left out; a
        DataLoader gets one sampler per process, in the same way; a BatchSource divides
        its batches itself. When an epoch is resumed, a list and a BatchSource skip the
        batches that were trained on; a DataLoader reads them again and drops them. A
        dataset with its own generator, or persistent workers that draw random numbers,
        cannot be resumed to the same bits.
    validation
        The same for validation, where nothing is left out.
    config
        The settings; by default the task's.
    start
        The `last.ckpt` of a finished training of the same network. This training
        starts with its last weights, its optimiser's state and, if both have one, its
        moving average. The learning rate follows this training's own schedule from
        its first epoch. Epochs of a BatchSource and the random numbers of the steps
        continue those of the finished training, so that they do not repeat. The path
        of the file does not matter, only its content.
    given
        Everything else that affects the weights, by name: data, loss, augmentation.
        Plain values, fit for JSON. They are saved with the training; to continue it,
        the same names must have the same values.

    Returns
    -------
    TrainingResult
        History and files. The network has the weights that `config.keep` names.

    Raises
    ------
    FloatingPointError
        If a loss or a weight becomes NaN or infinite. The last good checkpoint is kept.
    ValueError
        If a setting does not fit the machine or the data, or the folder contains a
        training with other settings, another network, other data, or other `given`
        values. More epochs than before are possible with a constant schedule only,
        since a cosine depends on the number of epochs.
    KeyboardInterrupt
        On Ctrl-C, between two steps at once, otherwise at the end of the step or when
        it comes twice. The last step is kept, also without a folder: the message names
        it.
    TrainingInterrupted
        On SIGTERM, sent to any of the processes. All of them finish their step (in
        validation, their batch), and write `last.ckpt` if there is a folder. If it is
        not caught, it ends the process with exit code 143; the first process prints
        one sentence on stderr.
    """
    config = choose_config(task, config)
    with defer_termination() as stop, ExitStack() as stack:
        plan = Plan(batches, validation, config, stop, given, start)
        writer = run_training(task, plan, stack)
        return summarise(writer, config)


@dataclass(frozen=True)
class Plan:
    """Arguments of one training, and the name of its stage."""

    batches: Batches
    validation: Batches | None
    config: TrainingConfig
    stop: Termination
    given: Mapping[str, Any] | None = None
    start: str | Path | None = None
    name: str = ""

    @property
    def run(self) -> dict[str, Any]:
        """Everything that affects the weights, except the start of the training."""
        validated = self.validation is not None
        return run_of(self.config, self.given) | {"validation": validated}


def run_of(config: TrainingConfig, given: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return what affects the weights and is known before any data is read."""
    run = config.fingerprint()
    if given is not None:
        run["given"] = json.loads(json.dumps(dict(given)))
    return run


def run_training(
    task: RegressionTask, plan: Plan, stack: ExitStack
) -> CheckpointWriter:
    """Train, or continue; the stack deletes a temporary folder."""
    config, start = plan.config, None
    monitored = _monitored(task, config) if plan.validation is not None else {}
    run = plan.run | {"start": None}
    if plan.start is not None:
        start = read_start(Path(plan.start))
        run["start"] = start.identity
    task.set_up(config)
    with silence_lightning(), preserve_generators(config.device):
        folder, record = open_folder(task.network, config, run)
        writer = CheckpointWriter(folder, record, config, monitored, plan.stop)
        if record.epochs < config.epochs:
            _train(task, plan, writer, start, stack)
        else:
            load_kept_weights(task.network, writer.record, writer.folder, config)
    return writer


def _train(
    task: RegressionTask,
    plan: Plan,
    writer: CheckpointWriter,
    start: Start | None,
    stack: ExitStack,
) -> None:
    config, record = plan.config, writer.record
    callbacks: list[Callback] = [writer]
    if config.progress:
        callbacks.append(ProgressBar(config.epochs, record, plan.name))
    trainer = build_trainer(config, callbacks)
    if trainer.global_rank == 0:
        given = None if config.folder is None else writer.folder
        keeper = kept_if_interrupted(given, whole_call=False)
        writer.folder = stack.enter_context(keeper)
    if start is not None:
        task.continue_from(start, restore=record.begun == 0)
    shards = _make_shards(plan, trainer, writer, task.epochs_before)
    checkpoint = writer.folder / LAST if record.begun else None
    if checkpoint is not None:
        read_checkpoint(checkpoint)  # what Lightning would say names no file
    fit(trainer, task, shards, checkpoint)
    load_kept_weights(task.network, writer.record, writer.folder, config)
    trainer.strategy.barrier()


def choose_config(
    task: RegressionTask, config: TrainingConfig | None
) -> TrainingConfig:
    """Return the settings of the task or of the call, which must not differ."""
    if config is not None and task.config is not None and config != task.config:
        raise ValueError(
            "config must be given to the task or to train, or be the same: got "
            f"{task.config} and {config}"
        )
    return config or task.config or TrainingConfig()


def _monitored(task: RegressionTask, config: TrainingConfig) -> dict[str, bool]:
    """Return for each monitored value whether high is best."""
    higher_is_better = {}
    for name in config.monitors:
        if name == "validation_loss":
            higher_is_better[name] = False
            continue
        if name not in task.metrics:
            names = ", ".join(["validation_loss", *task.metrics])
            raise ValueError(
                f"monitor of TrainingConfig must be one of {names}, got {name!r}"
            )
        direction = task.metrics[name].higher_is_better
        if direction is None:
            raise ValueError(
                f"monitor of TrainingConfig must be a metric with higher_is_better "
                f"True or False, got {name!r}, whose higher_is_better is None"
            )
        higher_is_better[name] = bool(direction)
    return higher_is_better


def open_folder(
    network: nn.Module, config: TrainingConfig, run: dict[str, Any]
) -> tuple[Path, Record]:
    """Return the folder to write to, and the record of an earlier call in it."""
    # Without a folder, the first process makes a temporary one and shares its name.
    folder = Path(config.folder).absolute() if config.folder is not None else Path()
    last = folder / LAST
    if config.folder is None or not config.resume:
        return folder, Record(run)
    if not last.is_file():
        warn_of_lost_checkpoint(folder)
        return folder, Record(run)
    record, shapes = read_training_record(last)
    check_whole(last)
    check_kept_weights(record, folder, _needed(record, config))
    _check_run(record, run, last)
    _check_shapes(network, shapes, last)
    record.run |= run
    return folder, record


def _needed(record: Record, config: TrainingConfig) -> list[int]:
    """Return the epochs whose weights the network has at the end."""
    kept = record.kept(config.keep_last)
    if config.keep == "best":
        return kept[:1] if record.best else []
    return kept if config.keep == "average" else []


def _check_run(record: Record, run: dict[str, Any], path: Path) -> None:
    known, given = record.run.get("given", {}), run.get("given", {})
    before = {name: record.run.get(name) for name in run if name != "given"}
    now = {name: run[name] for name in before}
    # A name that only one of the two calls has is not compared.
    for name in [name for name in given if name in known]:
        before[name], now[name] = known[name], given[name]
    if (
        run["schedule"] == before["schedule"] == "constant"
        and run["epochs"] >= record.begun
    ):
        del before["epochs"], now["epochs"]
    changed = [
        f"{name} was {before[name]!r} and is {now[name]!r}"
        for name in now
        if before[name] != now[name]
    ]
    if changed:
        raise ValueError(
            f"settings must be those of the training in {path}, got others: "
            f"{'; '.join(changed)}. Give another folder, or resume=False to start "
            "again, which removes the checkpoints in it"
        )


def _check_shapes(
    network: nn.Module, shapes: Mapping[str, tuple[int, ...]], path: Path
) -> None:
    own = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    for name in [*own, *shapes]:
        if own.get(name) != shapes.get(name):
            raise ValueError(
                f"network must be the one of the training in {path}, got another: "
                f"{name} was {shapes.get(name, 'missing')} and is "
                f"{own.get(name, 'missing')}. Give another folder, or resume=False to "
                "start again"
            )


def _make_shards(
    plan: Plan, trainer: Trainer, writer: CheckpointWriter, before: int
) -> tuple[Shard, Shard | None]:
    seed, record = plan.config.seed, writer.record
    training = Shard(
        plan.batches, trainer, seed, lambda: record.part.steps, before=before
    )
    if plan.validation is None:
        return training, None
    return training, Shard(plan.validation, trainer, seed, None)


def load_kept_weights(
    network: nn.Module, record: Record, folder: Path, config: TrainingConfig
) -> None:
    """Load the weights that `config.keep` names into the network."""
    needed = _needed(record, config)
    check_kept_weights(record, folder, needed)
    files = [weights_file(folder, epoch) for epoch in needed]
    if config.keep == "average" and files:
        network.load_state_dict(average_weights(files))
    elif files:
        load_weights(network, files[0])
    else:
        load_weights(network, folder / LAST)
    network.eval()


def summarise(writer: CheckpointWriter, config: TrainingConfig) -> TrainingResult:
    """Return the history, and the files unless they are temporary."""
    record = writer.record
    history = pd.DataFrame(record.history).astype({"epoch": int})
    if config.folder is None:
        return TrainingResult(history, record.epochs)
    files = tuple(
        weights_file(writer.folder, epoch) for epoch in record.kept(config.keep_last)
    )
    return TrainingResult(
        history,
        record.epochs,
        best=files[0] if record.best else None,
        last=writer.folder / LAST,
        kept=files,
    )
