"""Columns of a table of totals beside biomass: carbon, relative errors, deductions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from geobiomass.accounting.carbon import (
    CO2_PER_CARBON,
    Carbon,
    CarbonFactor,
    RootShoot,
)
from geobiomass.accounting.reporting import Reporting
from geobiomass.accounting.shared_error import Estimates, ParameterCovariance

UNITS = {
    "area": "ha",
    "unmapped": "ha",
    "map_mean": "Mg/ha",
    "mean": "Mg/ha",
    "own_mean": "Mg/ha",
    "synthetic_mean": "Mg/ha",
    "total": "Mg",
    "carbon": "Mg C",
}
_MORE_UNITS = {
    "co2e": "Mg CO2e",
    "carbon_factor": "Mg C/Mg",
    "carbon_factor_se": "Mg C/Mg",
    **{
        f"{part}_{what}_percent": "%"
        for part in ("total", "carbon")
        for what in ("se", "half_width_90", "half_width_95")
    },
    "deduction_percent": "%",
}

_ENDS = ("_se", "_lower", "_upper")


def add_reported(
    table: pd.DataFrame,
    terms: Reporting,
    *,
    confidence: float,
    density: npt.ArrayLike,
    shares: Sequence[float | None] | None = None,
    one_date: bool = True,
) -> pd.DataFrame:
    """Add carbon, relative errors and deductions to a table of totals.

    Parameters
    ----------
    table : pandas.DataFrame
        With ``area``, ``total``, ``total_se``, ``total_lower``, ``total_upper``,
        ``note`` and, if there are any, ``mean``, ... and ``freedom``; the first level
        of the index is the region. It is changed.
    terms : Reporting
        What is asked for.
    confidence : float
        Confidence level of the intervals.
    density : array-like
        (row,) mean density, Mg/ha, which decides a ratio that jumps.
    shares : sequence, optional
        (row,) of :func:`low_shares`.
    one_date : bool
        False for a change between dates.

    Returns
    -------
    pandas.DataFrame
        The table, with ``attrs``.
    """
    regions = [str(name) for name in table.index.get_level_values(0)]
    total = with_model_error(own_estimates(table, confidence), table, terms, regions)
    if terms.model_error is not None:
        _keep_sampling(table, total)
    factors = [
        None if one is None else one.per_biomass(at, share)
        for one, at, share in zip(
            _known_factors(terms, regions, table),
            np.asarray(density, np.float64),
            shares or [None] * len(regions),
            strict=True,
        )
    ]
    if one_date and terms.jumps("region"):
        _tell_jumps(table, terms, regions)
    _tell_missing(table, factors)
    _write_carbon(table, total, terms, factors)
    _write_attrs(table, terms, one_date)
    return table


def own_estimates(table: pd.DataFrame, confidence: float) -> Estimates:
    """Return the totals of a table with their own errors, without a model's."""
    part = "total_sampling" if "total_sampling_se" in table else "total"
    return Estimates.of(
        table["total"],
        table[f"{part}_se"],
        (table[f"{part}_lower"], table[f"{part}_upper"]),
        table.get("freedom", np.full(len(table), np.nan)),
        confidence,
    )


def hectares_of(table: pd.DataFrame) -> npt.NDArray[np.float64]:
    """Return the hectares that the totals of a table are of, (row,)."""
    area = table["area"].to_numpy(float)
    if "mean" not in table:
        return area
    mean, total = (table[name].to_numpy(float) for name in ("mean", "total"))
    known = np.isfinite(mean) & (mean != 0)
    found: npt.NDArray[np.float64] = np.divide(
        total, mean, out=area.copy(), where=known
    )
    return found


def with_model_error(
    own: Estimates, table: pd.DataFrame, terms: Reporting, regions: Sequence[str]
) -> Estimates:
    """Return totals with the error of the models behind the plots' biomass."""
    if isinstance(terms.model_error, ParameterCovariance):
        each = np.array([terms.model_error.se_of_mean(name) for name in regions])
        return own.with_shared(each * hectares_of(table))
    return own if terms.model_error is None else own.times(1.0, terms.model_error)


def _keep_sampling(table: pd.DataFrame, total: Estimates) -> None:
    """Put the interval without the models' error into columns of its own."""
    kept = {f"total_sampling{end}": table[f"total{end}"] for end in _ENDS}
    kept["total_model_se"] = pd.Series(
        np.sqrt((total.shared**2).sum(0)), index=table.index
    )
    hectares = hectares_of(table)
    _write(table, "total", total)
    if "mean" in table:
        for end in _ENDS:
            table[f"mean{end}"] = table[f"total{end}"] / hectares
    _insert(table, _position(table, "note"), kept)


def _known_factors(
    terms: Reporting, regions: Sequence[str], table: pd.DataFrame
) -> list[Carbon | None]:
    known = np.isfinite(table["total"])
    return [
        terms.factors_of(name) if fine else None
        for name, fine in zip(regions, known, strict=True)
    ]


def _write(table: pd.DataFrame, name: str, found: Estimates) -> None:
    """Write standard error and interval into columns."""
    lower, upper = found.ends()
    # What cannot be below 0 by its own interval is not below 0 with more errors.
    lower = np.where(found.lower >= 0, np.maximum(lower, 0.0), lower)
    for end, values in zip(_ENDS, (found.standard_error(), lower, upper), strict=True):
        table[f"{name}{end}"] = values


def _write_carbon(
    table: pd.DataFrame,
    total: Estimates,
    terms: Reporting,
    factors: Sequence[CarbonFactor | None],
) -> None:
    more = relative_columns("total", total)
    if terms.carbon is None:
        parts = {"": total.value * terms.fraction}
        for end in ("_lower", "_upper"):
            parts[end] = table[f"total{end}"].to_numpy() * terms.fraction
        carbon = {f"carbon{end}": values for end, values in parts.items()}
        reported = total
    else:
        value, se, below, dead = (
            np.array([getattr(one, name, np.nan) for one in factors], np.float64)
            for name in ("value", "se", "below_ground", "dead_wood")
        )
        reported = total.times(value, se / value)
        carbon = estimate_columns("carbon", reported)
        more |= estimate_columns("co2e", reported.times(CO2_PER_CARBON, 0.0))
        for name, share in (("below_ground", below), ("dead_wood", dead)):
            if np.nansum(share) > 0:
                more[f"carbon_{name}"] = total.value * share
        more |= {"carbon_factor": value, "carbon_factor_se": se}
        more |= relative_columns("carbon", reported)
    if terms.deduction is not None:
        what = "total" if terms.carbon is None else "carbon"
        more["deduction_percent"] = terms.deduction.percent(
            more[f"{what}_half_width_90_percent"]
        )
    _insert(table, _position(table, "total_upper") + 1, carbon)
    _insert(table, _position(table, "note"), more)


def estimate_columns(name: str, found: Estimates) -> dict[str, Any]:
    """Return estimate, standard error and interval by column."""
    table = pd.DataFrame({name: found.value})
    _write(table, name, found)
    return {str(column): table[column].to_numpy() for column in table}


def relative_columns(name: str, found: Estimates) -> dict[str, Any]:
    """Return standard error and half-widths in percent of the estimate, by column."""
    size = np.abs(found.value)
    with np.errstate(divide="ignore", invalid="ignore"):
        each = {
            "se": found.standard_error() / size,
            "half_width_90": found.half_width(0.90) / size,
            "half_width_95": found.half_width(0.95) / size,
        }
    return {
        f"{name}_{what}_percent": np.where(size > 0, 100 * values, np.nan)
        for what, values in each.items()
    }


def _position(table: pd.DataFrame, name: str) -> int:
    return list(table.columns).index(name)


def _insert(table: pd.DataFrame, at: int, columns: Mapping[str, Any]) -> None:
    for offset, (name, values) in enumerate(columns.items()):
        table.insert(at + offset, name, values)


# --- notes and attributes ---


def add_note(table: pd.DataFrame, notes: Sequence[str]) -> None:
    """Add a sentence to the note of each row that has one."""
    table["note"] = [
        "; ".join(filter(None, pair)) for pair in zip(table["note"], notes, strict=True)
    ]


def _tell_jumps(table: pd.DataFrame, terms: Reporting, regions: Sequence[str]) -> None:
    notes = []
    ends = zip(table["mean_lower"], table["mean_upper"], strict=True)
    for name, (lower, upper) in zip(regions, ends, strict=True):
        factors = terms.factors_of(name)
        ratio = None if factors is None else factors.below_ground
        near = isinstance(ratio, RootShoot) and lower <= ratio.limit < upper
        notes.append(
            f"the interval of the mean includes {ratio.limit:g} Mg/ha, where the "
            f"below-ground ratio jumps from {ratio.low.value:g} to "
            f"{ratio.high.value:g}: carbon is not continuous there"
            if near and isinstance(ratio, RootShoot)
            else ""
        )
    add_note(table, notes)


def _tell_missing(table: pd.DataFrame, factors: Sequence[CarbonFactor | None]) -> None:
    add_note(
        table,
        [
            f"errors not given, and not in the interval of carbon: "
            f"{', '.join(one.without_error)}"
            if one is not None and one.without_error
            else ""
            for one in factors
        ],
    )


def _write_attrs(table: pd.DataFrame, terms: Reporting, one_date: bool) -> None:
    known = {**UNITS, **_MORE_UNITS}
    stems = [*table.columns, *(name.split("_")[0] for name in table.columns)]
    table.attrs["units"] = {n: unit for n, unit in known.items() if n in stems}
    table.attrs["carbon_fraction"] = terms.fraction
    if isinstance(terms.carbon, Carbon):
        table.attrs["carbon_fraction"] = terms.carbon.fraction.value
        table.attrs["carbon"] = terms.carbon.to_dict()
    elif terms.carbon is not None:
        each = terms.carbon.items()
        table.attrs["carbon_fraction"] = {n: one.fraction.value for n, one in each}
        table.attrs["carbon"] = {name: one.to_dict() for name, one in each}
    if terms.model_error is not None:
        given = terms.model_error
        plain = given if isinstance(given, float) else given.to_dict()
        table.attrs["model_error"] = plain
    if terms.deduction is not None:
        table.attrs["deduction"] = terms.deduction.to_dict() | {
            "applied_to": "the total of one date, where the rule has a change"
            if one_date
            else "each part of the change",
            "compliance": "not claimed: this is the rule's arithmetic only",
        }


def sources_in_words(attrs: Mapping[Any, Any]) -> list[str]:
    """Return sentences with the factors, errors and rule of a table, and their sources.

    Parameters
    ----------
    attrs : mapping
        Attributes of a table of totals.
    """
    lines = []
    factors = attrs.get("carbon")
    if factors is not None:
        by_region = {"": factors} if "fraction" in factors else factors
        lines += [
            f"carbon{f' of {region}' if region else ''}: {Carbon.from_dict(one)}"
            for region, one in by_region.items()
        ]
    model = attrs.get("model_error")
    if isinstance(model, float):
        lines.append(f"error of the models behind the plots: {100 * model:g} %")
    elif model is not None:
        lines.append("error of the models behind the plots: from a covariance")
    if (rule := attrs.get("deduction")) is not None:
        lines.append(
            f"deduction: {rule['rule']}, {rule['formula']} ({rule['source']}), applied "
            f"to {rule['applied_to']}; compliance is {rule['compliance']}"
        )
    return lines
