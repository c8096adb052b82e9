"""Variables of a cube on disk, read a window at a time as fast as the machine reads.

A cube that :func:`write_cube` put on a local disk is read straight out of its
shards: the chunks that a window touches, and no others, are decoded into place.
Any other array goes through Zarr, with the zarrs codecs where they are installed.
Both give the same bits; ``benchmarks/store.py`` has the ratios.
"""

from __future__ import annotations

import importlib.util
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import FileIO
from itertools import product
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, cast

import numpy as np
import numpy.typing as npt
from google_crc32c import value as crc32c
from numcodecs import blosc

from geobiomass.cube.schema import DamagedError
from geobiomass.threads import silence_warning

if TYPE_CHECKING:
    import pandas as pd
    import zarr

Codes = npt.NDArray[Any]
Pixels = npt.NDArray[np.float32]
Spans = tuple[slice, ...]

_ABSENT = 2**64 - 1  # where a shard does not hold a chunk
_OPENING = threading.Lock()


@contextmanager
def quick_codecs() -> Iterator[None]:
    """Let arrays that are opened meanwhile use the zarrs codecs, where installed."""
    import zarr

    if importlib.util.find_spec("zarrs") is None:
        yield
        return
    setting = {"codec_pipeline.path": "zarrs.ZarrsCodecPipeline"}
    # It falls back to Zarr's own codecs by itself, with the same values.
    silence_warning(UserWarning, "Array is unsupported by Zarrs")
    # It opens a store of obstore a second time, with connections of its own.
    silence_warning(Warning, "Successfully reconstructed a store")
    # Zarr's settings belong to the whole process: one thread at a time.
    with _OPENING, zarr.config.set(setting):
        yield


@dataclass(frozen=True)
class Layout:
    """How an array lies in shards that can be read directly."""

    chunk: tuple[int, ...]
    shard: tuple[int, ...]
    checksum: bool

    @classmethod
    def of(cls, array: zarr.Array[Any]) -> Self | None:
        """Give an array's layout, or None where Zarr has to read it."""
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


class StoredArray:
    """A variable of a cube on disk; indexing gives physical values.

    dask slices it like any array; the feed takes its codes as they are. Pickled it
    is a place and metadata, no pixels.

    Parameters
    ----------
    array : zarr.Array
        Of any dimensions, the last two y and x.
    where : str
        The store, for messages.
    steps : numpy.ndarray, optional
        Physical value of one code, one for all or (band, 1, 1); None: values are
        stored as they are.
    missing : int, optional
        The code of missing values.
    labels : mapping of str to sequence of str
        Names along dimensions, such as the chips' ids, for messages.
    held : numpy.ndarray of bool, optional
        Whether a shard holds any value, by number of chip, or by row and column of a
        scene's shards. One that should and is not there is lost; to Zarr it would be
        missing values.
    statistics : pandas.DataFrame, optional
        Of the whole variable, a row a band.
    """

    dtype = np.dtype(np.float32)

    def __init__(
        self,
        array: zarr.Array[Any],
        where: str,
        steps: Pixels | None = None,
        missing: int | None = None,
        labels: Mapping[str, Sequence[str]] | None = None,
        held: npt.NDArray[np.bool_] | None = None,
        statistics: pd.DataFrame | None = None,
    ) -> None:
        self.array = array
        self.where = where
        self.steps = steps
        self.missing = missing
        self.labels = dict(labels or {})
        self.held = held
        self.statistics = statistics
        self.shape = tuple(array.shape)
        self.ndim = len(self.shape)
        self.layout = Layout.of(array)
        exact = missing is not None and array.dtype == np.int16
        # float32 holds every code of 16 bits; wider ones are decoded when read.
        self.code_type = array.dtype if exact else self.dtype

    def __getstate__(self) -> dict[str, Any]:
        """Leave the open array behind: it may use codecs that others lack."""
        state = {k: v for k, v in vars(self).items() if k != "array"}
        metadata = self.array.metadata.to_dict()
        return state | {"opened": (metadata, self.array.store_path)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Open the array again, without reading anything."""
        import zarr
        from zarr.core.metadata import ArrayV3Metadata

        metadata, store_path = state.pop("opened")
        vars(self).update(state)
        metadata = ArrayV3Metadata.from_dict(metadata)
        with quick_codecs():
            self.array = zarr.Array(zarr.AsyncArray(metadata, store_path=store_path))

    def __getitem__(self, index: Any) -> Pixels:
        """Read physical values, NaN where missing; each dimension by itself.

        By slices, whole numbers, or lists of them, as dask asks when choices were
        made before.
        """
        spans, kept = _hull(index, self.shape)
        values: Pixels = np.empty(_lengths(spans), np.float32)
        self.read(spans, values)
        for axis in reversed(range(self.ndim)):
            values = values[(slice(None),) * axis + (kept[axis],)]
        return np.asarray(values)

    def read(self, spans: Spans, out: Codes) -> None:
        """Read a window as physical values, or as codes.

        Parameters
        ----------
        spans : tuple of slice
            From where to where, by dimension.
        out : numpy.ndarray
            Of the window's shape. float32: physical values, NaN where missing;
            of :attr:`code_type`, where that is another: codes.
        """
        if self.layout is None:
            self._decode(self._through_zarr(spans), spans, out)
            return
        buffer = np.empty(self.layout.chunk, self.array.dtype)
        for chunk, encoded in self._encoded(spans, self.layout):
            self._unpack(chunk, encoded, buffer)
            inside, target = _overlap(chunk, self.layout.chunk, spans)
            within = tuple(
                slice(span.start + part.start, span.start + part.stop)
                for span, part in zip(spans, target, strict=True)
            )
            self._decode(buffer[inside], within, out[target])

    def cells(self, spans: Spans) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Give what :meth:`read_cells` fills for a window.

        Returns
        -------
        grid, corner : tuple of int
            Shape: cells by dimension, then the size of a cell; and where in those
            cells the window begins.
        """
        if self.layout is None:
            return ((1,) * self.ndim + tuple(_lengths(spans)), (0,) * self.ndim)
        chunk = self.layout.chunk
        pairs = list(zip(spans, chunk, strict=True))
        counts = tuple(-(-s.stop // c) - s.start // c for s, c in pairs)
        return counts + chunk, tuple(s.start % c for s, c in pairs)

    def read_cells(self, spans: Spans, out: Codes) -> None:
        """Read the chunks that hold a window, each in one piece, as codes.

        To arrange them is left to whoever has the codes: together with the scaling,
        on the device, it costs next to nothing.

        Parameters
        ----------
        spans : tuple of slice
            From where to where, by dimension.
        out : numpy.ndarray
            At least of the shape that :meth:`cells` gives, of :attr:`code_type`.
        """
        if self.layout is None:
            window = out[(0,) * self.ndim]
            codes = self._through_zarr(spans)
            window = window[tuple(slice(length) for length in codes.shape)]
            self._decode(codes, spans, window)
            return
        first = [s.start // c for s, c in zip(spans, self.layout.chunk, strict=True)]
        same = out.dtype == self.array.dtype
        buffer = None if same else np.empty(self.layout.chunk, self.array.dtype)
        for chunk, encoded in self._encoded(spans, self.layout):
            cell = out[tuple(i - f for i, f in zip(chunk, first, strict=True))]
            codes = cell if buffer is None else buffer
            self._unpack(chunk, encoded, codes)
            if buffer is not None:
                pairs = zip(chunk, self.layout.chunk, strict=True)
                whole = tuple(slice(i * n, (i + 1) * n) for i, n in pairs)
                self._decode(buffer, whole, cell)

    def _decode(self, codes: Codes, spans: Spans, out: Codes) -> None:
        steps = self.steps
        if out.dtype == codes.dtype and self.missing is not None:
            out[...] = codes
            return
        if steps is not None and steps.ndim > 1:
            steps = steps[spans[-3]]
        decode(codes, steps, self.missing, out)

    # --- straight out of shards ---

    def _encoded(
        self, spans: Spans, layout: Layout
    ) -> Iterator[tuple[tuple[int, ...], Codes | None]]:
        """Yield the chunks that hold a window, shard by shard: number and bytes.

        The bytes are gone when the next ones are asked for.
        """
        pairs = zip(spans, layout.chunk, strict=True)
        chunks = [range(s.start // c, -(-s.stop // c)) for s, c in pairs]
        pairs_of_grid = list(zip(chunks, layout.grid, strict=True))
        shards = [range(r.start // g, (r.stop - 1) // g + 1) for r, g in pairs_of_grid]
        for shard in product(*shards):
            inside = [
                range(max(r.start, k * g), min(r.stop, (k + 1) * g))
                for k, (r, g) in zip(shard, pairs_of_grid, strict=True)
            ]
            yield from self._encoded_in(shard, inside, layout)

    def _encoded_in(
        self, shard: tuple[int, ...], chunks: Sequence[range], layout: Layout
    ) -> Iterator[tuple[tuple[int, ...], Codes | None]]:
        path = self._file(shard)
        try:
            file = FileIO(path)
        except FileNotFoundError:
            if self._should_hold(shard):
                raise self._damaged(self._span_of(shard, layout.shard), path) from None
            yield from ((chunk, None) for chunk in product(*chunks))
            return
        with file:
            index = self._index(file, shard, layout)
            # Plain numbers: what is done for each chunk holds up the other threads.
            entries = index.reshape(-1, 2).tolist()
            strides = [prod(layout.grid[axis + 1 :]) for axis in range(self.ndim)]
            origin = [k * g for k, g in zip(shard, layout.grid, strict=True)]
            for chunk in product(*chunks):
                place = (
                    (i - o) * s for i, o, s in zip(chunk, origin, strides, strict=True)
                )
                offset, length = entries[sum(place)]
                if offset == _ABSENT:
                    yield chunk, None
                    continue
                encoded = _scratch(length)
                file.seek(offset)
                yield chunk, encoded[: file.readinto(encoded.data)]

    def _index(
        self, file: FileIO, shard: tuple[int, ...], layout: Layout
    ) -> npt.NDArray[np.uint64]:
        """Read where a shard holds its chunks: offset and length of each."""
        size = file.seek(0, 2)
        raw = np.zeros(16 * prod(layout.grid) + 4, np.uint8)
        if size >= raw.size:
            file.seek(size - raw.size)
            file.readinto(raw.data)
        index = raw[:-4].view(np.uint64).reshape(*layout.grid, 2)
        used = index[index[..., 0] != _ABSENT]
        sound = (
            size >= raw.size
            and crc32c(raw[:-4]) == _number(raw[-4:])
            and not (used.sum(axis=-1) > size).any()
        )
        if not sound:
            raise self._damaged(self._span_of(shard, layout.shard), self._file(shard))
        return index

    def _unpack(
        self, chunk: tuple[int, ...], encoded: Codes | None, out: Codes
    ) -> None:
        """Check and decode one chunk."""
        if encoded is None:
            out[...] = self.array.fill_value
            return
        layout = cast(Layout, self.layout)
        body = encoded[:-4] if layout.checksum else encoded
        sound = not layout.checksum or _number(encoded[-4:]) == crc32c(body)
        try:
            # A blosc frame tells in bytes 4 to 7 what it decodes to.
            if sound := sound and _number(body[4:8]) == out.nbytes:
                blosc.decompress(body, out)
        except (RuntimeError, ValueError):
            sound = False
        if not sound:
            shard = tuple(i // g for i, g in zip(chunk, layout.grid, strict=True))
            span = self._span_of(chunk, layout.chunk)
            raise self._damaged(span, self._file(shard))

    def _file(self, shard: tuple[int, ...]) -> Path:
        key = self.array.metadata.encode_chunk_key(shard)
        store = cast(Any, self.array.store)  # a LocalStore, by the layout
        return Path(store.root) / self.array.path / key

    def _should_hold(self, shard: tuple[int, ...]) -> bool:
        if self.held is None:
            return False
        # Months and bands are whole in a shard.
        return bool(self.held[shard[:1] if self.held.ndim == 1 else shard[-2:]])

    # --- through Zarr ---

    def _through_zarr(self, spans: Spans) -> Codes:
        """Read a window's codes in the order of the dimensions.

        Raises
        ------
        DamagedError
            If Zarr cannot read it, or a shard is gone.
        """
        try:
            codes: Codes = np.asarray(self.array[spans])
        except Exception as error:
            raise self._damaged(spans, self.array.store_path, error) from error
        self._refuse_lost_shards(spans, codes)
        return codes

    def _refuse_lost_shards(self, spans: Spans, codes: Codes) -> None:
        """Zarr takes a shard that is gone for one without values."""
        from zarr.core.sync import sync

        if self.held is None:
            return
        shard = self.array.shards or self.array.chunks
        there = np.isfinite(codes) if self.missing is None else codes != self.missing
        ranges = [
            range(s.start // c, -(-s.stop // c))
            for s, c in zip(spans, shard, strict=True)
        ]
        for number in product(*ranges):
            _, target = _overlap(number, shard, spans)
            if there[target].any() or not self._should_hold(number):
                continue
            key = f"{self.array.path}/{self.array.metadata.encode_chunk_key(number)}"
            if not sync(self.array.store.exists(key.lstrip("/"))):
                raise self._damaged(self._span_of(number, shard), key)

    # --- messages ---

    def _span_of(self, number: tuple[int, ...], size: tuple[int, ...]) -> Spans:
        return tuple(
            slice(i * n, min((i + 1) * n, length))
            for i, n, length in zip(number, size, self.shape, strict=True)
        )

    def _damaged(
        self, spans: Spans, file: Any, error: Exception | None = None
    ) -> DamagedError:
        names = getattr(self.array.metadata, "dimension_names", None)
        names = names or ("",) * self.ndim
        place = ", ".join(
            self._say(str(name), span, length)
            for name, span, length in zip(names, spans, self.shape, strict=True)
        )
        found = f"{file} is damaged or gone" + (f" ({error})" if error else "")
        return DamagedError(
            f"{self.array.basename} of {self.where} cannot be read at {place}: "
            f"{found}; write the cube, or these chips, again.",
            str(file),
        )

    def _say(self, dim: str, span: slice, length: int) -> str:
        names = self.labels.get(dim)
        if span == slice(0, length) and length > 1:
            return f"all {dim}s" if names is not None else f"{dim} 0 to {length - 1}"
        if names is None:
            return f"{dim} {span.start} to {span.stop - 1}"
        return f"{dim} {' '.join(str(name) for name in names[span])}"


def decode(
    codes: Codes, steps: Pixels | None, missing: int | None, out: Pixels
) -> None:
    """Turn codes into physical values, NaN where missing.

    Parameters
    ----------
    codes : numpy.ndarray
        (..., band, y, x).
    steps : numpy.ndarray or None
        Physical value of one code, one for all or (band, 1, 1).
    missing : int or None
        The code of missing values.
    out : numpy.ndarray
        Of the shape of `codes`, float32.
    """
    # In memory of its own first, while it is in the processor's cache: the rows of a
    # window are short. 16 bits are exact in float32, wider codes need float64.
    exact = codes.dtype.itemsize <= 2
    values: Codes = codes.astype(np.float32 if exact or steps is None else np.float64)
    if steps is not None:
        np.multiply(values, steps, out=values)
    if missing is not None and (gone := codes == missing).any():
        np.copyto(values, np.nan, where=gone)
    out[...] = values


_SCRATCH = threading.local()


def _scratch(size: int) -> npt.NDArray[np.uint8]:
    """Give memory of this thread's own, used over and over.

    Fresh memory is handed out by the system page by page, for as long as it takes
    to decode a tenth of a chip.
    """
    kept: npt.NDArray[np.uint8] | None = getattr(_SCRATCH, "kept", None)
    if kept is None or kept.size < size:
        kept = _SCRATCH.kept = np.empty(size, np.uint8)
    return kept[:size]


def _number(encoded: Codes) -> int:
    """Read a whole number of four bytes, or fewer where the file ends."""
    return int.from_bytes(encoded.tobytes(), "little")


def _lengths(spans: Spans) -> list[int]:
    return [span.stop - span.start for span in spans]


def _overlap(
    number: tuple[int, ...], size: tuple[int, ...], spans: Spans
) -> tuple[Spans, Spans]:
    """Where a chunk and a window meet: within the chunk, within the window."""
    inside, target = [], []
    for index, length, span in zip(number, size, spans, strict=True):
        origin = index * length
        start, stop = max(span.start, origin), min(span.stop, origin + length)
        inside.append(slice(start - origin, stop - origin))
        target.append(slice(start - span.start, stop - span.start))
    return tuple(inside), tuple(target)


def _hull(index: Any, shape: tuple[int, ...]) -> tuple[Spans, tuple[Any, ...]]:
    """Give the window that holds an index, and the index within that window."""
    given = list(index) if isinstance(index, tuple) else [index]
    if Ellipsis in given:
        at = given.index(Ellipsis)
        given[at : at + 1] = [slice(None)] * (len(shape) - len(given) + 1)
    given += [slice(None)] * (len(shape) - len(given))
    spans: list[slice] = []
    kept: list[Any] = []
    for one, length in zip(given, shape, strict=True):
        if isinstance(one, slice):
            places = range(*one.indices(length))
            low, high = min(places, default=0), max(places, default=-1)
            # The window ends at the outermost places that are wanted.
            spans.append(slice(low, high + 1))
            kept.append(slice(None, None, places.step))
        else:
            chosen = np.arange(length)[one]
            low = int(chosen.min()) if chosen.size else 0
            spans.append(slice(low, int(chosen.max()) + 1 if chosen.size else 0))
            kept.append(chosen - low)
    return tuple(spans), tuple(kept)
