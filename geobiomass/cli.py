"""The command line: ``geobiomass ingest | info | train | plan | predict | ...``.

Only parses and calls. Bad input ends with one sentence and exit code 2.
"""

from __future__ import annotations

import json
import os
from contextlib import AbstractContextManager, nullcontext
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, cast

import typer

from geobiomass.training.commands import parse_setting, run

if TYPE_CHECKING:
    from geobiomass.predictor import Predictor

app = typer.Typer(
    help="Maps of above-ground biomass from monthly satellite images.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode="markdown",
)
ingest = typer.Typer(help="Make a cube from files of an archive.", no_args_is_help=True)
app.add_typer(ingest, name="ingest")


class Split(StrEnum):
    """Parts of the BioMassters data."""

    train = "train"
    test = "test"


class StoredAs(StrEnum):
    """Types that a cube can be stored with."""

    int16 = "int16"
    int32 = "int32"
    float32 = "float32"


class Damaged(StrEnum):
    """What becomes of files that are cut short."""

    stop = "raise"
    skip = "skip"


@app.command()
def info(
    path: Annotated[str, typer.Argument(help="A cube, a map or a model's folder.")],
) -> None:
    """Say what is at a path: size, months, bands, place, what is missing.

    Example: `geobiomass info chips.zarr`
    """
    from geobiomass.info import describe

    facts = describe(path)
    width = max(len(name) for name in facts if len(name) < 20)
    for name, text in facts.items():
        typer.echo(f"{name:<{width}}  {text}")


@ingest.command()
def biomassters(
    root: Annotated[Path, typer.Argument(help="Folder with train_features and so on.")],
    out: Annotated[Path, typer.Argument(help="The cube to write, such as chips.zarr.")],
    split: Annotated[Split, typer.Option(help="Which chips.")] = Split.train,
    dtype: Annotated[StoredAs, typer.Option(help="How to store.")] = StoredAs.int16,
    damaged: Annotated[
        Damaged, typer.Option(help="Stop at damaged files, or leave them out.")
    ] = Damaged.stop,
    append: Annotated[
        bool, typer.Option("--append", help="Add to the cube that is there.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite")] = False,
) -> None:
    """Read the BioMassters competition's files into one Zarr cube.

    Interrupted, the same command goes on where it stopped.

    Example: `geobiomass ingest biomassters data/biomassters chips.zarr`
    """
    from geobiomass.cube import write_cube
    from geobiomass.sources.biomassters import from_biomassters

    cube = from_biomassters(root, split.value, damaged=damaged.value)
    write_cube(
        cube, out, dtype.value, append=append, overwrite=overwrite, progress=True
    )
    typer.echo(f"{out}: {cube.sizes['chip']} chips")


@app.command()
def train(
    cube: Annotated[Path, typer.Argument(help="A Zarr cube with agb.")],
    model: Annotated[Path, typer.Argument(help="Folder to save the model in.")],
    recipe: Annotated[str, typer.Option(help="default, quick or biomassters.")] = (
        "default"
    ),
    validation: Annotated[
        str | None, typer.Option(help="A fraction, or another cube's path.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the data.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of all that is random.")] = None,
    folds: Annotated[
        int | None,
        typer.Option(help="So many models, each with another part held out, as one."),
    ] = None,
    devices: Annotated[
        str | None, typer.Option(help="How many GPUs, or auto for all.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="Any other setting, name=value; repeatable."),
    ] = None,
) -> None:
    """Train a model on a cube and save it.

    Says first what will be done and about how long it takes. Checkpoints are kept
    beside the model, in MODEL.checkpoints: interrupted, by Ctrl-C or the SIGTERM of a
    scheduler, the same command goes on where it stopped.

    Example: `geobiomass train chips.zarr model/ --recipe quick --set crop=96`
    """
    from geobiomass.cube import open_cube
    from geobiomass.fitting import fit

    given: dict[str, Any] = {"epochs": epochs, "seed": seed, "folds": folds}
    if devices is not None:
        given["devices"] = int(devices) if devices.isdecimal() else devices
    changes = {name: value for name, value in given.items() if value is not None}
    changes |= dict(parse_setting(text) for text in settings or [])
    changes.setdefault("folder", f"{model.resolve()}.checkpoints")
    fitted: Any = fit(
        open_cube(cube),
        recipe,
        validation=_validation(validation),
        announce=typer.echo,
        **changes,
    )
    if int(os.environ.get("LOCAL_RANK", "0")) == 0:  # of several processes the first
        fitted.save(model)
        typer.echo(f"{model}: {fitted!r}")
        for member in fitted.models if folds else [fitted]:
            typer.echo(member.history.tail(1).to_string(index=False))
            for problem in member.damaged.values():
                typer.echo(f"left out: {problem}")


def _validation(text: str | None) -> Any:
    from geobiomass.cube import open_cube

    if text is None:
        return None
    try:
        return float(text)
    except ValueError:
        return open_cube(text)


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


Tile = Annotated[int, typer.Option(help="Side of a tile, pixels.")]
Overlap = Annotated[int, typer.Option(help="Shared by tiles, pixels.")]
BlockSide = Annotated[int, typer.Option(help="Unit of work, pixels.")]
Flips = Annotated[bool, typer.Option("--flips", help="Average over flips.")]
Turns = Annotated[bool, typer.Option("--turns", help="Average over quarter turns.")]
Precise = Annotated[Numbers, typer.Option(help="auto: bf16 where the machine has it.")]
Where = Annotated[
    Path | None, typer.Option("--region", help="GeoJSON file: map only there.")
]


@app.command()
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
    overviews: Annotated[
        bool, typer.Option("--overviews", help="Smaller maps beside, in Zarr.")
    ] = False,
    scheduler: Annotated[
        str | None, typer.Option(help="Address of a dask cluster, tcp://...")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite")] = False,
) -> None:
    """Map a cube to Zarr or a cloud-optimised GeoTIFF.

    Interrupted, the same command goes on where it stopped.

    Example: `geobiomass predict model/ scene.zarr map.tif --flips`

    With `--format biomassters` the map is a folder with a GeoTIFF for each chip, as
    the competition takes them.
    """
    from geobiomass.cube import open_cube

    predictor, images = _predictor(model, ensemble), open_cube(cube)
    settings: dict[str, Any] = {
        "tile": tile,
        "overlap": overlap,
        "flips": flips,
        "turns": turns,
        "blend": blend.value,
        "precision": precision.value,
        "overwrite": overwrite,
    }
    with _client(scheduler) as client:
        if form is Form.biomassters:
            if region is not None or overviews:
                raise ValueError(
                    "--region and --overviews are for maps of scenes; leave them out "
                    "with --format biomassters."
                )
            predictor.predict_chips_to(out, images, client=client, **settings)
        else:
            predictor.predict_to(
                out,
                images,
                block=block,
                region=_region(region),
                overviews=overviews,
                client=client,
                **settings,
            )
    typer.echo(f"{out}: done")


def _predictor(model: Path, more: list[Path] | None) -> Predictor:
    from geobiomass.predictor import Ensemble
    from geobiomass.regressor import load

    return (
        Ensemble([load(folder) for folder in (model, *more)]) if more else load(model)
    )


@app.command()
def export(
    model: Annotated[Path, typer.Argument(help="A model's folder.")],
    out: Annotated[Path, typer.Argument(help="The file: .pt2 or .onnx.")],
    months: Annotated[
        int | None, typer.Option(help="Of the images; else the model's.")
    ] = None,
    height: Annotated[int, typer.Option(help="Of the images, pixels.")] = 256,
    width: Annotated[int, typer.Option(help="Of the images, pixels.")] = 256,
) -> None:
    """Write a model as a graph that runs without this package: torch.export or ONNX.

    Example: `geobiomass export model/ model.onnx`
    """
    from geobiomass.regressor import load

    predictor = load(model)
    predictor.export(out, months=months, height=height, width=width)
    size = (months or predictor.months, len(predictor.bands), height, width)
    shape = ", ".join(map(str, size))
    typer.echo(f"{out}: takes (batch, month, band, y, x) = (any, {shape})")


def _region(path: Path | None) -> Any:
    return json.loads(path.read_text()) if path is not None else None


def _client(address: str | None) -> AbstractContextManager[Any]:
    if address is None:
        return nullcontext()
    from distributed import Client

    return cast("AbstractContextManager[Any]", Client(address))


@app.command()
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
) -> None:
    """Say what a map would take: blocks, bytes, memory, hours.

    Runs a few tiles on this machine to find out; writes nothing.

    Example: `geobiomass plan scene.zarr --model model/ --workers 8`
    """
    from geobiomass.cube import open_cube
    from geobiomass.fitting import untrained
    from geobiomass.regressor import load

    scene = open_cube(cube)
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
    typer.echo(plan)


@app.command()
def evaluate(
    model: Annotated[Path, typer.Argument(help="A model's folder.")],
    cube: Annotated[Path, typer.Argument(help="A Zarr cube with agb.")],
    csv: Annotated[
        Path | None, typer.Option(help="Write the table here as well.")
    ] = None,
    flips: Annotated[bool, typer.Option("--flips", help="Average over flips.")] = False,
) -> None:
    """Compare a model's map with the labels, overall and by biomass bin, in Mg/ha.

    Example: `geobiomass evaluate model/ chips.zarr --csv metrics.csv`
    """
    from geobiomass.cube import open_cube
    from geobiomass.regressor import load

    table = load(model).evaluate(open_cube(cube), flips=flips)
    typer.echo(table.round(2).to_string())
    if csv is not None:
        table.to_csv(csv)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for the map.")] = Path("demo"),
    seed: Annotated[int, typer.Option(help="Of landscape and training.")] = 0,
) -> None:
    """Make a landscape, train on one part, map the other, compare and draw.

    Example: `geobiomass demo --out demo`
    """
    from geobiomass.demo import run as run_demo

    run_demo(out, seed=seed)


def main() -> NoReturn:
    """Run the command line."""
    run(app, "geobiomass")
