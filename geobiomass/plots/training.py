"""What a model learnt: attention over the months, and how training went."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import xarray as xr

from geobiomass.models.predictor import Predictor
from geobiomass.plots.frames import (
    BIOMASS_COLOURS,
    BLUE,
    GREY,
    ORANGE,
    new_axes,
)
from geobiomass.summary import month_names

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def attention(
    model: Predictor | xr.DataArray,
    cube: xr.Dataset | None = None,
    at: tuple[float, float] | None = None,
    ax: Axes | None = None,
    *,
    chip: Any = None,
) -> Axes:
    """Draw how much each month weighs at a place.

    A bar is the mean over the network's levels, a mark one level: the finest and the
    coarsest may look at different months. Months that are absent weigh nothing and
    are named so; the dashed line is what all months would weigh if they were equal.

    Parameters
    ----------
    model : Predictor or xarray.DataArray
        Whose attention; or what its ``attention`` gave, and no cube.
    cube : xarray.Dataset, optional
        With all bands that the model needs.
    at : tuple of float, optional
        (y, x) in the scene's reference system, row and column of a chip; by default
        the mean over the cube.
    ax : matplotlib.axes.Axes, optional
        Where to draw; by default a new figure.
    chip : str or int, optional
        Of which chip.

    Raises
    ------
    TypeError, ValueError, CubeError
        As :meth:`geobiomass.BiomassRegressor.attention` says.
    """
    weights = _weights(model, cube, at, chip)
    mean = weights.mean("level").values
    axes = new_axes(ax, (7.0, 3.8))
    places = np.arange(mean.size)
    axes.bar(places, mean, color=BLUE, alpha=0.75, label="mean of the levels")
    for marker, level in zip("ov", (0, -1), strict=True):
        side = int(weights["level"][level])
        axes.plot(
            places,
            weights[level],
            marker,
            color=ORANGE,
            markerfacecolor="none",
            label=f"cells of {side} pixels",
        )
    even = 1 / max(1, int((weights["present"] > 0).sum()))
    axes.axhline(even, color=GREY, linestyle="--", label="all months alike")
    names = month_names(weights["month"].values)
    absent = weights["present"].values == 0
    labels = [
        f"{name}\nabsent" if gone else name
        for name, gone in zip(names, absent, strict=True)
    ]
    axes.set_xticks(places, labels, fontsize="small")
    axes.set(xlabel="month", ylabel="weight, share of 1", ylim=(0, None))
    axes.set_title(f"attention {_where(at, chip, weights)}")
    axes.legend(fontsize="small")
    return axes


def _weights(
    model: Predictor | xr.DataArray,
    cube: xr.Dataset | None,
    at: tuple[float, float] | None,
    chip: Any,
) -> xr.DataArray:
    if isinstance(model, xr.DataArray):
        return model
    if cube is None:
        raise ValueError("attention of a model needs a cube to look at, got none.")
    return model.attention(cube, at, chip)


def _where(at: tuple[float, float] | None, chip: Any, weights: xr.DataArray) -> str:
    of = f" of chip {chip}" if chip is not None else ""
    if at is not None:
        return f"at y {at[0]:,.10g}, x {at[1]:,.10g}{of}"
    return f"over {weights.attrs['tiles']} tiles{of}"


def attention_over_year(
    model: Predictor | xr.DataArray,
    cube: xr.Dataset | None = None,
    ax: Axes | None = None,
    *,
    chip: Any = None,
) -> Axes:
    """Draw how much each month weighs at each level of the network, over a cube.

    Parameters
    ----------
    model : Predictor or xarray.DataArray
        Whose attention; or what its ``attention`` gave, and no cube.
    cube : xarray.Dataset, optional
        With all bands that the model needs; up to 16 tiles of it are looked at.
    ax : matplotlib.axes.Axes, optional
        Where to draw; by default a new figure.
    chip : str or int, optional
        Only this chip.

    Raises
    ------
    TypeError, ValueError, CubeError
        As :meth:`geobiomass.BiomassRegressor.attention` says.
    """
    weights = _weights(model, cube, None, chip)
    percent = 100 * weights.values
    months = month_names(weights["month"].values)
    axes = new_axes(ax, (2.2 + 0.5 * len(months), 1.6 + 0.4 * len(percent)))
    top = max(percent.max(), 1e-9)
    picture = axes.imshow(
        percent, vmin=0, vmax=top, cmap=BIOMASS_COLOURS, aspect="auto"
    )
    for (row, column), value in np.ndenumerate(percent):
        colour = "black" if value > 0.6 * top else "white"
        axes.text(
            column,
            row,
            f"{value:.0f}",
            ha="center",
            va="center",
            color=colour,
            fontsize="small",
        )
    axes.set_xticks(range(len(months)), months)
    axes.set_yticks(range(len(percent)), [str(int(v)) for v in weights["level"]])
    axes.set(xlabel="month", ylabel="side of a cell, pixels")
    bar = axes.figure.colorbar(picture, ax=axes)
    bar.set_label("weight, %")
    axes.set_title(f"attention over the year, {weights.attrs['tiles']} tiles")
    return axes


def history(model: Any, ax: Axes | None = None) -> Axes:
    """Draw how training went: loss, and average RMSE of what was held out.

    Parameters
    ----------
    model : BiomassRegressor or pandas.DataFrame
        A model, or its ``history``.
    ax : matplotlib.axes.Axes, optional
        Where to draw; by default a new figure. The RMSE has an axis of its own, on
        the right.

    Raises
    ------
    ValueError
        If there is no epoch.
    """
    from matplotlib.ticker import MaxNLocator

    table: pd.DataFrame = model if isinstance(model, pd.DataFrame) else model.history
    if not len(table):
        raise ValueError("history must have an epoch, got none: nothing was trained.")
    recipe = getattr(model, "recipe", None)
    unit = _LOSS_UNITS.get(getattr(recipe, "loss", ""), "as the recipe defines it")
    axes = new_axes(ax, (7.0, 3.8))
    epochs = np.arange(1, len(table) + 1)
    lines = axes.plot(epochs, table["train_loss"], color=BLUE, label="loss in training")
    held, rmse = table["validation_loss"], "validation_average_rmse"
    # Where the loss is the RMSE itself, one line says both.
    twice = rmse in table and np.allclose(held, table[rmse], rtol=1e-3)
    if held.notna().any() and not twice:
        lines += _dashed(axes, epochs, table["validation_loss"], BLUE, "o", "loss")
    axes.set(xlabel="epoch", ylabel=f"loss, {unit}")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if rmse in table and table[rmse].notna().any():
        right = axes if unit == "Mg/ha" else axes.twinx()
        lines += _dashed(right, epochs, table[rmse], ORANGE, "s", "average RMSE")
        right.set_ylabel("loss and RMSE, Mg/ha" if right is axes else "RMSE, Mg/ha")
    axes.set_ylim(bottom=min(0, axes.get_ylim()[0]))
    axes.set_title("training")
    axes.legend(handles=lines, fontsize="small")
    return axes


# What the losses of recipes are in: roots of squares, or squares.
_LOSS_UNITS = {
    "chip_rmse": "Mg/ha",
    "chip_huber": "Mg/ha",
    "huber": "(Mg/ha)²",
    "mse": "(Mg/ha)²",
}


def _dashed(
    axes: Any, x: Any, y: Any, colour: str, marker: str, what: str
) -> list[Any]:
    style = {"linestyle": "--", "marker": marker, "markersize": 3, "color": colour}
    lines: list[Any] = axes.plot(x, y, label=f"{what} of what was held out", **style)
    return lines
