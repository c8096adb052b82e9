"""Settings of a training, their checks, and the learning rate of each step.

PyTorch is imported only where a setting depends on the machine, so that a wrong setting
is reported at once.
"""

from __future__ import annotations

import dataclasses
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

__all__ = ["Stage", "TrainingConfig"]

_CHOICES: dict[str, tuple[str, ...]] = {
    "schedule": ("cosine", "constant"),
    "schedule_by": ("step", "epoch"),
    "precision": ("auto", "float32", "bf16", "fp16"),
    "accelerator": ("auto", "cpu", "cuda"),
    "keep": ("best", "last", "average"),
}
_MINIMUM: dict[str, int] = {
    "epochs": 1,
    "batch_size": 1,
    "keep_best": 1,
    "keep_last": 0,
}
# The name of a stage is part of a folder's name, on any system.
_STAGE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
# Settings that a resumed run may change: they do not affect the weights.
_NO_EFFECT_ON_WEIGHTS = (
    "folder",
    "resume",
    "checkpoint_minutes",
    "progress",
    "accelerator",
    "devices",
    "strategy",
)


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """Settings of a training.

    Parameters
    ----------
    epochs
        Passes over the data.
    batch_size
        Samples per batch and process. The trainer takes batches as they come;
        the data loaders use this setting.
    learning_rate
        The highest learning rate of AdamW.
    weight_decay
        Weight decay of AdamW. Biases and one-dimensional parameters, such as those
        of norms, have none.
    schedule
        "cosine" falls from `learning_rate` to `final_learning_rate` along half
        a cosine; "constant" does not fall.
    warmup_epochs
        The learning rate first rises linearly for this number of epochs (fractions
        are allowed).
    final_learning_rate
        The last learning rate of the cosine.
    schedule_by
        "step": the cosine falls with every step; "epoch": with every epoch.
    gradient_clip
        The largest norm of the gradient; None does not clip.
    precision
        "float32", or mixed precision in "bf16" or "fp16" (fp16 on CUDA only).
        "auto" is bf16 on CUDA devices that compute in it, fp16 on older ones, and
        float32 on the CPU.
    accelerator
        "cpu", "cuda", or "auto": CUDA if the machine has it.
    devices
        Number of processes, each with its own device; "auto" takes all GPUs, or
        one process on the CPU.
    strategy
        Lightning's name of the strategy of several processes. "auto" is
        DistributedDataParallel, which starts the calling script again for each
        further process: call from a script, guarded by
        ``if __name__ == "__main__"``, not from a notebook.
    seed
        Seed of augmentation, dropout and the order of batches. The same seed on the
        same CPU gives the same weights.
    moving_average
        Decay of an exponential moving average of the weights, such as 0.999.
        The averaged weights are then evaluated and kept. None: no average.
    folder
        Folder of the checkpoints; None is a temporary folder, deleted at the end.
    resume
        Continue from the folder's `last.ckpt` if there is one. False starts from
        the beginning and removes the checkpoints of the earlier run.
    checkpoint_minutes
        While an epoch runs, `last.ckpt` is also written after this number of minutes,
        by the clock of the first process: 0 after every step, None at the end of each
        epoch only. Without a folder nothing is written within an epoch.
    keep
        The weights that the network has in the end: of the "best" epoch by
        the (first) monitored value, the "last", or the "average" of all epochs that
        `keep_best` and `keep_last` keep, each counted once. Without validation
        "best" is the last.
    keep_best
        Number of best epochs whose weights stay in the folder, for each monitored
        value.
    keep_last
        Number of last epochs whose weights stay in the folder too.
    monitor
        "validation_loss" or "validation_<metric>", or several of them: the
        value that decides which epoch is best. The loss, and metrics with
        `higher_is_better = False`, are best when low, other metrics when high.
    progress
        Show a progress bar.

    Raises
    ------
    ValueError
        If a setting is out of range; the message names the setting, its value and
        what was expected.
    """

    epochs: int = 20
    batch_size: int = 8
    learning_rate: float = 1e-3
    weight_decay: float = 1e-2
    schedule: Literal["cosine", "constant"] = "cosine"
    warmup_epochs: float = 0.0
    final_learning_rate: float = 0.0
    schedule_by: Literal["step", "epoch"] = "step"
    gradient_clip: float | None = 5.0
    precision: Literal["auto", "float32", "bf16", "fp16"] = "auto"
    accelerator: Literal["auto", "cpu", "cuda"] = "auto"
    devices: int | Literal["auto"] = 1
    strategy: str = "auto"
    seed: int = 0
    moving_average: float | None = None
    folder: str | Path | None = None
    resume: bool = True
    checkpoint_minutes: float | None = 10.0
    keep: Literal["best", "last", "average"] = "best"
    keep_best: int = 1
    keep_last: int = 0
    monitor: str | tuple[str, ...] = "validation_loss"
    progress: bool = True

    def __post_init__(self) -> None:
        for name, choices in _CHOICES.items():
            self._expect(
                name, getattr(self, name) in choices, f"one of {', '.join(choices)}"
            )
        for name, minimum in _MINIMUM.items():
            value = getattr(self, name)
            self._expect(
                name,
                _is_integer(value) and value >= minimum,
                f"an integer of {minimum} or more",
            )
        self._check_numbers()

    def _check_numbers(self) -> None:
        rate, clip, decay = self.learning_rate, self.gradient_clip, self.moving_average
        self._expect("learning_rate", 0 < rate < math.inf, "a positive number")
        self._expect("weight_decay", 0 <= self.weight_decay < math.inf, "0 or more")
        self._expect(
            "warmup_epochs",
            0 <= self.warmup_epochs < self.epochs,
            f"0 or more and below epochs={self.epochs}",
        )
        self._expect(
            "final_learning_rate",
            0 <= self.final_learning_rate <= rate,
            f"between 0 and learning_rate={rate}",
        )
        self._expect(
            "gradient_clip", clip is None or 0 < clip < math.inf, "positive or None"
        )
        self._expect(
            "moving_average",
            decay is None or 0 <= decay < 1,
            "None or a decay of 0 or more and below 1",
        )
        minutes = self.checkpoint_minutes
        self._expect(
            "checkpoint_minutes",
            minutes is None or 0 <= minutes < math.inf,
            "None or a number of 0 or more",
        )
        self._expect(
            "devices",
            self.devices == "auto" or (_is_integer(self.devices) and self.devices >= 1),
            '"auto" or an integer of 1 or more',
        )
        self._expect(
            "seed", _is_integer(self.seed) and self.seed >= 0, "an integer of 0 or more"
        )
        self._expect(
            "monitor",
            len(self.monitors) > 0
            and all(name.startswith("validation_") for name in self.monitors),
            '"validation_loss", "validation_<metric>" or several of these',
        )

    def _expect(self, name: str, holds: bool, expected: str) -> None:
        if not holds:
            raise ValueError(
                f"{name} of TrainingConfig must be {expected}, "
                f"got {getattr(self, name)!r}"
            )

    @property
    def monitors(self) -> tuple[str, ...]:
        """The monitored values; the first one decides which epoch is "best"."""
        return (self.monitor,) if isinstance(self.monitor, str) else tuple(self.monitor)

    @property
    def device(self) -> Literal["cpu", "cuda"]:
        """The kind of device that training uses on this machine.

        Raises
        ------
        ValueError
            If `accelerator` is "cuda" and the machine has no CUDA device.
        """
        import torch

        present = torch.cuda.is_available()
        if self.accelerator == "cuda" and not present:
            raise ValueError(
                "accelerator of TrainingConfig must be 'auto' or 'cpu' here, got "
                "'cuda': PyTorch finds no CUDA device"
            )
        return "cuda" if present and self.accelerator != "cpu" else "cpu"

    @property
    def ranks(self) -> int:
        """The number of processes that train on this machine."""
        if self.devices != "auto":
            return self.devices
        import torch

        return torch.cuda.device_count() if self.device == "cuda" else 1

    @property
    def numbers(self) -> Literal["float32", "bf16", "fp16"]:
        """The precision that training uses on this machine.

        Raises
        ------
        ValueError
            If `precision` is "fp16" on the CPU.
        """
        if self.precision == "auto":
            if self.device == "cpu":
                return "float32"
            import torch

            native = torch.cuda.is_bf16_supported(including_emulation=False)
            return "bf16" if native else "fp16"
        if self.precision == "fp16" and self.device == "cpu":
            raise ValueError(
                "precision of TrainingConfig must be 'float32' or 'bf16' on the CPU, "
                "got 'fp16': half precision needs a CUDA device"
            )
        return self.precision

    def learning_rate_at(self, epoch: int, step: int, steps: int) -> float:
        """Return the learning rate of one step.

        Parameters
        ----------
        epoch, step
            Both counted from 0; `step` within the epoch.
        steps
            Steps per epoch.
        """
        time = epoch + step / steps
        ramp = 1.0
        if self.warmup_epochs > 0:
            ramp = min(1.0, (time + 1 / steps) / self.warmup_epochs)
        if self.schedule == "constant":
            return ramp * self.learning_rate
        if self.schedule_by == "epoch":
            time = float(epoch)
        fall = max(0.0, time - self.warmup_epochs) / (self.epochs - self.warmup_epochs)
        height = (1 + math.cos(math.pi * fall)) / 2
        span = self.learning_rate - self.final_learning_rate
        return ramp * (self.final_learning_rate + span * height)

    def fingerprint(self) -> dict[str, Any]:
        """Return the settings that affect the weights, as plain values to compare."""
        values = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if field.name not in _NO_EFFECT_ON_WEIGHTS
        }
        return values | {
            "precision": self.numbers,
            "monitor": list(self.monitors),
            "ranks": self.ranks,
        }


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Settings of one stage of a training, where they differ from the others.

    Parameters
    ----------
    name
        Name of the stage's folder: letters, digits, ``_``, ``.`` and ``-``.
    epochs, learning_rate, final_learning_rate, warmup_epochs, schedule_by
        As in `TrainingConfig`. Each stage has its own schedule.
    everything
        Train on all data, with nothing held out; the last weights are then kept.

    Raises
    ------
    ValueError
        If the name cannot be the name of a folder, or a number is out of range; the
        message names the value.
    """

    name: str
    epochs: int
    learning_rate: float
    final_learning_rate: float = 0.0
    warmup_epochs: float = 0.0
    schedule_by: Literal["step", "epoch"] = "step"
    everything: bool = False

    def __post_init__(self) -> None:
        check_stage_name(self.name)
        self.configure(TrainingConfig())

    def configure(self, config: TrainingConfig) -> TrainingConfig:
        """Return the settings of the whole training, changed for this stage."""
        return dataclasses.replace(
            config,
            epochs=self.epochs,
            learning_rate=self.learning_rate,
            final_learning_rate=self.final_learning_rate,
            warmup_epochs=self.warmup_epochs,
            schedule_by=self.schedule_by,
            keep="last" if self.everything else config.keep,
        )


def check_stage_name(name: str) -> None:
    """Check that a stage can name a folder; raise a ValueError otherwise."""
    if not _STAGE_NAME.fullmatch(name):
        raise ValueError(
            "name of a Stage must be of letters, digits, '_', '.' and '-', and begin "
            f"with a letter or digit, got {name!r}"
        )
