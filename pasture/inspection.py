"""Inspection of photos before they are used: files, shapes, what is unusual."""

from __future__ import annotations

import statistics
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd

from geobiomass.training.given_paths import path_text
from geobiomass.training.packages import MissingPackageError

from .photo_files import Inspected, PhotoError, inspect_photo, measure_photo
from .pixels import NOTES

__all__ = [
    "check_shapes",
    "common_ratio",
    "inspect_files",
    "listed",
    "problem",
    "problems_of_files",
    "raise_problems",
    "warn_of_notes",
]

SHAPE = 0.05  # largest relative difference of the ratio of sides
_NAMED = 20  # most photos that one message names


def inspect_files(
    paths: Sequence[str] | pd.Series,
) -> tuple[list[str], dict[str, Inspected]]:
    """Decode all photos, and find what is wrong with them.

    Returns
    -------
    problems
        Texts that name photos missing, unreadable, or of another shape than most.
    found
        The others, by path.

    Raises
    ------
    geobiomass.training.packages.MissingPackageError
        Photos need a package that is not installed.
    """
    with ThreadPoolExecutor() as pool:
        results = dict(zip(paths, pool.map(_inspect, paths), strict=True))
    lacking = [r for r in results.values() if isinstance(r, MissingPackageError)]
    if lacking:
        raise MissingPackageError(
            f"{lacking[0]} ({len(lacking)} of {len(results)} photos need it; or save "
            "them as JPEG)",
            name=lacking[0].name,
        )
    texts = [result for result in results.values() if isinstance(result, tuple)]
    problems = [
        one
        for kind in ("missing", "unreadable")
        for one in problem(kind, [text for name, text in texts if name == kind])
    ]
    found = {
        path: result
        for path, result in results.items()
        if isinstance(result, Inspected)
    }
    return [*problems, *_odd_shapes(found)], found


def problems_of_files(paths: Sequence[str] | pd.Series) -> list[str]:
    """Return texts naming photos missing, unreadable or of another shape than most."""
    return inspect_files(paths)[0]


def _inspect(path: str) -> Inspected | MissingPackageError | tuple[str, str]:
    try:
        path_text(path, "a photo", PhotoError)
    except PhotoError as error:
        return "unreadable", str(error)
    if not Path(path).is_file():
        return "missing", path
    try:
        return inspect_photo(path)
    except PhotoError as error:
        _, _, reason = str(error).partition(" cannot be read: ")
        return "unreadable", f"{path} ({reason})"
    except MissingPackageError as error:
        return error


def common_ratio(found: Iterable[Inspected]) -> float:
    """Return the ratio of the longer to the shorter side that most photos have."""
    return statistics.median_low([photo.ratio for photo in found])


def _odd_shapes(found: dict[str, Inspected]) -> list[str]:
    if not found:
        return []
    usual = common_ratio(found.values())
    odd = [
        f"{path} ({photo.width} x {photo.height})"
        for path, photo in found.items()
        if abs(photo.ratio / usual - 1) > SHAPE
    ]
    kind = f"of another shape than most, whose sides are {usual:.2f} to 1"
    return problem(kind, odd)


def check_shapes(paths: Sequence[str] | pd.Series, ratio: float) -> None:
    """Check that photos have the shape of those that a model was trained on.

    A photo of another shape would be stretched, and most often shows another area.

    Parameters
    ----------
    paths
        Files of the photos; only their sizes are read.
    ratio
        The longer side divided by the shorter one in training.

    Raises
    ------
    PhotoError
        Photos differ by more than 5 %, or cannot be read.
    """
    sizes = {path: measure_photo(path) for path in paths}
    odd = [
        f"{path} ({width} x {height})"
        for path, (width, height) in sizes.items()
        if abs(max(width, height) / min(width, height) / ratio - 1) > SHAPE
    ]
    if odd:
        raise PhotoError(
            "photos must have the shape of those that the model was trained on, "
            f"{ratio:.2f} to 1, got {len(odd)} of {len(sizes)} with another: "
            f"{listed(odd)}; crop them to the quadrat and to this shape"
        )


def warn_of_notes(found: dict[str, Inspected], stacklevel: int) -> None:
    """Warn once, with counts, of what is unusual in photos that are used."""
    counts = Counter(note for photo in found.values() for note in photo.notes)
    if not counts:
        return
    first = {
        note: next(path for path, photo in found.items() if note in photo.notes)
        for note in counts
    }
    parts = [
        f"{counts[note]} {NOTES[note]} ({first[note]})"
        for note in NOTES
        if note in counts
    ]
    warnings.warn(
        f"of {len(found)} photos some are unusual: {'; '.join(parts)}",
        stacklevel=stacklevel + 1,
    )


def raise_problems(problems: Sequence[str]) -> None:
    """Raise all problems as one PhotoError, if there are any."""
    if problems:
        raise PhotoError(
            f"photos must all be usable, got {'; '.join(problems)}; fix the table "
            "or the files, or leave these photos out"
        )


def problem(kind: str, names: Iterable[object]) -> list[str]:
    """Return a text that names photos with one kind of problem, if there are any."""
    return [f"{kind}: {text}"] if (text := listed(names)) else []


def listed(names: Iterable[object]) -> str:
    """Return the distinct names as one text; only the first 20 are named."""
    distinct = list(dict.fromkeys(map(str, names)))
    rest = len(distinct) - _NAMED
    more = f" and {rest} more" if rest > 0 else ""
    return ", ".join(distinct[:_NAMED]) + more
