"""Pairs of residuals at given distances, of which a variogram is computed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from geobiomass.statistics.residual_columns import check_residuals

Floats = npt.NDArray[np.float64]
Whole = npt.NDArray[np.int64]


@dataclass(frozen=True)
class ResidualPairs:
    """The coordinates of residuals, with an index by pixel to draw pairs from."""

    y: Floats
    x: Floats
    pixel: tuple[float, float]
    group: Whole  # pairs are taken within a group
    row: Whole
    column: Whole
    order: Whole
    keys: Whole  # sorted

    @classmethod
    def of(cls, residuals: pd.DataFrame) -> ResidualPairs:
        """Build the index of a table of residuals.

        Raises
        ------
        ValueError
            If a column or the size of a pixel is missing.
        """
        check_residuals(residuals, ("y", "x", "unit"))
        down, across = (float(side) for side in residuals.attrs["pixel"])
        y, x = (np.asarray(residuals[name], float) for name in ("y", "x"))
        if residuals.attrs.get("kind") == "scene":
            group = np.zeros(y.size, np.int64)
        else:
            group = pd.factorize(residuals["unit"])[0].astype(np.int64)
        row = np.rint((y - y.min(initial=0)) / down).astype(np.int64)
        column = np.rint((x - x.min(initial=0)) / across).astype(np.int64)
        keys = _keys(group, row, column)
        order = np.argsort(keys, kind="stable")
        return cls(y, x, (down, across), group, row, column, order, keys[order])

    @property
    def extent(self) -> float:
        """Longest side of a group, metres."""
        table = pd.DataFrame({"group": self.group, "y": self.y, "x": self.x})
        each = table.groupby("group")
        sides = (each.max() - each.min()).to_numpy() + np.array(self.pixel)
        return float(sides.max())

    def pairs(
        self, edges: Floats, most: int, random: np.random.Generator
    ) -> tuple[Whole, Whole]:
        """Return the rows of pairs: all if they are few, else drawn by class of lag."""
        sizes = np.bincount(self.group).astype(float)
        if (sizes * (sizes - 1) / 2).sum() <= most:
            return self._all_pairs()
        lags = edges.size - 1
        found = [
            self._drawn(edges[k], edges[k + 1], most // lags, random)
            for k in range(lags)
        ]
        first, second = (np.concatenate(side) for side in zip(*found, strict=True))
        return first, second

    def _all_pairs(self) -> tuple[Whole, Whole]:
        members = [np.flatnonzero(self.group == g) for g in np.unique(self.group)]
        found = [m[np.stack(np.triu_indices(m.size, 1))] for m in members]
        first, second = np.concatenate(found, axis=1)
        return first, second

    def _drawn(
        self, low: float, high: float, wanted: int, random: np.random.Generator
    ) -> tuple[Whole, Whole]:
        down, across = self.pixel
        firsts, seconds, there = [], [], 0
        # If few pixels have a residual, most draws find none: their number is bounded.
        for _ in range(25):
            i = random.integers(self.y.size, size=wanted)
            angle = random.uniform(0, np.pi, wanted)
            distance = np.exp(random.uniform(np.log(low), np.log(high), wanted))
            rows = np.rint(distance * np.sin(angle) / down).astype(np.int64)
            columns = np.rint(distance * np.cos(angle) / across).astype(np.int64)
            j = self._at(self.group[i], self.row[i] + rows, self.column[i] + columns)
            hit = (j >= 0) & (j != i)
            firsts.append(i[hit])
            seconds.append(j[hit])
            there += int(np.count_nonzero(hit))
            if there >= wanted:
                break
        return np.concatenate(firsts)[:wanted], np.concatenate(seconds)[:wanted]

    def _at(self, group: Whole, row: Whole, column: Whole) -> Whole:
        """Return the row of the table at each pixel, -1 if there is none."""
        keys = _keys(group, row, column)
        spot = np.minimum(np.searchsorted(self.keys, keys), self.keys.size - 1)
        return np.where(self.keys[spot] == keys, self.order[spot], -1)


def _keys(group: Whole, row: Whole, column: Whole) -> Whole:
    # 2^21 rows and columns, with an offset so that a pixel outside of the extent has a
    # key that no residual has.
    shift = np.int64(1) << 20
    return (group << 42) | ((row + shift // 2) << 21) | (column + shift // 2)
