"""Reading a finished map, once, block by block."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import xarray as xr

from geobiomass.cube import CubeError
from geobiomass.cube.axes import in_our_names
from geobiomass.cube.corners import located
from geobiomass.cube.grid_size import check_scene_size, check_size
from geobiomass.tiles import Window

BLOCK = 1024  # pixels: the side of a block that is read, as maps are written
_LARGEST = 4096  # pixels: a block of 128 MB

Numbers = npt.NDArray[np.float64]


def open_layer(source: Any, variable: str | None = None) -> xr.DataArray:
    """Open one layer of a map lazily.

    Parameters
    ----------
    source : xarray.Dataset, xarray.DataArray, str or Path
        A map, lazy or not, or a path: Zarr, or GeoTIFF.
    variable : str, optional
        Name of the layer. A map with one layer needs no name.

    Returns
    -------
    xarray.DataArray
        (y, x), NaN where missing; windows are read when they are needed.

    Raises
    ------
    CubeError
        If the map was not finished, or has no such layer.
    FileNotFoundError
        If nothing is at the path.
    """
    if isinstance(source, str | os.PathLike):
        source = open_map(os.fspath(source))
    if isinstance(source, xr.DataArray):
        layer = source
    elif isinstance(source, xr.Dataset):
        names = [str(name) for name, values in source.items() if values.ndim > 1]
        if variable not in names and len(names) != 1:
            raise CubeError(
                f"The map has no layer {variable!r}, it has {names}; name one with "
                "variable=."
            )
        layer = source[variable if variable in names else names[0]]
    else:
        raise CubeError(
            "The map must be an xarray Dataset or a path to Zarr or GeoTIFF, got a "
            f"{type(source).__name__}."
        )
    layer = located(in_our_names(layer))
    check_scene_size(layer)
    if "chip" in layer.dims:
        raise CubeError(
            f"The map must be of a scene, got {layer.sizes['chip']} chips, which have "
            "no georeference."
        )
    return layer.transpose("y", "x")


def open_map(path: str) -> xr.Dataset:
    """Open a finished map lazily, by layer; raise as :func:`open_layer`."""
    from geobiomass.maps import describe_progress

    raster = path.rstrip("/").endswith((".tif", ".tiff"))
    if raster or path.rstrip("/").endswith(".zarr"):
        progress = describe_progress(path)
        if progress is not None and not progress["finished"]:
            raise CubeError(
                f"The map {path} is not finished, {progress['written']} of "
                f"{progress['blocks']} blocks are written; make the same call of "
                "predict again, it continues where it stopped."
            )
    if raster:
        return _open_raster(path)
    if "://" not in path and not os.path.exists(path):
        raise FileNotFoundError(f"There is nothing at {path}.")
    return xr.open_dataset(
        path, engine="zarr", decode_coords="all", chunks=None, consolidated=False
    )


def _open_raster(path: str) -> xr.Dataset:
    import rasterio
    import rioxarray

    if "://" not in path and not os.path.exists(path):
        raise FileNotFoundError(f"There is nothing at {path}.")
    with rasterio.open(path) as source:
        check_size(source.shape, path, source.res, source.bounds)
        names = [name or f"band {i}" for i, name in enumerate(source.descriptions, 1)]
        tags = [source.tags(number) for number in source.indexes]
    bands = cast(xr.DataArray, rioxarray.open_rasterio(path, masked=True, cache=False))
    layers = {
        name: bands.isel(band=number, drop=True) for number, name in enumerate(names)
    }
    for layer, known in zip(layers.values(), tags, strict=True):
        if "interval" in known:  # tags are text; totals and change need the number
            layer.attrs["interval"] = float(known["interval"])
    return xr.Dataset(layers)


def side_of(layer: xr.DataArray) -> int:
    """Return the side of the blocks to read a layer in, pixels: its chunks' side."""
    if layer.chunks is None:
        return BLOCK
    down, across = (sizes[0] for sizes in layer.chunks)
    return down if down == across and down <= _LARGEST else BLOCK


def windows(
    layer: xr.DataArray, wanted: npt.NDArray[np.bool_], side: int
) -> Iterator[Window]:
    """Yield the blocks that are wanted, (row of blocks, column of blocks) bool."""
    height, width = layer.shape
    for row, column in np.argwhere(wanted).tolist():
        top, left = row * side, column * side
        yield Window(top, left, min(top + side, height), min(left + side, width))


def read(layer: xr.DataArray, window: Window) -> Numbers:
    """Read a window, (y, x) float64."""
    part = layer.isel(y=window.rows, x=window.columns)
    return np.asarray(part.values, np.float64)
