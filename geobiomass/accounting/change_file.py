"""Difference maps on disk: whole or not at all, by one process at a time."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import xarray as xr

from geobiomass.cube import CubeError, DamagedError, seal
from geobiomass.cube.addresses import open_group
from geobiomass.cube.grid import Grid
from geobiomass.cube.publishing import consolidate
from geobiomass.maps.destination import Destination
from geobiomass.maps.geotiff import write_geotiff
from geobiomass.maps.lock import only_writer
from geobiomass.maps.reading import BLOCK, open_layer

_RASTERS = (".tif", ".tiff")


def write_change(found: xr.Dataset, path: str | Path) -> None:
    """Write a difference map block by block, to Zarr or GeoTIFF.

    It is made next to `path` and then renamed: an interrupted call leaves nothing at
    `path`, and the same call begins again. A finished map that has the values of
    `found` stays as it is.

    Parameters
    ----------
    found : xarray.Dataset
        The result of :func:`geobiomass.change`.
    path : str or Path
        The destination: a folder ``.zarr``, or a file ``.tif``.

    Raises
    ------
    FileExistsError
        If the destination has anything else than this map.
    DamagedError
        If it is this map, damaged.
    MapInUseError
        If another process is writing there.
    """
    place = Path(path)
    raster = place.suffix.lower() in _RASTERS
    beside = place.with_name(f"{place.name}.unfinished.zarr")
    destination = Destination(
        str(place), beside if raster else place, place if raster else None
    )
    if not destination.leftovers() and _is_there(found, place):
        return
    with only_writer(destination):
        destination.tidy()
        if _is_there(found, place):  # another process may have finished it meanwhile
            return
        work = destination.work
        try:
            if raster:
                work.mkdir()
                making = work / place.name
                # Without a fingerprint: predict_to never takes it for its own map.
                write_geotiff(found, making, [str(name) for name in found], "")
                os.replace(making, place)
            else:
                whole = found.drop_encoding()
                whole.to_zarr(work, zarr_format=3, consolidated=False)
                consolidate(open_group(work, "r+", None, consolidated=False))
                seal(work)
                os.rename(work, place)
        finally:
            shutil.rmtree(work, ignore_errors=True)


def _is_there(found: xr.Dataset, place: Path) -> bool:
    """Return whether a finished map is at a path; raise if it is anything else."""
    if not place.exists():
        return False
    try:
        same = all(_is_same(found[name], place, str(name)) for name in found)
    except DamagedError:
        raise
    except (CubeError, OSError, ValueError):  # no map, or one without such a layer
        same = False
    if not same:
        raise FileExistsError(
            f"{place} exists already, and is not the map of this call; delete it or "
            "choose another path."
        )
    return True


def _is_same(layer: xr.DataArray, place: Path, name: str) -> bool:
    """Compare a layer with that of a map at a path, some rows at a time."""
    there = open_layer(place, name)
    if there.name != name or there.shape != layer.shape:
        return False
    if not Grid.of(there, str(place)).same_as(Grid.of(layer, "The maps")):
        return False
    if there.rio.crs != layer.rio.crs:
        return False
    stated = ("confidence", "correlation")
    if any(str(there.attrs.get(n)) != str(layer.attrs.get(n)) for n in stated):
        return False
    for start in range(0, layer.sizes["y"], BLOCK):
        rows = {"y": slice(start, start + BLOCK)}
        ours, theirs = (each.isel(rows).values for each in (layer, there))
        if not np.array_equal(ours, theirs, equal_nan=True):
            return False
    return True
