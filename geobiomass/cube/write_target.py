"""Where a cube is written: the destination, and a new or half-written cube there."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
import xarray as xr

from geobiomass.cube.codecs import quick_codecs
from geobiomass.cube.encoding import (
    MISSING,
    Encoding,
    attributes,
    extents,
    with_text_of_any_length,
)
from geobiomass.cube.lease import leased
from geobiomass.cube.losses import CLIPPED, Losses
from geobiomass.cube.made_here import check_removable, is_made_here, sweep
from geobiomass.cube.missing_values import TAKEN
from geobiomass.cube.one_state import written_here
from geobiomass.cube.removal import (
    leftovers_of,
    making_path,
    remove,
    replace,
    replacing_path,
)
from geobiomass.cube.schema import CubeError
from geobiomass.cube.static_layers import PIXELS, layers_of
from geobiomass.cube.statistics import BandTally
from geobiomass.cube.store import UNFINISHED, VERSION, is_local, open_group
from geobiomass.cube.store_objects import delete_all, list_names, synchronise
from geobiomass.cube.store_seal import FINISHING
from geobiomass.cube.write_blocks import Block
from geobiomass.cube.write_record import Record, create_record, has_record
from geobiomass.threads import silence_warning
from geobiomass.training.one_writer import one_writer
from geobiomass.training.packages import need_for_address

if TYPE_CHECKING:
    import zarr
    from zarr.abc.store import Store

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class CubeDestination:
    """A path, an address or a store that a cube is written to."""

    path: str | Path | Store
    options: Mapping[str, Any] | None

    def __str__(self) -> str:
        return str(self.path)

    @property
    def local(self) -> Path | None:
        """The folder itself, where it is on a disk; a link is followed."""
        from zarr.storage import LocalStore

        if isinstance(self.path, LocalStore):
            return Path(self.path.root).resolve()
        return Path(cast(str, self.path)).resolve() if is_local(self.path) else None

    def group(self, mode: Literal["r", "r+"]) -> zarr.Group:
        """Open the Zarr group as it is on disk."""
        return open_group(self.path, mode, self.options, False)

    def attrs(self) -> dict[str, Any] | None:
        """Return the group's attributes; {} if it is no group, None if not there."""
        folder = self.local
        if folder is not None and (
            not folder.exists() or (folder.is_dir() and not any(folder.iterdir()))
        ):
            return None
        try:
            return dict(self.group("r").attrs)
        except (OSError, ValueError, KeyError):
            return {} if folder is not None or self._names() else None

    def _names(self) -> list[str]:
        """Return some names of objects on object storage, without the writer's."""
        return [name for name in list_names(self.store(), "") if name != "written"]

    def store(self) -> Store:
        """Return the store of an address, or the user's own."""
        from geobiomass.cube.remote_store import remote_store, without_listings

        if isinstance(self.path, str | Path):
            need_for_address(self.path)
            return remote_store(str(self.path), self.options, read_only=False)
        return without_listings(self.path)

    @contextmanager
    def only_writer(self) -> Iterator[None]:
        """Reserve the destination for this process.

        Raises
        ------
        InUseError
            If another process, or another call in this one, writes there.
        """
        if self.local is None:
            from zarr.errors import ZarrUserWarning

            # The lease is no array.
            silence_warning(ZarrUserWarning, "Object at .*written.* is not recognized")
            with leased(self.store(), str(self)), written_here(self.path):
                yield
            return
        self.local.parent.mkdir(parents=True, exist_ok=True)
        with one_writer(self.local), written_here(self.local):
            yield

    @contextmanager
    def replaced(self) -> Iterator[CubeDestination]:
        """Yield where to write what takes the place of what is there.

        A folder on a disk is written next to it, and exchanged at the end: readers see
        the old one until then. On object storage it is the place itself.

        Raises
        ------
        FileExistsError
            If the package did not make what is there.
        """
        local = self.local
        if local is None or self.attrs() is None:
            yield self
            return
        check_removable(local)
        new = replacing_path(local)
        try:
            yield CubeDestination(new, self.options)
            check_removable(local)  # a person may have put something there meanwhile
        except BaseException:
            # It is never continued, and the old one is whole.
            shutil.rmtree(new, ignore_errors=True)
            raise
        replace(local, new)

    def tidy(self) -> None:
        """Delete what a killed call left: folders next to it, partial files."""
        if self.local is None:
            return
        for left in leftovers_of(self.local):
            sweep(left)
        if is_made_here(self.attrs()):
            for file in self.local.rglob("*.partial"):
                file.unlink()

    def check_removable(self) -> None:
        """Check that what is there may be deleted.

        Raises
        ------
        FileExistsError
            If the package did not make it.
        """
        if self.local is not None:
            check_removable(self.local)
            return
        attrs = self.attrs()
        if attrs is not None and not is_made_here(attrs):
            raise FileExistsError(
                f"{self} holds {', '.join(self._names()[:3])}, which geobiomass did "
                "not make, so it stays as it is; choose another address, or delete it "
                "yourself."
            )

    def remove(self) -> None:
        """Delete a folder on a disk; on object storage what is there stays."""
        if self.local is not None:
            remove(self.local)


@dataclass(frozen=True)
class Target:
    """The open arrays that blocks are written to, and the counts of their values."""

    group: zarr.Group
    arrays: dict[str, zarr.Array[Any]]
    record: Record | None  # None: all blocks are written, and their counts are too
    encoding: Encoding
    tally: BandTally
    layers: BandTally  # of static layers, which need not be any
    losses: Losses = field(default_factory=lambda: Losses(()))
    shown_losses: dict[str, str] = field(default_factory=dict)  # of earlier calls
    first: int = 0  # chips that the cube had before
    begun: bool = False  # by an earlier call
    counted: bool = False  # the statistics have the blocks' values already
    lock: Any = field(default_factory=Lock)

    def region(self, block: Block, array: xr.DataArray) -> tuple[slice, ...]:
        """Return the slices of a block in a stored variable."""
        region = {"y": block.rows, "x": block.columns}
        if block.chip is not None:
            chip = self.first + block.chip
            region["chip"] = slice(chip, chip + 1)
        return tuple(region.get(str(dim), slice(None)) for dim in array.dims)

    def forget(self, block: Block, cube: xr.Dataset) -> None:
        """Delete the shards of a block that an earlier call may have begun.

        Codecs read a shard at the edge of a scene before they write to it, and half a
        shard cannot be read.
        """
        for name, array in self.arrays.items():
            spans = self.region(block, cube[name])
            sizes = array.shards or array.chunks
            number = tuple(
                (span.start or 0) // size
                for span, size in zip(spans, sizes, strict=True)
            )
            key = array.metadata.encode_chunk_key(number)
            synchronise((array.store_path / key).delete())


# --- a new cube, or one to continue ---------------------------------------------


def open_to_write(
    cube: xr.Dataset,
    destination: CubeDestination,
    encoding: Encoding,
    overwrite: bool,
) -> Target:
    """Create the arrays, or open a half-written cube to continue it."""
    attrs = destination.attrs()
    if attrs is not None and not overwrite:
        if UNFINISHED not in attrs:
            raise FileExistsError(
                f"{destination} exists already and is left as it is, as this call "
                "would write something else; choose another path, append=True or "
                "overwrite=True (on the command line --append or --overwrite)."
            )
        if attrs[UNFINISHED] != encoding.fingerprint:
            raise CubeError(
                f"{destination} is the first part of another cube (other chips, "
                "images, bands, grid or dtype); finish that one, choose another path, "
                "or overwrite=True."
            )
    if attrs is None or overwrite or "being_made" in attrs:
        destination.check_removable()
        _create(cube, destination, encoding)
        attrs = None
    group = destination.group("r+")
    finishing = attrs is not None and FINISHING in attrs
    if not finishing and not has_record(group):
        raise CubeError(
            f"{destination} was begun by an earlier version, which kept its record "
            "elsewhere; begin again with overwrite=True."
        )
    bands = [str(band) for band in cube["band"].values]
    shown = attributes(cube["image"], None)
    return Target(
        group,
        open_arrays(destination, cube),
        None if finishing else Record(group),
        encoding,
        encoding.tally(bands),
        BandTally(layers_of(cube)),
        Losses.of(cube),
        {name: str(shown[name]) for name in (TAKEN, CLIPPED) if name in shown},
        begun=attrs is not None,
    )


def open_arrays(
    destination: CubeDestination, cube: xr.Dataset
) -> dict[str, zarr.Array[Any]]:
    """Open the arrays of images and labels with quick codecs."""
    group = destination.group("r+")
    with quick_codecs():
        return {n: cast(Any, group[n]) for n in PIXELS if n in cube}


def _create(cube: xr.Dataset, destination: CubeDestination, encoding: Encoding) -> None:
    """Create all except the pixels.

    On a disk beside the destination, renamed at the end. On object storage an attribute
    marks the group until this is done.
    """
    marks = {UNFINISHED: encoding.fingerprint}
    local = destination.local
    if local is None:
        begun = marks | {"being_made": True}
        delete_all(destination.store(), begun)
        _fill(destination.group("r+"), cube, encoding, begun)
        group = destination.group("r+")
        group.attrs.put({k: v for k, v in group.attrs.items() if k != "being_made"})
        return
    import zarr

    making = making_path(local)
    group = zarr.create_group(making, attributes=dict(marks), zarr_format=3)
    _fill(group, cube, encoding, marks)
    if local.exists():
        remove(local)
    making.rename(local)


def _fill(
    group: zarr.Group, cube: xr.Dataset, encoding: Encoding, marks: Mapping[str, Any]
) -> None:
    frame = cube.drop_vars(PIXELS, errors="ignore")
    if encoding.by_band:
        multiplier = np.array(encoding.quantum) / encoding.scale_factor
        frame = frame.assign_coords(multiplier=("band", multiplier))
    frame = with_text_of_any_length(frame)
    frame.attrs = dict(marks)
    frame.to_zarr(group.store, mode="a", zarr_format=3, consolidated=False)
    for name in PIXELS:
        if name in cube:
            dtype = encoding.dtype if name == "image" else "float32"
            _create_array(group, name, cube[name], encoding, dtype)
    create_record(group, cube, encoding.fingerprint)
    # Read again: xarray added the names of the coordinates.
    import zarr

    attrs = dict(zarr.open_group(group.store, mode="r", path=group.path).attrs)
    own = {k: v for k, v in cube.attrs.items() if k not in (UNFINISHED, FINISHING)}
    group.attrs.put({**attrs, **own, **marks, VERSION: SCHEMA_VERSION})


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


def along_chips(cube: xr.Dataset) -> list[str]:
    """Return the names of the variables that have a value, or pixels, for each chip."""
    return sorted(str(n) for n, v in cube.variables.items() if "chip" in v.dims)
