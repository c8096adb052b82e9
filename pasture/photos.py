"""Tables of photos: reading, checks, and writing of predictions and submissions."""

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

# Dry mass in grams on the photographed quadrat, in the order of the network's outputs.
TARGETS = ("Dry_Green_g", "Dry_Dead_g", "Dry_Clover_g", "GDM_g", "Dry_Total_g")

_DATE = "Sampling_Date"
_YEAR_FIRST = ("%Y-%m-%d", "%Y%m%d")
_SLACK = 0.01  # relative tolerance of the ratio 2:1, for photos cropped by hand
_NAMED = 20  # most photos that one message names


def read_photos(
    table: str | Path | pd.DataFrame,
    root: str | Path = ".",
    targets: Sequence[str] | None = None,
) -> pd.DataFrame:
    """Read a table of photos, and check that every photo can be read.

    Parameters
    ----------
    table
        A CSV file, or a DataFrame with its content, in one of two layouts. Long, one
        row per photo and target, as in the CSIRO Image2Biomass competition:
        ``sample_id`` (``photo__target``), ``image_path``, ``target_name`` and, for
        training, ``target``. Plain, one row per photo: ``image_path`` and columns of
        grams. Other columns are kept. ``Sampling_Date`` is read as dates: year first
        (2015/9/4, 2015-09-04, 20150904, with or without a time), day and month before
        the year (4.9.2015), or with the month's name (4 Sep 2015).
    root
        The folder that relative paths of photos start from.
    targets
        The columns, or values of ``target_name``, to predict; by default those of
        `TARGETS` in the table. If a plain table has green, dead and clover but not
        their sums, the sums are added.

    Returns
    -------
    pandas.DataFrame
        One row per photo in the table's order: ``path`` (absolute), the other columns,
        and a float column of grams for each target in the table. The index is the
        photo's name: the part of ``sample_id`` before its last ``__``, or
        ``image_path``.

    Raises
    ------
    PhotoError
        The table lacks a column or has no rows, or photos are listed twice, missing,
        unreadable or not twice as wide as high, or grams are unknown or negative. One
        message names all these photos.
    ValueError
        `targets` is a single word instead of a sequence, or names a target twice.
    FileNotFoundError
        The table does not exist.

    Warns
    -----
    UserWarning
        Dates could be read as day/month/year or as month/day/year; they are read as
        day/month/year.

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
            f"{', '.join(map(str, rows.columns)) or 'no column'}; add it, or rename "
            "the column of files"
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


def _identify(rows: pd.DataFrame, root: Path) -> pd.DataFrame:
    """Add the photo's name and path to each row, and read the dates."""
    given = rows["image_path"].astype(str)
    names = rows.get("sample_id", given).astype(str)
    photo = names.str.rsplit("__", n=1).str[0]
    path = [str((root / name).resolve()) for name in given]
    rows = rows.drop(columns=["image_path", "sample_id"], errors="ignore")
    if _DATE in rows:
        rows[_DATE] = _dates(rows[_DATE])
    return rows.assign(photo=photo, path=path)


def _dates(values: pd.Series) -> pd.Series:
    """Read dates: year first, then with a month's name, then day or month first."""
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
            f"2015, got {wrong}; fix these dates, or empty their cells"
        )
    return dates


def _short_dates(text: pd.Series) -> pd.Series:
    """Read day-month-year or month-day-year, whichever is valid for all dates."""
    day_first, month_first = _parsed(text, "%d-%m-%Y"), _parsed(text, "%m-%d-%Y")
    if not day_first.isna().any():
        if not month_first.isna().any() and not day_first.equals(month_first):
            warnings.warn(
                f"{_DATE} could begin with the day or the month, such as "
                f"{text.iloc[0]}: read as day-month-year; write the year first to "
                "avoid this",
                stacklevel=5,
            )
        return day_first
    return month_first if not month_first.isna().any() else day_first


def _parsed(text: pd.Series, form: str) -> pd.Series:
    """Read dates of one format; NaT for dates of another."""
    # pandas would read "4 Sept" and choose a year: a date needs four digits.
    text = text.where(text.str.contains(r"\d{4}", regex=True))
    return pd.to_datetime(text, format=form, errors="coerce").astype("datetime64[s]")


def _widen(rows: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Return one row per photo, and the problems of the rows of the long table."""
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
        *_problem("listed twice, or with details that differ between rows", twice),
        *_problem("grams unknown or negative", wrong),
    ]


def problems_of_files(paths: Sequence[str] | pd.Series) -> list[str]:
    """Return texts naming photos missing, unreadable or not twice as wide as high."""
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
        # A truncated file has a size too, so the photo is decoded to its end. The
        # smallest size makes JPEGs quick: they are decoded at an eighth.
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
            f"photos must all be usable, got {'; '.join(problems)}; fix the table "
            "or the files, or leave these photos out"
        )


def _problem(kind: str, names: Iterable[object]) -> list[str]:
    return [f"{kind}: {text}"] if (text := listed(names)) else []


def listed(names: Iterable[object]) -> str:
    """Return the distinct names as one text; only the first 20 are named."""
    distinct = list(dict.fromkeys(map(str, names)))
    rest = len(distinct) - _NAMED
    more = f" and {rest} more" if rest > 0 else ""
    return ", ".join(distinct[:_NAMED]) + more


def write_submission(predictions: pd.DataFrame, path: str | Path) -> None:
    """Write predictions as the competition's CSV: ``sample_id,target``.

    Parameters
    ----------
    predictions
        Grams, one row per photo and one column per target, as
        `PastureRegressor.predict` returns them. A sample's id is ``photo__target``.
    path
        The file to write. An existing file is replaced.

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
    pd.DataFrame(long).to_csv(path, index=False)


def write_predictions(predictions: pd.DataFrame, path: str | Path) -> None:
    """Write predictions as a plain CSV: one row per photo, one column per target.

    Parameters
    ----------
    predictions
        Grams, as a model's `predict` returns them.
    path
        The file to write. An existing file is replaced.

    Raises
    ------
    PhotoError
        A photo is listed twice or has no prediction.
    """
    _check_complete(predictions)
    predictions.to_csv(path, index_label="photo")


def _check_complete(predictions: pd.DataFrame) -> None:
    absent = predictions.index[~np.isfinite(predictions.to_numpy()).all(axis=1)]
    twice = predictions.index[predictions.index.duplicated()]
    raise_problems(
        [*_problem("predicted twice", twice), *_problem("unpredicted", absent)]
    )
