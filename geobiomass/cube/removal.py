"""Deleting a file or a folder in one step, as seen by others."""

from __future__ import annotations

import shutil
from pathlib import Path


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


def removal_path(path: Path) -> Path:
    """Return the path of a folder while it is deleted."""
    return path.with_name(path.name + ".removing")


def making_path(path: Path) -> Path:
    """Return the path of a folder while it is made, before it is renamed."""
    return path.with_name(path.name + ".making")
