"""Objects of a Zarr store, on a disk or on object storage: list, write, delete."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Coroutine, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from zarr.abc.store import Store
    from zarr.core.buffer import Buffer

ROOT = "zarr.json"
"""Object that makes a store a Zarr group."""

LEASE = "written/writer.json"
"""Object that names the process that writes a map or a cube on object storage."""

Answer = TypeVar("Answer")


def synchronise(work: Coroutine[Any, Any, Answer]) -> Answer:
    """Wait for an asynchronous operation of a Zarr store; return its result."""
    from zarr.core.sync import sync

    return sync(work)


def list_names(store: Store, folder: str) -> list[str]:
    """Return the names in a folder of a store, as they are now."""

    async def names() -> list[str]:
        return [name async for name in store.list_dir(folder)]

    forget_listings(store)
    return synchronise(names())


def forget_listings(store: Store) -> None:
    """Make fsspec forget its listings: other processes write as well."""
    files = getattr(store, "fs", None)
    if files is not None:
        files.invalidate_cache()


def delete_all(store: Store, attrs: Mapping[str, Any] | None) -> None:
    """Delete all objects of a store, except the lease of its writer.

    Parameters
    ----------
    store : zarr.abc.store.Store
        The store.
    attrs : mapping, optional
        Leave an empty group with these attributes. They are written before anything is
        deleted, so that an interruption is recognised.
    """
    synchronise(_delete_all(store, attrs))
    forget_listings(store)


async def _delete_all(store: Store, attrs: Mapping[str, Any] | None) -> None:
    kept = {LEASE}
    if attrs is None:
        await store.delete(ROOT)  # without it the rest is no valid map
    else:
        root = {"zarr_format": 3, "node_type": "group", "attributes": dict(attrs)}
        await store.set(ROOT, as_buffer(json.dumps(root)))
        kept.add(ROOT)
    forget_listings(store)
    keys = [key async for key in store.list_prefix("") if key not in kept]
    for start in range(0, len(keys), 64):
        await asyncio.gather(*map(store.delete, keys[start : start + 64]))


def as_buffer(text: str) -> Buffer:
    """Return a text as a buffer for Zarr's stores."""
    from zarr.core.buffer import default_buffer_prototype

    return default_buffer_prototype().buffer.from_bytes(text.encode())
