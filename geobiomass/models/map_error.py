"""The error of maps: of held-out places, through the tiles that maps are made of.

The validation of a training compares crops of the training's size. A map is made of
larger tiles. Where the network is not the same on both, the validation's error is not
that of maps; so maps of some held-out blocks are made after training and compared with
the same labels.
"""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

_TOLERANCE = 0.1
"""Share by which the error of maps may be above that of crops without a word."""
FEWEST = 0.0001
"""Share of pixels outside the labels' range from which on it is told."""

Facts = Mapping[str, Any]


@dataclass(frozen=True)
class MapError:
    """The error of a model's maps of held-out places, beside that of single crops.

    Parameters
    ----------
    tile, overlap : int
        Of these maps, pixels: the defaults of ``model.predict``.
    blocks, of : int
        Blocks of the map that were made, and blocks with a held-out label.
    pixels : int
        Held-out labels in these blocks that are compared.
    rmse : float
        Root mean squared error of the map at these labels, in units of the target.
    crop_rmse : float
        The same labels and weights, crop by crop as the validation does it.
    crop : int
        Side of the validation's crops, pixels.
    lowest, highest : float
        Of the map, before the floor, in all pixels of these blocks.
    labels : tuple of float
        The lowest and highest label of the training data below its ceiling.
    outside : float
        Share of the blocks' pixels that are beyond the range of the labels by more
        than its width.
    below : float or None
        Share of the blocks' pixels that the floor raises; None without a floor.
    """

    tile: int
    overlap: int
    blocks: int
    of: int
    pixels: int
    rmse: float
    crop_rmse: float
    crop: int
    lowest: float
    highest: float
    labels: tuple[float, float]
    outside: float
    below: float | None = None

    @property
    def difference(self) -> float:
        """(rmse - crop_rmse) / crop_rmse: above zero where maps are worse."""
        if self.crop_rmse == 0:
            return 0.0 if self.rmse == 0 else math.inf
        return (self.rmse - self.crop_rmse) / self.crop_rmse

    @property
    def problem(self) -> str | None:
        """What is wrong with the maps, in one sentence; None if nothing is seen."""
        found = []
        if not self.difference <= _TOLERANCE:
            found.append(
                f"their RMSE on held-out labels is {self.rmse:.4g}, "
                f"{100 * self.difference:.0f} % above the {self.crop_rmse:.4g} that "
                f"the validation finds on crops of {self.crop} pixels"
            )
        if self.outside >= FEWEST:
            raised = "" if self.below is None else " before they are raised to 0"
            found.append(
                f"{percent(self.outside)} of their pixels are beyond the range of the "
                f"labels, {self.labels[0]:.4g} to {self.labels[1]:.4g}, by more than "
                f"its width{raised} (from {self.lowest:.4g} to {self.highest:.4g})"
            )
        if not found:
            return None
        return (
            f"The error of maps of this model is not what its validation says. In "
            f"tiles of {self.tile} pixels {', and '.join(found)} (measured on "
            f"{self.blocks} of {self.of} blocks, {self.pixels:,} labels)."
        )

    def __str__(self) -> str:
        """Return the figures in one line."""
        below = "" if self.below is None else f", {percent(self.below)} raised to 0"
        return (
            f"RMSE {self.rmse:.4g} in tiles of {self.tile} pixels, "
            f"{self.crop_rmse:.4g} in crops of {self.crop}; "
            f"values {self.lowest:.4g} to {self.highest:.4g}, "
            f"{percent(self.outside)} beyond the labels' range by more than its "
            f"width{below}; {self.blocks} of {self.of} held-out blocks, "
            f"{self.pixels:,} labels"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the values for JSON."""
        return {**dataclasses.asdict(self), "labels": list(self.labels)}

    @classmethod
    def from_dict(cls, content: Facts) -> MapError:
        """Build it from the result of :meth:`to_dict`."""
        return cls(**{**content, "labels": tuple(content["labels"])})


def percent(share: float) -> str:
    """Return a share in percent, of two digits."""
    return f"{100 * share:.2g} %"


def outside_range(
    values: npt.NDArray[Any], labels: Sequence[float]
) -> npt.NDArray[np.bool_]:
    """Return which values are beyond the range of labels by more than its width."""
    low, high = labels
    width = high - low
    return np.asarray((values < low - width) | (values > high + width))


def tell(errors: Sequence[MapError | None], stacklevel: int) -> None:
    """Warn once if maps of a model, or of one of several, are not as its validation."""
    problems = [error.problem for error in errors if error and error.problem]
    if problems:
        more = f" So are {len(problems) - 1} other members." if problems[1:] else ""
        warnings.warn(
            f"{problems[0]}{more} {_REMEDY}", UserWarning, stacklevel=stacklevel + 1
        )


_REMEDY = (
    "Train longer, or with larger crops (crop=128, block=256) so that training sees "
    "what maps are made of; model.map_error has the figures."
)
