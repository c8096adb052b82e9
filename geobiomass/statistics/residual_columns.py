"""Whether a table is one of residuals: its columns, types and size of a pixel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

RESIDUALS = ("observed", "predicted", "y", "x", "unit")


def check_residuals(
    table: Any,
    columns: Sequence[str] = RESIDUALS,
    what: str = "Residuals",
    pixel: bool = True,
) -> None:
    """Check that a table has the columns of residuals.

    Parameters
    ----------
    table : pandas.DataFrame
        What a user gave.
    columns : sequence of str
        Those that are needed; all but ``unit`` have numbers.
    what : str
        The table, for messages.
    pixel : bool
        Whether ``attrs["pixel"]`` is needed too.

    Raises
    ------
    ValueError
        If it is no table, or lacks one of these.
    """
    remedy = "gb.residuals and CrossValidation.residuals make such tables"
    if not isinstance(table, pd.DataFrame):
        raise ValueError(
            f"{what} must be a pandas table, got a {type(table).__name__}; {remedy}."
        )
    for name in columns:
        if name not in table:
            raise ValueError(
                f"{what} must have a column {name!r}, got {list(table.columns)}; "
                f"{remedy}."
            )
        if isinstance(table[name], pd.DataFrame):
            raise ValueError(f"{what} must have one column {name!r}, got several.")
        kind = table[name].dtype
        if name != "unit" and not pd.api.types.is_numeric_dtype(kind):
            raise ValueError(
                f"Column {name!r} of {what[:1].lower()}{what[1:]} must be numbers, got "
                f"{kind}: {table[name].head(3).tolist()}."
            )
    if pixel and not _is_size(table.attrs.get("pixel")):
        raise ValueError(
            f"{what} must have the size of a pixel, attrs['pixel'] = (metres down, "
            f"metres across), got attrs {table.attrs}."
        )


def _is_size(given: Any) -> bool:
    try:
        down, across = (float(side) for side in given)
    except (TypeError, ValueError):
        return False
    return bool(np.isfinite([down, across]).all()) and min(down, across) > 0
