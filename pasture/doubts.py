"""What a table of photos can hold that is used, but is most often a mistake."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence

import numpy as np
import pandas as pd

from .inspection import listed

__all__ = ["doubts_of"]

# Parts and sums are weighed and rounded apart: below this nothing is told.
_GRAMS, _SHARE = 0.1, 0.02
_FEWEST = 3  # photos of which it is odd that all have one mass


def doubts_of(
    photos: pd.DataFrame, targets: Sequence[str], sums: dict[str, tuple[str, ...]]
) -> list[str]:
    """Return what is doubtful in a table of photos, with counts and the first photos.

    Files with the same bytes under several names: if one is held out, another is in
    training. Sums that are not those of their parts. Targets with one value.

    Parameters
    ----------
    photos
        Photos with ``path`` and targets, all of them files.
    targets
        The targets that are looked for.
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
    for name in targets:
        values = photos[name].to_numpy() if name in photos else np.empty(0)
        # Clover is absent from many paddocks, so that zeros alone are no doubt.
        if len(values) >= _FEWEST and values[0] != 0 and (values == values[0]).all():
            found.append(f"{name} is {values[0]:g} in all {len(values)} photos")
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
