"""CRC-32C checksums of files, and of JSON documents that carry their own.

CRC-32C is what Zarr's shards use. It notices each change of up to 32 adjacent bits, and
others but one in 4e9. It protects from accidents, not from someone who also changes the
checksum.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from google_crc32c import extend, value

OWN = "crc32c"
"""Name of a document's checksum of itself."""

_PART = 2**20  # bytes: a file is read in such parts


def crc32c_of(content: bytes | bytearray | memoryview) -> int:
    """Return the CRC-32C of bytes."""
    return int(value(bytes(content)))


def crc32c_of_file(path: Path) -> tuple[int, int]:
    """Return size and CRC-32C of a file, which is never in memory as a whole."""
    size = crc = 0
    with path.open("rb", buffering=0) as file:
        while part := file.read(_PART):
            size += len(part)
            crc = extend(crc, part)
    return size, crc


def crc32c_of_json(document: Any) -> int:
    """Return the CRC-32C of JSON values, whatever their order and spaces in a file."""
    text = json.dumps(document, sort_keys=True, separators=(",", ":"))
    return crc32c_of(text.encode())


def with_checksum(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return a JSON document with a checksum of itself, ``crc32c``."""
    rest = {name: fact for name, fact in document.items() if name != OWN}
    return rest | {OWN: f"{crc32c_of_json(rest):08x}"}


def agrees(document: Mapping[str, Any]) -> bool:
    """Return whether a JSON document has its checksum and agrees with it."""
    return bool(document.get(OWN) == with_checksum(document)[OWN])
