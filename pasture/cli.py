"""The command line: ``pasture train | predict``.

Only parses and calls. Bad input ends with one sentence and exit code 2.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from geobiomass.training.commands import parse_setting, run

app = typer.Typer(
    help="Grams of grass from photos of pasture.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode="markdown",
)

Root = Annotated[Path, typer.Option(help="Folder that paths of photos start from.")]


@app.command()
def train(
    table: Annotated[Path, typer.Argument(help="CSV of photos with grams.")],
    model: Annotated[Path, typer.Argument(help="Folder to save the model in.")],
    root: Root = Path("."),
    recipe: Annotated[str, typer.Option(help="seed, public or quick.")] = "seed",
    stream: Annotated[
        str | None, typer.Option(help="single: whole photos; dual: halves.")
    ] = None,
    validation: Annotated[
        str | None, typer.Option(help="A fraction of the dates, or another table.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the photos.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of all that is random.")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="Any other setting, name=value; repeatable."),
    ] = None,
) -> None:
    """Train a model on photos and save it.

    Checkpoints are kept beside the model, in MODEL.checkpoints: interrupted, the
    same command goes on where it stopped.

    Example: `pasture train train.csv model/ --recipe quick --stream dual`
    """
    from .photos import read_photos
    from .regressor import fit

    given: dict[str, Any] = {"epochs": epochs, "seed": seed, "stream": stream}
    changes = {name: value for name, value in given.items() if value is not None}
    changes |= dict(parse_setting(text) for text in settings or [])
    changes.setdefault("folder", f"{model.resolve()}.checkpoints")
    held = _validation(validation, root)
    fitted = fit(read_photos(table, root), recipe, validation=held, **changes)
    if int(os.environ.get("LOCAL_RANK", "0")) == 0:  # of several processes the first
        fitted.save(model)
        typer.echo(f"{model}: {fitted!r}")
        typer.echo(fitted.history.tail(1).to_string(index=False))


def _validation(text: str | None, root: Path) -> Any:
    from .photos import read_photos

    if text is None:
        return None
    try:
        return float(text)
    except ValueError:
        return read_photos(text, root)


@app.command()
def predict(
    model: Annotated[Path, typer.Argument(help="A model's folder.")],
    table: Annotated[Path, typer.Argument(help="CSV of photos.")],
    out: Annotated[Path, typer.Argument(help="CSV to write: sample_id, target.")],
    root: Root = Path("."),
) -> None:
    """Predict the grams of photos, as the competition's submission.

    Example: `pasture predict model/ test.csv submission.csv`
    """
    from .photos import read_photos, write_submission
    from .regressor import load

    photos = read_photos(table, root)
    write_submission(load(model).predict(photos), out)
    typer.echo(f"{out}: {len(photos)} photos")


def main() -> NoReturn:
    """Run the command line."""
    run(app, "pasture")
