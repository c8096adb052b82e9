"""Standard errors of labels: a column of a table, or a raster beside the labels."""

from __future__ import annotations

import os
import warnings
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import xarray as xr

from geobiomass.cube import CubeError
from geobiomass.cube.missing_values import Teller
from geobiomass.cube.table_errors import cube_errors
from geobiomass.cube.units import conversion, plain
from geobiomass.sources.plot_table import Plots
from geobiomass.sources.raster_labels import (
    check_overlap,
    on_turns,
    raster_layer,
    reproject_array,
    stated_in_raster,
)
from geobiomass.sources.rasters.lazy_array import lazy_blocks
from geobiomass.sources.rasters.reproject import Pixels, Resampling
from geobiomass.tables import match_column, read_numbers
from geobiomass.tables.columns import near_names

if TYPE_CHECKING:
    from odc.geo.geobox import GeoBox

Numbers = npt.NDArray[np.float64]

ERRORS = "agb_se"
"""The variable of a cube with the standard errors of its labels."""
_LARGEST = 1e30  # the cube's single precision ends at 3e38
_KEPT = 10_000  # values of a block that the median is of, at most


def errors_of_plots(
    table: pd.DataFrame, error: Any, plots: Plots, nodata: float | None
) -> tuple[Numbers, int]:
    """Return the standard error of each plot, and how many had none.

    Parameters
    ----------
    table : pandas.DataFrame
        The table that the plots were read from.
    error : str
        The column.
    plots : Plots
        The plots; rows that are left out are not looked at.
    nodata : float, optional
        Value of missing errors.

    Raises
    ------
    CubeError
        If there is no such column, or a value cannot be a standard error.
    """
    name = plots.name
    if not isinstance(error, str):
        raise CubeError(
            "error must be the name of a column, as the labels are a table, got "
            f"{type(error).__name__}; add the errors to the table as a column."
        )
    with cube_errors(f"{name}: "):
        found = match_column(table, (error,))
    if found is None:
        known = list(map(str, table.columns))
        raise CubeError(
            f"{name} has no column {error!r}{near_names((error,), known)} with the "
            "standard errors of its labels; name one of its columns, error=."
        )
    column: Any = table[found]
    if isinstance(column, pd.DataFrame):
        raise CubeError(f"{name} has several columns {error!r}; rename all but one.")
    with cube_errors(f"{name}: "):
        read = read_numbers(column, str(found))
    values = np.array(read.to_numpy(np.float64, na_value=np.nan))[plots.rows]
    if nodata is not None:
        values[values == nodata] = np.nan
    tally = _Tally(f"column {error!r} of {name}")
    tally.add(values)
    missing = np.isnan(values)
    values[missing] = tally.checked()
    return values, int(missing.sum())


def errors_of_raster(
    error: Any,
    labels: Any,
    grid: GeoBox,
    *,
    nodata: float | None,
    crs: Any,
    resampling: Resampling | None,
) -> tuple[Any, int, str]:
    """Return lazy standard errors on a grid, how many labels had none, and the units.

    Where several pixels of a raster are in one of the grid, their mean error is taken:
    errors of a map are alike from pixel to pixel, and do not cancel out.

    Parameters
    ----------
    error : path or xarray.DataArray
        A raster.
    labels : dask.array.Array
        The labels on the grid, NaN where there is none.
    grid : GeoBox
        The grid.
    nodata, crs, resampling
        As :func:`geobiomass.with_labels` takes them.

    Raises
    ------
    CubeError
        If it cannot be read, or a value cannot be a standard error.
    """
    teller = Teller(quiet=True)
    if isinstance(error, xr.DataArray):
        name, count = "the array of errors", int(np.isinf(error.values).sum())
        if count:
            raise _wrong(name, count, np.inf)
        array = reproject_array(error, grid, nodata, crs, resampling, teller)
        units = error.attrs.get("units")
    elif isinstance(error, str | os.PathLike):
        name = os.fspath(error)
        layer = raster_layer(name, ERRORS, nodata, grid, resampling)
        layers = on_turns(layer, grid)
        check_overlap(layers, grid)
        lazy = lazy_blocks([layers], [layer.band], grid, skip=False, teller=teller)
        array, units = lazy[0, 0], stated_in_raster(layer)["units"]
    else:
        raise CubeError(
            "error must be a path or an xarray.DataArray, as the labels are a raster, "
            f"got {type(error).__name__}."
        )
    tally, missing = _Tally(name), 0
    array = array.rechunk(labels.chunks)
    pairs = zip(array.to_delayed().ravel(), labels.to_delayed().ravel(), strict=True)
    import dask

    for pair in pairs:
        values, known = dask.compute(*pair, scheduler="threads")  # type: ignore[attr-defined, no-untyped-call]
        values = values[np.isfinite(known)]
        tally.add(values)
        missing += int(np.isnan(values).sum())
    filled = partial(_where_labelled, tally.checked())
    filled_in = array.map_blocks(filled, labels, dtype=np.float32)
    return filled_in, missing, plain(units)


def factor_of_errors(stated: str, labels: str, factor: float) -> float:
    """Return what standard errors are multiplied by, to be in the labels' units.

    Parameters
    ----------
    stated : str
        Units that the errors state, "" for none: those of the labels, as given.
    labels : str
        Units of the labels in the cube.
    factor : float
        What the labels as given are multiplied by.

    Raises
    ------
    CubeError
        If the units cannot be converted.
    """
    if not stated:
        return factor
    found = conversion(stated, labels)
    if found is None:
        raise CubeError(
            f"The standard errors of labels must be in units of the labels, {labels}, "
            f"got {stated!r}; convert them, or state the units of both, units=."
        )
    return found


def tell_missing(missing: int, labels: int, middle: str = "labels") -> None:
    """Warn of labels without an error."""
    if missing:
        warnings.warn(
            f"{missing:,} of {labels:,} {middle} have no standard error and get the "
            "median of the others.",
            stacklevel=4,
        )


def combined(errors: Numbers, at: npt.NDArray[np.int64], pixels: int) -> Pixels:
    """Return the standard error of each pixel's mean of labels.

    Errors of labels are taken as independent: that of a mean of n is the root of the
    sum of their squares, over n.
    """
    squares = np.bincount(at, errors**2, minlength=pixels)
    found: Pixels = (np.sqrt(squares) / np.bincount(at)).astype(np.float32)
    return found


class _Tally:
    """Checks standard errors block by block; finds their median."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.most = 0.0
        self.some: list[npt.NDArray[Any]] = []

    def add(self, values: npt.NDArray[Any]) -> None:
        wrong = (values < 0) | (values > _LARGEST)
        if wrong.any():
            raise _wrong(self.name, int(wrong.sum()), float(values[wrong][0]))
        known = values[np.isfinite(values)]
        if known.size:
            self.most = max(self.most, float(known.max()))
            self.some.append(known[:: -(-known.size // _KEPT)])

    def checked(self) -> float:
        """Return the median, after a check that there is an error above 0."""
        if not self.some:
            raise CubeError(
                f"The standard errors of labels must be numbers, got none at any "
                f"label: {self.name}; check its name and nodata value, or leave out "
                "error=."
            )
        if self.most == 0:
            raise CubeError(
                "The standard errors of labels must be above 0 somewhere, got 0 at "
                f"every label: {self.name}; give the errors, or leave out error=."
            )
        return float(np.median(np.concatenate(self.some)))


def _wrong(name: str, count: int, value: float) -> CubeError:
    return CubeError(
        f"Standard errors of labels must be finite and not below 0, got {value:g} "
        f"({count:,} such values) in {name}; correct them, make them missing (they "
        "then get the median of the others), or name their nodata value, nodata=."
    )


def _where_labelled(middle: float, values: Pixels, labels: Pixels) -> Pixels:
    filled = np.where(np.isnan(values), np.float32(middle), values)
    return np.where(np.isfinite(labels), filled, np.float32(np.nan))
