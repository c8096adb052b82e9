"""A table of totals in words: each row, its checks, and what no check can see."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from geobiomass.accounting.check import BROKEN, DOUBTFUL, OK
from geobiomass.training.setting_names import explain_arguments

UNSEEN = {
    "design": (
        "that plots were drawn at random, or with the given probabilities",
        "that measurements on plots, and their allometric equations, are true",
    ),
    "small areas": (
        "that plots were drawn at random within each region",
        "that measurements on plots, and their allometric equations, are true",
        "that regions without plots are like those with plots; intervals of 95 % hold "
        "in 95 % of regions, and not in each one: less often in unusual regions",
    ),
    "model": (
        "that errors in the region are like those of the held-out land, such as the "
        "same wood density",
        "that held-out observations are true",
    ),
}
"""Assumptions that nothing in a table of plots or residuals shows, by basis."""


@explain_arguments
def explain_totals(table: pd.DataFrame) -> str:
    """Return a table of totals in words, with each check, its figure and verdict.

    Parameters
    ----------
    table : pandas.DataFrame
        From :func:`geobiomass.totals` or :func:`geobiomass.change_totals`, in the same
        session: a CSV does not keep the checks.

    Returns
    -------
    str
        For each row the total with its interval and the verdict, then its checks:
        broken ones first, then doubtful ones, then those that are ok. At the end the
        assumptions that no check can see.

    Raises
    ------
    ValueError
        If the table has no checks.
    """
    checks = getattr(table, "attrs", {}).get("checks")
    if checks is None:
        raise ValueError(
            "explain_totals needs the table that gb.totals or gb.change_totals "
            "returned, with attrs['checks'], got one without; make it again."
        )
    lines: list[str] = []
    about = {str(name): value for name, value in table.attrs.items()}
    for label, numbers in table.iterrows():
        row = {str(name): value for name, value in numbers.items()}
        region, part = label if isinstance(label, tuple) else (label, None)
        mine = [
            check
            for check in checks
            if check["region"] == region
            and check["method"] == row["method"]
            and check.get("change") == part
        ]
        lines += [_heading(str(region), part, row, about), *_listed(mine), ""]
    lines.append("No check can see:")
    based = str(table.attrs.get("based_on", "design"))
    lines += [f"  - {each}" for each in UNSEEN.get(based, ())]
    return "\n".join(lines)


def _heading(
    region: str, part: Any, row: Mapping[str, Any], attrs: Mapping[str, Any]
) -> str:
    name = region if part is None else f"{region}, {part}"
    total = f"{name} ({row['method']}): "
    if not math.isfinite(row["total"]):
        return f"{total}no estimate. {row['note']}".rstrip()
    total += f"{row['total']:,.6g} Mg"
    if math.isfinite(row["total_lower"]):
        percent = f"{100 * attrs['confidence']:g} % " if "confidence" in attrs else ""
        total += (
            f", {percent}interval {row['total_lower']:,.6g} to "
            f"{row['total_upper']:,.6g} Mg"
        )
    else:
        total += ", no interval"
    return total + (f". Verdict: {row['verdict']}." if "verdict" in row else ".")


def _listed(checks: Sequence[Mapping[str, Any]]) -> list[str]:
    return [
        f"  {verdict:9}{check['check']}: {check['words']}"
        for verdict in (BROKEN, DOUBTFUL, OK)
        for check in checks
        if check["verdict"] == verdict
    ]
