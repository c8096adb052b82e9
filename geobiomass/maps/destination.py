"""Destinations of a map: a folder, an address or a store; Zarr or GeoTIFF."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Literal, Self, cast

from geobiomass.cube.addresses import is_local, open_group, path_of_url
from geobiomass.cube.made_here import check_removable, is_made_here, sweep
from geobiomass.cube.removal import making_path, removal_path, remove
from geobiomass.cube.store_objects import (
    LEASE,
    delete_all,
    forget_listings,
    synchronise,
)
from geobiomass.maps.geotiff import FINGERPRINT, geotiff_tags
from geobiomass.training.given_paths import path_text
from geobiomass.training.json_files import read_json
from geobiomass.training.one_writer import lock_path
from geobiomass.training.packages import need_for_address

if TYPE_CHECKING:
    import zarr
    from zarr.abc.store import Store

_RASTERS = (".tif", ".tiff")


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
        if not isinstance(path, str | Path):
            return cls._of_store(path)
        if isinstance(path, str) and path.startswith("file:"):
            path = path_of_url(path)
        path_text(path, "A map")
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

    @classmethod
    def _of_store(cls, store: Any) -> Self:
        from zarr.abc.store import Store
        from zarr.storage import LocalStore

        from geobiomass.cube.remote_store import without_listings

        if isinstance(store, LocalStore):
            return cls(str(store.root), Path(store.root))
        if not isinstance(store, Store):
            raise TypeError(
                "A map's path must be a path, an address or a store of Zarr, got a "
                f"{type(store).__name__}."
            )
        return cls(str(store), without_listings(store))

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
            # `info` asks each time: reading the file takes less than opening a group.
            if isinstance(self.store, Path) and (self.store / "zarr.json").is_file():
                described = read_json(self.store / "zarr.json", dict)
                return dict(described.get("attributes", {}))
            return dict(self.group("r").attrs)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return {}  # damaged metadata of any type: what opens it says so

    def _exists(self) -> bool:
        if isinstance(self.store, Path):
            return self.store.exists()
        store = self.store

        async def other() -> bool:
            async for key in store.list_prefix(""):
                if key != LEASE:
                    return True
            return False

        forget_listings(store)
        try:
            return synchronise(other())
        except FileNotFoundError:  # not even the bucket is there
            return False

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
            # No reader opens what a GeoTIFF is made from.
            delete_all(self.store, attrs, pause=self.raster is None)

    @property
    def work(self) -> Path:
        """The folder next to the group, in which files are made before a renaming."""
        return making_path(cast(Path, self.store))

    def check_removable(self) -> None:
        """Check that what is there may be deleted.

        Raises
        ------
        FileExistsError
            If the package did not make it.
        """
        if isinstance(self.store, Path):
            check_removable(self.store)
        elif (attrs := self.attrs()) is not None and not is_made_here(attrs):
            raise FileExistsError(
                f"{self.name} holds something that geobiomass did not make, so it is "
                "not deleted; choose another address, or delete it yourself."
            )
        if isinstance(self.raster, Path) and self.raster.is_dir():
            raise FileExistsError(
                f"{self.raster} is a folder, which no map of that name is; choose "
                "another path, or move or delete it yourself."
            )
        if self.raster_there() == "":
            raise FileExistsError(
                f"{self.raster} is a file that geobiomass did not make, so it is not "
                "deleted (overwrite=True deletes maps); choose another path, or move "
                "or delete it yourself."
            )

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
                sweep(path, self.raster.name if isinstance(self.raster, Path) else "")
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
        with self.open_raster() as file:
            return geotiff_tags(file)

    @contextmanager
    def open_raster(self) -> Iterator[Any]:
        """Yield the GeoTIFF, which is there, in a form that rasterio opens."""
        if not isinstance(self.raster, str):
            yield self.raster
            return
        files, key = self._files()
        with files.open(key, "rb") as file:
            yield file

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

        files, key = url_to_fs(self.raster, **(self.options or {}))
        files.invalidate_cache()  # other processes write as well
        return files, key


def _remote(address: str, options: Mapping[str, Any] | None) -> Store:
    from geobiomass.cube.remote_store import remote_store

    need_for_address(address)
    return remote_store(address, options, read_only=False)
