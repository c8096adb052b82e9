"""The picture of a survey: months by sensor and pass."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from geobiomass.training.packages import need

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Light to dark, so that it also reads in grey; gaps have lines instead of a colour.
_COLOURS, _DARK = "Blues", 60.0
_LINES: dict[str, Any] = {
    **{"facecolor": "none", "edgecolor": "0.6", "hatch": "///", "linewidth": 0}
}


def draw_survey(table: pd.DataFrame, ax: Axes | None) -> Axes:
    """Return axes with a row a sensor and a column a month.

    Parameters
    ----------
    table : pandas.DataFrame
        Of an `ArchiveSurvey`.
    ax : matplotlib.axes.Axes, optional
        Axes to draw on; by default a new figure.
    """
    need("Drawing", "plots", "matplotlib")
    from matplotlib.patches import Rectangle

    by_sensor = table["dates"].unstack("month", sort=False)
    months, sensors = list(by_sensor.columns), list(by_sensor.index)
    dates = by_sensor.to_numpy(int)
    shares = _seen_shares(table).unstack("month", sort=False).to_numpy(float)
    axes = _axes(ax, (5.0 + 0.5 * len(months), 1.8 + 0.5 * len(sensors)))
    values = np.ma.masked_where(dates == 0, shares)
    picture = axes.imshow(values, vmin=0, vmax=100, cmap=_COLOURS, aspect="auto")
    for (row, column), count in np.ndenumerate(dates):
        if not count:
            corner = (column - 0.5, row - 0.5)
            axes.add_patch(Rectangle(corner, 1, 1, **_LINES))
            continue
        colour = "white" if shares[row, column] > _DARK else "black"
        centred: dict[str, Any] = {"ha": "center", "va": "center", "color": colour}
        axes.text(column, row, str(count), fontsize="small", **centred)
    axes.set_xticks(range(len(months)), months, rotation=45, ha="right")
    axes.set_yticks(range(len(sensors)), _row_names(table, sensors))
    bar = axes.figure.colorbar(picture, ax=axes)
    bar.set_label("area seen, %\n(Sentinel-2: clear)")
    axes.set_title("dates by month; lines: no image", fontsize="medium")
    return axes


def _seen_shares(table: pd.DataFrame) -> pd.Series:
    """Return the share of the area that is covered, and clear where that is known."""
    return 100 * table["covered"] * table["clear"].fillna(1.0)


def _row_names(table: pd.DataFrame, sensors: list[str]) -> list[str]:
    """Return the names of sensors, each with its archives."""
    names = []
    for sensor in sensors:
        found = table.xs(sensor, level="sensor")["archive"]
        archives = dict.fromkeys(", ".join(one for one in found if one).split(", "))
        names.append(f"{sensor}\n{', '.join(archives)}")
    return names


def _axes(ax: Axes | None, size: tuple[float, float]) -> Axes:
    if ax is not None:
        return ax
    import matplotlib.pyplot as plt

    made: Axes = plt.subplots(figsize=size, layout="constrained")[1]
    return made
