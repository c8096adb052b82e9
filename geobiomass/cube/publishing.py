"""Consolidated metadata of a Zarr group, and its last write: readers see old or new."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from geobiomass.cube.store_objects import ROOT, as_buffer, documents_of, synchronise
from geobiomass.cube.store_seal import CHECKSUMS
from geobiomass.threads import silence_warning

if TYPE_CHECKING:
    import zarr
    from zarr.core.buffer import Buffer


def consolidate(group: zarr.Group) -> None:
    """Write a group's consolidated metadata, so that it opens with one read."""
    # As they are stored: the group may have been opened before they were changed.
    content = synchronise((group.store_path / ROOT).get())
    root = json.loads(cast("Buffer", content).to_bytes())
    write_root(group, _described(root.get("attributes", {}), documents_of(group)))


def publish(group: zarr.Group, attrs: Mapping[str, Any], without: str = "") -> None:
    """Write a group's attributes and consolidated metadata, in one write.

    Readers see all before it, or all after it.

    Parameters
    ----------
    group, attrs, without
        As in :func:`described`.
    """
    write_root(group, described(group, attrs, without))


def write_root(group: zarr.Group, content: bytes) -> None:
    """Write a group's own metadata, in one write."""
    synchronise((group.store_path / ROOT).set(as_buffer(content.decode())))


def described(group: zarr.Group, attrs: Mapping[str, Any], without: str = "") -> bytes:
    """Return a group's own metadata, with attributes and all that is below it.

    Parameters
    ----------
    group : zarr.Group
        The group.
    attrs : mapping
        All its attributes.
    without : str
        An array that is deleted next, which the metadata leaves out.
    """
    # Checksums are of all else, and are written after it.
    left_out = (CHECKSUMS, without)
    found = documents_of(group)
    kept = {name: text for name, text in found.items() if name not in left_out}
    return _described(attrs, kept)


def _described(attrs: Mapping[str, Any], members: Mapping[str, bytes]) -> bytes:
    import zarr
    from zarr.storage import MemoryStore

    # Consolidated metadata is an extension of Zarr v3; xarray and zarr read it.
    silence_warning(UserWarning, "Consolidated metadata is currently not part")
    whole = zarr.create_group(MemoryStore(), attributes=dict(attrs), zarr_format=3)
    for name, content in members.items():
        place = whole.store_path / name / ROOT
        synchronise(place.set(as_buffer(content.decode())))
    zarr.consolidate_metadata(whole.store)
    root = synchronise((whole.store_path / ROOT).get())
    return cast("Buffer", root).to_bytes()


def mark_finished(group: zarr.Group, marks: Sequence[str]) -> None:
    """Remove attributes that mark a group as unfinished, and change nothing else."""
    place = group.store_path / ROOT
    root = json.loads(cast("Buffer", synchronise(place.get())).to_bytes())
    for mark in marks:
        root["attributes"].pop(mark, None)
    synchronise(place.set(as_buffer(json.dumps(root))))
