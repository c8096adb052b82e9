"""From the images of a month to one: which pixels count, and what becomes of them.

Arithmetic only, on numpy arrays (scene, y, x); nothing is read here.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]

# Classes of the scene classification (SCL) of Sen2Cor, the processor that makes
# Sentinel-2 Level-2A: Sentinel-2 Level-2A Algorithm Theoretical Basis Document, ESA.
NO_DATA, SATURATED, CLOUD_SHADOW = 0, 1, 3
MEDIUM_CLOUD, HIGH_CLOUD, THIN_CIRRUS = 8, 9, 10
MASKED_CLASSES = (
    NO_DATA,
    SATURATED,
    CLOUD_SHADOW,
    MEDIUM_CLOUD,
    HIGH_CLOUD,
    THIN_CIRRUS,
)
"""Classes that are left out by default.

Dark areas (2) stay, since conifers in winter sun are often taken for them, and so
does snow (11), which is what a boreal winter looks like.
"""

CLASSES = 12
# The surer that ground is seen, the lower: vegetation, bare soil and water; snow,
# which is mixed up with cloud; dark areas (shadow?) and unclassified (haze?).
_DOUBT = np.array([9, 9, 2, 9, 0, 0, 0, 2, 9, 9, 9, 1], np.uint8)


def one_of_a_pass(there: Mask, passes: Sequence[str]) -> Mask:
    """Take each pixel of a pass of a satellite from one scene only.

    Tiles overlap, in two UTM zones more so, and archives keep a product that was
    processed again beside the first: without this, such pixels would count twice.

    Parameters
    ----------
    there : numpy.ndarray
        (scene, y, x), where a scene holds data; the preferred scenes come first.
    passes : sequence of str
        The pass that each scene belongs to.
    """
    kept = there.copy()
    for first in set(passes):
        taken = np.zeros(there.shape[1:], bool)
        for index in (i for i, name in enumerate(passes) if name == first):
            kept[index] &= ~taken
            taken |= there[index]
    return kept


def clear(classes: npt.NDArray[np.uint8], masked: Sequence[int]) -> Mask:
    """Tell where the scene classification names none of the masked classes."""
    table = np.zeros(256, bool)
    table[:CLASSES] = True
    table[list(masked)] = False
    return table[classes]


def harmonise(
    numbers: npt.NDArray[np.uint16], offsets: Sequence[int], kept: Mask
) -> Pixels:
    """Turn digital numbers into reflectance x 10^4, NaN where none is kept.

    From processing baseline 04.00 on, 1000 was added to all numbers so that negative
    reflectance could be stored; 0 remained "no data". What falls below zero is 0, as
    it was before.

    Parameters
    ----------
    numbers : numpy.ndarray
        (scene, y, x).
    offsets : sequence of int
        What was added to each scene's numbers.
    kept : numpy.ndarray
        (scene, y, x), which pixels count.
    """
    values = numbers.astype(np.float32)
    values -= np.array(offsets, np.float32)[:, None, None]
    np.maximum(values, 0, out=values)
    values[~kept | (numbers == 0)] = np.nan
    return values


def median(values: Pixels) -> Pixels:
    """Median over scenes, (y, x), of what is not NaN; NaN where nothing is."""
    # NaN sorts last, so the middle follows from how many values there are.
    ordered = np.sort(values, axis=0)
    count = np.isfinite(values).sum(axis=0)
    low = np.maximum(count - 1, 0) // 2
    middle = np.stack([low, np.minimum(count // 2, len(values) - 1)])
    pair = np.take_along_axis(ordered, middle, axis=0)
    return np.where(count > 0, pair.mean(axis=0), np.nan).astype(np.float32)


def surest(
    classes: npt.NDArray[np.uint8], kept: Mask, distances: Sequence[float]
) -> npt.NDArray[np.intp]:
    """Choose a scene for each pixel, (y, x); -1 where none is kept.

    The one whose class is least likely to be a cloud or a shadow; of equals, the one
    closest to the middle of the month; of these, the first.

    Parameters
    ----------
    classes : numpy.ndarray
        (scene, y, x), the scene classification.
    kept : numpy.ndarray
        (scene, y, x), which pixels count.
    distances : sequence of float
        How far each scene is from the middle of the month, in any unit of time.
    """
    nearest = np.argsort(distances, kind="stable")
    doubt = np.full(256, _DOUBT.max(), np.uint8)
    doubt[:CLASSES] = _DOUBT
    ranks = doubt[classes][nearest].astype(np.int16)
    ranks[~kept[nearest]] = np.iinfo(np.int16).max
    chosen = nearest[ranks.argmin(axis=0)]
    return np.where(kept.any(axis=0), chosen, -1)


def pick(values: Pixels, chosen: npt.NDArray[np.intp]) -> Pixels:
    """Take each pixel, (y, x), from the scene chosen for it."""
    taken = np.take_along_axis(values, np.maximum(chosen, 0)[None], axis=0)[0]
    return np.where(chosen >= 0, taken, np.float32(np.nan))


def mean_decibels(power: Pixels, kept: Mask) -> Pixels:
    """Average linear power over scenes, (y, x), and give it in dB.

    The mean of power is the usual multi-look estimate: speckle multiplies, so that
    the median and the mean of decibels are both biased low, by an amount that
    depends on the number of looks. What is zero, negative or NaN is missing.
    """
    there = kept & (power > 0) & np.isfinite(power)
    with np.errstate(divide="ignore", invalid="ignore"):
        total = np.where(there, power, 0).sum(axis=0, dtype=np.float64)
        decibels = 10 * np.log10(total / there.sum(axis=0))
    return np.where(there.any(axis=0), decibels, np.nan).astype(np.float32)
