"""Files that a call may replace: those that an earlier call made, and no others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

_END = 2**16  # bytes: where formats such as zip and protobuf name their parts


def check_own_file(
    path: Path, what: str, is_ours: Callable[[bytes, bytes], bool]
) -> None:
    """Check that a path is free, or holds a file that the package made.

    Parameters
    ----------
    path : Path
        The file. An empty one may be replaced too.
    what : str
        What it should be, for the message: "table of predictions".
    is_ours : callable
        Takes the first and the last 64 KB of a file.

    Raises
    ------
    FileExistsError
        If anything else is there.
    """
    if not path.exists():
        return
    if path.is_file():
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(0)
            first = file.read(_END)
            file.seek(max(0, size - _END))
            if not size or is_ours(first, file.read()):
                return
    raise FileExistsError(
        f"{path} holds something that is no {what} of this package, so it is not "
        "replaced; choose another path, or move or delete it yourself."
    )


def check_demo_folder(folder: Path, names: Sequence[str]) -> None:
    """Check that files in a folder are those of an earlier demonstration.

    It writes its pictures and tables after its model.

    Raises
    ------
    FileExistsError
        If one of these files is there, without a model.
    """
    there = [name for name in names if (folder / name).exists()]
    if there and not (folder / "model").is_dir():
        raise FileExistsError(
            f"{folder / there[0]} is of no earlier demonstration, so it is not "
            "replaced; choose another folder, or move or delete it yourself."
        )
