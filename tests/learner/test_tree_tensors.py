"""Trees as tensors give scikit-learn's bits; kernel, shares, folds of the blend."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.ensemble import (
    ExtraTreesRegressor,
    HistGradientBoostingRegressor,
    RandomForestRegressor,
)
from sklearn.gaussian_process.kernels import RationalQuadratic

from geobiomass.learner.fitting import (
    Labels,
    _boost,
    _grow,
    _rounds,
    fit_parts,
    folds_of,
    seconds_of,
    shares_of,
    trees_of,
)
from geobiomass.learner.kernel_ridge import fit_kernel_ridge
from geobiomass.learner.trees import Nodes, Trees


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
    trees = Trees.of([Nodes.of_tree(tree) for tree in forest.estimators_])
    rows = torch.from_numpy(np.ascontiguousarray(other.T))
    found = trees.total(trees.leaves(rows)) / 12
    assert np.array_equal(found.numpy(), forest.predict(other))
    parts = [trees.total(trees.leaves(one)) / 12 for one in rows.split(700, dim=1)]
    assert torch.equal(torch.cat(parts), found)


def test_boosted_trees_give_what_scikit_learn_predicts() -> None:
    # Its nodes are private attributes: another layout of them must not go unseen.
    known, other = table(500, 0), table(2000, 1)
    target = 40 + np.nan_to_num(known[:, 1], nan=3.0) + np.nan_to_num(known[:, 5]) ** 2
    columns = np.array([1, 3, 5])
    boosting = HistGradientBoostingRegressor(max_iter=40, random_state=0)
    boosting.fit(known[:, columns], target)
    nodes, start = Nodes.of_boosting(boosting, columns)
    trees = Trees.of(nodes)
    found = start + trees.total(trees.leaves(torch.from_numpy(other.T.copy()))).numpy()
    expected = boosting.predict(other[:, columns])
    assert np.ptp(expected) > 3
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_a_kernel_ridge_is_scikit_learns_and_its_folds_are_honest() -> None:
    draw = np.random.default_rng(0)
    values = draw.normal(size=(60, 4)).astype(np.float32)
    target = 30 + 5 * np.sin(values[:, 0]) + values[:, 1] ** 2
    folds = np.arange(60) % 5
    weights = draw.uniform(0.5, 2, 60)
    found, held_out = fit_kernel_ridge(values, target, weights, folds)
    rows = found.rows.numpy() / 2**12
    np.testing.assert_allclose(
        rows, (values - values.mean(0)) / values.std(0), atol=2e-4
    )
    # Another way to the same: the kernel of scikit-learn, and a system that is solved.
    length = np.sqrt(float(found.width) / 2**24 / 2)
    kernel = RationalQuadratic(length, 64.0)(rows)
    root = np.sqrt(weights / weights.mean())
    away = target - np.average(target, weights=weights)
    system = kernel * np.outer(root, root)
    errors = []
    for penalty in np.logspace(-3, 2, 16):
        alpha = root * np.linalg.solve(system + penalty * np.eye(60), root * away)
        errors.append(np.abs(alpha - found.alpha.numpy()).max())
    assert min(errors) < 1e-6 * np.abs(found.alpha.numpy()).max()
    predicted = found(torch.from_numpy(values.T.copy())).numpy()
    expected = float(found.intercept) + kernel @ found.alpha.numpy()
    np.testing.assert_allclose(predicted, expected, rtol=1e-9)
    # What is predicted out of fold does not know the fold's own labels.
    other = target.copy()
    other[folds == 2] += 0.05  # so little that the same width and penalty are chosen
    _, again = fit_kernel_ridge(values, other, weights, folds)
    changed = np.abs(again - held_out)
    assert changed[folds == 2].max() < 1e-9
    assert changed[folds != 2].max() > 1e-3
    assert np.abs(held_out - target).mean() < 0.5 * np.abs(away).mean()
    # In any company, with any number of threads: the same bits. Beyond the data: near.
    many = torch.from_numpy(draw.normal(size=(4, 5000)).astype(np.float32) * 50)
    whole = found(many)
    torch.set_num_threads(2)
    try:
        assert torch.equal(torch.cat([found(p) for p in many.split(333, 1)]), whole)
    finally:
        torch.set_num_threads(1)
    assert abs(whole - 30).max() < 60
    missing = torch.full((4, 1), torch.nan)
    middle = torch.from_numpy(np.median(values, axis=0))[:, None]
    assert torch.allclose(found(missing), found(middle), rtol=1e-3)


def test_folds_keep_groups_whole_and_are_even() -> None:
    groups = np.repeat(np.arange(30), np.random.default_rng(0).integers(1, 20, 30))
    folds = folds_of(groups, seed=0)
    assert all(len(set(folds[groups == group])) == 1 for group in range(30))
    counts = np.bincount(folds)
    assert len(counts) == 10
    assert counts.max() - counts.min() <= 20
    assert np.array_equal(folds, folds_of(groups, seed=0))
    assert not np.array_equal(folds, folds_of(groups, seed=1))


def test_shares_are_fixed_by_the_number_of_labels() -> None:
    draw = np.random.default_rng(0)
    values = draw.normal(size=(240, 8)).astype(np.float32)
    straight = 50 + values @ np.arange(8.0)
    even, groups = np.ones(240), np.arange(240) % 24
    line = fit_parts(Labels(values, straight, even, groups), 60, 0)
    assert line.shares == {
        "extra trees": 0.4,
        "gradient boosting": 0.4,
        "kernel ridge": 0.2,
    }
    assert np.sqrt(np.mean((line.held_out - straight) ** 2)) < 0.5 * straight.std()
    for count in (10, 199, 200, 1000, 1001):
        assert sum(shares_of(count).values()) == pytest.approx(1)
    few = slice(0, 150)
    noise = draw.normal(size=240)
    labels = Labels(values[few], noise[few], even[few], groups[few])
    parts = fit_parts(labels, 200, 0, (0.05, 0.95))
    assert parts.shares == {"extra trees": 0.65, "kernel ridge": 0.35}
    assert parts.kinds == {"extra trees": 200}
    away = parts.held_out - noise[few]
    assert np.sqrt(np.mean(away**2)) < 1.1 * noise[few].std()
    assert parts.ends is not None
    inside = (parts.ends[0] <= noise[few]) & (noise[few] <= parts.ends[1])
    assert 0.75 < inside.mean() < 0.97
    values[:, 3] = np.nan  # without any value: in no part
    unseen = fit_parts(Labels(values, straight, even, groups), 20, 0)
    assert np.isfinite(unseen.held_out).all()


def test_few_labels_have_coarse_short_boosting_and_no_leaf_of_one_label() -> None:
    values, target = table(1000, 5), np.random.default_rng(5).normal(size=1000)

    def some(count: int) -> Labels:
        rows = slice(0, count)
        return Labels(values[rows], target[rows], np.ones(count), np.arange(count))

    def fewest(labels: Labels) -> int:
        grown = _grow(1, labels, np.ones(len(labels.target), bool), 0, 0, 1)
        tree = grown.estimators_[0].tree_
        return int(tree.n_node_samples[tree.children_left < 0].min())

    for count, bins, rounds, least in ((999, 16, 60, 2), (1000, 255, 300, 1)):
        labels = some(count)
        boosting, _ = _boost(labels, np.ones(count, bool), 0, 1)
        assert (boosting.max_bins, boosting.max_iter) == (bins, 1)
        assert fewest(labels) == least
        chosen = _rounds(count)
        assert chosen["max_iter"] == rounds
    parts = fit_parts(some(210), None, 0)
    assert parts.kinds == {"extra trees": 100, "gradient boosting": 60}
    chosen = [trees_of(count) for count in (10, 99, 100, 999, 1000)]
    assert chosen == [200, 200, 100, 100, 200]
    assert trees_of(10, 30) == 30
    # Boosting is in no fold, and has no error out of fold.
    own = {step["stage"]: step["rmse"] for step in parts.steps}
    assert np.isnan(own.pop("gradient boosting"))
    assert np.isfinite(list(own.values())).all()
    times = [seconds_of(some(count), 200, 0, 1) for count in (999, 100)]
    assert times[0] > times[1] > (0, 0)


@pytest.mark.slow
def test_parts_without_predictions_out_of_fold_are_the_same() -> None:
    values, target = table(1010, 5), np.random.default_rng(5).normal(size=1010)
    labels = Labels(values, target, np.ones(1010), np.arange(1010) % 30)
    whole = fit_parts(labels, 10, 0)
    short = fit_parts(labels, 10, 0, held_out=False)
    assert (short.held_out, short.ends, short.steps) == (None, None, [])
    assert (short.kinds, short.start) == (whole.kinds, whole.start)
    for name, values in whole.trees.state_dict().items():
        assert torch.equal(short.trees.state_dict()[name], values)
    with_all, without = seconds_of(labels, 10, 0, 1)
    assert with_all > without > 0
