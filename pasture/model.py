"""The base class of all pasture models: predict grams from photos, and evaluate."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path

import pandas as pd

from geobiomass.outside_text import readable_cells, safe_cells
from geobiomass.training.estimator import SavedModel
from geobiomass.training.setting_names import explain_arguments

from .inspection import check_shapes, raise_problems
from .loader import PhotoError
from .photos import PhotoSource, as_photos, problems_of_table
from .scores import score

__all__ = ["PastureModel", "check_columns", "check_share", "read_table", "write_table"]


@explain_arguments
class PastureModel(SavedModel):
    """A `PastureRegressor`, a `PastureEnsemble` or an `AdaptedModel`.

    Attributes
    ----------
    targets
        Names of the predicted targets, in order.
    """

    load_call = "pasture.load(folder)"
    targets: tuple[str, ...]

    @property
    @abstractmethod
    def ratio(self) -> float:
        """The longer divided by the shorter side of the photos it was trained on."""

    @abstractmethod
    def predict(
        self, photos: PhotoSource, flips: bool = True, blend: float | None = None
    ) -> pd.DataFrame:
        """Predict grams of photos; `blend` replaces the model's own share."""

    def _table(self, photos: PhotoSource) -> pd.DataFrame:
        """Return photos to predict as a table, after checks of rows and shapes."""
        table = as_photos(photos, self.targets)
        check_columns(table, ["path"])
        check_shapes(table["path"], self.ratio)
        return table

    def evaluate(self, photos: pd.DataFrame, flips: bool = True) -> pd.DataFrame:
        """Compare predicted with measured grams of photos it was not trained on.

        Parameters
        ----------
        photos
            Photos as `pasture.read_photos` returns them, with the model's targets.
        flips
            As in `predict`.

        Returns
        -------
        pandas.DataFrame
            Scores, as `pasture.score` returns them.

        Raises
        ------
        PhotoError
            A target is missing, or grams are unknown or negative.
        """
        check_columns(photos, ["path", *self.targets])
        raise_problems(problems_of_table(photos, self.targets))
        return score(self.predict(photos, flips=flips), photos)


def check_share(blend: float) -> float:
    """Check that a share is from 0 to 1, and return it.

    Raises
    ------
    ValueError
        It is out of range.
    """
    if not 0 <= blend <= 1:
        raise ValueError(f"blend must be a share from 0 to 1, got {blend}")
    return blend


def check_columns(photos: pd.DataFrame, columns: list[str]) -> None:
    """Check that a table of photos has rows and the required columns.

    Raises
    ------
    PhotoError
        `photos` is no table, has no rows, or a column is missing.
    """
    if not isinstance(photos, pd.DataFrame):
        raise PhotoError(
            f"photos must be a table, got a {type(photos).__name__}; read it with "
            "pasture.read_photos"
        )
    absent = [name for name in columns if name not in photos]
    if absent or photos.empty:
        own = "" if {*absent} <= {"path"} else _own_targets(photos)
        raise PhotoError(
            f"photos must have rows and the columns {', '.join(columns)}, got "
            f"{len(photos)} rows and no {', '.join(absent) or 'column too few'}; "
            f"read them with pasture.read_photos{own}"
        )


def _own_targets(photos: pd.DataFrame) -> str:
    """Return the advice to name targets, with the columns that have numbers."""
    numbers = [str(name) for name in photos.select_dtypes("number")]
    found = f" (columns of numbers: {', '.join(numbers[:10])})" if numbers else ""
    return f", and name targets of your own with targets=(...){found}"


def write_table(table: pd.DataFrame, path: Path) -> None:
    """Write a table with one row per photo to a file in a model's folder."""
    safe_cells(table).to_csv(path, index_label="photo")


def read_table(path: Path) -> pd.DataFrame:
    """Read a table that `write_table` wrote, with the same bits."""
    # Python parses the numbers: releases of pandas differ in the last bit.
    cells = pd.read_csv(path, index_col="photo", dtype=str, keep_default_na=False)
    numbers: pd.DataFrame = readable_cells(cells).map(float)
    return numbers
