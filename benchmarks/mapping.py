"""One contender of maps.py, in its own process; it makes a map for each order.

Each has its own process, so that the peak memory is the contender's alone and no thread
pool is shared. They run in turns, so that all see the same state of the machine.
"""

from __future__ import annotations

import copy
import json
import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any

from tables import THREADS

OURS, ALONE = "geobiomass", "network alone"
TOGETHER = "one tile at a time, two threads"
SIDE_BY_SIDE = "two tiles at a time, one thread each"
CHANNELS_LAST = "the same, channels last"
WAYS = (TOGETHER, SIDE_BY_SIDE, CHANNELS_LAST)
ANSWER = "answer:"

# The timed work; it may return a function to call after the time measurement.
Run = Callable[[], Callable[[], None] | None]

# Imported before memory is measured.
IMPORTS = {
    OURS: ("geobiomass.inference.mapper", "geobiomass.maps", "dask.array", "zarr"),
    ALONE: ("geobiomass.data.reader", "dask.array", "zarr"),
    "xbatcher": ("xbatcher", "xarray", "zarr"),
    "torchgeo": ("torchgeo.datasets", "torchgeo.samplers", "rioxarray"),
    "monai": ("monai.inferers", "rioxarray"),
}


@dataclass(frozen=True)
class Order:
    """A map to make: scene, model, output and settings; lengths in pixels.

    Parameters
    ----------
    name : str
        Name of the contender.
    scene, model, output : str
        Paths; the ending of `output` is the format.
    way : str
        For the network alone: one of WAYS.
    blend : str
        For ours: "smooth" or "crop".
    precision : str
        For ours: "float32" or "bf16".
    workers : int
        For ours: processes of a local cluster, 0 for none.
    """

    name: str
    scene: str
    model: str
    output: str
    tile: int
    overlap: int
    block: int = 1024
    way: str = SIDE_BY_SIDE
    blend: str = "smooth"
    precision: str = "float32"
    workers: int = 0


def resident(process: int) -> int:
    """Return the bytes of a process's private memory, without pages of files.

    Linux counts them at each allocation, so a measurement takes microseconds and does
    not disturb the time measurement.
    """
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return sum(
        1024 * int(line.split()[1])
        for line in lines
        if line.startswith(("RssAnon:", "RssShmem:"))
    )


def ours(order: Order, model: Any) -> Run:
    """Map with this library, to Zarr or GeoTIFF."""
    import geobiomass as gb

    client = _cluster(order.workers)

    def run() -> None:
        model.predict_to(
            order.output,
            gb.open_cube(order.scene),
            tile=order.tile,
            overlap=order.overlap,
            block=order.block,
            blend=order.blend,
            precision=order.precision,
            overwrite=True,
            progress=False,
            client=client,
        )

    return run


@lru_cache
def _cluster(workers: int) -> Any:
    """Start worker processes of one thread each; None for no workers."""
    if not workers:
        return None
    import torch
    from distributed import Client, LocalCluster

    os.environ.pop("OMP_NUM_THREADS", None)  # dask sets one thread per worker
    cluster = LocalCluster(
        n_workers=workers,
        threads_per_worker=1,
        processes=True,
        dashboard_address=None,
    )
    client = Client(cluster)
    threads = client.run(torch.get_num_threads)
    if set(threads.values()) != {1}:
        raise RuntimeError(f"Workers must have one thread each, got {threads}.")
    return client


def alone(order: Order, model: Any) -> Run:
    """Run the network once on each tile of the lattice, from memory.

    Nothing is read, blended or written during the time measurement. The outputs are
    joined afterwards, so that they can be compared.
    """
    import numpy as np
    import torch

    windows, tiles = _held(order.scene, order.tile, order.overlap, model.bands)
    network = model.network.eval()
    if order.way == CHANNELS_LAST:
        network = copy.deepcopy(network).to(memory_format=torch.channels_last)
    passes, threads = (1, THREADS) if order.way == TOGETHER else (THREADS, 1)
    pool = _pool(passes)

    def forward(tile: torch.Tensor) -> torch.Tensor:
        torch.set_num_threads(threads)  # for this thread of the pool
        with torch.inference_mode():
            result: torch.Tensor = network(tile)
        return result

    def run() -> Callable[[], None]:
        results = list(pool.map(forward, tiles))

        def lay() -> None:
            height = max(window.bottom for window in windows)
            out = np.empty((height, windows[-1].right), np.float32)
            for window, result in zip(windows, results, strict=True):
                out[window.rows, window.columns] = result[0, 0]
            np.save(order.output, out)

        return lay

    return run


@lru_cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads)


@lru_cache(maxsize=1)  # an entry has gigabytes
def _held(
    scene: str, tile: int, overlap: int, bands: tuple[str, ...]
) -> tuple[list[Any], list[Any]]:
    """Read the tiles of a scene's lattice; return their windows and their batches."""
    import numpy as np
    import torch

    import geobiomass as gb
    from geobiomass.data.reader import Reader, Sample
    from geobiomass.tiles import Lattice

    reader = Reader(gb.open_cube(scene), bands)
    lattice = Lattice(reader.height, reader.width, tile, overlap)
    windows = [lattice.window(*sample) for sample in np.ndindex(lattice.shape)]
    return windows, [torch.from_numpy(reader.read(Sample(w)))[None] for w in windows]


def start(order: Order, model: Any) -> Run:
    """Do the untimed preparation of an order; return the timed work."""
    if order.name == OURS:
        return ours(order, model)
    if order.name == ALONE:
        return alone(order, model)
    from map_peers import PEERS

    paths = Path(order.scene), Path(order.output)
    return PEERS[order.name](*paths, order.tile, order.overlap, model.network.eval())


def main() -> None:
    """Import, load the model, report the memory; then make a map for each order."""
    import torch
    import zarr

    import geobiomass as gb

    name, model = sys.argv[1:]
    torch.set_num_threads(THREADS)
    zarr.config.set({"threading.max_workers": THREADS})
    for module in IMPORTS[name]:
        import_module(module)
    load = lru_cache(gb.load)
    load(model)
    print(ANSWER, resident(os.getpid()), flush=True)
    for line in sys.stdin:
        order = Order(**json.loads(line))
        run = start(order, load(order.model))
        begin = time.perf_counter()
        afterwards = run()
        seconds = time.perf_counter() - begin
        if afterwards is not None:
            afterwards()
        print(ANSWER, seconds, flush=True)


if __name__ == "__main__":
    main()
