"""``geobiomass predict | plan``: maps, and what they cost."""

from __future__ import annotations

import asyncio
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from geobiomass.cli.checks import check_map_path, check_recipe, open_for_model
from geobiomass.cli.map_options import takes_map_options
from geobiomass.cli.output import AsJson, answer

if TYPE_CHECKING:
    from geobiomass.models.predictor import Predictor


_PATIENCE = 30.0  # seconds, distributed's own default: schedulers may be starting


class Form(StrEnum):
    """The format that a map is written in."""

    map = "map"
    biomassters = "biomassters"


@takes_map_options
def predict(
    model: Annotated[Path, typer.Argument(help="A model's folder.")],
    cube: Annotated[str, typer.Argument(help="A Zarr cube, also s3://...")],
    out: Annotated[str, typer.Argument(help="The map: .zarr or .tif, also s3://...")],
    form: Annotated[
        Form,
        typer.Option(
            "--format",
            help="biomassters: a folder of competition files, one for each chip.",
        ),
    ] = Form.map,
    ensemble: Annotated[
        list[Path] | None,
        typer.Option(help="Another model, to average with; repeatable."),
    ] = None,
    applicability: Annotated[
        bool,
        typer.Option("--applicability", help="Also map the area of applicability."),
    ] = False,
    overviews: Annotated[
        bool, typer.Option("--overviews", help="Add maps of lower resolution (Zarr).")
    ] = False,
    scheduler: Annotated[
        str | None, typer.Option(help="Address of a dask cluster, tcp://...")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="First delete the map at OUT.")
    ] = False,
    contact: Annotated[
        str | None, typer.Option(help="Contact person, written into the map.")
    ] = None,
    licence: Annotated[
        str | None, typer.Option(help="Licence of the map, such as CC-BY-4.0.")
    ] = None,
    stac_item: Annotated[
        bool, typer.Option("--stac-item", help="Write a STAC item next to the map.")
    ] = False,
    as_json: AsJson = False,
    **settings: Any,
) -> None:
    """Map a cube to Zarr or a cloud-optimised GeoTIFF.

    After an interruption the same command continues where it stopped.

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
    notes = {"contact": contact, "licence": licence}
    with _client(scheduler) as client:
        settings |= {"client": client, "overwrite": overwrite}
        if form is Form.biomassters:
            region = settings["region"] is not None
            if region or overviews or stac_item or applicability:
                raise ValueError(
                    "--region, --overviews, --stac-item and --applicability are for "
                    "maps of scenes; leave them out with --format biomassters."
                )
            predictor.predict_chips_to(out, images, **settings)
        else:
            predictor.predict_to(
                out,
                images,
                overviews=overviews,
                applicability=applicability,
                notes={k: v for k, v in notes.items() if v is not None},
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


def _client(address: str | None) -> AbstractContextManager[Any]:
    if address is None:
        return nullcontext()
    from distributed import Client

    try:
        # A client that cannot connect is never closed: when it is collected while
        # another one starts, both wait for the same lock. So none is made until
        # something answers.
        asyncio.run(_connect(address))
        # It is handed on. As dask's default, one that cannot connect would stay the
        # default of this process, and all later work would wait for it for ever.
        client = Client(address, timeout=f"{_PATIENCE}s", set_as_default=False)
    except Exception as error:  # of any kind, by what answers: a web server's page
        said = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        raise ValueError(
            f"--scheduler must be the address of a dask scheduler that runs, such as "
            f"tcp://10.0.0.5:8786, got {address!r} ({said}); start one with dask "
            "scheduler, or leave the option out to map on this machine."
        ) from error
    return cast("AbstractContextManager[Any]", client)


async def _connect(address: str) -> None:
    """Connect once as a client does; an error if nothing answers."""
    from distributed.comm.core import connect
    from distributed.security import Security

    encryption = Security().get_connection_args("client")
    try:
        # The connection has an end by its own time; what follows waits for an answer.
        line = await asyncio.wait_for(
            connect(address, timeout=f"{_PATIENCE}s", **encryption), 1.2 * _PATIENCE
        )
    except TimeoutError as error:
        said = str(error) or f"no answer of a scheduler in {1.2 * _PATIENCE:.0f} s"
        raise OSError(said) from error
    await line.close()


@takes_map_options
def plan(
    cube: Annotated[str, typer.Argument(help="A Zarr cube, also s3://...")],
    model: Annotated[
        Path | None, typer.Option(help="A model's folder; else the recipe's network.")
    ] = None,
    recipe: Annotated[
        str, typer.Option(help="Recipe of the untrained network.")
    ] = "default",
    workers: Annotated[int, typer.Option(help="Number of machines like this one.")] = 1,
    as_json: AsJson = False,
    **settings: Any,
) -> None:
    """Estimate the cost of a map: blocks, bytes, memory, hours.

    Runs a few tiles on this machine to measure them; writes nothing.

    Example: `geobiomass plan scene.zarr --model model/ --workers 8`
    """
    from geobiomass.cube import open_cube

    scene = open_cube(cube) if model is None else open_for_model(model, cube)
    check_recipe(recipe, {})
    from geobiomass.models.fit_members import untrained
    from geobiomass.models.loading import load

    network = load(model) if model is not None else untrained(scene, recipe)
    plan = network.plan(scene, workers=workers, **settings)
    answer(plan, asdict(plan) | {"hours": plan.hours}, as_json)
