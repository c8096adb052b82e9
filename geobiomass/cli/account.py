"""``geobiomass totals | dossier | change``: totals of a map, and of its change."""

from __future__ import annotations

import json
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
from geobiomass.cli.total_options import (
    Assisted,
    Clusters,
    Designs,
    Drawn,
    Ends,
    Estimators,
    Factors,
    Intervals,
    ModelError,
    Rule,
    takes_total_options,
)

Confidence = Annotated[
    float | None,
    typer.Option(
        help="Confidence of the intervals; by default 0.95, and of the difference that "
        "of the maps' own intervals."
    ),
]


MapPath = Annotated[
    str, typer.Argument(metavar="MAP", help="A finished map: .zarr or .tif.")
]


@takes_total_options
def totals(
    map_: MapPath,
    regions: Annotated[
        Path | None,
        typer.Argument(help="A vector file; by default the whole map."),
    ] = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="Also print every check of every row.")
    ] = False,
    csv: TableFile = None,
    as_json: AsJson = False,
    **settings: Any,
) -> None:
    """Estimate total biomass and carbon of regions of a map, with intervals.

    Example: `geobiomass totals map.zarr districts.gpkg --plots plots.csv`
    """
    check_table_file(csv)
    from geobiomass.accounting.explain import explain_totals
    from geobiomass.accounting.totals import totals as estimate

    table = estimate(map_, regions, progress=not as_json, **settings)
    write_table(table, csv, "table of totals", "map_mean")
    facts = {"totals": table_of(table)} | {str(k): v for k, v in table.attrs.items()}
    words = _in_words(table)
    if explain:
        words += f"\n\n{explain_totals(table)}"
    answer(words, facts, as_json)


@takes_total_options
def dossier(
    map_: MapPath,
    regions: Annotated[
        Path | None,
        typer.Option(help="A vector file; by default the whole map."),
    ] = None,
    out: Annotated[
        Path, typer.Option(help="The page; its script is beside it, .py.")
    ] = Path("dossier.html"),
    sensitivity: Annotated[
        bool,
        typer.Option(help="Also the total with each choice changed, one at a time."),
    ] = True,
    as_json: AsJson = False,
    **settings: Any,
) -> None:
    """Write totals for an auditor: one HTML file, and a script that makes it again.

    It has the inputs with their fingerprints, the design, totals by region and stratum,
    every check, and how much the total depends on each choice.

    Example: `geobiomass dossier map.zarr --regions districts.gpkg --plots plots.csv
    --out dossier.html`
    """
    from geobiomass.report.dossier import write_dossier

    written = write_dossier(
        out,
        map_,
        regions,
        sensitivity=sensitivity,
        progress=not as_json,
        **settings,
    )
    script = written.with_suffix(".py")
    facts = {"dossier": str(written), "script": str(script)}
    answer(f"{written}, made again by {script}", facts, as_json)


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
    estimator: Estimators = Assisted.auto,
    cluster: Clusters = None,
    design: Designs = Drawn.random,
    interval: Intervals = Ends.auto,
    confidence: Confidence = None,
    carbon: Factors = None,
    model_error: ModelError = None,
    deduction: Rule = None,
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
    reported: dict[str, Any] = {
        "carbon": carbon,
        "model_error": model_error,
        "deduction": deduction,
    }
    if regions is None and any(value is not None for value in reported.values()):
        raise ValueError(
            "--carbon, --model-error and --deduction are for the totals of regions; "
            "give --regions too."
        )
    settings: dict[str, Any] = {"correlation": correlation}
    if confidence is not None:
        settings["confidence"] = confidence
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
            **reported,
            estimator=estimator.value,
            cluster=cluster,
            design=design.value,
            interval=interval.value,
        )
        if (assumed := table.attrs.get("map_units")) is not None:
            words += f"\nmap units: {assumed}"
        names = ["method", "interval"]
        names += [f"{n}{e}" for n in ("area", "total", "carbon", "co2e") for e in _ENDS]
        names.append("deduction_percent")
        shown = table[[name for name in names if name in table]]
        words += f"\n{shown.round(1).to_string()}{_sources(table)}"
        write_table(table, csv, "table of change", "map_total")
        facts |= {"totals": json.loads(table.reset_index().to_json(orient="records"))}
    answer(words, facts, as_json)


_ENDS = ("", "_lower", "_upper")


def _in_words(table: Any) -> str:
    """Return the main columns of a table as text, with units."""
    units = table.attrs["units"]
    names = ["method", "plots", "area", "unmapped", "mean", "total"]
    names += ["total_lower", "total_upper", "interval", "carbon"]
    more = [f"co2e{end}" for end in _ENDS] + ["deduction_percent"]
    names += [name for name in more if name in table]
    names += [name for name in ("verdict", "note") if name in table]
    kinds = {name: units.get(name) or units.get(name.split("_")[0]) for name in names}
    shown = table[names].rename(
        columns={name: f"{name} ({unit})" for name, unit in kinds.items() if unit}
    )
    lines = shown.to_string(float_format=lambda value: f"{value:,.6g}")
    if (assumed := table.attrs.get("map_units")) is not None:
        lines += f"\n\nmap units: {assumed}"
    percent = f"{100 * table.attrs['confidence']:g} %"
    return (
        f"{lines}\n\nlower, upper: {percent} intervals, {table.attrs['based_on']}-based"
        f"{_sources(table)}"
    )


def _sources(table: Any) -> str:
    """Return lines with the sources of carbon factors and of a deduction."""
    from geobiomass.accounting.reported_columns import sources_in_words

    return "".join(f"\n{line}" for line in sources_in_words(table.attrs))
