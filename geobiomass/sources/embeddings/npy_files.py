"""Windows of .npy files, on a disk or at an address, of which only rows are read."""

from __future__ import annotations

import io
import os
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from geobiomass.training.given_paths import check_file, is_address
from geobiomass.training.packages import need_for_address

_HEAD = 4096  # bytes that contain the header: numpy pads it to a multiple of 64


class NpyError(ValueError):
    """A file is no complete .npy file; the message continues the file's name."""


@dataclass(frozen=True)
class NpyFile:
    """An array in a .npy file of version 1 or 2, rows first.

    Parameters
    ----------
    path : str
        Path or address.
    shape : tuple of int
        Of the array.
    dtype : str
        Of its numbers, such as ``|i1``.
    start : int
        The byte at which they begin.
    """

    path: str
    shape: tuple[int, ...]
    dtype: str
    start: int

    def read(self, rows: slice, columns: slice) -> npt.NDArray[Any]:
        """Read a window of the first two axes.

        At an address whole rows are read, as they are one range of bytes.
        """
        if not is_address(self.path):
            whole = np.memmap(self.path, self.dtype, "r", self.start, self.shape)
            return np.array(whole[rows, columns])
        row = int(np.prod(self.shape[1:])) * np.dtype(self.dtype).itemsize
        first, last = self.start + rows.start * row, self.start + rows.stop * row
        content = _file_system(self.path).cat_file(self.path, start=first, end=last)
        if len(content) != last - first:
            raise NpyError(
                f"{last - first:,} bytes were asked for, {len(content):,} came"
            )
        shape = (rows.stop - rows.start, *self.shape[1:])
        return np.frombuffer(content, self.dtype).reshape(shape)[:, columns]


def open_npy(path: str) -> NpyFile:
    """Return an array, of which only the header is read.

    Raises
    ------
    NpyError
        If it is no .npy file, is cut short, or has numbers that Python objects are.
    FileNotFoundError
        If there is none.
    """
    if is_address(path):
        system = _file_system(path)
        size = int(system.info(path)["size"])
        head = system.cat_file(path, start=0, end=min(_HEAD, size))
    else:
        check_file(path, NpyError)
        size = os.path.getsize(path)
        with open(path, "rb") as file:
            head = file.read(_HEAD)
    shape, by_column, dtype, start = _header(head)
    if dtype.hasobject:
        raise NpyError("it has Python objects, which could run code")
    if by_column:
        raise NpyError("its columns come first; save it with numpy.ascontiguousarray")
    end = start + int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    if size < end:
        raise NpyError(f"it must have {end:,} bytes, got {size:,}: it is cut short")
    return NpyFile(path, shape, dtype.str, start)


def _header(head: bytes) -> tuple[tuple[int, ...], bool, np.dtype[Any], int]:
    stream = io.BytesIO(head)
    try:
        version = np.lib.format.read_magic(stream)
        read = np.lib.format.read_array_header_1_0
        if version[0] > 1:
            read = np.lib.format.read_array_header_2_0
        shape, by_column, dtype = read(stream)
    except ValueError as error:
        raise NpyError(f"it is no .npy file ({error})") from error
    return shape, by_column, dtype, stream.tell()


def exists(path: str) -> bool:
    """Return whether there is a file at a path or an address."""
    if is_address(path):
        return bool(_file_system(path).exists(path))
    return os.path.isfile(path)


def _file_system(path: str) -> Any:
    import fsspec

    need_for_address(path)
    return fsspec.core.url_to_fs(path)[0]
