"""Plots of the accuracy of a map: density scatter, error by bin, coverage."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import xarray as xr

from geobiomass.cube.missing_values import measured_layer
from geobiomass.cube.quantity import AGB, Quantity, of_any
from geobiomass.cube.units import plain
from geobiomass.cube.values import decoded_layers
from geobiomass.evaluation.metrics import Bins, Tally, bins_for
from geobiomass.plots.axes import (
    BIOMASS_COLOURS,
    BLUE,
    GREY,
    ORANGE,
    factor_to,
    layer_name,
    new_axes,
    percentile,
)
from geobiomass.training.setting_names import explain_arguments

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Layers = xr.DataArray | xr.Dataset | npt.NDArray[Any]

_SCORES = ("pixels", "pixel_rmse", "bias", "observed", "predicted")
"""Columns of a table of metrics that are drawn."""


@explain_arguments
def scatter(
    predicted: Layers,
    observed: Layers,
    ax: Axes | None = None,
    *,
    bins: int = 80,
    limit: float | None = None,
) -> Axes:
    """Plot the density of pixels by observed and predicted biomass.

    The plot has the 1:1 line, and R2, RMSE and bias (predicted minus observed) over all
    pixels. The colours are logarithmic counts.

    Parameters
    ----------
    predicted, observed : xarray.DataArray, xarray.Dataset or numpy.ndarray
        Of the same shape; of a dataset its ``agb``, or its own target. Only pixels
        with both values are used. Units are those of `predicted`, Mg/ha if it states
        none.
    ax : matplotlib.axes.Axes, optional
        Axes to draw on; by default a new figure.
    bins : int
        Number of bins of each axis.
    limit : float, optional
        End of both axes, Mg/ha; by default the 99.9th percentile. Larger values are
        counted in the last bin.

    Raises
    ------
    ValueError
        If the shapes differ, or no pixel has both values.
    """
    from matplotlib.colors import LogNorm
    from matplotlib.ticker import LogFormatter

    found, truth = _pairs(predicted, observed)
    units = of_any(predicted).units
    both = np.concatenate([found, truth])
    high = limit if limit is not None else max(1.0, percentile(both, 99.9))
    low = min(0.0, percentile(both, 0.1))
    edges = np.linspace(low, high, bins + 1)
    clipped = [np.clip(values, low, high) for values in (truth, found)]
    counts = np.histogram2d(clipped[0], clipped[1], bins=(edges, edges))[0].T
    axes = new_axes(ax, (5.4, 4.6))
    picture = axes.pcolormesh(
        edges,
        edges,
        np.ma.masked_equal(counts, 0),
        norm=LogNorm(1, max(2.0, counts.max())),
        cmap=BIOMASS_COLOURS,
        rasterized=True,
    )
    axes.plot([low, high], [low, high], color="black", linewidth=1, linestyle="--")
    # The usual labels are formulas, and reports draw text as it is.
    bar = axes.figure.colorbar(picture, ax=axes, shrink=0.8, format=LogFormatter())
    bar.minorformatter = LogFormatter(minor_thresholds=(1, 0.4))
    bar.set_label("pixels")
    axes.text(
        0.04,
        0.96,
        _scores(found, truth, units),
        transform=axes.transAxes,
        va="top",
        bbox={"facecolor": "white", "alpha": 0.8, "edgecolor": "none"},
    )
    axes.set(xlim=(low, high), ylim=(low, high), aspect="equal")
    axes.set(xlabel=f"observed, {units}", ylabel=f"predicted, {units}")
    axes.set_title("predicted against observed")
    return axes


def _pairs(
    predicted: Layers, observed: Layers
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    found, truth = (_values(data) for data in (predicted, observed))
    if _states_units(predicted) and _states_units(observed):
        truth = truth * factor_to(of_any(observed), of_any(predicted))
    if found.shape != truth.shape:
        raise ValueError(
            f"predicted must have the shape of observed, {truth.shape}, got "
            f"{found.shape}."
        )
    both = np.isfinite(found) & np.isfinite(truth)
    if not both.any():
        raise ValueError(
            "predicted and observed must have pixels with both values, got none among "
            f"{found.size}."
        )
    return found[both], truth[both]


def _values(data: Layers) -> npt.NDArray[np.float64]:
    layer = data[layer_name(data)] if isinstance(data, xr.Dataset) else data
    if isinstance(layer, xr.DataArray):
        layer = measured_layer(decoded_layers(layer))
    return np.asarray(layer, np.float64)


def _states_units(data: Layers) -> bool:
    layer = data[layer_name(data)] if isinstance(data, xr.Dataset) else data
    return isinstance(layer, xr.DataArray) and bool(plain(layer.attrs.get("units")))


def _scores(
    found: npt.NDArray[np.float64], truth: npt.NDArray[np.float64], units: str
) -> str:
    error = found - truth
    spread = ((truth - truth.mean()) ** 2).sum()
    r2 = f"{1 - (error**2).sum() / spread:.2f}" if spread > 0 else "none"
    digits = digits_of(units)
    return (
        f"R² {r2}\nRMSE {np.sqrt((error**2).mean()):.{digits}f} {units}\n"
        f"bias {error.mean():+.{digits}f} {units}\n{found.size:,} pixels"
    )


def digits_of(units: str) -> int:
    """Return the decimals of errors: 1 of biomass, 2 of other targets."""
    return 1 if units == AGB.units else 2


@explain_arguments
def error_by_bin(
    scores: pd.DataFrame | Layers,
    observed: Layers | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Plot RMSE and bias by bin of observed biomass, with the number of pixels.

    Parameters
    ----------
    scores : pandas.DataFrame, or as `predicted` in :func:`scatter`
        The table of :meth:`geobiomass.BiomassRegressor.evaluate`, whose confidence
        intervals are the error bars; or a map, with `observed`.
    observed : xarray.DataArray, xarray.Dataset or numpy.ndarray, optional
        Reference data of a map, Mg/ha.
    ax : matplotlib.axes.Axes, optional
        Axes to draw on; by default a new figure.

    Raises
    ------
    ValueError
        If a map comes without `observed`, or no pixel has both values.
    """
    table = _table(scores, observed)
    units = str(table.attrs.get("units", AGB.units))
    word = _word_of(table)
    _need_scores(table)
    rows = table.drop(index="all")
    rows = rows[rows["pixels"] > 0]
    axes = new_axes(ax, (7.0, 4.2))
    positions = np.arange(len(rows))
    axes.bar(
        positions - 0.2,
        rows["pixel_rmse"],
        0.4,
        yerr=_whiskers(rows, "pixel_rmse"),
        color=BLUE,
        label="RMSE",
        zorder=2,
    )
    axes.bar(
        positions + 0.2,
        rows["bias"],
        0.4,
        yerr=_whiskers(rows, "bias"),
        color=ORANGE,
        hatch="//",
        edgecolor="white",
        label="bias, predicted minus observed",
        zorder=2,
    )
    axes.axhline(0, color="black", linewidth=0.8, zorder=3)
    overall = float(table["pixel_rmse"]["all"])
    axes.axhline(
        overall,
        color=GREY,
        linestyle="--",
        label=f"RMSE of all, {overall:.{digits_of(units)}f} {units}",
    )
    labels = [
        f"{str(name).replace(' and more', '+')}\n{_in_short(int(count))} px"
        for name, count in zip(rows.index, rows["pixels"], strict=True)
    ]
    axes.set_xticks(positions, labels, fontsize="small")
    what = {
        "predicted": f"predicted {word}, {units}",
        "months": "months with any value",
    }.get(str(table.index.name), f"observed {word}, {units}")
    axes.set(xlabel=f"{what}; pixels below", ylabel=f"error, {units}")
    axes.set_title(f"error by {word}")
    axes.legend(fontsize="small")
    return axes


def _word_of(table: pd.DataFrame) -> str:
    """Return the word for the target of a table of metrics."""
    name = str(table.attrs.get("target", AGB.name))
    units = str(table.attrs.get("units", AGB.units))
    return Quantity(name, name, units).short


def _whiskers(rows: pd.DataFrame, name: str) -> npt.NDArray[np.float64] | None:
    """Return the lengths of error bars below and above, (2, row); None without any."""
    ends = [f"{name}_lower", f"{name}_upper"]
    if not set(ends) <= set(rows):
        return None
    lower, upper = (rows[end].to_numpy() for end in ends)
    middle = rows[name].to_numpy()
    return np.nan_to_num(np.maximum(0, [middle - lower, upper - middle]))


def _table(scores: pd.DataFrame | Layers, observed: Layers | None) -> pd.DataFrame:
    if isinstance(scores, pd.DataFrame):
        return scores
    if observed is None:
        raise ValueError(
            "error_by_bin of a map needs observed=, got none; or pass the table of "
            "model.evaluate(cube)."
        )
    tally = Tally(Bins(target=of_any(scores)))
    tally.add(*_pairs(scores, observed))
    return tally.table()


def _need_scores(table: object) -> None:
    if not isinstance(table, pd.DataFrame) or "all" not in table.index:
        raise ValueError(
            "scores must be a table of model.evaluate(cube), got a "
            f"{type(table).__name__}."
        )
    if lacking := [name for name in _SCORES if name not in table]:
        raise ValueError(
            "scores must be a table of model.evaluate(cube), got one without "
            f"{lacking}, with {list(table)}."
        )


def _in_short(count: int) -> str:
    """Return a number with three digits: 12,345,678 is 12.3M."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= size:
            return f"{count / size:.3g}{letter}"
    return str(count)


@explain_arguments
def reliability(scores: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Plot mean observed over mean predicted biomass, by class of prediction.

    Parameters
    ----------
    scores : pandas.DataFrame
        The table of ``model.evaluate(cube, by="predicted")``.
    ax : matplotlib.axes.Axes, optional
        Axes to draw on; by default a new figure.

    Raises
    ------
    ValueError
        If the table is not by predicted biomass.
    """
    _need_scores(scores)
    if scores.index.name != "predicted":
        raise ValueError(
            'scores must be the table of model.evaluate(cube, by="predicted"), got by '
            f"{scores.index.name!r}."
        )
    classes = scores.drop(index="all")
    classes = classes[classes["pixels"] > 0]
    axes = new_axes(ax, (4.9, 4.2))
    end = 1.05 * float(classes[["predicted", "observed"]].max().max())
    axes.plot([0, end], [0, end], "--", color=GREY, label="unbiased")
    axes.plot(classes["predicted"], classes["observed"], "o-", color=BLUE)
    for _, row in classes.iterrows():
        axes.annotate(
            f"{_in_short(int(row['pixels']))} px",
            (row["predicted"], row["observed"]),
            (4, -10),
            textcoords="offset points",
            fontsize="x-small",
        )
    units = str(scores.attrs.get("units", AGB.units))
    axes.set(xlabel=f"mean predicted, {units}", ylabel=f"mean observed, {units}")
    axes.set_title("observed by predicted class")
    axes.legend(fontsize="small")
    return axes


@explain_arguments
def calibration(
    table: pd.DataFrame | xr.Dataset,
    observed: Layers | None = None,
    ax: Axes | None = None,
    *,
    interval: float | None = None,
) -> Axes:
    """Plot the coverage of a prediction interval by biomass, and its nominal coverage.

    Calibration holds by predicted biomass. By observed biomass no calibration can hold:
    pixels whose observed biomass is far above the prediction are outside.

    Parameters
    ----------
    table : pandas.DataFrame or xarray.Dataset
        One row for each pixel with ``observed``, ``predicted``, ``lower`` and
        ``upper``, in ``attrs["units"]`` or Mg/ha; or a map with ``agb``,
        ``agb_lower`` and ``agb_upper``, or its own target, with `observed`.
    observed : xarray.DataArray, xarray.Dataset or numpy.ndarray, optional
        Reference data of a map, Mg/ha.
    ax : matplotlib.axes.Axes, optional
        Axes to draw on; by default a new figure.
    interval : float, optional
        The nominal coverage; by default the attribute of the map.

    Raises
    ------
    ValueError
        If a column, `observed` or the nominal coverage is missing, or no pixel has all
        four values.
    """
    pixels = _with_ends(table, observed)
    target = of_any(table)
    if isinstance(table, pd.DataFrame):
        stated = {k: str(table.attrs[k]) for k in ("units",) if k in table.attrs}
        target = Quantity(str(table.attrs.get("target", AGB.name)), **stated)
    edges = bins_for(target.units)
    if interval is None and isinstance(table, xr.Dataset):
        interval = table[f"{layer_name(table)}_lower"].attrs.get("interval")
    if interval is None:
        raise ValueError("calibration needs interval=, the nominal coverage, got none.")
    axes = new_axes(ax, (7.0, 4.2))
    held = pixels["observed"].between(pixels["lower"], pixels["upper"])
    names = [
        f"{low:g}-{high:g}" if np.isfinite(high) else f"{low:g}+"
        for low, high in pairwise(edges)
    ]
    for by, marker, colour in (("predicted", "o", BLUE), ("observed", "s", ORANGE)):
        bins = np.digitize(pixels[by], edges[1:-1])
        part = held.groupby(bins).mean()
        axes.plot(part.index, 100 * part, marker, color=colour, label=f"by {by}")
    axes.axhline(
        100 * interval,
        color="black",
        linewidth=1,
        linestyle="--",
        label=f"nominal, {100 * interval:.4g} %",
    )
    overall = 100 * float(held.mean())
    axes.axhline(overall, color=GREY, label=f"all, {overall:.1f} %")
    axes.set_xticks(range(len(names)), names, fontsize="small")
    words = f"{target.short}, {target.units}"
    axes.set(xlabel=words, ylabel="coverage, % of pixels", ylim=(0, 103))
    axes.set_title("coverage of the interval")
    axes.legend(fontsize="small", loc="lower left")
    return axes


def _with_ends(
    table: pd.DataFrame | xr.Dataset, observed: Layers | None
) -> pd.DataFrame:
    """Return observed, predicted, lower and upper of all pixels with these values."""
    if not isinstance(table, pd.DataFrame | xr.Dataset):
        raise ValueError(
            "table must be a pandas table of pixels or a map, got a "
            f"{type(table).__name__}."
        )
    name = layer_name(table) if isinstance(table, xr.Dataset) else AGB.name
    names = {"predicted": name, "lower": f"{name}_lower", "upper": f"{name}_upper"}
    if isinstance(table, xr.Dataset):
        if observed is None:
            raise ValueError("calibration of a map needs observed=, got none.")
        missing = [name for name in names.values() if name not in table]
        values = {k: table[v] for k, v in names.items() if v in table}
        columns = {k: _values(v) for k, v in (values | {"observed": observed}).items()}
        shapes = {v.shape for v in columns.values()}
        if len(shapes) > 1:
            raise ValueError(f"map and observed must have one shape, got {shapes}.")
        table = pd.DataFrame({k: v.ravel() for k, v in columns.items()})
    else:
        missing = [name for name in ("observed", *names) if name not in table]
    if missing:
        raise ValueError(f"table must have {', '.join(missing)}, got none.")
    pixels = table[["observed", *names]].dropna()
    if pixels.empty:
        raise ValueError("table must have pixels with all four values, got none.")
    return pixels
