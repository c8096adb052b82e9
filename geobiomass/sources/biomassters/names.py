"""File names of the BioMassters competition, and the choice of chips."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Collection, Iterable

from geobiomass.cube import CubeError

NAME = re.compile(r"([A-Za-z0-9][\w-]*)_(?:(S1|S2)_(0\d|1[01])|(agbm))\.tif")
"""File name with the groups chip, sensor, number of the month, "agbm"."""

UNKNOWN_SIZE = -1
"""Size in bytes of a file whose size is not listed."""

NAMED = 10
"""Number of items that a message lists."""


def chip_of(path: str) -> str:
    """Return the chip id in a file's name; empty if the name is not of this kind."""
    match = NAME.fullmatch(os.path.basename(path))
    return match[1] if match else ""


def choose_chips(
    there: Collection[str], chips: int | str | Iterable[str] | None, where: str
) -> list[str]:
    """Return the ids of the chosen chips, by name or a number of chips.

    A number of chips is drawn by the hashes of their ids: the same number gives the
    same chips, and a greater number gives these and more.

    Raises
    ------
    CubeError
        If a chip is not available, or there are fewer chips than the number; `where`
        describes the available ones.
    """
    if chips is None:
        return sorted(there)
    if isinstance(chips, int):
        if not 0 < chips <= len(there):
            raise CubeError(
                f"chips must be from 1 to the {len(there)} {where}, got {chips}."
            )
        drawn = sorted(there, key=lambda chip: hashlib.sha256(chip.encode()).digest())
        return sorted(drawn[:chips])
    chosen = {chips} if isinstance(chips, str) else set(chips)
    if not chosen or (strangers := sorted(chosen.difference(there))):
        got = enumerate_some(list(map(repr, strangers))) if chosen else "none"
        raise CubeError(f"chips must be among the {len(there)} {where}, got {got}.")
    return sorted(chosen)


def enumerate_some(items: list[str]) -> str:
    """Return the first few items and the number of the others as text."""
    more = len(items) - NAMED
    tail = [f"and {more} more"] if more > 0 else []
    return "; ".join(items[:NAMED] + tail)
