"""What it costs to lift tall forest: the error of maps against the bias of the tail.

``python -m benchmarks.tall_forest [--landscape 1|2] [--steps 288] [--seeds 0,1,2]``

Trains the recipe "default" as ``benchmarks.recipes`` does. Then it passes the maps of
the test chips through rising curves, g(m) = E(y | m) + strength * P(y >= 300 | m). They
are learnt on the validation chips. Of all corrections that depend on the map alone and
lower the bias of tall forest as much, these raise the squared error least
(:mod:`geobiomass.models.tail_correction`), so the table says what any of them costs.
Trained models stay in the folder, and the same command uses them again.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

import geobiomass as gb
from geobiomass.data.reader import Reader
from geobiomass.models.regressor import BiomassRegressor
from geobiomass.models.tail_correction import line_through, terms_of
from geobiomass.tiles import Sample
from recipe_data import cube_of, write_chips
from recipe_rows import OURS, SIZES, Size, make_rows
from recipe_runs import TALL, regressor
from tables import Row, show

STRENGTHS = (0, 100, 200, 300, 450, 600, 800, 1000, 1500, 2000, 3000)
Maps = tuple[np.ndarray, np.ndarray]


def main(arguments: Sequence[str] | None = None) -> None:
    """Train what is not there yet; print one line for each strength."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--landscape", type=int, choices=(1, 2), default=2)
    parser.add_argument("--steps", type=int, help="steps of the optimiser")
    parser.add_argument("--seeds", default="0,1,2", help="numbers with commas")
    parser.add_argument("--folder", type=Path, help="folder of chips and models")
    parser.add_argument("--markdown", action="store_true", help="print as markdown")
    parser.add_argument(
        "--quick", action="store_true", help="tiny runs, to test that it works"
    )
    chosen = parser.parse_args(arguments)
    size = SIZES["quick" if chosen.quick else "small"]
    size = dataclasses.replace(
        size, chips=dataclasses.replace(size.chips, landscape=chosen.landscape)
    )
    with tempfile.TemporaryDirectory(prefix="tall-") as temporary:
        kept = Path(f"build/tall-forest-landscape-{chosen.landscape}")
        folder = chosen.folder or (Path(temporary) if chosen.quick else kept)
        write_chips(folder, size.chips)
        steps = chosen.steps or size.steps
        seeds = [0] if chosen.quick else [int(s) for s in chosen.seeds.split(",")]
        found = [_costs(_trained(folder, size, steps, seed), folder) for seed in seeds]
    lines = [_line(strength, [f[strength] for f in found]) for strength in found[0]]
    title = f"Rising curves of the map, landscape {chosen.landscape}, {steps} steps"
    show(title, lines, markdown=chosen.markdown)


def _trained(folder: Path, size: Size, steps: int, seed: int) -> BiomassRegressor:
    """Return the model of a seed, trained or read from the folder."""
    path = folder / f"{size.name}-{steps}-{seed}"
    if path.exists():
        return gb.load(path)
    row = make_rows(size, steps)[OURS]
    cube = gb.open_cube(cube_of(folder, "shift", row.filled))
    recipe = row.recipe.with_changes(seed=seed)
    model = regressor(row, cube, recipe)
    model.fit(cube, recipe, 0.0)
    model.save(path)
    return model


def _costs(
    model: BiomassRegressor, folder: Path
) -> dict[float | None, tuple[float, float]]:
    """Return RMSE and bias of tall forest on the test chips, by strength."""
    held = _maps(model, folder, "validation")
    mapped, observed = _maps(model, folder, "test")
    knots, means, shares = terms_of(*held, held[1] >= TALL)
    found: dict[float | None, tuple[float, float]] = {None: _errors(mapped, observed)}
    for strength in STRENGTHS:
        corrected = line_through(knots, means + strength * shares, mapped)
        found[strength] = _errors(corrected, observed)
    return found


def _maps(model: BiomassRegressor, folder: Path, part: str) -> Maps:
    """Return map and labels of all labelled pixels of some chips."""
    cube = gb.open_cube(cube_of(folder, part, False))
    reader = Reader(cube, [str(band) for band in cube["band"].values])
    maps, labels = [np.zeros(0)], [np.zeros(0)]
    network = model.network.eval()
    for chip in range(reader.count):
        sample = Sample(reader.whole, chip)
        with torch.inference_mode():
            image = torch.from_numpy(reader.read(sample))[None]
            mapped = network(image)[0, 0].numpy().astype(np.float64)
        observed = reader.labels(sample).astype(np.float64)
        known = np.isfinite(observed) & np.isfinite(mapped)
        maps.append(mapped[known])
        labels.append(observed[known])
    return np.concatenate(maps), np.concatenate(labels)


def _errors(mapped: np.ndarray, observed: np.ndarray) -> tuple[float, float]:
    error = mapped - observed
    tall = observed >= TALL
    bias = float(error[tall].mean()) if tall.any() else float("nan")
    return float(np.sqrt(np.mean(error**2))), bias


def _line(strength: float | None, found: Sequence[tuple[float, float]]) -> Row:
    rmse, bias = np.mean(found, axis=0)
    return {
        "strength": "as it is" if strength is None else f"{strength:g}",
        "pixel RMSE": float(rmse),
        "bias at 300 and more": float(bias),
        "seeds": len(found),
    }


if __name__ == "__main__":
    main()
