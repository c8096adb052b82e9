"""Rows of a table of totals: the mean of a region, its interval and its notes."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from geobiomass.accounting.check import NO_INTERVAL
from geobiomass.accounting.ground_plots import GroundPlots
from geobiomass.accounting.region_sums import PlotValues, RegionSum
from geobiomass.accounting.sample_design import SampleDesign, strata_rows
from geobiomass.statistics.estimated_mean import Estimate
from geobiomass.statistics.interval_of_mean import Bounds
from geobiomass.statistics.sample import METHODS, SMALL_AREA, SampleError

Mask = npt.NDArray[np.bool_]

_CHIPS = (
    "residuals are of chips: the interval leaves out errors that are correlated over "
    "more than a chip"
)
NO_VALUE = "the map has no value within the region"


@dataclass(frozen=True)
class RowTerms:
    """What all rows of a table have in common.

    Parameters
    ----------
    methods : tuple of str
        Estimators, a row for each.
    confidence : float
        Confidence level of the intervals.
    """

    methods: tuple[str, ...]
    confidence: float

    @classmethod
    def of(cls, estimator: str, confidence: float) -> RowTerms:
        """Return the terms from the arguments of :func:`geobiomass.totals`, checked.

        Raises
        ------
        ValueError
            If the estimator is unknown, or the confidence out of range.
        """
        known = ("auto", *METHODS, "all", SMALL_AREA)
        if estimator not in known:
            raise ValueError(f"estimator must be one of {known}, got {estimator!r}.")
        if not 0 < confidence < 1:
            raise ValueError(
                f"confidence must be between 0 and 1, such as 0.95, got {confidence!r}."
            )
        return cls(METHODS if estimator == "all" else (estimator,), confidence)


def rows_by_plots(
    one: RegionSum,
    ground: GroundPlots,
    at: PlotValues,
    drawn: SampleDesign,
    terms: RowTerms,
    by_stratum: list[dict[str, Any]],
) -> Iterator[dict[str, Any]]:
    """Return the rows of a region by its plots, one for each estimator.

    Parameters
    ----------
    one : RegionSum
        The map's sums over the region.
    ground, at : GroundPlots, PlotValues
        All plots, and the map there.
    drawn : SampleDesign
        How the plots were drawn.
    terms : RowTerms
        Estimators and confidence.
    by_stratum : list
        Gets the estimates by stratum, as rows.
    """
    for method in terms.methods:
        mine, notes = plot_notes(one, ground, at)
        found = bounds = None
        if one.area == 0:
            notes.append(NO_VALUE)
        else:
            try:
                found = drawn.estimate_region(one, ground, at, mine, method)
            except SampleError as error:
                notes.append(str(error))
        if found is not None:
            level = terms.confidence
            bounds = drawn.bounds(found, one, ground, at, mine, level)
            notes += [bounds.note] if bounds.note else []
            notes += drawn.notes(found, method, ground, mine)
            by_stratum += strata_rows(one.name, one.area, found)
        shown = method if found is None else found.method
        yield table_row(one, shown, int(mine.sum()), found, notes, bounds)


def plot_notes(
    one: RegionSum, ground: GroundPlots, at: PlotValues
) -> tuple[Mask, list[str]]:
    """Return the plots of a region that count, (plot,), and what is told of others."""
    known = np.isfinite(at.predicted)
    mine = one.plots & known
    lost = int((one.plots & ~known).sum())
    trained = int((mine & ground.trained).sum())
    notes = [f"{lost} plots are on pixels without a value"] if lost else []
    if trained:
        notes.append(f"{trained} plots trained the model: the interval is too narrow")
    return mine, notes


def row_by_model(one: RegionSum, terms: RowTerms) -> dict[str, Any]:
    """Return the row of a region by the errors of a model."""
    if one.area == 0 or one.errors is None:
        return table_row(one, "model", 0, None, [NO_VALUE])
    mean = (one.total - one.errors.bias()) / one.mapped
    half = one.errors.half_width(terms.confidence) / one.mapped
    notes = [] if one.errors.model.places else [_CHIPS]
    row = table_row(one, "model", 0, None, notes)
    row["mean"], row["mean_se"] = mean, math.sqrt(one.errors.variance()) / one.mapped
    row["mean_lower"], row["mean_upper"] = mean - half, mean + half
    row["interval"] = "normal"
    return _with_totals(row)


def table_row(
    one: RegionSum,
    method: str,
    plots: int,
    found: Estimate | None,
    notes: list[str],
    bounds: Bounds | None = None,
) -> dict[str, Any]:
    """Return a row of the table; without an estimate or bounds they are NaN.

    Parameters
    ----------
    one : RegionSum
        The region.
    method : str
        Name of the estimator.
    plots : int
        Number of plots.
    found : Estimate, optional
        The estimate.
    notes : list of str
        What is told.
    bounds : Bounds, optional
        The interval.
    """
    nan = math.nan
    bounds = Bounds(nan, nan, "none") if bounds is None else bounds
    # The spread of plots that are all zero does not estimate a standard error.
    se = nan if found is None or bounds.kind == "all zero" else found.se
    row: dict[str, Any] = {
        "region": one.name,
        "area": one.area,
        "unmapped": one.unmapped,
        "method": method,
        "plots": plots,
        "map_mean": one.mean,
        "mean": nan if found is None else found.mean,
        "mean_se": se,
        "mean_lower": bounds.lower,
        "mean_upper": bounds.upper,
    }
    row = _with_totals(row)
    row["freedom"] = nan if found is None else found.freedom
    row["interval"] = bounds.kind
    row["note"] = "; ".join(notes)
    if found is not None and bounds.kind == "none":
        row[NO_INTERVAL] = bounds.note
    return row


def _with_totals(row: dict[str, Any]) -> dict[str, Any]:
    """Add totals, the mean times hectares."""
    for part in ("", "_se", "_lower", "_upper"):
        row[f"total{part}"] = row[f"mean{part}"] * row["area"]
    return row
