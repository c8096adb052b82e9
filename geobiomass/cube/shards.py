"""Shards of a Zarr v3 array on a local disk, read without Zarr.

Only the chunks that a window touches are read and decoded. The layout that
:func:`write_cube` writes is read this way; ``benchmarks/store.py`` has the times.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import FileIO
from itertools import product
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeAlias

import numpy as np
import numpy.typing as npt
from google_crc32c import value as crc32c
from numcodecs import blosc

from geobiomass.cube.codecs import Codes

if TYPE_CHECKING:
    import zarr

Spans: TypeAlias = tuple[slice, ...]
"""A window: start and stop by dimension."""

Number: TypeAlias = tuple[int, ...]
"""Index of a chunk or a shard, by dimension."""

_ABSENT = 2**64 - 1  # offset of a chunk that a shard does not contain (Zarr v3)


class UnsoundError(Exception):
    """A shard's index, or a chunk, does not agree with its checksum or size."""


@dataclass(frozen=True)
class Layout:
    """The sizes of an array's chunks and shards, where they can be read directly."""

    chunk: tuple[int, ...]
    shard: tuple[int, ...]
    checksum: bool

    @classmethod
    def of(cls, array: zarr.Array[Any]) -> Self | None:
        """Return an array's layout, or None where Zarr has to read it."""
        from zarr.codecs import BloscCodec, BytesCodec, Crc32cCodec, ShardingCodec
        from zarr.storage import LocalStore

        codecs: tuple[Any, ...] = getattr(array.metadata, "codecs", ())
        if len(codecs) != 1 or not isinstance(codecs[0], ShardingCodec):
            return None
        sharding, shard = codecs[0], array.shards
        inner = tuple(type(codec) for codec in sharding.codecs)
        plain, checked = (BytesCodec, BloscCodec), (BytesCodec, BloscCodec, Crc32cCodec)
        known = (
            isinstance(array.store, LocalStore)
            and sys.byteorder == "little"
            and inner in (plain, checked)
            and tuple(map(type, sharding.index_codecs)) == (BytesCodec, Crc32cCodec)
            and sharding.index_location.value == "end"
            and all(
                codec.endian is None or codec.endian.value == "little"
                for codec in (*sharding.codecs, *sharding.index_codecs)
                if isinstance(codec, BytesCodec)
            )
        )
        if not known or shard is None:
            return None
        return cls(array.chunks, shard, inner == checked)

    @property
    def grid(self) -> tuple[int, ...]:
        """Chunks of a shard, by dimension."""
        return tuple(s // c for s, c in zip(self.shard, self.chunk, strict=True))

    def shards_of(self, spans: Spans) -> Iterator[tuple[Number, list[range]]]:
        """Yield the shards that a window touches, and the chunks it touches in each."""
        pairs = zip(spans, self.chunk, strict=True)
        chunks = [range(s.start // c, -(-s.stop // c)) for s, c in pairs]
        pairs_of_grid = list(zip(chunks, self.grid, strict=True))
        shards = [range(r.start // g, (r.stop - 1) // g + 1) for r, g in pairs_of_grid]
        for shard in product(*shards):
            yield (
                shard,
                [
                    range(max(r.start, k * g), min(r.stop, (k + 1) * g))
                    for k, (r, g) in zip(shard, pairs_of_grid, strict=True)
                ],
            )


def encoded_chunks(
    path: Path, shard: Number, chunks: Sequence[range], layout: Layout
) -> Iterator[tuple[Number, Codes | None]]:
    """Yield chunks of one shard: number and encoded bytes, None where it has none.

    The bytes are overwritten when the next ones are asked for.

    Raises
    ------
    FileNotFoundError
        If there is no such shard.
    UnsoundError
        If its index is damaged.
    """
    with FileIO(path) as file:
        # Plain numbers: while Python works on a chunk, the other threads wait.
        entries = _read_index(file, layout).reshape(-1, 2).tolist()
        strides = [prod(layout.grid[axis + 1 :]) for axis in range(len(shard))]
        origin = [k * g for k, g in zip(shard, layout.grid, strict=True)]
        for chunk in product(*chunks):
            entry = sum(
                (i - o) * s for i, o, s in zip(chunk, origin, strides, strict=True)
            )
            offset, length = entries[entry]
            if offset == _ABSENT:
                yield chunk, None
                continue
            encoded = _scratch(length)
            file.seek(offset)
            yield chunk, encoded[: file.readinto(encoded.data)]


def _read_index(file: FileIO, layout: Layout) -> npt.NDArray[np.uint64]:
    """Read the offset and length of each chunk of a shard."""
    size = file.seek(0, 2)
    raw = np.zeros(16 * prod(layout.grid) + 4, np.uint8)
    if size >= raw.size:
        file.seek(size - raw.size)
        file.readinto(raw.data)
    index = raw[:-4].view(np.uint64).reshape(*layout.grid, 2)
    used = index[index[..., 0] != _ABSENT]
    sound = (
        size >= raw.size
        and crc32c(raw[:-4]) == _integer(raw[-4:])
        and not (used.sum(axis=-1) > size).any()
    )
    if not sound:
        raise UnsoundError
    return index


def unpack(encoded: Codes, out: Codes, checksum: bool) -> None:
    """Check and decode one chunk.

    Parameters
    ----------
    encoded : numpy.ndarray
        The bytes of the chunk.
    out : numpy.ndarray
        Array of the chunk's size, which is filled with the codes.
    checksum : bool
        Whether the last four bytes are a CRC-32C of the others.

    Raises
    ------
    UnsoundError
        If the chunk is damaged.
    """
    body = encoded[:-4] if checksum else encoded
    sound = not checksum or _integer(encoded[-4:]) == crc32c(body)
    try:
        # Bytes 4 to 7 of a blosc frame are the size that it decodes to.
        if sound := sound and _integer(body[4:8]) == out.nbytes:
            blosc.decompress(body, out)
    except (RuntimeError, ValueError):
        sound = False
    if not sound:
        raise UnsoundError


def overlap(number: Number, size: tuple[int, ...], spans: Spans) -> tuple[Spans, Spans]:
    """Return the common part of a chunk and a window, counted from each one's start.

    Parameters
    ----------
    number, size : tuple of int
        Number and size of the chunk, by dimension.
    spans : tuple of slice
        The window.

    Returns
    -------
    inside, target : tuple of slice
        Within the chunk, within the window.
    """
    inside, target = [], []
    for index, length, span in zip(number, size, spans, strict=True):
        origin = index * length
        start, stop = max(span.start, origin), min(span.stop, origin + length)
        inside.append(slice(start - origin, stop - origin))
        target.append(slice(start - span.start, stop - span.start))
    return tuple(inside), tuple(target)


_SCRATCH = threading.local()


def _scratch(size: int) -> npt.NDArray[np.uint8]:
    """Return memory of this thread, used again for each chunk.

    The operating system hands out new memory page by page, which takes a tenth of the
    time that a chunk takes to decode.
    """
    kept: npt.NDArray[np.uint8] | None = getattr(_SCRATCH, "kept", None)
    if kept is None or kept.size < size:
        kept = _SCRATCH.kept = np.empty(size, np.uint8)
    return kept[:size]


def _integer(encoded: Codes) -> int:
    """Read an integer of four bytes, or fewer where the file ends."""
    return int.from_bytes(encoded.tobytes(), "little")
