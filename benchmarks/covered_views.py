"""What each of the two views of a domain finds inside by itself, and both together.

The small network of ``benchmarks.places``, trained from several seeds on landscapes of
their own. Of a view that does not look, the threshold is infinite, so that the other
alone decides.
"""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
import xarray as xr

import geobiomass as gb
from covered_runs import Go
from geobiomass.applicability import Domain
from places import APART, CASES, FOREST, NEW, forests, judged, train
from tables import Row

RUNS = 3
BOTH, FEWER = "both, the larger index", "both, learnt from half as many landscapes"
VIEWS: dict[str, int | None] = {
    "features: levels 1 and 2, whitened": 0,
    "bands and presence, whitened": 1,
    BOTH: None,
}
# What is mapped, by what the column is called; birches are landscapes of their own.
USUAL, BIRCH = "new", "birch, forest"
MAPPED_AS = {
    USUAL: "new landscapes of pine and spruce",
    "radar + 3 dB": "radar + 3 dB",
    "gain 1.5": "reflectances x 1.5",
    "no radar": "without Sentinel-1",
    "noise": "optical noise of 25 %",
}
COLUMNS = (USUAL, BIRCH, *list(MAPPED_AS)[1:])


class Size(NamedTuple):
    """Landscapes to learn from and to map, and epochs."""

    learnt: int
    mapped: int
    epochs: int


SIZE = Size(learnt=48, mapped=16, epochs=3)


class Found(NamedTuple):
    """What one training comes to.

    Parameters
    ----------
    inside : dict
        By way to look, then by what is mapped: percent inside.
    errors : dict
        Root mean squared errors, Mg/ha: by what is meant.
    """

    inside: dict[str, dict[str, float]]
    errors: dict[str, float]


def looking(model: gb.BiomassRegressor, view: int | None) -> gb.BiomassRegressor:
    """Give the model with one view of its domain alone, or as it is."""
    if view is None:
        return model
    domain = model.domain
    assert isinstance(domain, Domain)
    views = tuple(
        each if number == view else replace(each, threshold=math.inf)
        for number, each in enumerate(domain.views)
    )
    other = copy.copy(model)
    other._domain = replace(domain, views=views)
    return other


def mapped(first: int, count: int) -> dict[str, xr.Dataset]:
    """Give what is mapped, by column: so many landscapes from a seed on."""
    seeds = range(first, first + count)
    usual = forests(seeds)
    change = {case.name: case.of for case in CASES}
    cubes = {column: change[name](usual) for column, name in MAPPED_AS.items()}
    return cubes | {BIRCH: forests(seeds, ("birch",))}


def shares(tables: dict[str, pd.DataFrame]) -> dict[str, float]:
    """Give the percent inside by column; of birches only where they are a forest."""
    tables = tables | {BIRCH: tables[BIRCH][tables[BIRCH]["agb"] > FOREST]}
    return {name: 100 * float(tables[name]["inside"].mean()) for name in COLUMNS}


def errors_of(tables: dict[str, pd.DataFrame]) -> dict[str, float]:
    """Give the errors inside and outside over all that was mapped, and as usual."""
    every = pd.concat(tables.values())
    parts = {
        "new landscapes": tables[USUAL]["error"],
        "inside, all together": every.loc[every["inside"], "error"],
        "outside, all together": every.loc[~every["inside"], "error"],
    }
    return {name: float(np.sqrt((part**2).mean())) for name, part in parts.items()}


def run(size: Size, seed: int) -> Found:
    """Train on landscapes, and on half of them; look at the others in every way."""
    torch.set_num_threads(1)  # more would change the last bits
    cubes = mapped(NEW + APART * seed, size.mapped)
    model = train(size.learnt, size.epochs, seed)
    inside: dict[str, dict[str, float]] = {}
    for name, view in VIEWS.items():
        seeing = looking(model, view)
        tables = {column: judged(seeing, each) for column, each in cubes.items()}
        inside[name] = shares(tables)
    errors = errors_of(tables)  # of the last way: both
    other = train(size.learnt // 2, size.epochs, seed)
    inside[FEWER] = shares({name: judged(other, each) for name, each in cubes.items()})
    return Found(inside, errors)


def spread(values: list[float]) -> str:
    """Give the mean of some numbers, and from where to where they go."""
    low, mean, high = (f"{f(values):.0f}" for f in (min, np.mean, max))
    return mean if low == high else f"{mean} ({low} to {high})"


def tables(go: Go, runs: int, seed: int) -> dict[str, list[Row]]:
    """Give the share inside by way to look, and errors inside and outside."""
    found = go(partial(run, SIZE), range(seed, seed + runs), "trainings")
    looked: list[Row] = [
        {"what cells are told apart by": way}
        | {
            column: spread([each.inside[way][column] for each in found])
            for column in COLUMNS
        }
        for way in found[0].inside
    ]
    errors: list[Row] = [
        {
            "Mg/ha": part,
            "RMSE": spread([each.errors[part] for each in found]),
        }
        for part in found[0].errors
    ]
    trainings = f"means of {runs} trainings (least to greatest)"
    return {
        f"Inside, percent of pixels, {trainings}": looked,
        f"Errors by what both views say, {trainings}": errors,
    }
