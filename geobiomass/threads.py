"""Long work in pieces: on a few threads, and a store that says when it is finished."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from threading import Event
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    pass


Task = TypeVar("Task")
Result = TypeVar("Result")


def few_at_a_time(
    tasks: Iterable[Task],
    work: Callable[[Task], Result],
    workers: int,
    patience: float | None = None,
    stop: Event | None = None,
) -> Iterator[tuple[Task, Future[Result]]]:
    """Work on pieces on threads, no more than `workers` of them in memory.

    Left early, what has not begun is cancelled, and what has is waited for: for
    `patience` seconds, or to its end where that is None. `stop` is set then, so that
    long work can look at it now and then, and end sooner.

    Yields
    ------
    piece, future
        As each is done, in whatever order; the next one is started only when the
        caller comes back.
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

    `warnings.catch_warnings` would end that again, but it is for one thread alone:
    filters are the whole process's, and threads that set them back at the end of
    their own block take those of others with them. Call this before work on threads
    begins and again in each: what is set while another has such a block open is lost
    with it. Say precisely which warning, since a user's own code is hushed with ours.

    Parameters
    ----------
    category : type of Warning
        Its class.
    message, module : str
        Regular expressions that the start of its text and the name of the module
        that gives it have to match.
    """
    for _, text, kind, place, _ in warnings.filters:
        found = (getattr(text, "pattern", text), getattr(place, "pattern", place))
        if kind is category and found == (message or None, module or None):
            return
    warnings.filterwarnings("ignore", message, category, module)


def silence_arrays_in_memory() -> None:
    """Ignore a warning of rasterio's, about arrays in memory that do have a place.

    It comes where rasterio draws polygons on an array or reprojects one, and rasterio
    hides it for one thread alone: see github.com/opendatacube/odc-geo/issues/131.
    Files without a place still warn.
    """
    from rasterio.errors import NotGeoreferencedWarning

    silence_warning(NotGeoreferencedWarning, module=r"rasterio\.(features|warp)$")
