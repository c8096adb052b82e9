"""Parameters of which the quick suite takes the first few."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest


def variants(
    names: str | tuple[str, ...], values: Iterable[Any], quick: int
) -> pytest.MarkDecorator:
    """Return ``pytest.mark.parametrize`` whose values after the first ones are slow.

    Parameters
    ----------
    names : str or tuple of str
        Argument of the test, or several.
    values : iterable
        Its values, tuples for several arguments.
    quick : int
        How many of them the quick suite takes.
    """
    several = not isinstance(names, str)
    return pytest.mark.parametrize(
        names,
        [
            pytest.param(
                *(value if several else (value,)),
                marks=[pytest.mark.slow] if number >= quick else [],
            )
            for number, value in enumerate(values)
        ],
    )
