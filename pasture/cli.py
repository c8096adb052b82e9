"""The command line: ``pasture folds | train | predict | adapt | evaluate | demo``.

It only parses options and calls functions. Bad input ends with one sentence and exit
code 2.
"""

from __future__ import annotations

import os
import warnings
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, cast

import typer

from geobiomass.outside_text import printable
from geobiomass.training.commands import EXIT_CODES, parse_setting, print_version, run
from geobiomass.training.option_names import ExplainingGroup

if TYPE_CHECKING:
    import pandas as pd

    from .ensemble import PastureEnsemble
    from .fitting import Streams
    from .regressor import PastureRegressor

app = typer.Typer(
    cls=ExplainingGroup,
    help="Predict grams of pasture biomass from photos.",
    epilog=EXIT_CODES,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)


def _say(text: object, err: bool = False) -> None:
    """Print a text; control characters, as in names of photos, are written out."""
    typer.echo(printable(text), err=err)


def _version(wanted: bool) -> None:
    if wanted:
        print_version("pasture")


@app.callback()
def options(
    show_version: Annotated[
        bool,
        typer.Option(
            "--version",
            callback=_version,
            is_eager=True,
            help="Print the version, and exit.",
        ),
    ] = False,
) -> None:
    """Read the options of all commands."""


class Layout(StrEnum):
    """Layouts of a CSV file of predictions."""

    submission = "submission"
    wide = "wide"


Root = Annotated[
    Path, typer.Option(help="Folder that relative paths of photos start from.")
]
Table = Annotated[
    Path, typer.Argument(help="Table of photos with grams: CSV or Excel (.xlsx).")
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        help="Any other setting of the recipe, as name=value; repeatable. An unknown "
        "name lists the near ones.",
    ),
]


@app.command()
def folds(
    table: Table,
    out: Annotated[Path, typer.Argument(help="CSV file to write: photo, fold, group.")],
    root: Root = Path("."),
    count: Annotated[int, typer.Option("--folds", help="Number of folds.")] = 5,
    seeds: Annotated[
        int, typer.Option(help="Number of candidates to search.")
    ] = 10_000_000,
    virtual: Annotated[
        bool, typer.Option(help="Split the dates of WA into seven virtual dates.")
    ] = True,
) -> None:
    """Split photos into folds of whole sampling dates, balanced by state and grams.

    Example: `pasture folds train.csv folds.csv`
    """
    from geobiomass.tables import write_csv
    from geobiomass.training.files import check_writable

    from .folds import balanced_folds, fold_balance, sampling_groups
    from .photos import read_photos

    check_writable(out)
    photos = read_photos(table, root)
    cut: dict[str, int] | None = None if virtual else {}
    groups = sampling_groups(photos, cut)
    with warnings.catch_warnings(record=True) as noted:
        warnings.simplefilter("always")
        found = balanced_folds(photos, count, seeds, virtual=cut)
    for note in noted:
        # The option of this command for what the warning calls virtual={}.
        option = " (here: --no-virtual)" if "virtual" in str(note.message) else ""
        _say(f"Warning: {note.message}{option}", err=True)
    written = found.to_frame().assign(group=groups)
    write_csv(written, out, "table of folds", index_label="photo")
    _say(fold_balance(photos, found, groups).round(3).to_string())
    _say(f"{out}: {len(photos)} photos in {count} folds")


@app.command()
def train(
    table: Table,
    model: Annotated[Path, typer.Argument(help="Folder to save the model in.")],
    root: Root = Path("."),
    recipe: Annotated[
        str | None,
        typer.Option(
            help="Training configuration: seed or public, which need weights of the "
            "backbone (--set pretrained=true, or a file), or quick. By default quick "
            "without weights, seed with them."
        ),
    ] = None,
    stream: Annotated[
        str | None,
        typer.Option(help="single: whole photos; dual: their halves; both: one each."),
    ] = None,
    folds: Annotated[
        str | None,
        typer.Option(
            help="Number of models per stream, or a CSV file of the command folds."
        ),
    ] = None,
    validation: Annotated[
        str | None,
        typer.Option(help="Fraction of the dates for validation, or another CSV file."),
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the photos.")] = None,
    seed: Annotated[int | None, typer.Option(help="Random seed.")] = None,
    targets: Annotated[
        str | None, typer.Option(help="Columns to predict, separated by commas.")
    ] = None,
    settings: Settings = None,
) -> None:
    """Train a model on photos and save it.

    Checkpoints are written to the folder MODEL.checkpoints. If training is
    interrupted, the same command resumes it at the last checkpoint.

    Example: `pasture train train.csv model/ --stream both --folds folds.csv`
    """
    from .ensemble import PastureEnsemble
    from .fitting import fit
    from .photos import read_photos

    given: dict[str, Any] = {"epochs": epochs, "seed": seed}
    changes = {name: value for name, value in given.items() if value is not None}
    names = None if targets is None else tuple(targets.split(","))
    if names is not None:
        changes["targets"] = names
    changes |= dict(parse_setting(text) for text in settings or [])
    changes.setdefault("folder", f"{model.resolve()}.checkpoints")
    photos = read_photos(table, root, names)
    if recipe is None:
        recipe = "seed" if changes.get("pretrained") else "quick"
        _say(f"recipe: {recipe} (choose with --recipe)", err=True)
    parts, groups = (None, None) if folds is None else _folds(folds, photos)
    fitted = fit(
        photos,
        recipe,
        cast("Streams | None", stream),
        _validation(validation, root, names),
        folds=parts,
        groups=groups,
        **changes,
    )
    if int(os.environ.get("LOCAL_RANK", "0")) == 0:  # one of several processes writes
        fitted.save(model)
        _say(f"{model}: {fitted!r}")
        if isinstance(fitted, PastureEnsemble):
            _say(fitted.scores.round(3).to_string())
        else:
            _say(fitted.history.tail(1).to_string(index=False))


def _folds(text: str, photos: pd.DataFrame) -> tuple[Any, pd.Series | None]:
    """Return a number of folds, or the folds and groups in a file."""
    import pandas as pd

    from .loader import PhotoError

    if text.isdecimal():
        return int(text), None
    read = pd.read_csv(text, dtype={"photo": str, "group": str})
    if not {"photo", "fold"} <= set(read):
        raise PhotoError(
            f"{text} must have the columns photo and fold, got "
            f"{', '.join(map(str, read))}; make it with pasture folds"
        )
    table = read.set_index("photo")
    return table["fold"], table.get("group")


def _validation(text: str | None, root: Path, targets: tuple[str, ...] | None) -> Any:
    from .photos import read_photos

    if text is None:
        return None
    try:
        return float(text)
    except ValueError:
        return read_photos(text, root, targets)


@app.command()
def predict(
    model: Annotated[Path, typer.Argument(help="Folder of a saved model.")],
    table: Annotated[
        Path, typer.Argument(help="Folder of photos, one photo, or a table of photos.")
    ],
    out: Annotated[Path, typer.Argument(help="CSV file to write.")],
    root: Root = Path("."),
    layout: Annotated[
        Layout | None,
        typer.Option(
            "--format",
            help="submission: a row per photo and target; wide: a row per photo. By "
            "default as the table is; wide for a folder.",
        ),
    ] = None,
    blend: Annotated[
        float | None,
        typer.Option(help="Share of the single stream, or of the adapted network."),
    ] = None,
    flips: Annotated[
        bool, typer.Option(help="Also predict mirror images, and average.")
    ] = True,
) -> None:
    """Predict photos, in grams or the unit that the model was trained on.

    A table with a row per photo and target, as the competition's, gives such a table.

    Example: `pasture predict model/ photos/ predicted.csv`
    """
    from geobiomass.training.files import check_writable

    from .loading import load
    from .photos import TARGETS, read_photos, write_predictions, write_submission

    check_writable(out)
    loaded = load(model)
    own = None if loaded.targets == TARGETS else loaded.targets
    photos = read_photos(table, root, own)
    grams = loaded.predict(photos, flips, blend)
    if layout is None:
        layout = Layout("submission" if "layout" in photos.attrs else "wide")
    (write_submission if layout == "submission" else write_predictions)(grams, out)
    _say(f"{out}: {len(photos)} photos")


@app.command()
def adapt(
    model: Annotated[Path, typer.Argument(help="Folder of a saved model.")],
    train: Table,
    test: Annotated[Path, typer.Argument(help="CSV file of the photos to adapt to.")],
    out: Annotated[Path, typer.Argument(help="Folder to save the adapted model in.")],
    root: Root = Path("."),
    clover: Annotated[
        float, typer.Option(help="Factor for predicted clover in pseudo-labels.")
    ] = 0.8,
    threshold: Annotated[
        float, typer.Option(help="Predictions below this many grams become 0.")
    ] = 0.2,
    epochs: Annotated[int, typer.Option(help="Passes over all photos.")] = 12,
    last: Annotated[
        int, typer.Option(help="Number of final epochs whose weights are averaged.")
    ] = 4,
    blend: Annotated[float, typer.Option(help="Share of the adapted network.")] = 0.8,
    settings: Settings = None,
) -> None:
    """Adapt a model to photos without measurements (test-time training).

    If it is interrupted, the same command resumes it at the last checkpoint.

    Example: `pasture adapt model/ train.csv test.csv adapted/`
    """
    from .adaptation import adapt as adapt_model
    from .loading import load
    from .photos import read_photos

    changes = dict(parse_setting(text) for text in settings or [])
    changes.setdefault("folder", f"{out.resolve()}.checkpoints")
    adapted = adapt_model(
        cast("PastureRegressor | PastureEnsemble", load(model)),
        read_photos(train, root),
        read_photos(test, root),
        clover=clover,
        threshold=threshold,
        epochs=epochs,
        last=last,
        blend=blend,
        **changes,
    )
    if int(os.environ.get("LOCAL_RANK", "0")) == 0:
        adapted.save(out)
        _say(f"{out}: {adapted!r}")
        _say(adapted.report().round(2).to_string())


@app.command()
def evaluate(
    model: Annotated[Path, typer.Argument(help="Folder of a saved model.")],
    table: Table,
    root: Root = Path("."),
) -> None:
    """Compare predictions with measurements of photos not used for training.

    Example: `pasture evaluate model/ held-out.csv`
    """
    from .loading import load
    from .photos import read_photos

    loaded = load(model)
    photos = read_photos(table, root, loaded.targets)
    _say(loaded.evaluate(photos).round(3).to_string(na_rep=""))


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path(
        "pasture-demo"
    ),
    seed: Annotated[int, typer.Option(help="Random seed of photos and training.")] = 0,
    settings: Settings = None,
) -> None:
    """Draw photos of known mass, train on them, and show what each step gains.

    It takes a quarter of an hour on two cores and writes scatter.png, photos.png,
    scores.csv, a model and a submission. If it is interrupted, the same command
    resumes it.

    Example: `pasture demo --out pasture-demo`
    """
    from .demo import run as run_demo

    run_demo(out, seed, **dict(parse_setting(text) for text in settings or []))


def main() -> NoReturn:
    """Run the command line and exit."""
    run(app, "pasture", printable)
