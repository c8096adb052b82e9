"""Compressed files and workbooks: unpacked within limits, so that none fills memory."""

from __future__ import annotations

import re
import zipfile
import zlib
from typing import IO, Any

from geobiomass.tables.columns import TableError

MOST_BYTES = 2 * 2**30
"""Of what is unpacked: a table of ten million plots has a fifth."""

MOST_CELLS = 200_000_000
"""Rows times columns: as text, each takes 8 bytes at least."""

_MOST_COLUMNS = 16_384  # as a sheet of Excel has: their types take 1 ms each
_PART = 2**20
# The place of a cell in a worksheet (ISO/IEC 29500): <c r="B7"> and <row r="7">.
_CELL = re.compile(rb"<(?:\w+:)?(?:c|row)\s[^>]*?\br=[\"']([A-Za-z]{0,3})(\d+)[\"']")
_TAIL = 1000  # bytes: longer than the start of a cell


def gunzip(content: bytes, name: str) -> bytes:
    """Return what a file of gzip contains.

    Raises
    ------
    TableError
        If it is larger than `MOST_BYTES`.
    """
    found, rest = bytearray(), content
    while rest:  # a file may have several parts
        unpacker = zlib.decompressobj(wbits=31)
        while not unpacker.eof:
            try:
                part = unpacker.decompress(rest, _PART)
            except zlib.error as error:
                why = f"The table {name} cannot be read: {error}; copy it again."
                raise TableError(why) from error
            rest = unpacker.unconsumed_tail
            found += part
            if len(found) > MOST_BYTES:
                raise _too_large(name)
            if not part and not rest and not unpacker.eof:
                raise TableError(
                    f"The table {name} cannot be read: it ends before its data does; "
                    "copy it again."
                )
        rest = unpacker.unused_data.lstrip(b"\0")
    return bytes(found)


def check_archive(archive: zipfile.ZipFile, name: str) -> None:
    """Check the size of what an archive contains.

    Python unpacks no more of a file than the archive says that it has.

    Raises
    ------
    TableError
        If it is larger than `MOST_BYTES`.
    """
    if sum(one.file_size for one in archive.infolist()) > MOST_BYTES:
        raise _too_large(name)


def check_size(size: int, name: str) -> None:
    """Check the size of a table of text, which is read as a whole.

    Raises
    ------
    TableError
        If it is larger than `MOST_BYTES`.
    """
    if size > MOST_BYTES:
        raise TableError(
            f"The table {name} must have at most {MOST_BYTES:,} bytes, got {size:,}; "
            "read it with pandas, and pass a part."
        )


def check_packed(path: str) -> None:
    """Check the size of what a compressed vector file contains, before GDAL reads it.

    Raises
    ------
    TableError
        If it is larger than `MOST_BYTES`.
    """
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            check_archive(archive, path)
    elif path.lower().endswith(".gz"):
        import gzip

        with gzip.open(path) as file:
            _measure(file, path)


def check_workbook(file: Any, name: str) -> None:
    """Check the size of a workbook, and of the sheets that its cells span.

    A sheet with one cell in its last row and column spans 17 billion, which readers
    fill.

    Raises
    ------
    TableError
        If it is too large.
    """
    with zipfile.ZipFile(file) as archive:
        check_archive(archive, name)
        for one in archive.infolist():
            if one.filename.startswith("xl/worksheets/") and not one.is_dir():
                with archive.open(one) as sheet:
                    _check_sheet(sheet, name)


def check_cells(rows: int, columns: int, name: str) -> None:
    """Check the number of cells of a table.

    Raises
    ------
    TableError
        If there are more than `MOST_CELLS`, or more columns than a sheet has.
    """
    if columns > _MOST_COLUMNS and rows * columns <= MOST_CELLS:
        raise TableError(
            f"The table {name} must have at most {_MOST_COLUMNS:,} columns, got "
            f"{columns:,}; read it with pandas, and pass the columns that are needed."
        )
    if rows * columns > MOST_CELLS:
        raise TableError(
            f"The table {name} must have at most {MOST_CELLS:,} cells, got {rows:,} "
            f"rows and {columns:,} columns; read it with pandas, and pass a part."
        )


def _check_sheet(sheet: IO[bytes], name: str) -> None:
    rows, columns, tail = 0, 0, b""
    while part := sheet.read(_PART):
        for letters, row in _CELL.findall(tail + part):
            rows = max(rows, int(row[:9]))
            columns = max(columns, _column(letters))
        tail = part[-_TAIL:]
        check_cells(rows, max(1, columns), name)


def _column(letters: bytes) -> int:
    number = 0
    for letter in letters.upper():
        number = 26 * number + letter - 64
    return number


def _measure(file: Any, name: str) -> None:
    size = 0
    while part := file.read(_PART):
        size += len(part)
        if size > MOST_BYTES:
            raise _too_large(name)


def _too_large(name: str) -> TableError:
    return TableError(
        f"The table {name} must have at most {MOST_BYTES:,} bytes when it is unpacked, "
        "got more; unpack it yourself if it is meant to."
    )
