"""The bucket of the BioMassters competition: what it holds, and one file out of it."""

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
from geobiomass.sources.biomassters.names import chip_of
from geobiomass.training.packages import need_for_address

PUBLIC = "s3://drivendata-competition-biomassters-public-"
"""The competition's buckets, all with the same files, end with one of `REGIONS`."""

REGIONS = ("us", "eu", "as")

AT_ONCE = 16
"""Files of 1 to 1.5 MB that are under way together."""

UNKNOWN = -1
"""Size in bytes of a file that neither table nor listing gives."""

PART = ".part"
"""How the name of a file ends that is not whole yet."""

_TRIES = 3  # of a file that comes damaged
_CREDENTIALS = {"key", "secret", "token", "profile", "session"}


class DownloadError(OSError):
    """What was asked for cannot be had, or not as it should be; says what and why."""


@dataclass(frozen=True)
class Remote:
    """A file of the bucket, and where it goes."""

    key: str
    path: Path
    size: int  # bytes
    checksum: str  # "cksum ..." or "md5 ..."; empty where nobody knows it


@dataclass(frozen=True)
class Bucket:
    """A folder of object storage, or of anything else that fsspec reads."""

    files: Any  # a file system of fsspec
    address: str
    top: str  # the key of what `address` names


def open_bucket(
    source: str | bool, storage_options: Mapping[str, Any] | None
) -> Bucket:
    """Find the public bucket (True, or its region) or a mirror, by its address.

    Raises
    ------
    CubeError
        If `source` is none of these.
    MissingPackageError
        If what reads S3 is not installed.
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
    """List the files of a split, from the tables or else from the bucket.

    Raises
    ------
    DownloadError
        If the bucket cannot be read, or holds neither.
    CubeError
        If a table is not one.
    """
    parts = {f"{split}_features": "features_metadata.csv"}
    if split == "train":
        parts["train_agbm"] = "train_agbm_metadata.csv"
    files: list[Remote] = []
    for part, table in parts.items():
        path = folder / table
        if path.is_file() or _fetch_table(bucket, path):
            files += _of_table(bucket, folder / part, path, split)
        else:
            files += _of_bucket(bucket, folder / part, table)
    if not files:
        raise DownloadError(f"{bucket.address} lists no files of split {split!r}.")
    return files


def _fetch_table(bucket: Bucket, path: Path) -> bool:
    """Fetch one of the competition's tables; False where the bucket has none."""
    key = f"{bucket.top}/{path.name}"
    with _told(bucket, path.name):
        try:
            facts = bucket.files.info(key)
        except FileNotFoundError:
            return False
        remote = Remote(key, path, facts["size"], _md5_of(facts))
        fetch(bucket, remote)
    return True


def _of_table(bucket: Bucket, folder: Path, path: Path, split: str) -> list[Remote]:
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
            f"{error}; delete it, and it is downloaded again."
        ) from error
    nobody = pd.Series(pd.NA, table.index)
    ours = table.get("split", pd.Series(split, table.index)) == split
    rows = zip(names, size, table.get("cksum", nobody), ours, strict=True)
    return [
        Remote(
            f"{bucket.top}/{folder.name}/{name}",
            folder / name,
            UNKNOWN if pd.isna(length) else int(length),
            "" if pd.isna(checksum) else f"cksum {checksum}",
        )
        for name, length, checksum, mine in rows
        if mine and chip_of(name)
    ]


def _of_bucket(bucket: Bucket, folder: Path, table: str) -> list[Remote]:
    with _told(bucket, f"{folder.name}/"):
        try:
            found = bucket.files.find(f"{bucket.top}/{folder.name}", detail=True)
        except FileNotFoundError:  # of S3, when there is not even the bucket
            found = {}
    files = [
        Remote(key, folder / name, facts["size"], _md5_of(facts))
        for key, facts in sorted(found.items())
        if chip_of(name := key.rpartition("/")[2])
    ]
    if not files:
        raise DownloadError(
            f"{bucket.address} must hold {table} or {folder.name}/ with files named "
            f"like 0060c0a5_S1_00.tif, and has neither (is the address right?)."
        )
    return files


def _md5_of(facts: Mapping[str, Any]) -> str:
    """Give the checksum in a listing: S3's ETag, unless it was put in parts."""
    tag = str(facts.get("ETag", "")).strip('"')
    return f"md5 {tag}" if re.fullmatch("[0-9a-f]{32}", tag) else ""


@contextmanager
def _told(bucket: Bucket, what: str) -> Iterator[None]:
    """Turn what a file system raises into a sentence that names the place."""
    try:
        yield
    except DownloadError:
        raise
    except Exception as error:  # each kind of storage has its own errors
        raise DownloadError(
            f"{what} of {bucket.address} cannot be read: {why(error)}."
        ) from error


def why(error: Exception) -> str:
    """Say what an error says, in a way that fits into a sentence."""
    if isinstance(error, FileNotFoundError):
        return "it is not there"
    return str(error).rstrip(".") or type(error).__name__


# One file ------------------------------------------------------------------


def fetch(bucket: Bucket, file: Remote) -> None:
    """Fetch a file, again if it came damaged; it has its name only once it is right.

    Raises
    ------
    DownloadError
        If it came damaged each time.
    """
    for _ in range(_TRIES):
        data = bucket.files.cat_file(file.key)
        if not (wrong := fault(file, data)):
            break
    else:
        raise DownloadError(f"it came with {wrong}, {_TRIES} times")
    part = file.path.with_name(file.path.name + PART)
    try:
        part.write_bytes(data)
        part.replace(file.path)
    finally:
        part.unlink(missing_ok=True)


def fault(file: Remote, data: bytes) -> str:
    """Say what is wrong with a file's bytes, if anything is."""
    if file.size not in (UNKNOWN, len(data)):
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
    """Give the checksum that the command ``cksum`` prints.

    It is a CRC with zlib's polynomial, fed from the highest bit down where zlib feeds
    from the lowest up, begun with 0, over the bytes and then their number, lowest
    byte first (POSIX.1-2017, cksum). So zlib does it on bytes turned round.
    """
    length = len(data)
    tail = length.to_bytes((length.bit_length() + 7) // 8, "little")
    value = zlib.crc32(data.translate(_TURNED), 0xFFFFFFFF)
    value = zlib.crc32(tail.translate(_TURNED), value)
    return int(f"{value:032b}"[::-1], 2)


_TURNED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
