"""Tall forest in a training: which crops are drawn more often, which labels weigh more.

Labels of tall forest are few, and a network underestimates what it sees seldom. Both
remedies are measured on the labels that train, and on no others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from geobiomass.cube import DamagedError
from geobiomass.data.labelled_cube import LabelledSamples
from geobiomass.data.reader import Reader, Sample

if TYPE_CHECKING:
    from geobiomass.recipes.recipe import Recipe

Numbers = npt.NDArray[np.float64]

_LABELS = 2**22
"""Labels that are kept of all samples together: of more, every n-th of each sample."""
_HIGH = 90.0
"""Percentile of a sample's labels by which it is drawn."""
MOST_OFTEN = 8.0
"""Times as often as the sample of the lowest biomass that another is drawn, at most."""
_BINS, _SMOOTH = 100, 2.0
"""Bins over the range of the labels, and the smoothing kernel's standard deviation in
bins, as in the reference implementation of label distribution smoothing."""
MOST_WEIGHT = 10.0
"""Weight of a label over the mean of all, at most."""


@dataclass(frozen=True)
class LabelBalance:
    """Weights of labels: their smoothed density to the power of minus `power`.

    Label distribution smoothing (Yang, Zha, Chen, Wang and Katabi, Delving into deep
    imbalanced regression, ICML 2021): a histogram of the training labels, smoothed
    with a Gaussian kernel, is their density. Weights are scaled to a mean of 1 over the
    training labels, capped at 10 and scaled again.

    Parameters
    ----------
    power : float
        0 weighs all labels equally, 1 all ranges of biomass.
    lowest, highest : float
        Middle of the first and of the last bin, units of the labels.
    weights : tuple of float
        The weight at the middle of each bin; between them it is interpolated, beyond
        them it is that of the first or of the last.
    """

    power: float
    lowest: float
    highest: float
    weights: tuple[float, ...]

    def __call__(self, labels: Tensor) -> Tensor:
        """Return the weights of labels, of their shape, float32; 1 where NaN."""
        table = torch.tensor(self.weights, dtype=torch.float32, device=labels.device)
        step = (self.highest - self.lowest) / (len(self.weights) - 1)
        if step == 0:
            return torch.ones_like(labels, dtype=torch.float32)
        at = ((labels.float() - self.lowest) / step).clamp(0, len(self.weights) - 1)
        known = at.isfinite()
        at = torch.where(known, at, 0.0)
        below = at.floor().clamp(max=len(self.weights) - 2)
        index = below.long()
        found = torch.lerp(table[index], table[index + 1], at - below)
        return torch.where(known, found, 1.0)

    def __str__(self) -> str:
        """Return a description in one line, for the card of a model."""
        return (
            f"the density of the training labels to the power of {-self.power:g}, from "
            f"{min(self.weights):.2g} to {max(self.weights):.2g}, with a mean of 1"
        )


def balance_of(part: LabelledSamples, recipe: Recipe) -> LabelBalance | None:
    """Return the weights of the labels of a training; None where all weigh equally.

    Parameters
    ----------
    part : LabelledSamples
        The samples that train.
    recipe : Recipe
        With the power, `balance`, and the ceiling of labels.
    """
    if not recipe.balance:
        return None
    each = _labels_of(part.reader, part.samples, recipe)
    return fit_balance(np.concatenate([*each, np.zeros(0)]), recipe.balance)


def fit_balance(labels: Numbers, power: float) -> LabelBalance:
    """Return the weights of labels with this distribution.

    Parameters
    ----------
    labels : numpy.ndarray
        (label,) without NaN. Where there is none, or all are equal, all weigh 1.
    power : float
        As :class:`LabelBalance` has it.
    """
    from scipy.ndimage import gaussian_filter1d

    if not len(labels) or labels.min() == labels.max():
        return LabelBalance(power, 0.0, 0.0, (1.0, 1.0))
    counts, edges = np.histogram(labels, _BINS)
    middles = (edges[1:] + edges[:-1]) / 2
    density = gaussian_filter1d(counts / counts.sum(), _SMOOTH, mode="reflect")
    # A gap in the labels has a density of zero, and the weight of the cap.
    weights = np.maximum(density, np.finfo(np.float32).tiny) ** -power
    for _ in range(2):
        weights = weights / np.interp(labels, middles, weights).mean()
        weights = np.minimum(weights, MOST_WEIGHT)
    weights = weights / np.interp(labels, middles, weights).mean()
    found = tuple(float(weight) for weight in weights)
    return LabelBalance(power, float(middles[0]), float(middles[-1]), found)


def chances_of(
    part: LabelledSamples, crops: Sequence[Sample], recipe: Recipe
) -> tuple[float, ...] | None:
    """Return how often each crop's sample is drawn; None where all are, equally.

    A chip, or a block of a scene, has the 90th percentile of its labels. It is drawn in
    proportion to the inverse square root of the share of the samples whose percentile
    is at least as high, but at most 8 times as often as the lowest one. One that cannot
    be read counts as the lowest.

    Parameters
    ----------
    part : LabelledSamples
        The samples that train.
    crops : sequence of Sample
        The samples, repeated as an epoch has them.
    recipe : Recipe
        With `crop_sampling`, and the ceiling of labels.

    Returns
    -------
    tuple of float
        A number for each of `crops`, with a mean of 1.
    """
    if recipe.crop_sampling == "even":
        return None
    each = _labels_of(part.reader, part.samples, recipe)
    high = np.array(
        [np.percentile(own, _HIGH) if len(own) else -np.inf for own in each]
    )
    ordered = np.sort(high)
    share = 1 - np.searchsorted(ordered, high, side="left") / len(high)
    often = np.minimum(share**-0.5, MOST_OFTEN)
    known = dict(zip(part.samples, often.tolist(), strict=True))
    found = np.array([known[crop] for crop in crops])
    return tuple((found / found.mean()).tolist())


def _labels_of(
    reader: Reader, samples: Sequence[Sample], recipe: Recipe
) -> list[Numbers]:
    """Return the labels of each sample that count in the loss, evenly thinned."""
    most = max(1, _LABELS // max(1, len(samples)))
    found = []
    for sample in samples:
        try:
            labels = reader.labels(sample)
        except DamagedError:
            if recipe.damaged == "raise":
                raise
            found.append(np.zeros(0))  # the loader warns, and leaves it out
            continue
        known = labels[np.isfinite(labels)].astype(np.float64)
        if recipe.ceiling is not None:
            if recipe.tail == "drop":
                known = known[known < recipe.ceiling]
            known = np.minimum(known, recipe.ceiling)
        found.append(known[:: -(-len(known) // most) or 1])
    return found
