"""Network, loss and metrics as a Lightning module."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torchmetrics import Metric

from .freezing import Frozen
from .randomness import Purpose, derive_seed, seed_generators
from .settings import TrainingConfig
from .sharding import Batch
from .start import Start
from .weights import MovingAverage

__all__ = ["RegressionTask"]

Loss = Callable[[Tensor, Tensor], Tensor]
Inputs = tuple[Any, ...]
Change = Callable[[Inputs, Tensor], tuple[Inputs, Tensor]]


class RegressionTask(LightningModule):
    """Network with its loss and the metrics of its validation.

    Parameters
    ----------
    network
        Any module, called as ``network(*inputs)``.
    loss
        ``loss(prediction, target)``, a scalar tensor.
    metrics
        Metrics by name, evaluated on validation and logged as
        ``validation_<name>``.
    augment
        ``augment(inputs, target) -> (inputs, target)``, in training only. It may
        draw from torch's global generator, which is seeded before every step.
    config
        The settings; they can also be given to `train`.
    prepare
        ``prepare(inputs, target) -> (inputs, target)``, on the device, for every
        batch of training (before `augment`) and of validation. `inputs` is the
        tuple of a batch's leading elements, `target` its last, as the data loader
        yields them. Integers are moved to the device as integers, which take less
        memory than floats. It must not draw random numbers.
    frozen
        A part of the network that does not learn, for some epochs or for all.

    Raises
    ------
    ValueError
        If a metric is called "loss" or has a name that is not an identifier.
    """

    def __init__(
        self,
        network: nn.Module,
        loss: Loss,
        metrics: Mapping[str, Metric] | None = None,
        augment: Change | None = None,
        config: TrainingConfig | None = None,
        prepare: Change | None = None,
        frozen: Frozen | None = None,
    ) -> None:
        super().__init__()
        for name in metrics or {}:
            if not name.isidentifier() or name == "loss":
                raise ValueError(
                    "names of metrics must be identifiers other than 'loss', got "
                    f"{name!r}"
                )
        self.network = network
        self.loss = loss
        self.metrics = nn.ModuleDict(
            {f"validation_{name}": metric for name, metric in (metrics or {}).items()}
        )
        self.augment = augment
        self.prepare = prepare
        self.frozen = frozen
        self.config = config
        self.average: MovingAverage | None = None
        self.learning_rate = math.nan
        self.last_loss = math.nan
        self._plan = config or TrainingConfig()
        self.epochs_before = self._steps_before = 0
        self._saved_average: dict[str, Any] | None = None
        self._saved_optimizer: dict[str, Any] | None = None
        self._saved_buffers: list[list[Tensor]] | None = None

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Build the optimiser."""
        return make_optimizer(self.network, self._plan)

    def on_fit_start(self) -> None:
        """Create or restore the optimiser's state and the moving average."""
        # Here the network is on its device, where the moving average is kept too.
        self.network.train()
        self._freeze()
        if self._saved_optimizer is not None:
            _continue_optimizer(self.trainer.optimizers[0], self._saved_optimizer)
            self._saved_optimizer = None
        saved, self._saved_average = self._saved_average, None
        if self._plan.moving_average is None:
            return
        self.average = MovingAverage(self.network, self._plan.moving_average)
        if saved is not None:
            self.average.load_state_dict(saved)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Read the moving average and the buffers from a checkpoint."""
        saved = checkpoint["geobiomass"]
        self._saved_average = saved["moving_average"]
        self._saved_buffers = saved.get("buffers")  # of a running epoch only

    def on_train_epoch_start(self) -> None:
        """Copy the first process's buffers to all processes, or restore them."""
        self._freeze()
        if self._saved_buffers is None:
            self._broadcast_buffers()
            return
        own = self._saved_buffers[self.global_rank]
        for buffer, value in zip(self.network.buffers(), own, strict=True):
            buffer.copy_(value)
        self._saved_buffers = None

    def _freeze(self) -> None:
        if self.frozen is not None:
            epoch = self.epochs_before + self.current_epoch
            self.frozen.apply(self.network, epoch)

    def on_fit_end(self) -> None:
        """Let all weights learn in a later training."""
        if self.frozen is not None:
            self.frozen.release(self.network)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Set the learning rate of the step."""
        steps = int(self.trainer.num_training_batches)
        self.learning_rate = self._plan.learning_rate_at(
            self.current_epoch, batch_idx, steps
        )
        for group in self.trainer.optimizers[0].param_groups:
            group["lr"] = self.learning_rate

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the loss of one augmented batch."""
        step = self._steps_before + self.global_step
        seed = derive_seed(self._plan.seed, Purpose.STEP, step, self.global_rank)
        seed_generators(seed, self.device)
        inputs, target = self._prepare(batch)
        if self.augment is not None:
            inputs, target = self.augment(inputs, target)
        loss = self.loss(self.network(*inputs), target)
        self._check_loss(loss.detach(), batch_idx)
        return loss

    def _prepare(self, batch: Batch) -> tuple[Inputs, Tensor]:
        *inputs, target = batch
        if self.prepare is None:
            return tuple(inputs), target
        return self.prepare(tuple(inputs), target)

    def _check_loss(self, loss: Tensor, step: int) -> None:
        # The mean over all processes, so that all of them stop at a bad loss.
        if self.trainer.world_size > 1:
            loss = loss / self.trainer.world_size
            torch.distributed.all_reduce(loss)
        self.last_loss = float(loss)
        if not math.isfinite(self.last_loss):
            raise FloatingPointError(
                f"training loss must be finite, got {self.last_loss} in epoch "
                f"{self.current_epoch + 1}, step {step + 1}, at learning rate "
                f"{self.learning_rate:g}; lower learning_rate, set gradient_clip or "
                "precision='float32', and look for NaN or infinite inputs"
            )

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Step the optimiser, and update the moving average."""
        super().optimizer_step(*args, **kwargs)
        if self.average is not None:
            self.average.update(self.network)

    def on_validation_start(self) -> None:
        """Set the weights that would be kept, to evaluate them."""
        for metric in self.metrics.values():
            metric.reset()  # type: ignore[operator]
        if self.average is not None:
            self.average.swap(self.network)
        self._broadcast_buffers()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Compute loss and metrics of one batch, which is not augmented."""
        inputs, target = self._prepare(batch)
        prediction = self.network(*inputs)
        self.log(
            "validation_loss",
            self.loss(prediction, target),
            on_step=False,
            on_epoch=True,
            batch_size=len(target),
            sync_dist=self.trainer.world_size > 1,
        )
        for metric in self.metrics.values():
            metric.update(prediction, target)  # type: ignore[operator]

    def on_validation_epoch_end(self) -> None:
        """Log the metrics of the whole validation, over all processes."""
        for name, metric in self.metrics.items():
            value = metric.compute()  # type: ignore[operator]
            metric.reset()  # type: ignore[operator]
            self.log(name, value.float(), sync_dist=self.trainer.world_size > 1)

    def on_validation_end(self) -> None:
        """Set the weights that are trained."""
        if self.average is not None:
            self.average.swap(self.network)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Set the weights that are kept within the `with` statement."""
        if self.average is None:
            yield
        else:
            with self.average.applied(self.network):
                yield

    def set_up(self, config: TrainingConfig) -> None:
        """Set the settings of the next training, and forget the state of the last."""
        self._plan = config
        self.average = self._saved_average = self._saved_buffers = None
        self._saved_optimizer = None
        self.epochs_before = self._steps_before = 0
        if self.frozen is not None:
            self.frozen.check(config)
            self.frozen.release(self.network)  # an interrupted training did not
            if self.frozen.epochs is None:
                # Before the optimiser, and processes, take the weights that learn.
                self.frozen.apply(self.network, 0)

    def continue_from(self, start: Start, restore: bool) -> None:
        """Continue the count of epochs and steps of another training.

        With `restore` it also takes over its weights, optimiser and moving average.
        """
        self.epochs_before, self._steps_before = start.epochs, start.steps
        if restore:
            start.load_into(self.network)
            self._saved_average = start.average
            self._saved_optimizer = start.optimizer

    def gather_buffers(self) -> list[list[Tensor]]:
        """Return the buffers of each process; they differ within an epoch."""
        own = [buffer.cpu() for buffer in self.network.buffers()]
        if self.trainer.world_size == 1:
            return [own]
        everyone: list[Any] = [None] * self.trainer.world_size
        torch.distributed.all_gather_object(everyone, own)
        return everyone

    def _broadcast_buffers(self) -> None:
        # DDP synchronises gradients only. Without this, the running statistics of the
        # processes would differ, and a resumed process would not have its own ones.
        if self.trainer.world_size > 1:
            for buffer in self.network.buffers():
                torch.distributed.broadcast(buffer, 0)


def make_optimizer(network: nn.Module, config: TrainingConfig) -> torch.optim.AdamW:
    """Build AdamW, without weight decay of biases and one-dimensional parameters."""
    decayed: list[nn.Parameter] = []
    free: list[nn.Parameter] = []
    for name, value in network.named_parameters():
        if value.requires_grad:
            bias = value.ndim <= 1 or name.rpartition(".")[2] == "bias"
            (free if bias else decayed).append(value)
    groups = [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": free, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]], lr=config.learning_rate
    )


def _continue_optimizer(
    optimizer: torch.optim.Optimizer, saved: Mapping[str, Any]
) -> None:
    """Load the state of each parameter into an optimiser, but not its settings."""
    own = optimizer.state_dict()["param_groups"]
    counts = [
        [len(group["params"]) for group in groups]
        for groups in (own, saved["param_groups"])
    ]
    if counts[0] != counts[1]:
        raise ValueError(
            "start must be a training of the same parameters, those with and those "
            f"without weight decay: this one has {counts[0]}, got one of {counts[1]}"
        )
    optimizer.load_state_dict({"state": saved["state"], "param_groups": own})
