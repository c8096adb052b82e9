"""Total biomass and carbon of regions, with confidence intervals."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
import xarray as xr

from geobiomass.accounting.checks import Checker, check_unmapped
from geobiomass.accounting.error_model import ErrorModel, fit_error_model
from geobiomass.accounting.ground_plots import GroundPlots, locate_plots, stratum_name
from geobiomass.accounting.held_out import errors_of
from geobiomass.accounting.mass import ASSUMED, errors_in, need_mass, open_target
from geobiomass.accounting.region_area import applicable_of
from geobiomass.accounting.region_sums import (
    WHOLE,
    PlotValues,
    RegionSum,
    empty_sums,
    sum_regions,
)
from geobiomass.cube.alignment import check_one_grid
from geobiomass.cube.areas import regions_of
from geobiomass.cube.units import MASS_PER_AREA
from geobiomass.maps.reading import open_layer, opened, taken_as_missing
from geobiomass.sources.plot_table import named_column
from geobiomass.statistics.estimators import (
    METHODS,
    Estimate,
    Method,
    SampleError,
    estimate,
)
from geobiomass.training.setting_names import explain_arguments

Estimator = Literal["plots", "difference", "regression", "all"]
Unmapped = Literal["exclude", "mean of its stratum", "refuse"]

UNITS = {
    "area": "ha",
    "unmapped": "ha",
    "map_mean": "Mg/ha",
    "mean": "Mg/ha",
    "total": "Mg",
    "carbon": "Mg C",
}
_NEITHER = (
    "Totals need plots= (a probability sample of field plots) or residuals= (errors of "
    "the model at pixels that are not training data, from cross-validation), got "
    "neither. Without them the sum of pixels has no valid interval: errors that pixels "
    "share do not cancel, and the map does not contain them."
)

_CHIPS = (
    "residuals are of chips: the interval leaves out errors that are correlated over "
    "more than a chip"
)


@dataclass(frozen=True)
class _Terms:
    """Settings of a call."""

    methods: tuple[Method, ...]
    confidence: float
    carbon_fraction: float


@explain_arguments
def totals(
    map: xr.Dataset | xr.DataArray | str | Path,
    regions: Any = None,
    plots: Any = None,
    *,
    estimator: Estimator = "regression",
    observed: str = "agb",
    stratum: str | None = None,
    probability: str | None = None,
    strata: Any = None,
    radius: float | None = None,
    residuals: Any = None,
    confidence: float = 0.95,
    carbon_fraction: float = 0.47,
    name: str | None = None,
    variable: str | None = None,
    progress: bool = True,
    column: str | None = None,
    unmapped: Unmapped = "exclude",
    force: bool = False,
) -> pd.DataFrame:
    """Estimate area, mean density, total biomass and carbon of regions of a map.

    With `plots` the intervals are design-based (and model-assisted): they are valid for
    any map, because the plots are a probability sample, uniform within each stratum or
    with known inclusion probabilities. A better map makes them narrower. With
    `residuals` of the model the intervals are model-based: they are valid if the errors
    of the map are distributed like the residuals.

    Parameters
    ----------
    map : xarray.Dataset, xarray.DataArray, str or Path
        A map of biomass density, lazy or not, or a path of Zarr or GeoTIFF. It is
        read once, block by block. By its attribute ``units`` it is converted to Mg/ha;
        a map without units is taken to be in Mg/ha, which ``attrs["map_units"]`` says.
    regions : optional
        Regions to sum over, as :func:`geobiomass.cube.areas.regions_of` takes them (a
        GeoDataFrame, a vector file, GeoJSON, bounds, a mapping of names to these);
        None: the whole map.
    plots : pandas.DataFrame, geopandas.GeoDataFrame or path, optional
        A probability sample: points or polygons; a plain table has columns lon and
        lat, or x and y in the CRS of the map (or of ``attrs["crs"]``). Only plots
        within a region count for it.
    estimator : "plots", "difference", "regression" or "all"
        The mean of the plots; the map corrected by its mean error at the plots; the map
        corrected by a regression line through the plots; or a row for each.
    observed : str
        Column of `plots` with the measured biomass, Mg/ha, or in the units that
        ``plots.attrs["units"]`` states.
    stratum : str, optional
        Column with the stratum that each plot was drawn in; by default it is read from
        the raster of `strata`.
    probability : str, optional
        Column with inclusion probabilities, or values proportional to them, such as
        plots per hectare.
    strata : xarray.DataArray, path or mapping, optional
        A raster of strata (numbers) on the map's grid; or, for a single region, a
        mapping from the names of strata to hectares.
    radius : float, optional
        Radius of plots, metres: they are then compared with the mean of the pixels
        whose centre is within it; by default with the pixel that contains their centre.
    residuals : pandas.DataFrame, ErrorModel, str or Path, optional
        Instead of plots: residuals of pixels that are not training data, an object with
        the method ``residuals()``, or an error model that is fitted to them; or the
        path of a table, of an error model's JSON, or of a saved
        :class:`CrossValidation`. A table without ``attrs["pixel"]`` has pixels of the
        map's size.
    confidence : float
        Confidence level of the intervals.
    carbon_fraction : float
        Carbon fraction of dry biomass; 0.47 is the default of IPCC (2006), volume 4,
        table 4.3.
    name : str, optional
        Column or property with the names of regions.
    variable : str, optional
        Name of the map's layer; by default ``agb``, or the target of the model that
        made the map.
    progress : bool
        Show a progress bar.
    column : str, optional
        The same as `observed`, by the name that :func:`geobiomass.with_labels` has for
        it.
    unmapped : "exclude", "mean of its stratum" or "refuse"
        Rule for hectares off the map or without a value: the total is of the mapped
        part, and says so; they count with the mean of the mapped part of their stratum
        (or, where the stratum is not known, of the region); or a region with any gets
        no numbers.
    force : bool
        Give intervals also where a check is broken, which ``verdict`` and ``note`` say.

    Returns
    -------
    pandas.DataFrame
        One row for each region, or for each region and method. ``area``: hectares that
        all other columns refer to, by default those with a value in the map;
        ``unmapped``: hectares without, also beyond its edges; ``method``; ``plots``:
        number of plots;
        ``map_mean``, of pixels;
        ``mean``, ``mean_se``, ``mean_lower``, ``mean_upper`` (Mg/ha); the same of
        ``total`` (Mg) and, without standard error, ``carbon`` (Mg C); ``freedom``:
        degrees of freedom; ``note``: warnings, or the reason why the estimates of this
        row are NaN; ``verdict``: the worst of the row's checks, "ok", "doubtful",
        "broken" (no interval), "forced" or "no estimate". In hectares ``region_area``,
        of the region itself, ``mapped``, ``off_map``, ``no_value``, ``not_applicable``
        (outside of the area of applicability) and ``beyond_held_out`` (predictions
        beyond those of `residuals`), NaN where not known; ``plots_off_map``,
        ``plots_on_nodata``, ``plots_without_value`` and ``plots_repeated``, plots of
        the region that do not count, or are at the place of another.
        ``attrs["checks"]`` has each check with figure and verdict, which
        :func:`geobiomass.explain_totals` tells; ``attrs`` units and settings, and
        ``attrs["left_out"]`` the rows of `plots` that are left out, by reason;
        ``attrs["regions"]``, where there are any, the shapes of `regions` that are
        left out, repaired, joined or without a name.

    Raises
    ------
    CubeError
        If map, regions, plots or strata cannot be used, or map, plots or residuals
        are in units that are not a mass per area.
    ValueError
        If there are neither plots nor residuals, or both, or a setting is out of range.

    References
    ----------
    See :mod:`geobiomass.statistics.estimators`. IPCC (2006). Guidelines for national
    greenhouse gas inventories, volume 4, chapter 4.
    """
    observed = named_column(observed, column, "agb")
    terms = _terms(estimator, confidence, carbon_fraction)
    if plots is None and residuals is None:
        raise ValueError(_NEITHER)
    if plots is not None and residuals is not None:
        raise ValueError(
            "Totals need plots= or residuals=, got both: with a probability sample of "
            "plots the interval needs no error model. Leave one out."
        )
    check_unmapped(unmapped, residuals, strata)
    map = opened(map)
    layer, target = open_target(map, variable)
    assumed = need_mass(layer, target, "Totals")
    named = regions_of(layer, regions, name=name, missing="keep")
    raster, hectares = _strata_of(strata, layer, len(named))
    ground = None
    if plots is not None:
        ground = locate_plots(
            plots,
            layer,
            observed=observed,
            stratum=stratum,
            probability=probability,
            radius=radius,
        )
        if stratum is not None and strata is None:
            raise ValueError(
                f"Plots of the strata in {stratum!r} need the strata's areas: strata=, "
                "a raster on the map's grid or a mapping from names to hectares."
            )
    model = None if residuals is None else _error_model(residuals, layer)
    sums = empty_sums(named, layer, ground, model)
    for one in sums:
        one.unmapped_as_mean = unmapped == "mean of its stratum"
    applicable = applicable_of(map, layer)
    at = sum_regions(layer, sums, ground, raster, progress, applicable)
    check = Checker(map, layer, ground, at, model, hectares, unmapped, force)
    rows = [
        check.judge(one, row)
        for one in sums
        for row in (
            _design_rows(one, ground, at, hectares, terms)
            if ground is not None
            else [_model_row(one, terms)]
        )
    ]
    table = pd.DataFrame(rows).set_index("region")
    table.attrs = {
        "units": UNITS,
        "confidence": confidence,
        "carbon_fraction": carbon_fraction,
        "based_on": "design" if ground is not None else "model",
        "unmapped": unmapped,
        "checks": check.found,
        **taken_as_missing(layer),
    }
    if assumed is not None:
        table.attrs[ASSUMED] = assumed
    if named.counts:
        table.attrs["regions"] = named.counts
    if ground is not None:
        table.attrs["left_out"] = {**ground.left_out, "plots_outside": ground.outside}
    return table


def _terms(estimator: str, confidence: float, carbon_fraction: float) -> _Terms:
    if estimator not in (*METHODS, "all"):
        raise ValueError(
            f"estimator must be one of {(*METHODS, 'all')}, got {estimator!r}."
        )
    if not 0 < confidence < 1:
        raise ValueError(
            f"confidence must be between 0 and 1, such as 0.95, got {confidence!r}."
        )
    if not 0 < carbon_fraction <= 1:
        raise ValueError(
            f"carbon_fraction must be above 0 and at most 1, got {carbon_fraction!r}."
        )
    chosen = tuple(each for each in METHODS if estimator in (each, "all"))
    return _Terms(chosen, confidence, carbon_fraction)


def _strata_of(
    strata: Any, layer: xr.DataArray, regions: int
) -> tuple[xr.DataArray | None, dict[str, float] | None]:
    """Return a raster of strata, or their areas in hectares."""
    if strata is None:
        return None, None
    if isinstance(strata, Mapping) and not isinstance(strata, xr.Dataset):
        if regions > 1:
            raise ValueError(
                f"strata must be a raster for several regions, got a mapping to "
                f"hectares, which is for one region, and {regions} regions."
            )
        return None, {stratum_name(key): float(area) for key, area in strata.items()}
    raster = open_layer(strata)
    check_one_grid(layer, raster, "The raster of strata", "the map")
    return raster, None


def _error_model(residuals: Any, layer: xr.DataArray) -> ErrorModel:
    errors = errors_in(errors_of(residuals, layer), MASS_PER_AREA)
    return errors if isinstance(errors, ErrorModel) else fit_error_model(errors)


# --- rows ---


def _design_rows(
    one: RegionSum,
    ground: GroundPlots,
    at: PlotValues,
    hectares: dict[str, float] | None,
    terms: _Terms,
) -> Iterator[dict[str, Any]]:
    known = np.isfinite(at.predicted)
    mine = one.plots & known
    lost = int((one.plots & ~known).sum())
    for method in terms.methods:
        notes = [f"{lost} plots are on pixels without a value"] if lost else []
        found = None
        if one.area == 0:
            notes.append("the map has no value within the region")
        else:
            try:
                found = _estimate(one, ground, at, mine, hectares, method)
            except SampleError as error:
                notes.append(str(error))
        if found is not None:
            notes += _warnings(found, ground, mine)
        yield _row(one, method, int(mine.sum()), found, notes, terms)


def _estimate(
    one: RegionSum,
    ground: GroundPlots,
    at: PlotValues,
    mine: npt.NDArray[np.bool_],
    hectares: dict[str, float] | None,
    method: Method,
) -> Estimate:
    named = ground.stratum if ground.stratum is not None else at.stratum
    by_raster = hectares is None and set(one.areas) != {WHOLE}
    stratified = by_raster or hectares is not None
    if hectares is not None and ground.stratum is None:
        raise ValueError(
            "strata= as a mapping to hectares needs stratum=, the plots' column."
        )
    return estimate(
        ground.observed[mine],
        at.predicted[mine],
        one.mean,
        method=method,
        strata=named[mine].tolist() if stratified else None,
        shares=(hectares or one.shares) if stratified else None,
        map_means=one.means if by_raster else None,
        probability=None if ground.probability is None else ground.probability[mine],
    )


def _warnings(
    found: Estimate, ground: GroundPlots, mine: npt.NDArray[np.bool_]
) -> list[str]:
    notes = []
    if found.se == 0:
        notes.append("all plots agree, so that the standard error is 0")
    if ground.probability is not None:
        weight = 1 / ground.probability[mine]
        effective = weight.sum() ** 2 / (weight**2).sum()  # Kish (1965), 11.7
        if effective < 30 and effective < 0.8 * found.n:
            notes.append(
                f"weights differ so much that {found.n} plots are worth "
                f"{effective:.0f}: the interval is too narrow"
            )
    return notes


def _model_row(one: RegionSum, terms: _Terms) -> dict[str, Any]:
    if one.area == 0 or one.errors is None:
        notes = ["the map has no value within the region"]
        return _row(one, "model", 0, None, notes, terms)
    mean = (one.total - one.errors.bias()) / one.mapped
    half = one.errors.half_width(terms.confidence) / one.mapped
    notes = [] if one.errors.model.places else [_CHIPS]
    row = _row(one, "model", 0, None, notes, terms)
    row["mean"], row["mean_se"] = mean, math.sqrt(one.errors.variance()) / one.mapped
    row["mean_lower"], row["mean_upper"] = mean - half, mean + half
    return _filled(row, terms)


def _row(
    one: RegionSum,
    method: str,
    plots: int,
    found: Estimate | None,
    notes: list[str],
    terms: _Terms,
) -> dict[str, Any]:
    nan = math.nan
    lower, upper = (nan, nan) if found is None else found.interval(terms.confidence)
    row: dict[str, Any] = {
        "region": one.name,
        "area": one.area,
        "unmapped": one.unmapped,
        "method": method,
        "plots": plots,
        "map_mean": one.mean,
        "mean": nan if found is None else found.mean,
        "mean_se": nan if found is None else found.se,
        "mean_lower": lower,
        "mean_upper": upper,
    }
    row = _filled(row, terms)
    row["freedom"] = nan if found is None else found.freedom
    row["note"] = "; ".join(notes)
    return row


def _filled(row: dict[str, Any], terms: _Terms) -> dict[str, Any]:
    """Add totals, the mean times hectares, and carbon, a fraction of the total."""
    for part in ("", "_se", "_lower", "_upper"):
        row[f"total{part}"] = row[f"mean{part}"] * row["area"]
    for part in ("", "_lower", "_upper"):
        row[f"carbon{part}"] = row[f"total{part}"] * terms.carbon_fraction
    return row
