"""What a training leaves in its folder, and how the next one continues from it.

``last.ckpt`` holds everything to continue after a step or an epoch;
``epoch-0007.safetensors`` the weights of an epoch that is kept. Each is written under
another name first and then renamed, ``last.ckpt`` after the weights it lists: killed
in between, what came after the last checkpoint is done again, to the same bits.
"""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch.callbacks import Callback

from .interruption import Termination, TrainingInterrupted
from .settings import TrainingConfig
from .weights import read_checkpoint, save_weights

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer

    from .task import RegressionTask

__all__ = ["Keeper", "Part", "Record", "read_record"]

LAST = "last.ckpt"
_FORMAT = 2
_READABLE = (1, 2)  # format 1 was written at the end of epochs only
_WEIGHTS = "epoch-*.safetensors"


@dataclass
class Part:
    """What is done of the epoch that runs: steps, their sum of losses, seconds."""

    steps: int = 0
    loss: float = 0.0
    seconds: float = 0.0


@dataclass
class Record:
    """What is known of a training after some of its epochs.

    Parameters
    ----------
    run
        What decides about the weights: settings, steps an epoch, validation.
    history
        A mapping an epoch, the rows of the history.
    best
        For each monitored value its best epochs as (value, epoch), best first.
    part
        What is done of the next epoch.
    """

    run: dict[str, Any]
    history: list[dict[str, float]] = field(default_factory=list)
    best: dict[str, list[tuple[float, int]]] = field(default_factory=dict)
    part: Part = field(default_factory=Part)

    @property
    def epochs(self) -> int:
        """Epochs done."""
        return len(self.history)

    @property
    def begun(self) -> int:
        """Epochs done, and the one that is done in part."""
        return self.epochs + (self.part.steps > 0)

    def kept(self, recent: int) -> list[int]:
        """Epochs whose weights stay, the best of the first monitored value first."""
        ranked = [epoch for pairs in self.best.values() for _, epoch in pairs]
        done = self.epochs
        return list(dict.fromkeys([*ranked, *range(max(0, done - recent), done)]))

    def add(
        self,
        row: dict[str, float],
        rising: Mapping[str, bool],
        places: int,
    ) -> None:
        """Finish the epoch that runs.

        `rising` names the monitored values, True where high is best. Of
        equal values the earlier epoch stays; NaN is the worst.
        """
        epoch = self.epochs
        self.history.append(row)
        self.part = Part()
        for name, upward in rising.items():
            pairs = [*self.best.get(name, []), (row[name], epoch)]
            pairs.sort(key=lambda pair: _badness(pair[0], upward))
            self.best[name] = pairs[:places]


def _badness(value: float, upward: bool) -> float:
    if math.isnan(value):
        return math.inf
    return -value if upward else value


def weights_file(folder: Path, epoch: int) -> Path:
    """Where the weights of an epoch (from 0) stand; its name counts from 1."""
    return folder / f"epoch-{epoch + 1:04d}.safetensors"


def read_record(path: Path) -> tuple[Record, dict[str, tuple[int, ...]]]:
    """Read what a checkpoint says of its training, and the shapes of its network.

    Raises
    ------
    ValueError
        The checkpoint is damaged or not the trainer's.
    """
    # Tensors may take gigabytes, and only their shapes are looked at.
    content = read_checkpoint(path, mapped=True)
    kept = content.get("geobiomass")
    if not isinstance(kept, dict) or kept.get("format") not in _READABLE:
        raise ValueError(
            f"{path} is not a checkpoint of this trainer; give another folder, or "
            "resume=False to replace it"
        )
    best = {
        name: [(value, epoch) for value, epoch in pairs]
        for name, pairs in kept["best"].items()
    }
    shapes = {
        name.removeprefix("network."): tuple(value.shape)
        for name, value in content["state_dict"].items()
        if name.startswith("network.")
    }
    part = Part(**kept.get("part", {}))
    return Record(kept["run"], kept["history"], best, part), shapes


class Keeper(Callback):
    """Writes an epoch's row of the history and its weights down, and checkpoints.

    Parameters
    ----------
    folder
        Where to write.
    record
        What earlier calls did; empty for a new training.
    config
        The settings of the training.
    rising
        The monitored values, True where high is best; empty without validation.
    stop
        Tells whether this process is to end.
    """

    def __init__(
        self,
        folder: Path,
        record: Record,
        config: TrainingConfig,
        rising: Mapping[str, bool],
        stop: Termination,
    ) -> None:
        self.folder = folder
        self.record = record
        self.config = config
        self._rising = rising
        self._stop = stop
        self._started = self._saved = 0.0
        self._shared_batches = 0  # of validation, that every process has

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Agree on the folder (a temporary one has another name in each process)."""
        self.folder = trainer.strategy.broadcast(self.folder)
        if trainer.is_global_zero:
            self.folder.mkdir(parents=True, exist_ok=True)
            if self.record.begun == 0:
                (self.folder / LAST).unlink(missing_ok=True)
            self._sweep()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse to continue with another amount of data, or after a SIGTERM."""
        steps = int(trainer.num_training_batches)
        before = self.record.run.setdefault("steps_per_epoch", steps)
        if before != steps:
            raise ValueError(
                f"a resumed training must have as many batches an epoch as before "
                f"({before}), got {steps}; give another folder, or resume=False"
            )
        self._saved = time.monotonic()
        # Lightning has just put a handler of its own in place.
        self._stop.listen()
        if self._agree(trainer, self._stop.received):
            self._interrupt(trainer)

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
        """Count the step, and write a checkpoint where one is due."""
        if batch is None:  # trained on by an earlier call
            return
        part = self.record.part
        part.steps += 1
        part.loss += pl_module.last_loss
        if not self._agree(trainer, self._is_due(trainer)):
            return
        if self._can_resume:
            self._save_step(trainer, pl_module)
        # The processes may have saved because the time had come.
        if self._agree(trainer, self._stop.received):
            self._interrupt(trainer)

    @property
    def _can_resume(self) -> bool:
        # Nobody can resume from a temporary folder.
        return self.config.folder is not None

    def _is_due(self, trainer: Trainer) -> bool:
        minutes = self.config.checkpoint_minutes
        if self._stop.received:
            return True
        # Clocks differ: the first process's decides.
        if minutes is None or not self._can_resume or not trainer.is_global_zero:
            return False
        return time.monotonic() - self._saved >= 60 * minutes

    @staticmethod
    def _agree(trainer: Trainer, wish: bool) -> bool:
        """Whether any process wishes it, as all take part in saving and stopping."""
        return trainer.strategy.reduce_boolean_decision(wish, all=False)

    def _save_step(self, trainer: Trainer, task: RegressionTask) -> None:
        part = self.record.part
        part.seconds = time.monotonic() - self._started
        _check_weights(task, f"step {part.steps} of epoch {self.record.begun}")
        self._save(trainer)

    def _interrupt(self, trainer: Trainer) -> None:
        part, epochs = self.record.part, self.record.epochs
        place = f"step {part.steps} of epoch {epochs + 1}"
        if part.steps == 0:
            place = f"epoch {epochs}" if epochs else "its start"
        advice = "nothing is kept, as `folder` of TrainingConfig is not set"
        if self._can_resume:
            advice = f"the same command goes on from there, with {self.folder}"
        message = f"SIGTERM: training stopped after {place}; {advice}"
        if trainer.is_global_zero:
            print(message, file=sys.stderr, flush=True)
        raise TrainingInterrupted(message)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count the batches at whose end all processes can agree to stop."""
        own = torch.tensor(sum(trainer.num_val_batches), device=pl_module.device)
        self._shared_batches = int(trainer.strategy.reduce(own, reduce_op="min"))

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: RegressionTask,  # type: ignore[override]
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Stop on SIGTERM, saved as after the epoch's last step."""
        if batch_idx >= self._shared_batches:
            return
        if self._agree(trainer, self._stop.received):
            pl_module.on_validation_end()
            if self._can_resume:
                self._save_step(trainer, pl_module)
            self._interrupt(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: RegressionTask) -> None:  # type: ignore[override]
        """Write the epoch down."""
        row = self._row(trainer)
        _check_validation(pl_module, row)
        _check_weights(pl_module, f"epoch {self.record.begun}")
        epoch = self.record.epochs
        self.record.add(row, self._rising, self.config.keep_best)
        keep = epoch in self.record.kept(self.config.keep_last)
        if keep and trainer.is_global_zero:
            with pl_module.averaged():
                save_weights(pl_module.network, weights_file(self.folder, epoch))
        self._save(trainer)
        if trainer.is_global_zero:
            self._sweep()
        # Finished is finished: who follows looks for a SIGTERM before the first step.
        finished = self.record.epochs == self.config.epochs
        if not finished and self._agree(trainer, self._stop.received):
            self._interrupt(trainer)

    def _save(self, trainer: Trainer) -> None:
        unfinished = self.folder / f".{LAST}.part"
        trainer.save_checkpoint(unfinished)
        if trainer.is_global_zero:
            os.replace(unfinished, self.folder / LAST)
        trainer.strategy.barrier()
        self._saved = time.monotonic()

    def on_save_checkpoint(
        self,
        trainer: Trainer,
        pl_module: RegressionTask,  # type: ignore[override]
        checkpoint: dict[str, Any],
    ) -> None:
        """Put the record beside what Lightning saves, as plain values."""
        average, part = pl_module.average, self.record.part
        if part.steps > 0:
            _rewind(checkpoint["loops"]["fit_loop"]["epoch_progress"])
        checkpoint["geobiomass"] = {
            "format": _FORMAT,
            "run": self.record.run,
            "history": self.record.history,
            "best": {
                name: [list(pair) for pair in pairs]
                for name, pairs in self.record.best.items()
            },
            "part": asdict(part),
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

    def _sweep(self) -> None:
        """Delete weights that no longer belong to the best or the last."""
        kept = self.record.kept(self.config.keep_last)
        named = {weights_file(self.folder, epoch).name for epoch in kept}
        for file in self.folder.glob(_WEIGHTS):
            if file.name not in named:
                file.unlink()


def _rewind(progress: dict[str, dict[str, int]]) -> None:
    """Let Lightning resume at the start of the epoch that runs.

    The shard of batches then takes it to the step. Lightning's own way into the
    middle of an epoch passes over the validation after the epoch's last step, and
    over the start of the epoch.
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


def _check_weights(task: RegressionTask, place: str) -> None:
    """Stop before weights that are no numbers replace the last good checkpoint."""
    for name, value in task.network.named_parameters():
        if not bool(torch.isfinite(value).all()):
            raise FloatingPointError(
                f"weights after {place} must be finite, got NaN or infinity in "
                f"{name} at learning rate {task.learning_rate:g}; lower the learning "
                "rate, clip the gradient or train in float32"
            )
