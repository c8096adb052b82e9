"""The plan of a map: its cost in tiles, bytes, memory and hours, before it is made."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from geobiomass.data.reader import Sample
from geobiomass.inference.batches import KEPT_BYTES
from geobiomass.inference.machine import MemoryWatch
from geobiomass.inference.mapper import Mapper
from geobiomass.inference.thread_pools import THREADS
from geobiomass.summary import Summary, bytes_in_words

# Blocks in the memory of one process: one is computed, one read ahead or written.
BLOCKS_AT_ONCE = 2


@dataclass(frozen=True)
class MapPlan:
    """The cost of a map of a cube; ``model.plan(cube)`` makes it, and it prints itself.

    Parameters
    ----------
    height, width, chips : int
        Size of the cube; a scene counts as one chip.
    tile, overlap, block : int
        Pixels.
    blocks : int
        Blocks that are computed and written.
    tiles : int
        Tiles that the network sees; a tile that two workers need counts twice.
    bytes_read : int
        Bytes read of the cube, as it is stored; more than it has, as tiles overlap.
    bytes_written : int
        Bytes of the map before compression.
    memory : int
        Bytes that a worker needs in addition to the program itself.
    seconds_a_tile : float
        Measured on this machine, with all its cores, or its GPU, busy.
    sampled : int
        Tiles that were measured.
    threads : int
        Tiles that run in parallel on this machine.
    device : str
        "cpu" or "cuda".
    workers : int
        Number of machines like this one.
    """

    height: int
    width: int
    chips: int
    tile: int
    overlap: int
    block: int
    blocks: int
    tiles: int
    bytes_read: int
    bytes_written: int
    memory: int
    seconds_a_tile: float
    sampled: int
    threads: int
    device: str
    workers: int

    @property
    def hours(self) -> float:
        """Hours that the map takes on all workers together."""
        # One worker computes a block: more workers than blocks are of no use.
        return (
            self.tiles * self.seconds_a_tile / min(self.workers, self.blocks or 1)
        ) / 3600

    def rows(self) -> dict[str, str]:
        """Return the plan as pairs of a heading and a text."""
        chips = f"{self.chips} chips of " if self.chips > 1 else ""
        cores = "on the GPU" if self.device == "cuda" else f"{self.threads} at a time"
        return {
            "map": f"{chips}{self.height} x {self.width} pixels",
            "tiles": f"{self.tiles:,} of {self.tile} pixels, overlapping by "
            f"{self.overlap}",
            "blocks": f"{self.blocks:,} of {self.block} pixels",
            "reads": f"{bytes_in_words(self.bytes_read)} as stored",
            "writes": f"{bytes_in_words(self.bytes_written)} before compression",
            "memory": f"{bytes_in_words(self.memory)} a worker, besides the program",
            "measured": f"{self.seconds_a_tile:.3g} s a tile here, {cores} "
            f"({self.sampled} tiles)",
            "takes": f"{_duration(self.hours)} on {self.workers} "
            f"{'machine' if self.workers == 1 else 'machines'} like this one",
        }

    def __str__(self) -> str:
        """Return the plan as text, one line for each row."""
        return "\n".join(f"{name:<10}{text}" for name, text in self.rows().items())

    def _repr_html_(self) -> str:
        """Return the plan as HTML, for Jupyter."""
        return Summary({"what": "plan of a map", **self.rows()}).to_html()


def plan_map(mapper: Mapper, workers: int = 1) -> MapPlan:
    """Plan a map, after running a few of its tiles.

    Parameters
    ----------
    mapper : Mapper
        The mapper that would compute it.
    workers : int
        Number of machines like this one.

    Raises
    ------
    ValueError
        If `workers` is below 1.
    """
    if workers < 1:
        raise ValueError(f"workers must be at least 1, got {workers}.")
    reader, lattice, settings = mapper.reader, mapper.lattice, mapper.settings
    rows, columns = lattice.shape
    share = _share_of_tiles(mapper)
    windows = mapper.blocks()
    blocks = len(windows) * reader.count
    # Two workers with neighbouring strips both run the row of tiles between them.
    borders = min(workers, blocks or 1) - 1
    twice = (
        0 if reader.chips else borders * columns * -(-lattice.overlap // lattice.stride)
    )
    once = round(rows * columns * reader.count * share)
    measured = _measure(mapper)
    pixels = sum(w.height * w.width for w in windows) * reader.count
    return MapPlan(
        reader.height,
        reader.width,
        reader.count,
        settings.tile,
        settings.overlap,
        settings.block,
        blocks,
        once + twice,
        round(reader.stored_bytes() * _times_read(mapper) * share),
        pixels * len(mapper.layers) * 4,
        measured.memory,
        measured.seconds,
        measured.tiles,
        measured.threads,
        mapper.batch_predictor.device.type,
        workers,
    )


def _share_of_tiles(mapper: Mapper) -> float:
    """Estimate the share of the lattice's tiles that a region touches."""
    if mapper.region is None:
        return 1.0
    lattice = mapper.lattice
    touched = mapper.region.touched(*lattice.shape, lattice.stride)
    # A tile extends into the next cells by the overlap.
    grown = touched.copy()
    if lattice.overlap:
        grown[:-1] |= touched[1:]
        grown[:, :-1] |= grown[:, 1:]
    return float(grown.mean())


def _times_read(mapper: Mapper) -> float:
    """Return in how many tiles a pixel is, on average."""
    lattice, scene = mapper.lattice, mapper.reader.whole
    product = 1.0
    for axis, size in enumerate((scene.height, scene.width)):
        starts = np.arange(lattice.shape[axis]) * lattice.stride
        ends = np.minimum(starts + lattice.tile_shape[axis], size)
        product *= float((ends - starts).sum()) / size
    return product


@dataclass(frozen=True)
class _Measured:
    """Time and memory of a tile on this machine."""

    seconds: float  # a tile, of the whole machine
    memory: int
    tiles: int
    threads: int


def _measure(mapper: Mapper) -> _Measured:
    """Run one tile to measure its memory, then some in parallel for the time."""
    network = mapper.batch_predictor
    with THREADS:
        running = mapper.running
        number = THREADS.count * mapper.batch_size
        samples = _some_samples(mapper, 1 + 4 * number)
        start = time.perf_counter()
        first = [mapper.reader.tile(samples[0])]
        with MemoryWatch() as watch:
            THREADS.passes.submit(
                lambda: network.predict(*network.stage(first))
            ).result()
        seconds = time.perf_counter() - start
        timed = samples[1 : 1 + (number if seconds > 5 else 4 * number)]
        if timed:
            start = time.perf_counter()
            parts = [
                timed[i : i + mapper.batch_size]
                for i in range(0, len(timed), mapper.batch_size)
            ]
            jobs = [running.start((mapper.token, *part), part, 1) for part in parts]
            for job in jobs:
                job.result()
                job.release()
            seconds = (time.perf_counter() - start) / len(timed)
        # The GPU's own memory is not reported: batches are sized by what is free.
        passes = THREADS.count if network.device.type == "cpu" else 1
        memory = watch.growth * passes + running.slots * mapper.image_bytes
        shape, result = mapper.lattice.shape, (4 * len(mapper.outputs) + 1)
        tiles = shape[0] * shape[1] * result * int(np.prod(mapper.lattice.tile_shape))
        side = min(
            mapper.settings.block, max(mapper.reader.height, mapper.reader.width)
        )
        memory += min(KEPT_BYTES, tiles)
        memory += (
            BLOCKS_AT_ONCE
            * side**2
            * (8 * len(mapper.outputs) + 4 * len(mapper.layers) + 2)
        )
        return _Measured(seconds, memory, 1 + len(timed), THREADS.count)


def _some_samples(mapper: Mapper, number: int) -> list[Sample]:
    """Draw tiles from all over the map; the first one has an observation."""
    rows, columns = mapper.lattice.shape
    count = rows * columns * mapper.reader.count
    draw = np.random.default_rng(0).choice(count, min(count, 4 * number), False)
    samples = []
    for index in draw.tolist():
        chip, tile = divmod(index, rows * columns)
        window = mapper.lattice.window(*divmod(tile, columns))
        part = window.intersect(mapper.reader.whole) or window
        if mapper.region is None or mapper.region.mask(part).any():
            samples.append(Sample(window, chip if mapper.reader.chips else None))
    if not samples:
        raise ValueError("region must touch the scene, got one that is outside it.")
    for first, sample in enumerate(samples[:20]):
        if np.isfinite(mapper.reader.read(sample)).any():
            return [sample, *samples[:first], *samples[first + 1 :]][:number]
    return samples[:number]


def _duration(hours: float) -> str:
    if hours < 1 / 60:
        return f"{hours * 3600:.0f} seconds"
    return f"{hours * 60:.0f} minutes" if hours < 2 else f"{hours:.1f} hours"
