"""Checks of a region's hectares: mapped, off the map, in strata, shared, applicable."""

from __future__ import annotations

import math
from collections.abc import Mapping

from geobiomass.accounting.check import DOUBTFUL, OK, Check, Verdict, graded
from geobiomass.accounting.region_sums import RegionSum

# A thousandth of a region moves its total by less than any interval from plots.
_NEGLIGIBLE = 1e-3
# With more than half of the region unmapped its total is mostly the rule, not the map.
_MOSTLY = 0.5
# Two geodesic areas of one region, by pixels and by its outline; see region_area.
_ROUNDING = 1e-3
# Hectares of strata are often of the plane of a projection, 0.1 to 0.2 % off in UTM, or
# rounded; 10 % is another area, and shares of other land weight the plots wrongly.
_STRATA = (0.02, 0.10)
# The threshold of applicability is the upper whisker of the training data's own index
# (Meyer and Pebesma 2021): about 1 % of normal values, up to 5 % of skewed ones, are
# beyond it on land that is like the training data. With a quarter of the region
# outside, a bias of 20 % there moves the total by 5 %.
_OUTSIDE = (0.05, 0.25)


def area_checks(
    one: RegionSum, unmapped: str, by_model: bool, hectares: Mapping[str, float] | None
) -> list[Check]:
    """Return the checks of a region's hectares.

    Parameters
    ----------
    one : RegionSum
        Its sums.
    unmapped : str
        Rule for hectares without a value.
    by_model : bool
        Whether the interval rests on the errors of a model.
    hectares : mapping, optional
        Hectares by stratum that the user gave.
    """
    checks = [_mapped(one, unmapped), _adds_up(one), _shared(one)]
    if one.mapped > 0:
        checks.append(_applicable(one, by_model))
    if hectares is not None:
        checks.append(_strata(one, hectares))
    return checks


def refused(one: RegionSum, unmapped: str) -> str:
    """Return why a region gets no numbers, nothing where it gets them."""
    if unmapped != "refuse" or _unmapped_share(one) <= _NEGLIGIBLE:
        return ""
    return f"refused (unmapped='refuse'): {_parts(one)}"


def _unmapped_share(one: RegionSum) -> float:
    whole = one.mapped + one.unmapped
    return one.unmapped / whole if whole > 0 else 0.0


def _parts(one: RegionSum) -> str:
    return (
        f"{one.own.off:,.4g} ha are off the map and {one.without_value:,.4g} ha have "
        "no value"
    )


def _mapped(one: RegionSum, unmapped: str) -> Check:
    share, whole = _unmapped_share(one), one.mapped + one.unmapped
    if share <= _NEGLIGIBLE:
        return Check("mapped part", share, OK, "the region is mapped")
    if unmapped == "mean of its stratum":
        words = f"{_parts(one)}: they count with the mean of their stratum"
        return Check("mapped part", share, graded(share, 0, _MOSTLY), words)
    words = f"the total is of {one.mapped:,.6g} of {whole:,.6g} ha: {_parts(one)}"
    return Check("mapped part", share, DOUBTFUL, words)


def _adds_up(one: RegionSum) -> Check:
    whole = one.own.hectares
    if not whole > 0:
        return Check("hectares add up", math.nan, OK, "the region's area is not known")
    off = abs(one.mapped + one.unmapped - whole) / whole
    words = f"its pixels and the rest differ from its own area by {off:.2g} of it"
    return Check("hectares add up", off, graded(off, _ROUNDING), words)


def _shared(one: RegionSum) -> Check:
    words = "no other region shares hectares with it"
    if one.own.shared > 0:
        words = (
            f"{one.own.shared:,.4g} ha also belong to other regions: do not add their "
            "totals"
        )
    return Check("overlap", one.own.shared, OK, words)


def _applicable(one: RegionSum, by_model: bool) -> Check:
    name = "applicability"
    if not math.isfinite(one.inapplicable):
        return Check(name, math.nan, OK, "the map has no layer of applicability")
    share = one.inapplicable / one.mapped
    words = f"{100 * share:.3g} % of the map is outside of the area of applicability"
    # With plots the interval holds for any map.
    verdict: Verdict = graded(share, *_OUTSIDE) if by_model else OK
    return Check(name, share, verdict, words)


def _strata(one: RegionSum, hectares: Mapping[str, float]) -> Check:
    given, whole = sum(hectares.values()), one.own.hectares
    off = abs(given / whole - 1) if whole > 0 else math.nan
    words = f"strata have {given:,.6g} ha, the region has {whole:,.6g}"
    return Check("hectares of strata", off, graded(off, *_STRATA), words)
