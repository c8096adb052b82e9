"""The data loader: batches in an order of seed and epoch, prefetched on threads.

dask plans a batch, one task for each sample, and reads on threads, or on the workers
of a cluster. There are no worker processes, so nothing is forked. Samples stay as they
are stored; the trainer decodes them into physical values on the device.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise
from threading import Lock
from typing import Any, Literal, Protocol

import dask
import dask.threaded
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from geobiomass.cube import CubeError
from geobiomass.cube.cluster_errors import told_of_cluster
from geobiomass.cube.cluster_watch import Watch
from geobiomass.data.reader import Decoder, Reader, Sample
from geobiomass.network.static_planes import packed_batch
from geobiomass.tiles import Marks, random_crop

Corners = Sequence[tuple[int, ...]]


class Arrangement:
    """The positions of a batch's samples in its codes, and the layers beside them.

    It is on no device.

    Parameters
    ----------
    decoder : Decoder
        The cube's decoder.
    corners : sequence of tuple of int
        The corner of each sample in its cells: month, band, row, column.
    static : Tensor, optional
        (batch, layer, y, x) float32: static layers, NaN where missing.
    """

    def __init__(
        self, decoder: Decoder, corners: Corners, static: Tensor | None = None
    ) -> None:
        self.decoder = decoder
        self.corners = corners
        self.static = static


Batch = tuple[Tensor, Arrangement, Tensor]


def decode_batch(
    inputs: tuple[Any, ...], target: Tensor
) -> tuple[tuple[Tensor], Tensor]:
    """Decode a batch from stored codes into physical values, on its device.

    Parameters
    ----------
    inputs : tuple
        Codes and their arrangement, as :meth:`ChipLoader.epoch` yields them.
    target : torch.Tensor
        (batch, 1, y, x).

    Returns
    -------
    inputs : tuple
        One tensor (batch, month, band, y, x) float32, NaN where missing; static layers
        follow the months, as :mod:`geobiomass.network.static_planes` has them.
    target : torch.Tensor
        Unchanged.
    """
    codes, arrangement = inputs
    height, width = target.shape[-2:]
    decoder, corners = arrangement.decoder, arrangement.corners
    image = decoder.decode(codes, corners, (height, width))
    if arrangement.static is not None:
        image = packed_batch(image, arrangement.static.to(image.device))
    return (image,), target


class _Buffers:
    """A pool of memory: memory of finished batches is used again.

    New memory of this size comes page by page from the system, which takes about a
    third of the time of decoding.
    """

    def __init__(self) -> None:
        self._all: list[npt.NDArray[np.uint8]] = []
        self._one_at_a_time = Lock()

    def take(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
        size = int(np.prod(shape)) * dtype.itemsize
        with self._one_at_a_time:
            return self._large_enough(size)[:size].view(dtype).reshape(shape)

    def _large_enough(self, size: int) -> npt.NDArray[np.uint8]:
        for index in range(len(self._all)):
            if self._all[index].size >= size and self._free(index):
                return self._all[index]
        self._all = [b for i, b in enumerate(self._all) if not self._free(i)]
        self._all.append(np.empty(size, np.uint8))
        return self._all[-1]

    def _free(self, index: int) -> bool:
        # Two references: the list's, and getrefcount's own. A view or a tensor of the
        # buffer adds one.
        return sys.getrefcount(self._all[index]) <= 2


@dataclass(frozen=True)
class ChipLoader:
    """Data loader: batches of images and labels, in an order of seed and epoch alone.

    Parameters
    ----------
    reader : Reader
        Over a cube with ``agb``.
    samples : sequence of Sample
        Each is read once in every epoch, unless there are `chances`.
    batch_size : int
        Samples in a batch of one process, at most. All batches have about the same
        size. (Batches of one may become two, if processes cannot share the samples
        otherwise.)
    crop : int, optional
        Side of the random crop that is drawn inside each sample in every epoch; None
        takes whole samples, which must then have the same size.
    shuffle : bool
        Whether the order changes from epoch to epoch.
    seed : int
        Seed of the order and the crops, with the epoch's number.
    memory : int
        Bytes that batches may take: the one in use, the next one, and those that are
        prefetched. There are three at least, even if they take more.
    threads : int, optional
        Samples read at the same time; by default one more than there are cores, nine
        at most. The batches do not depend on it.
    damaged : "raise" or "skip"
        For a sample that cannot be read: raise an error that names it, or warn and
        yield the sample without any month and label.
    client : distributed.Client, optional
        Read on its workers, which must reach the store under the same path.
    marks : mapping of Sample to Marks, optional
        Positions of the labels in samples: a random crop of such a sample holds one.
    chances : sequence of float, optional
        How often each of `samples` is read in an epoch, on average, up to a factor: one
        with the chance c times their number over the sum of all is read that often,
        rounded down or up at random. An epoch has as many samples as without.
    problems : dict of str to str, optional
        The samples that could not be read, by name, with the reason; filled while
        reading.
    """

    reader: Reader
    samples: Sequence[Sample]
    batch_size: int
    crop: int | None = None
    shuffle: bool = True
    seed: int = 0
    memory: int = 2**30
    threads: int | None = None
    damaged: Literal["raise", "skip"] = "raise"
    client: Any = None
    marks: Mapping[Sample, Marks] = field(default_factory=dict, compare=False)
    chances: Sequence[float] | None = None
    problems: dict[str, str] = field(default_factory=dict, compare=False)
    _buffers: _Buffers = field(default_factory=_Buffers, compare=False, repr=False)

    def unweighted(self) -> ChipLoader:
        """Return this loader without weights or chances, to measure errors with."""
        if self.reader.layers == 1 and self.chances is None:
            return self
        return replace(self, reader=self.reader.with_weights(None), chances=None)

    def with_errors(self) -> ChipLoader:
        """Return this loader with the labels' standard errors as a second layer."""
        return replace(self, reader=self.reader.with_weights(lambda errors: errors))

    def batches_per_epoch(self, ranks: int = 1) -> int:
        """Return the number of batches of each of `ranks` processes in an epoch.

        Raises
        ------
        ValueError
            If there are fewer samples than processes.
        """
        if len(self.samples) < ranks:
            raise ValueError(
                f"{len(self.samples)} samples cannot be shared among {ranks} "
                "processes; give more to train or to validate on, or fewer devices."
            )
        count = len(self.samples)
        return min(-(-count // (self.batch_size * ranks)), count // ranks)

    def smallest_batch(self, ranks: int = 1) -> int:
        """Return the samples of the smallest batch; sizes differ by one at most."""
        return len(self.samples) // (self.batches_per_epoch(ranks) * ranks)

    def epoch(
        self, number: int, rank: int = 0, ranks: int = 1, start: int = 0
    ) -> Iterator[Batch]:
        """Yield an epoch's batches for one process; the next ones are prefetched.

        Every sample comes exactly once in an epoch, in one of the processes, unless
        there are `chances`.

        Parameters
        ----------
        number : int
            Number of the epoch, from 0.
        rank, ranks : int
            The number of this process, and the number of processes.
        start : int
            Batches of this process that an interrupted training has used already;
            they are not read.

        Yields
        ------
        codes : torch.Tensor
            (batch, cells along month, band, y and x, then size of a cell), as stored.
        arrangement : Arrangement
            Their positions; :func:`decode_batch` makes the image of both.
        agb : torch.Tensor
            (batch, 1, y, x) float32, Mg/ha, NaN where unlabelled; (batch, 2, y, x)
            with the weights of the labels where the reader has them.

        Raises
        ------
        CubeError
            If a part of the cube cannot be read; it names the part.
        """
        plan = self.plan(number, rank, ranks)[start:]
        if not plan:
            return
        # One more batch is in use, and one is ready to follow it.
        ahead = max(1, self.memory // self._bytes(plan[0]) - 2)
        with ExitStack() as stack:
            stack.enter_context(
                told_of_cluster(
                    "it read batches for the training",
                    self.client,
                    "make the same call again with a client that is connected: with "
                    "folder= the training goes on where it stopped",
                )
            )
            submit = self._start(stack)
            waiting: deque[Any] = deque()
            stack.callback(_cancel, waiting)
            for samples in plan:
                waiting.append(submit(samples))
                if len(waiting) > ahead:
                    yield self._take(waiting.popleft())
            while waiting:
                yield self._take(waiting.popleft())

    def plan(self, number: int, rank: int = 0, ranks: int = 1) -> list[list[Sample]]:
        """Return the samples of an epoch's batches for one process; reads nothing."""
        count = self.batches_per_epoch(ranks)
        generator = np.random.default_rng([self.seed, number])
        order = np.arange(len(self.samples))
        if self.chances is not None:
            order = _resampled(self.chances, generator)
        if self.shuffle:
            order = generator.permutation(order)
        samples = [self._draw(int(index), generator) for index in order]
        # All about the same size: a last batch of one would upset batch norm.
        edges = np.linspace(0, len(samples), count * ranks + 1).round().astype(int)
        batches = [samples[a:b] for a, b in pairwise(edges)]
        return batches[rank::ranks]

    def _draw(self, index: int, generator: np.random.Generator) -> Sample:
        sample = self.samples[index]
        if self.crop is None:
            return sample
        marks = self.marks.get(sample)
        if marks is not None:
            window = marks.random_crop(self.crop, self.crop, generator)
        else:
            window = random_crop(sample.window, self.crop, self.crop, generator)
        return Sample(window, sample.chip)

    def _bytes(self, samples: Sequence[Sample]) -> int:
        shape, dtype = self.reader.cells(samples)
        window = samples[0].window
        labels = 4 * self.reader.ground_layers * window.height * window.width
        return len(samples) * (int(np.prod(shape)) * dtype.itemsize + labels)

    def _start(self, stack: ExitStack) -> Callable[[list[Sample]], Any]:
        """Return a function that starts to read a batch and returns a future."""
        if self.client is not None:
            client, watch = self.client, Watch(self.client)
            watch.wait_for_workers()
            send = partial(client.scatter, self.reader, broadcast=True, hash=False)
            reader = watch.call(send)
            skip = self.damaged == "skip"

            def submit(samples: list[Sample]) -> _Watched:
                call = (_read_on_worker, reader, samples, skip)
                return _Watched(watch, client.submit(*call, pure=False))

            return submit
        # One more than cores: a thread may wait for Python's global lock.
        threads = self.threads or min(8, os.cpu_count() or 1) + 1
        readers = stack.enter_context(ThreadPoolExecutor(threads, "chips"))
        # Two: the next batch begins while the last samples of one are read.
        planner = stack.enter_context(ThreadPoolExecutor(2, "batches"))
        skip = self.damaged == "skip"
        read = partial(_read_batch, self.reader, readers, self._buffers, skip=skip)
        return partial(planner.submit, read)

    def _take(self, future: Any) -> Batch:
        """Wait for a batch; warn once about each sample that it lacks."""
        codes, agb, corners, problems = future.result()
        for sample, problem in problems.items():
            if sample not in self.problems:
                self.problems[sample] = problem
                warnings.warn(f"Left out of training: {problem}", stacklevel=3)
        labels, static = torch.from_numpy(agb), None
        if self.reader.static_layers:
            layers = self.reader.layers
            labels, static = labels[:, :layers], labels[:, layers:]
        arrangement = Arrangement(self.reader.decoder, corners, static)
        return torch.from_numpy(codes), arrangement, labels


def _resampled(
    chances: Sequence[float], generator: np.random.Generator
) -> npt.NDArray[np.intp]:
    """Draw as many indices as there are chances, by systematic sampling.

    Each index comes as often as expected, rounded down or up: epochs differ less than
    with independent draws.
    """
    upto = np.cumsum(np.asarray(chances, np.float64))
    count = len(upto)
    marks = (np.arange(count) + generator.random()) / count * upto[-1]
    found: npt.NDArray[np.intp] = np.searchsorted(upto, marks, side="right")
    return np.minimum(found, count - 1)


@dataclass(frozen=True)
class _Watched:
    """A batch that a cluster reads; waiting for it ends if the cluster breaks."""

    watch: Watch
    future: Any

    def result(self) -> _Read:
        result: _Read = self.watch.call(self.future.result)
        return result

    def cancel(self) -> None:
        self.future.cancel()


def _cancel(waiting: deque[Any]) -> None:
    for future in waiting:
        future.cancel()


# codes, labels with static layers, corners, problems by name of the sample
_Read = tuple[npt.NDArray[Any], npt.NDArray[np.float32], Corners, dict[str, str]]


class _Take(Protocol):
    def __call__(
        self, shape: tuple[int, ...], dtype: np.dtype[Any]
    ) -> npt.NDArray[Any]: ...


def _empty(
    reader: Reader, samples: Sequence[Sample], take: _Take
) -> tuple[npt.NDArray[Any], npt.NDArray[np.float32]]:
    shape, dtype = reader.cells(samples)
    window = samples[0].window
    labels = (len(samples), reader.ground_layers, window.height, window.width)
    return take((len(samples), *shape), dtype), np.empty(labels, np.float32)


def _read_batch(
    reader: Reader,
    pool: ThreadPoolExecutor,
    buffers: _Buffers,
    samples: Sequence[Sample],
    skip: bool,
) -> _Read:
    """Read a batch on threads: one dask task for each sample."""
    codes, agb = _empty(reader, samples, buffers.take)
    if _read_together(reader, pool, samples, codes, agb):
        return codes, agb, [(0, 0, 0, 0)] * len(samples), {}
    graph = {
        ("sample", i): (partial(_read_sample, reader, sample, codes[i], agb[i], skip),)
        for i, sample in enumerate(samples)
    }
    found = dask.threaded.get(graph, [*graph], pool=pool)
    return _gather(reader, samples, codes, agb, found)


def _read_together(
    reader: Reader,
    pool: ThreadPoolExecutor,
    samples: Sequence[Sample],
    codes: npt.NDArray[Any],
    agb: npt.NDArray[np.float32],
) -> bool:
    """Compute a batch of lazy samples together; return whether that was possible."""
    uncomputed = reader.uncomputed(samples)
    if uncomputed is None:
        return False
    try:
        values = dask.compute(*uncomputed, scheduler="threads", pool=pool)  # type: ignore[attr-defined, no-untyped-call]
        for i, sample in enumerate(samples):
            codes[i, 0, 0, 0, 0] = values[i]
            reader.fill_ground(sample, agb[i])
    except Exception:
        return False  # read one by one, the damaged sample names itself
    return True


def _read_on_worker(reader: Reader, samples: Sequence[Sample], skip: bool) -> _Read:
    """Read a batch in one thread, on a worker of a cluster."""
    codes, agb = _empty(reader, samples, np.empty)
    found = [
        _read_sample(reader, sample, codes[i], agb[i], skip)
        for i, sample in enumerate(samples)
    ]
    return _gather(reader, samples, codes, agb, found)


def _read_sample(
    reader: Reader,
    sample: Sample,
    codes: npt.NDArray[Any],
    agb: npt.NDArray[np.float32],
    skip: bool,
) -> tuple[tuple[int, ...], str | None]:
    """Fill one sample; return its corner in the cells, and the error if any."""
    try:
        return reader.fill(sample, codes, agb), None
    except CubeError as error:
        if not skip:
            raise
        reader.blank(codes, agb)
        return (0, 0, 0, 0), str(error)


def _gather(
    reader: Reader,
    samples: Sequence[Sample],
    codes: npt.NDArray[Any],
    agb: npt.NDArray[np.float32],
    found: Sequence[tuple[tuple[int, ...], str | None]],
) -> _Read:
    corners = [corner for corner, _ in found]
    problems = {
        reader.name_of(sample): problem
        for sample, (_, problem) in zip(samples, found, strict=True)
        if problem is not None
    }
    return codes, agb, corners, problems
