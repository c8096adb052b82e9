"""Photos that no model can learn from: refused before a network is trained."""

from __future__ import annotations

import filecmp
import warnings
from collections.abc import Sequence

import pandas as pd

from .photo_files import PhotoError

__all__ = ["check_training_photos"]


def check_training_photos(
    photos: pd.DataFrame, targets: Sequence[str], stacklevel: int = 2
) -> None:
    """Check that photos to train on differ, and that their targets do.

    Raises
    ------
    PhotoError
        There is one photo only, or all are copies of one, or no target has two values.

    Warns
    -----
    UserWarning
        Some targets have one value only; it names them.
    """
    paths = [str(path) for path in photos["path"]]
    if all(filecmp.cmp(paths[0], path, shallow=False) for path in paths[1:]):
        raise PhotoError(
            f"photos to train on must differ, got {len(paths)} photos that are all "
            f"{paths[0]} or a copy of it; a model would learn nothing of grass"
        )
    equal = [name for name in targets if photos[name].nunique() == 1]
    values = ", ".join(f"{name} {photos[name].iloc[0]:g}" for name in equal)
    if len(equal) == len(targets):
        raise PhotoError(
            f"targets to train on must differ from photo to photo, got {len(paths)} "
            f"photos with the same ({values}); a model would predict this for all "
            "photos"
        )
    if equal:
        warnings.warn(
            f"targets are the same in all of the {len(paths)} photos to train on, and "
            f"nothing is learnt of them: {values}",
            stacklevel=stacklevel + 1,
        )
