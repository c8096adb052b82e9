"""Weights of labels by their standard errors.

A label with the standard error se has the weight 1 / (tau^2 + se^2), scaled to a mean
of 1 over the training labels: the inverse of the variance of its distance from what a
model can explain, as in a random-effects meta-analysis (DerSimonian and Laird,
Meta-analysis in clinical trials, 1986). tau^2 is the variance that a model leaves
unexplained beside the errors of the labels. It solves sum r^2 / (tau^2 + se^2) = n for
the n residuals r of labels that were left out (Paule and Mandel, Consensus values and
weighting factors, 1982). So no label counts zero, and one with a tiny error does not
take all.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from geobiomass.cube import CubeError
from geobiomass.data.labelled_cube import LabelledSamples
from geobiomass.learner.features import PixelFeatures
from geobiomass.recipes.label_forests import forests_without
from geobiomass.recipes.label_table import LabelTable, make_table
from geobiomass.recipes.recipe import Recipe
from geobiomass.statistics.label_errors import unexplained_variance

Numbers = npt.NDArray[np.float64]

NO_EFFECT = (
    "label_errors=True has no effect: the cube has no standard errors of labels, "
    "'agb_se'; add them with gb.with_labels(..., error=), or leave it out."
)
"""The warning where nothing can weigh."""

_FEWEST = 10  # labels to measure residuals with
_MOST = 2_000  # labels that residuals are measured with, at most


@dataclass(frozen=True)
class LabelWeights:
    """The weights of labels, from their standard errors.

    Parameters
    ----------
    unexplained : float
        tau^2: the variance that a model leaves unexplained, squared units of labels.
    scale : float
        What weights are multiplied by, so that their mean is 1.
    middle : float
        The standard error of a label that has none.
    labels, without : int
        Training labels, and those among them without an error.
    least, most : float
        The smallest and the largest weight of a training label.
    """

    unexplained: float
    scale: float
    middle: float
    labels: int
    without: int = 0
    least: float = 1.0
    most: float = 1.0

    def __call__(self, errors: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return the weights of labels with these standard errors, in their type."""
        known = np.where(np.isnan(errors), self.middle, errors).astype(np.float64)
        found = self.scale / (self.unexplained + known**2)
        return found.astype(errors.dtype)

    def to_dict(self) -> dict[str, Any]:
        """Return what the record of a model and its card have."""
        return {
            "formula": "1 / (tau^2 + se^2), scaled to a mean of 1",
            "tau": self.unexplained**0.5,
            "labels": self.labels,
            "without an error": self.without,
            "least": self.least,
            "most": self.most,
        }


def weights_of_table(
    table: LabelTable, groups: npt.NDArray[np.int64], recipe: Recipe
) -> LabelWeights | None:
    """Return the weights of the labels of a table; None where none weighs.

    Parameters
    ----------
    table : LabelTable
        Training labels with features and standard errors.
    groups : numpy.ndarray
        (row,) whole numbers: rows of one group are left out together.
    recipe : Recipe
        Whether labels weigh, and its seed.

    Raises
    ------
    CubeError
        If no label has a standard error, or all are 0.

    Warns
    -----
    UserWarning
        If labels have no standard error, with their number, or none has one.
    """
    if table.errors is None or not recipe.label_errors or not len(table):
        _tell_of_no_effect(table.errors is not None, recipe)
        return None
    missing = np.isnan(table.errors)
    known = table.errors[~missing]
    if not len(known) or not known.any():
        what = "0 at all" if len(known) else "none at any"
        raise CubeError(
            "Standard errors of labels, 'agb_se', must be above 0 at some labels, got "
            f"{what} of {len(table):,}; give them, or train without them, "
            "gb.fit(..., label_errors=False)."
        )
    middle = float(np.median(known))
    if missing.any():
        warnings.warn(
            f"{int(missing.sum()):,} of {len(table):,} labels have no standard error "
            f"and get the median of the others, {middle:.4g}.",
            stacklevel=6,
        )
    errors = np.where(missing, middle, table.errors)
    seed = recipe.training.seed
    rows = np.arange(len(table))
    if len(rows) > _MOST:
        draw = np.random.default_rng(seed)
        rows = np.sort(draw.choice(rows, _MOST, replace=False))
    left_out = _residuals(table.features[rows], table.target[rows], groups[rows], seed)
    unexplained = unexplained_variance(left_out, errors[rows])
    plain = 1 / (unexplained + errors**2)
    scale = float(1 / plain.mean())
    return LabelWeights(
        unexplained,
        scale,
        middle,
        len(table),
        int(missing.sum()),
        float(scale * plain.min()),
        float(scale * plain.max()),
    )


def weights_of_samples(part: LabelledSamples, recipe: Recipe) -> LabelWeights | None:
    """Return the weights of the labels that a network trains on.

    The variance that a learner by pixel leaves unexplained is used for the network too.
    """
    reader = part.reader
    if not reader.has_errors or not recipe.label_errors:
        _tell_of_no_effect(reader.has_errors, recipe)
        return None
    features = PixelFeatures(reader.bands, reader.calendar, (3,), recipe.monthly)
    table = make_table(reader, part.samples, features, recipe, recipe.most_labels)
    return weights_of_table(table, table.where, recipe)


def _tell_of_no_effect(known: bool, recipe: Recipe) -> None:
    if recipe.label_errors and not known:
        warnings.warn(NO_EFFECT, stacklevel=7)


def _residuals(
    table: npt.NDArray[np.float32],
    target: Numbers,
    groups: npt.NDArray[np.int64],
    seed: int,
) -> Numbers:
    """Return the residuals of labels, predicted by trees grown without their group."""
    found: Numbers = np.asarray(target - target.mean(), np.float64)
    if len(target) >= _FEWEST:
        for held, forest in forests_without(table, target, groups, seed):
            found[held] = target[held] - forest.predict(table[held])
    return found
