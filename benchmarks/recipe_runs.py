"""One run of the comparison of recipes, in its own process on one thread."""

from __future__ import annotations

import gc
import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import nn

import geobiomass as gb
from geobiomass.data.reader import Reader
from geobiomass.evaluation.metrics import Tally
from geobiomass.models.fit_members import untrained
from geobiomass.models.regressor import BiomassRegressor
from geobiomass.recipes.recipe import Recipe
from geobiomass.tiles import Sample
from recipe_data import PARTS, cube_of
from recipe_peers import PixelBoosting
from recipe_rows import SIZES, Row, make_rows, steps_of

MEGABYTE = 1e6
TALL = 300.0  # Mg/ha
Predict = Callable[[np.ndarray], np.ndarray]
Figures = dict[str, Any]


@dataclass(frozen=True)
class Order:
    """A run: a row of a size, with a seed, on a kind of training chips."""

    size: str
    row: str
    data: str
    seed: int
    steps: int
    folder: str

    @property
    def key(self) -> str:
        """Return its key in the results."""
        return f"{self.size} | {self.data} | {self.steps} | {self.row} | {self.seed}"

    def text(self) -> str:
        """Return it as JSON, for another process."""
        return json.dumps(asdict(self))


class Meter:
    """A timer of training steps, from forward pass to forward pass.

    Parameters
    ----------
    network : torch.nn.Module
        Each call in training mode starts a step. The time between two calls is the
        whole step: forward, backward, optimiser and the next batch.
    """

    def __init__(self, network: nn.Module) -> None:
        self.wall: list[float] = []
        self.core: list[float] = []
        self.before = 0.0
        self.hook = network.register_forward_pre_hook(self._note)

    def _note(self, network: nn.Module, _: object) -> None:
        if not network.training:
            return
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        if not self.wall:
            self.before = start_of_peak()
        self.wall.append(time.perf_counter())
        self.core.append(time.process_time())

    def figures(self) -> Figures:
        """Return seconds per step, and the memory of training beyond its start."""
        self.hook.remove()
        return {
            "core_s_a_step": _trimmed(self.core),
            "wall_s_a_step": _trimmed(self.wall),
            "peak_mb": (peak() - self.before) / MEGABYTE,
            "steps": len(self.wall),
        }


def _trimmed(times: list[float]) -> float:
    """Return the mean of the differences without the lowest and highest tenth.

    This excludes the first steps and those with the end of an epoch.
    """
    steps = np.sort(np.diff(times))
    if len(steps) == 0:
        return float("nan")
    tenth = len(steps) // 10
    return float(steps[tenth : len(steps) - tenth].mean())


def start_of_peak() -> float:
    """Start to measure memory; return the bytes in use, of the GPU if there is one."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        return 0.0  # weights count: they are on the GPU only for training
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def peak() -> float:
    """Return the maximum of bytes in use since :func:`start_of_peak`."""
    if torch.cuda.is_available():
        return float(torch.cuda.max_memory_allocated())
    return _status("VmHWM")


def _status(name: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    found = next(line for line in lines if line.startswith(f"{name}:"))
    return float(found.split()[1]) * 1024


def run(order: Order) -> Figures:
    """Train, time and evaluate; return plain numbers."""
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    row = make_rows(SIZES[order.size], order.steps)[order.row]
    folder = Path(order.folder)
    training = gb.open_cube(cube_of(folder, order.data, row.filled))
    begin = time.process_time()
    fit = _boost if row.method == "boosting" else _train
    predict, figures = fit(row, training, order)
    figures["core_s"] = time.process_time() - begin
    for part in PARTS:
        cube = gb.open_cube(cube_of(folder, part, row.filled))
        figures[part] = evaluate(predict, cube)
    return {"definition": row.definition} | figures


def _train(row: Row, cube: xr.Dataset, order: Order) -> tuple[Predict, Figures]:
    recipe = row.recipe.with_changes(seed=order.seed)
    model = regressor(row, cube, recipe)
    meter = Meter(model.network)
    held: Any = 0.0
    if recipe.tail_correction:
        # The last weights are kept, as in other rows: the chips that validate only
        # teach the correction.
        recipe = recipe.with_changes(keep="last")
        held = gb.open_cube(cube_of(Path(order.folder), "validation", row.filled))
    model.fit(cube, recipe, held)
    parameters = sum(p.numel() for p in model.network.parameters())
    figures = meter.figures() | {"parameters": parameters}
    wanted = steps_of(row, SIZES[order.size])
    if figures["steps"] != wanted:
        raise RuntimeError(
            f"{row.name} must take {wanted} steps, got {figures['steps']}."
        )
    figures["train_loss"] = model.history["train_loss"].tolist()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    network = model.network.to(device).eval()

    def predict(image: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            batch = torch.from_numpy(image)[None].to(device)
            result: np.ndarray = network(batch)[0, 0].float().cpu().numpy()
        return result

    return predict, figures


def regressor(row: Row, cube: xr.Dataset, recipe: Recipe) -> BiomassRegressor:
    """Build a row's network, with random weights from the recipe's seed."""
    if row.peer is None:
        model = untrained(cube, recipe)
        if row.change is not None:
            row.change(model.network)
        return model
    bands, months = cube.sizes["band"], cube.sizes["month"]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.training.seed)
        network: Any = row.peer(bands, months)
    return BiomassRegressor(network, [str(b) for b in cube["band"].values], months)


def _boost(row: Row, cube: xr.Dataset, order: Order) -> tuple[Predict, Figures]:
    reader = Reader(cube, [str(band) for band in cube["band"].values])
    before = start_of_peak()
    trees = 10 if order.size == "quick" else 300
    model = PixelBoosting(reader, order.seed, trees)
    taken = 0.0 if torch.cuda.is_available() else peak() - before
    return model, {"peak_mb": taken / MEGABYTE}


def evaluate(predict: Predict, cube: xr.Dataset) -> Figures:
    """Compare maps of chips with the truth: errors, bias by bin, RMSE by chip."""
    reader = Reader(cube, [str(band) for band in cube["band"].values])
    tally, chips = Tally(), list[float]()
    tall = np.zeros(2)  # sum of errors, and pixels
    for chip in range(reader.count):
        sample = Sample(reader.whole, chip)
        observed = reader.labels(sample).astype(np.float64)
        predicted = predict(reader.read(sample)).astype(np.float64)
        tally.add(predicted, observed)
        of_tall = (predicted - observed)[observed >= TALL]
        tall += np.nansum(of_tall), np.isfinite(of_tall).sum()
        squared = (predicted - observed) ** 2
        if np.isfinite(squared).any():
            chips.append(float(np.sqrt(np.nanmean(squared))))
    table = tally.table()
    overall = table.iloc[0]
    return {
        "average_rmse": float(overall["average_rmse"]),
        "pixel_rmse": float(overall["pixel_rmse"]),
        "bias": {str(name): float(value) for name, value in table["bias"].items()},
        "bias_of_tall": float(tall[0] / tall[1]) if tall[1] else float("nan"),
        "chips": chips,
    }
