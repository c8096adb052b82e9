"""Area of applicability: where a map is made from what training has seen.

After Meyer and Pebesma (2021) [1]_, on what the network pools over months: how far a
place is from the nearest training data, by the mean distance among those, against the
distances that training data of other chips or blocks have. docs/explanation/
applicability.md tells what was decided, and why.

References
----------
.. [1] H. Meyer, E. Pebesma: Predicting into unknown space? Estimating the area of
   applicability of spatial prediction models. Methods in Ecology and Evolution 12
   (2021) 1620-1633, doi:10.1111/2041-210X.13650.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Protocol, Self, cast

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from torch import Tensor, nn

from geobiomass.chips import Place, Reader
from geobiomass.cube import DamagedError
from geobiomass.layers import Attributes, Pixels
from geobiomass.network import Look
from geobiomass.tiles import Marks, random_crop
from geobiomass.training.randomness import preserve_generators

Array = npt.NDArray[np.float32]
Augment = Callable[[tuple[Any, ...], Tensor], tuple[tuple[Any, ...], Tensor]]

CELL = 16  # pixels: the side of the squares that are told apart
INDEX, INSIDE = "dissimilarity", "applicable"
VIEWS = ("features", "bands")

_FINEST = 2  # levels of the encoder that are looked at
_COMPONENTS = 64  # of a view at most; 15 bands and their presence have 30
_LARGEST = 256  # pixels: the side of what is read of a place at most
_PLACES = 256  # that are looked at, at most
_FEW = 4  # places: of fewer each quarter is a fold of its own
_FEWEST = 8  # cells: of fewer there are no quartiles to speak of
_AT_ONCE = 2048  # cells that distances are computed of together
# Of a channel that training never saw change, such as the presence of a band that was
# always there: a hundredth of a band's scale, or of all pixels.
_LEAST_SPREAD = 0.01


@dataclass(frozen=True, eq=False)
class View:
    """One way to look at cells: where training data lie, and how far is too far.

    Parameters
    ----------
    mean : numpy.ndarray
        (channel) float32, of the training data.
    projection : numpy.ndarray
        (channel, component) float32: from the distance to the mean to components of
        variance one among training data.
    reference : numpy.ndarray
        (cell, component) float32, the training data.
    mean_distance : float
        Between two of those.
    threshold : float
        Of the distance to the nearest one over the mean distance: the upper whisker
        of what training data have, the nearest being of another place.
    """

    mean: Array
    projection: Array
    reference: Array
    mean_distance: float
    threshold: float


@dataclass(frozen=True, eq=False)
class Domain:
    """What a network was trained on, as it sees it.

    Parameters
    ----------
    views : tuple of View
        Of the network's features, and of the bands.
    cell : int
        Side of a cell, pixels.
    places : int
        Chips, groups of them or blocks that the training data are of.
    quantiles : numpy.ndarray
        (101) float32: percentiles of the index of the training data, each against
        those of other places.
    """

    views: tuple[View, ...]
    cell: int
    places: int
    quantiles: Array

    @property
    def threshold(self) -> float:
        """The index up to which a place is inside; it is given in units of that."""
        return 1.0

    @property
    def cells(self) -> int:
        """How many cells of training data stand for all."""
        return len(self.views[0].reference)

    def __repr__(self) -> str:
        """Say what it is in one line."""
        return f"Domain of {self.cells} cells from {self.places} places"

    def to_dict(self) -> dict[str, Any]:
        """Give the facts in short, fit for JSON."""
        chosen = {f"{q} %": round(float(self.quantiles[q]), 4) for q in (5, 50, 95)}
        return {
            "method": "Meyer & Pebesma 2021, doi:10.1111/2041-210X.13650",
            "cells": self.cells,
            "cell_pixels": self.cell,
            "places": self.places,
            "thresholds": {
                name: round(view.threshold, 4)
                for name, view in zip(VIEWS, self.views, strict=True)
            },
            "training_index": chosen,
            "fingerprint": self.fingerprint(),
        }

    def fingerprint(self) -> str:
        """Stand for all numbers of it."""
        sums = hashlib.sha256(f"{self.cell}".encode())
        for name, values in self._tensors().items():
            sums.update(name.encode() + values.tobytes())
        return sums.hexdigest()

    def _tensors(self) -> dict[str, Array]:
        found = {"quantiles": self.quantiles}
        for name, view in zip(VIEWS, self.views, strict=True):
            for field in fields(View):
                values = np.array(getattr(view, field.name), np.float32, order="C")
                found[f"{name}.{field.name}"] = values
        return found

    def save(self, path: str | Path) -> None:
        """Write it as a safetensors file, which can run no code."""
        facts = json.dumps({"cell": self.cell, "places": self.places})
        save_file(self._tensors(), path, {"domain": facts})

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what :meth:`save` wrote.

        Raises
        ------
        ValueError
            If the file is damaged, or of another kind.
        """
        try:
            with safe_open(path, "numpy") as file:
                facts = json.loads(file.metadata()["domain"])
                found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            views = tuple(
                View(
                    *(found[f"{name}.{part}"] for part in _ARRAYS),
                    *(float(found[f"{name}.{part}"]) for part in _NUMBERS),
                )
                for name in VIEWS
            )
            cell, places = int(facts["cell"]), int(facts["places"])
            return cls(views, cell, places, found["quantiles"])
        except (SafetensorError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} is not a whole domain: {error!r}") from error


_ARRAYS, _NUMBERS = (
    ("mean", "projection", "reference"),
    ("mean_distance", "threshold"),
)


@dataclass(frozen=True)
class Domains:
    """The domains of an ensemble's members; its index is the mean of theirs.

    Parameters
    ----------
    members : tuple of Domain or Domains
        In the order of the members.
    """

    members: tuple[Domain | Domains, ...]

    @property
    def threshold(self) -> float:
        """The index up to which a place is inside."""
        return 1.0

    def to_dict(self) -> dict[str, Any]:
        """Give the facts of all members in short, fit for JSON."""
        return {"members": [member.to_dict() for member in self.members]}

    def fingerprint(self) -> str:
        """Stand for all numbers of all members."""
        words = " ".join(member.fingerprint() for member in self.members)
        return hashlib.sha256(words.encode()).hexdigest()


# --- with a map -------------------------------------------------------------------


class Looking(Protocol):
    """A network that tells what it makes maps from, as AttentionUNet does."""

    encoder: nn.Module
    stride: int

    def look(self, image: Tensor, *args: Any, **named: Any) -> Look:
        """(batch, month, band, y, x) -> maps, and what they are made from."""
        ...


class WithDissimilarity(nn.Module):
    """A network whose last map is the dissimilarity, from the same pass.

    Parameters
    ----------
    network : torch.nn.Module
        With ``look``, as :class:`geobiomass.network.AttentionUNet` has it.
    domain : Domain
        Of this network.
    """

    def __init__(self, network: nn.Module, domain: Domain) -> None:
        super().__init__()
        inner = getattr(network, "network", network)  # of one in other months
        need_looking(inner)
        self.network = network
        self.strides, self.cell = strides_of(inner), domain.cell
        self.scales = [view.mean_distance * view.threshold for view in domain.views]
        for name, view in zip(VIEWS, domain.views, strict=True):
            for part in _ARRAYS:
                values = torch.from_numpy(getattr(view, part).copy())
                self.register_buffer(f"{name}_{part}", values)

    def forward(self, image: Tensor) -> Tensor:
        """(batch, month, band, y, x) -> (batch, output + 1, y, x)."""
        look = cast(Looking, self.network).look(image)
        # In bf16 a distance would be of no use.
        with torch.autocast(image.device.type, enabled=False):
            index = self._index(views_of(look, self.strides, self.cell))
            wide = nn.functional.interpolate(
                index[:, None], scale_factor=self.cell, mode="bilinear"
            )
            wide = wide[..., : image.shape[-2], : image.shape[-1]]
        return torch.cat([look.maps, wide.to(look.maps.dtype)], dim=1)

    def _index(self, views: Sequence[Tensor]) -> Tensor:
        """(batch, channel, rows, columns) a view -> (batch, rows, columns)."""
        each = []
        for name, scale, view in zip(VIEWS, self.scales, views, strict=True):
            mean, projection, reference = (
                getattr(self, f"{name}_{part}") for part in _ARRAYS
            )
            rows = (view.movedim(1, -1) - mean) @ projection
            nearest = _nearest(rows.flatten(0, 2), reference) / scale
            each.append(nearest.reshape(rows.shape[:3]))
        return torch.stack(each).amax(dim=0)


def strides_of(network: nn.Module) -> list[int]:
    """Give the side of a cell of each level of a network's encoder, pixels."""
    found: list[int] = network.encoder.feature_info.reduction()  # type: ignore[operator, union-attr]
    return found


def cell_of(network: nn.Module) -> int:
    """Give the side of the cells that are told apart: 16 pixels, where it has such."""
    strides = strides_of(network)
    return max(strides[0], min(CELL, strides[-1]))


def views_of(look: Look, strides: Sequence[int], cell: int) -> tuple[Tensor, Tensor]:
    """Give what cells are told apart by, (batch, channel, rows, columns) float32.

    Parameters
    ----------
    look : Look
        Of a network.
    strides : sequence of int
        Side of the cells of its levels, pixels.
    cell : int
        Side of the cells that are asked for.

    Returns
    -------
    features, bands : Tensor
        The finest levels of the encoder; the bands as they were seen, and where.
    """
    levels = zip(look.levels[:_FINEST], strides, strict=False)
    finest = [
        nn.functional.avg_pool2d(level.float(), cell // stride)
        for level, stride in levels
        if stride <= cell
    ]
    bands = nn.functional.avg_pool2d(look.seen.float(), cell // strides[0])
    return torch.cat(finest, dim=1), bands


def _nearest(rows: Tensor, reference: Tensor) -> Tensor:
    """(n, k), (m, k) -> (n), the distance to the nearest one."""
    lengths = (reference * reference).sum(dim=1)
    found = []
    for part in torch.split(rows, _AT_ONCE):
        # |x - r|^2 without |x|^2; of the nearest it is then computed without loss.
        nearest = torch.addmm(lengths, part, reference.T, alpha=-2).argmin(dim=1)
        found.append((part - reference[nearest]).norm(dim=1))
    return torch.cat(found)


@dataclass(frozen=True)
class Applicability:
    """The step from the index, blended, to the mask beside it.

    Parameters
    ----------
    fingerprint : str
        Of the domain.
    """

    fingerprint: str

    def layers(self, layers: Mapping[str, Attributes]) -> dict[str, Attributes]:
        """Give the layers with the index, its own attributes, and the mask."""
        return {
            **layers,
            INDEX: {
                "long_name": "dissimilarity to the training data",
                "units": "1",
                "comment": "0: as training data; above 1: outside the area of "
                "applicability (Meyer and Pebesma 2021)",
            },
            INSIDE: {
                "long_name": "inside the area of applicability",
                "units": "1",
                "flag_values": [0.0, 1.0],
                "flag_meanings": "outside inside",
            },
        }

    def apply(self, values: Mapping[str, Pixels]) -> dict[str, Pixels]:
        """Add the mask: 1 inside, 0 outside, NaN where nothing was observed."""
        index = values[INDEX]
        inside = np.where(np.isnan(index), index, index <= 1).astype(np.float32)
        return {**values, INSIDE: inside}

    def values_depend_on(self) -> dict[str, Any]:
        """Give the domain's fingerprint."""
        return {"applicability": self.fingerprint}


# --- learning ---------------------------------------------------------------------


def need_looking(network: object) -> None:
    """Refuse networks that do not tell what they make maps from.

    Raises
    ------
    TypeError
        Says what is asked for.
    """
    if not hasattr(network, "look"):
        raise TypeError(
            "network of the model must tell what it pools over months (look, as "
            "geobiomass.network.AttentionUNet does) for an area of applicability, got "
            f"a {type(network).__name__}."
        )


def learn_domain(
    network: nn.Module,
    reader: Reader,
    places: Sequence[Place],
    cells: int = 3000,
    seed: int = 0,
    *,
    groups: Mapping[Place, str] | None = None,
    marks: Mapping[Place, Marks] | None = None,
    augment: Augment | None = None,
    skip: bool = False,
) -> Domain | None:
    """Learn what a network was trained on, from a sample of its training data.

    Takes memory for one window of 256 x 256 pixels at a time, and leaves all random
    states as they were.

    Parameters
    ----------
    network : torch.nn.Module
        Trained, with ``look``.
    reader : Reader
        Over the training cube, with ``agb``.
    places : sequence of Place
        Chips or blocks that it was trained on; 256 of them at most are looked at.
    cells : int
        Cells of 16 x 16 pixels that stand for the training data, about.
    seed : int
        Decides which.
    groups : mapping, optional
        Name of the group of a place, where places of one are near each other.
    marks : mapping, optional
        Where labels are, by place.
    augment : callable, optional
        What left out months and passes in training: of (image, present) and labels.
    skip : bool
        Pass over places that cannot be read.

    Returns
    -------
    Domain or None
        None where there are fewer than 8 cells with a label.

    Raises
    ------
    TypeError
        If the network has no ``look``.
    CubeError
        If a place cannot be read and not `skip`.
    """
    need_looking(network)
    draw = np.random.default_rng(seed)
    chosen, cell = _some(places, draw), cell_of(network)
    each = -(-cells // len(chosen))
    samples: list[list[Tensor]] = []
    names: list[str] = []
    with _undisturbed(network, seed):
        for place in chosen:
            window = _window(place, marks or {}, draw)
            try:
                image, labels = reader.read(window), reader.labels(window)
            except DamagedError:
                if not skip:
                    raise
                continue
            kept = draw.permutation(_cells_with_label(labels, cell))[:each]
            if kept.size and np.isfinite(image).any():
                views = _views(network, image, reader.calendar, augment)
                samples.append([_cells(view, kept) for view in views])
                name = (groups or {}).get(place, reader.name_of(place))
                names += _folds(name, kept, labels, cell, len(chosen) < _FEW)
    return _domain(samples, names, cell) if len(names) >= _FEWEST else None


def _some(places: Sequence[Place], draw: np.random.Generator) -> list[Place]:
    """Give places, each once; of many a sample, in their order."""
    each = list(dict.fromkeys(places))
    count = min(_PLACES, len(each))
    return [each[i] for i in sorted(draw.choice(len(each), count, replace=False))]


def _window(
    place: Place, marks: Mapping[Place, Marks], draw: np.random.Generator
) -> Place:
    """Give the place, or a part of a large one, with a label where they are known."""
    height, width = (
        min(_LARGEST, side) for side in (place.window.height, place.window.width)
    )
    known = marks.get(place)
    if known is not None:
        return Place(known.random_crop(height, width, draw), place.chip)
    return Place(random_crop(place.window, height, width, draw), place.chip)


def _cells_with_label(labels: Array, cell: int) -> npt.NDArray[np.int64]:
    """Give the (row, column) of cells that hold a label, (n, 2).

    Those that lie wholly in the window; all, where none does.
    """
    known = np.isfinite(labels)
    rows, columns = (max(1, side // cell) for side in known.shape)
    known = known[: rows * cell, : columns * cell]
    edges = [(0, -side % cell) for side in known.shape]
    cells = np.pad(known, edges).reshape(rows, cell, columns, cell)
    return np.argwhere(cells.any(axis=(1, 3)))


def _cells(view: Tensor, kept: npt.NDArray[np.int64]) -> Tensor:
    """(1, channel, rows, columns) -> (cell, channel)."""
    rows, columns = torch.from_numpy(kept).unbind(1)
    return view[0].cpu()[:, rows, columns].T


def _folds(
    name: str, kept: npt.NDArray[np.int64], labels: Array, cell: int, few: bool
) -> list[str]:
    """Name the folds of cells: their place, of few places a quarter of it."""
    if not few:
        return [name] * len(kept)
    half = np.array(labels.shape) / 2
    return [f"{name} {tuple((row + 0.5) * cell > half)}" for row in kept]


def _views(
    network: nn.Module,
    image: Array,
    calendar: tuple[int, ...],
    augment: Augment | None,
) -> tuple[Tensor, Tensor]:
    device = next(network.parameters()).device
    batch = torch.from_numpy(image)[None].to(device)
    present = None
    if augment is not None:
        (batch, present, *_), _ = augment((batch, None), batch[:, 0, :1])
    look = cast(Looking, network).look(batch, present, calendar)
    return views_of(look, strides_of(network), cell_of(network))


def _domain(
    samples: Sequence[Sequence[Tensor]], names: Sequence[str], cell: int
) -> Domain:
    codes = np.unique(names, return_inverse=True)[1]
    views = [torch.cat(view).double() for view in zip(*samples, strict=True)]
    found = [_view(values, torch.from_numpy(codes)) for values in views]
    index = np.max([ratio for _, ratio in found], axis=0)
    percentiles = np.percentile(index, np.arange(101)).astype(np.float32)
    return Domain(
        tuple(view for view, _ in found), cell, int(codes.max()) + 1, percentiles
    )


def _view(values: Tensor, folds: Tensor) -> tuple[View, npt.NDArray[np.float64]]:
    """Learn a view from (cell, channel) float64; give the cells' index in it too."""
    mean = values.mean(dim=0)
    spread = values.std(dim=0, correction=0).clamp(min=_LEAST_SPREAD)
    projection = _whitening((values - mean) / spread) / spread[:, None]
    reference = ((values - mean) @ projection).float()
    nearest, mean_distance = _held_out(reference, folds)
    ratio = nearest / mean_distance
    # As they are saved, so that a model that was read gives the same bits.
    mean_distance, threshold = (
        float(np.float32(x)) for x in (mean_distance, upper_whisker(ratio))
    )
    view = View(
        mean.float().numpy(),
        projection.float().numpy(),
        reference.numpy(),
        mean_distance,
        threshold,
    )
    return view, ratio / threshold


def _whitening(values: Tensor) -> Tensor:
    """Give (channel, component) that makes the variance of values one, about.

    The fewer cells there are for a channel, the more the covariance shrinks towards
    equal variances, by the cube of channels over cells: hardly, with thousands.
    """
    count, channels = values.shape
    share = min(1.0, channels / count) ** 3
    covariance = values.T @ values / count
    even = covariance.diagonal().mean().clamp(min=_LEAST_SPREAD)
    covariance = (1 - share) * covariance + share * even * torch.eye(
        channels, dtype=values.dtype
    )
    variances, axes = torch.linalg.eigh(covariance)
    kept = slice(-min(_COMPONENTS, channels), None)
    least = 1e-6 * variances[-1].clamp(min=_LEAST_SPREAD)
    scales = variances[kept].clamp(min=least).sqrt()
    return cast(Tensor, axes[:, kept] / scales)


def _held_out(
    reference: Tensor, folds: Tensor
) -> tuple[npt.NDArray[np.float64], float]:
    """Give distances to the nearest cell of another fold, and the mean of all."""
    nearest, total = [], 0.0
    for part, own in zip(
        torch.split(reference, _AT_ONCE), torch.split(folds, _AT_ONCE), strict=True
    ):
        distances = torch.cdist(part, reference)
        total += float(distances.double().sum())
        distances[own[:, None] == folds] = torch.inf
        nearest.append(distances.amin(dim=1).double())
    count = len(reference)
    mean = total / (count * (count - 1))
    found = torch.cat(nearest).numpy()
    return found, mean or 1.0


def upper_whisker(values: npt.NDArray[np.float64]) -> float:
    """Give the largest value up to the third quartile and 1.5 interquartile ranges.

    As Meyer and Pebesma (2021) set the threshold; the whisker of Tukey's box plot.
    """
    low, high = np.percentile(values, [25, 75])
    return float(values[values <= high + 1.5 * (high - low)].max())


@contextmanager
def _undisturbed(network: nn.Module, seed: int) -> Iterator[None]:
    """Evaluate, with random numbers of its own, and leave all as it was."""
    mode, device = network.training, next(network.parameters()).device
    with preserve_generators(device.type), torch.no_grad():
        torch.manual_seed(seed)
        network.eval()
        try:
            yield
        finally:
            network.train(mode)
