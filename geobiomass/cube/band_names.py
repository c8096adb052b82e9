"""The bands of users' data, stacked and named."""

from __future__ import annotations

import xarray as xr

from geobiomass.cube.axes import axis_changes, find_axes
from geobiomass.cube.schema import CubeError


def stack_bands(data: xr.Dataset | xr.DataArray) -> xr.DataArray:
    """Return (chip, month, band, y, x) in any order, its bands named."""
    if isinstance(data, xr.Dataset) and "image" in data:
        image = data["image"]
        image = image.rename(axis_changes(image))
    elif isinstance(data, xr.Dataset):
        image = _stack_variables(data)
    else:
        image = data.rename(axis_changes(data))
    if "band" not in image.dims:
        raise CubeError(
            f"A cube needs a band axis, got {image.dims}; name the single band, "
            "data.expand_dims(band=['B04'])."
        )
    return image.assign_coords(band=_band_names(image))


def _stack_variables(data: xr.Dataset) -> xr.DataArray:
    axes = find_axes(data)
    grid = {theirs for theirs, ours in axes.items() if ours in ("y", "x")}
    bands = {
        str(name): variable
        for name, variable in data.items()
        if len(grid) == 2 and grid <= set(map(str, variable.dims)) and name != "agb"
    }
    if not bands:
        raise CubeError(
            f"No variable has the dimensions y and x, got {dict(data.sizes)}; "
            "rename the axes of the grid to y and x."
        )
    stacked = xr.concat(
        xr.broadcast(*bands.values()),
        dim="band",
        coords="minimal",
        compat="override",
        join="exact",
        combine_attrs="drop",
    )
    names = [variable.attrs.get("long_name") for variable in bands.values()]
    plain = all(name.startswith("band_") for name in bands) and all(names)
    stacked = stacked.assign_coords(band=[*map(str, names)] if plain else list(bands))
    return stacked.rename({a: b for a, b in axes.items() if a != b})


def _band_names(image: xr.DataArray) -> list[str]:
    """Return the coordinate, or rioxarray's descriptions of numbered bands."""
    described = image.attrs.get("long_name")
    count = image.sizes["band"]
    if "band" in image.coords and image["band"].dtype.kind in "UOT":
        return [str(name) for name in image["band"].values]
    if isinstance(described, str) and count == 1:
        return [described]
    if isinstance(described, tuple | list) and len(described) == count:
        return [str(name) for name in described]
    got = image["band"].values.tolist() if "band" in image.coords else "no coordinate"
    raise CubeError(
        f"Coordinate 'band' must hold names, got {got}: bands are matched by name; "
        "fix it with data.assign_coords(band=['B02', ...])."
    )
