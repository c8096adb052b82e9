"""The sections of a dossier: each is a function that returns its HTML."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup

from geobiomass.accounting.check import BROKEN, DOUBTFUL, VERDICTS
from geobiomass.accounting.combined_regions import whole_of
from geobiomass.accounting.explain import UNSEEN, explain_totals
from geobiomass.accounting.sensitivity_of_totals import AS_CALLED, largest_change
from geobiomass.report.dossier_findings import Findings
from geobiomass.report.dossier_inputs import design, inputs, package_versions
from geobiomass.report.page import (
    boxes,
    figure,
    heading,
    join,
    paragraph,
    preformatted,
    text_table,
)
from geobiomass.report.totals_tables import between, checks_table, totals_table
from geobiomass.summary import Table

_MOST_DOUBTS = 12  # rows of the summary, which is one screen
_COMPLIANCE = (
    "This file says what was computed, from what, and what was checked. It does not "
    "say that the totals comply with a standard."
)


def sections_of(found: Findings) -> list[tuple[str, Markup]]:
    """Return headings and HTML of all sections that have anything."""
    written = {
        "Summary": summary(found),
        "Totals": totals_table(found.table),
        "Strata": strata(found),
        "Checks": checks(found),
        "Sensitivity": sensitivity(found),
        "Design": design(found),
        "Inputs": inputs(found),
        "Make it again": again(found),
    }
    return [(name, content) for name, content in written.items() if content]


# --- summary ----------------------------------------------------------------------


def summary(found: Findings) -> Markup:
    """Return one screen: the number, its interval, the verdict and the doubts."""
    table = found.table
    whole = whole_of(table)
    percent = f"{100 * table.attrs['confidence']:g} % interval"
    parts: list[Any] = []
    if whole is not None:
        label, row = str(whole.index[0]), whole.iloc[0]
        shown = {f"Mg biomass, {label}": _figure(row["total"])}
        shown[f"{percent}, Mg"] = _ends(row, "total")
        shown["verdict"] = _worst(table)
        if "carbon" in table.attrs:
            shown["Mg CO2 equivalent"] = _figure(row["co2e"])
            shown[f"{percent}, Mg CO2"] = _ends(row, "co2e")
        if "deduction_percent" in row and np.isfinite(row["deduction_percent"]):
            shown[f"deduction, {table.attrs['deduction']['rule']}"] = (
                f"{row['deduction_percent']:.2f} %"
            )
        parts.append(boxes(shown))
        parts.append(_one_sentence(label, row, table))
    else:
        parts.append(boxes({"regions": str(len(table)), "verdict": _worst(table)}))
        parts.append(
            paragraph("The regions overlap, or have no sum: see each of them.")
        )
    parts.append(_doubts(table))
    most = None if found.varied is None else largest_change(found.varied)
    if most is not None:
        parts.append(
            paragraph(
                f"Of all choices, {most['choice']} ({most['setting']}) changes the "
                f"{most['quantity']} of {most['region']} most: by "
                f"{most['difference_percent']:+.2f} %."
            )
        )
    unseen = "; ".join(UNSEEN[table.attrs["based_on"]])
    parts += [paragraph(f"No check can see: {unseen}."), paragraph(_COMPLIANCE)]
    return join(parts)


def _worst(table: pd.DataFrame) -> str:
    return str(max(table["verdict"], key=VERDICTS.index))


def _figure(value: float) -> str:
    return f"{value:,.0f}" if np.isfinite(value) else "none"


def _ends(row: pd.Series, name: str) -> str:
    if not np.isfinite(row[f"{name}_lower"]):
        return "none"
    return f"{row[f'{name}_lower']:,.0f} to {row[f'{name}_upper']:,.0f}"


def _one_sentence(label: str, row: pd.Series, table: pd.DataFrame) -> Markup:
    on = "field plots" if table.attrs["based_on"] == "design" else "held-out errors"
    words = f"{label}: {row['area']:,.1f} ha"
    if row["plots"]:
        words += f", {int(row['plots'])} plots"
    half = row.get("total_half_width_95_percent", np.nan)
    if np.isfinite(half):
        words += f"; half of the 95 % interval is {half:.1f} % of the total"
    return paragraph(f"{words}. The interval rests on {on}.")


def _doubts(table: pd.DataFrame) -> Markup:
    """Return what is broken or doubtful, the worst first."""
    found = [
        (check["region"], check["verdict"], check["check"], check["words"])
        for verdict in (BROKEN, DOUBTFUL)
        for check in table.attrs["checks"]
        if check["verdict"] == verdict
    ]
    if not found:
        return paragraph("Nothing that can be checked is doubtful or broken.")
    rest = len(found) - _MOST_DOUBTS
    note = f"{rest} more are in the section Checks." if rest > 0 else ""
    columns = ("region", "verdict", "check", "what is doubtful or broken")
    return text_table(columns, found[:_MOST_DOUBTS], note)


# --- numbers ----------------------------------------------------------------------


def strata(found: Findings) -> Markup:
    """Return the estimates by stratum, if there are strata."""
    rows = found.table.attrs.get("strata")
    if not rows:
        return Markup("")
    frame = pd.DataFrame(rows).set_index("region")
    frame["share"] = 100 * frame["share"]
    titles = {"share": "share, %", "area": "area, ha", "units": "sampling units"}
    titles |= {"mean": "mean, Mg/ha", "mean_se": "standard error, Mg/ha"}
    note = "Sampling units are clusters where plots are in clusters."
    return join([Table(frame.rename(columns=titles), note)])


def checks(found: Findings) -> Markup:
    """Return every check with figure and verdict, and the same in words."""
    return join(
        [
            paragraph(
                "A check that is broken withholds the interval, unless force=True; a "
                "doubtful one keeps it."
            ),
            checks_table(found.table, "All checks" if len(found.table) > 3 else ""),
            preformatted(explain_totals(found.table), "The same in words"),
        ]
    )


def sensitivity(found: Findings) -> Markup:
    """Return the totals with each choice changed, one at a time."""
    varied = found.varied
    if varied is None:
        return paragraph("Not asked for (sensitivity=False).")
    known = varied[varied["region"] != ""]
    rows = [
        (
            row["region"],
            row["choice"],
            row["setting"],
            f"{row['quantity']}, {varied.attrs['units'][row['quantity']]}",
            f"{row['area']:,.1f}",
            between(row["value"], row["lower"], row["upper"], 0),
            *_difference(row),
            row["verdict"],
        )
        for region in dict.fromkeys(known["region"])
        for row in known[known["region"] == region].to_dict("records")
    ]
    first = ("region", "choice", "changed to", "of", "area, ha")
    columns = (*first, "value (interval)", "difference", "%", "verdict")
    parts: list[Any] = [
        paragraph(
            "The same call of gb.totals with one choice changed at a time; "
            f"{AS_CALLED!r} is what the totals above are. A total inside the area of "
            "applicability is of fewer hectares."
        ),
        _picture(known),
        text_table(columns, rows),
    ]
    fixed = varied[varied["region"] == ""]
    if len(fixed):
        parts.append(heading("Choices that cannot be changed"))
        parts.append(
            text_table(("choice", "why"), fixed[["choice", "note"]].to_numpy().tolist())
        )
    return join(parts)


def _difference(row: dict[str, Any]) -> tuple[str, str]:
    if row["choice"] == AS_CALLED or not np.isfinite(row["difference"]):
        return "", ""
    return f"{row['difference']:+,.0f}", f"{row['difference_percent']:+.2f}"


def _picture(known: pd.DataFrame) -> Markup:
    """Return the totals of the largest region with their intervals, by choice."""
    shown = known[(known["quantity"] == "total") & np.isfinite(known["value"])]
    called = shown[shown["choice"] == AS_CALLED]
    if called.empty or len(shown) < 2:
        return Markup("")
    region = called.loc[called["value"].idxmax(), "region"]
    rows = shown[shown["region"] == region].to_dict("records")
    names = [
        AS_CALLED
        if row["choice"] == AS_CALLED
        else f"{row['choice']}: {row['setting']}"
        for row in rows
    ]

    def draw(axes: Any) -> None:
        axes.axvline(rows[0]["value"], color="0.7", lw=1)
        for place, row in enumerate(rows):
            colour = "#D55E00" if place == 0 else "#0072B2"
            axes.plot(row["value"], place, "o", color=colour)
            if np.isfinite(row["lower"]):
                axes.plot([row["lower"], row["upper"]], [place] * 2, color=colour)
        axes.set_yticks(range(len(rows)), names)
        axes.invert_yaxis()
        axes.set_xlabel("total, Mg")
        axes.ticklabel_format(axis="x", style="plain", useOffset=False)
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.margins(y=0.15)

    caption = f"{region}: the total and its interval, by choice; no line: no interval."
    return figure(caption, draw, (8.5, 1.1 + 0.34 * len(rows)))


# --- the script -------------------------------------------------------------------


def again(found: Findings) -> Markup:
    """Return how to make every number again, and the script."""
    versions = " ".join(f"{n}=={v}" for n, v in package_versions(found).items())
    return join(
        [
            paragraph(
                f"The file {found.script_name} beside this page is the script below. "
                "It checks the fingerprints of all inputs, makes every number again, "
                "and compares each with those here, digit for digit. Paths are seen "
                "from its folder."
            ),
            preformatted(f"pip install {versions}\npython {found.script_name}"),
            preformatted(found.script, "The script"),
        ]
    )
