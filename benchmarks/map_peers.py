"""Other libraries that map a scene with the same network, each used as documented.

Each reads the scene in its own way, with tiles of one side and overlap, one tile at a
time with all threads of torch, in float32, and writes the map. The network accepts NaN
for missing values, so nothing is filled. Each function documents how it joins tiles.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import geobiomass as gb
from scenes import Map, save_map, tiff_of

Run = Callable[[], None]


def xbatcher_loop(scene: Path, out: Path, tile: int, overlap: int, net: Any) -> Run:
    """Return a mapper with xbatcher's BatchGenerator on plain xarray, and a torch loop.

    Overlaps are averaged over all predictions of a pixel. It reads without dask, which
    is faster with xarray here. The generator leaves out incomplete tiles at the edges.
    """

    def run() -> None:
        import xarray as xr
        from xbatcher import BatchGenerator

        cube = xr.open_zarr(scene, consolidated=False, chunks=None)
        whole = {dim: cube.sizes[dim] for dim in ("month", "band")}
        batches = BatchGenerator(
            cube["image"],
            input_dims=whole | {"y": tile, "x": tile},
            input_overlap={"y": overlap, "x": overlap},
            preload_batch=False,
        )
        rows, columns = (cube.get_index(dim) for dim in ("y", "x"))
        total = np.zeros((len(rows), len(columns)))
        count = np.zeros_like(total)
        for batch in batches:
            image = (batch * cube["multiplier"]).values.astype(np.float32)
            here = np.ix_(
                rows.get_indexer(batch["y"].values),
                columns.get_indexer(batch["x"].values),
            )
            values, seen = _predict(net, torch.from_numpy(image)[None])
            total[here] += np.where(seen, values, 0)
            count[here] += seen
        with np.errstate(invalid="ignore"):
            mean = (total / count).astype(np.float32)
        frame = cube[["y", "x", "spatial_ref"]]
        frame.assign(agb=(("y", "x"), mean)).to_zarr(out, mode="w", consolidated=False)

    return run


def torchgeo_loop(scene: Path, out: Path, tile: int, overlap: int, net: Any) -> Run:
    """Return a mapper with torchgeo's GridGeoSampler on a RasterDataset.

    torchgeo does not join tiles. The loop crops each tile to its core, by half of the
    overlap on each side, except at the scene's edges. The scene is one GeoTIFF of
    months x bands. There are no worker processes, so that the network has both cores.
    """

    def run() -> None:
        from torch.utils.data import DataLoader
        from torchgeo.datasets import RasterDataset, stack_samples
        from torchgeo.samplers import GridGeoSampler

        cube = gb.open_cube(scene)
        months, bands = cube.sizes["month"], cube.sizes["band"]
        dataset = RasterDataset(paths=[tiff_of(scene)])
        sampler = GridGeoSampler(dataset, size=tile, stride=tile - overlap)
        loader = DataLoader(dataset, sampler=sampler, collate_fn=stack_samples)
        x, y, _ = dataset.bounds
        width, height = dataset.res
        result = np.full((cube.sizes["y"], cube.sizes["x"]), np.nan, np.float32)
        for sample in loader:
            across, along, _ = sample["bounds"][0]
            left = round((across.start - x.start) / width)
            top = round((y.stop - along.stop) / height)
            image = sample["image"].unflatten(1, (months, bands))
            values, seen = _predict(net, image)
            values = np.where(seen, values, np.nan)
            there = tuple(
                _core(start, tile, overlap, size)
                for start, size in zip((top, left), result.shape, strict=True)
            )
            here = tuple(
                slice(part.start + start, part.stop + start)
                for part, start in zip(there, (top, left), strict=True)
            )
            result[here] = values[there]
        save_map(result, cube, out)

    return run


def _core(start: int, tile: int, overlap: int, size: int) -> slice:
    """Return the part of a tile that is kept along an axis, from the tile's start."""
    first = overlap // 2 if start > 0 else -start
    last = tile - overlap // 2 if start + tile < size else size - start
    return slice(first, last)


def monai_inferer(scene: Path, out: Path, tile: int, overlap: int, net: Any) -> Run:
    """Return a mapper with monai's sliding_window_inference and Gaussian blending.

    It takes one tensor, so the whole scene is first read into memory, with this
    library's reader, which is the fastest. Months and bands are its channels.
    """

    def run() -> None:
        from monai.inferers import sliding_window_inference

        cube = gb.open_cube(scene)
        image = torch.from_numpy(cube["image"].values)
        seen = image.isfinite().any(dim=1).any(dim=0).numpy()

        def predictor(tiles: Tensor) -> Tensor:
            result: Tensor = net(tiles.reshape(1, *image.shape[:2], tile, tile))
            return result

        with torch.inference_mode():
            values = sliding_window_inference(
                image.flatten(0, 1)[None],
                roi_size=(tile, tile),
                sw_batch_size=1,
                predictor=predictor,
                overlap=overlap / tile,
                mode="gaussian",
            )
        assert isinstance(values, Tensor)
        save_map(np.where(seen, values[0, 0].numpy(), np.nan), cube, out)

    return run


def _predict(network: nn.Module, image: Tensor) -> tuple[Map, Any]:
    """Run the network on one tile; return values and the mask of observed pixels."""
    with torch.inference_mode():
        values = network(image)[0, 0].numpy()
    return values, image.isfinite().any(dim=2).any(dim=1)[0].numpy()


PEERS: dict[str, Callable[[Path, Path, int, int, Any], Run]] = {
    "xbatcher": xbatcher_loop,
    "torchgeo": torchgeo_loop,
    "monai": monai_inferer,
}
