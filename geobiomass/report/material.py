"""What a report is made of: a model, a cube, and one pass over both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import xarray as xr

from geobiomass.data.reader import Reader, Sample
from geobiomass.evaluation.metrics import BOOTSTRAP, Bins, Tally, add_parts, interval_of
from geobiomass.tiles import blocks

BLOCK = 1024  # pixels: the part of a scene that is mapped and compared at once
PICTURED = 3  # chips, or parts of a scene, that are drawn
PAIRS = 4_000_000  # pixels in the scatter: 32 MB
OVERVIEW = 1200  # pixels of the longer side of a picture of the whole scene

Pixels = npt.NDArray[np.float64]


@dataclass
class Material:
    """What sections are made of: the model, the cube, and one pass over both.

    Parameters
    ----------
    model : Predictor
        What is reported on.
    cube : xarray.Dataset
        What it is held against.
    layers : xarray.Dataset
        The map of the cube: read from disk, or computed where it is looked at.
    model_path, cube_path, map_path : str
        Where they were read from; empty for what was in memory.
    """

    model: Any
    cube: xr.Dataset
    layers: xr.Dataset
    model_path: str = ""
    cube_path: str = ""
    map_path: str = ""
    validation: Any = None  # a CrossValidation
    totals: pd.DataFrame | None = None
    by_plots: bool = False
    bootstrap: int = BOOTSTRAP
    tally: Tally = field(default_factory=Tally)
    by_predicted: Tally = field(default_factory=lambda: Tally(Bins("predicted")))
    ends: list[tuple[Pixels, Pixels]] = field(default_factory=list)
    inside: tuple[int, int] = (0, 0)  # pixels that are, and that were mapped
    pairs: list[tuple[Pixels, Pixels]] = field(default_factory=list)
    pictures: list[tuple[str, xr.Dataset, xr.Dataset]] = field(default_factory=list)
    overview: xr.Dataset | None = None  # of a scene: every layer, thinned
    places: int = 0
    known: int = 0  # places that there are

    def gather(self, samples: int | None, progress: bool) -> None:
        """Look at the map place by place, and compare where there is something to."""
        from tqdm.auto import tqdm

        reader = Reader(self.cube, self.model.bands)
        every = _places(reader)
        chosen = _spread(every, samples or len(every))
        drawn = _spread(chosen, PICTURED)
        pixels = sum(p.window.height * p.window.width for p in chosen)
        step = max(1, -(-pixels // PAIRS))
        if not reader.chips:
            self.overview = _thin(self.layers)
        self.places, self.known = len(chosen), len(every)
        labels = "agb" in self.cube
        for sample in tqdm(chosen, "Mapping", unit="block", disable=not progress):
            found = _cut(self.layers, sample).compute()
            if sample in drawn:
                part = _cut(self.cube, sample)
                self.pictures.append((reader.name_of(sample), part, found))
            if self.overview is not None:
                _fill(self.overview, found, sample)
            if labels:
                truth = reader.labels(sample).astype(np.float64)
                self._compare(found, truth, step)
            if "applicable" in found:
                self.inside = (
                    self.inside[0] + int((found["applicable"] == 1).sum()),
                    self.inside[1] + int(found["applicable"].notnull().sum()),
                )

    def _compare(self, found: xr.Dataset, truth: Pixels, step: int) -> None:
        values = {
            str(name): layer.values.astype(np.float64) for name, layer in found.items()
        }
        predicted, interval = values["agb"], interval_of(values)
        for tally in (self.tally, self.by_predicted):
            add_parts(tally, predicted, truth, interval)
        both = np.isfinite(predicted) & np.isfinite(truth)
        self.pairs.append((predicted[both][::step], truth[both][::step]))
        if interval is not None:
            self.ends.append((interval[0][both][::step], interval[1][both][::step]))

    @property
    def pixels(self) -> pd.DataFrame:
        """A row a pixel of an even sample: predicted, observed, and ends if any."""
        columns = [[*each] for each in zip(*self.pairs, strict=True)]
        columns += [[*each] for each in zip(*self.ends, strict=True)]
        names = ("predicted", "observed", "lower", "upper")
        joined = {
            name: np.concatenate(parts)
            for name, parts in zip(names, columns, strict=False)
        }
        return pd.DataFrame(joined)

    @property
    def compared(self) -> bool:
        """Whether there is any pixel with a label."""
        return self.tally.count > 0


def _places(reader: Reader) -> list[Sample]:
    if reader.chips:
        return [Sample(reader.whole, chip) for chip in range(reader.count)]
    return [Sample(window) for window in blocks(reader.height, reader.width, BLOCK)]


def _spread(places: Sequence[Sample], count: int) -> list[Sample]:
    """Choose so many at most, evenly from all over."""
    count = min(count, len(places))
    middles = (np.arange(count) + 0.5) * len(places) / count
    return [places[int(index)] for index in middles]


def _cut(data: Any, sample: Sample) -> Any:
    window = {"y": sample.window.rows, "x": sample.window.columns}
    return data.isel(window if sample.chip is None else {**window, "chip": sample.chip})


def _thin(layers: xr.Dataset) -> xr.Dataset:
    """Give the grid of an overview, with nothing in it yet."""
    step = max(1, -(-max(layers.sizes["y"], layers.sizes["x"]) // OVERVIEW))
    grid = layers.isel(y=slice(None, None, step), x=slice(None, None, step))
    empty = {
        name: layer.copy(data=np.full(layer.shape, np.nan, np.float32))
        for name, layer in grid.items()
    }
    return grid.assign(empty).assign_attrs(step=step)


def _fill(overview: xr.Dataset, found: xr.Dataset, sample: Sample) -> None:
    """Copy the rows and columns that the overview keeps of a part of the scene."""
    step = overview.attrs["step"]
    top, left = (-(-edge // step) for edge in (sample.window.top, sample.window.left))
    for name, layer in found.items():
        kept = layer.values[top * step - sample.window.top :: step]
        kept = kept[:, left * step - sample.window.left :: step]
        height, width = kept.shape
        overview[name].values[top : top + height, left : left + width] = kept
