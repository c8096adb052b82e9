"""What all models of pasture do: predict grams of photos, and be judged by them."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path

import pandas as pd

from geobiomass.training.estimator import SavedModel

from .loader import PhotoError
from .photos import problems_of_table, refuse
from .scores import score

__all__ = ["PastureModel", "check_share", "need", "read_table", "write_table"]


class PastureModel(SavedModel):
    """A `PastureRegressor`, several as one, or one adapted to its test photos.

    Attributes
    ----------
    targets
        What it predicts, in order.
    """

    load_call = "pasture.load(folder)"
    targets: tuple[str, ...]

    @abstractmethod
    def predict(
        self, photos: pd.DataFrame, flips: bool = True, blend: float | None = None
    ) -> pd.DataFrame:
        """Predict grams of photos; `blend` is another share of its parts."""

    def evaluate(self, photos: pd.DataFrame, flips: bool = True) -> pd.DataFrame:
        """Compare predicted with measured grams of photos it has not learnt from.

        Parameters
        ----------
        photos
            As `pasture.read_photos` gives them, with the model's targets.
        flips
            As in `predict`.

        Returns
        -------
        pandas.DataFrame
            As `pasture.score` gives it.

        Raises
        ------
        PhotoError
            A target is missing, or grams are unknown or negative.
        """
        need(photos, ["path", *self.targets])
        refuse(problems_of_table(photos, self.targets))
        return score(self.predict(photos, flips=flips), photos)


def check_share(blend: float) -> float:
    """Refuse a share that is not from 0 to 1.

    Raises
    ------
    ValueError
        Names it.
    """
    if not 0 <= blend <= 1:
        raise ValueError(f"blend must be a share from 0 to 1, got {blend}")
    return blend


def need(photos: pd.DataFrame, columns: list[str]) -> None:
    """Refuse photos without rows, or without the columns that are needed.

    Raises
    ------
    PhotoError
        Names the columns.
    """
    absent = [name for name in columns if name not in photos]
    if absent or photos.empty:
        raise PhotoError(
            f"photos must have rows and the columns {', '.join(columns)}, got "
            f"{len(photos)} rows and no {', '.join(absent) or 'column too few'}"
        )


def write_table(table: pd.DataFrame, path: Path) -> None:
    """Write a table with a row a photo into a model's folder."""
    table.to_csv(path, index_label="photo")


def read_table(path: Path) -> pd.DataFrame:
    """Read what `write_table` wrote, to the last bit.

    Numbers are read as Python does: releases of pandas differ in the last bit.
    """
    cells = pd.read_csv(path, index_col="photo", dtype=str, keep_default_na=False)
    return cells.map(float)
