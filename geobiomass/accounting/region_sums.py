"""Sums of a map over regions, in one pass over the blocks that they touch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr
from tqdm.auto import tqdm

from geobiomass.accounting.error_model import ErrorModel, ErrorSum
from geobiomass.accounting.ground_plots import GroundPlots, stratum_name
from geobiomass.accounting.map_spread import MapSpread
from geobiomass.accounting.region_area import RegionArea, areas_of
from geobiomass.cube.areas import pixel_areas, pixel_size
from geobiomass.cube.pixel_shares import PixelOutline
from geobiomass.cube.region import Region
from geobiomass.maps.reading import read, side_of, windows
from geobiomass.tiles import Window

Numbers = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

WHOLE = ""
"""Name of the only stratum of a map without strata."""
UNKNOWN = "?"
"""Name of the hectares without a stratum, which have no value either."""
SAMPLE = 2000
"""Pixels of a region that are kept: enough to draw random points from."""
MOST_SAMPLED = 400_000
"""Such pixels of all regions, about 20 MB; of many regions each keeps fewer."""


@dataclass
class RegionSum:
    """Sums of a map within a region, each pixel by its share in the region.

    Parameters
    ----------
    name : str
        Name of the region.
    region : Region
        Its polygons.
    plots : numpy.ndarray
        (plot,) bool: true if the centre of the plot is within the region.
    errors : ErrorSum, optional
        Sum of the errors of its pixels.
    own : RegionArea, optional
        The region's own area, and that beyond the map.
    held_out : tuple of float, optional
        The lowest and the highest prediction with a known error, Mg/ha.
    unmapped_as_mean : bool
        Whether hectares without a value count with the mean of their stratum.
    areas, sums : dict
        By stratum: hectares with a value, and their sum of values times hectares, Mg.
    blank : dict
        Hectares without a value by stratum; `UNKNOWN` without a stratum too.
    inapplicable, extrapolated, cut : float
        Hectares with a value outside of the area of applicability; beyond `held_out`;
        in pixels that are partly within the region.
    sample : list of tuple of numpy.ndarray
        Evenly spaced pixels with a value: rows, columns, hectares, values, strata.
    spreads : dict
        By stratum: how the map's values spread, if there are plots.
    """

    name: str
    region: Region
    plots: Mask
    errors: ErrorSum | None = None
    own: RegionArea = field(default_factory=RegionArea)
    held_out: tuple[float, float] | None = None
    unmapped_as_mean: bool = False
    areas: dict[str, float] = field(default_factory=dict)
    sums: dict[str, float] = field(default_factory=dict)
    spreads: dict[str, MapSpread] = field(default_factory=dict)
    blank: dict[str, float] = field(default_factory=dict)
    inapplicable: float = float("nan")
    extrapolated: float = 0.0
    cut: float = 0.0
    sample: list[tuple[npt.NDArray[Any], ...]] = field(default_factory=list)

    @cached_property
    def outline(self) -> PixelOutline:
        """The same polygons in pixels."""
        return PixelOutline(self.region)

    @property
    def mapped(self) -> float:
        """Area of the parts with a value, hectares."""
        return sum(self.areas.values())

    @property
    def without_value(self) -> float:
        """Area of the parts on the map without a value, hectares."""
        return sum(self.blank.values())

    @property
    def unmapped(self) -> float:
        """Area of the parts off the map or without a value, hectares."""
        return self.without_value + self.own.off

    @property
    def shares(self) -> dict[str, float]:
        """Hectares by stratum that the estimates refer to."""
        if not self.unmapped_as_mean or not self.areas:
            return self.areas
        filled = {
            name: self.areas[name] + self.blank.get(name, 0) for name in self.areas
        }
        # What has no stratum, or one that the map shows nowhere, is like the rest.
        more = (self.mapped + self.unmapped) / sum(filled.values())
        return {name: area * more for name, area in filled.items()}

    @property
    def area(self) -> float:
        """Hectares that the estimates refer to."""
        return sum(self.shares.values())

    @property
    def total(self) -> float:
        """Sum of values times hectares of the parts with a value, Mg."""
        return sum(self.sums.values())

    @property
    def mean(self) -> float:
        """Mean weighted by the hectares of `shares`, Mg/ha; NaN without pixels."""
        if not self.area > 0:
            return float("nan")
        means = self.means
        return sum(means[name] * area for name, area in self.shares.items()) / self.area

    @property
    def means(self) -> dict[str, float]:
        """Means by stratum."""
        return {name: self.sums[name] / self.areas[name] for name in self.areas}

    @property
    def drawn(self) -> tuple[npt.NDArray[Any], ...]:
        """The sample: rows, columns, hectares, values, strata; in the map's order."""
        if not self.sample:
            return tuple(np.empty(0) for _ in range(5))
        parts = [np.concatenate(each) for each in zip(*self.sample, strict=True)]
        order = np.lexsort((parts[1], parts[0]))  # not that of the blocks
        return tuple(part[order] for part in parts)

    def add(self, window: Window, block: _Block, step: int = 0) -> None:
        """Add a block of the map to the sums; `step`: of the sample, 0: no plots."""
        share = self.outline.shares(window)
        if not share.any():
            return
        inside = block.areas * share
        known = (share > 0) & block.known
        weights = np.where(known, inside, 0.0)
        blank = (share > 0) & ~block.known
        for code, name in enumerate(block.names):
            part = known & (block.codes == code)
            area = float(inside[part].sum())
            if area > 0:
                self.areas[name] = self.areas.get(name, 0.0) + area
                mass = float(inside[part] @ block.values[part])
                self.sums[name] = self.sums.get(name, 0.0) + mass
                if step:
                    spread = self.spreads.setdefault(name, MapSpread())
                    spread.add(block.values[part], inside[part])
            _count(self.blank, name, inside[blank & (block.codes == code)])
        _count(self.blank, UNKNOWN, inside[blank & (block.codes < 0)])
        self.cut += float(inside[known & (share < 1)].sum())
        if block.applicable is not None:
            self.inapplicable += float(inside[known & (block.applicable == 0)].sum())
        if self.held_out is not None:
            low, high = self.held_out
            beyond = known & ((block.values < low) | (block.values > high))
            self.extrapolated += float(inside[beyond].sum())
        if self.errors is not None:
            predicted = np.where(known, block.values, np.nan)
            self.errors.add(window.top, window.left, weights, predicted, share)
        if step:
            self._draw(window, block, weights, step)

    def _draw(self, window: Window, block: _Block, weights: Numbers, step: int) -> None:
        """Keep every `step`-th pixel with a value, down and across the map."""
        first = [(step // 2 - start) % step for start in (window.top, window.left)]
        every = np.s_[first[0] :: step, first[1] :: step]
        row, column = np.nonzero(weights[every] > 0)
        row, column = row * step + first[0], column * step + first[1]
        codes = block.codes[row, column]
        drawn = (
            *(row + window.top, column + window.left),
            *(weights[row, column], block.values[row, column]),
            np.array(block.names, object)[codes],
        )
        self.sample.append(drawn)


def _count(areas: dict[str, float], name: str, found: Numbers) -> None:
    if found.size:
        areas[name] = areas.get(name, 0.0) + float(found.sum())


def empty_sums(
    named: Sequence[tuple[str, Region]],
    layer: xr.DataArray,
    plots: GroundPlots | None = None,
    model: ErrorModel | None = None,
    stacklevel: int = 4,
) -> list[RegionSum]:
    """Return regions with their own areas and plots, and no sums yet.

    Parameters
    ----------
    named : sequence of (str, Region)
        The regions.
    layer : xarray.DataArray
        The map.
    plots : GroundPlots, optional
        Those whose centre is within a region are its plots.
    model : ErrorModel, optional
        The errors to sum.
    stacklevel : int
        Of the warning.

    Warns
    -----
    UserWarning
        If regions reach beyond the map; see `areas_of`.
    """
    count = 0 if plots is None else plots.count
    sums = [RegionSum(name, region, np.zeros(count, bool)) for name, region in named]
    areas = areas_of([one.outline for one in sums], layer, stacklevel)
    for one, area in zip(sums, areas, strict=True):
        one.own = area
        if plots is not None:
            one.plots = one.outline.contains(*plots.points.T)
        if model is not None:
            one.errors = ErrorSum(model, pixel=pixel_size(layer))
            one.held_out = model.held_out
    return sums


@dataclass(frozen=True)
class _Block:
    """A block of the map: values, hectares, codes of strata, and its plots.

    Codes are positions in `names`, -1 without a stratum.
    """

    values: Numbers
    areas: Numbers
    known: Mask
    codes: npt.NDArray[np.int64]
    names: tuple[str, ...]
    applicable: Numbers | None
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
    applicable: xr.DataArray | None = None,
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
    applicable : xarray.DataArray, optional
        (y, x) on the same grid: 0 outside of the area of applicability.
    """
    side, (height, width) = side_of(layer), layer.shape
    shape = (-(-height // side), -(-width // side))
    touched = [one.region.touched(*shape, side) for one in regions]
    wanted = np.any(touched, axis=0)
    found = _Lookup(plots, side, shape[1], width)
    wanted |= found.reached_from(wanted)
    for one in regions if applicable is not None else ():
        one.inapplicable = 0.0
    steps = _steps(regions, layer, plots is not None)
    blocks = list(windows(layer, wanted, side))
    for window in tqdm(blocks, "Summing", unit="block", disable=not progress):
        block = _load(layer, strata, applicable, window, found.centred_in(window))
        found.add(block, window)
        for one, near, step in zip(regions, touched, steps, strict=True):
            if near[window.top // side, window.left // side]:
                one.add(window, block, step)
    return found.values()


def _steps(
    regions: Sequence[RegionSum], layer: xr.DataArray, wanted: bool
) -> list[int]:
    """Return the steps of the regions' samples: some 2,000 pixels of each."""
    if not wanted:
        return [0] * len(regions)
    most = min(SAMPLE, max(SAMPLE // 10, MOST_SAMPLED // len(regions)))
    sizes = [min(float(one.outline.shape.area), layer.size) for one in regions]
    return [max(1, int((size / most) ** 0.5)) for size in sizes]


def _load(
    layer: xr.DataArray,
    strata: xr.DataArray | None,
    applicable: xr.DataArray | None,
    window: Window,
    homes: npt.NDArray[np.int64],
) -> _Block:
    values, areas = read(layer, window), pixel_areas(layer, window)
    known = np.isfinite(values)
    names: tuple[str, ...] = (WHOLE,)
    codes = np.zeros(values.shape, np.int64)
    if strata is not None:
        drawn = read(strata, window)
        drawn_in = np.isfinite(drawn)
        known &= drawn_in
        numbers, flat = np.unique(drawn[drawn_in], return_inverse=True)
        codes = np.full(values.shape, -1)
        codes[drawn_in] = flat
        names = tuple(stratum_name(number) for number in numbers)
    inside = None if applicable is None else read(applicable, window)
    return _Block(values, areas, known, codes, names, inside, homes, layer.shape[1])


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
        self._stratum[block.homes] = np.array([*block.names, None], object)[
            block.codes[at]  # -1, no stratum, is the last
        ]

    def values(self) -> PlotValues:
        """Return the values of all plots."""
        fine = self._known & (self._count > 0)
        means = np.full(fine.size, np.nan)
        np.divide(self._sum, self._count, out=means, where=fine)
        return PlotValues(means, self._stratum, self._highest)
