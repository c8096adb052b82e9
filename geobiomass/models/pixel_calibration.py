"""Calibration of an interval on predictions of single labels out of fold."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from geobiomass.data.reader import Reader
from geobiomass.models.calibration import calibration_of
from geobiomass.recipes.label_table import LabelTable
from geobiomass.statistics.conformal import Calibration, few_groups
from geobiomass.statistics.conformal_units import Unit

if TYPE_CHECKING:
    from geobiomass.models.regressor import BiomassRegressor

Numbers = npt.NDArray[np.float64]


def calibrate_out_of_fold(
    model: BiomassRegressor,
    interval: float,
    reader: Reader,
    table: LabelTable,
    held_out: tuple[Numbers, Numbers | None],
    groups: npt.NDArray[np.int64],
    named: str | None,
    folds: int,
    weigh: bool = False,
) -> Calibration:
    """Calibrate on predictions out of fold (Vovk, Cross-conformal, 2015).

    Parameters
    ----------
    model : BiomassRegressor
        With the names of its maps.
    interval : float
        To calibrate.
    reader : Reader
        That the labels are read with.
    table : LabelTable
        The labels.
    held_out : tuple
        Predictions out of fold, and the ends of their interval if there are.
    groups : numpy.ndarray
        (row,) the group of each label.
    named : str, optional
        The coordinate that names the groups.
    folds : int
        Of the predictions out of fold at most; fewer where there are fewer groups.
    weigh : bool
        Whether labels weigh by their standard errors, if they have any.
    """
    middle, ends = held_out
    units = []
    for number in np.unique(table.where):
        own = table.where == number
        values = {model.outputs[0]: middle[own]}
        if ends is not None:
            values |= dict(zip(model.outputs[1:], ends[:, own], strict=True))
        group = str(groups[own][0]) if named is not None else None
        errors = table.errors[own] if weigh and table.errors is not None else None
        units.append(Unit(values, table.target[own], group, errors))
    found = calibration_of(
        units,
        reader,
        interval,
        folds=min(folds, len(np.unique(groups))),
        target=model.target,
        groups=named,
    )
    if named is not None and found.kind != "groups":
        warnings.warn(few_groups(found.interval, named, ""), stacklevel=6)
    return found
