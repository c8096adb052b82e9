"""The exchangeable groups of pixels that an interval is calibrated on."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from geobiomass.statistics.conformal_quantile import Numbers, worth
from geobiomass.statistics.label_errors import relative_weights


@dataclass(frozen=True)
class Unit:
    """Predictions and reference data of an exchangeable group of pixels.

    Parameters
    ----------
    values : mapping
        (pixels,) float by the name of the network's output, Mg/ha.
    observed : numpy.ndarray
        (pixels,) float, Mg/ha. All are finite.
    group : str, optional
        The group of chips that share errors with it, such as a region or a flight.
    errors : numpy.ndarray, optional
        (pixels,) standard errors of the labels, by which these weigh; all are finite.
    weights : numpy.ndarray, optional
        (pixels,) the weights, of :func:`weighed`.
    """

    values: Mapping[str, Numbers]
    observed: Numbers
    group: str | None = None
    errors: Numbers | None = None
    weights: Numbers | None = None


def joined(parts: Sequence[Unit]) -> Unit:
    """Join one or more units into one, in the group of the first."""
    values = {
        name: np.concatenate([part.values[name] for part in parts])
        for name in parts[0].values
    }
    observed = np.concatenate([part.observed for part in parts])
    more = []
    for each in ([p.errors for p in parts], [p.weights for p in parts]):
        known = [own for own in each if own is not None]
        more.append(np.concatenate(known) if len(known) == len(parts) else None)
    return Unit(values, observed, parts[0].group, *more)


def by_group(units: Sequence[Unit]) -> list[Unit]:
    """Join the units of each group into a single one."""
    groups: dict[str | None, list[Unit]] = {}
    for unit in units:
        groups.setdefault(unit.group, []).append(unit)
    return [joined(parts) for parts in groups.values()]


def weighed(units: Sequence[Unit], name: str) -> list[Unit]:
    """Return units with the weights of their labels, where all have errors.

    Parameters
    ----------
    units : sequence of Unit
        None is empty.
    name : str
        The map, whose residuals say what is unexplained beside the labels' errors.
    """
    errors = [unit.errors for unit in units if unit.errors is not None]
    if not errors or len(errors) < len(units):
        return list(units)
    residuals = np.concatenate([unit.values[name] - unit.observed for unit in units])
    weights, _ = relative_weights(residuals, np.concatenate(errors))
    ends = np.cumsum([len(own) for own in errors])[:-1]
    pairs = zip(units, np.split(weights, ends), strict=True)
    return [dataclasses.replace(unit, weights=own) for unit, own in pairs]


def worth_of(units: Sequence[Unit]) -> float:
    """Return how many units of equal weight these are worth."""
    weights = [unit.weights for unit in units if unit.weights is not None]
    return worth(weights) if weights else float(len(units))
