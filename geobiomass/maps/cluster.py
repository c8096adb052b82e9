"""Blocks of a map on a dask cluster: the network is sent to each worker once.

A plugin sends it, also to workers that join later; a task is only the coordinates of
a block. Neighbouring blocks share tiles, which a process caches, so each worker gets a
run of neighbours.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import uuid
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from queue import Queue
from threading import Lock
from typing import Any

import numpy as np
import numpy.typing as npt
from distributed import KilledWorker, WorkerPlugin
from distributed.protocol.pickle import dumps, loads

from geobiomass.cube.cluster_errors import is_of_cluster
from geobiomass.cube.cluster_watch import Watch
from geobiomass.maps.blocks import Block, Target, WorkersDiedError

Result = str | npt.NDArray[np.float32]

_ANY_WORKER = ""  # of a block that runs alone: the scheduler chooses the worker
_AHEAD = 2  # blocks for each thread of a worker: one runs, one waits


@dataclass(frozen=True)
class _Work:
    """The task of a worker: compute a block, and write it or return it."""

    compute: Any
    target: Target | None

    def __call__(self, block: Block) -> Result:
        values: npt.NDArray[np.float32] = self.compute(block)
        return values if self.target is None else self.target.write(block, values)


class _MapPlugin(WorkerPlugin):
    """Sends the work to a worker, which unpickles it for its first block."""

    def __init__(self, name: str, packed: bytes) -> None:
        self.name = name
        self.packed = packed

    def setup(self, worker: Any) -> None:
        """Store the pickle for the worker's tasks."""
        _keep_freed_memory()
        _PACKED[self.name] = self.packed

    def teardown(self, worker: Any) -> None:
        """Delete the network from the worker's memory."""
        with _UNPACKING:
            _PACKED.pop(self.name, None)
            _READY.pop(self.name, None)


def _keep_freed_memory() -> None:
    """Make the C library keep freed memory for the next pass of the network.

    dask's nanny makes it return every 64 kB to the system at once. The system then has
    to clear the pages of each layer's results again: passes take 1.35 times as long
    (measured). The values below are those that glibc reaches by itself otherwise.
    """
    if os.environ.get("MALLOC_TRIM_THRESHOLD_") != "65536":
        return  # not dask's value: a user has set it
    with contextlib.suppress(OSError, AttributeError):  # a C library without mallopt
        set_option = ctypes.CDLL(None).mallopt
        set_option(_TRIM_THRESHOLD, 64 * 2**20)
        set_option(_MMAP_THRESHOLD, 32 * 2**20)


_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # as malloc.h of glibc numbers them

# One for each process, which may run several workers.
_PACKED: dict[str, bytes] = {}
_READY: dict[str, _Work] = {}
_UNPACKING = Lock()


def _work_on(name: str, block: Block) -> Result:
    with _UNPACKING:  # the threads of a process share one network
        if name not in _READY:
            _READY[name] = loads(_PACKED[name])
    return _READY[name](block)


class Strips:
    """The blocks that are left, as a run of neighbours for each worker.

    Parameters
    ----------
    blocks : sequence of Block
        Row by row.
    workers : iterable of str
        Names of the workers; others may join later.
    """

    def __init__(self, blocks: Sequence[Block], workers: Iterable[str]) -> None:
        names = list(workers)
        edges = np.linspace(0, len(blocks), len(names) + 1).astype(int)
        self._left = {
            name: deque(blocks[start:stop])
            for name, start, stop in zip(names, edges[:-1], edges[1:], strict=True)
        }

    def left(self) -> bool:
        """Return whether there are blocks that no worker has taken."""
        return any(self._left.values())

    def next(self, worker: str) -> Block | None:
        """Return a worker's next block; if idle, it takes half of the longest queue."""
        own = self._left.setdefault(worker, deque())
        if not own:
            longest = max(self._left.values(), key=len)
            for _ in range(-(-len(longest) // 2)):
                own.appendleft(longest.pop())
        return own.popleft() if own else None


def results_of(
    client: Any, blocks: Sequence[Block], compute: Any, target: Target | None
) -> Iterator[tuple[Block, Result | Exception]]:
    """Yield the results of blocks, and the errors of those that fail.

    Parameters
    ----------
    client : distributed.Client
        The cluster's client.
    blocks : sequence of Block
        Row by row.
    compute : callable
        Block -> (output, y, x).
    target : Target, optional
        Where the workers write the blocks; the result is then a block's checksum.

    Raises
    ------
    LostClusterError
        If the scheduler does not answer. A cluster that breaks also raises errors
        of distributed.
    """
    watch = Watch(client)
    watch.wait_for_workers()
    name = f"geobiomass-map-{uuid.uuid4().hex}"
    plugin = _MapPlugin(name, dumps(_Work(compute, target)))
    watch.call(partial(client.register_plugin, plugin))
    try:
        yield from _distribute(client, watch, name, blocks)
    finally:
        if client.status == "running" and not watch.silent:
            _unregister(client, watch, name)


def _unregister(client: Any, watch: Watch, name: str) -> None:
    """Delete the network from the workers, if there still are any."""
    try:
        watch.call(partial(client.unregister_worker_plugin, name))
    except Exception as error:
        # The blocks are there, and a network goes with the worker that had it.
        if not is_of_cluster(error, client):
            raise


def _distribute(
    client: Any, watch: Watch, name: str, blocks: Sequence[Block]
) -> Iterator[tuple[Block, Result | Exception]]:
    """Send blocks to the workers, a few ahead, and yield them as they are done."""
    workers = watch.wait_for_workers()
    strips = Strips(blocks, workers)
    running: dict[Any, tuple[Block, str]] = {}
    load: Counter[str] = Counter()
    finished: Queue[Any] = Queue()
    lost: deque[Block] = deque()

    def send(block: Block, worker: str, key: str, **options: Any) -> None:
        future = client.submit(_work_on, name, block, key=key, pure=False, **options)
        running[future] = (block, worker)
        load[worker] += 1
        future.add_done_callback(finished.put)

    try:
        while True:
            for worker, threads in workers.items():
                while load[worker] < _AHEAD * threads and (
                    block := strips.next(worker)
                ):
                    # If this worker dies, another one computes the block.
                    options = {"workers": [worker], "allow_other_workers": True}
                    send(block, worker, f"{name}-{block.key}", **options)
            if not running and lost:
                send(lost[0], _ANY_WORKER, f"{name}-{lost.popleft().key}-alone")
            if not running:
                if not strips.left():
                    return
                workers = watch.wait_for_workers()
                continue
            future = watch.next_of(finished)
            block, worker = running.pop(future)
            load[worker] -= 1
            # Before the result is used: a worker that has joined may be of another
            # version.
            workers = watch.workers()
            yield from _outcome(watch, future, block, worker, lost)
            del future  # so that the worker frees its result
    finally:
        if client.status == "running":
            client.cancel(list(running))


def _outcome(
    watch: Watch, future: Any, block: Block, worker: str, lost: deque[Block]
) -> Iterator[tuple[Block, Result | Exception]]:
    """Yield a block with its result or error, or note that it is to run alone."""
    error = watch.call(future.exception)
    if isinstance(error, KilledWorker) and worker != _ANY_WORKER:
        # Several blocks ran there: alone, each shows whether it was the cause.
        lost.append(block)
    elif isinstance(error, KilledWorker):
        yield block, WorkersDiedError(_how_they_died(error))
    elif error is not None and is_of_cluster(error):
        raise error
    else:
        yield block, error or watch.call(future.result)


def _how_they_died(error: KilledWorker) -> str:
    return (
        f"{error.allowed_failures + 1} workers died while they computed it alone, as "
        f"task {error.task}, the last one {error.last_worker.address}. Most often "
        "their memory is too small: use a smaller tile, batch_size or memory, or "
        "workers with more; their logs say more"
    )
