"""Intervals that hold what they promise: calibrated on units that nothing learnt from.

A unit is a chip, a group of chips or a block of a scene: its pixels are alike, so they
count as one, not as thousands. Numbers in, numbers out; docs/explanation/intervals.md
has the formulas.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import pandas as pd

# As inference/steps.py has them, which is a floor above or beside.
Pixels = npt.NDArray[np.float32]
Attributes = Mapping[str, Any]

Numbers = npt.NDArray[np.floating[Any]]

# A class is in twice the units that it needs at least: with just those, the margin is
# what the worst pixels ask for.
_TIMES_NEEDED = 2
# Of so many events the median number is the mean, to a half.
_MANY = 1000
# Mg/ha: models that agree to a tonne agree by chance.
_LEAST_SPREAD = 1.0


def needed_units(interval: float) -> int:
    """Give how many chips or blocks it takes at least to calibrate an interval.

    With fewer, no finite margin is sure to hold it: the new unit alone is more than
    one minus `interval` of all of them.
    """
    return math.ceil(interval / (1 - interval) - 1e-9)


def threshold(scores: Sequence[Numbers], interval: float) -> float:
    """Give the score that a pixel of a new unit stays below with chance `interval`.

    Of K units take one pixel each, at random: they and a pixel of a new unit can change
    places, so its score is below the (K + 1) * `interval` th lowest of theirs with just
    that chance (Dunn, Wasserman and Ramdas, Distribution-free prediction sets for
    two-layer hierarchical models, 2022). Other pixels give another threshold: this is
    the median over all ways to take them, computed, not drawn. Between two ranks it is
    interpolated.

    Parameters
    ----------
    scores : sequence of numpy.ndarray
        Those of each unit's pixels, (pixels,) each; one at least.
    interval : float
        Between 0 and 1.

    Returns
    -------
    float
        Infinite where there are fewer units than :func:`needed_units` says.
    """
    if len(scores) < needed_units(interval):
        return math.inf
    rank = min((len(scores) + 1) * interval, float(len(scores)))
    low = math.floor(rank + 1e-9)
    ordered = [np.sort(s) for s in scores]
    values = np.unique(np.concatenate(ordered))
    first, second = (_median_of_rank(ordered, values, r) for r in (low, low + 1))
    part = max(0.0, rank - low)
    return first if part == 0 else (1 - part) * first + part * second


def _median_of_rank(ordered: Sequence[Numbers], values: Numbers, rank: int) -> float:
    """Give the median, over a pixel drawn of each unit, of their `rank` th lowest."""
    if not 1 <= rank <= len(ordered):
        return float(values[0 if rank < 1 else -1])
    low, high = 0, len(values) - 1
    while low < high:
        middle = (low + high) // 2
        below = [np.searchsorted(s, values[middle], "right") / len(s) for s in ordered]
        if _chance_of(np.array(below), rank) >= 0.5 - 1e-9:
            high = middle
        else:
            low = middle + 1
    return float(values[low])


def _chance_of(chances: Numbers, count: int) -> float:
    """Give the chance that of independent events `count` or more come about."""
    if len(chances) > _MANY:
        return float(chances.sum() >= count - 0.5)
    exactly = np.zeros(len(chances) + 1)
    exactly[0] = 1.0
    for chance in chances:
        exactly[1:] = exactly[1:] * (1 - chance) + exactly[:-1] * chance
        exactly[0] *= 1 - chance
    return float(exactly[count:].sum())


@dataclass(frozen=True)
class Unit:
    """What was mapped and observed at the pixels of one chip or block.

    Parameters
    ----------
    values : mapping
        (pixels,) float by the name of the network's output, Mg/ha.
    observed : numpy.ndarray
        (pixels,) float, Mg/ha. All are finite.
    group : str, optional
        What it shares errors with: its region, its flight.
    """

    values: Mapping[str, Numbers]
    observed: Numbers
    group: str | None = None


def joined(parts: Sequence[Unit]) -> Unit:
    """Make one unit of several, one at least, of the group of the first."""
    values = {
        name: np.concatenate([part.values[name] for part in parts])
        for name in parts[0].values
    }
    observed = np.concatenate([part.observed for part in parts])
    return Unit(values, observed, parts[0].group)


def by_group(units: Sequence[Unit]) -> list[Unit]:
    """Make one unit of all that are in one group."""
    groups: dict[str | None, list[Unit]] = {}
    for unit in units:
        groups.setdefault(unit.group, []).append(unit)
    return [joined(parts) for parts in groups.values()]


Kind = Literal["chips", "blocks", "groups"]
Base = Literal["map", "spread", "quantiles", "quantiles and spread"]


@dataclass(frozen=True)
class Calibration:
    """How the ends of an interval follow from what a network predicts; prints itself.

    Parameters
    ----------
    interval : float
        Part of the pixels that it shall hold, such as 0.9.
    base : "map", "spread", "quantiles" or "quantiles and spread"
        What is widened: the map itself, by as many Mg/ha or as many times the spread
        of an ensemble; or the two quantiles that a network has learnt, those of an
        ensemble moved apart by its spread.
    edges : tuple of float
        Predicted biomass that parts neighbouring classes, Mg/ha.
    margins : tuple of float
        By how much, a class; below zero where what was learnt was too wide.
    units, pixels : tuple of int
        How many units, chips or others, and pixels in them, each class was calibrated
        on.
    count : int
        Units in all.
    kind : "chips", "blocks" or "groups"
        What they are; "groups" are of chips.
    folds : int
        Models that held them out, one fold each; 0: none of them was trained on.
    name : str
        The map whose interval it is.
    groups : str or None
        What tells the groups of chips apart, such as "region". Where `kind` is "chips"
        all the same, there were too few groups for them to be units, and in a new
        group the interval may hold less than it should.
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

    def __post_init__(self) -> None:
        check_interval(self.interval)
        lengths = {len(self.margins), len(self.units), len(self.pixels)}
        if lengths != {len(self.edges) + 1} or not np.isfinite(self.margins).all():
            raise ValueError(
                f"margins of a Calibration must be {len(self.edges) + 1} finite "
                f"numbers, one a class, got {self.margins}."
            )

    def __str__(self) -> str:
        """Say in one line what it is."""
        classes = (
            "1 class" if len(self.margins) == 1 else f"{len(self.margins)} classes"
        )
        folds = f" of {self.folds} folds" if self.folds else ""
        by = ""
        if self.groups is not None:
            by = f" by {self.groups!r}"
            if self.kind != "groups":
                by = f" (groups{by} were too few: in a new one it may hold less)"
        return (
            f"{100 * self.interval:.4g} % interval, calibrated on {self.count} "
            f"{self.kind}{by}{folds}, {classes}"
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
        """A row a class of predicted biomass: units, pixels, margin."""
        import pandas as pd

        return pd.DataFrame(
            {"units": self.units, "pixels": self.pixels, "margin": self.margins},
            index=pd.Index(self.classes, name="predicted"),
        )

    # --- a step of a map ---

    def layers(self, layers: Mapping[str, Attributes]) -> dict[str, Attributes]:
        """Give the layers with the two ends, after the map that they belong to."""
        found = _base_of(layers, self.name)
        if found != self.base:
            raise ValueError(
                f"A calibration of {self.base} must be of the same model, got one "
                f"that gives {', '.join(layers)}; call model.calibrate again."
            )
        return self._arranged(layers, *(self._attributes(end) for end in _ENDS))

    def apply(self, values: Mapping[str, Pixels]) -> dict[str, Pixels]:
        """Give the map with the two ends; the map itself stays as it is."""
        agb = values[self.name]
        lower, upper, scale = _ends(values, self.name)
        margins = np.asarray(self.margins, np.float32)
        margin = margins[np.digitize(agb, self.edges)] * scale
        # No biomass is negative; and the map lies in its own interval.
        lower = np.minimum(np.maximum(lower - margin, np.float32(0)), agb)
        upper = np.maximum(upper + margin, agb)
        return self._arranged(values, lower, upper)

    def values_depend_on(self) -> dict[str, Any]:
        """Give what tells two calibrations apart, fit for JSON."""
        return {"calibration": self.to_dict()}

    def _arranged(self, layers: Mapping[str, Any], *ends: Any) -> dict[str, Any]:
        """Put the ends after the map, and leave out what they were made of."""
        added = {
            f"{self.name}_{end}": value for end, value in zip(_ENDS, ends, strict=True)
        }
        used = tuple(raw_name(self.name, end) for end in _ENDS)
        rest = {k: v for k, v in layers.items() if not k.startswith(used)}
        return {self.name: rest.pop(self.name), **added, **rest}

    def _attributes(self, end: str) -> Attributes:
        return {
            "long_name": f"{end} end of the {100 * self.interval:.4g} % interval of "
            "above-ground biomass density",
            "units": "Mg/ha",
            "interval": self.interval,
        }

    # --- JSON ---

    def to_dict(self) -> dict[str, Any]:
        """Give it as JSON has it."""
        plain = dataclasses.asdict(self)
        return {k: list(v) if isinstance(v, tuple) else v for k, v in plain.items()}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Self:
        """Build it from what :meth:`to_dict` gave.

        Raises
        ------
        TypeError, ValueError
            If something is missing, unknown or does not fit.
        """
        values: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in content.items()
        }
        return cls(**values)


_ENDS = ("lower", "upper")


def raw_name(name: str, end: str) -> str:
    """Give the name of the output that is an end before it is calibrated."""
    return f"{name}_{end}_raw"


def check_interval(interval: float) -> None:
    """Refuse what is no part of the pixels.

    Raises
    ------
    ValueError
        Says what it must be.
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
    """Find the margins, by class of predicted biomass, that make an interval hold.

    Conformalised quantile regression (Romano, Patterson and Candès, 2019) with
    :func:`threshold` for the quantile, by class of what was predicted (Mondrian
    conformal prediction: Vovk, Gammerman and Shafer, Algorithmic learning in a random
    world, 2005). Neighbouring classes are merged until each is in twice as many units
    as :func:`needed_units` says.

    Parameters
    ----------
    units : sequence of Unit
        Chips or blocks that the model did not learn from. With `groups` those of one
        group become one unit, where there are as many groups as :func:`needed_units`
        says: chips of a group share errors, so it is groups that can change places.
    interval : float
        Part of the pixels that it shall hold.
    classes : int or sequence of float
        Edges between classes of predicted biomass, Mg/ha; or in how many classes with
        equally many pixels each.
    kind, folds, name, groups
        As :class:`Calibration` has them.

    Raises
    ------
    ValueError
        If there are too few units, or a number is out of range.
    """
    check_interval(interval)
    units = [unit for unit in units if len(unit.observed)]
    least = needed_units(interval)
    if len(units) < least:
        raise ValueError(too_few(interval, f"got {len(units)}"))
    together = units if groups is None else by_group(units)
    if groups is not None and len(together) >= least:
        units, kind = together, "groups"
    predicted = [unit.values[name] for unit in units]
    edges = _edges(predicted, classes)
    scores = [_scores(unit, name) for unit in units]
    which = [np.digitize(p, edges) for p in predicted]
    merged = _merged(
        np.array([np.bincount(w, minlength=len(edges) + 1) > 0 for w in which]),
        _TIMES_NEEDED * least,
    )
    margins, counts, pixels = [], [], []
    for group in merged:
        found = [s[np.isin(w, group)] for s, w in zip(scores, which, strict=True)]
        found = [s for s in found if len(s)]
        margins.append(threshold(found, interval))
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
    )


def too_few(interval: float, found: str) -> str:
    """Say that there are too few chips or blocks, and what to do."""
    return (
        f"interval={interval:g} needs at least {needed_units(interval)} chips or "
        f"blocks to calibrate on, {found}; give more labelled data, smaller blocks of "
        "a scene, or a lower interval."
    )


def few_groups(interval: float, groups: str, found: str) -> str:
    """Say that chips are units although they come in groups, and what to do."""
    return (
        f"interval={interval:g} needs {needed_units(interval)} groups by {groups!r} to "
        f"calibrate on{found}: it is calibrated by chip instead, as if chips of one "
        "group were as unlike as those of two, and in a new group it may hold less "
        f"than {100 * interval:.4g} %. Give data of more groups, or a lower interval."
    )


def _edges(predicted: Sequence[Numbers], classes: int | Sequence[float]) -> list[float]:
    if not isinstance(classes, int):
        edges = [float(edge) for edge in classes]
        if edges != sorted(set(edges)) or not np.isfinite(edges).all():
            raise ValueError(
                "classes must be edges in Mg/ha that rise, or a number of classes, got "
                f"{list(classes)}."
            )
        return edges
    if classes < 1:
        raise ValueError(f"classes must be at least 1, got {classes}.")
    parts = np.arange(1, classes) / classes
    found = np.quantile(np.concatenate(predicted), parts)
    return [float(edge) for edge in np.unique(found)]


def _merged(there: npt.NDArray[np.bool_], least: int) -> list[list[int]]:
    """Merge neighbouring classes until each is in `least` units, if it can be.

    Parameters
    ----------
    there : numpy.ndarray
        (unit, class) bool, whether a unit has a pixel of a class.
    least : int
        Units a class.
    """
    groups = [[number] for number in range(there.shape[1])]
    while len(groups) > 1:
        counts = [int(there[:, group].any(axis=1).sum()) for group in groups]
        poorest = int(np.argmin(counts))
        if counts[poorest] >= least:
            break
        beside = [i for i in (poorest - 1, poorest + 1) if 0 <= i < len(groups)]
        other = min(beside, key=lambda i: counts[i])
        first, second = sorted((poorest, other))
        groups[first] += groups.pop(second)
    return groups


def _base_of(names: Mapping[str, Any], name: str) -> Base:
    spread = f"{name}_spread" in names
    if raw_name(name, "lower") in names:
        return "quantiles and spread" if spread else "quantiles"
    return "spread" if spread else "map"


def _ends(values: Mapping[str, Any], name: str) -> tuple[Any, Any, Any]:
    """Give the ends before they are calibrated, and the unit that margins are in."""
    agb, spread = values[name], values.get(f"{name}_spread")
    base = _base_of(values, name)
    if base in ("map", "spread"):
        scale = 1.0 if spread is None else np.maximum(spread, _LEAST_SPREAD)
        return agb, agb, scale
    # Two outputs of a network may cross.
    ends = [values[raw_name(name, end)] for end in _ENDS]
    lower, upper = np.minimum(*ends), np.maximum(*ends)
    return (
        (lower, upper, 1.0) if spread is None else (lower - spread, upper + spread, 1.0)
    )


def _scores(unit: Unit, name: str) -> Numbers:
    """Say by which margin the interval of each pixel just holds what was seen.

    The map lies within whatever the margin, so only the end on the other side of what
    was seen matters (nested conformal prediction: Gupta, Kuchibhotla and Ramdas, 2022).
    """
    lower, upper, scale = _ends(unit.values, name)
    above = unit.observed >= unit.values[name]
    outside: Numbers = np.where(above, unit.observed - upper, lower - unit.observed)
    return np.asarray(outside / scale)
