"""Size and place of pixels, from the coordinates at hand.

Operations of xarray (crop, stride, coarsen, interpolate, reindex) change coordinates
and leave a stored transform as it was. So coordinates decide, and a stored transform is
only compared with them.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np
import numpy.typing as npt
import xarray as xr

from geobiomass.cube.axes import spatial_axes
from geobiomass.cube.schema import CubeError
from geobiomass.cube.spacing import TOLERANCE, Line, line_of

if TYPE_CHECKING:
    from affine import Affine

_NUMBERS = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")
Numbers = npt.NDArray[np.float64]
Data = xr.Dataset | xr.DataArray
MapData = TypeVar("MapData", bound=xr.Dataset | xr.DataArray)
Six = tuple[float, float, float, float, float, float]


@dataclass(frozen=True)
class Grid:
    """A grid of pixels: place and size, without a reference system.

    Parameters
    ----------
    affine : tuple of float
        Six numbers a to f: x = a column + b row + c, y = d column + e row + f, of
        pixels' corners, counted from the upper left one.
    height, width : int
        Pixels.
    """

    affine: Six
    height: int
    width: int

    @classmethod
    def of(cls, data: Data, name: str = "The scene") -> Grid:
        """Return the grid of a scene or map; error messages call it `name`.

        Raises
        ------
        CubeError
            If there are chips, no coordinates and no stored transform, if coordinates
            are not evenly spaced or contradict a stored rotation, or if a single row or
            column has no stored transform that says how large a pixel is.
        """
        if "chip" in data.dims:
            raise CubeError(f"{name} must be a scene; chips have no georeference.")
        found = _of(data)
        if isinstance(found, str):
            raise CubeError(f"{name} has no grid of pixels: {found}")
        return found

    @property
    def transform(self) -> Affine:
        """The transform, as rasterio has it."""
        from affine import Affine

        return Affine(*self.affine)

    @property
    def resolution(self) -> tuple[float, float]:
        """Signed width and height of a pixel; a height below 0 runs south."""
        return self.affine[0], self.affine[4]

    @property
    def area(self) -> float:
        """Area of a pixel in the square of the coordinates' unit."""
        a, b, _, d, e, _ = self.affine
        return abs(a * e - b * d)

    @property
    def rotated(self) -> bool:
        """Whether rows and columns do not run along x and y."""
        return _is_rotated(self.affine)

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """Left, bottom, right and top edge."""
        x, y = self.corners
        return float(x.min()), float(y.min()), float(x.max()), float(y.max())

    @property
    def corners(self) -> tuple[Numbers, Numbers]:
        """The x and y of the four corners."""
        return self.position(
            np.array([0, 0, 1, 1]) * self.height, np.array([0, 1, 0, 1]) * self.width
        )

    def position(self, row: Any, column: Any) -> tuple[Any, Any]:
        """Return x and y of rows and columns, counted from the upper left corner."""
        a, b, c, d, e, f = self.affine
        return a * column + b * row + c, d * column + e * row + f

    def shift(self, other: Grid) -> float:
        """Return how far the corners of two grids are apart at most, in pixels."""
        a, b, _, d, e, _ = self.affine
        (x, y), (u, v) = self.corners, other.corners
        across = np.hypot(x - u, y - v)
        return float(across.max() / min(math.hypot(a, d), math.hypot(b, e)))

    def same_as(self, other: Grid) -> bool:
        """Return whether two grids are one, up to a hundredth of a pixel."""
        sizes = (self.height, self.width) == (other.height, other.width)
        return sizes and self.shift(other) <= TOLERANCE


def transform_of(scene: Data) -> Affine | None:
    """Return the transform from pixels to coordinates, None where it is unknown.

    It is unknown for chips, without `y` and `x`, if these are not evenly spaced, and
    for a single row or column whose grid mapping does not contain a pixel's size.
    """
    found = known_grid(scene)
    return None if found is None else found.transform


def known_grid(scene: Data) -> Grid | None:
    """Return the grid of a scene, None where :func:`transform_of` is."""
    if "chip" in scene.dims or not {"y", "x"} <= set(scene.coords):
        return None
    found = _of(scene)
    return None if isinstance(found, str) else found


def placed(data: MapData) -> MapData:
    """Return data whose stored transforms agree with its coordinates.

    A stored transform that does not is replaced by the coordinates' own; it is removed
    where the coordinates do not give one. Without such a transform the data itself is
    returned. Values are not touched.
    """
    names = spatial_axes(data)
    if "chip" in data.dims or names is None or not set(names) <= set(data.coords):
        return data
    stale = [known for known in _stored(data) if not _agrees(known.affine, data)]
    if not stale:
        return data
    found = _of(data)
    if not isinstance(found, str):
        _tell_of_half_a_pixel(stale[0].affine, found)
    made = cast(MapData, data.copy(deep=False))
    for known in stale:
        known.replace(made, None if isinstance(found, str) else found)
    return made


# --- coordinates --------------------------------------------------------------


def _of(data: Data) -> Grid | str:
    """Return the grid, or why there is none."""
    names = spatial_axes(data)
    if names is None:
        return f"it has the dimensions {tuple(map(str, data.dims))}, not y and x."
    height, width = (data.sizes[name] for name in names)
    stored = next((known.affine for known in _stored(data)), None)
    if not set(names) <= set(data.coords):
        if stored is None:
            return (
                "there are no coordinates y and x and no stored transform; add the "
                "centres of pixels, data.assign_coords(y=..., x=...)."
            )
        return Grid(stored, height, width)
    lines = []
    for name in names:
        line = line_of(data[name].values, name)
        if isinstance(line, str):
            return line
        lines.append(line)
    if stored is not None and _is_rotated(stored):
        return _turned(data, stored, *lines)
    down, across = (line.step for line in lines)
    if down is None or across is None:
        sizes = _sizes_from(stored, *lines)
        if sizes is None:
            single = " and ".join(
                repr(n) for n, li in zip(names, lines, strict=True) if li.step is None
            )
            return (
                f"{single} has one value, from which the size of a pixel is not "
                "known, and no stored transform agrees with it; write it, "
                "data.rio.write_transform(affine.Affine(width, 0, left, 0, -height, "
                "top))."
            )
        down, across = sizes
    y, x = lines
    affine = (
        across,
        0.0,
        x.first - across / 2,
        0.0,
        down,
        y.first - down / 2,
    )
    found = Grid(affine, height, width)
    if stored is not None and found.shift(Grid(stored, height, width)) <= TOLERANCE:
        return Grid(stored, height, width)  # the same, without the rounding of centres
    return found


def _sizes_from(stored: Six | None, y: Line, x: Line) -> tuple[float, float] | None:
    """Return a pixel's height and width, where one is stored only; None if stale."""
    if stored is None:
        return None
    sizes = []
    for line, size, start in ((y, stored[4], stored[5]), (x, stored[0], stored[2])):
        if size == 0:
            return None
        if line.step is not None:
            if abs(line.step / size - 1) * line.size > TOLERANCE:
                return None  # made coarser since, so that the other axis may be too
            sizes.append(line.step)
            continue
        place = (line.first - start) / size - 0.5
        if abs(place - round(place)) > TOLERANCE:
            return None
        sizes.append(size)
    return sizes[0], sizes[1]


def _turned(data: Data, stored: Six, y: Line, x: Line) -> Grid | str:
    """Return a rotated grid, of coordinates that count pixels, as odc-geo has them."""
    names = spatial_axes(data)
    counted = names is not None and all(
        data[name].attrs.get("units") == "pixel" for name in names
    )
    if not counted:
        return rotation_in_words(stored) + (
            ", but y and x run along its axes. Where they are right, remove the "
            "transform, data.spatial_ref.attrs.pop('GeoTransform'); else reproject "
            "from the file, rioxarray.open_rasterio(path).rio.reproject('EPSG:...')."
        )
    down, across = (1.0 if line.step is None else line.step for line in (y, x))
    left, top = x.first - across / 2, y.first - down / 2
    a, b, c, d, e, f = stored
    affine = (
        a * across,
        b * down,
        a * left + b * top + c,
        d * across,
        e * down,
        d * left + e * top + f,
    )
    return Grid(affine, y.size, x.size)


def rotation_in_words(affine: Six) -> str:
    """Return how far a stored transform is turned, as the start of a sentence."""
    angle = math.degrees(math.atan2(affine[3], affine[0]))
    return f"The stored transform is rotated, by {angle:.4g} degrees"


def check_not_rotated(data: Data) -> None:
    """Check that rows and columns run along x and y.

    Raises
    ------
    CubeError
        If the stored transform is rotated; it says how to reproject.
    """
    stored = next((known.affine for known in _stored(data)), None)
    if "chip" in data.dims or stored is None or not _is_rotated(stored):
        return
    names = spatial_axes(data)
    coordinates = names is not None and set(names) <= set(data.coords)
    found = _of(data) if coordinates else None
    if isinstance(found, str):
        raise CubeError(found)
    raise CubeError(
        rotation_in_words(stored) + ": a cube's rows and columns run along y and x. "
        "Reproject the data, data.rio.reproject('EPSG:...') of the file as rioxarray "
        "opens it, or open the files with gb.from_rasters, which does this."
    )


def _is_rotated(affine: Six) -> bool:
    a, b, _, d, e, _ = affine
    return max(abs(b), abs(d)) > 1e-9 * max(abs(a), abs(e), 1e-300)


# --- stored transforms --------------------------------------------------------


@dataclass(frozen=True)
class _Stored:
    """A stored transform: in a grid mapping, or in the data's or a variable's attrs."""

    affine: Six
    holder: str | None
    key: str

    def replace(self, data: Data, grid: Grid | None) -> None:
        """Replace it, in data whose variables are its own; remove it without a grid."""
        if self.holder is None:
            data.attrs = dict(data.attrs)
            attrs = data.attrs
        else:
            variable = data[self.holder].variable.copy(deep=False)
            variable.attrs, encoding = dict(variable.attrs), variable.encoding
            if isinstance(data, xr.Dataset) and self.holder in data.data_vars:
                data[self.holder] = variable
            else:
                data.coords[self.holder] = variable
            data[self.holder].encoding = dict(encoding)
            attrs = data[self.holder].attrs
        if grid is None:
            del attrs[self.key]
        elif self.key == "GeoTransform":
            attrs[self.key] = " ".join(map(repr, map(float, grid.transform.to_gdal())))
        else:
            attrs[self.key] = grid.affine


def _stored(data: Data) -> Iterator[_Stored]:
    """Yield the stored transforms that other packages read, the first one first."""
    mapping = data.encoding.get("grid_mapping", "spatial_ref")
    scalars = [str(n) for n, c in data.coords.items() if c.ndim == 0]
    for name in sorted(scalars, key=lambda n: (n != mapping, n != "spatial_ref", n)):
        affine = _from_gdal(data[name].attrs.get("GeoTransform"))
        if affine is not None:
            yield _Stored(affine, name, "GeoTransform")
    holders: list[tuple[str | None, Mapping[Any, Any]]] = [(None, data.attrs)]
    if isinstance(data, xr.Dataset):
        holders += [(str(n), v.attrs) for n, v in data.data_vars.items()]
    for holder, attrs in holders:
        affine = six_numbers(attrs.get("transform"))
        if affine is not None:
            yield _Stored(affine, holder, "transform")


def _from_gdal(text: Any) -> Six | None:
    numbers = six_numbers(str(text).split() if text is not None else None)
    if numbers is None:
        return None
    c, a, b, f, d, e = numbers
    return a, b, c, d, e, f


def six_numbers(value: Any) -> Six | None:
    """Return the first six numbers of a transform, None of anything else.

    Also of text, as stackstac's attribute becomes when it is written to a file:
    "| 10.00, 0.00, 500000.00|..." or "Affine(10.0, 0.0, 500000.0, ...)".
    """
    if isinstance(value, str):
        value = _NUMBERS.findall(value)
    try:
        numbers = [float(number) for number in value][:6]
    except (TypeError, ValueError):
        return None
    if len(numbers) < 6 or not all(map(math.isfinite, numbers)):
        return None
    a, b, c, d, e, f = numbers
    return a, b, c, d, e, f


def _agrees(affine: Six, data: Data) -> bool:
    found = _of(data)
    if isinstance(found, str):
        return _is_rotated(affine)  # others are told of a rotation, from its transform
    if found.rotated:
        return True
    return found.same_as(Grid(affine, found.height, found.width))


def _tell_of_half_a_pixel(stored: Six, grid: Grid) -> None:
    """Warn where coordinates may name the corners of the stored transform's pixels."""
    width, height = grid.resolution
    a, _, c, _, e, f = stored
    if abs(width / a - 1) * grid.width > TOLERANCE:
        return
    if abs(height / e - 1) * grid.height > TOLERANCE:
        return
    columns, rows = (grid.affine[2] - c) / a, (grid.affine[5] - f) / e
    if all(abs(place % 1 - 0.5) <= TOLERANCE for place in (columns, rows)):
        warnings.warn(
            "y and x are half a pixel off the stored transform. They are taken for the "
            f"centres of pixels, of {abs(width):.10g} x {abs(height):.10g}, and the "
            "transform is replaced; where they name corners, add half a pixel to them.",
            stacklevel=4,
        )
