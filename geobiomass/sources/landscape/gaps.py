"""Gaps of the monthly images, as the real data have them."""

import numpy as np
import numpy.typing as npt

from geobiomass.sources.landscape.random_fields import (
    Floats,
    Integers,
    Patch,
    chance,
    layer_key,
    scatter,
    smooth,
)

# Months with Sentinel-2, from September to August: the six patterns of the real
# chips, with plausible shares (the last two, 15 % and 6 %, are real).
S2_PATTERNS = {
    "111111111111": 0.24,
    "111011111111": 0.30,
    "111001111111": 0.13,
    "110001111111": 0.12,
    "000000111111": 0.15,
    "000000011111": 0.06,
}
ACQUISITION_ORDER = (9, 10, 11, 12, 1, 2, 3, 4, 5, 6, 7, 8)


def remove_missing(
    patch: Patch, month: int, image: Floats, random: np.random.Generator
) -> None:
    """Set pixels to NaN, in place, where real data are missing.

    Ascending passes are complete.
    """
    _damage(image[:4], random)
    image[2:4, descending_missing(patch, month)] = np.nan
    image[4:, optical_missing(patch, month)] = np.nan


def _damage(backscatter: Floats, random: np.random.Generator) -> None:
    """Set a few pixels of a pass to exactly 0 dB, in place, as in the real files."""
    side = backscatter.shape[-1]
    for first in (0, 2):
        row, col, length = random.integers(0, (side, side, 5))
        if random.random() < 0.12:
            backscatter[first : first + 2, row, col : col + 1 + length] = 0


def _strip(patch: Patch, orbit: str, lean: float) -> Integers:
    """Return the number (y, x) of the orbit strip that contains each pixel.

    Strips are 8 to 130 km wide, by seed, and inclined like the tracks of the orbit.
    """
    width = 8000.0 * 16 ** chance(patch.seed, orbit, "width")
    start = chance(patch.seed, orbit, "start")
    across = patch.metres(patch.col)[None, :] + lean * patch.metres(patch.row)[:, None]
    return np.floor(across / width + start).astype(np.int64)


def descending_missing(patch: Patch, month: int) -> npt.NDArray[np.bool_]:
    """Return the mask of pixels without a descending pass: 7 to 18 % of all pixels.

    Some strips lack the whole winter half-year; any strip sometimes lacks a month.
    """
    strip = _strip(patch, "descending", 0.21)
    column = np.zeros_like(strip)
    lost = scatter(layer_key(patch.seed, "pass", month), strip, column) < 0.075
    if month in (11, 12, 1, 2, 3, 4):
        lost |= scatter(layer_key(patch.seed, "winter"), strip, column) < 0.095
    return lost


def optical_missing(patch: Patch, month: int) -> npt.NDArray[np.bool_]:
    """Return the mask of pixels without Sentinel-2: missing months and holes."""
    strip = _strip(patch, "optical", -0.23)
    column = np.zeros_like(strip)
    step = ACQUISITION_ORDER.index(month)
    absent = np.array([pattern[step] == "0" for pattern in S2_PATTERNS])
    ends = np.cumsum(list(S2_PATTERNS.values()))[:-1]
    pattern = scatter(layer_key(patch.seed, "pattern"), strip, column)
    lost = absent[np.searchsorted(ends, pattern)]
    # A file is sometimes almost empty, and often has a few holes.
    empty = scatter(layer_key(patch.seed, "empty", month), strip, column) < 0.02
    holes = smooth(patch, ("holes", month), 1800.0, octaves=5)
    return np.asarray(lost | (holes > np.where(empty, -2.3, 2.6)))
