"""Errors of raster files that name the file, the window, and GDAL's own reason."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from geobiomass.cube.address_errors import failure_of, waiting_settings
from geobiomass.cube.errors import CubeError, DamagedError
from geobiomass.outside_text import printable
from geobiomass.training.given_paths import check_file


@contextmanager
def named_errors(
    path: object, rows: slice | None = None, columns: slice | None = None
) -> Iterator[None]:
    """Raise an error that names a raster's file and window, and GDAL's reason.

    Without this a user reads "Read failed. See previous exception for details."

    Parameters
    ----------
    path : path or file
        The raster.
    rows, columns : slice, optional
        The window that is read, where it is not the whole.

    Raises
    ------
    DamagedError
        In place of an error of rasterio, or of the file system.
    FileNotFoundError, PermissionError, UnreachableError
        If it is at an address, and its server does not give it.
    """
    import rasterio
    from rasterio.errors import RasterioError

    if rows is None:
        check_file(path, CubeError)
    waiting = waiting_settings(path)
    try:
        with rasterio.Env(**waiting) if waiting else nullcontext():
            yield
    except (DamagedError, FileNotFoundError):
        raise
    except (RasterioError, OSError, UnicodeEncodeError) as error:
        if (failure := failure_of(error, path, _probe_of(path))) is not None:
            raise failure from error
        where = "" if rows is None else f" at {_window(rows, columns)}"
        raise DamagedError(
            f"{printable(path)} cannot be read{where} ({cause_of(error)}); the file is "
            "damaged, cut short or no raster: copy it again from where it was made, or "
            "make it again.",
            str(path),
        ) from error


def cause_of(error: BaseException) -> str:
    """Return the first reason that GDAL gave, in one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _probe_of(path: object) -> str:
    """Return the address that GDAL asks for a raster."""
    return str(path).removeprefix("/vsicurl/")


def _window(rows: slice, columns: Any) -> str:
    text = f"rows {rows.start} to {rows.stop - 1}"
    if columns is not None:
        text += f", columns {columns.start} to {columns.stop - 1}"
    return text
