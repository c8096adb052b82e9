"""Labels for a cube: from a raster, or sparse labels from plots and footprints."""

from __future__ import annotations

import os
import warnings
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt
import pandas as pd
import xarray as xr

from geobiomass.cube import CubeError, check_cube, is_chips
from geobiomass.cube.missing_values import (
    Teller,
)
from geobiomass.cube.quantity import AGB
from geobiomass.cube.target import described, units_in_name, units_of_column
from geobiomass.sources.footprints import label_pixels
from geobiomass.sources.gedi_columns import columns_of_shots
from geobiomass.sources.gedi_quality import Quality
from geobiomass.sources.grid_like import grid_like
from geobiomass.sources.label_errors import (
    ERRORS,
    combined,
    errors_of_plots,
    errors_of_raster,
    factor_of_errors,
    tell_missing,
)
from geobiomass.sources.plot_table import Plots, named_column, plots_table, read_plots
from geobiomass.sources.raster_labels import (
    box_in_words,
    check_overlap,
    count_and_filter,
    on_turns,
    raster_layer,
    reproject_array,
    stated_in_raster,
    tell_taken,
    zero_edge,
    zero_edge_of_file,
)
from geobiomass.sources.rasters.lazy_array import BLOCK, lazy_blocks
from geobiomass.sources.rasters.reproject import Pixels, Resampling
from geobiomass.tables import is_table
from geobiomass.training.setting_names import explain_arguments

if TYPE_CHECKING:
    from odc.geo.geobox import GeoBox


@explain_arguments
def with_labels(
    cube: xr.Dataset,
    labels: Any,
    *,
    column: str = "agb",
    radius: float | None = None,
    nodata: float | None = None,
    crs: Any = None,
    resampling: Resampling | None = None,
    all_touched: bool = False,
    minimum: float | None = 0.0,
    units: str | None = None,
    target: str | None = None,
    quality: Quality = "good",
    observed: str | None = None,
    error: Any = None,
) -> xr.Dataset:
    """Return a scene with labels from a raster, or from a table of plots or footprints.

    Parameters
    ----------
    cube : xarray.Dataset
        A scene with a CRS. Its ``agb``, if it has one, is replaced.
    labels : path, xarray.DataArray, geopandas.GeoDataFrame or pandas.DataFrame
        A raster: a file, or a georeferenced array, which is kept in memory. It is
        reprojected to the cube's grid. Or geometries with one value each. A point
        labels the pixel that contains it. A polygon labels the pixels whose centre is
        inside; if there is none, the pixel in its middle. Files are read by
        ``geobiomass.tables.read_table``: text with any delimiter, Excel, Parquet,
        vector files (which need ``geobiomass[vectors]``; ``path|layername=...`` names
        one of several layers). A table without geometries needs coordinates in
        columns with a usual name: lon and lat, longitude and latitude, or x and y,
        easting and northing with ``crs=``.
    column : str
        Column of the table with the values; for a raster of several bands, the name
        of the band. A table of :func:`geobiomass.labels.read_gedi` without a column
        ``agb`` needs none: its ``agbd`` is taken, and ``agbd_se`` for `error`, where
        that has a value above 0. ``attrs["column"]`` of ``agb`` and ``agb_se`` then
        name them.
    radius : float, optional
        Radius in metres of the area that a point represents: 12.5 for a footprint of
        GEDI. A point then labels the pixels whose centre is within this distance on
        the ground; if there is none, the pixel that contains it.
    nodata : float, optional
        Value of missing labels, instead of a raster's own nodata tag.
    crs : optional
        CRS of labels that state no CRS, such as columns x and y.
    resampling : str, optional
        Method of reprojection of a raster. By default "average" if the cube's pixels
        are more than 1.5 times as long as the raster's, else "nearest".
    all_touched : bool
        Let polygons label all pixels that they touch.
    minimum : float, optional
        Labels below it are left out, with a warning: biomass is never negative, but
        many nodata values are. None keeps all.
    units : str, optional
        Units of the labels, such as ``"kg/m2"`` or ``"m"``; by default those that an
        array, a table (``attrs["units"]``) or a band of a raster states, else Mg/ha.
        A mass per area is converted to Mg/ha.
    target : str, optional
        Own name of a target that is not biomass, such as ``"canopy_height"``: the
        name of the variable in maps. By default, where `units` are not a mass per
        area, the name of the array, of the column or of the raster's band.
    quality : "good" or "keep"
        Whether footprints of GEDI that fail their quality flags are left out, by the
        columns of either version of the products (``l4_quality_flag``,
        ``degrade_flag``, ``l4a_quality_flag_rel3``, ...), or kept. See
        docs/explanation/checks.md.
    observed : str, optional
        The same as `column`, by the name that :func:`geobiomass.totals` has for it.
    error : str, path or xarray.DataArray, optional
        The standard errors of the labels, such as ``"agbd_se"`` of GEDI: a column of
        the table, or beside a raster a raster, as `labels` accepts it. They are in the
        units that their array or column states, without `units`; else in those of the
        labels. A label without an error gets the median of the others, with a warning.

    Returns
    -------
    xarray.Dataset
        The cube with a lazy ``agb`` (y, x) float32. A pixel with several labels has
        their mean; a pixel without labels is NaN. ``agb.attrs`` has the units, of
        another target its name ("target"), the number of labelled pixels, and the
        number of plots ("plots", "plots_outside"), also of those that are left out
        ("plots_without_value", "plots_without_location",
        "plots_of_unreadable_location", "plots_nodata", "plots_below_minimum",
        "plots_of_low_quality", where any are). With `error` also ``agb_se``, the
        standard errors, NaN where there is no label; that of a mean of several labels
        takes their errors as independent.

    Raises
    ------
    CubeError
        If the cube is not a georeferenced scene; if labels cannot be read, have no
        georeference or have no numbers in `column`; if none is inside the cube; or if
        a name or units cannot be used.

    Warns
    -----
    UserWarning
        If labels are left out; or if they state no units, and their name says another
        quantity, or units.

    Notes
    -----
    A raster of labels is read once, block by block, to count and check the labels.
    """
    column = named_column(column, observed, "agb")
    taken = columns_of_shots(labels) if column == "agb" else None
    if taken is not None:
        column = taken[0]
        error = taken[1] if error is None else error
    check_cube(cube)
    if is_chips(cube):
        raise CubeError(
            "Labels can only be added to a scene, got a collection of chips; pass "
            "the scene that they were cut from."
        )
    grid = grid_like(cube, "The cube")
    counts: dict[str, Any] = {}
    known: dict[str, Any] = {}
    errors: tuple[Any, int, str] | None = None
    units_there: Any = None
    name: Any = column
    if isinstance(labels, xr.DataArray):
        known, name = dict(labels.attrs), labels.name
        teller = Teller(quiet=True)
        array = reproject_array(labels, grid, nodata, crs, resampling, teller)
        edge = zero_edge(labels, nodata)
        found = count_and_filter(array, "the array", minimum, grid, teller, edge)
        counts = tell_taken(teller, "the array of labels")
    elif isinstance(labels, pd.DataFrame) or is_table(labels):
        if isinstance(labels, pd.DataFrame):
            known = {"units": units_of_column(labels.attrs, column)}
            units_there = labels.attrs.get("units")
        named, table = plots_table(labels)
        plots = read_plots(
            table, column, crs, nodata, minimum, quality=quality, name=named
        )
        each = None
        if error is not None:
            each, without = errors_of_plots(table, error, plots, nodata)
            tell_missing(without, len(each))
        found, more, counts = _label_with_plots(plots, each, grid, radius, all_touched)
        if error is not None:
            own = units_of_column({"units": units_there}, error)
            errors = more, without, own or units_in_name(error)
    elif isinstance(labels, str | os.PathLike):
        _check_no_granule(os.fspath(labels))
        layer = raster_layer(os.fspath(labels), column, nodata, grid, resampling)
        layers = on_turns(layer, grid)
        check_overlap(layers, grid)
        known, name = stated_in_raster(layer), None if column == "agb" else column
        teller = Teller(quiet=True)
        lazy = lazy_blocks([layers], [layer.band], grid, skip=False, teller=teller)
        edge = zero_edge_of_file(layer)
        found = count_and_filter(lazy[0, 0], layer.path, minimum, grid, teller, edge)
        counts = tell_taken(teller, layer.path)
    else:
        raise CubeError(
            "labels must be a path, an xarray.DataArray or a table, got "
            f"{type(labels).__name__}."
        )
    values, pixels = found
    if error is not None and errors is None:
        how = {"nodata": nodata, "crs": crs, "resampling": resampling}
        errors = errors_of_raster(error, values, grid, **cast(Any, how))
        tell_missing(errors[1], pixels)
    factor, stated = described(known, name, target=target, units=units)
    if factor != 1.0:
        values = values * np.float32(factor)
    words = AGB.long_name if column == "agb" else column
    attrs = {"long_name": words, **stated, "labelled_pixels": pixels, **counts}
    if taken is not None:
        attrs["column"] = column
    made = cube.drop_vars(["agb", ERRORS], errors="ignore")
    made = made.assign(agb=xr.Variable(("y", "x"), values, attrs))
    if errors is not None:
        ours = {
            "long_name": f"standard error of {attrs['long_name']}",
            "units": stated["units"],
            "labels_without_error": errors[1],
        }
        if taken is not None:
            ours["column"] = str(error)
        if units is None:
            factor = factor_of_errors(errors[2], stated["units"], factor)
        scaled = errors[0] * np.float32(factor)
        made[ERRORS] = xr.Variable(("y", "x"), scaled, ours)
        made[ERRORS].encoding["grid_mapping"] = "spatial_ref"
    made["agb"].encoding["grid_mapping"] = "spatial_ref"
    check_cube(made)
    return made


def _check_no_granule(path: str) -> None:
    if path.lower().endswith((".h5", ".hdf5")):
        raise CubeError(
            f"The labels {path} are HDF5, such as granules of GEDI; pass their shots, "
            "gb.labels.read_gedi(path, cube)."
        )


def _label_with_plots(
    plots: Plots,
    errors: npt.NDArray[np.float64] | None,
    grid: GeoBox,
    radius: float | None,
    all_touched: bool,
) -> tuple[tuple[Any, int], Any, dict[str, int]]:
    """Return the lazy array with its number of pixels, errors, and counts of plots."""
    if radius is not None and not radius > 0:
        raise CubeError(f"radius must be a positive number of metres, got {radius!r}.")
    labelled, which = label_pixels(plots, grid, radius, all_touched)
    inside = int(np.unique(which).size)
    outside = len(plots.values) - inside
    if inside == 0:
        west, south, east, north = plots.bounds_in(grid.crs)
        raise CubeError(
            f"None of {len(plots.values)} labels of {plots.name} is within the cube, "
            f"which covers {box_in_words(grid)}: they cover x {west:g} to {east:g}, y "
            f"{south:g} to {north:g}; check their CRS."
            f"{plots.exchanged_hint(grid.crs, grid.boundingbox.bbox)}"
        )
    if outside:
        warnings.warn(
            f"{outside} of {len(plots.values)} labels of {plots.name} are outside the "
            "cube and are left out.",
            stacklevel=3,
        )
    pixels, at = np.unique(labelled, return_inverse=True)
    means = np.bincount(at, plots.values[which]) / np.bincount(at)
    array = _sparse(pixels, means.astype(np.float32), *grid.shape)
    counts = {"plots": inside, "plots_outside": outside, **plots.left_out}
    more = None
    if errors is not None:
        each = combined(errors[which], at, pixels.size)
        more = _sparse(pixels, each, *grid.shape)
    return (array, int(pixels.size)), more, counts


def _sparse(
    pixels: npt.NDArray[np.int64], values: Pixels, height: int, width: int
) -> Any:
    """Return a dask array of sparse labels; each task has its block's labels."""
    import dask.array as da
    from dask.base import tokenize

    rows, columns = pixels // width, pixels % width
    name = f"labels-{tokenize(pixels, values, height, width)}"
    blocks = (rows // BLOCK) * (-(-width // BLOCK)) + columns // BLOCK
    order = np.argsort(blocks, kind="stable")
    tasks = {}
    for at, top in enumerate(range(0, height, BLOCK)):
        for across, left in enumerate(range(0, width, BLOCK)):
            number = at * (-(-width // BLOCK)) + across
            first, last = np.searchsorted(blocks[order], [number, number + 1])
            mine = order[first:last]
            size = min(BLOCK, height - top), min(BLOCK, width - left)
            inside = (rows[mine] - top) * size[1] + columns[mine] - left
            tasks[name, at, across] = (partial(_filled, size, inside, values[mine]),)
    chunks = tuple(
        tuple(min(BLOCK, n - start) for start in range(0, n, BLOCK))
        for n in (height, width)
    )
    return cast(Any, da.Array)(tasks, name, chunks, dtype=np.float32)


def _filled(
    size: tuple[int, int], pixels: npt.NDArray[np.int64], values: Pixels
) -> Pixels:
    out: Pixels = np.full(size, np.nan, np.float32)
    out.flat[pixels] = values
    return out
