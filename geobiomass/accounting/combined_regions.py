"""The total of several regions, out of a table with a row for each."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from geobiomass.accounting.check import VERDICTS
from geobiomass.accounting.deductions import deduction_named
from geobiomass.accounting.reported_columns import (
    estimate_columns,
    hectares_of,
    own_estimates,
    relative_columns,
)
from geobiomass.accounting.shared_error import Estimates
from geobiomass.statistics.sample import SMALL_AREA
from geobiomass.training.setting_names import explain_arguments

_SUMMED = ("area", "unmapped", "plots", "map_total")
_PARTS = (
    *("carbon_below_ground", "carbon_dead_wood"),
    *("region_area", "mapped", "off_map", "no_value"),
    *("not_applicable", "beyond_held_out"),
    *(
        f"plots_{what}"
        for what in ("off_map", "on_nodata", "without_value", "repeated")
    ),
)


@explain_arguments
def combine_regions(table: pd.DataFrame, name: str = "all regions") -> pd.DataFrame:
    """Return the total of several regions that do not overlap.

    Sampling errors of regions are independent, as each has plots of its own. Errors of
    carbon factors and of the models behind the plots' biomass are shared: they are
    added with their sign, and do not become smaller with more regions. Errors of
    model-based rows (from residuals), and of small areas, which share a regression, are
    correlated between regions in a way that the table does not have: they are added as
    fully correlated, which is the largest standard error, and ``note`` says so; one
    region out of all is narrower.

    Parameters
    ----------
    table : pandas.DataFrame
        Rows of :func:`geobiomass.totals` or :func:`geobiomass.change_totals`, such as
        all of it or ``table.loc[["north", "south"]]``.
    name : str
        Name of the sum in the index.

    Returns
    -------
    pandas.DataFrame
        One row, or one for each method or each kind of change, with the columns of the
        table as far as a sum has them. If a region has no estimate, the sum has none,
        and ``note`` names the region.

    Raises
    ------
    ValueError
        If the table is not one of totals, or has a region twice.
    """
    needed = {"area", "total", "total_se", "total_lower", "total_upper", "method"}
    if not needed <= set(table) or "confidence" not in table.attrs or table.empty:
        raise ValueError(
            "Regions are combined from a table of gb.totals or gb.change_totals with "
            "its attrs (a table read from CSV has none), got a table with the columns "
            f"{list(map(str, table.columns))}."
        )
    of_change = table.index.nlevels > 1
    kinds = table.index.get_level_values("change") if of_change else [""] * len(table)
    group = [*zip(kinds, _methods(table), strict=True)]
    rows: list[Any] = []
    labels: list[Any] = []
    for key in dict.fromkeys(group):
        part = table[[key == one for one in group]]
        part.attrs = table.attrs
        regions = part.index.get_level_values(0)
        if regions.has_duplicates:
            raise ValueError(
                "Each region may be in the sum once, got "
                f"{list(map(str, regions[regions.duplicated()].unique()))} twice."
            )
        rows.append(_sum(part))
        labels.append((name, key[0]) if of_change else name)
    index: Any = (
        pd.MultiIndex.from_tuples(labels, names=table.index.names)
        if of_change
        else pd.Index(labels, name="region")
    )
    found = pd.DataFrame(rows, index=index)
    found = found[[column for column in table.columns if column in found]]
    found.attrs = dict(table.attrs)
    return found


def whole_of(table: pd.DataFrame) -> pd.DataFrame | None:
    """Return the one row of a table, or the sum of regions; None if they overlap.

    Parameters
    ----------
    table : pandas.DataFrame
        From :func:`geobiomass.totals`, with one estimator.
    """
    if len(table) == 1:
        return table
    checks = table.attrs["checks"]
    if any(one["check"] == "overlap" and one["figure"] > 0 for one in checks):
        return None
    return combine_regions(table)


def _methods(table: pd.DataFrame) -> list[str]:
    """Return what a row's sum is by: its method where regions have several, or none.

    Where each region has one row, as with ``estimator="auto"``, the sum is of all.
    """
    if table.index.has_duplicates:
        return [str(method) for method in table["method"]]
    return [""] * len(table)


def _sum(part: pd.DataFrame) -> dict[str, Any]:
    confidence = float(part.attrs["confidence"])
    own = _unclipped(own_estimates(part, confidence))
    model = part.attrs.get("model_error")
    if isinstance(model, float):
        whole = own.times(1.0, model)
    elif model is not None:
        whole = own.with_shared(part["total_model_se"].to_numpy(float))
    else:
        whole = own
    independent = not part["method"].isin(("model", SMALL_AREA)).any()
    row: dict[str, Any] = {n: part[n].sum() for n in _SUMMED if n in part}
    row |= {n: part[n].sum(skipna=False) for n in _PARTS if n in part}
    methods = dict.fromkeys(part["method"])
    row |= {"method": " and ".join(methods), "note": _note(part, independent)}
    row |= _words_of(part)
    total = _sum_of(whole, part, independent)
    row |= _one(estimate_columns("total", total)) | _one(
        relative_columns("total", total)
    )
    if "total_model_se" in part:
        row |= _sampling(_sum_of(own, part, independent), total)
    if "area_lower" in part:
        row |= _area(part, confidence, independent)
    row["freedom"] = float(total.freedom[0])
    if "map_mean" in part:
        row["map_mean"] = np.average(part["map_mean"], weights=part["area"])
        hectares = hectares_of(part).sum()
        row |= {
            f"mean{end}": row[f"total{end}"] / hectares
            for end in ("", "_se", "_lower", "_upper")
        }
    reported = total
    if "carbon_factor" in part:
        factor = part["carbon_factor"].to_numpy(float)
        relative = part["carbon_factor_se"].to_numpy(float) / factor
        reported = _sum_of(whole.times(factor, relative), part, independent)
        row |= _one(estimate_columns("carbon", reported))
        row |= _one(estimate_columns("co2e", reported.times(44 / 12, 0.0)))
        row |= _one(relative_columns("carbon", reported))
        row |= _factor(row, part, factor)
    else:
        fraction = part.attrs["carbon_fraction"]
        for end in ("", "_lower", "_upper"):
            row[f"carbon{end}"] = row[f"total{end}"] * fraction
    if (rule := part.attrs.get("deduction")) is not None:
        half = relative_columns("x", reported)["x_half_width_90_percent"]
        row["deduction_percent"] = float(deduction_named(rule["rule"]).percent(half)[0])
    return row


def _words_of(part: pd.DataFrame) -> dict[str, str]:
    """Return the kinds of intervals, and the worst verdict, where a table has them."""
    found = {}
    if "interval" in part:
        kinds = list(dict.fromkeys(part["interval"]))
        found["interval"] = "none" if "none" in kinds else " and ".join(kinds)
    if "verdict" in part:
        found["verdict"] = max(part["verdict"], key=VERDICTS.index)
    return found


def _sum_of(rows: Estimates, part: pd.DataFrame, independent: bool) -> Estimates:
    """Return the sum of all rows; not below 0 where no region can be."""
    found = rows.joined(range(len(part)), independent=independent)
    if (part["total_lower"] >= 0).all():
        found = replace(found, lower=np.maximum(found.lower, 0.0))
    return found


def _unclipped(own: Estimates) -> Estimates:
    """Return estimates whose lower end, where cut off at 0, is as far as the upper."""
    cut = (own.lower == 0) & (own.upper > own.value)
    lower = np.where(cut, np.minimum(own.lower, 2 * own.value - own.upper), own.lower)
    return replace(own, lower=lower)


def _one(columns: dict[str, Any]) -> dict[str, float]:
    return {name: float(values[0]) for name, values in columns.items()}


def _sampling(own: Estimates, total: Estimates) -> dict[str, float]:
    found = _one(estimate_columns("total_sampling", own))
    del found["total_sampling"]
    return found | {"total_model_se": float(np.sqrt((total.shared**2).sum()))}


def _area(part: pd.DataFrame, confidence: float, independent: bool) -> dict[str, float]:
    """Return the area of change: of the net change there is no error."""
    ends = (part["area_lower"], part["area_upper"])
    zero = np.zeros(len(part))
    areas = _unclipped(Estimates.of(part["area"], zero, ends, zero, confidence))
    found = areas.joined(range(len(part)), independent=independent)
    return {
        "area_lower": max(0.0, float(found.lower[0])),
        "area_upper": float(found.upper[0]),
    }


def _factor(row: dict[str, Any], part: pd.DataFrame, factor: Any) -> dict[str, float]:
    """Return the mean factor, and its standard error, weighted by biomass."""
    weights = part["total"].to_numpy(float)
    if not weights.sum() or not np.isfinite(weights).all():
        return {"carbon_factor": np.nan, "carbon_factor_se": np.nan}
    se = part["carbon_factor_se"].to_numpy(float)
    return {
        "carbon_factor": row["carbon"] / row["total"],
        "carbon_factor_se": float(abs((weights * se).sum() / weights.sum())),
    }


def _note(part: pd.DataFrame, independent: bool) -> str:
    notes = []
    bare = part.index.get_level_values(0)[part["total"].isna()]
    if len(bare):
        notes.append(f"no estimate of {', '.join(map(str, bare))}")
    if not independent:
        notes.append(
            "errors of the regions are added as fully correlated, the largest that "
            "they can be"
        )
    cut = int((part["total"].eq(0) & part["total_se"].gt(0)).sum())
    if cut:
        notes.append(f"estimates of 0 in {cut} regions may have been cut off there")
    by_note: dict[str, list[str]] = {}
    for region, note in zip(part.index.get_level_values(0), part["note"], strict=True):
        by_note.setdefault(note, []).append(str(region))
    by_note.pop("", None)
    notes += [f"{', '.join(names)}: {note}" for note, names in by_note.items()]
    return "; ".join(notes)
