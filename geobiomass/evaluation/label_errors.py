"""Error metrics of a map beside labels whose standard errors are known.

The difference of a map from a label is the map's error and the label's. If the two are
independent and labels are right on average, its mean square is the sum of theirs:
RMSE^2 - mean(se^2) is the mean squared error of the map itself.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from geobiomass.evaluation.metrics import (
    CONFIDENCE,
    LABEL_ERROR,
    WITHOUT_LABEL_ERROR,
    Bins,
    Tally,
)
from geobiomass.statistics.label_errors import relative_weights, without_missing

FACTS = "label errors"
"""In ``attrs`` of a table of metrics: how errors of labels were used."""
MEASURED = "validation and interval"
"""In the record of a model whose labels weigh there; in earlier releases not."""
_MOST = 2**22  # labels in memory at most: 200 MB; weights of more are as of these


class ErrorTally(Tally):
    """Sums of errors by bin where labels have standard errors.

    Labels are kept until there are all of them, or four million, as their weights
    depend on their residuals.

    Parameters
    ----------
    bins : Bins, optional
        Rows of the table, as of :class:`.metrics.Tally`.
    weigh : bool
        Whether labels weigh 1 / (tau^2 + se^2); else all weigh alike.
    independent : bool
        Whether the map never saw these labels. If it did, its error is not independent
        of theirs, and the one without the other is not given.
    """

    def __init__(
        self, bins: Bins | None = None, weigh: bool = False, independent: bool = True
    ) -> None:
        super().__init__(bins, errors=True)
        self.weigh, self.independent = weigh, independent
        self._parts: list[dict[str, Any]] = []
        self._waiting = 0
        self._unexplained: float | None = None
        self._without = 0
        self._masses = np.zeros(2)  # of weights, and of their squares

    @property
    def count(self) -> int:
        """Pixels compared so far."""
        return super().count + self._waiting

    def add(
        self,
        predicted: npt.NDArray[Any],
        observed: npt.NDArray[Any],
        *,
        unit: Any = None,
        months: npt.NDArray[Any] | None = None,
        interval: tuple[npt.NDArray[Any], npt.NDArray[Any]] | None = None,
        errors: npt.NDArray[Any] | None = None,
        weights: npt.NDArray[Any] | None = None,
    ) -> None:
        """Add one chip, or one part of a scene, as :meth:`.metrics.Tally.add` does.

        `errors` are missing where a label has none, and `weights` are never given.
        """
        valid = np.isfinite(predicted) & np.isfinite(observed)
        if not valid.any():
            return
        errors = np.full(observed.shape, np.nan) if errors is None else errors
        part: dict[str, Any] = {
            "predicted": predicted[valid],
            "observed": observed[valid],
            "errors": errors[valid].astype(np.float64),
            "unit": unit,
            "months": None if months is None else months[valid],
            "interval": interval and (interval[0][valid], interval[1][valid]),
        }
        self._parts.append(part)
        self._waiting += len(part["errors"])
        if self._waiting > _MOST:
            self._settle()

    def table(
        self, confidence: float = CONFIDENCE, bootstrap: int = 0, seed: int = 0
    ) -> pd.DataFrame:
        """Return the metrics as :meth:`.metrics.Tally.table` does.

        With the columns ``label_error`` and ``rmse_without_label_error``, and in
        ``attrs["label errors"]`` what is behind them.
        """
        self._settle()
        table = super().table(confidence, bootstrap, seed)
        facts: dict[str, Any] = {
            "weighed": self.weigh,
            "tau": None if self._unexplained is None else self._unexplained**0.5,
            "effective labels": float(self._masses[0] ** 2 / self._masses[1])
            if self._masses[1]
            else 0.0,
            "without an error": self._without,
        }
        names = [n for n in table if str(n).startswith(WITHOUT_LABEL_ERROR)]
        if self.independent:
            low = table[LABEL_ERROR] >= table["pixel_rmse"]
            facts["clipped"] = [str(name) for name in table.index[low]]
        else:
            for name in names:
                table[name] = np.nan
            facts["not independent"] = "the model was trained on these labels"
        table.attrs[FACTS] = facts
        return table

    def _settle(self) -> None:
        """Add what waits to the sums, with its weights."""
        parts, self._parts, self._waiting = self._parts, [], 0
        if not parts:
            return
        errors = np.concatenate([part["errors"] for part in parts])
        errors, missing = without_missing(errors)
        self._without += missing
        weights = np.ones(len(errors))
        # Without any error, and with errors of 0 only, all weigh alike.
        if self.weigh and missing < len(errors):
            weights = self._weights(parts, errors.astype(np.float64))
        self._masses += (weights.sum(), (weights**2).sum())
        ends = np.cumsum([len(part["errors"]) for part in parts])[:-1]
        each = zip(parts, np.split(errors, ends), np.split(weights, ends), strict=True)
        for part, own, weight in each:
            super().add(**(part | {"errors": own, "weights": weight}))

    def _weights(
        self, parts: list[dict[str, Any]], errors: npt.NDArray[np.float64]
    ) -> npt.NDArray[np.float64]:
        if self._unexplained is None:
            residuals = [part["predicted"] - part["observed"] for part in parts]
            weights, found = relative_weights(np.concatenate(residuals), errors)
            self._unexplained = found
            self._scale = float(weights[0] * (found + errors[0] ** 2))
            return weights
        return np.asarray(self._scale / (self._unexplained + errors**2))


def tally_for(
    bins: Bins, has_errors: bool, weigh: bool, independent: bool = True
) -> Tally:
    """Return the tally for labels that have standard errors, or have none."""
    return ErrorTally(bins, weigh, independent) if has_errors else Tally(bins)


def tell_clipped(table: pd.DataFrame, stacklevel: int = 3) -> None:
    """Warn if labels are said to be less exact than they are seen to be.

    Or if they should weigh by errors, of which none is above 0.
    """
    facts: Mapping[str, Any] = table.attrs.get(FACTS, {})
    if facts.get("weighed") and not float(table[LABEL_ERROR]["all"]) > 0:
        warnings.warn(
            "No label that is compared has a standard error above 0, so that all "
            "weigh alike; give the errors, or label_errors=False.",
            stacklevel=stacklevel,
        )
    if "all" in facts.get("clipped", []):
        row = table.loc["all"]
        warnings.warn(
            f"The standard errors of the labels, {row[LABEL_ERROR]:.4g} in the "
            f"quadratic mean, are not below the RMSE of {row['pixel_rmse']:.4g}: "
            f"{WITHOUT_LABEL_ERROR} is given as 0. They may be too large, or in "
            "another unit, or map and labels share errors.",
            stacklevel=stacklevel,
        )
