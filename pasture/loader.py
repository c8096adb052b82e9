"""The data loader of photos: batches of tensors, decoded ahead on several threads."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from .photo_files import PhotoError, lay_across, measure_photo, open_photo

__all__ = ["PhotoError", "PhotoLoader", "measure_photo", "open_photo"]


@dataclass(frozen=True)
class PhotoLoader:
    """A data loader of photos, decoded ahead on several threads.

    It is a `geobiomass.training.sharding.BatchSource`. The order of an epoch follows
    from `seed` and the epoch's number. Each photo is used once per epoch, in one of the
    processes. At most `ahead` + 1 batches are in memory.

    Parameters
    ----------
    paths
        Files of the photos.
    grams
        (photo, target) float32, NaN where unknown.
    height, width
        Pixels that photos are resized to, bicubic with antialiasing. Large JPEGs are
        decoded at a reduced size, see `open_photo`. A photo higher than wide is turned
        by a quarter first, unless `height` is above `width`: seen from above, no side
        of a quadrat is the top.
    batch_size
        Photos per batch and process. Batches of an epoch differ by one photo at most.
    shuffle
        Whether photos have a new order in each epoch.
    seed
        Random seed of the order.
    threads, ahead
        Number of threads that decode, and of batches that they may be ahead.
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
        """Return the number of batches per epoch for each of `ranks` processes.

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
        # At most one batch per photo and process: with a batch size of 1, more
        # batches than photos would leave some empty.
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
            A photo can no longer be read.
        """
        waiting: deque[tuple[npt.NDArray[np.intp], list[Future[Tensor]]]] = deque()
        with ThreadPoolExecutor(self.threads, thread_name_prefix="photos") as pool:
            try:
                for indices in self._plan(number, rank, ranks)[start:]:
                    photos = [pool.submit(self._read, index) for index in indices]
                    waiting.append((indices, photos))
                    if len(waiting) > self.ahead:
                        yield self._batch(*waiting.popleft())
                while waiting:
                    yield self._batch(*waiting.popleft())
            finally:
                # The caller may stop early, or a photo may fail: waiting tasks end.
                pool.shutdown(wait=False, cancel_futures=True)

    def _plan(self, number: int, rank: int, ranks: int) -> list[npt.NDArray[np.intp]]:
        order = np.arange(len(self.paths))
        if self.shuffle:
            order = np.random.default_rng([self.seed, number]).permutation(order)
        return np.array_split(order, self.batches_per_epoch(ranks) * ranks)[rank::ranks]

    def _read(self, index: int) -> Tensor:
        image = open_photo(self.paths[index], (self.width, self.height))
        if self.width >= self.height:
            image = lay_across(image)
        sized = image.resize((self.width, self.height), Image.Resampling.BICUBIC)
        return torch.from_numpy(np.array(sized)).permute(2, 0, 1)

    def _batch(
        self, indices: npt.NDArray[np.intp], photos: list[Future[Tensor]]
    ) -> tuple[Tensor, Tensor]:
        image = torch.stack([photo.result() for photo in photos])
        return image, torch.from_numpy(self.grams[indices])
