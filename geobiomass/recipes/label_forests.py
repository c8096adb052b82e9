"""Forests that did not see a label's chip, block or group: a first look at labels."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from geobiomass.learner.fitting import folds_of

_FOLDS, _TREES, _LEAF = 5, 60, 3


def forests_without(
    features: npt.NDArray[np.float32],
    target: npt.NDArray[np.float64],
    groups: npt.NDArray[np.int64],
    seed: int,
    most: int | None = None,
) -> Iterator[tuple[npt.NDArray[np.bool_], Any]]:
    """Yield the rows of each fold of groups, and a forest grown on the other rows.

    Parameters
    ----------
    features : numpy.ndarray
        (row, feature) float32, NaN where missing.
    target : numpy.ndarray
        (row,) float64.
    groups : numpy.ndarray
        (row,) whole numbers: rows of one group are left out together. One group yields
        nothing.
    seed : int
        Of folds, trees and drawn rows.
    most : int, optional
        Rows that a forest is grown on at most, drawn at random.
    """
    from sklearn.ensemble import ExtraTreesRegressor

    folds = folds_of(groups, seed, _FOLDS)
    if folds.max() == 0:
        return
    for fold in range(int(folds.max()) + 1):
        held = folds == fold
        rows = np.flatnonzero(~held)
        if most is not None and len(rows) > most:
            draw = np.random.default_rng([seed, fold])
            rows = np.sort(draw.choice(rows, most, replace=False))
        forest = ExtraTreesRegressor(
            _TREES, min_samples_leaf=_LEAF, max_features=0.5, random_state=seed
        )
        yield held, forest.fit(features[rows], target[rows])
