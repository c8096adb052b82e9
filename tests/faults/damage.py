"""Damage to files: which file, how, and where, by a number.

The number alone decides, so that ``python -m benchmarks.faults --repeat "zarr map:17"``
does the same again.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np

BIT, BYTE, CUT, EMPTY = "flip a bit", "change a byte", "truncate", "empty"
DELETE, SWAP, OVERWRITE, DUPLICATE = "delete", "swap", "overwrite", "duplicate"
KINDS = (BIT, SWAP, BYTE, DELETE, CUT, OVERWRITE, EMPTY, DUPLICATE)
"""Two of one file are next to each other in none of a file's first eight turns."""


@dataclass(frozen=True)
class Damage:
    """One change to one file of what is on disk."""

    kind: str
    file: str
    """Path in the folder."""
    other: str | None = None
    """The second file, of kinds that need two."""
    offset: int = 0
    value: int = 0
    """What the byte is XORed with, or the length that is left."""

    def __str__(self) -> str:
        words = f"{self.kind}: {self.file}"
        if self.other is not None:
            words += f", {self.other}"
        if self.kind in (BIT, BYTE):
            words += f", byte {self.offset} XOR {self.value}"
        return words + (f", to {self.value} bytes" if self.kind == CUT else "")

    def apply(self, folder: Path) -> None:
        """Change the files in a folder, which may be a copy."""
        path = folder / self.file
        content = path.read_bytes()
        if self.kind in (BIT, BYTE):
            changed = bytearray(content)
            changed[self.offset] ^= self.value
            path.write_bytes(changed)
        elif self.kind in (CUT, EMPTY):
            path.write_bytes(content[: self.value])
        elif self.kind == DELETE:
            path.unlink()
        elif self.kind == DUPLICATE:
            shutil.copy(path, path.with_name(f"{path.stem} copy{path.suffix}"))
        else:
            second = folder / str(self.other)
            if self.kind == SWAP:
                path.write_bytes(second.read_bytes())
            second.write_bytes(content)


def files_in(folder: Path) -> list[str]:
    """Return the files of a folder that are not empty, as relative paths, sorted."""
    found = (path for path in folder.rglob("*") if path.is_file())
    return sorted(
        path.relative_to(folder).as_posix() for path in found if path.stat().st_size
    )


def damage_of(folder: Path, number: int) -> Damage:
    """Return the damage of a number: files in turn, of each another kind in turn."""
    files = files_in(folder)
    draw = np.random.default_rng([number, len(files)])
    order = np.random.default_rng(len(files)).permutation(len(files))
    turn, place = divmod(number, len(files))
    file, kind = files[order[place]], KINDS[(turn + place) % len(KINDS)]
    if kind in (SWAP, OVERWRITE):
        # Chunks of one array are more alike, and harder to tell apart.
        others = [name for name in files if name != file]
        near = [n for n in others if Path(n).parent == Path(file).parent]
        same = [n for n in others if n.split("/")[:-2] == file.split("/")[:-2]]
        among = near or same or others
        if not among:
            kind = BIT
        else:
            return Damage(kind, file, among[int(draw.integers(len(among)))])
    size = (folder / file).stat().st_size
    if kind == BIT:
        bit = 1 << int(draw.integers(8))
        return Damage(kind, file, offset=int(draw.integers(size)), value=bit)
    if kind == BYTE:
        value = int(draw.integers(1, 256))
        return Damage(kind, file, offset=int(draw.integers(size)), value=value)
    return Damage(kind, file, value=int(draw.integers(size)) if kind == CUT else 0)
