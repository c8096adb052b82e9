"""How well grams were predicted: the competition's score, and by target."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from geobiomass.training.metrics import weighted_r2

from .loader import PhotoError
from .photos import TARGETS
from .sums import WEIGHTS

__all__ = ["SCORE", "score", "summarise", "weights_of"]

SCORE = "weighted R2"


def weights_of(targets: Sequence[str]) -> tuple[float, ...]:
    """Give the weights of targets in loss and score.

    The competition's for its five in their order, the same for each of any others.
    """
    if tuple(targets) == TARGETS:
        return WEIGHTS
    return (1 / len(targets),) * len(targets)


def score(predicted: pd.DataFrame, measured: pd.DataFrame) -> pd.DataFrame:
    """Compare predicted with measured grams.

    Parameters
    ----------
    predicted
        Grams, a row a photo and a column a target.
    measured
        The same photos and targets, in any order, among what else there is.

    Returns
    -------
    pandas.DataFrame
        A row a target: ``r2``, ``rmse`` and ``bias`` (g), the mean of predicted minus
        measured. The last two rows are of all together: ``weighted R2`` pools all
        pairs of photo and target, as the competition scores (about one common mean);
        ``mean R2`` is the weighted mean of the targets' own, another number that
        public solutions report by mistake.

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
            f"measured must hold every photo and target that is predicted, got none of "
            f"{', '.join(map(str, absent[:5])) or 'any'}"
        )
    found = predicted.to_numpy(np.float64)
    known = measured.loc[predicted.index, targets].to_numpy(np.float64)
    error, weights = found - known, weights_of(targets)
    own = [
        weighted_r2(found[:, [place]], known[:, [place]], [1.0])
        for place in range(len(targets))
    ]
    table = pd.DataFrame(
        {
            "r2": own,
            "rmse": np.sqrt((error**2).mean(axis=0)),
            "bias": error.mean(axis=0),
        },
        index=targets,
    )
    table.loc["weighted R2", "r2"] = weighted_r2(found, known, weights)
    table.loc["mean R2", "r2"] = weighted_r2(found, known, weights, pooled=False)
    return table


def summarise(predicted: pd.DataFrame, measured: pd.DataFrame) -> dict[str, float]:
    """Give both scores of `score` and the RMSE of all targets together, g."""
    table = score(predicted, measured)["r2"]
    error = predicted - measured.loc[predicted.index, list(predicted)]
    return {
        SCORE: float(table[SCORE]),
        "mean R2": float(table["mean R2"]),
        "RMSE": float(np.sqrt((error.to_numpy(np.float64) ** 2).mean())),
    }
