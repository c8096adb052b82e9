"""Errors of several learners on the same held-out labels, and their differences.

Labels of one group (a block, a site, a chip) share their errors, so that a standard
error is a jackknife that leaves out one group at a time (Efron and Stein, The jackknife
estimate of variance, Annals of Statistics 9, 1981). The same groups are left out of all
learners: a difference has the standard error of a difference, which is much smaller
than those of its two terms where they err at the same labels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.float64]
Groups = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Compared:
    """The error of a learner on held-out labels, and what it is more than the best.

    Parameters
    ----------
    rmse, bias : float
        Over all labels together.
    standard_error : float
        Of the RMSE, over groups; NaN for one group.
    difference, difference_error : float
        RMSE minus that of the best learner, and its standard error.
    """

    rmse: float
    bias: float
    standard_error: float
    difference: float
    difference_error: float


def rmse_without_each_group(errors: Numbers, groups: Groups) -> Numbers:
    """Return the RMSE of all labels but those of one group, for each group."""
    _, where = np.unique(groups, return_inverse=True)
    squares, counts = np.bincount(where, errors**2), np.bincount(where)
    left = counts.sum() - counts
    rest = np.maximum(squares.sum() - squares, 0.0)
    # Without the only group nothing is left.
    found: Numbers = np.sqrt(rest / np.where(left > 0, left, np.nan))
    return found


def jackknife_error(without_each: Numbers) -> float:
    """Return the standard error of a statistic from its values without each group."""
    count = len(without_each)
    if count < 2:
        return math.nan
    apart = without_each - without_each.mean()
    return float(np.sqrt((count - 1) / count * np.sum(apart**2)))


def compare_errors(
    errors: Mapping[str, Numbers], groups: Groups, candidates: Sequence[str]
) -> dict[str, Compared]:
    """Compare the errors of learners on the same labels.

    Parameters
    ----------
    errors : mapping of str to numpy.ndarray
        (label,) predicted minus observed, by learner.
    groups : numpy.ndarray
        (label,) the group of each label.
    candidates : sequence of str
        The learners of which one is the best; others are compared with it.
    """
    each = {k: rmse_without_each_group(v, groups) for k, v in errors.items()}
    rmse = {k: float(np.sqrt(np.mean(v**2))) for k, v in errors.items()}
    best = min(candidates, key=lambda name: rmse[name])
    return {
        name: Compared(
            rmse[name],
            float(values.mean()),
            jackknife_error(each[name]),
            rmse[name] - rmse[best],
            jackknife_error(each[name] - each[best]) if name != best else 0.0,
        )
        for name, values in errors.items()
    }


def simplest_of_best(found: Mapping[str, Compared], order: Sequence[str]) -> str:
    """Return the first learner that is not worse than the best by a standard error.

    That is the one-standard-error rule (Breiman et al., Classification and regression
    trees, 1984, section 3.4.3), with the standard error of the difference.

    Parameters
    ----------
    found : mapping of str to Compared
        By learner.
    order : sequence of str
        Learners from the simplest to the most costly.
    """
    for name in order:
        one = found[name]
        # Without two groups no difference is known to be one.
        if not one.difference > one.difference_error:
            return name
    raise ValueError(f"order must name the best of {sorted(found)}, got {order}.")
