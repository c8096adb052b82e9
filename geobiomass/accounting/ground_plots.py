"""Field plots, and the pixels of a map that they cover."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import xarray as xr

from geobiomass.accounting.mass import column_in_mass
from geobiomass.accounting.trained_plots import find_trained
from geobiomass.cube import CubeError
from geobiomass.cube.grid import Grid
from geobiomass.cube.table_errors import cube_errors
from geobiomass.sources.footprints import Indexes, label_pixels
from geobiomass.sources.plot_table import Plots, plots_table, read_plots
from geobiomass.tables import read_numbers
from geobiomass.tables.coordinates import has_geographic

if TYPE_CHECKING:
    from odc.geo.geobox import GeoBox

Numbers = npt.NDArray[np.float64]


@dataclass(frozen=True)
class GroundPlots:
    """The field plots within a map, in the order of their table.

    Parameters
    ----------
    observed : numpy.ndarray
        (plot,) Mg/ha.
    home : numpy.ndarray
        (plot,) int64: the pixel of the plot's centre, row x width + column.
    pixels, which : numpy.ndarray
        (pair,) int64: every pixel that a plot covers, and the number of the plot.
    stratum : numpy.ndarray, optional
        (plot,) names of strata.
    probability : numpy.ndarray, optional
        (plot,) inclusion probabilities, or values proportional to them.
    outside : int
        Number of plots of the table that are outside of the map.
    left_out : dict
        Rows of the table that are no plots, by reason, as `Plots.left_out` has them.
    trained : numpy.ndarray
        (plot,) bool: whether the plot trained the model of the map.
    trained_known : bool
        Whether the map says all that its model learnt from.
    cluster : numpy.ndarray, optional
        (plot,) the cluster of each plot.
    """

    observed: Numbers
    home: Indexes
    pixels: Indexes
    which: Indexes
    stratum: npt.NDArray[Any] | None
    probability: Numbers | None
    outside: int
    left_out: dict[str, int]
    trained: npt.NDArray[np.bool_]
    trained_known: bool
    cluster: npt.NDArray[Any] | None = None

    @property
    def count(self) -> int:
        """Number of plots."""
        return int(self.observed.size)


def stratum_name(value: Any) -> str:
    """Return the name of a stratum: 3 and 3.0 are "3"."""
    if isinstance(value, float | np.floating) and float(value).is_integer():
        return str(int(value))
    return str(value)


def locate_plots(
    plots: Any,
    layer: xr.DataArray,
    *,
    observed: str,
    stratum: str | None = None,
    probability: str | None = None,
    radius: float | None = None,
    maps: Sequence[Any] = (),
    cluster: str | None = None,
) -> GroundPlots:
    """Read a table of plots and find the pixels that they cover.

    Parameters
    ----------
    plots : path, geopandas.GeoDataFrame or pandas.DataFrame
        Points or polygons; a plain table has columns lon and lat, or x and y in the
        CRS of the map (or of ``attrs["crs"]``).
    layer : xarray.DataArray
        The map.
    observed, stratum, probability, cluster : str
        Names of columns.
    radius : float, optional
        Metres: points then cover the pixels whose centre is within this distance.
    maps : sequence
        The maps that the layer is made of, with their attributes, or their paths: they
        say which plots trained their models.

    Raises
    ------
    CubeError
        If the table cannot be read, lacks a column, or has no plot within the map.
    """
    name, table = plots_table(plots)
    for column in (stratum, probability, cluster):
        if column is not None and column not in table:
            raise CubeError(
                f"The plots must have the column {column!r}, got the columns "
                f"{list(map(str, table.columns))}."
            )
    if radius is not None and not radius > 0:
        raise CubeError(f"radius must be above 0 metres, got {radius!r}.")
    grid = _geobox(layer)
    crs = _crs_of(table, grid)
    read = read_plots(table, observed, crs, argument="observed", name=name)
    home = _homes(read, grid)
    pixels, which = label_pixels(read, grid, radius, all_touched=False)
    inside = np.flatnonzero(home >= 0)
    if not inside.size:
        west, south, east, north = read.bounds_in(grid.crs)
        raise CubeError(
            f"At least one plot must be within the map, got {home.size} outside: they "
            f"cover x {west:g} to {east:g}, y {south:g} to {north:g} in {grid.crs}. "
            "Set the CRS of the plots, plots.attrs['crs'] = 'EPSG:...'."
            f"{read.exchanged_hint(grid.crs, grid.boundingbox.bbox)}"
        )
    numbers = np.full(home.size, -1)
    numbers[inside] = np.arange(inside.size)
    factor = column_in_mass(table, observed)
    kept = numbers[which] >= 0
    rows = read.rows[inside]
    trained, known = find_trained(maps or (layer,), read)
    return GroundPlots(
        read.values[inside] * factor,
        home[inside],
        pixels[kept],
        numbers[which[kept]],
        _labels(table, stratum, rows, "stratum"),
        _probabilities(table, probability, rows),
        int(home.size - inside.size),
        read.left_out,
        trained[inside],
        known,
        _labels(table, cluster, rows, "cluster"),
    )


def _geobox(layer: xr.DataArray) -> GeoBox:
    import rioxarray  # noqa: F401  (the .rio accessor)
    from odc.geo.geobox import GeoBox

    grid = Grid.of(layer, "The map")
    return GeoBox((grid.height, grid.width), grid.transform, layer.rio.crs)


def _crs_of(table: pd.DataFrame, grid: GeoBox) -> Any:
    """Return the CRS of a table: its own, or for columns x and y the map's."""
    stated = table.attrs.get("crs")
    if stated is not None or hasattr(table, "to_crs") or has_geographic(table):
        return stated
    return grid.crs


def _homes(plots: Plots, grid: GeoBox) -> Indexes:
    """Return the pixel of each plot's centre, -1 outside of the map."""
    import shapely

    shapes = plots.geometries_on(grid)
    centres = shapely.get_coordinates(shapely.centroid(shapes)).T
    column, row = (np.floor(each) for each in ~grid.affine * tuple(centres))
    height, width = grid.shape
    inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    return np.where(inside, row * width + column, -1).astype(np.int64)


def _labels(table: pd.DataFrame, column: str | None, rows: Indexes, what: str) -> Any:
    if column is None:
        return None
    values = table[column].iloc[rows]
    if values.isna().any():
        raise CubeError(
            f"Every plot must have a {what} in {column!r}, got none in row "
            f"{values.index[values.isna()][0]}."
        )
    return np.array([stratum_name(value) for value in values], object)


def _probabilities(table: pd.DataFrame, column: str | None, rows: Indexes) -> Any:
    if column is None:
        return None
    with cube_errors("The plots: "):
        values = read_numbers(table[column].iloc[rows], column)
    wrong = ~(values > 0)
    if wrong.any():
        raise CubeError(
            f"Every plot must have an inclusion probability above 0 in {column!r}, got "
            f"{table[column].iloc[rows][wrong].iloc[0]!r} in row "
            f"{values.index[wrong][0]}."
        )
    return values.to_numpy(np.float64)
