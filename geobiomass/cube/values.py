"""Values of users' arrays: scale, offset and declared nodata, decoded in one place.

Every function that takes arrays or files of users decodes them here. Attributes of a
variable say what is still to be done with its values; its encoding, which xarray fills
when it decodes, says what was done.
"""

from __future__ import annotations

import warnings
from collections.abc import Hashable, Iterable, Mapping
from typing import Any, cast

import numpy as np
import xarray as xr
from pandas import MultiIndex

from geobiomass.cube.axes import MapData
from geobiomass.cube.missing_values import (
    NEVER_STORED,
    Teller,
    in_words,
    tell,
    without_fills,
)
from geobiomass.cube.schema import CubeError

# "nodata" is odc-stac's name, "_FillValue" that of CF and rioxarray.
_FILLS = ("_FillValue", "missing_value", "nodata", "fill_value")
# Those with an s are rioxarray's, one number a band, where bands differ.
_SCALES = ("scale_factor", "add_offset", "scales", "offsets", "_Unsigned")
UNDECODED = {*_FILLS, *_SCALES}


def decoded(
    data: xr.Dataset | xr.DataArray,
    nodata: float | None = None,
    *,
    instead: bool = False,
) -> xr.Dataset | xr.DataArray:
    """Apply scale, offset and nodata as attributes and encoding state them.

    Scale and offset in the attributes are applied; in the encoding they were applied
    before. Nodata counts wherever it is stated: as ``_FillValue``, ``missing_value``
    or ``nodata``, in attributes or encoding. The CRS becomes a coordinate.

    Parameters
    ----------
    data : xarray.Dataset or xarray.DataArray
        As users have it, lazy or not.
    nodata : float, optional
        One more value of missing pixels, as they are stored (before scale and offset);
        not for ``agb``.
    instead : bool
        Use `nodata` in the place of what the data declares.

    Returns
    -------
    xarray.Dataset or xarray.DataArray
        Floating point with NaN where missing; whole numbers stay if nothing says which
        value is missing. Neither attributes nor encoding mention it any more.
    """
    if isinstance(data, xr.DataArray):
        name = data.name
        whole = decoded(data.to_dataset(name="image"), nodata, instead=instead)
        return cast(xr.Dataset, whole)["image"].rename(name)
    data = with_grid_mapping(_unstacked(data.copy()))
    strange: dict[str, list[str]] = {}
    teller = Teller(quiet=True)
    prepared = {}
    for name, variable in data.variables.items():
        attrs = dict(variable.attrs)
        if attrs.get("grid_mapping") not in data.variables:
            attrs.pop("grid_mapping", None)  # lost when variables were selected
        if name not in data.data_vars and not UNDECODED & attrs.keys():
            continue  # a coordinate's fill value in the encoding marks nothing
        image = name in data.data_vars and name != "agb"
        given = nodata if image else None
        ready = _prepared(
            str(name), variable, attrs, given, instead and given is not None, teller
        )
        if ready is not None:
            prepared[name] = ready[0]
            for sentence in ready[1]:
                strange.setdefault(sentence, []).append(str(name))
    for name, variable in prepared.items():
        data[name] = variable
    _tell_strange(strange)
    if teller.found:
        tell(in_words(teller.found), stacklevel=4)
    found = xr.decode_cf(data, decode_coords="all", decode_timedelta=False)
    for name in prepared:
        if name in found.variables:
            _forget(found[name])
    return found


def _prepared(
    name: str,
    variable: xr.Variable,
    attrs: dict[str, Any],
    nodata: float | None,
    instead: bool,
    teller: Teller,
) -> tuple[xr.Variable, list[str]] | None:
    """Return a variable that xarray decodes right, and what was strange about it."""
    times = "since" in str(attrs.get("units", ""))
    numbers = variable.dtype.kind in "iuf" and not times and variable.ndim > 0
    stated = UNDECODED & {*variable.attrs, *variable.encoding}
    if not numbers or (nodata is None and not stated):
        if attrs == variable.attrs:
            return None
        return variable._replace(attrs=attrs), []
    encoding = dict(variable.encoding)
    unsigned = str(attrs.get("_Unsigned", "")).lower()
    before = {"scale_factor", "add_offset", "scales", "offsets"} & encoding.keys()
    done = variable.dtype.kind == "f" and bool(before)
    if done:  # decoded before; equal attributes were copied back by hand
        for key in (*_SCALES, *_FILLS):
            attrs.pop(key, None)
    # Decoded values have NaN there; what is equal to a stored fill value is a value.
    masked = done or (
        variable.dtype.kind == "f" and np.dtype(encoding.get("dtype", "f4")).kind != "f"
    )
    sources: list[Mapping[str, Any]] = [attrs] if masked else [attrs, encoding]
    fills = [f for source in sources for key in _FILLS for f in _numbers(source, key)]
    if instead:
        fills = []
    if nodata is not None:
        fills.append(float(nodata))
        if done:
            fills.append(_as_decoded(float(nodata), encoding))
    whole = (
        np.dtype(encoding.get("dtype") or encoding.get("rasterio_dtype") or "f4").kind
        in "iu"
    )
    scale = encoding.get("scale_factor", 1.0)
    if done and whole and scale != 1.0 and not any(k in encoding for k in _FILLS):
        gone = [_as_decoded(fill, encoding) for fill in NEVER_STORED]
        variable = without_fills(variable, name, teller, gone)
    declared = bool(fills)
    for key in _FILLS:
        attrs.pop(key, None)
    for key in UNDECODED:
        encoding.pop(key, None)
    variable = variable._replace(encoding=encoding)
    if unsigned in ("true", "false") and variable.dtype.kind in "iu":
        kind = "u" if unsigned == "true" else "i"
        variable = variable.astype(f"{kind}{variable.dtype.itemsize}")
        size = 2 ** (8 * variable.dtype.itemsize)
        fills = [f + size if kind == "u" and f < 0 else f for f in fills]
    attrs.pop("_Unsigned", None)
    variable = _scaled_by_band(variable, attrs, fills)
    usable, strange = _usable(fills, variable.dtype)
    scaled = {"scale_factor", "add_offset"} & attrs.keys()
    if scaled and not usable:
        variable = without_fills(variable, name, teller)
    for other in usable[1:]:  # xarray takes one; the others become that one
        variable = _replaced(variable, other, usable[0])
    if usable:
        attrs["_FillValue"] = usable[0]
    elif declared and variable.dtype.kind in "iu" and "scale_factor" not in attrs:
        # Declared, and no pixel has it: none is missing.
        variable = variable.astype(np.float32)
    return variable._replace(attrs=attrs), strange


def _numbers(source: Mapping[str, Any], key: str) -> Iterable[float]:
    """Yield the numbers of an attribute: a number, text, or several."""
    value = source.get(key)
    if value is None:
        return
    values = [value] if isinstance(value, str) else np.ravel(np.asarray(value, object))
    for one in values:
        try:
            yield float(one)
        except (TypeError, ValueError):
            continue  # "none", or another word for no value


def _usable(fills: list[float], dtype: np.dtype[Any]) -> tuple[list[Any], list[str]]:
    """Return the values that an array can have, and sentences about the others."""
    found: dict[Any, None] = {}
    strange = []
    for fill in dict.fromkeys(fills):
        if dtype.kind == "f":
            with np.errstate(over="ignore"):
                value = dtype.type(fill)
            # NaN is missing anyway. As float32, so that 1e20 finds what 1e20 became.
            if not np.isnan(value):
                found[value] = None
            continue
        if np.isnan(fill):
            continue  # no whole number is missing
        limits = np.iinfo(dtype)
        if fill.is_integer() and limits.min <= fill <= limits.max:
            found[dtype.type(int(fill))] = None
        else:
            strange.append(f"{fill:g} is no value of {dtype}")
    return list(found), [] if found else strange


def _tell_strange(strange: Mapping[str, list[str]]) -> None:
    """Warn once of declared nodata that no pixel can have."""
    if not strange:
        return
    lines = "; ".join(f"{', '.join(names)}: {s}" for s, names in strange.items())
    warnings.warn(
        f"The declared nodata is ignored, no pixel can have it ({lines}): all pixels "
        "are taken for values. If another value marks missing pixels, give it, "
        "gb.as_cube(data, nodata=...).",
        stacklevel=4,
    )


def _as_decoded(nodata: float, encoding: Mapping[str, Any]) -> float:
    """Return nodata in the units of values that xarray has decoded."""
    scale, offset = (encoding.get(k, d) for k, d in _ONE_SCALE.items())
    return float(np.float32(nodata * float(scale) + float(offset)))


_ONE_SCALE = {"scale_factor": 1.0, "add_offset": 0.0}


def _scaled_by_band(
    variable: xr.Variable, attrs: dict[str, Any], fills: list[float]
) -> xr.Variable:
    """Apply scales and offsets that rioxarray states by band; make single ones plain.

    The values of `fills` are masked before, and the list is then empty.
    """
    for many, one in (("scales", "scale_factor"), ("offsets", "add_offset")):
        values = np.ravel(np.asarray(attrs.get(many, []), np.float64))
        if values.size and len(set(values)) == 1:
            attrs.setdefault(one, float(values[0]))
            del attrs[many]
        elif many in attrs and values.size not in variable.shape:
            raise CubeError(
                f"The attribute {many!r} must have a number for each band, got "
                f"{values.tolist()} for {dict(variable.sizes)}; apply them yourself, "
                "and drop the attributes with data.drop_attrs()."
            )
    if not {"scales", "offsets"} & attrs.keys():
        for key, plain in _ONE_SCALE.items():
            if key in attrs:
                attrs[key] = float(np.ravel(np.asarray(attrs[key], np.float64))[0])
            if attrs.get(key) == plain:
                del attrs[key]
        return variable
    stored = variable.astype(np.float64)
    for fill in _usable(fills, variable.dtype)[0]:
        stored = _replaced(stored, np.float64(fill), np.nan)
    fills.clear()
    scales, offsets = attrs.pop("scales", None), attrs.pop("offsets", None)
    scale = attrs.pop("scale_factor", 1.0) if scales is None else scales
    offset = attrs.pop("add_offset", 0.0) if offsets is None else offsets
    count = max(np.size(scale), np.size(offset))
    names = [d for d in variable.dims if variable.sizes[d] == count]
    dim = "band" if "band" in names else names[0]
    by_band = [
        xr.Variable((dim,), np.broadcast_to(np.asarray(x, np.float64), count))
        for x in (scale, offset)
    ]
    result = (stored * by_band[0] + by_band[1]).transpose(*variable.dims)
    return result.astype(np.float32)


def _states_something(layer: xr.DataArray) -> bool:
    """Return whether attributes, or the encoding of whole numbers, ask for decoding."""
    whole = layer.dtype.kind in "iu"
    return bool(UNDECODED & {*layer.attrs, *(layer.encoding if whole else ())})


def decoded_layers(data: MapData) -> MapData:
    """Return a map with its values decoded; one that states nothing stays as it is.

    Raises
    ------
    CubeError
        If `data` is no map of xarray.
    """
    if not isinstance(data, xr.Dataset | xr.DataArray):
        raise CubeError(
            "The map must be an xarray Dataset or DataArray, got a "
            f"{type(data).__name__}; open a file first, with rioxarray or xr.open_zarr."
        )
    layers: list[xr.DataArray] = (
        list(data.data_vars.values()) if isinstance(data, xr.Dataset) else [data]
    )
    stated = any(map(_states_something, layers))
    return cast(MapData, decoded(data)) if stated else data


def as_float32(array: xr.DataArray) -> xr.DataArray:
    """Return float32, infinite where a float64 is too large, as fill values are."""
    if array.dtype != np.float64:
        return array.astype(np.float32)
    if array.chunks is not None:
        data = array.data.map_blocks(_cast, dtype=np.float32)
        return array.copy(data=data)
    return array.copy(data=_cast(array.values))


def _cast(values: Any) -> Any:
    with np.errstate(over="ignore"):
        return values.astype(np.float32)


def _replaced(variable: xr.Variable, fill: Any, value: Any) -> xr.Variable:
    """Return a variable with another value in the place of a fill value."""
    array = xr.DataArray(variable)
    return array.where(array != fill, value).variable


def _forget(variable: xr.DataArray) -> None:
    """Drop what decoding left in the encoding: it no longer says how to write."""
    for key in (*UNDECODED, "dtype"):
        variable.encoding.pop(key, None)


def _unstacked(data: xr.Dataset) -> xr.Dataset:
    """Unstack the axis in which xbatcher puts all dimensions that it does not cut."""
    many = [dim for dim in data.dims if isinstance(data.indexes.get(dim), MultiIndex)]
    if not many:
        return data
    data = data.unstack(many)
    if "agb" in data:  # repeated for each month and band, to have the same axis
        once: dict[Hashable, int] = {
            dim: 0 for dim in ("month", "band") if dim in data["agb"].dims
        }
        data["agb"] = data["agb"].isel(once, drop=True)
    return data


def with_grid_mapping(data: xr.Dataset) -> xr.Dataset:
    """Make the grid mapping a coordinate, under the name that rioxarray expects."""
    for name, variable in data.variables.items():
        if variable.ndim == 0 and {"crs_wkt", "spatial_ref"} & variable.attrs.keys():
            data = data.set_coords(name)
            return data if name == "spatial_ref" else data.rename({name: "spatial_ref"})
    return data


def missing_as_nan(image: xr.DataArray) -> xr.DataArray:
    """Return the bands' values as floats, NaN where missing."""
    if "multiplier" in image.coords:  # a cube that plain xarray opened
        image = image * image["multiplier"].astype(np.float32)
    if not np.issubdtype(image.dtype, np.floating):
        raise CubeError(
            f"Values are {image.dtype} and no attribute says which value marks missing "
            "pixels; pass gb.as_cube(data, nodata=...), or data.astype('float32') "
            "where no pixel is missing."
        )
    return image
