"""The composite of a month: which pixels count, and how they become one image.

Pure arithmetic on numpy arrays (scene, y, x); no file is read here.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]

# Classes of the scene classification (SCL) of Sen2Cor, the processor that produces
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
"""Classes that are masked by default.

Dark areas (2) are kept, because conifers in winter sun are often classified so. Snow
(11) is kept, because boreal winters have snow.
"""

UNUSABLE_CLASSES = (NO_DATA, SATURATED)
"""Classes that are masked where a detector looks for clouds."""

CLASSES = 12  # of the scene classification, 0 to 11
# Rank by class of the risk that a pixel is cloud or shadow: 0 vegetation, bare soil and
# water; 1 snow, which is confused with cloud; 2 dark areas (possibly shadow) and
# unclassified (possibly haze); 9 the rest.
_RISK = np.array([9, 9, 2, 9, 0, 0, 0, 2, 9, 9, 9, 1], np.uint8)


def first_of_each_pass(there: Mask, passes: Sequence[str]) -> Mask:
    """Mask all but the first scene of a satellite pass, for each pixel.

    Tiles overlap, most of all between two UTM zones, and archives keep a reprocessed
    product next to the first one. Without this mask such pixels would count twice.

    Parameters
    ----------
    there : numpy.ndarray
        (scene, y, x), pixels with data; the preferred scenes come first.
    passes : sequence of str
        Pass of each scene.
    """
    kept = there.copy()
    for first in set(passes):
        taken = np.zeros(there.shape[1:], bool)
        for index in (i for i, name in enumerate(passes) if name == first):
            kept[index] &= ~taken
            taken |= there[index]
    return kept


def clear(classes: npt.NDArray[np.uint8], masked: Sequence[int]) -> Mask:
    """Return the mask of pixels whose class is none of the masked classes."""
    table = np.zeros(256, bool)
    table[:CLASSES] = True
    table[list(masked)] = False
    return table[classes]


def harmonise(
    numbers: npt.NDArray[np.uint16], offsets: Sequence[int], kept: Mask
) -> Pixels:
    """Convert digital numbers to reflectance x 10^4, NaN where not kept.

    Since processing baseline 04.00, 1000 is added to all numbers so that negative
    reflectance can be stored; 0 still means no data. Negative reflectance becomes 0,
    as before that baseline.

    Parameters
    ----------
    numbers : numpy.ndarray
        (scene, y, x).
    offsets : sequence of int
        Number added to the digital numbers of each scene.
    kept : numpy.ndarray
        (scene, y, x), which pixels count.
    """
    values = numbers.astype(np.float32)
    values -= np.array(offsets, np.float32)[:, None, None]
    np.maximum(values, 0, out=values)
    values[~kept | (numbers == 0)] = np.nan
    return values


def median(values: Pixels) -> Pixels:
    """Return the median over scenes, (y, x), without NaN; NaN if all are NaN."""
    # NaN sorts last, so the number of values gives the position of the middle.
    ordered = np.sort(values, axis=0)
    count = np.isfinite(values).sum(axis=0)
    low = np.maximum(count - 1, 0) // 2
    middle = np.stack([low, np.minimum(count // 2, len(values) - 1)])
    pair = np.take_along_axis(ordered, middle, axis=0)
    return np.where(count > 0, pair.mean(axis=0), np.nan).astype(np.float32)


def least_risk(
    classes: npt.NDArray[np.uint8], kept: Mask, distances: Sequence[float]
) -> npt.NDArray[np.intp]:
    """Choose a scene for each pixel, (y, x); -1 where none is kept.

    It is the scene whose class has the least risk of cloud or shadow; among equals,
    the closest to the middle of the month; among these, the first.

    Parameters
    ----------
    classes : numpy.ndarray
        (scene, y, x), the scene classification.
    kept : numpy.ndarray
        (scene, y, x), which pixels count.
    distances : sequence of float
        Time between each scene and the middle of the month, in any unit.
    """
    nearest = np.argsort(distances, kind="stable")
    risk = np.full(256, _RISK.max(), np.uint8)
    risk[:CLASSES] = _RISK
    ranks = risk[classes][nearest].astype(np.int16)
    ranks[~kept[nearest]] = np.iinfo(np.int16).max
    chosen = nearest[ranks.argmin(axis=0)]
    return np.where(kept.any(axis=0), chosen, -1)


def pick(values: Pixels, chosen: npt.NDArray[np.intp]) -> Pixels:
    """Return each pixel, (y, x), from the scene chosen for it."""
    taken = np.take_along_axis(values, np.maximum(chosen, 0)[None], axis=0)[0]
    return np.where(chosen >= 0, taken, np.float32(np.nan))


def mean_decibels(power: Pixels, kept: Mask) -> Pixels:
    """Return the mean of linear power over scenes, (y, x), in dB.

    The mean of power is the usual multi-look estimate. Speckle is multiplicative, so
    the median and the mean of decibels are both biased low, by an amount that depends
    on the number of looks. Zero, negative and NaN values are missing.
    """
    there = kept & (power > 0) & np.isfinite(power)
    with np.errstate(divide="ignore", invalid="ignore"):
        total = np.where(there, power, 0).sum(axis=0, dtype=np.float64)
        decibels = 10 * np.log10(total / there.sum(axis=0))
    return np.where(there.any(axis=0), decibels, np.nan).astype(np.float32)
