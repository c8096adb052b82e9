"""Total biomass and carbon of regions, with confidence intervals."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import xarray as xr

from geobiomass.accounting.checks import Checker, check_unmapped
from geobiomass.accounting.error_model import ErrorModel, fit_error_model
from geobiomass.accounting.ground_plots import locate_plots, stratum_name
from geobiomass.accounting.held_out import errors_of
from geobiomass.accounting.mass import ASSUMED, errors_in, need_mass, open_target
from geobiomass.accounting.region_area import applicable_of
from geobiomass.accounting.region_sums import empty_sums, sum_regions
from geobiomass.accounting.reported_columns import add_reported
from geobiomass.accounting.reporting import DEFAULT_FRACTION, Reporting, low_shares
from geobiomass.accounting.sample_design import SampleDesign
from geobiomass.accounting.shared_error import ModelErrors
from geobiomass.accounting.small_areas import (
    SmallAreaTotals,
    need_random_plots,
    need_regions,
)
from geobiomass.accounting.total_rows import RowTerms, row_by_model, rows_by_plots
from geobiomass.accounting.trained_plots import note_trained
from geobiomass.cube.alignment import check_one_grid
from geobiomass.cube.areas import pixel_size, regions_of
from geobiomass.cube.units import MASS_PER_AREA
from geobiomass.maps.reading import open_layer, opened, taken_as_missing
from geobiomass.sources.plot_table import named_column
from geobiomass.statistics.confidence import DEFAULT_CONFIDENCE
from geobiomass.statistics.interval_of_mean import IntervalRule
from geobiomass.statistics.sample import SMALL_AREA
from geobiomass.training.setting_names import explain_arguments

Estimator = Literal["auto", "plots", "difference", "regression", "all", "small area"]
Unmapped = Literal["exclude", "mean of its stratum", "refuse"]

_NEITHER = (
    "Totals need plots= (a probability sample of field plots) or residuals= (errors of "
    "the model at pixels that are not training data, from cross-validation), got "
    "neither. Without them the sum of pixels has no valid interval: errors that pixels "
    "share do not cancel, and the map does not contain them."
)


@explain_arguments
def totals(
    map: xr.Dataset | xr.DataArray | str | Path,
    regions: Any = None,
    plots: Any = None,
    *,
    estimator: Estimator = "auto",
    observed: str = "agb",
    stratum: str | None = None,
    probability: str | None = None,
    strata: Any = None,
    poststrata: Any = None,
    cluster: str | None = None,
    design: Literal["random", "systematic"] = "random",
    population: float | Mapping[str, float] | None = None,
    interval: Literal["auto", "t"] | IntervalRule = "auto",
    radius: float | None = None,
    residuals: Any = None,
    confidence: float = DEFAULT_CONFIDENCE,
    carbon_fraction: float = DEFAULT_FRACTION,
    carbon: Any = None,
    model_error: ModelErrors | None = None,
    deduction: str | None = None,
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
    estimator : "auto", "plots", "difference", "regression", "all" or "small area"
        The mean of the plots; the map corrected by its mean error at the plots; the map
        corrected by a regression line through the plots; or a row for each. "auto" is
        the regression, and the difference where most plots are 0 and fewer than 10
        above. "small area": for 10 or more regions with few plots each, a composite of
        each region's own plots and the regression over all of them
        (:mod:`geobiomass.statistics.small_areas`).
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
        mapping from the names of strata to hectares. A stratum with one plot is
        collapsed with another one, and `note` says so.
    poststrata : xarray.DataArray, path or mapping, optional
        Instead of `strata`, in the same forms: plots were drawn without regard to
        these strata.
    cluster : str, optional
        Column with the cluster of each plot (subplot). The clusters are then the sample
        (ratio of means), and their number counts, not that of subplots.
    design : "random" or "systematic"
        "systematic": plots on a grid; the variance is that of differences between
        neighbours. With `poststrata` it is that of post-strata.
    population : float or mapping, optional
        Number of plots (or clusters) that would cover the region, or a mapping to it
        from strata or regions: for the finite population correction, where plots are a
        notable part of the region.
    interval : "auto", "t" or IntervalRule
        "auto": by :mod:`geobiomass.statistics.interval_of_mean`, for few plots,
        skewness and zeros; none where no formula holds, and `note` has the reason.
        "t": Student's t. An ``IntervalRule`` also states the highest possible value,
        for plots that are all 0; by default it is the highest value of the map.
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
        table 4.3. Its error is not in the interval.
    carbon : str, Carbon or mapping, optional
        Instead of `carbon_fraction`: factors by name, such as "ipcc 2019 tropical
        rainforest Africa" (:meth:`geobiomass.accounting.Carbon.names`), own ones, or
        either by region's name; the errors of factors are then in the interval.
    model_error : float or ParameterCovariance, optional
        Error of the models behind the plots' biomass, such as allometric equations: a
        relative standard error (0.05), or their parameters' covariance. None: left out.
    deduction : str, optional
        Rule whose deduction is computed: "ART TREES 2.0", "VM0047 1.1" or "FCPF".
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
        degrees of freedom; ``total_se_percent``, ``total_half_width_90_percent`` and
        ``_95_percent`` of the total; with `carbon` also ``carbon_se``, ``co2e`` (Mg
        CO2e), ``carbon_factor`` and carbon in other pools; with `model_error` also
        the interval without it, ``total_sampling_lower``, ...; with `deduction`
        ``deduction_percent``; ``interval``: "t", "Hall", "all zero", "normal" (of
        `residuals`) or "none"; ``note``: warnings, or the reason why the estimates of
        this row, or its interval, are NaN; ``verdict``: the worst of the row's checks,
        "ok", "doubtful", "broken" (no interval), "forced" or "no estimate". In hectares
        ``region_area``, of the region itself, ``mapped``, ``off_map``, ``no_value``,
        ``not_applicable`` (outside of the area of applicability) and
        ``beyond_held_out`` (predictions beyond those of `residuals`), NaN where not
        known; ``plots_off_map``, ``plots_on_nodata``, ``plots_without_value`` and
        ``plots_repeated``, plots of the region that do not count, or are at the place
        of another. With "small area" ``own_mean``, ``synthetic_mean`` and
        ``own_weight`` are the parts of ``mean``, whose ``mean_se`` is the root of its
        mean squared error, and ``attrs["small_areas"]`` the fitted model.
        ``attrs["checks"]`` has each check with figure and verdict, which
        :func:`geobiomass.explain_totals` tells; ``attrs`` the units, the settings and
        the ``design``, with strata ``attrs["strata"]``: the estimates by stratum (a
        list that ``pandas.DataFrame`` takes: plots, sampling units, hectares, share,
        mean and its standard error), and
        ``attrs["left_out"]`` the rows of `plots` that are left out, by reason;
        ``attrs["regions"]``, where there are any, the shapes of `regions` that are
        left out, repaired, joined or without a name. ``attrs["plots_trained"]`` is the
        number of `plots` whose pixel had a label that trained the model, or that this
        is unknown: maps of earlier releases do not say.

    Raises
    ------
    CubeError
        If map, regions, plots or strata cannot be used, or map, plots or residuals
        are in units that are not a mass per area.
    ValueError
        If there are neither plots nor residuals, or both, or a setting is out of range.

    Warns
    -----
    UserWarning
        If plots trained the model of the map.

    References
    ----------
    See :mod:`geobiomass.statistics.estimators`. IPCC (2006). Guidelines for national
    greenhouse gas inventories, volume 4, chapter 4.
    """
    observed = named_column(observed, column, "agb")
    terms = RowTerms.of(estimator, confidence)
    reporting = Reporting.of(carbon, model_error, deduction, carbon_fraction)
    if plots is None and residuals is None:
        raise ValueError(_NEITHER)
    if plots is not None and residuals is not None:
        raise ValueError(
            "Totals need plots= or residuals=, got both: with a probability sample of "
            "plots the interval needs no error model. Leave one out."
        )
    small = terms.methods == (SMALL_AREA,)
    if small:
        need_random_plots(
            residuals=residuals,
            design=design,
            interval=interval,
            strata=strata,
            poststrata=poststrata,
            stratum=stratum,
            cluster=cluster,
            probability=probability,
            population=population,
        )
    divided = strata if poststrata is None else poststrata
    check_unmapped(unmapped, residuals, divided)
    source, map = map, opened(map)
    layer, target = open_target(map, variable)
    assumed = need_mass(layer, target, "Totals")
    named = regions_of(layer, regions, name=name, missing="keep")
    reporting.check_regions([label for label, _ in named])
    if strata is not None and poststrata is not None:
        raise ValueError(
            "Plots have strata= (drawn in them) or poststrata= (drawn without regard "
            "to them), got both."
        )
    raster, hectares = _strata_of(divided, layer, len(named))
    drawn = SampleDesign.of(
        design,
        population,
        interval,
        poststrata=poststrata is not None,
        hectares=hectares,
        pixel=pixel_size(layer),
        width=int(layer.sizes["x"]),
    )
    ground = None
    if plots is not None:
        ground = locate_plots(
            plots,
            layer,
            observed=observed,
            stratum=stratum,
            probability=probability,
            radius=radius,
            maps=(source,),
            cluster=cluster,
        )
        if stratum is not None and divided is None:
            raise ValueError(
                f"Plots of the strata in {stratum!r} need the strata's areas: strata=, "
                "a raster on the map's grid or a mapping from names to hectares."
            )
    model = None if residuals is None else _error_model(residuals, layer)
    sums = empty_sums(named, layer, ground, model)
    for one in sums:
        one.unmapped_as_mean = unmapped == "mean of its stratum"
    if small:
        need_regions(sums)
    applicable = applicable_of(map, layer)
    at = sum_regions(layer, sums, ground, raster, progress, applicable)
    areas = None
    if small and ground is not None:
        areas = SmallAreaTotals.fit(sums, ground, at, confidence)
    check = Checker(map, layer, ground, at, model, hectares, unmapped, force, areas)
    by_stratum: list[dict[str, Any]] = []
    rows = [
        check.judge(one, row)
        for one in sums
        for row in (
            [areas.row(one)]
            if areas is not None
            else rows_by_plots(one, ground, at, drawn, terms, by_stratum)
            if ground is not None
            else [row_by_model(one, terms)]
        )
    ]
    table = pd.DataFrame(rows).set_index("region")
    table.attrs = {
        "confidence": confidence,
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
        table.attrs["design"] = drawn.about()
        if by_stratum := _estimated(by_stratum, table):
            table.attrs["strata"] = by_stratum
        table.attrs["left_out"] = {**ground.left_out, "plots_outside": ground.outside}
        if areas is not None:
            table.attrs["based_on"] = "small areas"
            table.attrs.update(areas.about())
        note_trained(table, ground.trained, ground.trained_known, stacklevel=4)
    by_name = low_shares(layer, named, reporting, progress)
    return add_reported(
        table,
        reporting,
        confidence=confidence,
        density=table["mean"],
        shares=[share for share in by_name for _ in range(len(table) // len(by_name))],
    )


def _estimated(
    by_stratum: list[dict[str, Any]], table: pd.DataFrame
) -> list[dict[str, Any]]:
    """Return the strata of rows with an estimate: refused regions have none."""
    known = table[table["mean"].notna()]
    rows = {*zip(known.index, known["method"], strict=True)}
    return [part for part in by_stratum if (part["region"], part["method"]) in rows]


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
