"""Raster files, opened with the GDAL settings that reading needs."""

from __future__ import annotations

import os
from typing import Any

from geobiomass.cube.claimed_size import driver_of
from geobiomass.training.given_paths import check_file


def open_raster(path: str | os.PathLike[str], overview: int | None = None) -> Any:
    """Open a raster file, or one of its overviews."""
    import rasterio

    check_file(path, OSError)
    driver = driver_of(os.fspath(path))
    if overview is None:
        return rasterio.open(path, driver=driver)
    return rasterio.open(path, driver=driver, overview_level=overview)


def gdal_settings() -> Any:
    """Return a context with the GDAL settings of reading, for this thread only."""
    import rasterio

    return rasterio.Env(
        # GDAL opens companion files by name; listing 100,000 files would be slow.
        GDAL_DISABLE_READDIR_ON_OPEN="TRUE",
        # Else a file that was cut short gives zeros.
        GTIFF_IGNORE_READ_ERRORS="NO",
    )
