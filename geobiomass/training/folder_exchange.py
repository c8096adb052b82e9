"""A folder that replaces another one: there is the old one or the new one, never none.

Where the system can exchange two names in one step (Linux, macOS), it does. Elsewhere
the old folder is renamed first. A process that is killed between the two renamings
leaves both, whole, under hidden names, where loading finds them.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import re
import shutil
import uuid
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

__all__ = [
    "exchange_folders",
    "new_part",
    "replace_folder",
    "sweep_parts",
    "whole_folder",
]

_ATTEMPTS = 10  # renamings: another process may write the same folder meanwhile
_AT_FDCWD = -100  # linux/fcntl.h: names are relative to the working folder
_EXCHANGE = 2  # RENAME_EXCHANGE of linux/fs.h, and RENAME_SWAP of macOS's stdio.h


def new_part(folder: Path) -> Path:
    """Return a hidden name next to a folder, which no other process gets."""
    return folder.with_name(f".{folder.name}.{uuid.uuid4().hex}.part")


def replace_folder(folder: Path, part: Path) -> None:
    """Put a new folder in the place of an old one, which is deleted.

    Parameters
    ----------
    folder : Path
        The final path; there may be an old folder, or nothing.
    part : Path
        The new folder, whole, of a name of :func:`new_part`.
    """
    for attempt in range(_ATTEMPTS):
        if folder.exists() and exchange_folders(part, folder):
            shutil.rmtree(part, ignore_errors=True)
            return
        old = part.with_suffix(f".{attempt}.old")
        with suppress(FileNotFoundError):
            os.rename(folder, old)
        try:
            os.rename(part, folder)
        except OSError as error:
            # Another process may have been faster.
            there = error.errno in (errno.ENOTEMPTY, errno.EEXIST)
            if attempt == _ATTEMPTS - 1 or not there:
                raise
        shutil.rmtree(old, ignore_errors=True)
        if not part.exists():
            return


def exchange_folders(one: Path, other: Path) -> bool:
    """Exchange the names of two folders in one step; return False if that failed."""
    paths = os.fsencode(one), os.fsencode(other)
    system: str = platform.system()  # sys.platform would hide a branch from mypy
    try:
        if system == "Linux":
            rename = ctypes.CDLL(None, use_errno=True).renameat2
            return bool(
                rename(_AT_FDCWD, paths[0], _AT_FDCWD, paths[1], _EXCHANGE) == 0
            )
        if system == "Darwin":
            return bool(ctypes.CDLL(None).renamex_np(*paths, _EXCHANGE) == 0)
    except (AttributeError, OSError):  # an older C library
        return False
    return False


def whole_folder(folder: Path) -> Path:
    """Return a folder, or the one that was to replace it when the process was killed.

    Warns
    -----
    UserWarning
        If the folder itself is not there, and another one is read.
    """
    if folder.exists():
        return folder
    kept = [path for path in _parts(folder) if path.suffix == ".old"]
    if not kept:
        return folder
    # The old one is renamed when the new one is whole.
    new = kept[-1].with_name(
        kept[-1].name.split(".old")[0].rpartition(".")[0] + ".part"
    )
    found = new if new.is_dir() else kept[-1]
    warnings.warn(
        f"{folder} was being replaced when a process was killed; {found} is "
        "read, which is whole. Save the model again, or rename that folder.",
        stacklevel=3,
    )
    return found


def sweep_parts(folder: Path, is_ours: Callable[[Path], bool]) -> None:
    """Delete what killed calls left next to a folder, while the folder is there.

    Parameters
    ----------
    folder : Path
        The folder; the caller holds its lock.
    is_ours : callable
        Returns whether a leftover holds nothing else than what such a call writes.
    """
    if folder.exists():
        for path in _parts(folder):
            if is_ours(path):
                shutil.rmtree(path, ignore_errors=True)


def _parts(folder: Path) -> list[Path]:
    """Return the folders of hidden names next to a folder, in the order of names."""
    name = re.compile(rf"\.{re.escape(folder.name)}\.[0-9a-f]{{32}}(\.\d+\.old|\.part)")
    try:
        found = list(folder.parent.iterdir())
    except OSError:
        return []
    return sorted(path for path in found if name.fullmatch(path.name))
