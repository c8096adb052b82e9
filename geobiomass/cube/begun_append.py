"""Chips of an append that was interrupted: not seen by readers, and no damage.

Their files are on disk before the cube shows them. The same call goes on with them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geobiomass.cube.addresses import open_group
from geobiomass.cube.file_checks import NEW
from geobiomass.cube.one_state import writer_of
from geobiomass.cube.write_record import has_record

if TYPE_CHECKING:
    from zarr.abc.store import Store

Problem = tuple[str, str]


def without_begun_append(
    path: str | Path | Store,
    options: Mapping[str, Any] | None,
    problems: Sequence[Problem],
    changing: bool,
) -> tuple[list[Problem], str]:
    """Return the damaged files of a cube, without those that an append has begun.

    Parameters
    ----------
    path : str, Path or zarr.abc.store.Store
        A finished cube.
    options : mapping, optional
        Options of fsspec for the address.
    problems : sequence of (str, str)
        Files of pixels, and what is wrong with them.
    changing : bool
        Whether its checksums leave out files that an append changes.

    Returns
    -------
    problems : list of (str, str)
        Those of the chips that readers see.
    told : str
        A sentence on the append; "" where there is none.
    """
    raw: Any = open_group(path, "r", options, consolidated=False)
    if not (changing or has_record(raw)) or "chip" not in raw:
        return [*problems], ""
    shown: Any = open_group(path, "r", options)
    first = shown["chip"].shape[0]
    more = raw["chip"].shape[0] - first
    if has_record(raw):
        more = raw["statistics/written"].shape[0]
    if more < 1:
        return [*problems], ""

    def is_added(file: str) -> bool:
        name, _, key = file.partition("/c/")
        array = raw[name]
        chips = (array.shards or array.chunks)[0]
        return bool((int(key.split("/")[0]) + 1) * chips > first)

    kept = [(f, why) for f, why in problems if why != NEW or not is_added(f)]
    whole = (
        "the cube without them is whole" if not kept else "the cube is shown as it was"
    )
    writer = writer_of(path, options)
    if writer is not None:
        return kept, f"{more} chips are being appended to {path} by {writer}; {whole}."
    return kept, (
        f"An append of {more} chips to {path} was interrupted; {whole}. The same call "
        "of write_cube with append=True goes on."
    )
