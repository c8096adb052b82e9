"""From tiles to a map: read, run the network, blend, block by block.

A map is made of the tiles of one lattice, batched as the lattice says, summed in
the lattice's order. So a pixel's value does not depend on which block it was
computed in, by how many workers, or when.
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import xarray as xr
from torch import nn

from geobiomass.chips import Place, Reader
from geobiomass.cube import CubeError
from geobiomass.tiles import Lattice, Window, blocks
from geobiomass.training.augment import FLIPS, ORIENTATIONS

Map = npt.NDArray[np.float32]


class _OneThreadEach:
    """Runs forward passes on threads, each pass with a single thread of its own.

    On a CPU the number of threads that share one pass changes the last bits of its
    result; tiles side by side, one thread each, give the same bits on any number
    of cores, and are no slower. Torch's own setting is given back when no map is
    being computed.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._pool: ThreadPoolExecutor | None = None
        self._threads = 1

    def __enter__(self) -> Callable[..., Future[Any]]:
        with self._lock:
            if self._users == 0:
                self._threads = torch.get_num_threads()
            if self._pool is None:
                self._pool = ThreadPoolExecutor(self._threads, "tiles")
            self._users += 1
            return self._pool.submit

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._users -= 1
            if self._users == 0 and self._pool is not None:
                self._pool.submit(torch.set_num_threads, self._threads).result()


_FORWARD = _OneThreadEach()
# rasterio silences a warning of its own by the process's filters, which two threads
# at once would leave in each other's state.
_ONE_MASK = threading.Lock()
_ON_GPU = threading.Lock()  # one pass at a time: the GPU is shared, and so its memory


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
        Tiles in a batch, neighbours in a row of the lattice. None: 1 on the CPU,
        4 on a GPU.
    flips : bool
        Average the predictions over the image and its flips left-right, up-down
        and both.
    """

    tile: int = 256
    overlap: int = 64
    block: int = 1024
    batch_size: int | None = None
    flips: bool = False

    def __post_init__(self) -> None:
        for name in ("tile", "block", "batch_size"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or value < 1):
                raise ValueError(f"{name} must be a whole number above 0, got {value}.")
        if not 0 <= self.overlap < self.tile:
            raise ValueError(
                "overlap must be at least 0 and less than tile, got overlap="
                f"{self.overlap} and tile={self.tile} pixels."
            )

    def values_depend_on(self) -> dict[str, Any]:
        """Give the settings that a map's values depend on."""
        return {
            "tile": self.tile,
            "overlap": self.overlap,
            "batch_size": self.batch_size,
            "flips": self.flips,
        }


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
    outputs : int
        Maps that the network predicts.
    region : Region, optional
        Outside of it pixels are NaN, and blocks that it does not touch cost nothing.
    """

    network: nn.Module
    reader: Reader
    settings: MapSettings
    outputs: int = 1
    region: Region | None = None
    lattice: Lattice = field(init=False)

    def __post_init__(self) -> None:
        self.lattice = Lattice(
            self.reader.height,
            self.reader.width,
            self.settings.tile,
            self.settings.overlap,
        )
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.network.to(self.device).eval()
        default = 1 if self.device.type == "cpu" else 4
        self.batch_size = self.settings.batch_size or default

    def blocks(self) -> list[Window]:
        """Give the blocks of the scene, or of every chip."""
        return blocks(self.reader.height, self.reader.width, self.settings.block)

    def compute(self, window: Window, chip: int | None = None) -> Map:
        """Compute one block.

        Returns
        -------
        numpy.ndarray
            (output, y, x) float32; NaN where nothing was observed in any month.
        """
        shape = (window.height, window.width)
        total = np.zeros((self.outputs, *shape), np.float64)
        weight = np.zeros(shape, np.float64)
        observed = np.zeros(shape, bool)
        inside = self.region.mask(window) if self.region is not None else None
        if inside is not None and not inside.any():
            return np.full((self.outputs, *shape), np.nan, np.float32)
        for tile, values, seen in self._tiles(window, chip):
            common = tile.intersect(window)
            if common is None:
                continue
            here, there = common.within(window), common.within(tile)
            share = self.lattice.weights[there]
            total[:, *here] += share * values[:, *there]
            weight[here] += share
            observed[here] |= seen[there]
        if inside is not None:
            observed &= inside
        return np.where(observed, total / weight, np.nan).astype(np.float32)

    def _tiles(
        self, window: Window, chip: int | None
    ) -> Iterator[tuple[Window, npt.NDArray[np.float64], npt.NDArray[np.bool_]]]:
        """Yield the tiles that touch a block, in the lattice's order."""
        touching = self.lattice.touching(window)
        ahead: list[_Running] = []
        with _FORWARD as submit:
            for row, tiles in groupby(touching, key=lambda tile: tile[0]):
                # The next row is read while the network is busy with this one.
                running = self._start(row, [c for _, c in tiles], chip, submit)
                yield from _results(ahead)
                ahead = running
            yield from _results(ahead)

    def _start(
        self,
        row: int,
        columns: list[int],
        chip: int | None,
        submit: Callable[..., Future[Any]],
    ) -> list[_Running]:
        """Read a row of tiles, once for what they share, and start their batches."""
        windows = [self.lattice.window(row, c) for c in self._whole_batches(columns)]
        strip = Window(
            windows[0].top, windows[0].left, windows[-1].bottom, windows[-1].right
        )
        image = self.reader.read(Place(strip, chip))
        size = self.batch_size
        batches = [windows[i : i + size] for i in range(0, len(windows), size)]
        return [
            (
                batch,
                submit(self._forward, [image[:, :, *w.within(strip)] for w in batch]),
            )
            for batch in batches
        ]

    def _whole_batches(self, columns: list[int]) -> range:
        """Widen a run of tiles to whole batches, which the lattice fixes."""
        size, count = self.batch_size, self.lattice.shape[1]
        first = columns[0] // size * size
        return range(first, min(count, (columns[-1] // size + 1) * size))

    def _forward(
        self, tiles: list[Map]
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
        """Run the network on tiles (month, band, y, x), with all their flips.

        Returns
        -------
        values : numpy.ndarray
            (tile, output, y, x).
        seen : numpy.ndarray
            (tile, y, x), whether any month has a value there.
        """
        images = np.stack(tiles)
        seen = np.asarray(np.isfinite(images).any(axis=(1, 2)))
        shape = (len(tiles), self.outputs, *images.shape[-2:])
        if not seen.any():  # nothing to look at: the values are masked anyway
            return np.zeros(shape), seen
        if self.device.type == "cpu":
            torch.set_num_threads(1)  # of this thread of the pool
            return self._average(images), seen
        with _ON_GPU:
            return self._average(images), seen

    def _average(self, images: Map) -> npt.NDArray[np.float64]:
        orientations = FLIPS if self.settings.flips else ORIENTATIONS[:1]
        with torch.inference_mode():
            image = torch.from_numpy(images).to(self.device)
            total = torch.zeros((), dtype=torch.float64)
            for orientation in orientations:
                turned = self.network(orientation.apply(image))
                total = total + orientation.inverse.apply(turned).double().cpu()
            return np.asarray(total.numpy() / len(orientations))

    def __dask_tokenize__(self) -> str:
        """Tell dask not to hash weights and pixels: every mapper is its own."""
        if not hasattr(self, "_token"):
            self._token = uuid.uuid4().hex
        return self._token


_Running = tuple[list[Window], "Future[Any]"]


def _results(
    running: list[_Running],
) -> Iterator[tuple[Window, npt.NDArray[np.float64], npt.NDArray[np.bool_]]]:
    for windows, future in running:
        yield from zip(windows, *future.result(), strict=True)


def lazy_map(mapper: Mapper, cube: xr.Dataset, names: tuple[str, ...]) -> xr.Dataset:
    """Give the map as a lazy dataset on the cube's own grid.

    Parameters
    ----------
    mapper : Mapper
        Over `cube`.
    cube : xarray.Dataset
        Whose chips or grid the map takes over.
    names : tuple of str
        A variable an output.

    Returns
    -------
    xarray.Dataset
        Variables (y, x) or (chip, y, x) float32, Mg/ha, dask-backed: a task a
        block, computed only where it is looked at.
    """
    import dask.array as da

    side = mapper.settings.block
    spatial = tuple(_chunks(cube.sizes[dim], side) for dim in ("y", "x"))
    dims: tuple[str, ...] = ("y", "x")
    chunks: tuple[tuple[int, ...], ...] = spatial
    if mapper.reader.chips:
        dims = ("chip", *dims)
        chunks = ((1,) * cube.sizes["chip"], *chunks)
    stacked = da.map_blocks(
        _compute_block,
        mapper=mapper,
        chunks=((mapper.outputs,), *chunks),
        dtype=np.float32,
        meta=np.empty((0,) * (len(dims) + 1), np.float32),
        name=f"map-{mapper.__dask_tokenize__()}",
    )
    variables = {
        name: (dims, stacked[index], map_attributes())
        for index, name in enumerate(names)
    }
    result = xr.Dataset(variables, coords=_grid(cube))
    for name in names:
        if "spatial_ref" in result.coords:
            result[name].encoding["grid_mapping"] = "spatial_ref"
    return result


def map_attributes() -> dict[str, str]:
    """Give the attributes of a map of biomass density."""
    return {"long_name": "above-ground biomass density", "units": "Mg/ha"}


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


@dataclass(frozen=True)
class Region:
    """A region of interest on a scene's grid.

    Parameters
    ----------
    shapes : tuple
        GeoJSON geometries in the scene's coordinate reference system.
    transform : tuple of float
        The scene's affine transform, six numbers.
    """

    shapes: tuple[Mapping[str, Any], ...]
    transform: tuple[float, float, float, float, float, float]

    @classmethod
    def of(cls, region: Any, cube: xr.Dataset) -> Region:
        """Make a region from what a user has.

        Parameters
        ----------
        region : tuple of four floats, GeoJSON mapping, or geopandas object
            Bounds (left, bottom, right, top) in the scene's reference system;
            GeoJSON, in longitude and latitude as its standard says; or anything
            with ``to_crs`` and ``__geo_interface__``, in its own reference system.
        cube : xarray.Dataset
            A scene.

        Raises
        ------
        CubeError
            If the cube holds chips, or has no reference system to bring a GeoJSON
            region to.
        ValueError
            If the region is of none of these kinds.
        """
        import rioxarray  # noqa: F401  (the .rio accessor)

        if "chip" in cube.dims:
            raise CubeError("region needs a scene; chips have no place on Earth.")
        transform = tuple(cube.rio.transform())[:6]
        if isinstance(region, tuple | list) and len(region) == 4:
            return cls((_rectangle(*map(float, region)),), transform)
        if cube.rio.crs is None:
            raise CubeError(
                "region needs the scene's reference system; set it with "
                "cube.rio.write_crs('EPSG:...')."
            )
        if hasattr(region, "to_crs"):
            shapes = _geometries(region.to_crs(cube.rio.crs).__geo_interface__)
            return cls(tuple(shapes), transform)
        mapping = getattr(region, "__geo_interface__", region)
        if not isinstance(mapping, Mapping) or "type" not in mapping:
            raise ValueError(
                "region must be bounds (left, bottom, right, top), GeoJSON or a "
                f"geopandas object, got {type(region).__name__}."
            )
        from rasterio.warp import transform_geom

        shapes = [
            transform_geom("EPSG:4326", cube.rio.crs, shape)
            for shape in _geometries(mapping)
        ]
        return cls(tuple(shapes), transform)

    def mask(self, window: Window) -> npt.NDArray[np.bool_]:
        """Give the pixels of a window whose centre is in the region, (y, x) bool."""
        from affine import Affine
        from rasterio import windows
        from rasterio.features import geometry_mask

        part = windows.Window(window.left, window.top, window.width, window.height)
        with _ONE_MASK:
            mask = geometry_mask(
                self.shapes,
                (window.height, window.width),
                windows.transform(part, Affine(*self.transform)),
                invert=True,
            )
        return np.asarray(mask, bool)


def _rectangle(left: float, bottom: float, right: float, top: float) -> dict[str, Any]:
    ring = [(left, bottom), (right, bottom), (right, top), (left, top), (left, bottom)]
    return {"type": "Polygon", "coordinates": [ring]}


def _geometries(mapping: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    if mapping["type"] == "FeatureCollection":
        return [feature["geometry"] for feature in mapping["features"]]
    if mapping["type"] == "Feature":
        return [mapping["geometry"]]
    return [mapping]
