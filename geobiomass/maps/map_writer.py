"""Writing a map to Zarr or GeoTIFF, block by block, continued after a stop.

The map's own store records which blocks are written (see
:mod:`geobiomass.maps.manifest`). So an interrupted map is continued where it stopped,
on a disk and on object storage.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import xarray as xr

from geobiomass.cube import CubeError
from geobiomass.cube.cluster_errors import told_of_cluster
from geobiomass.cube.cluster_watch import active_client
from geobiomass.cube.encoding import with_text_of_any_length
from geobiomass.cube.grid import Grid
from geobiomass.cube.plain_attributes import mapping_in, with_plain_attributes
from geobiomass.cube.publishing import consolidate
from geobiomass.cube.sealing import write_seal
from geobiomass.cube.store import UNFINISHED
from geobiomass.cube.store_objects import synchronise
from geobiomass.maps.blocks import Block, Target, WorkersDiedError, create_array
from geobiomass.maps.completion import BLOCKS, FINISHING, MAKING
from geobiomass.maps.conventions import conventions_of, undeclared
from geobiomass.maps.destination import Destination
from geobiomass.maps.execution import (
    Compute,
    Outcome,
    on_cluster,
    on_threads,
)
from geobiomass.maps.finished import (
    MADE_WITH,
    check_finished,
    is_done,
    is_whole,
    needs_overviews,
    refusal,
)
from geobiomass.maps.geotiff import FINGERPRINT, write_geotiff
from geobiomass.maps.lock import only_writer
from geobiomass.maps.manifest import WRITTEN, Manifest, verified
from geobiomass.maps.origin import PROVENANCE, with_software_of
from geobiomass.maps.overviews import add_overviews, write_overviews
from geobiomass.outside_text import check_variable_names
from geobiomass.training.disk_errors import DiskError, disk_error_of, told_of_disk
from geobiomass.training.files import sha256_of

if TYPE_CHECKING:
    import zarr
    from zarr.abc.store import Store


# Failures in a row after which the rest is not tried: a full disk fails every block.
_MOST_FAILURES = 3


class IncompleteMapError(RuntimeError):
    """Some blocks of a map could not be computed; the others are on disk."""

    exit_code = 3  # of the command line


def write_map(
    path: str | Path | Store,
    template: xr.Dataset,
    blocks: Sequence[Block],
    compute: Compute,
    fingerprint: str,
    *,
    side: int,
    overviews: bool = False,
    resume: bool = True,
    overwrite: bool = False,
    progress: bool = True,
    client: Any = None,
    storage_options: Mapping[str, Any] | None = None,
    count: Callable[[zarr.Group], Mapping[str, Any]] | None = None,
) -> None:
    """Write a map to Zarr (``.zarr``) or a cloud-optimised GeoTIFF (``.tif``).

    Parameters
    ----------
    path : str, Path or zarr.abc.store.Store
        A path or an address that fsspec knows (``s3://bucket/map.tif``) that ends
        in ``.zarr``, ``.tif`` or ``.tiff``; or a store of Zarr.
    template : xarray.Dataset
        The lazy map: its variables, coordinates and attributes are copied; it is not
        computed. If another map is at `path`, the error message compares the
        attribute ``made_with`` of the two.
    blocks : sequence of Block
        The blocks to compute, row by row, each once; other pixels stay NaN.
    compute : callable
        Block -> (output, y, x) float32; is called on several threads at once, and
        must pickle for a cluster.
    fingerprint : str
        Hash of the model, the input and the settings that the values depend on.
    side : int
        Side of a block, pixels.
    overviews : bool
        Add levels of half, a quarter, ... the resolution to a Zarr map; a GeoTIFF
        always has them.
    resume : bool
        Continue a half-written map; otherwise start it again.
    overwrite : bool
        First delete the map or cube at `path`; nothing else is ever deleted.
    progress : bool
        Show a progress bar.
    client : distributed.Client, optional
        Its workers compute the blocks; by default the client in use, if
        there is one, else threads of this process.
    storage_options : mapping, optional
        Options of fsspec for the address: credentials, an endpoint.
    count : callable, optional
        Called with the group once all blocks are written; returns attributes that it
        computes from their values.

    Raises
    ------
    ValueError
        If `path` has another ending, or the map there was begun with another
        `side`.
    FileExistsError
        If another map, or anything else, is at `path` and not `overwrite`.
    MapInUseError
        If another process is writing this map.
    DamagedError
        If the map is finished, and is not what was written any more.
    IncompleteMapError
        If blocks failed; it names them and the reasons. The others are kept, and the
        same call computes only the missing ones.
    """
    check_variable_names(template, "the map")
    destination = Destination.of(path, storage_options)
    _check_form(destination, template, overviews)
    names = list(map(str, template))
    levels = names if overviews and destination.raster is None else []
    here = mapping_in(template.attrs.get(MADE_WITH))
    done = not overwrite and is_done(destination, fingerprint, here)
    if (
        done
        and not destination.leftovers()
        and not needs_overviews(destination, levels)
        and is_whole(destination, progress)
    ):
        return
    again = "make the same call again: it goes on where it stopped"
    with told_of_disk(destination.name, again), only_writer(destination):
        destination.tidy()
        if overwrite:
            destination.check_removable()
            destination.remove_raster()
        elif is_done(destination, fingerprint, here):  # another process finished it
            check_finished(destination, progress)
            if destination.raster is not None and destination.attrs() is not None:
                destination.clear()  # the group it was made from, left by a kill
            if needs_overviews(destination, levels):
                add_overviews(destination.group("r+"), levels, side, progress)
            return
        marks = {FINGERPRINT: fingerprint, "block": side, BLOCKS: len(blocks)}
        group = None if overwrite else _open_begun(destination, marks, resume, here)
        if group is None:
            group = _make(destination, template, marks)
        else:
            _record_software(group, template)
        if group.attrs.get(UNFINISHED, FINISHING) != FINISHING:
            target = Target(destination.store, tuple(names))
            _write_blocks(destination, group, target, blocks, compute, progress, client)
        _finish(group, levels, progress, count, destination.raster is None)
        if destination.raster is not None:
            _write_raster(destination, names, fingerprint)


def _check_form(
    destination: Destination, template: xr.Dataset, overviews: bool
) -> None:
    """Check that the folder exists, and that chips have no GeoTIFF or overviews."""
    if destination.local is not None and not destination.local.parent.is_dir():
        raise ValueError(
            f"The folder {destination.local.parent} does not exist; make it first."
        )
    if destination.raster is not None and "chip" in template.dims:
        raise ValueError(
            f"Chips have no common grid for one GeoTIFF, {destination.name}; write a "
            ".zarr."
        )
    if destination.raster is not None and {"y", "x"} <= set(template.coords):
        Grid.of(template, f"The map for the GeoTIFF {destination.name}")
    if overviews and "chip" in template.dims:
        raise ValueError("Chips have no common grid for overviews; leave them out.")


# --- a new map, or one to continue --------------------------------------------


def _open_begun(
    destination: Destination,
    marks: Mapping[str, Any],
    resume: bool,
    here: Mapping[str, Any] | None,
) -> zarr.Group | None:
    """Open a map that was begun; return None if there is none to continue."""
    attrs = destination.attrs()
    if attrs is None:
        return None
    if attrs.get(FINGERPRINT) != marks[FINGERPRINT]:
        raise refusal(str(destination.store), mapping_in(attrs.get(MADE_WITH)), here)
    state = attrs.get(UNFINISHED)
    if state == MAKING or (state is not None and not resume):
        return None
    if state is not None and attrs["block"] != marks["block"]:
        raise ValueError(
            f"{destination.name} was begun with block={attrs['block']} and cannot be "
            f"continued with block={marks['block']}; use the same, or resume=False to "
            "begin again."
        )
    return destination.group("r+")


def _record_software(group: zarr.Group, template: xr.Dataset) -> None:
    """Record the software that continues a map, if other software began it."""
    there, here = group.attrs.get(PROVENANCE), template.attrs.get(PROVENANCE)
    if isinstance(there, str) and here is not None:
        both = with_software_of(there, here)
        if both != there:
            group.attrs.put(dict(group.attrs) | {PROVENANCE: both})


def _make(
    destination: Destination, template: xr.Dataset, marks: Mapping[str, Any]
) -> zarr.Group:
    """Create all but the pixels; a map in this state is not continued."""
    if isinstance(destination.store, Path):
        _fill(destination.work, template, marks)
        destination.clear()
        destination.work.rename(destination.store)
    else:
        destination.clear({**marks, UNFINISHED: MAKING})
        _fill(destination.store, template, marks)
    return destination.group("r+")


def _fill(store: Path | Store, template: xr.Dataset, marks: Mapping[str, Any]) -> None:
    import zarr

    group = zarr.open_group(store, mode="a", zarr_format=3)
    group.require_group(WRITTEN)
    frame = with_text_of_any_length(template.drop_vars(list(template)))
    frame = with_plain_attributes(frame)
    frame.attrs = {**marks, UNFINISHED: MAKING}
    frame.to_zarr(group.store, mode="a", zarr_format=3, consolidated=False)
    for name, variable in template.items():
        create_array(group, str(name), variable, marks["block"])
    # Read again: xarray added the names of the coordinates.
    attrs = dict(zarr.open_group(store, mode="r").attrs)
    described = undeclared(conventions_of(template)) | dict(template.attrs)
    group.attrs.put({**attrs, **described, **marks, UNFINISHED: True})


# --- blocks -------------------------------------------------------------------


def _write_blocks(
    destination: Destination,
    group: zarr.Group,
    target: Target,
    blocks: Sequence[Block],
    compute: Compute,
    progress: bool,
    client: Any,
) -> None:
    manifest = Manifest(group)
    done = verified(manifest, target, blocks, progress)
    waiting = [block for block in blocks if block not in done]
    client = client if client is not None else active_client()
    outcomes = (
        on_threads(waiting, compute, target, manifest)
        if client is None
        else on_cluster(waiting, compute, target, manifest, client)
    )

    def written() -> str:
        return f"{len(manifest.read())} of {len(blocks)} blocks are written"

    what = f"{destination.name} was being written"
    with told_of_cluster(what, client, progress=written):
        follow_blocks(destination.name, outcomes, len(blocks), len(done), progress)


def follow_blocks(
    name: str, outcomes: Any, count: int, done: int, progress: bool
) -> None:
    """Wait for all blocks, with a progress bar.

    Parameters
    ----------
    name : str
        How the user named the map.
    outcomes : generator of Outcome
        From a function of :mod:`geobiomass.maps.execution`.
    count, done : int
        Number of blocks of the map, and of those that an earlier call wrote.
    progress : bool
        Show the bar.

    Raises
    ------
    IncompleteMapError
        If blocks failed; it names them and the reasons.
    DiskError
        If they failed because the disk is full or cannot be written.
    """
    from tqdm.auto import tqdm

    with tqdm(
        total=count,
        initial=done,
        unit="block",
        desc="Mapping",
        disable=not progress,
    ) as bar:
        failed = _follow(outcomes, bar)
        rest = count - int(bar.n) - len(failed)
    if failed:
        for _, error in failed:
            if (code := disk_error_of(error, name)) is not None:
                remedy = "make the same call again: finished blocks are kept"
                raise DiskError(code, name, remedy) from error
        raise _incomplete(name, failed, count, rest) from failed[0][1]


def _follow(outcomes: Any, bar: Any) -> list[tuple[Block, Exception]]:
    """Wait for all blocks; return those that failed, with their errors."""
    failed: list[tuple[Block, Exception]] = []
    in_a_row = 0
    try:
        outcome: Outcome
        for outcome in outcomes:
            block, result = outcome
            if not isinstance(result, Exception):
                in_a_row = 0
                bar.update()
                continue
            failed.append((block, result))
            # Damaged input fails one block; a full disk fails all of them.
            in_a_row += not isinstance(result, CubeError | WorkersDiedError)
            if in_a_row == _MOST_FAILURES:
                break
    finally:
        outcomes.close()
    return failed


def _incomplete(
    name: str, failed: list[tuple[Block, Exception]], count: int, rest: int
) -> IncompleteMapError:
    reasons = "; ".join(f"{block}: {_reason(error)}" for block, error in failed[:5])
    more = f"; and {len(failed) - 5} more" if len(failed) > 5 else ""
    if rest:
        more += f"; {rest} were not tried, as {_MOST_FAILURES} in a row failed"
    return IncompleteMapError(
        f"{len(failed)} of {count} blocks of {name} could not be computed "
        f"({reasons}{more}). The finished ones are kept; fix the cause and make the "
        "same call again."
    )


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__


# --- the end ------------------------------------------------------------------


def _finish(
    group: zarr.Group,
    overviews: Sequence[str],
    progress: bool,
    count: Callable[[zarr.Group], Mapping[str, Any]] | None,
    sealed: bool,
) -> None:
    """Delete the manifest, write checksums; mark the map as finished last."""
    if UNFINISHED not in group.attrs:
        return
    counted = {} if count is None else dict(count(group))
    group.attrs.put(dict(group.attrs) | counted | {UNFINISHED: FINISHING})
    if overviews:
        side: Any = group.attrs["block"]
        write_overviews(group, overviews, side, progress)
    synchronise(group.store.delete_dir(f"{group.path}/{WRITTEN}".strip("/")))
    consolidate(group)
    if sealed:  # not what a GeoTIFF is made from, which is deleted
        write_seal(group)
    _mark_finished(group)


def _mark_finished(group: zarr.Group) -> None:
    import zarr

    whole = zarr.open_group(group.store, path=group.path, mode="r+")
    whole.attrs.put({k: v for k, v in whole.attrs.items() if k != UNFINISHED})


def _write_raster(destination: Destination, names: list[str], fingerprint: str) -> None:
    """Write the GeoTIFF, and delete the group that it was made from."""
    store: Any = destination.store
    if isinstance(destination.raster, Path):
        destination.work.mkdir()  # on the same disk: the renaming is one step
        making = destination.work / destination.raster.name
        with _named_gdal_errors(destination.name):
            write_geotiff(store, making, names, fingerprint)
        making.replace(destination.raster)
        destination.work.rmdir()
    else:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "map.tif"
            write_geotiff(store, file, names, fingerprint)
            destination.upload(file)
    destination.clear()


@contextmanager
def _named_gdal_errors(name: str) -> Iterator[None]:
    """Raise errors of GDAL in writing, which name no cause, as one sentence."""
    try:
        yield
    except Exception as error:
        ours = type(error).__module__.partition(".")[0] != "rasterio"
        if ours or disk_error_of(error) is not None:
            raise
        raise CubeError(
            f"{name} cannot be written ({error}); the disk may be full, or have a "
            "limit of the size of files: make room, and make the same call again: it "
            "goes on where it stopped."
        ) from error


def fingerprint_of(parts: dict[str, Any]) -> str:
    """Return the hash of all that a map's values depend on."""
    return sha256_of(json.dumps(parts, sort_keys=True, default=str))
