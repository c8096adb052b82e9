"""Work on a few threads, and warnings that are silenced for all threads."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from threading import Event
from typing import Any, TypeVar


def _forked() -> None:
    """Make dask start new threads in a forked process: those of its pool are gone."""
    threaded: Any = sys.modules.get("dask.threaded")
    if threaded is not None:
        threaded.default_pool = None
        threaded.pools.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)

Task = TypeVar("Task")
Result = TypeVar("Result")


def few_at_a_time(
    tasks: Iterable[Task],
    work: Callable[[Task], Result],
    workers: int,
    patience: float | None = None,
    stop: Event | None = None,
) -> Iterator[tuple[Task, Future[Result]]]:
    """Run tasks on threads, at most `workers` of them in memory.

    If the caller leaves the loop early, tasks that have not begun are cancelled. Tasks
    that run are waited for: `patience` seconds, or until they end if that is None.
    `stop` is set then; long tasks can check it, and end sooner.

    Yields
    ------
    task, future
        As each is done, in any order. The next task starts only when the caller asks
        for the next result.
    """
    remaining = iter(tasks)
    running: dict[Future[Result], Task] = {}
    pool = ThreadPoolExecutor(workers, thread_name_prefix="tasks")
    try:
        while True:
            for task in remaining:
                running[pool.submit(work, task)] = task
                if len(running) >= workers:
                    break
            if not running:
                return
            finished, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in finished:
                yield running.pop(future), future
    finally:
        if stop is not None:
            stop.set()
        begun = [future for future in running if not future.cancel()]
        pool.shutdown(wait=False)
        wait(begun, timeout=patience)


def silence_warning(
    category: type[Warning], message: str = "", module: str = ""
) -> None:
    """Ignore a warning from now on, unless it is ignored already.

    `warnings.catch_warnings` would restore the filters, but it is not safe on threads:
    filters belong to the whole process, and a thread that restores them also removes
    the filters of other threads. Call this before work on threads begins and again in
    each thread: a filter that is set while another thread is in such a block is lost at
    the block's end. Choose the warning precisely: it is also silenced for users' code.

    Parameters
    ----------
    category : type of Warning
        Its class.
    message, module : str
        Regular expressions, for the start of its text and for the name of the module
        that raises it.
    """
    for _, text, kind, source, _ in warnings.filters:
        found = (getattr(text, "pattern", text), getattr(source, "pattern", source))
        if kind is category and found == (message or None, module or None):
            return
    warnings.filterwarnings("ignore", message, category, module)


def silence_arrays_in_memory() -> None:
    """Ignore rasterio's warning about arrays in memory without a georeference.

    These arrays have one, outside rasterio. The warning appears when rasterio draws
    polygons on an array or reprojects one; rasterio silences it for one thread only:
    see github.com/opendatacube/odc-geo/issues/131. Files without a georeference still
    warn.
    """
    from rasterio.errors import NotGeoreferencedWarning

    silence_warning(NotGeoreferencedWarning, module=r"rasterio\.(features|warp)$")
