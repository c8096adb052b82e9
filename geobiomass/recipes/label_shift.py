"""Labels that may be off by a pixel: features for a learner by pixel, and a check.

Trees that did not see a label's chip, block or group predict the pixels around it. The
label y is of one of these pixels, and belongs to pixel k with the probability of a
mixture of normal distributions,

    p_k ~ exp(-d_k^2 / (2 shift^2)) exp(-(f_k - y)^2 / (2 s^2)),

with the distance d_k in pixels, the prediction f_k there and the mean squared error s^2
of the labels at their own pixels: where errors are large they hardly decide. The label
is learnt with the mean of the features that p weighs.

The probabilities come from all labels: one that is held out later has had a part in
where the others belong, though none in what they are.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from geobiomass.cube import DamagedError
from geobiomass.data.reader import Reader, Sample
from geobiomass.learner.features import PixelFeatures
from geobiomass.learner.fitting import Labels
from geobiomass.recipes.label_forests import forests_without
from geobiomass.recipes.label_table import FeatureRows, LabelTable
from geobiomass.tiles import Window, parts_of

Numbers = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
Table = npt.NDArray[np.float32]

_SIDE = 256  # pixels of the windows that are read
_TOGETHER = 1_000  # labels whose neighbours are in memory together, about
_MOST_GROWN = 5_000  # labels that a forest is grown on at most
_WINDOWS = 64  # whose labels are looked at


def matched_labels(
    labels: Labels,
    reader: Reader,
    table: LabelTable,
    features: PixelFeatures,
    shift: int,
    seed: int,
) -> tuple[Labels, int]:
    """Return labels with the features of the pixels that match them.

    Predictions out of fold stay those of the labels' own pixels.

    Parameters
    ----------
    labels : Labels
        The rows of the table, with weights of a mean of about 1.
    reader : Reader
        That the table was read with. Windows with labels are read once more.
    table : LabelTable
        Where the labels are.
    features : PixelFeatures
        Of the table.
    shift : int
        Pixels, 1 or more.
    seed : int
        Of the trees.

    Returns
    -------
    tuple
        The labels, and the number of those that match another pixel better than their
        own.
    """
    forests = list(
        forests_without(labels.table, labels.target, labels.groups, seed, _MOST_GROWN)
    )
    if not forests:
        return labels, 0
    guess = np.zeros(len(labels.target))
    for held, forest in forests:
        guess[held] = forest.predict(labels.table[held])
    variance = float(np.mean(labels.weights * (guess - labels.target) ** 2))
    found, moved = np.empty_like(labels.table), 0
    for rows, around, inside in _neighbours(reader, table, features, shift):
        errors = np.zeros(around.shape[:2])
        for held, forest in forests:
            own = held[rows]
            if own.any():
                flat = forest.predict(around[own].reshape(-1, around.shape[2]))
                errors[own] = flat.reshape(-1, around.shape[1])
        errors -= labels.target[rows, None]
        spread = variance / labels.weights[rows, None]
        chances = _probabilities(errors, inside, spread, shift)
        found[rows] = _means(around, chances)
        moved += int((chances.argmax(axis=1) != chances.shape[1] // 2).sum())
    matched = dataclasses.replace(labels, table=found, own=labels.table)
    return matched, moved


def _probabilities(
    errors: Numbers, inside: Mask, variance: Numbers, shift: int
) -> Numbers:
    """Return the probability that each label belongs to each pixel, (row, pixel).

    0 for pixels without an image; the label's own, in the middle, has one.
    """
    far = (_offsets(shift) ** 2).sum(axis=1) / (2 * shift**2)
    off = errors**2 / (2 * np.maximum(variance, np.finfo(float).tiny))
    found = np.where(inside, -far - off, -np.inf)
    found = np.exp(found - found.max(axis=1, keepdims=True))
    chances: Numbers = found / found.sum(axis=1, keepdims=True)
    return chances


def _offsets(shift: int) -> npt.NDArray[np.int64]:
    """Return rows and columns to the pixels within a shift, row by row."""
    reach = np.arange(-shift, shift + 1)
    return np.stack(np.meshgrid(reach, reach, indexing="ij"), axis=-1).reshape(-1, 2)


def _neighbours(
    reader: Reader, table: LabelTable, features: PixelFeatures, shift: int
) -> Iterator[tuple[npt.NDArray[np.int64], Table, Mask]]:
    """Yield rows of a table, features of the pixels around, and which have an image.

    (row,), (row, pixel, feature) and (row, pixel): pixels row by row. Those beyond the
    edge of the image have none.
    """
    means = [features.names.index(f"{band} mean") for band in features.bands]
    offsets = _offsets(shift)
    size = np.array([reader.height, reader.width])

    def take(
        rows: list[npt.NDArray[np.int64]], found: FeatureRows
    ) -> tuple[npt.NDArray[np.int64], Table, Mask]:
        every, around = np.concatenate(rows), found.table()
        at = table.pixels[every][:, None] + offsets
        inside = np.all((at >= 0) & (at < size), axis=2)
        seen: Mask = inside & np.any(np.isfinite(around[..., means]), axis=2)
        return every, around, seen

    waiting, found = [], FeatureRows(reader, features, shift)
    for sample, rows in _windows(table):
        corner = np.array([sample.window.top, sample.window.left])
        found.add(sample, table.pixels[rows] - corner)
        waiting.append(rows)
        if sum(map(len, waiting)) >= _TOGETHER:
            yield take(waiting, found)
            waiting, found = [], FeatureRows(reader, features, shift)
    if waiting:
        yield take(waiting, found)


def _windows(table: LabelTable) -> Iterator[tuple[Sample, npt.NDArray[np.int64]]]:
    """Yield windows that hold labels, of about a thousand at most, and their rows."""
    cells = np.column_stack([table.where, table.pixels // _SIDE])
    _, cell_of = np.unique(cells, axis=0, return_inverse=True)
    for cell in range(int(cell_of.max()) + 1):
        own = np.flatnonzero(cell_of == cell)
        for rows in np.array_split(own, -(-len(own) // _TOGETHER)):
            (top, left), (bottom, right) = (
                table.pixels[rows].min(axis=0),
                table.pixels[rows].max(axis=0) + 1,
            )
            window = Window(int(top), int(left), int(bottom), int(right))
            yield Sample(window, table.samples[table.where[rows[0]]].chip), rows


def _means(around: Table, chances: Numbers) -> Numbers:
    """Return the weighted mean of each feature over the pixels that have it."""
    there = np.isfinite(around)
    shares = there * chances[..., None]
    total = np.where(there, around, 0.0) * shares
    with np.errstate(invalid="ignore"):  # no pixel has it: NaN
        found: Numbers = total.sum(axis=1) / shares.sum(axis=1)
    return found


def check_layout(
    reader: Reader, samples: Sequence[Sample], shift: int, fewest: int = 1
) -> None:
    """Warn where labels are not such as `label_shift` is for. 64 windows are read.

    Parameters
    ----------
    reader : Reader
        Over a cube with labels.
    samples : sequence of Sample
        The chips or blocks that train.
    shift : int
        Pixels; 0 reads nothing.
    fewest : int
        Labels of a crop that are shifted at least.

    Warns
    -----
    UserWarning
        If most labels have a label on all eight pixels around them: the pixels of a map
        are off together, or none is. Or if most are too few together to be shifted.
    """
    if not shift:
        return
    windows = [part for sample in samples for part in parts_of(sample, _SIDE)]
    labels = surrounded = alone = 0
    for window in windows[:: max(1, -(-len(windows) // _WINDOWS))]:
        try:
            known = np.isfinite(reader.labels(window))
        except DamagedError:  # what reads the image tells that
            continue
        wide = np.pad(known, 1)
        around = [
            wide[y : y + known.shape[0], x : x + known.shape[1]]
            for y in range(3)
            for x in range(3)
        ]
        count = int(known.sum())
        labels += count
        surrounded += int(np.all(around, axis=0).sum())
        alone += count if count < fewest else 0
    if labels and surrounded > labels / 2:
        warnings.warn(
            f"label_shift={shift} is for footprints and plots, and "
            f"{100 * surrounded / labels:.0f} % of the labels have a label on all "
            "eight pixels around them, as those of a map have, which are off together "
            "if they are: leave label_shift out.",
            stacklevel=6,
        )
    elif labels and alone > labels / 2:
        warnings.warn(
            f"label_shift={shift} shifts {fewest} labels of a crop or more together, "
            f"and {100 * alone / labels:.0f} % of the labels are in chips or blocks "
            "with fewer: these stay where they are. Give a larger block=, or the "
            "recipe 'pixels'.",
            stacklevel=6,
        )
