"""Spread simulations over processes, with progress; each has a seed of its own."""

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
    """Do a piece of work for each of several items, in their order."""

    def __call__(
        self, work: Callable[[Any], Any], items: Sequence[Any], what: str
    ) -> list[Any]:
        """Give what the work gave; `what` is told beside the progress."""


@contextmanager
def processes(count: int) -> Iterator[Go]:
    """Give a way to work in so many processes of one thread each; 1: in this one."""
    if count == 1:
        yield partial(_work, None)
        return
    # Read by a process as it starts; this one keeps its own numbers of threads.
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
