"""Which labels a model learnt from: ``model.learnt_from``, evaluate and adapt."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import xarray as xr

from geobiomass.cube import CubeError
from geobiomass.cube.axes import named_like
from geobiomass.cube.convert import need_target
from geobiomass.data.label_places import LABEL_PLACES, LabelPlaces
from geobiomass.data.labelled_cube import LabelledCube
from geobiomass.data.learnt_pixels import LearntPixels, PlaceCollector
from geobiomass.data.splits import samples_of
from geobiomass.metadata.learnt_labels import places_in, plots_learnt
from geobiomass.recipes.label_table import LabelTable
from geobiomass.sources.plot_table import Plots, geometries_of_table, plots_table
from geobiomass.tiles import EVALUATION_BLOCK, Sample
from geobiomass.training.setting_names import explain_arguments

Mask = npt.NDArray[np.bool_]

TOLD = 0.05
"""Share of labels that trained the model from which on ``evaluate`` warns: of a smaller
share the root mean squared error is too low by half of it at most, 2.5 %."""

_UNKNOWN = (
    "It is not known which labels this model learnt from: an earlier release made it, "
    "its labels have no coordinates and CRS, or remember_labels=False left them out. "
    "Train it again, or compare with the plots that it was trained on."
)
_APART = (
    "Chips have no coordinates, scenes have no names of chips, and crops of chips have "
    "lost their place: {} cannot be compared with all labels that the model learnt "
    "from; more may have trained it."
)


@explain_arguments
class KnowsLabels:
    """A model that can be asked which labels it learnt from."""

    @property
    def label_places(self) -> LabelPlaces | None:
        """Places of the labels that the model learnt from; None where unknown."""
        return places_in(getattr(self, "provenance", {}))

    def learnt_from(
        self,
        labels: xr.Dataset | xr.DataArray | pd.DataFrame | str | Path,
        *,
        crs: Any = None,
    ) -> Any:
        """Return which plots, or labelled pixels of a cube, trained this model.

        The model remembers hashes of the places of all labels that had a part in it:
        training, validation that chose an epoch, calibration in :func:`geobiomass.fit`,
        and plots of :meth:`BiomassRegressor.adapt`. A place is a pixel of the training
        scene, or of a chip by its name. Of more than 16,384 labels larger cells are
        remembered, and all within one that has a label count.

        Parameters
        ----------
        labels : xarray.Dataset, geopandas.GeoDataFrame, pandas.DataFrame or path
            A cube with ``agb``; or plots, points or polygons in any CRS, as a table
            with geometries, or with columns lon and lat, or its path.
        crs : optional
            CRS of a table that does not state its own.

        Returns
        -------
        numpy.ndarray or xarray.DataArray
            (plot,) bool, in the order of the table; of a cube (y, x) or (chip, y, x)
            bool, True at labelled pixels that trained the model.

        Raises
        ------
        ValueError
            If the model does not know, or knows labels of chips alone and is asked
            about places, or the other way round.
        CubeError
            If the plots, or a scene, have no location.

        Warns
        -----
        UserWarning
            If a part of what the model learnt from cannot be compared.
        """
        places = self.label_places
        if places is None:
            raise ValueError(_UNKNOWN)
        if isinstance(labels, xr.Dataset | xr.DataArray):
            return _of_cube(places, labels)
        plots = _located(labels, crs)
        learnt, complete = plots_learnt(places, plots)
        some = any(part.grid is not None for part in places.parts)
        _check_compared("the plots", complete, some)
        return learnt


def _of_cube(places: LabelPlaces, cube: xr.Dataset | xr.DataArray) -> xr.DataArray:
    """Return which labelled pixels of a cube are in places."""
    data = LabelledCube.open(need_target(cube))
    reader, layer = data.reader, data.cube["agb"]
    pixels = LearntPixels(places, data.cube)
    if not pixels.placed:
        raise CubeError(
            "The scene must have coordinates y and x and a CRS, to be compared with "
            "the labels that the model learnt from; add them, "
            "cube.rio.write_crs('EPSG:...')."
        )
    _check_compared("the cube", pixels.complete, pixels.comparable)
    found = np.zeros(layer.shape, bool)
    for sample in samples_of(reader, EVALUATION_BLOCK):
        at = (sample.window.rows, sample.window.columns)
        at = at if sample.chip is None else (sample.chip, *at)  # type: ignore[assignment]
        found[at] = pixels.among(sample, np.isfinite(reader.labels(sample)))
    made = layer.copy(data=found).drop_attrs().to_dataset(name="learnt")
    return named_like(made, cube)["learnt"]


def _located(labels: Any, crs: Any) -> Plots:
    """Return the plots of a table, each with a location."""
    import shapely

    name, table = plots_table(labels)
    stated = table.attrs.get("crs") if crs is None else crs
    told: list[str] = []
    geometries, system = geometries_of_table(table, stated, name, {}, told)
    bounds = shapely.bounds(geometries)
    nowhere = ~np.isfinite(bounds).all(axis=1)
    if nowhere.any():
        raise CubeError(
            f"Each row of {name} must have a location, got {int(nowhere.sum())} of "
            f"{len(table)} without; leave them out."
        )
    if told:
        warnings.warn(f"{name}: {'; '.join(told)}.", stacklevel=4)
    rows = np.arange(len(table))
    return Plots(name, geometries, np.zeros(len(table)), system, rows)


def _check_compared(what: str, complete: bool, some: bool) -> None:
    """Check that something can be compared; warn where a part cannot."""
    if complete:
        return
    text = _APART.format(what)
    if not some:
        raise ValueError(text)
    warnings.warn(text, stacklevel=4)


class LearntCount:
    """Count of the labels of a cube that trained a model.

    Parameters
    ----------
    model : KnowsLabels
        The model.
    cube : xarray.Dataset
        The cube, which is read block by block.

    Attributes
    ----------
    labels, learnt : int
        Labels so far, and those of them that trained the model.
    """

    def __init__(self, model: KnowsLabels, cube: xr.Dataset) -> None:
        places = model.label_places
        self._pixels = None if places is None else LearntPixels(places, cube)
        self.cell = 1 if places is None else places.cell
        self.labels = self.learnt = 0

    def add(self, sample: Sample, labelled: Mask) -> None:
        """Count the labelled pixels of a sample, (y, x) bool."""
        self.labels += int(labelled.sum())
        if self._pixels is not None:
            self.learnt += int(self._pixels.among(sample, labelled).sum())

    @property
    def share(self) -> float:
        """Share of the labels that trained the model."""
        return self.learnt / max(1, self.labels)

    def to_dict(self) -> dict[str, int | None]:
        """Return the numbers; ``learnt`` is None where it is not known."""
        known = self._pixels is not None and (self._pixels.complete or self.learnt > 0)
        return {"labels": self.labels, "learnt": self.learnt if known else None}

    def __str__(self) -> str:
        """Return the count in words, as a subject of "trained the model"."""
        text = f"{self.learnt:,} of {self.labels:,} labels ({self.share:.0%})"
        if self.cell > 1:
            text += f", up to cells of {self.cell} x {self.cell} pixels,"
        return text


def count_learnt(
    model: KnowsLabels, data: LabelledCube, table: LabelTable
) -> LearntCount:
    """Count the rows of a table of labels that trained a model."""
    counted = LearntCount(model, data.cube)
    for number in np.unique(table.where).tolist():
        sample, pixels = table.samples[number], table.pixels[table.where == number]
        window = sample.window
        marks = np.zeros((window.height, window.width), bool)
        marks[pixels[:, 0] - window.top, pixels[:, 1] - window.left] = True
        counted.add(sample, marks)
    return counted


def places_of_table(data: LabelledCube, table: LabelTable) -> LabelPlaces | None:
    """Return the places of the labels of a table; None without georeference."""
    collector = PlaceCollector(data.cube)
    for number in np.unique(table.where).tolist():
        own = table.where == number
        collector.add_pixels(table.samples[number].chip, table.pixels[own])
    return collector.places()


def noted(places: LabelPlaces | None) -> dict[str, Any]:
    """Return the entry of a model's provenance with places; empty where unknown."""
    return {} if places is None else {LABEL_PLACES: places.to_dict()}
