"""Likeness of the mean errors of distant units, beside independent ones."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from geobiomass.statistics.far_correlation import far_correlation

SIDE = 200.0  # of a unit, metres


def scene(across: int) -> tuple[pd.DataFrame, np.ndarray]:
    """Return nine residuals of each of several square units, and their numbers."""
    row, column = np.indices((3 * across, 3 * across))
    table = pd.DataFrame({"y": row.ravel(), "x": column.ravel()}) * SIDE / 3
    unit = (row // 3) * across + column // 3
    return table, unit.ravel()


def test_an_error_that_rises_over_a_scene_is_improbable() -> None:
    table, unit = scene(6)
    noise = np.random.default_rng(0).normal(size=len(table))
    rising = noise + table["x"].to_numpy() / 500
    assert far_correlation(table, rising, unit, 300.0) <= 0.01  # type: ignore[operator]
    assert far_correlation(table, rising, unit, 300.0) == far_correlation(
        table, rising + 100, unit, 300.0
    )


def test_independent_errors_have_any_probability_alike() -> None:
    table, unit = scene(6)
    random = np.random.default_rng(1)
    found = [
        far_correlation(table, random.normal(size=len(table)), unit, 300.0)
        for _ in range(60)
    ]
    low = sum(1 for p in found if p is not None and p <= 0.1)
    # Binomial of 60 with 0.1: 15 or more have a probability below 0.001.
    assert low < 15
    assert max(p for p in found if p is not None) > 0.8


@pytest.mark.parametrize(("across", "beyond"), [(2, 100.0), (6, 5000.0)])
def test_few_units_or_near_ones_have_none(across: int, beyond: float) -> None:
    table, unit = scene(across)
    assert far_correlation(table, np.arange(len(table)) * 1.0, unit, beyond) is None
