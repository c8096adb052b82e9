"""Headers of remote images: their size and blocks, without a pixel."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast
from urllib.parse import urlsplit

import numpy as np
import numpy.typing as npt

from geobiomass.cube import CubeError, DamagedError
from geobiomass.cube.address_errors import failure_of
from geobiomass.outside_text import one_line
from geobiomass.sources.stac.addresses import Guard, without_secrets
from geobiomass.sources.stac.file_places import FilePlace
from geobiomass.sources.stac.read_month import GDAL_SETTINGS, check_image
from geobiomass.sources.stac.scene import Scene

if TYPE_CHECKING:
    from rasterio.io import DatasetReader

# Bytes: the header of a cloud-optimised GeoTIFF of 20,000 pixels a side has 40,000.
_FIRST = 2**16


@dataclass(frozen=True)
class Header:
    """What the header of an image says.

    Parameters
    ----------
    place : FilePlace or None
        Its grid; None if the file has no reference system.
    value_bytes : int
        Bytes of a value that is not compressed.
    block_bytes : numpy.ndarray or None
        Bytes of each compressed block, (block rows, block columns); None if the format
        does not list them, as JPEG 2000.
    """

    place: FilePlace | None
    value_bytes: int
    block_bytes: npt.NDArray[np.int64] | None


def read_header(scene: Scene, band: str, sign: Callable[[str], str] | None) -> Header:
    """Read the header of the asset of a band, 64 kB.

    Raises
    ------
    DamagedError
        If it cannot be read; it names item, asset and address.
    """
    from rasterio.errors import RasterioError
    from requests import RequestException

    name, stated = cast(tuple[str, str], scene.asset(band))
    href = stated
    try:
        href = (sign or str)(stated)
        if urlsplit(href).scheme in ("http", "https"):
            return _remote_header(href, scene)
        return _opened_header(href)
    except (RasterioError, RequestException, OSError, ValueError) as error:
        if isinstance(error, CubeError):
            raise
        shown = without_secrets(href)
        why = str(
            failure_of(error, shown)
            or f"{shown} is damaged or gone ({_reason(error)}); leave the item out."
        )
        if query := urlsplit(href).query:  # a signature
            why = why.replace(query, "...")
        raise DamagedError(
            f"The header of asset {one_line(name)} of item {scene.item} cannot be "
            f"read: {why.rstrip('.')}; or survey without headers, headers=False "
            "(on the command line --no-headers).",
            stated,
        ) from error


def _reason(error: Exception) -> str:
    """Return why GDAL failed; of a request its kind, as its text has the address."""
    named = isinstance(error, OSError) and hasattr(error, "request")  # of requests
    return type(error).__name__ if named else str(error.__cause__ or error)


def _remote_header(href: str, scene: Scene) -> Header:
    """Return the header of an image on the web, by one request for its first bytes.

    GDAL would hold Python's lock while it waits for the sizes of the blocks.
    """
    from rasterio.errors import RasterioError
    from rasterio.io import MemoryFile

    from geobiomass.sources.stac.guarded_requests import first_bytes

    content = first_bytes(href, Guard(scene.catalogue or None), _FIRST)
    try:
        with MemoryFile(content) as memory, memory.open(driver="GTiff") as source:
            return _header(source)
    except RasterioError:  # another format, or a directory at the end of the file
        return _opened_header(href, with_blocks=False)


def _opened_header(href: str, with_blocks: bool = True) -> Header:
    """Return the header of an image that GDAL opens."""
    import rasterio
    from odc.loader import RioDriver

    settings = {**GDAL_SETTINGS, **RioDriver().capture_env()}
    settings.pop("_aws", None)
    with rasterio.Env(**settings):
        check_image(href)
        with rasterio.open(href, sharing=False) as source:
            return _header(source, with_blocks)


def _header(image: DatasetReader, with_blocks: bool = True) -> Header:
    """Return the header of an opened image."""
    rows, columns = image.block_shapes[0]
    place = None
    if image.crs is not None:
        a, b, c, d, e, f = tuple(image.transform)[:6]
        shape, block = (image.height, image.width), (rows, columns)
        place = FilePlace(image.crs.to_string(), (a, b, c, d, e, f), shape, block)
    listed = with_blocks and image.driver == "GTiff"
    sizes = _block_bytes(image) if listed else None
    return Header(place, np.dtype(image.dtypes[0]).itemsize, sizes)


def _block_bytes(image: DatasetReader) -> npt.NDArray[np.int64] | None:
    """Return the compressed bytes of each block, None if none is listed."""
    from rasterio.errors import RasterBlockError

    sides = zip(image.shape, image.block_shapes[0], strict=True)
    sizes = np.zeros([-(-length // side) for length, side in sides], np.int64)
    for i, j in np.ndindex(*sizes.shape):
        with suppress(RasterBlockError):  # of missing values only: it has no bytes
            sizes[i, j] = image.block_size(1, i, j)
    return sizes if sizes.any() else None
