"""Writing a cube: a Zarr v3 group, one shard at a time, continued after a stop.

The store itself records which shards are written, and how many pixels of each band
and month they hold, in ``statistics/written``. So a call that was interrupted is
continued where it stopped, on a disk and on object storage.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt
import xarray as xr

from geobiomass.cube.appending import open_to_append
from geobiomass.cube.cluster_errors import AGAIN, told_of_cluster
from geobiomass.cube.cluster_watch import ANEW, compute_on, keeper_of
from geobiomass.cube.convert import converted
from geobiomass.cube.encoding import MISSING, Dtype, Encoding, encode, plan_encoding
from geobiomass.cube.losses import Losses
from geobiomass.cube.missing_values import clean, measured
from geobiomass.cube.plain_attributes import with_plain_attributes
from geobiomass.cube.same_call import identity_of, is_remembered, is_same, remember
from geobiomass.cube.schema import DamagedError, is_chips
from geobiomass.cube.static_layers import STATIC
from geobiomass.cube.statistics import BandTally
from geobiomass.cube.storage_steps import CoarseStepError, check_steps
from geobiomass.cube.store import UNFINISHED, WRITTEN_FROM, open_cube
from geobiomass.cube.write_blocks import (
    Block,
    around,
    batches_of,
    blocks_of,
    month_parts,
)
from geobiomass.cube.write_call import check_call
from geobiomass.cube.write_end import finish
from geobiomass.cube.write_record import Record
from geobiomass.cube.write_target import CubeDestination, Target, open_to_write
from geobiomass.outside_text import check_variable_names
from geobiomass.threads import few_at_a_time
from geobiomass.training.disk_errors import told_of_disk
from geobiomass.training.setting_names import explain_arguments

if TYPE_CHECKING:
    from zarr.abc.store import Store


@explain_arguments
def write_cube(
    cube: xr.Dataset,
    path: str | Path | Store,
    dtype: Dtype = "int16",
    *,
    quantum: Mapping[str, float] | None = None,
    append: bool = False,
    overwrite: bool = False,
    progress: bool = False,
    workers: int = 2,
    storage_options: Mapping[str, Any] | None = None,
) -> None:
    """Write a cube as a Zarr v3 group, one shard at a time, in bounded memory.

    An interrupted call is continued by the same call: shards that are written are
    not computed again. The same call once more, after the end, does nothing.
    A finished cube is overwritten only with `overwrite`.
    Minimum, maximum, mean, standard deviation and percentiles of each band and of each
    static layer are computed during the writing and stored as attributes.

    Parameters
    ----------
    cube : xarray.Dataset
        Usually backed by dask; each worker computes one shard at a time (a chip, or
        256 x 256 pixels of a scene with all months and bands). Shards of a scene in
        the same dask chunk, of at most 1,024 x 1,024 pixels, are computed together,
        one chunk of months after the other.
    path : str, Path or zarr.abc.store.Store
        A folder, an address that fsspec knows (``s3://bucket/chips.zarr``), or a
        store of Zarr, such as one of obstore. Nothing may be there yet, except a
        half-written cube to continue, or the cube to append to.
    dtype : "int16", "int32" or "float32"
        int16 stores radar in steps of 0.01 dB and Sentinel-2 exactly, in half the
        memory of the others; reflectance from 0 to 1, in memory, in steps of 0.0001.
        CF has one `scale_factor` per variable, so a cube that mixes them is stored with
        0.01: plain xarray then reads decibels, and reflectance in percent, and ``image
        * multiplier`` (a coordinate on band) gives the cube's own units;
        :func:`open_cube` does so, exactly. int32 stores every band in steps of 1/128
        with one `scale_factor`, so that any CF reader gets the cube's own units;
        float32 keeps every bit.
    quantum : mapping of band to float, optional
        Steps for bands that are neither Sentinel-1 nor Sentinel-2 (int16 only).
    append : bool
        Add chips to the cube at `path`, in its encoding. Readers see the old cube
        until all new chips are written.
    overwrite : bool
        Replace the cube or map that is at `path`; anything that this package did not
        make stays, and is an error. A folder on a disk is written next to it
        (``chips.zarr.replacing``), and takes its place when it is whole: readers see
        the old one until then, and both need room. An interrupted call leaves the old
        one, and begins again.
    progress : bool
        Show a progress bar.
    workers : int
        Number of shards that are computed at the same time.
    storage_options : mapping, optional
        Options of fsspec for the address: credentials, an endpoint.

    Raises
    ------
    CubeError
        If `cube` is not a cube, if a band has no known step, if values would be lost
        in their step (linear power, lazy reflectance from 0 to 1), if `path` contains
        something other than the first part of this cube, or if the chips to
        append do not fit the cube that is there.
    FileExistsError
        If another finished cube, or anything else, is at `path` and neither `append`
        nor `overwrite`; or `overwrite`, and this package did not make it.
    InUseError
        If another process writes there.
    DiskError
        If the disk is full or cannot be written; the same call goes on later.

    Warns
    -----
    UserWarning
        If lazy reflectance may be in percent and is stored in steps of 1; if values
        are clipped to the type's range, or taken as missing because no
        measurement has them (infinity, undeclared nodata). Their numbers by band are
        the attributes `clipped` and `taken_as_missing` of the stored image.
    """
    check_call(cube, path, quantum, workers)
    identity = identity_of(cube)
    # What is lazy is cleaned as it is written, which counts each value once.
    cube = with_plain_attributes(measured(converted(cube), lazy=False))
    check_variable_names(cube.variables, "the cube")
    destination = CubeDestination(path, storage_options)
    again = "make the same call again: it goes on where it stopped"
    place = destination.local
    with told_of_disk(place or str(path), again), destination.only_writer():
        destination.tidy()
        known = is_remembered(place, identity)
        new = destination
        doubts: list[str] = []
        with ExitStack() as end:
            target: Target | None
            if append:
                cube, target = open_to_append(cube, destination, known)
            else:
                encoding = plan_encoding(cube, dtype, quantum)
                if overwrite:
                    new = end.enter_context(destination.replaced())
                elif _is_finished(cube, destination, encoding, known):
                    return
                target = open_to_write(cube, new, encoding, overwrite)
            if target is None:
                return
            name, keeper = Path(str(destination)).name, keeper_of(cube)
            remedy = AGAIN if keeper is None else f"{ANEW}: it goes on where it stopped"
            try:
                with told_of_cluster(
                    f"{place or path} was being written",
                    keeper,
                    remedy,
                    partial(_written, target),
                ):
                    _write_blocks(cube, target, name, progress, workers, doubts, keeper)
            except CoarseStepError:
                if not target.begun:
                    new.remove()  # so that the remedy can be written there
                raise
            finish(cube, target)
        remember(place, identity)
        target.losses.tell(target.encoding.dtype)
        if doubts:
            warnings.warn(
                f"In {len(doubts)} blocks, {doubts[0]}", UserWarning, stacklevel=2
            )


def _is_finished(
    cube: xr.Dataset,
    destination: CubeDestination,
    encoding: Encoding,
    remembered: bool,
) -> bool:
    """Return whether this call has finished before, and what it wrote is there."""
    attrs = destination.attrs()
    if not attrs or UNFINISHED in attrs or WRITTEN_FROM not in attrs:
        return False
    there = open_cube(destination.path, storage_options=destination.options)
    return is_same(cube, encoding, destination.group("r"), there, remembered)


# --- blocks -------------------------------------------------------------------


def _write_blocks(
    cube: xr.Dataset,
    target: Target,
    name: str,
    progress: bool,
    workers: int,
    doubts: list[str],
    keeper: Any,
) -> None:
    """Write the blocks that are not written yet, on a few threads."""
    from tqdm.auto import tqdm

    if target.record is None:
        return
    done = target.record.done()
    blocks = blocks_of(cube)
    damaged = _count_again([b for b in blocks if done[b.number]], cube, target, workers)
    left = [b for b in blocks if not done[b.number] or b in damaged]
    steps = len(month_parts(cube))
    unit = "chip" if is_chips(cube) else "block"
    stop = Event()
    with tqdm(
        total=len(blocks) * steps,
        initial=(len(blocks) - len(left)) * steps,
        unit=unit if steps == 1 else f"month of a {unit}",
        desc=f"Writing {name}",
        disable=not progress,
    ) as bar:
        write = partial(
            _write_batch,
            cube=cube,
            target=target,
            bar=bar,
            stop=stop,
            doubts=doubts,
            keeper=keeper,
        )
        batches = batches_of(cube, left)
        for _, future in few_at_a_time(batches, write, workers, stop=stop):
            future.result()


def _written(target: Target) -> str:
    """Return how much is written, in words."""
    done = cast(Record, target.record).done()
    return f"{int(done.sum())} of {done.size} blocks are written"


def _write_batch(
    batch: list[Block],
    *,
    cube: xr.Dataset,
    target: Target,
    bar: Any,
    stop: Event,
    doubts: list[str],
    keeper: Any,
) -> None:
    """Compute a batch of blocks, some months at a time, and write each block."""
    whole = around(batch)
    bands = [str(band) for band in cube["band"].values]
    wanted = {name: whole.of(cube[name]) for name in target.arrays}
    codes = np.empty(wanted["image"].shape, target.encoding.dtype)
    still: dict[str, npt.NDArray[Any]] = {}  # labels and static layers
    losses = [Losses.of(cube) for _ in batch]
    for months in month_parts(cube):
        if stop.is_set():
            return
        part = {**wanted, "image": wanted["image"].isel(month=months)}
        lazy = xr.Dataset(part)
        found = (
            lazy.compute(scheduler="synchronous")
            if keeper is None
            else compute_on(keeper, lazy)
        )
        values = found["image"].values
        if target.encoding.quantum:
            doubt = check_steps(values, bands, target.encoding.quantum)
            if doubt:
                doubts.append(doubt)
        for block, lost in zip(batch, losses, strict=True):
            rows, columns = block.within(whole)
            codes[..., months, :, rows, columns] = encode(
                values[..., rows, columns], target.encoding, bands, lost
            )
        for name in wanted.keys() - {"image"}:
            still[name] = found[name].values
            del wanted[name]  # without months: they are computed once
        if months.stop < cube.sizes["month"]:
            with target.lock:
                bar.update(len(batch))
    for block, lost in zip(batch, losses, strict=True):
        _write_block(block, block.within(whole), codes, still, cube, target, lost)
        with target.lock:
            bar.update()


def _write_block(
    block: Block,
    within: tuple[slice, slice],
    codes: npt.NDArray[Any],
    still: Mapping[str, npt.NDArray[Any]],
    cube: xr.Dataset,
    target: Target,
    losses: Losses,
) -> None:
    """Write one block of a batch."""
    codes = np.ascontiguousarray(codes[(..., *within)])
    if target.begun:
        target.forget(block, cube)
    target.arrays["image"][target.region(block, cube["image"])] = codes
    labelled = None
    for name, whole in still.items():
        values, found = clean(whole[(..., *within)], whole=False)
        losses.add_missing(found, name)
        target.arrays[name][target.region(block, cube[name])] = values
        if name == "agb":
            labelled = int(np.isfinite(values).sum())
        else:
            _count_layers(values, target)
    _count(codes, target)
    target.losses.merge(losses)
    present = _count_present(codes, target.encoding.dtype)
    cast(Record, target.record).note(block.number, present, labelled, losses.counts)


def _count_again(
    done: list[Block], cube: xr.Dataset, target: Target, workers: int
) -> list[Block]:
    """Count the blocks of an interrupted call; return those that are damaged."""
    damaged: list[Block] = []
    reason: object = None
    count = partial(_count_stored, cube=cube, target=target)
    for block, future in few_at_a_time(done, count, workers):
        error = future.exception()
        if isinstance(error, Exception):
            damaged.append(block)
            reason = error
        elif error is not None:
            raise error
    if damaged:
        warnings.warn(
            f"{len(damaged)} of {len(done)} blocks that an interrupted call wrote are "
            f"damaged or gone and are written again; the first is {damaged[0].number} "
            f"({reason}).",
            stacklevel=4,
        )
    return damaged


def _count_stored(block: Block, *, cube: xr.Dataset, target: Target) -> None:
    """Count a block that an interrupted call wrote.

    Raises
    ------
    DamagedError
        If it does not have the values that the record says.
    """
    record = cast(Record, target.record)
    if not target.counted:
        codes = np.asarray(target.arrays["image"][target.region(block, cube["image"])])
        there = _count_present(codes, target.encoding.dtype)
        if not np.array_equal(there, np.asarray(record.written[block.number])):
            raise DamagedError("it has not the values that were counted")
        if STATIC in target.arrays:
            layers = target.arrays[STATIC]
            _count_layers(layers[target.region(block, cube[STATIC])], target)
        _count(codes, target)
    if (lost := record.lost(block.number)) is not None:
        before = Losses.of(cube)
        before.counts = lost
        target.losses.merge(before)


def _count(codes: npt.NDArray[Any], target: Target) -> None:
    """Add the values of a block to the statistics of the bands."""
    encoding = target.encoding
    tally = encoding.tally(target.tally.bands)
    tally.add(encoding.physical(codes) if encoding.dtype == "int32" else codes)
    with target.lock:
        target.tally.merge(tally)


def _count_layers(values: npt.ArrayLike, target: Target) -> None:
    """Add the values of a block to the statistics of the static layers."""
    tally = BandTally(target.layers.bands)
    tally.add(np.asarray(values, np.float32))
    with target.lock:
        target.layers.merge(tally)


def _count_present(codes: npt.NDArray[Any], dtype: Dtype) -> npt.NDArray[np.uint32]:
    """Count the pixels that have a value, (month, band)."""
    there = np.isfinite(codes) if dtype == "float32" else codes != MISSING[dtype]
    by_band = there.reshape(-1, *there.shape[-4:]).sum(axis=(0, -2, -1))
    return np.asarray(by_band, np.uint32)
