"""The manifest of a map: an entry for each written block, in the map's own store.

The name of an entry is the block's key and the checksum of its values. So a listing of
names is enough, on a disk and on object storage, and no entry can be half written. An
entry is made after its block is written.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

from geobiomass.cube.store_objects import as_buffer, list_names, synchronise
from geobiomass.maps.blocks import Block, Target
from geobiomass.threads import few_at_a_time

if TYPE_CHECKING:
    import zarr

WRITTEN = "written"
"""Group of the entries, while a map is unfinished."""

_ENTRY = re.compile(r"(\d+(?:\.\d+){1,2})\.([0-9a-f]{16})")


class Manifest:
    """The entries of a map that is being written.

    Parameters
    ----------
    group : zarr.Group
        The map's.
    """

    def __init__(self, group: zarr.Group) -> None:
        self._folder = group.store_path / WRITTEN

    def read(self) -> dict[str, str]:
        """Return the checksum of each block that was written, by its key."""
        names = list_names(self._folder.store, self._folder.path)
        entries = (_ENTRY.fullmatch(name) for name in names)
        return {entry[1]: entry[2] for entry in entries if entry is not None}

    def note(self, block: Block, checksum: str) -> None:
        """Add the entry of a block that is written."""
        synchronise((self._folder / f"{block.key}.{checksum}").set(as_buffer("")))

    def forget(self, block: Block, checksum: str) -> None:
        """Delete the entry of a block."""
        synchronise((self._folder / f"{block.key}.{checksum}").delete())


def verified(
    manifest: Manifest, target: Target, blocks: Sequence[Block], progress: bool
) -> set[Block]:
    """Return the blocks of the manifest whose values have the recorded checksum.

    The entries of other blocks are deleted, with a warning; those blocks are computed
    again.
    """
    from tqdm.auto import tqdm

    noted = manifest.read()
    whole: set[Block] = set()
    damaged: dict[Block, str] = {}
    there = [block for block in blocks if block.key in noted]
    with tqdm(
        total=len(there),
        unit="block",
        desc="Checking what is there",
        disable=not (progress and there),
    ) as bar:
        for block, future in few_at_a_time(there, target.checksum, 2):
            error = future.exception()
            if isinstance(error, Exception):
                damaged[block] = str(error)
            elif future.result() == noted[block.key]:
                whole.add(block)
            else:
                damaged[block] = "not the values that were written, or gone"
            bar.update()
    for block in damaged:
        manifest.forget(block, noted[block.key])
    if damaged:
        block, reason = next(iter(damaged.items()))
        warnings.warn(
            f"{len(damaged)} of {len(there)} blocks that were written are damaged and "
            f"are computed again; the first, {block}: {reason}",
            stacklevel=2,
        )
    return whole
