"""Long work in pieces: a journal of what is done, and a few pieces at a time.

Maps keep the journal; a cube notes its shards in its own store. Both work on a few
pieces at a time.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self, TextIO, TypeVar

if TYPE_CHECKING:
    import zarr

UNFINISHED = "geobiomass_unfinished"
"""Attribute of a Zarr group that is still being written."""

Piece = TypeVar("Piece")
Result = TypeVar("Result")


class Journal:
    """Which pieces are on disk, a line each, in a file beside a store.

    Beside it and not in it, so that the store stays plain Zarr. A store that was
    moved without its journal is written anew, which costs time and nothing else.

    Parameters
    ----------
    store : Path
        The store that is being written.
    """

    def __init__(self, store: Path) -> None:
        self.path = store.with_name(store.name + ".written")
        self._file: TextIO | None = None

    def done(self) -> set[str]:
        """Give the pieces that are on disk."""
        lines = self.path.read_text().split("\n") if self.path.exists() else []
        return set(lines[:-1])  # a line cut short by a kill does not count

    def note(self, key: str) -> None:
        """Note a piece as done, at once."""
        if self._file is None:
            raise ValueError("A journal is noted in within its with block.")
        self._file.write(key + "\n")
        self._file.flush()

    def remove(self) -> None:
        """Remove the journal: all is written, or nothing is."""
        self.path.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        """Open the journal to note in."""
        self._file = self.path.open("a")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        """Close it."""
        if self._file is not None:
            self._file.close()
            self._file = None


def few_at_a_time(
    pieces: Iterable[Piece], work: Callable[[Piece], Result], workers: int
) -> Iterator[tuple[Piece, Future[Result]]]:
    """Work on pieces on threads, no more than `workers` of them in memory.

    Yields
    ------
    piece, future
        As each is done, in whatever order; the next one is started only when the
        caller comes back. Left early, what has not begun is cancelled.
    """
    remaining = iter(pieces)
    running: dict[Future[Result], Piece] = {}
    with ThreadPoolExecutor(workers, thread_name_prefix="pieces") as pool:
        try:
            while True:
                for piece in remaining:
                    running[pool.submit(work, piece)] = piece
                    if len(running) >= workers:
                        break
                if not running:
                    return
                finished, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in finished:
                    yield running.pop(future), future
        finally:
            for future in running:
                future.cancel()


def finish(store: Path) -> None:
    """Mark a Zarr group as finished: no journal any more, metadata consolidated."""
    import zarr

    group = zarr.open_group(store, mode="r+")
    attrs = dict(group.attrs)
    attrs.pop(UNFINISHED, None)
    group.attrs.put(attrs)
    Journal(store).remove()
    consolidate(group)


def consolidate(group: zarr.Group) -> None:
    """Gather a group's metadata in one place, which opens it in one read."""
    import zarr

    with warnings.catch_warnings():
        # Consolidated metadata is an extension of Zarr v3; xarray and zarr read it.
        warnings.filterwarnings("ignore", "Consolidated metadata is currently")
        zarr.consolidate_metadata(group.store, path=group.path)
