"""Blocks of a map, and the arrays on disk that they are written to.

A block is one shard of each array and is written by one task, so that two tasks
never write to the same file or object.
"""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt

from geobiomass.cube.addresses import open_group
from geobiomass.cube.codecs import quick_codecs
from geobiomass.tiles import Window

if TYPE_CHECKING:
    import xarray as xr
    import zarr
    from zarr.abc.store import Store

Values = npt.NDArray[np.float32]

# Pixels: viewers and clipped regions read a few hundred at a time.
_CHUNK = (64, 256)


class WorkersDiedError(RuntimeError):
    """The workers of a cluster died on a block, although it ran there alone."""


@dataclass(frozen=True, order=True)
class Block:
    """One block of a map: a window, of one chip where there are chips."""

    window: Window
    chip: int | None = None

    @property
    def key(self) -> str:
        """The block's name in the manifest: chip, first row, first column."""
        numbers = (self.chip, self.window.top, self.window.left)
        return ".".join(str(number) for number in numbers if number is not None)

    @property
    def region(self) -> tuple[slice, ...]:
        """The block's slices in an array of the map."""
        window = (self.window.rows, self.window.columns)
        if self.chip is None:
            return window
        return (slice(self.chip, self.chip + 1), *window)

    def __str__(self) -> str:
        w = self.window
        window = f"rows {w.top} to {w.bottom}, columns {w.left} to {w.right}"
        return window if self.chip is None else f"chip {self.chip}, {window}"


@dataclass(frozen=True)
class Target:
    """The arrays that blocks are written to; pickles, for other processes.

    Parameters
    ----------
    store : Path or zarr.abc.store.Store
        Store of the map's group.
    names : tuple of str
        The map's variables, in the order of the network's outputs.
    """

    store: Path | Store
    names: tuple[str, ...]

    def __reduce__(self) -> tuple[Any, ...]:
        return Target, (self.store, self.names)  # each process opens the arrays itself

    @cached_property
    def arrays(self) -> list[zarr.Array[Any]]:
        """The arrays, opened once in each process."""
        group = open_group(self.store, "r+", consolidated=False)
        return [cast("zarr.Array[Any]", group[name]) for name in self.names]

    @cached_property
    def _whole(self) -> list[zarr.Array[Any]]:
        return [_in_whole_shards(array) for array in self.arrays]

    def write(self, block: Block, values: npt.NDArray[np.floating[Any]]) -> str:
        """Write a block, (output, y, x), and return its checksum.

        Every writer writes the same values, so two writers do no harm.

        Raises
        ------
        ValueError
            If the block is not one whole shard.
        """
        values = _plain(values)
        for array, whole, layer in zip(self.arrays, self._whole, values, strict=True):
            check_whole_shard(array, block.region)
            layer = layer if block.chip is None else layer[None]
            shard = array.shards or array.chunks
            more = [(0, n - size) for n, size in zip(shard, layer.shape, strict=True)]
            region = tuple(
                slice(part.start, part.start + n)
                for part, n in zip(block.region, shard, strict=True)
            )
            whole[region] = np.pad(layer, more, constant_values=np.nan)
        return checksum(values)

    def checksum(self, block: Block) -> str:
        """Read a block from the store and return the checksum of its values."""
        layers = [np.asarray(array[block.region]) for array in self.arrays]
        shape = (block.window.height, block.window.width)
        return checksum(np.stack([layer.reshape(shape) for layer in layers]))


def _in_whole_shards(array: zarr.Array[Any]) -> zarr.Array[Any]:
    """Return an array whose shape is a multiple of its shards, in memory only.

    Zarr merges less than a shard, as at the map's edges, with the stored shard, and
    fails if that is damaged. A whole shard replaces the stored one.
    """
    import zarr

    shard = array.shards or array.chunks
    shape = tuple(-(-n // s) * s for n, s in zip(array.shape, shard, strict=True))
    metadata = dataclasses.replace(cast(Any, array.metadata), shape=shape)
    with quick_codecs():
        return zarr.Array(zarr.AsyncArray(metadata, store_path=array.store_path))


def _plain(values: npt.NDArray[np.floating[Any]]) -> Values:
    """Return float32 with one kind of NaN, the one that Zarr reads for no chunk."""
    values = np.ascontiguousarray(values, np.float32)
    return np.where(np.isnan(values), np.float32(np.nan), values)


def checksum(values: Values) -> str:
    """Return the hash of a block's float32 values, 16 hexadecimal digits."""
    return hashlib.blake2b(np.ascontiguousarray(values).data, digest_size=8).hexdigest()


def check_whole_shard(array: zarr.Array[Any], region: tuple[slice, ...]) -> None:
    """Check that a region is one shard: of two writers to a shard one is lost.

    Raises
    ------
    ValueError
        If it does not start and end with a shard.
    """
    shards = array.shards or array.chunks
    for span, length, size in zip(region, shards, array.shape, strict=True):
        if span.start % length or span.stop != min(span.start + length, size):
            raise ValueError(
                f"A block must be one shard of {shards} pixels, got {span.start} to "
                f"{span.stop} of {size}; writing it would delete its neighbour."
            )


def create_array(
    group: zarr.Group, name: str, variable: xr.DataArray, side: int
) -> None:
    """Create a variable's array; each shard is one block."""
    from zarr.codecs import BloscCodec, Crc32cCodec

    attributes = dict(variable.attrs)
    if "spatial_ref" in variable.coords:
        attributes["grid_mapping"] = "spatial_ref"
    shard = tuple(
        1 if dim == "chip" else min(side, size) for dim, size in variable.sizes.items()
    )
    group.create_array(
        name,
        shape=variable.shape,
        dtype="float32",
        chunks=tuple(_chunk(length) for length in shard),
        shards=shard,
        # The checksum notices bits that flipped and still decode.
        compressors=[
            BloscCodec(cname="zstd", clevel=5, shuffle="bitshuffle"),
            Crc32cCodec(),
        ],
        fill_value=float("nan"),
        dimension_names=[str(dim) for dim in variable.dims],
        attributes=attributes,
    )


def _chunk(length: int) -> int:
    """Return the largest divisor of a block's side within _CHUNK, or the side."""
    low, high = _CHUNK
    divisors = (n for n in range(min(high, length), low - 1, -1) if length % n == 0)
    return next(divisors, length)
