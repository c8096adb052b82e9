"""Static layers for a cube: terrain, canopy height, embeddings, on the cube's grid."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from geobiomass.cube import CubeError, check_cube, is_chips
from geobiomass.cube.missing_values import TAKEN, Teller, in_words, tell
from geobiomass.cube.plain_attributes import mapping_in
from geobiomass.cube.static_layers import (
    SOURCES,
    STATIC,
    layers_of,
    units_of_layers,
    units_text,
)
from geobiomass.sources.grid_like import grid_like
from geobiomass.sources.raster_labels import box_in_words
from geobiomass.sources.rasters.reproject import Resampling
from geobiomass.sources.rasters.terrain import ASPECT, ELEVATION, SLOPE
from geobiomass.sources.static_rasters import (
    Planes,
    Reading,
    planes_of_array,
    planes_of_chips,
    planes_of_file,
)
from geobiomass.training.setting_names import explain_arguments

MISSING_PIXELS = "missing_pixels"
"""Attribute of ``static``: pixels without a value, by layer, JSON text."""
_KEPT = 2**28  # bytes of layers that are kept in memory once they are counted


@explain_arguments
def with_static(
    cube: xr.Dataset,
    *,
    dem: Any = None,
    slope: bool = False,
    aspect: bool = False,
    units: Mapping[str, str] | None = None,
    nodata: float | None = None,
    crs: Any = None,
    resampling: Resampling | None = None,
    **layers: Any,
) -> xr.Dataset:
    """Return a cube with more static layers: terrain, canopy height, embeddings, ....

    Each raster is reprojected to the cube's grid. A network takes static layers once
    the months are pooled, the learner by pixel as features, one each; they are never
    repeated by month.

    Parameters
    ----------
    cube : xarray.Dataset
        A scene with a CRS, or chips. Layers that it has already stay.
    dem : path or xarray.DataArray, optional
        Elevation, the layer ``elevation`` in metres. Units that it states are
        converted; without any they are taken to be metres.
    slope, aspect : bool
        Whether to derive from `dem`: ``slope``, in degrees, and the direction that the
        ground falls towards as ``aspect_sin`` and ``aspect_cos``, the east and the
        north component of a unit vector (0 and 0 where it is flat; shorter where pixels
        of different direction are averaged). North is that of the model's grid.
        Horn (1981), on the model's own grid, with lengths of pixels on the ground, so
        that they do not depend on the grid of the cube; the outermost pixels of the
        model have none.
    units : mapping of str to str, optional
        Units by layer, or by raster for all of its layers, instead of those that
        rasters state; ``"1"`` of plain numbers. By default ``canopy_height`` is in
        metres and ``embeddings`` are plain numbers, where the raster states nothing.
    nodata : float, optional
        Value of missing pixels, instead of the rasters' own nodata tags.
    crs : optional
        CRS of arrays that have none.
    resampling : str, optional
        Method of reprojection of all rasters. By default "average" if the cube's
        pixels are more than 1.5 times as long as the raster's, else "bilinear".
    **layers : path or xarray.DataArray
        Other layers by name, ``canopy_height="chm.tif"``. A raster of several bands,
        or an array (band, y, x), becomes several layers: ``embeddings_A00``, ..., by
        the names of the bands, else by their numbers. Of chips only arrays (chip, y, x)
        or (chip, band, y, x) with the chips' ids.

    Returns
    -------
    xarray.Dataset
        The cube with a lazy ``static`` (layer, y, x), of chips (chip, layer, y, x),
        float32, NaN where missing. ``static.attrs`` has ``units``, ``sources`` and
        ``missing_pixels`` by layer, JSON text.

    Raises
    ------
    CubeError
        If the cube is not a georeferenced scene or chips; if a raster has no CRS, does
        not overlap the cube or has no value in it; if units are unknown; if a layer is
        named twice.

    Warns
    -----
    UserWarning
        If layers have missing pixels, with their number; or if values are taken as
        missing that no measurement has.

    Notes
    -----
    Rasters are read once, block by block, to count missing pixels; up to 256 MiB of
    layers are then kept in memory, and more are read again when they are used.
    """
    check_cube(cube)
    if {type(slope), type(aspect)} != {bool}:
        raise CubeError(
            "slope= and aspect= must be True or False, as they follow from dem=, got "
            f"{slope!r:.60} and {aspect!r:.60}; give a layer of your own another name."
        )
    derived = ([SLOPE] if slope else []) + ([*ASPECT] if aspect else [])
    if derived and dem is None:
        raise CubeError(
            f"{derived[0]!r} is derived from an elevation model, got none; give it, "
            "dem='dem.tif', or the layer itself under another name."
        )
    wanted = ({} if dem is None else {ELEVATION: dem}) | layers
    if not wanted:
        raise CubeError(
            "Static layers are given by name, got none; gb.with_static(cube, "
            "dem='dem.tif', slope=True), gb.with_static(cube, canopy_height='chm.tif')."
        )
    if dem is not None and ELEVATION in layers:
        raise CubeError("dem= is the layer 'elevation': give one of the two.")
    how = Reading(dict(units or {}), nodata, crs, resampling)
    _check_units(how.units, [*wanted, *derived])
    teller = Teller(quiet=True)
    found = []
    for name, raster in wanted.items():
        more = derived if name == ELEVATION and dem is not None else []
        found.append(_planes(cube, name, raster, how, more, teller))
    _check_names([name for planes in found for name in planes.names], layers_of(cube))
    made, gone = _counted(cube, found)
    if teller.found:
        tell(f"static layers: {in_words(teller.found)}", stacklevel=2)
        made[STATIC].attrs[TAKEN] = in_words(teller.found)
    _tell_missing(gone, made)
    check_cube(made)
    return made


def _planes(
    cube: xr.Dataset,
    name: str,
    raster: Any,
    how: Reading,
    derived: Sequence[str],
    teller: Teller,
) -> Planes:
    """Return the layers of one raster or array."""
    is_path = isinstance(raster, str | os.PathLike)
    if not is_path and not isinstance(raster, xr.DataArray):
        raise CubeError(
            f"The layer {name!r} must be the path of a raster or an xarray.DataArray, "
            f"got {raster!r:.60}."
        )
    if is_chips(cube):
        if is_path or derived:
            raise CubeError(
                f"The layer {name!r} of a collection of chips must be an array (chip, "
                "y, x): chips have no place that a raster could be read at, nor pixels "
                "of a known length for a slope; add layers to the scene that they were "
                "cut from."
            )
        return planes_of_chips(raster, name, cube, how, teller)
    grid = grid_like(cube, "The cube")
    if is_path:
        return planes_of_file(os.fspath(raster), name, grid, how, derived, teller)
    return planes_of_array(raster, name, grid, how, derived, teller)


def _check_units(units: Mapping[str, str], names: Sequence[str]) -> None:
    """Check that units are of the layers that are given, or of bands of them."""
    strange = [
        one
        for one in units
        if not any(one == n or one.startswith(f"{n}_") for n in names)
    ]
    if strange:
        raise CubeError(
            f"units= must be of the layers that are added, {list(names)}, got "
            f"{strange}."
        )


def _check_names(names: Sequence[str], there: Sequence[str]) -> None:
    twice = sorted({n for n in names if names.count(n) > 1 or n in there})
    if twice:
        raise CubeError(
            f"Static layers must not be named twice, got {twice}; give another name, "
            "or leave out what the cube has, cube.drop_sel(layer=[...])."
        )


def _counted(
    cube: xr.Dataset, found: Sequence[Planes]
) -> tuple[xr.Dataset, dict[str, int]]:
    """Return the cube with the layers, and the missing pixels of each new one."""
    import dask
    import dask.array as da

    names = [name for planes in found for name in planes.names]
    axis = 1 if is_chips(cube) else 0
    new = da.concatenate([da.asarray(planes.array) for planes in found], axis=axis)
    if new.nbytes <= _KEPT:
        new = new.persist(scheduler="threads")
    over = tuple(at for at in range(new.ndim) if at != axis)
    (counts,) = dask.compute(da.isnan(new).sum(axis=over), scheduler="threads")  # type: ignore[attr-defined, no-untyped-call]
    gone = dict(zip(names, map(int, counts), strict=True))
    units = {name: planes.units[name] for planes in found for name in planes.names}
    sources = {name: planes.source for planes in found for name in planes.names}
    attrs: dict[str, Any] = {}
    missing = {name: count for name, count in gone.items() if count}
    before = layers_of(cube)
    if before:
        static = cube[STATIC]
        attrs = dict(static.attrs)
        units = units_of_layers(static) | units
        sources = (mapping_in(attrs.get(SOURCES)) or {}) | sources
        missing = (mapping_in(attrs.get(MISSING_PIXELS)) or {}) | missing
        new = da.concatenate([da.asarray(static.data), new], axis=axis)
    attrs |= {"units": units_text(units), SOURCES: json.dumps(sources)}
    if missing:
        attrs[MISSING_PIXELS] = json.dumps(missing)
    dims = (*(("chip",) if axis else ()), "layer", "y", "x")
    made = cube.drop_dims("layer", errors="ignore")
    made = made.assign({STATIC: xr.Variable(dims, new.astype(np.float32), attrs)})
    made = made.assign_coords(layer=[*before, *names])
    if "spatial_ref" in made.coords:
        made[STATIC].encoding["grid_mapping"] = "spatial_ref"
    return made, gone


def _tell_missing(gone: Mapping[str, int], cube: xr.Dataset) -> None:
    """Warn of layers with missing pixels; raise where a layer has no value at all."""
    pixels = cube.sizes["y"] * cube.sizes["x"] * cube.sizes.get("chip", 1)
    empty = [name for name, count in gone.items() if count == pixels]
    if empty:
        where = "its chips"
        if not is_chips(cube):
            where = box_in_words(grid_like(cube, "The cube"))
        raise CubeError(
            f"Static layers must have values within the cube, {where}, got none of "
            f"{empty}: the raster does not cover it, or all there is missing; check "
            "its extent, its CRS and nodata."
        )
    some = ", ".join(f"{name} {count:,}" for name, count in gone.items() if count)
    if some:
        warnings.warn(
            f"Static layers have missing pixels, of {pixels:,} each: {some}. The "
            "attribute missing_pixels of 'static' has the numbers.",
            stacklevel=3,
        )
