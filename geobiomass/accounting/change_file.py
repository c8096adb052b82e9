"""Difference maps on disk: whole or not at all, by one process at a time."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import xarray as xr

from geobiomass.cube import seal
from geobiomass.cube.addresses import open_group
from geobiomass.cube.publishing import consolidate
from geobiomass.maps.destination import Destination
from geobiomass.maps.geotiff import write_geotiff
from geobiomass.maps.lock import only_writer

_RASTERS = (".tif", ".tiff")


def write_change(found: xr.Dataset, path: str | Path) -> None:
    """Write a difference map block by block, to Zarr or GeoTIFF.

    It is made next to `path` and then renamed: an interrupted call leaves nothing at
    `path`, and the same call begins again.

    Parameters
    ----------
    found : xarray.Dataset
        The result of :func:`geobiomass.change`.
    path : str or Path
        The destination: a folder ``.zarr``, or a file ``.tif``.

    Raises
    ------
    FileExistsError
        If the destination exists.
    MapInUseError
        If another process is writing there.
    """
    place = Path(path)
    raster = place.suffix.lower() in _RASTERS
    beside = place.with_name(f"{place.name}.unfinished.zarr")
    destination = Destination(
        str(place), beside if raster else place, place if raster else None
    )
    if not destination.leftovers():  # of a call that was killed at its end
        _check_absent(place)
    with only_writer(destination):
        destination.tidy()
        _check_absent(place)  # another process may have finished it meanwhile
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


def _check_absent(place: Path) -> None:
    if place.exists():
        raise FileExistsError(
            f"{place} exists already; delete it or choose another path."
        )
