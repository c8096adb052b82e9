"""Sums over all pairs of pixels, by Fourier transform of pixels or of coarser cells."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Covariance = Callable[[Floats], Floats]

NEAR = 4  # cells: nearer ones have the mean covariance over all their pairs of pixels


class Cells:
    """Amounts by pixel, or by square cell if there are too many pixels.

    Parameters
    ----------
    pixel : tuple of float
        Size of a pixel, metres, down and across.
    most : int
        Largest number of cells; the side of cells doubles until they are no more.
    """

    def __init__(self, pixel: tuple[float, float], most: int) -> None:
        if most < 4:
            raise ValueError(f"cells must be at least 4, got {most}.")
        self.pixel = pixel
        self.most = most
        self.side = 1  # of a cell, pixels
        self.origin = (0, 0)  # of the amounts, cells
        self.amounts: Floats = np.zeros((0, 0))
        self.squares = 0.0  # sum of the squared amounts of all pixels

    def add(self, row: int, column: int, amounts: Floats) -> None:
        """Add amounts (y, x) of a block, by the row and column of its first pixel."""
        rows, columns = (np.flatnonzero(amounts.any(axis)) for axis in (1, 0))
        if rows.size == 0:
            return
        amounts = amounts[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        self.squares += float((amounts**2).sum())
        self._put(row + int(rows[0]), column + int(columns[0]), amounts)

    def _put(self, row: int, column: int, amounts: Floats) -> None:
        """Extend the amounts so that a block of pixels fits in, and add it."""
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
        """Return the sum of amount x amount x covariance over all pairs of pixels.

        Parameters
        ----------
        covariance : callable
            Function of distances in metres. Pairs of a pixel with itself count, at 0 m.

        Notes
        -----
        The sum is exact if a cell is a pixel. Else a pair of cells has the mean
        covariance of their pixels, and differences between the pixels of a cell count
        as if these were in random order.
        """
        if self.amounts.size == 0:
            return 0.0
        between = self._mean_covariance(covariance)
        total = float((_autocorrelation(self.amounts) * between).sum())
        if self.side == 1:
            return total
        count = self.side**2
        differing = self.squares - float((self.amounts**2).sum()) / count
        at_zero = float(covariance(np.zeros(1))[0])
        others = (between[0, 0] * count - at_zero) / (count - 1)
        return total + max(differing, 0.0) * (at_zero - float(others))

    def _mean_covariance(self, covariance: Covariance) -> Floats:
        """Return the mean covariance of two cells by their offset, in FFT order."""
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
        # Quadrature with three points in each direction, which have the variance of the
        # distance between two pixels of two cells: (side^2 - 1) / 6 squared pixels.
        spread = np.sqrt(3 * (self.side**2 - 1) / 6)
        total = np.zeros((y.size, x.size))
        for i, first in ((-1, 1 / 6), (0, 2 / 3), (1, 1 / 6)):
            for j, second in ((-1, 1 / 6), (0, 2 / 3), (1, 1 / 6)):
                distance = np.hypot(
                    (y + i * spread * self.pixel[0])[:, None],
                    x + j * spread * self.pixel[1],
                )
                total += first * second * covariance(distance)
        return total

    def _near(self, covariance: Covariance, shape: tuple[int, int]) -> Floats:
        steps = np.arange(1 - self.side, self.side)
        # Share of the pairs of pixels of two cells by their difference in position.
        share = (self.side - np.abs(steps)) / self.side**2
        found = np.empty(shape)
        for i, j in np.ndindex(shape):
            y = (i * self.side + steps) * self.pixel[0]
            x = (j * self.side + steps) * self.pixel[1]
            found[i, j] = share @ covariance(np.hypot(y[:, None], x)) @ share
        return found


def _in_cells(
    amounts: Floats, origin: tuple[int, int], side: int
) -> tuple[Floats, tuple[int, int]]:
    """Return sums by square cells, aligned to row and column 0, and the first cell."""
    if side == 1:
        return amounts, origin
    first = (origin[0] // side, origin[1] // side)
    for axis in (0, 1):
        n = amounts.shape[axis]
        starts = np.arange(first[axis] * side, origin[axis] + n, side) - origin[axis]
        amounts = np.add.reduceat(amounts, np.maximum(starts, 0), axis)
    return amounts, first


def _folded(side: int) -> npt.NDArray[np.intp]:
    """Return the distance, in cells, of each position of a zero-padded transform."""
    from scipy.fft import next_fast_len

    length = next_fast_len(2 * side - 1, real=True)
    position = np.arange(length)
    distance = np.minimum(position, length - position)
    # The padding in the middle, between n - 1 and 1 - n, has no pairs.
    return np.asarray(np.minimum(distance, side - 1), np.intp)


def _autocorrelation(amounts: Floats) -> Floats:
    """Return the sum of products of amounts by offset (Wiener-Khinchin theorem)."""
    from scipy.fft import irfft2, next_fast_len, rfft2

    padded = tuple(next_fast_len(2 * side - 1, real=True) for side in amounts.shape)
    waves = rfft2(amounts, padded)
    return np.asarray(irfft2(np.abs(waves) ** 2, padded), np.float64)
