"""The schema of a cube: variables, dimensions and coordinates, and their check."""

from __future__ import annotations

import numpy as np
import xarray as xr

from geobiomass.cube.errors import ChangedError as ChangedError
from geobiomass.cube.errors import CubeError as CubeError
from geobiomass.cube.errors import DamagedError as DamagedError
from geobiomass.cube.errors import UnreachableError as UnreachableError
from geobiomass.cube.known_bands import missing_bands
from geobiomass.cube.spacing import line_of
from geobiomass.cube.static_layers import STATIC, check_static
from geobiomass.training.setting_names import explain_arguments

BIOMASSTERS_BANDS = (
    "VV_asc", "VH_asc", "VV_desc", "VH_desc",
    "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12", "CLP",
)  # fmt: skip
"""Bands of a BioMassters chip, in the order of its files: Sentinel-1, Sentinel-2."""

SCENE_DIMS = ("month", "band", "y", "x")
CHIP_DIMS = ("chip", *SCENE_DIMS)


def is_chips(cube: xr.Dataset) -> bool:
    """Return whether a cube is a collection of chips, not one scene."""
    return "chip" in cube["image"].dims


@explain_arguments
def check_cube(cube: xr.Dataset) -> None:
    """Check a dataset against the schema of a cube, without reading pixels.

    Parameters
    ----------
    cube : xarray.Dataset
        ``image`` (month, band, y, x) or (chip, month, band, y, x), floating
        point, NaN where missing; optionally ``agb`` (y, x) or (chip, y, x), Mg/ha,
        and ``agb_se``, the standard errors of these labels; optionally ``static``
        (layer, y, x) or (chip, layer, y, x), with names along ``layer`` and the units
        of each layer in its attribute ``units``, JSON text.

    Raises
    ------
    CubeError
        If it is not a cube; the message names the wrong part.
    """
    if not isinstance(cube, xr.Dataset):
        raise CubeError(
            f"A cube must be an xarray.Dataset, got {type(cube).__name__}; "
            "gb.as_cube makes one from an array or one variable per band."
        )
    if "image" not in cube:
        raise CubeError(
            f"A cube must have a variable 'image', got {sorted(map(str, cube))}; "
            "gb.as_cube makes one from one variable per band."
        )
    image = cube["image"]
    if image.dims not in (SCENE_DIMS, CHIP_DIMS):
        raise CubeError(
            f"Dimensions of 'image' must be {SCENE_DIMS} or {CHIP_DIMS}, "
            f"got {image.dims}; fix it with image.transpose(...) or rename."
        )
    if not np.issubdtype(image.dtype, np.floating):
        raise CubeError(
            f"'image' must be floating point with NaN where missing, got "
            f"{image.dtype}; gb.as_cube(data, nodata=...) converts it."
        )
    for dim, size in image.sizes.items():
        if size == 0:
            raise CubeError(f"Dimension {dim!r} of 'image' must not be empty.")
    _check_bands(image)
    _check_months(image)
    if is_chips(cube):
        _check_chips(image)
    else:
        _check_grid(image)
    if "agb" in cube:
        _check_target(cube)
        if "agb_se" in cube:
            _check_errors(cube)
    if STATIC in cube:
        check_static(cube)


def _check_bands(image: xr.DataArray) -> None:
    if "band" not in image.coords:
        raise CubeError(
            "Coordinate 'band' is missing: bands are matched by name; fix it with "
            "cube.assign_coords(band=['B02', ...])."
        )
    names = [str(name) for name in image["band"].values]
    if image["band"].dtype.kind not in "UOT":
        raise CubeError(
            f"Coordinate 'band' must hold names, got {image['band'].dtype} {names}."
        )
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise CubeError(f"Coordinate 'band' must not repeat names, got {twice} twice.")


def _check_months(image: xr.DataArray) -> None:
    if "month" not in image.coords:
        raise CubeError(
            "Coordinate 'month' is missing: it holds the calendar month 1 to 12 of "
            "each step; fix it with cube.assign_coords(month=[9, 10, ...])."
        )
    months = image["month"].values
    whole = np.issubdtype(months.dtype, np.integer)
    if not whole or ((months < 1) | (months > 12)).any():
        raise CubeError(
            "Coordinate 'month' must hold calendar months, whole numbers from 1 to "
            f"12, got {months.tolist()}."
        )


def _check_chips(image: xr.DataArray) -> None:
    if "chip" not in image.coords:
        raise CubeError("Coordinate 'chip' is missing: it holds the chips' ids.")
    index = image.indexes["chip"]
    if not index.is_unique:
        twice = index[index.duplicated()].unique()[:5].tolist()
        raise CubeError(f"Coordinate 'chip' must not repeat ids, got {twice} twice.")


def _check_grid(image: xr.DataArray) -> None:
    for dim in ("y", "x"):
        if dim not in image.coords:
            raise CubeError(
                f"Coordinate {dim!r} is missing: a scene carries the coordinates of "
                "its pixels' centres."
            )
        line = line_of(image[dim].values, dim)
        if isinstance(line, str):
            raise CubeError(line)


def _check_target(cube: xr.Dataset) -> None:
    image, agb = cube["image"], cube["agb"]
    dims = tuple(dim for dim in image.dims if dim not in ("month", "band"))
    if agb.dims != dims:
        raise CubeError(f"Dimensions of 'agb' must be {dims}, got {agb.dims}.")
    if not np.issubdtype(agb.dtype, np.floating):
        raise CubeError(
            "'agb' must be floating point with NaN where unlabelled, got "
            f"{agb.dtype}; fix it with cube.agb.astype('float32')."
        )


def _check_errors(cube: xr.Dataset) -> None:
    agb, errors = cube["agb"], cube["agb_se"]
    if errors.dims != agb.dims:
        raise CubeError(
            f"Dimensions of 'agb_se', the standard errors of the labels, must be those "
            f"of 'agb', {agb.dims}, got {errors.dims}; give an error for each pixel, "
            "or leave it out, cube.drop_vars('agb_se')."
        )
    if not np.issubdtype(errors.dtype, np.floating):
        raise CubeError(
            f"'agb_se' must be floating point with NaN where unlabelled, got "
            f"{errors.dtype}; fix it with cube.agb_se.astype('float32')."
        )


def select_bands(cube: xr.Dataset, bands: tuple[str, ...]) -> xr.Dataset:
    """Select bands by name, in this order; other bands are left out.

    Raises
    ------
    CubeError
        If bands are missing; the message names all of them.
    """
    there = [str(name) for name in cube["band"].values]
    lacking = [name for name in bands if name not in there]
    if lacking:
        raise missing_bands(lacking, there, bands)
    if there == list(bands):
        return cube
    return cube.isel(band=[there.index(name) for name in bands])
