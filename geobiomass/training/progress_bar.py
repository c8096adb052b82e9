"""Progress bar of a whole training."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lightning.pytorch.callbacks import Callback
from tqdm.auto import tqdm

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer

    from .checkpoint_record import Record
    from .task import RegressionTask

__all__ = ["ProgressBar"]


class ProgressBar(Callback):
    """Progress bar with epoch, loss and the latest validation values.

    Parameters
    ----------
    epochs
        Epochs of the whole training.
    record
        Record of earlier calls.
    name
        Name of the stage, if there are several.
    """

    def __init__(self, epochs: int, record: Record, name: str = "") -> None:
        self._name = f"{name}: " if name else ""
        self._epochs = epochs
        self._record = record
        self._bar: tqdm[Any] | None = None
        self._values: dict[str, str] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Open the bar on the first process, at the step of the last call."""
        if trainer.is_global_zero:
            steps = int(trainer.num_training_batches)
            self._bar = tqdm(
                total=self._epochs * steps,
                initial=self._record.epochs * steps + self._record.part.steps,
                unit="batch",
                dynamic_ncols=True,
            )

    def on_train_epoch_start(
        self, trainer: Trainer, pl_module: LightningModule
    ) -> None:
        """Show the epoch."""
        if self._bar is not None:
            self._bar.set_description(
                f"{self._name}epoch {trainer.current_epoch + 1}/{self._epochs}"
            )

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: RegressionTask,  # type: ignore[override]
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Advance by one batch, and show its loss."""
        if self._bar is not None and batch is not None:
            self._values["loss"] = f"{pl_module.last_loss:.4g}"
            self._bar.set_postfix(self._values, refresh=False)
            self._bar.update()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show the values of the validation."""
        for name, value in trainer.callback_metrics.items():
            if name.startswith("validation_"):
                self._values[name] = f"{float(value):.4g}"

    def teardown(
        self, trainer: Trainer, pl_module: LightningModule, stage: str
    ) -> None:
        """Close the finished bar."""
        self._close()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Close the bar at its last step."""
        self._close()

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.set_postfix(self._values)
            self._bar.close()
            self._bar = None
