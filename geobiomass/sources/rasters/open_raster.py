"""Raster files, opened with the GDAL settings that reading needs."""

from __future__ import annotations

import os
import re
from typing import Any

from geobiomass.cube.claimed_size import driver_of
from geobiomass.training.given_paths import check_file

# Drivers whose files name other files, addresses or commands (GDAL, "Raster drivers").
_NAMING = frozenset(
    {
        *("DAAS", "DERIVED", "ECRGTOC", "EEDA", "EEDAI", "GDALG", "GTI", "HTTP"),
        *("KMLSUPEROVERLAY", "MRF", "NGW", "OGCAPI", "PDF", "PLMOSAIC", "PLSCENES"),
        *("PostGISRaster", "RPFTOC", "STACIT", "STACTA", "TIL", "VRT", "WCS", "WMS"),
        "WMTS",
    }
)
# Names with which a caller asks for one: `mosaic.vrt`, `WMS:...`, `vrt://...`. Not
# schemes of addresses, nor the letter of a disk.
_ASKED = re.compile(
    r".*\.(vrt|wms|xml)|(?!(?:https?|s3|gs|az|abfss?|file|zip|tar|gzip)\b)\w\w+:.*",
    re.IGNORECASE | re.DOTALL,
)
_HEAD = 1024  # bytes in which GDAL looks for what a file is
_MARKUP = re.compile(rb"(?:\xef\xbb\xbf)?\s*[<{]")


def open_raster(path: str | os.PathLike[str], overview: int | None = None) -> Any:
    """Open a raster file, or one of its overviews.

    GDAL decides by content. A data set of the driver VRT, called ``B04.jp2``, would
    read whatever other file or address it names: it is opened only by a name that
    says so, such as ``mosaic.vrt``.

    Raises
    ------
    rasterio.errors.RasterioIOError, OSError
        If it cannot be opened, or names others.
    """
    import rasterio

    name = os.fspath(path)
    check_file(name, OSError)
    driver = driver_of(name)
    asked = driver is not None or _ASKED.fullmatch(name.partition("?")[0])
    if not asked and os.path.isfile(name):
        with open(name, "rb") as file:
            if _MARKUP.match(file.read(_HEAD)):
                raise _names_others("XML or JSON")
    options = {} if overview is None else {"overview_level": overview}
    source = rasterio.open(path, driver=driver, **options)
    if not asked and source.driver in _NAMING:
        kind = source.driver
        source.close()
        raise _names_others(kind)
    return source


def _names_others(kind: str) -> OSError:
    return OSError(
        f"it must be an image, got {kind}, which may make GDAL read other files and "
        "addresses; write it as a GeoTIFF, or give it the ending .vrt if it is yours"
    )


def gdal_settings(companions: bool = True) -> Any:
    """Return a context with the GDAL settings of reading, for this thread only.

    Parameters
    ----------
    companions : bool
        Whether GDAL looks for files beside a raster, such as ``.aux.xml`` and ``.ovr``.
        Archives of GeoTIFFs have none, and each look is a request.
    """
    import rasterio

    return rasterio.Env(
        # GDAL opens companion files by name; listing 100,000 files would be slow.
        GDAL_DISABLE_READDIR_ON_OPEN="TRUE" if companions else "EMPTY_DIR",
        # Else a file that was cut short gives zeros.
        GTIFF_IGNORE_READ_ERRORS="NO",
    )
