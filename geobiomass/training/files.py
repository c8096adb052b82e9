"""Files that appear whole or not at all, and SHA-256 digests."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeAlias

from .disk_errors import told_of_disk
from .one_writer import one_writer

Hashable: TypeAlias = str | bytes | memoryview

PART = ".part"
"""Ending of a file that is not complete yet."""

_WAIT = 60.0  # seconds: another process that writes the same file takes less
_LONGEST = 200  # bytes of a name, of 255, which leaves room for what is added to it
_STREAM = re.compile(r"/dev/(fd/\d+|std(in|out|err))|/proc/.*/fd/\d+")


@contextmanager
def replacing(path: Path, ending: str = PART) -> Iterator[Path]:
    """Yield a path to write to; at the end that file replaces the one at `path`.

    Readers see the old file or the new one, never a part. After an error the old
    file is still there, and nothing else. For callers that have the lock of the path or
    of its folder, and sweep it; others use :func:`output_file`.

    Parameters
    ----------
    path : Path
        The final path, in a folder that exists.
    ending : str
        Ending of the path that is yielded, for libraries that choose the format by it.

    Yields
    ------
    Path
        A new name in the same folder, hidden, so that the renaming is one step. Two
        processes never get the same name.
    """
    part = path.with_name(f".{_stem(path)}.{uuid.uuid4().hex}{ending}")
    try:
        yield part
        with suppress(FileNotFoundError):  # there is no old file
            shutil.copymode(path, part)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def output_file(path: str | Path, ending: str = PART) -> Iterator[Path]:
    """Yield a path to write a user's file to, which appears whole or not at all.

    The one way to write a table, a page or a picture whose path a user gives. The
    folder is made if there is none. What a killed call left is deleted. Of two
    processes, one waits for the other. A link stays a link: what it points to is
    written. Streams, such as ``/dev/stdout`` and pipes, are written as they are.

    Parameters
    ----------
    path : str or Path
        The file; one that exists is replaced.
    ending : str
        As :func:`replacing` takes it.

    Yields
    ------
    Path
        Where to write.

    Raises
    ------
    DiskError
        If the disk is full, or nothing can be written at the path.
    InUseError
        If another process writes there for more than a minute.
    """
    with alone_at(path) as place:
        if is_stream(place):
            yield place
        else:
            with replacing(place, ending) as part:
                yield part


@contextmanager
def alone_at(path: str | Path) -> Iterator[Path]:
    """Keep other processes from writing a file; yield where it is, behind links.

    Parameters
    ----------
    path : str or Path
        The file, which need not exist.

    Raises
    ------
    DiskError, InUseError
        As :func:`output_file` does.
    """
    place = Path(path)
    with told_of_disk(place):
        if is_stream(place):
            yield place
            return
        place = _checked(place)
        _make_folder(place)
        with one_writer(place, wait=_WAIT):
            sweep(place)
            yield place


def check_writable(path: str | Path) -> None:
    """Check that a file can be written at a path, before hours of work are for it.

    Nothing is made. A disk that will be full is not seen.

    Raises
    ------
    DiskError
        If a folder is there, a part of the path is a file, or the path is not writable.
    """
    with told_of_disk(path):
        if not is_stream(Path(path)):
            _checked(Path(path))


def write_whole(path: str | Path, content: str | bytes) -> None:
    """Write a file that appears at `path` whole, or not at all.

    Parameters
    ----------
    path : str or Path
        The file; one that exists is replaced.
    content : str or bytes
        Text is written as UTF-8, lines end as they do in the text.

    Raises
    ------
    DiskError, InUseError
        As :func:`output_file` does.
    """
    data = content.encode() if isinstance(content, str) else content
    with output_file(path) as part:
        part.write_bytes(data)


def sweep(path: Path) -> None:
    """Delete the parts of a file that killed calls of :func:`replacing` left.

    Parameters
    ----------
    path : Path
        The final path; the caller has its lock.
    """
    name = re.compile(rf"\.{re.escape(_stem(path))}\.[0-9a-f]{{32}}\.\w+")
    with suppress(FileNotFoundError):
        for found in list(path.parent.iterdir()):
            if name.fullmatch(found.name) and found.is_file():
                found.unlink(missing_ok=True)


def parts_within(folder: Path) -> list[Path]:
    """Return the parts of files in a folder and below that killed calls left.

    Parameters
    ----------
    folder : Path
        A folder of ours; the caller has its lock.
    """
    name = re.compile(rf"\..+\.[0-9a-f]{{32}}{re.escape(PART)}")
    found = folder.rglob(f".*{PART}")
    return [path for path in found if name.fullmatch(path.name) and path.is_file()]


def _stem(path: Path) -> str:
    """Return the name of a file, or a digest of one that leaves no room for more."""
    short = len(os.fsencode(path.name)) <= _LONGEST
    return path.name if short else hashlib.sha256(os.fsencode(path.name)).hexdigest()


def is_stream(path: Path) -> bool:
    """Return whether a path is of a device, a pipe or an open file, never renamed."""
    if _STREAM.fullmatch(str(path.absolute())):
        return True
    return path.exists() and not (path.is_file() or path.is_dir())


def _checked(path: Path) -> Path:
    """Return where a file is, behind links, if a file can be there."""
    place = Path(os.path.realpath(path))
    if place.is_symlink():
        raise _error(errno.ELOOP, path)
    if place.is_dir():
        raise _error(errno.EISDIR, path)
    there = next(one for one in (place, *place.parents) if one.exists())
    if there != place and not there.is_dir():
        raise _error(errno.ENOTDIR, path)
    if not os.access(there, os.W_OK):
        raise _error(errno.EACCES, path)
    return place


def _make_folder(place: Path) -> None:
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
    except FileExistsError:  # made meanwhile, as a file
        raise _error(errno.ENOTDIR, place) from None


def _error(code: int, path: Path) -> OSError:
    return OSError(code, os.strerror(code), str(path))


def sha256_of(content: Hashable | Iterable[Hashable]) -> str:
    """Return the SHA-256 digest of a text, of bytes, or of a sequence of both.

    Parameters
    ----------
    content : str, bytes, memoryview or iterable of these
        Text is hashed as UTF-8. An iterable is hashed part after part, one of them in
        memory at a time; it has the digest of its parts joined.

    Returns
    -------
    str
        64 hexadecimal digits.
    """
    parts = [content] if isinstance(content, str | bytes | memoryview) else content
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.encode() if isinstance(part, str) else part)
    return digest.hexdigest()


def sha256_of_file(path: Path) -> str:
    """Return the SHA-256 digest of a file, which is never in memory as a whole."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
