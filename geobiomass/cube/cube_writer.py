"""Writing a cube: a Zarr v3 group, a shard at a time, interruptible and continued.

Which shards are written, and how many pixels of each band and month they hold, is
kept in the store itself, in ``statistics/written``; so what was interrupted goes on
where it stopped, on a disk as on object storage.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from threading import Event, Lock
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
import numpy.typing as npt
import xarray as xr

from geobiomass.cube.convert import as_cube
from geobiomass.cube.encoding import (
    MISSING,
    SHARD,
    Dtype,
    Encoding,
    attributes,
    encode,
    extents,
    fingerprint_of,
    plan_encoding,
    with_text_of_any_length,
)
from geobiomass.cube.schema import CubeError, is_chips, select_bands
from geobiomass.cube.shards import quick_codecs
from geobiomass.cube.statistics import BandTally
from geobiomass.cube.store import (
    STATISTICS,
    UNFINISHED,
    VERSION,
    consolidate,
    is_local,
    open_cube,
    open_group,
)
from geobiomass.files import sha256_of
from geobiomass.threads import few_at_a_time
from geobiomass.tiles import blocks

if TYPE_CHECKING:
    import zarr
    from zarr.abc.store import Store

SCHEMA_VERSION = 1
_NOT_WRITTEN = 2**32 - 1
_LARGEST_BATCH = 4 * SHARD  # pixels along a side: what is computed together at most


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
    """Write a cube as a Zarr v3 group, a shard at a time, with bounded memory.

    An interrupted call is continued by the same call: shards already written are
    not computed again. A finished cube is not overwritten unless asked. Minimum,
    maximum, mean, standard deviation and percentiles of each band are counted on
    the way and stored as an attribute.

    Parameters
    ----------
    cube : xarray.Dataset
        Usually backed by dask; one shard (a chip, or 256 x 256 pixels of a scene
        with all months and bands) is computed at a time by each worker. Shards of a
        scene that lie in one dask chunk, of at most 1,024 x 1,024 pixels, are
        computed together, as many months at a time as the chunk has.
    path : str, Path or zarr.abc.store.Store
        A folder, an address that fsspec knows (``s3://bucket/chips.zarr``), or a
        store of Zarr, such as one of obstore. Nothing may be there yet, except a
        half-written cube to continue, or the cube to append to.
    dtype : "int16", "int32" or "float32"
        int16 stores radar in steps of 0.01 dB and Sentinel-2 exactly, in half the
        memory of the others. CF knows one `scale_factor` a variable, so a cube
        that mixes them is stored with 0.01: plain xarray then reads decibels, and
        reflectance in percent, and ``image * multiplier`` (a coordinate on band)
        gives the cube's own units; :func:`open_cube` does so, exactly. int32
        stores every band in steps of 1/128 with one `scale_factor`, so that any
        CF reader gets the cube's own units; float32 keeps every bit.
    quantum : mapping of band to float, optional
        Steps for bands that are neither Sentinel-1 nor Sentinel-2 (int16 only).
    append : bool
        Add chips to the cube at `path`, stored as that one is. Until all of them
        are written, the cube stays what it was.
    overwrite : bool
        Delete what is at `path` first.
    progress : bool
        Show a progress bar.
    workers : int
        Shards computed at the same time.
    storage_options : mapping, optional
        What fsspec needs for the address: credentials, an endpoint.

    Raises
    ------
    CubeError
        If `cube` is not a cube, if a band has no known step, if what is at `path`
        is something else than the first part of this cube, or if the chips to
        append do not fit the cube that is there.
    FileExistsError
        If a finished cube, or anything else, is at `path` and neither `append` nor
        `overwrite`.
    """
    cube = as_cube(cube)
    place = _Place(path, storage_options)
    if append:
        cube, target = _open_to_append(cube, place)
    else:
        target = _open_to_write(cube, place, dtype, quantum, overwrite)
    _write_blocks(cube, target, place, progress, workers)
    _finish(cube, target)


@dataclass(frozen=True)
class _Place:
    """Where a cube is written."""

    path: str | Path | Store
    options: Mapping[str, Any] | None

    def __str__(self) -> str:
        return str(self.path)

    def group(self, mode: Literal["r", "r+", "w"]) -> zarr.Group:
        return open_group(self.path, mode, self.options, consolidated=False)

    def attrs(self) -> dict[str, Any] | None:
        """Attributes of the group that is there; None where there is nothing."""
        if is_local(self.path):
            folder = Path(cast(str, self.path))
            if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
                return None
        try:
            return dict(self.group("r").attrs)
        except (OSError, ValueError, KeyError):
            return {} if is_local(self.path) else None

    def clear(self) -> None:
        if is_local(self.path) and Path(cast(str, self.path)).exists():
            shutil.rmtree(cast(str, self.path))
        self.group("w")


@dataclass(frozen=True)
class _Target:
    """The arrays that blocks are written to."""

    group: zarr.Group
    arrays: dict[str, zarr.Array[Any]]
    written: zarr.Array[Any]
    labelled: zarr.Array[Any]
    encoding: Encoding
    tally: BandTally
    first: int = 0  # chips that were there before
    lock: Any = field(default_factory=Lock)

    def region(self, block: _Block, array: xr.DataArray) -> tuple[slice, ...]:
        place = {"y": block.rows, "x": block.columns}
        if block.chip is not None:
            chip = self.first + block.chip
            place["chip"] = slice(chip, chip + 1)
        return tuple(place.get(str(dim), slice(None)) for dim in array.dims)


# --- blocks -------------------------------------------------------------------


@dataclass(frozen=True)
class _Block:
    """One shard's place in the cube."""

    chip: int | None
    rows: slice
    columns: slice

    @property
    def number(self) -> tuple[int, ...]:
        """Where the block is noted: by chip, or by row and column of blocks."""
        if self.chip is not None:
            return (self.chip,)
        return (self.rows.start // SHARD, self.columns.start // SHARD)

    def within(self, other: _Block) -> tuple[slice, slice]:
        """Give the rows and columns counted from the corner of `other`."""
        top, left = other.rows.start, other.columns.start
        return (
            slice(self.rows.start - top, self.rows.stop - top),
            slice(self.columns.start - left, self.columns.stop - left),
        )

    def of(self, array: xr.DataArray) -> xr.DataArray:
        part = array.isel(y=self.rows, x=self.columns)
        if self.chip is None:
            return part
        return part.isel(chip=slice(self.chip, self.chip + 1))


def _blocks(cube: xr.Dataset) -> list[_Block]:
    height, width = cube.sizes["y"], cube.sizes["x"]
    if is_chips(cube):
        whole = slice(0, height), slice(0, width)
        return [_Block(chip, *whole) for chip in range(cube.sizes["chip"])]
    windows = blocks(height, width, SHARD)
    return [_Block(None, window.rows, window.columns) for window in windows]


def _block_counts(cube: xr.Dataset) -> tuple[int, ...]:
    """How many blocks there are: of chips, or by row and column."""
    if is_chips(cube):
        return (cube.sizes["chip"],)
    return tuple(-(-cube.sizes[dim] // SHARD) for dim in ("y", "x"))


def _write_blocks(
    cube: xr.Dataset, target: _Target, place: _Place, progress: bool, workers: int
) -> None:
    from tqdm.auto import tqdm

    done = np.asarray(target.written)[..., 0, 0] != _NOT_WRITTEN
    blocks = _blocks(cube)
    left = [block for block in blocks if not done[block.number]]
    count = partial(_count_again, cube=cube, target=target)
    for _, future in few_at_a_time(
        (b for b in blocks if done[b.number]), count, workers
    ):
        future.result()
    steps = len(_month_parts(cube))
    unit = "chip" if is_chips(cube) else "block"
    stop = Event()
    with tqdm(
        total=len(blocks) * steps,
        initial=(len(blocks) - len(left)) * steps,
        unit=unit if steps == 1 else f"month of a {unit}",
        desc=f"Writing {Path(str(place)).name}",
        disable=not progress,
    ) as bar:
        write = partial(_write_batch, cube=cube, target=target, bar=bar, stop=stop)
        batches = _batches(cube, left)
        for _, future in few_at_a_time(batches, write, workers, stop=stop):
            future.result()


def _month_parts(cube: xr.Dataset) -> list[slice]:
    """Give the months that dask computes together."""
    lengths = cube["image"].chunksizes.get("month", (cube.sizes["month"],))
    stops = np.cumsum(lengths).tolist()
    return [slice(b - n, b) for n, b in zip(lengths, stops, strict=True)]


def _batches(cube: xr.Dataset, left: list[_Block]) -> list[list[_Block]]:
    """Gather the blocks that lie in one dask chunk, which is thus computed once."""
    if is_chips(cube):
        return [[block] for block in left]
    sides = [_batch_side(cube["image"].chunksizes.get(dim, ())) for dim in ("y", "x")]
    batches: dict[tuple[int, ...], list[_Block]] = {}
    for block in left:
        number = tuple(n // s for n, s in zip(block.number, sides, strict=True))
        batches.setdefault(number, []).append(block)
    return list(batches.values())


def _batch_side(chunks: tuple[int, ...]) -> int:
    """Blocks along a side of a batch: a dask chunk's, if whole blocks fit in it."""
    fits = bool(chunks) and len(set(chunks[:-1])) <= 1 and chunks[-1] <= chunks[0]
    if not fits or chunks[0] > _LARGEST_BATCH or (chunks[0] % SHARD and chunks[1:]):
        return 1
    return -(-chunks[0] // SHARD)


def _write_batch(
    batch: list[_Block], *, cube: xr.Dataset, target: _Target, bar: Any, stop: Event
) -> None:
    """Compute a batch of blocks, some months at a time, and write each block."""
    whole = _around(batch)
    bands = [str(band) for band in cube["band"].values]
    wanted = {name: whole.of(cube[name]) for name in target.arrays}
    codes = np.empty(wanted["image"].shape, target.encoding.dtype)
    labels = None
    for months in _month_parts(cube):
        if stop.is_set():
            return
        part = {**wanted, "image": wanted["image"].isel(month=months)}
        computed = xr.Dataset(part).compute(scheduler="synchronous")
        values = computed["image"].values
        codes[..., months, :, :, :] = encode(values, target.encoding, bands)
        if "agb" in wanted:
            labels = computed["agb"].values
            del wanted["agb"]
        if months.stop < cube.sizes["month"]:
            with target.lock:
                bar.update(len(batch))
    for block in batch:
        _write_block(block, block.within(whole), codes, labels, cube, target)
        with target.lock:
            bar.update()


def _write_block(
    block: _Block,
    within: tuple[slice, slice],
    codes: npt.NDArray[Any],
    labels: npt.NDArray[Any] | None,
    cube: xr.Dataset,
    target: _Target,
) -> None:
    """Write one block of a batch."""
    codes = np.ascontiguousarray(codes[(..., *within)])
    target.arrays["image"][target.region(block, cube["image"])] = codes
    if labels is not None:
        labels = labels[(..., *within)]
        target.arrays["agb"][target.region(block, cube["agb"])] = labels
        target.labelled[block.number] = np.isfinite(labels).sum()
    _count(codes, target)
    # Last: what is noted is on disk.
    target.written[block.number] = _count_present(codes, target.encoding.dtype)


def _around(batch: list[_Block]) -> _Block:
    """Give the window that holds the blocks of a batch."""
    rows = [edge for b in batch for edge in (b.rows.start, b.rows.stop)]
    columns = [edge for b in batch for edge in (b.columns.start, b.columns.stop)]
    return _Block(
        batch[0].chip,
        slice(min(rows), max(rows)),
        slice(min(columns), max(columns)),
    )


def _count_again(block: _Block, *, cube: xr.Dataset, target: _Target) -> None:
    """Count a block that an interrupted call wrote."""
    codes = target.arrays["image"][target.region(block, cube["image"])]
    _count(np.asarray(codes), target)


def _count(codes: npt.NDArray[Any], target: _Target) -> None:
    encoding = target.encoding
    tally = encoding.tally(target.tally.bands)
    tally.add(encoding.physical(codes) if encoding.dtype == "int32" else codes)
    with target.lock:
        target.tally.merge(tally)


def _count_present(codes: npt.NDArray[Any], dtype: Dtype) -> npt.NDArray[np.uint32]:
    """Pixels that hold a value, (month, band)."""
    there = np.isfinite(codes) if dtype == "float32" else codes != MISSING[dtype]
    by_band = there.reshape(-1, *there.shape[-4:]).sum(axis=(0, -2, -1))
    return np.asarray(by_band, np.uint32)


# --- a new cube, or one to continue ---------------------------------------------


def _open_to_write(
    cube: xr.Dataset,
    place: _Place,
    dtype: Dtype,
    quantum: Mapping[str, float] | None,
    overwrite: bool,
) -> _Target:
    """Create the arrays, or recognise a half-written cube."""
    encoding = plan_encoding(cube, dtype, quantum)
    attrs = place.attrs()
    if attrs is not None and not overwrite:
        if UNFINISHED not in attrs:
            raise FileExistsError(
                f"{place} exists already and is left as it is; choose another path, "
                "append=True or overwrite=True (on the command line --append or "
                "--overwrite)."
            )
        if attrs[UNFINISHED] != encoding.fingerprint:
            raise CubeError(
                f"{place} is the first part of another cube (other chips, images, "
                "bands, grid or dtype); finish that one, choose another path, or "
                "overwrite=True."
            )
    if attrs is None or overwrite or "being_made" in attrs:
        _create(cube, place, encoding)
    elif "statistics/written" not in place.group("r"):
        raise CubeError(
            f"{place} was begun by an earlier version, which kept its notes elsewhere; "
            "begin again with overwrite=True."
        )
    bands = [str(band) for band in cube["band"].values]
    return _target(place.group("r+"), cube, encoding, encoding.tally(bands))


def _target(
    group: zarr.Group,
    cube: xr.Dataset,
    encoding: Encoding,
    tally: BandTally,
    first: int = 0,
) -> _Target:
    names = [name for name in ("image", "agb") if name in cube]
    with quick_codecs():
        arrays = {name: cast(Any, group[name]) for name in names}
        if first:
            arrays = {n: _lengthened(a, first, cube) for n, a in arrays.items()}
        written = cast(Any, group["statistics/written"])
        labelled = cast(Any, group["statistics/labels_written"])
    return _Target(group, arrays, written, labelled, encoding, tally, first)


def _create(cube: xr.Dataset, place: _Place, encoding: Encoding) -> None:
    """Make everything but the pixels; until that is done the group says so."""
    place.clear()
    group = place.group("r+")
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
    attrs = dict(place.group("r").attrs)  # xarray added which are coordinates
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
        # The sum notices bits that flipped and still decode.
        compressors=[
            BloscCodec(cname="lz4", clevel=5, shuffle="bitshuffle"),
            Crc32cCodec(),
        ],
        fill_value=MISSING[dtype],
        dimension_names=[str(dim) for dim in array.dims],
        attributes=attributes(array, encoding if name == "image" else None),
    )


def _create_record(group: zarr.Group, cube: xr.Dataset, encoding: Encoding) -> None:
    """Make the array that notes which blocks are written, and what they hold."""
    months, bands = cube.sizes["month"], cube.sizes["band"]
    counts = _block_counts(cube)
    names = ["chip"] if is_chips(cube) else ["row", "column"]
    record = group.require_group("statistics")
    for name, more in (
        ("labels_written", {}),
        ("written", {"month": months, "band": bands}),
    ):
        record.create_array(
            name,
            shape=(*counts, *more.values()),
            chunks=(*(1 for _ in counts), *more.values()),
            dtype="uint32",
            fill_value=_NOT_WRITTEN,
            dimension_names=[*names, *more],
            attributes={"fingerprint": encoding.fingerprint},
            overwrite=True,
        )


# --- more chips for a cube --------------------------------------------------------


def _open_to_append(cube: xr.Dataset, place: _Place) -> tuple[xr.Dataset, _Target]:
    """Make room for more chips, without the cube showing it yet."""
    there = open_cube(place.path, storage_options=place.options)
    cube = _fit_to(cube, there, place)
    group = place.group("r+")
    known = [str(chip) for chip in there["chip"].values]
    encoding = _encoding_there(group, cube, known)
    record = group.get("statistics/written")
    if record is None or record.attrs["fingerprint"] != encoding.fingerprint:
        _create_record(group, cube, encoding)
    tally = _tally_there(group, there, encoding)
    return cube, _target(group, cube, encoding, tally, first=len(known))


def _tally_there(group: zarr.Group, there: xr.Dataset, encoding: Encoding) -> BandTally:
    """Take up what was counted when the cube was written."""
    record = cast(Any, group["statistics"])
    tally = encoding.tally([str(band) for band in there["band"].values])
    tally.restore(np.asarray(record["histogram"]), record.attrs["tally"])
    return tally


def _fit_to(cube: xr.Dataset, there: xr.Dataset, place: _Place) -> xr.Dataset:
    """Bring chips into the form of a cube, or say what does not fit."""
    if not (is_chips(cube) and is_chips(there)):
        raise CubeError(f"append needs chips, and chips at {place}; a scene is whole.")
    both = sorted(
        set(map(str, there["chip"].values)) & set(map(str, cube["chip"].values))
    )
    if both:
        raise CubeError(
            f"{len(both)} of the chips to append are in {place} already, such as "
            f"{both[:3]}; leave them out: cube.drop_sel(chip=[...])."
        )
    bands = tuple(str(band) for band in there["band"].values)
    cube = select_bands(cube, bands)
    for what, ours, theirs in (
        ("months", cube["month"].values.tolist(), there["month"].values.tolist()),
        ("pixels", *((d.sizes["y"], d.sizes["x"]) for d in (cube, there))),
        ("variables", *(_along_chips(d) for d in (cube, there))),
    ):
        if ours != theirs:
            raise CubeError(
                f"Chips to append to {place} must have its {what}, {theirs}, got "
                f"{ours}."
            )
    for name in there.variables:
        if name in cube.variables and name not in ("image", "agb"):
            cube[name].encoding = there[name].encoding
    return cube


def _along_chips(cube: xr.Dataset) -> list[str]:
    return sorted(str(n) for n, v in cube.variables.items() if "chip" in v.dims)


def _encoding_there(
    group: zarr.Group, cube: xr.Dataset, known: Sequence[str]
) -> Encoding:
    """Read back how the cube is stored."""
    image = cast(Any, group["image"])
    dtype = str(image.dtype)
    if "statistics" not in group or dtype not in MISSING:
        raise CubeError(
            f"{group.store_path} was not written by this version's write_cube, so "
            "nothing can be appended to it; write it anew."
        )
    steps: tuple[float, ...] = ()
    if dtype != "float32":
        steps = (float(image.attrs["scale_factor"]),)
    if "multiplier" in group:
        multiplier = np.asarray(group["multiplier"], np.float64)
        steps = tuple(float(round(m * steps[0], 12)) for m in multiplier)
    # What comes after other chips is another piece of work.
    after = sha256_of(repr(list(known)))
    return Encoding(
        cast(Dtype, dtype), steps, after + fingerprint_of(cube, dtype, steps)
    )


def _lengthened(
    array: zarr.Array[Any], first: int, cube: xr.Dataset
) -> zarr.Array[Any]:
    """Give an array more chips, in memory only: on disk it stays what it was."""
    import zarr

    shape = (first + cube.sizes["chip"], *array.shape[1:])
    metadata = dataclasses.replace(cast(Any, array.metadata), shape=shape)
    return zarr.Array(zarr.AsyncArray(metadata, store_path=array.store_path))


# --- the end ----------------------------------------------------------------------


def _finish(cube: xr.Dataset, target: _Target) -> None:
    """Write what was counted; the group's own metadata last, in one piece."""
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
        for name, values in _beside(cube).items():
            _put(group, name, values, target.first, [])
    attrs = {k: v for k, v in group.attrs.items() if k != UNFINISHED}
    attrs[STATISTICS] = _as_json(target.tally)
    group.attrs.put(attrs)
    del record["written"], record["labels_written"]
    consolidate(group)


def _put(
    group: zarr.Group, name: str, values: npt.NDArray[Any], first: int, dims: list[str]
) -> None:
    """Write an array, or what comes after its first entries; twice does no harm."""
    if first == 0:
        group.create_array(
            name, data=values, dimension_names=dims, overwrite=True, fill_value=0
        )
        return
    array = cast(Any, group[name])
    array.resize((first + len(values), *array.shape[1:]))
    array[first:] = values


def _beside(cube: xr.Dataset) -> dict[str, npt.NDArray[Any]]:
    """Give what lies along the chips beside pixels: ids, groups, dates, as stored."""
    names = [name for name in _along_chips(cube) if name not in ("image", "agb")]
    return {
        n: xr.conventions.encode_cf_variable(cube[n].variable).values for n in names
    }


def _as_json(tally: BandTally) -> dict[str, Any]:
    table = tally.table()
    values = [[None if v != v else v for v in row] for row in table.to_numpy().tolist()]
    return {"bands": [*table.index], "columns": [*table.columns], "values": values}
