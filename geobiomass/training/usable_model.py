"""Training that leaves a usable model where Ctrl-C, or a notebook, interrupts it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, TypeVar

from .unfinished import UnfinishedTraining

if TYPE_CHECKING:
    from torch import nn

    from .core import TrainingResult
    from .estimator import Regressor, SavedModel
    from .settings import TrainingConfig

__all__ = ["train_each", "train_or_keep"]

Member = TypeVar("Member")


def train_or_keep(
    model: Regressor,
    train: Callable[[], TrainingResult],
    network: nn.Module,
    stages: Sequence[tuple[str, TrainingConfig]],
    finish: Callable[[TrainingResult], object],
) -> None:
    """Train, then finish the model, also where the training is interrupted.

    An interrupted training is finished with the weights that a whole one would keep of
    its epochs so far; before the end of the first epoch with those of the last step.
    Another interruption leaves that out.

    Parameters
    ----------
    model
        The model that is trained.
    train
        Trains its network.
    network
        Its network.
    stages
        (name, settings) of each stage, in order. Without a folder in the settings
        nothing is usable.
    finish
        Sets history, errors and all else that follows from the weights.

    Raises
    ------
    KeyboardInterrupt
        If the training is interrupted: an `UnfinishedTraining` with the model, where it
        is usable.
    """
    # Prediction imports this module's callers, and no Lightning.
    from .stages import read_unfinished

    try:
        result = train()
    except KeyboardInterrupt as stop:
        # Of several processes the others are ended.
        alone = all(config.ranks == 1 for _, config in stages)
        found = read_unfinished(network, stages) if alone else None
        if found is None:
            raise
        result, place = found
        try:
            finish(result)
        except KeyboardInterrupt:
            raise stop from None
        except Exception as error:
            # The way to go on is told in any case.
            raise KeyboardInterrupt(
                f"{stop}. No usable model can be made of it yet: {error}"
            ) from error
        model.interrupted = f"interrupted at {place}"
        model.history.attrs["interrupted"] = model.interrupted
        raise UnfinishedTraining(str(stop), model) from None
    model.interrupted = ""
    finish(result)


def train_each(
    trainings: Iterable[Callable[[], Member]],
    count: int,
    join: Callable[[list[Member]], SavedModel],
) -> list[Member]:
    """Train the members of an ensemble; if interrupted, keep those that are finished.

    The member that is interrupted would only make their mean worse: it is usable alone,
    where none is finished.

    Parameters
    ----------
    trainings
        Each trains one member.
    count
        The number of them.
    join
        Makes the ensemble.

    Raises
    ------
    UnfinishedTraining
        With the ensemble of the finished members.
    """
    members: list[Member] = []
    try:
        for training in trainings:
            members.append(training())
    except KeyboardInterrupt as stop:
        if not members:
            raise
        model = join(members)
        model.interrupted = f"interrupted: {len(members)} of {count} members"
        raise UnfinishedTraining(str(stop), model) from None
    return members
