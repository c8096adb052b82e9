"""One contender of feed.py, in its own process; it prints its figures as JSON.

Each has its own process, so that the peak memory is the contender's alone and no thread
pool is shared. feed.py starts it, and also measures its memory from outside.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from itertools import cycle, islice
from pathlib import Path
from typing import Any, cast

import torch
import zarr
from numcodecs import blosc

import peers
from layouts import ZARRS, Direct, InMemory, Layout
from material import SIDE, Material
from peers import Batch, Epoch, Task
from tables import THREADS

FLOOR, CODEC, OURS = "numpy memory map", "codec from memory", "geobiomass feed"
DECODED = "geobiomass feed, decoded"
# Recipes that are trained from the data loader, and the crops that they train on.
OVERLAP_CROPS = {"default": 128, "quick": 64}
OVERLAP_BATCH = 8


@dataclass(frozen=True)
class Order:
    """The measurement that one process makes."""

    name: str
    folder: str
    chips: int
    samples: int
    batch_size: int
    crop: int | None
    epochs: int
    seconds: float
    memory: int
    quick: bool
    recipe: str = ""

    @property
    def task(self) -> Task:
        """Return the task of a contender."""
        material = Material(Path(self.folder))
        return Task(material, self.chips, self.samples, self.batch_size, self.crop)


def stored_layout(cube: Path) -> Layout:
    """Return the layout of a cube's image on disk."""
    array = zarr.open_array(cube / "image", mode="r")
    names = [type(codec).__name__ for codec in array.compressors]
    codec = next((c for c in array.compressors if hasattr(c, "cname")), None)
    _, months, _, height, width = array.chunks
    return Layout(
        months,
        height,
        width,
        codec=codec.cname.value if codec else None,
        dtype=str(array.dtype),
        checksum="Crc32cCodec" in names,
        shards=array.shards is not None,
    )


def codec_from_memory(task: Task) -> Epoch:
    """Decode the chunks of our store from memory and discard the pixels."""
    path = task.material.cube
    held = InMemory(Direct(path / "image", stored_layout(path)))
    every, side = slice(0, peers.MONTHS), slice(0, SIDE)
    for chip in range(task.chips):
        held.read(chip, every, side, side)  # reads it into memory
    nothing = torch.empty(0)

    def make(sample: tuple[int, int, int]) -> Batch:
        chip, top, left = sample
        held.read(chip, every, *task.window(top, left))
        return (nothing,)

    return lambda epoch: peers._on_threads(make, task.draw(epoch))


def our_loader(task: Task, memory: int, decoded: bool) -> Epoch:
    """Return the library's data loader with the given memory limit.

    It yields codes, which a GPU decodes; or it decodes while it reads, as for a network
    on the CPU.
    """
    import geobiomass as gb
    from geobiomass.data.loader import ChipLoader
    from geobiomass.data.reader import Reader, Sample
    from geobiomass.tiles import Window

    cube = gb.open_cube(task.material.cube)
    reader = Reader(cube, [str(band) for band in cube["band"].values])
    whole = Window(0, 0, SIDE, SIDE)
    samples = [Sample(whole, index % task.chips) for index in range(task.samples)]
    reader = reader.decoded() if decoded else reader
    loader = ChipLoader(reader, samples, task.batch_size, crop=task.crop, memory=memory)
    return cast(Epoch, loader.epoch)


def xarray_with_zarrs(task: Task) -> Epoch:
    """Return xarray without dask, with zarrs as the codec pipeline of zarr."""
    zarr.config.set({"codec_pipeline.path": ZARRS})
    return peers.plain_xarray(task, lazily=False)


CONTENDERS: dict[str, Callable[[Task], Epoch]] = {
    CODEC: codec_from_memory,
    FLOOR: peers.memory_mapped,
    "xarray, dask": partial(peers.plain_xarray, lazily=True),
    "xarray, no dask": partial(peers.plain_xarray, lazily=False),
    "xarray, zarrs": xarray_with_zarrs,
    "xbatcher": peers.xbatcher_loader,
    "torchgeo": peers.torchgeo_loader,
    "rasterio": peers.plain_rasterio,
}

# Packages of each contender, imported before its memory is measured.
_XARRAY = ("xarray", "dask.array", "zarr")
IMPORTS = {
    OURS: ("geobiomass.data.loader", "xarray", "dask.array", "zarr"),
    DECODED: ("geobiomass.data.loader", "xarray", "dask.array", "zarr"),
    "xarray, dask": _XARRAY,
    "xarray, no dask": _XARRAY,
    "xarray, zarrs": (*_XARRAY, "zarrs"),
    "xbatcher": (*_XARRAY, "xbatcher.loaders.torch"),
    "torchgeo": ("torchgeo.datasets",),
}


def measure(order: Order) -> dict[str, Any]:
    """Time epochs; then run one more whose memory the parent process measures."""
    for module in IMPORTS.get(order.name, ()):
        import_module(module)
    begin = memory_of(os.getpid())
    start = CONTENDERS.get(order.name)
    if start is None:
        epoch = our_loader(order.task, order.memory, order.name == DECODED)
    else:
        epoch = start(order.task)
    if not order.quick:
        run(epoch(0))  # opens files, starts workers, fills the page cache
    speeds: list[float] = []
    begun = time.perf_counter()
    while len(speeds) < order.epochs or time.perf_counter() - begun < order.seconds:
        start_of_epoch = time.perf_counter()
        dtype = run(epoch(len(speeds) + 1))
        speeds.append(order.samples / (time.perf_counter() - start_of_epoch))
    print("watch", flush=True)
    run(epoch(len(speeds) + 1))
    return {
        "best": max(speeds),
        "median": statistics.median(speeds),
        "dtype": dtype,
        "begin": begin,
    }


def run(batches: Iterator[Batch]) -> str:
    """Iterate over the batches of an epoch; return the dtype of their images."""
    dtype = ""
    for batch in batches:
        dtype = str(batch[0].dtype).removeprefix("torch.")
    return dtype


def memory_of(process: int) -> int:
    """Return the bytes of a process, with its share of shared memory.

    These are anonymous and shared pages, divided by the number of processes that share
    them (Linux's PSS). Mapped pages of files are not counted, since the system can take
    them back.
    """
    text = Path(f"/proc/{process}/smaps_rollup").read_text()
    lines = [line.split() for line in text.splitlines()[1:]]
    return sum(
        1024 * int(line[1]) for line in lines if line[0] in ("Pss_Anon:", "Pss_Shmem:")
    )


def overlap(order: Order) -> dict[str, Any]:
    """Time training steps of a recipe's network, from the data loader and from memory.

    A round is one epoch from the loader and the same number of steps on batches in
    memory. The ratio is that of total times: a loader that reads ahead makes few but
    long waits, which a median step would not show. A step is a forward and a backward
    pass on two threads; the first round warms up.
    """
    network = _network(order.recipe)
    epoch = our_loader(order.task, order.memory, decoded=True)
    held: list[Batch] = list(islice(epoch(0), 4))
    for batch in held:
        _step(network, batch)
    fed: list[float] = []
    memory: list[float] = []
    count = 0
    for number in range(order.epochs):
        begin = time.perf_counter()
        count = sum(_step(network, batch) for batch in epoch(number + 1))
        fed.append((time.perf_counter() - begin) / count)
        begin = time.perf_counter()
        for batch in islice(cycle(held), count):
            _step(network, batch)
        memory.append((time.perf_counter() - begin) / count)
    if len(fed) > 1:
        del fed[0], memory[0]
    ratios = [a / b for a, b in zip(fed, memory, strict=True)]
    return {
        "fed": statistics.median(fed),
        "memory": statistics.median(memory),
        "ratio": statistics.median(ratios),
        "least": min(ratios),
        "most": max(ratios),
        "steps": count,
    }


def _network(name: str) -> torch.nn.Module:
    from geobiomass.network import AttentionUNet
    from geobiomass.recipes.recipe import find_recipe

    recipe = find_recipe(name)
    torch.manual_seed(0)
    return AttentionUNet(
        bands=peers.RADAR + peers.OPTICAL,
        encoder=recipe.encoder,
        decoder_channels=recipe.decoder_channels,
    ).train()


def _step(network: torch.nn.Module, batch: Batch) -> int:
    """Run a forward and a backward pass; return the number of steps, 1."""
    from geobiomass.data.loader import decode_batch

    *inputs, label = batch
    (image,), label = decode_batch(tuple(inputs), label)
    network.zero_grad(set_to_none=True)
    error = network(image) - torch.nan_to_num(label)
    error.square().mean().backward()
    return 1


def main() -> None:
    order = Order(**json.loads(sys.argv[1]))
    torch.set_num_threads(THREADS)
    zarr.config.set({"threading.max_workers": THREADS})
    blosc.use_threads = False
    peers.quiet()
    figures = overlap(order) if order.name == "overlap" else measure(order)
    print(json.dumps(figures), flush=True)


if __name__ == "__main__":
    main()
