"""Files that a call may replace: those that an earlier call made, and no others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryFile

from .given_paths import path_text
from .model_folder import check_replaceable

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


def check_demo_folder(folder: str | Path, names: Sequence[str], seed: int = 0) -> Path:
    """Make the folder of a demonstration, and check that it may write there.

    It writes its pictures and tables after its model, so without a model they are not
    those of an earlier demonstration.

    Parameters
    ----------
    folder : str or Path
        The folder.
    names : sequence of str
        Its pictures and tables.
    seed : int
        The seed of the demonstration.

    Returns
    -------
    Path
        The folder, which is there. Without ``..``, which would make the folders before
        it, too.

    Raises
    ------
    FileExistsError
        If it is a file, or one of its pictures and tables is there without a model.
    ModelError
        If its folder ``model`` holds anything else than a model.
    ValueError
        If no folder can have the name, or the seed is no whole number from 0.
    OSError
        If nothing can be written there.
    """
    if not isinstance(seed, int) or isinstance(seed, bool) or seed < 0:
        raise ValueError(
            f"seed must be a whole number from 0, got {seed!r}; leave it out, or give "
            "another one."
        )
    folder = Path(path_text(folder, "The folder of a demonstration"))
    if ".." in folder.parts:
        folder = folder.resolve()
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(
            f"{folder} must be a folder, got a file; choose another name with --out."
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise type(error)(
            f"Nothing can be written to {folder} ({error.strerror or error}); choose "
            "another folder with --out."
        ) from error
    there = [name for name in names if (folder / name).exists()]
    if there and not (folder / "model" / "config.json").is_file():
        raise FileExistsError(
            f"{folder / there[0]} is of no earlier demonstration, so it is not "
            "replaced; choose another folder, or move or delete it yourself."
        )
    check_replaceable(folder / "model")
    return folder
