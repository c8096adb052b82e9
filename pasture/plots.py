"""Figures of predictions, with grams on every axis."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from geobiomass.outside_text import as_label
from geobiomass.training.metrics import pixel_rmse, r2
from geobiomass.training.packages import need

from .loader import open_photo
from .photos import TARGETS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["scatter", "sheet"]

# Colours that colour-blind people can distinguish (Okabe & Ito 2008). The shapes serve
# prints in grey.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_SHAPES = ("o", "s", "^", "D", "v", "P")
_NAMES = ("green", "dead", "clover", "green + clover", "total")
_WIDTH = 640  # pixels across a photo on a sheet


def scatter(
    measured: pd.DataFrame,
    predicted: pd.DataFrame,
    axes: Sequence[Axes] | None = None,
    *,
    groups: pd.Series | None = None,
) -> Figure:
    """Plot predicted against measured grams, one panel per target.

    Each panel has the 1:1 line, and R2 and RMSE of its points.

    Parameters
    ----------
    measured, predicted
        Grams, one row per photo and one column for each of `pasture.TARGETS`. Photos
        in both tables are plotted.
    axes
        Five axes to plot on; by default a new figure.
    groups
        Group of each photo, such as its state, shown by colour and shape.

    Returns
    -------
    matplotlib.figure.Figure
        The figure, which is not shown.

    Raises
    ------
    ValueError
        No photo is in both tables, a target is missing, or axes are not five.
    """
    need("Drawing", "plots", "matplotlib")
    import matplotlib.pyplot as plt

    shared = _shared(measured, predicted)
    if axes is None:
        panels: Any = plt.subplots(1, 5, figsize=(18, 4), layout="constrained")[1]
    else:
        panels = np.ravel(np.asarray(axes, dtype=object))
    if len(panels) != len(TARGETS):
        raise ValueError(
            f"axes must be {len(TARGETS)}, one for each target, got {len(panels)}; "
            "leave them out for a new figure"
        )
    members = _members(shared, groups)
    for panel, target, name in zip(panels, TARGETS, _NAMES, strict=True):
        true, found = (table.loc[shared, target] for table in (measured, predicted))
        _panel(panel, true.to_numpy(float), found.to_numpy(float), name, members)
    panels[0].set_ylabel("predicted, g")
    if groups is not None:
        title = as_label(groups.name)
        panels[0].legend(title=title, loc="lower right", fontsize="small")
    return panels[0].figure  # type: ignore[no-any-return]


def _shared(measured: pd.DataFrame, predicted: pd.DataFrame) -> pd.Index:
    for title, table in (("measured", measured), ("predicted", predicted)):
        if absent := [name for name in TARGETS if name not in table]:
            raise ValueError(
                f"{title} must have a column for each target, got no "
                f"{', '.join(absent)}; add these columns"
            )
    shared = measured.index.intersection(predicted.index, sort=False)
    if shared.empty:
        raise ValueError(
            "measured and predicted must have photos in common, got "
            f"{len(measured)} and {len(predicted)} with none; use the index of "
            "read_photos for both"
        )
    return shared


def _members(
    photos: pd.Index, groups: pd.Series | None
) -> dict[str, npt.NDArray[np.bool_]]:
    """Return a mask of the photos of each group, the largest group first."""
    if groups is None:
        return {"": np.ones(len(photos), bool)}
    known = groups.reindex(photos).astype(object).fillna("unknown").astype(str)
    names = known.value_counts().index
    return {str(name): (known == name).to_numpy(bool) for name in names}


def _panel(
    panel: Any,
    measured: npt.NDArray[np.float64],
    predicted: npt.NDArray[np.float64],
    name: str,
    members: dict[str, npt.NDArray[np.bool_]],
) -> None:
    end = 1.05 * max(float(measured.max()), float(predicted.max()), 1.0)
    panel.plot([0, end], [0, end], color="0.6", linewidth=1, zorder=0)
    for number, (group, chosen) in enumerate(members.items()):
        panel.scatter(
            measured[chosen],
            predicted[chosen],
            s=16,
            color=_COLOURS[number % len(_COLOURS)],
            marker=_SHAPES[number % len(_SHAPES)],
            alpha=0.7,
            linewidths=0,
            label=as_label(group),
        )
    error = pixel_rmse(predicted, measured)
    scores = f"R² {r2(predicted, measured):.2f}\nRMSE {error:.1f} g"
    panel.text(0.04, 0.96, scores, transform=panel.transAxes, va="top")
    panel.set(xlim=(0, end), ylim=(0, end), aspect="equal")
    panel.set(title=name, xlabel="measured, g")


def sheet(
    photos: pd.DataFrame,
    predicted: pd.DataFrame,
    measured: pd.DataFrame | None = None,
    count: int = 12,
    columns: int = 3,
) -> Figure:
    """Plot some photos in the order of predicted total, with grams below each.

    Parameters
    ----------
    photos
        Photos as `pasture.read_photos` returns them. Only ``path`` is used.
    predicted
        Predicted grams of these photos. Other rows are ignored.
    measured
        Measured grams, of some or all of these photos.
    count
        Largest number of photos. They are chosen evenly by predicted total.
    columns
        Number of photos per row.

    Returns
    -------
    matplotlib.figure.Figure
        The figure, which is not shown.

    Raises
    ------
    ValueError
        `count` or `columns` is below 1, or no photo has a prediction.
    """
    need("Drawing", "plots", "matplotlib")
    import matplotlib.pyplot as plt

    if count < 1 or columns < 1:
        raise ValueError(
            f"count and columns of a sheet must be 1 or more, got {count}, {columns}"
        )
    total = predicted[TARGETS[-1]].reindex(photos.index).dropna().sort_values()
    if total.empty:
        raise ValueError(
            f"photos of a sheet must have predictions, got {len(photos)} without; use "
            "the index of read_photos for both tables"
        )
    chosen = np.linspace(0, len(total) - 1, min(count, len(total))).round().astype(int)
    columns = min(columns, len(chosen))
    rows = -(-len(chosen) // columns)
    figure, grid = plt.subplots(
        rows,
        columns,
        figsize=(5 * columns, 3.1 * rows),
        layout="constrained",
        squeeze=False,
    )
    for axes in grid.flat[len(chosen) :]:
        axes.set_axis_off()
    for axes, photo in zip(grid.flat, total.index[chosen], strict=False):
        axes.imshow(_thumbnail(str(photos.at[photo, "path"])))
        axes.set(xticks=[], yticks=[])
        axes.set_title(as_label(photo), fontsize="small")
        lines = [_line("predicted", predicted.loc[photo])]
        if measured is not None and photo in measured.index:
            lines.append(_line("measured", measured.loc[photo]))
        axes.set_xlabel("\n".join(lines), fontsize="small")
    return figure


def _thumbnail(path: str) -> npt.NDArray[np.uint8]:
    image = open_photo(path, (_WIDTH, _WIDTH // 2))
    image.thumbnail((_WIDTH, _WIDTH))
    return np.asarray(image)


def _line(title: str, grams: pd.Series) -> str:
    green, dead, clover, _, total = (float(grams[name]) for name in TARGETS)
    parts = f"green {green:.1f}, dead {dead:.1f}, clover {clover:.1f}"
    return f"{title}: {total:.1f} g ({parts})"
