"""A small sample of a cube's values, to look at before it is mapped."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from geobiomass.cube import DamagedError
from geobiomass.data.band_profile import PERCENTILES, Numbers
from geobiomass.data.reader import Reader
from geobiomass.tiles import Sample, Window

WINDOWS, SIDE = 32, 32
"""Windows of a sample, about, and their side in pixels."""
LAZY_WINDOWS, LAZY_SIDE = 4, 64
"""The same where a window is computed: each may need a chunk of the input."""
_MORE = 8  # times the windows, if those of the sample have no value
_FEWEST = 50  # values of a month: with fewer, percentiles mean little

Mask = Callable[[Window], npt.NDArray[np.bool_]]


@dataclass(frozen=True)
class InputSample:
    """Values of a cube in a few windows.

    Parameters
    ----------
    values : numpy.ndarray
        (month, band, pixel) float32, NaN where missing.
    bands : tuple of str
        Names of the bands.
    calendar : tuple of int
        Calendar months of the steps.
    windows : int
        Windows that were read.
    text : str
        Which ones, and how many pixels, in words.
    """

    values: npt.NDArray[np.float32]
    bands: tuple[str, ...]
    calendar: tuple[int, ...]
    windows: int
    text: str

    def of(self, band: str, step: int | None = None) -> npt.NDArray[np.float32]:
        """Return the finite values of a band, in all steps or in one."""
        values = self.values[:, self.bands.index(band)]
        chosen = values.ravel() if step is None else values[step]
        return chosen[np.isfinite(chosen)]

    def by_month(self) -> Mapping[int, Mapping[str, Numbers]]:
        """Return the percentiles by calendar month and band, where there are values."""
        found: dict[int, dict[str, Numbers]] = {}
        for month in dict.fromkeys(self.calendar):
            steps = [step for step, one in enumerate(self.calendar) if one == month]
            for band in self.bands:
                values = np.concatenate([self.of(band, step) for step in steps])
                if values.size >= _FEWEST:
                    row = np.percentile(values, PERCENTILES).astype(np.float64)
                    found.setdefault(month, {})[band] = row
        return found


def sample_input(
    reader: Reader, samples: Sequence[Sample], inside: Mask | None = None
) -> InputSample:
    """Read a few windows, evenly spread over chips or over the blocks of a scene.

    The windows depend only on the number and the sizes of the samples. Windows that
    cannot be read are left out: the map itself says which parts are damaged.

    Parameters
    ----------
    reader : Reader
        Of the cube, with the bands to look at.
    samples : sequence of Sample
        Chips, or blocks of a scene.
    inside : callable, optional
        Returns which pixels of a window count, (y, x).

    Returns
    -------
    InputSample
        About 32 windows of 32 x 32 pixels; 4 of 64 x 64 where they are computed. All
        pixels of a small cube. If none has a value, eight times as many windows.
    """
    found = _read(reader, samples, 1, inside)
    if reader.computed_chunks or np.isfinite(found.values).any():
        return found
    return _read(reader, samples, _MORE, inside)


def _read(
    reader: Reader, samples: Sequence[Sample], times: int, inside: Mask | None
) -> InputSample:
    chunks = reader.computed_chunks
    lazy = chunks is not None
    windows = _windows(samples, lazy, times if inside is None else times * _MORE)
    if chunks is not None:
        windows = [_in_one_chunk(sample, chunks) for sample in windows]
    if inside is not None:
        touched = [sample for sample in windows if inside(sample.window).any()]
        windows = _evenly(touched, LAZY_WINDOWS if lazy else WINDOWS * times)
    parts, count = [], 0
    for sample in windows:
        try:
            values = reader.read(sample)
        except DamagedError:
            continue
        chosen = np.ones(values.shape[-2:], bool)
        if inside is not None:
            chosen = inside(sample.window)
        parts.append(values[..., chosen])
        count += 1
    shape = (reader.months, len(reader.bands), 0)
    values = np.concatenate(parts, axis=-1) if parts else np.empty(shape, np.float32)
    total = sum(s.window.height * s.window.width for s in samples)
    what = f"{len({s.chip for s in windows})} chips" if reader.chips else "the scene"
    text = (
        f"{values.shape[-1]:,} of {total:,} pixels, in {count} windows, spread evenly "
        f"over {what}"
    )
    return InputSample(values, reader.bands, reader.calendar, count, text)


def _windows(samples: Sequence[Sample], lazy: bool, times: int) -> list[Sample]:
    """Choose windows: all of a small cube, else a lattice in some of the samples."""
    count, side = (LAZY_WINDOWS, LAZY_SIDE) if lazy else (WINDOWS, SIDE)
    count *= times
    pixels = sum(s.window.height * s.window.width for s in samples)
    if pixels <= count * side * side:
        return list(samples)
    chosen = _evenly(samples, count)
    lattice = math.ceil(math.sqrt(count / len(chosen)))
    return [
        Sample(Window(top, left, bottom, right), sample.chip)
        for sample in chosen
        for top, bottom in _spans(
            sample.window.top, sample.window.bottom, lattice, side
        )
        for left, right in _spans(
            sample.window.left, sample.window.right, lattice, side
        )
    ]


def _evenly(samples: Sequence[Sample], count: int) -> list[Sample]:
    """Return at most so many of the samples, evenly spread."""
    at = np.linspace(0, len(samples) - 1, min(count, len(samples))).round()
    return [samples[int(index)] for index in dict.fromkeys(at)]


def _in_one_chunk(
    sample: Sample, chunks: tuple[tuple[int, ...], tuple[int, ...]]
) -> Sample:
    """Move a window into the chunk that has its middle: only this one is computed."""
    window = sample.window
    if window.height > LAZY_SIDE or window.width > LAZY_SIDE:
        return sample  # all of a small cube
    top, bottom = _moved(window.top, window.bottom, chunks[0])
    left, right = _moved(window.left, window.right, chunks[1])
    return Sample(Window(top, left, bottom, right), sample.chip)


def _moved(start: int, stop: int, chunks: tuple[int, ...]) -> tuple[int, int]:
    edges = np.cumsum([0, *chunks])
    number = int(np.searchsorted(edges, (start + stop) // 2, side="right")) - 1
    low, high = int(edges[number]), int(edges[number + 1])
    length = min(stop - start, high - low)
    start = min(max(start, low), high - length)
    return start, start + length


def _spans(start: int, stop: int, count: int, side: int) -> list[tuple[int, int]]:
    """Return spans of this length or less, evenly spread, that do not overlap."""
    length = stop - start
    side, count = min(side, length), min(count, max(1, length // side))
    firsts = [
        start + (2 * i + 1) * length // (2 * count) - side // 2 for i in range(count)
    ]
    return [
        (first, first + side)
        for first in (max(start, min(f, stop - side)) for f in firsts)
    ]
