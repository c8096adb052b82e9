"""The target of users' data: biomass, or another quantity, on the cube's grid."""

from __future__ import annotations

import numpy as np
import xarray as xr

from geobiomass.cube.axes import axis_changes
from geobiomass.cube.schema import CubeError


def target_on(image: xr.DataArray, agb: xr.DataArray) -> xr.Variable:
    """Return the target as a variable of the cube, with the image's dimensions."""
    changes = axis_changes(agb)
    agb = agb.rename(changes)
    dims = tuple(dim for dim in image.dims if dim not in ("month", "band"))
    if set(agb.dims) != set(dims):
        raise CubeError(f"Dimensions of 'agb' must be {dims}, got {agb.dims}.")
    _check_same_grid(image, agb)
    target = agb.astype(np.float32).transpose(*dims).variable
    return xr.Variable(dims, target.data, {"units": "Mg/ha"})


def _check_same_grid(image: xr.DataArray, agb: xr.DataArray) -> None:
    for dim in ("y", "x"):
        if dim not in image.coords or dim not in agb.coords:
            continue
        ours, theirs = image[dim].values, agb[dim].values
        if ours.shape != theirs.shape or not np.allclose(ours, theirs):
            raise CubeError(
                f"'agb' must be on the grid of the image, but {dim!r} has "
                f"{theirs.size} values from {theirs[0]} to {theirs[-1]} against "
                f"{ours.size} from {ours[0]} to {ours[-1]}; reproject it first, "
                "agb.rio.reproject_match(image)."
            )
