"""The trainer that forest maps and pasture photos share; Lightning underneath.

It knows tensors only. A batch is (*inputs, target); the network is called with the
inputs and the loss with its prediction and the target.
"""

from __future__ import annotations

import atexit
import inspect
import logging
import shutil
import signal
import subprocess
import tempfile
import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from lightning.fabric.utilities.warnings import PossibleUserWarning
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.strategies import DDPStrategy
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from .checkpoints import LAST, Keeper, Record, read_record, weights_file
from .feeds import Batches, Feed, Shard
from .progress import ProgressBar
from .randomness import preserve_generators
from .settings import TrainingConfig
from .task import RegressionTask
from .weights import load_weights

__all__ = ["Feed", "RegressionTask", "TrainingConfig", "TrainingResult", "train"]

_PRECISIONS = {"float32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}


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
        A list of batches, a DataLoader, or a `Feed`. With several processes each
        takes every n-th batch of a list and leaves out a remainder; a DataLoader
        is given a sampler by process, likewise; a feed divides itself. Resumed in
        mid-epoch, a list and a feed skip what was trained on, a DataLoader reads
        it again and drops it. A dataset with a generator of its own, or
        persistent workers that draw random numbers, cannot be resumed to the bit.
    validation
        The same for validation, where nothing is left out.
    config
        The settings; by default the task's.

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
        training with other settings, data or network. More epochs than before
        are fine with a constant schedule: a cosine would have fallen otherwise.
    KeyboardInterrupt
        Ctrl-C; the last checkpoint stays.
    """
    config = _settle_config(task, config)
    rising = _monitored(task, config) if validation is not None else {}
    run = config.fingerprint() | {"validation": validation is not None}
    task.use(config)
    with ExitStack() as stack:
        stack.enter_context(_quiet())
        stack.enter_context(preserve_generators(config.device))
        folder, record = _open_folder(task, config, run)
        keeper = Keeper(folder, record, config, rising)
        if record.epochs < config.epochs:
            trainer = _build_trainer(config, keeper)
            if config.folder is None and trainer.global_rank == 0:
                keeper.folder = Path(tempfile.mkdtemp(prefix="training-"))
                stack.callback(shutil.rmtree, keeper.folder)
            shards = _share_out(batches, validation, trainer, keeper)
            _fit(trainer, task, shards, folder / LAST if record.begun else None)
            _restore(task, keeper, config)
            trainer.strategy.barrier()
        else:
            _restore(task, keeper, config)
    return _result(keeper, config)


def _settle_config(
    task: RegressionTask, config: TrainingConfig | None
) -> TrainingConfig:
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


def _open_folder(
    task: RegressionTask, config: TrainingConfig, run: dict[str, Any]
) -> tuple[Path, Record]:
    """Where to write, and what stands there from an earlier call."""
    # Without a folder the first process makes one and tells the others.
    folder = Path(config.folder).absolute() if config.folder is not None else Path()
    last = folder / LAST
    if config.folder is None or not config.resume or not last.is_file():
        return folder, Record(run)
    record, shapes = read_record(last)
    _check_run(record, run, last)
    _check_shapes(task.network, shapes, last)
    record.run |= run
    return folder, record


def _check_run(record: Record, run: dict[str, Any], path: Path) -> None:
    before = {name: record.run.get(name) for name in run}
    now = dict(run)
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
            f"{'; '.join(changed)}. Give another folder, or resume=False to start anew"
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


def _build_trainer(config: TrainingConfig, keeper: Keeper) -> Trainer:
    strategy: Any = config.strategy
    if strategy == "auto" and config.ranks > 1:
        strategy = _data_parallel(config.device)
    callbacks: list[Callback] = [keeper]
    if config.progress:
        callbacks.append(ProgressBar(config.epochs, keeper.record))
    return Trainer(
        accelerator=config.device,
        devices=config.ranks,
        strategy=strategy,
        precision=_PRECISIONS[config.numbers],  # type: ignore[arg-type]
        max_epochs=config.epochs,
        gradient_clip_val=config.gradient_clip,
        callbacks=callbacks,
        num_sanity_val_steps=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )


def _data_parallel(device: str) -> DDPStrategy:
    # Buffers are shared by the task, once an epoch: a broadcast with each forward
    # pass would hang in a validation of unequal lengths. PyTorch renamed the option.
    known = inspect.signature(DistributedDataParallel).parameters
    name = "forward_sync_buffers"
    option: dict[str, Any] = {name if name in known else "broadcast_buffers": False}
    backend = "gloo" if device == "cpu" else None
    return DDPStrategy(process_group_backend=backend, **option)


def _share_out(
    batches: Batches,
    validation: Batches | None,
    trainer: Trainer,
    keeper: Keeper,
) -> tuple[Shard, Shard | None]:
    seed, record = keeper.config.seed, keeper.record
    training = Shard(batches, trainer, seed, lambda: record.part.steps)
    if validation is None:
        return training, None
    return training, Shard(validation, trainer, seed, None)


def _fit(
    trainer: Trainer,
    task: RegressionTask,
    shards: tuple[Shard, Shard | None],
    checkpoint: Path | None,
) -> None:
    handler = signal.getsignal(signal.SIGINT)
    try:
        trainer.fit(task, *shards, ckpt_path=checkpoint)
    except BaseException as error:
        _end_children(_children(trainer), patience=0)
        # Lightning turns Ctrl-C into an exit, which would end a notebook's cell
        # without a word and pass by the caller's own handling.
        interrupted = isinstance(error.__context__, KeyboardInterrupt)
        if isinstance(error, SystemExit) and interrupted:
            raise KeyboardInterrupt from None
        raise
    finally:
        # It also leaves Ctrl-C ignored.
        main = threading.current_thread() is threading.main_thread()
        if main and handler is not None:
            signal.signal(signal.SIGINT, handler)
    if children := _children(trainer):
        atexit.register(_end_children, children, patience=60)


def _children(trainer: Trainer) -> list[subprocess.Popen[bytes]]:
    return getattr(trainer.strategy.launcher, "procs", [])


def _end_children(children: list[subprocess.Popen[bytes]], patience: float) -> None:
    """Wait for the other processes' scripts to end, and kill those that do not."""
    for child in children:
        try:
            child.wait(patience)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
    # Lightning's watcher would take a killed child for a crash and kill us.
    children.clear()


def _restore(task: RegressionTask, keeper: Keeper, config: TrainingConfig) -> None:
    """Fill the network with the weights that the settings ask for."""
    file = keeper.folder / LAST
    if config.keep == "best" and keeper.record.best:
        file = weights_file(keeper.folder, keeper.record.kept(0)[0])
    load_weights(task.network, file)
    task.network.eval()


def _result(keeper: Keeper, config: TrainingConfig) -> TrainingResult:
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


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Lightning's advertisements and advice off the user's screen."""
    loggers = [logging.getLogger(f"lightning.{part}") for part in ("pytorch", "fabric")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PossibleUserWarning)
        # What Shard says of batches that were trained on before.
        warnings.filterwarnings("ignore", "train_dataloader yielded None", UserWarning)
        # Lightning 2.6 calls what PyTorch 2.15 is about to rename.
        warnings.filterwarnings("ignore", r".*\bLeafSpec\b", FutureWarning)
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
