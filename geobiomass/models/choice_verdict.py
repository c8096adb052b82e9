"""The verdict of a comparison: a row for each learner, which is kept, and why."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from geobiomass.statistics.paired_errors import (
    Compared,
    compare_errors,
    simplest_of_best,
)

PIXELS, NETWORK, STACK = "pixels", "network", "stack"
RIDGE, MEAN = "ridge", "mean"
ORDER = (PIXELS, NETWORK, STACK)
"""Learners that can be kept, from the simplest to the most costly."""


def judge(
    errors: Mapping[str, npt.NDArray[np.float64]],
    groups: npt.NDArray[np.int64],
    notes: Mapping[str, str],
    seconds: Mapping[str, float],
) -> dict[str, Any]:
    """Return the record of a choice, as JSON has it.

    Parameters
    ----------
    errors : mapping of str to numpy.ndarray
        (label,) predicted minus observed, by learner, on the same held-out labels;
        those of references too.
    groups : numpy.ndarray
        (label,) the group of each label.
    notes, seconds : mapping
        By learner, where there are.
    """
    order = [name for name in ORDER if name in errors]
    compared = compare_errors(errors, groups, order)
    kept = simplest_of_best(compared, order)
    notes = {RIDGE: "reference", MEAN: "reference", **notes}
    rows = [
        _row(name, compared.get(name), seconds.get(name))
        | {
            "labels": len(groups) if name in errors else 0,
            "kept": name == kept,
            "note": notes.get(name, ""),
        }
        for name in (*ORDER, RIDGE, MEAN)
        if name in errors or name in notes
    ]
    return {
        "rows": rows,
        "kept": kept,
        "why": _why(compared, order, kept),
        "warning": _warning(compared, kept, len(groups)),
        "groups": len(np.unique(groups)),
    }


def _row(name: str, found: Compared | None, seconds: float | None) -> dict[str, Any]:
    errors = ("rmse", "standard_error", "difference", "difference_error", "bias")
    values = {k: None if found is None else getattr(found, k) for k in errors}
    values["seconds"] = seconds
    # JSON has no NaN.
    return {"learner": name} | {
        name: value if value is not None and math.isfinite(value) else None
        for name, value in values.items()
    }


def _why(compared: Mapping[str, Compared], order: list[str], kept: str) -> str:
    """Return in one or two sentences why a learner is kept."""
    one, ridge = compared[kept], compared[RIDGE]
    best = min(order, key=lambda name: compared[name].rmse)
    if len(order) == 1:
        text = f"Kept: {kept}."
    elif kept != best:
        text = (
            f"Kept: {kept}, simpler than {best} and not worse by more than one "
            f"standard error ({_apart(one)})."
        )
    else:
        others = [name for name in order if name != kept]
        worse = ", ".join(f"{name} by {_apart(compared[name])}" for name in others)
        text = f"Kept: {kept}, the best; worse are {worse}."
    if ridge.rmse < one.rmse:
        # Differences are to the best of the candidates.
        text += f" Ridge regression has a lower RMSE by {one.rmse - ridge.rmse:.3g}."
    return text


def _apart(found: Compared) -> str:
    return f"{found.difference:.3g} ± {found.difference_error:.2g}"


def _warning(compared: Mapping[str, Compared], kept: str, labels: int) -> str:
    """Return a warning where nothing was learnt; empty otherwise."""
    if compared[kept].rmse < compared[MEAN].rmse:
        return ""
    return (
        f"On held-out labels ({labels:,}) {kept} is no better than the mean of the "
        f"labels: RMSE {compared[kept].rmse:.4g} and {compared[MEAN].rmse:.4g}. The "
        "map says little more than one number; give more labels, of more places."
    )
