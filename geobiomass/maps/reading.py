"""Reading a finished map, once, block by block."""

from __future__ import annotations

import os
from collections.abc import Hashable, Iterator
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import xarray as xr

from geobiomass.cube import CubeError
from geobiomass.cube.axes import in_our_names
from geobiomass.cube.claimed_size import check_raster, driver_of
from geobiomass.cube.corners import located
from geobiomass.cube.grid_size import check_scene_size
from geobiomass.cube.missing_values import (
    NEVER_STORED,
    TAKEN,
    Teller,
    clean,
    in_words,
    measured_layer,
    sampled_fills,
)
from geobiomass.cube.raster_errors import named_errors
from geobiomass.cube.schema import ChangedError
from geobiomass.cube.values import decoded_layers, with_grid_mapping
from geobiomass.maps.opening import open_layers
from geobiomass.maps.raster_arrays import with_named_reads
from geobiomass.maps.raster_checksums import RasterChecksums
from geobiomass.tiles import Window
from geobiomass.training.given_paths import path_text

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
        source = with_grid_mapping(source)  # a variable, where xarray opens netCDF
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
    layer = located(in_our_names(decoded_layers(layer)))
    check_scene_size(layer)
    if "chip" in layer.dims:
        raise CubeError(
            f"The map must be of a scene, got {layer.sizes['chip']} chips, which have "
            "no georeference."
        )
    layer = _single(layer).transpose("y", "x")
    if layer.chunks is None and not layer.variable._in_memory:
        # Read window by window, and cleaned then: see `read`.
        scaled = layer.encoding.get("fills", [])
        layer.encoding |= {
            "teller": Teller(),
            "fills": [*scaled, *sampled_fills(layer)],
        }
        return layer
    return measured_layer(layer)


def _single(layer: xr.DataArray) -> xr.DataArray:
    """Return a layer without other axes than y and x; raise if they have a choice."""
    more = {str(dim): layer.sizes[dim] for dim in layer.dims if dim not in ("y", "x")}
    if any(size != 1 for size in more.values()):
        name = next(iter(more))
        raise CubeError(
            "A layer of a map must have the dimensions y and x, got "
            f"{dict(layer.sizes)}; choose one, map.isel({name}=0)."
        )
    return layer.isel(dict.fromkeys(more, 0), drop=True)


def opened(source: Any) -> Any:
    """Return a map as it is, or opened if it is a path: once, in one state."""
    if isinstance(source, str | os.PathLike):
        return open_map(os.fspath(source))
    return source


def open_map(path: str) -> xr.Dataset:
    """Open a finished map lazily, by layer; raise as :func:`open_layer`."""
    from geobiomass.maps import in_one_state

    return in_one_state(path, lambda: _open_map(path))


def _open_map(path: str) -> xr.Dataset:
    from geobiomass.maps import describe_progress

    raster = path.rstrip("/").lower().endswith((".tif", ".tiff"))
    path_text(path, "A map", CubeError)
    if raster or path.rstrip("/").endswith(".zarr"):
        progress = describe_progress(path)
        if progress is not None and not progress["finished"]:
            written, blocks = progress["written"], progress["blocks"]
            state = f"is not finished, {written} of {blocks} blocks are written"
            if progress["writer"]:
                raise ChangedError(
                    f"The map {path} {state} by {progress['writer']} so far; open it "
                    "again when that has ended."
                )
            raise CubeError(
                f"The map {path} {state}; make the same call of predict again, it "
                "continues where it stopped."
            )
    if raster:
        return _open_raster(path)
    if "://" not in path and not os.path.exists(path):
        raise FileNotFoundError(f"There is nothing at {path}; give the path of a map.")
    return decoded_layers(open_layers(path))


def _open_raster(path: str) -> xr.Dataset:
    import rasterio
    import rioxarray

    if "://" not in path and not os.path.exists(path):
        raise FileNotFoundError(f"There is nothing at {path}; give the path of a map.")
    checksums = RasterChecksums.of(path)
    driver = driver_of(path)
    with named_errors(path), rasterio.open(path, driver=driver) as source:
        check_raster(source, path)
        names = [name or f"band {i}" for i, name in enumerate(source.descriptions, 1)]
        tags = [source.tags(number) for number in source.indexes]
        fills = [_scaled_fills(source, number) for number in range(source.count)]
        units = source.units
    with named_errors(path):
        opened = rioxarray.open_rasterio(path, masked=True, cache=False, driver=driver)
    bands = with_named_reads(cast(xr.DataArray, opened), path, checksums)
    layers = {name: _of_band(bands, number) for number, name in enumerate(names)}
    for layer, stored in zip(layers.values(), fills, strict=True):
        layer.encoding["fills"] = stored
    for (name, layer), known, unit in zip(layers.items(), tags, units, strict=True):
        # Of all bands together rioxarray has a tuple.
        layer.attrs |= {
            "long_name": known.get("long_name", name),
            "units": unit or known.get("units", ""),
        }
        if "interval" in known:  # tags are text; totals and change need the number
            layer.attrs["interval"] = float(known["interval"])
    return decoded_layers(xr.Dataset(layers))


def _scaled_fills(source: Any, number: int) -> list[float]:
    """Return what undeclared nodata of whole numbers becomes by scale and offset."""
    whole = "int" in source.dtypes[number] and source.nodatavals[number] is None
    scale, offset = source.scales[number], source.offsets[number]
    if not whole or (scale, offset) == (1.0, 0.0):
        return []
    stored = np.array(NEVER_STORED, np.float32)
    return [float(v) for v in stored * np.float32(scale) + np.float32(offset)]


def _of_band(bands: xr.DataArray, number: int) -> xr.DataArray:
    """Return one band, with the scale and offset that rioxarray lists by band."""
    layer = bands.isel(band=number, drop=True)
    for many, one in (("scales", "scale_factor"), ("offsets", "add_offset")):
        if many in layer.attrs:
            layer.attrs[one] = float(layer.attrs.pop(many)[number])
    return layer


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
    values = np.asarray(part.values, np.float64)
    if layer.chunks is None and not layer.variable._in_memory:
        fills = layer.encoding.get("fills", ())
        values, found = clean(values, whole=False, more=fills)
        teller = layer.encoding.get("teller") or Teller()
        teller.add(found, f"of the map in {values.shape[0]} x {values.shape[1]} pixels")
    return values


def taken_as_missing(layer: xr.DataArray) -> dict[Hashable, Any]:
    """Return the counts of values taken as missing so far, as an attribute."""
    teller = layer.encoding.get("teller")
    if teller is not None and teller.found:
        return {TAKEN: in_words(teller.found)}
    return {TAKEN: layer.attrs[TAKEN]} if TAKEN in layer.attrs else {}
