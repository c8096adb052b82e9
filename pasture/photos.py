"""Tables of photos: reading, checks, and writing of predictions and submissions."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pandas as pd

from geobiomass.tables import TableError, read_numbers, read_table, write_csv
from geobiomass.training.given_paths import path_text
from geobiomass.training.setting_names import explain_arguments

from .doubts import doubts_of
from .inspection import (
    inspect_files,
    problem,
    raise_problems,
    warn_of_notes,
)
from .photo_files import PhotoError
from .photo_paths import PhotoFinder, is_photo_name, photos_of_folder
from .sampling_dates import with_dates

__all__ = [
    "TARGETS",
    "PhotoError",
    "read_photos",
    "write_predictions",
    "write_submission",
]

# Dry mass in grams on the photographed quadrat, in the order of the network's outputs.
TARGETS = ("Dry_Green_g", "Dry_Dead_g", "Dry_Clover_g", "GDM_g", "Dry_Total_g")

_SUMS = {TARGETS[3]: (TARGETS[0], TARGETS[2]), TARGETS[4]: TARGETS[:3]}

PhotoSource: TypeAlias = str | Path | Sequence[str | Path] | pd.DataFrame
"""A table or its file, a folder of photos, one photo, or a list of photos."""


@explain_arguments
def read_photos(
    table: PhotoSource,
    root: str | Path = ".",
    targets: Sequence[str] | None = None,
) -> pd.DataFrame:
    """Read a table of photos, a folder or a list, and check that each can be read.

    Parameters
    ----------
    table
        A table's file (CSV, also with semicolons; Excel), or a DataFrame with its
        content, in one of two layouts. Long, one row per photo and target, as in the
        CSIRO Image2Biomass competition: ``sample_id`` (``photo__target``),
        ``image_path``, ``target_name`` and, for training, ``target``. Plain, one row
        per photo: ``image_path`` and columns of grams. Other columns are kept.
        ``Sampling_Date`` is read as dates: year first (2015/9/4, 2015-09-04, 20150904,
        with or without a time), day and month before the year (4.9.2015), or with the
        month's name (4 Sep 2015). From a date column of another usual name (Date,
        sampled, capture_date, Datum) it is added.
        To predict without a table: a folder of photos, one photo, or a list of them.
    root
        The folder that relative paths of photos start from. Without meaning for a
        folder.
    targets
        The columns, or values of ``target_name``, to predict; by default those of
        `TARGETS` in the table. If a plain table has green, dead and clover but not
        their sums, the sums are added. `pasture.fit` then takes these targets too.

    Returns
    -------
    pandas.DataFrame
        One row per photo in the table's order: ``path`` (absolute), the other columns,
        and a float column for each target in the table, in the table's unit. The index
        is the photo's name: the part of ``sample_id`` before its last ``__``, or
        ``image_path``. Its ``attrs`` have the ``targets``, if they are your own,
        ``layout``, if the table is long, ``found``: how many photos were found under a
        name that is spelled in another way, and ``doubts``: what was warned of.

    Raises
    ------
    PhotoError
        The table lacks a column or has no rows, or photos are listed twice, missing,
        unreadable or of another shape than most, or grams are unknown or negative. One
        message names all these photos.
    ValueError
        `targets` is a single word instead of a sequence, or names a target twice.
    FileNotFoundError
        There is no such file or folder.
    geobiomass.training.packages.MissingPackageError
        HEIC photos need pillow-heif (the extra ``heic``), Excel's files openpyxl.

    Warns
    -----
    UserWarning
        Dates could be read as day/month/year or as month/day/year. Photos were found
        under a similar name. Photos are grey or blank, or their colours are
        approximate. Photos are the same under several names, or sums are not those
        of their parts. The warning counts them.

    Examples
    --------
    >>> import pasture
    >>> photos = pasture.read_photos("train.csv", root=".")  # doctest: +SKIP
    >>> photos = pasture.read_photos("new-photos")  # doctest: +SKIP
    """
    known = check_targets(targets)
    rows, root = _rows_of(table, Path(root))
    _check_columns(rows, known, strict=targets is None)
    finder = PhotoFinder(root)
    rows = with_dates(_identify(rows, finder))
    photos, problems = _widen(rows) if "target_name" in rows else (rows, [])
    photos = photos.set_index("photo")
    found = [name for name in known if name in photos]
    others = [name for name in photos if name not in ("path", *found)]
    photos = photos[["path", *others, *found]]
    for name in found:
        photos[name], wrong = _numbers(photos[name])
        problems += wrong
    if targets is None and "target_name" not in rows:
        photos = _with_sums(photos)
    problems += problems_of_table(photos, known)
    files, inspected = inspect_files(photos["path"])
    raise_problems([*problems, *files])
    if finder.guesses:
        warnings.warn(
            f"not all of {len(photos)} photos have the table's names: {finder.guesses}",
            stacklevel=2,
        )
    warn_of_notes(inspected, stacklevel=2)
    photos.attrs = {"found": dict(finder.repairs)} if finder.repairs else {}
    # Nothing is learnt from a table without targets.
    doubts = doubts_of(photos, _SUMS if known == TARGETS else {}) if found else []
    if doubts:
        warnings.warn(f"photos to look at: {'; '.join(doubts)}", stacklevel=2)
        photos.attrs["doubts"] = doubts
    if "target_name" in rows:
        photos.attrs["layout"] = "long"
    if targets is not None and known != TARGETS:
        photos.attrs["targets"] = list(known)
    return photos


def _rows_of(table: PhotoSource, root: Path) -> tuple[pd.DataFrame, Path]:
    """Return the rows of a table, and the folder that its paths start from."""
    if isinstance(table, pd.DataFrame):
        return table.copy(), root
    if isinstance(table, str | os.PathLike):
        path = Path(path_text(table, "photos", PhotoError)).expanduser()
        if path.is_dir():
            return pd.DataFrame({"image_path": photos_of_folder(path)}), path
        if is_photo_name(path):
            inside = not path.is_file() and (root / path).is_file()
            name = str(root / path) if inside else str(path)
            return pd.DataFrame({"image_path": [name]}), Path()
        if not path.exists():
            raise FileNotFoundError(
                f"No such file or folder: {path} (from {Path.cwd()}); photos must be a "
                "table's file, a folder, a photo or a list of photos"
            )
        return read_rows(path), root
    if not isinstance(table, Sequence):
        raise PhotoError(
            "photos must be a table, its file, a folder, a photo or a list of photos, "
            f"got a {type(table).__name__}; give paths"
        )
    if wrong := [name for name in table if not isinstance(name, str | os.PathLike)]:
        raise PhotoError(
            f"a list of photos must hold paths, got {wrong[0]!r}; give file names"
        )
    return pd.DataFrame({"image_path": [os.fspath(name) for name in table]}), root


def read_rows(path: Path) -> pd.DataFrame:
    """Read the rows of a table's file, as the whole package reads tables."""
    return pd.DataFrame(read_table(path))


def as_photos(photos: PhotoSource, targets: Sequence[str]) -> pd.DataFrame:
    """Return photos to predict: as they are, or read from what names them."""
    if isinstance(photos, pd.DataFrame):
        return photos
    own = None if tuple(targets) == TARGETS else targets
    return read_photos(photos, targets=own)


def check_targets(targets: Sequence[str] | None) -> tuple[str, ...]:
    """Return the names of targets as a tuple, by default `TARGETS`.

    Raises
    ------
    ValueError
        `targets` is a single word, is empty, or names a target twice.
    """
    if targets is None:
        return TARGETS
    if isinstance(targets, str) or not targets or len({*targets}) < len(targets):
        raise ValueError(
            "targets must be names of columns, each once, such as "
            f'("Dry_Green_g", "Dry_Clover_g"), got {targets!r}; write them as a tuple'
        )
    return tuple(targets)


def _with_sums(photos: pd.DataFrame) -> pd.DataFrame:
    """Add green dry matter and total to a table that has all three parts."""
    green, dead, clover, matter, total = TARGETS
    if not {green, dead, clover} <= set(photos):
        return photos
    sums = {
        matter: photos[green] + photos[clover],
        total: photos[green] + photos[clover] + photos[dead],
    }
    missing = {name: values for name, values in sums.items() if name not in photos}
    others = [name for name in photos if name not in TARGETS]
    return photos.assign(**missing)[[*others, *TARGETS]]


def _check_columns(rows: pd.DataFrame, targets: tuple[str, ...], strict: bool) -> None:
    if "image_path" not in rows:
        raise PhotoError(
            "a table of photos must have a column image_path, got "
            f"{', '.join(map(str, rows.columns)) or 'no column'}; {_rename(rows)}"
        )
    if rows.empty or rows["image_path"].isna().any():
        raise PhotoError(
            "a table of photos must have rows, each with an image_path, got "
            f"{rows['image_path'].isna().sum()} of {len(rows)} without; fill in or "
            "remove these rows"
        )
    long = "target_name" in rows
    names = rows["target_name"].unique() if long else rows.columns
    # Other columns of a plain table are no targets, unless their name ends in "_g".
    grams = {str(n) for n in names if long or (strict and str(n).endswith("_g"))}
    if unknown := sorted(grams - set(targets)):
        raise PhotoError(
            f"targets of photos must be among {', '.join(targets)}, got "
            f"{', '.join(unknown)}; name your own with targets=(...)"
        )


def _numbers(cells: pd.Series) -> tuple[pd.Series, list[str]]:
    """Return cells as numbers, NaN where they are none, and what is wrong with them."""
    try:
        return read_numbers(cells).astype(np.float64), []
    except TableError as error:
        numbers = pd.to_numeric(cells, errors="coerce").astype(np.float64)
        return numbers, [str(error).removesuffix(".")]


def _rename(rows: pd.DataFrame) -> str:
    """Return the advice to rename the column that has the files of photos."""
    for name in rows:
        texts = [text for text in rows[name].head(20) if isinstance(text, str)]
        if texts and all(is_photo_name(Path(text.strip())) for text in texts):
            return f"rename the column {name}, which has names of photos"
    return "add it, or rename the column of files"


def _identify(rows: pd.DataFrame, finder: PhotoFinder) -> pd.DataFrame:
    """Add the photo's name and path to each row."""
    given = rows["image_path"].astype(str)
    names = rows.get("sample_id", given).astype(str)
    photo = names.str.rsplit("__", n=1).str[0]
    paths = {name: finder.find(name) for name in given.unique()}
    rows = rows.drop(columns=["image_path", "sample_id"], errors="ignore")
    return rows.assign(photo=photo, path=given.map(paths))


def _widen(rows: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Return one row per photo, and the problems of the rows of the long table."""
    key = ["path", "target_name"]
    twice = rows[rows.duplicated(key)]
    photos = rows.drop(columns=["target_name", "target"], errors="ignore")
    photos = photos.drop_duplicates()
    problems = problem("targets given twice", twice["photo"] + "__" + twice[key[1]])
    if "target" in rows:
        once = rows.drop_duplicates(key)
        grams = once.pivot(index="path", columns="target_name", values="target")
        photos = photos.join(grams, on="path")
    return photos, problems


def problems_of_table(
    photos: pd.DataFrame, targets: Sequence[str] = TARGETS
) -> list[str]:
    """Return texts that name photos listed twice, and grams that are not 0 or more."""
    twice = photos.index[photos.duplicated("path") | photos.index.duplicated()]
    targets = [name for name in targets if name in photos]
    names = [str(name) for name in photos.index]
    grams = photos[targets].to_numpy(np.float64)
    bad = ~((grams >= 0) & np.isfinite(grams))
    wrong = [
        f"{names[row]} {targets[column]} ({grams[row, column]:g})"
        for row, column in np.argwhere(bad)
    ]
    return [
        *problem("listed twice, or with details that differ between rows", twice),
        *problem("grams unknown or negative", wrong),
    ]


@explain_arguments
def write_submission(predictions: pd.DataFrame, path: str | Path) -> None:
    """Write predictions as the competition's CSV: ``sample_id,target``.

    Parameters
    ----------
    predictions
        Grams, one row per photo and one column per target, as
        `PastureRegressor.predict` returns them. A sample's id is ``photo__target``.
    path
        The file to write. An earlier one, in either format, is replaced.

    Raises
    ------
    PhotoError
        A column is no target, or a photo is listed twice or has no prediction.
    """
    unknown = [str(name) for name in predictions if name not in TARGETS]
    if unknown or predictions.empty:
        raise PhotoError(
            f"predictions must have rows and columns among {', '.join(TARGETS)}, got "
            f"{len(predictions)} rows and {', '.join(unknown) or 'no other column'}; "
            "write other targets with pasture.photos.write_predictions"
        )
    _check_complete(predictions)
    names = [f"{p}__{t}" for p in predictions.index for t in predictions.columns]
    long = {"sample_id": names, "target": predictions.to_numpy().ravel()}
    wide = ["photo", *map(str, predictions)]
    table = pd.DataFrame(long)
    write_csv(table, path, "submission", index=False, others=[wide])


def write_predictions(predictions: pd.DataFrame, path: str | Path) -> None:
    """Write predictions as a plain CSV: one row per photo, one column per target.

    Parameters
    ----------
    predictions
        Grams, as a model's `predict` returns them.
    path
        The file to write. An earlier one, in either format, is replaced.

    Raises
    ------
    PhotoError
        A photo is listed twice or has no prediction.
    """
    _check_complete(predictions)
    what, long = "table of predictions", ["sample_id", "target"]
    write_csv(predictions, path, what, index_label="photo", others=[long])


def _check_complete(predictions: pd.DataFrame) -> None:
    absent = predictions.index[~np.isfinite(predictions.to_numpy()).all(axis=1)]
    twice = predictions.index[predictions.index.duplicated()]
    raise_problems(
        [*problem("predicted twice", twice), *problem("unpredicted", absent)]
    )
