"""The rows of the comparison of recipes: each differs from its neighbour in one switch.

One chain leads from the winner's recipe to ours, one group of settings at a time. The
new values of a group are those of the recipe "default", so that the chain ends there.
Other rows change one setting of ours, or use another network or method.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any, Literal

from geobiomass.recipes.recipe import RECIPES, Recipe
from recipe_data import Chips
from recipe_peers import Concatenated, Peer, Recurrent, YearlyMedian, average_months

OURS, WINNER = "ours", "winner"
Method = Literal["network", "boosting"]


@dataclass(frozen=True)
class Size:
    """The size of a comparison.

    Parameters
    ----------
    name : str
        Name on the command line.
    chips : Chips
        Chips for training and testing.
    steps : int
        Steps of the optimiser, for every network.
    batch : int
        Chips per step; random crops are smaller, so a step has more of them.
    encoder : str, optional
        Encoder of all networks; None: each recipe's own.
    winner, ours : tuple of int, optional
        Decoder channels; None: the recipe's own. The winner's are 0.3 times the
        original, so that the decoder costs about the same as the encoder of twelve
        months, as in the original.
    moving_average : float
        Largest decay of the moving average of weights for this number of steps.
    """

    name: str
    chips: Chips
    steps: int
    batch: int
    encoder: str | None = None
    winner: tuple[int, ...] | None = None
    ours: tuple[int, ...] | None = None
    moving_average: float = 0.999


SMALL_DECODERS: dict[str, Any] = {
    "encoder": "resnet10t",
    "winner": (112, 108, 104, 100, 96),
    "ours": (64, 48, 32, 24, 16),
}
SIZES = {
    # A run takes two or three minutes on one thread.
    "small": Size(
        "small",
        Chips(64, 192, 64, 96),
        288,
        4,
        **SMALL_DECODERS,
        moving_average=0.98,
    ),
    # The unchanged recipes, for a GPU.
    "full": Size("full", Chips(256, 256, 48, 96), 3200, 8),
    # Tests that everything runs.
    "quick": Size(
        "quick",
        Chips(32, 8, 4, 4),
        2,
        4,
        encoder="resnet10t",
        winner=(24, 20, 16, 12, 12),
        ours=(16, 12, 8, 8, 8),
    ),
}

# The steps from the winner's recipe to ours: groups of settings that change together.
SWITCHES: dict[str, tuple[str, ...]] = {
    "the treatment of missing pixels": ("missing",),
    "the month-of-year term": ("month_term",),
    "the scaling": ("scaling",),
    "the loss": ("loss", "ceiling", "huber_delta", "tail"),
    "the encoder": ("encoder",),
    "the decoder": ("decoder_channels",),
    "dropout of months, patterns and passes": (
        *("month_dropout", "pattern_dropout", "pass_dropout"),
    ),
    "rotation by any angle": ("rotation", "turns"),
    "random crops": ("crop",),
    "the optimiser's settings": (
        *("learning_rate", "final_learning_rate", "schedule", "schedule_by"),
        *("warmup_epochs", "weight_decay", "gradient_clip"),
    ),
    "the moving average": ("moving_average",),
}
# Our recipe with one change.
ALONE: dict[str, dict[str, Any]] = {
    "zero for missing pixels": {"missing": "zero"},
    "validity channels": {"missing": "validity"},
    "renormalised pixels": {"missing": "renormalise"},
    "no month-of-year term": {"month_term": False},
    "month-of-year term": {"month_term": True},
    "min-max scaling": {"scaling": "biomassters"},
    "ceiling 400": {"loss": "chip_rmse", "ceiling": 400.0},
    "ceiling 1000": {"loss": "chip_rmse", "ceiling": 1000.0},
    "no ceiling": {"loss": "chip_rmse", "ceiling": None},
    "robust loss by chip": {"loss": "chip_huber", "ceiling": None},
    "robust loss by pixel": {"loss": "huber", "ceiling": None},
    "squared loss by pixel": {"loss": "mse", "ceiling": None},
    "no dropout": {"month_dropout": 0.0, "pattern_dropout": 0.0, "pass_dropout": 0.0},
    "month dropout alone": {
        "month_dropout": 0.5,
        "pattern_dropout": 0.0,
        "pass_dropout": 0.0,
    },
    "pattern and pass dropout alone": {
        "month_dropout": 0.0,
        "pattern_dropout": 0.3,
        "pass_dropout": 0.2,
    },
    "rotation 0.7": {"rotation": 0.7},
    "no rotation": {"rotation": 0.0},
    "crops by biomass": {"crop_sampling": "biomass"},
    "balanced loss 0.25": {"balance": 0.25},
    "balanced loss 0.5": {"balance": 0.5},
    "heteroscedastic head": {"loss": "beta_nll"},
    "monotone correction": {"tail_correction": True},
    "balanced loss 0.25, monotone correction": {
        "balance": 0.25,
        "tail_correction": True,
    },
}


@dataclass(frozen=True)
class Row:
    """One method of mapping.

    Parameters
    ----------
    name : str
        Name in tables and on the command line.
    neighbour : str
        The row that differs in one switch; empty if there is none.
    recipe : Recipe
        The recipe, with the seed 0.
    change : callable, optional
        Changes the network of a regressor with random weights.
    peer : callable, optional
        Returns another network for given bands and months.
    filled : bool
        Whether missing pixels are the winner's minima, so that no month is missing.
    method : str
        "network", or "boosting" by pixel.
    last : str
        For our row: the last switch on the way from the winner.
    """

    name: str
    neighbour: str
    recipe: Recipe
    change: Callable[[Any], None] | None = None
    peer: Callable[[int, int], Peer] | None = field(default=None, compare=False)
    filled: bool = False
    method: Method = "network"
    last: str = ""

    @property
    def definition(self) -> str:
        """Return a key of the definition, to recognise results of another one."""
        change = self.change.__name__ if self.change else ""
        peer = self.name if self.peer or self.method != "network" else ""
        return repr((self.recipe, change, peer, self.filled, self.method))


def make_rows(size: Size, steps: int) -> dict[str, Row]:
    """Return all rows by name: the winner, the chain to ours, ours, the others."""
    winner = fitted(RECIPES["biomassters"], size, steps, {}, size.winner)
    ours = fitted(RECIPES["default"], size, steps, {}, size.ours)
    rows = [
        Row(WINNER, "", winner, filled=True),
        Row("+ absent months masked", WINNER, winner),
    ]
    rows += _chain(rows[-1], ours, size, steps)
    # The last step leads to ours; its name is that of the last group.
    rows[-1] = dataclasses.replace(rows[-1], name=OURS, recipe=ours, last=rows[-1].name)
    rows += _alone(ours, size, steps)
    rows.append(Row("mean over months", OURS, ours, change=average_months))
    rows += _peers(ours)
    return {row.name: row for row in rows}


def fitted(
    recipe: Recipe,
    size: Size,
    steps: int,
    changes: Mapping[str, Any],
    decoder: tuple[int, ...] | None = None,
) -> Recipe:
    """Return a recipe for a size: its number of steps, one stage, last weights."""
    chosen = dict(changes)
    if size.encoder:
        chosen["encoder"] = size.encoder
    if decoder:
        chosen["decoder_channels"] = decoder
    recipe = recipe.with_changes(**chosen, progress=False, stages=())
    if recipe.crop is not None and recipe.crop >= size.chips.side:
        recipe = recipe.with_changes(crop=None)
    decay = recipe.training.moving_average
    if decay is not None:
        recipe = recipe.with_changes(moving_average=min(decay, size.moving_average))
    side = recipe.crop or size.chips.side
    batch = round(size.batch * (size.chips.side / side) ** 2)
    an_epoch = size.chips.training * (size.chips.side // side) ** 2 // batch
    return recipe.with_changes(batch_size=batch, epochs=max(1, round(steps / an_epoch)))


def steps_of(row: Row, size: Size) -> int:
    """Return the number of optimiser steps of a row."""
    recipe = row.recipe
    crops = (size.chips.side // (recipe.crop or size.chips.side)) ** 2
    an_epoch = size.chips.training * crops // recipe.training.batch_size
    return an_epoch * recipe.training.epochs


def value_of(recipe: Recipe, name: str) -> Any:
    """Return a setting of a recipe or of its training."""
    return getattr(recipe if hasattr(recipe, name) else recipe.training, name)


def _chain(first: Row, ours: Recipe, size: Size, steps: int) -> list[Row]:
    """Yield recipes that change one group of settings at a time; skip no changes."""
    rows: list[Row] = []
    before = first
    for what, names in SWITCHES.items():
        values = {name: value_of(ours, name) for name in names}
        recipe = fitted(before.recipe, size, steps, values)
        if recipe == before.recipe:
            continue
        before = Row(f"+ {what}", before.name, recipe)
        rows.append(before)
    return rows


def _alone(ours: Recipe, size: Size, steps: int) -> list[Row]:
    changed = dict(ALONE)
    part = size.chips.side * 3 // 4
    changed[f"crops of {part}"] = {"crop": part}
    changed["whole chips"] = {"crop": None}
    if size.winner:
        changed["the winner's decoder"] = {"decoder_channels": size.winner}
    if ours.training.moving_average is None:
        decay = size.moving_average
        changed[f"moving average {decay}"] = {"moving_average": decay}
    else:
        changed["no moving average"] = {"moving_average": None}
    rows = []
    for name, changes in changed.items():
        recipe = fitted(ours, size, steps, changes)
        if recipe != ours:
            rows.append(Row(f"ours, {name}", OURS, recipe))
    return rows


def _peers(ours: Recipe) -> list[Row]:
    encoder, decoder = ours.encoder, ours.decoder_channels
    rows = [
        Row(
            "months concatenated, smp U-Net",
            OURS,
            ours,
            peer=lambda bands, months: Peer(
                Concatenated(encoder, decoder, bands, months), bands
            ),
        ),
        Row(
            "yearly median, smp U-Net",
            OURS,
            ours,
            peer=lambda bands, _: Peer(YearlyMedian(encoder, decoder, bands), bands),
        ),
    ]
    if find_spec("torchgeo"):
        rows.append(
            Row(
                "torchgeo ConvLSTM",
                OURS,
                ours,
                peer=lambda bands, _: Peer(Recurrent(bands), bands),
            )
        )
    rows.append(Row("gradient boosting by pixel", "", ours, method="boosting"))
    return rows
