"""``geobiomass totals | change``: totals of regions of a map, and of its change."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from geobiomass.cli.output import (
    AsJson,
    TableFile,
    answer,
    check_table_file,
    table_of,
    write_table,
)


class Assisted(StrEnum):
    """The estimator that combines plots and a map."""

    plots = "plots"
    difference = "difference"
    regression = "regression"
    all = "all"


class Unmapped(StrEnum):
    """The rule for hectares without a value."""

    exclude = "exclude"
    mean = "mean of its stratum"
    refuse = "refuse"


def totals(
    map_: Annotated[
        str, typer.Argument(metavar="MAP", help="A finished map: .zarr or .tif.")
    ],
    regions: Annotated[
        Path | None,
        typer.Argument(help="A vector file; by default the whole map."),
    ] = None,
    plots: Annotated[
        Path | None,
        typer.Option(
            help="A probability sample: a table with lon and lat, or vectors."
        ),
    ] = None,
    residuals: Annotated[
        Path | None,
        typer.Option(
            help="Instead of plots: a folder of validate, a CSV of residuals, or JSON "
            "of an error model."
        ),
    ] = None,
    estimator: Annotated[
        Assisted, typer.Option(help="The estimator that combines plots and map.")
    ] = (Assisted.regression),
    observed: Annotated[
        str,
        typer.Option(
            "--observed", "--column", help="Column with the plots' biomass, Mg/ha."
        ),
    ] = "agb",
    stratum: Annotated[
        str | None, typer.Option(help="Column with the plots' strata.")
    ] = None,
    probability: Annotated[
        str | None, typer.Option(help="Column with inclusion probabilities.")
    ] = None,
    strata: Annotated[
        str | None, typer.Option(help="A raster of strata on the map's grid.")
    ] = None,
    radius: Annotated[
        float | None, typer.Option(help="Radius of plots, metres.")
    ] = None,
    confidence: Annotated[
        float, typer.Option(help="Confidence of the intervals.")
    ] = 0.95,
    carbon_fraction: Annotated[
        float, typer.Option(help="Carbon fraction of biomass (0.47: IPCC 2006).")
    ] = 0.47,
    name: Annotated[
        str | None, typer.Option(help="Column with the regions' names.")
    ] = None,
    variable: Annotated[
        str | None,
        typer.Option(help="The map's layer; by default agb, or the model's target."),
    ] = None,
    unmapped: Annotated[
        Unmapped, typer.Option(help="Rule for hectares off the map or without a value.")
    ] = Unmapped.exclude,
    force: Annotated[
        bool, typer.Option("--force", help="Intervals also where a check is broken.")
    ] = False,
    explain: Annotated[
        bool, typer.Option("--explain", help="Also print every check of every row.")
    ] = False,
    csv: TableFile = None,
    as_json: AsJson = False,
) -> None:
    """Estimate total biomass and carbon of regions of a map, with intervals.

    Example: `geobiomass totals map.zarr districts.gpkg --plots plots.csv`
    """
    check_table_file(csv)
    from geobiomass.accounting.explain import explain_totals
    from geobiomass.accounting.totals import totals as estimate

    table = estimate(
        map_,
        regions,
        plots,
        residuals=residuals,
        estimator=estimator.value,
        observed=observed,
        stratum=stratum,
        probability=probability,
        strata=strata,
        radius=radius,
        confidence=confidence,
        carbon_fraction=carbon_fraction,
        name=name,
        variable=variable,
        progress=not as_json,
        unmapped=unmapped.value,
        force=force,
    )
    write_table(table, csv, "table of totals", "map_mean")
    facts = {"totals": table_of(table)} | {str(k): v for k, v in table.attrs.items()}
    words = _in_words(table)
    if explain:
        words += f"\n\n{explain_totals(table)}"
    answer(words, facts, as_json)


def change(
    first: Annotated[str, typer.Argument(help="The earlier map: .zarr or .tif.")],
    second: Annotated[str, typer.Argument(help="The later map, on the same grid.")],
    out: Annotated[Path, typer.Argument(help="The difference: .zarr or .tif.")],
    regions: Annotated[
        Path | None,
        typer.Option(help="A vector file: also the totals of change of its regions."),
    ] = None,
    errors: Annotated[
        tuple[Path, Path] | None,
        typer.Option(
            help="Errors of each date, as --residuals of totals; with folders or "
            "tables, totals also have loss and gain."
        ),
    ] = None,
    correlation: Annotated[
        float | None,
        typer.Option(help="Correlation of the two dates' errors, -1 to 1."),
    ] = None,
    plots: Annotated[
        Path | None,
        typer.Option(
            help="For totals: a table with agb_first and agb_second, lon, lat."
        ),
    ] = None,
    confidence: Annotated[
        float, typer.Option(help="Confidence of the intervals.")
    ] = 0.9,
    force: Annotated[
        bool, typer.Option("--force", help="Intervals also where a check is broken.")
    ] = False,
    csv: TableFile = None,
    as_json: AsJson = False,
) -> None:
    """Subtract the map of one date from the map of a later date, with an interval.

    Example: `geobiomass change 2020.zarr 2024.zarr change.tif`; with loss and gain:
    `geobiomass change 2020.zarr 2024.zarr change.tif --regions parks.gpkg --errors
    held-out-2020/ held-out-2024/`
    """
    check_table_file(csv)
    from geobiomass.accounting.change import change as subtract
    from geobiomass.accounting.change import write_change
    from geobiomass.accounting.change_totals import change_totals

    if csv is not None and regions is None:
        raise ValueError(
            f"--csv {csv} is for the totals of regions; give --regions too."
        )
    settings: dict[str, Any] = {"correlation": correlation, "confidence": confidence}
    write_change(subtract(first, second, residuals=errors, **settings), out)
    words, facts = f"{out}: done", {"map": str(out)}
    if regions is not None:
        table = change_totals(
            first,
            second,
            regions,
            residuals=errors if plots is None else None,
            plots=plots,
            progress=not as_json,
            force=force,
            **settings,
        )
        if (assumed := table.attrs.get("map_units")) is not None:
            words += f"\nmap units: {assumed}"
        words += f"\n{table.iloc[:, :9].round(1).to_string()}"
        write_table(table, csv, "table of change", "map_total")
        facts |= {"totals": json.loads(table.reset_index().to_json(orient="records"))}
    answer(words, facts, as_json)


def _in_words(table: Any) -> str:
    """Return the main columns of a table as text, with units."""
    units = table.attrs["units"]
    names = ["method", "plots", "area", "unmapped", "mean", "total"]
    names += ["total_lower", "total_upper", "carbon", "note"]
    names[-1:-1] = ["verdict"] if "verdict" in table else []
    shown = table[names].rename(
        columns={
            name: f"{name} ({units[name.split('_')[0]]})"
            for name in names
            if name.split("_")[0] in units
        }
    )
    lines = shown.to_string(float_format=lambda value: f"{value:,.6g}")
    if (assumed := table.attrs.get("map_units")) is not None:
        lines += f"\n\nmap units: {assumed}"
    percent = f"{100 * table.attrs['confidence']:g} %"
    return (
        f"{lines}\n\nlower, upper: {percent} intervals, {table.attrs['based_on']}-based"
    )
