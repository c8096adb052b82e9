"""Blocks of a map on a dask cluster: the network goes to each worker once.

A plugin carries it there, also to workers that come later; a task is a block's
coordinates. Neighbouring blocks share tiles, which a process keeps for a while, so
each worker has a run of neighbours.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import uuid
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Any

import numpy as np
import numpy.typing as npt
from distributed import KilledWorker, WorkerPlugin, as_completed
from distributed.protocol.pickle import dumps, loads

from geobiomass.maps.blocks import Block, Target, WorkersDiedError

Result = str | npt.NDArray[np.float32]

_ALONE = ""  # stands for whichever worker has a block to itself
_AHEAD = 2  # blocks on their way to each thread of a worker, or on it


@dataclass(frozen=True)
class _Work:
    """What a worker does with a block."""

    compute: Any
    target: Target | None

    def __call__(self, block: Block) -> Result:
        values: npt.NDArray[np.float32] = self.compute(block)
        return values if self.target is None else self.target.write(block, values)


class _MapPlugin(WorkerPlugin):
    """Carries the work to a worker, where it is unpacked when it is first needed."""

    def __init__(self, name: str, packed: bytes) -> None:
        self.name = name
        self.packed = packed

    def setup(self, worker: Any) -> None:
        """Keep what is packed where a task finds it."""
        _keep_freed_memory()
        _PACKED[self.name] = self.packed

    def teardown(self, worker: Any) -> None:
        """Let go of the network."""
        with _UNPACKING:
            _PACKED.pop(self.name, None)
            _READY.pop(self.name, None)


def _keep_freed_memory() -> None:
    """Let the C library keep freed memory for the next pass of the network.

    dask's nanny has it give every 64 kB back at once, so that each layer's results
    are put into pages that the system has to clear first: passes take 1.35 times as
    long (measured). These are the values that glibc comes to by itself otherwise.
    """
    if os.environ.get("MALLOC_TRIM_THRESHOLD_") != "65536":
        return  # somebody else's choice
    with contextlib.suppress(OSError, AttributeError):  # another C library
        set_option = ctypes.CDLL(None).mallopt
        set_option(_TRIM_THRESHOLD, 64 * 2**20)
        set_option(_MMAP_THRESHOLD, 32 * 2**20)


_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # as malloc.h of glibc numbers them

# Of a process, which may hold several workers.
_PACKED: dict[str, bytes] = {}
_READY: dict[str, _Work] = {}
_UNPACKING = Lock()


def _work_on(name: str, block: Block) -> Result:
    with _UNPACKING:  # several threads, one network
        if name not in _READY:
            _READY[name] = loads(_PACKED[name])
    return _READY[name](block)


class Strips:
    """Blocks that are left, in a run of neighbours for each worker.

    Parameters
    ----------
    blocks : sequence of Block
        Row by row.
    workers : iterable of str
        Others may come later.
    """

    def __init__(self, blocks: Sequence[Block], workers: Iterable[str]) -> None:
        names = list(workers)
        edges = np.linspace(0, len(blocks), len(names) + 1).astype(int)
        self._left = {
            name: deque(blocks[start:stop])
            for name, start, stop in zip(names, edges[:-1], edges[1:], strict=True)
        }

    def next(self, worker: str) -> Block | None:
        """Give a worker its next block; with none left, half of the longest run."""
        own = self._left.setdefault(worker, deque())
        if not own:
            longest = max(self._left.values(), key=len)
            for _ in range(-(-len(longest) // 2)):
                own.appendleft(longest.pop())
        return own.popleft() if own else None


def gathered(
    client: Any, blocks: Sequence[Block], compute: Any, target: Target | None
) -> Iterator[tuple[Block, Result | Exception]]:
    """Yield what the workers make of blocks, and the errors of those that fail.

    Parameters
    ----------
    client : distributed.Client
        Of the cluster.
    blocks : sequence of Block
        Row by row.
    compute : callable
        Block -> (output, y, x).
    target : Target, optional
        Where workers write; then a block's checksum is the result.
    """
    name = f"geobiomass-map-{uuid.uuid4().hex}"
    client.register_plugin(_MapPlugin(name, dumps(_Work(compute, target))))
    try:
        yield from _given_out(client, name, blocks)
    finally:
        client.unregister_worker_plugin(name)


def _given_out(
    client: Any, name: str, blocks: Sequence[Block]
) -> Iterator[tuple[Block, Result | Exception]]:
    client.wait_for_workers(1)
    strips = Strips(blocks, client.nthreads())
    running: dict[Any, tuple[Block, str]] = {}
    load: Counter[str] = Counter()
    queue = as_completed(loop=client.loop)
    lost: deque[Block] = deque()

    def give(block: Block, worker: str, key: str, **where: Any) -> None:
        future = client.submit(_work_on, name, block, key=key, pure=False, **where)
        running[future] = (block, worker)
        load[worker] += 1
        queue.add(future)

    try:
        while True:
            for worker, threads in client.nthreads().items():
                while load[worker] < _AHEAD * threads and (
                    block := strips.next(worker)
                ):
                    # Others may take it over, should this worker die.
                    where = {"workers": [worker], "allow_other_workers": True}
                    give(block, worker, f"{name}-{block.key}", **where)
            if not running and lost:
                give(lost[0], _ALONE, f"{name}-{lost.popleft().key}-alone")
            if not running:
                return
            future = next(queue)
            block, worker = running.pop(future)
            load[worker] -= 1
            error = future.exception()
            if isinstance(error, KilledWorker) and worker != _ALONE:
                lost.append(block)  # which block it was that killed them shows alone
            elif isinstance(error, KilledWorker):
                yield block, WorkersDiedError(str(error))
            else:
                yield block, error or future.result()
            del future  # the worker may forget its result
    finally:
        client.cancel(list(running))
