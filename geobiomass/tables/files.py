"""One reader of tables: text of any kind, Excel, Parquet and vector files."""

from __future__ import annotations

import csv
import io
import os
import re
import warnings
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any, cast

import pandas as pd

from geobiomass.tables.columns import TableError
from geobiomass.tables.numbers import typed_columns
from geobiomass.tables.unpacking import (
    check_archive,
    check_cells,
    check_size,
    check_workbook,
    gunzip,
)
from geobiomass.training.given_paths import check_file, path_text
from geobiomass.training.packages import need

_TEXT = (".csv", ".tsv", ".txt", ".tab", ".psv", ".dat")
_SHEETS = (".xlsx", ".xlsm")
_PARQUET = (".parquet", ".geoparquet", ".pq")
VECTORS = (
    ".gpkg", ".geojson", ".geojsonl", ".json", ".shp", ".fgb", ".gml", ".kml", ".kmz",
    ".gpx", ".gdb", ".shz",
)  # fmt: skip
"""Ends of the names of vector files."""
TABLES = (*_TEXT, *_SHEETS, *_PARQUET, *VECTORS, ".zip")
"""Ends of the names of files that :func:`read_table` reads, also with .gz behind."""

_DELIMITERS = (",", ";", "\t", "|")
_SAMPLE = 65_536  # characters that decide the delimiter
_LINES = 50
_COMMENTS = re.compile(r"\A(?:\s*#[^\n]*\n)+")  # above a header
_DECIMAL_COMMA = re.compile(r"[+-]?\d+,\d+")
_SEP = re.compile(r"sep=(.)\r?\n")  # as Excel writes it above a header


def is_table(path: Any) -> bool:
    """Return whether the name of a file is one of a table or vector file."""
    if not isinstance(path, str | os.PathLike):
        return False
    name = split_part(os.fspath(path))[0].lower().removesuffix(".gz")
    return name.endswith(TABLES)


def split_part(path: str) -> tuple[str, str | None]:
    """Return a path and its layer or sheet, as in ``a.gpkg|layername=b``."""
    if "|" not in path or os.path.exists(path):
        return path, None
    whole, _, part = path.partition("|")
    return whole, re.sub(r"^(layername|layer|sheet)=", "", part)


def read_table(
    path: str | os.PathLike[str], *, sheet: str | None = None
) -> pd.DataFrame:
    """Read a table from a file, whichever program wrote it.

    Parameters
    ----------
    path : str or path-like
        Text with commas, semicolons, tabs or bars between the cells, in UTF-8, UTF-16
        or a Western European encoding, also within .gz or .zip; .xlsx (needs
        ``geobiomass[tables]``); Parquet and GeoParquet (the same); a vector file
        (needs ``geobiomass[vectors]``). ``path|name`` names a sheet or layer.
    sheet : str, optional
        The sheet or layer of a file with several.

    Returns
    -------
    pandas.DataFrame
        A GeoDataFrame if the file has geometries. Columns whose entries are all
        numbers are numbers: the separators of decimals and thousands are decided by
        column. Columns of identifiers (007) and dates stay text. ``attrs["read"]`` has
        the encoding and the separators of a text file.

    Raises
    ------
    TableError
        If the file is missing, is empty, cannot be read, or has several sheets or
        layers and none is named.
    MissingPackageError
        If the package is not installed that reads the file.
    """
    address = path_text(path, "A table", TableError)
    file, part = split_part(address)
    sheet = sheet if sheet is not None else part
    _need_for(file)
    if "://" not in file and not file.startswith("/vsi") and not os.path.exists(file):
        raise TableError(f"The table {file} cannot be read: there is no such file.")
    check_file(file, TableError)
    name = file.lower()
    try:
        if name.removesuffix(".gz").endswith(VECTORS):
            return _read_vectors(file, sheet)
        if name.endswith(_PARQUET):
            return _read_parquet(file)
        if name.endswith(_SHEETS):
            return _read_sheet(file, file, sheet)
        if name.endswith((".xls", ".ods")):
            raise TableError(
                f"The table {file} cannot be read: save it as .xlsx or CSV."
            )
        if name.endswith(".zip"):
            return _read_zip(file, sheet)
        return _read_text(_bytes_of(file), file)
    except TableError:
        raise
    except ImportError:
        raise
    except (
        *(OSError, ValueError, RuntimeError, EOFError),
        *(zipfile.BadZipFile, csv.Error),
    ) as error:
        raise TableError(f"The table {file} cannot be read: {error}.") from error


def _need_for(file: str) -> None:
    """Check that the package that reads a file is installed, before it is opened."""
    name = file.lower().removesuffix(".gz")
    if name.endswith(VECTORS):
        need(f"Reading {file}", "vectors", "geopandas", "pyogrio")
    elif name.endswith(_PARQUET):
        need(f"Reading {file}", "tables", "pyarrow")
    elif name.endswith(_SHEETS):
        need(f"Reading {file}", "tables", "openpyxl")


def _bytes_of(file: str) -> bytes:
    if "://" in file:
        import fsspec

        with fsspec.open(file, "rb") as stream:
            content = cast(bytes, stream.read())
    else:
        check_size(os.path.getsize(file), file)
        content = Path(file).read_bytes()
    return gunzip(content, file) if content[:2] == b"\x1f\x8b" else content


# --- text ---


def _read_text(content: bytes, name: str) -> pd.DataFrame:
    text, encoding = _decoded(content)
    if not text.strip():
        raise TableError(f"The table {name} is empty.")
    said = _SEP.match(text)
    if said:
        text = text[said.end() :]
    text = _COMMENTS.sub("", text)
    delimiter = said.group(1) if said else _delimiter(text)
    _check_header(text, delimiter, name)
    check_cells(text.count("\n"), len(_rows(text, delimiter)[0]), name)
    table = pd.read_csv(
        io.StringIO(text),
        sep=r"\s+" if delimiter == " " else delimiter,
        dtype=str,
        index_col=False,
        skipinitialspace=True,
    )
    table.columns = [str(column).strip() for column in table.columns]
    table = _without_empty_columns(table)
    # Between commas, a decimal comma needs quotes: a point is one of decimals.
    made = typed_columns(table, "." if delimiter in ", " else None)
    made.attrs["read"] = {"encoding": encoding, "delimiter": delimiter}
    return made


def _decoded(content: bytes) -> tuple[str, str]:
    if content[:4] in (b"\xff\xfe\0\0", b"\0\0\xfe\xff"):
        return content.decode("utf-32"), "utf-32"
    if content[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return content.decode("utf-16"), "utf-16"
    start = content[:1000]
    if start.count(0) > len(start) // 4:  # UTF-16 without a mark of its byte order
        encoding = "utf-16-le" if start[1:2] == b"\x00" else "utf-16-be"
        return content.decode(encoding), encoding
    try:
        return content.decode("utf-8-sig"), "utf-8"
    except UnicodeDecodeError:
        pass
    try:
        return content.decode("cp1252"), "cp1252"
    except UnicodeDecodeError:
        return content.decode("latin-1"), "latin-1"


def _rows(text: str, delimiter: str) -> list[list[str]]:
    """Return the first rows; the last may be cut and is left out of a long text."""
    sample = text[:_SAMPLE]
    if len(text) > _SAMPLE:
        whole = sample.rfind("\n") + 1
        # The header alone may be longer.
        sample = sample[:whole] if whole else text[: text.find("\n", _SAMPLE) + 1]
        sample = sample or text
    found = []
    for row in csv.reader(
        io.StringIO(sample, newline=""), delimiter=delimiter, skipinitialspace=True
    ):
        if any(cell.strip() for cell in row):
            found.append(row)
        if len(found) == _LINES:
            break
    return found


def _delimiter(text: str) -> str:
    """Return the delimiter with which the header and the rows have equal lengths."""
    best, most = ",", (0.0, 1)
    for delimiter in _DELIMITERS:
        if delimiter not in text[:_SAMPLE]:
            continue
        rows = _rows(text, delimiter)
        width = len(rows[0]) if rows else 0
        if width < 2:
            continue
        agree = sum(len(row) == width for row in rows) / len(rows)
        if (agree, width) > most:
            best, most = delimiter, (agree, width)
    if most[1] > 1:
        return best
    words = [line.split() for line in text[:_SAMPLE].splitlines()[:_LINES] if line]
    equal = len({len(row) for row in words[:-1] or words}) == 1
    if equal and len(words) > 1 and len(words[0]) > 1:
        return " "
    if len(words) > 1 and all(
        len(row) == 1 and _DECIMAL_COMMA.fullmatch(row[0]) for row in words[1:]
    ):
        return ";"  # one column with decimal commas
    return best


def _check_header(text: str, delimiter: str, name: str) -> None:
    """Check that no row has more cells than the header, which would shift them."""
    if delimiter == " ":
        return
    rows = _rows(text, delimiter)
    width = len(rows[0])
    twice = [
        cell for cell, n in Counter(map(str.strip, rows[0])).items() if cell and n > 1
    ]
    if twice:
        warnings.warn(
            f"The table {name} has several columns called {twice}; the first keeps the "
            "name.",
            stacklevel=5,
        )
    if width == 1 and len(rows) > 1:
        wide = {len(row) for row in rows[1:]}
        raise_for = next((n for n in wide if n > 2), None)
        if raise_for is not None:
            raise TableError(
                f"The table {name} must begin with the names of its columns, got "
                f"{rows[0]} above rows of {raise_for} cells; remove what is above the "
                "header."
            )
    for number, row in enumerate(rows[1:], 2):
        if len(row) > width and any(cell.strip() for cell in row[width:]):
            raise TableError(
                f"The table {name} must have {width} cells in each row, as its header "
                f"has, got {len(row)} in row {number}: {row}. Where commas separate "
                "cells, quote numbers with decimal commas, or write a point."
            )


def _without_empty_columns(table: pd.DataFrame) -> pd.DataFrame:
    """Leave out columns without a name and a value, as trailing delimiters make."""
    named = [not str(column).startswith("Unnamed:") for column in table.columns]
    filled = table.notna().any().to_numpy()
    return table.loc[:, [a or bool(b) for a, b in zip(named, filled, strict=True)]]


# --- other files ---


def _read_sheet(file: Any, name: str, sheet: str | None) -> pd.DataFrame:
    need(f"Reading {name}", "tables", "openpyxl")
    check_workbook(file, name)
    with pd.ExcelFile(file, engine="openpyxl") as book:
        known = [str(each) for each in book.sheet_names]
        if sheet is not None and sheet not in known:
            raise TableError(f"{name} has no sheet {sheet!r}, it has {known}.")
        wanted = [sheet] if sheet is not None else known
        # Numbers keep their type, text cells are read like those of a CSV.
        filled = {
            each: found
            for each in wanted
            if not (found := pd.read_excel(book, each, dtype=object)).empty
        }
    if len(filled) != 1:
        if not filled:
            raise TableError(f"The table {name} is empty.")
        raise TableError(
            f"{name} has several sheets, {list(filled)}; say which, "
            f"'{name}|{next(iter(filled))}'."
        )
    table = next(iter(filled.values()))
    table.columns = [str(column).strip() for column in table.columns]
    table = _without_empty_columns(table).dropna(how="all").infer_objects()
    texts = [n for n in range(table.shape[1]) if _is_text(table.iloc[:, n])]
    typed = typed_columns(table.iloc[:, texts], None)
    for place, number in enumerate(texts):
        table.isetitem(number, typed.iloc[:, place].array)
    return table


def _is_text(cells: pd.Series) -> bool:
    """Return whether cells are text, or text and numbers; not dates or truth values."""
    if cells.dtype != object and not pd.api.types.is_string_dtype(cells.dtype):
        return False
    kinds = {type(cell) for cell in cells.dropna()}
    return bool(kinds) and kinds <= {str, int, float}


def _read_parquet(file: str) -> pd.DataFrame:
    need(f"Reading {file}", "tables", "pyarrow")
    from pyarrow.parquet import read_metadata

    facts = read_metadata(file)
    check_cells(facts.num_rows, facts.num_columns, file)
    if b"geo" in (facts.metadata or {}):
        need(f"Reading {file}", "vectors", "geopandas")
        import geopandas

        return cast(pd.DataFrame, geopandas.read_parquet(file))
    return pd.read_parquet(file, engine="pyarrow")


def _read_zip(file: str, sheet: str | None) -> pd.DataFrame:
    """Read the one table within an archive; shapefiles are read by GDAL."""
    with zipfile.ZipFile(file) as archive:
        check_archive(archive, file)
        names = [n for n in archive.namelist() if not n.startswith("__MACOSX")]
        tables = [n for n in names if n.lower().endswith((*_TEXT, *_SHEETS))]
        if any(n.lower().endswith(VECTORS) for n in names):
            return _read_vectors(file, sheet)
        if len(tables) != 1:
            raise TableError(
                f"The archive {file} must hold one table, got {tables or names}; "
                "unpack it and name the file."
            )
        content = archive.read(tables[0])
    if tables[0].lower().endswith(_SHEETS):
        return _read_sheet(io.BytesIO(content), f"{file}/{tables[0]}", sheet)
    return _read_text(content, f"{file}/{tables[0]}")


def _read_vectors(file: str, layer: str | None) -> pd.DataFrame:
    from geobiomass.tables.vectors import read_vectors

    return cast(pd.DataFrame, read_vectors(file, layer))
