"""The plot of available data by month and band of a cube."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from geobiomass.cube.convert import cube_or_chip
from geobiomass.cube.summary import presence
from geobiomass.plots.axes import SHARE_COLOURS, new_axes
from geobiomass.summary import merge_equal_rows
from geobiomass.training.setting_names import explain_arguments

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@explain_arguments
def availability(cube: xr.Dataset, ax: Axes | None = None) -> Axes:
    """Plot the share of values that are present, by band and month, in percent.

    Neighbouring bands with the same shares are one row. The shares come from the
    attributes of a cube on disk; without these, from a sample of a few chips or of the
    middle of a scene, which is noted in the title.

    Parameters
    ----------
    cube : xarray.Dataset
        A scene or chips.
    ax : matplotlib.axes.Axes, optional
        Axes to draw on; by default a new figure.

    Raises
    ------
    CubeError
        If `cube` is not a cube.
    """
    table = presence(cube_or_chip(cube))
    assert table is not None  # it is None only if no sample may be computed
    rows = list(merge_equal_rows(table.frame))
    values = np.array([numbers for _, numbers in rows])
    months = [str(name) for name in table.frame]
    axes = new_axes(ax, (2.6 + 0.5 * len(months), 1.4 + 0.4 * len(rows)))
    picture = axes.imshow(values, vmin=0, vmax=100, cmap=SHARE_COLOURS, aspect="auto")
    for (row, column), value in np.ndenumerate(values):
        colour = "white" if value > 60 else "black"
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
    axes.set_yticks(range(len(rows)), [name for name, _ in rows])
    axes.set(xlabel="month", ylabel="bands")
    bar = axes.figure.colorbar(picture, ax=axes)
    bar.set_label("values present, %")
    axes.set_title(f"availability{f' ({table.note})' if table.note else ''}")
    return axes
