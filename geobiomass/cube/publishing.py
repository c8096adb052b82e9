"""Consolidated metadata of a Zarr group, and its last write: readers see old or new."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

from geobiomass.cube.store_objects import ROOT, synchronise

if TYPE_CHECKING:
    import zarr
    from zarr.core.buffer import Buffer


def consolidate(group: zarr.Group) -> None:
    """Write a group's consolidated metadata, so that it opens with one read."""
    import zarr

    with warnings.catch_warnings():
        # Consolidated metadata is an extension of Zarr v3; xarray and zarr read it.
        warnings.filterwarnings("ignore", "Consolidated metadata is currently")
        # The store also contains other objects, such as the lease of its writer.
        warnings.filterwarnings("ignore", "Object at .* is not recognized")
        zarr.consolidate_metadata(group.store, path=group.path)


def publish(group: zarr.Group, attrs: Mapping[str, Any], without: str = "") -> None:
    """Write a group's attributes and consolidated metadata, in one write.

    Readers see all before it, or all after it.

    Parameters
    ----------
    group : zarr.Group
        The group.
    attrs : mapping
        All its attributes.
    without : str
        An array that is deleted next, which the metadata leaves out.
    """
    import zarr
    from zarr.storage import MemoryStore

    memory = MemoryStore()
    whole = zarr.create_group(memory, attributes=dict(attrs), zarr_format=3)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Object at .* is not recognized")
        members = [name for name, _ in group.members(max_depth=None)]
    for name in members:
        if name != without:
            place = group.store_path / name / ROOT
            found = synchronise(place.get())
            synchronise((whole.store_path / name / ROOT).set(cast("Buffer", found)))
    consolidate(whole)
    root = synchronise((whole.store_path / ROOT).get())
    synchronise((group.store_path / ROOT).set(cast("Buffer", root)))
