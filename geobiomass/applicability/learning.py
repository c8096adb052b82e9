"""Learning the domain of a network from its training data."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from geobiomass.applicability.cells import (
    AT_ONCE,
    Looking,
    cell_of,
    need_looking,
    strides_of,
    views_of,
)
from geobiomass.applicability.domain import Array, Domain, View
from geobiomass.cube import DamagedError
from geobiomass.data.reader import Reader, Sample
from geobiomass.network.wrappers import unknown_bands
from geobiomass.tiles import Marks, random_crop
from geobiomass.training.randomness import preserve_generators

Augment = Callable[[tuple[Any, ...], Tensor], tuple[tuple[Any, ...], Tensor]]

_COMPONENTS = 64  # largest number in a view; 15 bands and their presence have 30
_LARGEST = 256  # pixels: the largest side of a window that is read
_MOST_SAMPLES = 256  # chips or blocks that are read
_FEW = 4  # samples: of fewer, each quarter of a sample is a separate fold
_FEWEST = 8  # cells: with fewer, quartiles mean little
# For a channel that is constant in training, such as the presence of a band that is
# never missing: a hundredth of a band's scale, or of all pixels.
_LEAST_SPREAD = 0.01


def learn_domain(
    network: nn.Module,
    reader: Reader,
    samples: Sequence[Sample],
    cells: int = 3000,
    seed: int = 0,
    *,
    groups: Mapping[Sample, str] | None = None,
    marks: Mapping[Sample, Marks] | None = None,
    augment: Augment | None = None,
    skip: bool = False,
) -> Domain | None:
    """Learn the domain of a network from a sample of its training data.

    Memory is needed for one window of 256 x 256 pixels at a time. Random states are
    restored at the end.

    Parameters
    ----------
    network : torch.nn.Module
        Trained, with ``look``.
    reader : Reader
        Over the training cube, with ``agb``.
    samples : sequence of Sample
        Chips or blocks that it was trained on; up to 256 of them are read.
    cells : int
        About the number of cells of 16 x 16 pixels that represent the training data.
    seed : int
        Seed of the choice of cells.
    groups : mapping, optional
        Name of the group of a sample, where samples of a group are near each other.
    marks : mapping, optional
        Labelled pixels, by sample.
    augment : callable, optional
        The augmentation that leaves out months and passes in training: of (image,
        present) and labels.
    skip : bool
        Leave out samples that cannot be read.

    Returns
    -------
    Domain or None
        None where there are fewer than 8 cells with a label.

    Raises
    ------
    TypeError
        If the network has no ``look``.
    CubeError
        If a sample cannot be read and `skip` is false.
    """
    need_looking(network)
    draw = np.random.default_rng(seed)
    chosen, cell = _some(samples, draw), cell_of(network)
    unknown = unknown_bands(network)
    each = -(-cells // len(chosen))
    vectors: list[list[Tensor]] = []
    names: list[str] = []
    with _evaluating(network, seed):
        for sample in chosen:
            window = _window(sample, marks or {}, draw)
            try:
                image, labels = reader.tile(window), reader.labels(window)
            except DamagedError:
                if not skip:
                    raise
                continue
            kept = draw.permutation(_cells_with_label(labels, cell))[:each]
            known = np.delete(image[: reader.months], unknown, axis=1)
            if kept.size and np.isfinite(known).any():
                views = _views(network, image, reader.calendar, augment)
                vectors.append([_cells(view, kept) for view in views])
                name = (groups or {}).get(sample, reader.name_of(sample))
                names += _folds(name, kept, labels, cell, len(chosen) < _FEW)
    return _domain(vectors, names, cell) if len(names) >= _FEWEST else None


def _some(samples: Sequence[Sample], draw: np.random.Generator) -> list[Sample]:
    """Choose up to 256 different samples, in their order."""
    each = list(dict.fromkeys(samples))
    count = min(_MOST_SAMPLES, len(each))
    return [each[i] for i in sorted(draw.choice(len(each), count, replace=False))]


def _window(
    sample: Sample, marks: Mapping[Sample, Marks], draw: np.random.Generator
) -> Sample:
    """Return the sample, or a part of a large one with a label, if any is known."""
    height, width = (
        min(_LARGEST, side) for side in (sample.window.height, sample.window.width)
    )
    known = marks.get(sample)
    if known is not None:
        return Sample(known.random_crop(height, width, draw), sample.chip)
    return Sample(random_crop(sample.window, height, width, draw), sample.chip)


def _cells_with_label(labels: Array, cell: int) -> npt.NDArray[np.int64]:
    """Return the (row, column) of cells with a label, (n, 2).

    Only cells that are wholly in the window; all cells where none is.
    """
    known = np.isfinite(labels)
    rows, columns = (max(1, side // cell) for side in known.shape)
    known = known[: rows * cell, : columns * cell]
    edges = [(0, -side % cell) for side in known.shape]
    cells = np.pad(known, edges).reshape(rows, cell, columns, cell)
    return np.argwhere(cells.any(axis=(1, 3)))


def _cells(view: Tensor, kept: npt.NDArray[np.int64]) -> Tensor:
    """Return the kept cells (cell, channel) of a view (1, channel, rows, columns)."""
    rows, columns = torch.from_numpy(kept).unbind(1)
    return view[0].cpu()[:, rows, columns].T


def _folds(
    name: str, kept: npt.NDArray[np.int64], labels: Array, cell: int, few: bool
) -> list[str]:
    """Return the name of each cell's fold: its sample, or a quarter of the sample."""
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


def domain_of_rows(
    views: Sequence[Tensor], names: Sequence[str], cells: int = 3000, seed: int = 0
) -> Domain | None:
    """Learn a domain of pixels whose features are known already.

    Parameters
    ----------
    views : sequence of Tensor
        Features and bands, as :func:`.views_of` returns them: each (pixel, channel).
    names : sequence of str
        The group of each pixel: others are compared with it.
    cells, seed
        As :func:`learn_domain` takes them.

    Returns
    -------
    Domain or None
        None where there are fewer than 8 pixels, or one group.
    """
    if len(names) < _FEWEST or len(set(names)) < 2:
        return None
    draw = np.random.default_rng(seed)
    kept = np.sort(draw.permutation(len(names))[:cells])
    rows = torch.from_numpy(kept)
    return _domain([[view[rows] for view in views]], [names[i] for i in kept], 1)


def _domain(
    vectors: Sequence[Sequence[Tensor]], names: Sequence[str], cell: int
) -> Domain:
    codes = np.unique(names, return_inverse=True)[1]
    views = [torch.cat(view).double() for view in zip(*vectors, strict=True)]
    found = [_view(values, torch.from_numpy(codes)) for values in views]
    index = np.max([ratio for _, ratio in found], axis=0)
    percentiles = np.percentile(index, np.arange(101)).astype(np.float32)
    return Domain(
        tuple(view for view, _ in found), cell, int(codes.max()) + 1, percentiles
    )


def _view(values: Tensor, folds: Tensor) -> tuple[View, npt.NDArray[np.float64]]:
    """Learn a view from (cell, channel) float64; return it with the cells' index."""
    mean = values.mean(dim=0)
    spread = values.std(dim=0, correction=0).clamp(min=_LEAST_SPREAD)
    projection = _whitening((values - mean) / spread) / spread[:, None]
    reference = ((values - mean) @ projection).float()
    nearest, mean_distance = _held_out(reference, folds)
    ratio = nearest / mean_distance
    # Rounded as they are saved, so that a loaded model returns the same bits.
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
    """Return (channel, component) that makes the variance of values about one.

    The covariance shrinks towards equal variances by the cube of channels over cells:
    strongly with few cells for each channel, hardly with thousands of cells.
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
    """Return distances to the nearest cell of another fold, and the mean of all."""
    nearest, total = [], 0.0
    for part, own in zip(
        torch.split(reference, AT_ONCE), torch.split(folds, AT_ONCE), strict=True
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
    """Return the largest value up to the third quartile plus 1.5 interquartile ranges.

    The threshold of Meyer and Pebesma (2021): the upper whisker of Tukey's box plot.
    """
    low, high = np.percentile(values, [25, 75])
    return float(values[values <= high + 1.5 * (high - low)].max())


@contextmanager
def _evaluating(network: nn.Module, seed: int) -> Iterator[None]:
    """Switch to evaluation with seeded random numbers; restore both at the end."""
    mode, device = network.training, next(network.parameters()).device
    with preserve_generators(device.type), torch.no_grad():
        torch.manual_seed(seed)
        network.eval()
        try:
            yield
        finally:
            network.train(mode)
