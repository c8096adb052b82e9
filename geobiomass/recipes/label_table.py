"""The labelled pixels of a cube as a table of features, for a learner by pixel.

Windows are read one by one, each with the neighbours that its features need. Around few
labels only small windows are computed. The features of a label have the same bits then.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import torch

from geobiomass.cube import CubeError, DamagedError
from geobiomass.data.reader import Reader, Sample
from geobiomass.learner.features import PixelFeatures
from geobiomass.recipes.recipe import Recipe
from geobiomass.tiles import Window, blocks

_SIDE = 256  # pixels: of the windows that are read
_PATCHES = 128  # small windows that are computed together
_MOST_WINDOWS = 1024  # read where there are more labels than are learnt from


@dataclass
class LabelTable:
    """Labelled pixels with their features.

    Parameters
    ----------
    features : numpy.ndarray
        (row, feature) float32, NaN where missing.
    target : numpy.ndarray
        (row,) float64.
    samples : list of Sample
        The chips or blocks that they are in.
    where : numpy.ndarray
        (row,) the number of the sample of each row.
    pixels : numpy.ndarray
        (row, 2) row and column in the scene or chip.
    found : int
        Labels that there are, those that were left out included.
    above, unseen : int
        Labels left out at the recipe's ceiling, and without any image.
    problems : dict
        Samples that could not be read, by name, with the reason.
    errors : numpy.ndarray or None
        (row,) float64 standard errors, NaN where unknown; None where labels have none.
    """

    features: npt.NDArray[np.float32]
    target: npt.NDArray[np.float64]
    samples: list[Sample]
    where: npt.NDArray[np.int64]
    pixels: npt.NDArray[np.int64]
    found: int
    above: int
    unseen: int
    problems: dict[str, str] = field(default_factory=dict)
    errors: npt.NDArray[np.float64] | None = None

    def __len__(self) -> int:
        return len(self.target)

    def select(self, rows: npt.NDArray[np.bool_]) -> LabelTable:
        """Return the table of some rows."""
        return replace(
            self,
            features=self.features[rows],
            target=self.target[rows],
            where=self.where[rows],
            pixels=self.pixels[rows],
            errors=None if self.errors is None else self.errors[rows],
        )


def make_table(
    reader: Reader,
    samples: Sequence[Sample],
    features: PixelFeatures,
    recipe: Recipe,
    most: int | None = None,
) -> LabelTable:
    """Compute the features of the labelled pixels of some chips or blocks.

    Parameters
    ----------
    reader : Reader
        Over a cube with ``agb``.
    samples : sequence of Sample
        Chips or blocks.
    features : PixelFeatures
        To compute.
    recipe : Recipe
        Its ceiling, seed, and what is done with damaged samples.
    most : int, optional
        Draw this number of labels at most.

    Raises
    ------
    CubeError
        If a sample cannot be read and the recipe does not skip it.
    """
    ceiling = recipe.ceiling if recipe.tail == "drop" else None
    windows, problems, above = [], dict[str, str](), 0
    for number, sample in enumerate(samples):
        try:
            found, high = _labels_of(reader, sample, ceiling)
        except DamagedError as error:
            if recipe.damaged == "raise":
                raise
            problems[reader.name_of(sample)] = str(error)
            continue
        above += high
        windows += [(number, *each) for each in found]
    total = sum(len(at) for _, _, at, _ in windows)
    chosen = _draw(windows, most, recipe.training.seed)
    table = FeatureRows(reader, features)
    targets, where, pixels, errors, unseen = [], [], [], [], 0
    for number, window, at, observed in chosen:
        place = Sample(window, samples[number].chip)
        try:
            each = reader.errors(place) if reader.has_errors else None
            there = table.add(place, at)
        except DamagedError as error:
            if recipe.damaged == "raise":
                raise
            problems[reader.name_of(samples[number])] = str(error)
            continue
        unseen += int((~there).sum())
        at, labels = at[there], observed[there].astype(np.float64)
        if recipe.tail == "clip" and recipe.ceiling is not None:
            labels = np.minimum(labels, recipe.ceiling)
        targets.append(labels)
        if each is not None:
            errors.append(each[at[:, 0], at[:, 1]].astype(np.float64))
        where.append(np.full(len(at), number))
        pixels.append(at + np.array([window.top, window.left]))
    return LabelTable(
        table.table(),
        np.concatenate([*targets, np.empty(0)]),
        list(samples),
        np.concatenate([*where, np.empty(0, np.int64)]),
        np.concatenate([*pixels, np.empty((0, 2), np.int64)]),
        total + above,
        above,
        unseen,
        problems,
        np.concatenate([*errors, np.empty(0)]) if reader.has_errors else None,
    )


def _labels_of(
    reader: Reader, sample: Sample, ceiling: float | None
) -> tuple[list[tuple[Window, npt.NDArray[np.int64], npt.NDArray[np.float32]]], int]:
    """Return the windows of a sample that have labels, their places and values."""
    found, above = [], 0
    for part in blocks(sample.window.height, sample.window.width, _SIDE):
        top, left = sample.window.top, sample.window.left
        window = Window(
            part.top + top, part.left + left, part.bottom + top, part.right + left
        )
        labels = reader.labels(Sample(window, sample.chip))
        known = np.isfinite(labels)
        if ceiling is not None:
            high = known & (labels >= ceiling)
            above += int(high.sum())
            known &= ~high
        if known.any():
            found.append((window, np.argwhere(known), labels[known]))
    return found, above


Found = list[tuple[int, Window, npt.NDArray[np.int64], npt.NDArray[np.float32]]]


def _draw(windows: Found, most: int | None, seed: int) -> Found:
    """Draw labels at random, where there are more than `most`, from all windows."""
    total = sum(len(at) for _, _, at, _ in windows)
    if most is None or total <= most:
        return windows
    draw = np.random.default_rng(seed)
    if len(windows) > _MOST_WINDOWS:
        kept = sorted(draw.choice(len(windows), _MOST_WINDOWS, replace=False))
        windows = [windows[i] for i in kept]
        total = sum(len(at) for _, _, at, _ in windows)
        most = min(most, total)
    ends = np.cumsum([0, *(len(at) for _, _, at, _ in windows)]) * most // total
    chosen = []
    for (number, window, at, labels), few in zip(windows, np.diff(ends), strict=True):
        if few:
            rows = np.sort(draw.choice(len(at), int(few), replace=False))
            chosen.append((number, window, at[rows], labels[rows]))
    return chosen


class FeatureRows:
    """Features of pixels, window by window; small windows are computed together.

    Parameters
    ----------
    reader : Reader
        Over the cube.
    features : PixelFeatures
        To compute.
    around : int
        Pixels to each side whose features are computed too.
    """

    def __init__(
        self, reader: Reader, features: PixelFeatures, around: int = 0
    ) -> None:
        self.reader = reader.with_layers(features.layers)
        self.features, self.around = features, around
        self._done: list[npt.NDArray[np.float32]] = []
        self._waiting: list[torch.Tensor] = []

    def add(self, place: Sample, at: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """Add pixels of a window; return which have an image."""
        radius, window = self.features.radius + self.around, place.window
        first, last = at.min(axis=0), at.max(axis=0) + 1
        hull = Window(
            window.top + int(first[0]) - radius,
            window.left + int(first[1]) - radius,
            window.top + int(last[0]) + radius,
            window.left + int(last[1]) + radius,
        )
        image = torch.from_numpy(self.reader.tile(Sample(hull, place.chip)))
        rows, columns = torch.from_numpy(at - first).unbind(1)
        centre = image[: self.reader.months, :, rows + radius, columns + radius]
        there = centre.isfinite().flatten(0, 1).any(dim=0)
        rows, columns = rows[there], columns[there]
        side, area = 2 * radius + 1, image.shape[-2] * image.shape[-1]
        if len(rows) > max(_PATCHES, area // (2 * side * side)):
            self._compute()
            inner = self.features.radius
            with torch.inference_mode():
                maps = self.features(image[None], self.reader.calendar, inner)[0]
            reach = range(2 * self.around + 1)
            found = [maps[:, rows + y, columns + x].T for y in reach for x in reach]
            # Alone in its own order in memory, on which the last bits of sums depend.
            every = torch.stack(found, dim=1) if self.around else found[0]
            self._done.append(every.numpy())
        else:
            for row, column in zip(rows.tolist(), columns.tolist(), strict=True):
                self._waiting.append(
                    image[..., row : row + side, column : column + side]
                )
                if len(self._waiting) == _PATCHES:
                    self._compute()
        kept: npt.NDArray[np.bool_] = there.numpy()
        return kept

    def table(self) -> npt.NDArray[np.float32]:
        """Return all rows in the order that they were added in, (row, feature).

        With pixels around (row, pixel, feature), from the top left to the bottom right.
        """
        self._compute()
        pixels = ((2 * self.around + 1) ** 2,) if self.around else ()
        empty = np.empty((0, *pixels, len(self.features.names)), np.float32)
        return np.concatenate([*self._done, empty])

    def _compute(self) -> None:
        if not self._waiting:
            return
        radius, calendar = self.features.radius, self.reader.calendar
        with torch.inference_mode():
            patches = torch.stack(self._waiting)
            maps = self.features(patches, calendar, radius)
        rows = maps.flatten(2).transpose(1, 2) if self.around else maps[..., 0, 0]
        self._done.append(rows.numpy())
        self._waiting = []


def check_enough(table: LabelTable, kind: str, fewest: int = 10) -> None:
    """Check that there are labels to learn from, and something to compare them with.

    Raises
    ------
    CubeError
        If there are fewer than ten labels, all are equal, or all are in one group.
    """
    if len(table) < fewest:
        left = []
        if table.unseen:
            left.append(f"{table.unseen} more have no image")
        if table.above:
            left.append(f"{table.above} more are at the ceiling or above")
        more = f" ({', '.join(left)})" if left else ""
        raise CubeError(
            f"Labels to learn from by pixel must be {fewest} or more, got "
            f"{len(table)}{more}: give labels of more places."
        )
    if table.target.min() == table.target.max():
        raise CubeError(
            f"Labels to train on must have two values at least, got {len(table):,} "
            f"labels, all of {table.target[0]:g}: a model would map this value "
            "everywhere. Give labels of more places, or check their column, units and "
            "nodata value."
        )
    if len(np.unique(table.where)) < 2 and kind != "groups":
        raise CubeError(
            f"Labels must be in two {kind} or more, got all {len(table):,} in one: the "
            "error in other places would not be known. Give labels of more places, or "
            "smaller blocks, block=16."
        )
