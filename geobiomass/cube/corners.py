"""Coordinates that name pixels' corners, as of stackstac, moved to centres."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from geobiomass.cube.axes import spatial_axes
from geobiomass.cube.coordinate_units import check_units, in_metres
from geobiomass.cube.grid import MapData, Six, placed, six_numbers
from geobiomass.cube.schema import CubeError
from geobiomass.cube.spacing import TOLERANCE

MOVED = "coordinates_moved"
"""Attribute of data whose coordinates were moved from corners to centres: how far."""

# stackstac.stack writes the first three as attributes. Their transform is that of the
# array's corner, whether coordinates are centres or corners (xy_coords="topleft", its
# default, https://stackstac.readthedocs.io/en/latest/api/main/stackstac.stack.html).
_STACKSTAC = ("spec", "transform", "resolution", "xy_coords")
_CORNERS = ("topleft", "bottomleft")


def centred(data: MapData) -> MapData:
    """Return data whose coordinates y and x are the centres of pixels.

    CF bounds (``x_bnds``, named by a coordinate's attribute ``bounds``) decide where
    they exist. Else corners are recognised by the attribute ``transform``, on whose
    lattice of corners they are, or by an attribute ``xy_coords``. They are moved by
    half a pixel of that transform, which is right for every n-th pixel and for means of
    n pixels too, not only for a crop. The attribute ``coordinates_moved`` and one
    warning say how far. Other data is returned as it is.

    Raises
    ------
    CubeError
        If stackstac's attributes do not tell corners from centres any more, because the
        array was made coarser by an even number or interpolated.
    """
    data = _between_bounds(in_metres(data))
    attrs = _attributes(data)
    transform = six_numbers(attrs.get("transform"))
    names = spatial_axes(data)
    if transform is None or names is None or "chip" in data.dims:
        return data
    if not set(names) <= set(data.coords):
        return data
    a, b, c, d, e, f = transform
    stated, spec = attrs.get("xy_coords"), "spec" in attrs
    if spec and not (a and e):  # text has two decimals, of degrees too
        raise CubeError(_unclear(transform))
    if b or d or not a or not e:
        return data
    kinds = {
        _kind(np.asarray(data[name].values), start, size, spec)
        for name, start, size in zip(names, (f, c), (e, a), strict=True)
    }
    corners = kinds == {"corner"} if stated is None else stated in _CORNERS
    if stated is None and spec and kinds not in ({"corner"}, {"centre"}):
        raise CubeError(_unclear(transform))
    if not corners:
        return data
    return _moved(data, names, transform, str(stated or "topleft"))


def located(data: MapData) -> MapData:
    """Return data whose coordinates are centres, and whose transforms are theirs."""
    made = centred(data)
    check_units(made)
    return placed(made)


def _between_bounds(data: MapData) -> MapData:
    """Return data whose coordinates are in the middle of their CF bounds.

    Bounds that are farther off than half a pixel are not those of the coordinates.
    """
    half: dict[str, float] = {}
    for name in spatial_axes(data) or ():
        if "chip" in data.dims or name not in data.coords:
            continue
        coordinate = data[name]
        key = coordinate.attrs.get("bounds", coordinate.encoding.get("bounds"))
        known: Any = data.coords if key in data.coords else data
        if key is None or (known is data and key not in getattr(data, "data_vars", {})):
            continue
        values, edges = coordinate.values, np.asarray(known[key].values)
        if edges.shape != (*values.shape, 2) or edges.dtype.kind not in "fiu":
            continue
        size = np.abs(edges[:, 1] - edges[:, 0]).astype(float)
        away = edges.mean(axis=1) - values
        even = np.ptp(away) <= TOLERANCE * size.max()
        if even and TOLERANCE < abs(away[0]) / size.max() <= 0.5 + TOLERANCE:
            half[name] = float(away[0])
    if not half:
        return data
    made: Any = data.assign_coords(
        {
            n: data[n].copy(data=np.asarray(data[n].values, float) + half[n])
            for n in half
        }
    )
    words = ", ".join(f"{name} {by:+.10g}" for name, by in half.items())
    made.attrs = {**made.attrs, MOVED: f"{words}: to the middle of their bounds"}
    warnings.warn(
        "The coordinates are not in the middle of their CF bounds (attribute "
        f"'bounds'). They are moved there, {words}. Where they are centres already, "
        "remove that attribute.",
        stacklevel=5,
    )
    return cast(MapData, made)


def _attributes(data: MapData) -> Mapping[Any, Any]:
    """Return the attributes that stackstac writes, of a dataset or its variables."""
    found: dict[Any, Any] = dict(data.attrs)
    if hasattr(data, "data_vars"):
        for variable in data.data_vars.values():
            if "transform" in variable.attrs:
                found = {**variable.attrs, **found}
                break
    return found


def _kind(
    values: npt.NDArray[Any], start: float, size: float, coarser: bool
) -> str | None:
    """Return whether coordinates are "corner" or "centre" of a lattice from `start`.

    None if they are neither. With `coarser` they may be every n-th pixel or means of n
    pixels of the lattice, for an odd n; after an even n nothing tells them apart.
    """
    if values.ndim != 1 or not np.issubdtype(values.dtype, np.number):
        return None
    places = (values.astype(np.float64)[[0, -1]] - start) / size
    if not np.isfinite(places).all():
        return None
    times = abs(places[1] - places[0]) / (values.size - 1) if values.size > 1 else 1.0
    n = round(times)
    if abs(times - n) * values.size > TOLERANCE or n % 2 == 0 or (n > 1 > coarser):
        return None
    # Means of n corners are corners plus (n - 1) / 2: whole for an odd n, like corners.
    if np.abs(places - np.round(places)).max() <= TOLERANCE:
        return "corner"
    return "centre" if np.abs(places % 1 - 0.5).max() <= TOLERANCE else None


def _moved(data: MapData, names: tuple[str, str], transform: Six, kind: str) -> MapData:
    a, _, _, _, e, _ = transform
    half = {names[1]: a / 2, names[0]: -e / 2 if kind == "bottomleft" else e / 2}
    made: Any = data.assign_coords(
        {
            name: data[name].copy(data=np.asarray(data[name].values, float) + by)
            for name, by in half.items()
        }
    )
    words = (
        f"x {half[names[1]]:+.10g}, y {half[names[0]]:+.10g}: from corners of pixels "
        "to centres"
    )
    for one in (made, *getattr(made, "data_vars", {}).values()):
        one.attrs = {k: v for k, v in one.attrs.items() if k not in _STACKSTAC}
    made.attrs[MOVED] = words
    warnings.warn(
        "The coordinates name the corners of pixels, by the attribute 'transform' (as "
        "stackstac writes it, xy_coords='topleft'). They are moved to the centres, "
        f"{words}. Where they are centres already, remove that attribute.",
        stacklevel=4,
    )
    return cast(MapData, made)


def _unclear(transform: Six) -> str:
    return (
        "stackstac's attributes do not tell any more whether y and x name corners or "
        f"centres of pixels: they describe pixels of {transform[0]:.10g} x "
        f"{abs(transform[4]):.10g}, which the array does not have. Convert it before "
        "it is made coarser or interpolated, gb.as_cube(stack); or, where y and x are "
        "centres, remove the attributes, array.attrs = {}."
    )
