"""One writer at a time on object storage: a lease in the store, which is renewed.

A file lock is not possible there. The writer renews the lease every 15 seconds; it
counts for a minute, or until its process is known to have ended.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, Thread
from typing import TYPE_CHECKING

from geobiomass.cube.store_objects import LEASE, as_buffer, synchronise
from geobiomass.training.one_writer import InUseError, Writer, refusal

if TYPE_CHECKING:
    from zarr.abc.store import Store

_RENEW = 15.0  # seconds: three renewals may fail before FRESH is over
_WAIT = 0.3  # seconds after which two processes that write a lease see the same one
_UNREADABLE = Writer("an unknown host", 0, 0.0, "")  # a lease that ran out long ago

_LOG = logging.getLogger(__name__)


def read_lease(store: Store) -> Writer | None:
    """Read the writer that the lease of a store names; None if there is no lease."""
    from zarr.core.buffer import default_buffer_prototype

    found = synchronise(store.get(LEASE, default_buffer_prototype()))
    if found is None:
        return None
    return Writer.read(found.to_bytes().decode(errors="replace")) or _UNREADABLE


def _create_lease(store: Store, writer: Writer) -> None:
    """Write a lease if there is none.

    Zarr's stores of obstore and of memory do both in one step. Its store of fsspec
    looks first and writes then.
    """
    synchronise(store.set_if_not_exists(LEASE, as_buffer(writer.text())))


def _write_lease(store: Store, writer: Writer) -> None:
    synchronise(store.set(LEASE, as_buffer(writer.text())))


@contextmanager
def leased(
    store: Store,
    name: str,
    error: type[InUseError] = InUseError,
    remedy: str = "",
) -> Iterator[None]:
    """Hold a lease, which other processes see and which ends if it is not renewed.

    Parameters
    ----------
    store : zarr.abc.store.Store
        The store.
    name : str
        How the user named it.
    error, remedy : type of InUseError, str
        The class of the refusal, and a further sentence for its message.

    Raises
    ------
    InUseError
        If another process, or another call in this one, writes there.
    """
    own = Writer.here()
    holder = read_lease(store)
    if holder is not None and not holder.gone:
        raise refusal(name, holder, error, remedy)
    if holder is None:
        _create_lease(store, own)
    else:
        _write_lease(store, own)
    # Two processes may have written, where that is not one step: the last one stays.
    time.sleep(_WAIT)
    holder = read_lease(store)
    if holder is None or holder.token != own.token:
        raise refusal(name, holder, error, remedy)
    done = Event()
    keeper = Thread(target=_renew, args=(store, own, done), daemon=True)
    keeper.start()
    try:
        yield
    finally:
        done.set()
        keeper.join()
        holder = read_lease(store)
        if holder is not None and holder.token == own.token:
            synchronise(store.delete(LEASE))


def _renew(store: Store, own: Writer, done: Event) -> None:
    while not done.wait(_RENEW):
        try:
            _write_lease(store, own)
        except Exception as error:  # the next one may work; blocks need no lease
            _LOG.warning("The lease of %s could not be renewed: %s", store, error)
