"""What the header of a TIFF file promises, read without decoding a pixel.

A download cut short leaves a file whose header points behind its end. GDAL tells so
only when it reads the pixels, and with GTIFF_DIRECT_IO it gives zeros instead; a
header is a few hundred bytes, so a hundred thousand files can be checked up front.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

# Numbers from the TIFF 6.0 specification (Adobe, 1992) and, for 64-bit files, from
# the BigTIFF design (libtiff): tags, types of values, compression 1 for none.
_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _SAMPLES, _FORMAT = 256, 257, 258, 259, 277, 339
_STRIP_OFFSETS, _STRIP_BYTES, _TILE_OFFSETS, _TILE_BYTES = 273, 279, 324, 325
_TAGS = {
    *(_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _SAMPLES, _FORMAT),
    *(_STRIP_OFFSETS, _STRIP_BYTES, _TILE_OFFSETS, _TILE_BYTES),
}
_TYPES = {3: "u2", 4: "u4", 16: "u8"}
_FORMATS = {1: "uint", 2: "int", 3: "float"}
_CLASSIC, _BIG = 42, 43

Tags = dict[int, npt.NDArray[np.unsignedinteger]]


class TiffHeaderError(ValueError):
    """A file has no whole TIFF header; the message goes on after its name."""


@dataclass(frozen=True)
class TiffHeader:
    """Size in pixels, bands and data type, and where the pixels end in the file."""

    bands: int
    dtype: str
    height: int
    width: int
    compressed: bool
    end: int  # bytes that a whole file has at least


def read_tiff_header(path: str | os.PathLike[str]) -> TiffHeader:
    """Read the header of the first image of a TIFF or BigTIFF file.

    Raises
    ------
    TiffHeaderError
        If the file is no TIFF, or its header is cut short.
    """
    with open(path, "rb") as file:
        tags = _read_tags(file, os.fstat(file.fileno()).st_size)
    lacking = {_WIDTH, _HEIGHT} - tags.keys()
    tiled = _TILE_OFFSETS in tags
    starts = tags.get(_TILE_OFFSETS if tiled else _STRIP_OFFSETS)
    lengths = tags.get(_TILE_BYTES if tiled else _STRIP_BYTES)
    if lacking or starts is None or lengths is None or starts.size != lengths.size:
        raise TiffHeaderError("has a TIFF header without an image")
    stored = lengths > 0  # a sparse file leaves blocks out: no bytes, no place
    ends = starts[stored].astype(np.int64) + lengths[stored].astype(np.int64)
    kind = _FORMATS.get(_first(tags, _FORMAT, 1), "other")
    return TiffHeader(
        bands=_first(tags, _SAMPLES, 1),
        dtype=f"{kind}{_first(tags, _BITS, 1)}",
        height=int(tags[_HEIGHT][0]),
        width=int(tags[_WIDTH][0]),
        compressed=_first(tags, _COMPRESSION, 1) != 1,
        end=int(ends.max(initial=0)),
    )


def _first(tags: Tags, tag: int, default: int) -> int:
    return int(tags[tag][0]) if tag in tags else default


def _read_tags(file: BinaryIO, size: int) -> Tags:
    head = file.read(16)
    order = {b"II": "<", b"MM": ">"}.get(head[:2])
    if order is None or len(head) < 16:
        raise TiffHeaderError("has no TIFF header")
    version = struct.unpack(order + "H", head[2:4])[0]
    if version not in (_CLASSIC, _BIG):
        raise TiffHeaderError("has no TIFF header")
    big = version == _BIG
    word, count, entry = ("Q", "Q", "HHQ8s") if big else ("I", "H", "HHI4s")
    at = struct.unpack(order + word, head[8:16] if big else head[4:8])[0]
    length = struct.calcsize("=" + count)
    entries = struct.unpack(order + count, _take(file, at, length, size))[0]
    table = _take(file, at + length, entries * struct.calcsize("=" + entry), size)
    tags = {}
    for tag, kind, values, inline in struct.iter_unpack(order + entry, table):
        if tag in _TAGS and kind in _TYPES and values > 0:
            dtype = np.dtype(order + _TYPES[kind])
            room = values * dtype.itemsize
            if room > len(inline):
                place = struct.unpack(order + word, inline)[0]
                inline = _take(file, place, room, size)
            tags[tag] = np.frombuffer(inline[:room], dtype)
    return tags


def _take(file: BinaryIO, at: int, length: int, size: int) -> bytes:
    if at + length > size:  # before asking for what a damaged count may make huge
        raise TiffHeaderError(f"has a TIFF header that goes on to byte {at + length}")
    file.seek(at)
    return file.read(length)
