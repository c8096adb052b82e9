"""From a table of features and labels to a learner: trees, a kernel, boosting.

The shares of the parts are fixed by the number of labels. Each of the extra trees is
grown without one fold of the groups, so that a row is predicted out of fold by the
trees that did not see its group; the other parts are fitted by folds too.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from geobiomass.learner.kernel_ridge import (
    Folds,
    KernelRidge,
    Numbers,
    Standardised,
    Table,
    fit_kernel_ridge,
)
from geobiomass.learner.trees import Nodes, Trees

FOLDS = 10
"""Folds of the groups at most."""
EXTRA, BOOSTED, KERNEL = "extra trees", "gradient boosting", "kernel ridge"
_BOOSTED_FOLDS = 3  # a fit takes most of the time
_FEW = 1000  # labels below which the boosting is coarse and short, and in no fold
_VERY_FEW = 100  # labels below which nothing takes long
_MANY_ROUNDS = {"max_iter": 300, "learning_rate": 0.05}
_FEW_ROUNDS = {"max_iter": 60, "learning_rate": 0.15, "max_bins": 16}
_LEAF = 2  # labels of a leaf of the extra trees at least, where labels are few
_MOST_DRAWN = 20_000
"""Rows that trees are grown on at most: more make them slow and hardly better."""
_TIMED = 10  # trees of each kind
_KERNEL_SECONDS = 1.0  # for 1,000 labels, measured
_FEW_SECONDS = 8e-8  # for a label, a feature and a tree, where labels are few, measured


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
    own : numpy.ndarray, optional
        (row, feature) float32 of the labels' own pixels, where `table` is of others:
        predictions out of fold, and so all errors, are of these.
    """

    table: Table
    target: Numbers
    weights: Numbers
    groups: npt.NDArray[np.int64]
    own: Table | None = None

    @property
    def asked(self) -> Table:
        """The features that predictions out of fold are made from."""
        return self.table if self.own is None else self.own


@dataclass
class FittedParts:
    """The parts of a fitted learner, with what they predicted out of fold.

    Parameters
    ----------
    trees : Trees
        Of all kinds, one kind after the other.
    kinds : dict of str to int
        Number of trees of each kind.
    kernel : KernelRidge
        The kernel ridge regression; without rows where it has no share.
    shares : dict of str to float
        Share of each part in the blend.
    start : float
        What the boosted trees are added to.
    held_out : numpy.ndarray or None
        (row,) predictions of the blend, out of fold, where they were asked for.
    ends : numpy.ndarray or None
        (2, row): quantiles out of fold, where they were asked for.
    steps : list of dict
        What was fitted and its error out of fold, for the history.
    """

    trees: Trees
    kinds: dict[str, int]
    kernel: KernelRidge
    shares: dict[str, float]
    start: float
    held_out: Numbers | None
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


def shares_of(labels: int) -> dict[str, float]:
    """Return the share of each part of the blend for a number of labels.

    Measured on landscapes and four real sets, against shares chosen by each set's own
    predictions out of fold, which were no better: few groups say little about them.
    """
    if labels < 200:
        return {EXTRA: 0.65, KERNEL: 0.35}
    if labels <= 1000:
        return {EXTRA: 0.4, BOOSTED: 0.4, KERNEL: 0.2}
    return {EXTRA: 0.5, BOOSTED: 0.5}


def trees_of(labels: int, asked: int | None = None) -> int:
    """Return the number of extra trees for a number of labels.

    100 where labels are few: 200 take up to half of the time of a fit more, and are no
    better in the benchmark's cells of 100 to 300 labels. Below 100 labels time is no
    matter, and 200 trees differ less from seed to seed.
    """
    if asked is not None:
        return asked
    return 100 if _VERY_FEW <= labels < _FEW else 200


def fit_parts(
    labels: Labels,
    trees: int | None,
    seed: int,
    quantiles: tuple[float, float] | None = None,
    threads: int = 1,
    tell: Callable[[str], object] = lambda step: None,
    held_out: bool = True,
) -> FittedParts:
    """Fit the parts of the blend.

    Parameters
    ----------
    labels : Labels
        To learn from, of two groups or more.
    trees : int, optional
        Number of extra trees; by default that of :func:`trees_of`.
    seed : int
        The same seed gives the same bits, with any number of threads.
    quantiles : tuple of float, optional
        The two ends of an interval to predict out of fold too.
    threads : int
        To grow extra trees with.
    tell : callable
        Called with the name of each step before it begins.
    held_out : bool
        Whether to predict out of fold too, which takes most of the time where labels
        are many. The parts are the same without.
    """
    from threadpoolctl import threadpool_limits

    folds = folds_of(labels.groups, seed)
    shares = shares_of(len(labels.target))
    trees = trees_of(len(labels.target), trees)
    few = len(labels.target) < _FEW
    out: dict[str, Numbers] = {}
    tell(EXTRA)
    nodes, responses, near, out[EXTRA] = _extra_trees(
        labels, folds, trees, seed, threads
    )
    kinds, start = {EXTRA: len(nodes)}, 0.0
    kernel = KernelRidge(labels.table.shape[1])
    with threadpool_limits(1):  # sums of several threads differ in their last bits
        if BOOSTED in shares:
            tell(BOOSTED)
            boosted, start = _boosting(labels, seed)
            if held_out:
                # Where labels are few, the extra trees stand in: their error is about
                # the same, and folds of boosting take as long as all else.
                out[BOOSTED] = out[EXTRA] if few else _boosted_out_of_fold(labels, seed)
            kinds[BOOSTED] = len(boosted)
            nodes += boosted
            responses += [one.value for one in boosted]
        if KERNEL in shares:
            tell(KERNEL)
            kernel, out[KERNEL] = fit_kernel_ridge(
                labels.table, labels.target, labels.weights, folds, labels.own
            )
        else:
            Standardised.of(labels.table).give_to(kernel)
    fitted = FittedParts(
        Trees.of(nodes, responses), kinds, kernel, shares, start, None, None
    )
    if not held_out:
        return fitted
    blend = sum(
        (share * out[name] for name, share in shares.items()), np.zeros(len(folds))
    )
    fitted.held_out = blend
    if quantiles is not None:
        fitted.ends = _ends(labels, folds, near, quantiles) - out[EXTRA] + blend
    fitted.steps = [
        {
            "stage": name,
            "rmse": np.nan if few and name == BOOSTED else _rmse(values, labels),
            "share": shares[name],
        }
        for name, values in out.items()
    ]
    fitted.steps.append({"stage": "blend", "rmse": _rmse(blend, labels), "share": 1.0})
    return fitted


def seconds_of(
    labels: Labels, trees: int | None, seed: int, threads: int
) -> tuple[float, float]:
    """Return about the time that fitting takes, from a few trees of each kind.

    The second is that without predictions out of fold. With few labels some trees would
    take a part of it, and the time is that of any machine.
    """
    trees = trees_of(len(labels.target), trees)
    if len(labels.target) < _FEW:
        seconds = _FEW_SECONDS * labels.table.size * trees
        return seconds, seconds
    rows = np.ones(len(labels.target), bool)
    shares = shares_of(len(rows))
    _grow(1, labels, rows, seed, 0, 1)  # the first one imports scikit-learn
    began = time.perf_counter()
    _grow(_TIMED, labels, rows, seed, 0, 1)
    seconds = (time.perf_counter() - began) * trees / _TIMED / max(1, threads)
    if KERNEL in shares:
        seconds += _KERNEL_SECONDS * (len(rows) / 1000) ** 3
    if BOOSTED not in shares:
        return seconds, seconds
    began = time.perf_counter()
    _boost(labels, rows, seed, _TIMED)
    boosting = (time.perf_counter() - began) / _TIMED * _MANY_ROUNDS["max_iter"]
    return seconds + (1 + _BOOSTED_FOLDS) * boosting, seconds + boosting


def _extra_trees(
    labels: Labels, folds: Folds, trees: int, seed: int, threads: int
) -> tuple[list[Nodes], list[Numbers], list[tuple[int, Any, Numbers]], Numbers]:
    """Return trees, responses of their leaves, both by fold, and predictions."""
    count = int(folds.max()) + 1
    each = max(1, round(trees / count))
    predicted = np.zeros(len(labels.target))
    near: list[tuple[int, Any, Numbers]] = []
    for fold in range(count):
        held = folds == fold
        forest = _grow(each, labels, ~held, seed, fold, threads)
        predicted[held] = forest.predict(labels.asked[held])
        for number, tree in enumerate(forest.estimators_):
            response = _responses(tree, labels, ~held, [seed, fold, number])
            near.append((fold, tree, response))
    nodes = [Nodes.of_tree(tree) for _, tree, _ in near]
    return nodes, [response for *_, response in near], near, predicted


def _grow(
    count: int,
    labels: Labels,
    rows: npt.NDArray[np.bool_],
    seed: int,
    fold: int,
    threads: int,
) -> Any:
    from sklearn.ensemble import ExtraTreesRegressor

    forest = ExtraTreesRegressor(
        count,
        max_features=0.5,
        min_samples_leaf=_LEAF if len(labels.target) < _FEW else 1,
        random_state=np.random.RandomState([seed, fold]),
        n_jobs=threads,
    )
    drawn, weights = _drawn(labels, rows, [seed, fold])
    forest.fit(labels.table[drawn], labels.target[drawn], weights)
    forest.n_jobs = 1  # sums of predictions are then in one order
    return forest


def _drawn(
    labels: Labels, rows: npt.NDArray[np.bool_], key: Sequence[int]
) -> tuple[npt.NDArray[np.int64], Numbers | None]:
    """Return the rows to grow trees on, and their weights where they differ."""
    found = np.flatnonzero(rows)
    if len(found) > _MOST_DRAWN:
        draw = np.random.default_rng(list(key))
        found = np.sort(draw.choice(found, _MOST_DRAWN, replace=False))
    weights = labels.weights[found]
    return found, None if (weights == weights[0]).all() else weights


def _boosting(labels: Labels, seed: int) -> tuple[list[Nodes], float]:
    """Return boosted trees, and what they are added to."""
    model, columns = _boost(labels, np.ones(len(labels.target), bool), seed)
    return Nodes.of_boosting(model, columns)


def _boosted_out_of_fold(labels: Labels, seed: int) -> Numbers:
    """Return what trees that were boosted without a fold predict for it."""
    folds = folds_of(labels.groups, seed, _BOOSTED_FOLDS)
    predicted = np.zeros(len(labels.target))
    for fold in range(int(folds.max()) + 1):
        held = folds == fold
        model, columns = _boost(labels, ~held, seed)
        predicted[held] = model.predict(labels.asked[held][:, columns])
    return predicted


def _boost(
    labels: Labels, rows: npt.NDArray[np.bool_], seed: int, rounds: int | None = None
) -> tuple[Any, npt.NDArray[np.int64]]:
    """Return a boosting, and the features that it was fitted on.

    Where labels are few, it has 60 trees in place of 300, and 16 bins of a feature in
    place of 255: measured on landscapes and three real sets its error is not higher,
    and it takes a seventh of the time.
    """
    from sklearn.ensemble import HistGradientBoostingRegressor

    drawn, weights = _drawn(labels, rows, [seed])
    table = labels.table[drawn]
    # scikit-learn refuses a column without any value.
    columns = np.flatnonzero(np.isfinite(table).any(axis=0))
    chosen = _rounds(len(labels.target))
    if rounds is not None:
        chosen["max_iter"] = rounds
    model = HistGradientBoostingRegressor(
        **chosen, max_features=0.3, early_stopping=False, random_state=seed
    )
    table = table[:, columns]
    model.fit(
        table if weights is None else _few_values(table), labels.target[drawn], weights
    )
    return model, columns


def _rounds(labels: int) -> dict[str, Any]:
    """Return the settings of the boosting for a number of labels."""
    return dict(_FEW_ROUNDS if labels < _FEW else _MANY_ROUNDS)


def _few_values(table: Table) -> Table:
    """Return a table with at most 200 values of each feature, quantiles of its own.

    With weights scikit-learn takes seconds to bin the values of features that have
    more than 255, and does not bin others.
    """
    found = np.empty_like(table)
    for column, values in enumerate(table.T):
        steps = np.nanquantile(values, np.linspace(0, 1, 200), method="nearest")
        place = np.searchsorted(steps, values, side="right") - 1
        found[:, column] = np.where(np.isnan(values), values, steps[place.clip(0)])
    return found


def _responses(
    tree: Any, labels: Labels, rows: npt.NDArray[np.bool_], key: Sequence[int]
) -> Numbers:
    """Return for each leaf one training response at random."""
    draw = np.random.default_rng(list(map(int, key)))
    order = draw.permutation(np.flatnonzero(rows))[: 4 * _MOST_DRAWN]
    found: Numbers = tree.tree_.value[:, 0, 0].astype(np.float64)
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
        table = labels.asked[held]
        each = [
            response[tree.tree_.apply(table)]
            for own, tree, response in grown
            if own == fold
        ]
        found[:, held] = np.quantile(np.array(each), quantiles, axis=0)
    return found


def _rmse(predicted: Numbers, labels: Labels) -> float:
    return float(np.sqrt(np.mean((predicted - labels.target) ** 2)))
