"""Checks of totals from the errors of a model on held-out land."""

from __future__ import annotations

import math

from geobiomass.accounting.check import BROKEN, DOUBTFUL, OK, Check, Verdict, graded
from geobiomass.accounting.distant_errors import distance_checks
from geobiomass.accounting.error_model import ErrorModel
from geobiomass.accounting.region_sums import RegionSum

CHIPS = (
    "residuals are of chips: the interval leaves out errors that are correlated over "
    "more than a chip"
)

# The variance of the bias has units - 1 degrees of freedom, and the correction for the
# fitted biases divides by units - classes: with 2 or 3 units neither is known.
_FEW_UNITS = (10, 4)
# A prediction of the region that no held-out pixel had: its bias is that of the last
# class. Of n exchangeable pixels 2 / (n + 1) are expected, below 1 % from 200 on. With
# a fifth of the region beyond, a bias of 25 % there moves the total by 5 %.
_BEYOND = (0.01, 0.20)
# Hectares beyond the quantiles of 1 and 99 % of the held-out predictions: the bias of
# the outer classes is known from few pixels. Patches of tall forest make 15 % of a
# region of 64 ha common; with a half of it the total is an extrapolation.
_UNUSUAL = (0.15, 0.50)
# Squared sums of errors of whole units over what the variogram predicts. The interval
# is wider by it, so that it is never broken; but it is then mostly this factor.
_INFLATION = 3.0
# Variance of units' mean squares over that of an even spread, which is 1.
_UNEVEN = 4.0
# Area of the residuals' pixels over that of the map's, or its inverse.
_SUPPORT = (1.5, 4.0)


def error_checks(
    one: RegionSum, model: ErrorModel, pixel: tuple[float, float]
) -> list[Check]:
    """Return the checks of a total from a model's errors.

    Parameters
    ----------
    one : RegionSum
        The region.
    model : ErrorModel
        The errors.
    pixel : tuple of float
        Size of the map's pixels, metres.
    """
    return [
        _units(model),
        _places(model),
        _inflation(model),
        _uneven(model),
        _beyond(one, model),
        _usual(one, model),
        *distance_checks(model),
        _support(model, pixel),
    ]


def _units(model: ErrorModel) -> Check:
    verdict: Verdict = OK
    if model.units < _FEW_UNITS[0]:
        verdict = BROKEN if model.units < _FEW_UNITS[1] else DOUBTFUL
    words = f"{model.units} held-out units, {_FEW_UNITS[0]} or more are wanted"
    return Check("held-out units", model.units, verdict, words)


def _places(model: ErrorModel) -> Check:
    if model.places:
        return Check("held-out land", 1.0, OK, "residuals have their places on a scene")
    return Check("held-out land", 0.0, DOUBTFUL, CHIPS)


def _inflation(model: ErrorModel) -> Check:
    words = (
        f"sums of errors of held-out units are {model.inflation:.2g} times as variable "
        "as the variogram says"
    )
    verdict = graded(model.inflation, _INFLATION)
    return Check("sums of errors", model.inflation, verdict, words, of_change=False)


def _uneven(model: ErrorModel) -> Check:
    if model.unevenness is None:
        return Check("even spread", math.nan, OK, "not checked: an earlier error model")
    words = (
        f"the spread of errors differs {model.unevenness:.2g} times as much between "
        "units as an even one"
    )
    verdict = graded(model.unevenness, _UNEVEN)
    return Check("even spread", model.unevenness, verdict, words, of_change=False)


def _beyond(one: RegionSum, model: ErrorModel) -> Check:
    name = "range of predictions"
    if model.held_out is None or not one.mapped > 0:
        return Check(name, math.nan, OK, "not checked: an earlier error model")
    share, (low, high) = one.extrapolated / one.mapped, model.held_out
    words = (
        f"{100 * share:.3g} % of the region is beyond the held-out predictions, "
        f"{low:.4g} to {high:.4g} Mg/ha"
    )
    return Check(name, share, graded(share, *_BEYOND), words, of_change=False)


def _usual(one: RegionSum, model: ErrorModel) -> Check:
    name = "usual predictions"
    if model.usual is None or one.errors is None or not one.mapped > 0:
        return Check(name, math.nan, OK, "not checked: an earlier error model")
    share, (low, high) = one.errors.unusual / one.mapped, model.usual
    words = (
        f"{100 * share:.3g} % of the region is beyond {low:.4g} to {high:.4g} Mg/ha, "
        "which 98 % of the held-out predictions are within"
    )
    return Check(name, share, graded(share, *_UNUSUAL), words, of_change=False)


def _support(model: ErrorModel, pixel: tuple[float, float]) -> Check:
    name = "size of pixels"
    if model.pixel is None:
        return Check(name, math.nan, OK, "not checked: an earlier error model")
    ratio = math.prod(model.pixel) / math.prod(pixel)
    words = f"pixels of the residuals are {ratio:.3g} times those of the map"
    return Check(name, ratio, graded(max(ratio, 1 / ratio), *_SUPPORT), words)
