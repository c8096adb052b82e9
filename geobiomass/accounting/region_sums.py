"""Sums of a map over regions, in one pass over the blocks that they touch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import xarray as xr
from tqdm.auto import tqdm

from geobiomass.accounting.ground_plots import GroundPlots, stratum_name
from geobiomass.accounting.map_spread import MapSpread
from geobiomass.cube.areas import pixel_areas
from geobiomass.cube.region import Region
from geobiomass.maps.reading import read, side_of, windows
from geobiomass.tiles import Window

if TYPE_CHECKING:
    from geobiomass.accounting.error_model import ErrorSum

Numbers = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

WHOLE = ""
"""Name of the only stratum of a map without strata."""


@dataclass
class RegionSum:
    """Sums of a map within a region.

    Parameters
    ----------
    name : str
        Name of the region.
    region : Region
        Its pixels.
    plots : numpy.ndarray
        (plot,) bool: true if the centre of the plot is within the region.
    errors : ErrorSum, optional
        Sum of the errors of its pixels.
    inside, beyond : float
        Hectares of its pixels, and of the region beyond the map.
    spreads : dict
        By stratum: how the map's values spread, if there are plots.
    """

    name: str
    region: Region
    plots: Mask
    errors: ErrorSum | None = None
    inside: float = 0.0
    beyond: float = 0.0
    areas: dict[str, float] = field(default_factory=dict)
    sums: dict[str, float] = field(default_factory=dict)
    spreads: dict[str, MapSpread] = field(default_factory=dict)

    @property
    def area(self) -> float:
        """Area of the pixels with a value, hectares."""
        return sum(self.areas.values())

    @property
    def total(self) -> float:
        """Sum of values times hectares, Mg."""
        return sum(self.sums.values())

    @property
    def mean(self) -> float:
        """Mean weighted by area, Mg/ha; NaN without pixels."""
        return self.total / self.area if self.area > 0 else float("nan")

    @property
    def means(self) -> dict[str, float]:
        """Means by stratum."""
        return {name: self.sums[name] / self.areas[name] for name in self.areas}

    def add(self, window: Window, block: _Block, plots: GroundPlots | None) -> None:
        """Add a block of the map to the sums."""
        mask = self.region.mask(window)
        if not mask.any():
            return
        self.inside += float(block.areas[mask].sum())
        known = mask & block.known
        weights = np.where(known, block.areas, 0.0)
        for code, name in enumerate(block.names):
            part = known & (block.codes == code)
            area = float(block.areas[part].sum())
            if area > 0:
                self.areas[name] = self.areas.get(name, 0.0) + area
                mass = float(block.areas[part] @ block.values[part])
                self.sums[name] = self.sums.get(name, 0.0) + mass
                if plots is not None:
                    spread = self.spreads.setdefault(name, MapSpread())
                    spread.add(block.values[part], block.areas[part])
        if self.errors is not None:
            predicted = np.where(known, block.values, np.nan)
            self.errors.add(window.top, window.left, weights, predicted)
        if plots is not None:
            here = block.homes
            rows, columns = block.positions(plots.home[here], window)
            self.plots[here] = mask[rows, columns]


@dataclass(frozen=True)
class _Block:
    """A block of the map: values, hectares, codes of strata, and its plots."""

    values: Numbers
    areas: Numbers
    known: Mask
    codes: npt.NDArray[np.int64]
    names: tuple[str, ...]
    homes: npt.NDArray[np.int64]
    width: int

    def positions(
        self, pixels: npt.NDArray[np.int64], window: Window
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Return the rows and columns within the block of pixels of the map."""
        return pixels // self.width - window.top, pixels % self.width - window.left


@dataclass(frozen=True)
class PlotValues:
    """Values of the map at the plots.

    Parameters
    ----------
    predicted : numpy.ndarray
        (plot,) Mg/ha: the mean of the pixels that a plot covers; NaN if its centre has
        no value, or no region touches its block.
    stratum : numpy.ndarray
        (plot,) the stratum at the plot's centre, from the raster of strata.
    highest : numpy.ndarray
        (plot,) Mg/ha: the highest of the pixels that a plot covers.
    """

    predicted: Numbers
    stratum: npt.NDArray[Any]
    highest: Numbers


def sum_regions(
    layer: xr.DataArray,
    regions: Sequence[RegionSum],
    plots: GroundPlots | None = None,
    strata: xr.DataArray | None = None,
    progress: bool = True,
) -> PlotValues:
    """Read a map once, sum it over each region, and return its values at the plots.

    Parameters
    ----------
    layer : xarray.DataArray
        (y, x), lazy or not: one block is in memory at a time.
    regions : sequence of RegionSum
        The sums, which are filled.
    plots : GroundPlots, optional
        Plots whose values are returned.
    strata : xarray.DataArray, optional
        (y, x) on the same grid; pixels without a stratum count as pixels without a
        value.
    progress : bool
        Show a progress bar.
    """
    side, (height, width) = side_of(layer), layer.shape
    shape = (-(-height // side), -(-width // side))
    touched = [one.region.touched(*shape, side) for one in regions]
    wanted = np.any(touched, axis=0)
    found = _Lookup(plots, side, shape[1], width)
    wanted |= found.reached_from(wanted)
    blocks = list(windows(layer, wanted, side))
    for window in tqdm(blocks, "Summing", unit="block", disable=not progress):
        block = _load(layer, strata, window, found.centred_in(window))
        found.add(block, window)
        for one, near in zip(regions, touched, strict=True):
            if near[window.top // side, window.left // side]:
                one.add(window, block, plots)
    return found.values()


def _load(
    layer: xr.DataArray,
    strata: xr.DataArray | None,
    window: Window,
    homes: npt.NDArray[np.int64],
) -> _Block:
    values, areas = read(layer, window), pixel_areas(layer, window)
    known = np.isfinite(values)
    names: tuple[str, ...] = (WHOLE,)
    codes = np.zeros(values.shape, np.int64)
    if strata is not None:
        drawn = read(strata, window)
        known &= np.isfinite(drawn)
        numbers, flat = np.unique(np.where(known, drawn, 0.0), return_inverse=True)
        codes = flat.reshape(values.shape).astype(np.int64)
        names = tuple(stratum_name(number) for number in numbers)
    return _Block(values, areas, known, codes, names, homes, layer.shape[1])


class _Lookup:
    """The values of the map at plots, collected block by block."""

    def __init__(
        self, plots: GroundPlots | None, side: int, across: int, width: int
    ) -> None:
        empty = np.empty(0, np.int64)
        self._home = empty if plots is None else plots.home
        self._pixels = empty if plots is None else plots.pixels
        self._which = empty if plots is None else plots.which
        self._side, self._across, self._width = side, across, width
        self._sum, self._count = np.zeros((2, self._home.size))
        self._known = np.zeros(self._home.size, bool)
        self._highest = np.full(self._home.size, -np.inf)
        self._stratum = np.full(self._home.size, None, object)

    def _blocks(self, pixels: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        rows, columns = pixels // self._width, pixels % self._width
        return rows // self._side * self._across + columns // self._side

    def reached_from(self, wanted: Mask) -> Mask:
        """Return the blocks that plots of wanted blocks extend into."""
        near = wanted.ravel()[self._blocks(self._home)]
        more = np.zeros(wanted.size, bool)
        more[self._blocks(self._pixels[near[self._which]])] = True
        return more.reshape(wanted.shape)

    def centred_in(self, window: Window) -> npt.NDArray[np.int64]:
        """Return the plots whose centre is in a block."""
        return np.flatnonzero(self._blocks(self._home) == self._number(window))

    def _number(self, window: Window) -> int:
        return window.top // self._side * self._across + window.left // self._side

    def add(self, block: _Block, window: Window) -> None:
        """Add the values of a block."""
        here = self._blocks(self._pixels) == self._number(window)
        values = block.values[block.positions(self._pixels[here], window)]
        finite = np.isfinite(values)
        which = self._which[here][finite]
        np.add.at(self._sum, which, values[finite])
        np.add.at(self._count, which, 1)
        np.maximum.at(self._highest, which, values[finite])
        at = block.positions(self._home[block.homes], window)
        self._known[block.homes] = block.known[at]
        self._stratum[block.homes] = np.array(block.names, object)[block.codes[at]]

    def values(self) -> PlotValues:
        """Return the values of all plots."""
        fine = self._known & (self._count > 0)
        means = np.full(fine.size, np.nan)
        np.divide(self._sum, self._count, out=means, where=fine)
        return PlotValues(means, self._stratum, self._highest)
