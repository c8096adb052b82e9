"""Lightning callback that writes the checkpoints and the history of a training.

Files are written under another name first and then renamed, ``last.ckpt`` after the
weights that it lists. If a process is killed in between, the steps after the last
checkpoint are repeated, to the same bits.
"""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch.callbacks import Callback

from .checkpoint_record import FORMAT, LAST, Record, weights_file
from .checksums import crc32c_of_file
from .interruption import Termination, TrainingInterrupted
from .kept_folder import describe_progress
from .settings import TrainingConfig
from .weights import save_weights

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer

    from .task import RegressionTask

__all__ = ["CheckpointWriter"]

_WEIGHTS = "epoch-*.safetensors"


class CheckpointWriter(Callback):
    """Writer of checkpoints, of each epoch's weights and of its row of the history.

    Parameters
    ----------
    folder
        The folder to write to.
    record
        The record of earlier calls; empty for a new training.
    config
        The settings of the training.
    higher_is_better
        For each monitored value whether high is best; empty without validation.
    stop
        Whether this process has received SIGTERM or SIGINT.
    """

    def __init__(
        self,
        folder: Path,
        record: Record,
        config: TrainingConfig,
        higher_is_better: Mapping[str, bool],
        stop: Termination,
    ) -> None:
        self.folder = folder
        self.record = record
        self.config = config
        self._higher_is_better = higher_is_better
        self._stop = stop
        self._started = self._saved = 0.0
        self._shared_batches = 0  # batches of validation that every process has
        self._saving = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Share the folder of the first process, and clean it up."""
        # A temporary folder has another name in each process.
        self.folder = trainer.strategy.broadcast(self.folder)
        if trainer.is_global_zero:
            self.folder.mkdir(parents=True, exist_ok=True)
            if self.record.begun == 0:
                (self.folder / LAST).unlink(missing_ok=True)
            self._delete_old_weights()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check the number of batches, and stop if SIGTERM was received."""
        steps = int(trainer.num_training_batches)
        before = self.record.run.setdefault("steps_per_epoch", steps)
        if before != steps:
            raise ValueError(
                f"a resumed training must have as many batches an epoch as before "
                f"({before}), got {steps}; give another folder, or resume=False"
            )
        self._saved = time.monotonic()
        # Lightning has just installed its own handler of SIGTERM.
        self._stop.listen()
        if self._any_process(trainer, self._stop.wanted):
            self._interrupt(trainer)

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Write a checkpoint if Ctrl-C came between two steps."""
        # Without a handler, as in a thread, the interruption is only seen here.
        if self._stop.in_step or self._saving or self.record.part.steps == 0:
            return
        if isinstance(exception, KeyboardInterrupt) and trainer.world_size == 1:
            self._save_step(trainer, pl_module)  # type: ignore[arg-type]

    def _enter_step(self, trainer: Trainer, inside: bool = True) -> None:
        # Of several processes one would wait for the others, which stopped at once.
        self._stop.in_step = inside and trainer.world_size == 1

    def on_train_batch_start(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Make Ctrl-C wait for the end of the step."""
        self._enter_step(trainer)

    def on_train_epoch_start(
        self, trainer: Trainer, pl_module: LightningModule
    ) -> None:
        """Start the clock, or continue it."""
        self._started = time.monotonic() - self.record.part.seconds

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: RegressionTask,  # type: ignore[override]
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Count the step, and write a checkpoint if one is due."""
        if batch is None:  # an earlier call trained on this batch
            return
        part = self.record.part
        part.steps += 1
        part.loss += pl_module.last_loss
        if self._any_process(trainer, self._is_due(trainer)):
            if self._can_resume:
                self._save_step(trainer, pl_module)
            # The checkpoint may have been due for another reason than a signal.
            if self._any_process(trainer, self._stop.wanted):
                self._interrupt(trainer)
        self._enter_step(trainer, False)

    @property
    def _can_resume(self) -> bool:
        # A temporary folder is deleted, so no call can resume from it, unless Ctrl-C
        # stops the training.
        return self.config.folder is not None or self._stop.interrupted

    def _is_due(self, trainer: Trainer) -> bool:
        minutes = self.config.checkpoint_minutes
        if self._stop.wanted:
            return True
        # The clocks of the processes differ: the first process decides.
        if minutes is None or not self._can_resume or not trainer.is_global_zero:
            return False
        return time.monotonic() - self._saved >= 60 * minutes

    @staticmethod
    def _any_process(trainer: Trainer, wish: bool) -> bool:
        """Return whether any process wishes it: all of them save and stop together."""
        return trainer.strategy.reduce_boolean_decision(wish, all=False)

    def _save_step(self, trainer: Trainer, task: RegressionTask) -> None:
        part = self.record.part
        part.seconds = time.monotonic() - self._started
        _check_weights(task, f"step {part.steps} of epoch {self.record.begun}")
        self._save(trainer)

    def _interrupt(self, trainer: Trainer) -> None:
        step = describe_progress(self.record)
        # Of several processes one that got no signal stops for the SIGTERM of another:
        # Ctrl-C stops each of them at once.
        if self._stop.interrupted and not self._stop.received:
            raise KeyboardInterrupt
        advice = "nothing is kept, as `folder` of TrainingConfig is not set"
        if self._can_resume:
            advice = f"the same command continues from there, with {self.folder}"
        message = f"SIGTERM: training stopped after {step}; {advice}"
        if trainer.is_global_zero:
            print(message, file=sys.stderr, flush=True)
        raise TrainingInterrupted(message)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count the batches that all processes have, after which they can stop."""
        own = torch.tensor(sum(trainer.num_val_batches), device=pl_module.device)
        self._shared_batches = int(trainer.strategy.reduce(own, reduce_op="min"))
        # The network may have averaged weights from here on.
        self._enter_step(trainer)

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: RegressionTask,  # type: ignore[override]
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Stop on SIGTERM, with a checkpoint of the epoch's last step."""
        if batch_idx >= self._shared_batches:
            return
        if self._any_process(trainer, self._stop.wanted):
            pl_module.on_validation_end()
            if self._can_resume:
                self._save_step(trainer, pl_module)
            self._interrupt(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: RegressionTask) -> None:  # type: ignore[override]
        """Write the weights of the epoch, and a checkpoint."""
        self._enter_step(trainer)
        row = self._row(trainer)
        _check_validation(pl_module, row)
        _check_weights(pl_module, f"epoch {self.record.begun}")
        epoch = self.record.epochs
        self.record.add(row, self._higher_is_better, self.config.keep_best)
        keep = epoch in self.record.kept(self.config.keep_last)
        if keep and trainer.is_global_zero:
            with pl_module.averaged():
                save_weights(pl_module.network, weights_file(self.folder, epoch))
            self._note_weights(epoch)
        self._save(trainer)
        if trainer.is_global_zero:
            self._delete_old_weights()
        # After the last epoch, a signal stops the next stage before its first step.
        finished = self.record.epochs == self.config.epochs
        if not finished and self._any_process(trainer, self._stop.wanted):
            self._interrupt(trainer)
        self._enter_step(trainer, False)

    def _note_weights(self, epoch: int) -> None:
        """Note the checksum of an epoch's weights; forget those that are deleted."""
        record = self.record
        new = weights_file(self.folder, epoch)
        record.weights[new.name] = list(crc32c_of_file(new))
        kept = record.kept(self.config.keep_last)
        names = [weights_file(self.folder, each).name for each in kept]
        record.weights = {n: record.weights[n] for n in names if n in record.weights}

    def _save(self, trainer: Trainer) -> None:
        self._saving = True
        unfinished = self.folder / f".{LAST}.part"
        trainer.save_checkpoint(unfinished)
        if trainer.is_global_zero:
            os.replace(unfinished, self.folder / LAST)
        trainer.strategy.barrier()
        self._saved = time.monotonic()
        self._saving = False

    def on_save_checkpoint(
        self,
        trainer: Trainer,
        pl_module: RegressionTask,  # type: ignore[override]
        checkpoint: dict[str, Any],
    ) -> None:
        """Add the record to the checkpoint of Lightning, as plain values."""
        average, part = pl_module.average, self.record.part
        if part.steps > 0:
            _rewind(checkpoint["loops"]["fit_loop"]["epoch_progress"])
        checkpoint["geobiomass"] = {
            "format": FORMAT,
            "run": self.record.run,
            "history": self.record.history,
            "best": {
                name: [list(pair) for pair in pairs]
                for name, pairs in self.record.best.items()
            },
            "part": asdict(part),
            "weights": self.record.weights,
            "moving_average": None if average is None else average.state_dict(),
            "buffers": pl_module.gather_buffers() if part.steps > 0 else None,
        }

    def _row(self, trainer: Trainer) -> dict[str, float]:
        values = {
            name: float(value) for name, value in trainer.callback_metrics.items()
        }
        epoch, part = self.record.epochs, self.record.part
        row = {
            "epoch": float(epoch + 1),
            "train_loss": part.loss / part.steps,
            "validation_loss": values.pop("validation_loss", math.nan),
        }
        return row | {
            **values,
            "learning_rate": self.config.learning_rate_at(
                epoch, part.steps - 1, part.steps
            ),
            "seconds": time.monotonic() - self._started,
        }

    def _delete_old_weights(self) -> None:
        """Delete the weights of all epochs except the best and the last ones."""
        kept = self.record.kept(self.config.keep_last)
        named = {weights_file(self.folder, epoch).name for epoch in kept}
        for file in self.folder.glob(_WEIGHTS):
            if file.name not in named:
                file.unlink()


def _rewind(progress: dict[str, dict[str, int]]) -> None:
    """Set the progress back, so that Lightning resumes at the start of the epoch.

    The shard then skips the batches up to the step. When Lightning itself resumes
    within an epoch, it skips the validation after the epoch's last step, and the hooks
    of the epoch's start.
    """
    for counts in progress.values():
        finished = counts["processed"]
        counts.update(ready=finished, started=finished, completed=finished)


def _check_validation(task: RegressionTask, row: Mapping[str, float]) -> None:
    validated = "validation_loss" in task.trainer.callback_metrics
    if validated and not math.isfinite(row["validation_loss"]):
        raise FloatingPointError(
            f"validation loss of epoch {row['epoch']:.0f} must be finite, got "
            f"{row['validation_loss']} at learning rate {row['learning_rate']:g}; look "
            "for NaN or infinite values in the validation data, or lower the rate"
        )


def _check_weights(task: RegressionTask, step: str) -> None:
    """Check that weights are finite before they replace the last good checkpoint."""
    for name, value in task.network.named_parameters():
        if not bool(torch.isfinite(value).all()):
            raise FloatingPointError(
                f"weights after {step} must be finite, got NaN or infinity in "
                f"{name} at learning rate {task.learning_rate:g}; lower the learning "
                "rate, clip the gradient or train in float32"
            )
