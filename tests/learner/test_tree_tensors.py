"""Trees as tensors give scikit-learn's bits; shares and folds of the blend."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.ensemble import ExtraTreesRegressor, RandomForestRegressor

from geobiomass.learner.fitting import LINE, MEAN, Labels, fit_parts, folds_of
from geobiomass.learner.trees import Trees


def table(rows: int, seed: int) -> np.ndarray:
    draw = np.random.default_rng(seed)
    values = draw.normal(size=(rows, 8)).astype(np.float32)
    values[draw.random(values.shape) < 0.15] = np.nan
    return values


@pytest.mark.parametrize("kind", [RandomForestRegressor, ExtraTreesRegressor])
def test_trees_give_the_bits_of_scikit_learn(kind: Any) -> None:
    known, other = table(400, 0), table(3000, 1)
    target = np.nan_to_num(known[:, 0], nan=3.0) + np.nan_to_num(known[:, 1]) ** 2
    forest = kind(12, random_state=0, max_features=0.5).fit(known, target)
    # Values on thresholds, where the side depends on the last bit.
    edges = np.concatenate([tree.tree_.threshold for tree in forest.estimators_])
    edges = edges[np.isfinite(edges)]  # infinite where missing goes its own way
    other[:500, 0] = edges[:500].astype(np.float32)
    trees = Trees.of(forest.estimators_)
    rows = torch.from_numpy(np.ascontiguousarray(other.T))
    found = trees.total(trees.leaves(rows)) / 12
    assert np.array_equal(found.numpy(), forest.predict(other))
    parts = [trees.total(trees.leaves(one)) / 12 for one in rows.split(700, dim=1)]
    assert torch.equal(torch.cat(parts), found)


def test_folds_keep_groups_whole_and_are_even() -> None:
    groups = np.repeat(np.arange(30), np.random.default_rng(0).integers(1, 20, 30))
    folds = folds_of(groups, seed=0)
    assert all(len(set(folds[groups == group])) == 1 for group in range(30))
    counts = np.bincount(folds)
    assert len(counts) == 10
    assert counts.max() - counts.min() <= 20
    assert np.array_equal(folds, folds_of(groups, seed=0))
    assert not np.array_equal(folds, folds_of(groups, seed=1))


def test_a_line_is_learnt_by_the_ridge_and_noise_by_none() -> None:
    draw = np.random.default_rng(0)
    values = draw.normal(size=(240, 8)).astype(np.float32)
    straight = 50 + values @ np.arange(8.0)
    even, groups = np.ones(240), np.arange(240) % 24
    line = fit_parts(Labels(values, straight, even, groups), 60, 0)
    assert line.shares[LINE] > 0.8
    assert np.sqrt(np.mean((line.held_out - straight) ** 2)) < 0.2 * straight.std()
    noise = draw.normal(size=240)
    parts = fit_parts(Labels(values, noise, even, groups), 400, 0, (0.05, 0.95))
    away = parts.held_out - noise
    assert np.sqrt(np.mean(away**2)) < 1.04 * noise.std()
    assert parts.shares[MEAN] > 0
    assert parts.ends is not None
    covered = np.mean((parts.ends[0] <= noise) & (noise <= parts.ends[1]))
    assert 0.8 < covered < 0.97
