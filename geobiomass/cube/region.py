"""A region of interest on a scene's grid: its pixels, and the blocks it touches."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from geobiomass.cube import CubeError
from geobiomass.cube.antimeridian import beside, continuous
from geobiomass.cube.grid import Grid
from geobiomass.cube.vector_areas import checked_area, geometries_of
from geobiomass.tables.files import split_part
from geobiomass.threads import silence_arrays_in_memory
from geobiomass.tiles import Window

# rasterio silences a warning by the process's filters: two threads that rasterise at
# once could leave it silenced, also for files without a georeference.
_ONE_MASK = threading.Lock()


@dataclass(frozen=True)
class Region:
    """A region of interest on a scene's grid.

    Parameters
    ----------
    shapes : tuple
        GeoJSON geometries in the scene's coordinate reference system.
    transform : tuple of float
        The scene's affine transform, six numbers.
    """

    shapes: tuple[Mapping[str, Any], ...]
    transform: tuple[float, float, float, float, float, float]

    def __post_init__(self) -> None:
        silence_arrays_in_memory()  # here, before threads: their end can undo filters

    @classmethod
    def of(cls, region: Any, cube: xr.Dataset) -> Region:
        """Return a region from bounds, GeoJSON, a vector file or a geopandas object.

        Parameters
        ----------
        region : tuple of four floats, GeoJSON mapping, path, or geopandas object
            Bounds (left, bottom, right, top) in the scene's reference system;
            GeoJSON or a geometry, in longitude and latitude as its standard requires;
            a vector file, or anything with ``to_crs`` and ``__geo_interface__``, in
            its own reference system. Only polygons count.
        cube : xarray.Dataset
            A scene.

        Raises
        ------
        CubeError
            If the cube consists of chips, or has no reference system, to which a
            GeoJSON region could be reprojected.
        ValueError
            If the region is none of these.
        """
        import rioxarray  # noqa: F401  (the .rio accessor)

        if "chip" in cube.dims:
            raise CubeError("region needs a scene; chips have no georeference.")
        grid = Grid.of(cube)
        transform = grid.affine
        degrees = cube.rio.crs is not None and cube.rio.crs.is_geographic
        if isinstance(region, np.ndarray) and region.shape == (4,):
            region = tuple(region)
        if isinstance(region, tuple | list) and len(region) == 4:
            left, bottom, right, top = map(float, region)
            if not np.isfinite([left, bottom, right, top]).all():
                raise CubeError(
                    f"region must have four finite bounds, got {tuple(region)}; give "
                    "(left, bottom, right, top)."
                )
            if degrees:
                left, right = continuous(left, right)
            rectangle = _rectangle(left, bottom, right, top)
            return cls(_placed((rectangle,), grid, degrees), transform)
        if cube.rio.crs is None:
            raise CubeError(
                "region needs the scene's reference system; set it with "
                "cube.rio.write_crs('EPSG:...')."
            )
        region = checked_area(_known_path(region))
        if hasattr(region, "to_crs"):
            shapes = geometries_of(region.to_crs(cube.rio.crs).__geo_interface__)
            return cls(_placed(shapes, grid, degrees), transform)
        mapping = getattr(region, "__geo_interface__", region)
        if not isinstance(mapping, Mapping) or "type" not in mapping:
            raise ValueError(
                "region must be bounds (left, bottom, right, top), GeoJSON, a vector "
                f"file or a geopandas object, got {type(region).__name__}."
            )
        from rasterio.warp import transform_geom

        shapes = [
            transform_geom("EPSG:4326", cube.rio.crs, shape)
            for shape in geometries_of(mapping)
        ]
        return cls(_placed(shapes, grid, degrees), transform)

    def mask(self, window: Window) -> npt.NDArray[np.bool_]:
        """Return the pixels of a window whose centre is in the region, (y, x) bool."""
        return self._burn(window.top, window.left, (window.height, window.width))

    def touched(self, rows: int, columns: int, side: int) -> npt.NDArray[np.bool_]:
        """Return the blocks of `side` pixels that it touches, (rows, columns) bool."""
        return self._burn(0, 0, (rows, columns), side)

    def _burn(
        self, top: int, left: int, shape: tuple[int, int], side: int = 1
    ) -> npt.NDArray[np.bool_]:
        """Rasterise the region: pixels by centre, larger cells if it touches them."""
        from affine import Affine
        from rasterio.features import geometry_mask

        a, b, x, d, e, y = self.transform
        x, y = x + a * left + b * top, y + d * left + e * top
        silence_arrays_in_memory()  # again: another process may have unpickled it
        with _ONE_MASK:
            mask = geometry_mask(
                self.shapes,
                shape,
                Affine(a * side, b * side, x, d * side, e * side, y),
                all_touched=side > 1,
                invert=True,
            )
        return np.asarray(mask, bool)


def _known_path(region: Any) -> Any:
    """Return a region; text that is no path of a file is an error."""
    path = isinstance(region, str | os.PathLike) and os.fspath(region)
    if path and not (os.path.exists(split_part(path)[0]) or "://" in path):
        raise ValueError(
            "region must be bounds (left, bottom, right, top), GeoJSON, a vector file "
            f"or a geopandas object, got {path!r}, which is no file."
        )
    return region


def _placed(
    shapes: Iterable[Mapping[str, Any]], grid: Grid, degrees: bool
) -> tuple[Mapping[str, Any], ...]:
    """Return geometries where a scene in degrees has them, also across 180 degrees."""
    if not degrees:
        return tuple(shapes)
    return tuple(near for shape in shapes for near in beside(shape, grid.bounds))


def _rectangle(left: float, bottom: float, right: float, top: float) -> dict[str, Any]:
    ring = [(left, bottom), (right, bottom), (right, top), (left, top), (left, bottom)]
    return {"type": "Polygon", "coordinates": [ring]}
