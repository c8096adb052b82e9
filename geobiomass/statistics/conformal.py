"""Conformal prediction intervals, calibrated on units that are not training data.

A unit is an exchangeable group of pixels: a chip, a group of chips or a block of a
scene. Its pixels share errors, so that it counts once and not thousands of times.
This module works on arrays only; docs/explanation/intervals.md has the formulas.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
import numpy.typing as npt

from geobiomass.statistics.conformal_quantile import (
    Numbers,
    needed_units,
    threshold,
    worth,
)
from geobiomass.statistics.conformal_units import Unit, by_group, weighed, worth_of

if TYPE_CHECKING:
    import pandas as pd

# The same two types are in inference/steps.py, which this floor may not import.
Pixels = npt.NDArray[np.float32]
Attributes = Mapping[str, Any]

# Classes are merged until each is in twice the least number of units: with just the
# least number, the margin is the largest score.
_TIMES_NEEDED = 2
# Mg/ha: members of an ensemble that agree to one tonne agree by chance.
_LEAST_SPREAD = 1.0


Kind = Literal["chips", "blocks", "groups"]
Base = Literal["map", "spread", "quantiles", "quantiles and spread"]


@dataclass(frozen=True)
class Calibration:
    """The margins that turn the outputs of a network into a prediction interval.

    Parameters
    ----------
    interval : float
        Nominal coverage, such as 0.9.
    base : "map", "spread", "quantiles" or "quantiles and spread"
        What the margins are added to: the map itself, in Mg/ha or in units of the
        spread of an ensemble; or the two quantiles that a network predicts, which the
        spread of an ensemble moves apart first.
    edges : tuple of float
        Edges between classes of predicted biomass, Mg/ha.
    margins : tuple of float
        Margin of each class; negative where the predicted interval was too wide.
    units, pixels : tuple of int
        Number of units, and of their pixels, that each class was calibrated on.
    count : int
        Number of all units.
    kind : "chips", "blocks" or "groups"
        What the units are; "groups" are groups of chips.
    folds : int
        Number of models, each of which held one fold of the units out; 0 if no model
        was trained on any of them.
    name : str
        The layer of the map that the interval belongs to.
    groups : str or None
        The coordinate that groups chips, such as "region". If `kind` is "chips"
        nevertheless, there were too few groups to calibrate on, and in a new group the
        coverage may be lower.
    least : float or None
        Smallest value that is possible, which ends the interval: 0 of a target whose
        labels are never negative, None of another, such as a change.
    effective : float or None
        How many units of equal weight they are worth, where labels weigh by their
        standard errors; None where all weigh alike.
    """

    interval: float
    base: Base
    edges: tuple[float, ...]
    margins: tuple[float, ...]
    units: tuple[int, ...]
    pixels: tuple[int, ...]
    count: int
    kind: Kind = "chips"
    folds: int = 0
    name: str = "agb"
    groups: str | None = None
    least: float | None = 0.0
    effective: float | None = None

    def __post_init__(self) -> None:
        check_interval(self.interval)
        lengths = {len(self.margins), len(self.units), len(self.pixels)}
        if lengths != {len(self.edges) + 1} or not np.isfinite(self.margins).all():
            raise ValueError(
                f"margins of a Calibration must be {len(self.edges) + 1} finite "
                f"numbers, one per class, got {self.margins}."
            )

    def __str__(self) -> str:
        """Return a description in one line."""
        classes = (
            "1 class" if len(self.margins) == 1 else f"{len(self.margins)} classes"
        )
        folds = f" of {self.folds} folds" if self.folds else ""
        by = ""
        if self.groups is not None:
            by = f" by {self.groups!r}"
            if self.kind != "groups":
                by = f" (groups{by} were too few: in a new one coverage may be lower)"
        weighed = ""
        if self.effective is not None:
            weighed = (
                ", labels weighed by their standard errors (worth "
                f"{self.effective:.3g} of equal weight)"
            )
        return (
            f"{100 * self.interval:.4g} % interval, calibrated on {self.count} "
            f"{self.kind}{by}{folds}, {classes}{weighed}"
        )

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes of predicted biomass, Mg/ha."""
        if not self.edges:
            return ("all",)
        middle = [f"{low:.4g}-{high:.4g}" for low, high in pairwise(self.edges)]
        return (
            f"below {self.edges[0]:.4g}",
            *middle,
            f"{self.edges[-1]:.4g} and more",
        )

    @property
    def table(self) -> pd.DataFrame:
        """Table of units, pixels and margin by class of predicted biomass."""
        import pandas as pd

        return pd.DataFrame(
            {"units": self.units, "pixels": self.pixels, "margin": self.margins},
            index=pd.Index(self.classes, name="predicted"),
        )

    # --- a step of a map ---

    def layers(self, layers: Mapping[str, Attributes]) -> dict[str, Attributes]:
        """Return the layers with the two ends of the interval after their map."""
        found = _base_of(layers, self.name)
        if found != self.base:
            raise ValueError(
                f"A calibration of {self.base} must be used with its own model, got a "
                f"model with the outputs {', '.join(layers)}; call model.calibrate "
                "again."
            )
        map_of = layers[self.name]
        return self._arranged(layers, *(self._attributes(e, map_of) for e in _ENDS))

    def apply(self, values: Mapping[str, Pixels]) -> dict[str, Pixels]:
        """Return the values with the ends of the interval; the map is not changed."""
        agb = values[self.name]
        lower, upper, scale = _ends(values, self.name)
        margins = np.asarray(self.margins, np.float32)
        margin = margins[np.digitize(agb, self.edges)] * scale
        # Biomass is not negative, and the interval contains the map.
        lower = lower - margin
        if self.least is not None:
            lower = np.maximum(lower, np.float32(self.least))
        lower = np.minimum(lower, agb)
        upper = np.maximum(upper + margin, agb)
        return self._arranged(values, lower, upper)

    def values_depend_on(self) -> dict[str, Any]:
        """Return all that the values of the map depend on, ready for JSON."""
        return {"calibration": self.to_dict()}

    def _arranged(self, layers: Mapping[str, Any], *ends: Any) -> dict[str, Any]:
        """Return the layers with the ends after the map, without the raw quantiles."""
        added = {
            f"{self.name}_{end}": value for end, value in zip(_ENDS, ends, strict=True)
        }
        used = tuple(raw_name(self.name, end) for end in _ENDS)
        rest = {k: v for k, v in layers.items() if not k.startswith(used)}
        return {self.name: rest.pop(self.name), **added, **rest}

    def _attributes(self, end: str, map_of: Attributes) -> Attributes:
        """Return the attributes of an end, from those of its map."""
        what = map_of.get("long_name", "above-ground biomass density")
        return {
            "long_name": f"{end} end of the {100 * self.interval:.4g} % interval of "
            f"{what}",
            "units": map_of.get("units", "Mg/ha"),
            "interval": self.interval,
        }

    # --- JSON ---

    def to_dict(self) -> dict[str, Any]:
        """Return the values for JSON."""
        plain = dataclasses.asdict(self)
        if self.least == 0.0:  # as early versions wrote it
            del plain["least"]
        if self.effective is None:  # likewise
            del plain["effective"]
        return {k: list(v) if isinstance(v, tuple) else v for k, v in plain.items()}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Self:
        """Build a calibration from the result of :meth:`to_dict`.

        Raises
        ------
        TypeError, ValueError
            If a value is missing, unknown or of another length.
        """
        values: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in content.items()
        }
        return cls(**values)


_ENDS = ("lower", "upper")


def raw_name(name: str, end: str) -> str:
    """Return the name of the output that is an end before calibration."""
    return f"{name}_{end}_raw"


def check_interval(interval: float) -> None:
    """Check that an interval is a coverage between 0 and 1.

    Raises
    ------
    ValueError
        If it is not.
    """
    if not 0 < interval < 1:
        raise ValueError(
            f"interval must be between 0 and 1, such as 0.9, got {interval}."
        )


def calibrate(
    units: Sequence[Unit],
    interval: float,
    classes: int | Sequence[float],
    *,
    kind: Kind = "chips",
    folds: int = 0,
    name: str = "agb",
    groups: str | None = None,
) -> Calibration:
    """Fit the margins, by class of predicted biomass, that give the nominal coverage.

    Conformalised quantile regression (Romano, Patterson and Candès, 2019) with
    :func:`~geobiomass.statistics.conformal_quantile.threshold` for the quantile, by
    class of predicted biomass (Mondrian conformal prediction: Vovk, Gammerman and
    Shafer, Algorithmic learning in a random world, 2005). Neighbouring classes are
    merged until each is in twice the least number of units. Where units have errors of
    labels, these weigh 1 / (tau^2 + se^2), and units count by what they are worth.

    Parameters
    ----------
    units : sequence of Unit
        Chips or blocks that the model was not trained on. With `groups`, all of one
        group become one unit if there are enough groups to calibrate on: chips of a
        group share errors, so that the groups are exchangeable and the chips are not.
    interval : float
        Nominal coverage.
    classes : int or sequence of float
        Edges between classes of predicted biomass, Mg/ha; or the number of classes
        with the same number of pixels.
    kind, folds, name, groups
        As in :class:`Calibration`.

    Raises
    ------
    ValueError
        If there are too few units, or a number is out of range.
    """
    check_interval(interval)
    units = weighed([unit for unit in units if len(unit.observed)], name)
    least = needed_units(interval)
    if worth_of(units) < least:
        raise ValueError(too_few(interval, in_words(len(units), worth_of(units))))
    together = units if groups is None else by_group(units)
    if groups is not None and worth_of(together) >= least:
        units, kind = together, "groups"
    predicted = [unit.values[name] for unit in units]
    weights = [unit.weights for unit in units if unit.weights is not None]
    edges = _edges(predicted, classes)
    scores = [_scores(unit, name) for unit in units]
    which = [np.digitize(p, edges) for p in predicted]
    merged = _merged(
        np.array([np.bincount(w, minlength=len(edges) + 1) > 0 for w in which]),
        _TIMES_NEEDED * least,
        partial(_worth_of_class, weights, which) if weights else None,
    )
    margins, counts, pixels = [], [], []
    for group in merged:
        found = _of_class(scores, which, group)
        own = _of_class(weights, which, group) if weights else None
        margins.append(threshold(found, interval, own))
        counts.append(len(found))
        pixels.append(sum(map(len, found)))
    return Calibration(
        interval,
        _base_of(units[0].values, name),
        tuple(float(edges[group[0] - 1]) for group in merged[1:]),
        tuple(margins),
        tuple(counts),
        tuple(pixels),
        len(units),
        kind,
        folds,
        name,
        groups,
        None if any((unit.observed < 0).any() for unit in units) else 0.0,
        worth(weights) if weights else None,
    )


def in_words(count: int, effective: float) -> str:
    """Return how many units were found, and what they are worth if they weigh."""
    if effective == count:
        return f"got {count}"
    return (
        f"got {count}, which are worth {effective:.3g} of equal weight by the standard "
        "errors of their labels (label_errors=False weighs all alike)"
    )


def _of_class(
    values: Sequence[Numbers], which: Sequence[npt.NDArray[Any]], group: Sequence[int]
) -> list[Numbers]:
    """Return the values of each unit in some classes, of units that have any."""
    found = [v[np.isin(w, group)] for v, w in zip(values, which, strict=True)]
    return [v for v in found if len(v)]


def _worth_of_class(
    weights: Sequence[Numbers], which: Sequence[npt.NDArray[Any]], group: Sequence[int]
) -> float:
    return worth(_of_class(weights, which, group))


def too_few(interval: float, found: str) -> str:
    """Return the error message for too few chips or blocks."""
    return (
        f"interval={interval:g} needs at least {needed_units(interval)} chips or "
        f"blocks to calibrate on, {found}; give more labelled data, smaller blocks of "
        "a scene, or a lower interval."
    )


def few_groups(interval: float, groups: str, found: str) -> str:
    """Return the warning that chips are calibrated on although they come in groups."""
    return (
        f"interval={interval:g} needs {needed_units(interval)} groups by {groups!r} to "
        f"calibrate on{found}: it is calibrated by chip instead, as if chips of one "
        "group shared no errors, and in a new group its coverage may be lower than "
        f"{100 * interval:.4g} %. Give data of more groups, or a lower interval."
    )


def _edges(predicted: Sequence[Numbers], classes: int | Sequence[float]) -> list[float]:
    if not isinstance(classes, int):
        edges = [float(edge) for edge in classes]
        if edges != sorted(set(edges)) or not np.isfinite(edges).all():
            raise ValueError(
                "classes must be increasing edges in Mg/ha, or their number, got "
                f"{list(classes)}."
            )
        return edges
    if classes < 1:
        raise ValueError(f"classes must be at least 1, got {classes}.")
    parts = np.arange(1, classes) / classes
    found = np.quantile(np.concatenate(predicted), parts)
    return [float(edge) for edge in np.unique(found)]


def _merged(
    there: npt.NDArray[np.bool_],
    least: int,
    worth_of: Callable[[Sequence[int]], float] | None = None,
) -> list[list[int]]:
    """Merge neighbouring classes until each is in `least` units, if possible.

    Parameters
    ----------
    there : numpy.ndarray
        (unit, class) bool, true if the unit has a pixel of the class.
    least : int
        Least number of units of a class.
    worth_of : callable, optional
        Returns how many units some classes together are worth; by default their number.
    """
    groups = [[number] for number in range(there.shape[1])]
    while len(groups) > 1:
        counts = [
            float(there[:, group].any(axis=1).sum())
            if worth_of is None
            else worth_of(group)
            for group in groups
        ]
        poorest = int(np.argmin(counts))
        if counts[poorest] >= least:
            break
        neighbours = [i for i in (poorest - 1, poorest + 1) if 0 <= i < len(groups)]
        other = min(neighbours, key=lambda i: counts[i])
        first, second = sorted((poorest, other))
        groups[first] += groups.pop(second)
    return groups


def _base_of(names: Mapping[str, Any], name: str) -> Base:
    spread = f"{name}_spread" in names
    if raw_name(name, "lower") in names:
        return "quantiles and spread" if spread else "quantiles"
    return "spread" if spread else "map"


def _ends(values: Mapping[str, Any], name: str) -> tuple[Any, Any, Any]:
    """Return both ends before calibration, and the scale of the margins."""
    agb, spread = values[name], values.get(f"{name}_spread")
    base = _base_of(values, name)
    if base in ("map", "spread"):
        scale = 1.0 if spread is None else np.maximum(spread, _LEAST_SPREAD)
        return agb, agb, scale
    # The two quantiles that a network predicts may cross.
    ends = [values[raw_name(name, end)] for end in _ENDS]
    lower, upper = np.minimum(*ends), np.maximum(*ends)
    return (
        (lower, upper, 1.0) if spread is None else (lower - spread, upper + spread, 1.0)
    )


def _scores(unit: Unit, name: str) -> Numbers:
    """Return the conformal score of each pixel: the margin that just covers its label.

    The interval contains the map at any margin, so that only the end on the side of
    the label counts (nested conformal prediction: Gupta, Kuchibhotla and Ramdas, 2022).
    """
    lower, upper, scale = _ends(unit.values, name)
    above = unit.observed >= unit.values[name]
    outside: Numbers = np.where(above, unit.observed - upper, lower - unit.observed)
    return np.asarray(outside / scale)
