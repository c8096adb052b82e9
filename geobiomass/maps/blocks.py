"""Blocks of a map, and the arrays on disk that they are parts of.

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
import xarray as xr

from geobiomass.cube.codecs import quick_codecs
from geobiomass.cube.store import open_group
from geobiomass.tiles import Window

if TYPE_CHECKING:
    import zarr
    from zarr.abc.store import Store

Values = npt.NDArray[np.float32]

# Pixels: viewers and clipped regions read a few hundred at a time.
_CHUNK = (64, 256)


class WorkersDiedError(RuntimeError):
    """The workers of a cluster died over a block, though it was alone on them."""


@dataclass(frozen=True, order=True)
class Block:
    """One block of a map: a window, of one chip where there are chips."""

    window: Window
    chip: int | None = None

    @property
    def key(self) -> str:
        """How the manifest names the block: chip, first row, first column."""
        place = (self.chip, self.window.top, self.window.left)
        return ".".join(str(part) for part in place if part is not None)

    @property
    def region(self) -> tuple[slice, ...]:
        """Where the block lies in an array of the map."""
        place = (self.window.rows, self.window.columns)
        if self.chip is None:
            return place
        return (slice(self.chip, self.chip + 1), *place)

    def __str__(self) -> str:
        w = self.window
        where = f"rows {w.top} to {w.bottom}, columns {w.left} to {w.right}"
        return where if self.chip is None else f"chip {self.chip}, {where}"


@dataclass(frozen=True)
class Target:
    """The arrays that blocks are written to; may be sent to another process.

    Parameters
    ----------
    store : Path or zarr.abc.store.Store
        Where the map's group is.
    names : tuple of str
        Its variables, in the order of the network's outputs.
    """

    store: Path | Store
    names: tuple[str, ...]

    def __reduce__(self) -> tuple[Any, ...]:
        return Target, (self.store, self.names)  # arrays are opened where they are used

    @cached_property
    def arrays(self) -> list[zarr.Array[Any]]:
        """The arrays, opened once a process."""
        group = open_group(self.store, "r+", consolidated=False)
        return [cast("zarr.Array[Any]", group[name]) for name in self.names]

    @cached_property
    def _whole(self) -> list[zarr.Array[Any]]:
        return [_in_whole_shards(array) for array in self.arrays]

    def write(self, block: Block, values: npt.NDArray[np.floating[Any]]) -> str:
        """Write a block, (output, y, x), and give its checksum.

        Written twice it is the same, so two writers do no harm.

        Raises
        ------
        ValueError
            If the block is not one whole shard.
        """
        values = _plain(values)
        for array, whole, layer in zip(self.arrays, self._whole, values, strict=True):
            refuse_part_of_shard(array, block.region)
            layer = layer if block.chip is None else layer[None]
            shard = array.shards or array.chunks
            more = [(0, n - size) for n, size in zip(shard, layer.shape, strict=True)]
            place = tuple(
                slice(part.start, part.start + n)
                for part, n in zip(block.region, shard, strict=True)
            )
            whole[place] = np.pad(layer, more, constant_values=np.nan)
        return checksum(values)

    def checksum(self, block: Block) -> str:
        """Read a block back and give the checksum of what is there."""
        layers = [np.asarray(array[block.region]) for array in self.arrays]
        shape = (block.window.height, block.window.width)
        return checksum(np.stack([layer.reshape(shape) for layer in layers]))


def _in_whole_shards(array: zarr.Array[Any]) -> zarr.Array[Any]:
    """Give an array that ends with a shard, in memory only.

    Zarr merges what is less than a shard, at the map's edges, with what is there,
    and fails where that is damaged; a whole shard replaces it.
    """
    import zarr

    shard = array.shards or array.chunks
    shape = tuple(-(-n // s) * s for n, s in zip(array.shape, shard, strict=True))
    metadata = dataclasses.replace(cast(Any, array.metadata), shape=shape)
    with quick_codecs():
        return zarr.Array(zarr.AsyncArray(metadata, store_path=array.store_path))


def _plain(values: npt.NDArray[np.floating[Any]]) -> Values:
    """Give float32 with one kind of NaN, as chunks that are not stored read back."""
    values = np.ascontiguousarray(values, np.float32)
    return np.where(np.isnan(values), np.float32(np.nan), values)


def checksum(values: Values) -> str:
    """Give 16 letters that stand for a block's float32 values."""
    return hashlib.blake2b(np.ascontiguousarray(values).data, digest_size=8).hexdigest()


def refuse_part_of_shard(array: zarr.Array[Any], region: tuple[slice, ...]) -> None:
    """Refuse a region that shares a shard with another: one of them would be lost.

    Raises
    ------
    ValueError
        If it does not start where a shard starts or does not end where that ends.
    """
    shards = array.shards or array.chunks
    for place, length, size in zip(region, shards, array.shape, strict=True):
        if place.start % length or place.stop != min(place.start + length, size):
            raise ValueError(
                f"A block must be one shard of {shards} pixels, got {place.start} to "
                f"{place.stop} of {size}; writing it would undo its neighbour's."
            )


def create_array(
    group: zarr.Group, name: str, variable: xr.DataArray, side: int
) -> None:
    """Make a variable's array, a shard a block."""
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
        # The sum notices bits that flipped and still decode.
        compressors=[
            BloscCodec(cname="zstd", clevel=5, shuffle="bitshuffle"),
            Crc32cCodec(),
        ],
        fill_value=float("nan"),
        dimension_names=[str(dim) for dim in variable.dims],
        attributes=attributes,
    )


def _chunk(length: int) -> int:
    """Give the largest divisor of a block's side that suits readers, or all of it."""
    low, high = _CHUNK
    divisors = (n for n in range(min(high, length), low - 1, -1) if length % n == 0)
    return next(divisors, length)
