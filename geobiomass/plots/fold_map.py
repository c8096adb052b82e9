"""The map of the folds of a cross-validation."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import xarray as xr

from geobiomass.data.folds import Fold, Folds
from geobiomass.plots.axes import new_axes
from geobiomass.tiles import Sample, Window
from geobiomass.training.setting_names import explain_arguments

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_GREY = (0.87, 0.87, 0.87, 1.0)
_LARGEST = 600  # pixels of the picture's longer side


@explain_arguments
def folds(cube: xr.Dataset, folds: Folds | Fold, ax: Axes | None = None) -> Axes:
    """Plot a scene by the fold that each pixel is held out in.

    Parameters
    ----------
    cube : xarray.Dataset
        The scene that the folds were made of.
    folds : Folds or Fold
        All folds; or one, with its training pixels, held-out pixels and buffer.
    ax : matplotlib.axes.Axes, optional
        Axes to draw on; by default a new figure.

    Raises
    ------
    CubeError
        If the folds are of another cube.
    ValueError
        If they are of chips, which have no coordinates.
    """
    every = folds.folds if isinstance(folds, Fold) else folds
    every.check(cube)
    chips, height, width = every.size
    if chips:
        raise ValueError(
            "folds must be of a scene, got folds of chips, which have no coordinates."
        )
    from matplotlib import colormaps
    from matplotlib.colors import BoundaryNorm, ListedColormap

    step = max(1, -(-max(height, width) // _LARGEST))
    if isinstance(folds, Fold):
        names = ["trains", "buffer", "held out"]
    else:
        names = ["never held out", *(f"fold {number}" for number in range(every.count))]
    rows = [
        _row(folds, Sample(Window(top, 0, top + 1, width)))[::step]
        for top in range(0, height, step)
    ]
    axes = new_axes(ax, (5.4, 4.6))
    many = colormaps["tab20"](np.arange(len(names) - 1) % 20)
    colours = ListedColormap(np.vstack([_GREY, many]))
    edges = np.arange(len(names) + 1) - 0.5
    picture = axes.imshow(
        np.array(rows),
        cmap=colours,
        norm=BoundaryNorm(edges, len(names)),
        extent=(0, width, height, 0),
        interpolation="nearest",
    )
    bar = axes.figure.colorbar(
        picture, ax=axes, ticks=np.arange(len(names)), shrink=0.8
    )
    bar.ax.set_yticklabels(names)
    axes.set(xlabel="column, pixels", ylabel="row, pixels", title=_title(folds))
    return axes


def _row(folds: Folds | Fold, sample: Sample) -> npt.NDArray[np.int32]:
    """Return the number of the colour of each pixel of a row."""
    if isinstance(folds, Folds):
        return np.asarray(folds.numbers(sample)[0] + 1)
    held = folds.validates(sample)[0]
    return np.asarray(np.where(held, 2, ~folds.trains(sample)[0]), np.int32)


def _title(folds: Folds | Fold) -> str:
    if isinstance(folds, Fold):
        return f"fold {folds.number} of {folds.folds.count}"
    return f"{folds.count} folds of {folds.what}"
