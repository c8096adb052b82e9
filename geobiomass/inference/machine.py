"""The machine that a map is computed on: its device, cores, memory and precision."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from pathlib import Path
from typing import Any, Literal

import torch

from geobiomass.inference.map_settings import Precision


def map_device() -> torch.device:
    """Return the device that maps are computed on: the GPU where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def resolve_precision(precision: Precision) -> Literal["float32", "bf16"]:
    """Return the precision that a setting means on this machine.

    "auto" is bf16 on GPUs and CPUs that multiply it in hardware, float32 elsewhere.
    """
    if precision != "auto":
        return precision
    if map_device().type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        native = _cpu_has_bf16()
    return "bf16" if native else "float32"


def _cpu_has_bf16() -> bool:
    """Return whether this CPU has instructions for bf16, as oneDNN uses them."""
    with contextlib.suppress(OSError):
        words = set(Path("/proc/cpuinfo").read_text().split())
        return bool(words & {"avx512_bf16", "amx_bf16", "bf16"})
    return False  # not Linux: float32 is right everywhere


def available_cores() -> int:
    """Return the threads that maps may use: torch's number, or the dask worker's.

    On its workers dask sets torch's number to one, because it runs tasks in parallel.
    """
    worker = _dask_worker()
    threads = torch.get_num_threads()
    return threads if worker is None else max(threads, int(worker.state.nthreads))


def half_of_memory() -> int:
    """Return half of the bytes that this process may use.

    The limit comes from the machine, the container or the dask worker.
    """
    from distributed.system import MEMORY_LIMIT

    worker = _dask_worker()
    own = None if worker is None else worker.memory_manager.memory_limit
    return int(own or MEMORY_LIMIT) // 2


def _dask_worker() -> Any:
    """Return the dask worker that this thread computes for, None elsewhere."""
    if "distributed" in sys.modules:
        from distributed import get_worker

        with contextlib.suppress(ValueError):
            return get_worker()
    return None


class MemoryWatch:
    """The growth of the process while a block runs, in bytes (Linux; 0 elsewhere)."""

    growth = 0

    def __enter__(self) -> MemoryWatch:
        self._stop = threading.Event()
        # Read before the thread starts: on a busy machine the thread may start only
        # after memory is taken.
        self._start = _resident_bytes()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while True:
            self.growth = max(self.growth, _resident_bytes() - self._start)
            if self._stop.wait(0.005):
                return

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()


def _resident_bytes() -> int:
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")
