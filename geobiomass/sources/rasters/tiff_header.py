"""The header of a TIFF file: size, bands, data type and length, without the pixels.

An incomplete download leaves a file whose header points behind its end. GDAL reports it
only when it reads the pixels, and with GTIFF_DIRECT_IO it returns zeros instead. A
header has a few hundred bytes, so a hundred thousand files can be checked in advance.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from io import FileIO

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
_TYPES = {3: "u2", 4: "u4", 16: "u8"}  # TIFF's SHORT and LONG, BigTIFF's LONG8
_FORMATS = {1: "uint", 2: "int", 3: "float"}  # values of the tag SampleFormat
_ORDERS = {
    b"II*\0": ("<", 42),
    b"MM\0*": (">", 42),
    b"II+\0": ("<", 43),
    b"MM\0+": (">", 43),
}
_BEGINNING = 4096  # bytes: contains the header of any BioMassters file

Tags = dict[int, npt.NDArray[np.unsignedinteger]]


class TiffHeaderError(ValueError):
    """A file has no complete TIFF header; the message continues the file's name."""


@dataclass(frozen=True)
class TiffHeader:
    """Bands, data type, size in pixels, and the end of the pixels in the file."""

    bands: int
    dtype: str
    height: int
    width: int
    compressed: bool
    end: int  # smallest number of bytes that a complete file has


def read_tiff_header(path: str | os.PathLike[str]) -> TiffHeader:
    """Read the header of the first image of a TIFF or BigTIFF file.

    Raises
    ------
    TiffHeaderError
        If the file is not a TIFF, or its header is incomplete.
    """
    with open(path, "rb", buffering=0) as file:
        tags = _read_tags(_Bytes(file))
    lacking = {_WIDTH, _HEIGHT} - tags.keys()
    tiled = _TILE_OFFSETS in tags
    starts = tags.get(_TILE_OFFSETS if tiled else _STRIP_OFFSETS)
    lengths = tags.get(_TILE_BYTES if tiled else _STRIP_BYTES)
    if lacking or starts is None or lengths is None or starts.size != lengths.size:
        raise TiffHeaderError("has a TIFF header without an image")
    stored = lengths > 0  # a sparse file omits empty blocks
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


class _Bytes:
    """Bytes of a file at any position; the beginning is read once."""

    def __init__(self, file: FileIO) -> None:
        self._file = file
        self._beginning = file.read(_BEGINNING)

    def take(self, at: int, length: int) -> bytes:
        if at + length <= len(self._beginning):
            return self._beginning[at : at + length]
        # Check first: in a damaged header the length may be any number.
        if at + length > os.fstat(self._file.fileno()).st_size:
            raise TiffHeaderError("ends within its TIFF header")
        self._file.seek(at)
        return self._file.read(length)


def _read_tags(source: _Bytes) -> Tags:
    order, version = _ORDERS.get(source.take(0, 4), ("", 0))
    if not order:
        raise TiffHeaderError("has no TIFF header")
    big = version == 43
    word, count, entry = ("Q", "Q", "HHQ8s") if big else ("I", "H", "HHI4s")
    at = _number(source, order + word, 8 if big else 4)
    entries = _number(source, order + count, at)
    start, length = at + struct.calcsize("=" + count), struct.calcsize("=" + entry)
    tags: Tags = {}
    table = source.take(start, entries * length)
    for tag, kind, values, inline in struct.iter_unpack(order + entry, table):
        if tag in _TAGS and kind in _TYPES and values:
            dtype = order + _TYPES[kind]
            room = values * int(_TYPES[kind][1])
            if room > len(inline):
                inline = source.take(struct.unpack(order + word, inline)[0], room)
            tags[tag] = np.frombuffer(inline[:room], dtype)
    return tags


def _number(source: _Bytes, code: str, at: int) -> int:
    return int(struct.unpack(code, source.take(at, struct.calcsize(code)))[0])
