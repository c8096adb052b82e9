"""Training in stages, each from the last weights and optimiser of the one before."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pandas as pd
from torch import nn

from .checkpoints import LAST
from .core import (
    Plan,
    TrainingResult,
    carry_out,
    open_folder,
    run_of,
    settle_config,
    summarise,
    train,
)
from .interruption import Termination, heed_termination
from .settings import TrainingConfig
from .sharding import Batches
from .task import RegressionTask

__all__ = ["Stage", "check_folder", "train_stages"]

Settings = tuple[str, TrainingConfig]
StagePlan = tuple[str, TrainingConfig, Batches, Batches | None]
# A stage's name is a part of its folder's on every system.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


@dataclass(frozen=True, kw_only=True)
class Stage:
    """What one stage of a training changes in the settings of the whole.

    Parameters
    ----------
    name
        Letters, digits, ``_``, ``.`` and ``-``: it names the stage's folder.
    epochs, learning_rate, final_learning_rate, warmup_epochs, schedule_by
        As in `TrainingConfig`; the schedule starts anew with the stage.
    everything
        Train on all data, nothing held out; the last weights are then kept.

    Raises
    ------
    ValueError
        The name cannot be a folder's, or a number is out of range; the message
        names it.
    """

    name: str
    epochs: int
    learning_rate: float
    final_learning_rate: float = 0.0
    warmup_epochs: float = 0.0
    schedule_by: Literal["step", "epoch"] = "step"
    everything: bool = False

    def __post_init__(self) -> None:
        _check_name(self.name)
        self.configure(TrainingConfig())

    def configure(self, config: TrainingConfig) -> TrainingConfig:
        """Give the settings of the whole with those of this stage in their place."""
        return dataclasses.replace(
            config,
            epochs=self.epochs,
            learning_rate=self.learning_rate,
            final_learning_rate=self.final_learning_rate,
            warmup_epochs=self.warmup_epochs,
            schedule_by=self.schedule_by,
            keep="last" if self.everything else config.keep,
        )


def train_stages(
    task: RegressionTask,
    stages: Sequence[StagePlan],
    *,
    given: Mapping[str, Any] | None = None,
) -> TrainingResult:
    """Train in stages, or continue a training in stages that was interrupted.

    Each stage is one `train` with a schedule of its own, in a subfolder of the
    settings' folder: ``1-long``, ``2-cool-down``. It begins with the last weights
    (not the best), the optimiser's state and the moving average of the stage before.
    Epochs of a feed, and the random numbers of the steps, count on over the stages,
    so that the same feed may be given to all of them.

    Called again after an interruption of any kind, finished stages are read, the one
    that ran is resumed, and all ends with the bits of an uninterrupted training. With
    several processes they are started once.

    Parameters
    ----------
    task
        What to train; without settings of its own.
    stages
        (name, settings, batches, validation) of each, in order; `Stage.configure`
        makes the settings. They must agree on the folder. A single stage is a plain
        `train`, in the folder itself.
    given
        As `train` takes it; of all stages.

    Returns
    -------
    TrainingResult
        The history of all stages, a row an epoch, with the column ``stage`` first
        where there are several (``epoch`` counts within its stage), and the epochs
        of all. Its files are the last stage's, and so are the network's weights.

    Raises
    ------
    ValueError
        No stage is given, a name is used twice or cannot be a folder's, the folders
        differ, the folder holds a training of one stage or a stage of another name,
        or a stage was begun with other settings or with something else `given`. All
        of it is found before training, by `check_folder` even before that.
    FloatingPointError, KeyboardInterrupt, TrainingInterrupted
        As by `train`.
    """
    _check_stages(stages)
    if len(stages) == 1:
        _, config, batches, validation = stages[0]
        return train(task, batches, validation, config, given=given)
    with heed_termination() as stop, ExitStack() as stack:
        plans = _plan(task, stages, stop, given)
        histories, epochs, start = [], 0, None
        for plan in plans:
            plan = dataclasses.replace(plan, start=start)
            keeper = carry_out(task, plan, stack)
            start = keeper.folder / LAST
            result = summarise(keeper, plan.config)
            result.history.insert(0, "stage", plan.name)
            histories.append(result.history)
            epochs += result.epochs
        history = pd.concat(histories, ignore_index=True)
        return dataclasses.replace(result, history=history, epochs=epochs)


def check_folder(
    network: nn.Module,
    stages: Sequence[Settings],
    *,
    given: Mapping[str, Any] | None = None,
) -> None:
    """Refuse what `train_stages` would refuse of its folder, and change nothing.

    For callers who have long work to do between knowing the settings and training:
    nothing of the data is asked for, so whether there is any to validate with is
    compared by `train_stages` alone.

    Parameters
    ----------
    network
        To train.
    stages
        (name, settings) of each, in order.
    given
        As `train_stages` takes it.

    Raises
    ------
    ValueError
        As by `train_stages`.
    """
    _check_stages(stages)
    if len(stages) > 1:
        for _, config in _in_folders(stages):
            open_folder(network, config, run_of(config, given))
        return
    ((_, config),) = stages
    open_folder(network, config, run_of(config, given) | {"start": None})


def is_begun(config: TrainingConfig) -> bool:
    """Tell whether there is a training in the folder, in stages or not, to go on with.

    Parameters
    ----------
    config
        The settings of the whole.
    """
    if config.folder is None or not config.resume:
        return False
    folder = Path(config.folder)
    return any((*folder.glob(LAST), *folder.glob(f"*/{LAST}")))


def _check_stages(stages: Sequence[Settings] | Sequence[StagePlan]) -> None:
    names = [stage[0] for stage in stages]
    if not names:
        raise ValueError("stages of train_stages must hold at least one, got 0")
    for name in names:
        _check_name(name)
    if len(set(names)) < len(names):
        raise ValueError(f"names of stages must differ, got {', '.join(names)}")
    folders = {_absolute(stage[1]) for stage in stages}
    if len(folders) > 1:
        found = ", ".join(sorted(str(folder) for folder in folders))
        raise ValueError(f"stages must have the same folder, got {found}")


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise ValueError(
            "name of a Stage must be of letters, digits, '_', '.' and '-', and begin "
            f"with a letter or digit, got {name!r}"
        )


def _absolute(config: TrainingConfig) -> Path | None:
    return None if config.folder is None else Path(config.folder).absolute()


def _plan(
    task: RegressionTask,
    stages: Sequence[StagePlan],
    stop: Termination,
    given: Mapping[str, Any] | None,
) -> list[Plan]:
    """Give each stage its folder; refuse what an earlier call left there."""
    placed = _in_folders([(name, config) for name, config, *_ in stages])
    plans = []
    for (name, config), (*_, batches, validation) in zip(placed, stages, strict=True):
        plan = Plan(batches, validation, config, stop, given, name=name)
        settle_config(task, config)
        open_folder(task.network, config, plan.run)
        plans.append(plan)
    return plans


def _in_folders(stages: Sequence[Settings]) -> list[Settings]:
    """Give settings with a folder for each stage; refuse folders of other stages."""
    whole = _absolute(stages[0][1])
    if whole is not None and stages[0][1].resume and (whole / LAST).is_file():
        raise ValueError(
            f"folder must be that of a training in {len(stages)} stages, got {whole}, "
            "which holds one of a single stage; give another folder"
        )
    if whole is None:
        return list(stages)
    placed = []
    for number, (name, config) in enumerate(stages, 1):
        _check_neighbours(whole, number, name)
        folder = whole / f"{number}-{name}"
        placed.append((name, dataclasses.replace(config, folder=folder)))
    return placed


def _check_neighbours(whole: Path, number: int, name: str) -> None:
    for file in whole.glob(f"{number}-*/{LAST}"):
        if file.parent.name != f"{number}-{name}":
            raise ValueError(
                f"stage {number} in {whole} must be {name!r}, got one in "
                f"{file.parent.name}; give another folder, or delete that one"
            )
