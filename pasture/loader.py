"""Photos from files to batches of tensors, decoded on threads ahead of their use."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from PIL import ExifTags, Image, ImageOps
from torch import Tensor

__all__ = ["PhotoError", "PhotoLoader", "measure_photo", "open_photo"]

# A JPEG is decoded no smaller than so many times the size that is wanted, so that the
# antialiased resizing after it still has what it averages.
_SPARE = 2
_TURNED = (5, 6, 7, 8)  # orientations that exchange width and height
# What Pillow raises for damaged files of one format or another.
_DAMAGE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)


class PhotoError(ValueError):
    """Photos, or the table that lists them, cannot be used; all of them are named."""


def open_photo(path: str, size: tuple[int, int] | None = None) -> Image.Image:
    """Decode a photo as RGB, turned as its camera noted.

    Parameters
    ----------
    path
        The photo.
    size
        Width and height that it will be resized to. A JPEG more than twice as large
        is then decoded at a half, a quarter or an eighth of its size, which its
        coding allows at a fraction of the time.

    Raises
    ------
    PhotoError
        It cannot be decoded to its end.
    """
    try:
        with Image.open(path) as image:
            if size is not None and image.format == "JPEG":
                width, height = size[::-1] if _is_turned(image) else size
                image.draft("RGB", (_SPARE * width, _SPARE * height))
            return ImageOps.exif_transpose(image).convert("RGB")
    except _DAMAGE as error:
        raise PhotoError(f"photo {path} cannot be read: {error}") from error


def measure_photo(path: str) -> tuple[int, int]:
    """Give a photo's width and height as it is shown, without decoding it.

    Raises
    ------
    PhotoError
        It is no picture.
    """
    try:
        with Image.open(path) as image:
            return image.size[::-1] if _is_turned(image) else image.size
    except _DAMAGE as error:
        raise PhotoError(f"photo {path} cannot be read: {error}") from error


def _is_turned(image: Image.Image) -> bool:
    return image.getexif().get(ExifTags.Base.Orientation) in _TURNED


@dataclass(frozen=True)
class PhotoLoader:
    """Batches of photos, decoded on a few threads ahead of their use.

    A `geobiomass.training.sharding.Feed`: the order of an epoch follows from `seed` and
    its number, every photo comes once an epoch in one of the processes, and at most
    `ahead` + 1 batches are in memory.

    Parameters
    ----------
    paths
        Photos.
    grams
        (photo, target) float32, NaN where unknown.
    height, width
        Pixels that photos are resized to, bicubic with antialiasing; large JPEGs as
        `open_photo` says.
    batch_size
        Photos a batch and process. Batches of an epoch differ by one photo at most.
    shuffle
        Whether photos come in a new order each epoch.
    seed
        Of the order.
    threads, ahead
        Threads that decode, and batches that they may be ahead.
    """

    paths: tuple[str, ...]
    grams: npt.NDArray[np.float32]
    height: int
    width: int
    batch_size: int
    shuffle: bool = True
    seed: int = 0
    threads: int = 4
    ahead: int = 2

    def batches_per_epoch(self, ranks: int = 1) -> int:
        """Give the batches that each of `ranks` processes gets an epoch.

        Raises
        ------
        ValueError
            There are fewer photos than processes.
        """
        count = len(self.paths)
        if count < ranks:
            raise ValueError(
                f"photos must be at least one for each of {ranks} processes, got "
                f"{count}; train with fewer devices"
            )
        # Never more batches than photos: with a batch size of 1 some would be empty.
        return min(-(-count // (self.batch_size * ranks)), count // ranks)

    def epoch(
        self, number: int, rank: int = 0, ranks: int = 1, start: int = 0
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield (image, grams) of an epoch for one process, from batch `start` on.

        Yields
        ------
        image
            (batch, 3, height, width) uint8, RGB.
        grams
            (batch, target) float32.

        Raises
        ------
        PhotoError
            A photo cannot be read any more.
        """
        waiting: deque[tuple[npt.NDArray[np.intp], list[Future[Tensor]]]] = deque()
        with ThreadPoolExecutor(self.threads, thread_name_prefix="photos") as pool:
            try:
                for places in self._plan(number, rank, ranks)[start:]:
                    photos = [pool.submit(self._read, place) for place in places]
                    waiting.append((places, photos))
                    if len(waiting) > self.ahead:
                        yield self._batch(*waiting.popleft())
                while waiting:
                    yield self._batch(*waiting.popleft())
            finally:
                # The reader may stop early, and a photo may fail.
                pool.shutdown(wait=False, cancel_futures=True)

    def _plan(self, number: int, rank: int, ranks: int) -> list[npt.NDArray[np.intp]]:
        order = np.arange(len(self.paths))
        if self.shuffle:
            order = np.random.default_rng([self.seed, number]).permutation(order)
        return np.array_split(order, self.batches_per_epoch(ranks) * ranks)[rank::ranks]

    def _read(self, place: int) -> Tensor:
        image = open_photo(self.paths[place], (self.width, self.height))
        sized = image.resize((self.width, self.height), Image.Resampling.BICUBIC)
        return torch.from_numpy(np.array(sized)).permute(2, 0, 1)

    def _batch(
        self, places: npt.NDArray[np.intp], photos: list[Future[Tensor]]
    ) -> tuple[Tensor, Tensor]:
        image = torch.stack([photo.result() for photo in photos])
        return image, torch.from_numpy(self.grams[places])
