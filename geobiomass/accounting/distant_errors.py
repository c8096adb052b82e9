"""Whether errors reach further than the held-out land shows, and what that costs.

Errors that are longer than this land, or longer in one direction, make sums more
variable than the variogram says. Where one of these checks speaks, sums of errors have
twice the standard deviation.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from geobiomass.accounting.check import BROKEN, DOUBTFUL, OK, Check, Verdict, graded

if TYPE_CHECKING:
    from geobiomass.accounting.error_model import ErrorModel

# The range at which errors are independent, over the longest lag that was measured
# (half the extent of the held-out land). A fit to a scene is too short where the curve
# still rises: in `benchmarks.covered other-worlds` errors of a range of 450 m over lags
# of 1.2 km are below 0.6 in 97 of 100 scenes, and of those of 3 km half are above 1.2.
_RANGE = (0.6, 1.0)
# Chips have the variance between them as well, which is their sill.
_RANGE_OF_CHIPS = (1.0, 2.0)
# Levels of the permutation test. Units beyond the effective range are not quite
# independent: in clean scenes 5 % speak in 10 to 22 of 100. With 1 % and sums of errors
# twice as variable as the variogram says, in 0 to 5 of 100, and in 50 of 100 whose
# errors have 30 % of their variance over 4.5 km (`benchmarks.covered other-worlds`):
# two signs that all of the held-out land shares an error that is not the region's.
_ALIKE, _VERY_ALIKE, _LARGE = 0.05, 0.01, 2.0
# Semivariances of four directions, the largest over the smallest. Clean scenes of 18
# blocks or more are below 1.25, of 9 below 1.4.
_UNLIKE = (1.3, 1.6)
# In `benchmarks.covered other-worlds` doubtful intervals of 90 % hold 55 to 79 % where
# errors reach further than their variogram and 79 to 100 % elsewhere; with twice the
# width 81 % and more.
_WIDER = 2.0
_TOLD = "; the standard error is doubled for it"


def widening(model: ErrorModel) -> float:
    """Return what the standard deviation of sums of errors is multiplied by: 1 or 2.

    It is 1 for chips: their sill has the variance between them, and what is longer than
    that cannot be measured.
    """
    sure = all(check.verdict == OK for check in distance_checks(model))
    return 1.0 if sure or not model.places else _WIDER


def distance_checks(model: ErrorModel) -> list[Check]:
    """Return the checks of how errors are correlated over distance."""
    told = _TOLD if model.places else ""
    return [
        check if check.verdict == OK else replace(check, words=check.words + told)
        for check in (_range(model), _far(model), _directions(model))
    ]


def _range(model: ErrorModel) -> Check:
    name, table = "range of errors", model.variogram.table
    if not len(table):
        return Check(name, math.nan, OK, "not checked: the error model has no lags")
    reach = float(table["lag"].max())
    length = model.variogram.effective_range
    words = (
        f"errors are correlated over {length:,.3g} m, and pairs up to {reach:,.3g} m "
        "were measured"
    )
    limits = _RANGE if model.places else _RANGE_OF_CHIPS
    verdict = graded(length / reach, *limits)
    return Check(name, length / reach, verdict, words, of_change=False)


def _far(model: ErrorModel) -> Check:
    name = "errors of distant units"
    if model.far is None:
        words = "not checked: fewer than 8 units with places, or none far apart"
        return Check(name, math.nan, OK, words)
    words = (
        "mean errors of units beyond the range of errors are as alike as "
        f"{100 * model.far:.2g} % of independent ones"
    )
    verdict: Verdict = OK
    if model.far < _ALIKE:
        sure = model.far <= _VERY_ALIKE and model.inflation > _LARGE
        verdict = BROKEN if sure else DOUBTFUL
    return Check(name, model.far, verdict, words, of_change=False)


def _directions(model: ErrorModel) -> Check:
    name = "directions of errors"
    if model.directions is None:
        words = "not checked: an earlier error model, or few pairs in a direction"
        return Check(name, math.nan, OK, words)
    words = (
        f"errors differ {model.directions:.3g} times as much in one direction as in "
        "another, at the same distance"
    )
    verdict = graded(model.directions, *_UNLIKE)
    return Check(name, model.directions, verdict, words, of_change=False)
