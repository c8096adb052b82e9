"""SHA-256 fingerprints of the files and folders that a dossier is made of."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from geobiomass.cube import CubeError
from geobiomass.cube.addresses import is_local, store_at
from geobiomass.cube.store_seal import ROOT, check_store
from geobiomass.tables.files import split_part
from geobiomass.training.files import sha256_of, sha256_of_file

FILE, FOLDER, SEALED = "file", "folder", "checksums of a Zarr store"

_SHAPEFILE = (".shp", ".shx", ".dbf", ".prj", ".cpg")


@dataclass(frozen=True)
class Fingerprint:
    """The fingerprint of an input.

    Parameters
    ----------
    path : str
        The input, as it is named.
    of : str
        What is hashed: a file, all files of a folder with their names (also the parts
        of a shapefile), or the checksums that a finished Zarr store has of all its
        files, against which each file is checked when it is read.
    sha256 : str
        64 hexadecimal digits.
    """

    path: str
    of: str
    sha256: str


def fingerprint_of(path: str) -> Fingerprint:
    """Return the fingerprint of a file, a folder or a Zarr store.

    Parameters
    ----------
    path : str
        A path, also ``file.gpkg|layername=parks``, or the address of a Zarr store with
        checksums.

    Raises
    ------
    FileNotFoundError
        If nothing is there.
    CubeError
        If an address has no checksums, or a store is damaged.
    """
    whole = split_part(path)[0]
    if not is_local(whole):
        seal = check_store(store_at(whole), whole)
        if seal is None:
            raise CubeError(
                f"{whole} has no checksums, so that nothing says whether it changed; "
                "copy it to a disk, and give its path."
            )
        return Fingerprint(path, SEALED, _of_content(seal.content))
    place = Path(whole)
    if not place.exists():
        raise FileNotFoundError(f"There is nothing at {whole}; give another path.")
    if place.is_dir():
        seal = check_store(store_at(whole), whole) if (place / ROOT).exists() else None
        if seal is not None:
            return Fingerprint(path, SEALED, _of_content(seal.content))
        files = [one for one in sorted(place.rglob("*")) if one.is_file()]
        return Fingerprint(path, FOLDER, _of_files(files, place))
    if place.suffix.lower() == ".shp":
        parts = [place.with_suffix(ending) for ending in _SHAPEFILE]
        files = [part for part in parts if part.exists()]
        return Fingerprint(path, FOLDER, _of_files(files, place.parent))
    return Fingerprint(path, FILE, sha256_of_file(place))


def check_fingerprints(expected: Mapping[str, str]) -> None:
    """Check that inputs are those that numbers were made of.

    Parameters
    ----------
    expected : mapping of str to str
        SHA-256 by path.

    Raises
    ------
    ValueError
        If an input is another one; the message names all that are.
    FileNotFoundError
        If one is not there.
    """
    other = [
        path
        for path, digest in expected.items()
        if fingerprint_of(path).sha256 != digest
    ]
    if other:
        raise ValueError(
            f"{', '.join(other)} changed since the dossier was written, by SHA-256; "
            "the numbers are not made of it. Restore it from a copy."
        )


def _of_content(content: Mapping[str, object]) -> str:
    return sha256_of(json.dumps(content, sort_keys=True))


def _of_files(files: list[Path], folder: Path) -> str:
    return sha256_of(
        text
        for file in files
        for text in (f"{file.relative_to(folder).as_posix()}\n", sha256_of_file(file))
    )
