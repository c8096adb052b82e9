"""The folder of a training: kept if it is interrupted, and named with what to do."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from pathlib import Path

from .checkpoint_record import LAST, Record, read_training_record
from .disk_errors import told_of_disk
from .files import parts_within
from .interruption import TrainingInterrupted
from .one_writer import one_writer
from .unfinished import UnfinishedTraining, save_unfinished

__all__ = ["describe_progress", "kept_if_interrupted"]

_PREFIX = "geobiomass-training-"


@contextmanager
def kept_if_interrupted(
    folder: str | Path | None, whole_call: bool = True, usable: bool = True
) -> Iterator[Path]:
    """Yield a folder for the trainings within the `with` statement.

    Without `folder` it is a temporary one, which is deleted at the end, but stays
    where the training is interrupted after its first step: the same call with this
    folder continues it. For calls that train several models, each in a subfolder.

    Parameters
    ----------
    folder
        The folder that the user gave; None for a temporary one.
    whole_call
        Whether the message is to be of this folder, also where an inner training has
        its own folder and message.
    usable
        Whether the model of an inner training is what this call returns: it is saved
        in the folder, and the message says how to load it.

    Yields
    ------
    Path
        The folder.

    Raises
    ------
    InUseError
        If another training uses the folder that was given.
    KeyboardInterrupt
        On Ctrl-C, or when a notebook's cell is interrupted. The message names the last
        step, the folder and how to continue.
    """
    if folder is not None:
        with _reserved(Path(folder)), _kept(folder, whole_call, usable) as kept:
            yield kept
        return
    with _kept(folder, whole_call, usable) as kept:
        yield kept


_RESERVED: ContextVar[tuple[Path, ...]] = ContextVar("_RESERVED", default=())
"""Folders that this call, or the one that called it, has the lock of."""

_RANKS = ("LOCAL_RANK", "RANK", "SLURM_PROCID")


@contextmanager
def _reserved(folder: Path) -> Iterator[None]:
    """Keep other trainings from a folder, while this one uses it.

    The first of several processes of one training has the lock for all.

    Raises
    ------
    InUseError
        If another training uses the folder.
    """
    whole = folder.resolve()
    mine = any(one in (whole, *whole.parents) for one in _RESERVED.get())
    if mine or any(os.environ.get(name, "0") != "0" for name in _RANKS):
        yield
        return
    with ExitStack() as stack:
        with told_of_disk(whole):
            whole.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(one_writer(whole))
            # Files that were being written when an earlier call was killed, by
            # safetensors itself and by us.
            for left in (*whole.rglob(".tmp??????"), *parts_within(whole)):
                left.unlink()
        before = _RESERVED.set((*_RESERVED.get(), whole))
        try:
            yield
        finally:
            _RESERVED.reset(before)


@contextmanager
def _kept(folder: str | Path | None, whole_call: bool, usable: bool) -> Iterator[Path]:
    given = folder is not None
    whole = Path(folder) if given else Path(tempfile.mkdtemp(prefix=_PREFIX))  # type: ignore[arg-type]
    kept = given
    try:
        yield whole
    except KeyboardInterrupt as stop:
        if stop.args and not whole_call:
            raise
        last = _newest(whole)
        if last is None:
            raise KeyboardInterrupt(
                "training stopped before the end of its first step; nothing is kept"
            ) from None
        kept = True
        message = (
            f"training stopped after {_place(last, whole)}; the last weights are kept, "
            f"and the same call with folder={str(whole)!r} continues from there"
        )
        model = getattr(stop, "model", None)
        if model is None or not usable:
            raise KeyboardInterrupt(message) from None
        sentence, line = save_unfinished(model, whole)
        raise UnfinishedTraining(f"{message}.\n{sentence}", None, line) from None
    except TrainingInterrupted:
        kept = given or _newest(whole) is not None
        raise
    finally:
        if not kept:
            shutil.rmtree(whole, ignore_errors=True)


def _newest(folder: Path) -> Path | None:
    found = [*folder.glob(LAST), *folder.glob(f"*/**/{LAST}")]
    return max(found, key=lambda path: path.stat().st_mtime, default=None)


def _place(last: Path, whole: Path) -> str:
    record, _ = read_training_record(last)
    part = last.parent.relative_to(whole)
    where = "" if part == Path() else f" of {part.as_posix()}"
    return f"{describe_progress(record)}{where}"


def describe_progress(record: Record) -> str:
    """Return the last step of a training that is recorded, in words."""
    part, epochs = record.part, record.epochs
    if part.steps:
        return f"step {part.steps} of epoch {epochs + 1}"
    return f"epoch {epochs}" if epochs else "its start"
