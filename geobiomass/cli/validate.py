"""``geobiomass validate``: errors on ground that no model has seen."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from geobiomass.cli.output import AsJson, answer, table_of
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
    TableFile,
    changes_of,
    folds_of,
    in_short,
    is_first_process,
)

if TYPE_CHECKING:
    from geobiomass.validation.cross_validation import CrossValidation

ROWS = ("fold", *BY)


def validate(
    cube: Annotated[str, typer.Argument(help="A Zarr cube with agb; s3://... too.")],
    folder: Annotated[Path, typer.Option(help="Where all of it is kept.")],
    folds: Annotated[int, typer.Option(help="Models, each with a part held out.")] = 5,
    folds_by: FoldsBy = None,
    block: FoldBlock = None,
    buffer: FoldBuffer = None,
    recipe: RecipeName = "default",
    epochs: Epochs = None,
    seed: Seed = None,
    interval: Annotated[
        float | None,
        typer.Option(help="Such as 0.9: intervals too, and whether they hold."),
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
        float, typer.Option(help="Of the intervals, over what is held out together.")
    ] = 0.95,
    csv: TableFile = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Begin anew, whatever FOLDER holds.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Cross-validate: every place is mapped by a model that did not see it.

    Prints errors, overall and by fold, in Mg/ha. FOLDER then holds the models as one
    (model/), the map that none of them knew (predictions.zarr) and its errors
    (residuals.csv), for --validation of report, --residuals of totals and --errors of
    change. Interrupted, the same command goes on where it stopped.

    Example: `geobiomass validate scene.zarr --folder held-out/ --block 64 --buffer 8`
    """
    from geobiomass.cube import open_cube
    from geobiomass.evaluation.metrics import check_confidence
    from geobiomass.validation.cross_validation import CrossValidation, cross_validate
    from geobiomass.validation.folder import CHECKPOINTS, check_place, write_beginning

    if by not in ROWS:
        raise ValueError(f"--by must be one of {ROWS}, got {by!r}.")
    check_confidence(confidence)
    check_place(folder)
    data = open_cube(cube)
    changes: dict[str, Any] = {"folder": str(folder.resolve() / CHECKPOINTS)}
    changes |= {"resume": False} if overwrite else {}
    changes |= changes_of(
        settings, devices, epochs=epochs, seed=seed, interval=interval
    )
    split = folds_of(data, folds, folds_by, block, buffer, seed)

    def announce(plan: object) -> None:
        typer.echo(plan, err=as_json)
        if is_first_process():  # what is refused has not come so far
            write_beginning(folder, _beginning(cube, split), overwrite)

    found = cross_validate(data, recipe, split, announce=announce, **changes)
    if not is_first_process():
        return
    found.save(folder, cube=cube, progress=not as_json, overwrite=overwrite)
    stored = CrossValidation.load(folder)  # its map is made, not to be made again
    table = stored.evaluate(by, confidence=confidence)
    if csv is not None:
        table.to_csv(csv)
    said = _size_of_blocks(stored)
    text = f"{folder}: {stored.folds!r}\n{in_short(table)}"
    facts = {
        "folder": str(folder),
        "metrics": table_of(table),
        "folds": table_of(stored.folds.table),
        "advice": said,
    }
    answer(text if said is None else f"{text}\n{said}", facts, as_json)


def _beginning(cube: str, split: Any) -> dict[str, Any]:
    """Say what was asked for, so that who finds the folder can go on."""
    from geobiomass.data.folds import folds_in_words
    from geobiomass.validation.folder import place_of

    counted = isinstance(split, int)
    # Going on, what is there must not be thrown away again.
    words = [word for word in sys.argv[1:] if word != "--overwrite"]
    return {
        "cube": place_of(cube),
        "count": split if counted else split.count,
        "held_out": f"{split} folds" if counted else folds_in_words(vars(split)),
        "command": shlex.join(["geobiomass", *words]),
        "directory": str(Path.cwd()),
    }


def _size_of_blocks(found: CrossValidation) -> str | None:
    """Say whether blocks were large enough, or why that cannot be told."""
    if "chip" in found.cube.dims:
        return None
    try:
        return found.advice
    except ValueError as error:  # too few labels for a variogram: scores there are
        return f"how large blocks must be cannot be told: {error}"
