"""Variables of a cube on disk, read a window at a time as fast as the machine reads.

A cube that :func:`write_cube` wrote to a local disk is read straight from its shards.
Any other array is read by Zarr, with the zarrs codecs where they are installed.
Both give the same bits.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt

from geobiomass.cube.address_errors import failure_of
from geobiomass.cube.codecs import Codes, Pixels, decode, quick_codecs
from geobiomass.cube.schema import ChangedError, DamagedError
from geobiomass.cube.shards import (
    Layout,
    Number,
    Spans,
    UnsoundError,
    encoded_chunks,
    overlap,
    unpack,
)

if TYPE_CHECKING:
    import pandas as pd
    import zarr

    from geobiomass.cube.one_state import Origin
    from geobiomass.cube.store_seal import ArraySeal


class StoredArray:
    """A variable of a cube on disk; indexing reads physical values.

    dask slices it like any array; the data loader reads its codes as they are. A
    pickle contains the path and the metadata, no pixels.

    Parameters
    ----------
    array : zarr.Array
        Array of any dimensions; the last two are y and x.
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
        Whether a shard contains any value, by number of chip, or by row and column of
        a scene's shards. If such a shard is not there, it is lost; Zarr would read
        missing values.
    statistics : pandas.DataFrame, optional
        Statistics of the whole variable, one row per band.
    sealed : ArraySeal, optional
        Checksums of its shards. Each is checked before it is read.
    remedy : str
        What to do about damage, for messages.
    origin : Origin, optional
        Notices when the store is written again; compared after each reading.
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
        sealed: ArraySeal | None = None,
        remedy: str = "write the cube, or these chips, again",
        origin: Origin | None = None,
    ) -> None:
        self.array = array
        self.where = where
        self.steps = steps
        self.missing = missing
        self.labels = dict(labels or {})
        self.held = held
        self.statistics = statistics
        self.sealed = sealed
        self.remedy = remedy
        self.origin = origin
        self._found_whole: set[Number] = set()  # objects; files are looked at each time
        self.shape = tuple(array.shape)
        self.ndim = len(self.shape)
        self.layout = Layout.of(array)
        exact = missing is not None and array.dtype == np.int16
        # float32 holds every code of 16 bits; wider ones are decoded when read.
        self.code_type = array.dtype if exact else self.dtype

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the open array: its codecs may not be installed elsewhere."""
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
        """Read physical values, NaN where missing; each dimension separately.

        By slices, integers, or lists of integers, as dask passes them after several
        selections.
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
            Start and stop, by dimension.
        out : numpy.ndarray
            Array of the window's shape. float32: physical values, NaN where missing;
            of :attr:`code_type`, if it is not float32: codes.
        """
        if self.layout is None:
            self._decode(self._through_zarr(spans), spans, out)
            return
        self._read_shards(spans, out, self.layout)
        if self.origin is not None:
            self.origin.check()

    def _read_shards(self, spans: Spans, out: Codes, layout: Layout) -> None:
        buffer = np.empty(layout.chunk, self.array.dtype)
        for chunk, encoded in self._encoded(spans, layout):
            self._unpack(chunk, encoded, buffer, layout)
            inside, target = overlap(chunk, layout.chunk, spans)
            within = tuple(
                slice(span.start + part.start, span.start + part.stop)
                for span, part in zip(spans, target, strict=True)
            )
            self._decode(buffer[inside], within, out[target])

    def cells(self, spans: Spans) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return the shape that :meth:`read_cells` fills for a window.

        Returns
        -------
        grid, corner : tuple of int
            Shape: cells by dimension, then the size of a cell; and the position of
            the window's first pixel in those cells.
        """
        if self.layout is None:
            return ((1,) * self.ndim + tuple(_lengths(spans)), (0,) * self.ndim)
        chunk = self.layout.chunk
        pairs = list(zip(spans, chunk, strict=True))
        counts = tuple(-(-s.stop // c) - s.start // c for s, c in pairs)
        return counts + chunk, tuple(s.start % c for s, c in pairs)

    def read_cells(self, spans: Spans, out: Codes) -> None:
        """Read the whole chunks that a window touches, as codes.

        The caller arranges them into an image: on the device, together with the
        scaling, that costs next to nothing.

        Parameters
        ----------
        spans : tuple of slice
            Start and stop, by dimension.
        out : numpy.ndarray
            At least of the shape that :meth:`cells` returns, of :attr:`code_type`.
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
            self._unpack(chunk, encoded, codes, self.layout)
            if buffer is not None:
                pairs = zip(chunk, self.layout.chunk, strict=True)
                whole = tuple(slice(i * n, (i + 1) * n) for i, n in pairs)
                self._decode(buffer, whole, cell)
        if self.origin is not None:
            self.origin.check()

    def _decode(self, codes: Codes, spans: Spans, out: Codes) -> None:
        steps = self.steps
        if out.dtype == codes.dtype and self.missing is not None:
            out[...] = codes
            return
        if steps is not None and steps.ndim > 1:
            steps = steps[spans[-3]]
        decode(codes, steps, self.missing, out)

    # --- straight from shards ---

    def _encoded(
        self, spans: Spans, layout: Layout
    ) -> Iterator[tuple[Number, Codes | None]]:
        """Yield the chunks that a window touches: number and encoded bytes.

        The bytes are overwritten when the next ones are asked for.
        """
        for shard, chunks in layout.shards_of(spans):
            path = self._file(shard)
            try:
                self._check([shard], layout.shard)
                yield from encoded_chunks(path, shard, chunks, layout)
            except FileNotFoundError:
                if self._should_exist(shard):
                    span = self._span_of(shard, layout.shard)
                    raise self._damaged(span, path) from None
                yield from ((chunk, None) for chunk in product(*chunks))
            except UnsoundError:
                span = self._span_of(shard, layout.shard)
                raise self._damaged(span, path) from None
            except OSError as error:
                span = self._span_of(shard, layout.shard)
                raise self._damaged(span, path, error) from error

    def _check(self, numbers: Sequence[Number], size: tuple[int, ...]) -> None:
        """Raise where a shard, or a chunk, is not the file that was written."""
        if self.sealed is None:
            return
        if self.layout is None:
            numbers = [n for n in numbers if n not in self._found_whole]
        keys = {self.array.metadata.encode_chunk_key(n): n for n in numbers}
        found = self.sealed.problem(self.array.store, list(keys))
        if found is not None:
            key, problem = found
            span = self._span_of(keys[key], size)
            raise self._damaged(span, self._name_of(key), problem)
        if getattr(self.array.store, "root", None) is None:
            self._found_whole.update(numbers)

    def _unpack(
        self, chunk: Number, encoded: Codes | None, out: Codes, layout: Layout
    ) -> None:
        """Check and decode one chunk; a chunk that is not stored has no values."""
        if encoded is None:
            out[...] = self.array.fill_value
            return
        try:
            unpack(encoded, out, layout.checksum)
        except UnsoundError:
            shard = tuple(i // g for i, g in zip(chunk, layout.grid, strict=True))
            span = self._span_of(chunk, layout.chunk)
            raise self._damaged(span, self._file(shard)) from None

    def _file(self, shard: Number) -> Path:
        key = self.array.metadata.encode_chunk_key(shard)
        store = cast(Any, self.array.store)  # a LocalStore, as the layout requires
        return Path(store.root) / self.array.path / key

    def _name_of(self, key: str) -> str:
        """Return a file's path on a disk, or an object's name in its store."""
        root = getattr(self.array.store, "root", None)
        file = f"{self.array.path}/{key}".lstrip("/")
        return file if root is None else str(Path(root) / file)

    def _should_exist(self, shard: Number) -> bool:
        """Return whether a shard contains values, as far as the cube knows."""
        if self.sealed is not None:
            return self.array.metadata.encode_chunk_key(shard) in self.sealed
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
            If Zarr cannot read it, or a shard is lost.
        """
        shard = self.array.shards or self.array.chunks
        numbers = [
            range(s.start // c, -(-s.stop // c))
            for s, c in zip(spans, shard, strict=True)
        ]
        try:
            self._check(list(product(*numbers)), shard)
            codes: Codes = np.asarray(self.array[spans])
            if self.origin is not None:
                self.origin.check()
        except (DamagedError, ChangedError):
            raise
        except Exception as error:
            raise self._damaged(spans, self.array.store_path, error) from error
        if self.sealed is None:
            self._check_shards_exist(spans, codes)
        return codes

    def _check_shards_exist(self, spans: Spans, codes: Codes) -> None:
        """Raise where a shard is lost: Zarr reads missing values there."""
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
            _, target = overlap(number, shard, spans)
            if there[target].any() or not self._should_exist(number):
                continue
            key = f"{self.array.path}/{self.array.metadata.encode_chunk_key(number)}"
            if not sync(self.array.store.exists(key.lstrip("/"))):
                raise self._damaged(self._span_of(number, shard), key)

    # --- messages ---

    def _span_of(self, number: Number, size: tuple[int, ...]) -> Spans:
        return tuple(
            slice(i * n, min((i + 1) * n, length))
            for i, n, length in zip(number, size, self.shape, strict=True)
        )

    def _damaged(
        self, spans: Spans, file: Any, error: Exception | str | None = None
    ) -> DamagedError:
        """Return the error of a file; raise that of a store that changed.

        So it does where a store cannot be reached.
        """
        if isinstance(error, Exception):
            failure = failure_of(error, self.where)
            if failure is not None and not isinstance(failure, FileNotFoundError):
                raise failure from error
        if self.origin is not None:
            self.origin.check(now=True)
        names = getattr(self.array.metadata, "dimension_names", None)
        names = names or ("",) * self.ndim
        window = ", ".join(
            self._describe_span(str(name), span, length)
            for name, span, length in zip(names, spans, self.shape, strict=True)
        )
        found = f"{file} is damaged or gone" + (f" ({error})" if error else "")
        return DamagedError(
            f"{self.array.basename} of {self.where} cannot be read at {window}: "
            f"{found}; {self.remedy}.",
            str(file),
        )

    def _describe_span(self, dim: str, span: slice, length: int) -> str:
        names = self.labels.get(dim)
        if span == slice(0, length) and length > 1:
            return f"all {dim}s" if names is not None else f"{dim} 0 to {length - 1}"
        if names is None:
            return f"{dim} {span.start} to {span.stop - 1}"
        return f"{dim} {' '.join(str(name) for name in names[span])}"


def _lengths(spans: Spans) -> list[int]:
    return [span.stop - span.start for span in spans]


def _hull(index: Any, shape: tuple[int, ...]) -> tuple[Spans, tuple[Any, ...]]:
    """Return the smallest window around an index, and the index within that window."""
    given = list(index) if isinstance(index, tuple) else [index]
    if Ellipsis in given:
        at = given.index(Ellipsis)
        given[at : at + 1] = [slice(None)] * (len(shape) - len(given) + 1)
    given += [slice(None)] * (len(shape) - len(given))
    spans: list[slice] = []
    kept: list[Any] = []
    for one, length in zip(given, shape, strict=True):
        if isinstance(one, slice):
            positions = range(*one.indices(length))
            low, high = min(positions, default=0), max(positions, default=-1)
            # The window ends at the outermost positions that are wanted.
            spans.append(slice(low, high + 1))
            kept.append(slice(None, None, positions.step))
        else:
            chosen = np.arange(length)[one]
            low = int(chosen.min()) if chosen.size else 0
            spans.append(slice(low, int(chosen.max()) + 1 if chosen.size else 0))
            kept.append(chosen - low)
    return tuple(spans), tuple(kept)
