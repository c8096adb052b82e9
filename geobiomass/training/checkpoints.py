"""What a training leaves in its folder, and how the next one continues from it.

``last.ckpt`` holds everything to continue after an epoch; ``epoch-0007.safetensors``
the weights of an epoch that is kept. Each is written under another name first and
then renamed, ``last.ckpt`` after the weights it lists: killed in between, the epoch
is trained again and ends with the same bits.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch.callbacks import Callback

from .settings import TrainingConfig
from .weights import read_checkpoint, save_weights

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer

    from .task import RegressionTask

__all__ = ["EpochKeeper", "Record", "read_record"]

LAST = "last.ckpt"
_FORMAT = 1
_WEIGHTS = "epoch-*.safetensors"


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
    """

    run: dict[str, Any]
    history: list[dict[str, float]] = field(default_factory=list)
    best: dict[str, list[tuple[float, int]]] = field(default_factory=dict)

    @property
    def epochs(self) -> int:
        """Epochs done."""
        return len(self.history)

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
        """Append an epoch; `rising` names the monitored values, True if high is best.

        Of equal values the earlier epoch stays; NaN is the worst.
        """
        epoch = self.epochs
        self.history.append(row)
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
    content = read_checkpoint(path)
    kept = content.get("geobiomass")
    if not isinstance(kept, dict) or kept.get("format") != _FORMAT:
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
    return Record(kept["run"], kept["history"], best), shapes


class EpochKeeper(Callback):
    """Writes down every epoch: its row of the history, its weights, the checkpoint.

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
    """

    def __init__(
        self,
        folder: Path,
        record: Record,
        config: TrainingConfig,
        rising: Mapping[str, bool],
    ) -> None:
        self.folder = folder
        self.record = record
        self._config = config
        self._rising = rising
        self._started = 0.0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Agree on the folder (a temporary one has another name in each process)."""
        self.folder = trainer.strategy.broadcast(self.folder)
        if trainer.is_global_zero:
            self.folder.mkdir(parents=True, exist_ok=True)
            if self.record.epochs == 0:
                (self.folder / LAST).unlink(missing_ok=True)
            self._sweep()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse to continue with another amount of data."""
        steps = int(trainer.num_training_batches)
        before = self.record.run.setdefault("steps_per_epoch", steps)
        if before != steps:
            raise ValueError(
                f"a resumed training must have as many batches an epoch as before "
                f"({before}), got {steps}; give another folder, or resume=False"
            )

    def on_train_epoch_start(
        self, trainer: Trainer, pl_module: LightningModule
    ) -> None:
        """Start the clock."""
        self._started = time.monotonic()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: RegressionTask) -> None:  # type: ignore[override]
        """Write the epoch down."""
        row = self._row(trainer, pl_module)
        _check_finite(pl_module, row)
        epoch = self.record.epochs
        self.record.add(row, self._rising, self._config.keep_best)
        keep = epoch in self.record.kept(self._config.keep_last)
        if keep and trainer.is_global_zero:
            with pl_module.averaged():
                save_weights(pl_module.network, weights_file(self.folder, epoch))
        part = self.folder / f".{LAST}.part"
        trainer.save_checkpoint(part)
        if trainer.is_global_zero:
            os.replace(part, self.folder / LAST)
            self._sweep()
        trainer.strategy.barrier()

    def on_save_checkpoint(
        self,
        trainer: Trainer,
        pl_module: RegressionTask,  # type: ignore[override]
        checkpoint: dict[str, Any],
    ) -> None:
        """Put the record beside what Lightning saves, as plain values."""
        average = pl_module.average
        checkpoint["geobiomass"] = {
            "format": _FORMAT,
            "run": self.record.run,
            "history": self.record.history,
            "best": {
                name: [list(pair) for pair in pairs]
                for name, pairs in self.record.best.items()
            },
            "moving_average": None if average is None else average.state_dict(),
        }

    def _row(self, trainer: Trainer, task: RegressionTask) -> dict[str, float]:
        values = {
            name: float(value) for name, value in trainer.callback_metrics.items()
        }
        row = {
            "epoch": float(self.record.epochs + 1),
            "train_loss": values.pop("train_loss"),
            "validation_loss": values.pop("validation_loss", math.nan),
        }
        return row | {
            **values,
            "learning_rate": task.learning_rate,
            "seconds": time.monotonic() - self._started,
        }

    def _sweep(self) -> None:
        """Delete weights that no longer belong to the best or the last."""
        kept = self.record.kept(self._config.keep_last)
        named = {weights_file(self.folder, epoch).name for epoch in kept}
        for file in self.folder.glob(_WEIGHTS):
            if file.name not in named:
                file.unlink()


def _check_finite(task: RegressionTask, row: Mapping[str, float]) -> None:
    """Stop before weights that are no numbers replace the last good checkpoint."""
    epoch = int(row["epoch"])
    validated = "validation_loss" in task.trainer.callback_metrics
    if validated and not math.isfinite(row["validation_loss"]):
        raise FloatingPointError(
            f"validation loss of epoch {epoch} must be finite, got "
            f"{row['validation_loss']} at learning rate {task.learning_rate:g}; look "
            "for NaN or infinite values in the validation data, or lower the rate"
        )
    for name, value in task.network.named_parameters():
        if not bool(torch.isfinite(value).all()):
            raise FloatingPointError(
                f"weights after epoch {epoch} must be finite, got NaN or infinity in "
                f"{name} at learning rate {task.learning_rate:g}; lower the learning "
                "rate, clip the gradient or train in float32"
            )
