"""Blocks of a cube: blocks to write in one step, and blocks to compute together."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import xarray as xr

from geobiomass.cube.encoding import SHARD
from geobiomass.cube.schema import is_chips
from geobiomass.tiles import blocks

_LARGEST_BATCH = 4 * SHARD  # pixels along a side: at most these are computed together


@dataclass(frozen=True)
class Block:
    """A part of a cube that is one shard on disk: a chip, or a square of a scene."""

    chip: int | None
    rows: slice
    columns: slice

    @property
    def number(self) -> tuple[int, ...]:
        """Index of the block in the record: the chip, or row and column of blocks."""
        if self.chip is not None:
            return (self.chip,)
        return (self.rows.start // SHARD, self.columns.start // SHARD)

    def within(self, other: Block) -> tuple[slice, slice]:
        """Return the rows and columns relative to the upper left corner of `other`."""
        top, left = other.rows.start, other.columns.start
        return (
            slice(self.rows.start - top, self.rows.stop - top),
            slice(self.columns.start - left, self.columns.stop - left),
        )

    def of(self, array: xr.DataArray) -> xr.DataArray:
        """Return the block's part of a variable; chips stay a dimension."""
        part = array.isel(y=self.rows, x=self.columns)
        if self.chip is None:
            return part
        return part.isel(chip=slice(self.chip, self.chip + 1))


def blocks_of(cube: xr.Dataset) -> list[Block]:
    """Return all blocks of a cube: its chips, or the squares of a scene row by row."""
    height, width = cube.sizes["y"], cube.sizes["x"]
    if is_chips(cube):
        whole = slice(0, height), slice(0, width)
        return [Block(chip, *whole) for chip in range(cube.sizes["chip"])]
    windows = blocks(height, width, SHARD)
    return [Block(None, window.rows, window.columns) for window in windows]


def block_counts(cube: xr.Dataset) -> tuple[int, ...]:
    """Return the number of blocks: of chips, or by row and column."""
    if is_chips(cube):
        return (cube.sizes["chip"],)
    return tuple(-(-cube.sizes[dim] // SHARD) for dim in ("y", "x"))


def month_parts(cube: xr.Dataset) -> list[slice]:
    """Return the months that lie in one dask chunk, chunk by chunk."""
    lengths = cube["image"].chunksizes.get("month", (cube.sizes["month"],))
    stops = np.cumsum(lengths).tolist()
    return [slice(b - n, b) for n, b in zip(lengths, stops, strict=True)]


def batches_of(cube: xr.Dataset, left: list[Block]) -> list[list[Block]]:
    """Group the blocks of one dask chunk, so that the chunk is computed once."""
    if is_chips(cube):
        return [[block] for block in left]
    sides = [_batch_side(cube["image"].chunksizes.get(dim, ())) for dim in ("y", "x")]
    batches: dict[tuple[int, ...], list[Block]] = {}
    for block in left:
        number = tuple(n // s for n, s in zip(block.number, sides, strict=True))
        batches.setdefault(number, []).append(block)
    return list(batches.values())


def _batch_side(chunks: tuple[int, ...]) -> int:
    """Return the blocks along a side of a dask chunk; 1 where blocks do not fit it."""
    fits = bool(chunks) and len(set(chunks[:-1])) <= 1 and chunks[-1] <= chunks[0]
    if not fits or chunks[0] > _LARGEST_BATCH or (chunks[0] % SHARD and chunks[1:]):
        return 1
    return -(-chunks[0] // SHARD)


def around(batch: list[Block]) -> Block:
    """Return the smallest window that contains all blocks of a batch."""
    rows = [edge for b in batch for edge in (b.rows.start, b.rows.stop)]
    columns = [edge for b in batch for edge in (b.columns.start, b.columns.stop)]
    return Block(
        batch[0].chip,
        slice(min(rows), max(rows)),
        slice(min(columns), max(columns)),
    )
