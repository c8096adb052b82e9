"""Plots that trained the model of a map: their correction is too small."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from geobiomass.metadata.learnt_labels import places_of_map, plots_learnt
from geobiomass.sources.plot_table import Plots

TRAINED = "plots_trained"
"""Attribute of a table of totals: plots that trained the model, or "unknown"."""
UNKNOWN = "unknown: the map does not say which labels trained its model"

Mask = npt.NDArray[np.bool_]

# What libraries raise where a record of places was changed: the CRS is no CRS, ...
_DAMAGED = (ValueError, TypeError, KeyError, RuntimeError, OSError)


def find_trained(maps: Sequence[Any], plots: Plots) -> tuple[Mask, bool]:
    """Return which plots trained the model of a map, and whether all are known.

    Parameters
    ----------
    maps : sequence
        Maps or their paths, as :func:`geobiomass.totals` takes them.
    plots : Plots
        To look for.
    """
    found, known = np.zeros(len(plots.geometries), bool), True
    for map in maps:
        try:
            places = places_of_map(map)
            learnt, complete = (
                (False, False) if places is None else plots_learnt(places, plots)
            )
        except _DAMAGED:
            learnt, complete = False, False
        found |= learnt
        known &= complete
    return found, known


def note_trained(
    table: pd.DataFrame, trained: Mask, known: bool, stacklevel: int
) -> None:
    """Write the number of plots that trained the model into a table, and tell it.

    Parameters
    ----------
    table : pandas.DataFrame
        Of totals; gets the attribute.
    trained : numpy.ndarray
        (plot,) bool.
    known : bool
        Whether the map says all that its model learnt from.
    stacklevel : int
        Of the warning.
    """
    count = int(trained.sum())
    table.attrs[TRAINED] = count if known or count else UNKNOWN
    if count:
        warnings.warn(
            f"{count} of {trained.size} plots trained the model of the map: its errors "
            "at them are too small, so the correction by them is too, and the interval "
            "is too narrow; leave out those of model.learnt_from(plots), and draw the "
            "audit sample before training, gb.labels.split(plots, audit=0.3).",
            stacklevel=stacklevel,
        )
