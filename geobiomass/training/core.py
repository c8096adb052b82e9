"""The trainer that forest maps and pasture photos share; Lightning underneath.

It knows tensors only. A batch is (*inputs, target); the network is called with the
inputs and the loss with its prediction and the target.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback
from torch import nn

from .checkpoints import LAST, Keeper, Record, read_record, weights_file
from .interruption import Termination, heed_termination
from .progress_bar import ProgressBar
from .randomness import preserve_generators
from .settings import TrainingConfig
from .sharding import Batches, BatchSource, Shard
from .start import Start, read_start
from .task import RegressionTask
from .trainer import build_trainer, fit, quiet
from .weights import average_weights, load_weights

__all__ = ["BatchSource", "RegressionTask", "TrainingConfig", "TrainingResult", "train"]


@dataclass(frozen=True)
class TrainingResult:
    """What a training came to.

    Parameters
    ----------
    history
        A row an epoch: epoch (from 1), train_loss, validation_loss (NaN without
        validation), validation_<metric> for each metric, learning_rate (of the
        last step), seconds.
    epochs
        Epochs done in all, those of earlier calls included.
    best
        Weights of the best epoch (safetensors); None without validation or
        without a folder.
    last
        The checkpoint to resume from; None without a folder.
    kept
        All weights in the folder, those of the best epoch first.
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

    The same seed gives the same weights on the same CPU. Interrupted by anything
    and called again with the same folder, data and settings, the training ends
    with the bits of one that was not; it resumes at the step of the last
    checkpoint (`TrainingConfig.checkpoint_minutes`). A finished training is read
    and nothing is trained. The network ends on the CPU in evaluation mode.
    Torch's random generators are given back as they were.

    Parameters
    ----------
    task
        What to train.
    batches
        A list of batches, a DataLoader, or a `BatchSource`. With several processes each
        takes every n-th batch of a list and leaves out a remainder; a DataLoader
        is given a sampler by process, likewise; a feed divides itself. Resumed in
        mid-epoch, a list and a feed skip what was trained on, a DataLoader reads
        it again and drops it. A dataset with a generator of its own, or
        persistent workers that draw random numbers, cannot be resumed to the bit.
    validation
        The same for validation, where nothing is left out.
    config
        The settings; by default the task's.
    start
        The `last.ckpt` of a finished training of the same network: this one begins
        with its last weights, its optimiser's state and, where both have one, its
        moving average. The learning rate follows this training's own schedule from
        its first epoch; a feed's epochs and the random numbers of the steps count on
        from the other's, so that they do not repeat. Only what the file holds
        matters, not where it lies.
    given
        What decides about the weights besides the settings, by name: data, loss,
        augmentation. Plain values, as JSON has them. They are kept with the training,
        and one that goes on must have the same values under the same names.

    Returns
    -------
    TrainingResult
        History and files. The network holds the weights that `config.keep` names.

    Raises
    ------
    FloatingPointError
        A loss or a weight became NaN or infinite. The last good checkpoint stays.
    ValueError
        A setting does not fit the machine or the data, or the folder holds a
        training with other settings, network or data, or with something else
        `given`. More epochs than before
        are fine with a constant schedule: a cosine would have fallen otherwise.
    KeyboardInterrupt
        Ctrl-C; the last checkpoint stays.
    TrainingInterrupted
        SIGTERM, sent to any of the processes. All of them finish their step (in
        validation, their batch), and `last.ckpt` is written where there is a
        folder. Not caught, it ends the process with exit code 143; the first
        process says so in a sentence on stderr.
    """
    config = settle_config(task, config)
    with heed_termination() as stop, ExitStack() as stack:
        plan = Plan(batches, validation, config, stop, given, start)
        keeper = carry_out(task, plan, stack)
        return summarise(keeper, config)


@dataclass(frozen=True)
class Plan:
    """One training: what `train` is given, and what a stage is besides."""

    batches: Batches
    validation: Batches | None
    config: TrainingConfig
    stop: Termination
    given: Mapping[str, Any] | None = None
    start: str | Path | None = None
    name: str = ""

    @property
    def run(self) -> dict[str, Any]:
        """What decides about the weights, but for where training starts."""
        validated = self.validation is not None
        return run_of(self.config, self.given) | {"validation": validated}


def run_of(config: TrainingConfig, given: Mapping[str, Any] | None) -> dict[str, Any]:
    """Give what decides about the weights and is known before any data is read."""
    run = config.fingerprint()
    if given is not None:
        run["given"] = json.loads(json.dumps(dict(given)))
    return run


def carry_out(task: RegressionTask, plan: Plan, stack: ExitStack) -> Keeper:
    """Train, or continue; a temporary folder lasts as long as the stack."""
    config, start = plan.config, None
    rising = _monitored(task, config) if plan.validation is not None else {}
    run = plan.run | {"start": None}
    if plan.start is not None:
        start = read_start(Path(plan.start))
        run["start"] = start.place
    task.use(config)
    with quiet(), preserve_generators(config.device):
        folder, record = open_folder(task.network, config, run)
        keeper = Keeper(folder, record, config, rising, plan.stop)
        if record.epochs < config.epochs:
            _train(task, plan, keeper, start, stack)
        else:
            _restore(task, keeper, config)
    return keeper


def _train(
    task: RegressionTask,
    plan: Plan,
    keeper: Keeper,
    start: Start | None,
    stack: ExitStack,
) -> None:
    config, record = plan.config, keeper.record
    callbacks: list[Callback] = [keeper]
    if config.progress:
        callbacks.append(ProgressBar(config.epochs, record, plan.name))
    trainer = build_trainer(config, callbacks)
    if config.folder is None and trainer.global_rank == 0:
        keeper.folder = Path(tempfile.mkdtemp(prefix="training-"))
        stack.callback(shutil.rmtree, keeper.folder)
    if start is not None:
        task.follow(start, anew=record.begun == 0)
    shards = _share_out(plan, trainer, keeper, task.epochs_before)
    checkpoint = keeper.folder / LAST if record.begun else None
    fit(trainer, task, shards, checkpoint)
    _restore(task, keeper, config)
    trainer.strategy.barrier()


def settle_config(
    task: RegressionTask, config: TrainingConfig | None
) -> TrainingConfig:
    """Give the settings of the task or of the call, which must not differ."""
    if config is not None and task.config is not None and config != task.config:
        raise ValueError(
            "config must be given to the task or to train, or be the same: got "
            f"{task.config} and {config}"
        )
    return config or task.config or TrainingConfig()


def _monitored(task: RegressionTask, config: TrainingConfig) -> dict[str, bool]:
    """Name the monitored values and say whether high is best."""
    rising = {}
    for name in config.monitors:
        if name == "validation_loss":
            rising[name] = False
            continue
        if name not in task.metrics:
            names = ", ".join(["validation_loss", *task.metrics])
            raise ValueError(
                f"monitor of TrainingConfig must be one of {names}, got {name!r}"
            )
        direction = task.metrics[name].higher_is_better
        if direction is None:
            raise ValueError(
                f"monitor of TrainingConfig must have a best side, got {name!r}, whose "
                "higher_is_better is None"
            )
        rising[name] = bool(direction)
    return rising


def open_folder(
    network: nn.Module, config: TrainingConfig, run: dict[str, Any]
) -> tuple[Path, Record]:
    """Where to write, and what stands there from an earlier call."""
    # Without a folder the first process makes one and tells the others.
    folder = Path(config.folder).absolute() if config.folder is not None else Path()
    last = folder / LAST
    if config.folder is None or not config.resume or not last.is_file():
        return folder, Record(run)
    record, shapes = read_record(last)
    _check_run(record, run, last)
    _check_shapes(network, shapes, last)
    record.run |= run
    return folder, record


def _check_run(record: Record, run: dict[str, Any], path: Path) -> None:
    known, given = record.run.get("given", {}), run.get("given", {})
    before = {name: record.run.get(name) for name in run if name != "given"}
    now = {name: run[name] for name in before}
    # What one of them does not say is not compared.
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
            "anew, which removes what is there"
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
                "start anew"
            )


def _share_out(
    plan: Plan, trainer: Trainer, keeper: Keeper, before: int
) -> tuple[Shard, Shard | None]:
    seed, record = plan.config.seed, keeper.record
    training = Shard(
        plan.batches, trainer, seed, lambda: record.part.steps, before=before
    )
    if plan.validation is None:
        return training, None
    return training, Shard(plan.validation, trainer, seed, None)


def _restore(task: RegressionTask, keeper: Keeper, config: TrainingConfig) -> None:
    """Fill the network with the weights that the settings ask for."""
    kept = keeper.record.kept(config.keep_last)
    if config.keep == "average" and kept:
        files = [weights_file(keeper.folder, epoch) for epoch in kept]
        task.network.load_state_dict(average_weights(files))
    elif config.keep == "best" and keeper.record.best:
        load_weights(task.network, weights_file(keeper.folder, kept[0]))
    else:
        load_weights(task.network, keeper.folder / LAST)
    task.network.eval()


def summarise(keeper: Keeper, config: TrainingConfig) -> TrainingResult:
    """Collect the history, and the files where they stay."""
    record = keeper.record
    history = pd.DataFrame(record.history).astype({"epoch": int})
    if config.folder is None:
        return TrainingResult(history, record.epochs)
    files = tuple(
        weights_file(keeper.folder, epoch) for epoch in record.kept(config.keep_last)
    )
    return TrainingResult(
        history,
        record.epochs,
        best=files[0] if record.best else None,
        last=keeper.folder / LAST,
        kept=files,
    )
