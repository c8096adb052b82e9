"""One check of an assumption: its name, figure and verdict."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

Verdict = Literal["ok", "doubtful", "broken"]
OK: Verdict = "ok"
DOUBTFUL: Verdict = "doubtful"
BROKEN: Verdict = "broken"

FORCED, NO_ESTIMATE = "forced", "no estimate"
VERDICTS = (OK, DOUBTFUL, FORCED, BROKEN, NO_ESTIMATE)
"""Verdicts of a row, from the best to the worst."""

NO_INTERVAL = "no_interval"
"""Key of a row: why the rule of intervals gives none; the checks take it out."""


@dataclass(frozen=True)
class Check:
    """A check of a row of totals.

    Parameters
    ----------
    name : str
        Name of the check.
    figure : float
        What is compared; NaN where it is not known.
    verdict : "ok", "doubtful" or "broken"
        Broken: the interval does not hold. Doubtful: it may not, or the total is less
        than what it seems to be.
    words : str
        A sentence without a full stop, with the figure.
    of_change : bool
        Whether it also makes sense of a part of a change, such as loss.
    """

    name: str
    figure: float
    verdict: Verdict
    words: str
    of_change: bool = True

    def to_dict(self) -> dict[str, Any]:
        """Return the check as a row; the figure None where it is not known."""
        figure = float(self.figure) if math.isfinite(self.figure) else None
        return {
            "check": self.name,
            "figure": figure,
            "verdict": self.verdict,
            "words": self.words,
        }


def graded(value: float, doubtful: float, broken: float = math.inf) -> Verdict:
    """Return the verdict on a value by the limits that it must not be above."""
    return BROKEN if value > broken else DOUBTFUL if value > doubtful else OK
