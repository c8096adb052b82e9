"""Photos of pasture: the tables that list them, their checks, batches of tensors."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from PIL import Image, ImageOps
from torch import Tensor

__all__ = ["TARGETS", "PhotoError", "PhotoFeed", "read_photos", "write_submission"]

# Dry grams on the photographed quadrat: the order of the network's outputs.
TARGETS = ("Dry_Green_g", "Dry_Dead_g", "Dry_Clover_g", "GDM_g", "Dry_Total_g")

_DATE = "Sampling_Date"
_SLACK = 0.01  # of the ratio 2:1, for photos that were cropped by hand
_NAMED = 20  # photos that one message names


class PhotoError(ValueError):
    """Photos, or the table that lists them, cannot be used; all of them are named."""


def read_photos(
    table: str | Path | pd.DataFrame, root: str | Path = "."
) -> pd.DataFrame:
    """Read a table of photos, and make sure that every photo can be read.

    Parameters
    ----------
    table
        A CSV file, or its content. Either long, a row a photo and target, as the
        CSIRO Image2Biomass competition has it: ``sample_id`` (``photo__target``),
        ``image_path``, ``target_name`` and, for training, ``target``. Or plain, a
        row a photo: ``image_path`` and any of `TARGETS`. Grams; columns of other
        names are kept as they are, ``Sampling_Date`` as dates.
    root
        The folder that relative paths of photos start from.

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
    FileNotFoundError
        There is no such table.

    Examples
    --------
    >>> import pasture
    >>> photos = pasture.read_photos("train.csv", root=".")  # doctest: +SKIP
    """
    rows = table.copy() if isinstance(table, pd.DataFrame) else pd.read_csv(table)
    _check_columns(rows)
    rows = _identify(rows, Path(root))
    photos, problems = _widen(rows) if "target_name" in rows else (rows, [])
    photos = photos.set_index("photo")
    targets = [name for name in TARGETS if name in photos]
    others = [name for name in photos if name not in ("path", *targets)]
    photos = photos[["path", *others, *targets]]
    photos[targets] = photos[targets].apply(pd.to_numeric, errors="coerce")
    photos[targets] = photos[targets].astype(np.float64)
    refuse([*problems, *problems_of_table(photos), *problems_of_files(photos["path"])])
    return photos


def _check_columns(rows: pd.DataFrame) -> None:
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
    grams = {str(name) for name in names if long or str(name).endswith("_g")}
    if unknown := sorted(grams - set(TARGETS)):
        raise PhotoError(
            f"targets of photos must be among {', '.join(TARGETS)}, got "
            f"{', '.join(unknown)}"
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
    text = values.astype("string").str.replace("/", "-")
    dates = pd.to_datetime(text, format="%Y-%m-%d", errors="coerce")
    if wrong := _listed(values[dates.isna() & values.notna()]):
        raise PhotoError(
            f"{_DATE} of photos must be year/month/day such as 2015/9/4, got {wrong}"
        )
    return dates


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


def problems_of_table(photos: pd.DataFrame) -> list[str]:
    """Name photos listed twice, and grams that are not a number of 0 or more."""
    twice = photos.index[photos.duplicated("path")]
    targets = [name for name in TARGETS if name in photos]
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
        width, height = _open(path).size
    except PhotoError as error:
        return "unreadable", f"{path} ({error.__cause__})"
    if abs(width / height - 2) > 2 * _SLACK:
        return "not twice as wide as high", f"{path} ({width} x {height})"
    return "", path


def refuse(problems: Sequence[str]) -> None:
    """Raise all problems as one PhotoError, if there are any."""
    if problems:
        raise PhotoError(
            f"photos must all be usable, got {'; '.join(problems)}; mend the table "
            "or the files, or leave these photos out"
        )


def _problem(kind: str, names: Iterable[object]) -> list[str]:
    return [f"{kind}: {text}"] if (text := _listed(names)) else []


def _listed(names: Iterable[object]) -> str:
    distinct = list(dict.fromkeys(map(str, names)))
    rest = len(distinct) - _NAMED
    more = f" and {rest} more" if rest > 0 else ""
    return ", ".join(distinct[:_NAMED]) + more


def _open(path: str) -> Image.Image:
    """Decode a photo as RGB, turned as its camera noted."""
    try:
        with Image.open(path) as image:
            return ImageOps.exif_transpose(image).convert("RGB")
    # What Pillow raises for damaged files of one format or another.
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise PhotoError(f"photo {path} cannot be read: {error}") from error


@dataclass(frozen=True)
class PhotoFeed:
    """Batches of photos, decoded on a few threads ahead of their use.

    A `geobiomass.training.feeds.Feed`: the order of an epoch follows from `seed` and
    its number, every photo comes once an epoch in one of the processes, and at most
    `ahead` + 1 batches are in memory.

    Parameters
    ----------
    paths
        Photos.
    grams
        (photo, target) float32, NaN where unknown.
    height, width
        Pixels that photos are resized to, bicubic with antialiasing.
    batch_size
        Photos a batch and process. Batches of an epoch differ by one photo at most.
    shuffle
        Whether photos come in a new order each epoch.
    seed
        Of the order.
    threads, ahead
        Threads that decode, and batches that they may be ahead.
    """

    paths: tuple[str, ...]
    grams: npt.NDArray[np.float32]
    height: int
    width: int
    batch_size: int
    shuffle: bool = True
    seed: int = 0
    threads: int = 4
    ahead: int = 2

    def batches_per_epoch(self, ranks: int = 1) -> int:
        """Give the batches that each of `ranks` processes gets an epoch.

        Raises
        ------
        ValueError
            There are fewer photos than processes.
        """
        count = len(self.paths)
        if count < ranks:
            raise ValueError(
                f"photos must be at least one for each of {ranks} processes, got "
                f"{count}; train with fewer devices"
            )
        # Never more batches than photos: with a batch size of 1 some would be empty.
        return min(-(-count // (self.batch_size * ranks)), count // ranks)

    def epoch(
        self, number: int, rank: int = 0, ranks: int = 1, start: int = 0
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield (image, grams) of an epoch for one process, from batch `start` on.

        Yields
        ------
        image
            (batch, 3, height, width) uint8, RGB.
        grams
            (batch, target) float32.

        Raises
        ------
        PhotoError
            A photo cannot be read any more.
        """
        waiting: deque[tuple[npt.NDArray[np.intp], list[Future[Tensor]]]] = deque()
        with ThreadPoolExecutor(self.threads, thread_name_prefix="photos") as pool:
            try:
                for places in self._plan(number, rank, ranks)[start:]:
                    photos = [pool.submit(self._read, place) for place in places]
                    waiting.append((places, photos))
                    if len(waiting) > self.ahead:
                        yield self._batch(*waiting.popleft())
                while waiting:
                    yield self._batch(*waiting.popleft())
            finally:
                # The reader may stop early, and a photo may fail.
                pool.shutdown(wait=False, cancel_futures=True)

    def _plan(self, number: int, rank: int, ranks: int) -> list[npt.NDArray[np.intp]]:
        order = np.arange(len(self.paths))
        if self.shuffle:
            order = np.random.default_rng([self.seed, number]).permutation(order)
        return np.array_split(order, self.batches_per_epoch(ranks) * ranks)[rank::ranks]

    def _read(self, place: int) -> Tensor:
        image = _open(self.paths[place])
        sized = image.resize((self.width, self.height), Image.Resampling.BICUBIC)
        return torch.from_numpy(np.array(sized)).permute(2, 0, 1)

    def _batch(
        self, places: npt.NDArray[np.intp], photos: list[Future[Tensor]]
    ) -> tuple[Tensor, Tensor]:
        image = torch.stack([photo.result() for photo in photos])
        return image, torch.from_numpy(self.grams[places])


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
    absent = predictions.index[~np.isfinite(predictions.to_numpy()).all(axis=1)]
    twice = predictions.index[predictions.index.duplicated()]
    refuse([*_problem("predicted twice", twice), *_problem("unpredicted", absent)])
    names = [f"{p}__{t}" for p in predictions.index for t in predictions.columns]
    long = {"sample_id": names, "target": predictions.to_numpy().ravel()}
    pd.DataFrame(long).to_csv(path, index=False)
