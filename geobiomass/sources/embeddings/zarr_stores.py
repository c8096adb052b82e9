"""Zarr stores that follow the geo-embeddings convention, as TESSERA's do.

The convention: https://github.com/geo-embeddings/embeddings-zarr-convention. Where an
array is on the ground is in the attributes of the conventions ``proj:`` and
``spatial:``.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from geobiomass.cube import CubeError
from geobiomass.cube.address_errors import told_of_address
from geobiomass.cube.addresses import store_at
from geobiomass.cube.antimeridian import parts
from geobiomass.cube.claimed_size import check_array
from geobiomass.sources.embeddings.products import (
    TESSERA,
    Product,
    product_of_store,
)
from geobiomass.sources.embeddings.stored_numbers import Quantisation, quantisation_of
from geobiomass.sources.embeddings.tiles import Box, Tile, missing_year, no_tile
from geobiomass.sources.rasters.grid_geometry import outline_on
from geobiomass.sources.rasters.reproject import Pixels

if TYPE_CHECKING:
    import zarr
    from odc.geo.geobox import GeoBox

ADDRESS = "https://data.source.coop/tessera/tessera/zarr/v1"
"""Of the first release of TESSERA on Source Cooperative, which is open."""

_AXES = {
    **{"time": "time", "year": "time", "t": "time"},
    **{"band": "band", "bands": "band", "channel": "band"},
    **{"y": "y", "northing": "y", "lat": "y", "latitude": "y"},
    **{"x": "x", "easting": "x", "lon": "x", "longitude": "x"},
}
# Axes of arrays whose dimensions have no names.
_UNNAMED = (("band", "y", "x"), ("time", "band", "y", "x"))
_UNNAMED_SCALES = (("y", "x"), ("time", "y", "x"), ("time", "band", "y", "x"))


@dataclass(frozen=True)
class ZarrStore:
    """A store of one vector a pixel.

    Parameters
    ----------
    address : str
        Its path or address.
    product : Product
        What it has, by its attributes.
    quantisation : Quantisation
        How its values are stored.
    array : str
        Name of the array of embeddings; a release whose dimensions are ordered has
        others with the first ones only.
    dtype : str
        Type of its stored numbers, as its attributes say.
    zones : bool
        Whether it has a group for each UTM zone, ``utm01`` to ``utm60``.
    """

    address: str
    product: Product
    quantisation: Quantisation
    array: str
    dtype: str
    zones: bool

    @classmethod
    def at(cls, address: str, dimensions: int | None = None) -> ZarrStore:
        """Return the store at a path or address, its attributes checked.

        Parameters
        ----------
        address : str
            Path or address.
        dimensions : int, optional
            Read only so many dimensions, the first ones.

        Raises
        ------
        CubeError
            If it does not follow the convention, has one vector for a chip of many
            pixels, or its dimensions are not ordered and some are asked for.
        """
        # What an earlier call opened may have been written again since.
        _open_group.cache_clear()
        _open_array.cache_clear()
        attrs = _attributes(address)
        whole = int(attrs["geoemb:dimensions"])
        array = _array_of(address, attrs, whole, dimensions)
        stated = attrs.get("geoemb:quantization")
        by_type = str(attrs.get("geoemb:data_type", "float32"))
        if isinstance(stated, Mapping):
            by_type = str(stated.get("quantized_dtype", by_type))
        return cls(
            address,
            _shortened(product_of_store(attrs, whole), dimensions),
            quantisation_of(attrs, np.dtype(by_type), address),
            array,
            by_type,
            attrs.get("geoemb:spatial_layout") == "utm_zones",
        )

    def find_tiles(self, box: Box, years: Sequence[int]) -> dict[int, list[Tile]]:
        """Return the arrays of each year that touch a box in degrees."""
        layouts = list(self._layouts(box))
        found: dict[int, list[Tile]] = {}
        for year in years:
            there = {one for layout in layouts for one in layout.years or (year,)}
            if there and year not in there:
                raise missing_year(self.address, year, there)
            found[year] = [
                self._tile(layout, year)
                for layout in layouts
                if layout.years is None or year in layout.years
            ]
            if not found[year]:
                raise no_tile(self.address, year, box)
        if len(years) > 1 and any(layout.years is None for layout in layouts):
            raise CubeError(
                f"{self.address} has one year and does not say which, got years="
                f"{list(years)}; give the year that its publisher states."
            )
        return found

    def _layouts(self, box: Box) -> Iterator[_Layout]:
        """Yield the groups whose arrays touch a box in degrees."""
        with told_of_address(self.address):
            for group in _zones_of(box) if self.zones else [""]:
                layout = _layout_of(self, group)
                if layout is not None and _touches(layout.geobox, box):
                    yield layout

    def _tile(self, layout: _Layout, year: int) -> Tile:
        step = None if layout.years is None else layout.years.index(year)
        file = "/".join(filter(None, (self.address, layout.group, self.array)))
        return Tile(file, year, layout.geobox, partial(_read, self, layout, step))


@dataclass(frozen=True)
class _Layout:
    """Where the array of a group is, and which axis is which."""

    group: str
    geobox: GeoBox
    years: tuple[int, ...] | None
    axes: tuple[str, ...]
    scale_axes: tuple[str, ...]


def _attributes(address: str) -> dict[str, Any]:
    """Return the attributes of a store, checked to follow the convention."""
    with told_of_address(address, "/zarr.json"):
        group = _open_group(address, "")
    if group is None:
        raise CubeError(
            f"There is no Zarr group at {address}; give the address of a store of "
            "embeddings."
        )
    attrs = dict(group.attrs)
    lacking = [n for n in ("geoemb:type", "geoemb:dimensions") if n not in attrs]
    if lacking:
        raise CubeError(
            f"{address} must follow the geo-embeddings convention, and its attributes "
            f"lack {' and '.join(lacking)}; open a cube with gb.open_cube, other "
            "arrays with gb.as_cube."
        )
    if attrs["geoemb:type"] != "pixel":
        raise CubeError(
            f"{address} must have one vector a pixel (geoemb:type 'pixel'), got "
            f"{attrs['geoemb:type']!r}: a vector of a whole chip cannot be mapped by "
            "pixel."
        )
    return attrs


def _array_of(
    address: str, attrs: Mapping[str, Any], whole: int, dimensions: int | None
) -> str:
    """Return the name of the array with so many dimensions."""
    depths = {
        int(one["dimensions"]): str(one["array"])
        for one in attrs.get("geoemb:depths", [])
    }
    depths.setdefault(whole, "embeddings")
    wanted = whole if dimensions is None else dimensions
    if wanted in depths:
        return depths[wanted]
    if len(depths) == 1:
        raise not_ordered(address, wanted, whole)
    raise CubeError(
        f"{address} has its first {', '.join(map(str, sorted(depths)))} dimensions as "
        f"arrays, got dimensions={wanted}; choose one of these numbers."
    )


def not_ordered(address: str, dimensions: int, whole: int) -> CubeError:
    """Return the error of dimensions that are asked for and are not ordered."""
    return CubeError(
        f"dimensions={dimensions} cannot be had of {address}: its {whole} dimensions "
        "are not in the order of what they say, so that the first ones are no summary "
        "of the vector; leave dimensions= out."
    )


def _shortened(product: Product, dimensions: int | None) -> Product:
    if dimensions is None or dimensions == len(product.bands):
        return product
    # The length is 1 of the whole vector only.
    return replace(product, bands=product.bands[:dimensions], unit_length=False)


def _zones_of(box: Box) -> list[str]:
    """Return the groups of the UTM zones that a box in degrees touches.

    Zones are 6 degrees wide everywhere: the convention has no exceptions for Norway.
    """
    zones = {
        zone
        for west, _, east, _ in parts(box)
        for zone in range(_zone_at(west), _zone_at(min(east, 179.999)) + 1)
    }
    return [f"utm{zone:02d}" for zone in sorted(zones)]


def _zone_at(longitude: float) -> int:
    return int((longitude + 180) // 6) + 1


@lru_cache(64)
def _open_group(address: str, name: str) -> zarr.Group | None:
    """Return a group; None if there is none."""
    import zarr

    with warnings.catch_warnings():
        # Other files in the folder are none of its arrays, and no matter here.
        warnings.simplefilter("ignore", zarr.errors.ZarrUserWarning)
        try:
            return zarr.open_group(store_at(address), path=name or None, mode="r")
        except (zarr.errors.GroupNotFoundError, FileNotFoundError):
            return None


@lru_cache(256)
def _open_array(address: str, group: str, name: str) -> Any:
    """Return an array of a group, its size checked; None if there is none."""
    holder = _open_group(address, group)
    try:
        array = None if holder is None else holder[name]
    except KeyError:
        return None
    if array is not None:
        check_array(array, "/".join(filter(None, (address, group, name))))
    return array


def _layout_of(store: ZarrStore, group: str) -> _Layout | None:
    """Return where the array of a group is; None if there is no such group."""
    holder = _open_group(store.address, group)
    if holder is None:
        return None
    name = "/".join(filter(None, (store.address, group)))
    array = _open_array(store.address, group, store.array)
    if array is None:
        raise CubeError(
            f"{name} must have the array {store.array!r}, and has none of that name; "
            "it is no store of the geo-embeddings convention, or damaged."
        )
    axes = _axes_of(array)
    sizes = dict(zip(axes, array.shape, strict=True))
    if {"band", "y", "x"} - set(axes) or sizes["band"] != len(store.product.bands):
        raise CubeError(
            f"{store.array} of {name} must have {len(store.product.bands)} bands, y "
            f"and x, got {sizes}; it is another product, or damaged."
        )
    if array.dtype != np.dtype(store.dtype):
        raise CubeError(
            f"{store.array} of {name} must be {store.dtype}, as the attributes of the "
            f"store say, got {array.dtype}; it is another product, or damaged."
        )
    scale_axes: tuple[str, ...] = ()
    if store.quantisation.kind == "by pixel":
        scale_axes = _scale_axes(store, group, name, sizes)
    geobox = _grid_of(holder, store, name, (sizes["y"], sizes["x"]))
    years = _years_of(store, group, name) if "time" in axes else None
    return _Layout(group, geobox, years, axes, scale_axes)


def _axes_of(
    array: Any, unnamed: Sequence[tuple[str, ...]] = _UNNAMED
) -> tuple[str, ...]:
    """Return the axes of an array by its names of dimensions, or by their number."""
    names = getattr(array.metadata, "dimension_names", None)
    names = names or array.attrs.get("_ARRAY_DIMENSIONS") or ()
    if len(names) != array.ndim:
        return next((axes for axes in unnamed if len(axes) == array.ndim), ())
    return tuple(_AXES.get(str(name), str(name)) for name in names)


def _scale_axes(
    store: ZarrStore, group: str, name: str, sizes: Mapping[str, int]
) -> tuple[str, ...]:
    """Return the axes of the scales, checked to fit the embeddings."""
    scales = _open_array(store.address, group, store.quantisation.array)
    if scales is None:
        raise CubeError(
            f"{name} has no scales, the array {store.quantisation.array!r} that "
            "geoemb:quantization names, and its numbers mean nothing without them; get "
            "the store again."
        )
    axes = _axes_of(scales, _UNNAMED_SCALES)
    of_scales = dict(zip(axes, scales.shape, strict=True)) if axes else {}
    fits = all(size == sizes.get(axis) for axis, size in of_scales.items())
    if not fits or not {"y", "x"} <= set(axes):
        raise CubeError(
            f"{store.quantisation.array} of {name} must fit the embeddings, {sizes}, "
            f"got {of_scales or scales.shape}; get the store again."
        )
    return axes


def _grid_of(
    group: zarr.Group, store: ZarrStore, name: str, shape: tuple[int, int]
) -> GeoBox:
    """Return the grid of a group, from ``proj:`` and ``spatial:``."""
    from affine import Affine
    from odc.geo.geobox import GeoBox

    root = _open_group(store.address, "")
    attrs: dict[str, Any] = dict(root.attrs) if root is not None else {}
    attrs |= dict(group.attrs)
    crs = next((attrs[n] for n in ("proj:code", "proj:wkt2") if attrs.get(n)), None)
    numbers = attrs.get("spatial:transform")
    if crs is None or not isinstance(numbers, Sequence) or len(numbers) < 6:
        raise CubeError(
            f"{name} must state its place, proj:code and the six numbers of "
            f"spatial:transform, got {crs!r} and {numbers!r}; ask who published it."
        )
    affine = Affine(*map(float, numbers[:6]))
    if attrs.get("spatial:registration", "pixel") == "node":
        affine = affine * Affine.translation(-0.5, -0.5)
    if affine.b or affine.d:
        raise CubeError(
            f"{name} must have a grid along its axes, got {affine}, which is rotated."
        )
    return GeoBox(shape, affine, crs)


def _years_of(store: ZarrStore, group: str, name: str) -> tuple[int, ...]:
    """Return the year of each step of a group."""
    import xarray as xr

    times = _open_array(store.address, group, "time")
    if times is None:
        raise CubeError(
            f"{name} must have the years of its steps in an array 'time', and has "
            "none; ask who published it."
        )
    values = np.asarray(times[:])
    if values.dtype.kind in "iu" and ((values > 1900) & (values < 2200)).all():
        return tuple(map(int, values))
    variable = xr.Variable(("time",), values, dict(times.attrs))
    dates = xr.conventions.decode_cf_variable("time", variable).values
    if dates.dtype.kind != "M":
        raise CubeError(
            f"{name} must have years or dates as times, got {values[:3].tolist()}; ask "
            "who published it."
        )
    return tuple(map(int, dates.astype("datetime64[Y]").astype(int) + 1970))


def _touches(geobox: GeoBox, box: Box) -> bool:
    """Return whether an array touches a box in degrees."""
    from odc.geo.geobox import GeoBox as Grid

    height, width = geobox.shape
    for west, south, east, north in parts(box):
        around = Grid.from_bbox((west, south, east, north), "EPSG:4326", shape=(16, 16))
        top, left, bottom, right = outline_on(around, geobox)
        if top < height and bottom > 0 and left < width and right > 0:
            return True
    return False


def _read(
    store: ZarrStore, layout: _Layout, step: int | None, rows: slice, columns: slice
) -> Pixels:
    """Read a window of an array, (band, y, x) float32."""
    picked = {"time": step, "y": rows, "x": columns}
    array = _open_array(store.address, layout.group, store.array)
    stored = _window(array, layout.axes, picked)
    scales = None
    if layout.scale_axes:
        name = store.quantisation.array
        scales = _open_array(store.address, layout.group, name)
        scales = _window(scales, layout.scale_axes, picked)
    most = 1.0 if store.product.name == TESSERA.name else None
    return store.quantisation.values_of(stored, scales, most)


def _window(
    array: Any, axes: tuple[str, ...], picked: Mapping[str, Any]
) -> npt.NDArray[Any]:
    """Read part of an array, its axes in the order band, y, x."""
    index = tuple(picked.get(axis, slice(None)) for axis in axes)
    values = np.asarray(array[index])
    left = [axis for axis in axes if not isinstance(picked.get(axis), int)]
    order = [left.index(axis) for axis in ("band", "y", "x") if axis in left]
    return values.transpose(order)
