"""Whether a cube on disk is the one that a call of write_cube would write.

A call that is repeated in its process is recognised by the identity of its values:
dask's names of arrays, and hashes of those in memory. The store does not have these:
cubes of the same values are the same files. In another process the small variables are
compared, and samples of images and labels.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt
import xarray as xr

from geobiomass.cube.cluster_watch import keeper_of
from geobiomass.cube.encoding import Encoding, encode
from geobiomass.cube.found_images import SURVEY
from geobiomass.cube.missing_values import clean
from geobiomass.cube.plain_attributes import as_json, mapping_in
from geobiomass.cube.static_layers import PIXELS
from geobiomass.cube.store import WRITTEN_FROM
from geobiomass.cube.store_objects import ROOT
from geobiomass.training.files import sha256_of

if TYPE_CHECKING:
    import zarr

_SIDE = 32  # pixels of a side of a sample


def identity_of(cube: xr.Dataset | xr.DataArray) -> str:
    """Return a hash of the values of a cube, as the user gave it.

    Two cubes with the same hash have the same values. Of a lazy one that dask did not
    make it is empty: it is not known.
    """
    frame = cube if isinstance(cube, xr.Dataset) else cube._to_temp_dataset()
    facts = [json.dumps(dict(frame.attrs), sort_keys=True, default=repr)]
    for name, variable in sorted(
        frame.variables.items(), key=lambda pair: str(pair[0])
    ):
        if variable.chunks is not None:
            token = str(cast(Any, variable.data).name)
        elif variable._in_memory:
            token = _hash(variable.values)
        else:
            return ""
        facts.append(
            f"{name} {variable.dims} {variable.dtype} {variable.shape} {token} "
            + json.dumps(dict(variable.attrs), sort_keys=True, default=repr)
        )
    return sha256_of("\n".join(facts))


def _hash(values: npt.NDArray[Any]) -> str:
    if values.dtype.kind in "biuf" and values.size:
        return sha256_of(cast(Any, np.ascontiguousarray(values)).data.cast("B"))
    return sha256_of(repr(values.tolist()))


def written_from(encoding: Encoding, appended: bool) -> str:
    """Return the attribute that names what a finished call was given, JSON text."""
    return as_json({"fingerprint": encoding.fingerprint, "appended": appended})


_WRITTEN: dict[Path, tuple[str, tuple[int, ...]]] = {}
"""What this process has written: identities, and the state of the root's file."""


def remember(folder: Path | None, identity: str) -> None:
    """Remember a cube on disk that this process has finished."""
    if folder is not None and identity:
        _WRITTEN[folder] = (identity, _state_of(folder))


def is_remembered(folder: Path | None, identity: str) -> bool:
    """Return whether this process wrote the same values, and nothing has since."""
    if folder is None or folder not in _WRITTEN or not identity:
        return False
    try:
        return _WRITTEN[folder] == (identity, _state_of(folder))
    except OSError:  # it was deleted since
        return False


def _state_of(folder: Path) -> tuple[int, ...]:
    found = (folder / ROOT).stat()
    return (found.st_ino, found.st_size, found.st_mtime_ns)


def is_same(
    cube: xr.Dataset,
    encoding: Encoding,
    group: zarr.Group,
    there: xr.Dataset,
    remembered: bool,
    first: int | None = None,
) -> bool:
    """Return whether a finished cube is what a call would write.

    Parameters
    ----------
    cube : xarray.Dataset
        The cube to write.
    encoding : Encoding
        Of the call, with its fingerprint.
    group : zarr.Group
        The stored cube.
    there : xarray.Dataset
        The same, opened.
    remembered : bool
        Whether this process wrote the same values there.
    first : int, optional
        Number of the first chip of a call that appends.
    """
    known = mapping_in(group.attrs.get(WRITTEN_FROM))
    if (
        known is None
        or known.get("fingerprint") != encoding.fingerprint
        or known.get("appended") != (first is not None)
    ):
        return False
    if remembered:
        return True
    if first is not None:
        there = there.isel(chip=slice(first, None))
    return _same_frame(cube, there, first is not None) and all(
        _same_sample(cube, encoding, group, number, first or 0) for number in range(3)
    )


def _same_frame(cube: xr.Dataset, there: xr.Dataset, appended: bool) -> bool:
    """Compare all variables but images and labels, and the attributes."""
    ours = cube.drop_vars(PIXELS, errors="ignore")
    theirs = there.drop_vars(PIXELS, errors="ignore")
    if set(ours.variables) != set(theirs.variables):
        return False
    for name, variable in ours.variables.items():
        if appended and "chip" not in variable.dims:
            continue  # a cube keeps its own
        other = theirs[name].variable
        if variable.dims != other.dims or not cast(Any, variable).equals(other):
            return False
    if appended:
        return True
    # The survey follows from the images, which the fingerprint has; cubes of earlier
    # commits have none.
    attrs = [{**one.attrs, SURVEY: None} for one in (cube, there)]
    texts = [json.dumps(one, sort_keys=True, default=repr) for one in attrs]
    return texts[0] == texts[1]


def _same_sample(
    cube: xr.Dataset, encoding: Encoding, group: zarr.Group, number: int, first: int
) -> bool:
    """Compare a small window of one month: first, middle or last."""
    sizes = cube.sizes
    at = {}
    for dim in {"chip", "month", "y", "x"} & set(cube["image"].dims):
        length = _SIDE if dim in ("y", "x") else 1
        start = (sizes[dim] - min(length, sizes[dim])) * number // 2
        at[str(dim)] = slice(start, start + min(length, sizes[dim]))
    bands = [str(band) for band in cube["band"].values]
    part = cube[[n for n in PIXELS if n in cube]].isel(at)
    part = part.compute(scheduler=keeper_of(part) or "synchronous")
    stored = {
        str(name): cast(Any, group[str(name)])[
            tuple(_moved(str(dim), at, first) for dim in cube[name].dims)
        ]
        for name in part
    }
    same = np.array_equal(
        encode(part["image"].values, encoding, bands),
        stored["image"],
        equal_nan=encoding.dtype == "float32",
    )
    for name in PIXELS[1:]:
        if same and name in part:
            values, _ = clean(part[name].values, whole=False)
            values = values.astype(np.float32)
            same = np.array_equal(values, stored[name], equal_nan=True)
    return same


def _moved(dim: str, at: Mapping[str, slice], first: int) -> slice:
    span = at.get(dim, slice(None))
    if dim != "chip":
        return span
    return slice(span.start + first, span.stop + first)
