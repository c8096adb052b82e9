"""One writer at a time: a file lock for a map on a disk, a lease on object storage.

Every writer computes the same blocks, so two writers lose time and no values. The
second one is refused, so that no one waits for work that is done twice.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, cast

from geobiomass.cube.lease import leased, read_lease
from geobiomass.maps.destination import Destination
from geobiomass.training.one_writer import InUseError, one_writer, writer_at

if TYPE_CHECKING:
    from zarr.abc.store import Store

_REMEDY = "A cluster makes one map faster: client=."


class MapInUseError(InUseError):
    """Another process is writing the map; the message says which."""


def only_writer(destination: Destination) -> AbstractContextManager[None]:
    """Reserve a map's destination for this process.

    Raises
    ------
    MapInUseError
        If another process, or another call in this one, writes there.
    """
    if destination.local is not None:
        return one_writer(destination.local, MapInUseError, _REMEDY)
    store = cast("Store", destination.store)
    return leased(store, destination.name, MapInUseError, _REMEDY)


def writer_of(destination: Destination) -> str | None:
    """Return the process that writes a map now, None if there is none."""
    if destination.local is not None:
        return writer_at(destination.local)
    writer = read_lease(cast("Store", destination.store))
    return None if writer is None or writer.gone else str(writer)
