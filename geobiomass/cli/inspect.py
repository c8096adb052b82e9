"""``geobiomass info | report | demo``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from geobiomass.cli.checks import open_for_model
from geobiomass.cli.output import AsJson, answer
from geobiomass.cli.total_options import Assisted


def info(
    path: Annotated[
        str, typer.Argument(help="A cube, a map, the folder of a model or of validate.")
    ],
    as_json: AsJson = False,
) -> None:
    """Print size, months, bands, georeference and missing values of a cube or a map.

    For a map also its provenance, complete with `--json`. For the folder of a model or
    of `validate`: settings, errors and progress.

    Example: `geobiomass info chips.zarr`
    """
    from geobiomass.info import describe
    from geobiomass.info.maps import origin_at

    found = describe(path)
    answer(found, found.to_dict() | (origin_at(path) if as_json else {}), as_json)


def report(
    model: Annotated[Path, typer.Argument(help="A model's folder.")],
    cube: Annotated[str, typer.Argument(help="A Zarr cube, also s3://...")],
    out: Annotated[Path, typer.Option(help="The file to write.")] = Path("report.html"),
    map_: Annotated[
        str | None,
        typer.Option("--map", help="A finished map of the cube, instead of a new one."),
    ] = None,
    regions: Annotated[
        Path | None, typer.Option(help="A vector file: totals of its regions.")
    ] = None,
    plots: Annotated[
        Path | None, typer.Option(help="A probability sample, for the totals.")
    ] = None,
    residuals: Annotated[
        Path | None, typer.Option(help="Residuals instead of plots, as for totals.")
    ] = None,
    validation: Annotated[
        Path | None,
        typer.Option(help="A folder of validate: its errors, also for totals."),
    ] = None,
    estimator: Annotated[
        Assisted, typer.Option(help="Estimator that combines plots and map.")
    ] = (Assisted.regression),
    name: Annotated[
        str | None, typer.Option(help="Column with the regions' names.")
    ] = None,
    samples: Annotated[
        int | None,
        typer.Option(
            help="Largest number of chips, or blocks of 1,024 pixels, to read."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write a report on a model and its map as one HTML file.

    It has the data and their split, errors, intervals, the area of applicability,
    totals, pictures, the model's card and the map's provenance. Without labels (agb) in
    the cube it has no errors.

    Example: `geobiomass report model/ scene.zarr --map map.tif --regions parks.gpkg
    --plots plots.csv`; with `--validation held-out/` also errors of held-out ground
    """
    from geobiomass.validation.folder import read_record

    if validation is not None:
        read_record(validation)
    open_for_model(model, cube)
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
    seed: Annotated[int, typer.Option(help="Seed of landscape and training.")] = 0,
) -> None:
    """Make a synthetic landscape, train on one part, map the other, and compare.

    Example: `geobiomass demo --out demo`
    """
    from geobiomass.cli.demo import run as run_demo

    run_demo(out, seed=seed)
