"""Execution of a map's blocks: on threads of this process, or on a cluster's workers.

Both yield blocks with their outcomes, in any order: the checksum of a block that is
written and recorded, or the error of one that failed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from threading import Event
from typing import Any

import numpy as np
import numpy.typing as npt

from geobiomass.maps.blocks import Block, Target
from geobiomass.maps.manifest import Manifest
from geobiomass.threads import few_at_a_time

Compute = Callable[[Block], npt.NDArray[np.float32]]
Outcome = tuple[Block, str | Exception]

_AT_A_TIME = 2  # one block is read or written while the network computes the other
_GRACE = 2.0  # seconds that an interruption waits for blocks that are running


def on_threads(
    blocks: Sequence[Block], compute: Compute, target: Target, manifest: Manifest
) -> Iterator[Outcome]:
    """Compute and write blocks on threads, two at a time.

    After an interruption, such as Ctrl-C, it waits two seconds for the blocks that are
    running. Blocks that end later are not written.
    """
    stopped = Event()

    def work(block: Block) -> str:
        values = compute(block)
        if stopped.is_set():
            return ""
        checksum = target.write(block, values)
        manifest.note(block, checksum)
        return checksum

    finished = few_at_a_time(blocks, work, _AT_A_TIME, _GRACE)
    try:
        for block, future in finished:
            error = future.exception()
            if error is not None and not isinstance(error, Exception):
                raise error
            yield block, error or future.result()
    finally:
        finished.close()  # type: ignore[attr-defined]
        stopped.set()


def on_cluster(
    blocks: Sequence[Block],
    compute: Compute,
    target: Target,
    manifest: Manifest,
    client: Any,
) -> Iterator[Outcome]:
    """Compute blocks on a cluster's workers.

    The workers write to object storage themselves. They may not have this process's
    disk, so there this process writes.
    """
    from geobiomass.maps.cluster import results_of

    direct = target if reaches_everywhere(target) else None
    for block, result in results_of(client, blocks, compute, direct):
        if isinstance(result, Exception):
            yield block, result
            continue
        checksum = result if isinstance(result, str) else target.write(block, result)
        manifest.note(block, checksum)
        yield block, checksum


def reaches_everywhere(target: Target) -> bool:
    """Return whether workers on other machines can write to the same store."""
    from zarr.storage import FsspecStore, ObjectStore

    store = target.store
    if isinstance(store, FsspecStore):
        protocol = store.fs.protocol
        names = {protocol} if isinstance(protocol, str) else set(protocol)
        return not names & {"file", "local", "memory"}
    if isinstance(store, ObjectStore):
        return type(store.store).__name__ not in ("LocalStore", "MemoryStore")
    return False
