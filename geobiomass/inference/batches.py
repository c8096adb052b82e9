"""Batches of tiles, read ahead and run in parallel, each of them once.

A tile at the border of two blocks is part of both. The block that needs it first
starts it. The result is kept for the other blocks, within a limit in bytes.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from geobiomass.inference.batch_predictor import BatchPredictor, Image, Predicted
from geobiomass.inference.thread_pools import THREADS

# Results of tiles that more than one block needs. A tile of 256 pixels takes 330 kB,
# so this is enough for a scene of 150,000 pixels across; what does not fit is
# computed again.
KEPT_BYTES = 512 * 2**20


@dataclass(eq=False)
class _Entry:
    """A started batch, which is computed once for all blocks that use it."""

    remaining: int  # blocks that are not yet done with it
    waiting: int = 0  # blocks that use it now
    result: Future[Predicted] = field(default_factory=Future)

    @property
    def bytes(self) -> int:
        """Bytes of the result; 0 while there is none."""
        if not self.result.done() or self.result.exception() is not None:
            return 0
        return self.result.result().bytes


class Batches:
    """A runner of batches of tiles, each once for all blocks that need it.

    Parameters
    ----------
    predictor : BatchPredictor
        Predicts a batch.
    read : callable
        Returns the image of one tile.
    slots : int
        Batches in memory: being read, waiting, or in the network.
    kept : int
        Bytes of results to keep for blocks that are computed later.
    """

    def __init__(
        self,
        predictor: BatchPredictor,
        read: Callable[[Any], Image],
        slots: int,
        kept: int = KEPT_BYTES,
    ) -> None:
        self.slots = slots
        self._predictor = predictor
        self._read = read
        self._free = threading.BoundedSemaphore(slots)
        self._kept = kept
        self._lock = threading.Lock()
        self._entries: dict[Hashable, _Entry] = {}
        self._stopped = False

    def stop(self) -> None:
        """Start no more batches: a block that needs another one gets an error."""
        self._stopped = True

    def start(self, key: Hashable, tiles: Sequence[Any], blocks: int) -> Started:
        """Start a batch unless it was started already; wait while no slot is free.

        Parameters
        ----------
        key : hashable
            Identifies the batch.
        tiles : sequence
            Argument of `read`, for each tile.
        blocks : int
            Blocks that need the batch, this one included.
        """
        with self._lock:
            entry = self._entries.get(key)
            ours = entry is None
            if entry is None:
                entry = self._entries[key] = _Entry(blocks)
            entry.waiting += 1
        if ours:
            self._free.acquire()
            if self._stopped:
                self._free.release()
                entry.result.set_exception(InterruptedError("the map was interrupted"))
                return Started(self, key, entry)
            reading = [THREADS.readers.submit(self._read, tile) for tile in tiles]
            on_gpu = self._predictor.device.type == "cuda"
            staging = THREADS.stager.submit(self._stage, reading) if on_gpu else None
            THREADS.passes.submit(self._run, entry, reading, staging)
        return Started(self, key, entry)

    def _stage(self, reading: Sequence[Future[Image]]) -> tuple[Image, Tensor, Any]:
        return self._predictor.stage([one.result() for one in reading])

    def _run(
        self,
        entry: _Entry,
        reading: Sequence[Future[Image]],
        staging: Future[tuple[Image, Tensor, Any]] | None,
    ) -> None:
        try:
            staged = staging.result() if staging is not None else self._stage(reading)
            predicted = self._predictor.predict(*staged)
        except BaseException as error:  # raised again in each block that waits
            entry.result.set_exception(error)
        else:
            entry.result.set_result(predicted)
        finally:
            self._free.release()

    def release(self, key: Hashable, entry: _Entry) -> None:
        """Release a batch; keep its result while another block has yet to use it."""
        with self._lock:
            entry.waiting -= 1
            entry.remaining -= 1
            if self._entries.get(key) is not entry or entry.waiting > 0:
                return
            del self._entries[key]
            # A batch that failed is not kept: the file may be repaired meanwhile.
            if entry.remaining > 0 and entry.bytes:
                self._entries[key] = entry  # at the end: the oldest are dropped first
                self._make_room()

    def _make_room(self) -> None:
        held = [(key, e) for key, e in self._entries.items() if e.waiting == 0]
        size = sum(entry.bytes for _, entry in held)
        for key, entry in held:
            if size <= self._kept:
                return
            del self._entries[key]
            size -= entry.bytes


@dataclass(frozen=True)
class Started:
    """A batch that was started for a block."""

    batches: Batches
    key: Hashable
    entry: _Entry

    def result(self) -> Predicted:
        """Return the prediction, after waiting for it."""
        return self.entry.result.result()

    def release(self) -> None:
        """Release the batch; each block calls this exactly once, also on errors."""
        self.batches.release(self.key, self.entry)
