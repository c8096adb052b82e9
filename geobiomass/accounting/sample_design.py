"""The design of a sample of plots, and the estimates and intervals of a region."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from geobiomass.accounting.ground_plots import GroundPlots, stratum_name
from geobiomass.accounting.map_spread import unseen_share
from geobiomass.accounting.region_sums import WHOLE, PlotValues, RegionSum
from geobiomass.statistics.estimated_mean import Estimate
from geobiomass.statistics.estimators import (
    ABOVE_ZERO,
    DESIGNS,
    Design,
    choose_method,
    estimate,
)
from geobiomass.statistics.interval_of_mean import (
    Bounds,
    IntervalRule,
    interval_of,
)

Mask = npt.NDArray[np.bool_]
FEW_EFFECTIVE = 30  # plots that unequal weights are worth, for the interval to hold

_VARIANCES = {
    "random": "of a random sample, in strata if there are any",
    "systematic": "of differences between neighbours on the grid",
    "poststrata": "of a random sample with post-strata (Bechtold and Patterson 2005)",
}


@dataclass(frozen=True)
class SampleDesign:
    """How plots were drawn, and how intervals are made.

    Parameters
    ----------
    design : "random", "systematic" or "poststrata"
        How the plots were drawn.
    population : float or mapping, optional
        Size of the population, in sampling units.
    rule : IntervalRule
        The rule of intervals.
    hectares : mapping, optional
        Area of the strata of a single region.
    pixel : tuple of float
        Height and width of a pixel, metres, for distances between plots.
    width : int
        Width of the map, pixels.
    """

    design: Design
    population: float | Mapping[str, float] | None
    rule: IntervalRule
    hectares: dict[str, float] | None
    pixel: tuple[float, float]
    width: int

    @classmethod
    def of(
        cls,
        design: str,
        population: Any,
        interval: Any,
        *,
        poststrata: bool = False,
        hectares: dict[str, float] | None = None,
        pixel: tuple[float, float] = (1.0, 1.0),
        width: int = 1,
    ) -> SampleDesign:
        """Return a design from the arguments of :func:`geobiomass.totals`, checked.

        Raises
        ------
        ValueError
            If a setting is unknown, or settings contradict each other.
        """
        rule = interval
        if not isinstance(interval, IntervalRule):
            rule = IntervalRule(interval)
        if design not in ("random", "systematic"):
            raise ValueError(
                f"design must be one of {DESIGNS[:2]}, got {design!r}; for post-strata "
                "give poststrata=."
            )
        if isinstance(population, Mapping):
            population = {
                stratum_name(name): _above_zero(size)
                for name, size in population.items()
            }
        elif population is not None:
            population = _above_zero(population)
        # Post-strata take in what a grid gains: their variance is the one stated.
        drawn: Design = "poststrata" if poststrata else design  # type: ignore[assignment]
        return cls(drawn, population, rule, hectares, pixel, width)

    def about(self) -> dict[str, str]:
        """Return the design in words, for the attributes of a table."""
        return {
            "design": self.design,
            "variance": _VARIANCES[self.design],
            "interval": self.rule.kind,
        }

    def estimate_region(
        self, one: RegionSum, ground: GroundPlots, at: PlotValues, mine: Mask, how: str
    ) -> Estimate:
        """Return the estimate of a region.

        Parameters
        ----------
        one : RegionSum
            The map's sums over the region.
        ground : GroundPlots
            All plots.
        at : PlotValues
            The map at the plots.
        mine : numpy.ndarray
            (plot,) bool: the plots of the region.
        how : str
            The estimator; "auto" by the rule of
            :func:`geobiomass.statistics.estimators.choose_method`.

        Raises
        ------
        SampleError
            If the plots are too few.
        ValueError
            If settings contradict each other.
        """
        observed = ground.observed[mine]
        method = choose_method(observed, self.rule.lowest) if how == "auto" else how
        by_raster = self._by_raster(one)
        stratified = by_raster or self.hectares is not None
        if self.hectares is not None and ground.stratum is None:
            raise ValueError(
                "strata= as a mapping to hectares needs stratum=, the plots' column."
            )
        probability = None if ground.probability is None else ground.probability[mine]
        cluster = None if ground.cluster is None else ground.cluster[mine].tolist()
        rows, columns = np.divmod(ground.home[mine], self.width)
        places = np.stack([rows * self.pixel[0], columns * self.pixel[1]], axis=1)
        return estimate(
            observed,
            at.predicted[mine],
            one.mean,
            method=method,  # type: ignore[arg-type]
            strata=self._strata(ground, at)[mine].tolist() if stratified else None,
            shares=(self.hectares or one.shares) if stratified else None,
            map_means=one.means if by_raster else None,
            probability=probability,
            population=self._population_of(one.name, stratified),
            cluster=cluster,
            design=self.design,
            places=places,
        )

    def bounds(
        self,
        found: Estimate,
        one: RegionSum,
        ground: GroundPlots,
        at: PlotValues,
        mine: Mask,
        confidence: float,
    ) -> Bounds:
        """Return the interval of a region's estimate; see `estimate_region`."""
        rule = self.rule
        highest = max(spread.highest for spread in one.spreads.values())
        if rule.highest is None and highest > rule.lowest:
            rule = IntervalRule(rule.kind, rule.lowest, highest)
        strata = self._strata(ground, at)[mine] if self._by_raster(one) else None
        unseen = unseen_share(one.spreads, at.highest[mine], strata)
        return interval_of(found, confidence, rule, unseen=unseen)

    def notes(
        self, found: Estimate, how: str, ground: GroundPlots, mine: Mask
    ) -> list[str]:
        """Return what is to be told of an estimate."""
        notes = list(found.notes)
        if how == "auto" and found.method == "difference":
            notes.append(
                f"most plots are {self.rule.lowest:g}, fewer than {ABOVE_ZERO} above: "
                "the difference estimator, as a slope would rest on few plots"
            )
        plots = found.n if ground.cluster is None else found.units
        few = found.units < FEW_EFFECTIVE and found.units < 0.8 * plots
        if ground.probability is not None and few:
            notes.append(
                f"weights differ so much that {found.n} plots are worth "
                f"{found.units:.0f}: the interval is too narrow"
            )
        return notes

    def _by_raster(self, one: RegionSum) -> bool:
        return self.hectares is None and set(one.areas) != {WHOLE}

    def _strata(self, ground: GroundPlots, at: PlotValues) -> npt.NDArray[Any]:
        return ground.stratum if ground.stratum is not None else at.stratum

    def _population_of(self, region: str, stratified: bool) -> Any:
        if not isinstance(self.population, Mapping) or stratified:
            return self.population
        if region not in self.population:
            raise ValueError(
                f"population must have each region, got none for {region!r}; known are "
                f"{list(self.population)}."
            )
        return self.population[region]


def _above_zero(size: Any) -> float:
    if not isinstance(size, int | float | np.number) or not float(size) > 0:
        raise ValueError(
            "population must be a number of sampling units above 0, or a mapping to "
            f"such numbers, got {size!r}."
        )
    return float(size)


def strata_rows(region: str, area: float, found: Estimate) -> Sequence[dict[str, Any]]:
    """Return the estimate by stratum, as rows of a table.

    Parameters
    ----------
    region : str
        Name of the region.
    area : float
        Its hectares.
    found : Estimate
        Its estimate.
    """
    if len(found.strata) < 2:
        return []
    return [
        {
            "region": region,
            "method": found.method,
            "stratum": str(part.name),
            "plots": part.n,
            "units": part.units,
            "area": part.share * area,
            "share": part.share,
            "mean": _or_none(part.mean),
            "mean_se": _or_none(part.se),
        }
        for part in found.strata
    ]


def _or_none(value: float) -> float | None:
    return value if math.isfinite(value) else None
