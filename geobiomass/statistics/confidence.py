"""The confidence of an interval."""

from __future__ import annotations

import math

DEFAULT_CONFIDENCE = 0.95
"""Confidence of the intervals of totals and of change, and of both commands."""


def check_confidence(confidence: float) -> None:
    """Check that the confidence of an interval is possible.

    Raises
    ------
    ValueError
        If it is not above 0 and below 1.
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be above 0 and below 1, got {confidence}.")


def t_quantile(confidence: float, freedom: float) -> float:
    """Return half the width of a confidence interval in standard errors: Student's t.

    Raises
    ------
    ValueError
        If the confidence is not between 0 and 1.
    """
    from scipy.special import ndtri, stdtrit

    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be between 0 and 1, got {confidence!r}.")
    share = (1 + confidence) / 2
    return float(stdtrit(freedom, share) if math.isfinite(freedom) else ndtri(share))
