"""Zarr's store of fsspec, which looks at what is there and at no earlier listing.

File systems of fsspec keep the listings that they made, and answer from them whether an
object exists. Zarr takes one that does not exist for a chunk of missing values. So a
chunk that another process has written since would be read as missing, in silence.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import TYPE_CHECKING, Any

from zarr.abc.store import ByteRequest, OffsetByteRequest
from zarr.storage import FsspecStore

from geobiomass.cube.store_objects import forget_listings

if TYPE_CHECKING:
    from zarr.abc.store import Store
    from zarr.core.buffer import Buffer, BufferPrototype


class RemoteStore(FsspecStore):
    """A store of fsspec that other processes may write to."""

    async def get(
        self,
        key: str,
        prototype: BufferPrototype,
        byte_range: ByteRequest | None = None,
    ) -> Buffer | None:
        """Read an object as it is now.

        A whole one as a range from its first byte: that is one request. Otherwise file
        systems look its size up first, by another request or in an earlier listing.
        """
        return await super().get(key, prototype, byte_range or OffsetByteRequest(0))

    async def exists(self, key: str) -> bool:
        """Return whether an object exists now."""
        forget_listings(self)
        return await super().exists(key)

    async def delete(self, key: str) -> None:
        """Delete an object, also one that an earlier listing does not have."""
        forget_listings(self)
        await super().delete(key)

    async def delete_dir(self, prefix: str) -> None:
        """Delete all objects whose names begin with a path."""
        forget_listings(self)
        await super().delete_dir(prefix)

    async def list(self) -> AsyncIterator[str]:
        """Yield the names of all objects."""
        forget_listings(self)
        async for name in super().list():
            yield name

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        """Yield the names of objects that begin with a path."""
        forget_listings(self)
        async for name in super().list_prefix(prefix):
            yield name

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        """Yield the names in a folder."""
        forget_listings(self)
        async for name in super().list_dir(prefix):
            yield name


def remote_store(
    address: str, options: Mapping[str, Any] | None, read_only: bool
) -> Store:
    """Return the store of an address."""
    made = FsspecStore.from_url(
        address, storage_options=dict(options or {}), read_only=read_only
    )
    return without_listings(made)


def without_listings(store: Store) -> Store:
    """Return a store of fsspec as one that trusts no listing; others as they are.

    A store of HTTP too: it has no listings, and zarrs knows it by its class.
    """
    if type(store) is not FsspecStore or type(store.fs).__name__ == "HTTPFileSystem":
        return store
    return RemoteStore(store.fs, store.read_only, store.path, store.allowed_exceptions)
