"""``geobiomass train | evaluate | calibrate | export``: models."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast, get_args

import typer

from geobiomass.cli.checks import (
    check_asked,
    check_model,
    check_rows,
    open_for_model,
    open_labelled,
)
from geobiomass.cli.output import (
    AsJson,
    TableFile,
    answer,
    check_table_file,
    say,
    table_of,
    write_table,
)
from geobiomass.inference.map_settings import Check, MapSettings
from geobiomass.training.commands import parse_setting

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

RECIPES = ("default", "quick", "sparse", "pixels", "biomassters")
BY = ("biomass", "predicted", "months")
CHECKS = get_args(Check)

RecipeName = Annotated[
    str,
    typer.Option(
        help="default, quick, sparse (few labels), pixels (trees, in seconds) or "
        "biomassters.",
        autocompletion=lambda: RECIPES,
    ),
]
Epochs = Annotated[int | None, typer.Option(help="Passes over the data.")]
Seed = Annotated[int | None, typer.Option(help="Seed of all random numbers.")]
FoldsBy = Annotated[
    str | None,
    typer.Option(
        help="The group that folds hold out together: block, chip, or the name of a "
        "region in the cube."
    ),
]
FoldBlock = Annotated[
    int | None, typer.Option(help="Side of the blocks that folds hold out, pixels.")
]
FoldBuffer = Annotated[
    int | None,
    typer.Option(
        help="Width of the ring around held-out pixels that is not trained on."
    ),
]
Groups = Annotated[
    str | None,
    typer.Option(
        help="Coordinate of chips, such as region: equal values are one group."
    ),
]
LabelErrors = Annotated[
    bool | None,
    typer.Option(
        help="Labels weigh by their standard errors, or alike; by default as in the "
        "model's recipe."
    ),
]
Devices = Annotated[str | None, typer.Option(help="Number of GPUs, or auto for all.")]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", help="Any other setting, name=value; can be repeated."),
]


def train(
    cube: Annotated[Path, typer.Argument(help="A Zarr cube with agb.")],
    model: Annotated[Path, typer.Argument(help="Folder to save the model in.")],
    recipe: Annotated[
        str | None,
        typer.Option(
            help="default, quick, sparse (few labels), pixels (trees, in seconds) or "
            "biomassters. Without: "
            "few labels compare learners and keep the best, dense ones train default.",
            autocompletion=lambda: ("auto", *RECIPES),
        ),
    ] = None,
    minutes: Annotated[
        float | None,
        typer.Option(help="Time that a comparison may take, without --recipe."),
    ] = None,
    validation: Annotated[
        str | None, typer.Option(help="Fraction to hold out, or path of another cube.")
    ] = None,
    epochs: Epochs = None,
    seed: Seed = None,
    folds: Annotated[
        int | None,
        typer.Option(help="Number of models, each with a different part held out."),
    ] = None,
    folds_by: FoldsBy = None,
    block: FoldBlock = None,
    buffer: FoldBuffer = None,
    interval: Annotated[
        float | None,
        typer.Option(help="Coverage, such as 0.9: adds agb_lower and agb_upper."),
    ] = None,
    devices: Devices = None,
    settings: Settings = None,
    as_json: AsJson = False,
) -> None:
    """Train a model on a cube and save it.

    First prints what is trained and about how long it takes. Without --recipe few
    labels compare learners, and the table of their errors is printed. Checkpoints are
    saved in MODEL.checkpoints. After an interruption, by Ctrl-C or the SIGTERM of a
    scheduler, the same command continues the training.

    Example: `geobiomass train chips.zarr model/ --recipe quick --set crop=96`;
    for plots and footprints: `geobiomass train scene.zarr model/ --recipe pixels`;
    with folds: `geobiomass train scene.zarr model/ --folds 5 --block 64 --buffer 8`
    """
    changes = {"folder": f"{model.resolve()}.checkpoints"} | changes_of(
        settings, devices, epochs=epochs, seed=seed, interval=interval
    )
    asked = check_asked(recipe, minutes, changes)
    data = open_labelled(cube)
    split = folds_of(data, folds, folds_by, block, buffer, seed)
    held_out = _validation(validation, data)
    # Only now, as it imports PyTorch.
    from geobiomass.models.fit import fit

    settings_left = {"minutes": minutes, **changes} if asked is None else {}
    fitted: Any = fit(
        data,
        asked,
        validation=held_out,
        **settings_left,
        folds=split,
        announce=partial(say, err=as_json),
    )
    if is_first_process():
        fitted.save(model)
        members = fitted.models if folds else [fitted]
        lines = [f"{model}: {fitted!r}"]
        if fitted.choice is not None:
            lines.append(fitted.choice.attrs["why"])
        for member in members:
            lines.append(member.history.tail(1).to_string(index=False))
            lines += [f"left out: {problem}" for problem in member.damaged.values()]
        facts = {
            "model": str(model),
            **({} if fitted.choice is None else {"choice": table_of(fitted.choice)}),
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
    """Return the settings of a recipe that a command line changes."""
    changes = {name: value for name, value in given.items() if value is not None}
    if devices is not None:
        changes["devices"] = int(devices) if devices.isdecimal() else devices
    return changes | dict(parse_setting(text) for text in settings or [])


def is_first_process() -> bool:
    """Return whether this is the first of the processes that train together."""
    return int(os.environ.get("LOCAL_RANK", "0")) == 0


def folds_of(
    cube: Any,
    count: int | None,
    by: str | None,
    block: int | None,
    buffer: int | None,
    seed: int | None,
) -> Any:
    """Return folds if an option defines them, else their number."""
    from geobiomass.data.folds import make_folds

    if by is None and block is None and buffer is None:
        return count
    if count is None:
        raise ValueError(
            "--folds-by, --block and --buffer need the number of folds, got none; give "
            "--folds 5."
        )
    return make_folds(cube, count, by, block=block, buffer=buffer or 0, seed=seed or 0)


def _validation(text: str | None, data: xr.Dataset) -> Any:
    """Return a fraction, or another cube with the bands of the data."""
    from geobiomass.cube import select_bands

    if text is None:
        return None
    try:
        return float(text)
    except ValueError:
        other = open_labelled(text)
    select_bands(other, tuple(map(str, data["band"].values)))
    return other


def evaluate(
    model: Annotated[Path, typer.Argument(help="A model's folder.")],
    cube: Annotated[Path, typer.Argument(help="A Zarr cube with agb.")],
    csv: TableFile = None,
    flips: Annotated[
        bool, typer.Option("--flips", help="Average the maps of the flipped images.")
    ] = False,
    by: Annotated[
        str,
        typer.Option(
            help="Rows: biomass (observed), predicted, or months (with any value).",
            autocompletion=lambda: BY,
        ),
    ] = "biomass",
    confidence: Annotated[
        float, typer.Option(help="Confidence of the intervals, over chips or blocks.")
    ] = 0.95,
    groups: Groups = None,
    check: Annotated[
        str,
        typer.Option(
            help="Check of the input against the training data: warn, raise or off.",
            autocompletion=lambda: CHECKS,
        ),
    ] = "warn",
    label_errors: LabelErrors = None,
    as_json: AsJson = False,
) -> None:
    """Compare a model's map with the labels, overall and by bin, in its units.

    Example: `geobiomass evaluate model/ chips.zarr --by months --csv metrics.csv`
    """
    check_rows(by, BY, confidence)
    check_table_file(csv)
    MapSettings(check=cast(Check, check))  # before PyTorch is imported
    data = open_for_model(model, cube, labels=True, groups=groups)
    from geobiomass.models.loading import load

    table = load(model).evaluate(
        data,
        flips=flips,
        by=by,
        confidence=confidence,
        groups=groups,
        check=cast(Check, check),
        label_errors=label_errors,
    )
    write_table(table, csv, "table of errors", "pixel_rmse")
    answer(in_short(table), {"metrics": table_of(table)}, as_json)


def in_short(table: pd.DataFrame) -> str:
    """Return a table of metrics as text, with each interval after its value."""
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
    lines = pd.DataFrame(shown, table.index).to_string()
    units = table.attrs.get("units", "Mg/ha")
    if units != "Mg/ha":
        lines += f"\n\n{table.attrs['target']}: errors in {units}"
    facts = table.attrs.get("label errors", {})
    if facts.get("weighed"):
        lines += (
            "\n\nLabels weigh by their standard errors: they are worth "
            f"{facts['effective labels']:,.0f} labels of equal weight."
        )
    return lines


def calibrate(
    model: Annotated[Path, typer.Argument(help="A model's folder.")],
    cube: Annotated[
        Path, typer.Argument(help="A Zarr cube with agb, not used in training.")
    ],
    out: Annotated[
        Path | None, typer.Option(help="Another folder for the calibrated model.")
    ] = None,
    interval: Annotated[
        float, typer.Option(help="Share of the pixels inside the interval.")
    ] = 0.9,
    unit: Annotated[
        int, typer.Option(help="Side of the blocks of a scene, pixels.")
    ] = 256,
    groups: Groups = None,
    label_errors: LabelErrors = None,
    as_json: AsJson = False,
) -> None:
    """Calibrate the interval of a model's maps, agb_lower and agb_upper, and save it.

    Example: `geobiomass calibrate model/ plots.zarr --interval 0.9`
    """
    from geobiomass.statistics.conformal import check_interval

    check_interval(interval)
    data = open_for_model(model, cube, labels=True, groups=groups)
    from geobiomass.models.loading import load

    predictor = load(model).calibrate(
        data, interval, unit=unit, groups=groups, label_errors=label_errors
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
        int | None, typer.Option(help="Months of the images; by default the model's.")
    ] = None,
    height: Annotated[int, typer.Option(help="Height of the images, pixels.")] = 256,
    width: Annotated[int, typer.Option(help="Width of the images, pixels.")] = 256,
) -> None:
    """Export a model as a graph that runs without this package: torch.export or ONNX.

    Example: `geobiomass export model/ model.onnx`
    """
    check_model(model)
    from geobiomass.models.loading import load

    predictor = load(model)
    predictor.export(out, months=months, height=height, width=width)
    size = (months or predictor.months, len(predictor.bands), height, width)
    shape = ", ".join(map(str, size))
    say(f"{out}: takes (batch, month, band, y, x) = (any, {shape})")
