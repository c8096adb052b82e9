"""Random numbers and smooth random fields that depend on seed and position only."""

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from geobiomass.sources.landscape.climates import CLIMATES, Climate
from geobiomass.sources.landscape.versions import Version

Floats = npt.NDArray[np.floating[Any]]
Integers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Patch:
    """A square of pixels of the unbounded landscape with the number `seed`.

    `species` are the species groups that grow there, in ascending order.
    """

    seed: int
    row: int
    col: int
    side: int
    resolution: float
    species: tuple[int, ...]
    version: Version
    climate: Climate = CLIMATES["boreal"]

    def grown(self, pixels: int) -> "Patch":
        """Return the square with a margin of `pixels` on every side."""
        return replace(
            self,
            row=self.row - pixels,
            col=self.col - pixels,
            side=self.side + 2 * pixels,
        )

    def metres(self, first: int) -> Floats:
        """Return the pixel centres along an axis, in metres from the origin."""
        return (first + np.arange(self.side) + 0.5) * self.resolution


@lru_cache(maxsize=8192)
def layer_key(seed: int, *layer: str | int) -> np.uint64:
    """Return the 64-bit key of one random layer of the landscape."""
    words = [int.from_bytes(str(part).encode()) for part in layer]
    return np.uint64(
        np.random.SeedSequence([seed, *words]).generate_state(1, np.uint64)[0]
    )


def scatter(key: np.uint64, row: Integers, col: Integers) -> Floats:
    """Return a uniform random number in [0, 1) for every lattice point.

    The mixing step is the finaliser of SplitMix64 (Steele, Lea and Flood 2014),
    applied to the row and then to the column.
    """
    golden = np.uint64(0x9E3779B97F4A7C15)
    mixed = _mix(np.atleast_1d(row).view(np.uint64) * golden + key)
    mixed = _mix(mixed + np.atleast_1d(col).view(np.uint64) * golden)
    return (mixed >> np.uint64(40)).astype(np.float32) * np.float32(2.0**-24)


def _mix(bits: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))


def chance(seed: int, *layer: str | int) -> float:
    """Return one uniform random number in [0, 1) for the whole landscape."""
    return float(layer_key(seed, *layer) >> np.uint64(11)) * 2.0**-53


# Mean square of the sum of cubic B-spline weights along one axis, 151/315: the
# variance that interpolation leaves of independent lattice values.
_SPLINE_VARIANCE = 151.0 / 315.0


def _taps(position: Floats) -> tuple[Integers, Floats]:
    """Return the first of four lattice points and the weights (4, position).

    The weights are uniform cubic B-splines: twice differentiable and, unlike
    smoothed linear interpolation, not flat at the lattice points.
    """
    base = np.floor(position)
    t = (position - base).astype(np.float32)
    weights = np.stack(
        [
            (1 - t) ** 3,
            3 * t**3 - 6 * t**2 + 4,
            -3 * t**3 + 3 * t**2 + 3 * t + 1,
            t**3,
        ]
    )
    return base.astype(np.int64) - 1, weights / np.float32(6)


def _lattice(key: np.uint64, row: Integers, col: Integers) -> Floats:
    """Return independent values of mean 0 that give the spline a variance of 1."""
    scale = np.float32(12**0.5 / _SPLINE_VARIANCE)
    return (scatter(key, row, col) - np.float32(0.5)) * scale


def smooth(
    patch: Patch,
    layer: tuple[str | int, ...],
    spacing: float,
    octaves: int = 1,
    persistence: float = 0.5,
) -> Floats:
    """Return a smooth random field (y, x) of mean 0 and variance 1 over a patch.

    Lattice noise is summed over `octaves`. Each has half the `spacing` (metres) and
    `persistence` times the amplitude of the previous one.
    """
    total = np.zeros((patch.side, patch.side), np.float32)
    for octave in range(octaves):
        step = spacing / 2**octave
        # Shifted: else the lattices of all octaves coincide at the origin.
        shift = [chance(patch.seed, *layer, octave, axis) for axis in ("row", "col")]
        row, row_weights = _taps(patch.metres(patch.row) / step + shift[0])
        col, col_weights = _taps(patch.metres(patch.col) / step + shift[1])
        rows = np.arange(row[0], row[-1] + 4)
        cols = np.arange(col[0], col[-1] + 4)
        key = layer_key(patch.seed, *layer, octave)
        lattice = _lattice(key, rows[:, None], cols[None, :])
        lattice *= np.float32(persistence**octave)
        across = _combine(col_weights, lattice.T, col - col[0]).T
        total += _combine(row_weights, np.ascontiguousarray(across), row - row[0])
    power = sum(persistence ** (2 * octave) for octave in range(octaves))
    total *= np.float32(power**-0.5)
    return total


def _combine(weights: Floats, lattice: Floats, first: Integers) -> Floats:
    """Return the weighted sum of four neighbouring rows of `lattice`."""
    total: Floats = weights[0][:, None] * lattice[first]
    for tap in range(1, 4):
        total += weights[tap][:, None] * lattice[first + tap]
    return total


def smooth_at(
    seed: int,
    layer: tuple[str | int, ...],
    y: Floats,
    x: Floats,
    spacing: float,
) -> Floats:
    """Return one octave of the field of `smooth` at points in metres."""
    key = layer_key(seed, *layer, 0)
    row, row_weights = _taps(y / spacing)
    col, col_weights = _taps(x / spacing)
    total = np.zeros(y.shape, np.float32)
    for i in range(4):
        for j in range(4):
            values = _lattice(key, row + i, col + j)
            total += row_weights[i] * col_weights[j] * values
    return total


def normal_scatter(
    key_a: np.uint64, key_b: np.uint64, row: Integers, col: Integers
) -> Floats:
    """Return a standard normal number for every lattice point (Box, Muller 1958)."""
    radius: Floats = np.sqrt(-2 * np.log1p(-scatter(key_a, row, col)))
    radius *= np.cos(np.float32(2 * np.pi) * scatter(key_b, row, col))
    return radius
