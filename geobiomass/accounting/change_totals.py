"""Totals of net change, loss and gain over regions, with confidence intervals."""

from __future__ import annotations

import math
import warnings
from inspect import signature
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import xarray as xr

from geobiomass.accounting.change import (
    Errors,
    change_residuals,
    check_correlation,
    errors_of_both,
    open_pair,
)
from geobiomass.accounting.change_correction import Correction, fit_corrections
from geobiomass.accounting.checks import CHANGE
from geobiomass.accounting.error_model import ErrorModel, fit_error_model
from geobiomass.accounting.ground_plots import locate_plots
from geobiomass.accounting.mass import ASSUMED, column_in_mass, need_mass
from geobiomass.accounting.region_sums import RegionSum, sum_regions
from geobiomass.accounting.reported_columns import add_reported
from geobiomass.accounting.reporting import DEFAULT_FRACTION, Reporting
from geobiomass.accounting.totals import totals
from geobiomass.accounting.trained_plots import note_trained
from geobiomass.cube.areas import regions_of
from geobiomass.cube.table_errors import cube_errors
from geobiomass.cube.units import MASS_PER_AREA
from geobiomass.maps.origin import PROVENANCE
from geobiomass.sources.plot_table import plots_table
from geobiomass.statistics.confidence import DEFAULT_CONFIDENCE
from geobiomass.statistics.interval_of_mean import IntervalRule
from geobiomass.statistics.sample import SMALL_AREA
from geobiomass.tables import read_numbers
from geobiomass.training.setting_names import check_arguments

PARTS = ("net", "loss", "gain")
ENDS = ("", "_lower", "_upper")  # suffixes of columns
_NOT_SMALL = (
    f"estimator={SMALL_AREA!r} is for the biomass of one date, got a change: most "
    "plots have no loss or gain, which its normal model does not describe; use "
    "estimator='regression', or gb.totals of each map."
)
_NO_SUCH_CHANGE = (
    "no held-out pixel has such a change, mapped or observed: its errors are not known"
)


def change_totals(
    first: Any,
    second: Any,
    regions: Any = None,
    *,
    residuals: tuple[Errors, Errors] | None = None,
    plots: Any = None,
    observed: tuple[str, str] = ("agb_first", "agb_second"),
    correlation: float | None = None,
    threshold: float = 0.0,
    confidence: float = DEFAULT_CONFIDENCE,
    carbon_fraction: float = DEFAULT_FRACTION,
    carbon: Any = None,
    model_error: float | None = None,
    deduction: str | None = None,
    progress: bool = True,
    **settings: Any,
) -> pd.DataFrame:
    r"""Estimate net change, loss and gain of biomass over regions.

    Loss is the sum over pixels whose change is below minus the threshold, gain the sum
    over pixels whose change is above it. In the difference of two maps, errors look
    like losses and gains, and do not cancel. Therefore each part :math:`q(d)` of the
    mapped change d, such as :math:`\max(0, -d)`, is corrected by the mean of
    :math:`q(d) - q(\delta)` at held-out pixels or plots, with :math:`\delta` the true
    change; areas likewise (Olofsson et al. 2014). At held-out pixels the mean is by
    classes of :math:`q(d)` and of the first map's biomass, because tall forest has
    larger errors and more to lose. Without held-out pixels or plots of both dates only
    the net change has an interval.

    Parameters
    ----------
    first, second : xarray.Dataset, str or Path
        Maps on the same grid, as in :func:`geobiomass.change`.
    regions : optional
        As in :func:`geobiomass.totals`.
    residuals : tuple of two, optional
        Tables of residuals of the two dates at the same held-out pixels, or their
        paths. With `correlation`, any two tables or error models, for the net change
        only.
    plots : pandas.DataFrame, geopandas.GeoDataFrame or path, optional
        A probability sample of plots that were measured at both dates (permanent
        plots): intervals are then design-based, of the change of each plot, so that
        what a plot has in common at both dates cancels.
    observed : tuple of str
        Columns of `plots` with the measured biomass, Mg/ha, or in the units that
        ``plots.attrs["units"]`` states, first and second; ``column=`` is the same.
    correlation : float, optional
        Correlation of the errors of the two dates' totals, -1 to 1
        (``error_correlation`` with ``by="unit"``), if residuals are not at the same
        pixels.
    threshold : float
        Smallest change that counts as loss or gain, Mg/ha.
    confidence, carbon_fraction : optional
        As in :func:`geobiomass.totals`.
    carbon : optional
        As in :func:`geobiomass.totals`. Both dates have the same factors, so that the
        change has their relative error once. Where the below-ground ratio jumps, the
        mean of the first map in the region decides, for both dates.
    model_error : float, optional
        Relative standard error of the models behind the plots' biomass, which are the
        same at both dates.
    deduction, progress : optional
        As in :func:`geobiomass.totals`.
    **settings
        Other arguments of :func:`geobiomass.totals`: estimator, strata, cluster,
        interval, name, ... With ``estimator="all"`` there is a row for each.

    Returns
    -------
    pandas.DataFrame
        By region and change ("net", "loss", "gain"; losses are positive): ``area``
        in ha (of net change the mapped area), ``map_total`` before correction,
        ``total`` in Mg, ``carbon`` in Mg C; area, total and carbon also with
        ``_lower`` and ``_upper``; ``total_se``, ``method``, ``interval``, ``plots``
        and ``note``; relative errors and what `carbon`, `model_error` and `deduction`
        add are named as in :func:`geobiomass.totals`.
        With plots the interval of a rare loss is as in :func:`geobiomass.totals`: an
        exact bound if no plot lost biomass, and none if the plots lack what varies. If
        no held-out pixel has such a change, mapped or observed, its errors are not
        known: estimates are NaN, and ``note`` has the reason. ``attrs["checks"]`` has
        the checks that make sense of a change, as :func:`geobiomass.totals` has them:
        where one is broken there is no interval, unless ``force=True``.
        ``attrs["plots_trained"]`` as in :func:`geobiomass.totals`.

    Raises
    ------
    CubeError
        If the grids differ, regions or plots cannot be used, or maps, plots or
        residuals are in units that are not a mass per area.
    ValueError
        If there are neither residuals nor plots, or both.
    """
    known = [*signature(change_totals).parameters][:-1]
    known += [name for name in signature(totals).parameters if name not in known]
    check_arguments("change_totals", settings, known)
    if (residuals is None) == (plots is None):
        raise ValueError(
            "Totals of change need either residuals= (of both dates) or plots= (that "
            f"were measured at both), got {'neither' if plots is None else 'both'}."
        )
    if settings.get("estimator") == SMALL_AREA:
        raise ValueError(_NOT_SMALL)
    if threshold < 0:
        raise ValueError(f"threshold must be 0 Mg/ha or more, got {threshold}.")
    observed = settings.pop("column", observed)  # its name in with_labels
    terms = {
        "confidence": confidence,
        "progress": progress,
        **settings,
    }
    reporting = Reporting.of_change(carbon, model_error, deduction, carbon_fraction)
    before, after, target = open_pair(first, second)
    assumed = need_mass(before, target, "Totals of change")
    assumed = assumed or need_mass(after, target, "Totals of change")
    moved = (after - before).rename("agb").assign_attrs(units=MASS_PER_AREA)
    moved.attrs.pop(PROVENANCE, None)  # of both maps it is looked up below, once
    if plots is not None:
        table = _by_plots(moved, regions, plots, observed, threshold, terms)
    elif correlation is None:
        pairs = _pair(errors_of_both(residuals, before))
        table = _by_pairs(before, moved, regions, pairs, threshold, terms)
    else:
        r = check_correlation(correlation)
        table = _by_models(before, after, regions, residuals, r, terms)
    table.attrs |= {"confidence": confidence, "threshold": threshold}
    if plots is not None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # told above
            name = observed[0]
            ground = locate_plots(plots, moved, observed=name, maps=(first, second))
        note_trained(table, ground.trained, ground.trained_known, stacklevel=2)
    _report(table, reporting, before, regions, terms)
    if assumed is not None:
        table.attrs[ASSUMED] = assumed
    return table


def _report(
    table: pd.DataFrame,
    reporting: Reporting,
    before: xr.DataArray,
    regions: Any,
    terms: dict[str, Any],
) -> None:
    """Add carbon, relative errors and deductions to a table of change."""
    names = table.index.get_level_values(0)
    reporting.check_regions([str(name) for name in names.unique()])
    density = np.zeros(len(table))
    if reporting.jumps():
        mapped = _mapped(before, regions, terms.get("name"), terms["progress"])
        density = mapped["map_mean"].reindex(names).to_numpy(float)
    add_reported(
        table,
        reporting,
        confidence=terms["confidence"],
        density=density,
        one_date=False,
    )


def _pair(residuals: Any) -> pd.DataFrame:
    if any(isinstance(each, ErrorModel) for each in residuals):
        raise ValueError(
            "Error models of the two dates need correlation=, of the errors of their "
            "totals: models do not contain it. Loss and gain need tables of residuals."
        )
    return change_residuals(*residuals)


def _quantity(part: str, moved: Any, threshold: float) -> tuple[Any, Any]:
    """Return a part of a change, Mg/ha, and 1.0 where it counts, 0.0 elsewhere."""
    if part == "net":
        return moved, moved * 0 + 1.0
    signed = -moved if part == "loss" else moved
    # A comparison with NaN is false: adding 0 times the change keeps missing values.
    counts = (signed > threshold) * 1.0 + moved * 0
    return counts * signed, counts


def _by_plots(
    moved: xr.DataArray,
    regions: Any,
    plots: Any,
    observed: tuple[str, str],
    threshold: float,
    terms: dict[str, Any],
) -> pd.DataFrame:
    _, plots = plots_table(plots)
    for name in observed:
        if name not in plots:
            raise ValueError(
                f"Plots must have a column {name!r} (observed=), got "
                f"{list(map(str, plots.columns))}."
            )
    with cube_errors("Plots: "):
        earlier, later = (read_numbers(plots[name], name) for name in observed)
    before, after = (column_in_mass(plots, name) for name in observed)
    measured = later * after - earlier * before

    kind = terms.get("interval", "auto")

    def total(
        layer: xr.DataArray, values: pd.Series, lowest: float, highest: float | None
    ) -> pd.DataFrame:
        # Plots with a biomass below 0 are refused as mistakes when they are read. The
        # estimators are linear: a constant can be added to plots and map first, and
        # subtracted from the estimate.
        shift = max(0.0, -float(values.min()))
        sample = plots.assign(**{observed[0]: values + shift})
        sample.attrs = {**plots.attrs, "units": MASS_PER_AREA}
        rule = kind
        if not isinstance(kind, IntervalRule):
            rule = IntervalRule(kind, lowest, highest)
        how = {**terms, "observed": observed[0], "interval": rule}
        shown = (layer + shift).assign_attrs({CHANGE: True})
        found = totals(shown, regions, sample, **how)
        for end in ENDS:
            found[f"total{end}"] -= shift * found["area"]
        found["map_mean"] -= shift
        return found

    return _table(
        {
            part: tuple(
                total(layer, values, -math.inf if part == "net" else 0.0, highest)
                for layer, values, highest in zip(
                    _quantity(part, moved, threshold),
                    _quantity(part, measured, threshold),
                    (None, 1.0),  # the area is at most all of it
                    strict=True,
                )
            )
            for part in PARTS
        }
    )


def _by_pairs(
    before: xr.DataArray,
    moved: xr.DataArray,
    regions: Any,
    pairs: pd.DataFrame,
    threshold: float,
    terms: dict[str, Any],
) -> pd.DataFrame:
    found = {}
    unit = pd.factorize(pairs["unit"])[0]
    biomass = np.asarray(pairs["predicted_first"], float)
    for part in PARTS:
        layers = _quantity(part, moved, threshold)
        observed = _quantity(part, pairs["observed"], threshold)
        mapped = _quantity(part, pairs["predicted"], threshold)
        kinds = range(1 if part == "net" else 2)  # net change: the whole mapped area
        errors = [np.asarray(mapped[k] - observed[k], float) for k in kinds]
        known = [error for error in errors if error.any()]
        fits = iter(fit_corrections(np.asarray(mapped[0], float), biomass, known, unit))
        # The table has the mass as mapped and not the area, so only that is summed.
        plain = _mapped(layers[0], regions, terms.get("name"), terms["progress"])
        found[part] = tuple(
            _corrected(
                pairs.assign(observed=observed[kind], predicted=mapped[kind]),
                next(fits),
                (layers[kind], layers[0], before),
                regions,
                terms,
            ).assign(map_mean=plain["map_mean"])
            if errors[kind].any()
            else _unknown(plain)
            for kind in kinds
        )
    return _table(found)


def _corrected(
    table: pd.DataFrame,
    fitted: tuple[Correction, npt.NDArray[np.float64]],
    maps: tuple[xr.DataArray, xr.DataArray, xr.DataArray],
    regions: Any,
    terms: dict[str, Any],
) -> pd.DataFrame:
    """Return totals of a layer, corrected by part of the change and first biomass.

    Parameters
    ----------
    table : pandas.DataFrame
        Held-out pixels: the layer (``predicted``) and the reference (``observed``).
    fitted : tuple
        The correction, and the errors of these pixels that other units predict.
    maps : tuple of xarray.DataArray
        The layer, the part of the mapped change, the first map.
    """
    layer, shown, first = maps
    correction, held_out = fitted
    table["predicted"] -= held_out
    expected = xr.apply_ufunc(
        correction.expected,
        shown,
        first,
        dask="parallelized",
        output_dtypes=[np.float64],
    )
    corrected = (layer - expected).rename(layer.name).assign_attrs({CHANGE: True})
    if layer.rio.crs is not None:
        corrected = corrected.rio.write_crs(layer.rio.crs)
    return totals(corrected, regions, residuals=fit_error_model(table), **terms)


def _mapped(
    layer: xr.DataArray, regions: Any, name: str | None = None, progress: bool = True
) -> pd.DataFrame:
    """Return ``area`` and ``map_mean`` by region."""
    named = regions_of(layer, regions, name=name, missing="keep")
    sums = [RegionSum(label, region, np.zeros(0, bool)) for label, region in named]
    sum_regions(layer, sums, progress=progress)
    return pd.DataFrame(
        {"area": [one.area for one in sums], "map_mean": [one.mean for one in sums]},
        index=pd.Index([one.name for one in sums], name="region"),
    )


def _unknown(mapped: pd.DataFrame) -> pd.DataFrame:
    """Return rows without estimates, for a change that no held-out pixel has."""
    ends = [f"total{end}" for end in ENDS]
    return mapped.assign(
        method="model",
        interval="none",
        plots=0,
        note=_NO_SUCH_CHANGE,
        **dict.fromkeys([*ends, "total_se"], math.nan),
    )


def _by_models(
    before: xr.DataArray,
    after: xr.DataArray,
    regions: Any,
    residuals: Any,
    r: float,
    terms: dict[str, Any],
) -> pd.DataFrame:
    one, other = (
        totals(layer, regions, residuals=errors, **terms)
        for layer, errors in zip((before, after), residuals, strict=True)
    )
    net = other.copy()
    net["note"] = [
        "; ".join(dict.fromkeys(filter(None, pair)))
        for pair in zip(one["note"], other["note"], strict=True)
    ]
    net.attrs["checks"] = [*one.attrs["checks"], *other.attrs["checks"]]
    net["map_mean"] -= one["map_mean"]
    net["total"] -= one["total"]
    squares = one["total_se"] ** 2 + other["total_se"] ** 2
    shared = 2 * r * one["total_se"] * other["total_se"]
    net["total_se"] = np.sqrt((squares - shared).clip(lower=0.0))
    half = NormalDist().inv_cdf((1 + terms["confidence"]) / 2) * net["total_se"]
    net["total_lower"], net["total_upper"] = net["total"] - half, net["total"] + half
    net["interval"] = net["interval"].where(half.notna(), "none")
    return _table({"net": (net,)})


def _table(found: dict[str, tuple[pd.DataFrame, ...]]) -> pd.DataFrame:
    """Return one table of all parts, from the totals of their mass and area."""
    parts = []
    for part, (mass, *shares) in found.items():
        rows = mass[["method", "interval", "plots", "note", "total_se"]].copy()
        rows["map_total"] = mass["map_mean"] * mass["area"]
        least = -math.inf if part == "net" else 0.0
        for end in ENDS:
            rows[f"total{end}"] = mass[f"total{end}"].clip(lower=least)
            area = mass["area"] if part == "net" else shares[0][f"total{end}"]
            rows[f"area{end}"] = area.clip(lower=0.0, upper=mass["area"])
        parts.append(rows.assign(change=part).set_index("change", append=True))
    columns = [
        *(f"{name}{end}" for name in ("area", "total") for end in ENDS),
        *("total_se", "map_total", "method", "interval", "plots", "note"),
    ]
    names = list(dict.fromkeys(next(iter(found.values()))[0].index))
    table = pd.concat(parts)[columns]
    # With several estimators a region has several rows, which keep their order.
    order = [names.index(name) for name in table.index.get_level_values(0)]
    table = table.iloc[np.argsort(order, kind="stable")]
    mass = next(iter(found.values()))[0]
    table.attrs = {k: mass.attrs[k] for k in ("design",) if k in mass.attrs}
    table.attrs["checks"] = [
        {**check, "change": part}
        for part, (mass, *_) in found.items()
        for check in mass.attrs.get("checks", ())
    ]
    return table
