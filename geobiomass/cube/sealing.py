"""Writing the seal of a finished store, and checking every byte of one."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from geobiomass.cube.file_checks import Files, Sums, described_sum, shard_sum
from geobiomass.cube.one_state import consistently
from geobiomass.cube.publishing import described, write_root
from geobiomass.cube.schema import CubeError
from geobiomass.cube.store import check_exists, missing, open_group, store_at
from geobiomass.cube.store_objects import documents_of
from geobiomass.cube.store_seal import (
    FORMAT,
    OTHER_ROOTS,
    ROOT,
    SEAL,
    UNFINISHED,
    check_store,
    document_of,
    marked,
    read_seal,
    root_sum,
)
from geobiomass.training.checksums import with_checksum

if TYPE_CHECKING:
    import zarr
    from zarr.abc.store import Store

_PART = "part"
"""Mark of checksums that leave out files, which are being changed."""
_COUNTS = "statistics/"

_ABOUT = (
    "Size and CRC-32C of each file; of a shard also the CRC-32C of its last bytes and "
    "of the checksums of its chunks. After a change on purpose: geobiomass.cube.seal."
)


def seal(
    path: str | Path | Store, *, storage_options: Mapping[str, Any] | None = None
) -> None:
    """Write the checksums of a cube or map, as it is now.

    :func:`geobiomass.write_cube` and ``predict_to`` do it at the end. Do it again after
    you changed a store on purpose, with xarray or other software: it is then opened
    again.

    Parameters
    ----------
    path : str, Path or zarr.abc.store.Store
        A Zarr group: a cube or a map, of any software that writes Zarr v3.
    storage_options : mapping, optional
        Options of fsspec for the address: credentials, an endpoint.

    Raises
    ------
    FileNotFoundError
        If nothing is at `path`.
    CubeError
        If it is not finished, or is no group of Zarr v3.
    DamagedError
        If the index of a shard is damaged already.
    """
    check_exists(path)
    try:
        group = open_group(path, "r+", storage_options, consolidated=False)
    except (OSError, ValueError, KeyError, TypeError) as error:
        if (nothing := missing(path, storage_options, "a cube or map")) is not None:
            raise nothing from error
        raise CubeError(f"{path} is no Zarr group that can be sealed ({error}).") from (
            error
        )
    if group.metadata.zarr_format != 3:
        raise CubeError(
            f"{path} must be a group of Zarr v3 to have checksums, got Zarr "
            f"v{group.metadata.zarr_format}; write it again with write_cube."
        )
    if UNFINISHED in group.attrs:
        raise CubeError(
            f"{path} is not finished; make the same call that writes it again."
        )
    if open_group(path, "r", storage_options).metadata.consolidated_metadata:
        # Software that consolidates metadata copies the seal's as well.
        publish_sealed(group, dict(group.attrs))
    else:
        write_seal(group)


def verify(
    path: str | Path | Store, *, storage_options: Mapping[str, Any] | None = None
) -> pd.DataFrame:
    """Check every byte of a finished cube or map against its checksums.

    Opening checks metadata, coordinates and statistics, and reading checks what is
    read; this reads all.

    Parameters
    ----------
    path : str, Path or zarr.abc.store.Store
        A cube of :func:`geobiomass.write_cube` or a map of ``predict_to``, as Zarr.
    storage_options : mapping, optional
        Options of fsspec for the address.

    Returns
    -------
    pandas.DataFrame
        A row for each damaged file of pixels: ``file`` and ``problem``. No row if the
        store is whole.

    Warns
    -----
    UserWarning
        If an append was interrupted, with the number of its chips. They are no damage.

    Raises
    ------
    FileNotFoundError
        If nothing is at `path`.
    CubeError
        If it has no checksums.
    DamagedError
        If metadata, coordinates or statistics are damaged.
    """
    check_exists(path)
    return consistently(
        [path],
        lambda: _verified(path, storage_options),
        storage_options,
    )


def _verified(
    path: str | Path | Store, options: Mapping[str, Any] | None
) -> pd.DataFrame:
    store = store_at(path, options)
    found = check_store(store, str(path))
    if found is None:
        if (nothing := missing(path, options, "a cube or map")) is not None:
            raise nothing
        raise CubeError(
            f"{path} has no checksums: it is not finished, or an earlier version or "
            "other software wrote it. Add them with geobiomass.cube.seal."
        )
    rows = list(found.pixel_problems(store, whole=True))
    from geobiomass.cube.begun_append import without_begun_append  # with the writer

    rows, told = without_begun_append(path, options, rows, _PART in found.content)
    if told:
        warnings.warn(told, stacklevel=5)
    return pd.DataFrame(rows, columns=["file", "problem"])


def damage_in_words(path: str | Path | Store) -> dict[str, str]:
    """Return a fact: how many files of pixels are gone or have another size.

    Nothing where all are there, or the store has no checksums, or is not on a disk.
    Metadata and coordinates must have been checked.
    """
    store = store_at(path)
    found = check_store(store, str(path))
    if found is None:
        return {}
    problems = list(found.pixel_problems(store))
    if not problems:
        return {}
    total = sum(len(found.files_of(name)) for name in found.pixels)
    file, problem = problems[0]
    return {
        "damaged": f"{len(problems)} of {total} files of pixels are gone or have "
        f"another size, such as {file}, which {problem}; geobiomass.cube.verify lists "
        "them"
    }


def write_seal(group: zarr.Group, kept: Mapping[str, Sums] | None = None) -> None:
    """Write the checksums of a group's files, once all else is written.

    Only the mark of an unfinished group may still be removed afterwards.

    Parameters
    ----------
    group : zarr.Group
        The group, opened without consolidated metadata.
    kept : mapping, optional
        Sums that stay as they are, by file.

    Raises
    ------
    DamagedError
        If the index of a shard is damaged already.
    """
    _write(group, _sealed(group, kept))


def publish_sealed(
    group: zarr.Group,
    attrs: Mapping[str, Any],
    *,
    without: str = "",
    kept: Mapping[str, Sums] | None = None,
    tidy: Callable[[], object] | None = None,
) -> None:
    """Write a finished store's attributes and metadata, and its checksums again.

    Both are files of their own. So the checksums are written first, and accept the
    root's metadata as it was and as it will be: killed anywhere, the store is sealed.

    Parameters
    ----------
    group : zarr.Group
        The group, opened without consolidated metadata.
    attrs : mapping
        All its attributes.
    without : str
        An array that `tidy` deletes, which the metadata leaves out.
    kept : mapping, optional
        Sums that stay as they are, by file: of files that were not written.
    tidy : callable, optional
        Changes ``statistics`` once the root is written. Until then the checksums
        leave it out.
    """
    sealed, root = _sealed(group, kept), described(group, attrs, without)
    before = sealed["files"][ROOT]
    sealed["files"][ROOT] = root_sum(root)
    first = sealed | {OTHER_ROOTS: [before]}
    if tidy is not None:
        first = _part_of(first, lambda file: file.startswith(_COUNTS))
    _write(group, first)
    write_root(group, json.dumps(marked(json.loads(root), True)).encode())
    if tidy is not None:
        tidy()
        files = {n: s for n, s in first["files"].items() if n != ROOT}
        sealed = _sealed(group, files)
    _write(group, sealed)


def seal_part(group: zarr.Group, changes: Callable[[str], bool]) -> dict[str, Sums]:
    """Drop files from a store's checksums, before they are changed; return the rest.

    The store has them until the end: whatever ends the change, all else is checked.

    Parameters
    ----------
    group : zarr.Group
        The group, opened without consolidated metadata.
    changes : callable
        Whether a file is changed.

    Returns
    -------
    dict
        Sums of the files that stay as they are; the root is not among them. Empty
        where the store has no checksums.
    """
    place = group.store_path
    found = read_seal(place.store, str(place), place.path)
    if found is None:
        return {}
    part = _part_of(found.content, changes)
    _write(group, part)
    return {file: sums for file, sums in part["files"].items() if file != ROOT}


def _part_of(
    content: Mapping[str, Any], changes: Callable[[str], bool]
) -> dict[str, Any]:
    files = {f: sums for f, sums in content["files"].items() if not changes(f)}
    return {**content, "files": files, _PART: True}


def leave_unsealed(group: zarr.Group, folder: str) -> None:
    """Drop the files of a folder from a store's checksums, before it is replaced.

    An interrupted :func:`publish_sealed` may have listed them.
    """
    place = group.store_path
    found = check_store(place.store, str(place), place.path)
    if found is None:
        return
    kept = {f: sums for f, sums in found.files.items() if not f.startswith(folder)}
    if kept.keys() != found.files.keys():
        pixels = {n: k for n, k in found.pixels.items() if not n.startswith(folder)}
        _write(group, {**found.content, "pixels": pixels, "files": kept})


def _write(group: zarr.Group, content: Mapping[str, Any]) -> None:
    text = json.dumps(document_of(with_checksum(content)), separators=(",", ":"))
    files = Files(group.store_path.store, group.store_path.path)
    files.write(SEAL, text.encode())
    _mark(files, True)


def _sealed(
    group: zarr.Group, kept: Mapping[str, Sums] | None = None
) -> dict[str, Any]:
    """Return what a seal says of a store as it is now, but for the files that stay."""
    import zarr

    place = group.store_path
    files = Files(place.store, place.path)
    whole = zarr.open_group(
        place.store, path=place.path, mode="r", use_consolidated=False
    )
    members = {name: whole[name] for name in documents_of(whole)}
    arrays = {n: node for n, node in members.items() if isinstance(node, zarr.Array)}
    pixels = {name: _inner(array) for name, array in arrays.items() if _large(array)}
    sums: dict[str, Any] = {ROOT: root_sum(files.read([ROOT])[ROOT])}
    small: list[str] = []
    shards: dict[int, list[str]] = {}
    kept = kept or {}
    for file in sorted({*files.names(), *kept}):
        owner = _owner(file, arrays)
        if owner is None or file in (ROOT, SEAL):
            continue
        inner = 0 if file.endswith(f"/{ROOT}") else pixels.get(owner, 0)
        (shards.setdefault(inner, []) if inner else small).append(file)
    fresh = described_sum(files, [name for name in small if name not in kept])
    sums |= {name: kept.get(name) or fresh[name] for name in small}
    for inner, names in shards.items():
        new = [name for name in names if name not in kept]
        fresh = shard_sum(files, new, inner, str(place))
        sums |= {name: kept.get(name) or fresh[name] for name in names}
    return {"about": _ABOUT, "format": FORMAT, "pixels": pixels, "files": sums}


def ensure_seal(group: zarr.Group) -> None:
    """Write the checksums of a finished store that lost them to an interruption."""
    place = group.store_path
    found = read_seal(place.store, str(place), place.path)
    if found is None:
        write_seal(group)
    elif _PART in found.content:
        write_seal(group, {n: s for n, s in found.files.items() if n != ROOT})
    else:
        _mark(Files(place.store, place.path), True)


def _mark(files: Files, sealed: bool) -> None:
    """Mark the root's metadata as that of a store with checksums, or without."""
    before = json.loads(files.read([ROOT])[ROOT])
    after = marked(before, sealed)
    if after != before:
        files.write(ROOT, json.dumps(after, indent=2).encode())


def _owner(file: str, arrays: Mapping[str, Any]) -> str | None:
    """Return the array or group that a file is of; None of a file that is not Zarr's.

    Locks, partial files and those of other software are no part of the store.
    """
    folder, _, name = file.rpartition("/")
    if name == ROOT:
        return folder
    if name.endswith(".partial") or name.startswith("."):
        return None
    while folder and folder not in arrays:
        folder = folder.rpartition("/")[0]
    return folder or None


def _large(array: zarr.Array[Any]) -> bool:
    """Return whether an array has pixels: those are read, and checked, in parts."""
    dims: Any = getattr(array.metadata, "dimension_names", None) or ()
    return tuple(dims[-2:]) == ("y", "x")


def _inner(array: zarr.Array[Any]) -> int:
    """Return the chunks of a shard, 0 where they have no checksums of their own."""
    from zarr.codecs import BytesCodec, Crc32cCodec, ShardingCodec

    codecs: tuple[Any, ...] = getattr(array.metadata, "codecs", ())
    if len(codecs) != 1 or not isinstance(codecs[0], ShardingCodec):
        return 0
    sharding = codecs[0]
    known = (
        isinstance(sharding.codecs[-1], Crc32cCodec)
        and tuple(map(type, sharding.index_codecs)) == (BytesCodec, Crc32cCodec)
        and sharding.index_location.value == "end"
    )
    if not known or array.shards is None:
        return 0
    return prod(s // c for s, c in zip(array.shards, array.chunks, strict=True))
