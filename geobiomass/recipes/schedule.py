"""The stages of a training, and their plan: steps and hours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from geobiomass.data.loader import ChipLoader
from geobiomass.recipes.datasets import DataLoaders
from geobiomass.recipes.recipe import Recipe
from geobiomass.recipes.self_supervised import START, settings_of_start
from geobiomass.training import TrainingConfig

if TYPE_CHECKING:
    from geobiomass.training import RegressionTask

FIRST = "long"  # name of the first stage in plans and histories
_MEASURED = 2  # steps that are timed

StagePlan = tuple[str, TrainingConfig, ChipLoader, ChipLoader | None]


@dataclass(frozen=True)
class PlannedStage:
    """One stage of a training plan.

    Parameters
    ----------
    name : str
        As the recipe calls it.
    epochs, samples, steps : int
        Passes over the data, chips or crops in each pass, and steps of the
        optimiser in all of them.
    learning_rate, final_learning_rate : float
        The first and the last learning rate.
    held_out : int
        Samples that validate.
    """

    name: str
    epochs: int
    samples: int
    steps: int
    learning_rate: float
    final_learning_rate: float
    held_out: int


@dataclass(frozen=True)
class TrainingPlan:
    """The plan of a training: its stages and their approximate hours; prints itself.

    Parameters
    ----------
    stages : tuple of PlannedStage
        In order.
    seconds_a_step : float
        Seconds of one step, measured on this machine without reading and validation.
    batch_size, processes : int
        Samples of one process in a step; processes, each with its own device.
    device : str
        "cpu" or "cuda".
    """

    stages: tuple[PlannedStage, ...]
    seconds_a_step: float
    batch_size: int
    processes: int
    device: str

    @property
    def steps(self) -> int:
        """Steps of the optimiser in all stages."""
        return sum(stage.steps for stage in self.stages)

    @property
    def hours(self) -> float:
        """Hours of all steps."""
        return self.steps * self.seconds_a_step / 3600

    def __str__(self) -> str:
        """Return a table with a row for each stage, and the hours."""
        heads = ("stage", "epochs", "samples", "held out", "steps", "rate", "hours")
        rows = [heads] + [
            (
                stage.name,
                f"{stage.epochs:,}",
                f"{stage.samples:,}",
                f"{stage.held_out:,}",
                f"{stage.steps:,}",
                f"{stage.learning_rate:g} to {stage.final_learning_rate:g}",
                f"{stage.steps * self.seconds_a_step / 3600:.2g}",
            )
            for stage in self.stages
        ]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [
            "  ".join(
                cell.ljust(width) if i == 0 else cell.rjust(width)
                for i, (cell, width) in enumerate(zip(row, widths, strict=True))
            )
            for row in rows
        ]
        where = f"{self.processes} x {self.device}, batches of {self.batch_size}"
        return "\n".join(
            [
                *lines,
                f"{self.steps:,} steps of about {self.seconds_a_step:.2g} s on "
                f"{where}: about {self.hours:.2g} hours",
            ]
        )


def settings_of(recipe: Recipe) -> list[tuple[str, TrainingConfig]]:
    """Return name and settings of each stage of a recipe, in order."""
    later = [(each.name, each.configure(recipe.training)) for each in recipe.stages]
    return [(FIRST, recipe.training), *later]


def stages_of(loaders: DataLoaders) -> list[StagePlan]:
    """Return the stages of a recipe with the data loaders of each."""
    everything = [False, *(stage.everything for stage in loaders.recipe.stages)]
    return [
        (
            name,
            config,
            loaders.everything if on_all else loaders.training,
            None if on_all else loaders.validation,
        )
        for (name, config), on_all in zip(
            settings_of(loaders.recipe), everything, strict=True
        )
    ]


def plan_training(
    task: RegressionTask, stages: Sequence[StagePlan], loaders: DataLoaders
) -> TrainingPlan:
    """Plan a training; some steps are timed on copies of the network.

    Those of a self-supervised start count as long as the others.
    """
    from geobiomass.training import measure_steps  # imports Lightning

    _, config, loader, _ = stages[0]
    start = []
    if loaders.images is not None:
        name, settings = START.partition("-")[2], settings_of_start(loaders.recipe)
        start = [_planned(name, settings, loaders.images, None)]
    return TrainingPlan(
        (*start, *(_planned(*stage) for stage in stages)),
        measure_steps(task, loader, config, _MEASURED),
        config.batch_size,
        config.ranks,
        config.device,
    )


def _planned(
    name: str, config: TrainingConfig, loader: ChipLoader, validation: ChipLoader | None
) -> PlannedStage:
    last = config.final_learning_rate
    return PlannedStage(
        name,
        config.epochs,
        len(loader.samples),
        config.epochs * loader.batches_per_epoch(config.ranks),
        config.learning_rate,
        last if config.schedule == "cosine" else config.learning_rate,
        0 if validation is None else len(validation.samples),
    )
