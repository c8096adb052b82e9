"""The columns of a table of GEDI shots that have its labels and their errors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

FACTS = ("left_out", "shots", "shots_of_files")
"""In ``attrs`` of the tables that :func:`geobiomass.labels.read_gedi` returns."""
_VALUES, _ERRORS = "agbd", "agbd_se"


def columns_of_shots(labels: Any) -> tuple[str, str | None] | None:
    """Return the columns of a table's biomass and of its standard errors.

    Parameters
    ----------
    labels : object
        Labels of any kind.

    Returns
    -------
    tuple or None
        None unless it is a table of :func:`geobiomass.labels.read_gedi` without a
        column ``agb``; the second is None where no standard error is above 0.
    """
    if not isinstance(labels, pd.DataFrame) or not set(FACTS) <= set(labels.attrs):
        return None
    if "agb" in labels or list(labels.columns).count(_VALUES) != 1:
        return None
    if list(labels.columns).count(_ERRORS) != 1:
        return _VALUES, None
    known = pd.to_numeric(labels[_ERRORS], errors="coerce").to_numpy(np.float64)
    return _VALUES, _ERRORS if (known > 0).any() else None
