"""Metrics of a held-out map, over all pixels or by fold."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import xarray as xr

from geobiomass.cube import CubeError
from geobiomass.cube.cluster_watch import computed
from geobiomass.cube.quantity import target_of
from geobiomass.data.folds import Folds
from geobiomass.data.groups import NOWHERE
from geobiomass.data.reader import Reader
from geobiomass.evaluation.label_errors import tally_for
from geobiomass.evaluation.metrics import Bins, interval_of, months_seen
from geobiomass.tiles import (
    EVALUATION_BLOCK,
    Sample,
    blocks,
    indexers_of,
    samples_on_chips,
)

_BLOCK = 1024  # pixels: side of the blocks that are compared one by one


def held_out_metrics(
    predictions: xr.Dataset,
    reader: Reader,
    folds: Folds,
    by: str,
    confidence: float,
    bootstrap: int,
    weigh: bool = False,
) -> pd.DataFrame:
    """Compare a held-out map with the labels of its cube.

    Parameters
    ----------
    predictions : xarray.Dataset
        Each pixel by the model that did not train on it; NaN in pixels of no fold.
    reader : Reader
        Over the cube, with ``agb``.
    folds : Folds
        The groups that were held out together; they are resampled as a whole.
    by : "biomass", "predicted", "months" or "fold"
        The rows.
    confidence, bootstrap
        As in :meth:`BiomassRegressor.evaluate`.
    weigh : bool
        Whether labels weigh by their standard errors, if they have any.

    Raises
    ------
    CubeError
        If there is no held-out label where the image has an observation.
    ValueError
        If a setting is out of range.
    """
    numbers = range(folds.count) if by == "fold" else ()
    target = target_of(predictions)
    rows = "biomass" if by == "fold" else by
    known = reader.has_errors
    tally = tally_for(Bins(rows, reader.months, target), known, weigh)
    by_fold = {n: tally_for(Bins(target=target), known, weigh) for n in numbers}
    windows = blocks(reader.height, reader.width, _BLOCK)
    for sample in samples_on_chips(windows, reader.count if reader.chips else None):
        truth = reader.labels(sample).astype(np.float64)
        truth[folds.numbers(sample) == NOWHERE] = np.nan
        if not np.isfinite(truth).any():
            continue
        layers = _layers(predictions, sample)
        months = months_seen(reader, sample) if by == "months" else None
        errors = reader.errors(sample).astype(np.float64) if known else None
        for group, part, inside in _groups_in(folds, sample):
            own = by_fold.get(folds.fold_of[group])
            for one in (tally,) if own is None else (tally, own):
                one.add(
                    layers[target.name][part],
                    np.where(inside, truth[part], np.nan),
                    unit=group,
                    months=None if months is None else months[part],
                    interval=_cut(interval_of(layers, target.name), part),
                    errors=None if errors is None else errors[part],
                )
    if tally.count == 0:
        raise CubeError(
            "The cube must have a held-out label where the image has an observation, "
            "got none: there is nothing to compare. Make folds of labelled ground."
        )
    table = tally.table(confidence, bootstrap)
    if by != "fold":
        return table
    by_row = {"all": table.loc["all"]} | {
        str(number): one.table(confidence, bootstrap).loc["all"]
        for number, one in by_fold.items()
        if one.count
    }
    found = pd.DataFrame(by_row).T.rename_axis("fold")
    found = found.astype(table.dtypes[found.columns])
    found.attrs = table.attrs
    return found


def _layers(
    predictions: xr.Dataset, sample: Sample
) -> dict[str, npt.NDArray[np.float64]]:
    part = predictions.isel(indexers_of(sample))
    found = computed(part, "held-out predictions were being computed")
    return {str(n): v.values.astype(np.float64) for n, v in found.items()}


def _groups_in(
    folds: Folds, sample: Sample
) -> Iterator[tuple[int, tuple[slice, slice], npt.NDArray[np.bool_]]]:
    """Yield each group in each part of 256 pixels: number, part, pixels inside."""
    groups = folds.ground.groups(sample)
    height, width = groups.shape
    for part in blocks(height, width, EVALUATION_BLOCK):
        here = part.rows, part.columns
        for group in np.unique(groups[here]):
            if group != NOWHERE:
                yield int(group), here, groups[here] == group


def _cut(
    interval: tuple[Any, Any] | None, part: tuple[slice, slice]
) -> tuple[Any, Any] | None:
    return None if interval is None else (interval[0][part], interval[1][part])
