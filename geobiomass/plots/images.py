"""Images of scenes and maps: true colour, biomass, reference data and error."""

from __future__ import annotations

import calendar
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from geobiomass.cube import CubeError, select_bands
from geobiomass.cube.convert import cube_or_chip
from geobiomass.cube.quantity import of_any, quantity_of
from geobiomass.cube.target import times
from geobiomass.cube.units import plain
from geobiomass.outside_text import as_label
from geobiomass.plots.axes import (
    BIOMASS_COLOURS,
    ERROR_COLOURS,
    INDEX_COLOURS,
    extent,
    factor_to,
    layer_of,
    percentile,
    picture_axes,
    thinned,
)
from geobiomass.summary import month_names
from geobiomass.training.packages import need
from geobiomass.training.setting_names import explain_arguments

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MISSING = 0.8  # grey, because clouds and snow are white

Pixels = npt.NDArray[np.float64]


@explain_arguments
def true_colour(
    cube: xr.Dataset, month: int | None = None, ax: Axes | None = None
) -> Axes:
    """Plot a month in true colour (B04, B03, B02).

    Each band is stretched from its 2nd to its 98th percentile, without clouds. Missing
    pixels are grey. Large scenes are subsampled to the resolution of a screen.

    Parameters
    ----------
    cube : xarray.Dataset
        A scene, or one chip of a collection, with the bands B02, B03 and B04.
    month : int, optional
        Calendar month; by default the darkest of those with most observations, because
        clouds and snow are bright.
    ax : matplotlib.axes.Axes, optional
        Axes to draw on; by default a new figure.

    Raises
    ------
    CubeError
        If a band or the month is missing.
    """
    cube = cube_or_chip(cube)
    visible = _visible(cube)
    names = [int(m) for m in visible["month"].values]
    if month is None:
        month = _clearest(visible, names)
    if month not in names:
        raise CubeError(f"month must be one of the cube's, {names}, got {month}.")
    values = _pixels(visible.isel(month=names.index(month)))
    axes = picture_axes(ax, cube)
    _show(axes, values, _stretch(values), cube)
    axes.set_title(f"true colour, {calendar.month_name[month]}")
    return axes


@explain_arguments
def months(
    cube: xr.Dataset, axes: Sequence[Axes] | None = None, columns: int = 4
) -> Figure:
    """Plot all months in true colour side by side, with the same stretch.

    Missing pixels are grey.

    Parameters
    ----------
    cube : xarray.Dataset
        A scene, or one chip of a collection, with the bands B02, B03 and B04.
    axes : sequence of matplotlib.axes.Axes, optional
        One for each month of the cube; by default a new figure.
    columns : int
        Number of images side by side in a new figure.

    Raises
    ------
    CubeError
        If a band is missing.
    ValueError
        If the number of axes is not the number of months.
    """
    cube = cube_or_chip(cube)
    visible = _visible(cube)
    names = month_names(visible["month"].values)
    given = axes is not None
    panels = _panels(axes, len(names), columns, cube)
    stack = [_pixels(visible.isel(month=index)) for index in range(len(names))]
    seen = [values for values in stack if np.isfinite(values).any()]
    ends = _stretch(np.concatenate([v.reshape(-1, 1, 3) for v in seen or stack]))
    for panel, name, values in zip(panels, names, stack, strict=True):
        picture_axes(panel, cube)
        _show(panel, values, ends, cube)
        share = float(np.isfinite(values).all(-1).mean())
        panel.set_title(f"{name}{_seen_in_words(share)}")
        if not given:
            panel.label_outer()
    figure: Figure = panels[0].figure
    return figure


def _seen_in_words(share: float) -> str:
    if share == 0:
        return ", absent"
    return "" if share > 0.995 else f", {max(share, 0.01):.0%} seen"


def _panels(
    axes: Sequence[Axes] | None, count: int, columns: int, cube: xr.Dataset
) -> list[Any]:
    """Return `count` axes; the axes of a new figure share x and y."""
    if axes is not None:
        panels = list(np.ravel(np.asarray(axes, dtype=object)))
        if len(panels) != count:
            raise ValueError(
                f"axes must be {count}, one for each image, got {len(panels)}."
            )
        return panels
    need("Drawing", "plots", "matplotlib")
    import matplotlib.pyplot as plt

    columns = min(columns, count)
    rows = -(-count // columns)
    size = (3 * columns, 0.6 + 3 * rows * _slope(cube))
    _, grid = plt.subplots(
        rows,
        columns,
        figsize=size,
        layout="constrained",
        squeeze=False,
        sharex=True,
        sharey=True,
    )
    for panel in grid.flat[count:]:
        panel.remove()
    # An image above a gap is the last of its column and needs the labels of x.
    for panel in grid.flat[max(0, count - columns) : count]:
        panel.xaxis.set_tick_params(labelbottom=True)
    return list(grid.flat[:count])


def _slope(data: xr.Dataset | xr.DataArray) -> float:
    """Return height over width of an image, from 0.6 to 2."""
    return min(2.0, max(0.6, data.sizes["y"] / data.sizes["x"]))


def _visible(cube: xr.Dataset) -> xr.DataArray:
    image = select_bands(cube, ("B04", "B03", "B02"))["image"]
    if image.sizes.get("chip") == 1:
        image = image.isel(chip=0)
    if "chip" in image.dims:
        raise CubeError(
            f"cube must have one chip, got {image.sizes['chip']}; choose one with "
            "cube.isel(chip=[0]) or cube.sel(chip=['id'])."
        )
    return thinned(image)


def _pixels(month: xr.DataArray) -> Pixels:
    return np.asarray(month.transpose("y", "x", "band").values, np.float64)


def _stretch(values: Pixels) -> tuple[Pixels, Pixels]:
    """Return the values of black and white by band, from pixels (y, x, band)."""
    if not np.isfinite(values).any():
        return np.zeros(3), np.ones(3)
    total = values.sum(-1)
    # Pixels that are much brighter than the median are clouds.
    ground = values[total < 3 * np.nanmedian(total)]
    if not len(ground):
        ground = values.reshape(-1, 3)
    low, high = np.nanpercentile(ground, [2, 98], axis=0)
    return low, high


def _show(
    axes: Axes, values: Pixels, ends: tuple[Pixels, Pixels], cube: xr.Dataset
) -> None:
    low, high = ends
    stretched = np.clip((values - low) / np.maximum(high - low, 1e-9), 0, 1)
    axes.imshow(
        np.nan_to_num(stretched, nan=MISSING),
        extent=extent(cube),
        interpolation="nearest",
    )


def _clearest(visible: xr.DataArray, names: Sequence[int]) -> int:
    red = visible.isel(band=0).load()
    seen = red.notnull().mean(("y", "x")).values
    dark = np.array([percentile(month.values, 90, np.inf) for month in red])
    # Of the months with about the most observations the darkest: clouds are bright.
    best = np.where(seen >= 0.95 * seen.max(), dark, np.inf)
    return names[int(np.argmin(best))]


@explain_arguments
def biomass(
    values: xr.DataArray | xr.Dataset,
    ax: Axes | None = None,
    *,
    title: str | None = None,
    limits: tuple[float, float] | None = None,
) -> Axes:
    """Plot biomass density, or another target, (y, x), with a colour bar.

    Parameters
    ----------
    values : xarray.DataArray or xarray.Dataset
        A map or labels; of a dataset its ``agb``, or its own target. Large ones are
        subsampled. The unit is its attribute ``units``, Mg/ha without it.
    ax : matplotlib.axes.Axes, optional
        Axes to draw on; by default a new figure.
    title : str, optional
        Title of the image; by default "biomass", or the target's name.
    limits : tuple of float, optional
        Ends of the colour scale; by default 0 and the 99th percentile.

    Raises
    ------
    ValueError
        If `values` has more than one chip, or no ``agb``.
    """
    layer = layer_of(values, "values")
    picture = thinned(layer).load()
    low, high = limits or (0.0, percentile(picture.values, 99))
    what = of_any(values)
    words = what.short if title is None else title
    ends = (low, high)
    # The arrow shows that there are values below the scale.
    extend = "both" if bool((picture < low).any()) else "max"
    return _image(layer, picture, ax, words, ends, BIOMASS_COLOURS, extend, what.units)


@explain_arguments
def error(
    predicted: xr.DataArray | xr.Dataset,
    observed: xr.DataArray | xr.Dataset,
    ax: Axes | None = None,
    *,
    title: str = "predicted minus observed",
) -> Axes:
    """Plot the error of a map, predicted minus observed; white is no error.

    Parameters
    ----------
    predicted, observed : xarray.DataArray or xarray.Dataset
        (y, x) on the same grid; of a dataset its ``agb``, or its own target. Units
        are those of `predicted`, Mg/ha if it states none.
    ax : matplotlib.axes.Axes, optional
        Axes to draw on; by default a new figure.
    title : str
        Title of the image.

    Raises
    ------
    ValueError
        If one has more than one chip or no ``agb``, or the shapes differ.
    """
    found, truth = layer_of(predicted, "predicted"), layer_of(observed, "observed")
    if found.shape != truth.shape:
        raise ValueError(
            f"predicted must have the shape of observed, {truth.shape}, got "
            f"{found.shape}."
        )
    what = of_any(predicted)
    if plain(found.attrs.get("units")) and plain(truth.attrs.get("units")):
        truth = times(truth, factor_to(of_any(observed), what))
    difference = thinned(found).load() - thinned(truth).values
    end = percentile(abs(difference.values), 98)
    return _image(
        truth, difference, ax, title, (-end, end), ERROR_COLOURS, "both", what.units
    )


@explain_arguments
def applicability(
    values: xr.Dataset, ax: Axes | None = None, *, title: str = "dissimilarity"
) -> Axes:
    """Plot the dissimilarity of a map to the training data; hatched is outside.

    Outside is beyond the area of applicability.

    Parameters
    ----------
    values : xarray.Dataset
        With ``dissimilarity`` and ``applicable``: the result of
        ``model.applicability``. Large ones are subsampled.
    ax : matplotlib.axes.Axes, optional
        Axes to draw on; by default a new figure.
    title : str
        Title of the image; the share that is inside is added.

    Raises
    ------
    ValueError
        If `values` has more than one chip, or one of both layers is missing.
    """
    for name in ("dissimilarity", "applicable"):
        if not isinstance(values, xr.Dataset) or name not in values:
            raise ValueError(
                f"values must have a variable {name!r}, such as the result of "
                "model.applicability(scene), got "
                f"{sorted(map(str, getattr(values, 'data_vars', ())))}."
            )
    layer = layer_of(values["dissimilarity"], "values")
    picture = thinned(layer).load()
    inside = thinned(layer_of(values["applicable"], "values")).load().values
    share = float(np.mean(inside[np.isfinite(inside)])) if inside.size else 0.0
    words = f"{title}, {share:.0%} inside"
    axes = _image(
        layer, picture, ax, words, (0.0, 2.0), INDEX_COLOURS, "max", "1 is the edge"
    )
    if (inside == 0).any() and min(inside.shape) > 1:
        axes.contourf(
            np.where(inside == 0, 1.0, 0.0),
            levels=[0.5, 1.5],
            colors="none",
            hatches=["////"],
            origin="upper",  # as in the image: rows go down
            extent=extent(layer),
        )
    return axes


@explain_arguments
def comparison(
    cube: xr.Dataset,
    predicted: xr.DataArray | xr.Dataset,
    month: int | None = None,
    axes: Sequence[Axes] | None = None,
) -> Figure:
    """Plot true colour, reference data, prediction and error side by side.

    True colour is left out without the bands B02, B03 and B04; reference data and error
    are left out without ``agb``.

    Parameters
    ----------
    cube : xarray.Dataset
        A scene, or one chip.
    predicted : xarray.DataArray or xarray.Dataset
        Its map, (y, x); of a dataset its ``agb``, or its own target.
    month : int, optional
        Calendar month of the true-colour image.
    axes : sequence of matplotlib.axes.Axes, optional
        One for each image; by default a new figure.

    Raises
    ------
    ValueError
        If the numbers of axes and images differ, or the shapes differ.
    """
    cube = cube_or_chip(cube)
    found = layer_of(predicted, "predicted")
    what, truth = of_any(predicted), None
    if "agb" in cube:
        truth = layer_of(cube, "cube")
        if plain(found.attrs.get("units")) and plain(truth.attrs.get("units")):
            factor = factor_to(quantity_of(cube["agb"]), what)
            truth = times(truth, factor).assign_attrs(found.attrs).rename(found.name)
    count = panels_of(cube)
    if axes is None:
        need("Drawing", "plots", "matplotlib")
        import matplotlib.pyplot as plt

        size = (4.75 * count, 1 + 3.7 * _slope(cube))
        grid: Any = plt.subplots(
            1, count, figsize=size, layout="constrained", squeeze=False
        )[1]
        panels = list(grid.flat)
    else:
        panels = _panels(axes, count, count, cube)
    rest = list(panels)
    if _is_visible(cube):
        true_colour(cube, month, rest.pop(0))
    scale = found if truth is None else truth
    limits = (0.0, percentile(thinned(scale).values, 99))
    word = as_label(what.short)
    if truth is not None:
        biomass(truth, rest.pop(0), title=f"true {word}", limits=limits)
    biomass(found, rest.pop(0), title=f"predicted {word}", limits=limits)
    if truth is not None:
        error(found, truth, rest.pop(0))
    for panel in panels[1:]:
        panel.set_ylabel("")
    figure: Figure = panels[0].figure
    return figure


def panels_of(cube: xr.Dataset) -> int:
    """Return the number of images that :func:`comparison` plots of a cube."""
    return 1 + _is_visible(cube) + 2 * ("agb" in cube)


def _is_visible(cube: xr.Dataset) -> bool:
    return {"B02", "B03", "B04"} <= set(cube["band"].values.tolist())


def _image(
    layer: xr.DataArray,
    picture: xr.DataArray,
    ax: Axes | None,
    title: str,
    limits: tuple[float, float],
    colours: str,
    extend: str,
    unit: str = "Mg/ha",
) -> Axes:
    axes = picture_axes(ax, layer)
    image = axes.imshow(
        picture.values,
        extent=extent(layer),
        vmin=limits[0],
        vmax=limits[1],
        cmap=colours,
        interpolation="nearest",
    )
    bar = axes.figure.colorbar(image, ax=axes, shrink=0.8, extend=extend)
    bar.set_label(as_label(unit))
    axes.set_title(title)
    return axes
