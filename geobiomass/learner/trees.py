"""Trees of scikit-learn as tensors, with the same answers to the bit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

_AT_ONCE = 2**19
"""Pairs of a pixel and a tree that are followed together: a few MB in the cache."""
_SHALLOW = 4  # steps before which nearly all paths go on
_ENDS = (-torch.inf, torch.inf)  # missing goes left, missing goes right


@dataclass(frozen=True)
class Nodes:
    """The nodes of a tree that scikit-learn grew, the root first.

    Parameters
    ----------
    feature, left, right : numpy.ndarray
        (node,) whole numbers; ``left`` is negative at leaves.
    threshold, value : numpy.ndarray
        (node,) float64.
    missing_goes_left : numpy.ndarray
        (node,) bool.
    depth : int
        Steps from the root to the deepest leaf.
    """

    feature: npt.NDArray[np.int64]
    left: npt.NDArray[np.int64]
    right: npt.NDArray[np.int64]
    threshold: npt.NDArray[np.float64]
    value: npt.NDArray[np.float64]
    missing_goes_left: npt.NDArray[np.bool_]
    depth: int

    @classmethod
    def of_tree(cls, estimator: Any) -> Nodes:
        """Return the nodes of a fitted DecisionTreeRegressor or ExtraTreeRegressor."""
        tree = estimator.tree_
        return cls(
            tree.feature.astype(np.int64),
            tree.children_left.astype(np.int64),
            tree.children_right.astype(np.int64),
            tree.threshold,
            tree.value[:, 0, 0],
            np.asarray(tree.missing_go_to_left).astype(bool),
            int(tree.max_depth),
        )

    @classmethod
    def of_boosting(
        cls, estimator: Any, columns: npt.NDArray[np.int64]
    ) -> tuple[list[Nodes], float]:
        """Return the trees of a fitted HistGradientBoostingRegressor, and their start.

        Parameters
        ----------
        estimator : sklearn.ensemble.HistGradientBoostingRegressor
            Its trees are private attributes, since it has no public ones: a test
            compares the sum of these trees with what it predicts.
        columns : numpy.ndarray
            (feature,) the feature of each column that it was fitted on.
        """
        found = []
        for (one,) in estimator._predictors:
            nodes = one.nodes
            leaf = nodes["is_leaf"].astype(bool)
            found.append(
                cls(
                    columns[np.where(leaf, 0, nodes["feature_idx"])],
                    np.where(leaf, -1, nodes["left"].astype(np.int64)),
                    np.where(leaf, -1, nodes["right"].astype(np.int64)),
                    nodes["num_threshold"],
                    nodes["value"],
                    nodes["missing_go_to_left"].astype(bool),
                    int(nodes["depth"].max()),
                )
            )
        return found, float(np.ravel(estimator._baseline_prediction)[0])


class Trees(nn.Module):
    """Regression trees, followed for many pixels at once.

    A node's children are neighbours, so that one addition takes a step. A missing
    value goes to the side that its node learnt: features exist twice, once with minus
    and once with plus infinity where they are missing.

    Parameters
    ----------
    nodes : int
        Nodes of all trees.
    depths : sequence of int
        Steps from the root to the deepest leaf of each tree, in their order.
    """

    feature: Tensor
    threshold: Tensor
    child: Tensor
    value: Tensor
    response: Tensor
    root: Tensor

    def __init__(self, nodes: int, depths: Sequence[int]) -> None:
        super().__init__()
        self.depths = tuple(depths)
        self.register_buffer("feature", torch.zeros(nodes, dtype=torch.int32))
        self.register_buffer("threshold", torch.zeros(nodes))
        self.register_buffer("child", torch.zeros(nodes, dtype=torch.int32))
        self.register_buffer("value", torch.zeros(nodes, dtype=torch.float64))
        self.register_buffer("response", torch.zeros(nodes))
        self.register_buffer("root", torch.zeros(len(depths), dtype=torch.int32))

    @property
    def settings(self) -> dict[str, Any]:
        """The sizes, ready for JSON."""
        return {"nodes": self.feature.numel(), "depths": list(self.depths)}

    @classmethod
    def of(
        cls,
        trees: Sequence[Nodes],
        responses: Sequence[npt.NDArray[np.float64]] | None = None,
    ) -> Trees:
        """Build the tensors of trees.

        Parameters
        ----------
        trees : sequence of Nodes
            What scikit-learn grew.
        responses : sequence of numpy.ndarray, optional
            For each tree one training response of each of its leaves, (nodes,).
        """
        parts = [_arrays(one) for one in trees]
        sizes = [len(part["feature"]) for part in parts]
        starts = np.concatenate([[0], np.cumsum(sizes)])
        made = cls(int(starts[-1]), [one.depth for one in trees])
        for number, part in enumerate(parts):
            own = slice(int(starts[number]), int(starts[number + 1]))
            order = part.pop("order")
            for name, values in part.items():
                getattr(made, name)[own] = torch.from_numpy(values)
            made.child[own] += int(starts[number])
            if responses is not None:
                kept = np.asarray(responses[number])[order].astype(np.float32)
                made.response[own] = torch.from_numpy(kept)
        made.root.copy_(torch.from_numpy(starts[:-1].astype(np.int32)))
        return made

    def leaves(self, features: Tensor) -> Tensor:
        """Return the leaf of each tree, (tree, pixel), for (feature, pixel) float32."""
        count, pixels = features.shape
        # Real values are finite: what is missing is beyond all of them, on its side.
        missing = features.isnan()
        both = torch.cat([features.masked_fill(missing, end) for end in _ENDS])
        at = torch.arange(pixels, dtype=torch.int32, device=features.device)
        # A feature that goes right where it is missing has a negative number.
        column = torch.where(self.feature < 0, count - 1 - self.feature, self.feature)
        start = column * pixels
        # A graph has no groups, whose number depends on the size of the image.
        most = len(self.depths)
        group = most if _exporting() else max(1, _AT_ONCE // max(1, pixels))
        found = []
        for first in range(0, len(self.depths), group):
            own = slice(first, first + group)
            roots, depth = self.root[own], max(self.depths[own])
            shape = (roots.numel(), pixels)
            node = roots[:, None].expand(shape).reshape(-1)
            where = at[None].expand(shape).reshape(-1)
            found.append(self._follow(both.flatten(), start, node, where, depth))
        return torch.cat(found).reshape(len(self.depths), pixels)

    def _follow(
        self, both: Tensor, start: Tensor, node: Tensor, where: Tensor, depth: int
    ) -> Tensor:
        """Return the leaves below some nodes (pair), of pixels `where` (pair)."""
        for step in range(depth):
            if step >= _SHALLOW and step % 2 == 0 and not _exporting():
                # Most paths are much shorter than the longest.
                left = (self.threshold.index_select(0, node) < torch.inf).nonzero()[
                    :, 0
                ]
                if left.numel() < 0.7 * node.numel():
                    rest = node.index_select(0, left), where.index_select(0, left)
                    node[left] = self._follow(both, start, *rest, depth - step)
                    return node
            values = both.index_select(0, start.index_select(0, node) + where)
            right = values > self.threshold.index_select(0, node)
            node = self.child.index_select(0, node) + right
        return node

    def total(self, leaves: Tensor) -> Tensor:
        """Return the sum over some trees' leaves (tree, pixel), in order, float64."""
        total = torch.zeros(
            leaves.shape[1], dtype=torch.float64, device=self.value.device
        )
        for own in leaves:
            total = total + self.value.index_select(0, own)
        return total


def _exporting() -> bool:
    return torch.compiler.is_exporting()


def _arrays(tree: Nodes) -> dict[str, Any]:
    """Return the arrays of one tree, its nodes in an order where children adjoin."""
    levels = [np.zeros(1, np.int64)]
    while len(levels[-1]):
        inner = levels[-1][tree.left[levels[-1]] >= 0]
        levels.append(np.stack([tree.left[inner], tree.right[inner]], 1).ravel())
    old = np.concatenate(levels)
    places = np.zeros(len(tree.left), np.int64)
    places[old] = np.arange(len(old))
    leaf = tree.left[old] < 0
    # float32 values are compared with the largest float32 that is not above.
    threshold = tree.threshold[old]
    rounded = threshold.astype(np.float32)
    above = rounded.astype(np.float64) > threshold
    rounded[above] = np.nextafter(rounded[above], np.float32(-np.inf))
    # scikit-learn's threshold between all values and the missing ones is infinite.
    rounded = np.minimum(rounded, np.finfo(np.float32).max)
    goes_left = tree.missing_goes_left[old]
    feature = np.where(goes_left, tree.feature[old], -1 - tree.feature[old])
    return {
        "order": old,
        "feature": np.where(leaf, 0, feature).astype(np.int32),
        "threshold": np.where(leaf, np.float32(np.inf), rounded),
        "child": np.where(leaf, places[old], places[tree.left[old]]).astype(np.int32),
        "value": tree.value[old].astype(np.float64),
    }
