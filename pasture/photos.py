"""Photos of pasture: the tables that list them, their checks, submissions."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd

from .loader import PhotoError, measure_photo, open_photo

__all__ = [
    "TARGETS",
    "PhotoError",
    "read_photos",
    "write_predictions",
    "write_submission",
]

# Dry grams on the photographed quadrat: the order of the network's outputs.
TARGETS = ("Dry_Green_g", "Dry_Dead_g", "Dry_Clover_g", "GDM_g", "Dry_Total_g")

_DATE = "Sampling_Date"
_YEAR_FIRST = ("%Y-%m-%d", "%Y%m%d")
_SLACK = 0.01  # of the ratio 2:1, for photos that were cropped by hand
_NAMED = 20  # photos that one message names


def read_photos(
    table: str | Path | pd.DataFrame,
    root: str | Path = ".",
    targets: Sequence[str] | None = None,
) -> pd.DataFrame:
    """Read a table of photos, and make sure that every photo can be read.

    Parameters
    ----------
    table
        A CSV file, or its content. Either long, a row a photo and target, as the
        CSIRO Image2Biomass competition has it: ``sample_id`` (``photo__target``),
        ``image_path``, ``target_name`` and, for training, ``target``. Or plain, a
        row a photo: ``image_path`` and columns of grams. Other columns are kept as
        they are, ``Sampling_Date`` as dates: year first (2015/9/4, 2015-09-04,
        20150904, with a time or not), day and month before the year (4.9.2015), or
        with the month's name (4 Sep 2015).
    root
        The folder that relative paths of photos start from.
    targets
        The columns, or values of ``target_name``, that hold what is to be predicted;
        by default those of `TARGETS` that are there. A plain table that has green,
        dead and clover and not their sums gets these as well.

    Returns
    -------
    pandas.DataFrame
        A row a photo in the table's order: ``path`` (absolute), what else is known
        of it, and a float column of grams for each target there is. The index is
        the photo's name: what ``sample_id`` has before its last ``__``, or else
        ``image_path``.

    Raises
    ------
    PhotoError
        The table lacks a column or a row, or photos are listed twice, missing,
        unreadable or not twice as wide as high, or grams are unknown or negative.
        All photos at fault are named at once.
    ValueError
        `targets` is a word instead of several, or names one twice.
    FileNotFoundError
        There is no such table.

    Warns
    -----
    UserWarning
        Dates could be read as day/month/year or as month/day/year; the day is taken
        to come first.

    Examples
    --------
    >>> import pasture
    >>> photos = pasture.read_photos("train.csv", root=".")  # doctest: +SKIP
    """
    rows = table.copy() if isinstance(table, pd.DataFrame) else pd.read_csv(table)
    known = check_targets(targets)
    _check_columns(rows, known, strict=targets is None)
    rows = _identify(rows, Path(root))
    photos, problems = _widen(rows) if "target_name" in rows else (rows, [])
    photos = photos.set_index("photo")
    found = [name for name in known if name in photos]
    others = [name for name in photos if name not in ("path", *found)]
    photos = photos[["path", *others, *found]]
    photos[found] = photos[found].apply(pd.to_numeric, errors="coerce")
    photos[found] = photos[found].astype(np.float64)
    if targets is None and "target_name" not in rows:
        photos = _with_sums(photos)
    problems += problems_of_table(photos, known)
    raise_problems([*problems, *problems_of_files(photos["path"])])
    return photos


def check_targets(targets: Sequence[str] | None) -> tuple[str, ...]:
    """Give the names of targets, `TARGETS` where none are named.

    Raises
    ------
    ValueError
        It is a word instead of several, holds none, or one twice.
    """
    if targets is None:
        return TARGETS
    if isinstance(targets, str) or not targets or len({*targets}) < len(targets):
        raise ValueError(
            "targets must be names of columns, each once, such as "
            f'("Dry_Green_g", "Dry_Clover_g"), got {targets!r}'
        )
    return tuple(targets)


def _with_sums(photos: pd.DataFrame) -> pd.DataFrame:
    """Add green dry matter and total to a table that has all of their parts."""
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
            f"{', '.join(map(str, rows.columns)) or 'no column'}"
        )
    if rows.empty or rows["image_path"].isna().any():
        raise PhotoError(
            "a table of photos must have rows, each with an image_path, got "
            f"{rows['image_path'].isna().sum()} of {len(rows)} without"
        )
    long = "target_name" in rows
    names = rows["target_name"].unique() if long else rows.columns
    # Other columns of a plain table are nobody's targets, unless they look like it.
    grams = {str(n) for n in names if long or (strict and str(n).endswith("_g"))}
    if unknown := sorted(grams - set(targets)):
        raise PhotoError(
            f"targets of photos must be among {', '.join(targets)}, got "
            f"{', '.join(unknown)}; name your own with targets=(...)"
        )


def _identify(rows: pd.DataFrame, root: Path) -> pd.DataFrame:
    """Add each row's photo and its path, and read the dates."""
    given = rows["image_path"].astype(str)
    names = rows.get("sample_id", given).astype(str)
    photo = names.str.rsplit("__", n=1).str[0]
    path = [str((root / name).resolve()) for name in given]
    rows = rows.drop(columns=["image_path", "sample_id"], errors="ignore")
    if _DATE in rows:
        rows[_DATE] = _dates(rows[_DATE])
    return rows.assign(photo=photo, path=path)


def _dates(values: pd.Series) -> pd.Series:
    """Read dates: year first, then with the month's name, then day or month first."""
    if pd.api.types.is_datetime64_any_dtype(values):
        days: pd.Series = values.dt.tz_localize(None).dt.normalize()
        return days
    text = values.astype("string").str.strip().str.replace(r"[/.]", "-", regex=True)
    text = text.str.replace(r"(\d)[ T]\d+:.*$", r"\1", regex=True)  # the time of day
    dates = pd.Series(pd.NaT, values.index, dtype="datetime64[s]")
    for form in _YEAR_FIRST:
        dates = dates.fillna(_parsed(text, form))
    rest = text[dates.isna()].dropna()
    named = rest[rest.str.contains("[A-Za-z]{3}", regex=True)]
    dates = dates.fillna(_parsed(named, "mixed"))
    dates = dates.fillna(_short_dates(text[dates.isna()].dropna()))
    if wrong := listed(values[dates.isna() & values.notna()]):
        raise PhotoError(
            f"{_DATE} of photos must be a day such as 2015/9/4, 4.9.2015 or 4 Sep "
            f"2015, got {wrong}"
        )
    return dates


def _short_dates(text: pd.Series) -> pd.Series:
    """Read day-month-year or month-day-year, whichever all of them can be."""
    day_first, month_first = _parsed(text, "%d-%m-%Y"), _parsed(text, "%m-%d-%Y")
    if not day_first.isna().any():
        if not month_first.isna().any() and not day_first.equals(month_first):
            warnings.warn(
                f"{_DATE} could begin with the day or the month, such as "
                f"{text.iloc[0]}: read as day-month-year; write the year first to be "
                "sure",
                stacklevel=5,
            )
        return day_first
    return month_first if not month_first.isna().any() else day_first


def _parsed(text: pd.Series, form: str) -> pd.Series:
    """Read dates of one form; NaT where they are of another."""
    # "4 Sept" without a year would be of this one.
    text = text.where(text.str.contains(r"\d{4}", regex=True))
    return pd.to_datetime(text, format=form, errors="coerce").astype("datetime64[s]")


def _widen(rows: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Give a row a photo, and what is wrong with the rows of the long table."""
    key = ["path", "target_name"]
    twice = rows[rows.duplicated(key)]
    photos = rows.drop(columns=["target_name", "target"], errors="ignore")
    photos = photos.drop_duplicates()
    problems = _problem("targets given twice", twice["photo"] + "__" + twice[key[1]])
    if "target" in rows:
        once = rows.drop_duplicates(key)
        grams = once.pivot(index="path", columns="target_name", values="target")
        photos = photos.join(grams, on="path")
    return photos, problems


def problems_of_table(
    photos: pd.DataFrame, targets: Sequence[str] = TARGETS
) -> list[str]:
    """Name photos listed twice, and grams that are not a number of 0 or more."""
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
        *_problem("listed twice, or with details that differ between rows", twice),
        *_problem("grams unknown or negative", wrong),
    ]


def problems_of_files(paths: Sequence[str] | pd.Series) -> list[str]:
    """Name photos that are missing, unreadable or not twice as wide as high."""
    with ThreadPoolExecutor() as pool:
        faults = list(pool.map(_fault, paths))
    return [
        problem
        for kind in ("missing", "unreadable", "not twice as wide as high")
        for problem in _problem(kind, [text for name, text in faults if name == kind])
    ]


def _fault(path: str) -> tuple[str, str]:
    if not Path(path).is_file():
        return "missing", path
    try:
        width, height = measure_photo(path)
        # To its end, as a file cut short has a size too; at an eighth of it.
        open_photo(path, (1, 1))
    except PhotoError as error:
        return "unreadable", f"{path} ({error.__cause__})"
    if abs(width / height - 2) > 2 * _SLACK:
        return "not twice as wide as high", f"{path} ({width} x {height})"
    return "", path


def raise_problems(problems: Sequence[str]) -> None:
    """Raise all problems as one PhotoError, if there are any."""
    if problems:
        raise PhotoError(
            f"photos must all be usable, got {'; '.join(problems)}; mend the table "
            "or the files, or leave these photos out"
        )


def _problem(kind: str, names: Iterable[object]) -> list[str]:
    return [f"{kind}: {text}"] if (text := listed(names)) else []


def listed(names: Iterable[object]) -> str:
    distinct = list(dict.fromkeys(map(str, names)))
    rest = len(distinct) - _NAMED
    more = f" and {rest} more" if rest > 0 else ""
    return ", ".join(distinct[:_NAMED]) + more


def write_submission(predictions: pd.DataFrame, path: str | Path) -> None:
    """Write predictions as the competition's CSV: ``sample_id,target``.

    Parameters
    ----------
    predictions
        Grams, a row a photo and a column a target, as `PastureRegressor.predict`
        gives them; a sample's id is ``photo__target``.
    path
        The file to write; an old one is replaced.

    Raises
    ------
    PhotoError
        A column is no target, or a photo is there twice or without a prediction.
    """
    unknown = [str(name) for name in predictions if name not in TARGETS]
    if unknown or predictions.empty:
        raise PhotoError(
            f"predictions must have rows and columns among {', '.join(TARGETS)}, got "
            f"{len(predictions)} rows and {', '.join(unknown) or 'no other column'}"
        )
    _check_complete(predictions)
    names = [f"{p}__{t}" for p in predictions.index for t in predictions.columns]
    long = {"sample_id": names, "target": predictions.to_numpy().ravel()}
    pd.DataFrame(long).to_csv(path, index=False)


def write_predictions(predictions: pd.DataFrame, path: str | Path) -> None:
    """Write predictions as a plain CSV: a row a photo, a column a target.

    Parameters
    ----------
    predictions
        As a model's `predict` gives them.
    path
        The file to write; an old one is replaced.

    Raises
    ------
    PhotoError
        A photo is there twice or without a prediction.
    """
    _check_complete(predictions)
    predictions.to_csv(path, index_label="photo")


def _check_complete(predictions: pd.DataFrame) -> None:
    absent = predictions.index[~np.isfinite(predictions.to_numpy()).all(axis=1)]
    twice = predictions.index[predictions.index.duplicated()]
    raise_problems(
        [*_problem("predicted twice", twice), *_problem("unpredicted", absent)]
    )
