"""SHA-256 of texts, bytes and plain values, as fingerprints use it."""

from __future__ import annotations

import hashlib
from typing import Any


def hash_text(text: str) -> str:
    """Return the SHA-256 of a text, 64 hexadecimal digits."""
    return hashlib.sha256(text.encode()).hexdigest()


def hash_bytes(*parts: bytes) -> str:
    """Return the SHA-256 of some bytes, one after another, 64 hexadecimal digits."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


def hash_values(*values: Any) -> str:
    """Return the SHA-256 of plain values, as Python writes them."""
    return hash_text(repr(values))
