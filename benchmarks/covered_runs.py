"""Simulations in several processes, with progress; each has its own seed."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from multiprocessing import get_context
from typing import Any, Protocol

from tqdm import tqdm

_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


class Go(Protocol):
    """A function that runs a task for each of several items, in order."""

    def __call__(
        self, work: Callable[[Any], Any], items: Sequence[Any], what: str
    ) -> list[Any]:
        """Return the results; the progress bar shows `what`."""


@contextmanager
def processes(count: int) -> Iterator[Go]:
    """Return a runner with a number of single-threaded processes; 1 is this process."""
    if count == 1:
        yield partial(_work, None)
        return
    # A new process reads it at its start; this process keeps its number of threads.
    before = {name: os.environ.get(name) for name in _THREADS}
    os.environ.update(dict.fromkeys(_THREADS, "1"))
    try:
        with ProcessPoolExecutor(count, get_context("spawn")) as pool:
            yield partial(_work, pool)
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _work(
    pool: Executor | None,
    work: Callable[[Any], Any],
    items: Sequence[Any],
    what: str,
) -> list[Any]:
    done = map(work, items) if pool is None else pool.map(work, items)
    return list(tqdm(done, desc=what, total=len(items), dynamic_ncols=True))
