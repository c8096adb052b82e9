"""From a table of features and labels to a learner: trees, a line, their shares.

Each tree is grown without one fold of the groups. Predictions out of fold, which choose
the shares and measure the error, therefore cost nothing: a row is predicted by the trees
that did not see its group.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from geobiomass.learner.linear import Folds, Linear, Numbers, Table, fit_linear
from geobiomass.learner.trees import Trees

FOLDS = 10
"""Folds of the groups at most."""
EXTRA, FOREST, LINE, MEAN = "extra trees", "random forest", "ridge", "mean"
_MOST_DRAWN = 20_000
"""Rows that a tree is grown on at most: more make it slow and hardly better."""
_PRIOR = {EXTRA: 0.5, FOREST: 0.5, LINE: 0.0, MEAN: 0.0}
_PRIOR_ROWS = 20.0  # labels that the prior counts as; measured: 1, 5 are worse


@dataclass(frozen=True)
class Labels:
    """A table of features with labels.

    Parameters
    ----------
    table : numpy.ndarray
        (row, feature) float32, NaN where missing.
    target, weights : numpy.ndarray
        (row,) float64.
    groups : numpy.ndarray
        (row,) whole numbers: rows of one group are never on two sides of a fold.
    """

    table: Table
    target: Numbers
    weights: Numbers
    groups: npt.NDArray[np.int64]


@dataclass
class FittedParts:
    """The parts of a fitted learner, with what they predicted out of fold.

    Parameters
    ----------
    trees : Trees
        Of all kinds, one kind after the other.
    kinds : dict of str to int
        Number of trees of each kind.
    line : Linear
        The ridge regression.
    shares : dict of str to float
        Share of each part in the blend.
    mean : float
        Of the labels.
    held_out : numpy.ndarray
        (row,) predictions of the blend, out of fold.
    ends : numpy.ndarray or None
        (2, row): quantiles out of fold, where they were asked for.
    steps : list of dict
        What was fitted and its error out of fold, for the history.
    """

    trees: Trees
    kinds: dict[str, int]
    line: Linear
    shares: dict[str, float]
    mean: float
    held_out: Numbers
    ends: Numbers | None
    steps: list[dict[str, Any]] = field(default_factory=list)


def folds_of(groups: npt.NDArray[np.int64], seed: int, most: int = FOLDS) -> Folds:
    """Return the fold of each row: whole groups, about the same number of rows each.

    Parameters
    ----------
    groups : numpy.ndarray
        (row,) the group of each row.
    seed : int
        Seed of the order of groups of equal size.
    most : int
        Number of folds; fewer where there are fewer groups.
    """
    names, where, counts = np.unique(groups, return_inverse=True, return_counts=True)
    mixed = np.random.default_rng(seed).permutation(len(names))
    order = mixed[np.argsort(-counts[mixed], kind="stable")]
    sizes = np.zeros(min(most, len(names)), np.int64)
    chosen = np.zeros(len(names), np.int64)
    for group in order:
        fold = int(np.argmin(sizes))
        chosen[group] = fold
        sizes[fold] += counts[group]
    return chosen[where]


def fit_parts(
    labels: Labels,
    trees: int,
    seed: int,
    quantiles: tuple[float, float] | None = None,
    threads: int = 1,
    tell: Callable[[str], object] = lambda step: None,
) -> FittedParts:
    """Fit trees and a line, and choose their shares.

    Parameters
    ----------
    labels : Labels
        To learn from, of two groups or more.
    trees : int
        Number of trees of all kinds together.
    seed : int
        The same seed gives the same bits, with any number of threads.
    quantiles : tuple of float, optional
        The two ends of an interval to predict out of fold too.
    threads : int
        To grow trees with.
    tell : callable
        Called with the name of each step before it begins.
    """
    folds = folds_of(labels.groups, seed)
    count = int(folds.max()) + 1
    grown: list[Any] = []
    responses: list[Numbers] = []
    kinds: dict[str, int] = {}
    out: dict[str, Numbers] = {}
    near: list[tuple[int, Any, Numbers]] = []
    chance: dict[str, Numbers] = {}
    for kind, share in ((EXTRA, 0.6), (FOREST, 0.4)):
        tell(kind)
        each = max(1, round(share * trees / count))
        predicted = np.zeros(len(labels.target))
        chance[kind] = np.zeros(len(labels.target))
        for fold in range(count):
            forest = _grow(kind, each, labels, folds != fold, seed, fold, threads)
            held = folds == fold
            each_tree = np.array(
                [tree.tree_.predict(labels.table[held])[:, 0] for tree in forest]
            )
            predicted[held] = each_tree.mean(axis=0)
            # The whole forest has less of this chance than the trees of one fold.
            spread = each_tree.var(axis=0, ddof=1) if each > 1 else 0.0
            chance[kind][held] = spread * (1 - 1 / count) / each
            for number, tree in enumerate(forest.estimators_):
                key = [seed, fold, number, kind == EXTRA]
                response = _responses(tree, labels, folds != fold, key)
                grown.append(tree)
                responses.append(response)
                near.append((fold, tree, response))
        kinds[kind] = each * count
        out[kind] = predicted
    tell(LINE)
    line, out[LINE] = fit_linear(labels.table, labels.target, labels.weights, folds)
    mean = float(np.average(labels.target, weights=labels.weights))
    out[MEAN] = _means(labels, folds)
    shares = _shares(out, labels, chance)
    held_out = sum(
        (share * out[name] for name, share in shares.items()), np.zeros(len(folds))
    )
    ends = None
    if quantiles is not None:
        forest_mean = sum(kinds[kind] * out[kind] for kind in kinds) / sum(
            kinds.values()
        )
        ends = _ends(labels, folds, near, quantiles) - forest_mean + held_out
    steps = [
        {"stage": name, "rmse": _rmse(values, labels), "share": shares[name]}
        for name, values in out.items()
    ]
    steps.append({"stage": "blend", "rmse": _rmse(held_out, labels), "share": 1.0})
    return FittedParts(
        Trees.of(grown, responses), kinds, line, shares, mean, held_out, ends, steps
    )


def grow_trees(labels: Labels, count: int, seed: int) -> None:
    """Grow a few trees of each kind on all rows, to know the time that it takes."""
    rows = np.ones(len(labels.target), bool)
    for kind in (EXTRA, FOREST):
        _grow(kind, max(1, count // 2), labels, rows, seed, 0, 1)


def _grow(
    kind: str,
    count: int,
    labels: Labels,
    rows: npt.NDArray[np.bool_],
    seed: int,
    fold: int,
    threads: int,
) -> Any:
    from sklearn.ensemble import ExtraTreesRegressor, RandomForestRegressor

    number = int(rows.sum())
    made = ExtraTreesRegressor if kind == EXTRA else RandomForestRegressor
    forest = made(
        count,
        min_samples_leaf=3 if number >= 100 else 2,
        max_features=1 / 3,
        bootstrap=True,
        max_samples=None if number <= _MOST_DRAWN else _MOST_DRAWN,
        random_state=np.random.RandomState([seed, fold, kind == EXTRA]),
        n_jobs=threads,
    )
    weights = labels.weights[rows]
    even = bool((weights == weights[0]).all())
    forest.fit(labels.table[rows], labels.target[rows], None if even else weights)
    forest.n_jobs = 1  # sums of predictions are then in one order
    return forest


def _responses(
    tree: Any, labels: Labels, rows: npt.NDArray[np.bool_], key: Sequence[int]
) -> Numbers:
    """Return for each leaf one training response at random, NaN for other nodes."""
    draw = np.random.default_rng(list(map(int, key)))
    order = draw.permutation(np.flatnonzero(rows))[: 4 * _MOST_DRAWN]
    found = tree.tree_.value[:, 0, 0].astype(np.float64)
    found[tree.tree_.apply(labels.table[order])] = labels.target[order]
    return found


def _ends(
    labels: Labels,
    folds: Folds,
    grown: Sequence[tuple[int, Any, Numbers]],
    quantiles: tuple[float, float],
) -> Numbers:
    """Return quantiles over the trees that did not see a row, (2, row)."""
    found = np.zeros((2, len(folds)))
    for fold in np.unique(folds):
        held = folds == fold
        table = labels.table[held]
        each = [
            response[tree.tree_.apply(table)]
            for own, tree, response in grown
            if own == fold
        ]
        found[:, held] = np.quantile(np.array(each), quantiles, axis=0)
    return found


def _means(labels: Labels, folds: Folds) -> Numbers:
    found = np.zeros(len(folds))
    for fold in np.unique(folds):
        rest = folds != fold
        found[~rest] = np.average(labels.target[rest], weights=labels.weights[rest])
    return found


def _shares(
    out: dict[str, Numbers], labels: Labels, chance: dict[str, Numbers]
) -> dict[str, float]:
    """Return shares from zero on that sum to one, of the least error out of fold.

    Stacking (Breiman 1996). A prior counts as a few labels. The variance that few trees
    have by chance is taken off, as the whole forest has less of it.
    """
    from scipy.optimize import nnls

    names = list(out)
    values = np.stack([out[name] for name in names], axis=1)
    away = labels.target - out[MEAN]
    values = values - out[MEAN][:, None]
    weights = labels.weights / labels.weights.mean()
    squares = (values * weights[:, None]).T @ values
    for position, name in enumerate(names):
        if name in chance:
            squares[position, position] -= float(weights @ chance[name])
    moments = (values * weights[:, None]).T @ away
    prior = np.array([_PRIOR[name] for name in names])
    pull = _PRIOR_ROWS * float(np.var(labels.target))
    squares += pull * np.eye(len(names))
    moments += pull * prior
    one = 1e3 * np.trace(squares)
    squares += one
    moments += one
    sizes, axes = np.linalg.eigh(squares)
    root = axes * np.sqrt(sizes.clip(min=1e-9 * sizes[-1]))
    found, _ = nnls(root.T, np.linalg.solve(root, moments))
    found /= found.sum()
    return {name: float(share) for name, share in zip(names, found, strict=True)}


def _rmse(predicted: Numbers, labels: Labels) -> float:
    squares = (predicted - labels.target) ** 2
    return float(np.sqrt(np.average(squares, weights=labels.weights)))
