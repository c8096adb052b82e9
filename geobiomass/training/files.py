"""Files that appear whole or not at all, and SHA-256 digests."""

from __future__ import annotations

import hashlib
import os
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias

Hashable: TypeAlias = str | bytes | memoryview

PART = ".part"
"""Ending of a file that is not complete yet."""


@contextmanager
def replacing(path: Path, ending: str = PART) -> Iterator[Path]:
    """Yield a path to write to; at the end that file replaces the one at `path`.

    Readers see the old file or the new one, never a part. After an error the old
    file is still there, and nothing else.

    Parameters
    ----------
    path : Path
        The final path, in a folder that exists.
    ending : str
        Ending of the path that is yielded, for libraries that choose the format by it.

    Yields
    ------
    Path
        A new name in the same folder, hidden, so that the renaming is one step. Two
        processes never get the same name.
    """
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex}{ending}")
    try:
        yield part
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file that appears at `path` whole, or not at all.

    Parameters
    ----------
    path : Path
        The file; one that exists is replaced.
    content : str or bytes
        Text is written as UTF-8, lines end as they do in the text.
    """
    data = content.encode() if isinstance(content, str) else content
    with replacing(path) as part:
        part.write_bytes(data)


def sha256_of(content: Hashable | Iterable[Hashable]) -> str:
    """Return the SHA-256 digest of a text, of bytes, or of a sequence of both.

    Parameters
    ----------
    content : str, bytes, memoryview or iterable of these
        Text is hashed as UTF-8. An iterable is hashed part after part, one of them in
        memory at a time; it has the digest of its parts joined.

    Returns
    -------
    str
        64 hexadecimal digits.
    """
    parts = [content] if isinstance(content, str | bytes | memoryview) else content
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.encode() if isinstance(part, str) else part)
    return digest.hexdigest()


def sha256_of_file(path: Path) -> str:
    """Return the SHA-256 digest of a file, which is never in memory as a whole."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
