"""Deleting a file or a folder in one step, as seen by others."""

from __future__ import annotations

import shutil
from pathlib import Path

from geobiomass.training.folder_exchange import exchange_folders


def remove(path: Path) -> None:
    """Delete a file or a folder; a folder is renamed first, in one step.

    If the process is killed, half a folder never has the name of a whole one.
    """
    if path.is_dir():
        gone = removal_path(path)
        if gone.exists():  # left by a call that was killed
            shutil.rmtree(gone)
        path.rename(gone)
        shutil.rmtree(gone)
    else:
        path.unlink(missing_ok=True)


def replace(path: Path, new: Path) -> None:
    """Put a new folder in the place of an old one, which is deleted.

    Where the system can, names are exchanged in one step. Elsewhere the old folder is
    renamed first.
    """
    if exchange_folders(new, path):
        remove(new)
        return
    gone = removal_path(path)
    path.rename(gone)
    new.rename(path)
    shutil.rmtree(gone)


def removal_path(path: Path) -> Path:
    """Return the path of a folder while it is deleted."""
    return path.with_name(path.name + ".removing")


def making_path(path: Path) -> Path:
    """Return the path of a folder while it is made, before it is renamed."""
    return path.with_name(path.name + ".making")


def replacing_path(path: Path) -> Path:
    """Return the path of a folder that is written to take the place of another one."""
    return path.with_name(path.name + ".replacing")


def leftovers_of(path: Path) -> list[Path]:
    """Return the paths of all that a killed call may leave next to a folder."""
    new = replacing_path(path)
    return [making_path(path), removal_path(path), new, making_path(new),
            removal_path(new)]  # fmt: skip
