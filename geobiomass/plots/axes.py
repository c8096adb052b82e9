"""Axes of plots, their units and extents: kilometres, degrees or pixels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from geobiomass.cube.axes import in_our_names
from geobiomass.cube.missing_values import measured_layer
from geobiomass.cube.quantity import AGB, Quantity, factor_between, target_of
from geobiomass.cube.values import decoded_layers
from geobiomass.training.packages import need

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Perceptually uniform and readable for the colour-blind: viridis was designed for that;
# of matplotlib's diverging colour maps PuOr is one without red against green.
BIOMASS_COLOURS = "viridis"
ERROR_COLOURS = "PuOr_r"
SHARE_COLOURS = "Blues"
INDEX_COLOURS = "cividis"

# Colours that the colour-blind can distinguish (Okabe & Ito 2008).
BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "0.6"

LARGEST = 1500  # pixels of a picture's side: more than a screen shows


def new_axes(ax: Axes | None, size: tuple[float, float] | None = None) -> Axes:
    """Return the axes to draw on, by default new ones of `size` inches."""
    if ax is not None:
        return ax
    need("Drawing", "plots", "matplotlib")
    import matplotlib.pyplot as plt

    made: Axes = plt.subplots(figsize=size, layout="constrained")[1]
    return made


def picture_axes(ax: Axes | None, data: xr.Dataset | xr.DataArray) -> Axes:
    """Return axes with labels and units of x and y."""
    axes = new_axes(ax)
    unit = units_of(data)[0]
    axes.ticklabel_format(useOffset=False, style="plain")
    axes.locator_params(nbins=5)
    names = ("longitude", "latitude") if unit == "°" else ("x", "y")
    axes.set_xlabel(f"{names[0]}, {unit}" if unit else names[0])
    axes.set_ylabel(f"{names[1]}, {unit}" if unit else names[1])
    return axes


def units_of(data: xr.Dataset | xr.DataArray) -> tuple[str, float]:
    """Return the unit of a plot's axes, and its length in the coordinates' unit.

    The unit is kilometres if the CRS is projected, degrees if it is geographic, and
    pixels if there are no coordinates. Without a CRS it is the coordinates' attribute
    ``units``, or none.
    """
    if not {"y", "x"} <= set(data.coords):
        return "pixels", 1.0
    import rioxarray  # noqa: F401  (the .rio accessor)

    crs = data.rio.crs
    if crs is None:
        return str(data["x"].attrs.get("units", "")), 1.0
    if crs.is_geographic:
        return "°", 1.0
    return "km", 1000.0 / float(crs.linear_units_factor[1])


def extent(data: xr.Dataset | xr.DataArray) -> tuple[float, float, float, float]:
    """Return the edges of a picture for imshow: left, right, bottom, top."""
    one = units_of(data)[1]

    def edges(dim: str) -> tuple[float, float]:
        if not {"y", "x"} <= set(data.coords):
            return 0.0, float(data.sizes[dim])
        centres = data[dim].values
        half = (centres[1] - centres[0]) / 2 if centres.size > 1 else 0.5
        return float(centres[0] - half) / one, float(centres[-1] + half) / one

    left, right = edges("x")
    top, bottom = edges("y")
    return left, right, bottom, top


def thinned(data: xr.DataArray, side: int = LARGEST) -> xr.DataArray:
    """Return every n-th pixel, with n such that no side has more than `side` pixels."""
    step = max(1, -(-max(data.sizes["y"], data.sizes["x"]) // side))
    return data.isel(y=slice(step // 2, None, step), x=slice(step // 2, None, step))


def layer_of(data: xr.Dataset | xr.DataArray, what: str) -> xr.DataArray:
    """Return the layer (y, x) of a data array, or ``agb`` of a dataset.

    Of the map of another quantity it is that one.

    Raises
    ------
    ValueError
        If there is no such layer, or more than one chip.
    """
    if isinstance(data, xr.Dataset):
        name = layer_name(data)
        if name not in data:
            raise ValueError(
                f"{what} must have a variable 'agb', got {sorted(map(str, data))}; "
                "pass one of them as dataset['name']."
            )
        data = data[name]
    data = measured_layer(in_our_names(decoded_layers(data)))
    data = data.squeeze(
        [dim for dim in data.dims if data.sizes[dim] == 1 and dim not in ("y", "x")]
    )
    if set(data.dims) != {"y", "x"}:
        raise ValueError(
            f"{what} must have dimensions (y, x), got {tuple(map(str, data.dims))}; "
            "choose one chip with .isel(chip=0)."
        )
    return data.transpose("y", "x")


def layer_name(data: xr.Dataset) -> str:
    """Return the name of the variable that a dataset is plotted by."""
    return AGB.name if AGB.name in data else target_of(data).name


def factor_to(found: Quantity, wanted: Quantity) -> float:
    """Return the factor between the units of two layers that are compared.

    Raises
    ------
    ValueError
        If they cannot be converted.
    """
    return factor_between(found, wanted, "predicted and observed")


def percentile(values: npt.NDArray[Any], share: float, otherwise: float = 1.0) -> float:
    """Return a percentile of the finite values, or `otherwise` if there is none."""
    finite = values[np.isfinite(values)]
    return float(np.percentile(finite, share)) if finite.size else otherwise
