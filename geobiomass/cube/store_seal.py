"""The seal of a finished store: checksums of all its files, in the store itself.

Zarr has no checksums of its metadata, coordinates and statistics, and reads missing
values for a chunk that is gone. So what finishes a cube or a map also writes the group
``checksums``, whose attributes list each file: its size and CRC-32C. Of a shard whose
chunks carry checksums of their own, only those and its index are summed: they are few
bytes, and each chunk is checked against its own when it is decoded. The group is one
file, which is replaced in one step, and any Zarr reader passes over it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from geobiomass.cube.errors import CubeError, DamagedError
from geobiomass.cube.file_checks import (
    CHANGED,
    GONE,
    NEW,
    Files,
    Sums,
    described_problem,
    shard_problem,
)
from geobiomass.training.checksums import agrees, crc32c_of_json

if TYPE_CHECKING:
    from zarr.abc.store import Store

CHECKSUMS = "checksums"
SEAL = f"{CHECKSUMS}/zarr.json"
ROOT = "zarr.json"
UNFINISHED = "geobiomass_unfinished"
"""Attribute of a Zarr group that is still being written."""
FINISHING = "geobiomass_finishing"
"""Attribute of a cube whose pixels and counts are written, and whose end is not."""

FORMAT = 1

_CHUNK = re.compile(r"c(/\d+)+")  # of Zarr v3; other files are no part of the store

OTHER_ROOTS = "other_roots"
"""Sums of the root's metadata that are right as well, while it is replaced."""


@dataclass(frozen=True)
class ArraySeal:
    """The checksums of one array's chunks or shards; small, and pickles.

    Parameters
    ----------
    path : str
        The array's path in its group.
    prefix : str
        The group's path in its store.
    inner : int
        Chunks of a shard that carry checksums; 0 where files are summed whole.
    files : mapping
        Sums by chunk key, such as ``c/0/1``.
    """

    path: str
    prefix: str
    inner: int
    files: Mapping[str, Sums]

    def __contains__(self, key: str) -> bool:
        return key in self.files

    def problem(self, store: Store, keys: list[str]) -> tuple[str, str] | None:
        """Return the first key whose file is not the one that was written, and why.

        On a local disk a file is checked when it is first read in a process, and again
        after it changed. Of an object the last bytes are read: a shard's index.
        """
        known = {f"{self.path}/{key}": self.files.get(key) for key in keys}
        found = shard_problem(Files(store, self.prefix), known, self.inner)
        for key in keys:
            if (problem := found[f"{self.path}/{key}"]) is not None:
                return key, problem
        return None


@dataclass(frozen=True)
class Seal:
    """The checksums of a store's files.

    Parameters
    ----------
    content : mapping
        The attributes of the group ``checksums``.
    prefix : str
        Path of the sealed group in its store.
    """

    content: Mapping[str, Any]
    prefix: str = ""

    @property
    def files(self) -> dict[str, Sums]:
        """Sums by file."""
        files: dict[str, Sums] = self.content["files"]
        return files

    @property
    def pixels(self) -> dict[str, int]:
        """Chunks of a shard, by array that is checked when it is read."""
        pixels: dict[str, int] = self.content["pixels"]
        return pixels

    @cached_property
    def _by_array(self) -> dict[str, dict[str, Sums]]:
        return {
            name: {
                file[len(name) + 1 :]: sums
                for file, sums in self.files.items()
                if file.startswith(f"{name}/") and file != f"{name}/{ROOT}"
            }
            for name in self.pixels
        }

    def files_of(self, name: str) -> dict[str, Sums]:
        """Return the sums of an array of pixels, by chunk key."""
        return self._by_array[name]

    def of_array(self, name: str) -> ArraySeal | None:
        """Return the checksums of an array of pixels, None of other arrays."""
        if name not in self.pixels:
            return None
        return ArraySeal(name, self.prefix, self.pixels[name], self.files_of(name))

    def first_problem(self, store: Store) -> tuple[str, str] | None:
        """Return the first damaged file of metadata or small arrays, and why."""
        pixels = {f"{n}/{key}" for n, keys in self._by_array.items() for key in keys}
        small = [file for file in self.files if file not in pixels]
        content = Files(store, self.prefix).read(small)
        for file in small:
            sums = self.files[file]
            problem = (
                _root_problem(content[file], [sums, *self.content.get(OTHER_ROOTS, [])])
                if file == ROOT
                else described_problem(content[file], sums)
            )
            if problem is not None:
                return file, problem
        return None

    def pixel_files(self) -> Iterator[tuple[str, Sums, int]]:
        """Yield the files of pixels: name, sums, and chunks of a shard."""
        for name, chunks in self._by_array.items():
            for key, sums in chunks.items():
                yield f"{name}/{key}", sums, self.pixels[name]

    def new_files(self, store: Store) -> Iterator[tuple[str, str]]:
        """Yield files of pixels that were not there when the store was finished."""
        for file in Files(store, self.prefix).names():
            for name, chunks in self._by_array.items():
                key = file.removeprefix(f"{name}/")
                if key != file and _CHUNK.fullmatch(key) and key not in chunks:
                    yield file, NEW

    def pixel_problems(
        self, store: Store, *, whole: bool = False
    ) -> Iterator[tuple[str, str]]:
        """Yield the files of pixels that are damaged, and why.

        Parameters
        ----------
        store : zarr.abc.store.Store
            The store.
        whole : bool
            Read all bytes; otherwise only see whether files of a local disk are there
            and have their size.
        """
        files = Files(store, self.prefix)
        for file, sums, inner in self.pixel_files():
            problem = (
                files.whole_problem(file, sums, inner)
                if whole
                else files.size_problem(file, sums)
            )
            if problem is not None:
                yield file, problem
        if whole:
            yield from self.new_files(store)


def check_store(store: Store, where: str, prefix: str = "") -> Seal | None:
    """Check all that describes a finished store: metadata and small arrays.

    Parameters
    ----------
    store : zarr.abc.store.Store
        The store of a Zarr group.
    where : str
        The store as the user named it, for messages.
    prefix : str
        The group's path in its store.

    Returns
    -------
    Seal or None
        None of a store without checksums: it is not finished, or an earlier version or
        other software wrote it.

    Raises
    ------
    DamagedError
        If a file is damaged, gone or another's; it names the first one.
    """
    seal = read_seal(store, where, prefix)
    if seal is None and _is_marked(Files(store, prefix).read([ROOT])[ROOT]):
        # Again: a writer may have written both meanwhile.
        seal = read_seal(store, where, prefix)
        if seal is None:
            raise damaged(where, SEAL, GONE)
    while seal is not None and (problem := seal.first_problem(store)) is not None:
        if _is_unfinished(Files(store, prefix).read([ROOT])[ROOT]):
            return None  # its seal is not valid yet; the caller says so
        before, seal = seal, read_seal(store, where, prefix)
        if seal == before:
            raise damaged(where, *problem)
        # A writer changed the store, and its seal, meanwhile: look again.
    return seal


def damaged(where: str, file: str, problem: str) -> DamagedError:
    """Return the error of a damaged file of metadata, coordinates or statistics."""
    return DamagedError(
        f"{where} is damaged where it describes itself, in its coordinates, "
        f"statistics or zarr.json: {file} {problem}. Restore it from a copy, or write "
        "it again with overwrite=True. If you changed the store on purpose, accept it "
        f"as it is with geobiomass.cube.seal({where!r}).",
        f"{where}/{file}",
    )


def read_seal(store: Store, where: str, prefix: str = "") -> Seal | None:
    """Read the checksums of a store; None if it has none.

    Raises
    ------
    DamagedError
        If they are damaged themselves.
    CubeError
        If a later version wrote them.
    """
    content = Files(store, prefix).read([SEAL])[SEAL]
    if content is None:
        return None
    try:
        document = json.loads(content)
        attributes = document["attributes"]
        sound = agrees(attributes) and document == document_of(attributes)
    except (ValueError, TypeError, KeyError, RecursionError):
        sound = False
    if not sound:
        raise damaged(where, SEAL, CHANGED)
    if attributes["format"] != FORMAT:
        raise CubeError(
            f"{where} has checksums of format {attributes['format']}, expected "
            f"{FORMAT}: a later version of geobiomass wrote it; install that one."
        )
    return Seal(attributes, prefix)


def _is_unfinished(root: bytes | None) -> bool:
    try:
        return root is not None and UNFINISHED in json.loads(root)["attributes"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return False


def _is_marked(root: bytes | None) -> bool:
    """Return whether a finished store says that it has checksums."""
    try:
        content = json.loads(root or b"")
        members = content["consolidated_metadata"]["metadata"]
        return CHECKSUMS in members and UNFINISHED not in content["attributes"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return False  # of other software, or no Zarr: the caller says so


def marked(root: dict[str, Any], sealed: bool) -> dict[str, Any]:
    """Return the root's metadata with or without the mark of a store with checksums.

    Parameters
    ----------
    root : dict
        Content of ``zarr.json``. Without consolidated metadata it stays as it is.
    sealed : bool
        Whether the store has checksums.
    """
    consolidated = root.get("consolidated_metadata")
    if not isinstance(consolidated, dict):
        return root
    members = {n: m for n, m in consolidated["metadata"].items() if n != CHECKSUMS}
    if sealed:
        # As zarr-python writes a group without members.
        nothing = {"kind": "inline", "must_understand": False, "metadata": {}}
        members[CHECKSUMS] = document_of({}) | {"consolidated_metadata": nothing}
    return root | {"consolidated_metadata": {**consolidated, "metadata": members}}


def document_of(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the metadata of a Zarr group with attributes."""
    return {"zarr_format": 3, "node_type": "group", "attributes": dict(attributes)}


def root_sum(content: bytes) -> Sums:
    """Return the sum of the root's metadata, whatever marks it has.

    So the seal is written first, and marking the store as sealed and finished is its
    last change.
    """
    root = marked(json.loads(content), False)
    for mark in (UNFINISHED, FINISHING):
        root.get("attributes", {}).pop(mark, None)
    return [None, crc32c_of_json(root)]


def _root_problem(content: bytes | None, right: list[Sums]) -> str | None:
    if content is None:
        return GONE
    try:
        return None if root_sum(content) in right else CHANGED
    except (ValueError, TypeError, AttributeError, KeyError, RecursionError):
        return CHANGED
