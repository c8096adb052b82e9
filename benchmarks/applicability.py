"""The cost of the area of applicability: a tile with and without it, and fitting it.

``python -m benchmarks.applicability [--quick]`` takes a minute. Untrained networks map
images of a synthetic landscape on one thread; each time is the best of several turns.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import torch
import xarray as xr

import geobiomass as gb
from geobiomass.applicability import Domain
from geobiomass.applicability.dissimilarity import WithDissimilarity
from geobiomass.models.fit_members import untrained


def best(work: Callable[[], object], turns: int) -> float:
    """Return the seconds of the fastest of some turns."""
    seconds = []
    for _ in range(turns):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def row(scene: xr.Dataset, recipe: str, tile: int, turns: int) -> list[str]:
    model = untrained(scene, recipe)
    start = time.perf_counter()
    model.learn_applicability(scene)
    learning = time.perf_counter() - start
    domain = model.domain
    assert isinstance(domain, Domain)
    network = model.network.eval()
    both = WithDissimilarity(network, domain).eval()
    image = torch.from_numpy(scene.image.values[None, ..., :tile, :tile].copy())
    with torch.inference_mode():
        plain, more = best(lambda: network(image), 1), best(lambda: both(image), 1)
        for _ in range(turns):  # in turns, since the speed of the machine varies
            plain = min(plain, best(lambda: network(image), 1))
            more = min(more, best(lambda: both(image), 1))
    return [
        recipe,
        str(domain.cells),
        f"{plain:.2f}",
        f"{more:.2f}",
        f"{more / plain:.2f}",
        f"{learning:.1f}",
    ]


def main() -> None:
    quick = "--quick" in sys.argv
    torch.set_num_threads(1)
    tile, turns = (64, 1) if quick else (256, 6)
    scene = gb.landscape(tile if quick else 512, 3 if quick else 12, version=1).load()
    heads = ("recipe", "cells", "map, s", "with, s", "ratio", "learning, s")
    print("| " + " | ".join(heads) + " |\n|---|" + "---:|" * (len(heads) - 1))
    for recipe in ("quick", "default"):
        print("| " + " | ".join(row(scene, recipe, tile, turns)) + " |", flush=True)


if __name__ == "__main__":
    main()
