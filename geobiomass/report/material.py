"""The data of a report: a model, a cube, its map, and one pass over them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import xarray as xr

from geobiomass.cube.cluster_watch import computed
from geobiomass.cube.quantity import AGB, Quantity
from geobiomass.data.reader import Reader, Sample
from geobiomass.evaluation.metrics import BOOTSTRAP, Bins, Tally, add_parts, interval_of
from geobiomass.models.learnt_labels import KnowsLabels, LearntCount
from geobiomass.tiles import blocks

BLOCK = 1024  # pixels: side of the blocks that a scene is mapped and compared in
PICTURED = 3  # chips, or blocks of a scene, with an image
PAIRS = 4_000_000  # pixels in the scatter: 32 MB
OVERVIEW = 1200  # pixels: longer side of the image of the whole scene

Pixels = npt.NDArray[np.float64]


@dataclass
class Material:
    """The data that sections show, collected in one pass over the map.

    Parameters
    ----------
    model : Predictor
        The model that the report is about.
    cube : xarray.Dataset
        The images, and labels if there are any.
    layers : xarray.Dataset
        The map of the cube: read from disk, or computed block by block.
    model_path, cube_path, map_path : str
        Paths that they were read from; empty for those in memory.
    """

    model: Any
    cube: xr.Dataset
    layers: xr.Dataset
    model_path: str = ""
    cube_path: str = ""
    map_path: str = ""
    validation: Any = None  # a CrossValidation
    totals: pd.DataFrame | None = None
    bootstrap: int = BOOTSTRAP
    tally: Tally = field(init=False)
    by_predicted: Tally = field(init=False)
    ends: list[tuple[Pixels, Pixels]] = field(default_factory=list)
    inside: tuple[int, int] = (0, 0)  # applicable pixels, and mapped pixels
    pairs: list[tuple[Pixels, Pixels]] = field(default_factory=list)
    pictures: list[tuple[str, xr.Dataset, xr.Dataset]] = field(default_factory=list)
    overview: xr.Dataset | None = None  # of a scene: every layer, subsampled
    used: int = 0  # chips or blocks
    available: int = 0  # chips or blocks
    trained: LearntCount | None = None  # labels that trained the model

    def __post_init__(self) -> None:
        self.tally = Tally(Bins(target=self.target))
        self.by_predicted = Tally(Bins("predicted", target=self.target))

    @property
    def target(self) -> Quantity:
        """What the model predicts."""
        target: Quantity = getattr(self.model, "target", AGB)
        return target

    def gather(self, samples: int | None, progress: bool) -> None:
        """Read the map by chip or block, and compare it with the labels, if any."""
        from tqdm.auto import tqdm

        reader = Reader(self.cube, self.model.bands)
        every = _samples_of(reader)
        chosen = _spread(every, samples or len(every))
        drawn = _spread(chosen, PICTURED)
        pixels = sum(p.window.height * p.window.width for p in chosen)
        step = max(1, -(-pixels // PAIRS))
        if not reader.chips:
            self.overview = _thin(self.layers)
        self.used, self.available = len(chosen), len(every)
        labels = "agb" in self.cube
        if labels and isinstance(self.model, KnowsLabels):
            self.trained = LearntCount(self.model, self.cube)
        for sample in tqdm(chosen, "Mapping", unit="block", disable=not progress):
            found = computed(_cut(self.layers, sample), "the map was being read")
            if sample in drawn:
                part = _cut(self.cube, sample)
                self.pictures.append((reader.name_of(sample), part, found))
            if self.overview is not None:
                _fill(self.overview, found, sample)
            if labels:
                truth = reader.labels(sample).astype(np.float64)
                if self.trained is not None:
                    self.trained.add(sample, np.isfinite(truth))
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
        name = self.target.name
        predicted, interval = values[name], interval_of(values, name)
        for tally in (self.tally, self.by_predicted):
            add_parts(tally, predicted, truth, interval)
        both = np.isfinite(predicted) & np.isfinite(truth)
        self.pairs.append((predicted[both][::step], truth[both][::step]))
        if interval is not None:
            self.ends.append((interval[0][both][::step], interval[1][both][::step]))

    @property
    def pixels(self) -> pd.DataFrame:
        """Table of an even sample of pixels: predicted, observed, and ends if any."""
        columns = [[*each] for each in zip(*self.pairs, strict=True)]
        columns += [[*each] for each in zip(*self.ends, strict=True)]
        names = ("predicted", "observed", "lower", "upper")
        joined = {
            name: np.concatenate(parts)
            for name, parts in zip(names, columns, strict=False)
        }
        table = pd.DataFrame(joined)
        table.attrs = {"target": self.target.name, "units": self.target.units}
        return table

    @property
    def compared(self) -> bool:
        """True if there is a pixel with a label."""
        return self.tally.count > 0


def _samples_of(reader: Reader) -> list[Sample]:
    if reader.chips:
        return [Sample(reader.whole, chip) for chip in range(reader.count)]
    return [Sample(window) for window in blocks(reader.height, reader.width, BLOCK)]


def _spread(samples: Sequence[Sample], count: int) -> list[Sample]:
    """Choose at most `count` samples, evenly spread over the cube."""
    count = min(count, len(samples))
    middles = (np.arange(count) + 0.5) * len(samples) / count
    return [samples[int(index)] for index in middles]


def _cut(data: Any, sample: Sample) -> Any:
    window = {"y": sample.window.rows, "x": sample.window.columns}
    return data.isel(window if sample.chip is None else {**window, "chip": sample.chip})


def _thin(layers: xr.Dataset) -> xr.Dataset:
    """Return an empty overview: the layers on a coarser grid, all NaN."""
    step = max(1, -(-max(layers.sizes["y"], layers.sizes["x"]) // OVERVIEW))
    grid = layers.isel(y=slice(None, None, step), x=slice(None, None, step))
    empty = {
        name: layer.copy(data=np.full(layer.shape, np.nan, np.float32))
        for name, layer in grid.items()
    }
    return grid.assign(empty).assign_attrs(step=step)


def _fill(overview: xr.Dataset, found: xr.Dataset, sample: Sample) -> None:
    """Copy the rows and columns of a block that are in the overview."""
    step = overview.attrs["step"]
    top, left = (-(-edge // step) for edge in (sample.window.top, sample.window.left))
    for name, layer in found.items():
        kept = layer.values[top * step - sample.window.top :: step]
        kept = kept[:, left * step - sample.window.left :: step]
        height, width = kept.shape
        overview[name].values[top : top + height, left : left + width] = kept
