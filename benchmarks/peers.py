"""Other data loaders for the same chips, each used as documented.

All yield batches of images and labels as torch tensors, in random order; with `crop`,
random squares of that side. Each function documents differences in what it yields.
"""

from __future__ import annotations

import csv
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from material import SIDE, Material
from tables import THREADS

MONTHS, RADAR, OPTICAL = 12, 4, 11  # months, bands of Sentinel-1 and Sentinel-2
WORKERS = 2

Batch = Sequence[Tensor]
Epoch = Callable[[int], Iterator[Batch]]


@dataclass(frozen=True)
class Task:
    """The samples of an epoch: `samples` chips, or random crops of chips."""

    material: Material
    chips: int
    samples: int
    batch_size: int
    crop: int | None

    @property
    def side(self) -> int:
        """Rows and columns of a sample."""
        return self.crop or SIDE

    def draw(self, epoch: int) -> list[tuple[int, int, int]]:
        """Return the samples of an epoch: chip, top row, left column."""
        draw = np.random.default_rng([7, epoch])
        chips = draw.permutation(np.arange(self.samples) % self.chips)
        corners = draw.integers(0, SIDE - self.side + 1, (self.samples, 2))
        return [
            (int(chip), int(top), int(left))
            for chip, (top, left) in zip(chips, corners, strict=True)
        ]

    def batches(self, epoch: int) -> list[list[tuple[int, int, int]]]:
        """Return the samples by batch."""
        drawn = self.draw(epoch)
        size = self.batch_size
        return [drawn[start : start + size] for start in range(0, len(drawn), size)]

    def window(self, top: int, left: int) -> tuple[slice, slice]:
        """Rows and columns of a sample."""
        return slice(top, top + self.side), slice(left, left + self.side)


def _on_threads(make: Callable[[Any], Batch], plan: Sequence[Any]) -> Iterator[Batch]:
    """Yield batches made on two threads, two batches ahead."""
    with ThreadPoolExecutor(THREADS) as pool:
        waiting: deque[Future[Batch]] = deque()
        for item in plan:
            waiting.append(pool.submit(make, item))
            if len(waiting) > THREADS:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def memory_mapped(task: Task) -> Epoch:
    """Return a loader of int16 codes in a numpy memory map, without a codec."""
    codes = np.load(task.material.codes, mmap_mode="r")
    labels = np.load(task.material.labels, mmap_mode="r")

    def make(samples: list[tuple[int, int, int]]) -> Batch:
        count, side = len(samples), task.side
        image = torch.empty((count, *codes.shape[1:3], side, side), dtype=torch.int16)
        label = torch.empty((count, 1, side, side))
        for index, (chip, top, left) in enumerate(samples):
            rows, columns = task.window(top, left)
            image.numpy()[index] = codes[chip, :, :, rows, columns]
            label.numpy()[index, 0] = labels[chip, rows, columns]
        return image, label

    return lambda epoch: _on_threads(make, task.batches(epoch))


def plain_xarray(task: Task, *, lazily: bool) -> Epoch:
    """Return a loader with ``xr.open_zarr(...).isel(...).load()`` for each sample.

    `lazily` is xarray's default, dask arrays; else xarray itself reads a window.
    """
    import dask
    import xarray as xr

    options: dict[str, Any] = {} if lazily else {"chunks": None}
    cube = xr.open_zarr(task.material.cube, consolidated=False, **options)

    def epoch(number: int) -> Iterator[Batch]:
        for samples in task.batches(number):
            images, labels = [], []
            for chip, top, left in samples:
                rows, columns = task.window(top, left)
                with dask.config.set(num_workers=THREADS):
                    sample = cube.isel(chip=chip, y=rows, x=columns).load()
                images.append(sample["image"].values)
                labels.append(sample["agb"].values)
            yield (
                torch.from_numpy(np.stack(images)),
                torch.from_numpy(np.stack(labels)[:, None]),
            )

    return epoch


def xbatcher_loader(task: Task) -> Epoch:
    """Return xbatcher's MapDataset in torch's DataLoader, with two worker processes.

    It has no random crops: `crop` is a fixed grid of squares, which is easier, because
    these never cross chunks. Workers start by forkserver, because forked ones can hang
    in zarr's event loop.
    """
    import xarray as xr
    from xbatcher import BatchGenerator
    from xbatcher.loaders.torch import MapDataset

    cube = xr.open_zarr(task.material.cube, consolidated=False, chunks=None)
    side = {"y": task.side, "x": task.side}
    months_and_bands = {dim: cube.sizes[dim] for dim in ("month", "band")}
    batches = {"batch_dims": {"chip": 1}, "concat_input_dims": False}
    dataset = MapDataset(
        BatchGenerator(
            cube["image"], months_and_bands | side, preload_batch=False, **batches
        ),
        BatchGenerator(cube["agb"], side, preload_batch=False, **batches),
    )
    return _load(task, dataset, _join_samples, start="forkserver")


def _join_samples(samples: Sequence[tuple[Tensor, Tensor]]) -> Batch:
    """Concatenate samples with a leading dimension of one."""
    return [torch.cat(parts) for parts in zip(*samples, strict=True)]


def torchgeo_loader(task: Task) -> Epoch:
    """Return torchgeo's BioMassters dataset in torch's DataLoader, with two workers.

    It reads whole files and casts them to int32, including decibels. It drops months
    without a file, so chips differ in length and torch cannot stack them; here batches
    are padded with zeros.
    """
    from torchgeo.datasets import BioMassters

    dataset = BioMassters(task.material.tiffs, "train", as_time_series=True)
    return _load(task, dataset, partial(_pad, side=task.side), start="fork")


def _pad(samples: Sequence[dict[str, Tensor]], side: int) -> Batch:
    whole = side == SIDE
    images = [
        torch.zeros((len(samples), MONTHS, bands, side, side), dtype=torch.int32)
        for bands in (RADAR, OPTICAL)
    ]
    labels = torch.empty((len(samples), 1, side, side))
    for index, sample in enumerate(samples):
        top, left = (0, 0) if whole else torch.randint(SIDE - side + 1, (2,)).tolist()
        rows, columns = slice(top, top + side), slice(left, left + side)
        for image, name in zip(images, ("image_S1", "image_S2"), strict=True):
            part = sample[name][..., rows, columns]
            image[index, : len(part)] = part
        labels[index] = sample["label"][..., rows, columns]
    return [*images, labels]


def _load(task: Task, dataset: Any, collate: Callable[..., Batch], start: str) -> Epoch:
    """Return epochs of torch's DataLoader; workers persist between epochs."""
    from torch.utils.data import DataLoader, RandomSampler

    sampler = RandomSampler(dataset, replacement=True, num_samples=task.samples)
    loader = DataLoader(
        dataset,
        task.batch_size,
        sampler=sampler,
        num_workers=WORKERS,
        collate_fn=collate,
        multiprocessing_context=start,
        persistent_workers=True,
    )
    return lambda epoch: iter(loader)


def plain_rasterio(task: Task) -> Epoch:
    """Return a loader that reads the TIFFs, or windows of them, with rasterio.

    It has two threads, and yields float32 with NaN for months without a file. Missing
    pixels are not detected.
    """
    features = task.material.tiffs / "train_features"
    table = task.material.tiffs / "biomassters_features_metadata.csv"
    with table.open() as file:
        ids = sorted({row["chip_id"] for row in csv.DictReader(file)})
    held = {path.name for path in features.iterdir()}

    def make(samples: list[tuple[int, int, int]]) -> Batch:
        shape = (len(samples), MONTHS, RADAR + OPTICAL, task.side, task.side)
        image = np.full(shape, np.nan, np.float32)
        label = np.empty((len(samples), 1, task.side, task.side), np.float32)
        for index, (chip, top, left) in enumerate(samples):
            corner = top, left
            for month in range(MONTHS):
                for sensor, bands in (("S1", slice(0, 4)), ("S2", slice(4, None))):
                    name = f"{ids[chip]}_{sensor}_{month:02d}.tif"
                    if name in held:
                        part = image[index, month, bands]
                        part[...] = _read_tiff(features / name, corner, task.side)
            file = task.material.tiffs / "train_agbm" / f"{ids[chip]}_agbm.tif"
            label[index] = _read_tiff(file, corner, task.side)
        return torch.from_numpy(image), torch.from_numpy(label)

    return lambda epoch: _on_threads(make, task.batches(epoch))


def _read_tiff(path: Path, corner: tuple[int, int], side: int) -> Any:
    import rasterio
    from rasterio.windows import Window

    with rasterio.open(path) as file:
        return file.read(window=Window(corner[1], corner[0], side, side))


def quiet() -> None:
    """Ignore warnings about TIFFs without a georeference: they are published so."""
    from rasterio.errors import NotGeoreferencedWarning

    warnings.simplefilter("ignore", NotGeoreferencedWarning)
