"""Download of the BioMassters chips from the public bucket.

A file is written under another name, and renamed when its checksum is right. So a file
with its own name is complete, and after any interruption the same call downloads only
the rest.
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
    Bucket,
    DownloadError,
    Remote,
    fault,
    fetch,
    list_files,
    open_bucket,
    reason_of,
)
from geobiomass.sources.biomassters.names import UNKNOWN_SIZE, chip_of, choose_chips
from geobiomass.threads import few_at_a_time

_FAILURES = 10  # failed files after which the download stops
_BLOCK = 4096  # bytes: the unit in which file systems allocate


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
    """Download the files of the competition that `root` lacks, several at a time.

    All training chips are 218 GB, the test chips 73 GB. The competition's tables, with
    the size and checksum of every file, are kept in `root`. If the bucket has no
    tables, the sizes and MD5 sums of its listing are used.

    Parameters
    ----------
    root : path
        Folder of ``train_features/`` and so on; it is created if it does not exist.
    split : "train" or "test"
        "train" includes labels; the competition has published none for "test".
    chips : int, str or sequence of str, optional
        Ids of chips, or a number of chips. A number is drawn by the hashes of the ids:
        the same number always gives the same chips, and a greater number gives these
        and more. By default all chips.
    source : True, "us", "eu", "as" or an address
        The public bucket (of a region, "us" by default), or a mirror that
        fsspec can read, such as ``"s3://bucket/folder"``.
    storage_options : mapping, optional
        Options for fsspec. S3 is read anonymously unless they contain credentials or
        ``{"anon": False}``.
    verify : bool
        Also read the existing files, and download them again if their checksum is
        wrong. By default a file of the right size is accepted.
    progress : bool
        Show a progress bar of the downloaded bytes.

    Returns
    -------
    list of str
        Ids of the chips, in order.

    Raises
    ------
    DownloadError
        If the bucket does not exist, the disk has no room, another process downloads
        into `root`, or files cannot be downloaded undamaged. It names these files; all
        others are complete.
    CubeError
        If a chip is not one of the competition's.
    """
    bucket, folder = open_bucket(source, storage_options), Path(root)
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder):
        listed = list_files(bucket, folder, split)
        chosen = choose_chips(
            {chip_of(file.key) for file in listed}, chips, f"listed in {bucket.address}"
        )
        wanted = set(chosen)
        files = [file for file in listed if chip_of(file.key) in wanted]
        missing = _missing(folder, files, verify, progress)
        _check_room(folder, missing)
        _fetch_all(bucket, missing, progress)
    return chosen


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Lock the folder against other downloads; the lock ends with the process."""
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


# Existing files --------------------------------------------------------------


def _missing(
    root: Path, files: Sequence[Remote], verify: bool, progress: bool
) -> list[Remote]:
    """Return the files that are missing or damaged."""
    there: dict[Path, int] = {}
    for folder in sorted({file.path.parent for file in files}):
        folder.mkdir(exist_ok=True)
        with os.scandir(folder) as entries:
            for entry in entries:
                if chip_of(entry.name):
                    there[Path(entry.path)] = entry.stat().st_size
                elif entry.name.endswith(PART):
                    os.unlink(entry.path)  # left by a download that was killed
    right = {
        file.path
        for file in files
        if file.path in there and file.size in (UNKNOWN_SIZE, there[file.path])
    }
    if verify:
        right -= _damaged([f for f in files if f.path in right], progress)
    return [file for file in files if file.path not in right]


def _damaged(files: Sequence[Remote], progress: bool) -> set[Path]:
    """Return the paths of files whose checksum is wrong."""
    wrong: set[Path] = set()
    bar = _bar(files, "Checking", progress)
    checks = few_at_a_time(files, lambda file: fault(file, file.path.read_bytes()), 2)
    with bar, closing(cast(Any, checks)):
        for file, future in checks:
            if future.result():
                wrong.add(file.path)
            bar.update(max(0, file.size))
    return wrong


def _check_room(root: Path, files: Sequence[Remote]) -> None:
    needed = sum(-(-max(0, file.size) // _BLOCK) * _BLOCK for file in files)
    free = shutil.disk_usage(root).free
    if needed > free:
        raise DownloadError(
            f"{len(files)} files of {_gigabytes(needed)} do not fit into {root}, which "
            f"has {_gigabytes(free)} free; make room, or choose fewer chips."
        )


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"


# Fetching -------------------------------------------------------------------


def _fetch_all(bucket: Bucket, files: Sequence[Remote], progress: bool) -> None:
    """Download files on threads.

    fsspec's own ``get`` of many files writes each under its final name without a
    checksum, and raises the first error. Here each file is checked before it has its
    name, and the error names all files that failed.
    """
    failed: dict[str, str] = {}

    def work(file: Remote) -> None:
        fetch(bucket, file)

    bar = _bar(files, "Downloading", progress)
    downloads = few_at_a_time(files, work, AT_ONCE)
    with bar, closing(cast(Any, downloads)):
        for file, future in downloads:
            if reason := _failure(future):
                failed[file.key.removeprefix(f"{bucket.top}/")] = reason
                if len(failed) == _FAILURES:
                    break
            bar.update(max(0, file.size))
    if failed:
        named = "; ".join(
            f"{name}: {reason}" for name, reason in sorted(failed.items())
        )
        rest = " (the others were not tried)" * (len(failed) == _FAILURES)
        raise DownloadError(
            f"{len(failed)} of {len(files)} files of {bucket.address} could not be "
            f"downloaded{rest}: {named}. Complete files are kept; the same call tries "
            "the rest again."
        )


def _failure(future: Future[None]) -> str:
    error = future.exception()
    if isinstance(error, Exception):
        return reason_of(error)
    future.result()  # raises KeyboardInterrupt and other exits
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
