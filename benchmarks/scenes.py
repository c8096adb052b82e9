"""Scenes and models for maps.py, and measurements on a finished map.

Scenes are ``gb.landscape`` (synthetic, with known biomass) in the library's own store.
The one peer that needs rasters gets the same pixels as a GeoTIFF of many bands.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt

import geobiomass as gb

if TYPE_CHECKING:
    import xarray as xr

Map = npt.NDArray[np.floating[Any]]

SEED = 11  # of the landscape; the demonstration trains on another one
SHARD = 256
# Shift and scale of bands for random weights: radar, optical, cloud probability.
SHIFT = (-15.0,) * 4 + (1500.0,) * 10 + (10.0,)
SCALE = (5.0,) * 4 + (1000.0,) * 10 + (30.0,)
SUMMER_FIRST = (6, 7, 8, 5, 9, 4, 10, 3, 11, 2, 12, 1)


def write(cube: xr.Dataset, path: Path) -> Path:
    """Write a cube, unless an earlier run has written it."""
    with contextlib.suppress(FileExistsError):
        gb.write_cube(cube, path)
    return path


def scene(folder: Path, height: int, width: int) -> Path:
    """Return the path of a scene of the landscape, 12 months x 15 bands."""
    path = folder / f"scene-{height}x{width}.zarr"
    return write(gb.landscape((height, width), seed=SEED, version=1), path)


def with_months(folder: Path, source: Path, count: int) -> Path:
    """Return the path of a scene with `count` months from summer; others are NaN."""
    cube = gb.open_cube(source)
    kept = cube["month"].isin(SUMMER_FIRST[:count])
    cube["image"] = cube["image"].where(kept)
    return write(cube, folder / f"{source.stem}-{count}-months.zarr")


def sparse(folder: Path, source: Path, observed: int, side: int) -> Path:
    """Return the path of a scene of `side` x `side` pixels, NaN except in a corner.

    The corner of `observed` x `observed` pixels repeats the pixels of the source.
    """
    import dask.array as da
    import xarray as xr

    pixels = gb.open_cube(source)["image"]
    repeats = -(-observed // pixels.sizes["y"])
    corner = da.concatenate([pixels.data] * repeats, axis=2)
    corner = da.concatenate([corner] * repeats, axis=3)[..., :observed, :observed]
    rest = side - observed
    right = _nothing(pixels, observed, rest)
    upper = da.concatenate([corner, right], axis=3)
    image = da.concatenate([upper, _nothing(pixels, rest, side)], axis=2)
    frame = gb.landscape(side, seed=SEED, version=1).drop_vars(["image", "agb"])
    cube = frame.assign(image=xr.Variable(pixels.dims, image, pixels.attrs))
    return write(cube, folder / f"sparse-{observed}-of-{side}.zarr")


def _nothing(pixels: xr.DataArray, height: int, width: int) -> Any:
    import dask.array as da

    shape = (pixels.sizes["month"], pixels.sizes["band"], height, width)
    return da.full(
        shape, np.float32(np.nan), chunks=(*shape[:2], SHARD, SHARD), dtype=np.float32
    )


def tiff_of(source: Path) -> Path:
    """Return the path of a scene's GeoTIFF: one band for each month and band."""
    return source.with_suffix(".tif")


def write_tiff(source: Path) -> None:
    """Write a scene as a GeoTIFF of months x bands, float32, tiled, uncompressed."""
    import rasterio

    target = tiff_of(source)
    if target.exists():
        return
    cube = gb.open_cube(source)
    image = cube["image"]
    count = image.sizes["month"] * image.sizes["band"]
    profile = _profile(cube) | {"count": count, "interleave": "band"}
    making = target.with_suffix(".making")
    with rasterio.open(making, "w", **profile) as file:
        for month, band in np.ndindex(image.shape[:2]):
            number = month * image.sizes["band"] + band + 1
            file.write(image[month, band].values, number)
    making.rename(target)


def _profile(cube: xr.Dataset) -> dict[str, Any]:
    import rioxarray  # noqa: F401  (the .rio accessor)

    return {
        "driver": "GTiff",
        "dtype": "float32",
        "height": cube.sizes["y"],
        "width": cube.sizes["x"],
        "crs": cube.rio.crs,
        "transform": cube.rio.transform(),
        "nodata": np.nan,
        "tiled": True,
        "blockxsize": SHARD,
        "blockysize": SHARD,
    }


def save_map(values: Map, cube: xr.Dataset, path: Path) -> None:
    """Write a map from memory as a GeoTIFF, as a user does."""
    import rasterio

    with rasterio.open(path, "w", **_profile(cube), count=1) as file:
        file.write(values.astype(np.float32), 1)


def read_map(path: Path) -> Map:
    """Read a map, (y, x), from Zarr, GeoTIFF or a numpy file."""
    if path.suffix == ".npy":
        return cast(Map, np.load(path))
    if path.suffix == ".tif":
        import rasterio

        with rasterio.open(path) as file:
            return cast(Map, file.read(1))
    import zarr

    return np.asarray(zarr.open_group(path, mode="r")["agb"])


def truth_of(source: Path) -> Map:
    """Read the true biomass, (y, x), Mg/ha."""
    return cast(Map, gb.open_cube(source)["agb"].values)


def random_model(
    folder: Path, encoder: str = "resnet18", channels: tuple[int, ...] = ()
) -> Path:
    """Save a regressor with random weights, for measurements of speed."""
    import torch

    from geobiomass.network import AttentionUNet
    from geobiomass.recipes.recipe import find_recipe

    path = folder / f"random-{encoder}"
    if not path.exists():
        torch.manual_seed(0)
        small = channels or find_recipe("quick").decoder_channels
        network = AttentionUNet(encoder=encoder, decoder_channels=small)
        network.set_statistics(SHIFT, SCALE, [80.0], [80.0])
        gb.BiomassRegressor(network).save(path)
    return path


def demo_model(folder: Path) -> Path:
    """Return the path of the demonstration's model; train it if it does not exist."""
    path = folder / "demo" / "model"
    if not path.exists():
        code = "import pathlib, sys; import geobiomass.cli.demo as demo; "
        code += "demo.run(pathlib.Path(sys.argv[1]))"
        command = [sys.executable, "-c", code, str(folder / "demo")]
        subprocess.run(command, check=True, stdout=sys.stderr)
    return path


@dataclass(frozen=True)
class Seam:
    """The steps of a map between tiles, compared with those inside tiles.

    A step is the absolute difference of two neighbouring pixels, across rows or across
    columns. A line between two rows (or columns) of pixels is in one of three families,
    where k counts the tiles along an axis from the second one: the start of tile k,
    ``k x stride``; the end of the previous tile, ``k x stride + overlap``; and the
    middle, ``k x stride + overlap / 2``, where cropped tiles meet. Averaged overlaps
    step at the first two, cropped ones at the third, overwritten ones at one of the
    first two; without overlap all three are the same. `at_tiles` is the mean step of
    the family with the largest mean, so that each way to join tiles is measured at its
    own seams. `inside` is the mean over all lines in no family.
    """

    at_tiles: float
    inside: float

    @property
    def ratio(self) -> float:
        """The mean step at tile borders over that inside; 1 without visible seams."""
        return self.at_tiles / self.inside


def measure_seam(values: Map, tile: int, overlap: int) -> Seam:
    """Measure the seams of a map, (y, x), made of tiles of one lattice."""
    stride = tile - overlap
    families: list[list[npt.NDArray[np.float64]]] = [[], [], []]
    inside = []
    for axis in (0, 1):
        size = values.shape[axis]
        steps = np.abs(np.diff(values.astype(np.float64), axis=axis))
        begins = np.arange(stride, size - overlap, stride)
        lines = [begins, begins + overlap // 2, begins + overlap]
        rest = np.setdiff1d(np.arange(1, size), np.concatenate(lines))
        for family, line in zip(families, lines, strict=True):
            family.append(np.take(steps, line - 1, axis).ravel())
        inside.append(np.take(steps, rest - 1, axis).ravel())
    means = [float(np.nanmean(np.concatenate(family))) for family in families]
    return Seam(max(means), float(np.nanmean(np.concatenate(inside))))


def rmse(values: Map, truth: Map) -> float:
    """Return the root mean squared error over all pixels of a map, Mg/ha."""
    return float(np.sqrt(np.nanmean((values.astype(np.float64) - truth) ** 2)))
