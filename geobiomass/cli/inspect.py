"""``geobiomass info | demo``: looking at what there is."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from geobiomass.cli.account import Assisted
from geobiomass.cli.output import AsJson, answer


def info(
    path: Annotated[str, typer.Argument(help="A cube, a map, a folder.")],
    as_json: AsJson = False,
) -> None:
    """Say what is at a path: size, months, bands, place, what is missing.

    Of a map also where it comes from; with `--json` all of it. Of a model's folder, or
    that of `validate`, what is in it, how good it is, and how far it is.

    Example: `geobiomass info chips.zarr`
    """
    from geobiomass.info import describe
    from geobiomass.info.maps import origin_at

    found = describe(path)
    answer(found, found.to_dict() | (origin_at(path) if as_json else {}), as_json)


def report(
    model: Annotated[Path, typer.Argument(help="A model's folder.")],
    cube: Annotated[str, typer.Argument(help="A Zarr cube; s3://... as well.")],
    out: Annotated[Path, typer.Option(help="The file to write.")] = Path("report.html"),
    map_: Annotated[
        str | None,
        typer.Option("--map", help="A finished map of the cube, not to map it again."),
    ] = None,
    regions: Annotated[
        Path | None, typer.Option(help="A vector file: totals of these regions.")
    ] = None,
    plots: Annotated[
        Path | None, typer.Option(help="A probability sample, for the totals.")
    ] = None,
    residuals: Annotated[
        Path | None, typer.Option(help="Instead: residuals, as for totals.")
    ] = None,
    validation: Annotated[
        Path | None,
        typer.Option(help="A folder of validate: its errors, and totals rest on them."),
    ] = None,
    estimator: Annotated[Assisted, typer.Option(help="How plots and map meet.")] = (
        Assisted.regression
    ),
    name: Annotated[
        str | None, typer.Option(help="Column with the regions' names.")
    ] = None,
    samples: Annotated[
        int | None,
        typer.Option(help="Chips, or blocks of 1,024 pixels, to look at at most."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write one HTML file for whoever has to judge a model and its map.

    Data and split, errors, intervals, where the map holds, totals, pictures, the
    model's card, where the map comes from. Without labels (agb) in the cube it has no
    errors.

    Example: `geobiomass report model/ scene.zarr --map map.tif --regions parks.gpkg
    --plots plots.csv`; with `--validation held-out/` errors of ground not seen
    """
    from geobiomass.report import write_report

    written = write_report(
        model,
        cube,
        out,
        map=map_,
        regions=regions,
        plots=plots,
        residuals=residuals,
        validation=validation,
        samples=samples,
        progress=not as_json,
        estimator=estimator.value,
        name=name,
    )
    answer(written, {"report": str(written)}, as_json)


def demo(
    out: Annotated[Path, typer.Option(help="Folder for the map.")] = Path("demo"),
    seed: Annotated[int, typer.Option(help="Of landscape and training.")] = 0,
) -> None:
    """Make a landscape, train on one part, map the other, compare and draw.

    Example: `geobiomass demo --out demo`
    """
    from geobiomass.cli.demo import run as run_demo

    run_demo(out, seed=seed)
