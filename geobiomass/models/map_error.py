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
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from geobiomass.cube import DamagedError
from geobiomass.data.loader import ChipLoader, decode_batch
from geobiomass.inference.mapper import Mapper
from geobiomass.models.training_record import evaluating
from geobiomass.tiles import Sample, Window

if TYPE_CHECKING:
    from geobiomass.network import AttentionUNet

_TOLERANCE = 0.1
"""Share by which the error of maps may be above that of crops without a word."""
_BLOCKS = 6
"""Blocks of a map that are made at most; each takes up to nine tiles."""
_CHIPS = 16
"""The same for chips, which take a tile each where they are no larger than one."""
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
            found.append(
                f"{percent(self.outside)} of their pixels are beyond the range of the "
                f"labels, {self.labels[0]:.4g} to {self.labels[1]:.4g}, by more than "
                f"its width (from {self.lowest:.4g} to {self.highest:.4g})"
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


def measure_map_error(
    mapper: Mapper,
    network: AttentionUNet,
    validation: ChipLoader,
    labels: tuple[float, float],
    floor: float | None,
    device: str = "cpu",
) -> MapError | None:
    """Map some held-out blocks, and compare them with their labels.

    Parameters
    ----------
    mapper : Mapper
        Of the model without post-processing, over the validation's reader, with a
        block of a tile's size.
    network : AttentionUNet
        The network of the mapper.
    validation : ChipLoader
        The held-out crops. Their labels are compared in up to 6 blocks of the map, or
        16 chips, evenly over all that hold one.
    labels : tuple of float
        The range of the labels.
    floor : float, optional
        The model's floor.
    device : str
        For the crops.

    Returns
    -------
    MapError or None
        None where no held-out label has an observation.
    """
    floor_of = -math.inf if floor is None else floor
    places = _places(mapper, validation.samples)
    most = _CHIPS if mapper.reader.chips else _BLOCKS
    step = max(1.0, len(places) / most)
    squares, count, maps, compared = 0.0, 0, [], list[Sample]()
    for number in range(min(most, len(places))):
        crops = places[int(number * step)]
        whole = _hull(crops)
        try:
            values = mapper.compute(whole, crops[0].chip)[0].astype(np.float64)
        except DamagedError:
            if validation.damaged == "raise":
                raise
            continue  # the training has left it out, and warned
        maps.append(values[np.isfinite(values)])
        compared += crops
        for crop in crops:
            truth = mapper.reader.labels(crop).astype(np.float64)
            found = np.maximum(values[crop.window.within(whole)], floor_of)
            squares, count = _add(squares, count, found - truth)
    if not count:
        return None
    every = np.concatenate(maps)
    first = compared[0].window
    part = dataclasses.replace(validation, samples=compared)
    return MapError(
        tile=mapper.settings.tile,
        overlap=mapper.settings.overlap,
        blocks=len(maps),
        of=len(places),
        pixels=count,
        rmse=math.sqrt(squares / count),
        crop_rmse=_crop_rmse(network, part, floor_of, device),
        crop=min(first.height, first.width),
        lowest=float(every.min()),
        highest=float(every.max()),
        labels=labels,
        outside=float(outside_range(every, labels).mean()),
        below=None if floor is None else float((every < floor).mean()),
    )


def outside_range(
    values: npt.NDArray[Any], labels: Sequence[float]
) -> npt.NDArray[np.bool_]:
    """Return which values are beyond the range of labels by more than its width."""
    low, high = labels
    width = high - low
    return np.asarray((values < low - width) | (values > high + width))


def _places(mapper: Mapper, crops: Sequence[Sample]) -> list[list[Sample]]:
    """Return the crops by chip, or by the block of the map that their centre is in."""
    side = mapper.settings.block
    places: dict[tuple[int, int, int], list[Sample]] = {}
    for crop in crops:
        window = crop.window
        row = (window.top + window.bottom) // 2 // side
        column = (window.left + window.right) // 2 // side
        places.setdefault((crop.chip or 0, row, column), []).append(crop)
    return [places[key] for key in sorted(places)]


def _hull(crops: Sequence[Sample]) -> Window:
    windows = [crop.window for crop in crops]
    return Window(
        min(window.top for window in windows),
        min(window.left for window in windows),
        max(window.bottom for window in windows),
        max(window.right for window in windows),
    )


def _add(
    squares: float, count: int, wrong: npt.NDArray[np.float64]
) -> tuple[float, int]:
    wrong = wrong[np.isfinite(wrong)]
    return squares + float((wrong**2).sum()), count + wrong.size


def _crop_rmse(
    network: AttentionUNet, crops: ChipLoader, floor: float, device: str
) -> float:
    """Return the error of the network's maps of single crops, as validation has it."""
    squares, count = 0.0, 0
    with evaluating(network, device), torch.inference_mode():
        for codes, arrangement, target in crops.epoch(0):
            (image,), truth = decode_batch((codes.to(device), arrangement), target)
            maps = network(image, calendar=arrangement.decoder.calendar)[:, :1]
            found = maps.cpu().double().clamp(min=floor)
            squares, count = _add(squares, count, (found - truth.double()).numpy())
    return math.sqrt(squares / count) if count else math.nan


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
