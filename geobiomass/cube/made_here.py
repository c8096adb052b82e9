"""Whether this package made what is at a path: nothing else is ever deleted."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_MARK = "geobiomass_"
"""How the attributes begin that the package writes to each of its Zarr groups."""

# Files of a Zarr v3 store: metadata, chunks, files that were being written, the entries
# of a map's manifest and its lease; and what file managers leave in any folder.
_FILES = re.compile(
    r"(.*/)?(zarr\.json(\..*)?|c(/\d+)*|c/.*\.partial|[^/]*\.partial"
    r"|\.DS_Store|Thumbs\.db|desktop\.ini)"
    r"|written/[^/]*"
)
_MOST_NAMED = 3


def check_removable(path: Path) -> None:
    """Check that a Zarr store may be deleted: the package made it, and all in it.

    Nothing, an empty folder and a group without content may be deleted too.

    Raises
    ------
    FileExistsError
        If it holds anything else; the message says what.
    """
    if not path.exists() and not path.is_symlink():
        return
    if not path.is_dir():
        raise _refusal(path, "a file that is no cube or map")
    strangers = strangers_in(path)
    if strangers:
        named = ", ".join(strangers[:_MOST_NAMED])
        more = len(strangers) - _MOST_NAMED
        raise _refusal(path, named + (f" and {more} more" if more > 0 else ""))
    if not _is_marked(path):
        raise _refusal(path, "a Zarr group of other software")


def sweep(leftover: Path, own: str = "") -> None:
    """Delete a folder that a killed call left, if nothing else is in it.

    Parameters
    ----------
    leftover : Path
        The folder, which need not exist.
    own : str
        A file that such a call makes there, and under names that contain this one.

    Raises
    ------
    FileExistsError
        If it holds anything else.
    """
    if not leftover.exists():
        return
    found = strangers_in(leftover) if leftover.is_dir() else ["a file"]
    found = [name for name in found if not (own and own in name)]
    if found:
        raise FileExistsError(
            f"{leftover} is where geobiomass works, and holds {found[0]}, which it did "
            "not make; move that elsewhere and make the same call again."
        )
    shutil.rmtree(leftover)


def is_made_here(attrs: Mapping[str, Any] | None) -> bool:
    """Return whether a Zarr group's attributes are those of a cube or map."""
    return attrs is not None and any(str(name).startswith(_MARK) for name in attrs)


def strangers_in(folder: Path) -> list[str]:
    """Return the files in a folder that no Zarr store of the package has."""
    found: list[str] = []
    for root, folders, files in os.walk(folder):
        # A link would lead out of the folder.
        links = [name for name in folders if os.path.islink(os.path.join(root, name))]
        for name in [*files, *links]:
            inside = os.path.relpath(os.path.join(root, name), folder)
            if name in links or not _FILES.fullmatch(inside.replace(os.sep, "/")):
                found.append(inside)
    return sorted(found)


def _is_marked(folder: Path) -> bool:
    root = folder / "zarr.json"
    if not root.is_file():
        # Only chunks or empty folders, as an interrupted deletion leaves them.
        return not any(name for _, _, name in os.walk(folder)) or _is_rest(folder)
    try:
        content = json.loads(root.read_text(encoding="utf-8"))
        attrs = content.get("attributes") or {}
    except (ValueError, AttributeError):
        return False
    if is_made_here(attrs):
        return True
    # A call that was killed at its first step leaves a group without anything.
    return not attrs and not any(one.is_dir() for one in folder.iterdir())


def _is_rest(folder: Path) -> bool:
    """Return whether a folder without a root has an array of a cube."""
    return any(
        (folder / name / "zarr.json").is_file() for name in ("image", "agb", "static")
    )


def _refusal(path: Path, found: str) -> FileExistsError:
    return FileExistsError(
        f"{path} holds {found}, which geobiomass did not make, so it is not deleted "
        "(overwrite=True deletes cubes and maps); choose another path, or move or "
        "delete it yourself."
    )
