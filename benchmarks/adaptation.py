"""Adapting a model to other ground, against the model as it is and one of the plots.

``python -m benchmarks.adaptation [--grounds birch temperate] [--plots 30,60,100]``

A model by pixel learns from 1,000 labels of a landscape of pine and spruce; the user's
own ground is another landscape, of birch, of all species, or of birch and spruce in a
temperate climate. Half of each is forest at least. Plots are single pixels drawn at
random; what is scored are all other pixels.
``own`` is a model by pixel of the plots alone. Each row is the median over seeds.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
import xarray as xr

import geobiomass as gb
from tables import Row, show

FIRST, OWN = 9_500, 9_600  # seeds of the landscapes, tens of them up
LABELS = 1_000  # of the first model
GROUNDS: dict[str, dict[str, Any]] = {
    "birch": {"species": ["birch"], "version": 1},
    "all species": {"species": ["pine", "spruce", "birch"], "version": 1},
    "temperate": {"species": ["spruce", "birch"], "climate": "temperate", "version": 1},
}
CORRECTIONS = ("offset", "affine", "gaussian process")
AS_IS, ADAPTED, ALONE = "as it is", "adapted", "own"


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a row for each ground, number of plots and model."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--plots", default="30,60,100", help="numbers with commas")
    parser.add_argument("--seeds", default="0,1,2", help="numbers with commas")
    parser.add_argument("--grounds", nargs="+", choices=GROUNDS, default=[*GROUNDS])
    parser.add_argument("--side", type=int, default=128, help="pixels")
    parser.add_argument("--months", type=int, default=6)
    parser.add_argument("--markdown", action="store_true", help="print as markdown")
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(1)
    counts = [int(count) for count in chosen.plots.split(",")]
    found: dict[tuple[str, int, str], list[tuple[float, float, float]]] = {}
    kept: dict[tuple[str, int], list[str]] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # other ground: that is the point
        for seed in map(int, chosen.seeds.split(",")):
            _add(found, kept, seed, chosen.grounds, counts, chosen.side, chosen.months)
    lines = []
    for (ground, plots, name), values in found.items():
        rmse, covered, seconds = np.median(np.array(values), axis=0).tolist()
        line: Row = {"ground": ground, "plots": plots, "model": name, "RMSE": rmse}
        line |= {"within 90 %": covered, "seconds": seconds, "seeds": len(values)}
        line["kept"] = ", ".join(kept[ground, plots]) if name == ADAPTED else None
        lines.append(line)
    show("Other ground, Mg/ha", lines, markdown=chosen.markdown)


def _add(
    found: dict[tuple[str, int, str], list[tuple[float, float, float]]],
    kept: dict[tuple[str, int], list[str]],
    seed: int,
    grounds: Sequence[str],
    counts: Sequence[int],
    side: int,
    months: int,
) -> None:
    """Add the results of a seed."""
    species = {"species": ["pine", "spruce"], "version": 1}
    forest = _ground(FIRST + 10 * seed, side, months, species)
    settings = {"interval": 0.9, "seed": seed, "progress": False}
    first = gb.fit(_some(forest, LABELS, seed), "pixels", **settings)
    for ground in grounds:
        own = _ground(OWN + 10 * seed, side, months, GROUNDS[ground])
        for count in counts:
            plots = _some(own, count, seed)
            adapt = partial(first.adapt, plots, seed=seed)
            makers: dict[str, Callable[[], gb.BiomassRegressor]] = {
                AS_IS: lambda: first,
                **{method: partial(adapt, method) for method in CORRECTIONS},
                ADAPTED: adapt,
                ALONE: partial(gb.fit, plots, "pixels", **settings),
            }
            for name, make in makers.items():
                begun = time.process_time()
                model = make()
                seconds = time.process_time() - begun
                result = (*_judged(model, own, plots), seconds)
                found.setdefault((ground, count, name), []).append(result)
                if name == ADAPTED:
                    correction = model.provenance["adaptation"]["correction"]
                    kept.setdefault((ground, count), []).append(correction)


def _ground(seed: int, side: int, months: int, settings: dict[str, Any]) -> xr.Dataset:
    """Return the first landscape from a seed on of which half is forest."""
    while True:
        found = gb.landscape(side, months, seed, **settings).load()
        if float((found["agb"] > 0).mean()) > 0.5:
            return found
        seed += 1


def _some(cube: xr.Dataset, count: int, seed: int) -> xr.Dataset:
    """Return the cube with labels at some pixels only, drawn at random."""
    labels = cube["agb"].load()
    marks = np.zeros(labels.size, bool)
    draw = np.random.default_rng([seed, count])
    marks[draw.choice(labels.size, count, replace=False)] = True
    return cube.assign(agb=labels.where(marks.reshape(labels.shape)))


def _judged(
    model: gb.BiomassRegressor, own: xr.Dataset, plots: xr.Dataset
) -> tuple[float, float]:
    """Return RMSE and coverage on all pixels that are no plot."""
    made = model.predict(own, check="off").compute()
    truth = own["agb"].where(plots["agb"].isnull())
    inside = (made["agb_lower"] <= truth) & (truth <= made["agb_upper"])
    covered = float(inside.where(truth.notnull()).mean())
    return float(((made["agb"] - truth) ** 2).mean() ** 0.5), covered


if __name__ == "__main__":
    main()
