"""Corrections of mapped losses and gains, fitted to held-out pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from geobiomass.accounting.error_model import (
    FEWEST_RESIDUALS,
    class_centres,
    class_shares,
)

Floats = npt.NDArray[np.float64]

PART_CLASSES = 8  # largest number of classes of the mapped part
BIOMASS_CLASSES = 4  # largest number of classes of the first map's biomass
UNITS_A_CLASS = 8  # least number of units for each class of biomass
FOLDS = 10  # parts of the units, or one per unit if there are fewer units
_ROWS = 2**16  # held-out pixels in memory at a time


@dataclass(frozen=True)
class Correction:
    """The expected error of a part of the change, as a function of both maps.

    It is bilinear between the centres of classes and constant beyond the outer ones.

    Parameters
    ----------
    parts : numpy.ndarray
        (part,) centres of classes of the mapped part, Mg/ha, increasing.
    levels : numpy.ndarray
        (level,) centres of classes of the first map's biomass, Mg/ha, increasing.
    errors : numpy.ndarray
        (part, level) mapped minus true, in the unit of the corrected layer.
    """

    parts: Floats
    levels: Floats
    errors: Floats

    def expected(
        self, part: npt.NDArray[np.float64], biomass: npt.NDArray[np.float64]
    ) -> Floats:
        """Return the expected error; same shape, NaN if either value is missing."""
        found = np.zeros(np.shape(part))
        for share, errors in zip(np.eye(self.levels.size), self.errors.T, strict=True):
            found += np.interp(part, self.parts, errors) * np.interp(
                biomass, self.levels, share
            )
        return found


def fit_corrections(
    part: Floats,
    biomass: Floats,
    errors: Sequence[Floats],
    unit: npt.NDArray[np.intp],
    *,
    seed: int = 0,
) -> list[tuple[Correction, Floats]]:
    """Fit corrections, and predict the error of each pixel from other units.

    The fit is by least squares: first by classes of the part, then the rest by pairs
    of classes. A ridge penalty shrinks pairs to their class of the part: it has the
    weight of `FEWEST_RESIDUALS` pixels without an error in each pair, so that it
    matters in rare pairs only.

    Parameters
    ----------
    part, biomass : numpy.ndarray
        (pixel,) the part of the mapped change, and the first map's biomass, Mg/ha.
    errors : sequence of numpy.ndarray
        (pixel,) mapped minus observed, of each corrected layer: the layers share the
        maps' classes, which are computed once.
    unit : numpy.ndarray
        (pixel,) numbers of the chip or block, from 0 without gaps.
    seed : int
        Seed of the split of units into folds.

    Returns
    -------
    list of tuple
        For each of `errors` the correction, and (pixel,) the error that is expected
        from other units: a tenth of the units is held out at a time (cross-fitting;
        Chernozhukov et al. 2018, Double/debiased machine learning, The Econometrics
        Journal 21, C1-C68).
    """
    if not errors:
        return []
    units = int(unit.max()) + 1
    levels = class_centres(biomass, min(BIOMASS_CLASSES, units // UNITS_A_CLASS))
    parts = class_centres(part, min(PART_CLASSES, units // 2))
    folds = min(FOLDS, units)
    fold = (np.random.default_rng(seed).permutation(units) % folds)[unit]
    size = parts.size * levels.size
    products = np.zeros((folds, size, size))
    sums = [np.zeros((folds, size)) for _ in errors]
    for number in range(folds):
        mine = np.flatnonzero(fold == number)
        for rows in np.split(mine, np.arange(_ROWS, mine.size, _ROWS)):
            of_part = class_shares(part[rows], parts)
            of_level = class_shares(biomass[rows], levels)
            basis = (of_part[:, :, None] * of_level[:, None]).reshape(-1, size)
            products[number] += basis.T @ basis
            for own, error in zip(sums, errors, strict=True):
                own[number] += basis.T @ error[rows]

    # (pair, part): the pairs of classes of each class of the part.
    pairs_of_part = np.kron(np.eye(parts.size), np.ones((levels.size, 1)))

    def solved(product: Floats, right: Floats) -> Correction:
        by_part = np.linalg.lstsq(
            pairs_of_part.T @ product @ pairs_of_part, pairs_of_part.T @ right
        )[0]
        errors = pairs_of_part @ by_part
        penalised = product + FEWEST_RESIDUALS * np.eye(size)
        errors = errors + np.linalg.solve(penalised, right - product @ errors)
        return Correction(parts, levels, errors.reshape(parts.size, levels.size))

    found = []
    for own in sums:
        held_out = np.empty(part.size)
        for number in range(folds):
            mine = fold == number
            rest = solved(products.sum(0) - products[number], own.sum(0) - own[number])
            held_out[mine] = rest.expected(part[mine], biomass[mine])
        found.append((solved(products.sum(0), own.sum(0)), held_out))
    return found
