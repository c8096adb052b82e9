"""Corrections of a map from a few plots: a shift, a line, and with a Gaussian process.

A line has two numbers. The Gaussian process adds what the features of a pixel explain
of the rest; its mean is a kernel ridge regression (Rasmussen and Williams 2006, section
2.2).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from geobiomass.learner.fitting import folds_of
from geobiomass.learner.kernel_ridge import Folds, KernelRidge, Table, fit_kernel_ridge

Numbers = npt.NDArray[np.float64]

NONE, OFFSET, AFFINE, PROCESS = "none", "offset", "affine", "gaussian process"
CORRECTIONS = (NONE, OFFSET, AFFINE, PROCESS)
"""From the simplest to the one that needs most plots."""


@dataclass(frozen=True)
class Correction:
    """A correction: intercept + slope times the map, and a kernel's value.

    Parameters
    ----------
    slope, intercept : float
        Of the line.
    kernel : KernelRidge, optional
        Of the features of a pixel, the last of which is the map.
    """

    slope: float = 1.0
    intercept: float = 0.0
    kernel: KernelRidge | None = None

    def __call__(self, mapped: Numbers, table: Table) -> Numbers:
        """Return corrected values (row,) of a map's values and features of the rows."""
        found = self.intercept + self.slope * mapped
        if self.kernel is not None:
            with torch.inference_mode():
                rows = np.ascontiguousarray(_with_map(table, mapped).T)
                found = found + self.kernel(torch.from_numpy(rows)).numpy()
        return found


def fit_correction(
    kind: str,
    mapped: Numbers,
    table: Table,
    target: Numbers,
    groups: npt.NDArray[np.int64],
    seed: int,
) -> Correction:
    """Fit a correction.

    Parameters
    ----------
    kind : str
        One of :data:`CORRECTIONS`.
    mapped : numpy.ndarray
        (row,) the map at the plots.
    table : numpy.ndarray
        (row, feature) float32 features of the plots, NaN where missing.
    target : numpy.ndarray
        (row,) what was measured.
    groups : numpy.ndarray
        (row,) rows of one group are never on two sides of a fold.
    seed : int
        Seed of the folds that choose the kernel.
    """
    if kind == NONE:
        return Correction()
    slope = 1.0
    if kind != OFFSET:
        spread = float(np.var(mapped))
        if spread > 0:
            apart = (mapped - mapped.mean()) * (target - target.mean())
            # A map that falls where biomass rises says nothing: the mean is left.
            slope = max(0.0, float(np.mean(apart)) / spread)
    line = Correction(slope, float(target.mean() - slope * mapped.mean()))
    if kind != PROCESS or len(np.unique(groups)) < 2:
        return line
    rest = target - line(mapped, table)
    even = np.ones(len(rest))
    joined, folds = _with_map(table, mapped), folds_of(groups, seed)
    kernel, _ = fit_kernel_ridge(joined, rest, even, folds)
    return Correction(line.slope, line.intercept, kernel)


def predict_out_of_fold(
    kind: str,
    mapped: Numbers,
    table: Table,
    target: Numbers,
    groups: npt.NDArray[np.int64],
    folds: Folds,
    seed: int,
) -> Numbers:
    """Return maps corrected without the fold of each row.

    Parameters
    ----------
    kind, table, target, groups, seed
        As :func:`fit_correction` takes them.
    mapped : numpy.ndarray
        (output, row): the map, and the ends of its interval if it has one.
    folds : numpy.ndarray
        (row,) number of the fold of each row.

    Returns
    -------
    numpy.ndarray
        (output, row).
    """
    found = np.full(mapped.shape, np.nan)
    for fold in np.unique(folds):
        held = folds == fold
        fitted = fit_correction(
            kind, mapped[0, ~held], table[~held], target[~held], groups[~held], seed
        )
        middle = fitted(mapped[0, held], table[held])
        found[:, held] = middle + fitted.slope * (mapped[:, held] - mapped[0, held])
    return found


def _with_map(table: Table, mapped: Numbers) -> Table:
    return np.concatenate([table, mapped[:, None].astype(np.float32)], axis=1)


def check_correction(method: str | None) -> Sequence[str]:
    """Return the corrections that are compared.

    Raises
    ------
    ValueError
        If there is none of that name.
    """
    if method is None:
        return CORRECTIONS
    if method not in CORRECTIONS:
        raise ValueError(
            f"method must be one of {', '.join(CORRECTIONS)}, or None to compare them, "
            f"got {method!r}."
        )
    return (method,)


__all__ = [
    "CORRECTIONS",
    "NONE",
    "Correction",
    "check_correction",
    "fit_correction",
    "predict_out_of_fold",
]
