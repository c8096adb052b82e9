"""Targets of writing: a new cube, a half-written one, or one that gets more chips."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
import xarray as xr

from geobiomass.cube.codecs import quick_codecs
from geobiomass.cube.encoding import (
    MISSING,
    Dtype,
    Encoding,
    attributes,
    extents,
    fingerprint_of,
    plan_encoding,
    with_text_of_any_length,
)
from geobiomass.cube.losses import Losses
from geobiomass.cube.schema import CubeError, is_chips, select_bands
from geobiomass.cube.statistics import BandTally
from geobiomass.cube.store import UNFINISHED, VERSION, is_local, open_cube, open_group
from geobiomass.cube.write_blocks import Block, block_counts
from geobiomass.training.files import sha256_of

if TYPE_CHECKING:
    import zarr
    from zarr.abc.store import Store

SCHEMA_VERSION = 1
NOT_WRITTEN = 2**32 - 1
"""Count that no block can have: the block is not written yet."""


@dataclass(frozen=True)
class CubeDestination:
    """A path, an address or a store that a cube is written to."""

    path: str | Path | Store
    options: Mapping[str, Any] | None

    def __str__(self) -> str:
        return str(self.path)

    def group(self, mode: Literal["r", "r+", "w"]) -> zarr.Group:
        """Open the Zarr group."""
        return open_group(self.path, mode, self.options, consolidated=False)

    def attrs(self) -> dict[str, Any] | None:
        """Return the group's attributes; {} if it is no group, None if not there."""
        if is_local(self.path):
            folder = Path(cast(str, self.path))
            if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
                return None
        try:
            return dict(self.group("r").attrs)
        except (OSError, ValueError, KeyError):
            return {} if is_local(self.path) else None

    def remove(self) -> None:
        """Delete a folder on a disk; on object storage what is there stays."""
        if is_local(self.path):
            shutil.rmtree(cast(str, self.path), ignore_errors=True)

    def clear(self) -> None:
        """Delete what is there and leave an empty group."""
        if is_local(self.path) and Path(cast(str, self.path)).exists():
            shutil.rmtree(cast(str, self.path))
        self.group("w")


@dataclass(frozen=True)
class Target:
    """The open arrays that blocks are written to, and the counts of their values."""

    group: zarr.Group
    arrays: dict[str, zarr.Array[Any]]
    written: zarr.Array[Any]
    labelled: zarr.Array[Any]
    encoding: Encoding
    tally: BandTally
    lost: zarr.Array[Any] | None = None  # not of cubes begun by an earlier version
    losses: Losses = field(default_factory=lambda: Losses(()))
    first: int = 0  # chips that the cube had before
    lock: Any = field(default_factory=Lock)

    def region(self, block: Block, array: xr.DataArray) -> tuple[slice, ...]:
        """Return the slices of a block in a stored variable."""
        region = {"y": block.rows, "x": block.columns}
        if block.chip is not None:
            chip = self.first + block.chip
            region["chip"] = slice(chip, chip + 1)
        return tuple(region.get(str(dim), slice(None)) for dim in array.dims)


# --- a new cube, or one to continue ---------------------------------------------


def open_to_write(
    cube: xr.Dataset,
    destination: CubeDestination,
    dtype: Dtype,
    quantum: Mapping[str, float] | None,
    overwrite: bool,
) -> Target:
    """Create the arrays, or open a half-written cube to continue it."""
    encoding = plan_encoding(cube, dtype, quantum)
    attrs = destination.attrs()
    if attrs is not None and not overwrite:
        if UNFINISHED not in attrs:
            raise FileExistsError(
                f"{destination} exists already and is left as it is; choose another "
                "path, append=True or overwrite=True (on the command line --append or "
                "--overwrite)."
            )
        if attrs[UNFINISHED] != encoding.fingerprint:
            raise CubeError(
                f"{destination} is the first part of another cube (other chips, "
                "images, bands, grid or dtype); finish that one, choose another path, "
                "or overwrite=True."
            )
    if attrs is None or overwrite or "being_made" in attrs:
        _create(cube, destination, encoding)
    elif "statistics/written" not in destination.group("r"):
        raise CubeError(
            f"{destination} was begun by an earlier version, which kept its record "
            "elsewhere; begin again with overwrite=True."
        )
    bands = [str(band) for band in cube["band"].values]
    return _target(destination.group("r+"), cube, encoding, encoding.tally(bands))


def _target(
    group: zarr.Group,
    cube: xr.Dataset,
    encoding: Encoding,
    tally: BandTally,
    first: int = 0,
) -> Target:
    names = [name for name in ("image", "agb") if name in cube]
    with quick_codecs():
        arrays = {name: cast(Any, group[name]) for name in names}
        if first:
            arrays = {n: _lengthened(a, first, cube) for n, a in arrays.items()}
        written = cast(Any, group["statistics/written"])
        labelled = cast(Any, group["statistics/labels_written"])
        lost = cast(Any, group.get("statistics/lost"))
    losses = Losses([str(band) for band in cube["band"].values])
    return Target(
        group, arrays, written, labelled, encoding, tally, lost, losses, first
    )


def _create(cube: xr.Dataset, destination: CubeDestination, encoding: Encoding) -> None:
    """Create all except the pixels; an attribute marks the group until this is done."""
    destination.clear()
    group = destination.group("r+")
    marks: dict[str, Any] = {UNFINISHED: encoding.fingerprint, "being_made": True}
    group.attrs.put(marks)
    frame = cube.drop_vars(["image", "agb"], errors="ignore")
    if encoding.by_band:
        multiplier = np.array(encoding.quantum) / encoding.scale_factor
        frame = frame.assign_coords(multiplier=("band", multiplier))
    frame = with_text_of_any_length(frame)
    frame.attrs = marks
    frame.to_zarr(group.store, mode="a", zarr_format=3, consolidated=False)
    stored = {"image": encoding.dtype, "agb": "float32"}
    for name in stored:
        if name in cube:
            _create_array(group, name, cube[name], encoding, stored[name])
    _create_record(group, cube, encoding)
    # Read again: xarray added the names of the coordinates.
    attrs = dict(destination.group("r").attrs)
    del attrs["being_made"]
    group.attrs.put({**attrs, **cube.attrs, VERSION: SCHEMA_VERSION})


def _create_array(
    group: zarr.Group, name: str, array: xr.DataArray, encoding: Encoding, dtype: str
) -> None:
    from zarr.codecs import BloscCodec, Crc32cCodec

    chunk, shard = extents(array)
    group.create_array(
        name,
        shape=array.shape,
        dtype=dtype,
        chunks=chunk,
        shards=shard,
        # The checksum notices bits that flipped and still decode.
        compressors=[
            BloscCodec(cname="lz4", clevel=5, shuffle="bitshuffle"),
            Crc32cCodec(),
        ],
        fill_value=MISSING[dtype],
        dimension_names=[str(dim) for dim in array.dims],
        attributes=attributes(array, encoding if name == "image" else None),
    )


def _create_record(group: zarr.Group, cube: xr.Dataset, encoding: Encoding) -> None:
    """Create the arrays that record which blocks are written and what they hold."""
    months, bands = cube.sizes["month"], cube.sizes["band"]
    counts = block_counts(cube)
    names = ["chip"] if is_chips(cube) else ["row", "column"]
    record = group.require_group("statistics")
    for name, more in (
        ("labels_written", {}),
        ("lost", {"quantity": bands + 1, "kind": 2}),
        ("written", {"month": months, "band": bands}),
    ):
        record.create_array(
            name,
            shape=(*counts, *more.values()),
            # A chunk is one block, so that threads never write to the same file.
            chunks=(*(1 for _ in counts), *more.values()),
            dtype="uint32",
            fill_value=0 if name == "lost" else NOT_WRITTEN,
            dimension_names=[*names, *more],
            attributes={"fingerprint": encoding.fingerprint},
            overwrite=True,
        )


# --- more chips for a cube --------------------------------------------------------


def open_to_append(
    cube: xr.Dataset, destination: CubeDestination
) -> tuple[xr.Dataset, Target]:
    """Prepare a cube for more chips; until the end it shows only the old ones."""
    there = open_cube(destination.path, storage_options=destination.options)
    cube = _fit_to(cube, there, destination)
    group = destination.group("r+")
    known = [str(chip) for chip in there["chip"].values]
    encoding = _encoding_there(group, cube, known)
    record = group.get("statistics/written")
    if record is None or record.attrs["fingerprint"] != encoding.fingerprint:
        _create_record(group, cube, encoding)
    tally = _tally_there(group, there, encoding)
    return cube, _target(group, cube, encoding, tally, first=len(known))


def _tally_there(group: zarr.Group, there: xr.Dataset, encoding: Encoding) -> BandTally:
    """Return the counts of the chips that were stored before."""
    record = cast(Any, group["statistics"])
    tally = encoding.tally([str(band) for band in there["band"].values])
    tally.restore(np.asarray(record["histogram"]), record.attrs["tally"])
    return tally


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
    for what, ours, theirs in (
        ("months", cube["month"].values.tolist(), there["month"].values.tolist()),
        ("pixels", *((d.sizes["y"], d.sizes["x"]) for d in (cube, there))),
        ("variables", *(along_chips(d) for d in (cube, there))),
    ):
        if ours != theirs:
            raise CubeError(
                f"Chips to append to {destination} must have its {what}, {theirs}, got "
                f"{ours}."
            )
    for name in there.variables:
        if name in cube.variables and name not in ("image", "agb"):
            cube[name].encoding = there[name].encoding
    return cube


def along_chips(cube: xr.Dataset) -> list[str]:
    """Return the names of the variables that have a value, or pixels, for each chip."""
    return sorted(str(n) for n, v in cube.variables.items() if "chip" in v.dims)


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
