"""Objects of a Zarr store, on a disk or on object storage: list, write, delete."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Coroutine, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import zarr
    from zarr.abc.store import Store
    from zarr.core.buffer import Buffer

ROOT = "zarr.json"
"""Object that makes a store a Zarr group."""

LEASE = "written/writer.json"
"""Object that names the process that writes a map or a cube on object storage."""

LOOK = 1.0
"""Seconds after which a reader on object storage looks at the root again."""
PAUSE = 2 * LOOK
"""Seconds between the change of a root and the first deletion below it.

Values that are read within `LOOK` of a look at the old root are then the old ones: no
request for each reading is needed. Twice, as clocks of two machines need not run alike.
"""

_SERVICES = frozenset(
    ("s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "adl", "oss", "obs", "oci")
)

Answer = TypeVar("Answer")


def synchronise(work: Coroutine[Any, Any, Answer]) -> Answer:
    """Wait for an asynchronous operation of a Zarr store; return its result."""
    from zarr.core.sync import sync

    return sync(work)


def list_names(store: Store, folder: str = "") -> list[str]:
    """Return the names in a folder of a store, as they are now."""

    async def names() -> list[str]:
        return [name async for name in store.list_dir(folder)]

    forget_listings(store)
    return synchronise(names())


def documents_of(group: zarr.Group) -> dict[str, bytes]:
    """Return the metadata of all arrays and groups below a group, by path.

    Other objects in the store, such as the lease of its writer, are passed over.
    ``zarr.Group.members`` warns of each, and a filter of warnings belongs to all
    threads.
    """
    found: dict[str, bytes] = {}
    top = group.store_path

    async def look(folder: str) -> None:
        place = top / folder if folder else top
        names = sorted([name async for name in top.store.list_dir(place.path)])
        paths = [f"{folder}/{name}" if folder else name for name in names]
        # Never a file as a folder: "zarr.json/zarr.json" is an error on some stores.
        paths = [path for path in paths if path.rpartition("/")[2] != ROOT]
        read = await asyncio.gather(*((top / path / ROOT).get() for path in paths))
        for path, content in zip(paths, read, strict=True):
            if content is not None:
                found[path] = content.to_bytes()
                if json.loads(found[path]).get("node_type") == "group":
                    await look(path)

    forget_listings(top.store)
    synchronise(look(""))
    return found


def forget_listings(store: Store) -> None:
    """Make fsspec forget its listings: other processes write as well."""
    files = getattr(store, "fs", None)
    if files is not None:
        files.invalidate_cache()
        # Of a file system that is not asynchronous, the one inside has them.
        if (inside := getattr(files, "sync_fs", None)) is not None:
            inside.invalidate_cache()


def is_object_storage(store: Store) -> bool:
    """Return whether a store is of a service of objects, where requests take time.

    There, who replaces a store pauses before it deletes, and who reads looks at the
    root once in a shorter time: see `PAUSE`.
    """
    from zarr.storage import FsspecStore, ObjectStore

    if isinstance(store, ObjectStore):
        return type(store.store).__name__ in ("S3Store", "GCSStore", "AzureStore")
    if not isinstance(store, FsspecStore):
        return False
    protocol = store.fs.protocol
    names = (protocol,) if isinstance(protocol, str) else protocol
    return not _SERVICES.isdisjoint(names)


def delete_all(
    store: Store, attrs: Mapping[str, Any] | None, pause: bool = True
) -> None:
    """Delete all objects of a store, except the lease of its writer.

    Parameters
    ----------
    store : zarr.abc.store.Store
        The store.
    attrs : mapping, optional
        Leave an empty group with these attributes. They are written before anything is
        deleted, so that an interruption is recognised.
    pause : bool
        Wait on object storage until readers that opened it have noticed.
    """
    synchronise(_delete_all(store, attrs, pause and is_object_storage(store)))
    forget_listings(store)


async def _delete_all(
    store: Store, attrs: Mapping[str, Any] | None, pause: bool
) -> None:
    kept = {LEASE}
    if attrs is None:
        await store.delete(ROOT)  # without it the rest is no valid map
    else:
        root = {"zarr_format": 3, "node_type": "group", "attributes": dict(attrs)}
        await store.set(ROOT, as_buffer(json.dumps(root)))
        kept.add(ROOT)
    forget_listings(store)
    keys = [key async for key in store.list_prefix("") if key not in kept]
    if keys and pause:
        await asyncio.sleep(PAUSE)
    for start in range(0, len(keys), 64):
        await asyncio.gather(*map(store.delete, keys[start : start + 64]))


def as_buffer(text: str) -> Buffer:
    """Return a text as a buffer for Zarr's stores."""
    from zarr.core.buffer import default_buffer_prototype

    return default_buffer_prototype().buffer.from_bytes(text.encode())
