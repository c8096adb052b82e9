"""Data of a learner by pixel: the split, groups of labels, rows of features."""

from __future__ import annotations

import copy
import dataclasses
import warnings
from typing import cast

import numpy as np
import numpy.typing as npt
import torch

from geobiomass.cube import CubeError, DamagedError
from geobiomass.data.folds import Fold
from geobiomass.data.labelled_cube import LabelledCube, LabelledSamples
from geobiomass.data.reader import Reader
from geobiomass.data.splits import check_no_overlap, groups_of, samples_of
from geobiomass.learner.fitting import FittedParts
from geobiomass.learner.kernel_ridge import Standardised
from geobiomass.learner.pixel_network import PixelNetwork
from geobiomass.models.calibration import check_weights
from geobiomass.recipes.label_table import LabelTable
from geobiomass.recipes.label_weights import LabelWeights
from geobiomass.recipes.recipe import Recipe
from geobiomass.recipes.split import (
    HeldOut,
    Split,
    grouped_by,
    split_samples,
    units_to_split,
)
from geobiomass.statistics.conformal import too_few
from geobiomass.statistics.conformal_quantile import needed_units
from geobiomass.tiles import EVALUATION_BLOCK

Prepared = tuple[Split, LabelTable, npt.NDArray[np.int64], str | None]
"""Split, table of labels, the group of each and the coordinate that names groups."""


def split_by_pixel(
    data: LabelledCube, recipe: Recipe, held: HeldOut, calibrate: bool
) -> Split:
    """Split; predictions out of fold calibrate, so that nothing is set aside for it."""
    units = units_to_split(data, recipe, held, calibrate)
    skip = recipe.damaged == "skip"
    every = LabelledSamples.find(_cached(data.reader, recipe), units, skip)
    own = (
        recipe
        if not calibrate
        else dataclasses.replace(
            recipe,
            interval=None,
            fold=0 if recipe.interval is not None else recipe.fold,
        )
    )
    if held is None and not own.validation_fraction:
        held = 0.0  # each label is held out of some trees, and none of all
    split = split_samples(data, every, own, held, calibrate)
    if isinstance(held, Fold) and own.interval is not None:
        # The fold calibrates, and there are no epochs to choose on the rest.
        return dataclasses.replace(split, training=split.everything, validation=None)
    if isinstance(held, LabelledCube):
        check_no_overlap(data.cube, held.cube)
        blocks = samples_of(held.reader, EVALUATION_BLOCK)
        other = LabelledSamples.find(held.reader, blocks, skip)
        return dataclasses.replace(split, validation=other)
    return split


def _cached(reader: Reader, recipe: Recipe) -> Reader:
    """Return a reader that computes what is lazy once, if it fits into memory."""
    if reader.computed_chunks is None:
        return reader
    kept = copy.copy(reader)
    try:
        kept.cache(recipe.cache)
    except DamagedError:
        if recipe.damaged == "raise":
            raise
    return kept


def groups_of_rows(
    data: LabelledCube, table: LabelTable, recipe: Recipe, held: HeldOut
) -> tuple[npt.NDArray[np.int64], str | None]:
    """Return the group of each row, and the coordinate that names the groups."""
    named = grouped_by(recipe, held)
    groups = groups_of(data.cube, table.samples, named)
    if groups is None:
        return table.where, None
    numbers = np.unique(groups, return_inverse=True)[1]
    found = numbers[table.where]
    if len(np.unique(found)) < 2:
        warnings.warn(
            f"all labels are in one group by {named!r}: the error in another one is "
            "not known, and is measured by chip.",
            stacklevel=5,
        )
        return table.where, named
    return found, named


def check_units(where: npt.NDArray[np.int64], recipe: Recipe) -> None:
    """Check that there are chips or blocks enough to calibrate, before long work."""
    interval, count = cast(float, recipe.interval), len(np.unique(where))
    if count < needed_units(interval):
        raise CubeError(too_few(interval, f"got {count}"))


def check_rows_worth(
    where: npt.NDArray[np.int64], weights: npt.NDArray[np.float64], recipe: Recipe
) -> None:
    """Check that weighed chips or blocks are worth enough to calibrate."""
    each = [weights[where == number] for number in np.unique(where)]
    check_weights(each, cast(float, recipe.interval))


def row_weights(
    table: LabelTable, weigh: LabelWeights | None
) -> npt.NDArray[np.float64]:
    """Return the weight of each label of a table; 1 where errors do not weigh."""
    if weigh is None or table.errors is None:
        return np.ones(len(table))
    return weigh(table.errors)


def standardise(network: PixelNetwork, table: npt.NDArray[np.float32]) -> None:
    """Set what features are compared by, for a network of the user's estimator."""
    if network.own is None:
        return
    Standardised.of(table).give_to(network.kernel)


def predict_rows(
    network: PixelNetwork, table: npt.NDArray[np.float32]
) -> npt.NDArray[np.float64]:
    """Return the map's values of rows of features, as a map has them."""
    with torch.inference_mode():
        rows = torch.from_numpy(np.ascontiguousarray(table.T))
        parts = [network.predict(some)[0] for some in torch.split(rows, 16_384, dim=1)]
    return torch.cat(parts).float().double().numpy()


def floored(
    values: npt.NDArray[np.float64], floor: float | None
) -> npt.NDArray[np.float64]:
    """Return predictions as maps have them, not below the floor."""
    return values if floor is None else np.maximum(values, floor)


def predict_parts(
    network: PixelNetwork, parts: FittedParts, table: npt.NDArray[np.float32]
) -> npt.NDArray[np.float64]:
    """Return what fitted parts predict for rows of features.

    Parameters
    ----------
    network : PixelNetwork
        Whose features the first columns are.
    parts : FittedParts
        Of the columns of the table.
    table : numpy.ndarray
        (row, feature) float32.
    """
    names = network.features.names

    class Rows(PixelNetwork):
        """A network of as many features as the table has."""

        more = table.shape[1] - len(names)

    return predict_rows(Rows.of_parts(network.features, parts).eval(), table)
