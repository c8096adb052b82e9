"""The plot of a training run: errors by epoch, or by part of a learner by pixel."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from geobiomass.cube.quantity import AGB
from geobiomass.plots.axes import BLUE, ORANGE, new_axes
from geobiomass.training.setting_names import explain_arguments

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@explain_arguments
def history(model: Any, ax: Axes | None = None) -> Axes:
    """Plot the training loss, and loss and average RMSE of validation, by epoch.

    Of a learner by pixel: the out-of-fold RMSE of each of its parts.

    Parameters
    ----------
    model : BiomassRegressor or pandas.DataFrame
        A model, or its ``history``.
    ax : matplotlib.axes.Axes, optional
        Axes to draw on; by default a new figure. The RMSE has its own axis on
        the right.

    Raises
    ------
    ValueError
        If the history is empty.
    """
    from matplotlib.ticker import MaxNLocator

    table = (
        model if isinstance(model, pd.DataFrame) else getattr(model, "history", None)
    )
    if isinstance(table, pd.DataFrame) and {"stage", "rmse"} <= set(table):
        return _parts(table, str(getattr(model, "units", AGB.units)), ax)
    if not isinstance(table, pd.DataFrame) or (
        len(table) and not {"train_loss", "validation_loss"} <= set(table)
    ):
        raise ValueError(
            "history must be of a model, or its table model.history, got a "
            f"{type(model).__name__}; load a saved model with gb.load(folder)."
        )
    if not len(table):
        raise ValueError(
            "history must have at least one epoch, got none: train the model first."
        )
    recipe = getattr(model, "recipe", None)
    units = str(getattr(model, "units", AGB.units))
    unit = _LOSS_UNITS.get(getattr(recipe, "loss", ""), "as the recipe defines it")
    unit = unit.replace(AGB.units, units)
    axes = new_axes(ax, (7.0, 3.8))
    epochs = np.arange(1, len(table) + 1)
    lines = axes.plot(epochs, table["train_loss"], color=BLUE, label="loss in training")
    held, rmse = table["validation_loss"], "validation_average_rmse"
    # If the loss is the RMSE itself, one line is enough.
    same = rmse in table and np.allclose(held, table[rmse], rtol=1e-3)
    if held.notna().any() and not same:
        lines += _dashed(axes, epochs, table["validation_loss"], BLUE, "o", "loss")
    axes.set(xlabel="epoch", ylabel=f"loss, {unit}")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if rmse in table and table[rmse].notna().any():
        right = axes if unit == units else axes.twinx()
        lines += _dashed(right, epochs, table[rmse], ORANGE, "s", "average RMSE")
        what = "loss and RMSE" if right is axes else "RMSE"
        right.set_ylabel(f"{what}, {units}")
    axes.set_ylim(bottom=min(0, axes.get_ylim()[0]))
    axes.set_title("training")
    axes.legend(handles=lines, fontsize="small")
    return axes


def _parts(table: pd.DataFrame, units: str, ax: Axes | None) -> Axes:
    """Draw a bar for each part that was fitted; the last is what the model gives."""
    axes = new_axes(ax, (7.0, 0.9 + 0.5 * len(table)))
    colours = [BLUE] * (len(table) - 1) + [ORANGE]
    bars = axes.barh(table["stage"].tolist(), table["rmse"].to_numpy(), color=colours)
    axes.bar_label(bars, fmt="{:.4g}", padding=3)
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.set(xlabel=f"RMSE out of fold, {units}", title="what was fitted")
    return axes


# Units of the losses of recipes: roots of squares, or squares.
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
