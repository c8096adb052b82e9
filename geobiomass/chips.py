"""The one reader, for training and for maps: cube and windows in, tensors out.

dask cuts and decodes on threads, ahead of whoever asks, with bounded memory; no
worker processes, so nothing is forked or pickled.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import dask
import numpy as np
import numpy.typing as npt
import torch
import xarray as xr

from geobiomass.cube import check_cube, is_chips, select_bands
from geobiomass.tiles import Window, mirror, random_crop

Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Place:
    """Where a sample lies: a window, of one chip where there are chips."""

    window: Window
    chip: int | None = None


class Reader:
    """Read windows of a cube, with the bands a model needs, in their order.

    Parameters
    ----------
    cube : xarray.Dataset
        A scene or chips.
    bands : sequence of str
        Bands to read, matched by name.

    Raises
    ------
    CubeError
        If `cube` is not a cube, or lacks a band.
    """

    def __init__(self, cube: xr.Dataset, bands: Sequence[str]) -> None:
        check_cube(cube)
        cube = select_bands(cube, tuple(bands))
        self.chips = is_chips(cube)
        self.count = cube.sizes["chip"] if self.chips else 1
        self.height, self.width = cube.sizes["y"], cube.sizes["x"]
        self.months = cube.sizes["month"]
        self.bands = tuple(bands)
        self._image = cube["image"].data
        self._agb = cube["agb"].data if "agb" in cube else None

    @property
    def whole(self) -> Window:
        """The window of the whole scene, or of a whole chip."""
        return Window(0, 0, self.height, self.width)

    @property
    def bytes(self) -> int:
        """Bytes of image and labels as float32."""
        labels = 0 if self._agb is None else self._agb.size
        return 4 * int(self._image.size + labels)

    def cache(self, limit: int) -> None:
        """Read the whole cube once and keep it, if it takes no more than `limit` bytes.

        Random crops decode far more than they need, again in every epoch.
        """
        if self.bytes <= limit:
            self._image = _compute([self._image])[0]
            if self._agb is not None:
                self._agb = _compute([self._agb])[0]

    def read(self, place: Place) -> Array:
        """Read one window; beyond the scene's edge it is reflected.

        Returns
        -------
        numpy.ndarray
            (month, band, y, x) float32, physical units, NaN where missing.
        """
        inside = place.window
        if inside.intersect(self.whole) != inside:
            inside = _reach(inside, self.whole)
        (image,) = _compute([self._cut(self._image, Place(inside, place.chip))])
        if inside != place.window:
            rows = mirror(place.window.top, place.window.bottom, self.height)
            columns = mirror(place.window.left, place.window.right, self.width)
            image = image[:, :, rows - inside.top][:, :, :, columns - inside.left]
        return image

    def batch(self, places: Sequence[Place]) -> tuple[torch.Tensor, torch.Tensor]:
        """Read windows of one size, with their labels.

        Returns
        -------
        image : torch.Tensor
            (batch, month, band, y, x) float32.
        agb : torch.Tensor
            (batch, 1, y, x) float32, Mg/ha, NaN where unlabelled.
        """
        lazy = [self._cut(self._image, place) for place in places]
        lazy += [self._cut(self._agb, place) for place in places]
        arrays = _compute(lazy)
        image = torch.from_numpy(np.stack(arrays[: len(places)]))
        agb = torch.from_numpy(np.stack(arrays[len(places) :]))
        return image, agb[:, None]

    def labels(self, place: Place) -> Array:
        """Read the labels of one window inside the scene, (y, x), Mg/ha."""
        (agb,) = _compute([self._cut(self._agb, place)])
        return agb

    def _cut(self, array: Any, place: Place) -> Any:
        part = array if place.chip is None else array[place.chip]
        return part[..., place.window.rows, place.window.columns]


def _reach(window: Window, whole: Window) -> Window:
    """Give the part of the scene that a window and its reflection need."""
    rows = mirror(window.top, window.bottom, whole.height)
    columns = mirror(window.left, window.right, whole.width)
    return Window(
        int(rows.min()), int(columns.min()), int(rows.max()) + 1, int(columns.max()) + 1
    )


def _compute(arrays: Sequence[Any]) -> list[Array]:
    """Compute dask arrays together on threads; numpy arrays pass through."""
    done = dask.compute(*arrays, scheduler="threads")  # type: ignore[attr-defined, no-untyped-call]
    return [np.ascontiguousarray(array, np.float32) for array in done]


@dataclass(frozen=True)
class ChipFeed:
    """Batches of images and labels, in an order that seed and epoch alone decide.

    Parameters
    ----------
    reader : Reader
        Over a cube with ``agb``.
    places : sequence of Place
        One sample each, in every epoch.
    batch_size : int
        Samples in a batch, of one process. Batches are as even as can be, none
        larger than this (batches of one may become two where processes could not
        share the samples otherwise).
    crop : int, optional
        Side of a random crop drawn anew inside each place in every epoch; None
        takes places as they are, which must then be of one size.
    shuffle : bool
        Whether the order changes from epoch to epoch.
    seed : int
        Decides order and crops, with the epoch.
    memory : int
        Bytes that batches read ahead may take; at least one is read ahead.
    """

    reader: Reader
    places: Sequence[Place]
    batch_size: int
    crop: int | None = None
    shuffle: bool = True
    seed: int = 0
    memory: int = 2**30

    def batches_per_epoch(self, ranks: int = 1) -> int:
        """Give the batches that each of `ranks` processes sees in an epoch.

        Raises
        ------
        ValueError
            If there are fewer samples than processes.
        """
        if len(self.places) < ranks:
            raise ValueError(
                f"{len(self.places)} samples cannot be shared among {ranks} "
                "processes; give more to train or to validate on, or fewer devices."
            )
        samples = len(self.places)
        return min(-(-samples // (self.batch_size * ranks)), samples // ranks)

    def epoch(
        self, number: int, rank: int = 0, ranks: int = 1
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield an epoch's batches for one process, read ahead on a thread.

        Every sample comes exactly once in an epoch, in one of the processes.
        """
        plan = self._plan(number, rank, ranks)
        ahead = max(1, self.memory // self._bytes(plan[0]))
        with ThreadPoolExecutor(1, thread_name_prefix="chips") as pool:
            waiting: deque[Future[tuple[torch.Tensor, torch.Tensor]]] = deque()
            try:
                for places in plan:
                    waiting.append(pool.submit(self.reader.batch, places))
                    if len(waiting) > ahead:
                        yield waiting.popleft().result()
                while waiting:
                    yield waiting.popleft().result()
            finally:
                for future in waiting:
                    future.cancel()

    def _plan(self, number: int, rank: int, ranks: int) -> list[list[Place]]:
        count = self.batches_per_epoch(ranks)
        generator = np.random.default_rng([self.seed, number])
        order = np.arange(len(self.places))
        if self.shuffle:
            order = generator.permutation(order)
        places = [self._place(int(index), generator) for index in order]
        # As even as can be: a batch of one left over would upset batch norm.
        edges = np.linspace(0, len(places), count * ranks + 1).round().astype(int)
        pieces = [places[a:b] for a, b in pairwise(edges)]
        return pieces[rank::ranks]

    def _place(self, index: int, generator: np.random.Generator) -> Place:
        place = self.places[index]
        if self.crop is None:
            return place
        window = random_crop(place.window, self.crop, self.crop, generator)
        return Place(window, place.chip)

    def _bytes(self, places: Sequence[Place]) -> int:
        window = places[0].window
        pixels = window.height * window.width * len(places)
        return 4 * pixels * (self.reader.months * len(self.reader.bands) + 1)


@dataclass(frozen=True)
class Statistics:
    """How bands and target are scaled: (value - shift) / scale."""

    shift: tuple[float, ...]
    scale: tuple[float, ...]
    target_shift: float
    target_scale: float


def measure_statistics(feed: ChipFeed, pixels: int = 2_000_000) -> Statistics:
    """Measure robust statistics by band and of the labels on part of a feed.

    The shift is the median; the scale is what the range from the 5th to the 95th
    percentile would be the 3.29-fold of for a normal distribution (its standard
    deviation), so that clouds and damaged values do not squeeze the rest. A band
    without spread keeps scale 1. Labels: mean and standard deviation below the
    99.9th percentile.

    Parameters
    ----------
    feed : ChipFeed
        Batches are taken from its first epoch until there are enough pixels.
    pixels : int
        Pixels times months to look at.
    """
    images: list[npt.NDArray[np.float32]] = []
    labels: list[npt.NDArray[np.float32]] = []
    seen = 0
    for image, agb in feed.epoch(0):
        by_band = image.numpy().swapaxes(1, 2).swapaxes(0, 1)
        images.append(by_band.reshape(by_band.shape[0], -1)[:, ::7])
        labels.append(agb.numpy()[np.isfinite(agb.numpy())])
        seen += by_band[0].size
        if seen >= pixels and sum(map(len, labels)) > 0:
            break
    bands = [_spread_of(band) for band in np.concatenate(images, axis=1)]
    target = np.concatenate(labels).astype(np.float64)
    target = target[target <= np.quantile(target, 0.999)]
    return Statistics(
        tuple(shift for shift, _ in bands),
        tuple(scale for _, scale in bands),
        float(target.mean()),
        float(target.std()) or 1.0,
    )


def _spread_of(values: npt.NDArray[np.float32]) -> tuple[float, float]:
    """Median and robust spread of one band."""
    values = values[np.isfinite(values)]
    if values.size == 0:
        return 0.0, 1.0
    low, middle, high = np.quantile(values.astype(np.float64), [0.05, 0.5, 0.95])
    spread = (high - low) / 3.29 or float(values.std())
    return float(middle), float(spread) or 1.0
