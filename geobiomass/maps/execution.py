"""Who computes the blocks of a map: threads of this process, or a cluster's workers.

Both yield a block and what became of it, in whatever order: its checksum once it
is written and noted, or the error that it failed with.
"""

from __future__ import annotations

import sys
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

_AT_A_TIME = 2  # one reads or writes while the other has the network
_GRACE = 2.0  # seconds that an interruption waits for blocks that are nearly done


def on_threads(
    blocks: Sequence[Block], compute: Compute, target: Target, manifest: Manifest
) -> Iterator[Outcome]:
    """Compute and write blocks on threads, two at a time.

    Left early, by Ctrl-C for one, it waits two seconds for what is nearly done;
    what is computed after that is not written any more.
    """
    stopped = Event()

    def work(block: Block) -> str:
        values = compute(block)
        if stopped.is_set():
            return ""
        checksum = target.write(block, values)
        manifest.note(block, checksum)
        return checksum

    pieces = few_at_a_time(blocks, work, _AT_A_TIME, _GRACE)
    try:
        for block, future in pieces:
            error = future.exception()
            if error is not None and not isinstance(error, Exception):
                raise error
            yield block, error or future.result()
    finally:
        pieces.close()  # type: ignore[attr-defined]
        stopped.set()


def on_cluster(
    blocks: Sequence[Block],
    compute: Compute,
    target: Target,
    manifest: Manifest,
    client: Any,
) -> Iterator[Outcome]:
    """Compute blocks on a cluster's workers.

    They write to object storage themselves; to a disk, which they may not see, this
    process writes.
    """
    from geobiomass.maps.cluster import gathered

    direct = target if reaches_everywhere(target) else None
    for block, result in gathered(client, blocks, compute, direct):
        if isinstance(result, Exception):
            yield block, result
            continue
        checksum = result if isinstance(result, str) else target.write(block, result)
        manifest.note(block, checksum)
        yield block, checksum


def reaches_everywhere(target: Target) -> bool:
    """Tell whether workers on other machines can write to the same place."""
    from zarr.storage import FsspecStore, ObjectStore

    store = target.store
    if isinstance(store, FsspecStore):
        protocol = store.fs.protocol
        names = {protocol} if isinstance(protocol, str) else set(protocol)
        return not names & {"file", "local", "memory"}
    if isinstance(store, ObjectStore):
        return type(store.store).__name__ not in ("LocalStore", "MemoryStore")
    return False


def active_client() -> Any:
    """Give the dask client that is in use, if there is one."""
    distributed = sys.modules.get("distributed")
    if distributed is None:
        return None
    try:
        return distributed.Client.current()
    except ValueError:
        return None
