"""The threads that read tiles and run the network, shared by all maps of a process."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import torch

from geobiomass.inference.machine import available_cores, map_device


class _ThreadPools:
    """Thread pools of the whole process, open while any map is being computed.

    On a CPU the number of threads that share one pass changes the last bits of its
    result. Tiles in parallel, one thread each, give the same bits on any number of
    cores, and are no slower. Torch's own setting is restored at the end.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._torch_threads = 1

    def __enter__(self) -> _ThreadPools:
        with self._lock:
            if self._users == 0:
                self._torch_threads = torch.get_num_threads()
                self.count = available_cores()
                passes = 1 if map_device().type == "cuda" else self.count
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
                self.passes.submit(torch.set_num_threads, self._torch_threads).result()
                self.passes.shutdown()


THREADS = _ThreadPools()
