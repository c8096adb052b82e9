"""What mapped losses and gains are worth, by what held-out pixels show of them."""

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

PART_CLASSES = 8  # at most, of the mapped part
BIOMASS_CLASSES = 4  # at most, of the first map's biomass
UNITS_A_CLASS = 8  # of biomass
FOLDS = 10
_ROWS = 2**16  # of held-out pixels looked at together


@dataclass(frozen=True)
class Correction:
    """The expected error of a part of the change, by what both maps show.

    Bilinear between the centres of classes and level beyond the first and last.

    Parameters
    ----------
    parts : numpy.ndarray
        (part,) centres of classes of the mapped part, Mg/ha, rising.
    levels : numpy.ndarray
        (level,) centres of classes of the first map's biomass, Mg/ha, rising.
    errors : numpy.ndarray
        (part, level) mapped minus true, in the units of what is corrected.
    """

    parts: Floats
    levels: Floats
    errors: Floats

    def expected(
        self, part: npt.NDArray[np.float64], biomass: npt.NDArray[np.float64]
    ) -> Floats:
        """Give the expected error; same shape, NaN where either is missing."""
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
    """Fit corrections, and tell what each gives where it has not looked.

    By least squares: first by classes of the part alone, then what is left by pairs of
    classes, with a penalty as if `FEWEST_RESIDUALS` more pixels of each pair had no
    error left, so that pairs that are hardly met follow their class of the part.

    Parameters
    ----------
    part, biomass : numpy.ndarray
        (pixel,) the part of the mapped change, and the first map's biomass, Mg/ha.
    errors : sequence of numpy.ndarray
        (pixel,) mapped minus observed, of each thing that is corrected: what the maps
        show of the pixels is the same for all, and worked out once.
    unit : numpy.ndarray
        (pixel,) numbers of the chip or block, from 0 without gaps.
    seed : int
        Of the draw of units for the folds.

    Returns
    -------
    list of tuple
        Of each of `errors` the correction, and (pixel,) the error expected by the
        pixels of other units: a tenth of the units is left out at a time
        (cross-fitting; Chernozhukov et al. 2018, Double/debiased machine learning, The
        Econometrics Journal 21, C1-C68).
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

    alone = np.kron(np.eye(parts.size), np.ones((levels.size, 1)))

    def solved(product: Floats, right: Floats) -> Correction:
        by_part = np.linalg.lstsq(alone.T @ product @ alone, alone.T @ right)[0]
        errors = alone @ by_part
        penalised = product + FEWEST_RESIDUALS * np.eye(size)
        errors = errors + np.linalg.solve(penalised, right - product @ errors)
        return Correction(parts, levels, errors.reshape(parts.size, levels.size))

    found = []
    for own in sums:
        unseen = np.empty(part.size)
        for number in range(folds):
            mine = fold == number
            rest = solved(products.sum(0) - products[number], own.sum(0) - own[number])
            unseen[mine] = rest.expected(part[mine], biomass[mine])
        found.append((solved(products.sum(0), own.sum(0)), unseen))
    return found
