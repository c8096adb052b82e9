"""Which archive of embeddings a name, a path or an address is."""

from __future__ import annotations

import os
from typing import Any

from geobiomass.cube import CubeError
from geobiomass.cube.addresses import path_of_url
from geobiomass.sources.embeddings import alphaearth, zarr_stores
from geobiomass.sources.embeddings.alphaearth import INDEX_NAMES, AlphaEarth
from geobiomass.sources.embeddings.npy_files import exists
from geobiomass.sources.embeddings.tessera_tiles import (
    EMBEDDINGS,
    TesseraTiles,
)
from geobiomass.sources.embeddings.tiles import Archive
from geobiomass.sources.embeddings.zarr_stores import ZarrStore, not_ordered
from geobiomass.training.given_paths import is_address, path_text

NAMED = {"alphaearth": alphaearth.ADDRESS, "tessera": zarr_stores.ADDRESS}
"""Archives by name, and their addresses."""

_TABLES = (".parquet", ".csv", ".gpkg", ".geojson", ".csv.gz")
_ZARR = ("zarr.json", ".zgroup", ".zmetadata")


def open_archive(source: Any, dimensions: int | None = None) -> Archive:
    """Return the archive of a source.

    Parameters
    ----------
    source : str or path
        A name of :data:`NAMED`; the index of AlphaEarth, or the folder or address that
        it is in; a Zarr store; a folder or an address of TESSERA's .npy tiles.
    dimensions : int, optional
        Only so many dimensions, the first ones.

    Raises
    ------
    CubeError
        If it is none of these, or its dimensions are not ordered and some are asked
        for.
    """
    place = path_text(source, "The source of embeddings", CubeError)
    place = NAMED.get(place.lower(), place)
    if place.startswith("file:"):
        place = path_of_url(place)
    place = place.rstrip("/")
    archive = _tiles_at(place)
    if archive is None:
        return ZarrStore.at(place, dimensions)
    whole = len(archive.product.bands)
    if dimensions not in (None, whole):
        raise not_ordered(place, dimensions, whole)
    return archive


def _tiles_at(place: str) -> Archive | None:
    """Return an archive of tiles; None if it is a Zarr store."""
    if place.lower().endswith(_TABLES):
        return AlphaEarth(place)
    if is_address(place):
        return _tiles_at_address(place)
    if not os.path.exists(place):
        raise CubeError(
            f"There are no embeddings at {place}; give {', '.join(NAMED)}, or the path "
            "or address of an index of AlphaEarth, of tiles of TESSERA, or of a Zarr "
            "store."
        )
    if any(os.path.exists(f"{place}/{name}") for name in _ZARR):
        return None
    for name in INDEX_NAMES:
        for folder in (place, f"{place}/v1/annual"):
            if os.path.exists(f"{folder}/{name}"):
                return AlphaEarth(f"{folder}/{name}")
    years = [name for name in os.listdir(place) if name.isdigit() and len(name) == 4]
    if years or os.path.isdir(f"{place}/{EMBEDDINGS}"):
        return TesseraTiles.at(place)
    raise CubeError(
        f"{place} has no embeddings that are known: neither {INDEX_NAMES[0]} of "
        "AlphaEarth, nor folders of years or "
        f"{EMBEDDINGS}/ of TESSERA, nor zarr.json of a Zarr store."
    )


def _tiles_at_address(place: str) -> Archive | None:
    """Ask a server for the files by which an archive is known: it lists none."""
    if place.endswith(".zarr") or any(exists(f"{place}/{name}") for name in _ZARR):
        return None
    for name in INDEX_NAMES:
        if exists(f"{place}/{name}"):
            return AlphaEarth(f"{place}/{name}")
    return TesseraTiles.at(place)
