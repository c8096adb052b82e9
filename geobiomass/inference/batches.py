"""Tiles through the network: read ahead, side by side, and each of them once.

A tile at the border of two blocks is wanted by both. Who asks first starts it; the
result is kept until all who can want it have had it, within a limit in bytes.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from geobiomass.training.augment import Orientation

Image = npt.NDArray[np.float32]
Precision = Literal["float32", "bf16", "auto"]

# Results of tiles that more than one block wants. A tile of 256 pixels takes 330 kB,
# so this is enough for a scene of 150,000 pixels across; what does not fit is
# computed again.
KEPT_BYTES = 512 * 2**20
# A pass takes up to so many times its image: the default network 3, "quick" 7, the
# winner's 12 times, measured. Where there is room for more than three times that, the
# first pass need not be measured, and so need not run alone.
_PLENTY = 40


@dataclass(frozen=True)
class Predicted:
    """What the network gave for a batch of tiles.

    Parameters
    ----------
    values : numpy.ndarray
        (tile, output, y, x) float32; anything where nothing was observed.
    seen : numpy.ndarray
        (tile, y, x) bool, whether any month has a value there.
    """

    values: npt.NDArray[np.float32]
    seen: npt.NDArray[np.bool_]

    @property
    def bytes(self) -> int:
        """What it takes in memory."""
        return self.values.nbytes + self.seen.nbytes


def device_of_maps() -> torch.device:
    """Give the device that maps are computed on: the GPU where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def resolve_precision(precision: Precision) -> Literal["float32", "bf16"]:
    """Say what a precision means on this machine.

    "auto" is bf16 on GPUs and CPUs that multiply it in hardware, float32 elsewhere.
    """
    if precision != "auto":
        return precision
    if device_of_maps().type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        native = _cpu_has_bf16()
    return "bf16" if native else "float32"


def _cpu_has_bf16() -> bool:
    """Whether this CPU has instructions for bf16, as oneDNN uses them."""
    with contextlib.suppress(OSError):
        words = set(Path("/proc/cpuinfo").read_text().split())
        return bool(words & {"avx512_bf16", "amx_bf16", "bf16"})
    return False  # not Linux: float32 is right everywhere


# --- side by side -----------------------------------------------------------------


class _Threads:
    """Threads of the whole process, while any map is being computed.

    On a CPU the number of threads that share one pass changes the last bits of its
    result; tiles side by side, one thread each, give the same bits on any number
    of cores, and are no slower. Torch's own setting is given back at the end.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._own = 1

    def __enter__(self) -> _Threads:
        with self._lock:
            if self._users == 0:
                self._own = torch.get_num_threads()
                self.count = _cores()
                passes = 1 if device_of_maps().type == "cuda" else self.count
                self.passes = ThreadPoolExecutor(passes, "tiles")
                self.readers = ThreadPoolExecutor(max(2, self.count), "reading")
                self.stager = ThreadPoolExecutor(1, "staging")
            self._users += 1
        return self

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._users -= 1
            if self._users == 0:
                self.readers.shutdown()
                self.stager.shutdown()
                self.passes.submit(torch.set_num_threads, self._own).result()
                self.passes.shutdown()


def _cores() -> int:
    """Give the threads that maps may use: torch's, or those of a worker of dask.

    dask sets torch's to one on its workers, since it runs tasks side by side.
    """
    worker = _dask_worker()
    threads = torch.get_num_threads()
    return threads if worker is None else max(threads, int(worker.state.nthreads))


def _dask_worker() -> Any:
    """Give the worker of dask that this thread computes for, None elsewhere."""
    if "distributed" in sys.modules:
        from distributed import get_worker

        with contextlib.suppress(ValueError):
            return get_worker()
    return None


THREADS = _Threads()
_ON_GPU = threading.Lock()  # one pass at a time: the GPU is shared, and so its memory


@dataclass(eq=False)
class Network:
    """A network, ready to predict batches of tiles on one device.

    Parameters
    ----------
    network : torch.nn.Module
        Called as network(image) with (batch, month, band, y, x). It is put into
        evaluation mode, and on the device.
    outputs : int
        Maps that the network predicts.
    orientations : sequence of Orientation
        Ways to lay the image; the predictions are averaged.
    precision : "float32" or "bf16"
        Of the multiplications.
    memory : int, optional
        Bytes that passes side by side may take on the CPU; by default half of what
        the process may use.
    """

    network: nn.Module
    outputs: int
    orientations: Sequence[Orientation]
    precision: Literal["float32", "bf16"]
    memory: int | None = None
    device: torch.device = field(init=False)

    def __post_init__(self) -> None:
        self.device = device_of_maps()
        self.network.to(self.device).eval()
        self._measuring = threading.Lock()
        self._side_by_side: threading.Semaphore | None = None
        if self.device.type == "cuda":
            self._copies = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]

    def stage(self, images: Sequence[Image]) -> tuple[Image, Tensor, Any]:
        """Bring a batch to the device: on a GPU while another one is computed.

        Returns
        -------
        images, tensor, ready
            The batch (tile, month, band, y, x), itself and on the device, and what
            to wait for before the tensor is used.
        """
        batch = images[0][None] if len(images) == 1 else np.stack(images)
        tensor = torch.from_numpy(batch)
        if self.device.type == "cpu":
            return batch, tensor, None
        with torch.cuda.stream(self._copies):
            moved = tensor.pin_memory().to(self.device, non_blocking=True)
            return batch, moved, self._copies.record_event()

    def predict(self, batch: Image, tensor: Tensor, ready: Any) -> Predicted:
        """Predict what was staged."""
        seen = _seen(batch)
        if not seen.any():  # nothing to look at: the values are masked anyway
            shape = (len(batch), self.outputs, *batch.shape[-2:])
            return Predicted(np.zeros(shape, np.float32), seen)
        if self.device.type == "cpu":
            torch.set_num_threads(1)  # of this thread of the pool
            with self._one_of_few(batch.nbytes):
                return Predicted(self._average(tensor), seen)
        with _ON_GPU:
            current = torch.cuda.current_stream(self.device)
            current.wait_event(ready)
            tensor.record_stream(current)
            return Predicted(self._average(tensor), seen)

    def _average(self, image: Tensor) -> npt.NDArray[np.float32]:
        kind = self.device.type
        low = self.precision == "bf16"
        exact: Any = contextlib.nullcontext()
        if kind == "cuda":  # TF32, the default there, is off by one part in a thousand
            exact = torch.backends.cudnn.flags(allow_tf32=low)
        half = torch.autocast(kind, torch.bfloat16, enabled=low)
        with torch.inference_mode(), exact, half:
            total = torch.zeros((), dtype=torch.float64)
            for orientation in self.orientations:
                turned = self.network(orientation.apply(image))
                total = total + orientation.inverse.apply(turned).double().cpu()
            return (total / len(self.orientations)).float().numpy()

    # --- memory ---

    @contextlib.contextmanager
    def _one_of_few(self, image: int) -> Iterator[None]:
        """Wait until there is memory for one more pass, of an image of so many bytes.

        Where memory may be short the first pass runs alone and is measured.
        """
        if self._side_by_side is None:
            with self._measuring:
                if self._side_by_side is None:
                    limit = self.memory or half_of_memory()
                    if limit < THREADS.count * _PLENTY * image:
                        with Watched() as watched:
                            yield
                        few = max(1, limit // max(1, watched.growth))
                        self._side_by_side = threading.Semaphore(few)
                        return
                    self._side_by_side = threading.Semaphore(THREADS.count)
        with self._side_by_side:
            yield

    def measured_batch(self, shape: tuple[int, int, int, int]) -> int:
        """Give the tiles (month, band, y, x) that fit in the GPU's memory at once.

        A power of two up to 16, beyond which a batch is no quicker.
        """
        image = torch.zeros((1, *shape), device=self.device)
        with _ON_GPU:
            torch.cuda.reset_peak_memory_stats(self.device)
            before = torch.cuda.memory_allocated(self.device)
            self._average(image)
            peak = torch.cuda.max_memory_allocated(self.device) - before
            free = torch.cuda.mem_get_info(self.device)[0]
        fitting = int(0.7 * free / max(1, peak + 3 * image.nbytes))
        return max(1, 1 << (min(16, fitting).bit_length() - 1)) if fitting else 1

    def __getstate__(self) -> dict[str, Any]:
        """Travel on the CPU; the device is that of whoever receives it."""
        import copy

        network = self.network
        if self.device.type != "cpu":
            network = copy.deepcopy(network).cpu()
        return {
            "network": network,
            "outputs": self.outputs,
            "orientations": self.orientations,
            "precision": self.precision,
            "memory": self.memory,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Settle down here."""
        self.__init__(**state)  # type: ignore[misc]


def _seen(batch: Image) -> npt.NDArray[np.bool_]:
    """Tell which pixels any month has a value at, (tile, y, x).

    Most are settled by the first plane that is looked at.
    """
    seen = np.zeros((len(batch), *batch.shape[-2:]), bool)
    for month in range(batch.shape[1]):
        for band in range(batch.shape[2]):
            seen |= np.isfinite(batch[:, month, band])
            if seen.all():
                return seen
    return seen


class Watched:
    """How much the process grows while something runs (Linux; 0 elsewhere)."""

    growth = 0

    def __enter__(self) -> Watched:
        self._stop = threading.Event()
        # Before the thread: on a busy machine it may begin when memory is taken.
        self._start = _resident()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while True:
            self.growth = max(self.growth, _resident() - self._start)
            if self._stop.wait(0.005):
                return

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()


def _resident() -> int:
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def half_of_memory() -> int:
    """Give half of what this process may use: of the machine, container or worker."""
    from distributed.system import MEMORY_LIMIT

    worker = _dask_worker()
    own = None if worker is None else worker.memory_manager.memory_limit
    return int(own or MEMORY_LIMIT) // 2


# --- each once --------------------------------------------------------------------


@dataclass(eq=False)
class _Entry:
    """A batch that was started, once for all blocks."""

    wanted: int  # blocks that have yet to be done with it
    waiting: int = 0  # blocks that hold on to it now
    result: Future[Predicted] = field(default_factory=Future)

    @property
    def bytes(self) -> int:
        """What the result takes; nothing where there is none."""
        if not self.result.done() or self.result.exception() is not None:
            return 0
        return self.result.result().bytes


class Batches:
    """Runs batches of tiles, each once for all blocks that want it.

    Parameters
    ----------
    network : Network
        What predicts a batch.
    read : callable
        Gives the image of one tile.
    slots : int
        Batches in memory: being read, waiting, or in the network.
    kept : int
        Bytes of results to keep for blocks that have yet to come.
    """

    def __init__(
        self,
        network: Network,
        read: Callable[[Any], Image],
        slots: int,
        kept: int = KEPT_BYTES,
    ) -> None:
        self.slots = slots
        self._network = network
        self._read = read
        self._free = threading.BoundedSemaphore(slots)
        self._kept = kept
        self._lock = threading.Lock()
        self._entries: dict[Hashable, _Entry] = {}
        self._stopped = False

    def stop(self) -> None:
        """Start nothing any more: whoever wants another batch gets an error."""
        self._stopped = True

    def start(self, key: Hashable, tiles: Sequence[Any], wanted: int) -> Started:
        """Start a batch, unless it was; wait while there is no slot.

        Parameters
        ----------
        key : hashable
            Which batch.
        tiles : sequence
            What `read` is called with, a tile each.
        wanted : int
            Blocks that want it, this one included.
        """
        with self._lock:
            entry = self._entries.get(key)
            ours = entry is None
            if entry is None:
                entry = self._entries[key] = _Entry(wanted)
            entry.waiting += 1
        if ours:
            self._free.acquire()
            if self._stopped:
                self._free.release()
                entry.result.set_exception(InterruptedError("the map was interrupted"))
                return Started(self, key, entry)
            reading = [THREADS.readers.submit(self._read, tile) for tile in tiles]
            on_gpu = self._network.device.type == "cuda"
            staging = THREADS.stager.submit(self._stage, reading) if on_gpu else None
            THREADS.passes.submit(self._run, entry, reading, staging)
        return Started(self, key, entry)

    def _stage(self, reading: Sequence[Future[Image]]) -> tuple[Image, Tensor, Any]:
        return self._network.stage([one.result() for one in reading])

    def _run(
        self,
        entry: _Entry,
        reading: Sequence[Future[Image]],
        staging: Future[tuple[Image, Tensor, Any]] | None,
    ) -> None:
        try:
            staged = staging.result() if staging is not None else self._stage(reading)
            predicted = self._network.predict(*staged)
        except BaseException as error:  # whoever waits gets it
            entry.result.set_exception(error)
        else:
            entry.result.set_result(predicted)
        finally:
            self._free.release()

    def leave(self, key: Hashable, entry: _Entry) -> None:
        """Let go of a batch; it stays while another block has yet to come for it."""
        with self._lock:
            entry.waiting -= 1
            entry.wanted -= 1
            if self._entries.get(key) is not entry or entry.waiting > 0:
                return
            del self._entries[key]
            if entry.wanted > 0 and entry.bytes:  # not what failed: it may be mended
                self._entries[key] = entry  # at the end: the oldest leave first
                self._make_room()

    def _make_room(self) -> None:
        held = [(key, e) for key, e in self._entries.items() if e.waiting == 0]
        size = sum(entry.bytes for _, entry in held)
        for key, entry in held:
            if size <= self._kept:
                return
            del self._entries[key]
            size -= entry.bytes


@dataclass(frozen=True)
class Started:
    """A batch that was started for a block."""

    batches: Batches
    key: Hashable
    entry: _Entry

    def result(self) -> Predicted:
        """Wait for the tiles."""
        return self.entry.result.result()

    def leave(self) -> None:
        """Say that the block is done with it; to be called once, whatever happens."""
        self.batches.leave(self.key, self.entry)
