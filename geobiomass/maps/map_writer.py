"""Writing a map to Zarr or GeoTIFF, block by block, interruptible and continued.

What is written is noted in the map's own store (see :mod:`geobiomass.maps.manifest`),
so that an interrupted map goes on where it stopped, on a disk as on object storage.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import xarray as xr

from geobiomass.cube import CubeError
from geobiomass.cube.encoding import with_text_of_any_length
from geobiomass.cube.store import UNFINISHED, consolidate
from geobiomass.files import sha256_of
from geobiomass.maps.blocks import Block, Target, WorkersDiedError, create_array
from geobiomass.maps.completion import BLOCKS, FINISHING, MAKING
from geobiomass.maps.conventions import conventions_of
from geobiomass.maps.destination import Destination, in_step
from geobiomass.maps.execution import (
    Compute,
    Outcome,
    active_client,
    on_cluster,
    on_threads,
)
from geobiomass.maps.geotiff import FINGERPRINT, write_geotiff
from geobiomass.maps.lock import only_writer
from geobiomass.maps.manifest import WRITTEN, Manifest, verified
from geobiomass.maps.origin import PROVENANCE, with_software_of
from geobiomass.maps.overviews import level_sizes, write_overviews

if TYPE_CHECKING:
    import zarr
    from zarr.abc.store import Store


MADE_WITH = "made_with"
"""Attribute of a map: what its values depend on, in words and hashes."""

_HOPELESS = 3  # failures in a row, not of the input, after which others fail as well


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
) -> None:
    """Write a map to Zarr (``.zarr``) or a cloud-optimised GeoTIFF (``.tif``).

    Parameters
    ----------
    path : str, Path or zarr.abc.store.Store
        A path or an address that fsspec knows (``s3://bucket/map.tif``) that ends
        in ``.zarr``, ``.tif`` or ``.tiff``; or a store of Zarr.
    template : xarray.Dataset
        The lazy map: its variables, coordinates and attributes are taken over; it
        is not computed. What its attribute ``made_with`` says is compared with
        what a map at `path` says, for the message that refuses another one.
    blocks : sequence of Block
        What is to be computed, row by row, each once; the rest stays NaN.
    compute : callable
        Block -> (output, y, x) float32, on several threads at once; must pickle
        where there is a cluster.
    fingerprint : str
        Stands for the model, the input and the settings that values depend on.
    side : int
        Side of a block, pixels.
    overviews : bool
        Add levels of half, a quarter, ... the resolution to a Zarr map; a GeoTIFF
        has them always.
    resume : bool
        Go on with a half-written map; otherwise it is begun again.
    overwrite : bool
        Delete what is at `path` first.
    progress : bool
        Show a progress bar.
    client : distributed.Client, optional
        Its workers compute the blocks; by default those of the client in use, if
        there is one, else threads of this process.
    storage_options : mapping, optional
        What fsspec needs for the address: credentials, an endpoint.

    Raises
    ------
    ValueError
        If the ending of `path` is none of those above, or the map there was begun
        with another `side`.
    FileExistsError
        If another map, or anything else, is at `path` and not `overwrite`.
    MapInUseError
        If another process is writing this map.
    IncompleteMapError
        If blocks failed, by place and reason; the others are kept, and the same
        call computes only what is missing.
    """
    place = Destination.of(path, storage_options)
    _refuse_form(place, template, overviews)
    names = list(map(str, template))
    levels = names if overviews and place.raster is None else []
    here = template.attrs.get(MADE_WITH)
    done = not overwrite and _is_done(place, fingerprint, here)
    if done and not place.leftovers() and not _lacks(place, levels):
        return
    with only_writer(place):
        place.tidy()
        if overwrite:
            place.remove_raster()
        elif _is_done(place, fingerprint, here):  # or by who was writing a moment ago
            if place.raster is not None and place.attrs() is not None:
                place.clear()  # what it was made from, after a kill
            if _lacks(place, levels):
                write_overviews(place.group("r+"), levels, side, progress)
            return
        marks = {FINGERPRINT: fingerprint, "block": side, BLOCKS: len(blocks)}
        group = None if overwrite else _go_on(place, marks, resume, here)
        if group is None:
            group = _make(place, template, marks)
        else:
            _note_software(group, template)
        if group.attrs.get(UNFINISHED, FINISHING) != FINISHING:
            target = Target(place.store, tuple(names))
            _write_blocks(place, group, target, blocks, compute, progress, client)
        _finish(group, levels, progress)
        if place.raster is not None:
            _write_raster(place, names, fingerprint)


def _refuse_form(place: Destination, template: xr.Dataset, overviews: bool) -> None:
    """Refuse a folder that is not there, and what chips cannot have."""
    if place.local is not None and not place.local.parent.is_dir():
        raise ValueError(
            f"The folder {place.local.parent} does not exist; make it first."
        )
    if place.raster is not None and "chip" in template.dims:
        raise ValueError(
            f"Chips have no common grid for one GeoTIFF, {place.name}; write a .zarr."
        )
    if overviews and "chip" in template.dims:
        raise ValueError("Chips have no common grid for overviews; leave them out.")


def _lacks(place: Destination, levels: Sequence[str]) -> bool:
    """Tell whether a finished map has yet to get the overviews that are wanted."""
    attrs = place.attrs() if levels else None
    if attrs is None or "multiscales" in attrs:
        return False
    height, width = place.group("r")[levels[0]].shape  # type: ignore[union-attr]
    return any(level_sizes(height, width))


def _is_done(
    place: Destination, fingerprint: str, here: Mapping[str, Any] | None
) -> bool:
    """Tell whether this very map is there, finished; refuse anything else."""
    if place.raster is None:
        attrs = place.attrs()
        if attrs is not None and attrs.get(FINGERPRINT) != fingerprint:
            raise _refusal(place.name, attrs.get(MADE_WITH), here)
        return attrs is not None and UNFINISHED not in attrs
    raster = place.raster_there()
    if raster is None:
        return False
    if raster != fingerprint:
        raise _refusal(place.name)
    return True


def _refusal(
    name: str,
    there: Mapping[str, Any] | None = None,
    here: Mapping[str, Any] | None = None,
) -> FileExistsError:
    what = "a map by another model, of other input or with other settings, or no map"
    if there and here:
        both = [(key, there.get(key), here.get(key)) for key in here]
        what = "a map with " + "; ".join(
            f"{key} {_short(one)}, not {_short(other)}"
            for key, one, other in both
            if one != other
        )
    return FileExistsError(
        f"{name} exists and holds something else: {what}. Choose another path, or "
        "overwrite=True (on the command line --overwrite)."
    )


def _short(value: Any) -> str:
    """Give a value in a few letters: hashes are long and all alike."""
    text = str(value)
    return text if len(text) <= 40 else f"{text[:12]}..."


# --- a new map, or one to go on with ------------------------------------------


def _go_on(
    place: Destination,
    marks: Mapping[str, Any],
    resume: bool,
    here: Mapping[str, Any] | None,
) -> zarr.Group | None:
    """Recognise a map that was begun; None where there is none to go on with."""
    attrs = place.attrs()
    if attrs is None:
        return None
    if attrs.get(FINGERPRINT) != marks[FINGERPRINT]:
        raise _refusal(str(place.store), attrs.get(MADE_WITH), here)
    state = attrs.get(UNFINISHED)
    if state == MAKING or (state is not None and not resume):
        return None
    if state is not None and attrs["block"] != marks["block"]:
        raise ValueError(
            f"{place.name} was begun with block={attrs['block']} and cannot go on "
            f"with block={marks['block']}; use the same, or resume=False to begin "
            "again."
        )
    return place.group("r+")


def _note_software(group: zarr.Group, template: xr.Dataset) -> None:
    """Note what goes on with a map beside what began it, where that is another."""
    there, here = group.attrs.get(PROVENANCE), template.attrs.get(PROVENANCE)
    if isinstance(there, str) and here is not None:
        both = with_software_of(there, here)
        if both != there:
            group.attrs.put(dict(group.attrs) | {PROVENANCE: both})


def _make(
    place: Destination, template: xr.Dataset, marks: Mapping[str, Any]
) -> zarr.Group:
    """Make everything but the pixels; until that is done no other call goes on."""
    if isinstance(place.store, Path):
        _fill(place.work, template, marks)
        place.clear()
        place.work.rename(place.store)
    else:
        place.clear({**marks, UNFINISHED: MAKING})
        _fill(place.store, template, marks)
    return place.group("r+")


def _fill(store: Path | Store, template: xr.Dataset, marks: Mapping[str, Any]) -> None:
    import zarr

    group = zarr.open_group(store, mode="a", zarr_format=3)
    group.require_group(WRITTEN)
    frame = with_text_of_any_length(template.drop_vars(list(template)))
    frame.attrs = {**marks, UNFINISHED: MAKING}
    frame.to_zarr(group.store, mode="a", zarr_format=3, consolidated=False)
    for name, variable in template.items():
        create_array(group, str(name), variable, marks["block"])
    attrs = dict(zarr.open_group(store, mode="r").attrs)  # xarray added to them
    said = conventions_of(template) | dict(template.attrs)
    group.attrs.put({**attrs, **said, **marks, UNFINISHED: True})


# --- blocks -------------------------------------------------------------------


def _write_blocks(
    place: Destination,
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
    finish_or_say(place.name, outcomes, len(blocks), len(done), progress)


def finish_or_say(
    name: str, outcomes: Any, count: int, done: int, progress: bool
) -> None:
    """Take in blocks as they are done, with a progress bar, to the last one.

    Parameters
    ----------
    name : str
        How the user named the map.
    outcomes : generator of Outcome
        As the functions of :mod:`geobiomass.maps.execution` give them.
    count, done : int
        Blocks of the map, and how many of them an earlier call wrote.
    progress : bool
        Show the bar.

    Raises
    ------
    IncompleteMapError
        If blocks failed, by place and reason.
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
        raise _incomplete(name, failed, count, rest) from failed[0][1]


def _follow(outcomes: Any, bar: Any) -> list[tuple[Block, Exception]]:
    """Take in blocks as they are done; give those that failed."""
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
            # Damaged input is of one place; a full disk is of all of them.
            in_a_row += not isinstance(result, CubeError | WorkersDiedError)
            if in_a_row == _HOPELESS:
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
        more += f"; {rest} were not tried, as {_HOPELESS} in a row failed"
    return IncompleteMapError(
        f"{len(failed)} of {count} blocks of {name} could not be computed "
        f"({reasons}{more}). The finished ones are kept; mend what is wrong and make "
        "the same call again."
    )


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__


# --- the end ------------------------------------------------------------------


def _finish(group: zarr.Group, overviews: Sequence[str], progress: bool) -> None:
    """Take the notes away; that the map is finished is said last, in one write."""
    if UNFINISHED not in group.attrs:
        return
    group.attrs.put(dict(group.attrs) | {UNFINISHED: FINISHING})
    if overviews:
        side: Any = group.attrs["block"]
        write_overviews(group, overviews, side, progress)
    in_step(group.store.delete_dir(f"{group.path}/{WRITTEN}".strip("/")))
    consolidate(group)
    _say_finished(group)


def _say_finished(group: zarr.Group) -> None:
    import zarr

    whole = zarr.open_group(group.store, path=group.path, mode="r+")
    whole.attrs.put({k: v for k, v in whole.attrs.items() if k != UNFINISHED})


def _write_raster(place: Destination, names: list[str], fingerprint: str) -> None:
    """Make the GeoTIFF, and take away what it was made from."""
    store: Any = place.store
    if isinstance(place.raster, Path):
        place.work.mkdir()  # beside it, so that it comes into its place in one step
        making = place.work / place.raster.name
        write_geotiff(store, making, names, fingerprint)
        making.replace(place.raster)
        place.work.rmdir()
    else:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "map.tif"
            write_geotiff(store, file, names, fingerprint)
            place.upload(file)
    place.clear()


def fingerprint_of(parts: dict[str, Any]) -> str:
    """Give one short text that stands for what a map's values depend on."""
    return sha256_of(json.dumps(parts, sort_keys=True, default=str))
