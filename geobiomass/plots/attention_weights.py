"""Plots of the attention of a model: the weight of each month."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from geobiomass.models.predictor import Predictor
from geobiomass.plots.axes import BIOMASS_COLOURS, BLUE, GREY, ORANGE, new_axes
from geobiomass.summary import month_names
from geobiomass.training.setting_names import explain_arguments

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@explain_arguments
def attention(
    model: Predictor | xr.DataArray,
    cube: xr.Dataset | None = None,
    at: tuple[float, float] | None = None,
    ax: Axes | None = None,
    *,
    chip: Any = None,
) -> Axes:
    """Plot the attention weight of each month at a point.

    A bar is the mean over the network's levels. The marks are the finest and the
    coarsest level, which may attend to different months. Absent months have the weight
    0 and are labelled; the dashed line is the weight of a month if all were equal.

    Parameters
    ----------
    model : Predictor or xarray.DataArray
        A model; or the result of its ``attention``, without a cube.
    cube : xarray.Dataset, optional
        With all bands that the model needs.
    at : tuple of float, optional
        (y, x) in the CRS of the scene, or row and column of a chip; by default the mean
        over the cube.
    ax : matplotlib.axes.Axes, optional
        Axes to draw on; by default a new figure.
    chip : str or int, optional
        The chip that `at` is in.

    Raises
    ------
    TypeError, ValueError, CubeError
        As in :meth:`geobiomass.BiomassRegressor.attention`.
    """
    weights = _weights(model, cube, at, chip)
    mean = weights.mean("level").values
    axes = new_axes(ax, (7.0, 3.8))
    positions = np.arange(mean.size)
    axes.bar(positions, mean, color=BLUE, alpha=0.75, label="mean of the levels")
    for marker, level in zip("ov", (0, -1), strict=True):
        side = int(weights["level"][level])
        axes.plot(
            positions,
            weights[level],
            marker,
            color=ORANGE,
            markerfacecolor="none",
            label=f"cells of {side} pixels",
        )
    even = 1 / max(1, int((weights["present"] > 0).sum()))
    axes.axhline(even, color=GREY, linestyle="--", label="equal weights")
    names = month_names(weights["month"].values)
    absent = weights["present"].values == 0
    labels = [
        f"{name}\nabsent" if gone else name
        for name, gone in zip(names, absent, strict=True)
    ]
    axes.set_xticks(positions, labels, fontsize="small")
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
        raise ValueError("attention of a model needs cube=, a cube, got none.")
    return model.attention(cube, at, chip)


def _where(at: tuple[float, float] | None, chip: Any, weights: xr.DataArray) -> str:
    of = f" of chip {chip}" if chip is not None else ""
    if at is not None:
        return f"at y {at[0]:,.10g}, x {at[1]:,.10g}{of}"
    return f"over {weights.attrs['tiles']} tiles{of}"


@explain_arguments
def attention_over_year(
    model: Predictor | xr.DataArray,
    cube: xr.Dataset | None = None,
    ax: Axes | None = None,
    *,
    chip: Any = None,
) -> Axes:
    """Plot the attention weight of each month at each level of the network.

    Parameters
    ----------
    model : Predictor or xarray.DataArray
        A model; or the result of its ``attention``, without a cube.
    cube : xarray.Dataset, optional
        With all bands that the model needs. The weights are means over up to 16 tiles.
    ax : matplotlib.axes.Axes, optional
        Axes to draw on; by default a new figure.
    chip : str or int, optional
        Only this chip.

    Raises
    ------
    TypeError, ValueError, CubeError
        As in :meth:`geobiomass.BiomassRegressor.attention`.
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
