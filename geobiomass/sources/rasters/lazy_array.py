"""A lazy dask array of the pixels of raster files, in blocks of the grid."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from geobiomass.cube.claimed_size import check_tasks
from geobiomass.cube.missing_values import Teller
from geobiomass.sources.rasters.grid_geometry import outline_on
from geobiomass.sources.rasters.read_block import Layer, read_block

if TYPE_CHECKING:
    from odc.geo.geobox import GeoBox

BLOCK = 256
"""Side in pixels of the blocks that tasks read: the side of a cube's shards on disk."""


def lazy_blocks(
    steps: Sequence[Sequence[Layer]],
    bands: Sequence[str],
    grid: GeoBox,
    skip: bool,
    teller: Teller | None = None,
) -> Any:
    """Return a dask array (step, band, y, x) with one task per step and block.

    A task contains only the files that touch its block. `teller` counts the values
    that no measurement has, and tells them.
    """
    import dask.array as da
    from dask.base import tokenize

    height, width = grid.shape
    check_tasks(len(steps), (height, width), BLOCK)
    tops, lefts = range(0, height, BLOCK), range(0, width, BLOCK)
    reach = {
        layer.geobox: outline_on(layer.geobox, grid)
        for layers in steps
        for layer in layers
    }
    name = f"rasters-{tokenize(list(map(repr, steps)), bands, repr(grid), skip)}"
    tasks = {}
    teller = teller or Teller()
    for at, layers in enumerate(steps):
        wanted = [replace(x, teller=teller) for x in layers if x.band in bands]
        for row, top in enumerate(tops):
            for column, left in enumerate(lefts):
                bottom, right = min(top + BLOCK, height), min(left + BLOCK, width)
                near = partial(touches, (top, left, bottom, right))
                mine = [x for x in wanted if near(reach[x.geobox])]
                box = grid[top:bottom, left:right]
                tasks[name, at, 0, row, column] = (
                    partial(_read_step, mine, list(bands), box, skip),
                )
    chunks = (
        (1,) * len(steps),
        (len(bands),),
        *(block_lengths(size) for size in (height, width)),
    )
    return cast(Any, da.Array)(tasks, name, chunks, dtype=np.float32)


def touches(block: Sequence[float], outline: Sequence[float]) -> bool:
    """Return whether a file may touch a block, with a margin for curved edges."""
    top, left, bottom, right = outline
    rim = 4 + 0.02 * max(bottom - top, right - left)
    return not (  # a NaN outline touches no block
        math.isnan(top)
        or top - rim > block[2]
        or bottom + rim < block[0]
        or left - rim > block[3]
        or right + rim < block[1]
    )


def block_lengths(size: int) -> tuple[int, ...]:
    """Return the lengths of the blocks along a side of the grid."""
    return tuple(min(BLOCK, size - start) for start in range(0, size, BLOCK))


def _read_step(
    layers: Sequence[Layer], bands: Sequence[str], box: GeoBox, skip: bool
) -> Any:
    """Read one step's block, (1, band, y, x)."""
    return read_block(layers, bands, box, skip)[None]
