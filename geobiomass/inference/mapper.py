"""The blocks of a map: tiles are read, run through the network and blended.

A map is made of the tiles of one lattice. The lattice decides which tiles share a
batch, and in which order they are summed. So a pixel's value does not depend on the
block that it is computed in, on the number of workers, or on time.
"""

from __future__ import annotations

import threading
import uuid
from collections import deque
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr
from torch import nn

from geobiomass.cube.quantity import AGB, Quantity
from geobiomass.cube.region import Region
from geobiomass.data.reader import Reader, Sample
from geobiomass.inference.batch_predictor import BatchPredictor, Predicted
from geobiomass.inference.batches import Batches, Started
from geobiomass.inference.machine import half_of_memory, resolve_precision
from geobiomass.inference.map_settings import MapSettings
from geobiomass.inference.steps import (
    Attributes,
    Step,
    apply_steps,
    density,
    layers_after,
)
from geobiomass.inference.thread_pools import THREADS
from geobiomass.network.wrappers import tile_multiple
from geobiomass.tiles import Lattice, Window, blocks, samples_on_chips
from geobiomass.training.augment import FLIPS, ORIENTATIONS, Orientation

Map = npt.NDArray[np.float32]


@dataclass(frozen=True)
class _Batch:
    """Neighbouring tiles in a row of the lattice."""

    chip: int | None
    row: int
    columns: range


@dataclass(eq=False)
class Mapper:
    """A network, a cube and settings, to compute any block of the map.

    Parameters
    ----------
    network : torch.nn.Module
        Called as network(image) with (batch, month, band, y, x). It is put into
        evaluation mode, and on the GPU where there is one.
    reader : Reader
        The cube to map.
    settings : MapSettings
        Tiles, blocks and test-time flips. Its region is not used.
    outputs : tuple of str
        Names of the maps that the network predicts.
    region : Region, optional
        On the cube's grid. Outside it pixels are NaN; tiles that it does not touch
        are not computed.
    steps : tuple of Step
        Post-processing, from the network's blended maps to the map's layers.
    target : Quantity
        What the network predicts.
    """

    network: nn.Module
    reader: Reader
    settings: MapSettings
    outputs: tuple[str, ...] = ("agb",)
    region: Region | None = None
    steps: tuple[Step, ...] = ()
    target: Quantity = AGB

    def __post_init__(self) -> None:
        self.token = uuid.uuid4().hex
        self.lattice = Lattice(
            self.reader.height,
            self.reader.width,
            self.settings.tile,
            self.settings.overlap,
            tile_multiple(self.network),
            self.settings.blend,
        )
        self._one = threading.Lock()

    @cached_property
    def layers(self) -> dict[str, Attributes]:
        """The map's layers, in order: attributes by name."""
        return layers_after(self.steps, density(self.outputs, self.target))

    def values_depend_on(self) -> dict[str, Any]:
        """Return the settings, and facts of the steps, that the values depend on."""
        settings = self.settings
        found: dict[str, Any] = {
            "tile": settings.tile,
            "overlap": settings.overlap,
            "blend": settings.blend,
            "batch_size": settings.batch_size,
            "flips": settings.flips,
            "turns": settings.turns,
            "precision": resolve_precision(settings.precision),
        }
        for step in self.steps:
            found |= step.values_depend_on()
        return found

    def samples(self) -> list[Sample]:
        """Return the blocks of the map, of every chip where there are chips."""
        chips = self.reader.count if self.reader.chips else None
        return samples_on_chips(self.blocks(), chips)

    def blocks(self) -> list[Window]:
        """Return the blocks of the scene, or of one chip, that the region touches."""
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
        return apply_steps(self.steps, self.outputs, values)

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
        """Start batches ahead of their use, and release each of them in any case."""
        waiting: deque[tuple[_Batch, Started]] = deque()
        try:
            for batch in self._batches_of(window, chip, inside):
                tiles = [
                    Sample(self.lattice.window(batch.row, column), chip)
                    for column in batch.columns
                ]
                count = self._count_blocks(batch)
                waiting.append((batch, running.start(batch, tiles, count)))
                if len(waiting) > running.slots:
                    yield waiting[0]
                    waiting.popleft()[1].release()
            while waiting:
                yield waiting[0]
                waiting.popleft()[1].release()
        finally:
            for _, started in waiting:
                started.release()

    def _batches_of(
        self, window: Window, chip: int | None, inside: npt.NDArray[np.bool_]
    ) -> Iterator[_Batch]:
        """Yield the lattice's batches that hold a tile of the block."""
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

    def _count_blocks(self, batch: _Batch) -> int:
        """Count the blocks that a batch touches."""
        hull = self._hull(batch.row, batch.columns)
        height, width, side = self.reader.height, self.reader.width, self.settings.block
        down = (min(hull.bottom, height) - 1) // side - hull.top // side + 1
        across = (min(hull.right, width) - 1) // side - hull.left // side + 1
        return down * across

    # --- the network, where the map is computed -------------------------------

    @cached_property
    def batch_predictor(self) -> BatchPredictor:
        """The network, on this machine's device."""
        settings = self.settings
        return BatchPredictor(
            self.network,
            len(self.outputs),
            _orientations(settings),
            resolve_precision(settings.precision),
            settings.memory,
        )

    @cached_property
    def batch_size(self) -> int:
        """Tiles in a batch."""
        if self.settings.batch_size is not None:
            return self.settings.batch_size
        if self.batch_predictor.device.type == "cpu":
            return 1
        return self.batch_predictor.measured_batch(self._tile_size)

    @property
    def _tile_size(self) -> tuple[int, int, int, int]:
        height, width = self.lattice.tile_shape
        months = self.reader.months + self.reader.planes
        return months, len(self.reader.bands), height, width

    @property
    def image_bytes(self) -> int:
        """Bytes of the images in a batch."""
        return 4 * int(np.prod(self._tile_size)) * self.batch_size

    @property
    def running(self) -> Batches:
        """The runner of batches, for all blocks of this process."""
        with self._one:
            return self._batches

    def stop(self) -> None:
        """Stop soon: blocks that are being computed end with an error."""
        with self._one:
            if "_batches" in vars(self):
                self._batches.stop()

    @cached_property
    def _batches(self) -> Batches:
        on_gpu = self.batch_predictor.device.type == "cuda"
        memory = self.settings.memory or half_of_memory()
        # One batch is read and one is ready while others are in the network; images
        # take at most a quarter of the memory.
        slots = min(3 if on_gpu else THREADS.count + 2, memory // 4 // self.image_bytes)
        # Enough for the rows of tiles of two blocks that are computed at once.
        tile, block = self.settings.tile, self.settings.block
        reader = self.reader.keeping(2 * tile, 2 * (block + 2 * tile))
        return Batches(self.batch_predictor, reader.tile, max(2, slots))

    def __getstate__(self) -> dict[str, Any]:
        """Return the state to pickle: without threads, the network as it pickles."""
        return {
            "batch_predictor": self.batch_predictor,
            "reader": self.reader,
            "settings": self.settings,
            "outputs": self.outputs,
            "region": self.region,
            "steps": self.steps,
            "target": self.target,
            "token": self.token,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore a pickled mapper on this machine."""
        predictor: BatchPredictor = state["batch_predictor"]
        self.__init__(  # type: ignore[misc]
            predictor.network,
            state["reader"],
            state["settings"],
            state["outputs"],
            state["region"],
            state["steps"],
            state["target"],
        )
        self.token, self.batch_predictor = state["token"], predictor

    def __dask_tokenize__(self) -> str:
        """Return a token for dask, which then hashes neither weights nor pixels."""
        return self.token


def _orientations(settings: MapSettings) -> tuple[Orientation, ...]:
    """Return the orientations of the image that predictions are averaged over."""
    if settings.flips and settings.turns:
        return ORIENTATIONS
    turns = ORIENTATIONS[:4] if settings.turns else ORIENTATIONS[:1]
    return FLIPS if settings.flips else turns


def lazy_map(mapper: Mapper, cube: xr.Dataset) -> xr.Dataset:
    """Return the map as a lazy dataset on the cube's own grid.

    Parameters
    ----------
    mapper : Mapper
        A mapper of `cube`.
    cube : xarray.Dataset
        Its chips or grid become the map's.

    Returns
    -------
    xarray.Dataset
        A variable for each layer, (y, x) or (chip, y, x) float32, backed by dask: one
        task for each block, computed only on access.
    """
    import dask.array as da
    from dask.delayed import delayed

    # As a separate task the mapper goes to every worker once, not with every block.
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
    location = block_info[None]["array-location"]
    (top, bottom), (left, right) = location[-2:]
    window = Window(int(top), int(left), int(bottom), int(right))
    if not mapper.reader.chips:
        return mapper.compute(window)
    return mapper.compute(window, int(location[1][0]))[:, None]
