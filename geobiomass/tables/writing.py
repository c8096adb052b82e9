"""Writing tables as CSV: whole or not at all, and never over a person's own."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import TYPE_CHECKING

from geobiomass.outside_text import safe_cells
from geobiomass.training.disk_errors import told_of_disk
from geobiomass.training.files import write_whole
from geobiomass.training.own_files import check_own_file

if TYPE_CHECKING:
    import pandas as pd


def write_csv(
    table: pd.DataFrame,
    path: str | Path,
    what: str,
    *,
    index_label: str | None = None,
    index: bool = True,
    mark: str = "",
) -> None:
    """Write a table as CSV; an earlier table of the same kind is replaced.

    Parameters
    ----------
    table : pandas.DataFrame
        Text in it becomes no formula.
    path : str or Path
        The file.
    what : str
        What the table is, for the message.
    index_label, index : str, bool
        As in :meth:`pandas.DataFrame.to_csv`.
    mark : str
        A column that only such tables have. By default an earlier table has the same
        columns.

    Raises
    ------
    FileExistsError
        If anything else is at `path`.
    DiskError
        If it cannot be written.
    """
    path = Path(path)
    text = safe_cells(table).to_csv(
        index=index, index_label=index_label, lineterminator="\n"
    )
    new = _columns(text.encode())

    def is_ours(first: bytes, _: bytes) -> bool:
        old = _columns(first)
        return mark in old if mark else set(old) == set(new)

    path = path.resolve()  # a link stays a link
    if path.exists() and not (path.is_file() or path.is_dir()):  # such as /dev/stdout
        path.write_text(text, encoding="utf-8")
        return
    check_own_file(path, what, is_ours)
    with told_of_disk(path):
        write_whole(path, text)


def _columns(content: bytes) -> list[str]:
    head = content.partition(b"\n")[0].decode(errors="replace").rstrip("\r")
    return next(csv.reader([head]), [])
