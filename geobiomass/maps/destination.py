"""Destinations of a map: a folder, an address or a store; Zarr or GeoTIFF."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar, cast
from urllib.parse import urlsplit
from urllib.request import url2pathname

from geobiomass.cube.store import is_local, open_group
from geobiomass.maps.geotiff import FINGERPRINT, geotiff_tags
from geobiomass.training.packages import need_for_address

if TYPE_CHECKING:
    import zarr
    from zarr.abc.store import Store
    from zarr.core.buffer import Buffer

_RASTERS = (".tif", ".tiff")
ROOT = "zarr.json"
LEASE = "written/writer.json"
"""Object that names the process that writes a map on object storage."""

Answer = TypeVar("Answer")


def synchronise(work: Coroutine[Any, Any, Answer]) -> Answer:
    """Wait for an asynchronous operation of a Zarr store; return its result."""
    from zarr.core.sync import sync

    return sync(work)


def list_names(store: Store, folder: str) -> list[str]:
    """Return the names in a folder of a store, as they are now."""

    async def names() -> list[str]:
        return [name async for name in store.list_dir(folder)]

    _forget_listings(store)
    return synchronise(names())


def _forget_listings(store: Store) -> None:
    """Make fsspec forget its listings: other processes write as well."""
    files = getattr(store, "fs", None)
    if files is not None:
        files.invalidate_cache()


@dataclass(frozen=True)
class Destination:
    """The folder, file or store that a map is written to.

    Parameters
    ----------
    name : str
        The user's path, address or store, as text.
    store : Path or zarr.abc.store.Store
        Store of the Zarr group: the map, or the group that a GeoTIFF is made from.
    raster : Path or str, optional
        Destination of the GeoTIFF: a file, or an address.
    options : mapping, optional
        fsspec's options for an address: credentials, an endpoint.
    """

    name: str
    store: Path | Store
    raster: Path | str | None = None
    options: Mapping[str, Any] | None = None

    @classmethod
    def of(
        cls, path: str | Path | Store, options: Mapping[str, Any] | None = None
    ) -> Self:
        """Return the destination for a path, an address or a store.

        Raises
        ------
        ValueError
            If a path does not end in .zarr, .tif or .tiff.
        """
        from zarr.abc.store import Store
        from zarr.storage import LocalStore

        if isinstance(path, LocalStore):
            return cls(str(path.root), Path(path.root))
        if not isinstance(path, str | Path):
            if not isinstance(path, Store):
                raise TypeError(
                    "A map's path must be a path, an address or a store of Zarr, got a "
                    f"{type(path).__name__}."
                )
            return cls(str(path), path)
        if isinstance(path, str) and path.startswith("file:"):
            path = url2pathname(urlsplit(path).path)
        ending = PurePosixPath(str(path).rstrip("/")).suffix
        if ending not in (".zarr", *_RASTERS):
            raise ValueError(
                f"A map's path must end in .zarr, .tif or .tiff, got {str(path)!r}."
            )
        if is_local(path):
            path = Path(path)
            beside = path.with_name(path.name + ".unfinished.zarr")
            return cls(str(path), *((beside, path) if ending in _RASTERS else (path,)))
        path = str(path).rstrip("/")
        if ending == ".zarr":
            return cls(path, _remote(path, options), None, options)
        return cls(path, _remote(path + ".unfinished.zarr", options), path, options)

    @property
    def local(self) -> Path | None:
        """The file or folder, where the destination is on a disk."""
        return Path(self.name) if isinstance(self.store, Path) else None

    def group(self, mode: Literal["r", "r+", "w"]) -> zarr.Group:
        """Open the Zarr group."""
        return open_group(self.store, mode)

    def attrs(self) -> dict[str, Any] | None:
        """Return the group's attributes; {} of something else, None of nothing."""
        if not self._exists():
            return None
        try:
            return dict(self.group("r").attrs)
        except (OSError, ValueError, KeyError):
            return {}

    def _exists(self) -> bool:
        if isinstance(self.store, Path):
            return self.store.exists()
        store = self.store

        async def other() -> bool:
            async for key in store.list_prefix(""):
                if key != LEASE:
                    return True
            return False

        _forget_listings(store)
        return synchronise(other())

    def clear(self, attrs: Mapping[str, Any] | None = None) -> None:
        """Delete the group; if that is interrupted, the rest is no valid map.

        Parameters
        ----------
        attrs : mapping, optional
            Leave an empty group with these attributes. In a store they are written
            before anything is deleted, so that an interruption is recognised.
        """
        if isinstance(self.store, Path):
            remove(self.store)
        else:
            synchronise(_delete_all(self.store, attrs))
            _forget_listings(self.store)

    @property
    def work(self) -> Path:
        """The folder next to the group, in which files are made before a renaming."""
        return cast(Path, self.store).with_name(f"{cast(Path, self.store).name}.making")

    def leftovers(self) -> list[Path]:
        """Return the files and folders that a killed call left next to the map."""
        if not isinstance(self.store, Path) or self.local is None:
            return []
        found = [self.work, removal_path(self.store), lock_path(self.local)]
        found += [removal_path(self.local)] if self.raster is not None else []
        return [path for path in found if path.exists()]

    def tidy(self) -> None:
        """Delete leftovers of killed calls next to the group, and partial files."""
        if not isinstance(self.store, Path) or self.local is None:
            return
        for path in self.leftovers():
            if path != lock_path(self.local):  # this call holds it
                shutil.rmtree(path)
        for file in self.store.rglob("*.partial"):
            file.unlink()

    # --- the GeoTIFF ---

    def raster_there(self) -> str | None:
        """Return the GeoTIFF's fingerprint; "" of another file, None of no file."""
        tags = self.raster_tags()
        return None if tags is None else tags.get(FINGERPRINT, "")

    def raster_tags(self) -> dict[str, str] | None:
        """Return the GeoTIFF's tags; {} of another file, None of no file."""
        if isinstance(self.raster, Path):
            return geotiff_tags(self.raster) if self.raster.exists() else None
        if self.raster is None:
            return None
        files, key = self._files()
        files.invalidate_cache()
        if not files.exists(key):
            return None
        with files.open(key, "rb") as file:
            return geotiff_tags(file)

    def remove_raster(self) -> None:
        """Delete the GeoTIFF."""
        if isinstance(self.raster, Path):
            remove(self.raster)
        elif self.raster is not None:
            files, key = self._files()
            if files.exists(key):
                files.rm(key)

    def upload(self, file: Path) -> None:
        """Upload a GeoTIFF to its address."""
        files, key = self._files()
        files.put_file(str(file), key)

    def _files(self) -> tuple[Any, str]:
        from fsspec.core import url_to_fs

        return cast("tuple[Any, str]", url_to_fs(self.raster, **(self.options or {})))


def _remote(address: str, options: Mapping[str, Any] | None) -> Store:
    from zarr.storage import FsspecStore

    need_for_address(address)
    return FsspecStore.from_url(address, storage_options=dict(options or {}))


def remove(path: Path) -> None:
    """Delete a file or a folder; a folder is renamed first, in one step.

    If the process is killed, half a folder never has the name of a whole one.
    """
    if path.is_dir():
        path.rename(removal_path(path))
        shutil.rmtree(removal_path(path))
    else:
        path.unlink(missing_ok=True)


def removal_path(path: Path) -> Path:
    """Return the path of a folder while it is deleted."""
    return path.with_name(path.name + ".removing")


def lock_path(path: Path) -> Path:
    """Return the path of the file that the writer of a map locks."""
    return path.with_name(path.name + ".lock")


async def _delete_all(store: Store, attrs: Mapping[str, Any] | None) -> None:
    kept = {LEASE}
    if attrs is None:
        await store.delete(ROOT)  # without it the rest is no valid map
    else:
        root = {"zarr_format": 3, "node_type": "group", "attributes": dict(attrs)}
        await store.set(ROOT, as_buffer(json.dumps(root)))
        kept.add(ROOT)
    _forget_listings(store)
    keys = [key async for key in store.list_prefix("") if key not in kept]
    for start in range(0, len(keys), 64):
        await asyncio.gather(*map(store.delete, keys[start : start + 64]))


def as_buffer(text: str) -> Buffer:
    """Return a text as a buffer for Zarr's stores."""
    from zarr.core.buffer import default_buffer_prototype

    return default_buffer_prototype().buffer.from_bytes(text.encode())
