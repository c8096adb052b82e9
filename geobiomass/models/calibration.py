"""From a model and labelled data that it never saw to calibrated intervals."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np

from geobiomass.cube import DamagedError
from geobiomass.data.reader import Place, Reader
from geobiomass.data.splits import labelled
from geobiomass.evaluation.metrics import BIOMASS_BINS
from geobiomass.inference.mapper import Mapper
from geobiomass.statistics.conformal import Calibration, Unit, calibrate, joined
from geobiomass.tiles import Window, even_blocks

CLASSES = BIOMASS_BINS[1:-1]
"""Edges between classes of predicted biomass, Mg/ha, before they are merged."""

# Pixels of all units together; of larger data each unit keeps some from all over it.
_PIXELS = 2**24


def units_of(reader: Reader, side: int) -> list[Place]:
    """Give the labelled chips of a cube, or blocks of a scene of about so many pixels.

    Raises
    ------
    CubeError
        If nothing is labelled.
    ValueError
        If the side is below one pixel.
    """
    if side < 1:
        raise ValueError(f"unit must be at least 1 pixel, got {side}.")
    if reader.chips:
        places = [Place(reader.whole, chip) for chip in range(reader.count)]
    else:
        windows = even_blocks(reader.height, reader.width, side)
        places = [Place(window) for window in windows]
    return labelled(reader, places)


def compare_units(
    mapper: Mapper,
    places: Sequence[Place],
    skip: bool = False,
    groups: Sequence[str] | None = None,
) -> list[Unit]:
    """Map places as any map is made, and put what was observed beside.

    Parameters
    ----------
    mapper : Mapper
        Over a cube with ``agb``, without steps: what the network gives.
    places : sequence of Place
        Chips or blocks.
    skip : bool
        Pass over what cannot be read.
    groups : sequence of str, optional
        The group of each place.

    Raises
    ------
    CubeError
        If something cannot be read and not `skip`.
    """
    names = {} if groups is None else dict(zip(places, groups, strict=True))
    budget = max(1, _PIXELS // max(1, len(places)))
    parts: dict[Place, list[Unit]] = {place: [] for place in places}
    by_chip: dict[int | None, list[Place]] = {}
    for place in parts:
        by_chip.setdefault(place.chip, []).append(place)
    # Block by block, as tiles are shared by all places in one.
    for own in by_chip.values():
        for window in mapper.blocks():
            here = [place for place in own if place.window.intersect(window)]
            try:
                for place, unit in _compare(mapper, window, here, budget):
                    parts[place].append(unit)
            except DamagedError:
                if not skip:
                    raise
                damaged = set(here)
                own = [place for place in own if place not in damaged]
                parts = {k: v for k, v in parts.items() if k not in damaged}
    empty = Unit({name: np.zeros(0) for name in mapper.outputs}, np.zeros(0))
    return [
        dataclasses.replace(joined([empty, *units]), group=names.get(place))
        for place, units in parts.items()
    ]


def _compare(
    mapper: Mapper, window: Window, places: Sequence[Place], budget: int
) -> Iterator[tuple[Place, Unit]]:
    """Compare what lies in one block of the map with its labels, by place."""
    labels = {}
    for place in places:
        part = place.window.intersect(window) or place.window
        observed = mapper.reader.labels(Place(part, place.chip)).astype(np.float64)
        if np.isfinite(observed).any():
            labels[place] = (part, observed)
    if not labels:
        return
    values = mapper.compute(window, places[0].chip)
    for place, (part, observed) in labels.items():
        cut = values[:, *part.within(window)]
        known = np.flatnonzero(np.isfinite(observed) & np.isfinite(cut[0]))
        area = place.window.height * place.window.width
        known = known[:: -(-area // budget)]
        layers = zip(mapper.outputs, cut, strict=True)
        yield (
            place,
            Unit(
                {
                    name: layer.ravel()[known].astype(np.float64)
                    for name, layer in layers
                },
                observed.ravel()[known],
            ),
        )


def calibration_of(
    units: Sequence[Unit],
    reader: Reader,
    interval: float,
    classes: int | Sequence[float] | None = None,
    *,
    folds: int = 0,
    name: str = "agb",
    groups: str | None = None,
) -> Calibration:
    """Calibrate on units of a cube, as :func:`.conformal.calibrate` does.

    Parameters
    ----------
    units : sequence of Unit
        Of :func:`compare_units`.
    reader : Reader
        Over the cube.
    interval, classes, folds, name, groups
        As there; by default the bins that ``model.evaluate`` has.

    Raises
    ------
    CubeError
        If there are too few units.
    ValueError
        If a setting is out of range.
    """
    return calibrate(
        units,
        interval,
        CLASSES if classes is None else classes,
        kind="chips" if reader.chips else "blocks",
        folds=folds,
        name=name,
        groups=groups,
    )
