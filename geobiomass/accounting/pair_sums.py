"""Double sums over pairs of pixels: exact by Fourier transform, or on coarser cells."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Covariance = Callable[[Floats], Floats]

NEAR = 4  # cells: up to there the mean over two cells is over all pairs of pixels


class Cells:
    """Amounts by pixel, or by square cell where there are too many pixels.

    Parameters
    ----------
    pixel : tuple of float
        Metres, down and across.
    most : int
        Cells at most; sides of cells double until they are no more.
    """

    def __init__(self, pixel: tuple[float, float], most: int) -> None:
        if most < 4:
            raise ValueError(f"cells must be 4 or more, got {most}.")
        self.pixel = pixel
        self.most = most
        self.side = 1  # of a cell, pixels
        self.origin = (0, 0)  # of the amounts, cells
        self.amounts: Floats = np.zeros((0, 0))
        self.squares = 0.0  # sum of squares of all pixels' amounts

    def add(self, row: int, column: int, amounts: Floats) -> None:
        """Add amounts (y, x) of pixels from a row and a column on."""
        rows, columns = (np.flatnonzero(amounts.any(axis)) for axis in (1, 0))
        if rows.size == 0:
            return
        amounts = amounts[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        self.squares += float((amounts**2).sum())
        self._put(row + int(rows[0]), column + int(columns[0]), amounts)

    def _put(self, row: int, column: int, amounts: Floats) -> None:
        """Widen the amounts so that a block of pixels fits in, and add it."""
        last = (row + amounts.shape[0] - 1, column + amounts.shape[1] - 1)
        while True:
            low = [row // self.side, column // self.side]
            high = [last[0] // self.side + 1, last[1] // self.side + 1]
            if self.amounts.size:
                low = [min(a, b) for a, b in zip(low, self.origin, strict=True)]
                ends = np.add(self.origin, self.amounts.shape).tolist()
                high = [max(a, b) for a, b in zip(high, ends, strict=True)]
            if (high[0] - low[0]) * (high[1] - low[1]) <= self.most:
                break
            self._coarsen()
        self._widen((low[0], low[1]), (high[0] - low[0], high[1] - low[1]))
        block, first = _in_cells(amounts, (row, column), self.side)
        top, left = first[0] - low[0], first[1] - low[1]
        self.amounts[top : top + block.shape[0], left : left + block.shape[1]] += block

    def _widen(self, origin: tuple[int, int], shape: tuple[int, int]) -> None:
        if shape == self.amounts.shape:
            return
        wider = np.zeros(shape)
        height, width = self.amounts.shape
        top, left = self.origin[0] - origin[0], self.origin[1] - origin[1]
        if self.amounts.size:
            wider[top : top + height, left : left + width] = self.amounts
        self.amounts, self.origin = wider, origin

    def _coarsen(self) -> None:
        if self.amounts.size:
            self.amounts, self.origin = _in_cells(self.amounts, self.origin, 2)
        self.side *= 2

    def double_sum(self, covariance: Covariance) -> float:
        """Sum amount times amount times covariance over all pairs of pixels.

        Parameters
        ----------
        covariance : callable
            Of distances in metres; pairs of a pixel with itself count at 0 m.

        Notes
        -----
        Exact where a cell is a pixel. Else a pair of cells has the mean covariance of
        their pixels, and what amounts within a cell differ is counted as if they lay
        there in random order.
        """
        if self.amounts.size == 0:
            return 0.0
        likeness = self._mean_covariance(covariance)
        total = float((_autocorrelation(self.amounts) * likeness).sum())
        if self.side == 1:
            return total
        count = self.side**2
        differing = self.squares - float((self.amounts**2).sum()) / count
        at_zero = float(covariance(np.zeros(1))[0])
        others = (likeness[0, 0] * count - at_zero) / (count - 1)
        return total + max(differing, 0.0) * (at_zero - float(others))

    def _mean_covariance(self, covariance: Covariance) -> Floats:
        """Give the mean over two cells by their offset, laid out as Fourier does."""
        height, width = self.amounts.shape
        down, across = (self.side * side for side in self.pixel)
        y: Floats = np.arange(height, dtype=np.float64) * down
        x: Floats = np.arange(width, dtype=np.float64) * across
        if self.side == 1:
            quadrant = covariance(np.hypot(y[:, None], x))
        else:
            quadrant = self._far(covariance, y, x)
            near = (min(NEAR, height), min(NEAR, width))
            quadrant[: near[0], : near[1]] = self._near(covariance, near)
        rows, columns = (_folded(side) for side in (height, width))
        return quadrant[np.ix_(rows, columns)]

    def _far(self, covariance: Covariance, y: Floats, x: Floats) -> Floats:
        # Three points a direction, with the variance of the distance of two pixels
        # of two cells: (side^2 - 1) / 6 squared pixels.
        spread = np.sqrt(3 * (self.side**2 - 1) / 6)
        total = np.zeros((y.size, x.size))
        for i, first in ((-1, 1 / 6), (0, 2 / 3), (1, 1 / 6)):
            for j, second in ((-1, 1 / 6), (0, 2 / 3), (1, 1 / 6)):
                there = np.hypot(
                    (y + i * spread * self.pixel[0])[:, None],
                    x + j * spread * self.pixel[1],
                )
                total += first * second * covariance(there)
        return total

    def _near(self, covariance: Covariance, shape: tuple[int, int]) -> Floats:
        steps = np.arange(1 - self.side, self.side)
        chance = (self.side - np.abs(steps)) / self.side**2
        found = np.empty(shape)
        for i, j in np.ndindex(shape):
            y = (i * self.side + steps) * self.pixel[0]
            x = (j * self.side + steps) * self.pixel[1]
            found[i, j] = chance @ covariance(np.hypot(y[:, None], x)) @ chance
        return found


def _in_cells(
    amounts: Floats, origin: tuple[int, int], side: int
) -> tuple[Floats, tuple[int, int]]:
    """Sum amounts by cells of a side, anchored at 0; give them and their first cell."""
    if side == 1:
        return amounts, origin
    first = (origin[0] // side, origin[1] // side)
    for axis in (0, 1):
        n = amounts.shape[axis]
        starts = np.arange(first[axis] * side, origin[axis] + n, side) - origin[axis]
        amounts = np.add.reduceat(amounts, np.maximum(starts, 0), axis)
    return amounts, first


def _folded(side: int) -> npt.NDArray[np.intp]:
    """Give the distance in cells by place in a transform of twice the side."""
    from scipy.fft import next_fast_len

    length = next_fast_len(2 * side - 1, real=True)
    place = np.arange(length)
    # In the middle, between n - 1 and 1 - n, nothing pairs with anything.
    return np.asarray(np.minimum(np.minimum(place, length - place), side - 1), np.intp)


def _autocorrelation(amounts: Floats) -> Floats:
    from scipy.fft import irfft2, next_fast_len, rfft2

    padded = tuple(next_fast_len(2 * side - 1, real=True) for side in amounts.shape)
    waves = rfft2(amounts, padded)
    return np.asarray(irfft2(np.abs(waves) ** 2, padded), np.float64)
