"""One writer at a time: a lock beside a map on a disk, a lease in one elsewhere.

Blocks are the same whoever writes them, so two writers would lose time and no
values; one is refused so that nobody waits for work that is done twice.
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
    in_step,
    lock_path,
)

if TYPE_CHECKING:
    from zarr.abc.store import Store

FRESH = 60.0
"""Seconds after which a lease that nobody renewed is anyone's."""

_RENEW = 15.0  # seconds: three renewals may fail
_SETTLE = 0.3  # seconds in which two that came at once see each other
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
        """Give this process, as a writer of its own."""
        return cls(socket.gethostname(), os.getpid(), time.time())

    @classmethod
    def read(cls, text: str) -> Self | None:
        """Read a writer; None of a text that is none."""
        try:
            return cls(**json.loads(text))
        except (ValueError, TypeError):
            return None

    def text(self) -> str:
        """Give the writer as text, with the time it is now."""
        return json.dumps(asdict(self) | {"time": time.time()})

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"

    @property
    def gone(self) -> bool:
        """Whether its lease ran out, or it is known to be dead."""
        if abs(time.time() - self.time) > FRESH:
            return True
        return self.host == socket.gethostname() and not _runs(self.pid)


def _runs(pid: int) -> bool:
    if os.name == "nt":
        return True  # there, asking would end the process; the lease runs out
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
        f"{name} is being written by {who}; wait until it is done, end it, or choose "
        "another path. To make one map faster give it a cluster: client=."
    )


def only_writer(place: Destination) -> AbstractContextManager[None]:
    """Hold a map's place for this process, or say who does.

    Raises
    ------
    MapInUseError
        If another process, or another call in this one, writes there.
    """
    if place.local is not None:
        return _locked(place.local)
    return _leased(place)


def writer_of(place: Destination) -> str | None:
    """Say who writes a map now, None if nobody does."""
    if place.local is None:
        writer = _read_lease(cast("Store", place.store))
        return None if writer is None or writer.gone else str(writer)
    from filelock import FileLock, Timeout

    path = lock_path(place.local)
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
    except OSError:  # gone by now, or locked for readers too, as on Windows
        return None


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a lock that ends with the process, however that ends."""
    from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout

    file = lock_path(path)
    lock: BaseFileLock = FileLock(file)
    try:
        lock.acquire(timeout=_PATIENCE)
    except Timeout as error:
        raise _refusal(str(path), _read_lock(file)) from error
    try:
        if not isinstance(lock, SoftFileLock):  # that one keeps notes of its own
            file.write_text(Writer.here().text())
        yield
    finally:
        if os.name != "nt":  # there it goes with the lock
            file.unlink(missing_ok=True)
        lock.release()


# --- on object storage --------------------------------------------------------


def _read_lease(store: Store) -> Writer | None:
    from zarr.core.buffer import default_buffer_prototype

    found = in_step(store.get(LEASE, default_buffer_prototype()))
    return None if found is None else Writer.read(found.to_bytes().decode())


def _write_lease(store: Store, writer: Writer) -> None:
    in_step(store.set(LEASE, as_buffer(writer.text())))


@contextmanager
def _leased(place: Destination) -> Iterator[None]:
    """Hold a lease, which others see and which runs out if it is not renewed."""
    store, own = cast("Store", place.store), Writer.here()
    holder = _read_lease(store)
    if holder is not None and not holder.gone:
        raise _refusal(place.name, holder)
    _write_lease(store, own)
    time.sleep(_SETTLE)
    holder = _read_lease(store)
    if holder is not None and holder.token != own.token:
        raise _refusal(place.name, holder)
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
            in_step(store.delete(LEASE))


def _renew(store: Store, own: Writer, done: Event) -> None:
    while not done.wait(_RENEW):
        try:
            _write_lease(store, own)
        except Exception as error:  # the next one may work; blocks are written anyway
            _LOG.warning("The map's lease could not be renewed: %s", error)
