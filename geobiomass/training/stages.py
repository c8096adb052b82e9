"""Training in stages: each starts with the last weights and optimiser of the last."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pandas as pd
from torch import nn

from .checkpoint_record import LAST, Record, read_training_record
from .core import (
    Plan,
    TrainingResult,
    choose_config,
    load_kept_weights,
    open_folder,
    run_of,
    run_training,
    summarise,
    train,
)
from .interruption import Termination, defer_termination
from .kept_folder import describe_progress
from .settings import TrainingConfig, check_stage_name
from .sharding import Batches
from .task import RegressionTask

__all__ = ["check_folder", "read_unfinished", "train_stages"]

Settings = tuple[str, TrainingConfig]
StagePlan = tuple[str, TrainingConfig, Batches, Batches | None]


def train_stages(
    task: RegressionTask,
    stages: Sequence[StagePlan],
    *,
    given: Mapping[str, Any] | None = None,
) -> TrainingResult:
    """Train in stages, or continue a training in stages that was interrupted.

    Each stage is one call of `train` with its own schedule, in a subfolder of the
    settings' folder: ``1-long``, ``2-cool-down``. It starts with the last weights
    (not the best), the optimiser's state and the moving average of the stage before.
    Epochs of a BatchSource, and the random numbers of the steps, are counted over all
    stages, so that all stages can use the same BatchSource.

    When `train_stages` is called again after an interruption, it reads the finished
    stages, resumes the stage that ran, and ends with the same bits as a training
    without an interruption. Several processes are started only once.

    Parameters
    ----------
    task
        The task to train, without its own settings.
    stages
        (name, settings, batches, validation) of each stage, in order;
        `Stage.configure` makes the settings. Their folder must be the same. A single
        stage is a plain `train`, in the folder itself.
    given
        As in `train`; for all stages.

    Returns
    -------
    TrainingResult
        The history of all stages, one row per epoch, and the number of all epochs. If
        there are several stages, the first column is ``stage``, and ``epoch`` counts
        within the stage. Files and the network's weights come from the last stage.

    Raises
    ------
    ValueError
        If no stage is given, a name is used twice or cannot be the name of a folder,
        the folders differ, the folder contains a training of one stage or a stage of
        another name, or a stage was begun with other settings or other `given` values.
        All of this is checked before training; `check_folder` checks it earlier.
    FloatingPointError, KeyboardInterrupt, TrainingInterrupted
        As in `train`.
    """
    _check_stages(stages)
    if len(stages) == 1:
        _, config, batches, validation = stages[0]
        return train(task, batches, validation, config, given=given)
    with defer_termination() as stop, ExitStack() as stack:
        plans = _plan(task, stages, stop, given)
        histories, epochs, start = [], 0, None
        for plan in plans:
            plan = dataclasses.replace(plan, start=start)
            writer = run_training(task, plan, stack)
            start = writer.folder / LAST
            result = summarise(writer, plan.config)
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
    """Check the folder of a training as `train_stages` does, and change nothing.

    For callers that have long work to do between the settings and the training. It
    needs no data; only `train_stages` compares whether there is validation data.

    Parameters
    ----------
    network
        The network to train.
    stages
        (name, settings) of each stage, in order.
    given
        As in `train_stages`.

    Raises
    ------
    ValueError
        As in `train_stages`.
    """
    _check_stages(stages)
    if len(stages) > 1:
        for _, config in _in_folders(stages):
            open_folder(network, config, run_of(config, given))
        return
    ((_, config),) = stages
    open_folder(network, config, run_of(config, given) | {"start": None})


def read_unfinished(
    network: nn.Module, stages: Sequence[Settings]
) -> tuple[TrainingResult, str] | None:
    """Load the weights that an interrupted training would keep of its epochs so far.

    Parameters
    ----------
    network
        The network, which gets the weights and is on the CPU then.
    stages
        (name, settings) of each stage, in order.

    Returns
    -------
    tuple or None
        History and number of epochs, and the place in words: "epoch 3 of 10". None if
        nothing is kept yet.
    """
    several = len(stages) > 1
    histories, done, last = [], 0, None
    for name, config in _in_folders(stages) if several else stages:
        file = Path(config.folder or "") / LAST
        if config.folder is None or not file.is_file():
            break
        record, _ = read_training_record(file)
        last = record, file.parent, config
        table = pd.DataFrame(record.history)
        if several:
            table.insert(0, "stage", name)
        histories.append(table)
        done += record.epochs
    if last is None:
        return None
    load_kept_weights(network.cpu(), *last)
    rows = [table for table in histories if len(table)]
    history = pd.concat(rows, ignore_index=True) if rows else pd.DataFrame()
    if len(history):
        history = history.astype({"epoch": int})
    total = sum(config.epochs for _, config in stages)
    whole = Record({}, [{}] * done, part=last[0].part)
    place = f"{describe_progress(whole)} of {total}"
    return TrainingResult(history, done), place


def _check_stages(stages: Sequence[Settings] | Sequence[StagePlan]) -> None:
    names = [stage[0] for stage in stages]
    if not names:
        raise ValueError("stages of train_stages must hold at least one, got 0")
    for name in names:
        check_stage_name(name)
    if len(set(names)) < len(names):
        raise ValueError(f"names of stages must differ, got {', '.join(names)}")
    folders = {_absolute(stage[1]) for stage in stages}
    if len(folders) > 1:
        found = ", ".join(sorted(str(folder) for folder in folders))
        raise ValueError(f"stages must have the same folder, got {found}")


def _absolute(config: TrainingConfig) -> Path | None:
    return None if config.folder is None else Path(config.folder).absolute()


def _plan(
    task: RegressionTask,
    stages: Sequence[StagePlan],
    stop: Termination,
    given: Mapping[str, Any] | None,
) -> list[Plan]:
    """Return the plan of each stage; check its folder and settings."""
    with_folders = _in_folders([(name, config) for name, config, *_ in stages])
    plans = []
    for (name, config), (*_, batches, validation) in zip(
        with_folders, stages, strict=True
    ):
        plan = Plan(batches, validation, config, stop, given, name=name)
        choose_config(task, config)
        open_folder(task.network, config, plan.run)
        plans.append(plan)
    return plans


def _in_folders(stages: Sequence[Settings]) -> list[Settings]:
    """Return the settings with one folder per stage; check for other stages."""
    whole = _absolute(stages[0][1])
    if whole is not None and stages[0][1].resume and (whole / LAST).is_file():
        raise ValueError(
            f"folder must contain a training in {len(stages)} stages, got {whole} "
            "with one of a single stage; give another folder"
        )
    if whole is None:
        return list(stages)
    with_folders = []
    for number, (name, config) in enumerate(stages, 1):
        _check_stage_folder(whole, number, name)
        folder = whole / f"{number}-{name}"
        with_folders.append((name, dataclasses.replace(config, folder=folder)))
    return with_folders


def _check_stage_folder(whole: Path, number: int, name: str) -> None:
    for file in whole.glob(f"{number}-*/{LAST}"):
        if file.parent.name != f"{number}-{name}":
            raise ValueError(
                f"stage {number} in {whole} must be {name!r}, got one in "
                f"{file.parent.name}; give another folder, or delete that one"
            )
