"""A full or unwritable disk, said in one sentence whichever library met it."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["DiskError", "disk_error_of", "told_of_disk"]

_REASONS = {
    errno.ENOSPC: "its disk is full; make room",
    errno.EDQUOT: "the quota of its disk is used up; make room",
    errno.EFBIG: "its disk takes no file as large; choose another disk",
    errno.EROFS: "its disk can only be read; choose another path",
    errno.EACCES: "you may not write there; change the permissions or choose another "
    "path",
    errno.EPERM: "you may not write there; change the permissions or choose another "
    "path",
    errno.EIO: "its disk fails; check the disk or choose another path",
}

# What is wrong with the path itself. Libraries meet these while they look for files, so
# only an error that was raised as such counts.
_OF_PATHS = {
    errno.EISDIR: "a folder is there; choose another path",
    errno.ENOTDIR: "a part of it is a file, not a folder; choose another path",
    errno.ENAMETOOLONG: "its name is too long; choose a shorter one",
    errno.ELOOP: "its link leads back to itself; choose another path",
}

# Only a lock says so: elsewhere a file that is not there is another matter.
_OF_LOCKS = {errno.ENOENT: "no file can be made there; choose another path"}

_DEPTH = 12  # of causes that are looked at


class DiskError(OSError):
    """Error of a path that cannot be written; the message says why and what to do.

    Parameters
    ----------
    code : int
        The system's number of the error: ``errno.ENOSPC``, ``errno.EISDIR``, ...
    path : str or Path
        What was being written.
    remedy : str
        What to do once the cause is gone.
    """

    def __init__(self, code: int, path: str | Path, remedy: str) -> None:
        super().__init__(code, os.strerror(code), str(path))
        self.remedy = remedy

    def __reduce__(self) -> tuple[type[DiskError], tuple[int, str, str]]:
        """Pickle it with its remedy: workers of a cluster raise it too."""
        return type(self), (int(self.errno or 0), str(self.filename), self.remedy)

    def __str__(self) -> str:
        reason = (_REASONS | _OF_PATHS | _OF_LOCKS)[int(self.errno or 0)]
        text = f"{self.filename} cannot be written: {reason}"
        return f"{text}, and {self.remedy}." if self.remedy else f"{text}."


@contextmanager
def told_of_disk(
    path: str | Path, remedy: str = "make the same call again"
) -> Iterator[None]:
    """Raise a :class:`DiskError` where a library meets a full or unwritable disk.

    Parameters
    ----------
    path : str or Path
        What is written within the `with` statement.
    remedy : str
        What to do once the cause is gone.
    """
    try:
        yield
    except DiskError:
        raise
    except Exception as error:
        code = disk_error_of(error, path) or _path_error_of(error, path)
        if code is None:
            raise
        raise DiskError(code, path, remedy) from error


def disk_error_of(error: BaseException, path: str | Path | None = None) -> int | None:
    """Return the number of the system's error that is behind an error, or None.

    Libraries in C and Rust raise errors of their own (rasterio, safetensors, zarrs),
    with the system's words in their text.

    Parameters
    ----------
    error : BaseException
        The error; its causes are looked at too.
    path : str or Path, optional
        What is written: an error that names another file, such as one that is read, is
        not about it.
    """
    current: BaseException | None = error
    for _ in range(_DEPTH):
        if current is None:
            return None
        if isinstance(current, OSError) and current.errno in _REASONS:
            elsewhere = path is not None and not _belongs(current.filename, path)
            return None if elsewhere else current.errno
        if not isinstance(current, OSError) or current.errno is None:
            text = str(current)
            for code in _REASONS:
                if os.strerror(code) in text:
                    return code
        current = current.__cause__ or current.__context__
    return None


def _path_error_of(error: BaseException, path: str | Path) -> int | None:
    """Return the number of an error of the path that is written, or None."""
    if not isinstance(error, OSError) or error.errno not in _OF_PATHS:
        return None
    return error.errno if error.filename and _belongs(error.filename, path) else None


def _belongs(file: object, path: str | Path) -> bool:
    """Return whether a file is the path, in it, next to it or above it."""
    if not isinstance(file, str | bytes | os.PathLike):
        return True  # the error names no file
    place = Path(os.path.abspath(os.fsdecode(file)))
    whole = Path(os.path.abspath(path))
    return whole.parent in (place, *place.parents) or place in whole.parents
