"""Adding chips to a cube: until the end it shows only those that it had."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import xarray as xr

from geobiomass.cube.encoding import MISSING, Dtype, Encoding, fingerprint_of
from geobiomass.cube.losses import CLIPPED, Losses
from geobiomass.cube.missing_values import TAKEN
from geobiomass.cube.same_call import is_same
from geobiomass.cube.schema import CubeError, is_chips, select_bands
from geobiomass.cube.sealing import ensure_seal
from geobiomass.cube.static_layers import (
    PIXELS,
    STATIC,
    layers_of,
    select_layers,
    units_of_layers,
)
from geobiomass.cube.store import open_cube, open_group
from geobiomass.cube.write_end import is_counted, tally_there, tidy_append
from geobiomass.cube.write_record import Record, create_record, has_record
from geobiomass.cube.write_target import (
    CubeDestination,
    Target,
    along_chips,
    open_arrays,
)
from geobiomass.training.files import sha256_of

if TYPE_CHECKING:
    import zarr


def open_to_append(
    cube: xr.Dataset, destination: CubeDestination, remembered: bool
) -> tuple[xr.Dataset, Target | None]:
    """Prepare a cube for more chips; until the end it shows only the old ones.

    Returns
    -------
    cube, target
        The chips in the form of the stored cube; no target where this call has
        finished before.
    """
    there = open_cube(destination.path, storage_options=destination.options)
    group = destination.group("r+")
    if _is_appended(cube, there, destination, group, remembered):
        tidy_append(group)
        ensure_seal(group)
        return cube, None
    cube = _fit_to(cube, there, destination)
    known = [str(chip) for chip in there["chip"].values]
    encoding = _encoding_there(group, cube, known)
    counted = is_counted(group, encoding)
    bands = [str(band) for band in there["band"].values]
    tally, layers = tally_there(group, bands, layers_of(there), encoding)
    if not counted and not has_record(group, encoding.fingerprint):
        create_record(group, cube, encoding.fingerprint)
    arrays = open_arrays(destination, cube)
    return cube, Target(
        group,
        {name: _lengthened(a, len(known), cube) for name, a in arrays.items()},
        Record(group) if has_record(group) else None,
        encoding,
        tally,
        layers,
        Losses.of(cube),
        _shown_losses(destination),
        first=len(known),
        begun=True,
        counted=counted,
    )


def _is_appended(
    cube: xr.Dataset,
    there: xr.Dataset,
    destination: CubeDestination,
    group: zarr.Group,
    remembered: bool,
) -> bool:
    """Return whether the last chips of a cube are those that a call appends."""
    if not (is_chips(cube) and is_chips(there)):
        return False
    theirs = [str(chip) for chip in there["chip"].values]
    first = len(theirs) - cube.sizes["chip"]
    if first < 1 or theirs[first:] != [str(chip) for chip in cube["chip"].values]:
        return False
    try:
        fitted = _fit_to(cube, there.isel(chip=slice(0, first)), destination)
        encoding = _encoding_there(group, fitted, theirs[:first])
    except CubeError:
        return False
    return is_same(fitted, encoding, group, there, remembered, first)


def _shown_losses(destination: CubeDestination) -> dict[str, str]:
    """Return the numbers of changed values of the chips that readers see."""
    attrs = open_group(destination.path, "r", destination.options)["image"].attrs
    return {name: str(attrs[name]) for name in (TAKEN, CLIPPED) if name in attrs}


def _fit_to(
    cube: xr.Dataset, there: xr.Dataset, destination: CubeDestination
) -> xr.Dataset:
    """Return chips in the form of a stored cube; raise where they do not fit it."""
    if not (is_chips(cube) and is_chips(there)):
        raise CubeError(
            f"append needs chips, and chips at {destination}; a scene cannot grow. "
            "Write it to another path."
        )
    both = sorted(
        set(map(str, there["chip"].values)) & set(map(str, cube["chip"].values))
    )
    if both:
        raise CubeError(
            f"{len(both)} of the chips to append are in {destination} already, such as "
            f"{both[:3]}; leave them out: cube.drop_sel(chip=[...])."
        )
    bands = tuple(str(band) for band in there["band"].values)
    cube = select_bands(cube, bands)
    cube = select_layers(cube, layers_of(there), f"{destination} has")
    for what, ours, theirs in (
        ("months", cube["month"].values.tolist(), there["month"].values.tolist()),
        ("pixels", *((d.sizes["y"], d.sizes["x"]) for d in (cube, there))),
        ("variables", *(along_chips(d) for d in (cube, there))),
        ("units of static layers", *(_units(d) for d in (cube, there))),
    ):
        if ours != theirs:
            raise CubeError(
                f"Chips to append to {destination} must have its {what}, {theirs}, got "
                f"{ours}."
            )
    for name in there.variables:
        if name in cube.variables and name not in PIXELS:
            cube[name].encoding = there[name].encoding
    return cube


def _units(cube: xr.Dataset) -> dict[str, str]:
    return units_of_layers(cube[STATIC]) if STATIC in cube else {}


def _encoding_there(
    group: zarr.Group, cube: xr.Dataset, known: Sequence[str]
) -> Encoding:
    """Read the encoding of a stored cube."""
    image = cast(Any, group["image"])
    dtype = str(image.dtype)
    if "statistics" not in group or dtype not in MISSING:
        raise CubeError(
            f"{group.store_path} was not written by this version's write_cube, so "
            "nothing can be appended to it; write it again."
        )
    steps: tuple[float, ...] = ()
    if dtype != "float32":
        steps = (float(image.attrs["scale_factor"]),)
    if "multiplier" in group:
        multiplier = np.asarray(group["multiplier"], np.float64)
        steps = tuple(float(round(m * steps[0], 12)) for m in multiplier)
    # The same chips after other chips are another task, with a separate record.
    after = sha256_of(repr(list(known)))
    return Encoding(
        cast(Dtype, dtype), steps, after + fingerprint_of(cube, dtype, steps)
    )


def _lengthened(
    array: zarr.Array[Any], first: int, cube: xr.Dataset
) -> zarr.Array[Any]:
    """Return an array with more chips, in memory only: on disk it stays as it was."""
    import zarr

    shape = (first + cube.sizes["chip"], *array.shape[1:])
    metadata = dataclasses.replace(cast(Any, array.metadata), shape=shape)
    return zarr.Array(zarr.AsyncArray(metadata, store_path=array.store_path))
