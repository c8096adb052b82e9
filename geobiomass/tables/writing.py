"""One writer of tables that people take elsewhere: CSV, whole or not at all."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geobiomass.outside_text import safe_cells
from geobiomass.training.files import write_whole

if TYPE_CHECKING:
    import pandas as pd

_COMPRESSION: dict[str, dict[str, Any]] = {
    ".gz": {"method": "gzip", "mtime": 0},  # so that equal tables are equal files
    ".bz2": {"method": "bz2"},
    ".xz": {"method": "xz"},
    ".zst": {"method": "zstd"},
    ".zip": {"method": "zip"},
}


def write_csv(table: pd.DataFrame, path: Any, **settings: Any) -> None:
    """Write a table as CSV, without formulas, whole or not at all.

    Parameters
    ----------
    table : pandas.DataFrame
        Text that begins like a formula gets an apostrophe in front.
    path : str or path-like
        The file; one that exists is replaced. ``.gz``, ``.bz2``, ``.xz``, ``.zst`` and
        ``.zip`` at its end compress it. An address such as ``s3://...`` and an open
        file are written as pandas does.
    **settings
        Of :meth:`pandas.DataFrame.to_csv`.

    Raises
    ------
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
    write_whole(place, content.getvalue())
