"""Whether two arrays are on one grid, up to a hundredth of a pixel."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from geobiomass.cube.axes import spatial_axes
from geobiomass.cube.grid import Grid
from geobiomass.cube.schema import CubeError
from geobiomass.cube.spacing import TOLERANCE, Line, line_of

Data = xr.Dataset | xr.DataArray


def check_one_grid(
    ours: Data,
    theirs: Data,
    name: str = "'agb'",
    of: str = "the image",
) -> None:
    """Check that an array is on the grid of another, pixel by pixel.

    Coordinates are compared in pixels, not in parts of their own size: at a northing
    of 6,900,000 m a hundred-thousandth is 69 m. An array without coordinates is
    compared by its stored transform, and without both by its shape.

    Parameters
    ----------
    ours, theirs : xarray.Dataset or xarray.DataArray
        The array with the grid, and the one to check, with axes y and x.
    name, of : str
        Words of error messages for `theirs` and `ours`.

    Raises
    ------
    CubeError
        If sizes or reference systems differ, or a pixel is shifted by more than a
        hundredth of a pixel.
    """
    axes, others = spatial_axes(ours), spatial_axes(theirs)
    if axes is None or others is None:
        return
    remedy = "reproject it first, {}.rio.reproject_match({})".format(
        "agb" if name == "'agb'" else "raster", of.split()[-1]
    )
    sizes = [tuple(d.sizes[n] for n in a) for d, a in ((ours, axes), (theirs, others))]
    if sizes[0] != sizes[1]:
        raise CubeError(
            f"{name} must be on the grid of {of}, but has {sizes[1][0]} x "
            f"{sizes[1][1]} pixels against {sizes[0][0]} x {sizes[0][1]};"
            f"{_extents(ours, theirs)} {remedy}."
        )
    if "chip" in ours.dims:
        return
    _check_system(
        ours, theirs, f"{name} must be in the reference system of {of}", remedy
    )
    if not (set(axes) <= set(ours.coords) and set(others) <= set(theirs.coords)):
        _check_transforms(ours, theirs, name, of, remedy)
        return
    for dim, other in zip(axes, others, strict=True):
        here, there = ours[dim].values, theirs[other].values
        pixels = _pixels_apart(here, there, dim, ours)
        if pixels > TOLERANCE:
            raise CubeError(
                f"{name} must be on the grid of {of}, but along {dim!r} it is up to "
                f"{pixels:.3g} pixels off (at most a hundredth of a pixel is one "
                f"grid): {_ends(there)} against {_ends(here)}{_reversed(here, there)}; "
                f"{remedy}."
            )


def _pixels_apart(
    here: npt.NDArray[Any], there: npt.NDArray[Any], dim: str, ours: Data
) -> float:
    """Return the largest distance of two arrays of coordinates, in pixels."""
    line = line_of(here, dim)
    if isinstance(line, str):
        raise CubeError(line)
    apart = np.abs(there.astype(np.float64) - here.astype(np.float64)).max()
    if np.isnan(apart):
        return float("inf")
    return float(apart / abs(line.step or _stored_size(ours, dim, line)))


def _stored_size(ours: Data, dim: str, line: Line) -> float:
    """Return the size of the pixels of a single row or column."""
    try:
        width, height = Grid.of(ours).resolution
    except CubeError:  # not known: coordinates have to be equal, up to rounding
        return float(100 * np.spacing(max(abs(line.first), 1.0)))
    return height if dim == (spatial_axes(ours) or ("", ""))[0] else width


def _check_transforms(
    ours: Data, theirs: Data, name: str, of: str, remedy: str
) -> None:
    """Compare the stored transform of an array without coordinates."""
    try:
        here, there = Grid.of(ours), Grid.of(theirs)
    except CubeError:
        return  # nothing says where one of them is
    if not here.same_as(there):
        raise CubeError(
            f"{name} must be on the grid of {of}, but its transform {there.affine} is "
            f"{here.shift(there):.3g} pixels off {here.affine}; {remedy}."
        )


def _check_system(ours: Data, theirs: Data, must: str, remedy: str) -> None:
    here, there = crs_text(ours), crs_text(theirs)
    if here is None or there is None or here == there:
        return
    from pyproj import CRS
    from pyproj.exceptions import CRSError

    try:
        systems = [CRS.from_user_input(each) for each in (here, there)]
    except CRSError:
        return  # what cannot be read is refused where it is needed
    one, other = systems
    codes = [each.to_epsg() for each in systems]
    if one.equals(other, ignore_axis_order=True) or (
        codes[0] is not None and codes[0] == codes[1]
    ):
        return
    raise CubeError(f"{must}, {one.name}, got {other.name}; {remedy}.")


def crs_text(data: Data) -> str | None:
    """Return the reference system of a grid mapping as text, None without one."""
    mapping = data.encoding.get("grid_mapping", "spatial_ref")
    scalars = [str(n) for n, c in data.coords.items() if c.ndim == 0]
    for name in sorted(scalars, key=lambda n: (n != mapping, n != "spatial_ref", n)):
        attrs = data[name].attrs
        text = attrs.get("crs_wkt", attrs.get("spatial_ref"))
        if text:
            return str(text)
    return None


def _extents(ours: Data, theirs: Data) -> str:
    words = []
    for one, other in zip(
        spatial_axes(ours) or (), spatial_axes(theirs) or (), strict=True
    ):
        if one in ours.coords and other in theirs.coords:
            here, there = ours[one].values, theirs[other].values
            words.append(f" {one!r} is {_ends(there)} against {_ends(here)};")
    return "".join(words)


def _ends(values: npt.NDArray[Any]) -> str:
    return f"{values[0]:.12g} to {values[-1]:.12g}" if values.size else "empty"


def _reversed(here: npt.NDArray[Any], there: npt.NDArray[Any]) -> str:
    if here.size > 1 and (here[-1] - here[0]) * (there[-1] - there[0]) < 0:
        return ", the other way round"
    return ""
