"""The plan of a learner by pixel: what will be fitted, and for about how long."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from geobiomass.learner.fitting import FOLDS, Labels, seconds_of, shares_of
from geobiomass.learner.own_estimator import OWN_FOLDS
from geobiomass.recipes.recipe import Recipe


@dataclass(frozen=True)
class PixelPlan:
    """The plan of a learner by pixel; prints itself.

    Parameters
    ----------
    labels, found : int
        Labels to learn from, and labels that there are.
    features : int
        Features of a pixel.
    groups, folds : int
        Groups of labels that are never divided, and folds of them.
    learner : str
        What is fitted.
    seconds : float
        About the time that fitting takes on this machine, measured on a part.
    """

    labels: int
    found: int
    features: int
    groups: int
    folds: int
    learner: str
    seconds: float

    @property
    def hours(self) -> float:
        """Hours of fitting."""
        return self.seconds / 3600

    def __str__(self) -> str:
        """Return the plan in two lines."""
        return (
            f"{self.labels:,} of {self.found:,} labels in {self.groups:,} chips, "
            f"blocks or groups, {self.features:,} features of a pixel\n"
            f"{self.learner}, out of fold in {self.folds} folds: about "
            f"{max(1, round(self.seconds)):,} s"
        )


def plan_pixels(labels: Labels, found: int, recipe: Recipe, threads: int) -> PixelPlan:
    """Plan a learner by pixel, after growing a few trees of each kind.

    Parameters
    ----------
    labels : Labels
        To learn from.
    found : int
        Labels that there are.
    recipe : Recipe
        What to fit.
    threads : int
        That trees are grown with.
    """
    groups = len(np.unique(labels.groups))
    own = not isinstance(recipe.learner, str)
    folds = min(OWN_FOLDS if own else FOLDS, groups)
    if own:
        learner, seconds = _of_own(recipe.learner, labels, folds)
    else:
        shares = shares_of(len(labels.target))
        learner = ", ".join(f"{100 * share:.0f} % {p}" for p, share in shares.items())
        seconds, _ = seconds_of(labels, recipe.trees, recipe.training.seed, threads)
    count = labels.table.shape[1]
    return PixelPlan(len(labels.target), found, count, groups, folds, learner, seconds)


def _of_own(estimator: Any, labels: Labels, folds: int) -> tuple[str, float]:
    """Time a clone on a tenth of the labels; the time grows about with their number."""
    from sklearn.base import clone

    rows = slice(None, None, 10 if len(labels.target) > 1000 else 1)
    table = np.nan_to_num(labels.table[rows])
    began = time.perf_counter()
    clone(estimator).fit(table, labels.target[rows])
    seconds = time.perf_counter() - began
    share = len(labels.target) / len(table)
    return type(estimator).__name__, seconds * share * (folds + 1)
