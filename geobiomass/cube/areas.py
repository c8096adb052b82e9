"""Areas on the ground: of pixels in any reference system, and regions to sum over."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import numpy.typing as npt
import xarray as xr

from geobiomass.cube import CubeError
from geobiomass.cube.axes import in_our_names
from geobiomass.cube.region import Region
from geobiomass.tiles import Window
from geobiomass.training.packages import need

Numbers = npt.NDArray[np.float64]
Missing = Literal["raise", "keep"]

_HECTARE = 10_000.0  # square metres
_BETWEEN_NODES = 5_000.0  # metres: of the lattice that the scale is interpolated from
_STEP = 1e-4  # radians on the sphere, about 600 m: of the finite differences
_GEOJSON = (".geojson", ".json")
_ONLY = "region"  # the name of a region that has no other beside it


@dataclass(frozen=True)
class _Grid:
    """Where a map's pixels lie.

    Parameters
    ----------
    crs : pyproj.CRS
        Of the map.
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
                "place on Earth."
            )
        data = _in_our_names(data)
        if data.rio.crs is None:
            raise CubeError(
                "The map says no reference system, without which pixels have no area; "
                "set it with map.rio.write_crs('EPSG:...')."
            )
        crs = pyproj.CRS.from_wkt(data.rio.crs.to_wkt())
        affine = tuple(data.rio.transform())[:6]
        return cls(crs, affine, data.sizes["y"], data.sizes["x"])

    def place(self, row: Any, column: Any) -> tuple[Any, Any]:
        """Give x and y of rows and columns, counted from the upper left corner."""
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
    """Give a map with axes called y and x; an array is as good as a dataset here."""
    return in_our_names(cast(xr.Dataset, data))


# --- areas of pixels ---


def pixel_areas(data: xr.Dataset | xr.DataArray, window: Window) -> Numbers:
    r"""Give the areas of a window's pixels on the ellipsoid.

    In a geographic reference system a pixel of latitudes :math:`\varphi_1` to
    :math:`\varphi_2` and of :math:`\Delta\lambda` radians has

    .. math:: \tfrac12 a^2\,\Delta\lambda\,|q(\varphi_2) - q(\varphi_1)|,\quad
        q(\varphi) = (1 - e^2)\left[\frac{\sin\varphi}{1 - e^2\sin^2\varphi} +
        \frac{\operatorname{artanh}(e\sin\varphi)}{e}\right]

    (Snyder 1987 [1]_, 3-12), which is exact. Elsewhere, and on grids that are turned,
    it is the area on the plane times the square metres on the ellipsoid to one unit of
    it, which is found by differences on the authalic sphere (which has the
    ellipsoid's areas, Snyder 1987, 3-11) at every 5 km, and interpolated: relative
    errors are below 2e-6 for pixels up to 5 km between 80 degrees north and south.

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
        If there is no reference system, there are chips, or pixels lie where the
        reference system has no places on Earth.

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
            f"{window.right} lie where {grid.crs.name} has no places on Earth."
        )
    return areas / _HECTARE


def _between_parallels(grid: _Grid, window: Window) -> Numbers:
    """Give areas of pixels along parallels and meridians, (y, x) square metres."""
    radian = float(grid.crs.axis_info[0].unit_conversion_factor)
    _, edges = grid.place(np.arange(window.top, window.bottom + 1), 0)
    band = np.abs(np.diff(_Ellipsoid.of(grid.crs).q(np.sin(edges * radian))))
    wide = abs(grid.affine[0]) * radian
    column = 0.5 * _Ellipsoid.of(grid.crs).a ** 2 * wide * band
    return np.repeat(column[:, None], window.width, axis=1)


@dataclass(frozen=True)
class _Ellipsoid:
    """An ellipsoid of half axis `a` (metres) and eccentricity `e`."""

    a: float
    e: float

    @classmethod
    def of(cls, crs: Any) -> _Ellipsoid:
        geod = crs.get_geod()
        return cls(float(geod.a), math.sqrt(geod.es))

    def q(self, sine: Any) -> Any:
        """Give Snyder's q (1987, 3-12) of the sine of latitude."""
        if self.e == 0:
            return 2 * sine
        turned = self.e * sine
        return (1 - self.e**2) * (sine / (1 - turned**2) + np.arctanh(turned) / self.e)

    def on_sphere(self, longitude: Any, latitude: Any) -> Numbers:
        """Give points of the authalic sphere, (3, ...) metres, of degrees."""
        at, around = np.radians(latitude), np.radians(longitude)
        whole = self.q(1.0)
        sine = self.q(np.sin(at)) / whole  # of the authalic latitude, 3-11
        cosine = np.sqrt(np.clip(1 - sine**2, 0, None))
        radius = self.a * math.sqrt(whole / 2)  # 3-13
        parts = [cosine * np.cos(around), cosine * np.sin(around), sine]
        return np.asarray(radius * np.stack(parts), np.float64)


def _scale(grid: _Grid, window: Window) -> Numbers:
    """Give square metres on the ellipsoid to one square unit, (y, x)."""
    down, across = _size_of_pixel(grid)
    rows = _nodes(window.top, window.bottom, grid.height, down)
    columns = _nodes(window.left, window.right, grid.width, across)
    nodes = _scale_at(grid, *np.meshgrid(rows, columns, indexing="ij"))
    at_rows = np.arange(window.top, window.bottom) + 0.5
    at_columns = np.arange(window.left, window.right) + 0.5
    tall = np.stack([np.interp(at_rows, rows, column) for column in nodes.T])
    return np.stack([np.interp(at_columns, columns, row) for row in tall.T])


def _nodes(start: int, stop: int, size: int, metres: float) -> Numbers:
    """Give nodes around pixels, of one lattice for all windows of a scene."""
    step = max(1.0, _BETWEEN_NODES // metres)
    first, last = start // step, -(-stop // step)
    if step == 1:  # large pixels: exactly their centres
        return np.arange(start, stop + 1, dtype=np.float64) + 0.5
    nodes = np.arange(first, last + 1, dtype=np.float64) * step
    return np.minimum(nodes, size) if nodes[-2] < size else nodes


def _scale_at(grid: _Grid, row: Numbers, column: Numbers) -> Numbers:
    """Measure the scale by differences on the authalic sphere."""
    x, y = grid.place(row, column)
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
    """Give what turns x and y into longitude and latitude on the same ellipsoid."""
    from pyproj import Transformer

    plain = _plain_degrees(crs)
    return Transformer.from_crs(crs, plain, always_xy=True).transform


def _plain_degrees(crs: Any) -> Any:
    """Give longitude and latitude in degrees on the ellipsoid of a reference system."""
    from pyproj import CRS

    geod = crs.get_geod()
    flat = f"+b={geod.b!r}" if geod.es else f"+b={geod.a!r}"
    return CRS.from_proj4(f"+proj=longlat +a={geod.a!r} {flat} +no_defs +type=crs")


# --- size of a pixel ---


def pixel_size(data: xr.Dataset | xr.DataArray) -> tuple[float, float]:
    """Give the size of a pixel on the ground, at the scene's centre.

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
    here = move(*grid.place(row - 0.5, column - 0.5))
    below = move(*grid.place(row + 0.5, column - 0.5))
    beside = move(*grid.place(row - 0.5, column + 0.5))
    down, across = (float(geod.inv(*here, *there)[2]) for there in (below, beside))
    if not (math.isfinite(down) and math.isfinite(across)):
        raise CubeError(
            f"The scene's centre lies where {grid.crs.name} has no places on Earth."
        )
    return down, across


# --- regions ---


def regions_of(
    data: xr.Dataset | xr.DataArray,
    regions: Any,
    *,
    name: str | None = None,
    missing: Missing = "raise",
) -> list[tuple[str, Region]]:
    """Make named regions on a map's grid from what a user has.

    Parameters
    ----------
    data : xarray.Dataset or xarray.DataArray
        A map or scene with a reference system.
    regions : optional
        A GeoDataFrame (a row a region), a path to a vector file, GeoJSON (a mapping
        or a file; a feature a region), bounds (left, bottom, right, top) in the
        map's reference system, a geometry in longitude and latitude; a mapping from
        names to any of these, each then one region; None: the whole map.
    name : str, optional
        Column or property with the names; rows of the same name are one region. By
        default ``name`` where there is one, else rows are counted.
    missing : "raise" or "keep"
        What becomes of regions that lie beside the map.

    Returns
    -------
    list of (str, Region)
        In their order.

    Raises
    ------
    CubeError
        If the map has no reference system or place, regions cannot be read, or lie
        beside the map.
    """
    grid = _Grid.of(data)
    scene = _in_our_names(data)
    found: dict[str, Region] = {}
    for label, shape in _named(regions, grid, name):
        try:
            region = Region.of(shape, scene)
        except ValueError as error:
            raise CubeError(f"Region {label!r} cannot be read: {error}") from error
        if label in found:
            shapes = (*found[label].shapes, *region.shapes)
            region = Region(shapes, region.transform)
        found[label] = region
    if not found:
        raise CubeError("There are no regions: the table or collection is empty.")
    beside = [label for label, region in found.items() if not _meets(region, grid)]
    if beside and (missing == "raise" or len(beside) == len(found)):
        raise CubeError(_elsewhere(beside, found, grid))
    return list(found.items())


def _named(regions: Any, grid: _Grid, name: str | None) -> Iterator[tuple[str, Any]]:
    """Go through the regions, each as `Region.of` takes it."""
    if regions is None:
        yield _ONLY, _outline(grid)
    elif isinstance(regions, str | os.PathLike):
        yield from _named(_read(os.fspath(regions)), grid, name)
    elif hasattr(regions, "to_crs"):
        yield from _rows(regions, name)
    elif isinstance(regions, Mapping) and not isinstance(regions.get("type"), str):
        for label, one in regions.items():
            for _, shape in _named(one, grid, None):
                yield str(label), shape
    elif isinstance(regions, Mapping) and regions["type"] == "FeatureCollection":
        _refuse_other_system(regions)
        for number, feature in enumerate(regions["features"]):
            yield _label(feature, number, name), feature
    else:
        if isinstance(regions, Mapping):
            _refuse_other_system(regions)
        yield _ONLY, regions


def _outline(grid: _Grid) -> tuple[float, float, float, float]:
    rows, columns = np.array([0, 0, 1, 1]), np.array([0, 1, 0, 1])
    x, y = grid.place(rows * grid.height, columns * grid.width)
    return float(x.min()), float(y.min()), float(x.max()), float(y.max())


def _read(path: str) -> Any:
    try:
        if path.lower().endswith(_GEOJSON):
            return json.loads(Path(path).read_text())
        need(f"Reading {path}", "vectors", "geopandas", "pyogrio")
        import geopandas

        return geopandas.read_file(path)
    except (OSError, RuntimeError, ValueError) as error:
        if isinstance(error, ImportError):
            raise
        raise CubeError(f"The regions {path} cannot be read: {error}.") from error


def _rows(table: Any, name: str | None) -> Iterator[tuple[str, Any]]:
    if table.crs is None:
        raise CubeError(
            "The table of regions says no reference system; set it with "
            "regions.set_crs('EPSG:...')."
        )
    columns = [str(column) for column in getattr(table, "columns", ())]
    if name is not None and name not in columns:
        raise CubeError(f"The regions have no column {name!r}, they have {columns}.")
    column = name or ("name" if "name" in columns else None)
    labels = table.index if column is None else table[column]
    for place, label in enumerate(labels):
        yield str(label), table.iloc[[place]]


def _label(feature: Mapping[str, Any], number: int, name: str | None) -> str:
    known = feature.get("properties") or {}
    if name is not None and name not in known:
        raise CubeError(
            f"Feature {number} of the regions has no property {name!r}, it has "
            f"{sorted(known)}."
        )
    return str(known.get(name or "name", feature.get("id", number)))


def _refuse_other_system(mapping: Mapping[str, Any]) -> None:
    """Refuse GeoJSON of before its standard, which could have any reference system."""
    said = mapping.get("crs")
    if said is None:
        return
    text = str(said.get("properties", {}).get("name", said))
    if not text.endswith(("CRS84", "4326")):
        raise CubeError(
            f"GeoJSON is in longitude and latitude, this one says {text}; read it with "
            "geopandas.read_file, which knows its reference system, and give the table."
        )


def _meets(region: Region, grid: _Grid) -> bool:
    """Tell whether the box around a region shares ground with the map."""
    import shapely
    from affine import Affine

    shapes = [shapely.geometry.shape(shape) for shape in region.shapes]
    away = ~Affine(*grid.affine)
    places = shapely.get_coordinates(shapes)
    column, row = (
        part * places[:, 0] + other * places[:, 1] + rest
        for part, other, rest in ((away.a, away.b, away.c), (away.d, away.e, away.f))
    )
    if not row.size:
        return False
    return bool(
        column.max() > 0
        and column.min() < grid.width
        and row.max() > 0
        and row.min() < grid.height
    )


def _elsewhere(beside: list[str], found: Mapping[str, Region], grid: _Grid) -> str:
    import shapely

    shapes = [shapely.geometry.shape(shape) for shape in found[beside[0]].shapes]
    theirs = ", ".join(f"{edge:.6g}" for edge in shapely.total_bounds(shapes))
    ours = ", ".join(f"{edge:.6g}" for edge in _outline(grid))
    return (
        f"{len(beside)} of {len(found)} regions lie beside the map, such as "
        f"{beside[0]!r}, whose bounds in {grid.crs.name} are {theirs}; the map's are "
        f"{ours}. Leave them out, or give the regions' own reference system: plain "
        "bounds are read in the map's, GeoJSON in longitude and latitude."
    )
