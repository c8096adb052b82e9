"""Static layers from rasters and arrays: named, in known units, on the cube's grid."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt
import xarray as xr

from geobiomass.cube import CubeError
from geobiomass.cube.axes import spatial_axes
from geobiomass.cube.missing_values import Teller, clean
from geobiomass.cube.raster_errors import named_errors
from geobiomass.cube.units import conversion, plain
from geobiomass.cube.values import decoded
from geobiomass.sources.grid_like import grid_like
from geobiomass.sources.raster_labels import (
    check_overlap,
    on_turns,
    stated_in_raster,
    turns_of,
)
from geobiomass.sources.rasters.find_files import Found, Problems
from geobiomass.sources.rasters.grid_geometry import pixel_offset, pixel_ratio
from geobiomass.sources.rasters.headers import read_headers
from geobiomass.sources.rasters.lazy_array import BLOCK, lazy_blocks
from geobiomass.sources.rasters.open_raster import gdal_settings, open_raster
from geobiomass.sources.rasters.read_block import Layer, copy_pixels
from geobiomass.sources.rasters.reproject import Resampling, warp
from geobiomass.sources.rasters.terrain import DERIVED, ELEVATION, SLOPE, derive

if TYPE_CHECKING:
    from odc.geo.geobox import GeoBox

# Of layers that are named so; a raster that states others is asked for.
_USUAL_UNITS = {ELEVATION: "m", "canopy_height": "m", "embeddings": "1"}
_UNITS_OF_DERIVED = {SLOPE: "degree"}  # sine and cosine are plain numbers


@dataclass(frozen=True)
class Planes:
    """Some static layers of one raster.

    Parameters
    ----------
    names : tuple of str
        Names of the layers.
    units : mapping
        Units by name.
    array : dask.array.Array or numpy.ndarray
        (layer, y, x) float32 on the grid of the cube, NaN where missing; of chips
        (chip, layer, y, x).
    source : str
        The raster's file name, or "an array".
    """

    names: tuple[str, ...]
    units: Mapping[str, str]
    array: Any
    source: str


@dataclass(frozen=True)
class Reading:
    """How rasters and arrays are read; see :func:`geobiomass.with_static`."""

    units: Mapping[str, str]
    nodata: float | None = None
    crs: Any = None
    resampling: Resampling | None = None


def planes_of_file(
    path: str,
    name: str,
    grid: GeoBox,
    how: Reading,
    derived: Sequence[str],
    teller: Teller,
) -> Planes:
    """Return the layers of a raster file, lazy on the grid of a cube.

    Parameters
    ----------
    path : str
        The file.
    name : str
        Name of the layer; of several bands, what their names begin with.
    grid : GeoBox
        Of the cube.
    how : Reading
        Units, nodata and resampling.
    derived : sequence of str
        Layers that follow from the file, an elevation.
    teller : Teller
        Counts values that no measurement has.

    Raises
    ------
    CubeError
        If it has no georeference, does not overlap the cube, or its units are unknown.
    DamagedError
        If it cannot be read.
    """
    bands = _bands_of(path, name)
    layers = [replace(one, labels=True, nodata=how.nodata) for one in bands]
    method = how.resampling or _method(layers[0].geobox, grid)
    layers = [replace(one, resampling=method) for one in layers]
    check_overlap(on_turns(layers[0], grid), grid, f"The raster of {name!r},")
    _check_elevation(layers, name)
    units = {}
    for number, one in enumerate(layers):
        stated = plain(stated_in_raster(one)["units"])
        unit, factor = _units_of(name, one.band, stated, how.units)
        units[one.band] = unit
        if factor != 1.0:
            layers[number] = _scaled(one, factor)
    for kind in derived:
        layers.append(replace(layers[0], band=kind, derived=kind))
        units[kind] = _UNITS_OF_DERIVED.get(kind, "1")
    names = [one.band for one in layers]
    every = [turn for one in layers for turn in on_turns(one, grid)]
    array = lazy_blocks([every], names, grid, skip=False, teller=teller)[0]
    return Planes(tuple(names), units, array, os.path.basename(path))


def _bands_of(path: str, name: str) -> list[Layer]:
    """Return the bands of a file with the names of their layers."""
    with named_errors(path), gdal_settings(), open_raster(path) as source:
        count, described = source.count, [*source.descriptions]
    problems = Problems()
    if count == 1:
        images = read_headers([Found(path, band=name)], None, problems)
    else:
        numbers = None if all(described) else {n + 1: str(n + 1) for n in range(count)}
        images = read_headers([Found(path)], numbers, problems)
    problems.check()
    layers = [layer for image in images for layer in image.layers]
    if count == 1:
        return layers
    digits = len(str(count))
    return [
        replace(
            one,
            band=f"{name}_{one.band.zfill(digits)}"
            if not all(described)
            else f"{name}_{one.band}",
        )
        for one in layers
    ]


def _scaled(layer: Layer, factor: float) -> Layer:
    """Return a layer whose values are multiplied, after the file's own scale."""
    with named_errors(layer.path), gdal_settings(), open_raster(layer.path) as source:
        scale, offset = (
            float(each[layer.index - 1]) for each in (source.scales, source.offsets)
        )
    return replace(layer, scale=scale * factor, offset=offset * factor)


def planes_of_array(
    array: xr.DataArray,
    name: str,
    grid: GeoBox,
    how: Reading,
    derived: Sequence[str],
    teller: Teller,
) -> Planes:
    """Return the layers of a georeferenced array on the grid of a cube.

    One that is on this grid already stays lazy; another one is read into memory.
    Parameters and errors are those of :func:`planes_of_file`.
    """
    import dask.array as da
    import rioxarray  # noqa: F401  (the .rio accessor)

    if array.rio.crs is None and how.crs is None:
        raise CubeError(
            f"The array of {name!r} must have a CRS, got none; add it, crs='EPSG:...'."
        )
    placed = array if how.crs is None else array.rio.write_crs(how.crs)
    source = grid_like(placed, f"The array of {name!r}")
    layered, names = _named_layers(array, name)
    _check_elevation(names, name)
    unit, factor = _units_of(name, names[0], plain(array.attrs.get("units")), how.units)
    known = _decoded(layered, how.nodata)
    units = dict.fromkeys(names, unit)
    if not derived and factor == 1.0 and _is_on(source, grid):
        chunks = (len(names), BLOCK, BLOCK)
        data = _cleaned(known, teller)
        lazy = da.asarray(data).astype(np.float32).rechunk(chunks)
        return Planes(tuple(names), units, lazy, "an array")
    values, taken = clean(np.asarray(known.values, np.float32))
    teller.add(taken, "")
    values = values * np.float32(factor)
    if derived:
        padded = np.pad(values[0], 1, constant_values=np.nan)
        more = derive(padded, derived, source, slice(0, source.shape[0]))
        values = np.concatenate([values, more])
        units |= {kind: _UNITS_OF_DERIVED.get(kind, "1") for kind in derived}
    out = np.full((len(values), *grid.shape), np.nan, np.float32)
    for turn in turns_of(source, grid):
        method = how.resampling or _method(turn, grid)
        part = _on_grid(values, turn, grid, method)
        np.copyto(out, part, where=np.isnan(out))
    lazy = da.from_array(out, chunks=(len(out), BLOCK, BLOCK))
    return Planes((*names, *derived), units, lazy, "an array")


def planes_of_chips(
    array: xr.DataArray, name: str, cube: xr.Dataset, how: Reading, teller: Teller
) -> Planes:
    """Return the layers of an array of chips, in the order of a cube's chips.

    Raises
    ------
    CubeError
        If chips are missing, or have another size.
    """
    if "chip" not in array.dims or "chip" not in array.coords:
        raise CubeError(
            f"The layer {name!r} of a collection of chips must be an array with the "
            f"dimensions (chip, y, x) or (chip, layer, y, x), got {array.dims}; or add "
            "it to the scene that the chips were cut from."
        )
    ids = [str(chip) for chip in cube["chip"].values]
    there = {str(chip): at for at, chip in enumerate(array["chip"].values)}
    lacking = [chip for chip in ids if chip not in there]
    if lacking:
        raise CubeError(
            f"The layer {name!r} must have all chips of the cube, got none of "
            f"{lacking[:3]} ({len(lacking)} of {len(ids)} chips are missing); leave "
            "these chips out, cube.drop_sel(chip=[...])."
        )
    layered, names = _named_layers(array, name)
    size = tuple(cube.sizes[dim] for dim in ("y", "x"))
    if layered.shape[-2:] != size:
        raise CubeError(
            f"The layer {name!r} must have the {size[0]} x {size[1]} pixels of the "
            f"cube's chips, got {layered.shape[-2]} x {layered.shape[-1]}; cut it as "
            "the chips were cut."
        )
    stated = plain(array.attrs.get("units"))
    unit, factor = _units_of(name, names[0], stated, how.units)
    known = _decoded(layered, how.nodata)
    ordered = known.isel(chip=[there[chip] for chip in ids]).astype(np.float32)
    values = _cleaned(ordered, teller)
    values = values if factor == 1.0 else values * np.float32(factor)
    return Planes(tuple(names), dict.fromkeys(names, unit), values, "an array")


def _decoded(array: xr.DataArray, nodata: float | None) -> xr.DataArray:
    """Return physical values, NaN where missing."""
    return cast(xr.DataArray, decoded(array, nodata, instead=nodata is not None))


def _cleaned(array: xr.DataArray, teller: Teller) -> Any:
    """Return values in memory without those that no measurement has.

    Lazy ones are cleaned when they are written, or learnt from.
    """
    if array.chunks is not None:
        return array.data
    values, taken = clean(array.values)
    teller.add(taken, "")
    return values


def _named_layers(array: xr.DataArray, name: str) -> tuple[xr.DataArray, list[str]]:
    """Return an array as (layer, y, x), with chips before, and its layers' names."""
    axes = spatial_axes(array)
    if axes is None:
        raise CubeError(
            f"The array of {name!r} must have the axes y and x, got {array.dims}; "
            "rename them, array.rename(...)."
        )
    array = array.rename(
        {a: b for a, b in zip(axes, ("y", "x"), strict=True) if a != b}
    )
    others = [str(dim) for dim in array.dims if dim not in ("chip", "y", "x")]
    chips = ("chip",) if "chip" in array.dims else ()
    if len(others) > 1:
        raise CubeError(
            f"The array of {name!r} must have one axis besides y and x at most, got "
            f"{others}; select one of the others."
        )
    if not others:
        return array.expand_dims("layer").transpose(*chips, "layer", "y", "x"), [name]
    axis = others[0]
    layered = array.transpose(*chips, axis, "y", "x")
    size = array.sizes[axis]
    if size == 1:
        return layered, [name]
    numbers = [f"{n:0{len(str(size))}d}" for n in range(1, size + 1)]
    own = array[axis].values if axis in array.coords else np.empty(0)
    ends = [str(each) for each in own] if own.dtype.kind in "UOT" else numbers
    return layered, [f"{name}_{end}" for end in ends]


def _check_elevation(layers: Sequence[Any], name: str) -> None:
    if name == ELEVATION and len(layers) != 1:
        raise CubeError(
            f"dem= must be one band of elevations, got {len(layers)} bands; select "
            "one, dem=array.sel(band=1)."
        )


def _units_of(
    name: str, layer: str, stated: str, given: Mapping[str, str]
) -> tuple[str, float]:
    """Return the units of a layer, elevation in metres, and the factor to them."""
    units = given.get(layer) or given.get(name) or stated or _USUAL_UNITS.get(name, "")
    if not units:
        raise CubeError(
            f"Units of the layer {layer!r} are unknown: the raster states none; give "
            f"them, units={{{name!r}: 'm'}}, or '1' of plain numbers."
        )
    if name != ELEVATION:
        return str(units), 1.0
    factor = conversion(units, "m")
    if factor is None:
        raise CubeError(
            f"Elevation must be in units of length, got {units!r}; give those of dem=, "
            "units={'elevation': 'm'}."
        )
    return "m", factor


def _method(source: GeoBox, grid: GeoBox) -> Resampling:
    """Return "average" where the grid's pixels are clearly larger, else "bilinear"."""
    along_x, along_y = pixel_ratio(source, grid)
    return "average" if (along_x * along_y) ** 0.5 > 1.5 else "bilinear"


def _is_on(source: GeoBox, grid: GeoBox) -> bool:
    return source.shape == grid.shape and pixel_offset(source, grid) == (0, 0)


def _on_grid(
    values: npt.NDArray[np.float32], source: GeoBox, grid: GeoBox, method: Resampling
) -> npt.NDArray[np.float32]:
    """Return (layer, y, x) on another grid; copied where pixels coincide."""
    corner = pixel_offset(source, grid)
    if corner is None:
        return warp(values, source, grid, method, pixel_ratio(source, grid))

    def read(rows: slice, columns: slice) -> npt.NDArray[np.float32]:
        return values[:, rows, columns]

    return copy_pixels(len(values), grid, source, corner, read)


__all__ = ["DERIVED", "Planes", "Reading", "planes_of_array", "planes_of_chips"]
