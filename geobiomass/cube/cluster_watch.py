"""Waiting for a dask cluster, but not for ever.

distributed itself waits without end for workers that are gone, and for a scheduler
that does not answer.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Future
from pydoc import locate
from queue import Empty, Queue
from threading import Thread
from time import monotonic, sleep
from typing import Any, TypeVar

from geobiomass.cube.cluster_errors import LostClusterError, told_of_cluster

T = TypeVar("T")

_BEAT = 2.0  # seconds between two looks, as distributed.client.scheduler-info-interval
_QUIET = 30.0  # seconds without a worker, after which a warning says so

# Seconds without an answer, or without a worker: dask's scheduler gives up a silent
# worker after as long. The first workers may wait in the queue of a batch system.
_PATIENCE, _PATIENCE_FOR_THE_FIRST = 300.0, 3600.0
_OF_ANSWERS = "distributed.scheduler.worker-ttl"
_OF_WORKERS = "distributed.scheduler.no-workers-timeout"


class Watch:
    """Looks after a cluster while something is waited for.

    Its methods raise a LostClusterError if the scheduler does not answer, if no worker
    runs for too long, or if a worker has another version of this package.

    Parameters
    ----------
    client : distributed.Client
        The client that is used.
    ours : bool
        Whether the workers need this package.
    """

    def __init__(self, client: Any, ours: bool = True) -> None:
        self.client = client
        self._ours = ours
        self._known: set[str] = set()
        self._idle_since = monotonic()
        self._had_workers = self._warned = False
        self.silent = False  # whether the scheduler has not answered

    def call(self, work: Callable[[], T]) -> T:
        """Call a function that waits for the cluster, and return its result."""
        answer: Future[T] = Future()

        def run() -> None:
            try:
                answer.set_result(work())
            except BaseException as error:  # raised again by result()
                answer.set_exception(error)

        # Not a thread of a pool: Python would wait for it before it ends.
        Thread(target=run, name="cluster", daemon=True).start()
        while True:
            try:
                return answer.result(_BEAT)
            except TimeoutError:
                if answer.done():  # the work's own error, or the result came just now
                    return answer.result()
            self.workers()

    def next_of(self, finished: Queue[T]) -> T:
        """Return what is put into a queue next."""
        while True:
            try:
                return finished.get(timeout=_BEAT)
            except Empty:
                self.workers()

    def wait_for_workers(self) -> dict[str, int]:
        """Return the workers as soon as there are any."""
        while not (found := self.workers()):
            sleep(_BEAT / 10)
        return found

    def workers(self) -> dict[str, int]:
        """Return the threads of each worker that runs, by address."""
        every: Mapping[str, Any] = self._ask()["workers"]
        running = {
            address: int(worker["nthreads"])
            for address, worker in every.items()
            if worker["status"] == "running"
        }
        if running:
            self._had_workers, self._idle_since = True, monotonic()
        else:
            self._check_patience(len(every))
        self._check_versions(every)
        return running

    def _ask(self) -> Mapping[str, Any]:
        """Ask the scheduler for its workers, which shows that it answers."""
        client = self.client
        if client.status in ("closed", "closing") or client.scheduler is None:
            raise LostClusterError("its client was closed")
        limit = _setting(_OF_ANSWERS, _PATIENCE)
        try:
            found: Mapping[str, Any] = client.sync(
                client.scheduler.identity, n_workers=-1, callback_timeout=limit
            )
        except TimeoutError as error:
            self.silent = True
            raise LostClusterError(
                f"its scheduler, {client.scheduler.address}, has not answered for "
                f"{limit:.0f} seconds"
            ) from error
        return found

    def _check_patience(self, paused: int) -> None:
        usual = _PATIENCE if self._had_workers else _PATIENCE_FOR_THE_FIRST
        patience = _setting(_OF_WORKERS, usual)
        seconds = monotonic() - self._idle_since
        what = "it has no workers"
        if paused:
            what = f"none of its workers ({paused}) runs: their memory is full"
        if seconds >= patience:
            raise LostClusterError(
                f"{what}, for {seconds:.0f} seconds now (the setting {_OF_WORKERS} of "
                "dask says how long to wait)"
            )
        if seconds >= _QUIET and not self._warned:
            self._warned = True
            warnings.warn(
                f"The dask cluster waits: {what}, for {seconds:.0f} seconds now. It "
                f"is an error after {patience:.0f} seconds ({_OF_WORKERS} of dask).",
                stacklevel=4,
            )

    def _check_versions(self, addresses: Collection[str]) -> None:
        """Check the package of the workers that are new."""
        new = [address for address in addresses if address not in self._known]
        if not self._ours or not new:
            return
        self._known.update(new)
        # A function of Python itself: the workers may not have ours.
        name = "geobiomass.__version__"
        here = locate(name)
        answers = self.call(
            lambda: self.client.run(locate, name, workers=new, on_error="return")
        )
        # An OSError is of a worker that is gone already.
        wrong = {
            address: version
            for address, version in answers.items()
            if version != here and not isinstance(version, OSError)
        }
        for address, version in wrong.items():
            has = "no geobiomass" if version is None else f"geobiomass {version}"
            if isinstance(version, Exception):
                has = f"a geobiomass that it cannot import ({version})"
            more = f" (and {len(wrong) - 1} others)" if len(wrong) > 1 else ""
            raise LostClusterError(
                f"its worker {address}{more} has {has}, this process geobiomass "
                f"{here}; install the same version there"
            )


def _setting(name: str, usual: float) -> float:
    """Return a setting of dask in seconds."""
    import dask
    from dask.utils import parse_timedelta

    chosen = dask.config.get(name, None)
    return usual if chosen is None else float(parse_timedelta(chosen))


# --- arrays that a cluster computes --------------------------------------------


def active_client() -> Any:
    """Return the dask client that is in use, None if there is none."""
    distributed = sys.modules.get("distributed")
    if distributed is None:
        return None
    try:
        return distributed.Client.current()
    except ValueError:
        return None


def keeper_of(*collections: Any) -> Any:
    """Return the client of a cluster that keeps parts of lazy arrays, or None.

    `persist` leaves an array's chunks on the workers: no other scheduler can compute
    it then.

    Parameters
    ----------
    *collections : dask collection
        Arrays or datasets; those in memory are passed over.
    """
    distributed = sys.modules.get("distributed")
    if distributed is None:
        return None
    for collection in collections:
        graph = getattr(collection, "__dask_graph__", lambda: None)()
        for layer in getattr(graph, "layers", {"": graph or {}}).values():
            # Layers that are not materialised are recipes, without any chunk.
            if getattr(layer, "is_materialized", lambda: True)():
                for value in layer.values():
                    if isinstance(value, distributed.Future):
                        return value.client
    return None


def compute_on(client: Any, data: T) -> T:
    """Compute an array or dataset on a cluster, as :meth:`Watch.call` does."""
    lazy: Any = data
    watch = Watch(client, ours=False)
    watch.workers()  # whether there are any
    return watch.call(lambda: lazy.compute(scheduler=client))  # type: ignore[no-any-return]


def computed(data: T, what: str, client: Any = None) -> T:
    """Compute an array or dataset as dask does, on the active cluster if there is one.

    Parameters
    ----------
    data : xarray.DataArray, xarray.Dataset or dask collection
        What is computed; arrays in memory are returned as they are.
    what : str
        What is being done, for the message: "the map was being read".
    client : distributed.Client, optional
        By default the one that is active.

    Raises
    ------
    ClusterError
        If the cluster breaks.
    """
    lazy: Any = data
    graph = getattr(lazy, "__dask_graph__", lambda: None)()
    client = client if client is not None else active_client()
    if client is None or not graph:
        return lazy.compute()  # type: ignore[no-any-return]
    with told_of_cluster(what, client, ANEW):
        return compute_on(client, data)


ANEW = (
    "connect a client, make anew what was persisted on the cluster, and make the same "
    "call again"
)
"""Remedy of what needs chunks on a cluster's workers."""
