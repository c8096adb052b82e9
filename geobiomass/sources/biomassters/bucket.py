"""The bucket of the BioMassters competition: its list of files, and one file.

fsspec reads the bucket (s3fs repeats requests that fail). The checksum of each file is
verified here, before the file gets its name.

"""

from __future__ import annotations

import hashlib
import re
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from geobiomass.cube import CubeError
from geobiomass.sources.biomassters.names import NAME, UNKNOWN_SIZE, chip_of
from geobiomass.training.packages import need_for_address

PUBLIC = "s3://drivendata-competition-biomassters-public-"
"""Name of the competition's buckets, without the region; all have the same files."""

REGIONS = ("us", "eu", "as")

AT_ONCE = 16
"""Files of 1 to 1.5 MB that are downloaded at the same time."""

PART = ".part"
"""Ending of the name of an incomplete file."""

_TRIES = 3  # downloads of a file that arrives damaged
_CREDENTIALS = {"key", "secret", "token", "profile", "session"}


class DownloadError(OSError):
    """A download is impossible or incomplete; the message has the files and reasons."""


@dataclass(frozen=True)
class Remote:
    """A file of the bucket, with its local path."""

    key: str
    path: Path
    size: int  # bytes
    checksum: str  # "cksum ..." or "md5 ..."; empty if it is not listed


@dataclass(frozen=True)
class Bucket:
    """A folder of object storage, or of any other storage that fsspec reads."""

    files: Any  # a file system of fsspec
    address: str
    top: str  # the key of the folder at `address`


def open_bucket(
    source: str | bool, storage_options: Mapping[str, Any] | None
) -> Bucket:
    """Open the public bucket (True, or its region), or a mirror by its address.

    Raises
    ------
    CubeError
        If `source` is none of these.
    MissingPackageError
        If the address is on S3, and s3fs is not installed.
    """
    address = str(source)
    if source is True:
        address = PUBLIC + REGIONS[0]
    elif source in REGIONS:
        address = f"{PUBLIC}{source}"
    elif "://" not in address:
        raise CubeError(
            f"download must be True, one of {REGIONS} or an address such as "
            f"'s3://bucket/folder', got {source!r}."
        )
    need_for_address(address)
    options = dict(storage_options or {})
    if address.startswith("s3://"):
        if not _CREDENTIALS & options.keys():
            options.setdefault("anon", True)
        options.setdefault("config_kwargs", {"max_pool_connections": AT_ONCE})
    from fsspec.core import url_to_fs

    files, top = url_to_fs(address, **options)
    return Bucket(files, address, top.rstrip("/"))


def list_files(bucket: Bucket, folder: Path, split: str) -> list[Remote]:
    """Return the files of a split, from the tables, or else from the bucket's listing.

    Raises
    ------
    DownloadError
        If the bucket cannot be read, or has neither.
    CubeError
        If a table is invalid.
    """
    parts = {f"{split}_features": "features_metadata.csv"}
    if split == "train":
        parts["train_agbm"] = "train_agbm_metadata.csv"
    files: list[Remote] = []
    for part, table in parts.items():
        path = folder / table
        if path.is_file() or _fetch_table(bucket, path):
            files += _files_in_table(bucket, folder / part, path, split)
        else:
            files += _files_in_bucket(bucket, folder / part, table)
    if not files:
        raise DownloadError(
            f"{bucket.address} lists no files of split {split!r}; choose another split "
            "or address."
        )
    return files


def _fetch_table(bucket: Bucket, path: Path) -> bool:
    """Download one of the competition's tables; return False if there is none."""
    key = f"{bucket.top}/{path.name}"
    with _named_errors(bucket, path.name):
        try:
            facts = bucket.files.info(key)
        except FileNotFoundError:
            return False
        remote = Remote(key, path, _size_of(facts), _md5_of(facts))
        fetch(bucket, remote)
    return True


def _files_in_table(
    bucket: Bucket, folder: Path, path: Path, split: str
) -> list[Remote]:
    import pandas as pd

    columns: dict[Any, Any] = {
        "filename": str,
        "split": str,
        "size": "Int64",
        "cksum": "Int64",
    }
    try:
        table = pd.read_csv(path, usecols=columns.__contains__, dtype=columns)
        names, size = table["filename"], table["size"]
    except (ValueError, KeyError) as error:
        raise CubeError(
            f"{path} must be a CSV table with the columns filename and size, in bytes: "
            f"{error}; delete it, then it is downloaded again."
        ) from error
    unknown = pd.Series(pd.NA, table.index)
    ours = table.get("split", pd.Series(split, table.index)) == split
    rows = zip(names, size, table.get("cksum", unknown), ours, strict=True)
    return [
        Remote(
            f"{bucket.top}/{folder.name}/{name}",
            folder / name,
            UNKNOWN_SIZE if pd.isna(length) else int(length),
            "" if pd.isna(checksum) else f"cksum {checksum}",
        )
        for name, length, checksum, mine in rows
        if mine and NAME.fullmatch(str(name))  # a name, and no path
    ]


def _files_in_bucket(bucket: Bucket, folder: Path, table: str) -> list[Remote]:
    with _named_errors(bucket, f"{folder.name}/"):
        try:
            found = bucket.files.find(f"{bucket.top}/{folder.name}", detail=True)
        except FileNotFoundError:  # S3, if the bucket does not exist
            found = {}
    files = [
        Remote(key, folder / name, _size_of(facts), _md5_of(facts))
        for key, facts in sorted(found.items())
        if chip_of(name := key.rpartition("/")[2])
    ]
    if not files:
        raise DownloadError(
            f"{bucket.address} must contain {table} or {folder.name}/ with files named "
            f"like 0060c0a5_S1_00.tif, and has neither; check the address."
        )
    return files


def _size_of(facts: Mapping[str, Any]) -> int:
    """Return the size in a listing; web servers may not know it."""
    size = facts.get("size")
    return UNKNOWN_SIZE if size is None else int(size)


def _md5_of(facts: Mapping[str, Any]) -> str:
    """Return the checksum in a listing: S3's ETag, unless the upload was multipart."""
    tag = str(facts.get("ETag", "")).strip('"')
    return f"md5 {tag}" if re.fullmatch("[0-9a-f]{32}", tag) else ""


@contextmanager
def _named_errors(bucket: Bucket, what: str) -> Iterator[None]:
    """Convert errors of a file system to a sentence with the address."""
    try:
        yield
    except DownloadError:
        raise
    except Exception as error:  # each kind of storage has its own errors
        raise DownloadError(
            f"{what} of {bucket.address} cannot be read: {reason_of(error)}; check the "
            "address, the network and storage_options."
        ) from error


def reason_of(error: Exception) -> str:
    """Return the message of an error in a form that fits into a sentence."""
    if isinstance(error, FileNotFoundError):
        return "it does not exist"
    return str(error).rstrip(".") or type(error).__name__


# One file ------------------------------------------------------------------


def fetch(bucket: Bucket, file: Remote) -> None:
    """Download a file, again if it is damaged; rename it to its final name if sound.

    Raises
    ------
    DownloadError
        If it arrives damaged each time.
    """
    for _ in range(_TRIES):
        data = bucket.files.cat_file(file.key)
        if not (wrong := fault(file, data)):
            break
    else:
        raise DownloadError(f"it arrived with {wrong}, {_TRIES} times")
    # The name means that the file is complete, so a killed download resumes by names.
    part = file.path.with_name(file.path.name + PART)
    try:
        part.write_bytes(data)
        part.replace(file.path)
    finally:
        part.unlink(missing_ok=True)


def fault(file: Remote, data: bytes) -> str:
    """Return the fault of a file's bytes; empty if there is none."""
    if file.size not in (UNKNOWN_SIZE, len(data)):
        return f"{len(data)} bytes instead of {file.size}"
    kind, _, wanted = file.checksum.partition(" ")
    if not kind:
        return ""
    found = (
        str(posix_cksum(data))
        if kind == "cksum"
        else hashlib.md5(data, usedforsecurity=False).hexdigest()
    )
    return "" if found == wanted else f"{kind} {found} instead of {wanted}"


def posix_cksum(data: bytes) -> int:
    """Return the checksum that the command ``cksum`` prints.

    It is a CRC with the polynomial of zlib, over the bytes and then their number,
    lowest byte first (POSIX.1-2017, cksum). It starts with 0 and processes the highest
    bit of a byte first; zlib processes the lowest bit first. So zlib computes it on
    bytes whose bits are reversed.
    """
    length = len(data)
    tail = length.to_bytes((length.bit_length() + 7) // 8, "little")
    value = zlib.crc32(data.translate(_REVERSED_BITS), 0xFFFFFFFF)
    value = zlib.crc32(tail.translate(_REVERSED_BITS), value)
    return int(f"{value:032b}"[::-1], 2)


_REVERSED_BITS = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
