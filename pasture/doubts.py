"""What a table of photos can hold that is used, but is most often a mistake."""

from __future__ import annotations

import hashlib
import os

import pandas as pd

from .inspection import listed

__all__ = ["doubts_of"]

# Parts and sums are weighed and rounded apart: below this nothing is told.
_GRAMS, _SHARE = 0.1, 0.02


def doubts_of(photos: pd.DataFrame, sums: dict[str, tuple[str, ...]]) -> list[str]:
    """Return what is doubtful in a table of photos, with counts and the first photos.

    Files with the same bytes under several names: if one is held out, another is in
    training. Sums that are not those of their parts.

    Parameters
    ----------
    photos
        Photos with ``path``, all of them files.
    sums
        The parts of each target that is a sum.
    """
    found = []
    copies = _copies(photos["path"])
    if copies:
        found.append(
            f"{len(copies)} photos have the same content as another, so that scores "
            f"are too high if they are in different folds ({listed(copies)})"
        )
    for name, parts in sums.items():
        if {name, *parts} <= set(photos):
            apart = (photos[name] - photos[list(parts)].sum(axis=1)).abs()
            wrong = apart[apart > _GRAMS + _SHARE * photos[name].abs()]
            if len(wrong):
                found.append(
                    f"{name} of {len(wrong)} photos is not the sum of "
                    f"{' and '.join(parts)}, by up to {wrong.max():g} g "
                    f"({listed(wrong.index)})"
                )
    return found


def _copies(paths: pd.Series) -> list[str]:
    """Return photos and the one that has the same bytes, as texts."""
    sizes = {path: os.path.getsize(path) for path in paths}
    counts = pd.Series(sizes).value_counts()
    first: dict[bytes, str] = {}
    copies = []
    for path, size in sizes.items():
        if counts[size] > 1:
            with open(path, "rb") as file:
                digest = hashlib.file_digest(file, "sha256").digest()
            if digest in first:
                copies.append(f"{path} as {first[digest]}")
            first.setdefault(digest, path)
    return copies
