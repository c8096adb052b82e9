"""Labelled pixels of a cube: their places collected, or looked up in a model's."""

from __future__ import annotations

import dataclasses
import itertools
from dataclasses import dataclass
from typing import Any, Self, cast

import numpy as np
import numpy.typing as npt
import xarray as xr

from geobiomass.cube.grid import Grid, known_grid
from geobiomass.data.label_places import (
    BYTES,
    MOST,
    LabelPlaces,
    PlacesOnGrid,
    hash_cells,
    positions_on,
)
from geobiomass.tiles import Sample

_WAITING = 8 * MOST  # cells in memory before they are joined

Mask = npt.NDArray[np.bool_]
Indexes = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Georeference:
    """Where the pixels of a cube are; of chips nothing but their names.

    Parameters
    ----------
    grid : Grid or None
        None for chips.
    crs, synthetic : str
        As :class:`PlacesOnGrid` has them.
    """

    grid: Grid | None
    crs: str = ""
    synthetic: str = ""

    @classmethod
    def of(cls, cube: xr.Dataset) -> Self | None:
        """Return that of a cube; None for a scene without coordinates or CRS.

        Rows and columns alone are no place: those of any other scene are equal.
        """
        synthetic = str(cube.attrs.get("synthetic", ""))
        if "chip" in cube.dims:
            return cls(None, "", synthetic)
        import rioxarray  # noqa: F401  (the .rio accessor)

        grid, crs = known_grid(cube), cube.rio.crs
        if grid is None or crs is None:
            return None
        return cls(grid, crs.to_string(), synthetic)


class PlaceCollector:
    """Collector of the places of labels, in bounded memory.

    Cells become larger, by twos, until those that have a label are few enough; the
    coarsest is one cell for a chip.

    Parameters
    ----------
    cube : xarray.Dataset
        The cube of the labels.
    """

    def __init__(self, cube: xr.Dataset) -> None:
        self._where = Georeference.of(cube)
        chips = "chip" in cube.dims
        self._names = [str(n) for n in cube["chip"].values] if chips else [""]
        self._height, self._width = cube.sizes["y"], cube.sizes["x"]
        self._cell = 1
        self._found: list[Indexes] = []
        self._waiting = 0

    def add(self, sample: Sample, labelled: Mask) -> None:
        """Add the labelled pixels of a sample, (y, x) bool."""
        rows, columns = np.nonzero(labelled)
        at = np.column_stack([rows + sample.window.top, columns + sample.window.left])
        self.add_pixels(sample.chip, at)

    def add_pixels(self, chip: int | None, pixels: Indexes) -> None:
        """Add pixels, (pixel, 2) row and column in the scene or chip."""
        if self._where is None or not len(pixels):
            return
        at = pixels // self._cell
        self._found.append(np.unique(self._number(chip or 0, at[:, 0], at[:, 1])))
        self._waiting += self._found[-1].size
        if self._waiting > _WAITING:
            self._join()

    def places(self) -> LabelPlaces | None:
        """Return the places; None where they are not known, or chips are too many."""
        if self._where is None or not self._found:
            return None
        cells = self._join()
        chips, rows, columns = self._split(cells)
        where = self._where
        empty = np.empty(0, np.uint64)
        part = PlacesOnGrid(
            *(self._cell, empty, BYTES, where.grid, where.crs, where.synthetic),
            (0, 0) if where.grid is not None else (self._height, self._width),
        )
        at = np.column_stack([rows, columns])
        ends = np.flatnonzero(np.diff(chips, prepend=-1, append=-1))
        hashes = [
            hash_cells(part.identity, self._names[chips[start]], at[start:stop])
            for start, stop in itertools.pairwise(ends)
        ]
        known = np.unique(np.concatenate(hashes))
        made = dataclasses.replace(part, hashes=known)
        return LabelPlaces((made,)).shortened()

    def _size(self) -> tuple[int, int]:
        """Return the cells along y and x."""
        return -(-self._height // self._cell), -(-self._width // self._cell)

    def _number(self, chip: Any, rows: Indexes, columns: Indexes) -> Indexes:
        height, width = self._size()
        return cast(Indexes, (chip * height + rows) * width + columns)

    def _split(self, cells: Indexes) -> tuple[Indexes, Indexes, Indexes]:
        height, width = self._size()
        above, columns = np.divmod(cells, width)
        chips, rows = np.divmod(above, height)
        return chips, rows, columns

    def _join(self) -> Indexes:
        """Join the cells found so far, and make them larger where they are too many."""
        cells = np.unique(np.concatenate(self._found))
        while cells.size > MOST and max(self._size()) > 1:
            chips, rows, columns = self._split(cells)
            self._cell *= 2
            cells = np.unique(self._number(chips, rows // 2, columns // 2))
        self._found, self._waiting = [cells], 0
        return cells


class LearntPixels:
    """Which pixels of a cube a model learnt from.

    Parameters
    ----------
    places : LabelPlaces
        What the model remembers.
    cube : xarray.Dataset
        A scene or chips.

    Attributes
    ----------
    placed : bool
        Whether it is known where the cube is.
    comparable : bool
        Whether any of what is remembered can be compared with the cube.
    complete : bool
        Whether all that is remembered can be compared with the cube: chips have names
        and no coordinates, scenes coordinates and no names. Where it is False, a pixel
        that is not found may still have trained the model.
    """

    def __init__(self, places: LabelPlaces, cube: xr.Dataset) -> None:
        where = Georeference.of(cube)
        self._names = (
            [str(n) for n in cube["chip"].values] if "chip" in cube.dims else []
        )
        chips = "chip" in cube.dims
        like = [part for part in places.parts if (part.grid is None) == chips]
        if chips:  # of a crop it is not known where in the chip it was
            shape = (cube.sizes["y"], cube.sizes["x"])
            like = [part for part in like if part.shape == shape]
        self.placed = where is not None
        self.comparable = bool(like) and self.placed
        self.complete = len(like) == len(places.parts) and self.placed
        if where is None:
            like = []
        self._parts = [
            (part, None if chips else _Move(cast(Georeference, where), part))
            for part in like
            if part.synthetic == cast(Georeference, where).synthetic
        ]

    def among(self, sample: Sample, asked: Mask) -> Mask:
        """Return which pixels of a sample are learnt, of those that are asked for.

        Parameters
        ----------
        sample : Sample
            A window of the scene, or of a chip.
        asked : numpy.ndarray
            (y, x) bool.
        """
        found = np.zeros(asked.shape, bool)
        rows, columns = np.nonzero(asked)
        learnt = np.zeros(rows.size, bool)
        rows, columns = rows + sample.window.top, columns + sample.window.left
        for part, move in self._parts:
            if move is None:
                learnt |= part.contain(rows, columns, self._names[sample.chip or 0])
            else:
                learnt |= move.contain(rows, columns)
        found[asked] = learnt
        return found


class _Move:
    """From the pixels of a scene to those of remembered places."""

    def __init__(self, where: Georeference, part: PlacesOnGrid) -> None:
        self._here, self._part = cast(Grid, where.grid), part
        from pyproj import CRS, Transformer

        self._project = None
        if where.crs != part.crs:
            move = Transformer.from_crs(where.crs, part.crs, always_xy=True)
            self._project = move.transform
        self._degrees = CRS(part.crs).is_geographic

    def contain(self, rows: Indexes, columns: Indexes) -> Mask:
        x, y = self._here.position(rows + 0.5, columns + 0.5)
        if self._project is not None:
            x, y = self._project(x, y)
        if self._degrees:  # -179.9 is 180.1 on a scene that goes on to 181
            left, _, right, _ = cast(Grid, self._part.grid).bounds
            x = x + 360 * np.round(((left + right) / 2 - x) / 360)
        return self._part.contain_positions(*positions_on(self._part, x, y))
