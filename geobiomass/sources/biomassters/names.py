"""How the BioMassters competition names its files, and which chips are chosen."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Collection, Iterable

from geobiomass.cube import CubeError

NAME = re.compile(r"([A-Za-z0-9][\w-]*)_(?:(S1|S2)_(0\d|1[01])|(agbm))\.tif")
"""Groups of a file's name: chip, sensor, number of the month, "agbm"."""

NAMED = 10
"""How many of many things a sentence names."""


def chip_of(path: str) -> str:
    """Give the id in a file's name; empty where it is not one of the competition's."""
    match = NAME.fullmatch(os.path.basename(path))
    return match[1] if match else ""


def choose_chips(
    there: Collection[str], chips: int | str | Iterable[str] | None, where: str
) -> list[str]:
    """Choose among ids, by name or a number of them.

    A number of chips is drawn by their ids alone, whatever else is there: the same
    number gives the same chips, a greater one those and more.

    Raises
    ------
    CubeError
        If a chip, or as many, are not there.
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
    """List the first few, and how many more there are."""
    more = len(items) - NAMED
    tail = [f"and {more} more"] if more > 0 else []
    return "; ".join(items[:NAMED] + tail)
