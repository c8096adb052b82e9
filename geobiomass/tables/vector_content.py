"""Vector files that have data of their own: none that names other files.

GDAL chooses the driver by content. A file of the kind OGR VRT, called
``districts.geojson``, would read whatever file, address or database it names.
"""

from __future__ import annotations

import gzip
import os
import re
import zipfile
from collections.abc import Iterator
from urllib.error import URLError
from urllib.request import Request, urlopen

from geobiomass.tables.columns import TableError

_HEAD = 2**16  # bytes: GDAL looks for what a file is in the first thousands
_SECONDS = 30
# Kinds of files that name others: OGR VRT, services of the web, a command of GDAL
# (GDAL, "Vector drivers").
_NAMING = re.compile(
    rb"<\s*(OGRVRT\w*|VRTDataset|OGRWFS\w*|OGRCSW\w*|GDAL_WMS|GDALG\w*)|"
    rb"(gdal_streamed_alg)",
    re.IGNORECASE,
)


def check_own_data(path: str) -> None:
    """Check that a vector file has its own data, before GDAL opens it.

    Parameters
    ----------
    path : str
        A file, also compressed, or an address of the web.

    Raises
    ------
    TableError
        If it names other files, addresses or commands.
    """
    for head in _heads(path):
        if (found := _NAMING.search(head)) is not None:
            kind = (found[1] or found[2]).decode()
            raise TableError(
                f"{path} must have areas or points of its own, got a file of the kind "
                f"{kind}, which makes GDAL read other files or addresses; give the "
                "file that it names, or write its content to a GeoPackage: ogr2ogr."
            )


def _heads(path: str) -> Iterator[bytes]:
    """Yield the first bytes of a file, or of each file in an archive."""
    if path.lower().startswith(("http://", "https://")):
        request = Request(path, headers={"Range": f"bytes=0-{_HEAD - 1}"})
        try:
            with urlopen(request, timeout=_SECONDS) as answer:
                yield answer.read(_HEAD)
        except (URLError, OSError, ValueError):
            return  # GDAL says what is wrong with the address
    elif not os.path.isfile(path):
        return
    elif zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            for one in archive.infolist():
                if not one.is_dir():
                    with archive.open(one) as file:
                        yield file.read(_HEAD)
    else:
        opener = gzip.open if path.lower().endswith(".gz") else open
        with opener(path, "rb") as file:
            yield file.read(_HEAD)
