"""The record of a cube that is being written: which blocks are whole, and their counts.

``statistics/written`` holds the pixels with a value of each finished block, by month
and band, ``labels_written`` its labels and ``lost`` the values that were changed. An
entry is one object, written as a whole and after its block. So a block without an entry
was begun at most, and is never read: what is there of it is deleted and written again.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt
import xarray as xr

from geobiomass.cube.codecs import whole_files
from geobiomass.cube.losses import Losses
from geobiomass.cube.schema import is_chips
from geobiomass.cube.store_objects import ROOT, synchronise
from geobiomass.cube.write_blocks import block_counts

if TYPE_CHECKING:
    import zarr

NOT_WRITTEN = 2**32 - 1
"""Count that no block can have: the block is not written yet."""

_NAMES = ("written", "labels_written", "lost")


class Record:
    """The record of the blocks of a cube, open for writing.

    Parameters
    ----------
    group : zarr.Group
        The cube's; it must have a record.
    """

    def __init__(self, group: zarr.Group) -> None:
        with whole_files():
            found = [group.get(f"statistics/{name}") for name in _NAMES]
        self.written, self.labelled, self._lost = cast(list[Any], found)

    def done(self) -> npt.NDArray[np.bool_]:
        """Return which blocks are written, by their number.

        An entry that cannot be read, after a power failure, counts as none.
        """
        shape = self.written.shape[:-2]
        found = np.zeros(shape, bool)
        try:
            found[...] = np.asarray(self.written)[..., 0, 0] != NOT_WRITTEN
            np.asarray(self.labelled)
        except Exception:
            for number in np.ndindex(shape):
                found[number] = self._is_whole(number)
        return found

    def _is_whole(self, number: tuple[int, ...]) -> bool:
        try:
            self.labelled[number]
            self.lost(number)
            return bool(self.written[number].flat[0] != NOT_WRITTEN)
        except Exception as error:
            warnings.warn(
                f"block {number} of {self.written.store} is written again: its entry "
                f"cannot be read ({error})",
                stacklevel=3,
            )
            return False

    def lost(self, number: tuple[int, ...]) -> npt.NDArray[np.uint32] | None:
        """Return the numbers of a block's values that were changed, if known."""
        # Cubes that an earlier version began have none.
        return None if self._lost is None else np.asarray(self._lost[number])

    def note(
        self,
        number: tuple[int, ...],
        present: npt.NDArray[np.uint32],
        labelled: int | None,
        lost: npt.NDArray[np.uint32],
    ) -> None:
        """Add the entry of a block that is on disk."""
        if labelled is not None:
            self.labelled[number] = labelled
        if self._lost is not None:
            self._lost[number] = lost
        # Last, so that a block in the record is whole.
        self.written[number] = present


def create_record(group: zarr.Group, cube: xr.Dataset, fingerprint: str) -> None:
    """Create an empty record."""
    months, bands = cube.sizes["month"], cube.sizes["band"]
    counts = block_counts(cube)
    names = ["chip"] if is_chips(cube) else ["row", "column"]
    statistics = group.require_group("statistics")
    more: dict[str, dict[str, int]] = {
        "labels_written": {},
        "lost": {"quantity": len(Losses.of(cube).counts), "kind": 2},
        "written": {"month": months, "band": bands},
    }
    # "written" last: where it is, the record is complete.
    forget_record(group)
    for name, sizes in more.items():
        statistics.create_array(
            name,
            shape=(*counts, *sizes.values()),
            # A chunk is one block, so that threads never write to the same file.
            chunks=(*(1 for _ in counts), *sizes.values()),
            dtype="uint32",
            fill_value=0 if name == "lost" else NOT_WRITTEN,
            dimension_names=[*names, *sizes],
            attributes={"fingerprint": fingerprint},
            overwrite=True,
        )


def has_record(group: zarr.Group, fingerprint: str = "") -> bool:
    """Return whether there is a record, of a call with a fingerprint if it is given."""
    found = group.get("statistics/written")
    if found is None:
        return False
    return not fingerprint or found.attrs.get("fingerprint") == fingerprint


def forget_record(group: zarr.Group) -> None:
    """Delete the record, and what an interrupted call left of it."""
    for name in _NAMES:  # "written" first: without it the rest counts for nothing
        forget_array(group, f"statistics/{name}")


def forget_array(group: zarr.Group, name: str) -> None:
    """Delete an array, or what is left of one that was being deleted.

    Its metadata go first: without chunks it would be an array of missing values.
    """
    place = group.store_path / name
    synchronise((place / ROOT).delete())
    synchronise(place.delete_dir())


def put(
    group: zarr.Group,
    name: str,
    values: npt.NDArray[Any],
    first: int,
    dims: Sequence[str],
) -> None:
    """Write an array, or its entries from `first` on; a repetition changes nothing."""
    if first == 0:
        with whole_files():
            group.create_array(
                name,
                data=values,
                dimension_names=list(dims),
                overwrite=True,
                fill_value=0,
            )
        return
    with whole_files():
        array = cast(Any, group[name])
    array.resize((first + len(values), *array.shape[1:]))
    array[first:] = values
