"""How much a total depends on each choice: the same totals with one choice changed."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from inspect import signature
from typing import Any, Literal

import numpy as np
import pandas as pd
import xarray as xr

from geobiomass.accounting.carbon import Carbon, Factor, RootShoot
from geobiomass.accounting.carbon_factors import FRACTION
from geobiomass.accounting.combined_regions import whole_of
from geobiomass.accounting.reporting import DEFAULT_FRACTION, Reporting
from geobiomass.accounting.totals import totals
from geobiomass.applicability.layer_names import INSIDE
from geobiomass.maps.reading import BLOCK, opened
from geobiomass.statistics.interval_of_mean import IntervalRule
from geobiomass.statistics.sample import METHODS
from geobiomass.training.setting_names import check_arguments

AS_CALLED = "as called"
"""Value of ``choice`` in the rows that the others are compared with."""

_ENDS = 1.959964  # standard errors of a factor: the ends of its interval of 95 %
_FACTORS = {
    "fraction": "carbon fraction",
    "below_ground": "below-ground ratio",
    "dead_wood": "dead wood",
    "dead_wood_fraction": "carbon fraction of dead wood",
}


@dataclass(frozen=True)
class _Choice:
    """One choice changed.

    Parameters
    ----------
    name, setting : str
        The choice, and what it is now.
    settings : mapping
        The arguments of totals that change.
    quantity : "total" or "carbon"
        What is compared.
    inside : bool
        Only the area of applicability is mapped.
    problem : str
        Why it cannot be changed.
    """

    name: str
    setting: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    quantity: str = "total"
    inside: bool = False
    problem: str = ""


def sensitivity(
    map: Any,
    regions: Any = None,
    plots: Any = None,
    *,
    table: pd.DataFrame | None = None,
    progress: bool = True,
    **settings: Any,
) -> pd.DataFrame:
    """Return totals with each choice changed, one at a time.

    The choices are the estimator, the kind of interval, the rule for hectares without a
    value, the area of applicability (only what is inside is mapped), the carbon factors
    (each at the ends of its 95 % interval, a ratio that jumps by either of its values)
    and the error of the models behind the plots. Each change is a call of
    :func:`geobiomass.totals` of its own, which reads the map again.

    Parameters
    ----------
    map, regions, plots : optional
        As in :func:`geobiomass.totals`.
    table : pandas.DataFrame, optional
        The result of the same call of totals, where it is known already.
    progress : bool
        Show a progress bar.
    **settings
        The other arguments of :func:`geobiomass.totals`.

    Returns
    -------
    pandas.DataFrame
        By ``region``, ``choice``, ``setting`` and ``quantity`` ("total", Mg, or
        "carbon", Mg C), the sum of several regions first: ``area`` in ha, ``value``,
        ``lower`` and ``upper``, ``difference`` and ``difference_percent`` from the row
        "as called", ``verdict`` and ``note``. A choice that cannot be changed
        has one row of NaN, whose ``note`` says why.

    Raises
    ------
    ValueError
        If ``estimator="all"``, which is no choice, or as :func:`geobiomass.totals`.
    """
    check_arguments("sensitivity", settings, [*signature(totals).parameters])
    if settings.get("estimator") == "all":
        raise ValueError(
            "The sensitivity is of one estimator, got estimator='all'; name one, and "
            "the others are compared with it."
        )
    map = opened(map)
    if table is None:
        table = totals(map, regions, plots, progress=progress, **settings)
    quantities = ("total",) if settings.get("carbon") is None else ("total", "carbon")
    choices = list(_choices(map, table, plots is not None, settings))
    rows = [
        row
        for quantity in quantities
        for row in _rows(_Choice(AS_CALLED, quantity=quantity), table, table)
    ]
    from tqdm.auto import tqdm

    for choice in tqdm(choices, "Sensitivity", unit="total", disable=not progress):
        if choice.problem:
            rows.append(_without(choice))
            continue
        changed = {**settings, **choice.settings, "progress": False}
        of = _inside(map) if choice.inside else map
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # told of the first table
                found = totals(of, regions, plots, **changed)
        except ValueError as error:  # such as a rule that residuals do not have
            rows.append(_without(replace(choice, problem=str(error))))
            continue
        rows += _rows(choice, found, table)
    result = pd.DataFrame(rows)
    result.attrs = {"units": {"total": "Mg", "carbon": "Mg C", "area": "ha"}}
    return result


# --- rows ---


def _rows(
    choice: _Choice, found: pd.DataFrame, base: pd.DataFrame
) -> Iterator[dict[str, Any]]:
    name = choice.quantity
    sums = [] if len(base) == 1 else [(whole_of(found), whole_of(base))]
    pairs = [
        (str(region), one.iloc[number], float(other[name].iloc[number]))
        for one, other in [*sums, (found, base)]
        if one is not None and other is not None
        for number, region in enumerate(other.index)
    ]
    for region, row, before in pairs:
        value = float(row[name])
        setting = choice.setting or str(row["method"])
        yield {
            "region": region,
            "choice": choice.name,
            "setting": setting,
            "quantity": name,
            "area": float(row["area"]),
            "value": value,
            "lower": float(row[f"{name}_lower"]),
            "upper": float(row[f"{name}_upper"]),
            "difference": value - before,
            "difference_percent": (
                100 * (value - before) / before if before else math.nan
            ),
            "verdict": str(row["verdict"]),
            "note": str(row["note"]),
        }


def _without(choice: _Choice) -> dict[str, Any]:
    nan = math.nan
    return {
        "region": "",
        "choice": choice.name,
        "setting": choice.setting or "not changed",
        "quantity": choice.quantity,
        **dict.fromkeys(("area", "value", "lower", "upper"), nan),
        **dict.fromkeys(("difference", "difference_percent"), nan),
        "verdict": "",
        "note": choice.problem,
    }


# --- choices ---


def _choices(
    map: Any, table: pd.DataFrame, by_plots: bool, settings: Mapping[str, Any]
) -> Iterator[_Choice]:
    if by_plots:
        yield from _of_sample(table, settings)
    else:
        for name in ("estimator", "interval"):
            yield _Choice(name, problem="residuals have one estimator and one interval")
    yield from _of_area(map, table, settings)
    yield from _of_factors(settings)
    if settings.get("model_error") is None:
        problem = "no error is given for the models behind the plots (model_error=)"
        yield _Choice("model error", problem=problem)
    else:
        yield _Choice("model error", "left out", {"model_error": None})


def _of_sample(table: pd.DataFrame, settings: Mapping[str, Any]) -> Iterator[_Choice]:
    used = set(table["method"])
    for method in METHODS:
        if used != {method}:
            yield _Choice("estimator", method, {"estimator": method})
    rule = settings.get("interval", "auto")
    if not isinstance(rule, IntervalRule):
        rule = IntervalRule(rule)
    other = replace(rule, kind="t" if rule.kind == "auto" else "auto")
    words = {"t": "Student's t", "auto": "by rule (auto)"}[other.kind]
    yield _Choice("interval", words, {"interval": other})


def _of_area(
    map: Any, table: pd.DataFrame, settings: Mapping[str, Any]
) -> Iterator[_Choice]:
    rules = ("exclude", "mean of its stratum")
    if not float(table["unmapped"].sum()) > 0:
        problem = "no hectare of the regions is without a value"
        yield _Choice("unmapped", problem=problem)
    else:
        for rule in rules:
            if rule != settings.get("unmapped", rules[0]):
                yield _Choice("unmapped", rule, {"unmapped": rule})
    problem = ""
    if not isinstance(map, xr.Dataset) or INSIDE not in map:
        problem = (
            f"the map has no layer {INSIDE!r}: map with applicability=True to have it"
        )
    elif not float(table["not_applicable"].sum()) > 0:
        problem = "all mapped hectares are inside the area of applicability"
    name = "applicability"
    if problem:
        yield _Choice(name, problem=problem)
    else:
        yield _Choice(name, "only inside", {"unmapped": rules[0]}, inside=True)


def _inside(map: xr.Dataset) -> xr.Dataset:
    """Return a map without values outside of the area of applicability, lazily."""
    tiled = map if map.chunks else map.chunk(y=BLOCK, x=BLOCK)
    masked = tiled.where(tiled[INSIDE] == 1)
    for name in masked:
        masked[name].encoding = dict(map[name].encoding)
    return masked


def _of_factors(settings: Mapping[str, Any]) -> Iterator[_Choice]:
    fraction = settings.get("carbon_fraction", DEFAULT_FRACTION)
    given = Reporting.of(settings.get("carbon"), None, None, fraction).carbon
    if given is None:
        yield from _of_plain_fraction(fraction)
        return
    for part, words in _FACTORS.items():
        regions = given if isinstance(given, Mapping) else {"": given}
        factors = [getattr(one, part) for one in regions.values()]
        known = [one for one in factors if one is not None]
        if not known:
            continue
        jumps = [one for one in known if isinstance(one, RootShoot)]
        if jumps:
            yield from _of_jump(given, jumps[0])
        plain = [one for one in known if isinstance(one, Factor)]
        if any(one.se is None for one in plain):
            problem = "its error is not known; give a value with a standard error"
            yield _Choice(words, quantity="carbon", problem=problem)
        if any(one.se for one in plain):
            for sign in (-1, 1):
                yield _moved(given, part, words, sign)


def _of_plain_fraction(fraction: float) -> Iterator[_Choice]:
    name = _FACTORS["fraction"]
    if fraction != DEFAULT_FRACTION:
        problem = (
            "carbon_fraction= has no error; give carbon=Carbon(fraction=(value, se))"
        )
        yield _Choice(name, quantity="carbon", problem=problem)
        return
    for sign in (-1, 1):
        end = _end(FRACTION, sign)
        yield _Choice(name, f"{end:.4g}", {"carbon_fraction": end}, "carbon")


def _end(factor: Factor, sign: int) -> float:
    return max(0.0, factor.value + sign * _ENDS * (factor.se or 0.0))


def _changed(given: Any, part: str, change: Any) -> Any:
    """Return factors, or factors by region, with one part of each changed."""
    if isinstance(given, Mapping):
        return {name: _changed(one, part, change) for name, one in given.items()}
    value = getattr(given, part)
    if value is None:
        return given
    kept = {name: getattr(given, name) for name in (*_FACTORS, "name")}
    return Carbon(**{**kept, part: change(value)})


def _moved(given: Any, part: str, words: str, sign: int) -> _Choice:
    def change(value: Any) -> Any:
        if not isinstance(value, Factor):
            return value
        return replace(value, value=_end(value, sign))

    side = "lower" if sign < 0 else "upper"
    changed = _changed(given, part, change)
    setting = f"{side} end of 95 %"
    if not isinstance(changed, Mapping):
        setting = f"{getattr(changed, part).value:.4g}, {setting}"
    return _Choice(words, setting, {"carbon": changed}, "carbon")


def _of_jump(given: Any, jump: RootShoot) -> Iterator[_Choice]:
    """Change a ratio that jumps: either value everywhere, or who decides."""
    other: Literal["pixels", "region"] = "pixels" if jump.by == "region" else "region"
    decides = {"pixels": "each pixel decides", "region": "the region's mean decides"}

    def low(value: Any) -> Any:
        return value.low if isinstance(value, RootShoot) else value

    def high(value: Any) -> Any:
        return value.high if isinstance(value, RootShoot) else value

    def turned(value: Any) -> Any:
        return replace(value, by=other) if isinstance(value, RootShoot) else value

    for words, change in (
        (f"{jump.low.value:.4g} everywhere", low),
        (f"{jump.high.value:.4g} everywhere", high),
        (decides[other], turned),
    ):
        changed = {"carbon": _changed(given, "below_ground", change)}
        yield _Choice(_FACTORS["below_ground"], words, changed, "carbon")


def largest_change(found: pd.DataFrame) -> pd.Series | None:
    """Return the row with the largest difference in percent of the first region.

    It is the sum of regions where there are several. None if nothing was changed.
    """
    mine = found[found["region"] == found["region"].iloc[0]]
    known = mine[mine["choice"] != AS_CALLED]["difference_percent"].abs()
    if not np.isfinite(known).any():
        return None
    row: pd.Series = found.loc[known.idxmax()]
    return row
