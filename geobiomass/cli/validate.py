"""``geobiomass validate``: cross-validation."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from geobiomass.cli.checks import check_recipe, check_rows, open_labelled
from geobiomass.cli.output import (
    AsJson,
    TableFile,
    answer,
    check_table_file,
    say,
    table_of,
    write_table,
)
from geobiomass.cli.train import (
    BY,
    Devices,
    Epochs,
    FoldBlock,
    FoldBuffer,
    FoldsBy,
    RecipeName,
    Seed,
    Settings,
    changes_of,
    folds_of,
    in_short,
    is_first_process,
)

if TYPE_CHECKING:
    from geobiomass.validation.cross_validation import CrossValidation

ROWS = ("fold", *BY)


def validate(
    cube: Annotated[str, typer.Argument(help="A Zarr cube with agb, also s3://...")],
    folder: Annotated[Path, typer.Option(help="Folder of models, map and errors.")],
    folds: Annotated[
        int, typer.Option(help="Number of models, each with a part held out.")
    ] = 5,
    folds_by: FoldsBy = None,
    block: FoldBlock = None,
    buffer: FoldBuffer = None,
    recipe: RecipeName = "default",
    epochs: Epochs = None,
    seed: Seed = None,
    interval: Annotated[
        float | None,
        typer.Option(help="Coverage of intervals to map and check, such as 0.9."),
    ] = None,
    devices: Devices = None,
    settings: Settings = None,
    by: Annotated[
        str,
        typer.Option(
            help="Rows: fold, biomass (observed), predicted, or months with any value.",
            autocompletion=lambda: ROWS,
        ),
    ] = "fold",
    confidence: Annotated[
        float,
        typer.Option(help="Confidence of the intervals, over the held-out groups."),
    ] = 0.95,
    csv: TableFile = None,
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite", help="Start from the beginning, and replace FOLDER."
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Cross-validate: each pixel is predicted by a model that was not trained on it.

    Prints errors, overall and by fold, in Mg/ha. FOLDER then contains the ensemble of
    the models (model/), the map of the held-out predictions (predictions.zarr) and its
    errors (residuals.csv), for --validation of report, --residuals of totals and
    --errors of change. After an interruption the same command continues.

    Example: `geobiomass validate scene.zarr --folder held-out/ --block 64 --buffer 8`
    """
    from geobiomass.validation.folder import (
        CHECKPOINTS,
        check_validation_folder,
        write_beginning,
    )

    check_rows(by, ROWS, confidence)
    check_table_file(csv)
    check_validation_folder(folder)
    changes: dict[str, Any] = {"folder": str(folder.resolve() / CHECKPOINTS)}
    changes |= {"resume": False} if overwrite else {}
    changes |= changes_of(
        settings, devices, epochs=epochs, seed=seed, interval=interval
    )
    chosen = check_recipe(recipe, changes)
    data = open_labelled(cube)
    split = folds_of(data, folds, folds_by, block, buffer, seed)
    # Only now, as it imports PyTorch.
    from geobiomass.validation.cross_validation import CrossValidation, cross_validate

    def announce(plan: object) -> None:
        say(plan, err=as_json)
        if is_first_process():  # the folder stays as it was if anything is refused
            write_beginning(folder, _beginning(cube, split), overwrite)

    found = cross_validate(data, chosen, split, announce=announce)
    if not is_first_process():
        return
    found.save(folder, cube=cube, progress=not as_json, overwrite=overwrite)
    stored = CrossValidation.load(folder)  # it reads the map, and does not compute it
    table = stored.evaluate(by, confidence=confidence)
    write_table(table, csv, "table of errors", "pixel_rmse")
    advice = _advice_on_blocks(stored)
    text = f"{folder}: {stored.folds!r}\n{in_short(table)}"
    facts = {
        "folder": str(folder),
        "metrics": table_of(table),
        "folds": table_of(stored.folds.table),
        "advice": advice,
    }
    answer(text if advice is None else f"{text}\n{advice}", facts, as_json)


def _beginning(cube: str, split: Any) -> dict[str, Any]:
    """Return the command and its data, which `info` shows of an unfinished folder."""
    from geobiomass.data.folds import folds_in_words
    from geobiomass.validation.folder import cube_address

    counted = isinstance(split, int)
    # The command that continues must not delete the folder again.
    words = [word for word in sys.argv[1:] if word != "--overwrite"]
    return {
        "cube": cube_address(cube),
        "count": split if counted else split.count,
        "held_out": f"{split} folds" if counted else folds_in_words(vars(split)),
        "command": shlex.join(["geobiomass", *words]),
        "directory": str(Path.cwd()),
    }


def _advice_on_blocks(found: CrossValidation) -> str | None:
    """Return whether blocks were large enough, or why it is not known."""
    if "chip" in found.cube.dims:
        return None
    try:
        return found.advice
    except ValueError as error:  # too few labels for a variogram; the scores are valid
        return f"how large blocks must be is not known: {error}"
