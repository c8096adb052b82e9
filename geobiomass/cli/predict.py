"""``geobiomass predict | plan | totals | change``: maps, their cost, what they say."""

from __future__ import annotations

import json
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from geobiomass.cli.checks import check_map_path, check_recipe, open_for_model
from geobiomass.cli.output import AsJson, answer, table_of

if TYPE_CHECKING:
    from geobiomass.models.predictor import Predictor


class Blending(StrEnum):
    """What becomes of pixels that tiles share."""

    smooth = "smooth"
    crop = "crop"


class Numbers(StrEnum):
    """Precision of the network's multiplications."""

    float32 = "float32"
    bf16 = "bf16"
    auto = "auto"


class Form(StrEnum):
    """What a map is written as."""

    map = "map"
    biomassters = "biomassters"


class Assisted(StrEnum):
    """How plots and a map are put together."""

    plots = "plots"
    difference = "difference"
    regression = "regression"
    all = "all"


Tile = Annotated[int, typer.Option(help="Side of a tile, pixels.")]
Overlap = Annotated[int, typer.Option(help="Shared by tiles, pixels.")]
BlockSide = Annotated[int, typer.Option(help="Unit of work, pixels.")]
Flips = Annotated[bool, typer.Option("--flips", help="Average over flips.")]
Turns = Annotated[bool, typer.Option("--turns", help="Average over quarter turns.")]
Precise = Annotated[Numbers, typer.Option(help="auto: bf16 where the machine has it.")]
Where = Annotated[
    Path | None, typer.Option("--region", help="GeoJSON file: map only there.")
]


def predict(
    model: Annotated[Path, typer.Argument(help="A model's folder.")],
    cube: Annotated[str, typer.Argument(help="A Zarr cube; s3://... as well.")],
    out: Annotated[str, typer.Argument(help="The map: .zarr or .tif; s3://... too.")],
    form: Annotated[
        Form,
        typer.Option(
            "--format", help="biomassters: a folder of competition files, one a chip."
        ),
    ] = Form.map,
    tile: Tile = 256,
    overlap: Overlap = 64,
    block: BlockSide = 1024,
    flips: Flips = False,
    turns: Turns = False,
    blend: Annotated[Blending, typer.Option(help="Of tiles.")] = Blending.smooth,
    precision: Precise = Numbers.float32,
    region: Where = None,
    ensemble: Annotated[
        list[Path] | None,
        typer.Option(help="Another model, to take the mean with; repeatable."),
    ] = None,
    applicability: Annotated[
        bool,
        typer.Option(
            "--applicability", help="Also map where the model has been trained for."
        ),
    ] = False,
    overviews: Annotated[
        bool, typer.Option("--overviews", help="Smaller maps beside, in Zarr.")
    ] = False,
    scheduler: Annotated[
        str | None, typer.Option(help="Address of a dask cluster, tcp://...")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Delete what is there first.")
    ] = False,
    contact: Annotated[
        str | None, typer.Option(help="Whom to ask about the map; written into it.")
    ] = None,
    licence: Annotated[
        str | None, typer.Option(help="Of the map, such as CC-BY-4.0.")
    ] = None,
    stac_item: Annotated[
        bool, typer.Option("--stac-item", help="Write a STAC item beside the map.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Map a cube to Zarr or a cloud-optimised GeoTIFF.

    Interrupted, the same command goes on where it stopped.

    Example: `geobiomass predict model/ scene.zarr map.tif --flips`

    With `--format biomassters` the map is a folder with a GeoTIFF for each chip, as
    the competition takes them.
    """
    images = open_for_model(model, cube)
    for folder in ensemble or ():
        open_for_model(folder, cube)
    if form is Form.map:
        check_map_path(out)
    predictor = _predictor(model, ensemble)
    settings: dict[str, Any] = {
        "tile": tile,
        "overlap": overlap,
        "flips": flips,
        "turns": turns,
        "blend": blend.value,
        "precision": precision.value,
        "overwrite": overwrite,
    }
    said = {"contact": contact, "licence": licence}
    with _client(scheduler) as client:
        if form is Form.biomassters:
            if region is not None or overviews or stac_item or applicability:
                raise ValueError(
                    "--region, --overviews, --stac-item and --applicability are for "
                    "maps of scenes; leave them out with --format biomassters."
                )
            predictor.predict_chips_to(out, images, client=client, **settings)
        else:
            predictor.predict_to(
                out,
                images,
                block=block,
                region=_region(region),
                overviews=overviews,
                applicability=applicability,
                client=client,
                notes={k: v for k, v in said.items() if v is not None},
                stac_item=(model if ensemble is None else True) if stac_item else False,
                **settings,
            )
    layers = ("dissimilarity", "applicable") if applicability else ()
    outputs = (*predictor.outputs, *layers)
    answer(f"{out}: done", {"map": out, "outputs": outputs}, as_json)


def _predictor(model: Path, more: list[Path] | None) -> Predictor:
    from geobiomass.models.ensemble import Ensemble
    from geobiomass.models.loading import load

    return (
        Ensemble([load(folder) for folder in (model, *more)]) if more else load(model)
    )


def plan(
    cube: Annotated[str, typer.Argument(help="A Zarr cube; s3://... as well.")],
    model: Annotated[
        Path | None, typer.Option(help="A model's folder; else the recipe's network.")
    ] = None,
    recipe: Annotated[str, typer.Option(help="Whose network, untrained.")] = "default",
    workers: Annotated[int, typer.Option(help="Machines like this one.")] = 1,
    tile: Tile = 256,
    overlap: Overlap = 64,
    block: BlockSide = 1024,
    flips: Flips = False,
    turns: Turns = False,
    precision: Precise = Numbers.float32,
    region: Where = None,
    as_json: AsJson = False,
) -> None:
    """Say what a map would take: blocks, bytes, memory, hours.

    Runs a few tiles on this machine to find out; writes nothing.

    Example: `geobiomass plan scene.zarr --model model/ --workers 8`
    """
    from geobiomass.cube import open_cube

    scene = open_cube(cube) if model is None else open_for_model(model, cube)
    check_recipe(recipe, {})
    from geobiomass.models.fit import untrained
    from geobiomass.models.loading import load

    network = load(model) if model is not None else untrained(scene, recipe)
    plan = network.plan(
        scene,
        tile=tile,
        overlap=overlap,
        block=block,
        flips=flips,
        turns=turns,
        precision=precision.value,
        region=_region(region),
        workers=workers,
    )
    answer(plan, asdict(plan) | {"hours": plan.hours}, as_json)


def _region(path: Path | None) -> Any:
    return json.loads(path.read_text()) if path is not None else None


def _client(address: str | None) -> AbstractContextManager[Any]:
    if address is None:
        return nullcontext()
    from distributed import Client

    return cast("AbstractContextManager[Any]", Client(address))


def totals(
    map_: Annotated[
        str, typer.Argument(metavar="MAP", help="A finished map: .zarr or .tif.")
    ],
    regions: Annotated[
        Path | None,
        typer.Argument(help="A vector file; without, the whole map."),
    ] = None,
    plots: Annotated[
        Path | None,
        typer.Option(help="A probability sample: CSV with lon and lat, or vectors."),
    ] = None,
    residuals: Annotated[
        Path | None,
        typer.Option(
            help="Instead: a folder of validate, a CSV of residuals, or JSON of an "
            "error model."
        ),
    ] = None,
    estimator: Annotated[Assisted, typer.Option(help="How plots and map meet.")] = (
        Assisted.regression
    ),
    observed: Annotated[str, typer.Option(help="Column of what plots have.")] = "agb",
    stratum: Annotated[str | None, typer.Option(help="Column of strata.")] = None,
    probability: Annotated[
        str | None, typer.Option(help="Column of inclusion probabilities.")
    ] = None,
    strata: Annotated[
        str | None, typer.Option(help="A raster of strata on the map's grid.")
    ] = None,
    radius: Annotated[float | None, typer.Option(help="Of plots, metres.")] = None,
    confidence: Annotated[float, typer.Option(help="Of the intervals.")] = 0.95,
    carbon_fraction: Annotated[
        float, typer.Option(help="Of dry biomass (0.47: IPCC 2006).")
    ] = 0.47,
    name: Annotated[
        str | None, typer.Option(help="Column with the regions' names.")
    ] = None,
    variable: Annotated[str, typer.Option(help="The map's layer.")] = "agb",
    as_json: AsJson = False,
) -> None:
    """Total biomass and carbon of regions of a map, with intervals.

    Example: `geobiomass totals map.zarr districts.gpkg --plots plots.csv`
    """
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
    )
    facts = {"totals": table_of(table)} | {str(k): v for k, v in table.attrs.items()}
    answer(_in_words(table), facts, as_json)


def change(
    first: Annotated[str, typer.Argument(help="The earlier map: .zarr or .tif.")],
    second: Annotated[str, typer.Argument(help="The later one, on the same grid.")],
    out: Annotated[Path, typer.Argument(help="The difference: .zarr or .tif.")],
    regions: Annotated[
        Path | None, typer.Option(help="A vector file: totals of change there too.")
    ] = None,
    errors: Annotated[
        tuple[Path, Path] | None,
        typer.Option(
            help="Of each date, as --residuals of totals; with folders or tables "
            "totals have loss and gain too."
        ),
    ] = None,
    correlation: Annotated[
        float | None, typer.Option(help="Of the errors of the two dates, -1 to 1.")
    ] = None,
    plots: Annotated[
        Path | None,
        typer.Option(help="For totals: CSV with agb_first and agb_second, lon, lat."),
    ] = None,
    confidence: Annotated[float, typer.Option(help="Of the intervals.")] = 0.9,
    as_json: AsJson = False,
) -> None:
    """Subtract the map of one date from that of a later one, with an interval.

    Example: `geobiomass change 2020.zarr 2024.zarr change.tif`; with loss and gain:
    `geobiomass change 2020.zarr 2024.zarr change.tif --regions parks.gpkg --errors
    held-out-2020/ held-out-2024/`
    """
    from geobiomass.accounting.change import change as subtract
    from geobiomass.accounting.change import write_change
    from geobiomass.accounting.change_totals import change_totals

    settings: dict[str, Any] = {"correlation": correlation, "confidence": confidence}
    write_change(subtract(first, second, residuals=errors, **settings), out)
    words, facts = f"{out}: done", {"map": str(out)}
    if regions is not None:
        import pandas as pd

        table = change_totals(
            first,
            second,
            regions,
            residuals=errors if plots is None else None,
            plots=None if plots is None else pd.read_csv(plots),
            progress=not as_json,
            **settings,
        )
        words += f"\n{table.iloc[:, :9].round(1).to_string()}"
        facts |= {"totals": json.loads(table.reset_index().to_json(orient="records"))}
    answer(words, facts, as_json)


def _in_words(table: Any) -> str:
    """Give the columns that people ask for first, with units."""
    units = table.attrs["units"]
    names = ["method", "plots", "area", "mean", "total", "total_lower", "total_upper"]
    names += ["carbon", "note"]
    shown = table[names].rename(
        columns={
            name: f"{name} ({units[name.split('_')[0]]})"
            for name in names
            if name.split("_")[0] in units
        }
    )
    lines = shown.to_string(float_format=lambda value: f"{value:,.6g}")
    percent = f"{100 * table.attrs['confidence']:g} %"
    return (
        f"{lines}\n\nlower, upper: {percent} intervals, {table.attrs['based_on']}-based"
    )
