"""A sample of plots as arrays, checked: values, strata, weights, clusters."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.float64]
Positions = npt.NDArray[np.int64]
Method = Literal["plots", "difference", "regression"]

METHODS: tuple[Method, ...] = ("plots", "difference", "regression")
SMALL_AREA = "small area"
"""Method of regions with few plots each, which needs all regions at once."""


class SampleError(ValueError):
    """The error of a sample that is too small for an estimate with an interval."""


@dataclass(frozen=True)
class PlotSample:
    """A sample as arrays.

    Parameters
    ----------
    y, x : numpy.ndarray
        (plot,) observed values, and the map at the plots (0 without a map).
    map_mean : float
        The map's mean over the area; 0 without a map.
    where : numpy.ndarray
        (plot,) position of the plot's stratum in `names`.
    names : tuple
        Names of the strata, in the order of their first plot.
    weight : numpy.ndarray
        (plot,) one over the inclusion probability; 1 if all are equal.
    unit : numpy.ndarray
        (plot,) number of the sampling unit: the plot itself, or its cluster.
    first : numpy.ndarray
        (unit,) the first plot of each sampling unit.
    """

    y: Numbers
    x: Numbers
    map_mean: float
    where: Positions
    names: tuple[Hashable, ...]
    weight: Numbers
    unit: Positions
    first: Positions

    @classmethod
    def of(
        cls,
        observed: Any,
        predicted: Any,
        map_mean: float | None,
        method: str,
        strata: Sequence[Hashable] | None,
        probability: Any,
        cluster: Sequence[Hashable] | None = None,
    ) -> PlotSample:
        """Return a sample from the arguments of :func:`estimate`, checked."""
        if method not in METHODS:
            raise ValueError(f"method must be one of {METHODS}, got {method!r}.")
        y = column(observed, "observed")
        if method != "plots" and (predicted is None or map_mean is None):
            raise ValueError(
                f"The {method} estimator needs the map: predicted= at the plots, and "
                "map_mean= over the area."
            )
        assisted = method != "plots"
        x = column(predicted, "predicted", y.size) if assisted else np.zeros(y.size)
        weight = np.ones(y.size)
        if probability is not None:
            weight = 1 / column(probability, "probability", y.size, positive=True)
        where, names = _numbered(strata, "strata", y.size)
        unit = first = np.arange(y.size)
        if cluster is not None:
            unit, _ = _numbered(cluster, "cluster", y.size)
            first = np.unique(unit, return_index=True)[1]
        mean = float(map_mean) if map_mean is not None and assisted else 0.0
        return cls(y, x, mean, where, names, weight, unit, first)

    @property
    def sizes(self) -> Positions:
        """Number of sampling units in each stratum: plots, or clusters."""
        return np.bincount(self.where[self.first], minlength=len(self.names))

    @property
    def clustered(self) -> bool:
        """Whether plots are in clusters."""
        return self.first.size < self.y.size

    def only(self, number: int, map_mean: float) -> PlotSample:
        """Return one stratum as a sample."""
        mine = self.where == number
        _, first, unit = np.unique(self.unit[mine], True, True)
        zeros = np.zeros(int(mine.sum()), np.int64)
        y, x, weight = self.y[mine], self.x[mine], self.weight[mine]
        name = self.names[number]
        return PlotSample(y, x, map_mean, zeros, (name,), weight, unit, first)

    def check_clusters(self) -> None:
        """Check that no cluster is in two strata.

        Raises
        ------
        ValueError
            If one is: strata of a design are drawn by whole clusters.
        """
        home = self.where[self.first][self.unit]
        strange = np.flatnonzero(self.where != home)
        if strange.size:
            both = (self.where[strange[0]], home[strange[0]])
            one, other = (self.names[number] for number in both)
            raise ValueError(
                f"Each cluster must be in one stratum, got one in {one} and {other}: "
                "use post-strata, or a stratum by cluster."
            )


def _numbered(
    labels: Sequence[Hashable] | None, what: str, size: int
) -> tuple[Positions, tuple[Hashable, ...]]:
    """Return the number of each plot's label, and the labels."""
    known = [0] * size if labels is None else list(labels)
    if len(known) != size:
        raise ValueError(
            f"{what} must be one for each plot, got {len(known)} for {size} plots."
        )
    names = tuple(dict.fromkeys(known))
    numbers = {name: number for number, name in enumerate(names)}
    return np.array([numbers[label] for label in known], np.int64), names


def column(
    values: Any, name: str, size: int | None = None, positive: bool = False
) -> Any:
    """Return finite numbers, one for each plot.

    Raises
    ------
    ValueError
        If they are not, or not above 0 where `positive` is true.
    """
    found = np.asarray(values, np.float64)
    if found.ndim != 1 or (size is not None and found.size != size):
        raise ValueError(
            f"{name} must be one for each plot, got the shape {found.shape}."
        )
    wrong = ~np.isfinite(found) | ((found <= 0) & positive)
    if wrong.any():
        kind = "numbers above 0" if positive else "finite numbers"
        raise ValueError(f"{name} must be {kind}, got {found[wrong][0]}.")
    return found


def areas_of(names: tuple[Hashable, ...], shares: Mapping[Any, float] | None) -> Any:
    """Return the areas of strata in the order of their names.

    Raises
    ------
    SampleError
        If a stratum has plots and no area, or an area and no plots.
    ValueError
        If there are several strata and no areas.
    """
    if len(names) <= 1 and shares is None:
        return np.ones(len(names))
    if shares is None:
        raise ValueError(
            f"A sample of the strata {list(names)} needs their areas, shares=; got "
            "none."
        )
    unknown = [name for name in names if name not in shares]
    if unknown:
        raise SampleError(
            f"plots are in the strata {unknown}, whose areas are not given; known are "
            f"{list(shares)}"
        )
    bare = [name for name in shares if shares[name] > 0 and name not in names]
    if bare:
        raise SampleError(f"no plots in stratum {', '.join(map(str, bare))}")
    return np.array([float(shares[name]) for name in names])


def populations_of(
    names: tuple[Hashable, ...],
    population: float | Mapping[Hashable, float] | None,
    probability: Any,
) -> Numbers:
    """Return the size of the population by stratum, infinite if none is given.

    Raises
    ------
    ValueError
        If probabilities are unequal, or strata have one number.
    """
    if population is None:
        return np.full(len(names), np.inf)
    if probability is not None:
        raise ValueError(
            "population= belongs to equal probabilities: with probability= the "
            "variance is that of sampling with replacement."
        )
    if isinstance(population, Mapping):
        missing = [name for name in names if name not in population]
        if missing:
            raise ValueError(
                f"population must have each stratum, got none for {missing[0]!r}."
            )
        return np.array([float(population[name]) for name in names])
    if len(names) > 1:
        raise ValueError(f"population must be by stratum, got {population!r}.")
    return np.full(len(names), float(population))
