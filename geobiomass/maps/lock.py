"""One writer at a time: a file lock for a map on a disk, a lease on object storage.

Every writer computes the same blocks, so two writers lose time and no values. The
second one is refused, so that no one waits for work that is done twice.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import time
import uuid
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from threading import Event, Thread
from typing import TYPE_CHECKING, Self, cast

from geobiomass.maps.destination import (
    LEASE,
    Destination,
    as_buffer,
    lock_path,
    synchronise,
)
from geobiomass.training.json_files import parse_json

if TYPE_CHECKING:
    from zarr.abc.store import Store

FRESH = 60.0
"""Seconds after which a lease that was not renewed does not count any more."""

_RENEW = 15.0  # seconds: three renewals may fail before FRESH is over
_WAIT = 0.3  # seconds after which two processes that write a lease see the same one
_PATIENCE = 0.3  # seconds: `geobiomass info` holds the lock for an instant

_LOG = logging.getLogger(__name__)


class MapInUseError(OSError):
    """Another process is writing the map; the message says which."""


@dataclass(frozen=True)
class Writer:
    """A process that writes a map."""

    host: str
    pid: int
    time: float
    token: str = field(default_factory=lambda: uuid.uuid4().hex)

    @classmethod
    def here(cls) -> Self:
        """Return this process as a writer; each call has its own token."""
        return cls(socket.gethostname(), os.getpid(), time.time())

    @classmethod
    def read(cls, text: str) -> Self | None:
        """Read a writer from JSON; return None if the text is something else."""
        try:
            return cls(**parse_json(text, "a lock", dict))
        except (ValueError, TypeError):
            return None

    def text(self) -> str:
        """Return the writer as JSON, with the present time."""
        return json.dumps(asdict(self) | {"time": time.time()})

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"

    @property
    def gone(self) -> bool:
        """Whether its lease ran out, or its process is known to have ended."""
        if abs(time.time() - self.time) > FRESH:
            return True
        return self.host == socket.gethostname() and not _runs(self.pid)


def _runs(pid: int) -> bool:
    if os.name == "nt":
        return True  # on Windows os.kill would end the process; the lease runs out
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _refusal(name: str, writer: Writer | None) -> MapInUseError:
    who = "another process" if writer is None else str(writer)
    return MapInUseError(
        f"{name} is being written by {who}; wait until that is done, end it, or choose "
        "another path. A cluster makes one map faster: client=."
    )


def only_writer(destination: Destination) -> AbstractContextManager[None]:
    """Reserve a map's destination for this process.

    Raises
    ------
    MapInUseError
        If another process, or another call in this one, writes there.
    """
    if destination.local is not None:
        return _locked(destination.local)
    return _leased(destination)


def writer_of(destination: Destination) -> str | None:
    """Return the process that writes a map now, None if there is none."""
    if destination.local is None:
        writer = _read_lease(cast("Store", destination.store))
        return None if writer is None or writer.gone else str(writer)
    from filelock import FileLock, Timeout

    path = lock_path(destination.local)
    if not path.exists():
        return None
    try:
        with FileLock(path, timeout=0):
            return None
    except (Timeout, PermissionError):
        return str(_read_lock(path) or "another process")


# --- on a disk ----------------------------------------------------------------


def _read_lock(path: Path) -> Writer | None:
    try:
        return Writer.read(path.read_text())
    except OSError:  # released meanwhile, or, on Windows, locked for readers too
        return None


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a lock, which the operating system releases if the process is killed."""
    from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout

    file = lock_path(path)
    lock: BaseFileLock = FileLock(file)
    try:
        lock.acquire(timeout=_PATIENCE)
    except Timeout as error:
        raise _refusal(str(path), _read_lock(file)) from error
    try:
        if not isinstance(lock, SoftFileLock):  # it writes its own text
            file.write_text(Writer.here().text())
        yield
    finally:
        if os.name != "nt":  # on Windows the release deletes the file
            file.unlink(missing_ok=True)
        lock.release()


# --- on object storage --------------------------------------------------------


_UNREADABLE = Writer("an unknown host", 0, 0.0, "")  # a lease that ran out long ago


def _read_lease(store: Store) -> Writer | None:
    from zarr.core.buffer import default_buffer_prototype

    found = synchronise(store.get(LEASE, default_buffer_prototype()))
    if found is None:
        return None
    return Writer.read(found.to_bytes().decode()) or _UNREADABLE


def _create_lease(store: Store, writer: Writer) -> None:
    """Write a lease if there is none.

    Zarr's stores of obstore and of memory do both in one step. Its store of fsspec
    looks first and writes then.
    """
    synchronise(store.set_if_not_exists(LEASE, as_buffer(writer.text())))


def _write_lease(store: Store, writer: Writer) -> None:
    synchronise(store.set(LEASE, as_buffer(writer.text())))


@contextmanager
def _leased(destination: Destination) -> Iterator[None]:
    """Hold a lease, which other processes see and which ends if it is not renewed."""
    store, own = cast("Store", destination.store), Writer.here()
    holder = _read_lease(store)
    if holder is not None and not holder.gone:
        raise _refusal(destination.name, holder)
    if holder is None:
        _create_lease(store, own)
    else:
        _write_lease(store, own)
    # Two processes may have written, where that is not one step: the last one stays.
    time.sleep(_WAIT)
    holder = _read_lease(store)
    if holder is None or holder.token != own.token:
        raise _refusal(destination.name, holder)
    done = Event()
    keeper = Thread(target=_renew, args=(store, own, done), daemon=True)
    keeper.start()
    try:
        yield
    finally:
        done.set()
        keeper.join()
        holder = _read_lease(store)
        if holder is not None and holder.token == own.token:
            synchronise(store.delete(LEASE))


def _renew(store: Store, own: Writer, done: Event) -> None:
    while not done.wait(_RENEW):
        try:
            _write_lease(store, own)
        except Exception as error:  # the next one may work; blocks need no lease
            _LOG.warning("The map's lease could not be renewed: %s", error)
