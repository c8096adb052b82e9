"""Rows of totals of small areas: regions that have few plots each.

All regions get the same composite. A region with many plots has a weight near 1 and
nearly keeps its own estimate, one with few comes near to the regression over all
regions, so that no number of plots makes a jump.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from geobiomass.accounting.ground_plots import GroundPlots
from geobiomass.accounting.region_sums import PlotValues, RegionSum
from geobiomass.accounting.total_rows import NO_VALUE, plot_notes, table_row
from geobiomass.statistics.confidence import t_quantile
from geobiomass.statistics.estimated_mean import Estimate
from geobiomass.statistics.interval_of_mean import Bounds, IntervalRule
from geobiomass.statistics.sample import SMALL_AREA, Numbers
from geobiomass.statistics.small_areas import (
    SmallAreaMeans,
    check_sizes,
    small_area_means,
)

# Slivers between neighbours from drawing; as the limit of mapped parts.
_SLIVER = 1e-3


def need_random_plots(
    *, residuals: Any, design: str, interval: Any, **others: Any
) -> None:
    """Check that the settings of a call are what small areas can have.

    Parameters
    ----------
    residuals, design, interval, **others
        Settings of :func:`geobiomass.totals` by name; `others` must be None.

    Raises
    ------
    ValueError
        If one is not.
    """
    if residuals is not None:
        raise ValueError(
            f"estimator={SMALL_AREA!r} needs plots=, got residuals=: give a sample of "
            "plots, or leave estimator= out."
        )
    if design != "random":
        raise ValueError(
            f"estimator={SMALL_AREA!r} takes plots on a grid as a random sample: leave "
            f"design= out, got {design!r}."
        )
    if isinstance(interval, IntervalRule):
        raise ValueError(
            f"estimator={SMALL_AREA!r} has Student's t of its mean squared error, and "
            "no rule of intervals: leave interval= out."
        )
    for name, value in others.items():
        if value is not None:
            raise ValueError(
                f"estimator={SMALL_AREA!r} needs plots that were drawn at random and "
                f"alone within each region, got {name}=; use estimator='regression' "
                "for this design."
            )


def need_regions(sums: Sequence[RegionSum]) -> None:
    """Check the regions before the map is read.

    Raises
    ------
    ValueError
        If regions share hectares, or too few have plots.
    """
    for one in sums:
        if one.own.shared > _SLIVER * one.own.hectares:
            raise ValueError(
                f"estimator={SMALL_AREA!r} needs regions that do not overlap, as a "
                f"plot is of one region; {one.own.shared:,.4g} ha of {one.name!r} also "
                "belong to other regions."
            )
    check_sizes([int(one.plots.sum()) for one in sums])


@dataclass(frozen=True)
class SmallAreaTotals:
    """The fitted model of a table, and its rows.

    Parameters
    ----------
    regions : list of RegionSum
        All regions with a value in the map.
    means : SmallAreaMeans
        Their means, in the same order.
    confidence : float
        Confidence level of the intervals.
    ground, at : GroundPlots, PlotValues
        All plots, and the map there.
    plot_map, plot_region : numpy.ndarray
        (plot,) the map at the plots of the model, and the number of their region.
    """

    regions: list[RegionSum]
    means: SmallAreaMeans
    confidence: float
    ground: GroundPlots
    at: PlotValues
    plot_map: Numbers
    plot_region: npt.NDArray[np.int64]

    @classmethod
    def fit(
        cls,
        sums: Sequence[RegionSum],
        ground: GroundPlots,
        at: PlotValues,
        confidence: float,
    ) -> SmallAreaTotals:
        """Fit the model to the plots of all regions.

        Raises
        ------
        SampleError
            If plots or regions are too few.
        """
        regions = [one for one in sums if one.area > 0]
        home = np.full(ground.count, -1, np.int64)
        for number, one in enumerate(regions):
            home[one.plots] = number  # in a sliver between two: the later one
        some = (home >= 0) & np.isfinite(at.predicted)
        x = at.predicted[some]
        means = small_area_means(
            ground.observed[some], x, home[some], [one.mean for one in regions]
        )
        return cls(regions, means, confidence, ground, at, x, home[some])

    def number(self, one: RegionSum) -> int | None:
        """Return the position of a region, None without a value in the map."""
        return self._numbers.get(id(one))

    @cached_property
    def _numbers(self) -> dict[int, int]:
        return {id(one): number for number, one in enumerate(self.regions)}

    def row(self, one: RegionSum) -> dict[str, Any]:
        """Return the row of a region."""
        mine, notes = plot_notes(one, self.ground, self.at)
        number, found, nan = self.number(one), self.means, math.nan
        if number is None:
            row = table_row(one, SMALL_AREA, int(mine.sum()), None, [*notes, NO_VALUE])
            parts = dict.fromkeys(("own_mean", "synthetic_mean", "own_weight"), nan)
            return row | parts
        count, mean = int(found.plots[number]), float(found.mean[number])
        se, freedom = math.sqrt(found.mse[number]), float(found.freedom[number])
        estimate = Estimate(mean, se, freedom, count, SMALL_AREA)
        half = t_quantile(self.confidence, freedom) * se
        if mean < 0:
            notes.append("the estimate is below 0, which biomass cannot be")
        bounds = Bounds(max(0.0, mean - half), max(0.0, mean + half), "t")
        row = table_row(one, SMALL_AREA, count, estimate, notes, bounds)
        return row | {
            "own_mean": float(found.own[number]),
            "synthetic_mean": float(found.synthetic[number]),
            "own_weight": float(found.weight[number]),
        }

    def about(self) -> dict[str, dict[str, Any]]:
        """Return the design and the fitted model, for the attributes of a table."""
        found = self.means
        design = {
            "design": "random within regions",
            "variance": "mean squared error of the unit-level model (Prasad and Rao "
            "1990)",
            "interval": "t",
        }
        model = {
            "intercept": float(found.coefficients[0]),
            "slope": float(found.coefficients[1]),
            "sd_between_regions": math.sqrt(found.between),
            "sd_of_plots": math.sqrt(found.within),
            "regions_with_plots": int((found.plots > 0).sum()),
            "plots": int(found.plots.sum()),
        }
        return {"design": design, "small_areas": model}
