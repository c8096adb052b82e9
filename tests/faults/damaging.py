"""Damage to a copy of what is on disk, and what reading it then leads to."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path

from damage import damage_of
from kept import KEPT
from outcomes import Outcome, judged, observed


def damaged(name: str, numbers: Iterable[int], folder: Path) -> list[Outcome]:
    """Make one kind of thing; damage a new copy of it for each number, and read it."""
    kind = KEPT[name]
    whole = folder / "whole"
    whole.mkdir(parents=True)
    kind.make(whole)
    # A copy is read: reading a training goes on with it.
    first = Path(shutil.copytree(whole, folder / "first"))
    expected, _, error = observed(lambda: kind.read(first / kind.entry))
    if error is not None:
        raise error
    assert expected is not None
    found = []
    for number in numbers:
        damage = damage_of(whole, number)
        # Another path each time: nothing of an earlier copy is remembered.
        with tempfile.TemporaryDirectory(dir=folder) as place:
            copy = Path(place) / "copy"
            shutil.copytree(whole, copy)
            damage.apply(copy)
            path = copy / kind.entry
            result, said = judged(
                lambda path=path: kind.read(path), expected, [path, copy / damage.file]
            )
        found.append(
            Outcome(f"{name}:{number}", str(damage), result, said.replace(place, ""))
        )
    return found
