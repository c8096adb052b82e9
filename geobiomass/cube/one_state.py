"""Reading one state of a store that another process may be writing.

Writers make it possible. An overwritten folder is exchanged in one step; on object
storage its root's metadata say so before anything is deleted. An append changes nothing
that belongs to the old chips, and shows the new ones by one write of the root. So what
is read while the folder and its root stay the same is of one state; else it is read
again. What is read lazily, later, is compared with the root each time; on object
storage, where that is a request, once a second: nothing is deleted there for two
seconds after the root has changed.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import stat
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeAlias, TypeVar

from geobiomass.cube.address_errors import told_of_address
from geobiomass.cube.addresses import is_local, path_of_url, store_at
from geobiomass.cube.errors import ChangedError, CubeError, DamagedError
from geobiomass.cube.file_checks import Files
from geobiomass.cube.lease import read_lease
from geobiomass.cube.store_objects import LOOK, is_object_storage
from geobiomass.cube.store_seal import ROOT, UNFINISHED, ArraySeal, read_seal
from geobiomass.training.given_paths import path_text
from geobiomass.training.one_writer import writer_at

if TYPE_CHECKING:
    import zarr
    from zarr.abc.store import Store

Place: TypeAlias = "str | Path | Store"

# Also those of Zarr v2.
_ROOTS = (ROOT, ".zgroup", ".zmetadata")

# Seconds before each further attempt. A writer changes the root a few times only.
_PAUSES = (0.0, 0.01, 0.05, 0.2, 0.5, 1.0)

State = tuple[Any, ...]
Answer = TypeVar("Answer")


def consistently(
    places: Sequence[Place],
    read: Callable[[], Answer],
    options: Mapping[str, Any] | None = None,
) -> Answer:
    """Return what a function reads of one state of a store.

    Parameters
    ----------
    places : sequence of str, Path or zarr.abc.store.Store
        The store as the user named it, and others whose change matters as well.
    read : callable
        Opens the store and reads all that has to be of one state.
    options : mapping, optional
        Options of fsspec for an address.

    Raises
    ------
    ChangedError
        If another process writes there and no state could be read.
    FileNotFoundError, PermissionError, UnreachableError
        If it is at an address, and its server does not give it.
    """
    for place in places:
        if isinstance(place, str | Path):
            path_text(place, "A cube or map", CubeError)
    with told_of_address(places[0], _root_of(places[0])):
        return _consistently(places, read, options)


def _root_of(place: Place) -> str:
    return "" if _is_raster(place) else f"/{ROOT}"


def _consistently(
    places: Sequence[Place],
    read: Callable[[], Answer],
    options: Mapping[str, Any] | None,
) -> Answer:
    error: Exception | None = None
    for pause in (*_PAUSES, None):
        before = [state_at(place, options) for place in places]
        try:
            found = read()
            error = None
        except Exception as problem:
            error = problem
        if before == [state_at(place, options) for place in places]:
            if error is None:
                return found
            break
        if pause is not None:
            time.sleep(pause)
    where = str(places[0])
    if isinstance(error, ChangedError | FileNotFoundError):
        raise error
    writer = None if _is_written_here(places[0]) else writer_of(places[0], options)
    if writer is None and error is not None:
        raise error
    if isinstance(error, DamagedError):
        raise ChangedError(
            f"{where} is being written by {writer}, and cannot be read ({error}). Open "
            "it again when that has ended."
        ) from error
    who = writer or "another process"
    raise ChangedError(
        f"{where} is being written by {who}; open it again when that has ended."
    ) from error


def folder_of(place: Place) -> Path | None:
    """Return the folder or file of a store on a disk; None of an address."""
    if isinstance(place, str) and place.startswith("file:"):
        return Path(path_of_url(place))
    if isinstance(place, str | Path):
        return Path(place) if is_local(place) else None
    from zarr.storage import LocalStore  # a path does without, as of a GeoTIFF

    return Path(place.root) if isinstance(place, LocalStore) else None


def writer_of(place: Place, options: Mapping[str, Any] | None = None) -> str | None:
    """Return the process that writes to a store now, None if there is none."""
    if (folder := folder_of(place)) is not None:
        return writer_at(folder)
    writer = read_lease(store_at(place, options))
    return None if writer is None or writer.gone else str(writer)


_HERE = threading.local()


@contextmanager
def written_here(place: Place) -> Iterator[None]:
    """Mark a store as written by this thread, which reads it as it is."""
    before: frozenset[Any] = getattr(_HERE, "places", frozenset())
    _HERE.places = before | {_key_of(place)}
    try:
        yield
    finally:
        _HERE.places = before


def _is_written_here(place: Place) -> bool:
    return _key_of(place) in getattr(_HERE, "places", frozenset())


def _key_of(place: Place) -> Any:
    folder = folder_of(place)
    return str(place) if folder is None else folder.resolve()


# --- what is read later ---------------------------------------------------------


class Origin:
    """What a lazy variable was opened from; it notices when that was replaced.

    Parameters
    ----------
    store : zarr.abc.store.Store
        The store; its group is the root.
    where : str
        The store as the user named it, for messages.
    array : str
        The array's path in the store.
    metadata : mapping
        The array's metadata.
    sealed : ArraySeal, optional
        Checksums of its files.
    """

    def __init__(
        self,
        store: Store,
        where: str,
        array: str,
        metadata: Mapping[str, Any],
        sealed: ArraySeal | None = None,
    ) -> None:
        self.store = store
        self.where = where
        self.array = array
        self.described = _described(metadata)
        self.sealed = sealed
        self._seldom = is_object_storage(store)
        self._looked = time.monotonic()
        self.state: State | None = state_at(store)

    @classmethod
    def of(
        cls, array: zarr.Array[Any], where: str, sealed: ArraySeal | None = None
    ) -> Self:
        """Return the origin of an open array."""
        metadata = array.metadata.to_dict()
        return cls(array.store, where, array.path, metadata, sealed)

    def __getstate__(self) -> dict[str, Any]:
        """Leave out numbers of files, and times, which another machine lacks."""
        state = self.state if self._seldom else None
        return vars(self) | {"state": state, "_looked": -math.inf}

    def check(self, *, now: bool = False) -> None:
        """Check that a variable is still what it was, or has grown.

        Call it after reading: what was read before the change is right.

        Parameters
        ----------
        now : bool
            Look at the root in any case, also on object storage.

        Raises
        ------
        ChangedError
            If the store was, or is being, written again.
        """
        start = time.monotonic()
        if self._seldom and not now and start < self._looked + LOOK:
            return
        found = state_at(self.store)
        if found != self.state and (how := self._change(found)) is not None:
            raise ChangedError(f"{self.where} {how}")
        self.state, self._looked = found, start

    def _change(self, now: State) -> str | None:
        """Return how the store was replaced; None if it was not, or has grown."""
        again = "since it was opened; open it again"
        files = Files(self.store)
        root, own = files.read([ROOT, f"{self.array}/{ROOT}"]).values()
        attributes = _json(root).get("attributes") or {}
        if UNFINISHED in attributes or (root is None and writer_of(self.store)):
            writer = writer_of(self.store) or "another process"
            return f"is being written again by {writer} {again} when that has ended."
        if root is None:
            return None  # gone: what reads says so
        replaced = f"was written again {again}."
        if not _is_part(self.described, _described(_json(own))):
            return replaced
        try:
            seal = read_seal(self.store, self.where)
        except DamagedError:
            return None
        if self.sealed is not None and seal is not None:
            return None if self._has_same_files(seal.files) else replaced
        # Without checksums, or while chips are appended: the folder tells.
        moved = self.state is not None and now[:1] != self.state[:1]
        return replaced if moved else None

    def _has_same_files(self, files: Mapping[str, Any]) -> bool:
        assert self.sealed is not None
        known = self.sealed.files.items()
        return all(files.get(f"{self.array}/{key}") == sums for key, sums in known)


def _described(metadata: Mapping[str, Any]) -> tuple[list[int], str]:
    """Return the shape and the type of an array, as its metadata have them."""
    kind = metadata.get("data_type")
    return list(metadata.get("shape") or ()), kind if isinstance(kind, str) else ""


def _is_part(one: tuple[list[int], str], whole: tuple[list[int], str]) -> bool:
    """Return whether an array is another one with fewer chips, or the same."""
    (shape, kind), (other, other_kind) = one, whole
    if not shape or not other:  # gone, or of Zarr v2: what reads says so
        return True
    return kind == other_kind and shape[1:] == other[1:] and shape[0] <= other[0]


def _json(content: bytes | None) -> dict[str, Any]:
    try:
        found = json.loads(content or b"{}")
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


# --- states ---------------------------------------------------------------------


def state_at(place: Place, options: Mapping[str, Any] | None = None) -> State:
    """Return what changes when a store does: which folder, and which root."""
    folder = folder_of(place)
    if folder is None:
        if _is_raster(place):
            return ()
        root = Files(store_at(place, options)).read([ROOT])[ROOT]
        return (None, None if root is None else hashlib.sha256(root).digest())
    name = str(folder)  # joining paths takes longer than the system needs
    found = _of_file(name)
    if found is None or len(found) > 1:
        return (found,)
    return (found, *(_of_file(f"{name}{os.sep}{root}") for root in _ROOTS))


def _is_raster(place: Place) -> bool:
    return isinstance(place, str) and place.lower().endswith((".tif", ".tiff"))


def _of_file(name: str) -> tuple[int, ...] | None:
    try:
        found = os.stat(name)
    except (OSError, ValueError):  # opening says why: no file can have this name
        return None
    if stat.S_ISDIR(found.st_mode):
        return (found.st_ino,)  # other files come and go
    return (found.st_ino, found.st_size, found.st_mtime_ns)
