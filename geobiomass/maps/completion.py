"""The progress of a map, read from its own store."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from geobiomass.cube.addresses import is_local
from geobiomass.cube.one_state import Place, consistently
from geobiomass.cube.store_seal import UNFINISHED
from geobiomass.maps.destination import Destination
from geobiomass.maps.geotiff import FINGERPRINT
from geobiomass.maps.lock import writer_of
from geobiomass.maps.manifest import Manifest

if TYPE_CHECKING:
    from zarr.abc.store import Store

Answer = TypeVar("Answer")

MAKING, FINISHING = "being made", "finishing"
"""Values of an unfinished map's mark before its first block and after its last."""

BLOCKS = "blocks"
"""Attribute of a map: the number of blocks to compute."""


def describe_progress(
    path: str | Path | Store, storage_options: Mapping[str, Any] | None = None
) -> dict[str, Any] | None:
    """Return the progress of the map at a path.

    Returns
    -------
    dict or None
        ``finished``; the number of its ``blocks``, and of those that are ``written``;
        the ``side`` of a block in pixels; ``writer`` (the process that writes it now,
        None if there is none, or if the map is finished); ``being_made`` (it has no
        variables yet); and the Zarr ``store``. None where there is no map of this
        package.
    """
    destination = Destination.of(path, storage_options)
    attrs = destination.attrs()
    if attrs is None or FINGERPRINT not in attrs:
        return None
    total = int(attrs.get(BLOCKS, 0))
    state = attrs.get(UNFINISHED, FINISHING)
    done = state == FINISHING
    finished = UNFINISHED not in attrs and destination.raster is None
    return {
        "finished": finished,
        "written": total if done else len(Manifest(destination.group("r")).read()),
        "blocks": total,
        "side": attrs["block"],
        # Who writes to a finished map has not changed it yet.
        "writer": None if finished else writer_of(destination),
        "being_made": state == MAKING,
        "store": destination.store,
    }


def in_one_state(path: str, read: Callable[[], Answer]) -> Answer:
    """Return what a function reads of one state of the map at a path.

    Raises
    ------
    ChangedError
        If another process writes there and no state could be read.
    """
    places: list[Place] = [path]
    if path.endswith((".tif", ".tiff")) and is_local(path):
        places.append(Destination.of(path).store)  # what a GeoTIFF is made from
    return consistently(places, read)
