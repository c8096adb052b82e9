"""Tables of totals and of their checks, on the pages of a report and of a dossier."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup

from geobiomass.accounting.check import BROKEN, DOUBTFUL, OK
from geobiomass.accounting.reported_columns import sources_in_words
from geobiomass.report.page import join, paragraph, text_table

_COLUMNS = {
    "area": "area, ha",
    "unmapped": "not mapped, ha",
    "method": "method",
    "plots": "plots",
    "mean": "mean, Mg/ha",
    "total": "total, Mg",
    "carbon": "carbon, Mg C",
    "co2e": "CO2 equivalent, Mg",
    "deduction_percent": "deduction, %",
    "interval": "interval",
    "verdict": "verdict",
}
_ORDER = (BROKEN, DOUBTFUL, OK)


def totals_table(table: pd.DataFrame) -> Markup:
    """Return the main columns of a table of totals, and what they rest on."""
    shown: dict[str, list[str]] = {"region": [str(one) for one in table.index]}
    for name, title in _COLUMNS.items():
        if name not in table:
            continue
        values = table[name]
        if name in ("mean", "total", "carbon", "co2e"):
            ends = table[f"{name}_lower"], table[f"{name}_upper"]
            digits = 1 if name == "mean" else 0
            shown[title] = [
                between(*each, digits) for each in zip(values, *ends, strict=True)
            ]
        elif name in ("area", "unmapped", "deduction_percent"):
            shown[title] = [f"{value:,.1f}" for value in values]
        else:
            shown[title] = [str(value) for value in values]
    confidence = f"{100 * table.attrs['confidence']:g} %"
    notes = {
        f"{region} ({method})": note
        for region, method, note in zip(
            table.index, table["method"], table["note"], strict=True
        )
        if note
    }
    note = f"In brackets: confidence intervals of {confidence}."
    parts = [text_table([*shown], [*zip(*shown.values(), strict=True)], note)]
    if notes:
        parts.append(text_table(("region", "note"), [*notes.items()]))
    return join([*parts, paragraph(_basis(table))])


def _basis(table: pd.DataFrame) -> str:
    based = (
        "Intervals are design-based: they rest on the random choice of plots, and are "
        "valid for any map."
        if table.attrs["based_on"] == "design"
        else "Intervals are model-based: they are valid if errors are distributed like "
        "the errors of held-out pixels. The correlation of neighbours is included."
    )
    factors = sources_in_words(table.attrs)
    if "carbon" not in table.attrs:
        factors.insert(
            0, f"Carbon is {table.attrs['carbon_fraction']:g} of dry biomass"
        )
    return f"{based} Areas are on the ellipsoid. {'. '.join(factors)}."


def checks_table(table: pd.DataFrame, fold: str = "") -> Markup:
    """Return every check of every row, those that are not ok first.

    Parameters
    ----------
    table : pandas.DataFrame
        Totals.
    fold : str
        Title of a table that is folded until a click on it.
    """
    found = pd.DataFrame(table.attrs["checks"])
    found = found.sort_values(
        "verdict", key=lambda v: v.map(_ORDER.index), kind="stable"
    )
    worst = found["verdict"].value_counts()
    counts = ", ".join(f"{worst.get(name, 0)} {name}" for name in _ORDER)
    columns = ("region", "method", "check", "figure", "verdict", "words")
    rows = [
        tuple("" if one is None else _cell(one) for one in row)
        for row in found[[*columns]].astype(object).itertuples(index=False, name=None)
    ]
    return text_table(columns, rows, f"Checks: {counts}.", fold)


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}" if np.isfinite(value) else ""
    return str(value)


def between(value: float, low: float, high: float, digits: int) -> str:
    """Return an estimate with its interval in words, "-" where there is none."""
    if not np.isfinite(value):
        return "-"
    if not np.isfinite(low):
        return f"{value:,.{digits}f} (no interval)"
    return f"{value:,.{digits}f} ({low:,.{digits}f} to {high:,.{digits}f})"
