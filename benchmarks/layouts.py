"""Candidate layouts of the store, and four readers of each."""

from __future__ import annotations

import mmap
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import numpy.typing as npt
import zarr
from numcodecs import blosc
from zarr.codecs import BloscCodec, Crc32cCodec
from zarr.core.buffer import default_buffer_prototype

from material import MISSING, RADAR_BANDS, SIDE, Codes

Pixels = npt.NDArray[Any]
ZARRS = "zarrs.ZarrsCodecPipeline"
ZARR_PYTHON = "zarr.core.codec_pipeline.BatchedCodecPipeline"


@dataclass(frozen=True)
class Layout:
    """A layout of pixels on disk; a chunk contains all bands."""

    months: int
    height: int
    width: int
    codec: str | None = "lz4"
    dtype: str = "int16"
    checksum: bool = False
    shards: bool = True

    def __str__(self) -> str:
        name = f"{self.months}x{self.height}x{self.width} {self.codec or 'raw'}"
        marks = [self.dtype] if self.dtype != "int16" else []
        marks += ["crc32c"] if self.checksum else []
        marks += [] if self.shards else ["no shards"]
        return " ".join([name, *marks])

    @property
    def level(self) -> int:
        """The codec's level: a fast one, since data are read often."""
        return 1 if self.codec == "zstd" else 5

    def spans(self, window: Sequence[slice]) -> list[range]:
        """Return the chunks that months, rows and columns touch, by dimension."""
        sizes = (self.months, self.height, self.width)
        return [
            range(part.start // size, -(-part.stop // size))
            for part, size in zip(window, sizes, strict=True)
        ]

    def touched(self, top: int, left: int, side: int) -> float:
        """Return the pixels of all touched chunks over those of the window."""
        rows = -(-(top + side) // self.height) - top // self.height
        columns = -(-(left + side) // self.width) - left // self.width
        return rows * columns * self.height * self.width / side**2

    def write(self, path: Path, codes: Codes) -> None:
        """Write chips (chip, month, band, y, x) or a scene (month, band, y, x)."""
        lead = (1,) * (codes.ndim - 4)
        months, bands = codes.shape[-4:-2]
        codecs: list[Any] = []
        if self.codec:
            codecs.append(
                BloscCodec(cname=self.codec, clevel=self.level, shuffle="bitshuffle")  # type: ignore[arg-type]
            )
        if self.checksum:
            codecs.append(Crc32cCodec())
        array = zarr.create_array(
            path,
            shape=codes.shape,
            dtype=self.dtype,
            chunks=(*lead, self.months, bands, self.height, self.width),
            shards=(*lead, months, bands, SIDE, SIDE) if self.shards else None,
            compressors=codecs,
            fill_value=MISSING if self.dtype == "int16" else np.nan,
        )
        for chip in range(len(codes)) if lead else [...]:
            array[chip] = stored(codes[chip], self.dtype)


def stored(codes: Codes, dtype: str) -> Pixels:
    """Return pixels of a dtype: codes unchanged, or physical values as float32."""
    if dtype == "int16":
        return codes
    steps = np.ones((codes.shape[-3], 1, 1), np.float32)
    steps[:RADAR_BANDS] = 0.01
    return np.where(codes == MISSING, np.float32(np.nan), codes * steps)


class Direct:
    """A reader without zarr: the shard's index, its chunks and their positions.

    It shows the speed that a custom reader can reach with any layout. The library's
    reader (geobiomass.cube) supports one layout and checks more.
    """

    def __init__(self, path: Path, layout: Layout) -> None:
        self.path, self.layout = path, layout
        array = zarr.open_array(path, mode="r")
        self.shape = array.shape[-4:]
        self.chunk = (layout.months, self.shape[1], layout.height, layout.width)
        self.count = int(np.prod(self.chunk))

    def read(self, chip: int | None, months: slice, rows: slice, cols: slice) -> Pixels:
        """Read a window, (month, band, y, x), into this thread's buffer."""
        lay = self.layout
        wanted = (months, rows, cols)
        out = _window(wanted, self.shape[1], lay.dtype)
        sizes = (lay.months, lay.height, lay.width)
        opened: dict[tuple[int, ...], Pixels] = {}
        for position in product(*lay.spans(wanted)):
            raw = self.raw(chip, position, opened)
            chunk = decode(lay, raw, self.count).reshape(self.chunk)
            inside, outside = [], []
            for index, size, part in zip(position, sizes, wanted, strict=True):
                first = max(part.start, index * size)
                last = min(part.stop, (index + 1) * size)
                inside.append(slice(first - index * size, last - index * size))
                outside.append(slice(first - part.start, last - part.start))
            (t, r, c), (ot, orow, oc) = inside, outside
            out[ot, :, orow, oc] = chunk[t, :, r, c]
        return out

    def raw(
        self,
        chip: int | None,
        position: tuple[int, ...],
        opened: dict[tuple[int, ...], Pixels],
    ) -> Pixels:
        """Return a chunk's stored bytes; `opened` caches the shards of a window."""
        month, row, column = position
        if not self.layout.shards:
            return self._file(chip, month, row, column)
        counts = SIDE // self.layout.height, SIDE // self.layout.width
        shard = row // counts[0], column // counts[1]
        if shard not in opened:
            opened[shard] = self._file(chip, 0, *shard)
        raw = opened[shard]
        total = (self.shape[0] // self.layout.months) * counts[0] * counts[1]
        index = raw[-(16 * total + 4) : -4].view("<u8").reshape(-1, 2)  # 4: crc32c
        within = (month * counts[0] + row % counts[0]) * counts[1] + column % counts[1]
        start, length = (int(value) for value in index[within])
        return raw[start : start + length]

    def _file(self, chip: int | None, month: int, row: int, column: int) -> Pixels:
        lead = () if chip is None else (chip,)
        name = "/".join(map(str, (*lead, month, 0, row, column)))
        with (self.path / "c" / name).open("rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return np.frombuffer(mapped, np.uint8)


def decode(layout: Layout, raw: Pixels, count: int) -> Pixels:
    """Decode a chunk to `count` pixels, flat, and verify its checksum if it has one.

    The pixels are valid until the same thread decodes its next chunk.
    """
    if layout.checksum:
        raw, found = raw[:-4], raw[-4:].tobytes()
        if google_crc32c.value(raw).to_bytes(4, "little") != found:
            raise ValueError(f"A chunk of layout {layout} does not match its checksum.")
    if not layout.codec:
        return np.frombuffer(raw, layout.dtype)
    out = _scratch(count, layout.dtype)
    blosc.decompress(raw, out)
    return out


_local = threading.local()


def _scratch(count: int, dtype: str, use: str = "chunk") -> Pixels:
    """Return this thread's buffer; new memory for each chunk costs as much as lz4."""
    found: Pixels | None = getattr(_local, use, None)
    if found is None or found.size != count or found.dtype != dtype:
        found = np.empty(count, dtype)
        setattr(_local, use, found)
    return found


def _window(parts: Sequence[slice], bands: int, dtype: str) -> Pixels:
    """Return this thread's buffer for a window of months, rows and columns."""
    months, height, width = (part.stop - part.start for part in parts)
    flat = _scratch(months * bands * height * width, dtype, "window")
    return flat.reshape(months, bands, height, width)


class InMemory:
    """A reader of chunks in memory that discards the pixels: the speed of the codec.

    The first pass over the windows reads the chunks from the store.
    """

    def __init__(self, store: Direct) -> None:
        self.store = store
        self._held: dict[tuple[int | None, tuple[int, ...]], Pixels] = {}

    def read(self, chip: int | None, months: slice, rows: slice, cols: slice) -> None:
        """Decode the chunks that a window touches."""
        lay = self.store.layout
        for position in product(*lay.spans((months, rows, cols))):
            if (chip, position) not in self._held:
                self._held[chip, position] = self.store.raw(chip, position, {}).copy()
            pixels = decode(lay, self._held[chip, position], self.store.count)
            if not lay.codec:
                _scratch(self.store.count, lay.dtype)[...] = pixels


def through_zarr(path: Path) -> Callable[..., Pixels]:
    """Return a reader that uses zarr, with the codec pipeline at its creation."""
    array = zarr.open_array(path, mode="r")
    buffers = default_buffer_prototype().nd_buffer

    def read(chip: int | None, months: slice, rows: slice, cols: slice) -> Pixels:
        lead = () if chip is None else (slice(chip, chip + 1),)
        out = _window((months, rows, cols), array.shape[-3], str(array.dtype))
        position = (*lead, months, slice(None), rows, cols)
        into = buffers.from_numpy_array(out[None] if lead else out)
        array.get_basic_selection(position, out=into)
        return out

    return read


@contextmanager
def pipeline(name: str, threads: int) -> Iterator[None]:
    """Set zarr's codec pipeline and its threads within a ``with`` block."""
    with zarr.config.set(
        {"codec_pipeline.path": name, "threading.max_workers": threads}
    ):
        yield


@cache
def has_zarrs() -> bool:
    """Return whether zarrs is installed."""
    from importlib.util import find_spec

    return find_spec("zarrs") is not None
