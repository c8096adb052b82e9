"""From tiles to a map: read, run the network, blend, block by block.

A map is made of the tiles of one lattice, batched as the lattice says, summed in
the lattice's order. So a pixel's value does not depend on which block it was
computed in, by how many workers, or when.
"""

from __future__ import annotations

import threading
import uuid
from collections import deque
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import xarray as xr
from torch import nn

from geobiomass.cube.region import Region
from geobiomass.data.reader import Reader, Sample
from geobiomass.inference.batches import (
    THREADS,
    Batches,
    Network,
    Precision,
    Predicted,
    Started,
    half_of_memory,
    resolve_precision,
)
from geobiomass.inference.steps import Attributes, Step, after, density, taken
from geobiomass.tiles import Blend, Lattice, Window, blocks
from geobiomass.training.augment import FLIPS, ORIENTATIONS, Orientation

Map = npt.NDArray[np.float32]


@dataclass(frozen=True)
class MapSettings:
    """How a map is made; lengths in pixels.

    Parameters
    ----------
    tile : int
        Side of a tile that the network sees at once.
    overlap : int
        Pixels that neighbouring tiles share and blend over.
    block : int
        Side of a block, the unit that is computed, written and resumed. It has no
        influence on values.
    batch_size : int, optional
        Tiles in a batch, neighbours in a row of the lattice. None: 1 on the CPU, on
        a GPU as many as its memory holds, up to 16.
    flips : bool
        Average the predictions over the image and its flips left-right, up-down
        and both.
    turns : bool
        Average over quarter turns: four of them, or with `flips` all eight
        orientations.
    blend : "smooth" or "crop"
        Tiles fade into each other over the overlap, or each pixel is of one tile.
    precision : "float32", "bf16" or "auto"
        Of the network's multiplications. "auto": bf16 where the CPU or GPU has it.
    memory : int, optional
        Bytes for passes of the network side by side on the CPU, each as large as
        the first was measured to be; by default half of what the process may use.
        It has no influence on values.
    """

    tile: int = 256
    overlap: int = 64
    block: int = 1024
    batch_size: int | None = None
    flips: bool = False
    turns: bool = False
    blend: Blend = "smooth"
    precision: Precision = "float32"
    memory: int | None = None

    def __post_init__(self) -> None:
        for name in ("tile", "block", "batch_size", "memory"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or value < 1):
                raise ValueError(f"{name} must be a whole number above 0, got {value}.")
        Lattice(1, 1, self.tile, self.overlap, blend=self.blend)  # refuses what is off
        if self.precision not in ("float32", "bf16", "auto"):
            raise ValueError(
                f"precision must be 'float32', 'bf16' or 'auto', got "
                f"{self.precision!r}."
            )

    @property
    def orientations(self) -> tuple[Orientation, ...]:
        """The ways to lay the image that predictions are averaged over."""
        if self.flips and self.turns:
            return ORIENTATIONS
        turns = ORIENTATIONS[:4] if self.turns else ORIENTATIONS[:1]
        return FLIPS if self.flips else turns

    @property
    def numbers(self) -> Literal["float32", "bf16"]:
        """What `precision` means on this machine."""
        return resolve_precision(self.precision)

    def values_depend_on(self) -> dict[str, Any]:
        """Give the settings that a map's values depend on."""
        return {
            "tile": self.tile,
            "overlap": self.overlap,
            "blend": self.blend,
            "batch_size": self.batch_size,
            "flips": self.flips,
            "turns": self.turns,
            "precision": self.numbers,
        }


@dataclass(frozen=True)
class _Batch:
    """Neighbouring tiles in a row of the lattice."""

    chip: int | None
    row: int
    columns: range


@dataclass(eq=False)
class Mapper:
    """A network, a cube and settings: computes any block of the map.

    Parameters
    ----------
    network : torch.nn.Module
        Called as network(image) with (batch, month, band, y, x). It is put into
        evaluation mode, and on the GPU where there is one.
    reader : Reader
        The cube to map.
    settings : MapSettings
        Tiles, blocks and test-time flips.
    outputs : tuple of str
        Names of the maps that the network predicts.
    region : Region, optional
        Outside of it pixels are NaN, and tiles that it does not touch cost nothing.
    steps : tuple of Step
        From the network's maps, blended, to the layers that are given out.
    """

    network: nn.Module
    reader: Reader
    settings: MapSettings
    outputs: tuple[str, ...] = ("agb",)
    region: Region | None = None
    steps: tuple[Step, ...] = ()

    def __post_init__(self) -> None:
        self.token = uuid.uuid4().hex
        self.lattice = Lattice(
            self.reader.height,
            self.reader.width,
            self.settings.tile,
            self.settings.overlap,
            blend=self.settings.blend,
        )
        self._one = threading.Lock()

    @cached_property
    def layers(self) -> dict[str, Attributes]:
        """What is given out, in order: attributes by name."""
        return after(self.steps, density(self.outputs))

    def blocks(self) -> list[Window]:
        """Give the blocks of the scene, or of a chip, that the region touches."""
        side = self.settings.block
        cut = blocks(self.reader.height, self.reader.width, side)
        if self.region is None:
            return cut
        last = cut[-1]
        shape = (last.top // side + 1, last.left // side + 1)
        touched = self.region.touched(*shape, side).ravel()
        return [window for window, one in zip(cut, touched, strict=True) if one]

    def compute(self, window: Window, chip: int | None = None) -> Map:
        """Compute one block.

        Returns
        -------
        numpy.ndarray
            (layer, y, x) float32; NaN where nothing was observed in any month.
        """
        shape = (window.height, window.width)
        inside = np.ones(shape, bool)
        if self.region is not None:
            inside = self.region.mask(window)
        total = np.zeros((len(self.outputs), *shape), np.float64)
        observed = np.zeros(shape, bool)
        for tile, share, values, seen in self._tiles(window, chip, inside):
            common = tile.intersect(window)
            if common is None:
                continue
            here, there = common.within(window), common.within(tile)
            total[:, *here] += share[there] * values[:, *there]
            observed[here] |= seen[there]
        values = np.where(observed & inside, total, np.nan).astype(np.float32)
        return taken(self.steps, self.outputs, values)

    def _tiles(
        self, window: Window, chip: int | None, inside: npt.NDArray[np.bool_]
    ) -> Iterator[tuple[Window, npt.NDArray[np.float64], Map, npt.NDArray[np.bool_]]]:
        """Yield the tiles that touch a block, in the lattice's order."""
        with (
            THREADS,
            closing(self._in_order(self.running, window, chip, inside)) as batches,
        ):
            for batch, started in batches:
                predicted: Predicted = started.result()
                for column, values, seen in zip(
                    batch.columns, predicted.values, predicted.seen, strict=True
                ):
                    share = self.lattice.weights(batch.row, column)
                    yield self.lattice.window(batch.row, column), share, values, seen

    def _in_order(
        self,
        running: Batches,
        window: Window,
        chip: int | None,
        inside: npt.NDArray[np.bool_],
    ) -> Generator[tuple[_Batch, Started], None, None]:
        """Start batches ahead of their use, and let go of them, in any case."""
        waiting: deque[tuple[_Batch, Started]] = deque()
        try:
            for batch in self._batches_of(window, chip, inside):
                tiles = [
                    Sample(self.lattice.window(batch.row, column), chip)
                    for column in batch.columns
                ]
                wanted = self._blocks_that_want(batch)
                waiting.append((batch, running.start(batch, tiles, wanted)))
                if len(waiting) > running.slots:
                    yield waiting[0]
                    waiting.popleft()[1].leave()
            while waiting:
                yield waiting[0]
                waiting.popleft()[1].leave()
        finally:
            for _, started in waiting:
                started.leave()

    def _batches_of(
        self, window: Window, chip: int | None, inside: npt.NDArray[np.bool_]
    ) -> Iterator[_Batch]:
        """Give the batches with a tile that is needed; the lattice cuts them."""
        rows, columns = self.lattice.touching(window)
        size, count = self.batch_size, self.lattice.shape[1]
        for row in rows:
            for number in range(columns[0] // size, columns[-1] // size + 1):
                batch = range(number * size, min(count, (number + 1) * size))
                hull = self._hull(row, batch).intersect(window)
                if hull is not None and inside[hull.within(window)].any():
                    yield _Batch(chip, row, batch)

    def _hull(self, row: int, columns: range) -> Window:
        first = self.lattice.window(row, columns[0])
        last = self.lattice.window(row, columns[-1])
        return Window(first.top, first.left, last.bottom, last.right)

    def _blocks_that_want(self, batch: _Batch) -> int:
        """Count the blocks that a batch touches."""
        hull = self._hull(batch.row, batch.columns)
        height, width, side = self.reader.height, self.reader.width, self.settings.block
        down = (min(hull.bottom, height) - 1) // side - hull.top // side + 1
        across = (min(hull.right, width) - 1) // side - hull.left // side + 1
        return down * across

    # --- the network, where the map is computed -------------------------------

    @cached_property
    def prepared(self) -> Network:
        """The network, on this machine's device."""
        settings = self.settings
        return Network(
            self.network,
            len(self.outputs),
            settings.orientations,
            settings.numbers,
            settings.memory,
        )

    @cached_property
    def batch_size(self) -> int:
        """Tiles in a batch."""
        if self.settings.batch_size is not None:
            return self.settings.batch_size
        if self.prepared.device.type == "cpu":
            return 1
        return self.prepared.measured_batch(self._tile_size)

    @property
    def _tile_size(self) -> tuple[int, int, int, int]:
        height, width = self.lattice.tile_shape
        return self.reader.months, len(self.reader.bands), height, width

    @property
    def image_bytes(self) -> int:
        """Bytes of the images of a batch."""
        return 4 * int(np.prod(self._tile_size)) * self.batch_size

    @property
    def running(self) -> Batches:
        """What runs batches, for all blocks of this process."""
        with self._one:
            return self._batches

    def stop(self) -> None:
        """Let blocks that are being computed end with an error, soon."""
        with self._one:
            if "_batches" in vars(self):
                self._batches.stop()

    @cached_property
    def _batches(self) -> Batches:
        on_gpu = self.prepared.device.type == "cuda"
        memory = self.settings.memory or half_of_memory()
        # One that is read and one that is ready, beside those in the network; images
        # take at most a quarter of the memory.
        slots = min(3 if on_gpu else THREADS.count + 2, memory // 4 // self.image_bytes)
        # Enough for the rows of tiles that two blocks at once are at.
        tile, block = self.settings.tile, self.settings.block
        reader = self.reader.keeping(2 * tile, 2 * (block + 2 * tile))
        return Batches(self.prepared, reader.read, max(2, slots))

    def __getstate__(self) -> dict[str, Any]:
        """Travel without threads; the network travels as its class says."""
        return {
            "prepared": self.prepared,
            "reader": self.reader,
            "settings": self.settings,
            "outputs": self.outputs,
            "region": self.region,
            "steps": self.steps,
            "token": self.token,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Settle down on another machine."""
        prepared: Network = state["prepared"]
        self.__init__(  # type: ignore[misc]
            prepared.network,
            state["reader"],
            state["settings"],
            state["outputs"],
            state["region"],
            state["steps"],
        )
        self.token, self.prepared = state["token"], prepared

    def __dask_tokenize__(self) -> str:
        """Tell dask not to hash weights and pixels: every mapper is its own."""
        return self.token


def lazy_map(mapper: Mapper, cube: xr.Dataset) -> xr.Dataset:
    """Give the map as a lazy dataset on the cube's own grid.

    Parameters
    ----------
    mapper : Mapper
        Over `cube`.
    cube : xarray.Dataset
        Whose chips or grid the map takes over.

    Returns
    -------
    xarray.Dataset
        A variable a layer, (y, x) or (chip, y, x) float32, dask-backed: a task a
        block, computed only where it is looked at.
    """
    import dask.array as da
    from dask.delayed import delayed

    # As a task of its own it goes to every worker once, not with every block.
    everywhere = delayed(mapper, name=f"mapper-{mapper.token}", traverse=False)
    side = mapper.settings.block
    spatial = tuple(_chunks(cube.sizes[dim], side) for dim in ("y", "x"))
    dims: tuple[str, ...] = ("y", "x")
    chunks: tuple[tuple[int, ...], ...] = spatial
    if mapper.reader.chips:
        dims = ("chip", *dims)
        chunks = ((1,) * cube.sizes["chip"], *chunks)
    stacked = da.map_blocks(
        _compute_block,
        mapper=everywhere,
        chunks=((len(mapper.layers),), *chunks),
        dtype=np.float32,
        meta=np.empty((0,) * (len(dims) + 1), np.float32),
        name=f"map-{mapper.token}",
    )
    variables = {
        name: (dims, stacked[index], dict(attributes))
        for index, (name, attributes) in enumerate(mapper.layers.items())
    }
    result = xr.Dataset(variables, coords=_grid(cube))
    for name in mapper.layers:
        if "spatial_ref" in result.coords:
            result[name].encoding["grid_mapping"] = "spatial_ref"
    return result


def _grid(cube: xr.Dataset) -> dict[str, Any]:
    kept = ("chip", "y", "x", "spatial_ref")
    return {name: cube.coords[name] for name in kept if name in cube.coords}


def _chunks(size: int, side: int) -> tuple[int, ...]:
    return tuple(min(side, size - start) for start in range(0, size, side))


def _compute_block(mapper: Mapper, block_info: Any = None) -> Map:
    place = block_info[None]["array-location"]
    (top, bottom), (left, right) = place[-2:]
    window = Window(int(top), int(left), int(bottom), int(right))
    if not mapper.reader.chips:
        return mapper.compute(window)
    return mapper.compute(window, int(place[1][0]))[:, None]
