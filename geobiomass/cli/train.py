"""``geobiomass train | evaluate | export``: models."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from geobiomass.cli.output import AsJson, answer, table_of
from geobiomass.training.commands import parse_setting

if TYPE_CHECKING:
    import pandas as pd

RECIPES = ("default", "quick", "biomassters")
BY = ("biomass", "predicted", "months")

RecipeName = Annotated[
    str,
    typer.Option(help="default, quick or biomassters.", autocompletion=lambda: RECIPES),
]
Epochs = Annotated[int | None, typer.Option(help="Passes over the data.")]
Seed = Annotated[int | None, typer.Option(help="Of all that is random.")]
FoldsBy = Annotated[
    str | None,
    typer.Option(
        help="What folds hold out together: block, chip, or the name of a region "
        "in the cube."
    ),
]
FoldBlock = Annotated[
    int | None, typer.Option(help="Side of the blocks of folds, pixels.")
]
FoldBuffer = Annotated[
    int | None,
    typer.Option(help="Pixels around what is held out that do not train."),
]
TableFile = Annotated[Path | None, typer.Option(help="Write the table here as well.")]
Groups = Annotated[
    str | None, typer.Option(help="Coordinate whose chips count as one: region.")
]
Devices = Annotated[str | None, typer.Option(help="How many GPUs, or auto for all.")]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", help="Any other setting, name=value; repeatable."),
]


def train(
    cube: Annotated[Path, typer.Argument(help="A Zarr cube with agb.")],
    model: Annotated[Path, typer.Argument(help="Folder to save the model in.")],
    recipe: RecipeName = "default",
    validation: Annotated[
        str | None, typer.Option(help="A fraction, or another cube's path.")
    ] = None,
    epochs: Epochs = None,
    seed: Seed = None,
    folds: Annotated[
        int | None,
        typer.Option(help="So many models, each with another part held out, as one."),
    ] = None,
    folds_by: FoldsBy = None,
    block: FoldBlock = None,
    buffer: FoldBuffer = None,
    interval: Annotated[
        float | None,
        typer.Option(help="Such as 0.9: maps have agb_lower and agb_upper as well."),
    ] = None,
    devices: Devices = None,
    settings: Settings = None,
    as_json: AsJson = False,
) -> None:
    """Train a model on a cube and save it.

    Says first what will be done and about how long it takes. Checkpoints are kept
    beside the model, in MODEL.checkpoints: interrupted, by Ctrl-C or the SIGTERM of a
    scheduler, the same command goes on where it stopped.

    Example: `geobiomass train chips.zarr model/ --recipe quick --set crop=96`;
    with folds: `geobiomass train scene.zarr model/ --folds 5 --block 64 --buffer 8`
    """
    from geobiomass.cube import open_cube
    from geobiomass.models.fit import fit

    data = open_cube(cube)
    changes = {"folder": f"{model.resolve()}.checkpoints"} | changes_of(
        settings, devices, epochs=epochs, seed=seed, interval=interval
    )
    split = folds_of(data, folds, folds_by, block, buffer, seed)
    fitted: Any = fit(
        data,
        recipe,
        validation=_validation(validation),
        folds=split,
        announce=partial(typer.echo, err=as_json),
        **changes,
    )
    if is_first_process():
        fitted.save(model)
        members = fitted.models if folds else [fitted]
        lines = [f"{model}: {fitted!r}"]
        for member in members:
            lines.append(member.history.tail(1).to_string(index=False))
            lines += [f"left out: {problem}" for problem in member.damaged.values()]
        facts = {
            "model": str(model),
            "models": [
                {
                    "epochs": table_of(member.history.reset_index(drop=True)),
                    "left_out": list(member.damaged.values()),
                }
                for member in members
            ],
        }
        answer("\n".join(lines), facts, as_json)


def changes_of(
    settings: list[str] | None, devices: str | None, **given: Any
) -> dict[str, Any]:
    """Give what a command line changes of a recipe, by name."""
    changes = {name: value for name, value in given.items() if value is not None}
    if devices is not None:
        changes["devices"] = int(devices) if devices.isdecimal() else devices
    return changes | dict(parse_setting(text) for text in settings or [])


def is_first_process() -> bool:
    """Tell whether this is the first of the processes that train together."""
    return int(os.environ.get("LOCAL_RANK", "0")) == 0


def folds_of(
    cube: Any,
    count: int | None,
    by: str | None,
    block: int | None,
    buffer: int | None,
    seed: int | None,
) -> Any:
    """Give folds where the command says what they hold out, else their number."""
    from geobiomass.data.folds import make_folds

    if by is None and block is None and buffer is None:
        return count
    if count is None:
        raise ValueError(
            "--folds-by, --block and --buffer say what folds hold out; give --folds 5."
        )
    return make_folds(cube, count, by, block=block, buffer=buffer or 0, seed=seed or 0)


def _validation(text: str | None) -> Any:
    from geobiomass.cube import open_cube

    if text is None:
        return None
    try:
        return float(text)
    except ValueError:
        return open_cube(text)


def evaluate(
    model: Annotated[Path, typer.Argument(help="A model's folder.")],
    cube: Annotated[Path, typer.Argument(help="A Zarr cube with agb.")],
    csv: TableFile = None,
    flips: Annotated[bool, typer.Option("--flips", help="Average over flips.")] = False,
    by: Annotated[
        str,
        typer.Option(
            help="Rows: biomass (observed), predicted or months (with any value).",
            autocompletion=lambda: BY,
        ),
    ] = "biomass",
    confidence: Annotated[
        float, typer.Option(help="Of the intervals, over chips or blocks.")
    ] = 0.95,
    groups: Groups = None,
    as_json: AsJson = False,
) -> None:
    """Compare a model's map with the labels, overall and by bin, in Mg/ha.

    Example: `geobiomass evaluate model/ chips.zarr --by months --csv metrics.csv`
    """
    from geobiomass.cube import open_cube
    from geobiomass.models.loading import load

    table = load(model).evaluate(
        open_cube(cube), flips=flips, by=by, confidence=confidence, groups=groups
    )
    if csv is not None:
        table.to_csv(csv)
    answer(in_short(table), {"metrics": table_of(table)}, as_json)


def in_short(table: pd.DataFrame) -> str:
    """Give a table of metrics as text, each interval beside its value."""
    import pandas as pd

    shown = {}
    for name, values in table.items():
        if str(name).endswith(("_lower", "_upper")):
            continue
        text = [
            f"{value:,}" if values.dtype.kind == "i" else f"{value:.2f}"
            for value in values
        ]
        if f"{name}_lower" in table:
            ends = zip(table[f"{name}_lower"], table[f"{name}_upper"], strict=True)
            text = [
                f"{value} ({low:.2f} to {high:.2f})" if low <= high else value
                for value, (low, high) in zip(text, ends, strict=True)
            ]
        shown[name] = [value.replace("nan", "-") for value in text]
    return pd.DataFrame(shown, table.index).to_string()


def calibrate(
    model: Annotated[Path, typer.Argument(help="A model's folder.")],
    cube: Annotated[Path, typer.Argument(help="A Zarr cube with agb, never learnt.")],
    out: Annotated[
        Path | None, typer.Option(help="Another folder to save it in.")
    ] = None,
    interval: Annotated[
        float, typer.Option(help="Part of the pixels that it shall hold.")
    ] = 0.9,
    unit: Annotated[
        int, typer.Option(help="Side of the blocks of a scene, pixels.")
    ] = 256,
    groups: Groups = None,
    as_json: AsJson = False,
) -> None:
    """Give a model's maps an interval, agb_lower and agb_upper, and save it.

    Example: `geobiomass calibrate model/ plots.zarr --interval 0.9`
    """
    from geobiomass.cube import open_cube
    from geobiomass.models.loading import load

    predictor = load(model).calibrate(
        open_cube(cube), interval, unit=unit, groups=groups
    )
    predictor.save(out or model)
    calibration = predictor.calibration
    facts = {"model": str(out or model), "calibration": calibration.to_dict()}
    text = f"{out or model}: {calibration}\n{calibration.table.round(2).to_string()}"
    answer(text, facts, as_json)


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
    from geobiomass.models.loading import load

    predictor = load(model)
    predictor.export(out, months=months, height=height, width=width)
    size = (months or predictor.months, len(predictor.bands), height, width)
    shape = ", ".join(map(str, size))
    typer.echo(f"{out}: takes (batch, month, band, y, x) = (any, {shape})")
