"""The pixels of a cube, on disk, in dask or in memory: one protocol to read windows."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import Future
from functools import cached_property
from itertools import chain, pairwise, product
from typing import Any, Protocol

import dask
import numpy as np
import numpy.typing as npt

from geobiomass.cube import CubeError
from geobiomass.cube.cluster_watch import computed, keeper_of
from geobiomass.cube.codecs import decode
from geobiomass.cube.selection import Selection
from geobiomass.tiles import Sample, Window
from geobiomass.training.files import sha256_of

Array = npt.NDArray[np.float32]
Codes = npt.NDArray[Any]


class Pixels(Protocol):
    """An image (chip, month, band, y, x) or labels (chip, y, x); scenes lack chip."""

    code_type: np.dtype[Any]
    steps: Array | None
    missing: int | None

    @property
    def bytes(self) -> int:
        """Size of the whole array in memory, in bytes."""

    @property
    def order(self) -> tuple[list[int], list[int]]:
        """Positions of the wanted months and bands among the months and bands read."""

    def read(self, sample: Sample, out: Array | None = None) -> Array:
        """Read a window as physical values: (month, band, y, x), or (y, x)."""

    def codes(self, sample: Sample) -> Codes:
        """Read a window of an image as it is stored, (month, band, y, x)."""

    def cells(self, sample: Sample) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return the shape that :meth:`fill` fills, and the window's corner in it."""

    def fill(self, sample: Sample, out: Codes) -> None:
        """Read the cells that hold a window, as they are stored."""

    def in_memory(self) -> Pixels:
        """Read the whole array into memory."""

    def identity(self) -> str:
        """Return a fingerprint of the values, as far as it needs no computing."""

    def stored_bytes(self) -> int:
        """Return the size of the whole stored array in bytes, compressed or not."""


def pixels_of(array: Any) -> Pixels:
    """Return the pixels of an array: on disk, with dask, or in memory."""
    if isinstance(array, np.ndarray):
        return InMemory(array)
    found = Selection.of(array)
    if found is not None and is_window(found):
        return OnDisk(found)
    return Lazy(array)


def is_window(selection: Selection) -> bool:
    """Return whether rows and columns are without gaps and in their order."""
    return all(
        np.array_equal(
            positions, np.arange(positions[0], positions[0] + len(positions))
        )
        for positions in selection.positions[-2:]
    )


class Decoded:
    """Pixels of another source, always decoded into physical values."""

    code_type: np.dtype[Any] = np.dtype(np.float32)
    steps: Array | None = None
    missing: int | None = None

    def __init__(self, source: Pixels) -> None:
        self.source = source
        months, bands = source.order
        self.order = list(range(len(months))), list(range(len(bands)))
        self.bytes = source.bytes

    def codes(self, sample: Sample) -> Codes:
        return self.source.read(sample)

    def read(self, sample: Sample, out: Array | None = None) -> Array:
        return self.source.read(sample, out)

    def cells(self, sample: Sample) -> tuple[tuple[int, ...], tuple[int, ...]]:
        window = sample.window
        lengths = (*map(len, self.order), window.height, window.width)
        return (1, 1, 1, 1, *lengths), (0, 0, 0, 0)

    def fill(self, sample: Sample, out: Codes) -> None:
        self.source.read(sample, out[0, 0, 0, 0])

    def in_memory(self) -> Pixels:
        return Decoded(self.source.in_memory())

    def identity(self) -> str:
        return self.source.identity()

    def stored_bytes(self) -> int:
        return self.source.stored_bytes()


def _into(out: Array | None, values: Codes) -> Array:
    if out is None:
        return np.ascontiguousarray(values, np.float32)
    out[...] = values
    return out


class _Cut:
    """Common base of dask and numpy arrays: a window is cut from the array."""

    code_type: np.dtype[Any] = np.dtype(np.float32)
    steps: Array | None = None
    missing: int | None = None

    def __init__(self, array: Any) -> None:
        self.array = array

    @property
    def bytes(self) -> int:
        return int(self.array.size) * self.code_type.itemsize

    @property
    def order(self) -> tuple[list[int], list[int]]:
        months, bands = self.array.shape[-4:-2]
        return list(range(months)), list(range(bands))

    def cells(self, sample: Sample) -> tuple[tuple[int, ...], tuple[int, ...]]:
        window = sample.window
        pixels = (window.height, window.width)
        return (1, 1, 1, 1, *self.array.shape[-4:-2], *pixels), (0, 0, 0, 0)

    def codes(self, sample: Sample) -> Codes:
        return np.asarray(self.cut(sample))

    def stored_bytes(self) -> int:
        return self.bytes

    def cut(self, sample: Sample) -> Any:
        """Return a window; it is lazy if the array is."""
        part = self.array if sample.chip is None else self.array[sample.chip]
        return part[..., sample.window.rows, sample.window.columns]


class Lazy(_Cut):
    """A dask array, computed for every window that is read."""

    def __init__(self, array: Any) -> None:
        super().__init__(array)
        self.keeper = keeper_of(array)  # of chunks that lie on a cluster's workers

    def read(self, sample: Sample, out: Array | None = None) -> Array:
        # Many windows are read on threads already: no threads within a thread.
        return _into(out, self._compute(self.cut(sample), "synchronous"))

    def _compute(self, array: Any, scheduler: str) -> Codes:
        if self.keeper is not None:
            return np.asarray(computed(array, "the cube was being read", self.keeper))
        (values,) = dask.compute(array, scheduler=scheduler)  # type: ignore[attr-defined, no-untyped-call]
        return np.asarray(values)

    def fill(self, sample: Sample, out: Codes) -> None:
        out[0, 0, 0, 0] = self.read(sample)

    def in_memory(self) -> InMemory:
        values = self._compute(self.array, "threads")
        return InMemory(np.ascontiguousarray(values, np.float32))

    def identity(self) -> str:
        return f"computed {self.array.shape}"

    def __getstate__(self) -> dict[str, Any]:
        """Return the state to pickle, for the workers of a cluster.

        Raises
        ------
        CubeError
            If the cluster keeps the chunks: a worker that waits for others of its own
            cluster can wait for ever.
        """
        if self.keeper is not None:
            raise CubeError(
                "The cube's chunks are kept by the dask cluster (persist), and cannot "
                "be read within its own tasks: write the cube with gb.write_cube and "
                "open that, or compute without the cluster."
            )
        return dict(vars(self))


class Kept(Lazy):
    """A dask array whose chunks are kept in memory for the next windows.

    Without this, windows that overlap or are smaller than a chunk would compute the
    chunk again each time.

    Parameters
    ----------
    array : dask.array.Array
        Not computed yet.
    height, width : int
        Size of a window, pixels: the chunks that such a window may touch are kept. The
        least recently used leave first.
    """

    def __init__(self, array: Any, height: int, width: int) -> None:
        super().__init__(array)
        tall, wide = (max(chunks) for chunks in array.chunks[-2:])
        months, bands = array.shape[-4:-2]
        self._limit = 4 * months * bands * (height + tall) * (width + wide)
        self._edges = [np.cumsum([0, *chunks]) for chunks in array.chunks[-2:]]
        self._start()

    def _start(self) -> None:
        self._lock = threading.Lock()
        self._chunks: dict[Any, Future[Array]] = {}

    def read(self, sample: Sample, out: Array | None = None) -> Array:
        window = sample.window
        parts = [
            (Window(*corner, *opposite), (sample.chip, *corner))
            for corner, opposite in self._chunks_of(window)
        ]
        shape = (*self.array.shape[-4:-2], window.height, window.width)
        values = np.empty(shape, np.float32) if out is None else out
        for chunk, key in parts:
            common = chunk.intersect(window)
            if common is not None:
                part = self._chunk(Sample(chunk, sample.chip), key)
                values[:, :, *common.within(window)] = part[:, :, *common.within(chunk)]
        return values

    def _chunks_of(
        self, window: Window
    ) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
        """Yield the first and last corners of the chunks that hold a window."""
        rows, columns = (
            [
                (int(low), int(high))
                for low, high in pairwise(edges)
                if low < stop and high > start
            ]
            for edges, start, stop in (
                (self._edges[0], window.top, window.bottom),
                (self._edges[1], window.left, window.right),
            )
        )
        for (top, bottom), (left, right) in product(rows, columns):
            yield (top, left), (bottom, right)

    def _chunk(self, sample: Sample, key: Any) -> Array:
        """Compute a chunk, or wait for the thread that does; mark it as used."""
        with self._lock:
            found = self._chunks.pop(key, None)
            ours = found is None
            self._chunks[key] = found = found or Future()
        if ours:
            try:
                found.set_result(super().read(sample))
            except BaseException as error:
                with self._lock:
                    self._chunks.pop(key, None)  # the next read tries again
                found.set_exception(error)
            self._make_room()
        return found.result()

    def _make_room(self) -> None:
        with self._lock:
            done = [(key, f.result()) for key, f in self._chunks.items() if f.done()]
            size = sum(values.nbytes for _, values in done)
            for key, values in done[:-1]:
                if size <= self._limit:
                    return
                del self._chunks[key]
                size -= values.nbytes

    def __getstate__(self) -> dict[str, Any]:
        state = super().__getstate__()
        return {k: v for k, v in state.items() if k not in ("_lock", "_chunks")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._start()


class InMemory(_Cut):
    """An array in memory: physical values, or codes that are decoded when read."""

    def __init__(
        self,
        array: Codes,
        steps: Array | None = None,
        missing: int | None = None,
    ) -> None:
        super().__init__(array)
        self.steps = steps
        self.missing = missing
        self.code_type = array.dtype if missing is not None else self.code_type

    def read(self, sample: Sample, out: Array | None = None) -> Array:
        part = self.cut(sample)
        if self.missing is None:
            return _into(out, part)
        values = np.empty(part.shape, np.float32) if out is None else out
        decode(part, self.steps, self.missing, values)
        return values

    def fill(self, sample: Sample, out: Codes) -> None:
        out[0, 0, 0, 0] = self.cut(sample)

    def in_memory(self) -> InMemory:
        return self

    def identity(self) -> str:
        return self._identity

    @cached_property
    def _identity(self) -> str:
        parts = (np.ascontiguousarray(one).data for one in self.array)
        return sha256_of(chain([repr(self.array.shape)], parts))


class OnDisk:
    """Part of a variable on disk, read straight out of its shards."""

    def __init__(self, selection: Selection) -> None:
        self.stored = selection.stored
        self.whole = selection.whole
        self.positions = selection.positions
        self.spans = selection.spans
        self.code_type = self.stored.code_type
        exact = self.code_type != np.float32
        self.missing = self.stored.missing if exact else None
        self.steps = self._steps() if exact else None
        self._in_order = self._has_order()

    def _steps(self) -> Array | None:
        steps = self.stored.steps
        if steps is None or steps.ndim == 1:
            return steps
        return steps[self.bands]

    @property
    def bands(self) -> list[int]:
        return self.positions[-3].tolist() if len(self.positions) > 3 else []

    @property
    def order(self) -> tuple[list[int], list[int]]:
        months, bands = (
            (positions - span.start).tolist()
            for positions, span in zip(
                self.positions[-4:-2], self.spans[-4:-2], strict=True
            )
        )
        return months, bands

    @property
    def bytes(self) -> int:
        return int(np.prod([len(p) for p in self.positions])) * self.code_type.itemsize

    def _spans(self, sample: Sample) -> tuple[slice, ...]:
        """Return the span of a sample in the stored variable, including gaps."""
        spans = list(self.spans)
        if sample.chip is not None:
            chip = int(self.positions[0][sample.chip])
            spans[0] = slice(chip, chip + 1)
        for at, part in ((-2, sample.window.rows), (-1, sample.window.columns)):
            origin = spans[at].start
            spans[at] = slice(origin + part.start, origin + part.stop)
        return tuple(spans)

    def _kept(self, values: Codes, sample: Sample | None) -> Codes:
        """Return values with months and bands in order; the axis of one chip is cut."""
        if len(self.positions) > 3:
            at = len(self.positions) - 4
            for dim, wanted in zip((at, at + 1), self.order, strict=True):
                if wanted != list(range(values.shape[dim])):
                    values = values.take(wanted, axis=dim)
        return values[0] if sample is not None and sample.chip is not None else values

    def read(self, sample: Sample, out: Array | None = None) -> Array:
        spans = self._spans(sample)
        shape = [s.stop - s.start for s in spans]
        if out is not None and out.size == np.prod(shape) and self._in_order:
            self.stored.read(spans, out.reshape(shape))
            return out
        values = np.empty(shape, np.float32)
        self.stored.read(spans, values)
        return _into(out, self._kept(values, sample))

    def codes(self, sample: Sample) -> Codes:
        spans = self._spans(sample)
        codes = np.empty([s.stop - s.start for s in spans], self.code_type)
        self.stored.read(spans, codes)
        return self._kept(codes, sample)

    def _has_order(self) -> bool:
        """Return whether months and bands are taken in the stored order."""
        if len(self.positions) <= 3:
            return True
        return all(order == list(range(len(order))) for order in self.order)

    def cells(self, sample: Sample) -> tuple[tuple[int, ...], tuple[int, ...]]:
        shape, corner = self.stored.cells(self._spans(sample))
        if sample.chip is None:
            return shape, corner
        ndim = self.stored.ndim
        return shape[1:ndim] + shape[ndim + 1 :], corner[1:]

    def fill(self, sample: Sample, out: Codes) -> None:
        if sample.chip is not None:
            out = out.reshape(1, *out.shape[:4], 1, *out.shape[4:])
        self.stored.read_cells(self._spans(sample), out)

    def in_memory(self) -> InMemory:
        spans = self.spans
        codes = np.empty([s.stop - s.start for s in spans], self.code_type)
        self.stored.read(spans, codes)
        if len(self.positions) % 2:  # of chips, which may be in another order
            codes = codes.take(self.positions[0] - spans[0].start, axis=0)
        return InMemory(self._kept(codes, None), self.steps, self.missing)

    def stored_bytes(self) -> int:
        from zarr.core.sync import sync

        array = self.stored.array
        share = np.prod([len(part) for part in self.positions]) / np.prod(array.shape)
        return int(share * sync(array.store.getsize_prefix(f"{array.path}/")))

    def identity(self) -> str:
        stored = self.stored
        # A store that was moved or repaired keeps its identity. Without statistics
        # only the path distinguishes two stores of the same shape.
        known = stored.where
        if stored.statistics is not None:
            known = stored.statistics.to_csv()
        held = b"" if stored.held is None else stored.held.tobytes()
        form = repr(sorted(stored.array.metadata.to_dict().items(), key=str))
        positions = repr([part.tolist() for part in self.positions])
        return sha256_of([known, held, form, positions])
