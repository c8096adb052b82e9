"""Areas of pixels in any reference system, and regions on a map's grid."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

import numpy as np
import numpy.typing as npt
import xarray as xr

from geobiomass.cube import CubeError
from geobiomass.cube.axes import in_our_names
from geobiomass.cube.grid import Grid
from geobiomass.cube.region import Region
from geobiomass.cube.region_tables import named_regions
from geobiomass.cube.vector_areas import tell
from geobiomass.tiles import Window

Numbers = npt.NDArray[np.float64]
Missing = Literal["raise", "keep"]

_HECTARE = 10_000.0  # square metres
_BETWEEN_NODES = 5_000.0  # metres between the nodes that the scale is computed at
_STEP = 1e-4  # radians on the sphere, about 600 m: step of the finite differences


@dataclass(frozen=True)
class _Grid:
    """A map's grid of pixels: reference system, transform, size.

    Parameters
    ----------
    crs : pyproj.CRS
        CRS of the map.
    affine : tuple of float
        The transform, six numbers, from (column, row) to (x, y).
    height, width : int
        Pixels.
    """

    crs: Any
    affine: tuple[float, float, float, float, float, float]
    height: int
    width: int

    @classmethod
    def of(cls, data: xr.Dataset | xr.DataArray) -> _Grid:
        import pyproj
        import rioxarray  # noqa: F401  (the .rio accessor)

        if "chip" in data.dims:
            raise CubeError(
                f"Areas need a scene, got {data.sizes['chip']} chips, which have no "
                "georeference."
            )
        data = _in_our_names(data)
        if data.rio.crs is None:
            raise CubeError(
                "The map has no reference system, without which pixels have no area; "
                "set it with map.rio.write_crs('EPSG:...')."
            )
        crs = pyproj.CRS.from_wkt(data.rio.crs.to_wkt())
        grid = Grid.of(data, "The map")
        return cls(crs, grid.affine, grid.height, grid.width)

    def position(self, row: Any, column: Any) -> tuple[Any, Any]:
        """Return x and y of rows and columns, counted from the upper left corner."""
        a, b, c, d, e, f = self.affine
        return a * column + b * row + c, d * column + e * row + f

    @property
    def planar(self) -> float:
        """Area of a pixel in the square of the reference system's units."""
        a, b, _, d, e, _ = self.affine
        return abs(a * e - b * d)

    @property
    def middle(self) -> tuple[float, float]:
        """Row and column of the scene's centre."""
        return self.height / 2, self.width / 2


def _in_our_names(data: xr.Dataset | xr.DataArray) -> xr.Dataset:
    """Return a map with axes called y and x; it may be an array or a dataset."""
    return in_our_names(cast(xr.Dataset, data))


# --- areas of pixels ---


def pixel_areas(data: xr.Dataset | xr.DataArray, window: Window) -> Numbers:
    r"""Compute the areas of a window's pixels on the ellipsoid.

    In a geographic reference system a pixel of latitudes :math:`\varphi_1` to
    :math:`\varphi_2` and of :math:`\Delta\lambda` radians has

    .. math:: \tfrac12 a^2\,\Delta\lambda\,|q(\varphi_2) - q(\varphi_1)|,\quad
        q(\varphi) = (1 - e^2)\left[\frac{\sin\varphi}{1 - e^2\sin^2\varphi} +
        \frac{\operatorname{artanh}(e\sin\varphi)}{e}\right]

    (Snyder 1987 [1]_, 3-12), which is exact. In other reference systems, and on rotated
    grids, it is the area on the plane times a scale: square metres on the ellipsoid
    per square unit on the plane. The scale is computed every 5 km, by finite
    differences on the authalic sphere (which has the ellipsoid's areas, Snyder 1987,
    3-11), and interpolated. Relative errors are below 2e-6 for pixels up to 5 km
    between 80 degrees north and south.

    Parameters
    ----------
    data : xarray.Dataset or xarray.DataArray
        A map or scene with a reference system.
    window : Window
        Rows and columns, within the scene.

    Returns
    -------
    numpy.ndarray
        (y, x) float64, hectares. A pixel's area does not depend on the window.

    Raises
    ------
    CubeError
        If there is no reference system, there are chips, or pixels are where the
        reference system is not defined.

    References
    ----------
    .. [1] Snyder, J. P. (1987). Map projections: a working manual. USGS Professional
       Paper 1395.
    """
    grid = _Grid.of(data)
    _, b, _, d, _, _ = grid.affine
    if grid.crs.is_geographic and not grid.crs.is_derived and b == d == 0:
        areas = _between_parallels(grid, window)
    else:
        areas = grid.planar * _scale(grid, window)
    if not np.isfinite(areas).all():
        raise CubeError(
            f"Pixels of rows {window.top} to {window.bottom}, columns {window.left} to "
            f"{window.right} are where {grid.crs.name} is not defined; cut them off, "
            "or reproject the map."
        )
    return areas / _HECTARE


def _between_parallels(grid: _Grid, window: Window) -> Numbers:
    """Compute areas of pixels between parallels and meridians, (y, x) m2."""
    radian = float(grid.crs.axis_info[0].unit_conversion_factor)
    _, edges = grid.position(np.arange(window.top, window.bottom + 1), 0)
    band = np.abs(np.diff(_Ellipsoid.of(grid.crs).q(np.sin(edges * radian))))
    wide = abs(grid.affine[0]) * radian
    column = 0.5 * _Ellipsoid.of(grid.crs).a ** 2 * wide * band
    return np.repeat(column[:, None], window.width, axis=1)


@dataclass(frozen=True)
class _Ellipsoid:
    """An ellipsoid of semi-major axis `a` (metres) and eccentricity `e`."""

    a: float
    e: float

    @classmethod
    def of(cls, crs: Any) -> _Ellipsoid:
        geod = crs.get_geod()
        return cls(float(geod.a), math.sqrt(geod.es))

    def q(self, sine: Any) -> Any:
        """Return Snyder's q (1987, 3-12) of the sine of latitude."""
        if self.e == 0:
            return 2 * sine
        part = self.e * sine
        return (1 - self.e**2) * (sine / (1 - part**2) + np.arctanh(part) / self.e)

    def on_sphere(self, longitude: Any, latitude: Any) -> Numbers:
        """Return points of the authalic sphere, (3, ...) metres, from degrees."""
        at, around = np.radians(latitude), np.radians(longitude)
        whole = self.q(1.0)
        sine = self.q(np.sin(at)) / whole  # of the authalic latitude, 3-11
        cosine = np.sqrt(np.clip(1 - sine**2, 0, None))
        radius = self.a * math.sqrt(whole / 2)  # 3-13
        parts = [cosine * np.cos(around), cosine * np.sin(around), sine]
        return np.asarray(radius * np.stack(parts), np.float64)


def _scale(grid: _Grid, window: Window) -> Numbers:
    """Return square metres on the ellipsoid per square unit, (y, x)."""
    down, across = _size_of_pixel(grid)
    rows = _nodes(window.top, window.bottom, grid.height, down)
    columns = _nodes(window.left, window.right, grid.width, across)
    nodes = _scale_at(grid, *np.meshgrid(rows, columns, indexing="ij"))
    at_rows = np.arange(window.top, window.bottom) + 0.5
    at_columns = np.arange(window.left, window.right) + 0.5
    tall = np.stack([np.interp(at_rows, rows, column) for column in nodes.T])
    return np.stack([np.interp(at_columns, columns, row) for row in tall.T])


def _nodes(start: int, stop: int, size: int, metres: float) -> Numbers:
    """Return the nodes around pixels; all windows of a scene share one lattice."""
    step = max(1.0, _BETWEEN_NODES // metres)
    first, last = start // step, -(-stop // step)
    if step == 1:  # large pixels: exactly their centres
        return np.arange(start, stop + 1, dtype=np.float64) + 0.5
    nodes = np.arange(first, last + 1, dtype=np.float64) * step
    return np.minimum(nodes, size) if nodes[-2] < size else nodes


def _scale_at(grid: _Grid, row: Numbers, column: Numbers) -> Numbers:
    """Compute the scale by finite differences on the authalic sphere."""
    x, y = grid.position(row, column)
    unit = math.sqrt(np.prod(_size_of_pixel(grid)) / grid.planar)  # metres, roughly
    ellipsoid = _Ellipsoid.of(grid.crs)
    step = _STEP * ellipsoid.a / unit
    move = _to_degrees(grid.crs)

    def along(dx: float, dy: float) -> Numbers:
        ends = [
            ellipsoid.on_sphere(*move(x + sign * dx, y + sign * dy)) for sign in (1, -1)
        ]
        return (ends[0] - ends[1]) / (2 * step)

    crossed = np.cross(along(step, 0), along(0, step), axis=0)
    return np.asarray(np.linalg.norm(crossed, axis=0), np.float64)


def _to_degrees(crs: Any) -> Any:
    """Return a function from x and y to longitude and latitude, same ellipsoid."""
    from pyproj import Transformer

    plain = _plain_degrees(crs)
    return Transformer.from_crs(crs, plain, always_xy=True).transform


def _plain_degrees(crs: Any) -> Any:
    """Return the geographic system, in degrees, on a system's own ellipsoid."""
    from pyproj import CRS

    geod = crs.get_geod()
    flat = f"+b={geod.b!r}" if geod.es else f"+b={geod.a!r}"
    return CRS.from_proj4(f"+proj=longlat +a={geod.a!r} {flat} +no_defs +type=crs")


# --- size of a pixel ---


def pixel_size(data: xr.Dataset | xr.DataArray) -> tuple[float, float]:
    """Compute the size of a pixel on the ground, at the scene's centre.

    Parameters
    ----------
    data : xarray.Dataset or xarray.DataArray
        A map or scene with a reference system.

    Returns
    -------
    tuple of float
        Metres down (from a row to the next) and across, along the ellipsoid.

    Raises
    ------
    CubeError
        If there is no reference system, or there are chips.
    """
    return _size_of_pixel(_Grid.of(data))


def _size_of_pixel(grid: _Grid) -> tuple[float, float]:
    row, column = grid.middle
    move, geod = _to_degrees(grid.crs), grid.crs.get_geod()
    here = move(*grid.position(row - 0.5, column - 0.5))
    below = move(*grid.position(row + 0.5, column - 0.5))
    beside = move(*grid.position(row - 0.5, column + 0.5))
    down, across = (float(geod.inv(*here, *there)[2]) for there in (below, beside))
    if not (math.isfinite(down) and math.isfinite(across)):
        raise CubeError(
            f"The scene's centre is where {grid.crs.name} is not defined; reproject "
            "the scene."
        )
    return down, across


# --- regions ---


def regions_of(
    data: xr.Dataset | xr.DataArray,
    regions: Any,
    *,
    name: str | None = None,
    missing: Missing = "raise",
    grouped: bool = False,
) -> NamedRegions:
    """Return named regions on a map's grid.

    Parameters
    ----------
    data : xarray.Dataset or xarray.DataArray
        A map or scene with a reference system.
    regions : optional
        A GeoDataFrame or GeoSeries (one row per region), a path to a vector file
        (``path|layername=...`` for one of several layers), GeoJSON (a mapping; one
        feature per region), bounds (left, bottom, right, top) in the
        map's reference system, a geometry in longitude and latitude; a mapping from
        names to any of these, each then one region; None: the whole map.
    name : str, optional
        Column or property with the names; rows of the same name are one region. By
        default ``name`` where there is one, else rows are counted.
    missing : "raise" or "keep"
        Action for regions outside the map: raise an error, or keep them.
    grouped : bool
        Equal names are meant, as of groups, and are not told.

    Returns
    -------
    NamedRegions
        A list of (str, Region) in their order, with ``counts`` of what is left out:
        empty geometries, points and lines. Invalid polygons are repaired; regions
        without a name are called "unnamed" with their number.

    Warns
    -----
    UserWarning
        Once, with these counts, if there are any.

    Raises
    ------
    CubeError
        If the map has no georeference, regions cannot be read, or are outside the
        map.
    """
    grid = _Grid.of(data)
    scene = _in_our_names(data)
    found: dict[str, Region] = {}
    counts: Counter[str] = Counter()
    for label, shape in named_regions(regions, _outline(grid), name, counts):
        try:
            if regions is None:  # a rotated map is less than the bounds around it
                region = Region((_corners(grid),), grid.affine)
            else:
                region = Region.of(shape, scene)
        except ValueError as error:
            raise CubeError(f"Region {label!r} cannot be read: {error}") from error
        if label in found:
            counts["joined"] += 1
            shapes = (*found[label].shapes, *region.shapes)
            region = Region(shapes, region.transform)
        found[label] = region
    if grouped:
        del counts["joined"]
    tell(counts, "regions")
    if not found:
        raise CubeError(
            "regions must contain at least one region, got an empty table or "
            "collection; leave it out for the whole map."
        )
    outside = [label for label, region in found.items() if not _meets(region, grid)]
    if outside and (missing == "raise" or len(outside) == len(found)):
        raise CubeError(_outside_message(outside, found, grid))
    return NamedRegions(found.items(), {k: n for k, n in counts.items() if n})


class NamedRegions(list[tuple[str, Region]]):
    """Regions with their names, and the counts of what was left out or repaired.

    Parameters
    ----------
    regions : iterable of (str, Region)
        In their order.
    counts : dict
        Shapes by kind: "empty", "no area" (points and lines), "repaired", "unnamed",
        "joined" (of equal names).
    """

    def __init__(
        self, regions: Iterable[tuple[str, Region]], counts: dict[str, int]
    ) -> None:
        super().__init__(regions)
        self.counts = counts


def _outline(grid: _Grid) -> tuple[float, float, float, float]:
    rows, columns = np.array([0, 0, 1, 1]), np.array([0, 1, 0, 1])
    x, y = grid.position(rows * grid.height, columns * grid.width)
    return float(x.min()), float(y.min()), float(x.max()), float(y.max())


def _corners(grid: _Grid) -> dict[str, Any]:
    """Return the outline of a map as a polygon."""
    rows, columns = np.array([0, 0, 1, 1, 0]), np.array([0, 1, 1, 0, 0])
    x, y = grid.position(rows * grid.height, columns * grid.width)
    return {"type": "Polygon", "coordinates": [np.stack([x, y], 1).tolist()]}


def _meets(region: Region, grid: _Grid) -> bool:
    """Return whether the bounding box of a region overlaps the map."""
    import shapely
    from affine import Affine

    shapes = [shapely.geometry.shape(shape) for shape in region.shapes]
    inverse = ~Affine(*grid.affine)
    points = shapely.get_coordinates(shapes)
    column, row = (
        a * points[:, 0] + b * points[:, 1] + c
        for a, b, c in (inverse[:3], inverse[3:6])
    )
    if not row.size:
        return False
    return bool(
        column.max() > 0
        and column.min() < grid.width
        and row.max() > 0
        and row.min() < grid.height
    )


def _outside_message(
    outside: list[str], found: Mapping[str, Region], grid: _Grid
) -> str:
    import shapely

    shapes = [shapely.geometry.shape(shape) for shape in found[outside[0]].shapes]
    theirs = ", ".join(f"{edge:.6g}" for edge in shapely.total_bounds(shapes))
    ours = ", ".join(f"{edge:.6g}" for edge in _outline(grid))
    return (
        f"{len(outside)} of {len(found)} regions are outside the map, such as "
        f"{outside[0]!r}, whose bounds in {grid.crs.name} are {theirs}; the map's are "
        f"{ours}. Leave them out, or give the regions' own reference system: plain "
        "bounds are read in the map's, GeoJSON in longitude and latitude."
    )
