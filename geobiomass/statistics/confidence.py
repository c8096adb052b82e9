"""The confidence of an interval."""

from __future__ import annotations


def check_confidence(confidence: float) -> None:
    """Check that the confidence of an interval is possible.

    Raises
    ------
    ValueError
        If it is not above 0 and below 1.
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be above 0 and below 1, got {confidence}.")
