"""The chips of the BioMassters competition, fetched from its public bucket.

A file is there when it is whole: it is written beside its place and renamed once its
checksum is right. So whatever stops a download, the same call goes on with the rest.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, cast

from geobiomass.sources.biomassters.bucket import (
    AT_ONCE,
    PART,
    UNKNOWN,
    Bucket,
    DownloadError,
    Remote,
    fault,
    fetch,
    list_files,
    open_bucket,
    why,
)
from geobiomass.sources.biomassters.names import chip_of, choose_chips
from geobiomass.threads import few_at_a_time

_FAILURES = 10  # files that fail before the rest is not even tried
_BLOCK = 4096  # bytes: what disks hand out


def download_chips(
    root: str | os.PathLike[str],
    split: str = "train",
    chips: int | str | Iterable[str] | None = None,
    *,
    source: str | bool = True,
    storage_options: Mapping[str, Any] | None = None,
    verify: bool = False,
    progress: bool = True,
) -> list[str]:
    """Fetch what `root` lacks of the competition's files, several at a time.

    Whole, that is 218 GB for the training chips and 73 GB for the test chips. The
    competition's tables, which give every file's size and checksum, are kept in
    `root`; where the bucket has none, sizes and MD5 sums of its listing are used.

    Parameters
    ----------
    root : path
        Where ``train_features/`` and so on are, or will be.
    split : "train" or "test"
        Labels come with "train"; the competition has published none for "test".
    chips : int, str or sequence of str, optional
        Ids, or how many: these are drawn by their ids alone, so that the same number
        is always the same chips, and a greater one has those and more. All of them
        by default.
    source : True, "us", "eu", "as" or an address
        The public bucket (of a region, "us" by default), or a mirror of it that
        fsspec can read, such as ``"s3://bucket/folder"``.
    storage_options : mapping, optional
        For fsspec. S3 is read anonymously unless they hold credentials, or
        ``{"anon": False}``.
    verify : bool
        Read what is there already as well and fetch it anew where its checksum is
        wrong. Else a file of the right size is taken to be right.
    progress : bool
        Show how many bytes have come.

    Returns
    -------
    list of str
        Ids of the chips, in order.

    Raises
    ------
    DownloadError
        There is no such bucket or no room on the disk, another process is at it, or
        files that cannot be had undamaged, by name; all others are there then.
    CubeError
        If a chip is not one of the competition's.
    """
    bucket, folder = open_bucket(source, storage_options), Path(root)
    folder.mkdir(parents=True, exist_ok=True)
    with _alone(folder):
        listed = list_files(bucket, folder, split)
        chosen = choose_chips(
            {chip_of(file.key) for file in listed}, chips, f"listed in {bucket.address}"
        )
        wanted = set(chosen)
        files = [file for file in listed if chip_of(file.key) in wanted]
        missing = _missing(folder, files, verify, progress)
        _refuse_if_too_big(folder, missing)
        _fetch_all(bucket, missing, progress)
    return chosen


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold the folder against other downloads; ends with the process."""
    from filelock import FileLock, Timeout

    lock = FileLock(folder / ".download.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise DownloadError(
            f"Another process is downloading into {folder}; wait for it, or stop it."
        ) from error
    try:
        yield
    finally:
        lock.release()


# What is there --------------------------------------------------------------


def _missing(
    root: Path, files: Sequence[Remote], verify: bool, progress: bool
) -> list[Remote]:
    """Give the files that are not there, or not as they should be."""
    there: dict[Path, int] = {}
    for folder in sorted({file.path.parent for file in files}):
        folder.mkdir(exist_ok=True)
        with os.scandir(folder) as entries:
            for entry in entries:
                if chip_of(entry.name):
                    there[Path(entry.path)] = entry.stat().st_size
                elif entry.name.endswith(PART):
                    os.unlink(entry.path)  # of a download that was killed
    right = {
        file.path
        for file in files
        if file.path in there and file.size in (UNKNOWN, there[file.path])
    }
    if verify:
        right -= _wrong([f for f in files if f.path in right], progress)
    return [file for file in files if file.path not in right]


def _wrong(files: Sequence[Remote], progress: bool) -> set[Path]:
    wrong: set[Path] = set()
    bar = _bar(files, "Checking", progress)
    work = few_at_a_time(files, lambda file: fault(file, file.path.read_bytes()), 2)
    with bar, closing(cast(Any, work)):
        for file, future in work:
            if future.result():
                wrong.add(file.path)
            bar.update(max(0, file.size))
    return wrong


def _refuse_if_too_big(root: Path, files: Sequence[Remote]) -> None:
    needed = sum(-(-max(0, file.size) // _BLOCK) * _BLOCK for file in files)
    free = shutil.disk_usage(root).free
    if needed > free:
        raise DownloadError(
            f"{len(files)} files of {_gigabytes(needed)} do not fit into {root}, where "
            f"{_gigabytes(free)} are free; make room, or choose fewer chips."
        )


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"


# Fetching -------------------------------------------------------------------


def _fetch_all(bucket: Bucket, files: Sequence[Remote], progress: bool) -> None:
    failed: dict[str, str] = {}

    def work(file: Remote) -> None:
        fetch(bucket, file)

    bar = _bar(files, "Downloading", progress)
    coming = few_at_a_time(files, work, AT_ONCE)
    with bar, closing(cast(Any, coming)):
        for file, future in coming:
            if reason := _failure(future):
                failed[file.key.removeprefix(f"{bucket.top}/")] = reason
                if len(failed) == _FAILURES:
                    break
            bar.update(max(0, file.size))
    if failed:
        named = "; ".join(
            f"{name}: {reason}" for name, reason in sorted(failed.items())
        )
        rest = " (the others were not tried any more)" * (len(failed) == _FAILURES)
        raise DownloadError(
            f"{len(failed)} of {len(files)} files of {bucket.address} could not be "
            f"had{rest}: {named}. What came is kept; the same call tries the rest."
        )


def _failure(future: Future[None]) -> str:
    error = future.exception()
    if isinstance(error, Exception):
        return why(error)
    future.result()  # Ctrl-C and the like
    return ""


def _bar(files: Sequence[Remote], what: str, progress: bool) -> Any:
    from tqdm.auto import tqdm

    return tqdm(
        total=sum(max(0, file.size) for file in files),
        desc=what,
        unit="B",
        unit_scale=True,
        disable=not (progress and files),
    )
