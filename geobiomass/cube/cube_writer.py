"""Writing a cube: a Zarr v3 group, one shard at a time, continued after a stop.

The store itself records which shards are written, and how many pixels of each band
and month they hold, in ``statistics/written``. So a call that was interrupted is
continued where it stopped, on a disk and on object storage.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt
import xarray as xr

from geobiomass.cube.convert import converted
from geobiomass.cube.encoding import MISSING, Dtype, encode
from geobiomass.cube.losses import CLIPPED, Losses
from geobiomass.cube.missing_values import TAKEN, clean, measured
from geobiomass.cube.plain_attributes import as_json, with_plain_attributes
from geobiomass.cube.schema import is_chips
from geobiomass.cube.statistics import BandTally
from geobiomass.cube.storage_steps import CoarseStepError, check_steps
from geobiomass.cube.store import STATISTICS, UNFINISHED, consolidate
from geobiomass.cube.write_blocks import (
    Block,
    around,
    batches_of,
    blocks_of,
    month_parts,
)
from geobiomass.cube.write_target import (
    NOT_WRITTEN,
    CubeDestination,
    Target,
    along_chips,
    open_to_append,
    open_to_write,
)
from geobiomass.threads import few_at_a_time
from geobiomass.training.setting_names import explain_arguments

if TYPE_CHECKING:
    import zarr
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
    not computed again. A finished cube is overwritten only with `overwrite`.
    Minimum, maximum, mean, standard deviation and percentiles of each band are
    computed during the writing and stored as an attribute.

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
        First delete anything that is at `path`.
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
        If a finished cube, or anything else, is at `path` and neither `append` nor
        `overwrite`.

    Warns
    -----
    UserWarning
        If lazy reflectance may be in percent and is stored in steps of 1; if values
        are clipped to the type's range, or taken as missing because no
        measurement has them (infinity, undeclared nodata). Their numbers by band are
        the attributes `clipped` and `taken_as_missing` of the stored image.
    """
    # What is lazy is cleaned as it is written, which counts each value once.
    cube = with_plain_attributes(measured(converted(cube), lazy=False))
    destination = CubeDestination(path, storage_options)
    if append:
        cube, target = open_to_append(cube, destination)
    else:
        target = open_to_write(cube, destination, dtype, quantum, overwrite)
    begun = bool((np.asarray(target.written) != NOT_WRITTEN).any()) or append
    doubts: list[str] = []
    try:
        name = Path(str(destination)).name
        _write_blocks(cube, target, name, progress, workers, doubts)
    except CoarseStepError:
        if not begun:
            destination.remove()  # so that the remedy can be written there
        raise
    _finish(cube, target)
    target.losses.tell(target.encoding.dtype)
    if doubts:
        warnings.warn(
            f"In {len(doubts)} blocks, {doubts[0]}", UserWarning, stacklevel=2
        )


# --- blocks -------------------------------------------------------------------


def _write_blocks(
    cube: xr.Dataset,
    target: Target,
    name: str,
    progress: bool,
    workers: int,
    doubts: list[str],
) -> None:
    """Write the blocks that are not written yet, on a few threads."""
    from tqdm.auto import tqdm

    done = np.asarray(target.written)[..., 0, 0] != NOT_WRITTEN
    blocks = blocks_of(cube)
    left = [block for block in blocks if not done[block.number]]
    count = partial(_count_again, cube=cube, target=target)
    for _, future in few_at_a_time(
        (b for b in blocks if done[b.number]), count, workers
    ):
        future.result()
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
        )
        batches = batches_of(cube, left)
        for _, future in few_at_a_time(batches, write, workers, stop=stop):
            future.result()


def _write_batch(
    batch: list[Block],
    *,
    cube: xr.Dataset,
    target: Target,
    bar: Any,
    stop: Event,
    doubts: list[str],
) -> None:
    """Compute a batch of blocks, some months at a time, and write each block."""
    whole = around(batch)
    bands = [str(band) for band in cube["band"].values]
    wanted = {name: whole.of(cube[name]) for name in target.arrays}
    codes = np.empty(wanted["image"].shape, target.encoding.dtype)
    labels = None
    losses = [Losses(bands) for _ in batch]
    for months in month_parts(cube):
        if stop.is_set():
            return
        part = {**wanted, "image": wanted["image"].isel(month=months)}
        computed = xr.Dataset(part).compute(scheduler="synchronous")
        values = computed["image"].values
        if target.encoding.quantum:
            doubt = check_steps(values, bands, target.encoding.quantum)
            if doubt:
                doubts.append(doubt)
        for block, lost in zip(batch, losses, strict=True):
            rows, columns = block.within(whole)
            codes[..., months, :, rows, columns] = encode(
                values[..., rows, columns], target.encoding, bands, lost
            )
        if "agb" in wanted:
            labels = computed["agb"].values
            del wanted["agb"]  # labels have no months: they are computed once
        if months.stop < cube.sizes["month"]:
            with target.lock:
                bar.update(len(batch))
    for block, lost in zip(batch, losses, strict=True):
        _write_block(block, block.within(whole), codes, labels, cube, target, lost)
        with target.lock:
            bar.update()


def _write_block(
    block: Block,
    within: tuple[slice, slice],
    codes: npt.NDArray[Any],
    labels: npt.NDArray[Any] | None,
    cube: xr.Dataset,
    target: Target,
    losses: Losses,
) -> None:
    """Write one block of a batch."""
    codes = np.ascontiguousarray(codes[(..., *within)])
    target.arrays["image"][target.region(block, cube["image"])] = codes
    if labels is not None:
        labels, found = clean(labels[(..., *within)], whole=False)
        losses.add_missing(found)
        target.arrays["agb"][target.region(block, cube["agb"])] = labels
        target.labelled[block.number] = np.isfinite(labels).sum()
    _count(codes, target)
    target.losses.merge(losses)
    if target.lost is not None and losses.counts.any():
        target.lost[block.number] = losses.counts
    # Last, so that a block in the record is on disk.
    target.written[block.number] = _count_present(codes, target.encoding.dtype)


def _count_again(block: Block, *, cube: xr.Dataset, target: Target) -> None:
    """Count a block that an interrupted call wrote."""
    codes = target.arrays["image"][target.region(block, cube["image"])]
    _count(np.asarray(codes), target)
    if target.lost is not None:
        before = Losses(target.tally.bands)
        before.counts = np.asarray(target.lost[block.number])
        target.losses.merge(before)


def _count(codes: npt.NDArray[Any], target: Target) -> None:
    """Add the values of a block to the statistics of the bands."""
    encoding = target.encoding
    tally = encoding.tally(target.tally.bands)
    tally.add(encoding.physical(codes) if encoding.dtype == "int32" else codes)
    with target.lock:
        target.tally.merge(tally)


def _count_present(codes: npt.NDArray[Any], dtype: Dtype) -> npt.NDArray[np.uint32]:
    """Count the pixels that have a value, (month, band)."""
    there = np.isfinite(codes) if dtype == "float32" else codes != MISSING[dtype]
    by_band = there.reshape(-1, *there.shape[-4:]).sum(axis=(0, -2, -1))
    return np.asarray(by_band, np.uint32)


# --- the end ----------------------------------------------------------------------


def _finish(cube: xr.Dataset, target: Target) -> None:
    """Write the counts and statistics; the group's own metadata last, in one write."""
    group, record = target.group, cast(Any, target.group["statistics"])
    histogram = target.tally.histogram
    record.create_array(
        "histogram", data=histogram, chunks=(1, histogram.shape[1]), overwrite=True
    )
    record.attrs.put({"tally": target.tally.state()})
    names = ["chip"] if is_chips(cube) else ["row", "column"]
    _put(
        group,
        "statistics/present",
        np.asarray(target.written),
        target.first,
        [*names, "month", "band"],
    )
    if "agb" in cube:
        counts = np.asarray(target.labelled)
        _put(group, "statistics/labelled", counts, target.first, names)
    if target.first:
        for name, array in target.arrays.items():
            cast(Any, group[name]).resize(array.shape)
        for name, values in _values_along_chips(cube).items():
            _put(group, name, values, target.first, [])
    _put_losses(group, target.losses)
    attrs = {k: v for k, v in group.attrs.items() if k != UNFINISHED}
    attrs[STATISTICS] = _as_text(target.tally)
    group.attrs.put(attrs)
    del record["written"], record["labels_written"]
    if target.lost is not None:
        del record["lost"]
    consolidate(group)


def _put_losses(group: zarr.Group, losses: Losses) -> None:
    """Write the numbers of values that were changed as attributes of the image."""
    image = cast(Any, group["image"])
    for which, name in ((0, TAKEN), (1, CLIPPED)):
        words = losses.in_words(which)
        known = str(image.attrs.get(name, ""))
        # The same call again, after an interruption here, adds nothing.
        if words and not known.endswith(words):
            image.attrs[name] = f"{known}; {words}" if known else words


def _put(
    group: zarr.Group, name: str, values: npt.NDArray[Any], first: int, dims: list[str]
) -> None:
    """Write an array, or its entries from `first` on; a repetition changes nothing."""
    if first == 0:
        group.create_array(
            name, data=values, dimension_names=dims, overwrite=True, fill_value=0
        )
        return
    array = cast(Any, group[name])
    array.resize((first + len(values), *array.shape[1:]))
    array[first:] = values


def _values_along_chips(cube: xr.Dataset) -> dict[str, npt.NDArray[Any]]:
    """Return ids, groups, dates and other values of chips, as they are stored."""
    names = [name for name in along_chips(cube) if name not in ("image", "agb")]
    return {
        n: xr.conventions.encode_cf_variable(cube[n].variable).values for n in names
    }


def _as_text(tally: BandTally) -> str:
    """Return the table of statistics as JSON text; NaN becomes null."""
    table = tally.table()
    values = [[None if v != v else v for v in row] for row in table.to_numpy().tolist()]
    kept = {"bands": [*table.index], "columns": [*table.columns], "values": values}
    return as_json(kept)
