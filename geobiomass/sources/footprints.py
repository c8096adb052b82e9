"""Plots and footprints: tables of points and polygons, and the pixels they label."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt
import pandas as pd

from geobiomass.cube import CubeError
from geobiomass.sources.grid import WGS84
from geobiomass.threads import silence_arrays_in_memory
from geobiomass.training.packages import need

if TYPE_CHECKING:
    from odc.geo.geobox import GeoBox

Numbers = npt.NDArray[np.float64]
Indexes = npt.NDArray[np.int64]

# Names of columns of longitude and latitude; GEDI's products use the last pair.
GEOGRAPHIC = (
    ("lon", "lat"),
    ("longitude", "latitude"),
    ("lon_lowestmode", "lat_lowestmode"),
)
_ELLIPSOID = "WGS84"
_AZIMUTHS = np.linspace(0, 360, 16, endpoint=False)


@dataclass(frozen=True)
class Plots:
    """Geometries with a value each.

    Parameters
    ----------
    name : str
        Name of the table, for messages.
    geometries : numpy.ndarray
        (plot,) shapely points and polygons.
    values : numpy.ndarray
        (plot,) float64, all finite.
    crs : odc.geo.crs.CRS
        CRS of the geometries.
    rows : numpy.ndarray
        (plot,) int64: the row of each plot in the table; rows without a location or a
        value are left out.
    """

    name: str
    geometries: npt.NDArray[Any]
    values: Numbers
    crs: Any
    rows: Indexes

    def geometries_in(self, crs: Any) -> npt.NDArray[Any]:
        """Return the geometries in another CRS."""
        import shapely

        if self.crs == crs:
            return self.geometries
        move = self.crs.transformer_to_crs(crs, always_xy=True)
        found = shapely.transform(
            self.geometries, lambda x, y: move(x, y), interleaved=False
        )
        return np.asarray(found, object)

    def bounds_in(self, crs: Any) -> tuple[float, float, float, float]:
        """Return west, south, east and north of all geometries."""
        import shapely

        west, south, east, north = shapely.total_bounds(self.geometries_in(crs))
        return float(west), float(south), float(east), float(north)


# --- reading ---


def read_plots(
    labels: Any,
    column: str,
    crs: Any = None,
    nodata: float | None = None,
    minimum: float | None = 0.0,
) -> Plots:
    """Read a table of plots or footprints.

    Parameters
    ----------
    labels : path, geopandas.GeoDataFrame or pandas.DataFrame
        A table with a geometry, or with coordinates, in every row.
    column, crs, nodata, minimum
        As :func:`geobiomass.with_labels` accepts them.

    Raises
    ------
    CubeError
        If the table cannot be read, has no locations or CRS, or has no numbers in
        `column`.
    """
    name = "the table"
    table = labels
    if not isinstance(labels, pd.DataFrame):
        name = os.fspath(labels)
        table = read_table(name)
    values = _values(table, column, name)
    geometries, system = _geometries(table, crs, name)
    keep = _kept(values, geometries, name, nodata, minimum)
    if not keep.any():
        raise CubeError(
            f"No row of {name} has a location and a value in {column!r}; check the "
            "table."
        )
    rows = np.flatnonzero(keep)
    return Plots(name, geometries[keep], values[keep], system, rows)


def read_table(path: str) -> pd.DataFrame:
    """Read a table of plots from a CSV or vector file.

    Raises
    ------
    CubeError
        If the file cannot be read, or has several layers.
    """
    if path.lower().endswith(".csv"):
        try:
            return pd.read_csv(path)
        except (OSError, ValueError) as error:
            raise CubeError(f"The labels {path} cannot be read: {error}.") from error
    need(f"Reading {path}", "vectors", "geopandas", "pyogrio")
    import geopandas
    import pyogrio

    try:
        if path.lower().endswith((".parquet", ".geoparquet")):
            return cast(pd.DataFrame, geopandas.read_parquet(path))
        layers = [str(layer) for layer, _ in pyogrio.list_layers(path)]
        if len(layers) > 1:
            raise CubeError(
                f"The labels {path} must have one layer, got {layers}; read one and "
                "pass the table: geopandas.read_file(path, layer=...)."
            )
        return cast(pd.DataFrame, geopandas.read_file(path))
    except (ImportError, OSError, RuntimeError) as error:
        raise CubeError(f"The labels {path} cannot be read: {error}.") from error


def _values(table: pd.DataFrame, column: str, name: str) -> Numbers:
    if column not in table:
        known = table.select_dtypes("number").columns.astype(str).tolist()
        raise CubeError(
            f"{name} has no column {column!r}; its columns of numbers are {known}: "
            "name one, column=."
        )
    values = pd.to_numeric(table[column], errors="coerce")
    wrong = table[column][values.isna() & table[column].notna()]
    if len(wrong):
        raise CubeError(
            f"Column {column!r} of {name} must hold numbers, got "
            f"{wrong.iloc[0]!r} in row {wrong.index[0]}."
        )
    return values.to_numpy(np.float64, na_value=np.nan)


def _geometries(
    table: pd.DataFrame, crs: Any, name: str
) -> tuple[npt.NDArray[Any], Any]:
    from odc.geo.crs import CRS

    if hasattr(table, "to_crs"):  # a GeoDataFrame
        geometries = np.asarray(table.geometry.values, object)
        system = cast(Any, table).crs
        system = crs if system is None else system
    else:
        geometries, geographic = _points(table, name)
        system = crs if crs is not None else WGS84 if geographic else None
    if system is None:
        raise CubeError(f"{name} must have a CRS, got none; add it, crs='EPSG:...'.")
    try:
        return geometries, CRS(system)
    except Exception as error:
        raise CubeError(
            f"crs of {name} must be a CRS such as 'EPSG:4326', got {system!r}: {error}."
        ) from error


def _points(table: pd.DataFrame, name: str) -> tuple[npt.NDArray[Any], bool]:
    import shapely

    columns = {str(column).lower(): column for column in table.columns}
    for x, y in (*GEOGRAPHIC, ("x", "y")):
        if x in columns and y in columns:
            numbers = (
                pd.to_numeric(table[columns[each]], errors="coerce") for each in (x, y)
            )
            points = shapely.points(*(n.to_numpy(np.float64) for n in numbers))
            return np.asarray(points, object), x != "x"
    raise CubeError(
        f"{name} must have columns of coordinates, lon and lat, or x and y, got "
        f"{list(map(str, table.columns))}; rename yours."
    )


def _kept(
    values: Numbers,
    geometries: npt.NDArray[Any],
    name: str,
    nodata: float | None,
    minimum: float | None,
) -> npt.NDArray[np.bool_]:
    """Return the mask of rows with a location and a valid value; warn of low values."""
    import shapely

    kinds = set(shapely.get_type_id(geometries).tolist()) - {-1, *_POINTS, *_AREAS}
    if kinds:
        raise CubeError(
            f"Geometries of {name} must be points or polygons, got "
            f"{shapely.GeometryType(min(kinds)).name.lower()}."
        )
    located = ~(shapely.is_missing(geometries) | shapely.is_empty(geometries))
    located &= np.isfinite(shapely.bounds(geometries)).all(axis=1)
    keep = located & np.isfinite(values) & (values != nodata)
    low = keep & (values < minimum) if minimum is not None else keep & False
    if low.any():
        warnings.warn(
            f"{int(low.sum())} labels of {name} are below {minimum:g}, such as "
            f"{values[low][0]:g}, and are left out.",
            stacklevel=4,
        )
    return np.asarray(keep & ~low, np.bool_)


_POINTS, _AREAS = (0, 4), (3, 6)  # as shapely numbers them: one or several


# --- from geometries to pixels ---


def label_pixels(
    plots: Plots, grid: GeoBox, radius: float | None, all_touched: bool
) -> tuple[Indexes, Indexes]:
    """Return the pixels that each plot labels.

    Parameters
    ----------
    plots : Plots
        Points and polygons.
    grid : GeoBox
        The grid of the pixels.
    radius : float, optional
        Radius of a point, metres.
    all_touched : bool
        Whether polygons label all pixels that they touch.

    Returns
    -------
    pixels, which : numpy.ndarray
        int64, of equal length: a pixel's row x width + column, and a plot's number.
    """
    import shapely

    geometries = plots.geometries_in(grid.crs)
    parts, owner = shapely.get_parts(geometries, return_index=True)
    points = shapely.get_type_id(parts) == _POINTS[0]
    points_xy = shapely.get_coordinates(parts[points]).T
    found = [_pixels_of_points(points_xy, owner[points], grid, radius)]
    for part, number in zip(parts[~points], owner[~points], strict=True):
        pixels = _pixels_of_area(part, grid, all_touched)
        found.append((pixels, np.full(pixels.size, number, np.int64)))
    pixels = np.concatenate([each for each, _ in found])
    which = np.concatenate([number for _, number in found])
    # Parts of one plot may touch the same pixel.
    pairs = np.unique(np.stack([pixels, which]), axis=1)
    return pairs[0], pairs[1]


def _pixels_of_points(
    points_xy: Numbers, owner: Indexes, grid: GeoBox, radius: float | None
) -> tuple[Indexes, Indexes]:
    height, width = grid.shape
    if radius is None:
        return _pixels_at(points_xy, owner, grid)
    reached: list[tuple[Indexes, Indexes]] = []
    near = np.zeros(owner.size, bool)
    for row, column, inside in _pixels_within(points_xy, grid, radius):
        near |= inside
        mine = inside & (row >= 0) & (row < height) & (column >= 0) & (column < width)
        reached.append((row[mine] * width + column[mine], owner[mine]))
    reached.append(_pixels_at(points_xy[:, ~near], owner[~near], grid))
    pixels, which = (np.concatenate(each) for each in zip(*reached, strict=True))
    return pixels, which


def _pixels_at(
    points_xy: Numbers, owner: Indexes, grid: GeoBox
) -> tuple[Indexes, Indexes]:
    """Return the pixels that contain the points, for points inside the grid."""
    height, width = grid.shape
    column, row = np.floor(_pixel_coordinates(points_xy, grid))
    inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    pixels = row[inside] * width + column[inside]
    return pixels.astype(np.int64), owner[inside].astype(np.int64)


def _pixels_within(
    points_xy: Numbers, grid: GeoBox, radius: float
) -> Iterator[tuple[Indexes, Indexes, npt.NDArray[np.bool_]]]:
    """Yield the pixels around all points, one pixel per point at a time.

    Yields
    ------
    row, column : numpy.ndarray
        One pixel for each point; it may be outside the grid.
    inside : numpy.ndarray
        bool: whether its centre is within the radius, on the ellipsoid.
    """
    from pyproj import Geod

    if not points_xy.size:
        return
    geod = Geod(ellps=_ELLIPSOID)
    to_degrees = _transformer(grid.crs, WGS84)
    from_degrees = _transformer(WGS84, grid.crs)
    lon, lat = map(np.asarray, to_degrees(*points_xy))
    count = _AZIMUTHS.size
    around = geod.fwd(
        np.repeat(lon, count),
        np.repeat(lat, count),
        np.tile(_AZIMUTHS, lon.size),
        np.full(lon.size * count, radius),
    )[:2]
    edge = _pixel_coordinates(np.stack(from_degrees(*around)), grid)
    edge = edge.reshape(2, lon.size, count)
    edge = np.where(np.isfinite(edge), edge, 0)
    # Between two azimuths, a circle extends 2 % of its radius further.
    low, high = edge.min(axis=2), edge.max(axis=2)
    rim = 0.02 * (high - low)
    low, high = (
        np.floor(low - rim).astype(np.int64),
        np.floor(high + rim).astype(np.int64),
    )
    tall, wide = (high - low).max(axis=1)[::-1] + 1
    for step in np.ndindex(int(tall), int(wide)):
        row, column = low[1] + step[0], low[0] + step[1]
        centre = to_degrees(*_centres(row, column, grid))
        distance = np.asarray(geod.inv(lon, lat, *centre)[2])
        yield row, column, distance <= radius


def _transformer(source: Any, target: Any) -> Any:
    from odc.geo.crs import CRS

    return CRS(source).transformer_to_crs(CRS(target), always_xy=True)


def _centres(row: Indexes, column: Indexes, grid: GeoBox) -> tuple[Numbers, Numbers]:
    a = grid.affine
    x, y = column + 0.5, row + 0.5
    return a.a * x + a.b * y + a.c, a.d * x + a.e * y + a.f


def _pixel_coordinates(points_xy: Numbers, grid: GeoBox) -> Numbers:
    """Return columns and rows of points, (2, point), with fractions."""
    a = ~grid.affine
    x, y = points_xy
    return np.stack([a.a * x + a.b * y + a.c, a.d * x + a.e * y + a.f])


def _pixels_of_area(area: Any, grid: GeoBox, all_touched: bool) -> Indexes:
    """Return the pixels whose centre is in a polygon, else the pixel in its middle."""
    import shapely
    from rasterio.features import rasterize

    height, width = grid.shape
    corners = np.array(area.bounds)[[[0, 0, 2, 2], [1, 3, 1, 3]]]
    columns, rows = _pixel_coordinates(corners, grid)
    top, bottom = max(0, int(rows.min()) - 1), min(height, int(rows.max()) + 2)
    left, right = max(0, int(columns.min()) - 1), min(width, int(columns.max()) + 2)
    if top >= bottom or left >= right:
        return np.empty(0, np.int64)
    box = grid[top:bottom, left:right]
    silence_arrays_in_memory()
    mask = rasterize(
        [(area, 1)],
        out_shape=(bottom - top, right - left),
        transform=box.transform,
        all_touched=all_touched,
        dtype="uint8",
    )
    row, column = np.nonzero(mask)
    if row.size:
        return (row + top) * width + column + left
    middle = shapely.get_coordinates(shapely.point_on_surface(area)).T
    return _pixels_at(middle, np.zeros(1, np.int64), grid)[0]
