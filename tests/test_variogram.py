"""Variograms: known fields are recovered, sums are those of the definition."""

from __future__ import annotations

import json
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from variants import variants

from benchmarks.error_fields import blocks, field, residuals
from geobiomass.statistics.variogram import (
    MODELS,
    Model,
    Variogram,
    fit_variogram,
    suggest_block,
)

PIXEL = (10.0, 10.0)
TRUE = {"exponential": 100.0, "spherical": 300.0, "matern": 110.0}


@variants("model", MODELS, quick=1)
def test_known_fields_are_recovered(model: Model) -> None:
    # One field of 256 pixels holds some fifty patches: each fit is off by chance (25 %
    # at most here), their mean is not.
    true = Variogram(100.0, 300.0, TRUE[model], model)
    fits = []
    for seed in range(8):
        error = field((256, 256), true, PIXEL, np.random.default_rng(seed))
        fits.append(
            fit_variogram(residuals(error, PIXEL), model=model, pairs=60_000, seed=seed)
        )
    for name, each, mean in (
        ("nugget", 0.25, 0.08),
        ("sill", 0.25, 0.08),
        ("effective_range", 0.35, 0.12),
    ):
        found = np.array([getattr(fit, name) for fit in fits])
        known = getattr(true, name)
        np.testing.assert_allclose(found, known, rtol=each, err_msg=name)
        np.testing.assert_allclose(found.mean(), known, rtol=mean, err_msg=name)


@pytest.mark.slow
def test_the_model_is_chosen_by_its_fit() -> None:
    for model in ("spherical", "matern"):
        true = Variogram(10.0, 300.0, TRUE[model], model)
        chosen = []
        for seed in range(3):
            error = field((256, 256), true, PIXEL, np.random.default_rng(seed))
            chosen.append(fit_variogram(residuals(error, PIXEL)).model)
        assert chosen.count(model) >= 2


def test_semivariances_are_those_of_the_definition() -> None:
    random = np.random.default_rng(3)
    table = residuals(random.normal(size=(14, 17)), (10.0, 20.0)).sample(
        200, random_state=1
    )
    table.attrs = {"kind": "scene", "pixel": (10.0, 20.0)}
    fitted = fit_variogram(table, lags=6)
    y, x = table["y"].to_numpy(), table["x"].to_numpy()
    e = (table["predicted"] - table["observed"]).to_numpy()
    edges = np.geomspace(9.0, 17 * 20 / 2 * 1.0001, 7)
    rows = []
    for low, high in pairwise(edges):
        here = []
        for i in range(len(e)):
            for j in range(i):
                h = np.hypot(y[i] - y[j], x[i] - x[j])
                if low <= h < high:
                    here.append((h, (e[i] - e[j]) ** 2 / 2))
        if len(here) >= 30:
            rows.append((*np.mean(here, axis=0), len(here)))
    np.testing.assert_allclose(fitted.table.to_numpy(float), rows)


@pytest.mark.slow
def test_drawn_pairs_agree_with_all_pairs() -> None:
    true = Variogram(50.0, 200.0, 60.0, "exponential")
    error = field((60, 60), true, PIXEL, np.random.default_rng(5))
    table = residuals(error, PIXEL)
    every = fit_variogram(table, pairs=7_000_000).table
    drawn = fit_variogram(table, pairs=200_000).table
    assert every["pairs"].sum() > 10 * drawn["pairs"].sum()
    np.testing.assert_allclose(drawn["semivariance"], every["semivariance"], rtol=0.05)
    # Drawn by lag: the shortest lag has about as many pairs as the others.
    assert drawn["pairs"].min() > 0.3 * drawn["pairs"].max()


def test_sparse_residuals_are_enough() -> None:
    true = Variogram(0.0, 200.0, 200.0, "exponential")
    error = field((400, 400), true, PIXEL, np.random.default_rng(5))
    table = residuals(error, PIXEL).sample(4000, random_state=0)
    fitted = fit_variogram(table)
    assert fitted.effective_range == pytest.approx(600, rel=0.35)


def test_pairs_of_chips_are_within_a_chip() -> None:
    # Each chip has its own level: across chips semivariances would hold its variance.
    random = np.random.default_rng(0)
    side, shape = 16, (64, 64)
    unit = blocks(shape, side)
    level = dict(zip(np.unique(unit), random.normal(0, 100, 16), strict=True))
    error = random.normal(size=shape) + np.vectorize(level.get)(unit)
    chips = residuals(error, PIXEL, unit=unit, kind="chips")
    assert fit_variogram(chips).table["semivariance"].max() < 2
    scene = residuals(error, PIXEL, unit=unit)
    assert fit_variogram(scene).table["semivariance"].max() > 1000


def test_correlation_and_semivariance_agree() -> None:
    h = np.array([0.0, 1.0, 50.0, 1e6])
    for model in MODELS:
        variogram = Variogram(100.0, 300.0, 80.0, model)
        np.testing.assert_allclose(
            variogram.semivariance(h), 400 * (1 - variogram.correlation(h))
        )
        assert variogram.correlation(0.0) == 1
        assert variogram.correlation(1e-9) == pytest.approx(0.75)
        reached = variogram.semivariance(variogram.effective_range)
        assert reached == pytest.approx(100 + 0.95 * 300, rel=1e-5)
        again = Variogram.from_dict(json.loads(json.dumps(variogram.to_dict())))
        assert again == variogram


def test_blocks_cover_the_effective_range() -> None:
    variogram = Variogram(1.0, 1.0, 400.0, "spherical")  # 325 m
    assert suggest_block(variogram, 10.0) == 64
    assert suggest_block(variogram, (10.0, 5.0)) == 96
    assert suggest_block(Variogram(1.0, 0.0, 400.0, "spherical"), 10.0) == 32
    seen = pd.DataFrame({"lag": [300.0], "semivariance": [1.0], "pairs": [99]})
    assert suggest_block(Variogram(1.0, 1.0, 400.0, "spherical", seen), 10.0) == 32
    error = field(
        (200, 200),
        Variogram(0.0, 9.0, 150.0, "exponential"),
        PIXEL,
        np.random.default_rng(1),
    )
    assert suggest_block(residuals(error, PIXEL)) in (32, 64)
    with pytest.raises(ValueError, match="pixel= must be given with a variogram"):
        suggest_block(variogram)


def test_invalid_residuals_raise() -> None:
    random = np.random.default_rng(0)
    error = random.normal(size=(20, 20))
    table = residuals(error, PIXEL)
    with pytest.raises(ValueError, match="30 or more, got 29"):
        fit_variogram(table[:29])
    with pytest.raises(ValueError, match=r"must differ, got 7\.0 everywhere"):
        fit_variogram(residuals(np.full((20, 20), 7.0), PIXEL))
    holes = table.assign(predicted=np.where(table["x"] == 0, np.nan, 1.0))
    with pytest.raises(ValueError, match="got 20 that are not"):
        fit_variogram(holes)
    with pytest.raises(ValueError, match="column 'unit'"):
        fit_variogram(table.drop(columns="unit"))
    nowhere = table.copy()
    nowhere.attrs = {}
    with pytest.raises(ValueError, match="must have the size of a pixel, attrs"):
        fit_variogram(nowhere)
    alone = residuals(error, PIXEL, unit=blocks((20, 20), 1), kind="chips")
    with pytest.raises(ValueError, match="use larger units"):
        fit_variogram(alone)
    with pytest.raises(ValueError, match="one of"):
        Variogram(1.0, 1.0, 1.0, "gaussian")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="Nugget and sill"):
        Variogram(0.0, 0.0, 1.0, "matern")
    with pytest.raises(ValueError, match="above 0 m"):
        Variogram(0.0, 1.0, 0.0, "matern")
