"""Where a map is written: a folder, an address or a store; Zarr or GeoTIFF."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar, cast
from urllib.parse import urlsplit
from urllib.request import url2pathname

from geobiomass.cube.store import is_local, open_group
from geobiomass.maps.geotiff import geotiff_fingerprint

if TYPE_CHECKING:
    import zarr
    from zarr.abc.store import Store

_RASTERS = (".tif", ".tiff")
LEASE = "written/writer.json"
"""Object that says who writes a map on object storage."""

Answer = TypeVar("Answer")


def in_step(work: Coroutine[Any, Any, Answer]) -> Answer:
    """Wait for what a store of Zarr does."""
    from zarr.core.sync import sync

    return sync(work)


def listed(store: Store, folder: str) -> list[str]:
    """Give the names in a folder of a store, as they are now."""

    async def names() -> list[str]:
        return [name async for name in store.list_dir(folder)]

    _look_again(store)
    return in_step(names())


def _look_again(store: Store) -> None:
    """Forget what fsspec remembers of a listing: other processes write as well."""
    files = getattr(store, "fs", None)
    if files is not None:
        files.invalidate_cache()


@dataclass(frozen=True)
class Destination:
    """Where a map is written.

    Parameters
    ----------
    name : str
        How the user named it.
    store : Path or zarr.abc.store.Store
        Where the Zarr group goes: the map, or what a GeoTIFF is made from.
    raster : Path or str, optional
        Where the GeoTIFF goes: a file, or an address.
    options : mapping, optional
        What fsspec needs for an address.
    """

    name: str
    store: Path | Store
    raster: Path | str | None = None
    options: Mapping[str, Any] | None = None

    @classmethod
    def of(
        cls, path: str | Path | Store, options: Mapping[str, Any] | None = None
    ) -> Self:
        """Tell where a map goes by what a user gives.

        Raises
        ------
        ValueError
            If the ending is none of a map's.
        """
        from zarr.storage import LocalStore

        if isinstance(path, LocalStore):
            return cls(str(path.root), Path(path.root))
        if not isinstance(path, str | Path):
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
        """The file or folder on this machine's disk, if it is one."""
        return Path(self.name) if isinstance(self.store, Path) else None

    def group(self, mode: Literal["r", "r+", "w"]) -> zarr.Group:
        """Open the Zarr group."""
        return open_group(self.store, mode)

    def attrs(self) -> dict[str, Any] | None:
        """Give the group's attributes; none of something else, None of nothing."""
        if not self._anything():
            return None
        try:
            return dict(self.group("r").attrs)
        except (OSError, ValueError, KeyError):
            return {}

    def _anything(self) -> bool:
        if isinstance(self.store, Path):
            return self.store.exists()
        store = self.store

        async def other() -> bool:
            async for key in store.list_prefix(""):
                if key != LEASE:
                    return True
            return False

        _look_again(store)
        return in_step(other())

    def clear(self) -> None:
        """Delete the group, so that it is never seen in part."""
        if isinstance(self.store, Path):
            remove(self.store)
            return
        store = self.store
        in_step(store.delete("zarr.json"))  # without it the rest is no map

        async def rest() -> None:
            keys = [key async for key in store.list_prefix("") if key != LEASE]
            for start in range(0, len(keys), 64):
                await asyncio.gather(*map(store.delete, keys[start : start + 64]))

        _look_again(store)
        in_step(rest())
        _look_again(store)

    def sweep(self) -> None:
        """Delete what a kill left between a file's writing and its name."""
        if isinstance(self.store, Path):
            for file in self.store.rglob("*.partial"):
                file.unlink()

    # --- the GeoTIFF ---

    def raster_there(self) -> str | None:
        """Give the fingerprint of the GeoTIFF; "" of another file, None of none."""
        if self.raster is None:
            return None
        if isinstance(self.raster, Path):
            exists = self.raster.exists()
            return (geotiff_fingerprint(self.raster) or "") if exists else None
        files, key = self._files()
        files.invalidate_cache()
        if not files.exists(key):
            return None
        with files.open(key, "rb") as file:
            return geotiff_fingerprint(file) or ""

    def remove_raster(self) -> None:
        """Delete the GeoTIFF."""
        if isinstance(self.raster, Path):
            remove(self.raster)
        elif self.raster is not None:
            files, key = self._files()
            if files.exists(key):
                files.rm(key)

    def upload(self, file: Path) -> None:
        """Put a GeoTIFF where it belongs."""
        files, key = self._files()
        files.put_file(str(file), key)

    def _files(self) -> tuple[Any, str]:
        from fsspec.core import url_to_fs

        return cast("tuple[Any, str]", url_to_fs(self.raster, **(self.options or {})))


def _remote(address: str, options: Mapping[str, Any] | None) -> Store:
    from zarr.storage import FsspecStore

    return FsspecStore.from_url(address, storage_options=dict(options or {}))


def remove(path: Path) -> None:
    """Delete a file or a folder; a folder out of the way first, in one step.

    Killed meanwhile, half a folder never passes for a whole one.
    """
    going = path.with_name(path.name + ".removing")
    shutil.rmtree(going, ignore_errors=True)
    if path.is_dir():
        path.rename(going)
        shutil.rmtree(going)
    else:
        path.unlink(missing_ok=True)
