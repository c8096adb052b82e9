"""Check of ``label_shift``, without PyTorch: a wrong value is an error at once."""

from __future__ import annotations

SHIFTS = (0, 1, 2)


def check_shift(shift: int) -> None:
    """Check the value of a recipe's ``label_shift``.

    Raises
    ------
    ValueError
        If it is not 0, 1 or 2.
    """
    if isinstance(shift, bool) or not isinstance(shift, int) or shift not in SHIFTS:
        raise ValueError(
            f"label_shift must be 0, 1 or 2 pixels, got {shift!r}; for labels that "
            "are further off, use larger pixels or better places."
        )
