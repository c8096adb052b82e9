"""The demonstration: drawn photos of known mass, and the gain of each recipe step.

It trains on photos of some sampling dates and evaluates on photos of other dates, which
are used for nothing else.
"""

from __future__ import annotations

import copy
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from geobiomass.tables import write_csv
from geobiomass.training.files import output_file
from geobiomass.training.own_files import check_demo_folder
from geobiomass.training.packages import need
from geobiomass.training.weights import load_weights

from .adaptation import adapt
from .baseline import ColourIndexRidge, cross_validate
from .ensemble import PastureEnsemble
from .fitting import fit
from .folds import balanced_folds, fold_balance
from .photos import TARGETS, read_photos, write_submission
from .regressor import PastureRegressor
from .scores import summarise
from .swards import draw_swards

__all__ = ["run"]

FOLDS = 3
_MARK = ".demonstration"
"""File in the folder of the photos, which says that a demonstration drew them."""
_NAMES = list(TARGETS)


def run(
    out: str | Path,
    seed: int = 0,
    count: int = 240,
    tested: int = 80,
    **overrides: Any,
) -> pd.DataFrame:
    """Run the demonstration, and write figures, scores, a model and a submission.

    If it is interrupted, the same call resumes it.

    Parameters
    ----------
    out
        Folder for the results; those of an earlier demonstration are replaced.
    seed
        Random seed of the photos and the training.
    count, tested
        Number of training photos, and of test photos of other dates.
    **overrides
        Settings of the recipe, as `pasture.fit` takes them.

    Returns
    -------
    pandas.DataFrame
        One row per method, on the photos of other dates: ``weighted R2``, ``mean R2``,
        ``RMSE`` (g, all targets together) and ``gain``, the increase of weighted R2
        over the method that this one extends.
    """
    need("The demonstration", "demo", "matplotlib", "numba", "sklearn")
    started = time.monotonic()
    names = ("scores.csv", "scatter.png", "photos.png", "submission.csv")
    out = check_demo_folder(out, names, seed)
    _check_photos(out)
    photos, test, truth = _draw(out, seed, count, tested)
    folds = balanced_folds(photos, FOLDS, virtual={})
    print(f"\nFolds of {len(photos)} photos, no date in two of them:\n")
    print(fold_balance(photos, folds).round(2).to_string())
    given: dict[str, Any] = {"recipe": "quick", "seed": seed}
    model = fit(
        photos,
        stream="both",
        folds=folds,
        **{**given, "folder": out / "checkpoints", **overrides},
    )
    assert isinstance(model, PastureEnsemble)
    adapted = adapt(model, photos, test, folder=out / "checkpoints" / "adapted")
    final = adapted.predict(test)
    table = _compare(photos, test, truth, model, final, out)
    adapted.save(out / "model")
    write_submission(final, out / "submission.csv")
    write_csv(table, out / "scores.csv")
    _plot(test, truth, final, out)
    _print(photos, folds, model, adapted.report(), table)
    minutes = (time.monotonic() - started) / 60
    print(
        f"\n{out / 'scatter.png'}, {out / 'photos.png'}, {out / 'scores.csv'}, "
        f"{out / 'submission.csv'}, {out / 'model'}: {minutes:.1f} minutes"
    )
    return table


def _check_photos(out: Path) -> None:
    """Check that photos in the folder are those of an earlier demonstration.

    Raises
    ------
    FileExistsError
        If they may be a person's: what is drawn has the names of photos and tables.
    """
    drawn = out / "photos"
    ours = (drawn / _MARK).is_file() or (out / "checkpoints").is_dir()
    if not ours and drawn.exists() and (drawn.is_file() or any(drawn.iterdir())):
        raise FileExistsError(
            f"{drawn} is of no earlier demonstration, so nothing in it is replaced; "
            "choose another folder with --out, or move or delete it yourself."
        )


def _draw(
    out: Path, seed: int, count: int, tested: int
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Draw training and test photos, and read their tables and the ground truth."""
    drawn = out / "photos"
    drawn.mkdir(exist_ok=True)
    (drawn / _MARK).touch()
    draw_swards(drawn, count, seed=seed, progress=True)
    draw_swards(drawn, tested, seed=seed, part="test", progress=True)
    photos = read_photos(drawn / "train.csv", drawn)
    test = read_photos(drawn / "test.csv", drawn)
    return photos, test, read_photos(drawn / "truth.csv", drawn)


def _compare(
    photos: pd.DataFrame,
    test: pd.DataFrame,
    truth: pd.DataFrame,
    model: PastureEnsemble,
    final: pd.DataFrame,
    out: Path,
) -> pd.DataFrame:
    """Score the baselines, and the recipe as its steps are added one by one."""
    single = PastureEnsemble(model.streams["single"])
    dual = PastureEnsemble(model.streams["dual"])
    ridge = ColourIndexRidge().fit(photos)
    mean = pd.DataFrame(
        np.tile(photos[_NAMES].mean(), (len(test), 1)), test.index, _NAMES
    )
    one_epoch = _best_epochs(single, out / "checkpoints" / "single")
    rows = {
        "predicting the mean": (mean, ""),
        "ridge of colour indices": (ridge.predict(test), ""),
        "single stream, best epoch": (one_epoch.predict(test, flips=False), ""),
        "with checkpoints averaged": (single.predict(test, flips=False), "above"),
        "with mirror image": (single.predict(test), "above"),
        "dual stream instead": (dual.predict(test), "above"),
        "single and dual blended": (model.predict(test), "with mirror image"),
        "with adaptation to these photos": (final, "above"),
    }
    table = pd.DataFrame({name: summarise(p, truth) for name, (p, _) in rows.items()}).T
    names = list(rows)
    for number, (name, (_, base)) in enumerate(rows.items()):
        if base:
            before = names[number - 1] if base == "above" else base
            table.loc[name, "gain"] = (
                table["weighted R2"][name] - table["weighted R2"][before]
            )
    return table


def _best_epochs(single: PastureEnsemble, folder: Path) -> PastureEnsemble:
    """Return the members with early stopping: the best epoch instead of an average."""
    return PastureEnsemble(
        [
            _best_epoch(member, folder / f"fold-{number}")
            for number, member in enumerate(single.members, 1)
        ]
    )


def _best_epoch(member: PastureRegressor, folder: Path) -> PastureRegressor:
    epoch = int(member.history["validation_weighted_r2"].argmax()) + 1
    other = copy.copy(member)
    other.network = copy.deepcopy(member.network)
    load_weights(other.network, folder / f"epoch-{epoch:04d}.safetensors")
    return other


def _plot(
    test: pd.DataFrame, truth: pd.DataFrame, final: pd.DataFrame, out: Path
) -> None:
    import matplotlib

    from . import plots

    matplotlib.use("Agg")
    figure = plots.scatter(truth[_NAMES], final, groups=truth["State"])
    _save(figure, out / "scatter.png")
    figure = plots.sheet(test, final, measured=truth[_NAMES])
    _save(figure, out / "photos.png")


def _save(figure: Any, path: Path) -> None:
    with output_file(path, path.suffix) as part:
        figure.savefig(part, dpi=110)


def _print(
    photos: pd.DataFrame,
    folds: pd.Series,
    model: PastureEnsemble,
    report: pd.DataFrame,
    table: pd.DataFrame,
) -> None:
    baseline = cross_validate(photos, folds)
    held = pd.DataFrame(
        {"ridge of colour indices": summarise(baseline, photos)}
    ).T.assign(photos=len(photos))
    print(f"\nOn photos of dates held out, {FOLDS} folds:\n")
    print(pd.concat([model.scores, held])[list(model.scores)].round(3).to_string())
    print("\nChange of the test photos' predictions by adaptation, g:\n")
    print(report.round(2).to_string())
    print("\nOn test photos, of dates that nothing above was trained on:\n")
    print(table.round(3).to_string(na_rep=""))
