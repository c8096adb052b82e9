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
from geobiomass.accounting.years import measured_years
from geobiomass.cube import CubeError
from geobiomass.cube.grid import Grid
from geobiomass.cube.table_errors import cube_errors
from geobiomass.sources.footprints import Indexes, label_pixels
from geobiomass.sources.grid import WGS84
from geobiomass.sources.plot_table import (
    Plots,
    geometries_of_table,
    plots_table,
    read_plots,
)
from geobiomass.tables import match_column, read_numbers
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
    points : numpy.ndarray
        (plot, 2) centres in pixels of the map: column, row.
    beyond, silent : numpy.ndarray
        (n, 2) the same of plots outside of the map, and of rows without a value.
    hectares : numpy.ndarray
        (plot,) size of each plot; NaN of points without a radius.
    years : numpy.ndarray
        (plot,) year that each was measured in; NaN where the table does not say.
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
    points: Numbers
    beyond: Numbers
    silent: Numbers
    hectares: Numbers
    years: Numbers
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
    points = _centres(read.geometries_on(grid), grid)
    home = _homes(points, grid)
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
        points[inside],
        points[home < 0],
        _silent(table, observed, crs, read, grid),
        _hectares(read, inside, radius),
        measured_years(table, rows),
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


def _centres(shapes: npt.NDArray[Any], grid: GeoBox) -> Numbers:
    """Return the centres of shapes in pixels, (shape, 2): column, row."""
    import shapely

    x, y = shapely.get_coordinates(shapely.centroid(shapes)).T
    return np.stack(~grid.affine * (x, y), axis=1)


def _homes(points: Numbers, grid: GeoBox) -> Indexes:
    """Return the pixel of each plot's centre, -1 outside of the map."""
    column, row = np.floor(points).T
    height, width = grid.shape
    inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    return np.where(inside, row * width + column, -1).astype(np.int64)


def _silent(
    table: pd.DataFrame, observed: str, crs: Any, read: Plots, grid: GeoBox
) -> Numbers:
    """Return the centres of rows that have a location and no value."""
    import shapely

    if "plots_without_value" not in read.left_out:
        return np.empty((0, 2))
    column: Any = match_column(table, (observed,))
    rows = read_numbers(table[column], observed).isna().to_numpy()
    shapes, system = geometries_of_table(table[rows], crs, read.name, {}, [])
    known = ~(shapely.is_missing(shapes) | shapely.is_empty(shapes))
    zeros = np.zeros(int(known.sum()))
    without = Plots(read.name, shapes[known], zeros, system, np.flatnonzero(known))
    points = _centres(without.geometries_on(grid), grid)
    return points[np.isfinite(points).all(axis=1)]


def _hectares(read: Plots, rows: Indexes, radius: float | None) -> Numbers:
    """Return the size of plots: of polygons on the ellipsoid, of points by radius."""
    import shapely
    from pyproj import Geod

    shapes = read.geometries_in(WGS84)[rows]
    sizes = np.full(shapes.size, np.nan if radius is None else np.pi * radius**2)
    geod = Geod(ellps="WGS84")
    for number in np.flatnonzero(shapely.get_dimensions(shapes) == 2):
        sizes[number] = abs(geod.geometry_area_perimeter(shapes[number])[0])
    return sizes / 1e4


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
