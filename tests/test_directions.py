"""Whether errors are longer in one direction than in another."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from benchmarks.error_fields import blocks, field, residuals
from geobiomass.statistics.directions import unlike_directions
from geobiomass.statistics.variogram import Variogram

PIXEL = (10.0, 10.0)
SIDE = 160  # pixels
LENGTH = 300.0  # effective range, metres


def scene(
    stretch: int, seed: int, across: bool = True
) -> tuple[pd.DataFrame, np.ndarray]:
    """Return residuals, and errors that reach some times as far in one direction."""
    shape = Variogram(0.2, 0.8, LENGTH / 3, "exponential")
    errors = field((SIDE, SIDE), shape, PIXEL, np.random.default_rng(seed))
    longer = np.repeat(errors[: SIDE // stretch], stretch, axis=0)[:SIDE]
    errors = longer.T if across else longer
    table = residuals(errors, PIXEL, unit=blocks(errors.shape, 40))
    table.attrs["kind"] = "scene"
    return table, errors.ravel()


@pytest.mark.parametrize("across", [False, True])
def test_errors_of_any_direction_are_found(across: bool) -> None:
    ratio = unlike_directions(*scene(5, 0, across), LENGTH)
    assert ratio is not None
    assert ratio > 1.3  # doubtful


def test_errors_without_a_direction_have_a_ratio_near_one() -> None:
    for seed in range(3):
        ratio = unlike_directions(*scene(1, seed), LENGTH)
        assert ratio is not None
        assert 1 <= ratio < 1.3  # ok


def test_where_few_pairs_are_there_is_none() -> None:
    table, errors = scene(1, 0)
    attrs, few = table.attrs, table.iloc[::600]
    few.attrs = attrs
    assert unlike_directions(few, errors[::600], LENGTH) is None
    assert unlike_directions(table, errors, 5.0) is None  # below a pixel
