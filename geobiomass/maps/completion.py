"""How far a map is, as its own store tells."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geobiomass.cube.store import UNFINISHED
from geobiomass.maps.destination import Destination
from geobiomass.maps.geotiff import FINGERPRINT
from geobiomass.maps.lock import writer_of
from geobiomass.maps.manifest import Manifest

if TYPE_CHECKING:
    from zarr.abc.store import Store

MAKING, FINISHING = "being made", "finishing"
"""What the mark of an unfinished map says before its first block and after its last."""

BLOCKS = "blocks"
"""Attribute of a map: how many blocks there are to compute."""


def describe_progress(
    path: str | Path | Store, storage_options: Mapping[str, Any] | None = None
) -> dict[str, Any] | None:
    """Tell how far the map at a path is.

    Returns
    -------
    dict or None
        ``finished``; how many of its ``blocks`` are ``written``,
        the ``side`` of a block in pixels, ``writer`` (who writes it now, None if
        nobody does), ``being_made`` (it has no variables yet) and the Zarr ``store``.
        None where there is no map of ours.
    """
    place = Destination.of(path, storage_options)
    attrs = place.attrs()
    if attrs is None or FINGERPRINT not in attrs:
        return None
    total = int(attrs.get(BLOCKS, 0))
    state = attrs.get(UNFINISHED, FINISHING)
    done = state == FINISHING
    return {
        "finished": UNFINISHED not in attrs and place.raster is None,
        "written": total if done else len(Manifest(place.group("r")).read()),
        "blocks": total,
        "side": attrs["block"],
        "writer": writer_of(place),
        "being_made": state == MAKING,
        "store": place.store,
    }
