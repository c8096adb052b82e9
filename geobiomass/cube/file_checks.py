"""Checksums of a store's files: on a disk, or as objects."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import suppress
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt

from geobiomass.cube.errors import DamagedError
from geobiomass.training.checksums import crc32c_of, crc32c_of_file

if TYPE_CHECKING:
    from zarr.abc.store import Store

Sums = list[int | None]
"""Size and CRC-32C of a file. Of a shard: size, CRC-32C of its last bytes (its index
and the checksum of its last chunk), CRC-32C of the checksums of all chunks and index.
None: not known, as of objects."""

GONE = "is gone"
CHANGED = "is not what was written (its checksum differs)"
NEW = "was not there when the store was finished"

_ABSENT = 2**64 - 1  # offset of a chunk that a shard does not contain (Zarr v3)
_AT_ONCE = 64  # requests to object storage
_MOST_KNOWN = 100_000  # files: some 30 MB of memory

# Files of a local disk that were found whole: size, time of change, number, sums.
_WHOLE: dict[str, tuple[Any, ...]] = {}

Answer = TypeVar("Answer")


class Files:
    """The files below a path of a store: read, listed, and compared with their sums.

    Parameters
    ----------
    store : zarr.abc.store.Store
        Any store of Zarr; files of a LocalStore are read without it.
    prefix : str
        Path of the group in the store.
    """

    def __init__(self, store: Store, prefix: str = "") -> None:
        from zarr.storage import LocalStore

        self.store = store
        self.prefix = f"{prefix}/" if prefix else ""
        self.root = Path(store.root) if isinstance(store, LocalStore) else None
        self.folder = f"{self.root}{os.sep}{self.prefix}"

    def local(self, file: str) -> Path | None:
        """Return the path of a file on a local disk."""
        return None if self.root is None else self.root / f"{self.prefix}{file}"

    def names(self) -> list[str]:
        """Return the names of all files."""
        if self.root is not None:
            top = str(self.root / self.prefix)
            return [
                os.path.relpath(os.path.join(folder, name), top).replace(os.sep, "/")
                for folder, _, names in os.walk(top)
                for name in names
            ]

        async def listed() -> list[str]:
            return [name async for name in self.store.list_prefix(self.prefix)]

        return [name[len(self.prefix) :] for name in _wait(listed())]

    def read(self, files: Sequence[str], last: int | None = None) -> dict[str, Any]:
        """Return the bytes of files, or their last ones; None of those not there."""
        if self.root is not None and last is None:
            return {file: _bytes_of(self.local(file)) for file in files}
        return self._each(files, lambda file: self._get(file, last))

    async def _get(self, file: str, last: int | None) -> bytes | None:
        from zarr.abc.store import SuffixByteRequest
        from zarr.core.buffer import default_buffer_prototype

        part = None if last is None else SuffixByteRequest(last)
        found = await self.store.get(
            f"{self.prefix}{file}", default_buffer_prototype(), part
        )
        return None if found is None else found.to_bytes()

    def _each(
        self,
        files: Iterable[str],
        work: Callable[[str], Coroutine[Any, Any, Answer]],
    ) -> dict[str, Answer]:
        """Do something with each file, some at a time."""

        async def all_of() -> dict[str, Answer]:
            gate = asyncio.Semaphore(_AT_ONCE)

            async def one(file: str) -> Answer:
                async with gate:
                    return await work(file)

            names = list(files)
            return dict(zip(names, await asyncio.gather(*map(one, names)), strict=True))

        return _wait(all_of())

    def write(self, file: str, content: bytes) -> None:
        """Write a file in one step."""
        from zarr.core.buffer import default_buffer_prototype

        buffer = default_buffer_prototype().buffer.from_bytes(content)
        _wait(self.store.set(f"{self.prefix}{file}", buffer))

    def delete(self, file: str) -> None:
        """Delete a file, if it is there, and a folder that held nothing else."""
        if (path := self.local(file)) is not None:
            path.unlink(missing_ok=True)
            with suppress(OSError):  # another file is there: Zarr warns of empty ones
                path.parent.rmdir()
            return

        async def work() -> None:
            if await self.store.exists(f"{self.prefix}{file}"):
                await self.store.delete(f"{self.prefix}{file}")

        _wait(work())

    def size_problem(self, file: str, sums: Sums) -> str | None:
        """Return what is wrong with the size of a file on a disk, None if nothing."""
        if self.root is None:
            return None
        try:
            size = os.stat(f"{self.folder}{file}").st_size
            return _size_problem(size, sums)
        except FileNotFoundError:
            return GONE

    def whole_problem(self, file: str, sums: Sums, inner: int) -> str | None:
        """Return what is wrong with any byte of a file, None if nothing."""
        content = self.read([file])[file]
        if content is None or not inner:
            return described_problem(content, sums)
        if (wrong := _size_problem(len(content), sums)) is not None:
            return wrong
        codes = np.frombuffer(content, np.uint8)
        try:
            found = _sums_of(lambda at, n: content[at : at + n], len(content), inner)
            for at, length in _entries(content[-16 * inner - 4 :], len(content)):
                body = codes[at : at + length]
                if crc32c_of(body[:-4].data) != int.from_bytes(body[-4:], "little"):
                    return f"has a damaged chunk at byte {at}"
        except _UnsoundError:
            return CHANGED
        return None if _same(found, sums) else CHANGED


class _UnsoundError(Exception):
    """A shard's index cannot be right."""


# --- whole files ----------------------------------------------------------------


def described_sum(files: Files, names: Sequence[str]) -> dict[str, Sums]:
    """Return the sums of whole files."""
    if files.root is not None:
        root = files.root / files.prefix
        return {name: list(crc32c_of_file(root / name)) for name in names}
    content = files.read(names)
    return {name: [len(content[name]), crc32c_of(content[name])] for name in names}


def described_problem(content: bytes | None, sums: Sums) -> str | None:
    """Return what is wrong with the content of a whole file, None if nothing."""
    if content is None:
        return GONE
    wrong = _size_problem(len(content), sums)
    return wrong or (None if crc32c_of(content) == sums[1] else CHANGED)


def _size_problem(size: int, sums: Sums) -> str | None:
    if sums[0] in (None, size):
        return None
    return f"has {size:,} bytes, {sums[0]:,} were written"


def _bytes_of(path: Path | None) -> bytes | None:
    try:
        return None if path is None else path.read_bytes()
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None


# --- shards ---------------------------------------------------------------------


def shard_sum(
    files: Files, names: Sequence[str], inner: int, where: str
) -> dict[str, Sums]:
    """Return the sums of shards of `inner` chunks that carry checksums.

    Raises
    ------
    DamagedError
        If the index of a shard is damaged.
    """
    if files.root is None:
        tails = files.read(names, 16 * inner + 8)
        return {name: [None, crc32c_of(tails[name]), None] for name in names}
    found: dict[str, Sums] = {}
    for name in names:
        path = files.root / f"{files.prefix}{name}"
        try:
            with FileIO(path) as file:
                found[name] = _sums_of(*_reader(file), inner)
        except _UnsoundError:
            raise DamagedError(
                f"{path} was damaged while {where} was written; write it again.",
                str(path),
            ) from None
    return found


def shard_problem(
    files: Files, known: Mapping[str, Sums | None], inner: int
) -> dict[str, str | None]:
    """Return what is wrong with chunks or shards that are about to be read.

    Parameters
    ----------
    files : Files
        The store.
    known : mapping
        Sums by file; None of one that should not be there.
    inner : int
        Chunks of a shard; 0 where files are summed whole.
    """
    if files.root is not None:
        root = files.folder
        return {n: _local_problem(root + n, sums, inner) for n, sums in known.items()}
    last = 16 * inner + 8 if inner else None
    found = files.read(list(known), last)
    problems: dict[str, str | None] = {}
    for name, sums in known.items():
        content = found[name]
        if sums is None:
            problems[name] = None if content is None else NEW
        elif inner and content is not None:
            problems[name] = None if crc32c_of(content) == sums[1] else CHANGED
        else:
            problems[name] = described_problem(content, sums)
    return problems


def _local_problem(path: str, sums: Sums | None, inner: int) -> str | None:
    try:
        state = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None if sums is None else GONE
    if sums is None:
        return NEW
    now = (state.st_size, state.st_mtime_ns, state.st_ino, *sums)
    if _WHOLE.get(path) == now:
        return None
    if (wrong := _size_problem(state.st_size, sums)) is not None:
        return wrong
    try:
        if inner:
            with FileIO(path) as file:
                found = _sums_of(*_reader(file), inner)
        else:
            found = list(crc32c_of_file(Path(path)))
    except _UnsoundError:
        return CHANGED
    if not _same(found, sums):
        return CHANGED
    if len(_WHOLE) >= _MOST_KNOWN:
        _WHOLE.clear()
    _WHOLE[path] = now
    return None


def _same(found: Sums, sums: Sums) -> bool:
    return all(theirs in (None, ours) for ours, theirs in zip(found, sums, strict=True))


Read = Callable[[int, int], bytes]


def _reader(file: FileIO) -> tuple[Read, int]:
    """Return a function that reads a file, and the file's size."""
    size = file.seek(0, 2)

    def read(at: int, length: int) -> bytes:
        file.seek(at)
        return file.read(length)

    return read, size


def _sums_of(read: Read, size: int, inner: int) -> Sums:
    """Return the sums of a shard; few bytes of it are read.

    Raises
    ------
    _UnsoundError
        If its index is damaged.
    """
    start = size - 16 * inner - 4
    if start < 0:
        raise _UnsoundError
    before = min(4, start)
    tail = read(start - before, size - start + before)
    index = tail[before:]
    own = b"".join(read(at + n - 4, 4) for at, n in _entries(index, size))
    return [size, crc32c_of(tail), crc32c_of(own + index)]


def _entries(index: bytes, size: int) -> list[list[int]]:
    """Return the offset and length of each chunk that a shard has."""
    table: npt.NDArray[np.uint64] = np.frombuffer(index[:-4], "<u8").reshape(-1, 2)
    used = table[table[:, 0] != _ABSENT]
    sound = crc32c_of(index[:-4]) == int.from_bytes(index[-4:], "little")
    if not sound or (used > size).any() or (used.sum(axis=1) > size).any():
        raise _UnsoundError
    entries: list[list[int]] = used.tolist()
    if any(length < 4 for _, length in entries):
        raise _UnsoundError
    return entries


def _wait(work: Coroutine[Any, Any, Answer]) -> Answer:
    from zarr.core.sync import sync

    return sync(work)
