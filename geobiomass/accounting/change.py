"""Difference maps of two dates, with their intervals."""

from __future__ import annotations

from pathlib import Path
from statistics import NormalDist
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pandas as pd
import xarray as xr

from geobiomass.accounting.change_file import write_change as write_change
from geobiomass.accounting.error_model import ErrorModel, fit_error_model
from geobiomass.accounting.held_out import errors_of
from geobiomass.accounting.mass import errors_in, in_same_units, open_target
from geobiomass.cube import CubeError
from geobiomass.cube.grid import Grid
from geobiomass.cube.missing_values import measured_layer
from geobiomass.cube.quantity import Quantity
from geobiomass.cube.units import MASS_PER_AREA
from geobiomass.maps.reading import BLOCK
from geobiomass.statistics.confidence import DEFAULT_CONFIDENCE
from geobiomass.statistics.residual_columns import check_residuals
from geobiomass.training.setting_names import explain_arguments

Errors = pd.DataFrame | ErrorModel | str | Path
Pair = tuple[pd.DataFrame | ErrorModel, pd.DataFrame | ErrorModel]

FEWEST_UNITS = 5  # for the correlation of their mean errors


@explain_arguments
def change(
    first: Any,
    second: Any,
    *,
    confidence: float | None = None,
    correlation: float | None = None,
    residuals: tuple[Errors, Errors] | None = None,
) -> xr.Dataset:
    r"""Subtract the map of one date from the map of a later date.

    Let :math:`l_1, u_1` be the distances from the first map to the lower and the upper
    end of its interval, and :math:`l_2, u_2` the same distances of the second map. The
    lower and the upper end of the interval of the change :math:`d` are

    .. math::

        d - \sqrt{u_1^2 + l_2^2 - 2 r u_1 l_2} \quad\text{and}\quad
        d + \sqrt{l_1^2 + u_2^2 - 2 r l_1 u_2},

    where r is the correlation of the errors of the two dates at a pixel: errors that
    both dates share cancel in the difference.

    Parameters
    ----------
    first, second : xarray.Dataset, str or Path
        Maps on the same grid, as datasets or as paths of Zarr or GeoTIFF: ``agb``,
        with ``agb_lower`` and ``agb_upper`` unless there are residuals; or another
        quantity by its own name, of which only convertible units can be compared.
    confidence : float, optional
        Confidence level of the interval. By default that of the maps' own intervals,
        which maps of geobiomass state in an attribute; with residuals, or where no
        level is stated, 0.95, as in :func:`geobiomass.totals`. With residuals any
        level is possible, without it must equal the maps' own level.
    correlation : float, optional
        Correlation of the errors at a pixel, -1 to 1. By default it is estimated if
        both dates have residuals at the same pixels, else it is 0: the interval is
        then too wide if the dates share errors, as maps of one model do.
    residuals : tuple of two, optional
        For each date a table of residuals, an error model, or a path, as
        :func:`geobiomass.totals` takes them. Intervals are then normal ones around the
        change without its expected bias, and the maps need no intervals.

    Returns
    -------
    xarray.Dataset
        (y, x) float32, Mg/ha, lazy if the maps are lazy or paths: ``agb_change``,
        second minus first, ``agb_change_lower`` and ``agb_change_upper``. The change
        of another quantity has its name and units.

    Raises
    ------
    CubeError
        If the grids or the quantities differ, or there is neither an interval nor
        residuals.
    ValueError
        If correlation or confidence are out of range.
    """
    if confidence is not None and not 0 < confidence < 1:
        raise ValueError(
            f"confidence must be between 0 and 1, such as 0.9, got {confidence}."
        )
    before, after, target = open_pair(first, second)
    if confidence is None:
        confidence = DEFAULT_CONFIDENCE
        if residuals is None:
            confidence = _own_level(first, before.name or target.name)
    if residuals is None:
        r = 0.0 if correlation is None else check_correlation(correlation)
        low, high = _own_interval(
            (first, second), (before, after), target, r, confidence
        )
    else:
        errors = errors_of_both(residuals, before, target.units)
        r = _given_or_estimated(errors, correlation)
        models = (_model_of(errors[0]), _model_of(errors[1]))
        low, high = _fitted_interval(before, after, models, r, confidence)
    name = f"{target.name}_change"
    what = "above-ground biomass" if target.is_biomass else target.long_name
    layers = {
        name: (after - before, f"change of {what}"),
        f"{name}_lower": (low, "lower end of the change's interval"),
        f"{name}_upper": (high, "upper end of the change's interval"),
    }
    about = {"confidence": confidence, "correlation": r}
    found = xr.Dataset(
        {
            name: values.astype(np.float32).assign_attrs(
                units=target.units, long_name=words, **about
            )
            for name, (values, words) in layers.items()
        }
    )
    return found.drop_attrs(deep=False)


def open_pair(first: Any, second: Any) -> tuple[xr.DataArray, xr.DataArray, Quantity]:
    """Open the target of two maps on one grid lazily, (y, x) float64, and say what.

    Raises
    ------
    CubeError
        If the grids differ, or the units cannot be converted.
    """
    before, target = _layer(first)
    after, other = _layer(second)
    after = in_same_units(after, other, target)
    _check_same_grid(before, after)
    return before, after.assign_coords({n: before[n] for n in ("y", "x")}), target


def _layer(source: Any, name: str | None = None) -> tuple[xr.DataArray, Quantity]:
    layer, target = open_target(source, name)
    if layer.chunks is None and not layer.variable._in_memory:
        lazy = layer.chunk({"y": BLOCK, "x": BLOCK})
        layer = measured_layer(lazy, layer.encoding.get("fills", ()))
    return layer.astype(np.float64), target


def _check_same_grid(first: xr.DataArray, second: xr.DataArray) -> None:
    import rioxarray  # noqa: F401  (the .rio accessor)

    remedy = "reproject the second map, second.rio.reproject_match(first)."
    if first.shape != second.shape:
        raise CubeError(
            f"Maps to compare must have one grid, got {first.shape} and "
            f"{second.shape} pixels: {remedy}"
        )
    systems = first.rio.crs, second.rio.crs
    if systems[0] != systems[1]:
        raise CubeError(
            f"Maps to compare must have one CRS, got {systems[0]} and {systems[1]}: "
            f"{remedy}"
        )
    here, there = Grid.of(first, "The first map"), Grid.of(second, "The second map")
    if not here.same_as(there):
        raise CubeError(
            "Maps to compare must have one grid, got the transforms "
            f"{here.affine} and {there.affine}, {here.shift(there):.3g} pixels apart: "
            f"{remedy}"
        )


def check_correlation(correlation: float) -> float:
    """Return a correlation, checked to be from -1 to 1.

    Raises
    ------
    ValueError
        If it is out of range.
    """
    if not -1 <= correlation <= 1:
        raise ValueError(f"correlation must be from -1 to 1, got {correlation}.")
    return float(correlation)


def _own_level(source: Any, name: Any) -> float:
    """Return the level of a map's own interval, the default if it states none."""
    layer, _ = _layer(source, f"{name}_lower")
    return float(layer.attrs.get("interval", DEFAULT_CONFIDENCE))


def _own_interval(
    sources: tuple[Any, Any],
    middles: tuple[xr.DataArray, xr.DataArray],
    target: Quantity,
    r: float,
    confidence: float,
) -> tuple[xr.DataArray, xr.DataArray]:
    below, above = [], []
    for source, middle in zip(sources, middles, strict=True):
        ends = []
        for end in ("lower", "upper"):
            name = f"{middle.name or target.name}_{end}"
            layer, found = _layer(source, name)
            layer = in_same_units(layer, found, target)
            if layer.name != name:
                raise CubeError(
                    f"The maps must have {name}, got a map without: train with "
                    "interval=0.9 so that maps have intervals, or give residuals= of "
                    "both dates."
                )
            stated = layer.attrs.get("interval", confidence)
            if not np.isclose(stated, confidence):
                raise ValueError(
                    f"confidence must equal the maps' own level, {stated:g}, got "
                    f"{confidence:g}; with residuals= of both dates any is possible."
                )
            ends.append(layer.assign_coords({n: middle[n] for n in ("y", "x")}))
        below.append(middle - ends[0])
        above.append(ends[1] - middle)
    moved = middles[1] - middles[0]
    return (
        moved - _of_difference(above[0], below[1], r),
        moved + _of_difference(below[0], above[1], r),
    )


def _of_difference(one: xr.DataArray, other: xr.DataArray, r: float) -> xr.DataArray:
    """Return the spread of a difference from two spreads with a correlation."""
    squared = one**2 + other**2 - 2 * r * one * other
    return cast(xr.DataArray, np.sqrt(squared.clip(min=0.0)))


def _fitted_interval(
    before: xr.DataArray,
    after: xr.DataArray,
    models: tuple[ErrorModel, ErrorModel],
    r: float,
    confidence: float,
) -> tuple[xr.DataArray, xr.DataArray]:
    def applied(function: Any, values: xr.DataArray) -> xr.DataArray:
        found = xr.apply_ufunc(
            function, values, dask="parallelized", output_dtypes=[np.float64]
        )
        return cast(xr.DataArray, found)

    quantile = NormalDist().inv_cdf((1 + confidence) / 2)
    spread = _of_difference(
        applied(models[0].sd, before), applied(models[1].sd, after), r
    )
    moved = (after - applied(models[1].bias, after)) - (
        before - applied(models[0].bias, before)
    )
    return moved - quantile * spread, moved + quantile * spread


def errors_of_both(
    residuals: Any, layer: xr.DataArray, units: str = MASS_PER_AREA
) -> Pair:
    """Return the errors of two dates, read from disk if they are paths.

    Parameters
    ----------
    residuals : tuple of two
        As in :func:`geobiomass.change`.
    layer : xarray.DataArray
        The map of one of the dates, (y, x).
    units : str
        Units of the map, to which tables of residuals are converted.

    Raises
    ------
    ValueError
        If they are not two, or not what :func:`geobiomass.totals` takes.
    """
    if not isinstance(residuals, tuple | list) or len(residuals) != 2:
        raise ValueError(
            "residuals must be two, for the first and for the second date, got "
            f"{len(residuals) if isinstance(residuals, tuple | list) else 'one'}."
        )
    first, second = residuals
    one, other = errors_of(first, layer), errors_of(second, layer)
    return errors_in(one, units), errors_in(other, units)


def _model_of(errors: pd.DataFrame | ErrorModel) -> ErrorModel:
    return errors if isinstance(errors, ErrorModel) else fit_error_model(errors)


def _given_or_estimated(residuals: Pair, correlation: float | None) -> float:
    if correlation is not None:
        return check_correlation(correlation)
    one, other = residuals
    if isinstance(one, ErrorModel) or isinstance(other, ErrorModel):
        return 0.0
    joined = _joined(one, other)
    return 0.0 if joined.empty else error_correlation(one, other)


def change_residuals(first: pd.DataFrame, second: pd.DataFrame) -> pd.DataFrame:
    """Return the residuals of a change from the residuals of two dates.

    Parameters
    ----------
    first, second : pandas.DataFrame
        Tables of residuals; rows of the same ``unit`` and pixel are joined.

    Returns
    -------
    pandas.DataFrame
        A table of residuals: ``observed`` and ``predicted`` are second minus first;
        ``predicted_first`` is the predicted biomass of the first date, Mg/ha.

    Raises
    ------
    ValueError
        If the dates share no pixel.
    """
    joined = _joined(first, second)
    if joined.empty:
        raise ValueError(
            "Residuals of two dates must share pixels (unit, y, x), got no pixel that "
            f"is in both of {len(first)} and {len(second)} residuals."
        )
    table = joined[["y", "x", "unit"]].assign(
        observed=joined["observed_2"] - joined["observed_1"],
        predicted=joined["predicted_2"] - joined["predicted_1"],
        predicted_first=joined["predicted_1"],
    )
    table.attrs = dict(first.attrs)
    return table


def _joined(first: pd.DataFrame, second: pd.DataFrame) -> pd.DataFrame:
    for table, which in ((first, "first"), (second, "second")):
        check_residuals(table, what=f"Residuals of the {which} date")
    sizes = [tuple(map(float, table.attrs["pixel"])) for table in (first, second)]
    if sizes[0] != sizes[1]:
        raise ValueError(
            "Residuals of two dates must have pixels of one size, got "
            f"{sizes[0]} and {sizes[1]} m."
        )
    # Coordinates are multiples of half a pixel, up to rounding errors: as integers they
    # can be joined.
    numbered = [
        table.assign(
            row=np.rint(table["y"] / sizes[0][0] * 2).astype(np.int64),
            column=np.rint(table["x"] / sizes[0][1] * 2).astype(np.int64),
        )
        for table in (first, second)
    ]
    joined = numbered[0].merge(
        numbered[1], on=["unit", "row", "column"], suffixes=("_1", "_2")
    )
    return joined.rename(columns={"y_1": "y", "x_1": "x"})


def error_correlation(
    first: pd.DataFrame, second: pd.DataFrame, *, by: str = "pixel"
) -> float:
    """Estimate the correlation of the errors of two dates at the same pixels.

    Errors are standardised first: minus the bias and divided by the standard deviation
    of their class and date.

    Parameters
    ----------
    first, second : pandas.DataFrame
        Tables of residuals of the two dates.
    by : {"pixel", "unit"}
        "pixel": of the errors of pixels, as :func:`geobiomass.change` takes it. "unit":
        of the mean errors of units, which is nearer to the correlation of totals,
        because errors that neighbours do not share average out.

    Returns
    -------
    float
        -1 to 1.

    Raises
    ------
    ValueError
        If the dates share no pixel, or fewer than five units.
    """
    if by not in ("pixel", "unit"):
        raise ValueError(f"by must be 'pixel' or 'unit', got {by!r}.")
    joined = _joined(*(_standardised(table) for table in (first, second)))
    if joined.empty:
        raise ValueError(
            "Residuals of two dates must share pixels (unit, y, x), got no pixel that "
            "is in both."
        )
    pair = joined[["standardised_1", "standardised_2"]]
    if by == "unit":
        pair = pair.groupby(joined["unit"]).mean()
        if len(pair) < FEWEST_UNITS:
            raise ValueError(
                f"Residuals of two dates must share {FEWEST_UNITS} units or more for "
                f"the correlation of their means, got {len(pair)}."
            )
    matrix: npt.NDArray[np.float64] = np.corrcoef(pair.to_numpy(float).T)
    return float(np.clip(matrix[0, 1], -1, 1))


def _standardised(table: pd.DataFrame) -> pd.DataFrame:
    model = fit_error_model(table)
    error = table["predicted"] - table["observed"]
    level = table["predicted"]
    return table.assign(standardised=(error - model.bias(level)) / model.sd(level))
