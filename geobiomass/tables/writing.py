"""One writer of tables that people take elsewhere: CSV, whole or not at all.

A table replaces an earlier one of its kind, and nothing of a person's own.
"""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geobiomass.outside_text import safe_cells
from geobiomass.training.files import alone_at, is_stream, replacing
from geobiomass.training.own_files import check_own_file

if TYPE_CHECKING:
    import pandas as pd

_COMPRESSION: dict[str, dict[str, Any]] = {
    ".gz": {"method": "gzip", "mtime": 0},  # so that equal tables are equal files
    ".bz2": {"method": "bz2"},
    ".xz": {"method": "xz"},
    ".zst": {"method": "zstd"},
    ".zip": {"method": "zip"},
}


def write_csv(
    table: pd.DataFrame,
    path: Any,
    what: str = "table",
    *,
    mark: str = "",
    others: Sequence[Sequence[str]] = (),
    **settings: Any,
) -> None:
    """Write a table as CSV, without formulas, whole or not at all.

    Parameters
    ----------
    table : pandas.DataFrame
        Text that begins like a formula gets an apostrophe in front.
    path : str or path-like
        The file; an earlier table of the same kind is replaced. ``.gz``, ``.bz2``,
        ``.xz``, ``.zst`` and ``.zip`` at its end compress it. An address such as
        ``s3://...`` and an open file are written as pandas does.
    what : str
        What the table is, for the message.
    mark : str
        A column that only tables of this kind have. By default an earlier table has the
        same columns.
    others : sequence of sequence of str
        Columns of other tables of the package that may be replaced too.
    **settings
        Of :meth:`pandas.DataFrame.to_csv`.

    Raises
    ------
    FileExistsError
        If anything else is at `path`.
    DiskError, InUseError
        As :func:`geobiomass.training.files.output_file` does.
    """
    safe = safe_cells(table)
    if not isinstance(path, str | os.PathLike) or "://" in os.fsdecode(path):
        safe.to_csv(path, **settings)
        return
    place = Path(os.path.expanduser(os.fsdecode(path)))
    compression = _COMPRESSION.get(place.suffix.lower())
    if place.suffix.lower() == ".zip":
        compression = {"method": "zip", "archive_name": place.stem}
    content = io.BytesIO()
    safe.to_csv(content, compression=compression, **settings)

    def is_ours(*_: bytes) -> bool:
        old = _columns(place, compression)
        new = _columns(io.BytesIO(content.getvalue()), compression)
        return mark in old if mark else set(old) in map(set, (new, *others))

    with alone_at(place) as whole:
        if is_stream(whole):
            whole.write_bytes(content.getvalue())
            return
        check_own_file(whole, what, is_ours)
        with replacing(whole) as part:
            part.write_bytes(content.getvalue())


def _columns(source: Any, compression: dict[str, Any] | None) -> list[str]:
    """Return the names in the first line of a table; none of what is no table."""
    import pandas as pd

    method = None if compression is None else compression["method"]
    try:
        return list(map(str, pd.read_csv(source, nrows=0, compression=method)))
    except (OSError, ValueError, EOFError):
        return []
