"""A rising correction of a map that lowers the bias of tall forest.

A map of the least squared error is the mean of what is known of a pixel, so that tall
forest is too low in it. Of all corrections g that depend on the map m alone and lower
the mean error of the tallest pixels by as much, one adds least to the squared error:

    g(m) = E(y | m) + strength * P(y is tall | m)

(the stationary point of E (g - y)^2 - 2 * strength * E (g - y | tall) P(tall)). Both
terms are estimated by isotonic regression on held-out labels, so g does not fall. The
strength is the largest that the error of maps allows, and no larger than what removes
the bias.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from geobiomass.cube import CubeError, DamagedError
from geobiomass.data.loader import ChipLoader
from geobiomass.inference.mapper import Mapper
from geobiomass.learner.fitting import folds_of
from geobiomass.models.calibration import compare_units
from geobiomass.network import AttentionUNet
from geobiomass.network.rising_curve import RisingCurve
from geobiomass.recipes.recipe import Recipe

Numbers = npt.NDArray[np.float64]

_TALL = 98.0
"""Percentile of the held-out labels from which on forest is tall."""
_DEARER = 0.01
"""Share by which the held-out RMSE may rise."""
FEWEST_PIXELS, FEWEST_GROUPS = 1000, 4
"""Held-out labels, and chips or crops that they are in, to learn the correction from:
with these 20 labels are tall."""
_PIXELS = 2**22
"""Held-out labels that are used at most: of more, every n-th."""
_BIN = 50
"""Pixels of a bin of the map's values, at least."""
_BINS = (0.05, 0.1, *(1 - 0.8 ** np.arange(1, 30)))
"""Shares of the pixels below the bins' edges: narrow bins where the map is high."""


@dataclass(frozen=True)
class TailCorrection:
    """What a correction of the tail was learnt from, and what it does.

    The error and the bias after it are out of fold: each of five parts of the held-out
    chips, or crops of a scene, is corrected with what the others say.

    Parameters
    ----------
    strength : float
        What is added where a pixel is surely tall, units of the map.
    tall : float
        The label from which on a pixel is tall: the 98th percentile.
    pixels, groups : int
        Held-out labels, and the chips or crops that they are in.
    rmse, bias : tuple of float
        Root mean squared error of all, and mean error of tall pixels: before, after.
    """

    strength: float
    tall: float
    pixels: int
    groups: int
    rmse: tuple[float, float]
    bias: tuple[float, float]

    def in_words(self, units: str) -> str:
        """Return a description in one line, for the card and the provenance."""
        rmse = f"{self.rmse[0]:.4g} before and {self.rmse[1]:.4g} after"
        bias = f"{self.bias[0]:.4g} before and {self.bias[1]:.4g} after"
        return (
            f"a rising curve, learnt on {self.pixels:,} held-out labels in "
            f"{self.groups} chips or crops; on them, out of fold, RMSE {rmse}, bias "
            f"from {self.tall:.4g} {units} on {bias}"
        )


def check_correctable(network: object, validation: ChipLoader | None) -> None:
    """Check that a network can have a correction to learn, before its training.

    Raises
    ------
    CubeError
        If too few labels are held out.
    ValueError
        If the network is of another package.
    """
    if not isinstance(network, AttentionUNet):
        raise ValueError(
            "tail_correction=True needs the network of a recipe, an AttentionUNet, got "
            f"a {type(network).__name__}; leave it out."
        )
    pixels, groups = 0, set[object]()
    for number, sample in enumerate([] if validation is None else validation.samples):
        assert validation is not None
        try:
            found = int(np.isfinite(validation.reader.labels(sample)).sum())
        except DamagedError:
            if validation.damaged == "raise":
                raise
            continue
        pixels += found
        if found:
            groups.add(number if sample.chip is None else sample.chip)
    if pixels < FEWEST_PIXELS or len(groups) < FEWEST_GROUPS:
        raise CubeError(
            f"tail_correction=True needs {FEWEST_PIXELS:,} held-out labels in "
            f"{FEWEST_GROUPS} chips, or crops of a scene, at least, got {pixels:,} in "
            f"{len(groups)}; hold out more with validation=, or leave it out."
        )


def learn_correction(
    mapper: Mapper, validation: ChipLoader, recipe: Recipe
) -> tuple[RisingCurve | None, str]:
    """Learn a correction from maps of what is held out, and describe it in words.

    Parameters
    ----------
    mapper : Mapper
        Of the network without a correction, and without post-processing, over the
        validation's reader.
    validation : ChipLoader
        What is held out.
    recipe : Recipe
        With the ceiling of labels, and the seed of the folds.

    Returns
    -------
    curve : RisingCurve or None
        None where nothing is corrected.
    words : str
        What it was learnt from and what it does, or why there is none.

    Warns
    -----
    UserWarning
        If too few held-out labels have a map: then nothing is corrected.
    """
    samples = list(dict.fromkeys(validation.samples))
    units = compare_units(mapper, samples, validation.damaged == "skip")
    step = max(1, -(-sum(len(unit.observed) for unit in units) // _PIXELS))
    name = mapper.outputs[0]
    maps, labels, where = [np.zeros(0)], [np.zeros(0)], [np.zeros(0, np.int64)]
    # Units that cannot be read are left out, so that numbers of chips do not fit.
    whole = samples if len(units) == len(samples) else [None] * len(units)
    for number, (sample, unit) in enumerate(zip(whole, units, strict=True)):
        own = number if sample is None or sample.chip is None else sample.chip
        maps.append(unit.values[name][::step].astype(np.float64))
        labels.append(unit.observed[::step].astype(np.float64))
        where.append(np.full(len(labels[-1]), own))
    mapped, observed = np.concatenate(maps), np.concatenate(labels)
    groups = np.concatenate(where)
    if recipe.ceiling is not None:
        known = (observed < recipe.ceiling) | (recipe.tail == "clip")
        mapped, groups = mapped[known], groups[known]
        observed = np.minimum(observed[known], recipe.ceiling)
    count = len(np.unique(groups))
    if len(observed) < FEWEST_PIXELS or count < FEWEST_GROUPS:
        warnings.warn(
            f"The tail is not corrected: {len(observed):,} held-out labels in {count} "
            f"chips or crops have a map, and {FEWEST_PIXELS:,} in {FEWEST_GROUPS} are "
            "needed.",
            stacklevel=6,
        )
        return None, "none, as too few held-out labels have a map"
    curve, found = fit_correction(mapped, observed, groups, recipe.training.seed)
    if found is None:
        return None, "none, as held-out maps are best as they are"
    return curve, found.in_words(mapper.target.units)


def fit_correction(
    mapped: Numbers, observed: Numbers, groups: npt.NDArray[np.int64], seed: int = 0
) -> tuple[RisingCurve | None, TailCorrection | None]:
    """Fit a correction to values of a map and their labels.

    Parameters
    ----------
    mapped, observed : numpy.ndarray
        (pixel,) the map and the labels, finite.
    groups : numpy.ndarray
        (pixel,) pixels of one group are never on two sides of a fold.
    seed : int
        Seed of the folds.

    Returns
    -------
    curve : RisingCurve or None
        None where the map is best as it is.
    found : TailCorrection or None
        What it was learnt from.
    """
    limit = float(np.percentile(observed, _TALL))
    tall = observed >= limit
    folds = folds_of(groups, seed)
    means, chances = np.empty(len(mapped)), np.empty(len(mapped))
    for fold in range(int(folds.max()) + 1):
        held = folds == fold
        if held.all():
            return None, None
        knots, values, shares = terms_of(mapped[~held], observed[~held], tall[~held])
        if len(knots) < 2:
            return None, None
        means[held] = line_through(knots, values, mapped[held])
        chances[held] = np.interp(mapped[held], knots, shares)
    knots, values, shares = terms_of(mapped, observed, tall)
    before = _mean_square(mapped - observed)
    if _mean_square(means - observed) > before:  # the map is right on average
        means, values = mapped, knots
    most = before * (1 + _DEARER) ** 2
    strength = _strength(observed - means, chances, tall, most)
    corrected = means + strength * chances
    bias = [float((maps - observed)[tall].mean()) for maps in (mapped, corrected)]
    if abs(bias[1]) >= abs(bias[0]):
        return None, None
    found = TailCorrection(
        strength,
        limit,
        len(mapped),
        len(np.unique(groups)),
        (math.sqrt(before), math.sqrt(_mean_square(corrected - observed))),
        (bias[0], bias[1]),
    )
    return RisingCurve.through(
        knots.tolist(), (values + strength * shares).tolist()
    ), found


def _strength(error: Numbers, chances: Numbers, tall: Any, most: float) -> float:
    """Return the strength: the squared error is `most` at most, the bias not above 0.

    Parameters
    ----------
    error, chances : numpy.ndarray
        (pixel,) label minus mean, and probability that a pixel is tall, out of fold.
    tall : numpy.ndarray
        (pixel,) bool.
    most : float
        The largest mean squared error.
    """
    # The mean of (error - strength * chances)^2 is a parabola of the strength.
    square, cross = float((chances**2).mean()), float((error * chances).mean())
    there = cross**2 - square * (_mean_square(error) - most)
    rise = float(chances[tall].mean())
    if rise == 0 or there < 0:
        return 0.0
    unbiased = float(error[tall].mean()) / rise
    return max(0.0, min((cross + math.sqrt(there)) / square, unbiased))


def _mean_square(values: Numbers) -> float:
    return float((values**2).mean())


def terms_of(
    mapped: Numbers, observed: Numbers, tall: npt.NDArray[np.bool_]
) -> tuple[Numbers, Numbers, Numbers]:
    """Return knots of the map, and there the mean label and the share of tall pixels.

    Means of bins of the map's values, none of which falls (isotonic regression).
    """
    from sklearn.isotonic import isotonic_regression

    order = np.argsort(mapped, kind="stable")
    edges = np.unique((np.array(_BINS) * len(order)).astype(int))
    edges = _wide_enough(edges, len(order))
    counts = np.diff([0, *edges, len(order)])
    starts = np.concatenate([[0], edges]).astype(int)
    sums = [
        np.add.reduceat(column[order], starts) / counts
        for column in (mapped, observed, tall.astype(np.float64))
    ]
    # Bins of equal values are one.
    knots, first = np.unique(sums[0], return_index=True)
    values, shares = (
        isotonic_regression(column, sample_weight=counts)[first] for column in sums[1:]
    )
    return knots, values, shares


def _wide_enough(edges: npt.NDArray[np.int64], count: int) -> npt.NDArray[np.int64]:
    """Return the edges that leave at least `_BIN` pixels in each bin."""
    kept: list[int] = []
    for edge in edges.tolist():
        if edge - (kept[-1] if kept else 0) >= _BIN and count - edge >= _BIN:
            kept.append(edge)
    return np.array(kept, np.int64)


def line_through(knots: Numbers, values: Numbers, at: Numbers) -> Numbers:
    """Return the values of a curve, which is a shift beyond its knots."""
    beyond = at - np.clip(at, knots[0], knots[-1])
    return np.asarray(np.interp(at, knots, values) + beyond)


__all__ = [
    "FEWEST_GROUPS",
    "FEWEST_PIXELS",
    "TailCorrection",
    "check_correctable",
    "fit_correction",
    "learn_correction",
    "line_through",
    "terms_of",
]
