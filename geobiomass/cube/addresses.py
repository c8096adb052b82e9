"""Where a store is: a folder, an address or a store of Zarr."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast
from urllib.parse import urlsplit

from geobiomass.cube.claimed_size import check_group
from geobiomass.cube.codecs import quick_codecs
from geobiomass.cube.errors import CubeError
from geobiomass.cube.store_objects import list_names
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
    from zarr.storage import LocalStore

    need_for_address(path)
    if isinstance(path, str) and path.startswith("file:"):
        path = Path(path_of_url(path))
    if is_local(path):
        return LocalStore(cast("str | Path", path), read_only=True)
    from geobiomass.cube.remote_store import remote_store, without_listings

    if not isinstance(path, str):
        return without_listings(_of_zarr(path))
    return remote_store(path, storage_options, read_only=True)


def path_of_url(url: str) -> str:
    """Return the path of an address that begins with ``file:``."""
    # Not at the top: it imports all of HTTP, and such addresses are rare.
    from urllib.request import url2pathname

    return url2pathname(urlsplit(url).path)


def missing(
    path: str | Path | Store, options: Mapping[str, Any] | None, expected: str
) -> FileNotFoundError | None:
    """Return the error that says that nothing is at an address; None if anything is.

    Parameters
    ----------
    path : str, Path or zarr.abc.store.Store
        The address. Of a folder :func:`check_exists` has said so before.
    options : mapping, optional
        Options of fsspec.
    expected : str
        What should be there.
    """
    if is_local(path):
        return None
    try:
        there = any(name != "written" for name in list_names(store_at(path, options)))
    except FileNotFoundError:  # not even the bucket
        there = False
    if there:
        return None
    return FileNotFoundError(
        f"There is nothing at {path}; give the address of {expected}."
    )


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
            cast(Any, _to_open(path, mode, storage_options)),
            mode=mode,
            use_consolidated=consolidated,
            zarr_format=3 if mode == "w" else None,
        )
    if mode == "r":
        check_group(group, str(path))
    return group


def _to_open(
    path: str | Path | Store, mode: str, options: Mapping[str, Any] | None
) -> Store | str:
    from geobiomass.cube.remote_store import remote_store, without_listings

    if is_local(path):
        return str(path)
    if not isinstance(path, str):
        return without_listings(cast("Store", path))
    if path.startswith("file:"):
        return path_of_url(path)
    return remote_store(path, options, read_only=mode == "r")
