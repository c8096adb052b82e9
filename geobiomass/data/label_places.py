"""Places of the labels that a model learnt from, kept as hashes.

A model remembers where its labels were, so that it can be told later whether a plot
trained it. A place is a pixel of the training scene, or of a chip by its name. Of many
labels, larger cells of pixels are kept in place of single ones. Of a place only a hash
is kept: those who know a place can ask for it, and places cannot be listed. A place
that is guessed can be tested, which docs/explanation/threats.md says.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
import math
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self, cast

import numpy as np
import numpy.typing as npt

from geobiomass.cube.spacing import TOLERANCE

if TYPE_CHECKING:  # `info` of a GeoTIFF comes without xarray
    from geobiomass.cube.grid import Grid

LABEL_PLACES = "label places"
"""Name of the places in the provenance of a model and of its maps."""
MOST = 16_384
"""Hashes that a training keeps at most: 110 kB of text."""

BYTES = 5
"""Of a hash: of a million other places 0.015 are taken for a label's."""

_ROOM = MOST * BYTES  # bytes of all hashes of a model, also of several trainings
_FEWEST_BYTES = 3  # of a hash, where a model is of several trainings
_RUN = 12  # neighbouring cells of a row share one digest, of 12 x 5 = 60 bytes

Hashes = npt.NDArray[np.uint64]
Mask = npt.NDArray[np.bool_]
Numbers = npt.NDArray[np.float64]
Indexes = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class PlacesOnGrid:
    """Hashed places on the grid of one scene, or in chips.

    Parameters
    ----------
    cell : int
        Side of the cells that are hashed, pixels; 1: single pixels.
    hashes : numpy.ndarray
        (cell,) uint64, sorted: the hash of each cell that has a label.
    size : int
        Bytes of a hash.
    grid : Grid or None
        The pixels of the scene; None for chips.
    crs : str
        The scene's reference system; empty for chips.
    shape : tuple of int
        Height and width of chips, pixels; 0 and 0 for a scene, whose grid has them. A
        row of chips that were cropped is another place.
    synthetic : str
        What a scene of :func:`geobiomass.landscape` says it is: all of them have the
        same coordinates, and are different ground. Empty for others.
    """

    cell: int
    hashes: Hashes = field(repr=False)
    size: int = BYTES
    grid: Grid | None = None
    crs: str = ""
    synthetic: str = ""
    shape: tuple[int, int] = (0, 0)

    @cached_property
    def identity(self) -> str:
        """What the places are counted on; places with the same one can be joined."""
        affine = None if self.grid is None else list(map(float, self.grid.affine))
        return json.dumps([self.crs, affine, self.cell, self.synthetic, self.shape])

    def contain(
        self, rows: npt.ArrayLike, columns: npt.ArrayLike, chip: str = ""
    ) -> Mask:
        """Return whether pixels are in a cell with a label.

        Parameters
        ----------
        rows, columns : array_like
            (pixel,) whole numbers, on the grid or in the chip.
        chip : str
            The chip's name.
        """
        rows, columns = np.asarray(rows, np.int64), np.asarray(columns, np.int64)
        height, width = self.shape
        if self.grid is not None:
            height, width = self.grid.height, self.grid.width
        found = (rows >= 0) & (columns >= 0) & (rows < height) & (columns < width)
        at = np.column_stack([rows, columns])[found] // self.cell
        shorter = np.uint64(8 * (BYTES - self.size))  # bits that are left out
        hashes = hash_cells(self.identity, chip, at) >> shorter
        # Sorted already, as np.isin would do it again for each chip.
        places = np.searchsorted(self.hashes, hashes).clip(max=self.hashes.size - 1)
        found[found] = self.hashes[places] == hashes if self.hashes.size else False
        return found

    def contain_positions(self, rows: Numbers, columns: Numbers) -> Mask:
        """Return whether positions in a scene are in a cell with a label.

        Grids agree up to a hundredth of a pixel, so that a position as near as this to
        an edge is also looked for beyond it.

        Parameters
        ----------
        rows, columns : numpy.ndarray
            (position,) with fractions, counted from the grid's upper left corner.
        """
        found = np.zeros(rows.shape, bool)
        # Far outside, numbers are larger than integers; NaN is nowhere.
        with np.errstate(invalid="ignore"):
            near = (np.abs(rows) < 2**31) & (np.abs(columns) < 2**31)
        at = np.stack([rows[near], columns[near]])
        inside = np.zeros(at.shape[1], bool)
        for shift in ((0, 0), (-1, -1), (-1, 1), (1, -1), (1, 1)):
            moved = np.floor(at + TOLERANCE * np.array(shift)[:, None])
            asked = ~inside
            if any(shift):
                asked &= (moved != np.floor(at)).any(axis=0)
            inside[asked] = self.contain(*moved[:, asked].astype(np.int64))
        found[near] = inside
        return found

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON."""
        raw = self.hashes.astype(">u8").view(np.uint8).reshape(-1, 8)
        text = base64.b64encode(raw[:, 8 - self.size :].tobytes()).decode()
        known: dict[str, Any] = {"cell": self.cell, "count": int(self.hashes.size)}
        known |= {"bytes": self.size, "hashes": text}
        if self.grid is None:
            known["size"] = list(self.shape)
        else:
            size = [self.grid.height, self.grid.width]
            known |= {"crs": self.crs, "grid": list(self.grid.affine), "size": size}
        return known | ({"synthetic": self.synthetic} if self.synthetic else {})

    @classmethod
    def from_dict(cls, known: Mapping[str, Any]) -> Self:
        """Return what :meth:`to_dict` gave; raise ValueError if it is damaged."""
        cell, size = known["cell"], known["bytes"]
        whole = isinstance(cell, int) and isinstance(size, int)
        if not whole or cell < 1 or not _FEWEST_BYTES <= size <= BYTES:
            raise ValueError(f"got cells of {cell!r} and hashes of {size!r} bytes")
        text = known["hashes"]
        if len(text) > 2 * _ROOM:
            raise ValueError(f"got {len(text):,} characters of hashes")
        raw = np.frombuffer(base64.b64decode(text, validate=True), np.uint8)
        padded = np.zeros((raw.size // size, 8), np.uint8)
        padded[:, 8 - size :] = raw.reshape(-1, size)
        hashes = padded.view(">u8").ravel().astype(np.uint64)
        height, width = (int(number) for number in known["size"])
        if not (height > 0 and width > 0):
            raise ValueError(f"got {height} x {width} pixels")
        grid, shape = None, (height, width)
        if "grid" in known:
            from geobiomass.cube.grid import Grid

            affine = tuple(float(number) for number in known["grid"])
            grid, shape = Grid(cast(Any, affine), height, width), (0, 0)
            if not all(map(math.isfinite, affine)) or grid.area == 0:
                raise ValueError(f"got a grid of {affine}")
        crs, synthetic = str(known.get("crs", "")), str(known.get("synthetic", ""))
        return cls(cell, np.unique(hashes), size, grid, crs, synthetic, shape)


@dataclass(frozen=True, eq=False)
class LabelPlaces:
    """Places of all labels that a model learnt from, by scene, and of chips.

    Parameters
    ----------
    parts : tuple of PlacesOnGrid
        One for each scene, and one for chips; none where all were of other ground.
    """

    parts: tuple[PlacesOnGrid, ...]

    @property
    def cell(self) -> int:
        """Side of the largest cells, pixels; 1 where each label is known by itself."""
        return max((part.cell for part in self.parts), default=1)

    def __len__(self) -> int:
        """Count the cells that are remembered."""
        return sum(part.hashes.size for part in self.parts)

    @classmethod
    def joined(cls, several: Iterable[LabelPlaces | None]) -> Self | None:
        """Return the places of several trainings as one.

        None if those of one training are not known, or all do not fit: hashes cannot
        be made into hashes of larger cells.
        """
        by_identity: dict[str, PlacesOnGrid] = {}
        for places in several:
            if places is None:
                return None
            for part in places.parts:
                other = by_identity.get(part.identity)
                by_identity[part.identity] = (
                    part if other is None else _both(part, other)
                )
        made = cls(tuple(by_identity.values()))
        return made.shortened() if made.parts else None

    def shortened(self) -> Self | None:
        """Return the places with hashes as short as they must be; None if too many."""
        size = min(BYTES, _ROOM // max(1, len(self)))
        if size < _FEWEST_BYTES:
            return None
        return type(self)(tuple(_shorter(part, size) for part in self.parts))

    def on_ground(self, synthetic: str) -> Self:
        """Return the places on the ground of a map; see :class:`PlacesOnGrid`."""
        return type(self)(tuple(p for p in self.parts if p.synthetic == synthetic))

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON."""
        return {"parts": [part.to_dict() for part in self.parts]}

    @classmethod
    def from_dict(cls, known: Mapping[str, Any]) -> Self:
        """Return what :meth:`to_dict` gave.

        Raises
        ------
        ValueError
            If it is damaged.
        """
        try:
            parts = tuple(PlacesOnGrid.from_dict(part) for part in known["parts"])
        except (LookupError, TypeError, ValueError, ArithmeticError) as error:
            raise ValueError(
                f"The record of the labels' places is damaged ({error}); load the "
                "model or the map from where it was made."
            ) from error
        return cls(parts)


def positions_on(part: PlacesOnGrid, x: Any, y: Any) -> tuple[Numbers, Numbers]:
    """Return rows and columns, with fractions, of points in the places' CRS."""
    a, b, c, d, e, f = tuple(~cast("Grid", part.grid).transform)[:6]
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    with np.errstate(invalid="ignore"):  # infinite where a CRS does not reach
        return d * x + e * y + f, a * x + b * y + c


def hash_cells(identity: str, chip: str, cells: Indexes) -> Hashes:
    """Return the hash of each cell, numbers of 40 bits.

    Parameters
    ----------
    identity : str
        What the cells are counted on.
    chip : str
        The chip's name; empty for a scene.
    cells : numpy.ndarray
        (cell, 2) row and column.
    """
    if not len(cells):
        return np.empty(0, np.uint64)
    # The same cell on another grid has another hash.
    salt = hashlib.blake2b(identity.encode(), digest_size=16).digest()
    name = chip.encode("utf-8", "surrogatepass")
    columns = cells[:, 1] // _RUN
    wide = int(columns.max()) + 1
    runs, which = np.unique(cells[:, 0] * wide + columns, return_inverse=True)
    pack = struct.Struct("<qq").pack
    digests = b"".join(
        hashlib.blake2b(
            salt + pack(*divmod(run, wide)) + name, digest_size=_RUN * BYTES
        ).digest()
        for run in runs.tolist()
    )
    bits = np.frombuffer(digests, np.uint8).reshape(-1, _RUN, BYTES)
    padded = np.zeros((len(cells), 8), np.uint8)
    padded[:, 8 - BYTES :] = bits[which.ravel(), cells[:, 1] % _RUN]
    return cast(Hashes, padded.view(">u8").ravel().astype(np.uint64))


def _both(one: PlacesOnGrid, other: PlacesOnGrid) -> PlacesOnGrid:
    """Return the places of two trainings on one grid."""
    size, grid = min(one.size, other.size), one.grid
    if grid is not None and other.grid is not None:
        # One scene may be the upper left part of the other.
        height = max(grid.height, other.grid.height)
        width = max(grid.width, other.grid.width)
        grid = dataclasses.replace(grid, height=height, width=width)
    hashes = np.union1d(_shorter(one, size).hashes, _shorter(other, size).hashes)
    return dataclasses.replace(one, hashes=hashes, size=size, grid=grid)


def _shorter(part: PlacesOnGrid, size: int) -> PlacesOnGrid:
    """Return places with the first bytes of their hashes."""
    if part.size <= size:
        return part
    hashes = np.unique(part.hashes >> np.uint64(8 * (part.size - size)))
    return dataclasses.replace(part, hashes=hashes, size=size)
