"""An estimated mean with its standard error, in all and by stratum."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from geobiomass.statistics.confidence import t_quantile
from geobiomass.statistics.variances import satterthwaite


@dataclass(frozen=True)
class StratumPart:
    """One stratum of an estimate.

    Parameters
    ----------
    name : hashable
        Name of the stratum.
    n : int
        Number of plots.
    units : int
        Number of sampling units: plots, or clusters.
    share : float
        Share of the area.
    mean, se : float
        The mean of the stratum by the same estimator, and its standard error, both in
        the unit of the observations. NaN if the map's mean in the stratum is needed and
        not known, or the stratum has one unit.
    """

    name: Hashable
    n: int
    units: int
    share: float
    mean: float
    se: float


@dataclass(frozen=True)
class Estimate:
    """An estimated mean.

    Parameters
    ----------
    mean : float
        In the unit of the observations.
    se : float
        Its standard error.
    freedom : float
        Degrees of freedom of the standard error; infinite if it is known.
    n : int
        Number of plots.
    method : str
        Name of the estimator.
    units : float
        Number of sampling units: plots, or clusters; with unequal probabilities the
        effective number (Kish 1965, 11.7), by stratum.
    skewness : float
        Skewness of the estimator, of which 0 is symmetric.
    leveraged_se : float, optional
        Standard error from residuals that are divided by the root of one minus their
        leverage on the slope (MacKinnon and White 1985, HC2). It is larger where few
        plots determine the slope. None: `se`.
    lowest, highest : float
        Lowest and highest observed value.
    strata : tuple of StratumPart
        The estimate by stratum.
    notes : tuple of str
        Rules that were applied.
    """

    mean: float
    se: float
    freedom: float
    n: int
    method: str
    units: float = math.nan
    skewness: float = 0.0
    leveraged_se: float | None = None
    lowest: float = math.nan
    highest: float = math.nan
    strata: tuple[StratumPart, ...] = ()
    notes: tuple[str, ...] = ()

    def interval(self, confidence: float = 0.95) -> tuple[float, float]:
        """Return the bounds of the confidence interval by Student's t, lower and upper.

        :func:`geobiomass.statistics.interval_of_mean.interval_of` has intervals for few
        plots, skewness and zeros.

        Raises
        ------
        ValueError
            If the confidence is not between 0 and 1.
        """
        half = t_quantile(confidence, self.freedom) * self.se
        return self.mean - half, self.mean + half


def combine(parts: Sequence[Estimate], areas: Any) -> Estimate:
    """Return the mean over strata with separate estimates.

    Parameters
    ----------
    parts : sequence of Estimate
        One for each stratum, independent of each other.
    areas : array-like
        (stratum,) their areas, in any unit.
    """
    shares = np.asarray(areas, np.float64) / np.sum(areas)
    means = np.array([part.mean for part in parts])
    errors = shares * np.array([part.se for part in parts])
    wide = [part.leveraged_se for part in parts]
    se = math.sqrt((errors**2).sum())
    cubes = np.array([part.skewness for part in parts]) * errors**3
    known = all(each is not None for each in wide)
    return Estimate(
        float(shares @ means),
        se,
        satterthwaite(errors**2, np.array([part.freedom for part in parts])),
        sum(part.n for part in parts),
        parts[0].method,
        units=float(sum(part.units for part in parts)),
        skewness=float(cubes.sum() / se**3) if se > 0 else 0.0,
        leveraged_se=math.hypot(*shares * np.array(wide, float)) if known else None,
        lowest=min(part.lowest for part in parts),
        highest=max(part.highest for part in parts),
        strata=tuple(
            replace(one, share=float(share))
            for share, part in zip(shares, parts, strict=True)
            for one in part.strata[:1]
        ),
        notes=tuple(note for part in parts for note in part.notes),
    )
