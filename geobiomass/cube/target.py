"""The target of users' data: biomass, or another quantity, on the cube's grid."""

from __future__ import annotations

import numpy as np
import xarray as xr

from geobiomass.cube.alignment import check_one_grid
from geobiomass.cube.axes import axis_changes
from geobiomass.cube.corners import centred
from geobiomass.cube.schema import CubeError


def target_on(image: xr.DataArray, agb: xr.DataArray) -> xr.Variable:
    """Return the target as a variable of the cube, with the image's dimensions."""
    agb = centred(agb)
    changes = axis_changes(agb)
    agb = agb.rename(changes)
    dims = tuple(dim for dim in image.dims if dim not in ("month", "band"))
    if set(agb.dims) != set(dims):
        raise CubeError(f"Dimensions of 'agb' must be {dims}, got {agb.dims}.")
    check_one_grid(image, agb)
    target = agb.astype(np.float32).transpose(*dims).variable
    return xr.Variable(dims, target.data, {"units": "Mg/ha"})
