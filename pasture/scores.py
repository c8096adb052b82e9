"""Scores of predicted grams: the competition's weighted R2, and R2, RMSE and bias."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from geobiomass.training.metrics import weighted_r2
from geobiomass.training.setting_names import explain_arguments

from .loader import PhotoError
from .photos import TARGETS
from .scaling import scale_of, shares_unit
from .sums import WEIGHTS

__all__ = ["SCORE", "score", "summarise", "weights_of"]

SCORE = "weighted R2"


def weights_of(targets: Sequence[str]) -> tuple[float, ...]:
    """Return the weights of targets in the loss and the score.

    The five targets of the competition, in their order, have its weights. Any others
    have equal weights.
    """
    if tuple(targets) == TARGETS:
        return WEIGHTS
    return (1 / len(targets),) * len(targets)


@explain_arguments
def score(predicted: pd.DataFrame, measured: pd.DataFrame) -> pd.DataFrame:
    """Compare predicted with measured grams.

    Parameters
    ----------
    predicted
        Grams, one row per photo and one column per target.
    measured
        The same photos and targets, in any order. Other rows and columns are ignored.

    Returns
    -------
    pandas.DataFrame
        One row per target: ``r2``, ``rmse`` and ``bias`` (g, or the unit of the
        targets), the mean of predicted minus measured. The last two rows summarise all
        targets. ``weighted R2`` pools all pairs of photo and target about one common
        mean, as the competition does. ``mean R2`` is the weighted mean of the targets'
        own R2, another number, which public solutions report by mistake. Targets of
        your own, which may have different units, are divided by their standard
        deviations before they are pooled.

    Raises
    ------
    PhotoError
        Photos or targets of `predicted` are not in `measured`.
    """
    targets = [str(name) for name in predicted]
    absent = [*predicted.index.difference(measured.index)]
    absent += [name for name in targets if name not in measured]
    if absent or predicted.empty:
        raise PhotoError(
            f"measured must have every photo and target that is predicted, got none of "
            f"{', '.join(map(str, absent[:5])) or 'any'}; add them, or leave them out "
            "of predicted"
        )
    found = predicted.to_numpy(np.float64)
    known = measured.loc[predicted.index, targets].to_numpy(np.float64)
    error, weights = found - known, weights_of(targets)
    # Pooled scores of targets in different units compare them as the loss does.
    one_unit = shares_unit(targets)
    scale = np.array([1.0] * len(targets) if one_unit else scale_of(known, targets))
    own = [
        weighted_r2(found[:, [column]], known[:, [column]], [1.0])
        for column in range(len(targets))
    ]
    table = pd.DataFrame(
        {
            "r2": own,
            "rmse": np.sqrt((error**2).mean(axis=0)),
            "bias": error.mean(axis=0),
        },
        index=targets,
    )
    table.loc["weighted R2", "r2"] = weighted_r2(found / scale, known / scale, weights)
    table.loc["mean R2", "r2"] = weighted_r2(found, known, weights, pooled=False)
    return table


def summarise(predicted: pd.DataFrame, measured: pd.DataFrame) -> dict[str, float]:
    """Return both scores of `score` and the RMSE of all targets together, g."""
    table = score(predicted, measured)["r2"]
    error = predicted - measured.loc[predicted.index, list(predicted)]
    return {
        SCORE: float(table[SCORE]),
        "mean R2": float(table["mean R2"]),
        "RMSE": float(np.sqrt((error.to_numpy(np.float64) ** 2).mean())),
    }
