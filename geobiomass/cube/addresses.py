"""Where a store is: a folder, an address or a store of Zarr."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast
from urllib.parse import urlsplit
from urllib.request import url2pathname

from geobiomass.cube.claimed_size import check_group
from geobiomass.cube.codecs import quick_codecs
from geobiomass.cube.schema import CubeError
from geobiomass.training.given_paths import path_text
from geobiomass.training.packages import need_for_address

if TYPE_CHECKING:
    import zarr
    from zarr.abc.store import Store


def check_exists(path: str | Path | Store) -> None:
    """Check that a folder exists.

    Raises
    ------
    FileNotFoundError
        If it does not; addresses and stores are not checked.
    """
    if not isinstance(path, str | Path):
        _of_zarr(path)
    if is_local(path) and not os.path.exists(path_text(path, "A cube", CubeError)):
        raise FileNotFoundError(
            f"There is nothing at {path}; give the path of a Zarr cube."
        )


def is_local(path: str | Path | Store) -> bool:
    """Return whether a path is on a disk, not an address or a store."""
    return isinstance(path, Path) or (isinstance(path, str) and "://" not in path)


def store_at(
    path: str | Path | Store, storage_options: Mapping[str, Any] | None = None
) -> Store:
    """Return the store of a path or address, read-only; a store as it is."""
    from zarr.storage import FsspecStore, LocalStore

    need_for_address(path)
    if isinstance(path, str) and path.startswith("file:"):
        path = Path(url2pathname(urlsplit(path).path))
    if is_local(path):
        return LocalStore(cast("str | Path", path), read_only=True)
    if not isinstance(path, str):
        return _of_zarr(path)
    options = dict(storage_options or {})
    return FsspecStore.from_url(path, storage_options=options, read_only=True)


def _of_zarr(path: Any) -> Store:
    """Return a store of Zarr; raise if it is anything else."""
    from zarr.abc.store import Store

    if isinstance(path, Store):
        return path
    raise CubeError(
        "A cube or map on disk must be a path, an address or a store of Zarr, got a "
        f"{type(path).__name__}; one in memory is passed to functions as it is."
    )


def open_group(
    path: str | Path | Store,
    mode: Literal["r", "r+", "w"],
    storage_options: Mapping[str, Any] | None = None,
    consolidated: bool | None = None,
) -> zarr.Group:
    """Open a Zarr group, its arrays with quick codecs."""
    import zarr

    need_for_address(path)
    with quick_codecs():
        group = zarr.open_group(
            str(path) if is_local(path) else cast(Any, path),
            mode=mode,
            storage_options=dict(storage_options) if storage_options else None,
            use_consolidated=consolidated,
            zarr_format=3 if mode == "w" else None,
        )
    if mode == "r":
        check_group(group, str(path))
    return group
