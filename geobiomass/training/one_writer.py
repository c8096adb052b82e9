"""One writer at a time at a path: a file lock that ends with its process.

The lock is a file next to the path, ``map.zarr.lock``. The operating system releases it
however the process ends. The file names the process that holds it.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Self

from .disk_errors import DiskError
from .json_files import parse_json

FRESH = 60.0
"""Seconds after which a lease that was not renewed does not count any more."""

# What no waiting changes: a file system that is not written, or has no such files.
_NEVER = (errno.ENOENT, errno.EROFS, errno.EPERM, errno.ENAMETOOLONG, errno.EISDIR)
_BEGIN = len('{"host": "')
_PATIENCE = 0.3  # seconds: `geobiomass info` holds the lock for an instant


class InUseError(OSError):
    """Another process is writing there; the message says which."""


@dataclass(frozen=True)
class Writer:
    """A process that writes to a path or a store."""

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


def lock_path(path: Path) -> Path:
    """Return the path of the file that the writer of a path locks.

    A link and what it points to have the same lock.
    """
    path = path.resolve()
    return path.with_name(path.name + ".lock")


@contextmanager
def one_writer(
    path: Path,
    error: type[InUseError] = InUseError,
    remedy: str = "",
    wait: float = _PATIENCE,
) -> Iterator[None]:
    """Hold the lock of a path, which the system releases if the process is killed.

    Parameters
    ----------
    path : Path
        A file or folder, which need not exist; its parent must.
    error : type of InUseError
        The class of the refusal.
    remedy : str
        A further sentence for its message.
    wait : float
        Seconds to wait for another writer.

    Raises
    ------
    InUseError
        If another process, or another call in this one, writes there.
    DiskError
        If no file can be made next to the path.
    """
    from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout

    file = lock_path(path)
    _check_own_lock(file)
    lock: BaseFileLock = FileLock(file)
    if not isinstance(lock, SoftFileLock):  # for which the file itself is the lock
        _check_can_be(file, path)
    for last in (False, True):
        try:
            lock.acquire(timeout=wait)
            break
        except Timeout as timeout:
            if file.exists():
                raise refusal(str(path), read_lock(file), error, remedy) from timeout
            # The other writer has just ended; or no file can be made there, as in
            # /proc, for which the library waits too.
            if last:
                raise DiskError(errno.EACCES, path, "") from timeout
    try:
        if not isinstance(lock, SoftFileLock):  # it writes its own text
            file.write_text(Writer.here().text())
        yield
    finally:
        if os.name != "nt":  # on Windows the release deletes the file
            file.unlink(missing_ok=True)
        lock.release()


def _check_own_lock(file: Path) -> None:
    """Check that a lock's file is ours: it is emptied, and deleted at the end.

    Raises
    ------
    FileExistsError
        If it is a file of something else, such as the lock of a package manager.
    """
    try:
        text = file.read_text(errors="replace").strip()
    except OSError:  # not there, or locked for readers, as on Windows
        return
    # A lock without text is one that is taken now, or was by a killed call.
    # One that a full disk cut is a lock as well. The library begins its own with the
    # number of the process.
    if not text:
        return
    ours = Writer.read(text) is not None or _is_cut(text) or text.split()[0].isdigit()
    if not ours:
        raise FileExistsError(
            f"{file} is where geobiomass keeps a lock, and is a file of something "
            "else; choose another path, or move that file."
        )


def _is_cut(text: str) -> bool:
    """Return whether a text is the first part of a lock's."""
    begin = Writer("", 0, 0.0, "").text()[:_BEGIN]
    if not text.startswith(begin[: len(text)]):
        return False
    try:
        json.loads(text)
    except ValueError:
        return True
    return False  # whole, and of something else


def _check_can_be(file: Path, path: Path) -> None:
    """Check that a lock's file can be made, which the library tries for long.

    Raises
    ------
    DiskError
        If it cannot, as in /proc.
    """
    try:
        os.close(os.open(file, os.O_RDWR | os.O_CREAT, 0o644))
    except OSError as error:
        if error.errno in _NEVER:
            raise DiskError(error.errno, path, "") from error


def refusal(
    name: str,
    writer: Writer | None,
    error: type[InUseError] = InUseError,
    remedy: str = "",
) -> InUseError:
    """Return the error of a path that another process writes to."""
    who = "another process" if writer is None else str(writer)
    text = (
        f"{name} is being written by {who}; wait until that is done, end it, or choose "
        "another path."
    )
    return error(f"{text} {remedy}".rstrip())


def writer_at(path: Path) -> str | None:
    """Return the process that writes to a path now, None if there is none."""
    from filelock import FileLock, Timeout

    file = lock_path(path)
    if not os.path.exists(file):
        return None
    try:
        with FileLock(file, timeout=0):
            return None
    except (Timeout, PermissionError):
        return str(read_lock(file) or "another process")


def read_lock(file: Path) -> Writer | None:
    """Read the process that a lock's file names."""
    try:
        return Writer.read(file.read_text())
    except OSError:  # released meanwhile, or, on Windows, locked for readers too
        return None
