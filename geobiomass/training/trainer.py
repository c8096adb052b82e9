"""Trainer of Lightning, and the processes that it starts."""

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

from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
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

__all__ = ["build_trainer", "fit", "silence_lightning"]

_PRECISIONS = {"float32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}
Children = list[subprocess.Popen[bytes]]
# A later training in the same script uses the processes of the first one.
_started: list[Children] = []


def build_trainer(
    config: TrainingConfig, callbacks: list[Callback], max_steps: int = -1
) -> Trainer:
    """Build the trainer of these settings on this machine.

    With `max_steps` it stops after this number of steps, and works in this process
    only, even if other processes train too.
    """
    strategy: Any = config.strategy
    cluster = _cluster() if max_steps < 0 else LightningEnvironment()
    if strategy == "auto" and config.ranks > 1:
        strategy = _data_parallel(config.device)
    return Trainer(
        accelerator=config.device,
        devices=config.ranks,
        strategy=strategy,
        plugins=cluster,
        precision=_PRECISIONS[config.numbers],  # type: ignore[arg-type]
        max_epochs=config.epochs,
        max_steps=max_steps,
        gradient_clip_val=config.gradient_clip,
        callbacks=callbacks,
        num_sanity_val_steps=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )


def _cluster() -> ClusterEnvironment | None:
    # When Lightning requeues a job, it saves its own checkpoint within a signal's
    # handler. We save at the end of the step.
    if SLURMEnvironment.detect() and not TorchElasticEnvironment.detect():
        return SLURMEnvironment(auto_requeue=False)
    return None


def _data_parallel(device: str) -> DDPStrategy:
    # The task broadcasts buffers, once per epoch. A broadcast with each forward pass
    # would hang in a validation of unequal lengths. PyTorch renamed the option.
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
    """Train with Lightning; end the processes that it started if training fails."""
    handler = signal.getsignal(signal.SIGINT)
    try:
        trainer.fit(task, *shards, ckpt_path=checkpoint)
    except BaseException as error:
        _keep_children(trainer)
        stopped = isinstance(error, TrainingInterrupted | SIGTERMException)
        _end_all_children(patience=30 if stopped else 0)
        # Lightning turns Ctrl-C into an exit, which would end a notebook's cell
        # without a message, and which no caller can catch as a KeyboardInterrupt. The
        # caller says what is kept.
        interrupted = isinstance(error.__context__, KeyboardInterrupt)
        if isinstance(error, SystemExit) and interrupted:
            raise KeyboardInterrupt from None
        if isinstance(error, SIGTERMException):
            # Before the first step Lightning handles the signal, and exits with 0.
            raise TrainingInterrupted("SIGTERM came before the first step") from None
        raise
    finally:
        # Lightning also leaves Ctrl-C ignored.
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


def _end_all_children(patience: float) -> None:
    """End the processes of all trainings, which Lightning's watcher must not see.

    The watcher takes a process that ends before this one for a crash, and kills this
    one.
    """
    ending = [child for children in _started for child in children]
    for children in _started:
        children.clear()
    _end_children(ending, patience)


def _end_children(children: Children, patience: float) -> None:
    """Wait until the other processes end, and kill those that do not."""
    for child in children:
        try:
            child.wait(patience)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
    # Lightning's watcher takes a killed child for a crash, and kills this process.
    children.clear()


@contextmanager
def silence_lightning() -> Iterator[None]:
    """Hide the advertisements and the advice of Lightning."""
    loggers = [logging.getLogger(f"lightning.{part}") for part in ("pytorch", "fabric")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PossibleUserWarning)
        # Shard yields None for batches that an earlier call trained on.
        warnings.filterwarnings("ignore", "train_dataloader yielded None", UserWarning)
        # Lightning 2.6 uses a name that PyTorch 2.15 deprecates.
        warnings.filterwarnings("ignore", r".*\bLeafSpec\b", FutureWarning)
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
