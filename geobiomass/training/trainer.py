"""Lightning's trainer, and the processes that it starts."""

from __future__ import annotations

import atexit
import inspect
import logging
import signal
import subprocess
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.fabric.utilities.warnings import PossibleUserWarning
from lightning.pytorch import Trainer
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch.nn.parallel import DistributedDataParallel

from .interruption import TrainingInterrupted

if TYPE_CHECKING:
    from lightning.pytorch.callbacks import Callback

    from .settings import TrainingConfig
    from .sharding import Shard
    from .task import RegressionTask

__all__ = ["build_trainer", "fit", "quiet"]

_PRECISIONS = {"float32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}
Children = list[subprocess.Popen[bytes]]
# A later training in the same script works with the processes of the first one.
_started: list[Children] = []


def build_trainer(config: TrainingConfig, callbacks: list[Callback]) -> Trainer:
    """Build the trainer that these settings mean on this machine."""
    strategy: Any = config.strategy
    if strategy == "auto" and config.ranks > 1:
        strategy = _data_parallel(config.device)
    return Trainer(
        accelerator=config.device,
        devices=config.ranks,
        strategy=strategy,
        plugins=_cluster(),
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


def _cluster() -> SLURMEnvironment | None:
    # Lightning's requeueing saves within a signal's handler, to a place of its own.
    if SLURMEnvironment.detect() and not TorchElasticEnvironment.detect():
        return SLURMEnvironment(auto_requeue=False)
    return None


def _data_parallel(device: str) -> DDPStrategy:
    # Buffers are shared by the task, once an epoch: a broadcast with each forward
    # pass would hang in a validation of unequal lengths. PyTorch renamed the option.
    known = inspect.signature(DistributedDataParallel).parameters
    name = "forward_sync_buffers"
    option: dict[str, Any] = {name if name in known else "broadcast_buffers": False}
    backend = "gloo" if device == "cpu" else None
    return DDPStrategy(process_group_backend=backend, **option)


def fit(
    trainer: Trainer,
    task: RegressionTask,
    shards: tuple[Shard, Shard | None],
    checkpoint: Path | None,
) -> None:
    """Let Lightning train; what it started ends when training fails."""
    handler = signal.getsignal(signal.SIGINT)
    try:
        trainer.fit(task, *shards, ckpt_path=checkpoint)
    except BaseException as error:
        _keep_children(trainer)
        stopped = isinstance(error, TrainingInterrupted | SIGTERMException)
        _dismiss_children(patience=30 if stopped else 0)
        # Lightning turns Ctrl-C into an exit, which would end a notebook's cell
        # without a word and pass by the caller's own handling.
        interrupted = isinstance(error.__context__, KeyboardInterrupt)
        if isinstance(error, SystemExit) and interrupted:
            raise KeyboardInterrupt from None
        if isinstance(error, SIGTERMException):
            # Before its first step it handles the signal itself, and exits with 0.
            raise TrainingInterrupted("SIGTERM came before the first step") from None
        raise
    finally:
        # It also leaves Ctrl-C ignored.
        main = threading.current_thread() is threading.main_thread()
        if main and handler is not None:
            signal.signal(signal.SIGINT, handler)
    if children := _keep_children(trainer):
        atexit.register(_end_children, children, patience=60)


def _keep_children(trainer: Trainer) -> Children:
    children: Children = getattr(trainer.strategy.launcher, "procs", [])
    if children:
        _started.append(children)
    return children


def _dismiss_children(patience: float) -> None:
    """End the processes of all trainings, unseen by Lightning's watcher.

    It would take one that ends before us for a crash, and kill us.
    """
    dismissed = [child for children in _started for child in children]
    for children in _started:
        children.clear()
    _end_children(dismissed, patience)


def _end_children(children: Children, patience: float) -> None:
    """Wait for the other processes' scripts to end, and kill those that do not."""
    for child in children:
        try:
            child.wait(patience)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
    # Lightning's watcher would take a killed child for a crash and kill us.
    children.clear()


@contextmanager
def quiet() -> Iterator[None]:
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
